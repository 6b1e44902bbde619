//! A store of a killed collector, damaged in every file at many places: what was acknowledged is there, or what is missing is
//! said and the rest is there, or the start is refused with what to do.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::testing::{
    FakeClock, LIMITS, S, change, epoch, fix, fixes, flows, gate, open, record, seal, slices,
};
use super::{Body, Claimed, Span, Store, StoreError, Writer, verify};
use gnomon_flow::{AgentId, EpochHash, FlowId};

/// Groups of one flow and one block of packets.
const GROUPS: u64 = 60;

/// Entries of group `n`.
fn group(n: u64) -> Vec<super::Change> {
    let records = vec![record(n, 0, S + n, 2 * S + n)];
    vec![
        flows(epoch(1), 2 * n + 1, records),
        slices(epoch(1), 2 * n + 2, &[n], S + n, &format!("packet {n}")),
    ]
}

/// A store with blocks, table files, a log and packets, as a kill leaves it.
fn killed(dir: &Path) {
    let clock = FakeClock::new();
    let (store, mut writer) = open(dir, &clock);
    writer
        .commit(&[change(epoch(1), Body::Hello), fixes(epoch(1), vec![fix(0, 100), fix(50, 100)])])
        .unwrap();
    for n in 0..GROUPS {
        writer.commit(&group(n)).unwrap();
        match n {
            10 | 20 => seal(&mut writer),
            15 | 25 | 30 => {
                writer.copy_changed().unwrap();
                store.shared.rocks.flush().unwrap();
                store.shared.rocks.note_files();
            }
            _ => {}
        }
    }
    drop((store, writer));
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

/// The flows that are found, those with packets, and whether everything was read.
fn served(store: &Store) -> (BTreeSet<u64>, BTreeSet<u64>) {
    let page = store
        .page(Span::ALL, true, None, &super::scan::Everything, 100_000, &|| super::Stop::GoOn, &mut |_| true)
        .unwrap();
    let mut flows = BTreeSet::new();
    for (_, flow) in &page.flows {
        assert!(flows.insert(flow.record.id.0), "flow {} is there twice", flow.record.id.0);
    }
    let has_packets = |n: &u64| {
        let places = store.slices_of(EpochHash::of(&epoch(1)), FlowId(*n)).unwrap_or_default();
        let read = places.iter().filter(|at| store.read_block(at).is_ok()).count();
        assert!(read <= 1, "packets of flow {n} are there {read} times");
        read == 1
    };
    (flows, (0..GROUPS).filter(has_packets).collect())
}

fn try_open(dir: &Path) -> Result<(Store, Writer), StoreError> {
    super::open(dir, &gate(&FakeClock::new()), LIMITS)
}

/// All of the agent's entries from behind what is durable, as one sends them that still has them.
fn send_again(store: &Store, writer: &mut Writer, acknowledged: u64) {
    let agent = AgentId(epoch(1).agent);
    let unknown =
        store.claim(agent, &Claimed { epochs: vec![(epoch(1), acknowledged)], acked_by: 0 }).unwrap();
    let durable = store.durable(agent).unwrap().into_iter().find(|(id, _)| *id == epoch(1));
    let durable = durable.map_or(0, |(_, seq)| seq);
    assert!(unknown.is_empty() || durable == 0);
    writer
        .commit(&[change(epoch(1), Body::Hello), fixes(epoch(1), vec![fix(0, 100), fix(50, 100)])])
        .unwrap();
    for n in (0..GROUPS).filter(|n| 2 * n + 2 > durable) {
        writer.commit(&group(n)).unwrap();
    }
}

/// Damages a copy of the store by `damage`, and looks at what becomes of it.
fn check(good: &Path, file: &Path, what: &str, damage: impl FnOnce(&Path)) {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("store");
    copy_dir(good, &dir);
    let what = format!("{} {what}", file.display());
    damage(&dir.join(file));
    // Neither the database's own text files nor its lock hold anything.
    let matters = !["LOG", "LOCK", "IDENTITY", "OPTIONS"]
        .iter()
        .any(|name| file.file_name().unwrap().to_string_lossy().starts_with(name));
    let all: BTreeSet<u64> = (0..GROUPS).collect();
    let all_packets = all.clone();
    // The check must not panic, whatever there is.
    let report = verify(&dir, &mut |_| {});
    let (store, mut writer) = match try_open(&dir) {
        Ok(opened) => opened,
        Err(error) => {
            assert!(matters, "{what}: {error}");
            assert!(error.advice().len() > 20, "{what}: {error}");
            assert!(
                report.map_or(true, |report| report.damaged > 0),
                "{what}: verify found nothing: {error}"
            );
            return;
        }
    };
    let (flows, packets) = served(&store);
    let status = store.status().unwrap();
    if flows != all || packets != all_packets {
        let missing: Vec<_> = all.difference(&flows).collect();
        let unsent: Vec<_> = all_packets.difference(&packets).collect();
        let damage = status.damage();
        assert!(
            damage.is_some(),
            "{what}: flows {missing:?} packets {unsent:?} are missing and nobody says so"
        );
        assert!(report.is_ok_and(|report| report.damaged > 0), "{what}: verify found nothing: {damage:?}");
        assert!(flows.len() > 20, "{what}: {missing:?} are missing: {damage:?}");
    }
    send_again(&store, &mut writer, 2 * GROUPS);
    let (again, packets_again) = served(&store);
    assert!(again.is_superset(&flows) && packets_again.is_superset(&packets), "{what}");
    if file.extension().is_some_and(|kind| kind == "log") {
        assert_eq!((again, packets_again), (all, all_packets), "{what}: agents sent again what the log lost");
        let status = store.status().unwrap();
        assert_eq!((status.entries_missing, status.entries_lost), (0, 0), "{what}");
    }
    // And once more: nothing is lost by another start.
    let before = served(&store);
    writer.close().unwrap();
    drop(store);
    let (store, writer) = try_open(&dir).unwrap_or_else(|error| panic!("{what}: a second start: {error}"));
    assert_eq!(served(&store), before, "{what}: a second start");
    drop((store, writer));
}

fn flip(at: u64) -> impl FnOnce(&Path) {
    move |path| {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[at as usize] ^= 0x10;
        std::fs::write(path, bytes).unwrap();
    }
}

fn cut(len: u64) -> impl FnOnce(&Path) {
    move |path| std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(len).unwrap()
}

/// Every file, flipped and cut at `places` places, emptied, and taken away.
fn everywhere(places: u64, wanted: impl Fn(&Path) -> bool) {
    let root = tempfile::tempdir().unwrap();
    let good = root.path().join("good");
    killed(&good);
    let mut checked = 0;
    for path in files(&good).into_iter().filter(|path| wanted(path)) {
        let file = path.strip_prefix(&good).unwrap();
        let len = path.metadata().unwrap().len();
        for place in 0..places.min(len) {
            let at = place * len / places.min(len);
            check(&good, file, &format!("flipped at {at} of {len}"), flip(at));
            check(&good, file, &format!("cut at {at} of {len}"), cut(at));
            checked += 2;
        }
        check(&good, file, "is gone", |path| std::fs::remove_file(path).unwrap());
        checked += 1;
    }
    assert!(checked > 0);
    println!("{checked} damages");
}

/// GNOMON_DAMAGES=10 for ten times as many.
fn places(few: u64) -> u64 {
    few * std::env::var("GNOMON_DAMAGES").ok().and_then(|times| times.parse().ok()).unwrap_or(1)
}

fn kind(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().into_owned()
}

#[test]
fn damage_of_the_log_is_counted_and_made_good_by_agents() {
    everywhere(places(16), |path| kind(path) == "log");
}

#[test]
fn damage_of_table_files_costs_what_is_in_them_and_is_said() {
    everywhere(places(3), |path| kind(path) == "sst");
}

#[test]
fn damage_of_what_names_files_is_mended_or_refused() {
    everywhere(places(5), |path| !["log", "sst", "seg"].contains(&kind(path).as_str()));
}

#[test]
fn damage_of_packets_is_said() {
    everywhere(places(5), |path| kind(path) == "seg");
}

#[test]
fn an_empty_database_is_not_taken_for_the_one_that_was_there() {
    let root = tempfile::tempdir().unwrap();
    for emptied in [&["db"][..], &["db", "high-water"], &["db", "manifest.copy"]] {
        let dir = root.path().join(emptied.join("-"));
        killed(&dir);
        for name in emptied {
            let path = dir.join(name);
            if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) }.unwrap();
        }
        let before = files(&dir);
        let error = try_open(&dir).err().expect("refused");
        assert!(matches!(error, StoreError::NotWhole { .. }), "{emptied:?}: {error}");
        assert!(error.advice().contains("restore"), "{error}");
        assert_eq!(files(&dir), before, "nothing was changed");
    }
}

#[test]
fn what_is_acknowledged_is_settled_soon_and_said() {
    let dir = tempfile::tempdir().unwrap();
    let clock = FakeClock::new();
    let (store, mut writer) = open(dir.path(), &clock);
    let hash = EpochHash::of(&epoch(1));
    let changes = store.settling();
    writer.commit(&group(0)).unwrap();
    assert_eq!((store.settled_seq(hash, 2), store.settled_seq(EpochHash(9), 7)), (0, 7));
    clock.advance(21 * S);
    writer.commit(&group(1)).unwrap();
    // What came with or after that group is not in the files that were begun.
    for _ in 0..500 {
        if changes.has_changed().unwrap() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(store.settled_seq(hash, 4), 2);
    assert!(!store.shared.rocks.files_of(super::keys::Family::Ledger).is_empty());
}
