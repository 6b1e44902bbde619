//! Interfaces that come, go, change their names and move while an agent runs, through the real programs: every packet on them is
//! in a record, and what is not captured is said.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use gnomon_integration_tests::fleet::{Agent, Collector, built_binaries, eventually};
use gnomon_integration_tests::forward::Forward;
use gnomon_integration_tests::netns::{Netns, skip};
use gnomon_integration_tests::traffic;

/// A node, and a pod whose packets come to it.
struct Scene {
    node: Netns,
    pod: Netns,
    collector: Collector,
    agent: Agent,
    _link: Forward,
    _dir: tempfile::TempDir,
}

impl Scene {
    fn new(interfaces: &str) -> Result<Scene> {
        let (node, pod) = (Netns::new("node")?, Netns::new("pod")?);
        let (bin, dir) = (built_binaries()?, tempfile::tempdir()?);
        let collector = Collector::start(&bin, &dir.path().join("collector"), &[])?;
        let link = Forward::open(&node, SocketAddr::from(([127, 0, 0, 1], 7440)), collector.grpc)?;
        let url = format!("http://{}", link.address());
        let setting = format!("interfaces=[{interfaces}]");
        let settings = [setting.as_str()];
        let agent =
            Agent::start(&bin, &dir.path().join("agent"), Some(&node), "name = \"lo\"", &url, &settings)?;
        Ok(Scene { node, pod, collector, agent, _link: link, _dir: dir })
    }

    fn connect(&self, name: &str) -> Result<()> {
        self.node.veth(name, &self.pod, "eth0", 1500)?;
        self.pod.ip("addr add 10.9.0.1/24 dev eth0")?;
        self.pod.ip("neigh replace 10.9.0.2 lladdr 02:00:00:00:00:02 dev eth0 nud permanent")?;
        Ok(())
    }

    fn said(&mut self, words: &str) -> Result<()> {
        let process = self.agent.process()?;
        eventually(words, 10, || Ok(process.said()), |said| said.contains(words)).map(drop)
    }

    /// That the last word on what is captured is this.
    fn captures(&mut self, words: &str) -> Result<()> {
        let process = self.agent.process()?;
        let last = |said: String| {
            let at = said.rfind("capturing ").unwrap_or(0);
            said[at..].lines().next().unwrap_or_default().to_owned()
        };
        let wanted = format!("capturing {words}");
        let ok = eventually(&wanted, 10, || Ok(last(process.said())), |last| last.starts_with(&wanted));
        ok.with_context(|| process.said()).map(drop)
    }

    fn send(&self, port: u16, count: u64) -> Result<()> {
        traffic::udp(&self.pod, SocketAddr::from(([10, 9, 0, 2], port)), count, 100, 1_000)
    }

    fn packets(&self, expression: &str, wanted: u64) -> Result<()> {
        eventually(expression, 20, || Ok(self.collector.count(expression)?.1), |n| *n == wanted).map(drop)
    }

    /// Packets that were dropped, on all interfaces.
    fn dropped(&self) -> Result<u64> {
        let (_, body) = self.collector.http_get("/api/v1/agents")?;
        let json = &body[body.find('{').context("no JSON")?..=body.rfind('}').context("no JSON")?];
        let answer: serde_json::Value = serde_json::from_str(json)?;
        let interfaces =
            answer["agents"][0]["heartbeat"]["interfaces"].as_array().context("no interfaces")?;
        let drops = interfaces.iter().filter_map(|interface| interface["drops"].as_object());
        Ok(drops.flat_map(|drops| drops.values()).filter_map(serde_json::Value::as_u64).sum())
    }

    fn agents(&self) -> Result<String> {
        let (_, stdout, _) = self.collector.gnomon(&["agents", "-o", "json"])?;
        Ok(String::from_utf8(stdout)?)
    }
}

#[test]
fn every_packet_is_counted_whatever_becomes_of_the_interface() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let mut scene = Scene::new("{ name = \"pod*\" }")?;
    scene.said("capturing nothing yet: waiting for pod*")?;

    // A new one, within a second.
    scene.connect("pod1")?;
    std::thread::sleep(Duration::from_secs(1));
    scene.send(1001, 200)?;
    scene.packets("port.dst == 1001 && interface == pod1", 200)?;

    // Renamed under traffic: what came before has the old name, what comes after the new one.
    std::thread::scope(|scope| -> Result<()> {
        let sending = scope.spawn(|| scene.send(1002, 2_000));
        std::thread::sleep(Duration::from_millis(700));
        scene.node.ip("link set pod1 name pod9")?;
        sending.join().expect("no panic")
    })?;
    scene.captures("pod9")?;
    scene.packets("port.dst == 1002", 2_000)?;
    let (_, before, _) = scene.collector.count("port.dst == 1002 && interface == pod1")?;
    let (_, after, _) = scene.collector.count("port.dst == 1002 && interface == pod9")?;
    assert!(before > 0 && after > 0, "{before} under the old name, {after} under the new one");

    // Another MTU, and no carrier for a while.
    scene.node.ip("link set pod9 mtu 9000")?;
    scene.pod.ip("link set eth0 down")?;
    scene.pod.ip("link set eth0 up")?;
    scene.pod.ip("neigh replace 10.9.0.2 lladdr 02:00:00:00:00:02 dev eth0 nud permanent")?;
    scene.send(1003, 200)?;
    scene.packets("port.dst == 1003", 200)?;

    // Deleted right after traffic, and there again with the same name.
    scene.send(1004, 200)?;
    scene.node.ip("link del pod9")?;
    scene.packets("port.dst == 1004", 200)?;
    scene.captures("nothing yet: waiting for pod*")?;
    scene.connect("pod9")?;
    scene.captures("pod9")?;
    scene.send(1005, 200)?;
    scene.packets("port.dst == 1005", 200)?;

    // Moved away and back.
    scene.send(1006, 200)?;
    let elsewhere = Netns::new("elsewhere")?;
    scene.node.ip(&format!("link set pod9 netns {}", elsewhere.name()))?;
    scene.packets("port.dst == 1006", 200)?;
    scene.captures("nothing yet: waiting for pod*")?;
    elsewhere.run("nsenter", &["--net=/proc/self/ns/net", "true"])?;
    let pid = scene.agent.process()?.pid().to_string();
    elsewhere.run("ip", &["link", "set", "pod9", "netns", &pid])?;
    scene.node.ip("link set pod9 up")?;
    scene.captures("pod9")?;
    scene.send(1007, 200)?;
    scene.packets("port.dst == 1007", 200)?;

    // Flows of workers that had the same number are different flows.
    scene.packets("port.dst == 1001-1007", 6 * 200 + 2_000)?;
    assert_eq!(scene.collector.count("port.dst == 1001-1007")?.0, 8);
    assert_eq!(scene.dropped()?, 0);
    assert!(!scene.agent.process()?.has_ended()?);
    Ok(())
}

#[test]
fn what_is_left_out_or_seen_twice_or_not_there_is_said() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let mut scene = Scene::new(
        "{ name = \"!podx\" }, { name = \"pod*\" }, { name = \"br0\" }, { name = \"nosuch\" }, { name = \"tun[0-9]\" }",
    )?;
    scene.node.ip("link add br0 type bridge")?;
    scene.node.ip("link set br0 up")?;
    scene.connect("pod1")?;
    scene.node.ip("link set pod1 master br0")?;
    scene.node.ip("link add podx type bridge")?;
    scene.captures("br0, pod1")?;
    let agents =
        eventually("heartbeat", 10, || scene.agents(), |agents| agents.contains("captured through br0 too"))?;
    for words in
        ["`!podx` excludes it", "no entry of `interfaces`", "tun[0-9]", "no interface here has this name"]
    {
        assert!(agents.contains(words), "{words}: {agents}");
    }
    let said = scene.agent.process()?.said();
    assert!(!said.contains("capturing nosuch") && said.contains("captured through br0 too"), "{said}");
    // Each is said once.
    scene.node.ip("link add other type bridge")?;
    scene.said("other")?;
    let said = scene.agent.process()?.said();
    assert_eq!(said.matches("`!podx` excludes it").count(), 1, "{said}");

    // It comes, and is captured.
    scene.node.ip("link add nosuch type bridge")?;
    scene.node.ip("link set nosuch up")?;
    scene.captures("br0, nosuch, pod1")
}

#[test]
fn what_the_agent_picks_itself_is_asked_again() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let mut scene = Scene::new("")?;
    scene.said("capturing nothing: no interface here is one to take")?;
    scene.connect("late0")?;
    scene.captures("late0")?;
    scene.send(1001, 200)?;
    scene.packets("port.dst == 1001", 200)
}

#[test]
fn what_would_capture_nothing_is_refused_by_check_and_run_alike() -> Result<()> {
    let agent = built_binaries()?.join("gnomon-agent");
    for (name, said) in [
        ("any", "write `all` for every interface"),
        ("eth+", "patterns know"),
        ("eth[0", "without the `]`"),
        ("eth0,eth1", "several entries"),
        ("veth0@if5", "leave out the `@`"),
        ("", "is empty"),
    ] {
        for command in [&["config", "check"][..], &["run"], &["interfaces"]] {
            let output =
                Command::new(&agent).args(command).args(["--config", "/dev/null", "-i", name]).output()?;
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(words.contains(said), "{command:?} {name}: {words}");
            assert_eq!(output.status.code(), Some(78), "{command:?} {name}: {words}");
        }
    }
    // A pattern that matches nothing now is said.
    let output =
        Command::new(&agent).args(["config", "check", "--config", "/dev/null", "-i", "nosuch*"]).output()?;
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && words.contains("nosuch*: waited for"), "{words}");
    Ok(())
}
