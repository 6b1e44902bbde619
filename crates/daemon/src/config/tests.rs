//! Layers, places and messages of the loader, on one struct that has every shape a config may have.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Deserialize;

use super::*;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// How many workers.
    #[schemars(range(min = 1, max = 256))]
    workers: u16,
    mode: Mode,
    spool: Spool,
    tls: Option<Tls>,
    labels: BTreeMap<String, String>,
    interfaces: Vec<String>,
    rules: Vec<Rule>,
    listen: SocketAddr,
    #[schemars(extend("writeOnly" = true))]
    token: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Mode {
    Tap,
    Host,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Spool {
    bytes_max: ByteSize,
    flush_interval: HumanDuration,
    fill_ratio: f64,
    sync: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Tls {
    cert: PathBuf,
    key: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Rule {
    name: String,
    #[serde(default)]
    first_bytes: Option<ByteSize>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            workers: 2,
            mode: Mode::Host,
            spool: Spool::default(),
            tls: None,
            labels: BTreeMap::from([("site".to_owned(), "unset".to_owned())]),
            interfaces: Vec::new(),
            rules: Vec::new(),
            listen: "127.0.0.1:4317".parse().unwrap(),
            token: None,
        }
    }
}

impl Default for Spool {
    fn default() -> Self {
        Self {
            bytes_max: ByteSize::from_gib(2),
            flush_interval: HumanDuration::from_millis(200),
            fill_ratio: 0.9,
            sync: true,
        }
    }
}

impl Validate for Config {
    const RENAMED: &'static [(&'static str, &'static str)] =
        &[("spool.size", "spool.bytes_max"), ("buffer.flush", "spool.flush_interval")];

    fn validate(&self) -> Result<(), ConfigError> {
        in_range(
            "spool.bytes_max",
            &self.spool.bytes_max,
            &(ByteSize::from_mib(1)..=ByteSize::from_gib(1024)),
        )?;
        if self.token.is_some() && self.tls.is_none() {
            return Err(ConfigError::invalid(
                "token",
                "needs `tls`: a token must not cross the wire in the clear",
            ));
        }
        Ok(())
    }
}

fn run(
    file: &str,
    environment: &[(&str, &str)],
    overrides: &[(&str, &str)],
) -> Result<Loaded<Config>, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.toml");
    std::fs::write(&path, file).unwrap();
    let environment = environment.iter().map(|(name, text)| (OsString::from(name), OsString::from(text)));
    let overrides: Vec<_> =
        overrides.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect();
    let loaded =
        load_from::<Config>("gnomon-agent", Some(&path), Path::new("/none"), environment, &overrides);
    let directory = format!("{}/", directory.path().display());
    loaded.map_err(|error| error.to_string().replace(&directory, ""))
}

fn refusal(file: &str) -> String {
    run(file, &[], &[]).expect_err("must be refused")
}

#[test]
fn nothing_given_is_the_default() {
    let loaded = load_from::<Config>("agent", None, Path::new("/none/agent.toml"), [], &[]).unwrap();
    assert_eq!(loaded.value, Config::default());
    assert!(loaded.origins.values().all(|origin| *origin == Origin::Default));
    assert!(loaded.origins.contains_key("spool.bytes_max") && loaded.origins.contains_key("token"));
    let asked = Path::new("/none/agent.toml");
    let error = load_from::<Config>("agent", Some(asked), asked, [], &[]).unwrap_err().to_string();
    assert_eq!(error, "config file /none/agent.toml does not exist");
}

#[test]
fn later_layers_win_and_are_named() {
    let file = "workers = 3\nmode = \"tap\"\n\n[spool]\nbytes_max = \"1GiB\"\nflush_interval = \"1s\"\n";
    let environment =
        [("GNOMON_AGENT_SPOOL_BYTES_MAX", "3GiB"), ("GNOMON_AGENT_WORKERS", "4"), ("PATH", "/bin")];
    let loaded = run(file, &environment, &[("workers", "5"), ("workers", "6")]).unwrap();
    assert_eq!(loaded.value.workers, 6);
    assert_eq!(loaded.value.mode, Mode::Tap);
    assert_eq!(loaded.value.spool.bytes_max, ByteSize::from_gib(3));
    assert_eq!(loaded.value.spool.flush_interval, HumanDuration::from_secs(1));
    assert!(loaded.value.spool.sync);
    assert_eq!(loaded.origins["workers"], Origin::Flag);
    assert_eq!(loaded.origins["spool.bytes_max"], Origin::Env("GNOMON_AGENT_SPOOL_BYTES_MAX".into()));
    assert!(matches!(&loaded.origins["spool.flush_interval"], Origin::File(_, 6)));
    assert!(matches!(&loaded.origins["mode"], Origin::File(_, 2)));
    // In a section of the file, but not set there.
    assert_eq!(loaded.origins["spool.sync"], Origin::Default);
}

#[test]
fn an_unknown_key_names_place_and_nearest() {
    assert_eq!(
        refusal("workers = 1\n[spool]\nbyte_max = \"1GiB\"\n"),
        "agent.toml:3: unknown key `spool.byte_max`; did you mean `spool.bytes_max`?"
    );
    assert_eq!(refusal("wrokers = 1\n"), "agent.toml:1: unknown key `wrokers`; did you mean `workers`?");
    // Right name, wrong section.
    assert_eq!(
        refusal("bytes_max = \"1GiB\"\n"),
        "agent.toml:1: unknown key `bytes_max`; did you mean `spool.bytes_max`?"
    );
    assert_eq!(
        refusal("[spool]\nxyzzy = 1\n"),
        "agent.toml:2: unknown key `spool.xyzzy`; the keys of `spool` are: bytes_max, flush_interval, fill_ratio, sync"
    );
    assert_eq!(
        refusal("[[rules]]\nname = \"a\"\n[[rules]]\nname = \"b\"\nfirst_byte = \"1KiB\"\n"),
        "agent.toml:5: unknown key `rules[1].first_byte`; did you mean `rules[1].first_bytes`?"
    );
    assert_eq!(
        run("", &[("GNOMON_AGENT_WORKRES", "1")], &[]).unwrap_err(),
        "GNOMON_AGENT_WORKRES: unknown key `GNOMON_AGENT_WORKRES`; did you mean `GNOMON_AGENT_WORKERS`?"
    );
    assert_eq!(
        run("", &[], &[("spool.snyc", "1")]).unwrap_err(),
        "command line: unknown key `spool.snyc`; did you mean `spool.sync`?"
    );
    assert!(run("", &[], &[("workers.deep", "1")]).unwrap_err().contains("unknown key `workers.deep`"));
    assert!(run("", &[], &[("", "1")]).unwrap_err().contains("unknown key ``"));
}

#[test]
fn a_renamed_key_names_its_successor() {
    let old = "agent.toml:2: `spool.size` was renamed: use `spool.bytes_max`";
    assert_eq!(refusal("[spool]\nsize = \"1GiB\"\n"), old);
    assert_eq!(
        refusal("[buffer]\nflush = \"1s\"\n"),
        "agent.toml:2: `buffer.flush` was renamed: use `spool.flush_interval`"
    );
    assert_eq!(
        run("", &[("GNOMON_AGENT_SPOOL_SIZE", "1GiB")], &[]).unwrap_err(),
        "GNOMON_AGENT_SPOOL_SIZE: `spool.size` was renamed: use `GNOMON_AGENT_SPOOL_BYTES_MAX`"
    );
    assert_eq!(
        run("", &[], &[("buffer.flush", "1s")]).unwrap_err(),
        "command line: `buffer.flush` was renamed: use `spool.flush_interval`"
    );
}

#[test]
fn a_wrong_type_says_what_was_expected() {
    assert_eq!(
        refusal("workers = \"many\"\n"),
        "agent.toml:1: `workers`: expected an integer, 1 to 256, found the string \"many\""
    );
    assert!(
        refusal("[spool]\nflush_interval = 5\n")
            .contains("agent.toml:2: `spool.flush_interval`: expected a duration")
    );
    assert!(
        refusal("[spool]\n\nbytes_max = \"5KB\"\n")
            .contains("agent.toml:3: `spool.bytes_max`: expected a size")
    );
    assert_eq!(
        refusal("mode = \"mirror\"\n"),
        "agent.toml:1: `mode`: expected one of \"tap\", \"host\", found the string \"mirror\""
    );
    assert_eq!(refusal("spool = 1\n"), "agent.toml:1: `spool`: expected a table, found the integer 1");
    assert!(
        refusal("interfaces = [\n\"a\",\n7,\n]\n")
            .starts_with("agent.toml:3: `interfaces[1]`: expected a string")
    );
    // What only serde can know.
    assert!(
        refusal("\nlisten = \"nonsense\"\n").starts_with("agent.toml:2: `listen`: invalid socket address")
    );
    assert!(
        refusal("[[rules]]\nfirst_bytes = \"1KiB\"\n")
            .starts_with("agent.toml:1: `rules[0]`: missing field `name`")
    );
    assert!(
        refusal("workers = 1\n[tls]\ncert = \"c\"\n").starts_with("agent.toml:3: `tls`: missing field `key`")
    );
    assert_eq!(
        run("", &[("GNOMON_AGENT_SPOOL_SYNC", "yes")], &[]).unwrap_err(),
        "GNOMON_AGENT_SPOOL_SYNC: `spool.sync`: expected true or false, found \"yes\""
    );
    assert!(
        run("", &[], &[("spool.flush_interval", "5")])
            .unwrap_err()
            .starts_with("command line: `spool.flush_interval`")
    );
    assert!(refusal("workers = \n").starts_with("agent.toml:1:"));
}

#[test]
fn a_value_out_of_range_says_what_is_allowed() {
    assert_eq!(refusal("workers = 0\n"), "agent.toml:1: `workers` is 0; allowed: 1 to 256");
    assert_eq!(refusal("workers = 70000\n"), "agent.toml:1: `workers` is 70000; allowed: 1 to 256");
    assert_eq!(
        refusal("[spool]\nbytes_max = \"5B\"\n"),
        "agent.toml:2: `spool.bytes_max` is 5B; allowed: 1MiB to 1TiB"
    );
    assert!(refusal("[spool]\nfill_ratio = nan\n").starts_with("agent.toml:2: `spool.fill_ratio` is NaN"));
    assert_eq!(
        run("", &[("GNOMON_AGENT_TOKEN", "s3cret")], &[]).unwrap_err(),
        "GNOMON_AGENT_TOKEN: `token`: needs `tls`: a token must not cross the wire in the clear"
    );
}

#[test]
fn lists_and_maps_are_replaced_whole_and_a_map_takes_single_entries() {
    let loaded = run("[labels]\nrack = \"4\"\n", &[], &[]).unwrap();
    assert_eq!(loaded.value.labels, BTreeMap::from([("rack".to_owned(), "4".to_owned())]));
    let environment = [("GNOMON_AGENT_INTERFACES", "eth0,eth1"), ("GNOMON_AGENT_LABELS", "site=ams")];
    let loaded = run("", &environment, &[("labels.rack", "7")]).unwrap();
    assert_eq!(loaded.value.interfaces, ["eth0", "eth1"]);
    assert_eq!(loaded.value.labels.len(), 2);
    assert_eq!(loaded.origins["labels.rack"], Origin::Flag);
    let loaded = run("", &[], &[("rules", r#"[{ name = "dns", first_bytes = "1KiB" }]"#)]).unwrap();
    assert_eq!(loaded.value.rules[0].first_bytes, Some(ByteSize::from_kib(1)));
    let loaded = run("", &[], &[("tls.cert", "c.pem"), ("tls.key", "k.pem")]).unwrap();
    assert_eq!(loaded.value.tls.unwrap().key, Path::new("k.pem"));
}

#[test]
fn variables_of_others_with_our_prefix_are_left_alone() {
    let environment = [
        ("GNOMON_AGENT_SERVICE_HOST", "10.0.0.1"),
        ("GNOMON_AGENT_PORT", "tcp://10.0.0.1:1"),
        ("GNOMON_AGENT_CONFIG", "x"),
    ];
    assert_eq!(run("", &environment, &[]).unwrap().value, Config::default());
}

#[test]
fn show_hides_secrets_and_names_origins() {
    let loaded =
        run("token = \"s3cret\"\n[tls]\ncert = \"c\"\nkey = \"k\"\n", &[], &[("workers", "7")]).unwrap();
    let shown = loaded.show(true);
    assert!(!shown.contains("s3cret"), "{shown}");
    let line = |start: &str| shown.lines().find(|line| line.starts_with(start)).unwrap().to_owned();
    assert!(line("workers = 7 ").ends_with("# command line"));
    assert!(line("spool.bytes_max = \"2GiB\"").ends_with("# default"));
    assert!(line("tls.cert = \"c\"").ends_with("agent.toml:3"));
    assert!(line("token = \"<hidden>\"").ends_with("agent.toml:1"));
    assert!(!loaded.show(false).contains("command line"));
    // What it shows, apart from the secret, is a config file that loads to the same.
    let mut expected = loaded.value;
    expected.token = None;
    let plain: String =
        shown.lines().filter(|line| !line.starts_with("token")).map(|line| format!("{line}\n")).collect();
    assert_eq!(run(&plain, &[], &[]).unwrap().value, expected);
}

#[test]
fn what_changed_between_two_configs_is_named() {
    let before = Config::default();
    assert!(changed(&before, &before).is_empty());
    let mut after = Config { token: Some("x".into()), ..Config::default() };
    after.spool.sync = !after.spool.sync;
    assert_eq!(changed(&before, &after), ["spool.sync", "token"]);
}
