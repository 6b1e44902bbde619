//! What a certificate says of its holder: a name, a role, and from when until when.
//!
//! The role stands in the subject's organizational unit (`OU = gnomon agent`, as `gnomon-collector certs` writes it) or, for
//! authorities that do not let one choose a unit, in a URI of the subject alternative name (`gnomon:agent`).

mod expiry;

use std::fmt;

use gnomon_flow::escape::terminal_safe;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

pub use expiry::Expiry;

/// Bytes of a name that are kept (RFC 5280 lets a common name have 64 characters).
const NAME_BYTES_MAX: usize = 256;

/// What the holder of a certificate may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Sends what it captured.
    Agent,
    /// Asks: a person, or a program of theirs.
    Client,
    /// Is asked.
    Collector,
}

impl Role {
    const ALL: [Role; 3] = [Role::Agent, Role::Client, Role::Collector];

    /// As in a certificate: `OU = gnomon agent`, `URI = gnomon:agent`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Role::Agent => "agent",
            Role::Client => "client",
            Role::Collector => "collector",
        }
    }

    fn said(text: &str, prefix: &str) -> Option<Role> {
        let word = text.strip_prefix(prefix)?;
        Role::ALL.into_iter().find(|role| role.name() == word)
    }
}

/// Why a certificate says nothing that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    #[error("it is no X.509 certificate: {0}")]
    Malformed(String),
    #[error("it has no name: neither a common name nor a subject alternative name")]
    Nameless,
    #[error("it says two roles, {} and {}", .0.name(), .1.name())]
    TwoRoles(Role, Role),
}

/// What is read of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The subject's common name, else its first alternative name. Safe to show.
    pub name: String,
    /// `None`: it says no role of ours.
    pub role: Option<Role>,
    /// SHA-256 of the whole certificate.
    pub fingerprint: [u8; 32],
    pub not_before_unix_s: i64,
    pub not_after_unix_s: i64,
}

impl Certificate {
    /// # Errors
    /// When it is none, or does not say who holds it.
    pub fn read(der: &[u8]) -> Result<Certificate, CertificateError> {
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|e| CertificateError::Malformed(e.to_string()))?;
        let alternatives = certificate
            .subject_alternative_name()
            .map_err(|e| CertificateError::Malformed(e.to_string()))?
            .map(|extension| extension.value.general_names.as_slice())
            .unwrap_or_default();
        let subject = certificate.subject();
        let mut role = None;
        let units = subject.iter_organizational_unit().filter_map(|unit| unit.as_str().ok());
        let uris = alternatives.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        let said = units.filter_map(|unit| Role::said(unit, "gnomon "));
        for next in said.chain(uris.filter_map(|uri| Role::said(uri, "gnomon:"))) {
            match role.replace(next) {
                Some(before) if before != next => return Err(CertificateError::TwoRoles(before, next)),
                _ => {}
            }
        }
        let common = subject.iter_common_name().find_map(|name| name.as_str().ok());
        let alternative = || {
            alternatives.iter().find_map(|name| match name {
                GeneralName::DNSName(name) | GeneralName::RFC822Name(name) => Some(*name),
                GeneralName::URI(name) if Role::said(name, "gnomon:").is_none() => Some(*name),
                _ => None,
            })
        };
        let name = common.filter(|name| !name.is_empty()).or_else(alternative);
        let name = name.filter(|name| !name.is_empty()).ok_or(CertificateError::Nameless)?;
        let mut name = terminal_safe(name).into_owned();
        name.truncate(name.floor_char_boundary(NAME_BYTES_MAX));
        let fingerprint = ring::digest::digest(&ring::digest::SHA256, der);
        Ok(Certificate {
            name,
            role,
            fingerprint: fingerprint.as_ref().try_into().unwrap_or_default(),
            not_before_unix_s: certificate.validity().not_before.timestamp(),
            not_after_unix_s: certificate.validity().not_after.timestamp(),
        })
    }

    /// The first certificate in `pem`.
    ///
    /// # Errors
    /// When there is none, or it is none.
    pub fn read_pem(pem: &[u8]) -> Result<Certificate, CertificateError> {
        let der =
            CertificateDer::from_pem_slice(pem).map_err(|e| CertificateError::Malformed(e.to_string()))?;
        Certificate::read(&der)
    }

    /// When it ends, in words.
    #[must_use]
    pub fn end(&self) -> String {
        date(self.not_after_unix_s)
    }

    /// Why it is not taken at `now`, by its dates alone, in words.
    #[must_use]
    pub fn untimely(&self, now_unix_s: i64) -> Option<String> {
        if now_unix_s > self.not_after_unix_s {
            Some(format!("has expired: it was good until {}", self.end()))
        } else if now_unix_s < self.not_before_unix_s {
            Some(format!("is not good yet: it will be from {}", date(self.not_before_unix_s)))
        } else {
            None
        }
    }

    /// The fingerprint as people compare it.
    #[must_use]
    pub fn fingerprint_hex(&self) -> String {
        self.fingerprint.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

pub(crate) fn date(unix_s: i64) -> String {
    jiff::Timestamp::from_second(unix_s)
        .map_or_else(|_| format!("{unix_s} s after 1970"), |at| at.to_string())
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = self.role.map_or("no role", Role::name);
        write!(f, "certificate {:?} ({role}, SHA-256 {}…)", self.name, &self.fingerprint_hex()[..16])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair, SanType, date_time_ymd};

    fn made(change: impl FnOnce(&mut CertificateParams)) -> Result<Certificate, CertificateError> {
        let mut params = CertificateParams::default();
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2027, 1, 1);
        params.distinguished_name = rcgen::DistinguishedName::new();
        change(&mut params);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let read = Certificate::read(certificate.der());
        assert_eq!(read, Certificate::read_pem(certificate.pem().as_bytes()));
        read
    }

    fn name(params: &mut CertificateParams, common: &str, unit: &str) {
        params.distinguished_name.push(DnType::CommonName, common);
        params.distinguished_name.push(DnType::OrganizationalUnitName, unit);
    }

    #[test]
    fn name_role_and_end_are_read() {
        let read = made(|p| name(p, "sensor-1", "gnomon agent")).unwrap();
        assert_eq!((read.name.as_str(), read.role), ("sensor-1", Some(Role::Agent)));
        assert_eq!((read.not_before_unix_s, read.not_after_unix_s), (1_767_225_600, 1_798_761_600));
        assert_eq!(read.end(), "2027-01-01T00:00:00Z");
        assert_eq!(read.untimely(1_780_000_000), None);
        assert!(read.untimely(1_798_761_601).unwrap().contains("good until 2027-01-01"));
        assert!(read.untimely(0).unwrap().contains("from 2026-01-01"));
        assert_eq!(made(|p| name(p, "ann", "gnomon client")).unwrap().role, Some(Role::Client));
        assert_eq!(made(|p| name(p, "ann", "Sales")).unwrap().role, None);
        let by_uri = made(|p| {
            p.subject_alt_names.push(SanType::URI("gnomon:client".try_into().unwrap()));
            p.subject_alt_names.push(SanType::DnsName("tool.example".try_into().unwrap()));
        });
        let by_uri = by_uri.unwrap();
        assert_eq!((by_uri.name.as_str(), by_uri.role), ("tool.example", Some(Role::Client)));
    }

    #[test]
    fn who_has_no_name_or_two_roles_is_nobody() {
        assert_eq!(made(|_| {}), Err(CertificateError::Nameless));
        let two = made(|p| {
            name(p, "x", "gnomon agent");
            p.subject_alt_names.push(SanType::URI("gnomon:client".try_into().unwrap()));
        });
        assert_eq!(two, Err(CertificateError::TwoRoles(Role::Agent, Role::Client)));
        assert!(matches!(Certificate::read(b"nonsense"), Err(CertificateError::Malformed(_))));
    }

    #[test]
    fn a_name_cannot_forge_a_line() {
        let long = "x".repeat(1000);
        let read = made(|p| {
            p.distinguished_name.push(DnType::CommonName, DnValue::Utf8String("a\n\u{1b}[31mb".to_owned()));
        });
        assert_eq!(read.unwrap().name, "a\\n\\u{1b}[31mb");
        assert_eq!(made(|p| name(p, &long, "gnomon agent")).unwrap().name.len(), NAME_BYTES_MAX);
    }
}
