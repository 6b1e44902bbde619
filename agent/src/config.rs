//! The agent's configuration. The doc comments are the manual: the example file and the reference are made of them.

mod allowed;
mod rules;
mod stages;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gnomon_capture::Options;
use gnomon_daemon::config::{ByteSize, ConfigError, HumanDuration};
use gnomon_daemon::telemetry::TelemetryConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::slicer::SlicerConfig;
use crate::table::TableConfig;

pub use allowed::WORKERS_MAX;

/// Where the config is read from when none is named.
pub const DEFAULT_FILE: &str = "/etc/gnomon/agent.toml";
/// The name by which variables and messages call the program.
pub const PROGRAM: &str = "gnomon-agent";

/// The whole configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The name people see. If unset, the host's name.
    #[schemars(example = &"web1")]
    pub name: Option<String>,
    /// Words about this agent that searches can use, as `site = "berlin"`. At most 32.
    pub labels: BTreeMap<String, String>,
    /// Where the agent keeps its identity and its spool. Only one agent can use it at a time.
    pub state_dir: PathBuf,
    pub collector: CollectorConfig,
    pub tls: TlsConfig,
    /// What to capture. If empty, the agent picks. Asked again whenever a link or an address changes; `gnomon-agent interfaces`
    /// shows what is captured, what is left out, and why.
    pub interfaces: Vec<InterfaceConfig>,
    pub capture: CaptureConfig,
    pub flows: FlowsConfig,
    pub slices: SlicesConfig,
    /// What is done with certain flows, in this order. SIGHUP (`systemctl reload`) reads it and `slices.keep` again, without
    /// a gap in capture. At most 256; docs/rules.md has it all.
    pub rules: Vec<RuleConfig>,
    pub alerts: AlertsConfig,
    pub spool: SpoolConfig,
    pub telemetry: TelemetryConfig,
}

/// Where everything goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CollectorConfig {
    /// Addresses of the collector, tried in this order: `https://host:port`, `unix:///path` for its socket on this machine,
    /// or, with `tls.insecure`, `http://host:port`. If empty, nothing is sent and the spool keeps what fits. A socket is
    /// used only if its directory is root's, this user's or made by root for somebody, and its owner answers.
    pub urls: Vec<String>,
    /// How long an agent that stops goes on sending what is in its spool. What is left stays there. Allowed: 0s to 5m.
    pub drain: HumanDuration,
}

/// Encryption. Set `ca`, `certificate` and `key` together: `gnomon-collector certs` makes all three. The files are read again
/// for each connection, so that a renewed certificate is used from the next on; that it will end is said 30, 7 and 1 day before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// The certificates (PEM) that the collector's certificate must descend from.
    #[schemars(example = &"/etc/gnomon/tls/ca.crt")]
    pub ca: Option<PathBuf>,
    /// The agent's own certificate (PEM).
    #[schemars(example = &"/etc/gnomon/tls/agent.crt")]
    pub certificate: Option<PathBuf>,
    /// The private key (PEM) of `certificate`.
    #[schemars(example = &"/etc/gnomon/tls/agent.key")]
    pub key: Option<PathBuf>,
    /// The name in the collector's certificate, if it is not the host of the URL.
    #[schemars(example = &"collector.example")]
    pub server_name: Option<String>,
    /// Send in plain text (`http://`). On the way to another machine everyone can then read what was captured; on this one
    /// any user who takes the port while the collector is away is sent it, and can tell the agent a wrong time.
    pub insecure: bool,
}

/// One interface to capture on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InterfaceConfig {
    /// A name, as `ip link` shows it; a pattern (`veth*`, `eth[0-9]`); or a class: `nic` (network cards that are up),
    /// `addressed` (with an address, loopback not), `all`. With `!` before it (`!docker0`) what it matches is left out. An interface
    /// may appear later, come back, or be renamed; the first entry that matches it says how it is captured. With nothing but
    /// exclusions the agent picks among the others.
    #[schemars(example = &"eth0")]
    pub name: String,
    #[serde(default)]
    pub stance: StanceConfig,
    #[serde(default)]
    pub backend: BackendConfig,
    /// Threads that share its traffic by flow (AF_PACKET only).
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 64))]
    pub workers: u8,
    /// Memory for frames, for each worker, instead of `capture.ring_bytes`. If unset, a virtual pair (veth) that no entry names
    /// has 4 MiB at the most. Allowed: 1MiB to 4GiB.
    #[serde(default)]
    #[schemars(example = &"8MiB")]
    pub ring_bytes: Option<ByteSize>,
    /// Let a tap take frames from an interface that has an address: the host loses them.
    #[serde(default)]
    pub steal_addressed: bool,
}

fn one() -> u8 {
    1
}

impl InterfaceConfig {
    /// An interface as it is captured when nothing more is said.
    #[must_use]
    pub fn named(name: &str) -> InterfaceConfig {
        InterfaceConfig {
            name: name.to_owned(),
            stance: StanceConfig::default(),
            backend: BackendConfig::default(),
            workers: one(),
            ring_bytes: None,
            steal_addressed: false,
        }
    }
}

/// How the agent stands on an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StanceConfig {
    /// Watch beside the host: never takes a frame from it.
    #[default]
    Auto,
    /// A mirror or TAP port: its frames are for nobody else and are taken.
    Tap,
    /// A network card the host lives on: it keeps its traffic.
    Host,
}

/// Which way into the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BackendConfig {
    /// AF_XDP for taps, AF_PACKET for everything else.
    #[default]
    Auto,
    /// AF_XDP or an error; needs `stance = "tap"`.
    AfXdp,
    AfPacket,
}

/// How packets are taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CaptureConfig {
    /// Ask network cards for frames addressed to others.
    pub promiscuous: bool,
    /// Capture only what this lets pass, in the language of tcpdump (pcap-filter(7)). The kernel filters; on a tap (AF_XDP) the
    /// agent does. Needs libpcap. Whatever else is left out, by flow and with its count, rules say (docs/rules.md).
    #[schemars(example = &"tcp port 80 or vlan")]
    pub filter: Option<String>,
    /// Bytes taken of each frame, 0 for all. What is kept of them, the rules say.
    #[schemars(range(min = 0, max = 262144))]
    pub snaplen: u32,
    /// AF_XDP: receive descriptors over all queues of an interface.
    #[schemars(range(min = 64, max = 1048576))]
    pub ring_frames: u32,
    /// Memory for frames, for each worker of each interface. Allowed: 1MiB to 4GiB.
    pub ring_bytes: ByteSize,
    /// Memory for the frames of all interfaces. One that is not named (that a pattern, a class or the agent picks) is left out when it
    /// would take more. Allowed: 1MiB to 1TiB.
    pub rings_bytes_max: ByteSize,
    /// Have network cards stamp frames as they come off the wire, where a card can stamp all of them and has a clock that can be
    /// read (`/dev/ptpN`); on a tap (AF_XDP) its driver must tell XDP programs too. `gnomon agents` says whether it does.
    /// Switches that on in the card, and leaves it on.
    pub hardware_stamps: bool,
    /// AF_PACKET: how long the kernel may hold packets of a quiet link back. Allowed: 1ms to 1s.
    pub block_retire: HumanDuration,
    /// What is done with gnomon's own streams: an agent's to the collector, and all others to the collector's ports.
    pub own_uplink: OwnUplinkConfig,
}

/// See `capture.own_uplink`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OwnUplinkConfig {
    /// Count them, in records with `own_uplink`, and keep none of their packets.
    #[default]
    Count,
    /// Capture them like any other stream. Only where they pass on a link that no agent captures: otherwise what is sent is
    /// captured and sent again, without end.
    Keep,
}

/// How packets become flow records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FlowsConfig {
    /// Flows that each worker can hold, at about 400 bytes each. When there are more, one that was quiet is ended early.
    #[schemars(range(min = 1024, max = 268435456))]
    pub flows_max: u32,
    /// After how long without a packet a flow has ended. Allowed for all of these: 100ms to 1d.
    pub idle_tcp: HumanDuration,
    pub idle_udp: HumanDuration,
    /// ICMP and ICMPv6.
    pub idle_icmp: HumanDuration,
    pub idle_sctp: HumanDuration,
    pub idle_esp: HumanDuration,
    pub idle_other: HumanDuration,
    /// A flow that goes on is reported in segments no longer than this. Allowed: 1s to 1d.
    pub active_timeout: HumanDuration,
    /// Nor with more packets than this.
    #[schemars(range(min = 100, max = 65535))]
    pub active_packets: u16,
    /// How long a closed TCP connection waits for stray packets. Allowed: 0s to 10m.
    pub linger: HumanDuration,
    /// Report open flows too, so that a long or quiet one is seen at once.
    pub interim: bool,
    /// Read what the payload says: names asked for, requests, server names, banners.
    pub inspect: bool,
    /// Memory for messages that are not whole yet, over all flows of a worker, and as much again for TCP segments that wait
    /// for earlier ones. Allowed: 0B to 1GiB.
    pub inspect_bytes_max: ByteSize,
    /// Memory for what payload said, over all flows of a worker. When it is full nothing more is read until flows have ended; that
    /// is counted (`gnomon.agent.inspections.denied`). Allowed: 1MiB to 64GiB.
    pub metadata_bytes_max: ByteSize,
}

/// What is kept of packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SlicesConfig {
    /// What to keep of flows of which no rule says it: `all`, `nothing`, `headers` (layers 2 to 4), `packet 128B` (the first
    /// bytes of each packet), `flow 64KiB` (the first bytes of each flow), `packets 20` (the first packets of each flow).
    /// The length on the wire is always kept.
    pub keep: String,
    /// Packets are handed on in blocks of this size. Allowed: 16KiB to 1MiB.
    pub block_bytes: ByteSize,
    /// A block is handed on after this at the latest. Allowed: 1ms to 10s.
    pub block_age: HumanDuration,
}

/// What is done with certain flows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RuleConfig {
    /// Its name in metrics and messages.
    #[schemars(example = &"backup")]
    pub name: String,
    /// Which flows, in the language of searches (docs/search.md), by what is known of them at the agent.
    #[schemars(example = &"port.dst == 873 && ip.dst == 10.1.0.0/16")]
    pub when: String,
    /// Words that their records get as `tags`. Every rule that matches gives its own.
    #[schemars(example = ["backup"])]
    pub tag: Vec<String>,
    /// What to keep of their packets, as in `slices.keep`. The first rule that matches and has `keep` or `ignore` decides.
    #[schemars(example = &"headers")]
    pub keep: Option<String>,
    /// Make no record of them and keep no packets. They are counted as `ignored_by_rule`.
    pub ignore: bool,
}

/// Alerts of an intrusion detection system, which become part of the flows they are about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AlertsConfig {
    /// EVE files (JSON lines) that Suricata writes on this machine. They are followed, over rotation and restarts too. At
    /// most 16; docs/alerts.md has it all.
    #[schemars(example = ["/var/log/suricata/eve.json"])]
    pub eve: Vec<PathBuf>,
}

/// The disk between capture and network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SpoolConfig {
    /// The most disk it uses. When it is full the oldest packets go first, flow records last. Allowed: 16MiB to 64TiB.
    pub bytes_max: ByteSize,
    /// The most memory that entries take while the disk does not take them: it carries packets over a disk that stalls, and
    /// what is captured is sent from there while the disk fails. In use only then. When it is full the oldest packets go
    /// first. The default holds three seconds of 1 Gbit/s. Allowed: 16MiB to 64GiB.
    pub memory_max: ByteSize,
    /// Size of its files, which are deleted as a whole. Allowed: 1MiB to 256MiB.
    pub segment_bytes: ByteSize,
    /// Leave this much of the disk free, or `free_percent_min` of it, whichever is less.
    pub free_bytes_min: ByteSize,
    #[schemars(range(min = 0, max = 50))]
    pub free_percent_min: u8,
    /// How often files are forced to the disk: what a power cut may cost. A crash of the agent costs nothing.
    /// Allowed: 10ms to 1m.
    pub sync_interval: HumanDuration,
    /// zstd level. Negative ones are faster and compress less. Packets are compressed at level -3 where that loses less than a
    /// tenth, and as fast as zstd can where the level finds next to nothing (ciphers) and while the spool falls behind.
    #[schemars(range(min = -7, max = 19))]
    pub zstd_level: i32,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            name: None,
            labels: BTreeMap::new(),
            state_dir: PathBuf::from("/var/lib/gnomon-agent"),
            collector: CollectorConfig::default(),
            tls: TlsConfig::default(),
            interfaces: Vec::new(),
            capture: CaptureConfig::default(),
            flows: FlowsConfig::default(),
            slices: SlicesConfig::default(),
            rules: Vec::new(),
            alerts: AlertsConfig::default(),
            spool: SpoolConfig::default(),
            telemetry: TelemetryConfig::default(),
        }
    }
}

impl Default for CollectorConfig {
    fn default() -> CollectorConfig {
        CollectorConfig {
            urls: vec!["unix:///run/gnomon/collector.sock".to_owned()],
            drain: HumanDuration::from_secs(3),
        }
    }
}

impl Default for CaptureConfig {
    fn default() -> CaptureConfig {
        let options = Options::default();
        CaptureConfig {
            promiscuous: options.promiscuous,
            filter: options.filter,
            snaplen: options.snaplen,
            ring_frames: options.ring_frames,
            ring_bytes: ByteSize::from_bytes(options.umem_bytes),
            rings_bytes_max: ByteSize::from_gib(4),
            hardware_stamps: options.hardware_stamps,
            block_retire: HumanDuration::from_millis(u64::from(options.block_retire_ms)),
            own_uplink: OwnUplinkConfig::default(),
        }
    }
}

fn human(ns: u64) -> HumanDuration {
    std::time::Duration::from_nanos(ns).into()
}

impl Default for FlowsConfig {
    fn default() -> FlowsConfig {
        let TableConfig {
            flows_max,
            idle,
            active_timeout_ns,
            active_packets_max,
            linger_ns,
            interim,
            inspect,
            inspect_bytes_max,
            metadata_bytes_max,
        } = TableConfig::default();
        FlowsConfig {
            flows_max,
            idle_tcp: human(idle.tcp_ns),
            idle_udp: human(idle.udp_ns),
            idle_icmp: human(idle.icmp_ns),
            idle_sctp: human(idle.sctp_ns),
            idle_esp: human(idle.esp_ns),
            idle_other: human(idle.other_ns),
            active_timeout: human(active_timeout_ns),
            active_packets: active_packets_max,
            linger: human(linger_ns),
            interim: interim.is_some(),
            inspect,
            inspect_bytes_max: ByteSize::from_bytes(inspect_bytes_max as u64),
            metadata_bytes_max: ByteSize::from_bytes(metadata_bytes_max as u64),
        }
    }
}

impl Default for SlicesConfig {
    fn default() -> SlicesConfig {
        let slicer = SlicerConfig::default();
        SlicesConfig {
            keep: "all".to_owned(),
            block_bytes: ByteSize::from_bytes(slicer.block_bytes_max as u64),
            block_age: human(slicer.block_age_max_ns),
        }
    }
}

impl Default for SpoolConfig {
    fn default() -> SpoolConfig {
        SpoolConfig {
            bytes_max: ByteSize::from_gib(2),
            memory_max: ByteSize::from_mib(384),
            segment_bytes: ByteSize::from_mib(16),
            free_bytes_min: ByteSize::from_gib(1),
            free_percent_min: 5,
            sync_interval: HumanDuration::from_secs(1),
            zstd_level: 1,
        }
    }
}

impl Config {
    /// Captures these interfaces only; what is configured for one of them holds.
    pub fn take_interfaces(&mut self, names: &[String]) {
        let configured = std::mem::take(&mut self.interfaces);
        self.interfaces = names
            .iter()
            .map(|name| {
                let known = configured.iter().find(|interface| interface.name == *name);
                known.cloned().unwrap_or_else(|| InterfaceConfig::named(name))
            })
            .collect();
    }

    /// The name people see.
    pub fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| {
            let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
            if host.is_empty() { "unnamed".to_owned() } else { host }
        })
    }
}

/// The example config file: every key, its meaning and its default.
#[must_use]
pub fn example() -> String {
    gnomon_daemon::example::config_toml::<Config>(PROGRAM)
}

/// The reference of all keys as Markdown.
#[must_use]
pub fn reference() -> String {
    gnomon_daemon::example::config_markdown::<Config>(PROGRAM)
}

/// Loads the config in its layers: defaults, file, environment, flags.
///
/// # Errors
/// The first thing wrong, and where it stands.
pub fn load(
    file: Option<&Path>,
    overrides: &[(String, String)],
) -> Result<gnomon_daemon::config::Loaded<Config>, ConfigError> {
    gnomon_daemon::config::load(PROGRAM, file, Path::new(DEFAULT_FILE), overrides)
}

#[cfg(test)]
mod tests {
    use gnomon_daemon::config::Validate;

    use super::*;
    use crate::rules::{Action, Keep};

    fn load_text(text: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("agent.toml");
        std::fs::write(&file, text).unwrap();
        gnomon_daemon::config::load_from(PROGRAM, Some(&file), Path::new("/nonexistent"), [], &[])
            .map(|loaded| loaded.value)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_hold_and_the_example_says_them() {
        Config::default().validate().unwrap();
        assert_eq!(load_text(&example()).unwrap(), Config::default());
        assert_eq!(Config::default().table(), TableConfig::default());
        assert_eq!(Config::default().slicer(), SlicerConfig::default());
        let rules = Config::default().rules().unwrap();
        assert_eq!((rules.list().len(), rules.otherwise()), (0, Keep::All));
        assert!(reference().contains("spool"));
    }

    /// What the guide to the store says of blocks is what an agent does by default.
    #[test]
    fn the_guide_says_the_defaults_of_blocks() {
        let guide = include_str!("../../docs/store.md");
        let SlicesConfig { block_bytes, block_age, .. } = SlicesConfig::default();
        let (kib, ms) = (block_bytes.bytes() >> 10, block_age.get().as_millis());
        assert!(guide.contains(&format!("({kib} KiB or {ms} ms of packets)")), "{kib} KiB, {ms} ms");
        assert!(guide.contains(&format!("a block every {ms} ms in which")), "{ms} ms");
    }

    #[test]
    fn rules_are_read() {
        let config = load_text(
            "[[interfaces]]\nname = \"eth0\"\nstance = \"tap\"\n[slices]\nkeep = \"flow 64KiB\"\n[[rules]]\n\
             name = \"web\"\nwhen = \"protocol == tcp && port==443\"\nkeep = \"packets 20\"\ntag = [\"a\", \"b\"]\n\
             [[rules]]\nname = \"scan\"\nwhen = \"ip.src == 10/8\"\nignore = true",
        )
        .unwrap();
        let rules = config.rules().unwrap();
        assert_eq!(rules.otherwise(), Keep::OfFlow(65_536));
        let [web, scan] = rules.list() else { panic!("{rules:?}") };
        assert_eq!(web.when, "ip.protocol == tcp && port == 443");
        assert_eq!((web.action, web.tags.len()), (Some(Action::Keep(Keep::Packets(20))), 2));
        assert_eq!(scan.action, Some(Action::Ignore));
        assert_eq!(config.interfaces[0].workers, 1);
        let of_records = config.rules_of_records().unwrap();
        assert_eq!(of_records.list()[0].action, Some(Action::Keep(Keep::Nothing)));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (text, parts) in [
            ("[spool]\nbytes_max = \"1KiB\"", ["agent.toml:2", "16MiB"]),
            ("spol = 1", ["agent.toml:1", "spool"]),
            ("[slices]\nkeep = \"some\"", ["agent.toml:2", "headers"]),
            ("[[slices.rules]]\nkeep = \"all\"", ["agent.toml:1", "use `rules`"]),
            (
                "[[rules]]\nname = \"x\"\nwhen = \"port == 1 && bytes > 3\"\nignore = true",
                ["agent.toml:3: `rules[0].when`: column 14: bytes", "every packet"],
            ),
            (
                "[[rules]]\nname = \"x\"\nwhen = \"tls.host == a\"\nignore = true",
                ["agent.toml:4", "first packet"],
            ),
            ("[[rules]]\nname = \"x y\"\nwhen = \"port == 1\"", ["agent.toml:2", "letters"]),
            ("[[rules]]\nname = \"x\"\nwhen = \"port == 1\"", ["agent.toml:1", "does nothing"]),
            (
                "[[rules]]\nname = \"x\"\nwhen = \"port == 1\"\nkeep = \"all\"\nignore = true",
                ["agent.toml:4", "one of the two"],
            ),
            (
                "[flows]\ninspect = false\n[[rules]]\nname = \"x\"\nwhen = \"tls.host == a\"\ntag = [\"a\"]",
                ["agent.toml:5", "flows.inspect"],
            ),
            ("[[interfaces]]\nname = \"a\"\n[[interfaces]]\nname = \"a\"", ["agent.toml:4", "twice"]),
            ("[[interfaces]]\nname = \"a\"\nbackend = \"af_xdp\"", ["agent.toml", "tap stance"]),
            ("[tls]\ncertificate = \"/x\"", ["agent.toml:2", "tls.key"]),
            ("[flows]\nidle_tcp = \"5\"", ["agent.toml:2", "5s"]),
        ] {
            let error = load_text(text).unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{text}: {error}");
        }
    }
}
