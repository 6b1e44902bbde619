//! `gnomon-collector certs`: a certificate authority of one's own, and pairs for the collector, agents and people.
//!
//! For a start, and for small installations: who has a PKI uses that. Certificates begin 24 h before now, so that a host
//! whose clock is some hours behind can still connect (and learn the time).

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use gnomon_clock::UtcNs;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

const DAY: Duration = Duration::from_secs(86_400);
const BACKDATED: Duration = DAY;
const CA_DAYS: u32 = 3650;
const PAIR_DAYS: u32 = 825;
const NAME_BYTES_MAX: usize = 64;

/// What to make.
#[derive(Clone, Debug, Default)]
pub struct Order {
    pub out: PathBuf,
    /// Host names and addresses that agents and people call the collector by.
    pub collector_names: Vec<String>,
    pub agents: Vec<String>,
    pub clients: Vec<String>,
    /// Replace pairs that are there. The authority is never replaced.
    pub force: bool,
    /// The group that may read the keys of agents and the collector; `None`: only who makes them.
    pub group: Option<u32>,
}

/// The group that services of gnomon run in, where there is one (`deploy/systemd/gnomon.sysusers.conf`).
pub fn service_group() -> Option<u32> {
    let groups = fs::read_to_string("/etc/group").ok()?;
    let line = groups.lines().find_map(|line| line.strip_prefix("gnomon:"))?;
    line.split(':').nth(1)?.parse().ok()
}

/// Why nothing, or not all, was made.
#[derive(Debug, thiserror::Error)]
pub enum CertsError {
    #[error("nothing to make: give --collector-name, --agent or --client")]
    Nothing,
    #[error(
        "{0:?} cannot be a name: use up to {NAME_BYTES_MAX} letters, digits, '.', '-' and '_', beginning with a letter or digit"
    )]
    Name(String),
    #[error("{} exists already: remove it, or give --force to replace pairs", .0.display())]
    Exists(PathBuf),
    #[error("{} is there without {}: the authority needs both", have.display(), miss.display())]
    HalfAuthority { have: PathBuf, miss: PathBuf },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{what}: {source}")]
    Certificate { what: String, source: rcgen::Error },
}

enum Purpose {
    Server(Vec<String>),
    Agent,
    Client,
}

/// Make what is ordered; gives the files made. With an authority in `out` already, its pairs are added to it.
///
/// # Errors
/// When a name is none, a file is there already, or the disk says no. Nothing is written before all names are checked.
pub fn make(order: &Order, now: UtcNs) -> Result<Vec<PathBuf>, CertsError> {
    let mut pairs = Vec::new();
    if !order.collector_names.is_empty() {
        pairs.push(("collector".to_owned(), "collector", Purpose::Server(order.collector_names.clone())));
    }
    for name in &order.agents {
        pairs.push((format!("agent-{}", checked(name)?), name.as_str(), Purpose::Agent));
    }
    for name in &order.clients {
        pairs.push((format!("client-{}", checked(name)?), name.as_str(), Purpose::Client));
    }
    if pairs.is_empty() {
        return Err(CertsError::Nothing);
    }
    for (file, ..) in &pairs {
        for extension in ["crt", "key"] {
            let path = order.out.join(format!("{file}.{extension}"));
            if path.exists() && !order.force {
                return Err(CertsError::Exists(path));
            }
        }
    }
    let is_new = !order.out.exists();
    let made_dir = fs::create_dir_all(&order.out).and_then(|()| match order.group.filter(|_| is_new) {
        Some(group) => open_to(&order.out, group, 0o750),
        None => Ok(()),
    });
    made_dir.map_err(|source| CertsError::Io { path: order.out.clone(), source })?;
    let mut made = Vec::new();
    let authority = authority(&order.out, now, &mut made)?;
    for (file, name, purpose) in pairs {
        let error = |source| CertsError::Certificate { what: format!("the certificate of {name}"), source };
        let for_service = !matches!(purpose, Purpose::Client);
        let params = params(name, purpose, now).map_err(error)?;
        let key = KeyPair::generate().map_err(error)?;
        let certificate = params.signed_by(&key, &authority).map_err(error)?;
        let path = write(&order.out, &file, "key", 0o600, &key.serialize_pem())?;
        if let Some(group) = order.group.filter(|_| for_service) {
            open_to(&path, group, 0o640).map_err(|source| CertsError::Io { path: path.clone(), source })?;
        }
        made.push(path);
        made.push(write(&order.out, &file, "crt", 0o644, &certificate.pem())?);
    }
    Ok(made)
}

fn checked(name: &str) -> Result<&str, CertsError> {
    let fits = name.len() <= NAME_BYTES_MAX
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    if fits { Ok(name) } else { Err(CertsError::Name(name.to_owned())) }
}

fn validity(params: &mut CertificateParams, now: UtcNs, days: u32) {
    let since_1970 = Duration::from_nanos(u64::try_from(now.unix_ns()).unwrap_or(0));
    params.not_before = date_time_ymd(1970, 1, 1) + since_1970.saturating_sub(BACKDATED);
    params.not_after = params.not_before + BACKDATED + DAY * days;
}

fn params(name: &str, purpose: Purpose, now: UtcNs) -> Result<CertificateParams, rcgen::Error> {
    let (unit, names, usages) = match purpose {
        Purpose::Server(mut names) => {
            // For whoever asks from the same host.
            for local in ["localhost", "127.0.0.1", "::1"] {
                if !names.iter().any(|name| name == local) {
                    names.push(local.to_owned());
                }
            }
            ("gnomon collector", names, vec![ExtendedKeyUsagePurpose::ServerAuth])
        }
        Purpose::Agent => ("gnomon agent", vec![], vec![ExtendedKeyUsagePurpose::ClientAuth]),
        Purpose::Client => ("gnomon client", vec![], vec![ExtendedKeyUsagePurpose::ClientAuth]),
    };
    let mut params = CertificateParams::new(names)?;
    validity(&mut params, now, PAIR_DAYS);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationalUnitName, unit);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = usages;
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// The authority in `out`, made if there is none.
fn authority(
    out: &Path,
    now: UtcNs,
    made: &mut Vec<PathBuf>,
) -> Result<Issuer<'static, KeyPair>, CertsError> {
    let (certificate, key) = (out.join("ca.crt"), out.join("ca.key"));
    let error = |source| CertsError::Certificate { what: "the authority".to_owned(), source };
    match (certificate.exists(), key.exists()) {
        (true, true) => {
            let read = |path: &Path| {
                fs::read_to_string(path).map_err(|source| CertsError::Io { path: path.to_owned(), source })
            };
            let pair = KeyPair::from_pem(&read(&key)?).map_err(error)?;
            Issuer::from_ca_cert_pem(&read(&certificate)?, pair).map_err(error)
        }
        (true, false) => Err(CertsError::HalfAuthority { have: certificate, miss: key }),
        (false, true) => Err(CertsError::HalfAuthority { have: key, miss: certificate }),
        (false, false) => {
            let mut params = CertificateParams::new(Vec::new()).map_err(error)?;
            validity(&mut params, now, CA_DAYS);
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, "gnomon certificate authority");
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            let pair = KeyPair::generate().map_err(error)?;
            let signed = params.self_signed(&pair).map_err(error)?;
            made.push(write(out, "ca", "key", 0o600, &pair.serialize_pem())?);
            made.push(write(out, "ca", "crt", 0o644, &signed.pem())?);
            Ok(Issuer::new(params, pair))
        }
    }
}

/// Lets a group in. The group first: with the mode first, it would be another's for a moment.
fn open_to(path: &Path, group: u32, mode: u32) -> io::Result<()> {
    chown(path, None, Some(group))?;
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Written whole beside its place and then moved there: a key is never half a key, nor readable by others for a moment.
fn write(out: &Path, file: &str, extension: &str, mode: u32, text: &str) -> Result<PathBuf, CertsError> {
    let path = out.join(format!("{file}.{extension}"));
    let beside = out.join(format!(".{file}.{extension}.new"));
    let put = || {
        let _ = fs::remove_file(&beside);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, &path)
    };
    put().map_err(|source| CertsError::Io { path: path.clone(), source })?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    const NOW: i64 = 1_800_000_000_000_000_000;

    fn order(out: &Path) -> Order {
        Order {
            out: out.to_owned(),
            collector_names: vec!["collector.example".to_owned(), "192.0.2.1".to_owned()],
            agents: vec!["sensor-1".to_owned()],
            clients: vec!["ann".to_owned()],
            force: false,
            group: None,
        }
    }

    #[test]
    fn the_group_of_services_reads_their_keys_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("tls");
        // One that this process may give files to.
        let group = dir.path().metadata().unwrap().gid();
        make(&Order { group: Some(group), ..order(&out) }, UtcNs::from_unix_ns(NOW)).unwrap();
        let mode = |name: &str| out.join(name).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(""), mode("collector.key"), mode("agent-sensor-1.key")), (0o750, 0o640, 0o640));
        assert_eq!((mode("ca.key"), mode("client-ann.key")), (0o600, 0o600));
    }

    #[test]
    fn pairs_are_made_once_kept_private_and_added_to_the_same_authority() {
        let dir = tempfile::tempdir().unwrap();
        let now = UtcNs::from_unix_ns(NOW);
        let made = make(&order(dir.path()), now).unwrap();
        assert_eq!(made.len(), 8);
        for path in &made {
            let mode = path.metadata().unwrap().permissions().mode() & 0o777;
            let private = path.extension().is_some_and(|e| e == "key");
            assert_eq!(mode, if private { 0o600 } else { 0o644 }, "{}", path.display());
        }
        let key = fs::read(dir.path().join("collector.key")).unwrap();
        let ca = fs::read(dir.path().join("ca.crt")).unwrap();
        assert!(matches!(make(&order(dir.path()), now), Err(CertsError::Exists(_))));
        assert_eq!(fs::read(dir.path().join("collector.key")).unwrap(), key);
        make(&Order { force: true, ..order(dir.path()) }, now).unwrap();
        assert_ne!(fs::read(dir.path().join("collector.key")).unwrap(), key);
        let more =
            Order { out: dir.path().to_owned(), agents: vec!["sensor-2".to_owned()], ..Order::default() };
        assert_eq!(make(&more, now).unwrap().len(), 2);
        assert_eq!(fs::read(dir.path().join("ca.crt")).unwrap(), ca);
    }

    #[test]
    fn bad_names_and_half_an_authority_make_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let now = UtcNs::from_unix_ns(NOW);
        for bad in ["", "../../etc/passwd", ".hidden", "a b", &"x".repeat(65)] {
            let order = Order { agents: vec![bad.to_owned()], ..order(dir.path()) };
            assert!(matches!(make(&order, now), Err(CertsError::Name(_))), "{bad:?}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        fs::write(dir.path().join("ca.key"), "").unwrap();
        assert!(matches!(make(&order(dir.path()), now), Err(CertsError::HalfAuthority { .. })));
        assert!(matches!(make(&Order::default(), now), Err(CertsError::Nothing)));
    }
}
