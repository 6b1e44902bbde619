//! Where the collector is and how to speak to it: TLS, or plain text where that is safe or was asked for.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gnomon_daemon::certificate::Certificate;
use gnomon_daemon::certificate_time::{self, AskTime};
use gnomon_daemon::config::ConfigError;
use gnomon_daemon::connector::{SocketEvents, connector};
use gnomon_flow::causes::in_one_line;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint, Identity, Uri};

use super::local_socket;

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
        "collector URL {url:?} would send captured traffic in plain text: to another machine anybody on the way can read \
         it, and on this one any user who takes the port while the collector is away gets it. Use https:// with tls.ca, \
         unix:// for a collector on this machine, or allow it with tls.insecure = true"
    )]
    PlainText { url: String },
    #[error(
        "collector URL {url:?} needs the certificate authority that signed the collector's certificate: set tls.ca"
    )]
    NoAuthority { url: String },
    #[error("cannot read {}: {source}", path.display())]
    File { key: &'static str, path: PathBuf, source: io::Error },
    #[error("the certificate and the key cannot be used together: {0}")]
    Pair(String),
    #[error("{}: {problem}", path.display())]
    Authority { path: PathBuf, problem: String },
}

/// Every one is a configuration that was refused.
impl From<EndpointError> for ConfigError {
    fn from(error: EndpointError) -> ConfigError {
        let key = match &error {
            EndpointError::None | EndpointError::Url { .. } | EndpointError::PlainText { .. } => {
                "collector.urls"
            }
            EndpointError::NoAuthority { .. } | EndpointError::Authority { .. } => "tls.ca",
            EndpointError::Pair(_) => "tls.key",
            EndpointError::File { key, .. } => key,
        };
        ConfigError::invalid(key, error)
    }
}

/// Whether the collector can be spoken to as configured: its addresses, and the files that prove who is who.
///
/// # Errors
/// As [`Uplink::new`](super::Uplink::new).
pub fn check(urls: &[String], tls: &Tls, insecure: bool) -> Result<(), ConfigError> {
    let time: AskTime = Arc::new(|| certificate_time::CertificateTime::at_least(0));
    if !urls.is_empty() {
        Endpoints::new(urls, tls, insecure, &time)?;
    }
    Ok(())
}

/// The collector's addresses, one of them in use.
pub(super) struct Endpoints {
    urls: Vec<String>,
    tls: Tls,
    insecure: bool,
    time: AskTime,
    current: usize,
}

/// How one of them is spoken to.
#[derive(Debug)]
enum Target {
    Network(Endpoint),
    /// The socket's path.
    Local(Endpoint, PathBuf),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    #[error("{0}")]
    Transport(String),
}

impl Endpoints {
    /// `time`: what is known of the time when the collector shows its certificate.
    pub(super) fn new(
        urls: &[String],
        tls: &Tls,
        insecure: bool,
        time: &AskTime,
    ) -> Result<Endpoints, EndpointError> {
        if urls.is_empty() {
            return Err(EndpointError::None);
        }
        for url in urls {
            target(url, tls, insecure, time)?;
        }
        Ok(Endpoints { urls: urls.to_vec(), tls: tls.clone(), insecure, time: Arc::clone(time), current: 0 })
    }

    pub(super) fn url(&self) -> &str {
        &self.urls[self.current]
    }

    pub(super) fn rotate(&mut self) {
        self.current = (self.current + 1) % self.urls.len();
    }

    /// The agent's own certificate as it is in its file now.
    pub(super) fn own_certificate(&self) -> Option<Certificate> {
        let (certificate, _) = self.tls.identity.as_ref()?;
        Certificate::read_pem(&fs::read(certificate).ok()?).ok()
    }

    /// Reads the certificates again: a renewed one is used from the next connection on. `events` is told of the
    /// connection's socket.
    pub(super) async fn connect(&self, events: Arc<dyn SocketEvents>) -> Result<Channel, ConnectError> {
        let connected = match target(self.url(), &self.tls, self.insecure, &self.time)? {
            Target::Network(endpoint) => {
                endpoint.connect_with_connector(connector(Some(CONNECT_TIMEOUT), events)).await
            }
            // Captured by nobody.
            Target::Local(endpoint, path) => {
                let connector = tower::service_fn(move |_: Uri| local_socket::connect(path.clone()));
                endpoint.connect_with_connector(connector).await
            }
        };
        connected.map_err(|error| {
            let refused = certificate_time::refused_server(&error);
            ConnectError::Transport(refused.unwrap_or_else(|| in_one_line(&error)))
        })
    }
}

fn target(url: &str, tls: &Tls, insecure: bool, time: &AskTime) -> Result<Target, EndpointError> {
    let problem = |problem: String| EndpointError::Url { url: url.to_owned(), problem };
    let tuned = |uri: Uri| {
        Endpoint::from(uri)
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
    };
    if let Some(path) = url.strip_prefix("unix:") {
        let path = PathBuf::from(path.strip_prefix("//").unwrap_or(path));
        if !path.is_absolute() {
            return Err(problem(
                "has no absolute path; write it like unix:///run/gnomon/collector.sock".into(),
            ));
        }
        return Ok(Target::Local(tuned(Uri::from_static("http://localhost")), path));
    }
    let uri: Uri = url.parse().map_err(|error| problem(format!("{error}")))?;
    if uri.host().is_none_or(str::is_empty) {
        return Err(problem("has no host; write it like https://collector.example:7440".into()));
    }
    let endpoint = tuned(uri.clone());
    match uri.scheme_str() {
        Some("http") if insecure => Ok(Target::Network(endpoint)),
        Some("http") => Err(EndpointError::PlainText { url: url.to_owned() }),
        Some("https") => {
            let (config, ca) = tls_config(url, tls)?;
            let verifier = certificate_time::roots(&ca)
                .and_then(|roots| certificate_time::server_verifier(roots, Arc::clone(time)))
                .map_err(|error| EndpointError::Authority {
                    path: tls.ca.clone().unwrap_or_default(),
                    problem: error.to_string(),
                })?;
            let secured = endpoint.tls_config_with_verifier(config, verifier);
            secured.map(Target::Network).map_err(|error| EndpointError::Pair(in_one_line(&error)))
        }
        _ => Err(problem("must begin with https://, unix:// or http://".into())),
    }
}

/// And the authority's certificates.
fn tls_config(url: &str, tls: &Tls) -> Result<(ClientTlsConfig, Vec<u8>), EndpointError> {
    let Some(ca) = &tls.ca else { return Err(EndpointError::NoAuthority { url: url.to_owned() }) };
    let ca = read("tls.ca", ca)?;
    let mut config = ClientTlsConfig::new();
    if let Some((cert, key)) = &tls.identity {
        config = config.identity(Identity::from_pem(read("tls.certificate", cert)?, read("tls.key", key)?));
    }
    if let Some(domain) = &tls.domain {
        config = config.domain_name(domain);
    }
    Ok((config, ca))
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, EndpointError> {
    fs::read(path).map_err(|source| EndpointError::File { key, path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time() -> AskTime {
        Arc::new(|| certificate_time::CertificateTime::at_least(0))
    }

    fn check(url: &str, insecure: bool) -> Result<Target, EndpointError> {
        target(url, &Tls::default(), insecure, &time())
    }

    #[test]
    fn plain_text_needs_the_word_even_on_this_machine() {
        for url in ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1", "http://10.0.0.1:1"] {
            let refused = check(url, false);
            assert!(matches!(refused, Err(EndpointError::PlainText { .. })), "{url}");
            assert!(check(url, true).is_ok(), "{url}");
        }
        for url in ["unix:///run/gnomon/collector.sock", "unix:/run/gnomon/collector.sock"] {
            let Ok(Target::Local(_, path)) = check(url, false) else { panic!("{url}") };
            assert_eq!(path, Path::new("/run/gnomon/collector.sock"));
        }
    }

    #[test]
    fn what_is_no_url_is_refused_with_what_to_write() {
        for (url, part) in [
            ("collector:4317", "https://"),
            ("/tmp/x", "no host"),
            ("ftp://c:1", "https://"),
            ("https://c:1", "tls.ca"),
            ("unix://collector.sock", "unix:///run"),
        ] {
            let error = check(url, false).unwrap_err().to_string();
            assert!(error.contains(part), "{url}: {error}");
        }
        assert!(matches!(Endpoints::new(&[], &Tls::default(), false, &time()), Err(EndpointError::None)));
    }

    #[test]
    fn a_missing_certificate_is_named() {
        let tls = Tls { ca: Some("/nonexistent/ca.pem".into()), ..Tls::default() };
        let error = target("https://c:1", &tls, false, &time()).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/ca.pem"), "{error}");
    }
}
