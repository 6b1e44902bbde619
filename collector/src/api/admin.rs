//! What changes what the collector goes by: for root and the collector's own user (`listen::access`).

use gnomon_flow::AgentId;
use gnomon_proto::v1;
use gnomon_proto::v1::admin_server::{Admin, AdminServer};
use tonic::{Request, Response, Status};

use super::REQUEST_BYTES_MAX;
use crate::store::{Owner, Store, StoreError};

pub(super) fn service(store: &Store) -> AdminServer<impl Admin + use<>> {
    AdminServer::new(Office { store: store.clone() }).max_decoding_message_size(REQUEST_BYTES_MAX)
}

struct Office {
    store: Store,
}

impl Office {
    async fn ask<T: Send + 'static>(
        &self,
        what: impl FnOnce(Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Status> {
        let store = self.store.clone();
        let asked = tokio::task::spawn_blocking(move || what(store)).await;
        asked.map_err(|e| Status::internal(e.to_string()))?.map_err(|e| Status::unavailable(e.to_string()))
    }
}

fn wire(owner: Owner) -> v1::Owner {
    v1::Owner {
        agent_id: owner.agent.0.to_vec(),
        principal: owner.principal,
        since_unix_ns: owner.since.unix_ns(),
    }
}

#[tonic::async_trait]
impl Admin for Office {
    async fn owners(&self, _: Request<v1::OwnersRequest>) -> Result<Response<v1::OwnersResponse>, Status> {
        let owners = self.ask(|store| store.owners()).await?;
        Ok(Response::new(v1::OwnersResponse { owners: owners.into_iter().map(wire).collect() }))
    }

    async fn release_agent(
        &self,
        request: Request<v1::ReleaseAgentRequest>,
    ) -> Result<Response<v1::ReleaseAgentResponse>, Status> {
        let id = <[u8; 16]>::try_from(&request.get_ref().agent_id[..])
            .map_err(|_| Status::invalid_argument("agent_id has to be 16 bytes"))?;
        let released = self.ask(move |store| store.release_owner(AgentId(id))).await?;
        if let Some(owner) = &released {
            tracing::warn!(agent = %owner.agent, owner = owner.principal, "an agent's id was released");
        }
        Ok(Response::new(v1::ReleaseAgentResponse { released: released.map(wire) }))
    }
}
