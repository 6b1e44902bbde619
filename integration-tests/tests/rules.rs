//! Rules and capture filters in a running agent, through the real programs: rules are read again by SIGHUP without a gap in
//! capture, and every packet is in a record or counted as ignored or filtered.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use gnomon_integration_tests::fleet::{Agent, Collector, built_binaries, eventually};
use gnomon_integration_tests::forward::Forward;
use gnomon_integration_tests::netns::{Netns, skip};
use gnomon_integration_tests::traffic;

struct Scene {
    client: Netns,
    collector: Collector,
    agent: Agent,
    _sensor: Netns,
    _link: Forward,
    _dir: tempfile::TempDir,
}

impl Scene {
    fn new(backend: &str, settings: &[&str]) -> Result<Scene> {
        let (client, sensor) = traffic::host_and_tap(1_500)?;
        let (bin, dir) = (built_binaries()?, tempfile::tempdir()?);
        let collector = Collector::start(&bin, &dir.path().join("collector"), &[])?;
        let link = Forward::open(&sensor, SocketAddr::from(([127, 0, 0, 1], 7440)), collector.grpc)?;
        let table = format!("name = \"tap\", stance = \"tap\", backend = \"{backend}\"");
        let url = format!("http://{}", link.address());
        let agent = Agent::start(&bin, &dir.path().join("agent"), Some(&sensor), &table, &url, settings)?;
        let mut scene = Scene { client, collector, agent, _sensor: sensor, _link: link, _dir: dir };
        scene.said("capturing")?;
        Ok(scene)
    }

    /// Wait until the agent has said it as often as it did before and once more.
    fn said(&mut self, words: &str) -> Result<()> {
        let process = self.agent.process()?;
        eventually(words, 20, || Ok(process.said()), |said| said.contains(words)).map(drop)
    }

    fn reload(&mut self, config: &str, answer: &str) -> Result<()> {
        let before = self.agent.process()?.said().matches(answer).count();
        self.agent.reload(config)?;
        let process = self.agent.process()?;
        eventually(answer, 20, || Ok(process.said()), |said| said.matches(answer).count() > before).map(drop)
    }

    /// 200 datagrams as a flow of their own.
    fn send(&self, port: u16) -> Result<()> {
        traffic::udp(&self.client, SocketAddr::from(([10, 9, 0, 2], port)), 200, 100, 5_000)
    }

    fn packets(&self, expression: &str, wanted: u64) -> Result<()> {
        eventually(expression, 20, || Ok(self.collector.count(expression)?.1), |n| *n == wanted).map(drop)
    }

    /// What the agent counted by a reason, by its heartbeats.
    fn counted(&self, reason: &str) -> Result<u64> {
        let (_, body) = self.collector.http_get("/api/v1/agents")?;
        let body = body.get(body.find(['{', '[']).context("no JSON")?..).unwrap_or_default();
        let count = body.split(&format!("\"{reason}\":")).nth(1);
        let digits = count.map(|rest| rest.trim_start().split(|c: char| !c.is_ascii_digit()).next());
        Ok(digits.flatten().and_then(|digits| digits.parse().ok()).unwrap_or(0))
    }
}

const RULES: &str = "
[[rules]]
name = \"noise\"
when = \"port.dst == 1009\"
ignore = true

[[rules]]
name = \"watched\"
when = \"port.dst == 1010 && interface == tap\"
tag = [\"watched\"]
keep = \"packets 20\"
";

fn reloaded(backend: &str) -> Result<()> {
    let mut scene = Scene::new(backend, &[])?;
    scene.send(1009)?;
    scene.packets("port.dst == 1009", 200)?;

    scene.reload(RULES, "rules read again")?;
    scene.send(1009)?;
    scene.send(1010)?;
    scene.send(1011)?;
    scene.packets("tags == watched && port.dst == 1010 && stored.packets == 20", 200)?;
    scene.packets("port.dst == 1011 && stored.packets == 200", 200)?;
    eventually("ignored packets", 20, || scene.counted("ignored_by_rule"), |ignored| *ignored == 200)?;

    // What is wrong changes nothing, and is said with its place.
    scene.reload(&RULES.replace("port.dst", "port.dts"), "rules refused")?;
    let said = scene.agent.process()?.said();
    assert!(said.contains("rules[0].when") && said.contains("config.toml:4"), "{said}");
    scene.send(1009)?;
    scene.send(1010)?;
    scene.packets("tags == watched", 400)?;
    eventually("ignored packets", 20, || scene.counted("ignored_by_rule"), |ignored| *ignored == 400)?;

    // Everything that was sent is in a record or was ignored.
    scene.packets("port.dst == 1009-1011", 6 * 200 - 400)?;
    scene.packets("port.dst == 1009", 200)
}

#[test]
fn rules_are_read_again_beside_the_host() -> Result<()> {
    if skip() {
        return Ok(());
    }
    reloaded("af_packet")
}

#[test]
fn rules_are_read_again_on_a_tap() -> Result<()> {
    if skip() {
        return Ok(());
    }
    reloaded("af_xdp")
}

/// Half of what is sent passes; a rule ignores half of that.
fn filtered(backend: &str) -> Result<Scene> {
    let rule = "rules=[{ name = \"noise\", when = \"port.dst == 1009\", ignore = true }]";
    let scene = Scene::new(backend, &["capture.filter=udp dst portrange 1009-1010", rule])?;
    for port in 1009..1013 {
        scene.send(port)?;
    }
    scene.packets("", 200)?;
    eventually("ignored packets", 20, || scene.counted("ignored_by_rule"), |n| *n == 200)?;
    Ok(scene)
}

/// Says so where nothing can compile a filter.
fn no_libpcap() -> Result<bool> {
    let mut check = std::process::Command::new(built_binaries()?.join("gnomon-agent"));
    let said = check.args(["config", "check", "--config", "/dev/null", "--filter", "udp"]).output()?;
    if !said.status.success() {
        println!("SKIPPED: {}", String::from_utf8_lossy(&said.stderr));
    }
    Ok(!said.status.success())
}

#[test]
fn the_agents_own_filter_counts_what_it_leaves_out() -> Result<()> {
    if skip() || no_libpcap()? {
        return Ok(());
    }
    let scene = filtered("af_xdp")?;
    eventually("filtered packets", 20, || scene.counted("filtered"), |n| *n == 400).map(drop)
}

#[test]
fn the_kernels_filter_leaves_out_without_a_count() -> Result<()> {
    if skip() || no_libpcap()? {
        return Ok(());
    }
    let scene = filtered("af_packet")?;
    assert_eq!((scene.counted("filtered")?, scene.counted("kernel")?), (0, 0));
    Ok(())
}
