//! Where the collector is and how to speak to it: TLS, or plain text where that is safe or was asked for.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gnomon_daemon::certificate_time::{self, AskTime};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint, Identity, Uri};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A cut link is noticed after the sum of the two: less than 10 s.
const PING_INTERVAL: Duration = Duration::from_secs(4);
const PING_TIMEOUT: Duration = Duration::from_secs(4);

/// The files that prove who is who.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// The authority that signed the collector's certificate.
    pub ca: Option<PathBuf>,
    /// The agent's own certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name the collector's certificate must have, when it is not the host of the URL.
    pub domain: Option<String>,
}

/// The collector cannot be spoken to as configured.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    #[error("no collector URL is given")]
    None,
    #[error("collector URL {url:?}: {problem}")]
    Url { url: String, problem: String },
    #[error(
        "collector URL {url:?} would send captured traffic in plain text over the network: use https:// with \
         collector.ca, or allow it with collector.insecure = true"
    )]
    PlainText { url: String },
    #[error(
        "collector URL {url:?} needs the certificate authority that signed the collector's certificate: set collector.ca"
    )]
    NoAuthority { url: String },
    #[error("cannot read {}: {source}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The collector's addresses, one of them in use.
#[derive(Debug)]
pub(super) struct Endpoints {
    all: Vec<(String, Endpoint)>,
    current: usize,
}

impl Endpoints {
    /// `time`: what is known of the time when the collector shows its certificate.
    pub(super) fn new(
        urls: &[String],
        tls: &Tls,
        insecure: bool,
        time: &AskTime,
    ) -> Result<Endpoints, EndpointError> {
        let all: Result<Vec<_>, _> =
            urls.iter().map(|url| Ok((url.clone(), endpoint(url, tls, insecure, time)?))).collect();
        match all? {
            all if all.is_empty() => Err(EndpointError::None),
            all => Ok(Endpoints { all, current: 0 }),
        }
    }

    pub(super) fn url(&self) -> &str {
        &self.all[self.current].0
    }

    pub(super) fn rotate(&mut self) {
        self.current = (self.current + 1) % self.all.len();
    }

    pub(super) async fn connect(&self) -> Result<Channel, tonic::transport::Error> {
        self.all[self.current].1.connect().await
    }
}

fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

fn endpoint(url: &str, tls: &Tls, insecure: bool, time: &AskTime) -> Result<Endpoint, EndpointError> {
    let problem = |problem: String| EndpointError::Url { url: url.to_owned(), problem };
    let uri: Uri = url.parse().map_err(|error| problem(format!("{error}")))?;
    if uri.host().is_none_or(str::is_empty) {
        return Err(problem("has no host; write it like https://collector.example:4317".into()));
    }
    let endpoint = Endpoint::from(uri.clone())
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true);
    match uri.scheme_str() {
        Some("http") if insecure || is_loopback(&uri) => Ok(endpoint),
        Some("http") => Err(EndpointError::PlainText { url: url.to_owned() }),
        Some("https") => {
            let (config, ca) = tls_config(url, tls)?;
            let verifier = certificate_time::roots(&ca)
                .and_then(|roots| certificate_time::server_verifier(roots, Arc::clone(time)))
                .map_err(|error| problem(format!("collector.ca: {error}")))?;
            endpoint.tls_config_with_verifier(config, verifier).map_err(|error| problem(full_message(&error)))
        }
        _ => Err(problem("must begin with https:// or http://".into())),
    }
}

/// And the authority's certificates.
fn tls_config(url: &str, tls: &Tls) -> Result<(ClientTlsConfig, Vec<u8>), EndpointError> {
    let Some(ca) = &tls.ca else { return Err(EndpointError::NoAuthority { url: url.to_owned() }) };
    let ca = read(ca)?;
    let mut config = ClientTlsConfig::new();
    if let Some((cert, key)) = &tls.identity {
        config = config.identity(Identity::from_pem(read(cert)?, read(key)?));
    }
    if let Some(domain) = &tls.domain {
        config = config.domain_name(domain);
    }
    Ok((config, ca))
}

fn read(path: &Path) -> Result<Vec<u8>, EndpointError> {
    fs::read(path).map_err(|source| EndpointError::File { path: path.to_owned(), source })
}

/// An error with its causes: tonic says only "transport error" by itself.
pub(super) fn full_message(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |mut text, cause| {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time() -> AskTime {
        Arc::new(|| certificate_time::CertificateTime::at_least(0))
    }

    fn check(url: &str, insecure: bool) -> Result<Endpoint, EndpointError> {
        endpoint(url, &Tls::default(), insecure, &time())
    }

    #[test]
    fn plain_text_stays_on_the_machine_unless_allowed() {
        for url in ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1"] {
            assert!(check(url, false).is_ok(), "{url}");
        }
        let refused = check("http://10.0.0.1:1", false);
        assert!(matches!(refused, Err(EndpointError::PlainText { .. })));
        assert!(check("http://10.0.0.1:1", true).is_ok());
        // A name that only looks like the loopback may lead anywhere.
        assert!(check("http://localhost.example:1", false).is_err());
    }

    #[test]
    fn what_is_no_url_is_refused_with_what_to_write() {
        for (url, part) in [
            ("collector:4317", "https://"),
            ("/tmp/x", "no host"),
            ("ftp://c:1", "https://"),
            ("https://c:1", "collector.ca"),
        ] {
            let error = check(url, false).unwrap_err().to_string();
            assert!(error.contains(part), "{url}: {error}");
        }
        assert!(matches!(Endpoints::new(&[], &Tls::default(), false, &time()), Err(EndpointError::None)));
    }

    #[test]
    fn a_missing_certificate_is_named() {
        let tls = Tls { ca: Some("/nonexistent/ca.pem".into()), ..Tls::default() };
        let error = endpoint("https://c:1", &tls, false, &time()).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/ca.pem"), "{error}");
    }
}
