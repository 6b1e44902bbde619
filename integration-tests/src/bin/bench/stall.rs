//! What a disk that stands still for two seconds costs: packets kept by the agent beside a tcpdump that writes to the same
//! file system, which is frozen (fsfreeze(8)) while 1 Gbit/s comes in.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::receiver::{Program, Receiver};
use crate::report::{Report, Table};
use crate::speed::stay_on;
use crate::wire::{Frames, GENERATOR_CORE, Wire};

const PROGRAMS: [Program; 3] = [
    Program::Tcpdump { snaplen: None, ring_kib: None, to_disk: true },
    Program::Tcpdump { snaplen: None, ring_kib: Some(64 << 10), to_disk: true },
    Program::Agent { af_xdp: true, keep: "all", uplink: false },
];
/// IMIX frames a second: half of 1 Gbit/s, and all of it.
const RATES: [u64; 2] = [175_000, 350_000];
const SECONDS: f64 = 6.0;
/// From the first frame to the stall.
const BEFORE: Duration = Duration::from_millis(1_500);
const STALL: Duration = Duration::from_secs(2);
const DISK_BYTES: u64 = 6 << 30;

/// A file system of its own in a file, unmounted whatever happens.
struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    fn mount() -> Result<Disk> {
        let image = std::env::temp_dir().join(format!("gnomon-bench-disk-{}", std::process::id()));
        std::fs::File::create(&image)?.set_len(DISK_BYTES)?;
        let disk = Disk { at: image.with_extension("mounted"), image };
        std::fs::create_dir_all(&disk.at)?;
        run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), disk.image.as_ref()])?;
        run("mount", &["-o".as_ref(), "loop".as_ref(), disk.image.as_ref(), disk.at.as_ref()])?;
        Ok(disk)
    }

    /// Every write to it waits that long.
    fn stall(&self, stall: Duration) -> Result<()> {
        run("fsfreeze", &["-f".as_ref(), self.at.as_ref()])?;
        sleep(stall);
        run("fsfreeze", &["-u".as_ref(), self.at.as_ref()])
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("-u").arg(&self.at).output();
        let _ = Command::new("umount").arg("-l").arg(&self.at).output();
        let _ = std::fs::remove_dir(&self.at);
        let _ = std::fs::remove_file(&self.image);
    }
}

fn run(program: &str, arguments: &[&std::ffi::OsStr]) -> Result<()> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("run {program}"))?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Share of the frames that are not kept.
fn lost(bin_dir: &Path, wire: &Wire, disk: &Disk, program: Program, rate: u64, stalls: bool) -> Result<f64> {
    let receiver = Receiver::start_in(bin_dir, wire, program, &disk.at)?;
    let before = receiver.settle(0)?;
    let sent = std::thread::scope(|scope| {
        let stalling = scope.spawn(|| {
            sleep(BEFORE);
            if stalls { disk.stall(STALL) } else { Ok(()) }
        });
        let sent = wire.flood(Frames::Imix, rate, SECONDS);
        stalling.join().map_err(|_| anyhow::anyhow!("the thread that stalls the disk panicked"))??;
        sent
    })?;
    let after = receiver.settle(before.frames + sent.frames)?;
    let received = after.frames.saturating_sub(before.frames).min(sent.frames);
    let kept = received.saturating_sub(after.not_kept.saturating_sub(before.not_kept));
    Ok((sent.frames - kept) as f64 / sent.frames.max(1) as f64)
}

pub(crate) fn measure(bin_dir: &Path, report: &mut Report) -> Result<()> {
    let disk = match Disk::mount() {
        Ok(disk) => disk,
        Err(error) => {
            eprintln!("SKIPPED: no file system to freeze: {error:#}");
            return Ok(());
        }
    };
    stay_on(&[GENERATOR_CORE])?;
    let wire = Wire::build(bin_dir)?;
    let mut table = Table::new(
        &format!(
            "Packets lost or not kept of IMIX in {SECONDS} s, everything kept, to a disk that stands still for {} s",
            STALL.as_secs()
        ),
        &["receiver", "kpps", "without a stall", "with it"],
    );
    for program in PROGRAMS {
        for rate in RATES {
            eprintln!("==> {}, {rate} frames/s", program.name());
            let percent = |stalls| {
                let lost = lost(bin_dir, &wire, &disk, program, rate, stalls)?;
                eprintln!("    stall {stalls}: lost {:.4} %", lost * 100.0);
                Ok::<_, anyhow::Error>(format!("{:.3} %", lost * 100.0))
            };
            table.row(vec![program.name(), format!("{}", rate / 1_000), percent(false)?, percent(true)?]);
        }
    }
    report.add(&table);
    stay_on(&[0, 1])
}
