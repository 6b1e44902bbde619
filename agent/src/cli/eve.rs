//! `gnomon-agent eve`: alerts out of files or of a pipe, once. What is followed for good stands in `alerts.eve`.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use gnomon_clock::{Clock, EpochId, RawNs};
use gnomon_daemon::shutdown::CancellationToken;
use gnomon_flow::Alert;

use super::delivery::{Delivery, import_agent};
use crate::alerts::AlertCounters;
use crate::alerts::lines::Lines;
use crate::config::Config;
use crate::export::{AlertBatch, Export, Exported};
use crate::offline::file_epoch;
use crate::spool::Writer;

/// Alerts in one entry.
const BATCH_MAX: usize = 512;
const READ_BYTES: usize = 64 << 10;
/// Alerts between the thread that reads and the one that sends.
const QUEUE: usize = 4096;

/// The times in the lines are taken as a capture file's are: as they are. So they meet flows of imported files, and live ones
/// as far as Suricata's clock was right.
#[derive(Debug, Args)]
pub(super) struct Eve {
    /// EVE files (JSON lines); `-` is the standard input, which is read until it ends
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Give up when the collector has made nothing durable for so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    patience: u64,
}

/// What was read.
#[derive(Default)]
struct Progress {
    counters: AlertCounters,
    failures: Mutex<Vec<String>>,
    sent: AtomicU64,
}

impl Eve {
    pub(super) fn run(&self, config: &Config, clock: &Arc<dyn Clock>) -> anyhow::Result<()> {
        // Nobody can tell whether it is the same again, so it is an epoch of its own; the collector knows its alerts if it
        // remembers them.
        let mut unique = [0; 16];
        File::open("/dev/urandom")
            .and_then(|mut urandom| urandom.read_exact(&mut unique))
            .context("cannot read randomness")?;
        // An agent has one session: what runs beside this, for other files, is another one.
        let files: Vec<_> = self.files.iter().map(|file| file.display().to_string()).collect();
        let agent = import_agent(&format!("{} eve {}", config.name(), files.join(" ")));
        let epoch = EpochId { agent, ..file_epoch(unique) };
        let (delivery, writer, all_read) = Delivery::start(config, clock, &[(epoch, 0)])?;
        let read = Arc::new(Progress::default());
        let (sender, alerts) = sync_channel(QUEUE);
        let (files, reading) = (self.files.clone(), Arc::clone(&read));
        // One that waits for a pipe does not hold up the end.
        std::thread::Builder::new()
            .name("eve".into())
            .spawn(move || read_all(&files, &sender, &reading))
            .context("cannot start the reading thread")?;
        let sending = Arc::clone(&read);
        std::thread::Builder::new()
            .name("eve-spool".into())
            .spawn(move || spool_all(&alerts, epoch, writer, &sending, &all_read))
            .context("cannot start the writing thread")?;
        delivery.wait(Duration::from_secs(self.patience), "send it again", &mut |_, _| {})?;
        let lines = read.counters.lines();
        let sent = read.sent.load(Ordering::Relaxed);
        println!("{sent} alerts: all durable at the collector");
        let skipped = lines.iter().filter(|(name, count)| *count > 0 && *name != "taken");
        for (name, count) in skipped {
            eprintln!("{count} lines not taken: {name}");
        }
        let failures = read.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.iter().for_each(|failure| eprintln!("{failure}"));
        anyhow::ensure!(failures.is_empty(), "{} files could not be read to the end", failures.len());
        Ok(())
    }
}

fn read_all(files: &[PathBuf], alerts: &SyncSender<Alert>, read: &Progress) {
    for path in files {
        if let Err(error) = read_one(path, alerts, &read.counters) {
            let mut failures = read.failures.lock().unwrap_or_else(PoisonError::into_inner);
            failures.push(format!("{}: {error}", path.display()));
        }
    }
}

fn read_one(path: &Path, alerts: &SyncSender<Alert>, counters: &AlertCounters) -> io::Result<()> {
    let mut input: Box<dyn Read> =
        if path == Path::new("-") { Box::new(io::stdin()) } else { Box::new(File::open(path)?) };
    let mut lines = Lines::default();
    let mut buffer = vec![0; READ_BYTES];
    let mut gone = false;
    let mut take = |line: &[u8]| {
        let Some(said) = counters.read(line) else { return };
        let Ok(unix_ns) = u64::try_from(said.at.unix_ns()) else {
            counters.bad_time.fetch_add(1, Ordering::Relaxed);
            return;
        };
        counters.taken.fetch_add(1, Ordering::Relaxed);
        gone |= alerts.send(said.alert(RawNs(unix_ns), RawNs(unix_ns))).is_err();
    };
    loop {
        match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                lines.feed(&buffer[..count], &mut take);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    // A file that is not written any more may end without an end of line.
    lines.feed(b"\n", &mut |line| {
        if !line.is_empty() {
            take(line);
        }
    });
    counters.too_long.fetch_add(lines.too_long, Ordering::Relaxed);
    if gone { Err(io::Error::other("the spool is gone")) } else { Ok(()) }
}

fn spool_all(
    alerts: &mpsc::Receiver<Alert>,
    epoch: EpochId,
    mut writer: Writer,
    read: &Progress,
    all_read: &CancellationToken,
) {
    // Nobody waits for it: this thread stores by itself.
    let (stored, _) = mpsc::channel();
    // As many as are there: one that comes alone does not wait for others.
    while let Ok(first) = alerts.recv() {
        let mut batch = vec![first];
        batch.extend(alerts.try_iter().take(BATCH_MAX - 1));
        read.sent.fetch_add(batch.len() as u64, Ordering::Relaxed);
        let body = Exported::Alerts(AlertBatch { alerts: batch, stored: stored.clone() });
        writer.store(&Export { worker: 0, interface: Arc::from(""), epoch, body });
    }
    drop(writer);
    all_read.cancel();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_to_its_end_and_what_is_wrong_counted() {
        let line = "{\"timestamp\":\"2023-11-14T22:13:20.000001+0000\",\"event_type\":\"alert\",\"src_ip\":\"::1\",\
                    \"dest_ip\":\"::2\",\"proto\":\"TCP\",\"alert\":{\"signature_id\":7}}";
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("eve.json");
        let old = line.replace("2023", "1923");
        std::fs::write(&path, format!("{line}\r\n{{\"event_type\":\"dns\"}}\nx\n{old}\n{line}")).unwrap();
        let (sender, alerts) = sync_channel(9);
        let counters = AlertCounters::default();
        read_one(&path, &sender, &counters).unwrap();
        drop(sender);
        let alerts: Vec<Alert> = alerts.iter().collect();
        assert_eq!((alerts.len(), alerts[1].at), (2, RawNs(1_700_000_000_000_001_000)));
        assert_eq!(
            counters.lines()[..4],
            [("taken", 2), ("other_event", 1), ("bad_json", 1), ("bad_time", 1)]
        );
        let (sender, _) = sync_channel(9);
        assert!(read_one(dir.path(), &sender, &counters).is_err());
    }
}
