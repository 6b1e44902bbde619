//! `gnomon-agent import`: capture files to the collector, by the same engine, spool and uplink as live.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use gnomon_capture::PcapFile;
use gnomon_clock::{Clock, EpochId, RawNs};
use gnomon_daemon::exit::WithHint;
use gnomon_daemon::shutdown::CancellationToken;
use gnomon_flow::{FlowRecord, Origin};
use indicatif::{ProgressBar, ProgressStyle};

use super::delivery::{Delivery, first_16, import_agent};
use crate::config::Config;
use crate::engine::{Engine, EngineConfig};
use crate::export::{Export, Exported};
use crate::offline::{BatchTime, file_epoch};
use crate::slicer::SlicerConfig;
use crate::spool::Writer;
use crate::table::TableConfig;
use crate::worker::BATCH_FRAMES_MAX;

/// Records in one entry.
const RECORDS_MAX: usize = 2048;

#[derive(Debug, Args)]
pub(super) struct Import {
    /// Capture files: pcap or pcapng, plain, gzip or zstd
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Give up when the collector has made nothing durable for so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    patience: u64,
}

/// A file and the epoch its content gives it.
struct Source {
    path: PathBuf,
    epoch: EpochId,
    bytes: u64,
}

impl Import {
    pub(super) fn run(&self, config: &Config, clock: &Arc<dyn Clock>) -> anyhow::Result<()> {
        let agent = import_agent(&config.name());
        let mut sources: Vec<Source> = Vec::new();
        for path in &self.files {
            let (digest, bytes) = digest(path)?;
            let epoch = EpochId { agent, ..file_epoch(digest) };
            match sources.iter().find(|known| known.epoch == epoch) {
                // The same content is the same epoch: it would be dropped as a repetition.
                Some(known) => eprintln!("{}: has the content of {}", path.display(), known.path.display()),
                None => sources.push(Source { path: path.clone(), epoch, bytes }),
            }
        }
        let epochs: Vec<EpochId> = sources.iter().map(|source| source.epoch).collect();
        let (delivery, writer, all_read) = Delivery::start(config, clock, &epochs)?;
        let reading = Reading::start(config, sources, writer, all_read)?;
        let bar = ProgressBar::new(reading.bytes_total);
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} read, {msg}") {
            bar.set_style(style);
        }
        delivery.wait(Duration::from_secs(self.patience), "import again", &mut |entries, error| {
            bar.set_position(reading.bytes.load(Ordering::Relaxed));
            let error = if error.is_empty() { String::new() } else { format!(", {error}") };
            bar.set_message(format!("{entries} entries to go{error}"));
        })?;
        bar.finish_and_clear();
        let made = reading.made.lock().unwrap_or_else(PoisonError::into_inner);
        let Made { packets, records, kept, failures } = &*made;
        println!(
            "{packets} packets, {records} flow records, {kept} packets kept: all durable at the collector"
        );
        for failure in failures {
            eprintln!("{failure}");
        }
        anyhow::ensure!(failures.is_empty(), "{} files could not be read to the end", failures.len());
        Ok(())
    }
}

/// What was made of the files.
#[derive(Clone, Debug, Default)]
struct Made {
    packets: u64,
    records: u64,
    kept: u64,
    failures: Vec<String>,
}

/// The thread that reads the files.
struct Reading {
    bytes: Arc<AtomicU64>,
    bytes_total: u64,
    made: Arc<Mutex<Made>>,
}

impl Reading {
    fn start(
        config: &Config,
        sources: Vec<Source>,
        mut writer: Writer,
        all_read: CancellationToken,
    ) -> anyhow::Result<Reading> {
        let reading = Reading {
            bytes: Arc::default(),
            bytes_total: sources.iter().map(|source| source.bytes).sum(),
            made: Arc::default(),
        };
        let engine = engine_config(config)?;
        let (bytes, made) = (reading.bytes.clone(), reading.made.clone());
        let run = move || {
            let mut bytes_before = 0;
            for source in &sources {
                let progress = |read: u64| bytes.store(bytes_before + read, Ordering::Relaxed);
                let read = import_file(source, engine.clone(), &mut |export| writer.store(export), &progress);
                bytes_before += source.bytes;
                let mut made = made.lock().unwrap_or_else(PoisonError::into_inner);
                made.packets += read.packets;
                made.records += read.records;
                made.kept += read.kept;
                made.failures.extend(read.failures);
            }
            drop(writer);
            all_read.cancel();
        };
        std::thread::Builder::new()
            .name("import".into())
            .spawn(run)
            .context("cannot start the reading thread")?;
        Ok(reading)
    }
}

/// As live, but without interim records, and with blocks closed by size only: the same file always gives the same
/// entries with the same numbers, which is how a second import is known.
fn engine_config(config: &Config) -> anyhow::Result<EngineConfig> {
    Ok(EngineConfig {
        table: TableConfig { interim: None, ..config.table() },
        slicer: SlicerConfig { block_age_max_ns: u64::MAX, ..config.slicer() },
        rules: Arc::new(config.rules()?),
        origin: Origin { agent_name: config.name().into(), ..Origin::default() },
    })
}

/// Reads one file and hands over what it makes, in an order that only its content decides.
fn import_file(
    source: &Source,
    mut engine: EngineConfig,
    store: &mut dyn FnMut(&Export),
    progress: &dyn Fn(u64),
) -> Made {
    let mut made = Made::default();
    let failure = |error: &dyn std::fmt::Display| format!("{}: {error}", source.path.display());
    let mut file = match PcapFile::open(&source.path) {
        Ok(file) => file,
        Err(error) => {
            made.failures.push(error.to_string());
            return made;
        }
    };
    let name = source.path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let mut out = Out { interface: name.into(), epoch: source.epoch, records: Vec::new(), store };
    engine.origin.interface = Arc::clone(&out.interface);
    let mut engine = Engine::new(0, engine);
    let mut now = RawNs(0);
    loop {
        let mut time = BatchTime::default();
        let drained = file.drain(BATCH_FRAMES_MAX, |frames| {
            frames.iter().for_each(|frame| time.add(frame.stamp));
            engine.on_frames(frames);
        });
        now = time.earliest().unwrap_or(now);
        while engine.end_batch(now) {
            out.take(&mut engine);
        }
        out.take(&mut engine);
        progress(file.progress().bytes_read);
        match drained {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => {
                made.failures.push(error.to_string());
                break;
            }
        }
    }
    while engine.finish_some(now) {
        out.take(&mut engine);
    }
    out.take(&mut engine);
    out.flush();
    let stats = engine.stats();
    made.packets = stats.packets;
    made.records = stats.table.records_final;
    made.kept = stats.slicer.packets_kept;
    let file_stats = file.stats();
    if let Some(tail) = &file_stats.truncated_tail {
        eprintln!("{}", failure(tail));
    }
    if file_stats.oversize + file_stats.bad_blocks > 0 {
        let (oversize, bad) = (file_stats.oversize, file_stats.bad_blocks);
        made.failures.push(failure(&format!(
            "passed over {oversize} frames above 256 KiB and {bad} unreadable blocks"
        )));
    }
    made
}

/// Gathers records into entries of a good size.
struct Out<'a> {
    interface: Arc<str>,
    epoch: EpochId,
    records: Vec<FlowRecord>,
    store: &'a mut dyn FnMut(&Export),
}

impl Out<'_> {
    fn take(&mut self, engine: &mut Engine) {
        self.records.extend(engine.take_records().into_iter().flatten());
        if self.records.len() >= RECORDS_MAX {
            self.flush();
        }
        while let Some(block) = engine.take_block() {
            let export = self.export(Exported::Packets(block));
            (self.store)(&export);
            if let Exported::Packets(block) = export.body {
                engine.recycle(block);
            }
        }
    }

    fn flush(&mut self) {
        if !self.records.is_empty() {
            let records = std::mem::take(&mut self.records);
            let export = self.export(Exported::Flows(records));
            (self.store)(&export);
        }
    }

    fn export(&self, body: Exported) -> Export {
        Export { worker: 0, interface: self.interface.clone(), epoch: self.epoch, body }
    }
}

/// The first 16 bytes of the BLAKE3 of a file, and its size.
fn digest(path: &Path) -> anyhow::Result<([u8; 16], u64)> {
    let what = || format!("cannot read {}", path.display());
    let mut file = File::open(path).with_context(what)?;
    let metadata = file.metadata().with_context(what)?;
    if !metadata.is_file() {
        return Err(anyhow::anyhow!("{} is no regular file", path.display()))
            .hint("a file is read twice to be imported: save what comes from a pipe first");
    }
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(bytes) => {
                hasher.update(&buffer[..bytes]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).with_context(what),
        }
    }
    Ok((first_16(hasher.finalize()), metadata.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every hand-over in words that compare.
    fn entries(source: &Source) -> (Vec<String>, Made) {
        let config = engine_config(&Config::default()).unwrap();
        let mut entries = Vec::new();
        let made = import_file(source, config, &mut |export| entries.push(format!("{export:?}")), &|_| {});
        (entries, made)
    }

    #[test]
    fn the_same_file_gives_the_same_entries() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("udp.pcap");
        std::fs::write(&path, super::super::flows::tests::udp_pcap(5000)).unwrap();
        let (content, bytes) = digest(&path).unwrap();
        let source = Source { path, epoch: file_epoch(content), bytes };
        let (first, made) = entries(&source);
        assert_eq!((made.packets, made.kept, made.failures.len()), (5000, 5000, 0));
        assert!(made.records >= 1 && first.len() >= 2);
        assert_eq!(entries(&source).0, first);
        assert_ne!(import_agent("a"), import_agent("b"));
    }

    #[test]
    fn a_pipe_is_refused_with_what_to_do() {
        let error = digest(Path::new("/dev/null")).unwrap_err();
        assert!(gnomon_daemon::exit::explain(&error).contains("save what comes from a pipe"));
    }
}
