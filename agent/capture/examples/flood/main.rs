//! A generator: sends UDP packets of many flows out of an interface at up to several million a second, from one core.
//!
//! The kernel runs flood.c over frames that it recycles (`BPF_PROG_TEST_RUN` with live frames) and hands them to the
//! driver, as a NIC's receive path would: no socket, no copy. Into a veth this needs a peer that runs NAPI, that is one
//! with an XDP program or with `ethtool -K PEER gro on`.

use std::process::ExitCode;
use std::time::Duration;

use aya::maps::{Array, MapData};
use aya::programs::xdp::XdpMode;
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp};
use aya::{EbpfLoader, Pod};
use gnomon_clock::{Clock, KernelClock};

const USAGE: &str =
    "usage: flood IFACE [--frame BYTES|imix] [--flows N] [--rate FRAMES_PER_SECOND|max] [--seconds S]
             [--count FRAMES] [--cpu N] [--payload noise|fixed]

  --frame    bytes of a frame without its checksum, 60 to 1514 (60: a 64-byte frame on a wire), or imix: of 12
             frames 7 of 60, 4 of 590, 1 of 1514 bytes. Default 60
  --flows    1 to 1048576, each both ways. Default 10000
  --rate     default max
  --seconds  stop after this long, default 2
  --count    stop after so many
  --cpu      the core to stay on, default 0
  --payload  noise (not compressible, the default) or fixed";

static OBJECT: &[u8] = aya::include_bytes_aligned!("flood.o");

const FRAME_MAX: usize = 1514;
const LENGTHS: usize = 12;
const IMIX: [u16; LENGTHS] = [60, 590, 60, 590, 60, 60, 1514, 60, 590, 60, 590, 60];
const FLOWS_MAX: u32 = 1 << 20;

/// Below this rate frames are sent in small batches with sleeps between; above, the program itself waits for each, which
/// occupies the core but spaces them evenly.
const EVEN_FROM_RATE: u64 = 300_000;
const NAP: Duration = Duration::from_millis(1);
/// Frames the kernel takes through the program before it lets the receiver's side of the veth run.
const BATCH: u32 = 64;
/// Runs of the program a system call.
const RUNS: u32 = 1 << 16;

/// `struct state` of flood.c.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct State {
    sent: u64,
    bytes: u64,
    idle: u64,
    limit: u64,
    due_ns: u64,
    due_1024: u64,
    now_ns: u64,
    seed: u64,
    flow: u32,
    backwards: u32,
    turn: u32,
    padding: u32,
}

#[allow(unsafe_code)]
// SAFETY: integers without padding between them; every bit pattern is valid.
unsafe impl Pod for State {}

#[derive(Debug)]
struct Settings {
    interface: String,
    lengths: [u16; LENGTHS],
    flows: u32,
    /// 0: as fast as it goes.
    rate: u64,
    seconds: f64,
    count: u64,
    cpu: usize,
    noise: bool,
}

impl Settings {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Settings, String> {
        let interface = words.next().ok_or(USAGE)?;
        let mut settings = Settings {
            interface,
            lengths: [60; LENGTHS],
            flows: 10_000,
            rate: 0,
            seconds: 2.0,
            count: u64::MAX,
            cpu: 0,
            noise: true,
        };
        while let Some(word) = words.next() {
            let value = words.next().ok_or_else(|| format!("{word} needs a value\n{USAGE}"))?;
            let bad = || format!("{word} cannot be {value:?}\n{USAGE}");
            match word.as_str() {
                "--frame" if value == "imix" => settings.lengths = IMIX,
                "--frame" => {
                    let length: u16 = value.parse().map_err(|_| bad())?;
                    if !(60..=1514).contains(&length) {
                        return Err(bad());
                    }
                    settings.lengths = [length; LENGTHS];
                }
                "--flows" => {
                    settings.flows = value.parse().map_err(|_| bad())?;
                    if !(1..=FLOWS_MAX).contains(&settings.flows) {
                        return Err(bad());
                    }
                }
                "--rate" if value == "max" => settings.rate = 0,
                "--rate" => settings.rate = value.parse().map_err(|_| bad())?,
                "--seconds" => settings.seconds = value.parse().map_err(|_| bad())?,
                "--count" => settings.count = value.parse().map_err(|_| bad())?,
                "--cpu" => settings.cpu = value.parse().map_err(|_| bad())?,
                "--payload" if value == "noise" => settings.noise = true,
                "--payload" if value == "fixed" => settings.noise = false,
                _ => return Err(bad()),
            }
        }
        Ok(settings)
    }

    fn paced_by_program(&self) -> bool {
        self.rate >= EVEN_FROM_RATE
    }
}

/// Transmitted and refused frames of an interface of this network namespace.
fn interface_counters(interface: &str) -> Result<(u64, u64), String> {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev").map_err(|error| error.to_string())?;
    let line = text
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'))
        .ok_or_else(|| format!("there is no interface {interface} here"))?;
    let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    match numbers[..] {
        // Eight numbers of the receiving side, then bytes, packets, errors, drops of the sending one.
        [_, _, _, _, _, _, _, _, _, packets, _, drops, ..] => Ok((packets, drops)),
        _ => Err(format!("/proc/net/dev says {line:?} of {interface}")),
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    message
}

fn send(settings: &Settings) -> Result<(), String> {
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(settings.cpu);
    rustix::thread::sched_setaffinity(None, &cpus)
        .map_err(|error| format!("cannot stay on core {}: {error}", settings.cpu))?;
    let index =
        gnomon_capture::interface::describe(&settings.interface).map_err(|error| error.to_string())?.index;

    let interval_ns_1024 = match settings.paced_by_program() {
        true => (1_000_000_000_u64 << 10) / settings.rate,
        false => 0,
    };
    // A batch's worth: more would arrive as a burst that no even traffic has.
    let burst_ns = (interval_ns_1024 * u64::from(BATCH)) >> 10;
    let mut lengths = [0; 2 * LENGTHS];
    for (to, length) in lengths.chunks_exact_mut(2).zip(settings.lengths) {
        to.copy_from_slice(&length.to_ne_bytes());
    }
    let noise = u32::from(settings.noise);
    let mut program = EbpfLoader::new()
        .override_global("IFINDEX", &index, true)
        .override_global("FLOWS", &settings.flows, true)
        .override_global("INTERVAL_NS_1024", &interval_ns_1024, true)
        .override_global("BURST_NS", &burst_ns, true)
        .override_global("LENGTH", &lengths[..], true)
        .override_global("NOISE", &noise, true)
        .load(OBJECT)
        .map_err(|error| with_causes(&error))?;
    let mut state: Array<MapData, State> = program
        .take_map("state")
        .ok_or("flood.o has no map `state`")?
        .try_into()
        .map_err(|error: aya::maps::MapError| with_causes(&error))?;
    let flood: &mut Xdp = program
        .program_mut("flood")
        .ok_or("flood.o has no program `flood`")?
        .try_into()
        .map_err(|error: aya::programs::ProgramError| with_causes(&error))?;
    flood.load().map_err(|error| with_causes(&error))?;
    // Each test run patches the kernel's XDP dispatcher for its program and waits for an RCU grace period, which takes
    // longer than the run; not so for a program that is attached anywhere. What comes in there passes.
    flood.attach_to_if_index(index, XdpMode::Skb).map_err(|error| with_causes(&error))?;

    let before = interface_counters(&settings.interface)?;
    let start = KernelClock.monotonic();
    let initial = State {
        limit: settings.count,
        due_ns: start.0,
        now_ns: start.0,
        seed: 0x9e37_79b9_7f4a_7c15,
        ..State::default()
    };
    set(&mut state, initial)?;
    let frame = [0x5a_u8; FRAME_MAX];
    let naps = settings.rate > 0 && !settings.paced_by_program();
    let mut now = initial;
    let mut elapsed_ns = 0;
    while now.sent < settings.count && (elapsed_ns as f64) < settings.seconds * 1e9 {
        let mut runs = RUNS.min(u32::try_from(settings.count - now.sent).unwrap_or(RUNS).max(BATCH));
        if naps {
            let due = (u128::from(settings.rate) * u128::from(elapsed_ns) / 1_000_000_000) as u64;
            runs = u32::try_from(due.min(settings.count).saturating_sub(now.sent)).unwrap_or(RUNS).min(RUNS);
            if runs == 0 {
                std::thread::sleep(NAP);
                elapsed_ns = KernelClock.monotonic().since(start);
                continue;
            }
            set(&mut state, State { limit: now.sent + u64::from(runs), ..now })?;
        }
        let mut options = TestRunOptions::new();
        options.data_in = Some(&frame);
        options.repeat = runs;
        options.attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
        flood.test_run(options).map_err(|error| with_causes(&error))?;
        now = state.get(&0, 0).map_err(|error| with_causes(&error))?;
        elapsed_ns = KernelClock.monotonic().since(start);
    }
    let after = interface_counters(&settings.interface)?;
    println!(
        "sent {} frames, {} bytes in {:.4} s: {:.0} frames/s; {} accepted {}, refused {}",
        now.sent,
        now.bytes,
        elapsed_ns as f64 / 1e9,
        now.sent as f64 * 1e9 / elapsed_ns.max(1) as f64,
        settings.interface,
        after.0 - before.0,
        after.1 - before.1
    );
    Ok(())
}

fn set(state: &mut Array<MapData, State>, value: State) -> Result<(), String> {
    state.set(0, value, 0).map_err(|error| with_causes(&error))
}

fn main() -> ExitCode {
    let settings = match Settings::parse(std::env::args().skip(1)) {
        Ok(settings) => settings,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    match send(&settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}
