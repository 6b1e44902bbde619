//! `gnomon-agent import`: capture files to the collector, by the same engine, spool and uplink as live.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use gnomon_capture::{FileInterface, PcapFile};
use gnomon_clock::{Clock, EpochId};
use gnomon_daemon::exit::WithHint;
use gnomon_daemon::shutdown::CancellationToken;
use gnomon_flow::{FlowRecord, Origin};
use indicatif::{ProgressBar, ProgressStyle};

use super::delivery::{Delivery, first_16, import_agent};
use super::file_clock::{ClockOffset, format_offset, offset_from_mtime};
use super::flows::{together, torn};
use super::piped::Piped;
use crate::config::Config;
use crate::engine::{Engine, EngineConfig};
use crate::export::{Export, Exported, PacketBlock};
use crate::offline::{Engines, FileName, Sink, drive, file_epoch, table_of};
use crate::slicer::SlicerConfig;
use crate::spool::Writer;
use crate::table::TableConfig;
use crate::worker::BATCH_FRAMES_MAX;

/// Records in one entry.
const RECORDS_MAX: usize = 2048;
/// Hand-overs that wait to be written; with more, reading waits.
const QUEUE: usize = 16;
/// Buffers of blocks: all that a batch can fill, and those that wait, are written, or came back since reading last looked.
const BLOCKS_MAX: usize = BATCH_FRAMES_MAX + 1 + 2 * (QUEUE + 1);

#[derive(Debug, Args)]
pub(super) struct Import {
    /// Capture files: pcap or pcapng, plain or packed with gzip, zstd, xz or bzip2; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Give up when the collector has made nothing durable for so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    patience: u64,
    /// Add this to every time, for a file whose clock was wrong: `-9h`, `+1d12h`, `-90s`, `+250ms`
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, conflicts_with = "clock_from_mtime")]
    clock_offset: Option<ClockOffset>,
    /// Take the time at which the file was last written for that of its last packet
    #[arg(long)]
    clock_from_mtime: bool,
}

/// A file and the epoch its content gives it.
struct Source {
    path: PathBuf,
    epoch: EpochId,
    bytes: u64,
    /// What its times are moved by.
    offset_ns: i64,
}

impl Import {
    pub(super) fn run(&self, config: &Config, clock: &Arc<dyn Clock>) -> anyhow::Result<()> {
        let agent = import_agent(&config.name());
        let mut sources: Vec<Source> = Vec::new();
        let mut piped = None;
        for path in &self.files {
            let path = if path == Path::new("-") { &piped.insert(Piped::read()?).path } else { path };
            let offset_ns = self.offset_of(path)?;
            let (digest, bytes) = digest(path, offset_ns)?;
            let epoch = EpochId { agent, ..file_epoch(digest) };
            match sources.iter().find(|known| known.epoch == epoch) {
                // The same content is the same epoch: it would be dropped as a repetition.
                Some(known) => eprintln!("{}: has the content of {}", path.display(), known.path.display()),
                None => sources.push(Source { path: path.clone(), epoch, bytes, offset_ns }),
            }
        }
        let epochs: Vec<(EpochId, i64)> =
            sources.iter().map(|source| (source.epoch, source.offset_ns)).collect();
        for source in sources.iter().filter(|source| source.offset_ns != 0) {
            let by = format_offset(source.offset_ns);
            eprintln!("{}: {by} is added to every time", source.path.display());
        }
        let (delivery, writer, all_written) = Delivery::start(config, clock, &epochs)?;
        let reading = Reading::start(config, sources, writer, all_written)?;
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
        let Ok(made) = reading.thread.join() else {
            anyhow::bail!("reading the files failed by a fault of gnomon's")
        };
        let Made { packets, records, kept, failures } = &made;
        println!(
            "{packets} packets, {records} flow records, {kept} packets kept: all durable at the collector"
        );
        for failure in failures {
            eprintln!("{failure}");
        }
        anyhow::ensure!(failures.is_empty(), "{} files could not be read to the end", failures.len());
        Ok(())
    }

    fn offset_of(&self, path: &Path) -> anyhow::Result<i64> {
        if !self.clock_from_mtime {
            return Ok(self.clock_offset.map_or(0, |offset| offset.0));
        }
        offset_from_mtime(path)
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

impl Made {
    fn add(&mut self, more: Made) {
        self.packets += more.packets;
        self.records += more.records;
        self.kept += more.kept;
        self.failures.extend(more.failures);
    }
}

/// The thread that reads the files and makes records and blocks, and the one behind it that compresses and writes them,
/// which takes about as long.
struct Reading {
    bytes: Arc<AtomicU64>,
    bytes_total: u64,
    thread: JoinHandle<Made>,
}

impl Reading {
    fn start(
        config: &Config,
        sources: Vec<Source>,
        writer: Writer,
        all_written: CancellationToken,
    ) -> anyhow::Result<Reading> {
        let bytes_total = sources.iter().map(|source| source.bytes).sum();
        let bytes = Arc::new(AtomicU64::new(0));
        let engine = engine_config(config)?;
        let (exports, queue) = sync_channel(QUEUE);
        let (written, returned) = mpsc::channel();
        let write = move || {
            // However this ends.
            let _all_written = all_written.drop_guard();
            writer.run(&queue, |export| {
                if let Exported::Packets(block) = export.body {
                    // Nobody is there to take it once everything is read.
                    let _ = written.send((export.worker, block));
                }
            });
        };
        thread::Builder::new()
            .name("import-write".into())
            .spawn(write)
            .context("cannot start the writing thread")?;
        let writing = Writing { exports, returned };
        let bytes_read = bytes.clone();
        let read = move || {
            let (mut made, mut bytes_before) = (Made::default(), 0);
            for source in &sources {
                let progress = |read: u64| bytes_read.store(bytes_before + read, Ordering::Relaxed);
                made.add(import_file(source, &engine, &writing, &progress));
                bytes_before += source.bytes;
            }
            made
        };
        let thread = thread::Builder::new()
            .name("import-read".into())
            .spawn(read)
            .context("cannot start the reading thread")?;
        Ok(Reading { bytes, bytes_total, thread })
    }
}

/// As live, but without interim records, and with blocks closed by size only: the same file always gives the same
/// entries with the same numbers, which is how a second import is known.
fn engine_config(config: &Config) -> anyhow::Result<EngineConfig> {
    Ok(EngineConfig {
        table: TableConfig { interim: None, ..config.table() },
        slicer: SlicerConfig { block_age_max_ns: u64::MAX, blocks_max: BLOCKS_MAX, ..config.slicer() },
        rules: Arc::new(config.rules()?),
        origin: Origin { agent_name: config.name().into(), ..Origin::default() },
        ..EngineConfig::default()
    })
}

/// Reads one file and hands over what it makes, in an order that only its content decides.
fn import_file(source: &Source, config: &EngineConfig, writing: &Writing, progress: &dyn Fn(u64)) -> Made {
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
    let name = FileName::new(&name);
    let interfaces = std::cell::RefCell::new(Vec::<Arc<str>>::new());
    let mut engines = Engines::new(|worker, interface: &FileInterface| {
        let mut config = config.clone();
        config.origin.interface = name.interface(interface);
        config.table = table_of(worker, config.table);
        let mut interfaces = interfaces.borrow_mut();
        let count = interfaces.len().max(usize::from(worker) + 1);
        interfaces.resize(count, "".into());
        interfaces[usize::from(worker)] = Arc::clone(&config.origin.interface);
        Engine::new(worker, config)
    });
    let mut out =
        Out { file: &name, epoch: source.epoch, gathered: Vec::new(), returned: Vec::new(), writing };
    let drain = |sink: &mut Sink<'_>| {
        let drained = file.drain_by_interface(BATCH_FRAMES_MAX, sink);
        progress(file.progress().bytes_read);
        Ok(drained?)
    };
    // What came before damage is handed over.
    let read: anyhow::Result<()> = drive(&mut engines, drain, |engine, number, _| {
        out.take(engine, number, &interfaces.borrow()[number])
    });
    if let Err(error) = out.flush_all(&interfaces.borrow()).and(read) {
        made.failures.push(error.to_string());
    }
    let mut lost = 0;
    for stats in engines.stats() {
        made.packets += stats.packets;
        made.records += stats.table.records_final;
        made.kept += stats.slicer.packets_kept;
        lost += stats.slicer.packets_queue_full;
    }
    if lost > 0 {
        made.failures.push(failure(&format!("{lost} packets were not kept: no buffer was free")));
    }
    let file_stats = file.stats();
    if let Some(tail) = &file_stats.truncated_tail {
        eprintln!("{}", failure(tail));
    }
    if let Some(words) = torn(file_stats) {
        made.failures.push(failure(&words));
    }
    if file_stats.interfaces_together > 0 {
        eprintln!("{}", failure(&together(file_stats.interfaces_together)));
    }
    if file_stats.oversize + file_stats.bad_blocks > 0 {
        let (oversize, bad) = (file_stats.oversize, file_stats.bad_blocks);
        made.failures.push(failure(&format!(
            "passed over {oversize} frames above 256 KiB and {bad} unreadable blocks"
        )));
    }
    made
}

/// The way to the thread that writes; and the buffers of written blocks back.
struct Writing {
    exports: SyncSender<Export>,
    returned: Receiver<(u8, PacketBlock)>,
}

/// Gathers the records of each interface into entries of a good size.
struct Out<'a> {
    file: &'a FileName,
    epoch: EpochId,
    /// By the number of the interface.
    gathered: Vec<Vec<FlowRecord>>,
    /// Buffers that were written, by the number of the interface they belong to.
    returned: Vec<Vec<PacketBlock>>,
    writing: &'a Writing,
}

impl Out<'_> {
    fn take(&mut self, engine: &mut Engine, number: usize, interface: &Arc<str>) -> anyhow::Result<()> {
        if self.gathered.len() <= number {
            self.gathered.resize_with(number + 1, Vec::new);
            self.returned.resize_with(number + 1, Vec::new);
        }
        for mut record in engine.take_records().into_iter().flatten() {
            self.file.put(&mut record);
            self.gathered[number].push(record);
        }
        if self.gathered[number].len() >= RECORDS_MAX {
            self.flush(number, interface)?;
        }
        while let Some(block) = engine.take_block() {
            for (of, block) in self.writing.returned.try_iter() {
                // Of an interface that only the file before had, nobody needs it any more.
                if let Some(returned) = self.returned.get_mut(usize::from(of)) {
                    returned.push(block);
                }
            }
            self.returned[number].drain(..).for_each(|block| engine.recycle(block));
            self.send(number, interface, Exported::Packets(block))?;
        }
        Ok(())
    }

    fn flush_all(&mut self, interfaces: &[Arc<str>]) -> anyhow::Result<()> {
        (0..self.gathered.len()).try_for_each(|number| self.flush(number, &interfaces[number]))
    }

    fn flush(&mut self, number: usize, interface: &Arc<str>) -> anyhow::Result<()> {
        if self.gathered[number].is_empty() {
            return Ok(());
        }
        let records = std::mem::take(&mut self.gathered[number]);
        self.send(number, interface, Exported::Flows(records))
    }

    /// Waits for room.
    fn send(&self, number: usize, interface: &Arc<str>, body: Exported) -> anyhow::Result<()> {
        // Far below 256.
        let export =
            Export { worker: number as u8, interface: Arc::clone(interface), epoch: self.epoch, body };
        self.writing
            .exports
            .send(export)
            .ok()
            .context("writing failed by a fault of gnomon's: what is left was not read")
    }
}

/// What names an import: the first 16 bytes of the BLAKE3 of the file's content and of what its times are moved by; and its
/// size.
fn digest(path: &Path, offset_ns: i64) -> anyhow::Result<([u8; 16], u64)> {
    let what = || format!("cannot read {}", path.display());
    let mut file = File::open(path).with_context(what)?;
    let metadata = file.metadata().with_context(what)?;
    if !metadata.is_file() {
        return Err(anyhow::anyhow!("{} is no regular file", path.display()))
            .hint("a file is read twice to be imported: give what comes from a pipe as standard input, `-`");
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
    if offset_ns != 0 {
        hasher.update(&offset_ns.to_le_bytes());
    }
    Ok((first_16(hasher.finalize()), metadata.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_daemon::config::ByteSize;

    fn source(dir: &Path, content: &[u8]) -> Source {
        let path = dir.join("udp.pcap");
        std::fs::write(&path, content).unwrap();
        let (digest, bytes) = digest(&path, 0).unwrap();
        Source { path, epoch: file_epoch(digest), bytes, offset_ns: 0 }
    }

    /// Every hand-over in words that compare, taken by a writer that takes `pause` for each.
    fn entries(source: &Source, config: &Config, pause: Duration) -> (Vec<String>, Made) {
        let (exports, queue) = sync_channel::<Export>(QUEUE);
        let (written, returned) = mpsc::channel();
        let writer = thread::spawn(move || {
            let write = |export: Export| {
                let words = format!("{export:?}");
                thread::sleep(pause);
                if let Exported::Packets(block) = export.body {
                    let _ = written.send((export.worker, block));
                }
                words
            };
            queue.into_iter().map(write).collect::<Vec<_>>()
        });
        let made =
            import_file(source, &engine_config(config).unwrap(), &Writing { exports, returned }, &|_| {});
        (writer.join().unwrap(), made)
    }

    #[test]
    fn the_same_file_gives_the_same_entries() {
        let dir = tempfile::tempdir().unwrap();
        let source = source(dir.path(), &super::super::flows::tests::udp_pcap(5000));
        let config = Config::default();
        let (first, made) = entries(&source, &config, Duration::ZERO);
        assert_eq!((made.packets, made.kept, made.failures.len()), (5000, 5000, 0));
        assert!(made.records >= 1 && first.len() >= 2);
        assert_eq!(entries(&source, &config, Duration::from_millis(1)).0, first);
        assert_ne!(import_agent("a"), import_agent("b"));
    }

    /// Buffers of a file's second interface come back while a file with one interface is read.
    #[test]
    fn files_with_more_and_fewer_interfaces_follow_one_another() {
        let dir = tempfile::tempdir().unwrap();
        let few = source(dir.path(), &super::super::flows::tests::udp_pcap(50));
        let path = dir.path().join("two.pcapng");
        std::fs::write(&path, super::super::flows::tests::two_interfaces(40)).unwrap();
        let many = Source { path, epoch: file_epoch([3; 16]), bytes: 0, offset_ns: 0 };
        let (exports, queue) = sync_channel::<Export>(QUEUE);
        let (written, returned) = mpsc::channel();
        let writer = thread::spawn(move || {
            for export in queue {
                if let Exported::Packets(block) = export.body {
                    let _ = written.send((export.worker, block));
                }
            }
        });
        let mut config = Config::default();
        config.slices.block_bytes = ByteSize::from_bytes(1);
        let (config, writing) = (engine_config(&config).unwrap(), Writing { exports, returned });
        let made = [&many, &few, &many].map(|source| import_file(source, &config, &writing, &|_| {}));
        assert_eq!(made.each_ref().map(|made| (made.packets, made.kept)), [(40, 40), (50, 50), (40, 40)]);
        assert!(made.iter().all(|made| made.failures.is_empty()), "{made:?}");
        drop(writing);
        writer.join().unwrap();
    }

    #[test]
    fn a_slow_writer_is_waited_for_and_every_packet_kept() {
        let dir = tempfile::tempdir().unwrap();
        let source = source(dir.path(), &super::super::flows::tests::udp_pcap(2000));
        let mut config = Config::default();
        // Each packet is a block.
        config.slices.block_bytes = ByteSize::from_bytes(1);
        let (entries, made) = entries(&source, &config, Duration::from_micros(100));
        assert_eq!((made.kept, made.failures), (2000, Vec::new()));
        assert_eq!(entries.iter().filter(|entry| entry.contains("Packets")).count(), 2000);
    }

    #[test]
    fn a_writer_that_is_gone_is_a_failure_and_ends_the_reading() {
        let dir = tempfile::tempdir().unwrap();
        let source = source(dir.path(), &super::super::flows::tests::udp_pcap(5000));
        let (exports, queue) = sync_channel(QUEUE);
        drop(queue);
        let writing = Writing { exports, returned: mpsc::channel().1 };
        let made = import_file(&source, &engine_config(&Config::default()).unwrap(), &writing, &|_| {});
        assert!(made.failures[0].contains("writing failed"), "{:?}", made.failures);
    }

    #[test]
    fn a_pipe_is_refused_with_what_to_do() {
        let error = digest(Path::new("/dev/null"), 0).unwrap_err();
        assert!(gnomon_daemon::exit::explain(&error).contains("as standard input"));
    }
}
