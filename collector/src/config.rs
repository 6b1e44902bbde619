//! The collector's configuration. The doc comments are the manual: the example file and the reference are made of them.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gnomon_clock::{Policy, PolicyMode};
use gnomon_daemon::certificate_time::CertificateTime;
use gnomon_daemon::config::{ByteSize, ConfigError, HumanDuration, Validate, in_range};
use gnomon_daemon::telemetry::TelemetryConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::enrich::Enrichment;
use crate::query::QueryLimits;
use crate::store::WantedLimits;
use crate::timekeeper::VOTE_AFTER_NS;
use crate::tls::Tls;

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
    /// HTTP: the JSON API, metrics and health. Both ports answer everything; two are there to be opened to different people.
    pub http: SocketAddr,
    /// A Unix socket for this host's agent and people. If unset: `/run/gnomon/collector.sock`, or `collector.sock` in
    /// `data_dir` where that cannot be had. Empty: none. Its directory is made if it is not there, and must be one that only
    /// this user or root can write to.
    #[schemars(example = "/run/gnomon/collector.sock")]
    pub unix: Option<PathBuf>,
    /// Users who may call through the Unix socket besides root and the collector's own, by name or number (`/etc/passwd`
    /// is asked).
    #[schemars(example = ["gnomon-agent"])]
    pub unix_users: Vec<String>,
    /// The group that the Unix socket belongs to, by name or number: whose primary group it is may call.
    #[schemars(example = &"gnomon")]
    pub unix_group: Option<String>,
    /// Names by which people call this collector in plain text, besides `localhost`, addresses and this host's name. Requests
    /// that call it otherwise are refused: a page of another site made a browser send them.
    #[schemars(example = ["collector.example"])]
    pub names: Vec<String>,
}

/// Encryption, and who may call. Set `ca`, `certificate` and `key` together: `gnomon-collector certs` makes all three.
/// Agents then need a certificate of that CA. An agent's certificate may only send, a client's only ask; `certs` writes the
/// role into it (`OU = gnomon agent`, `OU = gnomon client`), other authorities may write it into a URI of the subject
/// alternative name (`gnomon:agent`, `gnomon:client`). `/healthz`, `/readyz`, `/metrics` and gRPC health need no certificate.
/// SIGHUP (`systemctl reload`) reads the files again; connections stay.
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
    /// What a certificate of the CA may do that says no role.
    pub without_role: WithoutRole,
    /// Serve plain text on addresses other than loopback. Everyone on the network can then read what was captured, and
    /// send what they like.
    pub insecure: bool,
}

/// See `tls.without_role`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WithoutRole {
    /// Nothing.
    #[default]
    Refuse,
    /// Send, as an agent.
    Agent,
    /// Ask, as a client.
    Client,
    /// Both, as if there were no roles.
    Both,
}

/// What agents may have under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct IngestConfig {
    /// How much one agent may send beyond what was acknowledged. Allowed: 8MiB to 1GiB.
    pub window: ByteSize,
    /// How much memory what agents sent and is not stored yet may take: half of it as it came and as it decompresses, half of
    /// it as it is read; beyond it they wait. Never less than one entry may take, which is about 150 MiB.
    /// Allowed: 8MiB to 64GiB.
    pub memory_max: ByteSize,
}

/// What questions may take of time and memory. One that takes longer, or needs more, is answered with what was found and
/// says so, or is refused. Callers are served in turn: no caller has more than half of the places and half of the memory, its
/// other questions wait up to 5 s and are then refused (HTTP 429, gRPC `RESOURCE_EXHAUSTED`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct QueryConfig {
    /// Searches, counts, tops, histograms and facets. Allowed: 1s to 1h.
    pub time_max: HumanDuration,
    /// Hunts, which look at everything, some of it twice. Allowed: 1s to 1h.
    pub hunt_time_max: HumanDuration,
    /// Memory of all questions under way and of answers that were not read yet; one question has a quarter of it at most.
    /// An answer of which nothing is read for a minute is given up, and after 2 s already while others wait for the memory.
    /// Allowed: 64MiB to 64GiB.
    pub memory_max: ByteSize,
}

/// How much is kept. When a limit is reached the oldest goes: packets first, in whole files of up to 256 MiB, and flow
/// records in the order they came in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionConfig {
    /// Packets kept. At least 16MiB. Without it two fifths of what was free in `data_dir` at the first start; the file
    /// `limits` there has the number.
    #[schemars(example = "50GiB")]
    pub packets_max: Option<ByteSize>,
    /// Flow records and indexes kept. At least 64MiB. Without it three tenths, likewise.
    #[schemars(example = "50GiB")]
    pub flows_max: Option<ByteSize>,
    /// Flow records are not given up below this only because others fill the disk. Without it half of `flows_max`, 1GiB at
    /// most.
    #[schemars(example = "1GiB")]
    pub flows_kept: Option<ByteSize>,
    /// Packets are given up when they were written longer ago than this, in whole files; 0s keeps them until space is
    /// needed. While the collector's own time is unproven, and for an hour after it jumped by more than an hour, nothing
    /// is given up for its age; `gnomon clock` says so.
    pub packets_age_max: HumanDuration,
    /// Flow records are given up when they came in, and were captured, longer ago than this; 0s keeps them until space
    /// is needed. As above.
    pub flows_age_max: HumanDuration,
    /// Left free on the file system of `data_dir`. When nothing more may be given up to keep it free, the collector takes
    /// nothing in until there is room: agents keep their data meanwhile. Without it a fifth of what was free at the first
    /// start, 1GiB at most.
    #[schemars(example = "1GiB")]
    pub free_min: Option<ByteSize>,
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
    /// Where no NTP proves the collector's time, most of the agents' certificates can. A certificate has a say once
    /// agents were connected by it for this long, in all: who has just come moves no clock. Agents without a certificate
    /// have none. Allowed: 0s to 30d.
    pub vote_after: HumanDuration,
}

/// Files that tell more of a record's addresses. None is needed and none comes with gnomon; one that is named and cannot
/// be used keeps the collector from starting. SIGHUP (`systemctl reload`) reads them again after one was replaced: with a
/// rename, so that no half-written file is read. Other files than those named at the start need a restart.
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
        Listen {
            grpc: at(7440),
            http: at(7441),
            unix: None,
            unix_users: Vec::new(),
            unix_group: None,
            names: Vec::new(),
        }
    }
}

impl Default for TlsConfig {
    fn default() -> TlsConfig {
        TlsConfig {
            ca: None,
            certificate: None,
            key: None,
            people_need_certificate: true,
            without_role: WithoutRole::default(),
            insecure: false,
        }
    }
}

impl Default for IngestConfig {
    fn default() -> IngestConfig {
        IngestConfig { window: ByteSize::from_mib(16), memory_max: ByteSize::from_mib(256) }
    }
}

impl Default for QueryConfig {
    fn default() -> QueryConfig {
        let QueryLimits { deadline_ms, hunt_deadline_ms, memory_bytes, .. } = QueryLimits::default();
        let time = |ms| HumanDuration::from(Duration::from_millis(ms));
        QueryConfig {
            time_max: time(deadline_ms),
            hunt_time_max: time(hunt_deadline_ms),
            memory_max: ByteSize::from_bytes(memory_bytes as u64),
        }
    }
}

impl Default for RetentionConfig {
    fn default() -> RetentionConfig {
        RetentionConfig {
            packets_max: None,
            flows_max: None,
            flows_kept: None,
            packets_age_max: HumanDuration::from(Duration::ZERO),
            flows_age_max: HumanDuration::from(Duration::ZERO),
            free_min: None,
        }
    }
}

impl Default for ClockConfig {
    fn default() -> ClockConfig {
        let second = HumanDuration::from(Duration::from_secs(1));
        let vote_after = HumanDuration::from(Duration::from_nanos(VOTE_AFTER_NS));
        ClockConfig { policy: ClockPolicy::default(), tolerance: second, index_error_max: second, vote_after }
    }
}

impl Config {
    /// The store's limits, as far as they were given.
    pub fn limits(&self) -> WantedLimits {
        let age = |duration: HumanDuration| {
            let ns = u64::try_from(Duration::from(duration).as_nanos()).unwrap_or(u64::MAX);
            (ns > 0).then_some(ns)
        };
        let bytes = |size: Option<ByteSize>| size.map(|size| size.bytes());
        WantedLimits {
            packets_age_ns_max: age(self.retention.packets_age_max),
            flows_age_ns_max: age(self.retention.flows_age_max),
            packets_bytes_max: bytes(self.retention.packets_max),
            flows_bytes_max: bytes(self.retention.flows_max),
            flows_bytes_kept: bytes(self.retention.flows_kept),
            free_bytes_min: bytes(self.retention.free_min),
        }
    }

    /// How long questions may take.
    pub fn query_limits(&self) -> QueryLimits {
        let ms =
            |duration: HumanDuration| u64::try_from(Duration::from(duration).as_millis()).unwrap_or(u64::MAX);
        QueryLimits {
            deadline_ms: ms(self.query.time_max),
            hunt_deadline_ms: ms(self.query.hunt_time_max),
            memory_bytes: self.query.memory_max.as_usize(),
            ..QueryLimits::default()
        }
    }

    /// From when on a certificate has a say in the collector's time.
    pub fn vote_after_ns(&self) -> u64 {
        u64::try_from(Duration::from(self.clock.vote_after).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Everything that keeps a collector from starting and needs a look at more than the text: the files that are named.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check_files(&self) -> Result<(), ConfigError> {
        Tls::load(&self.tls, Arc::new(|| CertificateTime::at_least(0)))?;
        Enrichment::load(&self.enrich)?;
        Ok(())
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
        if let Some(packets_max) = &self.retention.packets_max {
            in_range("retention.packets_max", packets_max, &(mib(16)..=most))?;
        }
        if let Some(flows_max) = &self.retention.flows_max {
            in_range("retention.flows_max", flows_max, &(mib(64)..=most))?;
        }
        let time = |ms| HumanDuration::from(Duration::from_millis(ms));
        for (key, value) in
            [("query.time_max", &self.query.time_max), ("query.hunt_time_max", &self.query.hunt_time_max)]
        {
            in_range(key, value, &(time(1_000)..=time(3_600_000)))?;
        }
        in_range("query.memory_max", &self.query.memory_max, &(mib(64)..=gib(64)))?;
        in_range("clock.tolerance", &self.clock.tolerance, &(time(0)..=time(3_600_000)))?;
        in_range("clock.vote_after", &self.clock.vote_after, &(time(0)..=time(30 * 86_400_000)))?;
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
        let text = refused(|c| c.retention.packets_max = Some(ByteSize::from_bytes(5)));
        assert!(text.contains("retention.packets_max") && text.contains("16MiB"), "{text}");
        let text = refused(|c| c.query.hunt_time_max = HumanDuration::from(Duration::ZERO));
        assert!(text.contains("query.hunt_time_max") && text.contains("1s"), "{text}");
        let text = refused(|c| c.listen.http = c.listen.grpc);
        assert!(text.contains("another port"), "{text}");
    }
}
