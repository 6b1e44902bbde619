//! The limit: receives every frame of an interface and drops it. What the agent does with frames is measured against this.
//!
//! `receive_and_drop IFACE [SECONDS [af_xdp|af_packet]]` prints frames/s and drops each second, then a total.
//! With af_xdp (the default) the host loses the frames of IFACE meanwhile.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use gnomon_capture::{Backend, CaptureError, DropReason, Options, Stance, each, open};
use gnomon_clock::{Clock, KernelClock};

const BATCH: usize = 1024;

fn run(interface: &str, seconds: u64, options: &Options) -> Result<(), CaptureError> {
    let mut source = open(interface, options, Arc::new(KernelClock))?;
    println!("{}", source.mode());
    let start = KernelClock.monotonic();
    let (mut next, mut before, mut sum) = (1, 0, 0_u64);
    loop {
        // A byte of each frame is touched, so that none is received on paper only.
        let drained =
            source.drain(BATCH, each(|frame| sum += u64::from(frame.data.first().copied().unwrap_or(0))))?;
        if drained == 0 {
            source.wait(Duration::from_millis(10))?;
        }
        let elapsed = KernelClock.monotonic().since(start);
        if elapsed >= next * 1_000_000_000 {
            let stats = source.stats();
            println!("{next:>4} s {:>10} frames/s, {} lost", stats.received - before, stats.lost());
            (before, next) = (stats.received, next + 1);
        }
        if elapsed >= seconds * 1_000_000_000 {
            let stats = source.stats();
            let rate = stats.received as f64 * 1e9 / elapsed as f64;
            println!(
                "total {} frames, {} bytes, {rate:.0} frames/s, checksum {sum}",
                stats.received, stats.received_bytes
            );
            for reason in DropReason::ALL {
                if stats.dropped(reason) > 0 {
                    println!("lost {:>10} {}", stats.dropped(reason), reason.name());
                }
            }
            return Ok(());
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(interface) = arguments.first() else {
        eprintln!("usage: receive_and_drop IFACE [SECONDS [af_xdp|af_packet]]");
        return ExitCode::from(2);
    };
    let seconds = arguments.get(1).and_then(|text| text.parse().ok()).unwrap_or(10);
    let options = match arguments.get(2).map(String::as_str) {
        Some("af_packet") => Options { backend: Backend::AfPacket, ..Options::default() },
        _ => Options { stance: Stance::Tap, backend: Backend::AfXdp, ..Options::default() },
    };
    match run(interface, seconds, &options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
