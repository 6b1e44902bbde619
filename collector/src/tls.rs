//! TLS for agents and people, from certificate files.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use gnomon_daemon::certificate::Certificate;
use gnomon_daemon::certificate_time::{self, AskTime, Clients};
use gnomon_daemon::config::ConfigError;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::TlsConfig;

/// What is wrong with the files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{key} {}: {source}", path.display())]
    Read { key: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{key} {}: no {what} in PEM form: {source}", path.display())]
    Pem { key: &'static str, path: PathBuf, what: &'static str, source: pem::Error },
    #[error("{key} {}: {problem}", path.display())]
    Refused { key: &'static str, path: PathBuf, problem: String },
}

/// Each is a configuration that was refused.
impl From<TlsError> for ConfigError {
    fn from(error: TlsError) -> ConfigError {
        let (key, path, problem) = match error {
            TlsError::Read { key, path, source } => (key, path, format!("cannot be read: {source}")),
            TlsError::Pem { key, path, what, source } => {
                (key, path, format!("no {what} in PEM form: {source}"))
            }
            TlsError::Refused { key, path, problem } => (key, path, problem),
        };
        ConfigError::invalid(key, format_args!("{}: {problem}", path.display()))
    }
}

/// Certificates that were read and fit together.
#[derive(Debug)]
pub struct Loaded {
    /// For both ports: HTTP/2, and HTTP/1.1 where the caller does not speak it.
    pub server: Arc<rustls::ServerConfig>,
    pub clients: Arc<Clients>,
    /// The collector's own.
    pub own: Certificate,
}

/// The certificates in force; clones are the same.
#[derive(Clone)]
pub struct Tls {
    files: TlsConfig,
    time: AskTime,
    current: Arc<RwLock<Arc<Loaded>>>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Tls {
    /// `None` when nothing is configured: plain text. `time`: what is known of the time when a certificate is shown.
    ///
    /// # Errors
    /// When a file cannot be read, holds something else, or the key is not the certificate's.
    pub fn load(config: &TlsConfig, time: AskTime) -> Result<Option<Tls>, TlsError> {
        let Some(loaded) = read_all(config, &time)? else { return Ok(None) };
        let current = Arc::new(RwLock::new(Arc::new(loaded)));
        Ok(Some(Tls { files: config.clone(), time, current }))
    }

    /// What holds for handshakes from now on.
    #[must_use]
    pub fn current(&self) -> Arc<Loaded> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the files again, for connections that come from now on. Blocking.
    ///
    /// # Errors
    /// As [`Tls::load`]: then those of before stay in force.
    pub fn reload(&self) -> Result<Arc<Loaded>, TlsError> {
        if let Some(loaded) = read_all(&self.files, &self.time)? {
            *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(loaded);
        }
        Ok(self.current())
    }
}

fn read_all(config: &TlsConfig, time: &AskTime) -> Result<Option<Loaded>, TlsError> {
    let (Some(ca_path), Some(certificate_path), Some(key_path)) =
        (&config.ca, &config.certificate, &config.key)
    else {
        return Ok(None);
    };
    let ca = read("tls.ca", ca_path)?;
    let certificate = read("tls.certificate", certificate_path)?;
    let key = read("tls.key", key_path)?;
    warn_if_readable(key_path);

    let clients = certificate_time::roots(&ca)
        .and_then(|roots| certificate_time::client_verifier(roots, Arc::clone(time)))
        .map_err(|e| refused("tls.ca", ca_path, e))?;
    let chain = certificates("tls.certificate", certificate_path, &certificate)?;
    let own = Certificate::read(&chain[0]).map_err(|e| refused("tls.certificate", certificate_path, e))?;
    let private = PrivateKeyDer::from_pem_slice(&key).map_err(|source| TlsError::Pem {
        key: "tls.key",
        path: key_path.clone(),
        what: "private key",
        source,
    })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| refused("tls.certificate", certificate_path, e))?
        .with_client_cert_verifier(clients.clone())
        .with_single_cert(chain, private)
        .map_err(|e| refused("tls.key", key_path, format!("{e} (is it the key of tls.certificate?)")))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Some(Loaded { server: Arc::new(config), clients, own }))
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { key, path: path.to_owned(), source })
}

// By value for `map_err`.
#[allow(clippy::needless_pass_by_value)]
fn refused(key: &'static str, path: &Path, problem: impl ToString) -> TlsError {
    TlsError::Refused { key, path: path.to_owned(), problem: problem.to_string() }
}

fn certificates(
    key: &'static str,
    path: &Path,
    bytes: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    let error = |source| TlsError::Pem { key, path: path.to_owned(), what: "certificate", source };
    match found.map_err(error)? {
        none if none.is_empty() => Err(error(pem::Error::NoItemsFound)),
        found => Ok(found),
    }
}

fn warn_if_readable(path: &Path) {
    let mode = path.metadata().map_or(0, |m| m.permissions().mode());
    // A group may read it: that is how a service that is not root does.
    if mode & 0o037 != 0 {
        tracing::warn!(path = %path.display(), "tls.key can be read by others: chmod 640 it");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certs;
    use gnomon_clock::UtcNs;

    #[test]
    fn files_that_do_not_fit_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let order = certs::Order {
            out: dir.path().to_owned(),
            collector_names: vec!["localhost".to_owned()],
            agents: vec!["a".to_owned()],
            ..certs::Order::default()
        };
        certs::make(&order, UtcNs::from_unix_ns(1_800_000_000_000_000_000)).unwrap();
        let path = |file: &str| Some(dir.path().join(file));
        let good = TlsConfig {
            ca: path("ca.crt"),
            certificate: path("collector.crt"),
            key: path("collector.key"),
            ..TlsConfig::default()
        };
        let time: AskTime = Arc::new(|| certificate_time::CertificateTime::Known(1_800_000_000));
        let load = |config: &TlsConfig| Tls::load(config, Arc::clone(&time));
        assert!(load(&good).unwrap().is_some());
        assert!(load(&TlsConfig::default()).unwrap().is_none());
        let error = |config: TlsConfig| load(&config).err().map(|e| e.to_string()).unwrap_or_default();
        let text = error(TlsConfig { key: path("agent-a.key"), ..good.clone() });
        assert!(text.contains("tls.key") && text.contains("is it the key"), "{text}");
        let text = error(TlsConfig { certificate: path("collector.key"), ..good.clone() });
        assert!(text.contains("tls.certificate") && text.contains("no certificate"), "{text}");
        let text = error(TlsConfig { ca: path("none"), ..good });
        assert!(text.contains("tls.ca") && text.contains("none"), "{text}");
    }
}
