//! Alerts of Suricata on their way to the collector: its EVE files are followed, and what they say goes into the spool like
//! all else.
//!
//! ```text
//! eve.json ──▶ tail (rotation, restarts) ──▶ lines ──▶ eve (alerts only) ──exports──▶ writer thread ──▶ spool
//!                 ▲                                                                        │
//!                 └─ place: how far it was read, once that is in the spool ◀───────────────┘
//! ```
//!
//! An alert's time is that of this machine's CLOCK_REALTIME, which may be wrong. What is known is how that clock stands to
//! CLOCK_MONOTONIC_RAW now: the alert gets the RAW reading that was when REALTIME said what Suricata wrote, and is from then
//! on a reading like a packet's. Only when REALTIME is set between alert and reading is it off by that much.

pub mod eve;
pub mod lines;
mod place;
mod tail;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::thread::JoinHandle;
use std::time::Duration;

use gnomon_clock::{Bracket, Clock, RawNs};
use gnomon_flow::Alert;

use crate::export::{AlertBatch, Export, Exported};
use crate::identity::CurrentEpoch;
use eve::{BadLine, Said};
use place::Places;
use tail::{Happened, Tail};

/// Between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Alerts in one entry of the spool.
const BATCH_MAX: usize = 512;
/// A place that moved only by other events is written down after so many looks: it costs nothing to read those again.
const SAVE_EVERY_LOOKS: u32 = 50;

/// What became of the lines of all files.
#[derive(Debug, Default)]
pub struct AlertCounters {
    pub taken: AtomicU64,
    /// Events that are no alerts.
    pub other: AtomicU64,
    pub bad_json: AtomicU64,
    pub bad_time: AtomicU64,
    pub no_flow: AtomicU64,
    /// Older than this boot of the machine.
    pub before_boot: AtomicU64,
    pub too_long: AtomicU64,
    pub half: AtomicU64,
    /// Times a file was cut, begun anew, or gone with what was not read.
    pub truncated: AtomicU64,
    /// Files that cannot be read now.
    pub unreadable: AtomicU64,
}

impl AlertCounters {
    /// Lines by what became of them.
    pub fn lines(&self) -> [(&'static str, u64); 8] {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("taken", load(&self.taken)),
            ("other_event", load(&self.other)),
            ("bad_json", load(&self.bad_json)),
            ("bad_time", load(&self.bad_time)),
            ("no_flow", load(&self.no_flow)),
            ("before_boot", load(&self.before_boot)),
            ("too_long", load(&self.too_long)),
            ("half", load(&self.half)),
        ]
    }

    /// An alert, if the line has one; what it has else is counted.
    pub fn read(&self, line: &[u8]) -> Option<Said> {
        let counter = match Said::parse(line) {
            Ok(Some(said)) => return Some(said),
            Ok(None) => &self.other,
            Err(BadLine::Json) => &self.bad_json,
            Err(BadLine::Time) => &self.bad_time,
            Err(BadLine::Flow) => &self.no_flow,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        None
    }
}

/// The reading of RAW when REALTIME said `said`, as the two stand to each other now; `None` when that was before RAW began.
/// What REALTIME says of the future was written before somebody set it back: it is not later than now.
fn raw_of(said: &Said, now: &Bracket) -> Option<RawNs> {
    match u64::try_from(now.realtime.minus(said.at)) {
        Ok(ago_ns) => now.raw.0.checked_sub(ago_ns).map(RawNs),
        Err(_) => Some(now.raw),
    }
}

/// What the thread needs.
pub struct Follow {
    pub files: Vec<PathBuf>,
    /// Where it is written down how far they were read.
    pub places: PathBuf,
    pub epoch: CurrentEpoch,
    pub clock: Arc<dyn Clock>,
    pub exports: SyncSender<Export>,
    pub counters: Arc<AlertCounters>,
}

/// Follows the files on a thread of its own until `stop`.
///
/// # Errors
/// When there is no thread to be had.
pub fn start(follow: Follow, stop: Arc<AtomicBool>) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("alerts".into()).spawn(move || Work::new(follow).run(&stop))
}

struct Work {
    follow: Follow,
    tails: Vec<(Tail, bool)>,
    places: Places,
    batch: Vec<Alert>,
    stored: (Sender<()>, Receiver<()>),
    counted: Happened,
}

/// The spool is gone: the agent is stopping.
struct Gone;

impl Work {
    fn new(follow: Follow) -> Work {
        let places = Places::load(follow.places.clone());
        let tail = |path: &PathBuf| (Tail::new(path.clone(), places.get(path)), true);
        let tails = follow.files.iter().map(tail).collect();
        let counted = Happened::default();
        Work { follow, tails, places, batch: Vec::new(), stored: mpsc::channel(), counted }
    }

    fn run(mut self, stop: &AtomicBool) {
        let mut looks = 0;
        loop {
            // What was written until now is read before the end.
            let ending = stop.load(Ordering::Relaxed);
            let taken = self.follow.counters.taken.load(Ordering::Relaxed);
            let Ok(more) = self.look() else { return };
            looks += 1;
            let news = self.follow.counters.taken.load(Ordering::Relaxed) != taken;
            if news || ending || looks % SAVE_EVERY_LOOKS == 0 {
                self.save();
            }
            if ending {
                return;
            }
            if !more {
                std::thread::sleep(LOOK_EVERY);
            }
        }
    }

    /// One look at each file. Whether there is more to read at once.
    fn look(&mut self) -> Result<bool, Gone> {
        let mut any = false;
        for at in 0..self.tails.len() {
            // Of one look: what is read now was written a moment ago.
            let now = self.follow.clock.bracket();
            let Work { follow, tails, batch, .. } = self;
            let (tail, readable) = &mut tails[at];
            let looked = tail.look(&mut |line| {
                let Some(said) = follow.counters.read(line) else { return };
                match raw_of(&said, &now) {
                    Some(raw) => {
                        follow.counters.taken.fetch_add(1, Ordering::Relaxed);
                        batch.push(said.alert(raw, now.raw));
                    }
                    None => {
                        follow.counters.before_boot.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
            let path = tail.path().display();
            match looked {
                Ok(more) => {
                    any |= more;
                    if !std::mem::replace(readable, true) {
                        tracing::info!(%path, "alerts can be read again");
                    }
                }
                Err(error) => {
                    if std::mem::replace(readable, false) {
                        tracing::error!(%path, %error, "alerts cannot be read: they are not joined until this is mended");
                    }
                }
            }
            self.hand_over()?;
        }
        self.count();
        Ok(any)
    }

    /// Puts what was read into the spool and waits until it is there: only then may it not be read again.
    fn hand_over(&mut self) -> Result<(), Gone> {
        while !self.batch.is_empty() {
            let rest = self.batch.split_off(self.batch.len().min(BATCH_MAX));
            let alerts = std::mem::replace(&mut self.batch, rest);
            let body = Exported::Alerts(AlertBatch { alerts, stored: self.stored.0.clone() });
            let epoch = self.follow.epoch.get();
            let export = Export { worker: 0, interface: Arc::from(""), epoch, body };
            self.follow.exports.send(export).map_err(|_| Gone)?;
            self.stored.1.recv().map_err(|_| Gone)?;
        }
        Ok(())
    }

    fn count(&mut self) {
        let mut sum = Happened::default();
        for (tail, _) in &self.tails {
            sum.too_long += tail.happened.too_long;
            sum.half += tail.happened.half;
            sum.truncated += tail.happened.truncated;
        }
        let counters = &self.follow.counters;
        counters.too_long.fetch_add(sum.too_long - self.counted.too_long, Ordering::Relaxed);
        counters.half.fetch_add(sum.half - self.counted.half, Ordering::Relaxed);
        counters.truncated.fetch_add(sum.truncated - self.counted.truncated, Ordering::Relaxed);
        let unreadable = self.tails.iter().filter(|(_, readable)| !readable).count();
        counters.unreadable.store(unreadable as u64, Ordering::Relaxed);
        self.counted = sum;
    }

    fn save(&mut self) {
        let places = self.tails.iter().filter_map(|(tail, _)| Some((tail.path().to_owned(), tail.place()?)));
        if let Err(error) = self.places.save(places) {
            tracing::warn!(%error, "cannot write down how far alerts were read: a restart reads some again");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::sync::mpsc::sync_channel;

    use gnomon_clock::{EpochId, KernelClock, UtcNs};
    use gnomon_flow::timestamp::rfc3339;

    use super::*;

    fn line(at: UtcNs, sid: u64) -> String {
        format!(
            "{{\"timestamp\":\"{}\",\"event_type\":\"alert\",\"src_ip\":\"10.0.0.1\",\"src_port\":1,\"dest_ip\":\"10.0.0.2\",\
             \"dest_port\":2,\"proto\":\"UDP\",\"alert\":{{\"signature_id\":{sid}}}}}\n",
            rfc3339(at)
        )
    }

    struct Running {
        exports: Receiver<Export>,
        counters: Arc<AlertCounters>,
        stop: Arc<AtomicBool>,
        thread: JoinHandle<()>,
    }

    impl Running {
        fn start(dir: &std::path::Path) -> Running {
            let (sender, exports) = sync_channel(1);
            let epoch = EpochId { agent: [1; 16], boot_id: [2; 16], opened: RawNs(0) };
            let counters = Arc::new(AlertCounters::default());
            let follow = Follow {
                files: vec![dir.join("eve.json")],
                places: dir.join("alerts"),
                epoch: CurrentEpoch::new(epoch),
                clock: Arc::new(KernelClock),
                exports: sender,
                counters: Arc::clone(&counters),
            };
            let stop = Arc::new(AtomicBool::new(false));
            Running { exports, counters, thread: start(follow, Arc::clone(&stop)).unwrap(), stop }
        }

        /// The next alerts; `keep`: they get into the spool.
        fn next(&self, keep: bool) -> Vec<Alert> {
            let export = self.exports.recv_timeout(Duration::from_secs(10)).unwrap();
            let Exported::Alerts(AlertBatch { alerts, stored }) = export.body else { panic!("no alerts") };
            if keep {
                stored.send(()).unwrap();
            }
            alerts
        }

        fn stop(self) -> [(&'static str, u64); 8] {
            self.stop.store(true, Ordering::Relaxed);
            drop(self.exports);
            self.thread.join().unwrap();
            self.counters.lines()
        }
    }

    #[test]
    fn alerts_are_handed_over_within_200_ms_as_readings_of_the_packets_clock() {
        let dir = tempfile::tempdir().unwrap();
        let running = Running::start(dir.path());
        std::thread::sleep(Duration::from_millis(150));
        let mut file = File::create(dir.path().join("eve.json")).unwrap();
        let written = KernelClock.bracket();
        write!(file, "{}nonsense\n{{\"event_type\":\"flow\"}}\n", line(written.realtime, 7)).unwrap();
        let alerts = running.next(true);
        let took_ms = KernelClock.raw().since(written.raw) / 1_000_000;
        assert!(took_ms < 400, "{took_ms} ms");
        assert_eq!((alerts.len(), alerts[0].signature_id), (1, 7));
        // The time of the line has nanoseconds here.
        assert!(alerts[0].at.0.abs_diff(written.raw.0) < 1_000_000, "{alerts:?} {written:?}");
        assert!(alerts[0].read > alerts[0].at);
        let lines = running.stop();
        assert_eq!(lines[..3], [("taken", 1), ("other_event", 1), ("bad_json", 1)]);
    }

    #[test]
    fn what_is_not_in_the_spool_is_read_again_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = File::create(dir.path().join("eve.json")).unwrap();
        let now = KernelClock.bracket().realtime;
        file.write_all(line(now, 1).as_bytes()).unwrap();
        let running = Running::start(dir.path());
        std::thread::sleep(Duration::from_millis(250));
        file.write_all(line(now, 2).as_bytes()).unwrap();
        assert_eq!(running.next(true)[0].signature_id, 2);
        std::thread::sleep(Duration::from_millis(50));
        file.write_all(line(now, 3).as_bytes()).unwrap();
        // As if the agent was killed with it on its way.
        assert_eq!(running.next(false)[0].signature_id, 3);
        drop(running);
        let running = Running::start(dir.path());
        assert_eq!(running.next(true).iter().map(|alert| alert.signature_id).collect::<Vec<_>>(), [3]);
        running.stop();
    }

    #[test]
    fn times_are_turned_as_the_clocks_stand_to_each_other() {
        let now = Bracket {
            raw: RawNs(1_000_000_000),
            half_width_ns: 1,
            realtime: UtcNs::from_unix_ns(1_700_000_000_000_000_000),
        };
        let said = |ago_ns: i64| {
            let text = line(now.realtime.saturating_add_ns(-ago_ns), 1);
            Said::parse(text.as_bytes()).unwrap().unwrap()
        };
        assert_eq!(raw_of(&said(250_000_000), &now), Some(RawNs(750_000_000)));
        assert_eq!(raw_of(&said(-5_000_000_000), &now), Some(now.raw));
        assert_eq!(raw_of(&said(1_000_000_001), &now), None);
    }
}
