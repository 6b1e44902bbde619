//! One run of a guest whose clock is played with while it captures: the stage of every time test.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use gnomon_clock::{Clock, KernelClock, MonoNs};

use super::machine::{HOST, Machine, Rtc};
use super::ntp_server::NtpServer;
use super::parts::Parts;
use super::scene::Scene;
use super::sightings::{Seen, Watcher};
use super::verdict::{Sent, Verdict};
use super::wire::udp_frame;

/// All frames go to this port; the port they come from is the frame's number.
const PORT: u16 = 5_353;
const FIRST_FRAME: u16 = 10_000;
const SPACING: Duration = Duration::from_millis(100);
const FRAME_BYTES: usize = 100;

/// The card that is captured.
const CARD: &str = "eth1";
/// An agent that found no collector waits before it tries again.
const CONNECT_MAX_S: u32 = 60;
/// The guest's clock source, and what its kernel said of it.
const CLOCK_WORDS: &str = "cat /sys/devices/system/clocksource/clocksource0/current_clocksource; \
     dmesg | grep -iE 'clocksource|tsc|stall|lockup|leap' | tail -n 30";
/// For the last frames to be found.
const SETTLE: Duration = Duration::from_secs(30);

/// A guest that captures, a collector that is watched, and a server that tells the time.
#[derive(Debug)]
pub struct TimeRun {
    watcher: Watcher,
    pub ntp: NtpServer,
    pub scene: Scene,
    /// The truth against this host's clock.
    ahead_ns: i64,
    sent: Vec<Sent>,
    online: MonoNs,
}

impl TimeRun {
    /// Boot with this battery clock. The guest cannot reach this host yet.
    pub fn boot(parts: &Parts, rtc: Rtc) -> Result<TimeRun> {
        let mut scene = Scene::boot(parts, rtc, &[true])?;
        scene.machine.run("ip link set eth0 down")?;
        TimeRun::watch(scene, 0)
    }

    /// Boot into another time, `ahead_ns` ahead of this host's, with the collector inside.
    pub fn boot_elsewhen(parts: &Parts, ahead_ns: i64) -> Result<TimeRun> {
        let unix_ns = KernelClock.bracket().realtime.unix_ns() + ahead_ns;
        let scene = Scene::boot_both_inside(parts, Rtc::At(unix_ns / 1_000_000_000), &[true])?;
        TimeRun::watch(scene, ahead_ns)
    }

    fn watch(mut scene: Scene, ahead_ns: i64) -> Result<TimeRun> {
        scene
            .start_agent(&[&format!("name = \"{CARD}\", stance = \"tap\"")], &["capture.ring_frames=4096"])?;
        let watcher = Watcher::start(scene.collector.url(), PORT, ahead_ns);
        let (ntp, sent) = (NtpServer::start()?, Vec::new());
        Ok(TimeRun { watcher, ntp, scene, ahead_ns, sent, online: MonoNs(u64::MAX) })
    }

    pub fn machine(&mut self) -> &mut Machine {
        &mut self.scene.machine
    }

    /// From now on the guest reaches the collector and the NTP server. Frames go on while the agent, which tries again
    /// only every few seconds, finds the way.
    pub fn go_online(&mut self) -> Result<()> {
        self.machine().run("ip link set eth0 up")?;
        for _ in 0..CONNECT_MAX_S {
            if self.scene.mode(CARD)?.is_some() {
                self.online = KernelClock.monotonic();
                return Ok(());
            }
            self.send_for(1)?;
        }
        bail!("the agent does not find the collector; it said:\n{}", self.machine().log("agent"))
    }

    /// chronyd as a distribution sets it up, but asking our server every second. `extra` are lines of its config.
    pub fn start_chronyd(&mut self, extra: &[&str]) -> Result<()> {
        let server = format!("server {HOST} port {} iburst minpoll 0 maxpoll 0", self.ntp.port);
        let own = [server.as_str(), "driftfile /var/lib/chrony/drift", "rtcsync", "cmdport 323"];
        let lines: Vec<String> = own.iter().chain(extra).map(|line| format!("'{line}'")).collect();
        let machine = self.machine();
        machine.run("mkdir -p /run/chrony /var/lib/chrony && chmod 750 /run/chrony")?;
        machine.run(&format!("printf '%s\\n' {} > /etc/chrony.conf", lines.join(" ")))?;
        machine.start("chronyd", "chronyd -d -u root -f /etc/chrony.conf")
    }

    /// Send a frame every 100 ms for this long.
    pub fn send_for(&mut self, seconds: u32) -> Result<()> {
        for _ in 0..seconds * 10 {
            let port = FIRST_FRAME + u16::try_from(self.sent.len()).context("too many frames")?;
            let frame = udp_frame(port, PORT, FRAME_BYTES);
            let machine = &mut self.scene.machine;
            let sent = Sent::note(port, || machine.cards[0].wire.send(&frame));
            self.sent.push(sent.with_context(|| machine.last_words())?);
            std::thread::sleep(SPACING);
        }
        Ok(())
    }

    /// Send until the guest's clock is within 2 s of `ahead_s` seconds ahead of this host's.
    pub fn send_until_clock(&mut self, ahead_s: i64, seconds: u32) -> Result<()> {
        for _ in 0..seconds {
            if (self.guest_ahead_s()? - ahead_s).abs() <= 2 {
                return Ok(());
            }
            self.send_for(1)?;
        }
        let ahead = self.guest_ahead_s()?;
        let said = self.machine().log("chronyd");
        ensure!((ahead - ahead_s).abs() <= 2, "the guest's clock is {ahead} s ahead; chronyd said:\n{said}");
        Ok(())
    }

    /// The guest's clock against this host's, in whole seconds.
    pub fn guest_ahead_s(&mut self) -> Result<i64> {
        let guest: i64 = self.machine().run("date -u +%s")?.trim().parse().context("the guest's date")?;
        Ok(guest - KernelClock.bracket().realtime.unix_ns() / 1_000_000_000)
    }

    /// An operator sets the guest's clock ahead by so much; the POSIX second that it shows at that moment.
    pub fn set_clock_ahead(&mut self, seconds: i64) -> Result<i64> {
        let command = format!("t=$(($(date +%s) + {seconds})); date -s @$t > /dev/null; echo $t");
        self.machine().run(&command)?.trim().parse().context("the second that the clock was set to")
    }

    /// How long after the clock was set to the whole second `set_to` the agent's log says so, by that clock.
    pub fn noticed_after_ms(&mut self, set_to: i64) -> Result<f64> {
        let said = self.machine().log("agent");
        let later = said.lines().filter(|line| line.contains("clock was set")).filter_map(|line| {
            let at: jiff::Timestamp = line.split_whitespace().next()?.parse().ok()?;
            let after_ms = (at.as_nanosecond() - i128::from(set_to) * 1_000_000_000) as f64 / 1e6;
            (0.0..30_000.0).contains(&after_ms).then_some(after_ms)
        });
        later
            .reduce(f64::min)
            .with_context(|| format!("the agent did not notice the step to {set_to}:\n{said}"))
    }

    /// Wait until all is found (or `SETTLE` is over), and everything seen.
    pub fn finish(self, name: &str) -> Result<Outcome> {
        let TimeRun { watcher, mut scene, ahead_ns, sent, online, ntp } = self;
        for _ in 0..SETTLE.as_secs() {
            std::thread::sleep(Duration::from_secs(1));
            let verdict = Verdict::of(&sent, &watcher.seen(), ahead_ns, online);
            if verdict.missing.is_empty() && verdict.violations(0.0).is_empty() {
                break;
            }
        }
        // Once more, so that late evidence is in.
        std::thread::sleep(Duration::from_secs(2));
        let seen = watcher.finish()?;
        if let Some(failure) = seen.failures.first() {
            let said =
                scene.collector.process().map_or_else(|_| scene.machine.log("collector"), |host| host.said());
            bail!("{} polls failed, first: {failure}; the collector said:\n{said}", seen.failures.len());
        }
        println!("{name}: {}", Verdict::of(&sent, &seen, ahead_ns, online));
        println!("{} polls, {} answers by the NTP server", seen.polls, ntp.answered());
        let mut questions = vec![vec!["clock"], vec!["live", "--times", "1"], vec!["status"]];
        let all = format!("port.dst == {PORT}");
        questions.push(vec!["count", &all]);
        questions.push(vec!["count", &all, "--by-ingest-time"]);
        let drops = scene.drops()?.values().sum();
        for question in questions {
            let (_, said, _) = scene.collector.gnomon(&question)?;
            println!("gnomon {}:\n{}", question.join(" "), String::from_utf8_lossy(&said));
        }
        println!("agent:\n{}", scene.machine.log("agent"));
        println!("chronyd:\n{}", scene.machine.log("chronyd"));
        println!("guest's kernel:\n{}", scene.machine.run(CLOCK_WORDS)?);
        Ok(Outcome { sent, seen, ahead_ns, online, drops })
    }
}

/// What was sent and seen.
#[derive(Debug)]
pub struct Outcome {
    pub sent: Vec<Sent>,
    pub seen: Seen,
    pub ahead_ns: i64,
    pub online: MonoNs,
    /// Frames that the agent counted as lost.
    pub drops: u64,
}

impl Outcome {
    /// The verdict by a truth that is wrong by this much.
    pub fn verdict(&self, wrong_by_ns: i64) -> Verdict {
        Verdict::of(&self.sent, &self.seen, self.ahead_ns + wrong_by_ns, self.online)
    }
}
