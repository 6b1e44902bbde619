//! An agent made by hand that says of the collector's clock what it is told to, by its own sources or by none: for tests of
//! whose word counts. It also sends some records, if it is asked to.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use gnomon_clock::{Clock, EpochId, Fix, FixSource, KernelClock, UtcNs};
use gnomon_proto::v1::agent_message::Body as Say;
use gnomon_proto::v1::collector_message::Body as Hear;
use gnomon_proto::v1::ingest_client::IngestClient;
use gnomon_proto::{PROTOCOL_VERSION, v1};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::feeder;

/// How to reach a collector that wants a certificate.
#[derive(Clone, Debug)]
pub struct Pair {
    pub ca: Vec<u8>,
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
}

impl Pair {
    /// As `gnomon-collector certs` wrote it into `dir`.
    pub fn read(dir: &Path, name: &str) -> Result<Pair> {
        let file = |name: String| std::fs::read(dir.join(&name)).context(name);
        Ok(Pair {
            ca: file("ca.crt".to_owned())?,
            certificate: file(format!("{name}.crt"))?,
            key: file(format!("{name}.key"))?,
        })
    }
}

/// A session that goes on until it is dropped.
pub struct Voice {
    runtime: Option<Runtime>,
}

impl Drop for Voice {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Voice {
    /// `says`: how far this machine's clock, which is the collector's too, is off by the agent's own sources; `None`: it has
    /// none. `records`: it sends an entry of records at first.
    pub fn raise(
        agent: u8,
        collector: SocketAddr,
        pair: Option<Pair>,
        says: Option<i64>,
        records: bool,
    ) -> Result<Voice> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        runtime.spawn(async move {
            loop {
                if let Err(error) = talk(agent, collector, pair.as_ref(), says, records).await {
                    eprintln!("voice {agent}: {error:#}");
                }
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        });
        Ok(Voice { runtime: Some(runtime) })
    }
}

async fn talk(
    agent: u8,
    collector: SocketAddr,
    pair: Option<&Pair>,
    says: Option<i64>,
    records: bool,
) -> Result<()> {
    let opened = KernelClock.raw();
    let epoch = EpochId { agent: [agent; 16], boot_id: [agent; 16], opened };
    let scheme = if pair.is_some() { "https" } else { "http" };
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{collector}"))?;
    if let Some(pair) = pair {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&pair.ca))
            .identity(Identity::from_pem(&pair.certificate, &pair.key));
        endpoint = endpoint.tls_config(tls.domain_name("localhost"))?;
    }
    let (say, messages) = mpsc::channel(64);
    let say = |body| {
        let say = say.clone();
        async move { say.send(v1::AgentMessage { body: Some(body) }).await.context("the stream ended") }
    };
    say(Say::Hello(v1::Hello {
        protocol_version: PROTOCOL_VERSION,
        agent_id: epoch.agent.to_vec(),
        name: format!("voice{agent}"),
        version: "test".to_owned(),
        epoch: Some((&epoch).into()),
        ..Default::default()
    }))
    .await?;
    let client = IngestClient::new(endpoint.connect().await?);
    let mut hear = { client }.stream(ReceiverStream::new(messages)).await?.into_inner();
    let mut sent = !records;
    let mut id = 0;
    let mut timer = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            _ = timer.tick() => {
                id += 1;
                say(Say::Exchange(v1::ExchangeRequest { id, t1_raw_ns: KernelClock.raw().0 })).await?;
            }
            message = hear.message() => {
                let Some(Hear::Exchange(reply)) = message?.context("the stream ended")?.body else { continue };
                let bracket = KernelClock.bracket();
                let exchanged = Fix {
                    raw: bracket.raw,
                    utc: UtcNs::from_tai_ns(reply.t3_tai_ns),
                    err_ns: 2_000_000 + reply.collector_err_ns,
                    source: FixSource::Collector,
                };
                let own = says.map(|off_ns| Fix {
                    raw: bracket.raw,
                    utc: bracket.realtime.saturating_add_ns(off_ns),
                    err_ns: 1_000_000,
                    source: FixSource::Kernel,
                });
                say(Say::Clock(v1::ClockReport {
                    epoch: Some((&epoch).into()),
                    fixes: [Some(exchanged), own].iter().flatten().map(Into::into).collect(),
                    collector_timeline: reply.collector_timeline,
                    ..Default::default()
                }))
                .await?;
                say(Say::Heartbeat(v1::Heartbeat {
                    epoch: Some((&epoch).into()),
                    clock: Some(v1::ClockStatus { raw_ns: bracket.raw.0, ..Default::default() }),
                    ..Default::default()
                }))
                .await?;
                if !std::mem::replace(&mut sent, true) {
                    say(Say::Entry(feeder::entry(epoch, opened, 1)?)).await?;
                }
            }
        }
    }
}
