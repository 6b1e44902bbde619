//! Time through the real programs: what people are told of it, that records lie where they were captured, and that an
//! agent in another time namespace does not lend its readings to the one before. (Wrong clocks of whole machines are the
//! guest tests'.)

use std::net::SocketAddr;

use anyhow::{Context, Result};
use gnomon_clock::{Clock, KernelClock};
use gnomon_integration_tests::fleet::{Agent, Collector, built_binaries, eventually};
use gnomon_integration_tests::forward::Forward;
use gnomon_integration_tests::netns::{Netns, skip};
use gnomon_integration_tests::traffic;
use serde_json::Value;

const SECOND_NS: i64 = 1_000_000_000;

fn now_unix_ns() -> i64 {
    KernelClock.bracket().realtime.unix_ns()
}

struct Scene {
    client: Netns,
    sensor: Netns,
    collector: Collector,
    link: Forward,
    dir: tempfile::TempDir,
}

impl Scene {
    fn new(settings: &[&str]) -> Result<Scene> {
        let (client, sensor) = traffic::host_and_tap(1_500)?;
        let dir = tempfile::tempdir()?;
        let collector = Collector::start(&built_binaries()?, &dir.path().join("collector"), settings)?;
        let link = Forward::open(&sensor, SocketAddr::from(([127, 0, 0, 1], 7440)), collector.grpc)?;
        Ok(Scene { client, sensor, collector, link, dir })
    }

    fn agent(&self, time_namespace_s: Option<u64>) -> Result<Agent> {
        let table = "name = \"tap\", stance = \"tap\", backend = \"af_packet\"";
        let url = format!("http://{}", self.link.address());
        let (bin, dir) = (built_binaries()?, self.dir.path().join("agent"));
        // Flows end soon, so that nothing is left to wait for.
        let settings = ["flows.idle_udp=1s"];
        Agent::start_in_time(&bin, &dir, Some(&self.sensor), table, &url, &settings, time_namespace_s)
    }

    /// The rows of `gnomon clock` about `what`.
    fn clock(&self, what: &str) -> Result<Vec<Value>> {
        let (_, stdout, stderr) = self.collector.gnomon(&["clock", "-o", "jsonl"])?;
        let lines = serde_json::Deserializer::from_slice(&stdout).into_iter();
        let rows: Vec<Value> = lines.collect::<Result<_, _>>().with_context(|| stderr)?;
        Ok(rows.into_iter().filter(|row| row["what"] == what).collect())
    }

    fn agent_is(&self, state: &str) -> Result<Value> {
        let rows = eventually(
            &format!("the agent's clock is {state}"),
            30,
            || self.clock("agent"),
            |rows| rows.first().is_some_and(|row| row["state"] == state),
        )?;
        Ok(rows.into_iter().next().unwrap_or_default())
    }

    /// One datagram to `port`; when it was sent, as a span.
    fn send(&self, port: u16) -> Result<(i64, i64)> {
        let from = now_unix_ns();
        traffic::udp(&self.client, SocketAddr::from(([10, 9, 0, 2], port)), 1, 200, 0)?;
        Ok((from, now_unix_ns()))
    }

    fn flows(&self, expression: &str, extra: &[&str]) -> Result<Vec<Value>> {
        let mut words = vec!["search", expression, "-o", "jsonl"];
        words.extend(extra);
        let (_, stdout, _) = self.collector.gnomon(&words)?;
        let lines = std::str::from_utf8(&stdout)?.lines();
        lines.map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
    }

    /// The flow to `port` once it is there, and when its first packet was, ± its own error.
    fn flow(&self, port: u16) -> Result<(Value, i64, i64)> {
        let expression = format!("port.dst == {port}");
        let found = eventually("the flow is found", 20, || self.flows(&expression, &[]), |f| f.len() == 1)?;
        let flow = found.into_iter().next().unwrap_or_default();
        let text = flow["starttime"].as_str().context("starttime")?;
        let at = gnomon_flow::timestamp::parse_rfc3339(text).context("a time")?.unix_ns();
        let err = flow["time.error"].as_i64().context("time.error")?;
        Ok((flow, at, err))
    }
}

#[test]
fn people_are_told_the_state_of_time_and_each_flow_lies_within_its_error() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let scene = Scene::new(&[])?;
    let mut agent = scene.agent(None)?;
    let row = scene.agent_is("synced")?;
    let (offset, err) = (row["offset_ns"].as_i64(), row["err_ns"].as_i64());
    assert!(offset.zip(err).is_some_and(|(offset, err)| offset.abs() <= err), "{row}");
    assert!(row["epoch"].as_str().is_some_and(|epoch| epoch.len() > 10), "{row}");
    // The collector's time is this machine's clock, proven or not, so that is the truth here.
    for port in [1001, 1002, 1003] {
        let sent = scene.send(port)?;
        let (flow, at, err) = scene.flow(port)?;
        // AF_PACKET stamps within the span of the call; the collector's own doubt counts when it has any.
        let own = scene.clock("collector")?[0]["err_ns"].as_i64().unwrap_or(0);
        assert!(at + err + own >= sent.0 && at - err - own <= sent.1, "{flow}: sent in {sent:?}");
        assert!(err < SECOND_NS && flow["time.state"] == "indexed", "{flow}");
    }
    let (_, stdout, _) = scene.collector.gnomon(&["clock", "--events", "-o", "jsonl"])?;
    let events: Vec<Value> =
        std::str::from_utf8(&stdout)?.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let said =
        |who: &str| events.iter().filter(|event| event["who"] == who && event["kind"] == "state").count();
    assert_eq!(said("collector"), 1, "each change once: {events:?}");
    // The same by HTTP, by the same names.
    let (status, body) = scene.collector.http_get("/api/v1/clock")?;
    assert_eq!(status, 200);
    let answer: Value = serde_json::from_str(&body)?;
    assert_eq!(
        (&answer["agents"][0]["state"], &answer["agents"][0]["epoch"]),
        (&row["state"], &row["epoch"])
    );
    let (_, body) = scene.collector.http_get("/metrics")?;
    assert!(body.contains("gnomon_collector_clock_events"), "{body}");
    // The agent's own log says each state once, however often it looked.
    std::thread::sleep(std::time::Duration::from_secs(3));
    let said = agent.process()?.said().matches("the state of this machine's clock").count();
    assert!((1..=4).contains(&said), "{}", agent.process()?.said());
    Ok(())
}

#[test]
fn readings_of_another_time_namespace_are_not_mixed_and_each_flow_keeps_its_time() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let scene = Scene::new(&[])?;
    let probe = std::process::Command::new("unshare").args(["-T", "true"]).status();
    if !probe.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: no time namespaces here (unshare -T)");
        return Ok(());
    }
    // A little, so that the second process seems to go on after the first with three seconds lost: what is plainly
    // impossible the map sees through by itself.
    let mut agent = scene.agent(Some(3))?;
    let first = scene.agent_is("synced")?;
    // Without a collector from here on: what is captured waits in the spool.
    scene.link.cut();
    let sent = scene.send(2001)?;
    std::thread::sleep(std::time::Duration::from_secs(4));
    agent.stop()?;
    // The same boot, and RAW three seconds back.
    let _agent = scene.agent(None)?;
    scene.link.mend();
    let second = eventually(
        "the second process is there",
        30,
        || scene.agent_is("synced"),
        |row| row["epoch"] != first["epoch"],
    )?;
    let sent_now = scene.send(2002)?;
    for (port, sent) in [(2001, sent), (2002, sent_now)] {
        let (flow, at, err) = scene.flow(port)?;
        assert!(at + err >= sent.0 && at - err <= sent.1, "{flow}: sent in {sent:?}; {second}");
        assert!(err < SECOND_NS && flow["time.conflict"] != true, "{flow}");
    }
    Ok(())
}
