//! The gRPC service that agents call.

use std::pin::Pin;
use std::sync::Arc;

use gnomon_clock::Clock;
use gnomon_proto::v1::ingest_server::{Ingest, IngestServer};
use gnomon_proto::{MESSAGE_BYTES_MAX, v1};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tonic::{Request, Response, Status, Streaming};

use super::committer::Committer;
use super::quarantine::Quarantine;
use super::session::Session;
use crate::fleet::Fleet;
use crate::store::Store;

/// Messages to one agent that it has not read yet; beyond it the session waits.
const OUTBOUND: usize = 256;

/// What sessions are bounded by.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Bytes of entries one agent may have on their way.
    pub window_bytes: usize,
    /// Bytes of entries all agents together may have on their way.
    pub memory_bytes: usize,
    /// Refuse agents that show no certificate.
    pub certificate_required: bool,
}

/// Everything a session needs.
pub(super) struct Shared {
    pub(super) store: Store,
    pub(super) fleet: Fleet,
    pub(super) committer: Committer,
    pub(super) quarantine: Quarantine,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) budget: Arc<Semaphore>,
    pub(super) settings: Settings,
    pub(super) stop: CancellationToken,
}

/// The service; see the module's head for the way of an entry through it.
pub struct IngestService {
    shared: Arc<Shared>,
}

impl IngestService {
    pub fn new(
        store: Store,
        fleet: Fleet,
        committer: Committer,
        quarantine: Quarantine,
        clock: Arc<dyn Clock>,
        settings: Settings,
        stop: CancellationToken,
    ) -> IngestService {
        let settings = Settings {
            // One message has to fit, or its agent could never send it.
            window_bytes: settings.window_bytes.max(MESSAGE_BYTES_MAX),
            memory_bytes: settings.memory_bytes.max(MESSAGE_BYTES_MAX),
            ..settings
        };
        let budget = Arc::new(Semaphore::new(settings.memory_bytes));
        let shared = Shared { store, fleet, committer, quarantine, clock, budget, settings, stop };
        IngestService { shared: Arc::new(shared) }
    }

    /// To be mounted on a gRPC server.
    pub fn into_server(self) -> IngestServer<IngestService> {
        IngestServer::new(self)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
            .accept_compressed(CompressionEncoding::Zstd)
    }
}

type Outbound = Pin<Box<dyn tokio_stream::Stream<Item = Result<v1::CollectorMessage, Status>> + Send>>;

#[tonic::async_trait]
impl Ingest for IngestService {
    type StreamStream = Outbound;

    async fn stream(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Outbound>, Status> {
        let certified = request.peer_certs().is_some_and(|certs| !certs.is_empty());
        if self.shared.settings.certificate_required && !certified {
            return Err(Status::unauthenticated(
                "agents need a certificate of this collector's CA: make one with `gnomon-collector certs --agent NAME`",
            ));
        }
        let peer = request.remote_addr().map(|addr| addr.to_string()).unwrap_or_default();
        let (sender, receiver) = mpsc::channel(OUTBOUND);
        let session = Session::new(Arc::clone(&self.shared), peer, sender);
        tokio::spawn(session.run(request.into_inner()));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
