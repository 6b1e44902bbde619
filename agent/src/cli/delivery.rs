//! What a command sends once: through a spool of its own to the collector, until everything is durable there.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use gnomon_clock::{Clock, EpochId, Fix, FixSource, RawNs, UtcNs};
use gnomon_daemon::exit::WithHint;
use gnomon_daemon::shutdown::{CancellationToken, Shutdown};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::identity::CurrentEpoch;
use crate::own_streams::CurrentOwnStreams;
use crate::pipeline::hello;
use crate::private;
use crate::spool::{self, Limits, Spool, WhenFull, Writer};
use crate::uplink::{LinkState, Settings, TimeSource, Uplink};

/// Disk used between what is read and the collector.
const SPOOL_BYTES: u64 = 256 << 20;
/// Memory used before it.
const MEMORY_BYTES: u64 = 32 << 20;
/// How long an uplink that was told to give up may take to do so.
const GIVE_UP_WAIT: Duration = Duration::from_secs(5);
/// Tries to remove the spool while its last file is being closed.
const REMOVE_TRIES: usize = 20;
/// Longer than any delivery: the uplink is stopped by its success or by the caller's patience.
const NO_DEADLINE: Duration = Duration::from_secs(10 * 365 * 86_400);
/// How often the progress is looked at.
const POLL: Duration = Duration::from_millis(100);

/// An uplink under way. Its spool goes with it.
pub(super) struct Delivery {
    pub(super) shutdown: Shutdown,
    spool: Spool,
    link: Arc<LinkState>,
    runtime: Runtime,
    sent: JoinHandle<()>,
    gives_up: CancellationToken,
    _dir: SpoolDir,
}

impl Delivery {
    /// `epochs` are those of what is sent, whose clock is POSIX time but for so many nanoseconds; all belong to one agent. What is written is sent at
    /// once; the token says that nothing more comes.
    pub(super) fn start(
        config: &Config,
        clock: &Arc<dyn Clock>,
        epochs: &[(EpochId, i64)],
    ) -> anyhow::Result<(Delivery, Writer, CancellationToken)> {
        let (first, _) = *epochs.first().context("nothing to send")?;
        let shutdown = Shutdown::install().context("cannot take signals")?;
        let dir =
            private::temporary_directory("gnomon-import").context("cannot make a directory for the spool")?;
        let dir = SpoolDir(dir);
        let limits = Limits {
            dir: dir.0.clone(),
            bytes_max: SPOOL_BYTES,
            segment_bytes: 16 << 20,
            free_bytes_min: 0,
            free_percent_min: 0,
            memory_bytes_max: MEMORY_BYTES,
            sync_interval: Duration::from_secs(60),
            when_full: WhenFull::Wait,
        };
        let (spool, appender, reader) = spool::open(limits, clock.clone())?;
        let writer = Writer::new(appender, config.spool.zstd_level).context("cannot set up compression")?;
        let mut hello = hello(config, first.agent.to_vec());
        hello.name.push_str(" (import)");
        let settings = Settings {
            urls: config.collector.urls.clone(),
            tls: config.tls(),
            insecure: config.tls.insecure,
            hello,
            time: TimeSource::Files(
                epochs.iter().map(|(epoch, offset_ns)| (*epoch, file_fix(*offset_ns))).collect(),
            ),
            own_streams: CurrentOwnStreams::default(),
        };
        let epoch = CurrentEpoch::new(first);
        let uplink = Uplink::new(settings, epoch, clock.clone(), spool.clone(), reader, None)
            .hint("name the collector with --collector URL")?;
        let link = uplink.state();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let all_read = CancellationToken::new();
        let gives_up = CancellationToken::new();
        let sent = uplink.spawn_until(runtime.handle(), all_read.clone(), NO_DEADLINE, gives_up.clone());
        Ok((Delivery { shutdown, spool, link, runtime, sent, gives_up, _dir: dir }, writer, all_read))
    }

    /// Until everything is durable. `progress` is told how many entries are to go, and what is wrong with the connection.
    /// `reading`: there may be more to come, so that nothing to send is no reason to lose patience.
    pub(super) fn wait(
        self,
        patience: Duration,
        again: &str,
        progress: &mut dyn FnMut(u64, &str),
    ) -> anyhow::Result<()> {
        let waited = self.wait_for_all(patience, again, progress);
        let Delivery { spool, runtime, mut sent, gives_up, _dir, .. } = self;
        if waited.is_err() {
            spool.abandon();
        }
        gives_up.cancel();
        // The uplink has a thread of its own, with the runtime's timers: they must not go before it.
        let ended = runtime.block_on(async { tokio::time::timeout(GIVE_UP_WAIT, &mut sent).await });
        match ended {
            Ok(_) => runtime.shutdown_background(),
            // The process ends, and it with it.
            Err(_) => std::mem::forget(runtime),
        }
        waited
    }

    fn wait_for_all(
        &self,
        patience: Duration,
        again: &str,
        progress: &mut dyn FnMut(u64, &str),
    ) -> anyhow::Result<()> {
        let (mut acked, mut silent) = (0, Duration::ZERO);
        while !self.sent.is_finished() {
            std::thread::sleep(POLL);
            let status = self.spool.status();
            let error = self.link.error();
            progress(status.entries, error.as_deref().unwrap_or(""));
            let now_acked = self.link.entries_acked.load(Ordering::Relaxed);
            silent = if now_acked > acked || status.entries == 0 { Duration::ZERO } else { silent + POLL };
            acked = now_acked;
            anyhow::ensure!(
                !self.shutdown.is_begun(),
                "stopped before everything was durable; {again} to send the rest"
            );
            if silent >= patience {
                let error = error.unwrap_or_else(|| "it is connected and acknowledges nothing".to_owned());
                let entries = status.entries;
                return Err(anyhow::anyhow!(
                    "the collector made nothing durable for {} s, {entries} entries are left: {error}",
                    patience.as_secs()
                ))
                .hint(format!("{again} to send the rest; what is durable is not sent twice"));
            }
        }
        Ok(())
    }
}

/// The stamps of a file are POSIX time, taken as they are but for the offset.
fn file_fix(offset_ns: i64) -> Fix {
    let unix_ns = 1_700_000_000_000_000_000;
    Fix {
        raw: RawNs(unix_ns),
        utc: UtcNs::from_unix_ns(unix_ns.cast_signed().saturating_add(offset_ns)),
        err_ns: 0,
        source: FixSource::File,
    }
}

pub(super) fn first_16(hash: blake3::Hash) -> [u8; 16] {
    let bytes = hash.as_bytes();
    std::array::from_fn(|i| bytes[i])
}

/// Imports of one name are one agent, wherever they run: the same file twice is one.
pub(super) fn import_agent(name: &str) -> [u8; 16] {
    first_16(blake3::hash(format!("gnomon-import {name}").as_bytes()))
}

/// The delivery's spool goes with it.
struct SpoolDir(PathBuf);

impl Drop for SpoolDir {
    fn drop(&mut self) {
        for _ in 0..REMOVE_TRIES {
            match std::fs::remove_dir_all(&self.0) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => std::thread::sleep(POLL / 10),
                _ => return,
            }
        }
        eprintln!("cannot remove {}", self.0.display());
    }
}
