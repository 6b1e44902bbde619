//! The gRPC service that agents call.

use std::pin::Pin;
use std::sync::Arc;

use gnomon_clock::Clock;
use gnomon_proto::limits::BATCH_BYTES_MAX;
use gnomon_proto::v1::ingest_server::{Ingest, IngestServer};
use gnomon_proto::{MESSAGE_BYTES_MAX, v1};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tonic::{Request, Response, Status, Streaming};

use super::committer::Committer;
use super::reading::Reading;
use super::session::Session;
use crate::fleet::Fleet;
use crate::listen::{Connection, Refusals};
use crate::own_streams::StreamRegistry;
use crate::store::{Quarantine, Store};

/// Messages to one agent that it has not read yet; beyond it the session waits.
const OUTBOUND: usize = 256;

/// What sessions are bounded by.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Bytes of entries one agent may have on their way.
    pub window_bytes: usize,
    /// Memory that the entries of all agents together may take on their way: half of it as they come, half of it as they are
    /// read.
    pub memory_bytes: usize,
}

/// Everything a session needs.
pub(super) struct Shared {
    pub(super) store: Store,
    pub(super) fleet: Fleet,
    pub(super) committer: Committer,
    pub(super) quarantine: Quarantine,
    pub(super) clock: Arc<dyn Clock>,
    /// For entries as they came and as they decompress.
    pub(super) budget: Arc<Semaphore>,
    /// For what is read of them.
    pub(super) reading: Reading,
    pub(super) settings: Settings,
    pub(super) refusals: Refusals,
    pub(super) stop: CancellationToken,
}

/// The service; see the module's head for the way of an entry through it.
pub struct IngestService {
    shared: Arc<Shared>,
    own_streams: StreamRegistry,
}

impl IngestService {
    pub fn new(
        store: Store,
        fleet: Fleet,
        committer: Committer,
        quarantine: Quarantine,
        clock: Arc<dyn Clock>,
        settings: Settings,
        refusals: Refusals,
        stop: CancellationToken,
    ) -> IngestService {
        let settings = Settings {
            // One message has to fit, or its agent could never send it.
            window_bytes: settings.window_bytes.max(MESSAGE_BYTES_MAX),
            memory_bytes: settings.memory_bytes.max(2 * (MESSAGE_BYTES_MAX + BATCH_BYTES_MAX)),
        };
        let budget = Arc::new(Semaphore::new(settings.memory_bytes / 2));
        let reading = Reading::new(settings.memory_bytes / 2);
        let own_streams = StreamRegistry::new([], Arc::clone(&clock));
        let shared =
            Shared { store, fleet, committer, quarantine, clock, budget, reading, settings, refusals, stop };
        IngestService { shared: Arc::new(shared), own_streams }
    }

    /// Agents are told of these streams.
    #[must_use]
    pub fn announcing(self, own_streams: StreamRegistry) -> IngestService {
        IngestService { own_streams, ..self }
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
        // The listener has said who calls; without it nobody knows.
        let connection = request.extensions().get::<Connection>().cloned();
        let connection = connection.ok_or_else(|| Status::internal("the connection has no identity"))?;
        let (sender, receiver) = mpsc::channel(OUTBOUND);
        let own_streams = self.own_streams.join(connection.same_host);
        let session = Session::new(Arc::clone(&self.shared), connection, own_streams, sender);
        tokio::spawn(session.run(request.into_inner()));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
