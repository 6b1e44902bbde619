//! The spool as a whole, on a real directory: a model under random use and crashes, each known corruption, a full disk.

use std::collections::BTreeMap;
use std::process::Command;

use gnomon_clock::KernelClock;
use proptest::prelude::*;

use super::*;

mod damage;
mod ledgers;
mod trouble;

fn limits(dir: &Path, bytes_max: u64, segment_bytes: u64) -> Limits {
    Limits {
        dir: dir.to_owned(),
        bytes_max,
        segment_bytes,
        free_bytes_min: 0,
        free_percent_min: 0,
        memory_bytes_max: 64 << 20,
        sync_interval: Duration::from_secs(1),
        when_full: WhenFull::Sacrifice,
    }
}

fn epoch(n: u64) -> EpochId {
    EpochId { agent: [7; 16], boot_id: [8; 16], opened: RawNs(n) }
}

fn open_in(limits: &Limits) -> (Spool, Appender, Reader) {
    open(limits.clone(), Arc::new(KernelClock)).unwrap()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "spool"));
    files.sort();
    files
}

fn all_seqs(reader: &mut Reader) -> Vec<u64> {
    std::iter::from_fn(|| reader.next_entry()).map(|entry| entry.seq).collect()
}

#[test]
fn entries_of_both_lanes_come_out_in_the_order_of_their_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, mut appender, mut reader) = open_in(&limits(dir.path(), 1 << 30, 4096));
    for n in 0..100u64 {
        let lane = if n % 3 == 0 { Lane::Slices } else { Lane::Flows };
        let payload = vec![n as u8; 200];
        assert_eq!(appender.append(lane, &epoch(1), 2, &payload), Appended::Stored(n + 1));
    }
    for n in 0..100u64 {
        let entry = reader.next_entry().unwrap();
        assert_eq!((entry.epoch, entry.seq, entry.items), (epoch(1), n + 1, 2));
        assert_eq!(entry.payload, vec![n as u8; 200]);
        assert_eq!(entry.crc, crc32c::crc32c(&entry.payload));
    }
    assert_eq!(reader.next_entry(), None);
    assert_eq!((spool.status().entries, spool.status().items), (100, 200));
    spool.ack(&epoch(1), 100, None);
    assert!(spool.is_drained());
    assert_eq!(files(dir.path()).len(), 2, "only the open segments are left");
}

#[test]
fn what_was_acknowledged_is_gone_after_a_restart_and_the_rest_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let limits = limits(dir.path(), 1 << 30, 2048);
    let (spool, mut appender, mut reader) = open_in(&limits);
    for _ in 0..50 {
        appender.append(Lane::Flows, &epoch(1), 1, &[1; 300]);
    }
    assert_eq!(all_seqs(&mut reader).len(), 50);
    spool.ack(&epoch(1), 33, None);
    assert_eq!(spool.status().entries, 17);
    // Numbers that were never given out cannot be acknowledged.
    spool.ack(&epoch(9), 10, None);
    drop((spool, appender, reader));
    let (spool, mut appender, mut reader) = open_in(&limits);
    assert_eq!(spool.status().entries, 17);
    appender.append(Lane::Flows, &epoch(2), 1, &[1; 300]);
    let expected: Vec<u64> = (34..=50).chain([1]).collect();
    assert_eq!(all_seqs(&mut reader), expected);
    // A second reader after a lost connection gets the same again.
    reader.rewind();
    assert_eq!(all_seqs(&mut reader), expected);
    // The collector may know more than the ledger does.
    reader.rewind();
    spool.ack(&epoch(1), 40, None);
    assert_eq!((spool.status().entries, spool.status().damaged), (11, Sacrificed::default()));
    assert_eq!(all_seqs(&mut reader), (41..=50).chain([1]).collect::<Vec<_>>());
}

#[test]
fn a_full_spool_gives_up_slices_then_flows_and_counts_each() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, mut appender, mut reader) = open_in(&limits(dir.path(), 64 << 10, 4096));
    let mut kept = Vec::new();
    for _ in 0..200 {
        for (lane, items) in [(Lane::Slices, 10), (Lane::Flows, 3)] {
            kept.push((lane, items, appender.append(lane, &epoch(1), items, &[5; 500])));
        }
        assert!(spool.status().bytes <= 64 << 10);
    }
    let status = spool.status();
    let on_disk: u64 = files(dir.path()).iter().map(|f| f.metadata().unwrap().len()).sum();
    assert_eq!(on_disk, status.bytes);
    assert!(status.sacrificed_slices.entries > 0 && status.sacrificed_flows.entries > 0);
    assert_eq!(status.sacrificed_slices.items, status.sacrificed_slices.entries * 10);
    assert_eq!(status.sacrificed_flows.items, status.sacrificed_flows.entries * 3);
    let read: Vec<SpoolEntry> = std::iter::from_fn(|| reader.next_entry()).collect();
    let count = |lane| read.iter().filter(|e| e.lane == lane).count() as u64;
    assert_eq!(count(Lane::Flows) + status.sacrificed_flows.entries, 200);
    assert_eq!(count(Lane::Slices) + status.sacrificed_slices.entries, 200);
    // Flows were touched only after no slices were left but the ones that came last.
    assert!(count(Lane::Slices) <= 2 * 4096 / 540);
}

#[test]
fn what_is_under_way_counts_as_given_up_only_when_it_did_not_arrive() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, mut appender, mut reader) = open_in(&limits(dir.path(), 16 << 10, 2048));
    appender.append(Lane::Slices, &epoch(1), 7, &[1; 100]);
    appender.append(Lane::Slices, &epoch(1), 7, &[1; 100]);
    assert_eq!(reader.next_entry().unwrap().seq, 1);
    assert_eq!(reader.next_entry().unwrap().seq, 2);
    let mut flows = 0;
    while spool.status().oldest.is_some()
        && files(dir.path()).iter().any(|f| f.to_str().unwrap().contains("slices"))
    {
        appender.append(Lane::Flows, &epoch(1), 1, &[2; 500]);
        flows += 1;
    }
    assert!(flows > 10);
    assert_eq!(spool.status().sacrificed_slices.entries, 0);
    spool.ack(&epoch(1), 1, None);
    reader.rewind();
    assert_eq!(spool.status().sacrificed_slices, Sacrificed { entries: 1, items: 7 });
}

#[test]
fn damage_costs_its_entries_is_counted_and_the_rest_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let limits = limits(dir.path(), 1 << 30, 4096);
    let (spool, mut appender, mut reader) = open_in(&limits);
    for _ in 0..60 {
        appender.append(Lane::Flows, &epoch(1), 2, &[9; 260]);
    }
    drop((spool, appender));
    let files = files(dir.path());
    let damage = |file: &PathBuf, at: u64| {
        use std::os::unix::fs::FileExt;
        let file = File::options().write(true).open(file).unwrap();
        file.write_all_at(b"\xff\xff\xff\xff", at).unwrap();
    };
    // Eleven entries of 356 bytes a file: a payload of the first, a header of the second, the header of the third.
    damage(&files[0], 80 + 356 + 100);
    damage(&files[1], 80 + 712 + 2);
    damage(&files[2], 20);
    drop(reader);
    let (spool, appender, mut again) = open_in(&limits);
    let seqs = all_seqs(&mut again);
    let expected: Vec<u64> = (1..=60).filter(|n| *n != 2 && *n != 14).collect();
    assert_eq!(seqs, expected);
    assert_eq!((spool.status().damaged.entries, spool.status().missing), (1 + 1, 0));
    spool.ack(&epoch(1), 60, None);
    assert!(spool.is_drained());
    drop((spool, appender, again));
    assert_eq!(all_seqs(&mut open_in(&limits).2), Vec::<u64>::new());
    reader = open_in(&limits).2;
    assert_eq!(reader.next_entry(), None);
}

#[test]
fn a_spool_that_waits_gives_nothing_up() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { when_full: WhenFull::Wait, ..limits(dir.path(), 32 << 10, 2048) };
    let (spool, mut appender, mut reader) = open_in(&limits);
    let writer = std::thread::spawn(move || {
        for _ in 0..500 {
            appender.append(Lane::Slices, &epoch(1), 1, &[3; 400]);
        }
    });
    let mut last = 0;
    while last < 500 {
        match reader.next_entry() {
            Some(entry) => {
                assert_eq!(entry.seq, last + 1);
                last = entry.seq;
                spool.ack(&epoch(1), last, None);
            }
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    writer.join().unwrap();
    assert_eq!(spool.status().sacrificed_slices.entries, 0);
}

#[test]
fn a_new_entry_is_readable_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, mut appender, mut reader) = open_in(&limits(dir.path(), 1 << 30, 1 << 20));
    let clock = KernelClock;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut worst_ns = 0;
    for n in 0..20 {
        let before = clock.monotonic();
        let writer = std::thread::spawn(move || {
            appender.append(Lane::Flows, &epoch(1), 1, &[n; 1000]);
            appender
        });
        runtime.block_on(spool.readable());
        assert_eq!(reader.next_entry().unwrap().payload[0], n);
        worst_ns = worst_ns.max(clock.monotonic().since(before));
        appender = writer.join().unwrap();
    }
    println!("append → read, worst of 20: {} µs", worst_ns / 1000);
    assert!(worst_ns < 100_000_000, "{worst_ns}");
}

/// Not a test: the process that the next test kills. Says the number of each entry once it is stored.
#[test]
#[ignore = "a process that other tests start"]
fn child_process() {
    let Some(dir) = std::env::var_os("GNOMON_TEST_SPOOL_CHILD") else { return };
    let (_spool, mut appender, _reader) = open_in(&limits(Path::new(&dir), 1 << 30, 64 << 10));
    let clock = KernelClock;
    let epoch = epoch(clock.raw().0);
    for n in 1..u64::MAX {
        let lane = if n % 3 == 0 { Lane::Slices } else { Lane::Flows };
        let bytes = 50 + (n as usize * 131) % 4000;
        if let Appended::Stored(seq) = appender.append(lane, &epoch, 1, &vec![n as u8; bytes]) {
            eprintln!("stored {} {seq}", epoch.opened.0);
        }
    }
}

#[test]
fn what_was_stored_survives_sigkill() {
    use std::io::{BufRead, BufReader};
    let dir = tempfile::tempdir().unwrap();
    let mut stored: Vec<(u64, u64)> = Vec::new();
    for round in 0..10u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "spool::tests::child_process", "--ignored", "--nocapture"])
            .env("GNOMON_TEST_SPOOL_CHILD", dir.path())
            .stderr(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let killed_after = 20 + round as usize * 37;
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut note = |line: Option<io::Result<String>>| {
            let line = line?.ok()?;
            let words: Vec<&str> = line.split(' ').collect();
            if let ["stored", epoch, seq] = words[..] {
                stored.push((epoch.parse().unwrap(), seq.parse().ok()?));
            }
            Some(())
        };
        for _ in 0..killed_after {
            note(lines.next());
        }
        child.kill().unwrap();
        while note(lines.next()).is_some() {}
        child.wait().unwrap();
    }
    let (spool, _appender, mut reader) = open_in(&limits(dir.path(), 1 << 30, 64 << 10));
    let mut read: BTreeMap<(u64, u64), usize> = BTreeMap::new();
    let mut last = (0, 0);
    while let Some(entry) = reader.next_entry() {
        let key = (entry.epoch.opened.0, entry.seq);
        assert!(key > last, "in order: {key:?} after {last:?}");
        last = key;
        assert_eq!(entry.payload.len(), 50 + (entry.seq as usize * 131) % 4000);
        assert!(entry.payload.iter().all(|byte| *byte == entry.seq as u8));
        read.insert(key, entry.payload.len());
    }
    assert!(stored.len() > 500, "{}", stored.len());
    let missing: Vec<_> = stored.iter().filter(|key| !read.contains_key(key)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert_eq!(spool.status().damaged, Sacrificed::default());
    println!(
        "{} entries stored before ten kills, {} read, {} torn bytes",
        stored.len(),
        read.len(),
        spool.status().torn_bytes
    );
}

/// A tmpfs of its own, unmounted whatever happens.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn mount(bytes: u64) -> Option<Tmpfs> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={bytes}");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()).output();
        match mount {
            Ok(output) if output.status.success() => Some(Tmpfs(dir)),
            other => {
                println!("SKIPPED: cannot mount a tmpfs (needs root): {other:?}");
                None
            }
        }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

#[test]
fn a_full_disk_is_survived_and_flows_are_kept_longest() {
    let Some(disk) = Tmpfs::mount(1 << 20) else { return };
    let dir = disk.0.path();
    // The budget is larger than the disk, so that only the disk can say no.
    let (spool, mut appender, mut reader) = open_in(&limits(&dir.join("spool"), 1 << 30, 64 << 10));
    let mut given = [0u64; 2];
    for _ in 0..400 {
        for (index, lane) in [(0, Lane::Flows), (1, Lane::Slices)] {
            appender.append(lane, &epoch(1), 1, &[1; 2000]);
            given[index] += 1;
        }
    }
    // Now somebody else fills the disk to the last byte: nothing fits, not even after every sacrifice.
    let status = spool.status();
    assert!(status.sacrificed_slices.entries > 100, "{status:?}");
    let hog = dir.join("hog");
    let mut full = File::create(&hog).unwrap();
    while io::Write::write_all(&mut full, &[0; 4096]).is_ok() {}
    for _ in 0..50 {
        appender.append(Lane::Slices, &epoch(1), 1, &[1; 2000]);
        given[1] += 1;
    }
    while io::Write::write_all(&mut full, &[0; 4096]).is_ok() {}
    appender.append(Lane::Slices, &epoch(1), 1, &[1; 500_000]);
    given[1] += 1;
    assert!(spool.status().error.is_some(), "{:?}", spool.status());
    // The disk has room again: the spool goes on by itself.
    fs::remove_file(&hog).unwrap();
    drop(full);
    let stored = appender.append(Lane::Flows, &epoch(1), 1, &[1; 2000]);
    given[0] += 1;
    assert!(matches!(stored, Appended::Stored(_)), "{:?}", spool.status());
    assert_eq!(spool.status().error, None);
    let read: Vec<Lane> = std::iter::from_fn(|| reader.next_entry()).map(|e| e.lane).collect();
    let count = |lane| read.iter().filter(|l| **l == lane).count() as u64;
    let status = spool.status();
    assert_eq!(count(Lane::Flows) + status.sacrificed_flows.entries, given[0]);
    assert_eq!(count(Lane::Slices) + status.sacrificed_slices.entries, given[1]);
}

#[derive(Clone, Debug)]
enum Op {
    Append {
        slices: bool,
        bytes: u16,
        fill: u8,
    },
    Read(u8),
    /// Acknowledge this share (of 255) of what was handed out.
    Ack(u8),
    Rewind,
    /// Close in order, or be killed with this share of the last file's tail not written.
    Restart {
        torn: Option<u8>,
    },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (any::<bool>(), 0u16..1200, any::<u8>())
            .prop_map(|(slices, bytes, fill)| Op::Append { slices, bytes, fill }),
        4 => (1u8..20).prop_map(Op::Read),
        3 => any::<u8>().prop_map(Op::Ack),
        1 => Just(Op::Rewind),
        1 => prop::option::of(any::<u8>()).prop_map(|torn| Op::Restart { torn }),
    ]
}

/// What must be true of the spool, kept beside it.
#[derive(Default)]
struct Model {
    /// By (epoch, seq): lane and payload of what was stored and not acknowledged.
    entries: BTreeMap<(u64, u64), (Lane, Vec<u8>)>,
    handed: Vec<(u64, u64)>,
    epoch: u64,
}

impl Model {
    fn read(&mut self, reader: &mut Reader) -> bool {
        let expected = match self.handed.last() {
            Some(last) => {
                self.entries.range((std::ops::Bound::Excluded(*last), std::ops::Bound::Unbounded)).next()
            }
            None => self.entries.iter().next(),
        };
        let entry = reader.next_entry();
        let got = entry.as_ref().map(|e| ((e.epoch.opened.0, e.seq), (e.lane, e.payload.clone())));
        assert_eq!(got, expected.map(|(key, value)| (*key, value.clone())));
        self.handed.extend(got.map(|(key, _)| key));
        entry.is_some()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn under_random_use_and_crashes_nothing_is_lost_or_reordered(ops in prop::collection::vec(op(), 1..120)) {
        let dir = tempfile::tempdir().unwrap();
        let limits = limits(dir.path(), 1 << 30, 3000);
        let mut model = Model { epoch: 1, ..Model::default() };
        let (mut spool, mut appender, mut reader) = open_in(&limits);
        for op in ops {
            match op {
                Op::Append { slices, bytes, fill } => {
                    let lane = if slices { Lane::Slices } else { Lane::Flows };
                    let payload = vec![fill; usize::from(bytes)];
                    let Appended::Stored(seq) = appender.append(lane, &epoch(model.epoch), 1, &payload) else {
                        panic!("nothing is full here");
                    };
                    model.entries.insert((model.epoch, seq), (lane, payload));
                }
                Op::Read(count) => {
                    for _ in 0..count {
                        if !model.read(&mut reader) {
                            break;
                        }
                    }
                }
                Op::Ack(share) => {
                    let count = model.handed.len() * usize::from(share) / 255;
                    if let Some((e, seq)) = model.handed.get(count.wrapping_sub(1)).copied() {
                        // Cumulative, one acknowledgement an epoch.
                        for known in 1..=e {
                            let upto = model.handed[..count].iter().rev().find(|(n, _)| *n == known);
                            if let Some((_, upto)) = upto {
                                spool.ack(&epoch(known), *upto, None);
                            }
                        }
                        model.entries.retain(|key, _| *key > (e, seq));
                        model.handed.drain(..count);
                    }
                }
                Op::Rewind => {
                    reader.rewind();
                    model.handed.clear();
                }
                Op::Restart { torn } => {
                    let before = files(dir.path());
                    let lengths: Vec<u64> = before.iter().map(|f| f.metadata().unwrap().len()).collect();
                    drop((spool, appender, reader));
                    if let Some(share) = torn {
                        // As the files were before the seals, the newest one cut inside its last entry.
                        let newest = model.entries.iter().rev().find(|((e, _), _)| *e == model.epoch);
                        let newest = newest.map(|(key, (lane, payload))| (*key, *lane, payload.len()));
                        let lane = newest.map_or(Lane::Flows, |(_, lane, _)| lane);
                        let last = before.iter().rposition(|f| f.to_str().unwrap().contains(lane.name()));
                        for (n, (file, bytes)) in before.iter().zip(&lengths).enumerate() {
                            let Ok(file) = File::options().write(true).open(file) else { continue };
                            let mut keep = *bytes;
                            if Some(n) == last && let Some((key, _, payload)) = newest {
                                let entry = payload as u64 + segment::ENTRY_HEADER_BYTES;
                                keep -= (entry * u64::from(share) / 255).max(1);
                                model.entries.remove(&key);
                            }
                            file.set_len(keep).unwrap();
                        }
                    }
                    (spool, appender, reader) = open_in(&limits);
                    model.handed.clear();
                    model.epoch += 1;
                }
            }
            prop_assert_eq!(spool.status().entries, model.entries.len() as u64);
        }
        reader.rewind();
        model.handed.clear();
        while model.read(&mut reader) {}
        let status = spool.status();
        prop_assert_eq!(status.damaged, Sacrificed::default());
        prop_assert_eq!(status.sacrificed_flows.entries + status.sacrificed_slices.entries, 0);
    }
}
