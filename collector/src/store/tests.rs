//! The store as its callers see it: what a commit promises, after crashes, full disks, damage and new evidence of time.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use gnomon_clock::{RawNs, UtcNs};
use gnomon_flow::{EpochHash, FlowId, FlowRef, StoredFlow, TimeState};

use super::testing::{
    FakeClock, LIMITS, NOW, S, change, epoch, fix, fixes, flows, gate, open, record, settle, slices,
};
use super::{Body, Content, Limits, ScanKey, Span, Store, StoreError, StoreStatus, keys};

fn scan(store: &Store, span: Span, newest_first: bool) -> Vec<StoredFlow> {
    store.scan(span, newest_first, None).map(|item| item.unwrap().1).collect()
}

fn ids(flows: &[StoredFlow]) -> Vec<u64> {
    flows.iter().map(|flow| flow.record.id.0).collect()
}

fn at(s: i64) -> UtcNs {
    UtcNs::from_tai_ns(NOW + s * S.cast_signed())
}

fn span(since_s: i64, until_s: i64) -> Span {
    Span { since: at(since_s), until: at(until_s), by_ingest: false }
}

const BY_INGEST: Span = Span { by_ingest: true, ..Span::ALL };

#[test]
fn what_is_acknowledged_is_found_by_time_by_id_and_by_its_packets_also_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let clock = FakeClock::new();
    let (store, mut writer) = open(dir.path(), &clock);
    let mut changes = store.subscribe();
    let e = epoch(1);
    let committed = writer
        .commit(&[
            fixes(e, vec![fix(100, 200)]),
            flows(e, 1, vec![record(5, 1, 10 * S, 12 * S), record(6, 1, 11 * S, 11 * S)]),
            slices(e, 2, &[5, 6], 10 * S, "packet"),
        ])
        .unwrap();
    assert_eq!(committed[2].durable_seq, Some(2));
    let (tap_1, tap_2) = (changes.try_recv().unwrap(), changes.try_recv().unwrap());
    assert_eq!(ids(&[(*tap_1).clone(), (*tap_2).clone()]), [5, 6]);

    let check = |store: &Store| {
        assert_eq!(ids(&scan(store, Span::ALL, true)), [6, 5]);
        assert_eq!(ids(&scan(store, Span::ALL, false)), [5, 6]);
        let flow = &scan(store, Span::ALL, false)[0];
        assert_eq!(flow.first.unwrap().utc, at(-190));
        assert_eq!((&*flow.origin.agent_name, &*flow.origin.interface), ("sensor", "eth0"));
        assert_eq!(flow.origin.epoch, e);
        assert_eq!(store.get(flow.id()).unwrap().as_ref(), Some(flow));
        // Any part inside counts; both ends are exact.
        assert_eq!(ids(&scan(store, span(-188, 0), false)), [5]);
        assert_eq!(ids(&scan(store, span(-187, 0), false)), [0u64; 0]);
        assert_eq!(ids(&scan(store, span(-300, -189), false)), [5]);
        assert_eq!(ids(&scan(store, span(-300, -190), false)), [0u64; 0]);
        assert_eq!(ids(&scan(store, BY_INGEST, false)), [5, 6]);
        let places = store.slices_of(EpochHash::of(&e), FlowId(6)).unwrap();
        assert_eq!(places.len(), 1);
        let block = store.read_block(&places[0]).unwrap();
        let packets: Vec<_> = gnomon_flow::slice::packets(&block).map(|p| p.unwrap()).collect();
        assert_eq!((packets.len(), packets[1].flow, packets[1].data), (2, FlowId(6), &b"packet"[..]));
        assert_eq!(store.interface_of(&places[0]).unwrap(), "eth0");
        let status = store.status().unwrap();
        assert_eq!((status.flows, status.slice_packets), (2, 2));
        assert_eq!((status.oldest_flow, status.newest_flow), (Some(at(-190)), Some(at(-189))));
        assert_eq!(status.oldest_packet, Some(at(-190)));
    };
    check(&store);
    drop((store, writer));
    let (store, _writer) = open(dir.path(), &clock);
    check(&store);
    assert_eq!(store.durable(gnomon_flow::AgentId(e.agent)).unwrap(), [(e, 2)]);
}

#[test]
fn the_same_entries_again_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut writer) = open(dir.path(), &FakeClock::new());
    let e = epoch(1);
    let group = [
        fixes(e, vec![fix(100, 200)]),
        flows(e, 1, vec![record(5, 1, 10 * S, 12 * S)]),
        slices(e, 2, &[5], 10 * S, "packet"),
    ];
    writer.commit(&group).unwrap();
    let status = |store: &Store| StoreStatus { disk_free_bytes: 0, ..store.status().unwrap() };
    let before = (scan(&store, BY_INGEST, false), status(&store));
    // A whole session again, the end of one overlapping the beginning of the next, and one entry twice in a group.
    for again in [&group[..], &group[1..2], &[group[2].clone(), group[1].clone(), group[1].clone()][..]] {
        let committed = writer.commit(again).unwrap();
        for (change, committed) in again.iter().zip(committed) {
            assert_eq!(committed.durable_seq, Some(2));
            assert_eq!(committed.duplicate, matches!(change.body, Body::Entry { .. }));
        }
    }
    assert_eq!(before, (scan(&store, BY_INGEST, false), status(&store)));
    assert_eq!(store.slices_of(EpochHash::of(&e), FlowId(5)).unwrap().len(), 1);
    // Of another agent's epoch, the same numbers are other entries.
    writer.commit(&[flows(epoch(2), 1, vec![record(5, 1, 10 * S, 12 * S)])]).unwrap();
    assert_eq!(store.status().unwrap().flows_pending, 1);
}

#[test]
fn a_higher_revision_replaces_a_lower_one_is_ignored_within_and_across_groups() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut writer) = open(dir.path(), &FakeClock::new());
    let e = epoch(1);
    let group = [
        fixes(e, vec![fix(100, 200)]),
        flows(
            e,
            1,
            vec![record(5, 1, 10 * S, 12 * S), record(5, 3, 9 * S, 14 * S), record(5, 2, 10 * S, 13 * S)],
        ),
    ];
    assert_eq!(writer.commit(&group).unwrap()[1].stale, 1);
    let revisions = |store: &Store| -> Vec<u32> {
        scan(store, Span::ALL, true).iter().map(|f| f.record.revision).collect()
    };
    assert_eq!(revisions(&store), [3]);
    let committed = writer.commit(&[flows(e, 2, vec![record(5, 2, 8 * S, 15 * S)])]).unwrap();
    assert_eq!((committed[0].stale, committed[0].records), (1, 0));
    assert_eq!(revisions(&store), [3]);
    writer.commit(&[flows(e, 3, vec![record(5, 4, 8 * S, 15 * S)])]).unwrap();
    assert_eq!(revisions(&store), [4]);
    assert_eq!(scan(&store, BY_INGEST, true).len(), 1);
    assert_eq!(store.status().unwrap().flows, 1);
}

#[test]
fn a_record_without_evidence_waits_in_sight_and_is_indexed_when_a_fix_comes() {
    let dir = tempfile::tempdir().unwrap();
    let clock = FakeClock::new();
    let (store, mut writer) = open(dir.path(), &clock);
    let e = epoch(1);
    // More than one run of the walk.
    let records: Vec<_> = (0..1500).map(|n| record(n, 1, (n + 1) * 1000, (n + 2) * 1000)).collect();
    writer.commit(&[flows(e, 1, records)]).unwrap();
    assert_eq!(scan(&store, Span::ALL, true).len(), 0);
    let held = scan(&store, BY_INGEST, false);
    assert_eq!(held.len(), 1500);
    assert_eq!((held[0].time_state, held[0].first), (TimeState::Pending, None));
    assert_eq!(store.get(held[0].id()).unwrap().as_ref(), Some(&held[0]));
    assert_eq!(store.status().unwrap().flows_pending, 1500);

    // A revision of a record that waits replaces it.
    writer.commit(&[flows(e, 2, vec![record(0, 2, 1000, 3000)])]).unwrap();
    assert_eq!(store.status().unwrap().flows_pending, 1500);

    // A crash before the walk is done: the next open goes on.
    writer.commit(&[fixes(e, vec![fix(1, 100)])]).unwrap();
    assert!(writer.settle().unwrap());
    drop((store, writer));
    let (store, mut writer) = open(dir.path(), &clock);
    settle(&mut writer);
    assert_eq!(scan(&store, Span::ALL, true).len(), 1500);
    let status = store.status().unwrap();
    assert_eq!((status.flows, status.flows_pending), (1500, 0));
    assert!(scan(&store, BY_INGEST, true).iter().all(|f| f.time_state == TimeState::Indexed));
    let first =
        store.get(FlowRef { epoch: EpochHash::of(&e), flow: FlowId(0), segment: 0 }).unwrap().unwrap();
    assert_eq!(first.record.revision, 2);
}

#[test]
fn nothing_ahead_of_the_collector_is_indexed_before_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let clock = FakeClock::new();
    let (store, mut writer) = open(dir.path(), &clock);
    let e = epoch(1);
    // RAW 100 s was 100 s ago; the record claims to be half a second and nine hours ahead.
    writer
        .commit(&[
            fixes(e, vec![fix(100, 200)]),
            flows(
                e,
                1,
                vec![record(1, 1, 200 * S + S / 2, 200 * S + S / 2), record(2, 1, 32_600 * S, 32_600 * S)],
            ),
        ])
        .unwrap();
    assert_eq!(scan(&store, Span::ALL, true).len(), 0);
    let status = store.status().unwrap();
    assert_eq!(status.flows_pending + status.flows_quarantined, 2);
    clock.advance(5 * S);
    writer.commit(&[fixes(e, vec![fix(201, 200)])]).unwrap();
    writer.tick();
    settle(&mut writer);
    assert_eq!(ids(&scan(&store, Span::ALL, true)), [1]);
}

#[test]
fn records_move_when_their_time_turns_out_to_be_another() {
    let dir = tempfile::tempdir().unwrap();
    let clock = FakeClock::new();
    let (store, mut writer) = open(dir.path(), &clock);
    let e = epoch(1);
    let wrong = gnomon_clock::Fix { source: gnomon_clock::FixSource::Kernel, ..fix(100, 4000) };
    writer
        .commit(&[
            fixes(e, vec![wrong]),
            flows(e, 1, (0..700).map(|n| record(n, 1, 100 * S + n, 101 * S)).collect()),
        ])
        .unwrap();
    assert_eq!(scan(&store, span(-3950, -3850), true).len(), 700);
    // A proven collector's word counts for more than the agent's own clock.
    writer.commit(&[fixes(e, vec![fix(101, 200)])]).unwrap();
    settle(&mut writer);
    assert_eq!(scan(&store, span(-3950, -3850), true).len(), 0);
    assert_eq!(scan(&store, span(-101, 0), true).len(), 700);
    assert_eq!(store.status().unwrap().flows, 700);
    assert_eq!(scan(&store, BY_INGEST, true).len(), 700);
}

#[test]
fn a_scan_goes_on_behind_a_key_in_both_directions() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut writer) = open(dir.path(), &FakeClock::new());
    let e = epoch(1);
    let records = (0..300).map(|n| record(n, 1, (10 + n % 40) * S, 60 * S)).collect();
    writer.commit(&[fixes(e, vec![fix(100, 200)]), flows(e, 1, records)]).unwrap();
    for newest_first in [false, true] {
        for by_ingest in [false, true] {
            let span = Span { by_ingest, ..Span::ALL };
            let all = ids(&scan(&store, span, newest_first));
            assert_eq!(all.len(), 300);
            let mut paged = Vec::new();
            let mut after: Option<ScanKey> = None;
            loop {
                let page: Vec<_> = store
                    .scan(span, newest_first, after.as_ref())
                    .take(7)
                    .map(|item| item.unwrap())
                    .collect();
                let Some((key, _)) = page.last() else { break };
                after = ScanKey::from_bytes(key.as_bytes());
                paged.extend(page.iter().map(|(_, flow)| flow.record.id.0));
            }
            assert_eq!(paged, all);
        }
    }
    assert_eq!(ScanKey::from_bytes(b"nonsense"), None);
}

#[test]
fn a_store_of_a_newer_version_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let clock = FakeClock::new();
    let (store, writer) = open(dir.path(), &clock);
    let mut batch = super::rocks::Batch::default();
    batch.put(keys::Family::Meta, keys::META_FORMAT, super::envelope::numbers([99]));
    store.shared.rocks.write(&batch, true).unwrap();
    drop((store, writer));
    let error = super::open(dir.path(), &gate(&clock), LIMITS).err().unwrap();
    assert!(matches!(error, StoreError::Newer { found: 99, .. }));
    assert!(error.to_string().contains("newer gnomon-collector"), "{error}");
}

/// Whoever gave it a family that is new to another version would take it away from that one.
#[test]
fn a_database_with_families_of_another_version_is_left_as_it_is() {
    let clock = FakeClock::new();
    let families = |dir: &Path| {
        let mut names = super::rocks::Rocks::families_of(&dir.join("db"));
        names.sort_unstable();
        names
    };
    let made = |names: &[&str], format: u64| {
        let dir = tempfile::tempdir().unwrap();
        super::rocks::make_with(&dir.path().join("db"), names, keys::META_FORMAT, &format.to_le_bytes());
        dir
    };

    let newer = made(&["columns", "blocks", "meta", "auras"], 2);
    let before = families(newer.path());
    let error = super::open(newer.path(), &gate(&clock), LIMITS).err().unwrap();
    assert!(matches!(&error, StoreError::NewerFamilies { families, .. } if families == "auras"), "{error}");
    for word in ["newer gnomon-collector", "auras", "restore"] {
        assert!(error.to_string().contains(word), "{word:?} is not in: {error}");
    }
    assert_eq!(families(newer.path()), before);

    // The families of format 1, as they were.
    let names =
        ["flows", "held", "flow_index", "by_ingest", "slices", "segments", "epochs", "ledger", "meta"];
    let older = made(&names, 1);
    let before = families(older.path());
    let error = super::open(older.path(), &gate(&clock), LIMITS).err().unwrap();
    assert!(matches!(error, StoreError::Older { found: 1, .. }), "{error}");
    for word in ["data_dir", "gnomon export"] {
        assert!(error.to_string().contains(word), "{word:?} is not in: {error}");
    }
    assert_eq!(families(older.path()), before);
}

#[test]
fn the_oldest_packets_go_first_and_flows_after_them() {
    let dir = tempfile::tempdir().unwrap();
    let clock = FakeClock::new();
    let limits = Limits { packets_bytes_max: 3 << 20, ..LIMITS };
    let (store, mut writer) = super::open(dir.path(), &gate(&clock), limits).unwrap();
    let e = epoch(1);
    // Text that does not compress.
    let mut state = 1u64;
    let mut noise = || -> String {
        (0..200_000)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                char::from(33 + (state >> 58) as u8)
            })
            .collect()
    };
    writer.commit(&[fixes(e, vec![fix(100, 200)])]).unwrap();
    for seq in 1..=40 {
        writer.commit(&[slices(e, seq, &[seq], seq * S, &noise())]).unwrap();
    }
    let status = store.status().unwrap();
    assert!(status.slice_bytes <= limits.packets_bytes_max + (2 << 20), "{status:?}");
    assert!(status.slice_packets < 40);
    let kept: Vec<u64> =
        (1..=40).filter(|n| !store.slices_of(EpochHash::of(&e), FlowId(*n)).unwrap().is_empty()).collect();
    assert_eq!(kept.len() as u64, status.slice_packets);
    assert_eq!(kept.last(), Some(&40));
    assert!(kept.windows(2).all(|w| w[1] == w[0] + 1), "only the oldest go: {kept:?}");
    drop((store, writer));
    let (store, _writer) = super::open(dir.path(), &gate(&clock), limits).unwrap();
    assert_eq!(store.status().unwrap().slice_packets, status.slice_packets);

    drop((store, _writer));
    let limits = Limits { flows_bytes_max: 0, ..limits };
    let (store, mut writer) = super::open(dir.path(), &gate(&clock), limits).unwrap();
    let records = (0..12_000).map(|n| record(n, 1, 10 * S + n, 20 * S)).collect();
    writer.commit(&[flows(e, 100, records), flows(epoch(2), 1, vec![record(1, 1, 1, 2)])]).unwrap();
    clock.advance(11 * S);
    writer.commit(&[flows(e, 101, vec![])]).unwrap();
    let status = store.status().unwrap();
    let left = scan(&store, BY_INGEST, true).len() as u64;
    // All that are indexed made one block, and the oldest block goes; the one that waits was not concerned.
    assert_eq!(left, 1);
    assert_eq!(status.flows + status.flows_pending, left);
}

/// Mounts a small file system and takes it away again.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(mib: u32) -> Option<SmallDisk> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "gnomon-test"])
            .arg(dir.path())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(SmallDisk(dir));
        }
        eprintln!("SKIPPED: cannot mount a tmpfs (not root?)");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_stops_the_writer_before_it_writes_and_it_goes_on_when_there_is_room() {
    let Some(disk) = SmallDisk::new(64) else { return };
    let clock = FakeClock::new();
    let limits = Limits { free_bytes_min: 16 << 20, flows_bytes_kept: 1 << 30, ..LIMITS };
    let (store, mut writer) = super::open(&disk.0.path().join("store"), &gate(&clock), limits).unwrap();
    let e = epoch(1);
    writer.commit(&[fixes(e, vec![fix(100, 200)]), flows(e, 1, vec![record(1, 1, S, S)])]).unwrap();
    let filler = disk.0.path().join("filler");
    std::fs::write(&filler, vec![1; 50 << 20]).unwrap();
    let group = [flows(e, 2, vec![record(2, 1, S, S)])];
    for _ in 0..3 {
        let error = writer.commit(&group).unwrap_err();
        assert!(matches!(error, StoreError::Full { .. }), "{error}");
    }
    assert_eq!(ids(&scan(&store, Span::ALL, false)), [1], "readers go on");
    std::fs::write(disk.0.path().join("more"), vec![1; 1 << 20]).unwrap();
    let another = super::open(&disk.0.path().join("another"), &gate(&clock), limits).err();
    assert!(matches!(another, Some(StoreError::NoRoom { .. })), "{another:?}");
    std::fs::remove_file(filler).unwrap();
    assert_eq!(writer.commit(&group).unwrap()[0].durable_seq, Some(2));
    assert_eq!(ids(&scan(&store, Span::ALL, false)), [1, 2]);
}

/// The reserve is only a habit of ours: others may take the last byte.
#[test]
fn no_space_in_the_middle_of_a_write_loses_nothing() {
    let Some(disk) = SmallDisk::new(256) else { return };
    let clock = FakeClock::new();
    let limits = Limits { free_bytes_min: 0, ..LIMITS };
    let path = disk.0.path().join("store");
    let (store, mut writer) = super::open(&path, &gate(&clock), limits).unwrap();
    let e = epoch(1);
    writer.commit(&[fixes(e, vec![fix(100, 200)])]).unwrap();
    let filler = disk.0.path().join("filler");
    let fill = || {
        let mut file = std::fs::File::create(&filler).unwrap();
        while std::io::Write::write_all(&mut file, &[1; 1 << 16]).is_ok() {}
        while std::io::Write::write_all(&mut file, &[1; 256]).is_ok() {}
    };
    let (mut seq, mut state) = (0u64, 1u64);
    // Who hits the wall first: the segment file, or (without slices) the database's log.
    let mut stored = 0;
    let mut sliced = Vec::new();
    for round in 0..2u64 {
        fill();
        let failures = store.status().unwrap().write_failures;
        // Whoever the writer tells makes room, as an operator does: a write of the database waits for that.
        let (watched, room) = (store.clone(), filler.clone());
        let watch = std::thread::spawn(move || {
            for _ in 0..1200 {
                if watched.status().unwrap().stopped.is_some() {
                    std::fs::remove_file(&room).unwrap();
                    return;
                }
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
        });
        let mut failed = None;
        for _ in 0..400 {
            seq += 1;
            let mut noise = move || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                state >> 3
            };
            let noisy = |n: u64| {
                let mut record = record(seq * 1000 + n, 1, S, S);
                for field in 0..8 {
                    record.attributes.text(
                        gnomon_flow::FieldId(1000 + field),
                        &(0..50).map(|_| noise().to_string()).collect::<String>(),
                    );
                }
                record
            };
            let records: Vec<_> = (0..50).map(noisy).collect();
            stored += 50;
            let mut group = vec![flows(e, 2 * seq, records)];
            if round % 2 == 0 {
                sliced.push(seq);
                group.push(slices(e, 2 * seq + 1, &[seq * 1000], S, "packet"));
            }
            if let Err(error) = writer.commit(&group) {
                failed = Some((Some(group), error.to_string()));
                writer.set_stopped(Some(error.to_string()));
                break;
            }
            if store.status().unwrap().write_failures > failures {
                failed = Some((None, "the database waited".to_owned()));
                break;
            }
            // Blocks are made on a full disk too, or not, and nothing comes of it.
            if seq % 32 == 0 {
                let _ = writer.settle();
            }
        }
        let (group, error) = failed.expect("a full disk must fail some write");
        eprintln!("round {round}: {error}");
        watch.join().unwrap();
        writer.set_stopped(None);
        // As the ingest thread does: again, until it works.
        let mut tries = 0;
        while let Some(error) = group.as_ref().and_then(|group| writer.commit(group).err()) {
            tries += 1;
            assert!(tries < 400, "never recovered: {error}");
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        eprintln!("round {round}: went on after {tries} tries");
    }
    let check = |store: &Store| {
        assert_eq!(scan(store, Span::ALL, false).len(), stored);
        for n in &sliced {
            let places = store.slices_of(EpochHash::of(&e), FlowId(n * 1000)).unwrap();
            assert_eq!(places.len(), 1);
            store.read_block(&places[0]).unwrap();
        }
    };
    check(&store);
    drop((store, writer));
    let (store, _writer) = super::open(&path, &gate(&clock), limits).unwrap();
    check(&store);
}

#[test]
fn an_entry_that_means_nothing_only_moves_the_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut writer) = open(dir.path(), &FakeClock::new());
    let e = epoch(1);
    let entry = change(e, Body::Entry { seq: 9, content: Content::Unreadable });
    assert_eq!(writer.commit(&[entry]).unwrap()[0].durable_seq, Some(9));
    assert_eq!(store.estimate(EpochHash::of(&e), RawNs(1)).unwrap(), None);
    assert_eq!(store.epoch(EpochHash::of(&e)).unwrap(), Some((e, "sensor".to_owned())));
}

const KILL_DIR: &str = "GNOMON_TEST_KILL_DIR";

/// Not a test by itself: the process that `what_was_acknowledged_survives_sigkill` kills.
#[test]
#[ignore = "a process that other tests start"]
fn kill_child() {
    let Ok(dir) = std::env::var(KILL_DIR) else { return };
    let (store, mut writer) = open(Path::new(&dir), &FakeClock::new());
    let e = epoch(1);
    let durable = store.durable(gnomon_flow::AgentId(e.agent)).unwrap();
    let mut seq = durable.first().map_or(0, |(_, seq)| *seq) / 2;
    writer.commit(&[fixes(e, vec![fix(100, 200)])]).unwrap();
    loop {
        let records = (0..20).map(|n| record(seq * 100 + n, 1, S + seq, 2 * S)).collect();
        let group = [flows(e, 2 * seq + 1, records), slices(e, 2 * seq + 2, &[seq * 100], S, "packet")];
        writer.commit(&group).unwrap();
        println!("\nacked {seq}");
        seq += 1;
    }
}

#[test]
fn what_was_acknowledged_survives_sigkill() {
    let dir = tempfile::tempdir().unwrap();
    let e = EpochHash::of(&epoch(1));
    let mut acked = 0;
    for round in 0..8u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::tests::kill_child", "--ignored", "--nocapture", "--test-threads=1"])
            .env(KILL_DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let seqs = lines.map_while(Result::ok).filter_map(|l| l.strip_prefix("acked ")?.parse::<u64>().ok());
        for seq in seqs.take(5 + (round * 7 % 11) as usize) {
            if acked == 0 {
                let refused = super::verify(dir.path(), &mut |_| {});
                assert!(matches!(refused, Err(StoreError::InUse { .. })), "{refused:?}");
            }
            acked = seq;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(super::verify(dir.path(), &mut |_| {}).unwrap().damage, [], "round {round}");

        let (store, writer) = open(dir.path(), &FakeClock::new());
        let flows = scan(&store, Span::ALL, false);
        assert!(flows.len() as u64 >= (acked + 1) * 20, "round {round}: {} of {acked}", flows.len());
        let mut found = ids(&flows);
        found.sort_unstable();
        found.dedup();
        assert_eq!(found.len(), flows.len(), "twice in one answer");
        assert_eq!(store.status().unwrap().flows, flows.len() as u64);
        for seq in 0..=acked {
            let places = store.slices_of(e, FlowId(seq * 100)).unwrap();
            assert_eq!(places.len(), 1, "round {round}: packets of {seq}");
            store.read_block(&places[0]).unwrap();
        }
        drop((store, writer));
    }
    assert!(acked > 20);
}
