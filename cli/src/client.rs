//! The connection to the collector.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use gnomon_clock::UtcNs;
use gnomon_proto::v1::query_client::QueryClient;
use gnomon_proto::{MESSAGE_BYTES_MAX, v1};
use tonic::codec::CompressionEncoding;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri};

use crate::arguments::{Connection, Range};
use crate::exit::Usage;
use crate::when;

pub(crate) type Client = QueryClient<Channel>;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Dial the collector.
pub(crate) async fn connect(connection: &Connection) -> Result<Client> {
    let server = connection.url();
    let mut endpoint = if server.starts_with("unix:") {
        Endpoint::from_shared(server.clone())
            .map_err(|e| Usage(format!("--server {server:?} names no socket: {e}")))?
    } else {
        let uri: Uri = server.parse().map_err(|e| Usage(format!("--server {server:?} is no URL: {e}")))?;
        network(connection, &server, uri)?
    };
    endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT);
    let channel = endpoint.connect().await.with_context(|| {
        format!("cannot reach the collector at {server} (is gnomon-collector running? --server or GNOMON_SERVER names another)")
    })?;
    Ok(QueryClient::new(channel)
        .accept_compressed(CompressionEncoding::Zstd)
        .max_decoding_message_size(MESSAGE_BYTES_MAX * 8))
}

fn network(connection: &Connection, server: &str, uri: Uri) -> Result<Endpoint> {
    let encrypted = uri.scheme_str() == Some("https");
    if !encrypted && !connection.insecure && !is_loopback(uri.host().unwrap_or_default()) {
        return Err(Usage(format!(
            "{server} is not encrypted and not on this machine: use https:// with --ca, or say --insecure"
        ))
        .into());
    }
    let endpoint = Endpoint::from(uri);
    if encrypted { endpoint.tls_config(tls(connection)?).context("TLS settings") } else { Ok(endpoint) }
}

fn tls(connection: &Connection) -> Result<ClientTlsConfig> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("read {}", path.display()));
    let mut tls = ClientTlsConfig::new();
    match &connection.ca {
        Some(ca) => tls = tls.ca_certificate(Certificate::from_pem(read(ca)?)),
        None => {
            return Err(Usage(
                "https needs --ca FILE, the authority that signed the collector's certificate".into(),
            )
            .into());
        }
    }
    if let (Some(cert), Some(key)) = (&connection.cert, &connection.key) {
        tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
    }
    Ok(tls)
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The range as the API wants it. Relative times are counted from the collector's clock.
pub(crate) async fn time_range(client: &mut Client, range: &Range) -> Result<v1::TimeRange> {
    let texts = [range.since.as_deref(), range.until.as_deref()];
    let now = if texts.iter().flatten().any(|text| when::is_relative(text)) {
        UtcNs::from_unix_ns(client.status(v1::StatusRequest {}).await?.into_inner().now_unix_ns)
    } else {
        UtcNs::default()
    };
    let unix_ns = |text: Option<&str>| text.map(|t| when::parse(t, now).map(UtcNs::unix_ns)).transpose();
    Ok(v1::TimeRange {
        since_unix_ns: unix_ns(texts[0])?,
        until_unix_ns: unix_ns(texts[1])?,
        by_ingest_time: range.by_ingest_time,
    })
}
