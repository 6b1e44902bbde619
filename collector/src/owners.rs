//! `gnomon-collector owners` and `release`: whom agents' ids belong to, asked of the collector that runs.

use std::io::Write;

use anyhow::Context;
use gnomon_clock::UtcNs;
use gnomon_daemon::exit::WithHint;
use gnomon_flow::escape::terminal_safe;
use gnomon_flow::{AgentId, timestamp};
use gnomon_proto::v1;
use gnomon_proto::v1::admin_client::AdminClient;
use tonic::transport::{Channel, Endpoint};

use crate::config::Config;
use crate::listen;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    List,
    Release(AgentId),
}

/// Ask, and print the answer.
///
/// # Errors
/// When no collector answers, or it refuses.
pub fn run(config: &Config, order: &Order) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let lines = runtime.block_on(async {
        let mut client = connect(config).await?;
        match order {
            Order::List => {
                let owners = client.owners(v1::OwnersRequest {}).await?.into_inner().owners;
                Ok::<_, anyhow::Error>(owners.iter().map(line).collect::<String>())
            }
            Order::Release(agent) => {
                let request = v1::ReleaseAgentRequest { agent_id: agent.0.to_vec() };
                let released = client.release_agent(request).await?.into_inner().released;
                let released = released.with_context(|| format!("agent {agent} belongs to nobody"))?;
                Ok(format!("released: {}", line(&released)))
            }
        }
    })?;
    match std::io::stdout().write_all(lines.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn line(owner: &v1::Owner) -> String {
    let agent = <[u8; 16]>::try_from(&owner.agent_id[..]).map(AgentId).unwrap_or_default();
    let since = timestamp::rfc3339(UtcNs::from_unix_ns(owner.since_unix_ns));
    format!("{agent}  {}  since {since}\n", terminal_safe(&owner.principal))
}

async fn connect(config: &Config) -> anyhow::Result<AdminClient<Channel>> {
    let mut tried = Vec::new();
    for path in listen::places(&config.listen, &config.data_dir) {
        let at = format!("unix://{}", path.display());
        match Endpoint::from_shared(at.clone())?.connect().await {
            Ok(channel) => return Ok(AdminClient::new(channel)),
            Err(_) => tried.push(at),
        }
    }
    Err(anyhow::anyhow!("no collector answers at {}", tried.join(" or ")))
        .hint("start it, and ask as root or as its own user, with its configuration (--config)")
}
