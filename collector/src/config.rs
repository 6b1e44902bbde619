//! The collector's configuration. The doc comments are the manual: the example file and the reference are made of them.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use gnomon_clock::{Policy, PolicyMode};
use gnomon_daemon::config::{ByteSize, ConfigError, HumanDuration, Validate, in_range};
use gnomon_daemon::telemetry::TelemetryConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::query::QueryLimits;
use crate::store::Limits;

/// Where the config is read from when none is named.
pub const DEFAULT_FILE: &str = "/etc/gnomon/collector.toml";
/// The program's name, in variables (`GNOMON_COLLECTOR_…`) and messages.
pub const PROGRAM: &str = "gnomon-collector";

/// The whole configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where flow records and packets are kept. Only one collector can use it at a time.
    pub data_dir: PathBuf,
    pub listen: Listen,
    pub tls: TlsConfig,
    pub ingest: IngestConfig,
    pub retention: RetentionConfig,
    pub query: QueryConfig,
    pub clock: ClockConfig,
    pub enrich: EnrichConfig,
    pub telemetry: TelemetryConfig,
}

/// The addresses the collector answers at. On anything but a loopback address it refuses to start without `tls`, unless
/// `tls.insecure` says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// gRPC: agents (`Ingest`) and people's programs (`Query`), health and reflection. 7440 and 7441 are registered to
    /// nobody, and lie far from the ports that OpenTelemetry (4317), Prometheus (9090) and agents of other systems use.
    pub grpc: SocketAddr,
    /// HTTP: the JSON API, metrics and health.
    pub http: SocketAddr,
}

/// Encryption, and who may call. Set `ca`, `certificate` and `key` together: `gnomon-collector certs` makes all three.
/// Agents then need a certificate of that CA.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// The certificates (PEM) that the certificates of agents and people must descend from.
    #[schemars(example = "/etc/gnomon/tls/ca.crt")]
    pub ca: Option<PathBuf>,
    /// The collector's own certificate (PEM), and those between it and the CA if there are any.
    #[schemars(example = "/etc/gnomon/tls/collector.crt")]
    pub certificate: Option<PathBuf>,
    /// The private key (PEM) of `certificate`.
    #[schemars(example = "/etc/gnomon/tls/collector.key")]
    pub key: Option<PathBuf>,
    /// Whether people and their programs need a certificate of the CA too. If not, everyone who reaches the ports can
    /// read what was captured.
    pub people_need_certificate: bool,
    /// Serve plain text on addresses other than loopback. Everyone on the network can then read what was captured, and
    /// send what they like.
    pub insecure: bool,
}

/// What agents may have under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct IngestConfig {
    /// How much one agent may send beyond what was acknowledged. Allowed: 8MiB to 1GiB.
    pub window: ByteSize,
    /// How much all agents together may have in the collector's memory that is not stored yet; beyond it they wait.
    /// Allowed: 8MiB to 64GiB.
    pub memory_max: ByteSize,
}

/// How long a question may take. One that takes longer is answered with what was found, and says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct QueryConfig {
    /// Searches, counts, tops, histograms and facets. Allowed: 1s to 1h.
    pub time_max: HumanDuration,
    /// Hunts, which look at everything, some of it twice. Allowed: 1s to 1h.
    pub hunt_time_max: HumanDuration,
}

/// How much is kept. When a limit is reached the oldest goes: packets first, in whole files of up to 256 MiB, and flow
/// records in the order they came in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionConfig {
    /// Packets kept. At least 16MiB.
    pub packets_max: ByteSize,
    /// Flow records and indexes kept. At least 64MiB.
    pub flows_max: ByteSize,
    /// Flow records are not given up below this only because others fill the disk.
    pub flows_kept: ByteSize,
    /// Packets are given up when they were written longer ago than this, in whole files; 0s keeps them until space is
    /// needed. While the collector's own time is unproven, and for an hour after it jumped by more than an hour, nothing
    /// is given up for its age; `gnomon clock` says so.
    pub packets_age_max: HumanDuration,
    /// Flow records are given up when they came in, and were captured, longer ago than this; 0s keeps them until space
    /// is needed. As above.
    pub flows_age_max: HumanDuration,
    /// Left free on the file system of `data_dir`. When nothing more may be given up to keep it free, the collector takes
    /// nothing in until there is room: agents keep their data meanwhile.
    pub free_min: ByteSize,
}

/// What to do with records whose time is in doubt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClockConfig {
    /// What to do where an agent's clock and the collector's disagree provably.
    pub policy: ClockPolicy,
    /// A record that is provably ahead of the collector's clock by up to this waits; beyond it `policy` decides.
    /// Allowed: 0s to 1h.
    pub tolerance: HumanDuration,
    /// Records whose time is known worse than this wait, found by the time they came in, until more is known.
    /// Allowed: 1ms to 1m.
    pub index_error_max: HumanDuration,
}

/// Files that tell more of a record's addresses. None is needed and none comes with gnomon; one that is named and cannot
/// be used keeps the collector from starting. They are read at the start: restart the collector after replacing one, with
/// a rename, so that no half-written file is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EnrichConfig {
    /// Countries of IP addresses, for `country.src` and `country.dst`: a database in MaxMind's format (GeoLite2 Country or
    /// City, DB-IP, IPinfo). At most 1 GiB, all of which is kept in memory.
    #[schemars(example = "/var/lib/GeoIP/GeoLite2-Country.mmdb")]
    pub country_db: Option<PathBuf>,
    /// Autonomous systems of IP addresses, for `asn.src` and `asn.dst`. As above; it may be the same file.
    #[schemars(example = "/var/lib/GeoIP/GeoLite2-ASN.mmdb")]
    pub asn_db: Option<PathBuf>,
    /// Vendors of MAC addresses, for `oui.src` and `oui.dst`: Wireshark's `manuf`, or `oui.csv` or `oui.txt` of the IEEE
    /// (`mam` and `oui36` too; the files of one form may be put into one). At most 64 MiB.
    #[schemars(example = "/usr/share/wireshark/manuf")]
    pub oui_file: Option<PathBuf>,
}

/// See `clock.policy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClockPolicy {
    /// Index records at the time that all evidence together gives, which is on the collector's timeline.
    #[default]
    Correct,
    /// Keep them waiting, and everything while the collector's own clock is unproven.
    Hold,
    /// Put them into quarantine.
    Refuse,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            data_dir: PathBuf::from("/var/lib/gnomon-collector"),
            listen: Listen::default(),
            tls: TlsConfig::default(),
            ingest: IngestConfig::default(),
            retention: RetentionConfig::default(),
            query: QueryConfig::default(),
            clock: ClockConfig::default(),
            enrich: EnrichConfig::default(),
            telemetry: TelemetryConfig::default(),
        }
    }
}

impl Default for Listen {
    fn default() -> Listen {
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Listen { grpc: at(7440), http: at(7441) }
    }
}

impl Default for TlsConfig {
    fn default() -> TlsConfig {
        TlsConfig { ca: None, certificate: None, key: None, people_need_certificate: true, insecure: false }
    }
}

impl Default for IngestConfig {
    fn default() -> IngestConfig {
        IngestConfig { window: ByteSize::from_mib(16), memory_max: ByteSize::from_mib(256) }
    }
}

impl Default for QueryConfig {
    fn default() -> QueryConfig {
        let QueryLimits { deadline_ms, hunt_deadline_ms, .. } = QueryLimits::default();
        let time = |ms| HumanDuration::from(Duration::from_millis(ms));
        QueryConfig { time_max: time(deadline_ms), hunt_time_max: time(hunt_deadline_ms) }
    }
}

impl Default for RetentionConfig {
    fn default() -> RetentionConfig {
        RetentionConfig {
            packets_max: ByteSize::from_gib(50),
            flows_max: ByteSize::from_gib(50),
            flows_kept: ByteSize::from_gib(1),
            packets_age_max: HumanDuration::from(Duration::ZERO),
            flows_age_max: HumanDuration::from(Duration::ZERO),
            free_min: ByteSize::from_gib(1),
        }
    }
}

impl Default for ClockConfig {
    fn default() -> ClockConfig {
        let second = HumanDuration::from(Duration::from_secs(1));
        ClockConfig { policy: ClockPolicy::default(), tolerance: second, index_error_max: second }
    }
}

impl Config {
    /// The store's limits.
    pub fn limits(&self) -> Limits {
        let age = |duration: HumanDuration| {
            let ns = u64::try_from(Duration::from(duration).as_nanos()).unwrap_or(u64::MAX);
            (ns > 0).then_some(ns)
        };
        Limits {
            packets_age_ns_max: age(self.retention.packets_age_max),
            flows_age_ns_max: age(self.retention.flows_age_max),
            packets_bytes_max: self.retention.packets_max.bytes(),
            flows_bytes_max: self.retention.flows_max.bytes(),
            flows_bytes_kept: self.retention.flows_kept.bytes(),
            free_bytes_min: self.retention.free_min.bytes(),
        }
    }

    /// How long questions may take.
    pub fn query_limits(&self) -> QueryLimits {
        let ms =
            |duration: HumanDuration| u64::try_from(Duration::from(duration).as_millis()).unwrap_or(u64::MAX);
        QueryLimits {
            deadline_ms: ms(self.query.time_max),
            hunt_deadline_ms: ms(self.query.hunt_time_max),
            ..QueryLimits::default()
        }
    }

    /// The clock gate's policy.
    pub fn policy(&self) -> Policy {
        let ns =
            |duration: HumanDuration| u64::try_from(Duration::from(duration).as_nanos()).unwrap_or(u64::MAX);
        Policy {
            mode: match self.clock.policy {
                ClockPolicy::Correct => PolicyMode::Correct,
                ClockPolicy::Hold => PolicyMode::Hold,
                ClockPolicy::Refuse => PolicyMode::Refuse,
            },
            tolerance_ns: ns(self.clock.tolerance),
            index_err_max_ns: ns(self.clock.index_error_max),
        }
    }

    /// Plain text where others could listen, without the word that allows it.
    fn check_plain_text(&self) -> Result<(), ConfigError> {
        let tls = &self.tls;
        let set = [("tls.ca", &tls.ca), ("tls.certificate", &tls.certificate), ("tls.key", &tls.key)];
        let missing = set.iter().find(|(_, path)| path.is_none());
        match missing {
            None => return Ok(()),
            Some((key, _)) if set.iter().any(|(_, path)| path.is_some()) => {
                return Err(ConfigError::invalid(
                    key,
                    "is not set, but tls needs ca, certificate and key together; `gnomon-collector certs --out DIR` makes them",
                ));
            }
            Some(_) if tls.insecure => return Ok(()),
            Some(_) => {}
        }
        for (key, address) in [("listen.grpc", self.listen.grpc), ("listen.http", self.listen.http)] {
            if !address.ip().is_loopback() {
                return Err(ConfigError::invalid(
                    key,
                    format_args!(
                        "{address} can be reached from the network, and there is no TLS: set tls.ca, tls.certificate and tls.key \
                         (`gnomon-collector certs --out DIR` makes them), or tls.insecure = true if you mean it"
                    ),
                ));
            }
        }
        Ok(())
    }
}

/// The example config file: every key, its meaning and its default.
#[must_use]
pub fn example() -> String {
    gnomon_daemon::example::config_toml::<Config>(PROGRAM)
}

impl Validate for Config {
    fn validate(&self) -> Result<(), ConfigError> {
        let (mib, gib) = (ByteSize::from_mib, ByteSize::from_gib);
        in_range("ingest.window", &self.ingest.window, &(mib(8)..=gib(1)))?;
        in_range("ingest.memory_max", &self.ingest.memory_max, &(mib(8)..=gib(64)))?;
        let most = ByteSize::from_bytes(i64::MAX.unsigned_abs());
        in_range("retention.packets_max", &self.retention.packets_max, &(mib(16)..=most))?;
        in_range("retention.flows_max", &self.retention.flows_max, &(mib(64)..=most))?;
        let time = |ms| HumanDuration::from(Duration::from_millis(ms));
        for (key, value) in
            [("query.time_max", &self.query.time_max), ("query.hunt_time_max", &self.query.hunt_time_max)]
        {
            in_range(key, value, &(time(1_000)..=time(3_600_000)))?;
        }
        in_range("clock.tolerance", &self.clock.tolerance, &(time(0)..=time(3_600_000)))?;
        in_range("clock.index_error_max", &self.clock.index_error_max, &(time(1)..=time(60_000)))?;
        if self.listen.grpc == self.listen.http && self.listen.grpc.port() != 0 {
            return Err(ConfigError::invalid(
                "listen.http",
                "is the address of listen.grpc too: choose another port",
            ));
        }
        self.telemetry.validate("telemetry")?;
        self.check_plain_text()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut Config)) -> String {
        let mut config = Config::default();
        change(&mut config);
        config.validate().err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn plain_text_stays_on_loopback_unless_somebody_says_the_word() {
        assert_eq!(refused(|_| {}), "");
        assert_eq!(refused(|c| c.listen.grpc = "[::1]:0".parse().unwrap()), "");
        let open = |c: &mut Config| c.listen.http = "0.0.0.0:7441".parse().unwrap();
        let text = refused(open);
        assert!(text.contains("listen.http") && text.contains("tls.insecure"), "{text}");
        assert_eq!(
            refused(|c| {
                open(c);
                c.tls.insecure = true;
            }),
            ""
        );
        let text = refused(|c| c.tls.ca = Some("/ca".into()));
        assert!(text.contains("`tls.certificate`"), "{text}");
    }

    #[test]
    fn limits_are_said() {
        let text = refused(|c| c.retention.packets_max = ByteSize::from_bytes(5));
        assert!(text.contains("retention.packets_max") && text.contains("16MiB"), "{text}");
        let text = refused(|c| c.query.hunt_time_max = HumanDuration::from(Duration::ZERO));
        assert!(text.contains("query.hunt_time_max") && text.contains("1s"), "{text}");
        let text = refused(|c| c.listen.http = c.listen.grpc);
        assert!(text.contains("another port"), "{text}");
    }
}
