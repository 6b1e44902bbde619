//! A disk that is gone: what is captured is sent from memory, bounded, and goes to the disk when that works again.

use super::*;

/// A directory that takes no new files, until [`Gone::back`].
struct Gone {
    dir: PathBuf,
    aside: PathBuf,
}

impl Gone {
    /// Takes the spool's directory away and puts a file in its place.
    fn begin(dir: &Path) -> Gone {
        let gone = Gone { dir: dir.to_owned(), aside: dir.with_extension("aside") };
        fs::rename(dir, &gone.aside).unwrap();
        fs::write(dir, "no directory").unwrap();
        gone
    }

    fn back(&self) {
        fs::remove_file(&self.dir).unwrap();
        fs::rename(&self.aside, &self.dir).unwrap();
    }
}

fn small(dir: &Path) -> Limits {
    // An entry a file: each needs a new one.
    Limits { memory_bytes_max: 64 << 10, segment_bytes: 1, ..limits(dir, 1 << 30, 1) }
}

#[test]
fn entries_are_sent_from_memory_while_the_disk_takes_none_and_written_when_it_does() {
    let above = tempfile::tempdir().unwrap();
    let dir = above.path().join("spool");
    let (spool, mut appender, mut reader) = open_in(&small(&dir));
    appender.append(Lane::Flows, &epoch(1), 1, b"before");
    assert_eq!(reader.next_entry().unwrap().payload, b"before");
    spool.ack(&epoch(1), 1, None);
    let gone = Gone::begin(&dir);
    for n in 2..=20u64 {
        let lane = if n % 2 == 0 { Lane::Flows } else { Lane::Slices };
        assert_eq!(appender.append(lane, &epoch(1), 1, &[n as u8; 100]), Appended::Stored(n));
    }
    let status = spool.status();
    assert!(status.error.unwrap().contains("cannot write"));
    assert_eq!(status.entries, 19);
    for n in 2..=10u64 {
        let entry = reader.next_entry().unwrap();
        assert_eq!((entry.seq, entry.payload), (n, vec![n as u8; 100]));
    }
    // Handed out, and not acknowledged to the end.
    spool.ack(&epoch(1), 8, None);
    assert_eq!(spool.status().entries, 12);
    gone.back();
    assert!(matches!(appender.append(Lane::Flows, &epoch(1), 1, b"after"), Appended::Stored(21)));
    let status = spool.status();
    assert_eq!((status.error, status.memory_bytes, status.entries), (None, 0, 13));
    assert_eq!(all_seqs(&mut reader), (11..=21).collect::<Vec<_>>());
    reader.rewind();
    assert_eq!(all_seqs(&mut reader), (9..=21).collect::<Vec<_>>());
    drop((spool, appender, reader));
    let (spool, _appender, mut reader) = open_in(&small(&dir));
    assert_eq!(all_seqs(&mut reader), (9..=21).collect::<Vec<_>>());
    assert_eq!((spool.status().missing, spool.status().damaged.entries), (0, 0));
}

#[test]
fn memory_is_bounded_and_what_finds_no_room_is_counted_slices_first() {
    let above = tempfile::tempdir().unwrap();
    let dir = above.path().join("spool");
    let (spool, mut appender, mut reader) = open_in(&small(&dir));
    let gone = Gone::begin(&dir);
    let mut given = [0u64; 2];
    for n in 0..300 {
        let lane = if n % 10 == 0 { Lane::Flows } else { Lane::Slices };
        appender.put(lane, &epoch(1), 1, &[n as u8; 400], None);
        given[lane.index()] += 1;
        assert!(spool.status().memory_bytes <= 64 << 10);
    }
    let status = spool.status();
    assert_eq!(status.sacrificed_flows.entries, 0, "flows go last");
    assert!(status.sacrificed_slices.entries > 50);
    let lanes: Vec<Lane> = std::iter::from_fn(|| reader.next_entry()).map(|entry| entry.lane).collect();
    let count = |lane: Lane| lanes.iter().filter(|l| **l == lane).count() as u64;
    // What was written before the disk was noticed to be gone counts too.
    assert_eq!(count(Lane::Flows), given[0]);
    assert_eq!(count(Lane::Slices) + status.sacrificed_slices.entries, given[1]);
    gone.back();
}

#[test]
fn the_end_does_not_wait_for_a_disk_that_says_no() {
    let above = tempfile::tempdir().unwrap();
    let dir = above.path().join("spool");
    let (spool, mut appender, _reader) = open_in(&small(&dir));
    let gone = Gone::begin(&dir);
    appender.append(Lane::Flows, &epoch(1), 1, b"x");
    let clock = KernelClock;
    let before = clock.monotonic();
    drop(appender);
    assert!(clock.monotonic().since(before) < 5_000_000_000);
    assert_eq!((spool.entries_in_memory(), spool.is_drained()), (1, false));
    gone.back();
}

#[test]
fn a_spool_on_a_disk_that_is_read_only_is_read_and_goes_on_in_memory() {
    let Some(disk) = Tmpfs::mount(4 << 20) else { return };
    let dir = disk.0.path().join("spool");
    let remount = |how: &str| {
        let done = Command::new("mount").args(["-o", how]).arg(disk.0.path()).status().unwrap();
        assert!(done.success(), "{how}");
    };
    let (spool, mut appender, reader) = open_in(&small(&dir));
    for _ in 0..10 {
        appender.append(Lane::Flows, &epoch(1), 1, &[1; 100]);
    }
    drop((spool, appender, reader));
    remount("remount,ro");
    let (spool, mut appender, mut reader) = open_in(&small(&dir));
    assert_eq!(all_seqs(&mut reader), (1..=10).collect::<Vec<_>>());
    assert_eq!(appender.append(Lane::Slices, &epoch(2), 1, &[2; 100]), Appended::Stored(1));
    let entry = reader.next_entry().unwrap();
    assert_eq!((entry.epoch, entry.seq), (epoch(2), 1));
    spool.ack(&epoch(1), 10, None);
    spool.ack(&epoch(2), 1, None);
    assert!(spool.is_drained() && spool.status().error.is_some());
    remount("remount,rw");
    appender.append(Lane::Flows, &epoch(2), 1, &[3; 100]);
    assert_eq!((spool.status().error, spool.status().memory_bytes), (None, 0));
}
