//! A collector that keeps nothing, so that the agent is measured and not the collector beside it: it hears heartbeats, and
//! acknowledges either nothing (the agent's spool is the end of the path) or everything at once.

use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use anyhow::Result;
use gnomon_clock::{Clock, KernelClock};
use gnomon_proto::v1;
use gnomon_proto::v1::agent_message::Body;
use gnomon_proto::v1::collector_message::Body as Answer;
use gnomon_proto::v1::ingest_server::{Ingest, IngestServer};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

/// What is unacknowledged at most while everything is acknowledged.
const WINDOW_BYTES: u64 = 64 << 20;
/// A modest claim: nothing is indexed here by what is said of time.
const COLLECTOR_ERR_NS: u64 = 1_000_000_000;

#[derive(Clone, Debug, Default)]
pub(crate) struct Heard {
    pub(crate) heartbeat: Option<v1::Heartbeat>,
    pub(crate) entries: u64,
    pub(crate) payload_bytes: u64,
}

#[derive(Debug)]
struct Service {
    acknowledge: bool,
    heard: Arc<Mutex<Heard>>,
}

type Answers = Pin<Box<dyn Stream<Item = Result<v1::CollectorMessage, Status>> + Send>>;

fn answer(body: Answer) -> v1::CollectorMessage {
    v1::CollectorMessage { body: Some(body) }
}

#[tonic::async_trait]
impl Ingest for Service {
    type StreamStream = Answers;

    async fn stream(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Answers>, Status> {
        let mut inbound = request.into_inner();
        let (sender, receiver) = mpsc::channel(64);
        let (acknowledge, heard) = (self.acknowledge, Arc::clone(&self.heard));
        tokio::spawn(async move {
            while let Some(Ok(message)) = inbound.next().await {
                let reply = match message.body {
                    Some(Body::Hello(_)) => Some(answer(Answer::Welcome(v1::Welcome {
                        own_streams: None,
                        collector_version: "sink".to_owned(),
                        durable: Vec::new(),
                        window_bytes: if acknowledge { WINDOW_BYTES } else { 0 },
                        store_id: 0,
                    }))),
                    Some(Body::Entry(entry)) => {
                        let mut heard = heard.lock().expect("nobody panics holding it");
                        heard.entries += 1;
                        heard.payload_bytes += entry.payload.len() as u64;
                        let ack = v1::Ack { epoch: entry.epoch, seq: entry.seq, settled_seq: None };
                        acknowledge.then(|| answer(Answer::Ack(ack)))
                    }
                    Some(Body::Heartbeat(heartbeat)) => {
                        heard.lock().expect("nobody panics holding it").heartbeat = Some(heartbeat);
                        None
                    }
                    Some(Body::Exchange(request)) => {
                        let now_tai_ns = KernelClock.bracket().realtime.tai_ns();
                        Some(answer(Answer::Exchange(v1::ExchangeReply {
                            id: request.id,
                            t1_raw_ns: request.t1_raw_ns,
                            t2_tai_ns: now_tai_ns,
                            t3_tai_ns: now_tai_ns,
                            collector_err_ns: COLLECTOR_ERR_NS,
                            collector_proven: false,
                            collector_timeline: 1,
                        })))
                    }
                    Some(Body::Clock(_)) | None => None,
                };
                if let Some(reply) = reply
                    && sender.send(Ok(reply)).await.is_err()
                {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// Runs until dropped.
#[derive(Debug)]
pub(crate) struct Sink {
    address: SocketAddr,
    heard: Arc<Mutex<Heard>>,
    _runtime: Runtime,
}

impl Sink {
    pub(crate) fn open(listener: TcpListener, acknowledge: bool) -> Result<Sink> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let heard = Arc::new(Mutex::new(Heard::default()));
        let service = Service { acknowledge, heard: Arc::clone(&heard) };
        let service = IngestServer::new(service).max_decoding_message_size(gnomon_proto::MESSAGE_BYTES_MAX);
        let service = service
            .accept_compressed(tonic::codec::CompressionEncoding::Zstd)
            .send_compressed(tonic::codec::CompressionEncoding::Zstd);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let incoming = TcpListenerStream::new(listener).map(|stream| {
                let stream = stream?;
                stream.set_nodelay(true)?;
                Ok::<_, std::io::Error>(stream)
            });
            // As the collector: else the agent would wait for the small defaults.
            let served = tonic::transport::Server::builder()
                .initial_stream_window_size(gnomon_proto::STREAM_WINDOW_BYTES)
                .initial_connection_window_size(gnomon_proto::CONNECTION_WINDOW_BYTES)
                .add_service(service)
                .serve_with_incoming(incoming);
            served.await.map_err(std::io::Error::other)
        });
        Ok(Sink { address, heard, _runtime: runtime })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn heard(&self) -> Heard {
        self.heard.lock().expect("nobody panics holding it").clone()
    }
}
