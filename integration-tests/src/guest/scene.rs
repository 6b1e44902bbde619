//! A guest with an agent, and the collector on this host to which it dials out.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::initramfs::Image;
use super::machine::{Build, Card, HOST, Machine, Rtc};
use super::parts::Parts;
use super::wire::Wire;
use crate::fleet::{Collector, built_binaries, free_address};

/// For a program to begin its work: an unoptimised one takes seconds under emulation.
const START_TRIES: u32 = 60;
const START_PAUSE: Duration = Duration::from_millis(500);

/// An agent with its rings and its spool.
const MEMORY_MIB: u32 = 768;
/// A collector and its data besides.
const MEMORY_WITH_COLLECTOR_MIB: u32 = 1_792;

/// Where a collector in the guest listens.
const INSIDE: &str = "10.0.2.15:7440";
const INSIDE_PORT: u16 = 7_440;

/// Dropped in the order of its fields: the guest goes first.
#[derive(Debug)]
pub struct Scene {
    pub machine: Machine,
    pub collector: Collector,
    /// Where the agent finds it.
    collector_url: String,
    /// With the sockets and logs of both.
    dir: tempfile::TempDir,
}

impl Scene {
    /// A collector on this host, and a guest with a card for each of `cards` (true: behind the platform's DMA rules).
    pub fn boot(parts: &Parts, rtc: Rtc, cards: &[bool]) -> Result<Scene> {
        let bin_dir = built_binaries()?;
        let dir = tempfile::tempdir()?;
        let collector = Collector::start(&bin_dir, &dir.path().join("collector"), &[])?;
        let collector_url = format!("http://{HOST}:{}", collector.grpc.port());
        let mut image = Image::base(parts)?;
        image.program(&bin_dir.join("gnomon-agent"))?;
        let cards = make_cards(&dir, cards)?;
        let build = Build { rtc, memory_mib: MEMORY_MIB, cards, forwards: Vec::new() };
        let machine = Machine::boot(parts, &dir.path().join("guest"), &image, build)?;
        Ok(Scene { machine, collector, collector_url, dir })
    }

    /// The same with the collector in the guest, so that both live by its clock.
    pub fn boot_both_inside(parts: &Parts, rtc: Rtc, cards: &[bool]) -> Result<Scene> {
        let bin_dir = built_binaries()?;
        let dir = tempfile::tempdir()?;
        let mut image = Image::base(parts)?;
        image.program(&bin_dir.join("gnomon-agent"))?;
        image.program(&bin_dir.join("gnomon-collector"))?;
        let outside = free_address()?;
        let build = Build {
            rtc,
            memory_mib: MEMORY_WITH_COLLECTOR_MIB,
            cards: make_cards(&dir, cards)?,
            forwards: vec![(outside.port(), INSIDE_PORT)],
        };
        let machine = Machine::boot(parts, &dir.path().join("guest"), &image, build)?;
        let collector = Collector::elsewhere(&bin_dir, dir.path(), outside);
        let mut scene = Scene { machine, collector, collector_url: format!("http://{INSIDE}"), dir };
        scene.start_collector_inside()?;
        Ok(scene)
    }

    fn start_collector_inside(&mut self) -> Result<()> {
        let line = format!(
            "gnomon-collector run --config /etc/empty.toml --data-dir /var/gnomon-collector \
             --set listen.grpc={INSIDE} --set tls.insecure=true --set retention.free_min=16MiB"
        );
        self.machine.start("collector", &line)?;
        for _ in 0..START_TRIES {
            if self.collector.gnomon(&["status"])?.0 == 0 {
                return Ok(());
            }
            std::thread::sleep(START_PAUSE);
        }
        bail!("the collector in the guest does not answer; it said:\n{}", self.machine.log("collector"))
    }

    /// Sockets and logs of this run.
    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Start the agent on these interfaces (TOML tables, as in its config) and wait until it captures on all of them.
    /// `settings` are `--set` words.
    pub fn start_agent(&mut self, interfaces: &[&str], settings: &[&str]) -> Result<()> {
        start_agent(&mut self.machine, &self.collector_url, interfaces, settings)
    }

    /// How the agent captures on `interface` by its own word, and why not in a better way: from its heartbeat.
    pub fn mode(&self, interface: &str) -> Result<Option<String>> {
        let (_, stdout, stderr) = self.collector.gnomon(&["agents", "-o", "json"])?;
        let agents: serde_json::Value =
            serde_json::from_slice(&stdout).with_context(|| format!("gnomon agents: {stderr}"))?;
        let interfaces = agents["agents"][0]["heartbeat"]["interfaces"].as_array().into_iter().flatten();
        let mut of_it = interfaces.filter(|it| it["name"] == interface && it["error"] == "");
        Ok(of_it.find_map(|it| it["mode"].as_str()).filter(|mode| !mode.is_empty()).map(str::to_owned))
    }

    /// What `gnomon live` shows as lost, by reason, over all interfaces; empty when nothing was.
    pub fn drops(&self) -> Result<BTreeMap<String, u64>> {
        self.collector.drops()
    }
}

fn make_cards(dir: &tempfile::TempDir, cards: &[bool]) -> Result<Vec<Card>> {
    let numbered = cards.iter().enumerate();
    let made = numbered.map(|(number, &iommu_platform)| {
        Ok(Card { wire: Wire::new(dir.path(), &format!("card{number}"))?, iommu_platform })
    });
    made.collect()
}

/// Start the agent of a machine's image, and wait until it captures.
fn start_agent(
    machine: &mut Machine,
    collector_url: &str,
    interfaces: &[&str],
    settings: &[&str],
) -> Result<()> {
    let tables: Vec<String> = interfaces.iter().map(|table| format!("{{ {table} }}")).collect();
    let (urls, captured) =
        (format!("collector.urls=[\"{collector_url}\"]"), format!("interfaces=[{}]", tables.join(", ")));
    let own = [urls.as_str(), captured.as_str(), "tls.insecure=true", "state_dir=/var/gnomon-agent"];
    let mut line = "gnomon-agent run --config /etc/empty.toml".to_owned();
    for setting in own.iter().chain(settings) {
        line.push_str(&format!(" --set '{setting}'"));
    }
    machine.start("agent", &line)?;
    for _ in 0..START_TRIES {
        let (_, said) = machine.try_run("grep -c 'capturing.*mode' /run/agent.log")?;
        if said.trim().parse().unwrap_or(0) >= interfaces.len() {
            return Ok(());
        }
        std::thread::sleep(START_PAUSE);
    }
    bail!("the agent does not capture; it said:\n{}", machine.log("agent"))
}
