//! Certificates where the clock may be wrong: who somebody is first, when it is second.
//!
//! A clock nine hours behind calls a good certificate not yet valid, one ten years ahead calls it expired, and either keeps
//! an agent from the very exchange that would tell it the time. So a program says what it *knows* of the time
//! ([`CertificateTime`]), which at worst is that it is not earlier than its own build. Where only a lower bound is known a
//! certificate passes when it is valid at some time from there on; everything else about it is checked as ever.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::build_info;
use crate::certificate::{self, Certificate};

/// Certificates of one chain, each of which may be younger than the time that is known.
const CHAIN_MAX: usize = 8;

/// What is known of the time. POSIX seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateTime {
    Known(u64),
    /// It is this or later.
    AtLeast(u64),
}

impl CertificateTime {
    /// Nobody runs a program before it was built.
    #[must_use]
    pub fn at_least(unix_s: u64) -> CertificateTime {
        CertificateTime::AtLeast(unix_s.max(build_info::BUILT_AT_UNIX_S))
    }
}

/// Asked at each handshake.
pub type AskTime = Arc<dyn Fn() -> CertificateTime + Send + Sync>;

/// Roots that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    #[error("no certificate in PEM form: {0}")]
    Pem(#[from] pem::Error),
    #[error("{0}")]
    Refused(String),
}

/// The certificates in `pem`, to descend from.
///
/// # Errors
/// When there are none, or they are no authority's.
pub fn roots(pem: &[u8]) -> Result<Arc<RootCertStore>, RootsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate?).map_err(|error| RootsError::Refused(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(pem::Error::NoItemsFound.into());
    }
    Ok(Arc::new(roots))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Checks a server's certificate against `roots` by what `time` knows.
///
/// # Errors
/// When the roots cannot be used.
pub fn server_verifier(
    roots: Arc<RootCertStore>,
    time: AskTime,
) -> Result<Arc<dyn ServerCertVerifier>, RootsError> {
    let inner = WebPkiServerVerifier::builder_with_provider(roots, provider()).build();
    let inner = inner.map_err(|error| RootsError::Refused(error.to_string()))?;
    Ok(Arc::new(Servers { inner, time }))
}

/// What is wrong with a server's certificate, in words that do not change from try to try, if that is what `error` or one of
/// its causes says.
#[must_use]
pub fn refused_server(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut causes = std::iter::successors(Some(error), |cause| cause.source());
    let refused = causes.find_map(|cause| {
        let inner = cause.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref());
        let inner = inner.map(|inner| inner as &(dyn std::error::Error + 'static)).unwrap_or(cause);
        inner.downcast_ref::<Error>()
    })?;
    let problem = match refused {
        Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. }) => {
            format!("it has expired: it was good until {}", certificate::date(seconds(*not_after)))
        }
        Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. }) => {
            format!("it is not good yet: it will be from {}", certificate::date(seconds(*not_before)))
        }
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "it is of another authority than tls.ca".to_owned()
        }
        Error::InvalidCertificate(error) => error.to_string(),
        _ => return None,
    };
    Some(format!("the collector's certificate is refused: {problem}"))
}

fn seconds(time: UnixTime) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

/// Takes every certificate in the handshake, where a refusal is an alert without a word, and judges it afterwards.
///
/// # Errors
/// When the roots cannot be used.
pub fn client_verifier(roots: Arc<RootCertStore>, time: AskTime) -> Result<Arc<Clients>, RootsError> {
    let builder = WebPkiClientVerifier::builder_with_provider(roots, provider());
    let inner = builder.build().map_err(|error| RootsError::Refused(error.to_string()))?;
    Ok(Arc::new(Clients { inner, time }))
}

/// `check` at the time that is known, or at the earliest later time at which nothing is too young.
fn judged<T>(time: CertificateTime, check: impl Fn(UnixTime) -> Result<T, Error>) -> Result<T, Error> {
    let at = |unix_s| UnixTime::since_unix_epoch(std::time::Duration::from_secs(unix_s));
    let mut now = match time {
        CertificateTime::Known(now) => return check(at(now)),
        CertificateTime::AtLeast(now) => at(now),
    };
    for _ in 0..CHAIN_MAX {
        match check(now) {
            Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. }))
                if not_before > now =>
            {
                now = not_before;
            }
            judged => return judged,
        }
    }
    check(now)
}

struct Servers {
    inner: Arc<WebPkiServerVerifier>,
    time: AskTime,
}

impl std::fmt::Debug for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Servers").field("time", &(self.time)()).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        judged((self.time)(), |now| {
            self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Checks clients' certificates: that the key is theirs in the handshake, and whose they are by [`Clients::judge`].
pub struct Clients {
    inner: Arc<dyn ClientCertVerifier>,
    time: AskTime,
}

impl Clients {
    /// Whether `chain`, which was shown in a handshake, descends from the roots and is valid by what is known of the time.
    ///
    /// # Errors
    /// Why not, in words for its holder.
    pub fn judge(&self, chain: &[CertificateDer<'_>]) -> Result<Certificate, String> {
        let (first, rest) = chain.split_first().ok_or("there is no certificate")?;
        let certificate = Certificate::read(first).map_err(|error| format!("your certificate: {error}"))?;
        let time = (self.time)();
        match judged(time, |now| self.inner.verify_client_cert(first, rest, now)) {
            Ok(_) => Ok(certificate),
            Err(error) => {
                let (CertificateTime::Known(now) | CertificateTime::AtLeast(now)) = time;
                let untimely = certificate.untimely(i64::try_from(now).unwrap_or(i64::MAX));
                let problem = match (&error, untimely) {
                    (
                        Error::InvalidCertificate(
                            CertificateError::Expired
                            | CertificateError::ExpiredContext { .. }
                            | CertificateError::NotValidYet
                            | CertificateError::NotValidYetContext { .. },
                        ),
                        Some(untimely),
                    ) => untimely,
                    (Error::InvalidCertificate(CertificateError::UnknownIssuer), _) => {
                        "is of another authority than this collector's (tls.ca)".to_owned()
                    }
                    (error, _) => format!("is refused: {error}"),
                };
                Err(format!("your {certificate} {problem}"))
            }
        }
    }

    /// Whether the time is not proven, so that a certificate that has ended may have passed.
    #[must_use]
    pub fn time_is_unproven(&self) -> bool {
        matches!((self.time)(), CertificateTime::AtLeast(_))
    }
}

impl std::fmt::Debug for Clients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clients").field("time", &(self.time)()).finish_non_exhaustive()
    }
}

impl ClientCertVerifier for Clients {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    /// See [`Clients::judge`], which whoever accepts the connection has to ask.
    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate valid from 1000 to 2000.
    fn check(now: UnixTime) -> Result<u64, Error> {
        let time = now;
        let limit = |unix_s| UnixTime::since_unix_epoch(std::time::Duration::from_secs(unix_s));
        let error = if now < limit(1000) {
            CertificateError::NotValidYetContext { time, not_before: limit(1000) }
        } else if now > limit(2000) {
            CertificateError::ExpiredContext { time, not_after: limit(2000) }
        } else {
            return Ok(now.as_secs());
        };
        Err(Error::InvalidCertificate(error))
    }

    #[test]
    fn a_lower_bound_never_calls_a_certificate_too_young_but_may_call_it_too_old() {
        use CertificateTime::*;
        assert_eq!(judged(Known(1500), check), Ok(1500));
        assert!(judged(Known(999), check).is_err() && judged(Known(2001), check).is_err());
        assert_eq!(judged(AtLeast(0), check), Ok(1000));
        assert_eq!(judged(AtLeast(1500), check), Ok(1500));
        assert!(judged(AtLeast(2001), check).is_err(), "it has expired whatever the time is");
    }

    #[test]
    fn nobody_runs_a_program_before_it_was_built() {
        let CertificateTime::AtLeast(unix_s) = CertificateTime::at_least(0) else { panic!() };
        assert!(unix_s >= 1_735_689_600, "2025");
        assert_eq!(CertificateTime::at_least(u64::MAX), CertificateTime::AtLeast(u64::MAX));
    }
}
