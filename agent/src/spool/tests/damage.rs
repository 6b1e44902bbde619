//! Every byte of a spool's files flipped, every length cut, files renamed and copied: what is whole is delivered once, what
//! is not is counted.

use super::*;

const ENTRIES: u64 = 12;

/// A spool of a process that ended in order or not, in a directory of its own.
fn written(in_order: bool) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (spool, mut appender, reader) = open_in(&limits(dir.path(), 1 << 30, 500));
    for n in 1..=ENTRIES {
        let lane = if n % 3 == 0 { Lane::Slices } else { Lane::Flows };
        appender.append(lane, &epoch(1), 3, &payload(n));
    }
    if in_order {
        drop((spool, appender, reader));
        return dir;
    }
    // As a kill leaves it: without the last seals. The ledger has what the last sync noted.
    let killed = tempfile::tempdir().unwrap();
    copy(dir.path(), killed.path());
    drop((spool, appender, reader));
    fs::copy(dir.path().join("ledger"), killed.path().join("ledger")).unwrap();
    killed
}

fn payload(n: u64) -> Vec<u8> {
    vec![n as u8; 90 + n as usize]
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// What is delivered of the spool in `dir`, now and behind a restart.
fn delivered(dir: &Path) -> (Vec<u64>, SpoolStatus) {
    let limits = limits(dir, 1 << 30, 500);
    let (spool, appender, mut reader) = open_in(&limits);
    let mut seqs = Vec::new();
    while let Some(entry) = reader.next_entry() {
        assert_eq!((entry.epoch, &entry.payload), (epoch(1), &payload(entry.seq)));
        seqs.push(entry.seq);
    }
    spool.ack(&epoch(1), *seqs.last().unwrap_or(&0), None);
    let status = spool.status();
    drop((spool, appender, reader));
    let (_spool, _appender, mut reader) = open_in(&limits);
    assert_eq!(reader.next_entry(), None, "delivered twice");
    (seqs, status)
}

/// Each entry is delivered once or counted once; at most `lost_max` are lost.
fn check(what: &str, dir: &Path, lost_max: u64) {
    let (seqs, status) = delivered(dir);
    assert!(seqs.is_sorted_by(|a, b| a < b), "{what}: {seqs:?}");
    let lost = ENTRIES - seqs.len() as u64;
    assert!(lost <= lost_max, "{what}: {seqs:?}");
    assert_eq!(status.damaged.entries + status.missing, lost, "{what}: {status:?}");
}

/// Which entries lie beyond `len` in a file.
fn beyond(file: &Path, len: u64) -> u64 {
    let file = File::open(file).unwrap();
    let format = segment::FileHeader::read(&file).unwrap().unwrap().format();
    let bytes = file.metadata().unwrap().len();
    let segment = SegmentFile { file, format };
    let (mut at, mut beyond) = (segment::FILE_HEADER_BYTES, 0);
    while let Ok(Step::Entry(header)) = segment.step(at, bytes) {
        at += header.entry_bytes();
        beyond += u64::from(at > len);
    }
    beyond
}

#[test]
fn every_flipped_byte_costs_no_more_than_its_entry_and_is_counted() {
    for in_order in [true, false] {
        let spool = written(in_order);
        assert!(files(spool.path()).len() >= 4);
        for file in files(spool.path()) {
            let bytes = fs::read(&file).unwrap();
            for at in 0..bytes.len() {
                // Payloads are all alike.
                if at > 300 && at % 7 != 0 {
                    continue;
                }
                let damaged = tempfile::tempdir().unwrap();
                copy(spool.path(), damaged.path());
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << (at % 8);
                fs::write(damaged.path().join(file.file_name().unwrap()), flipped).unwrap();
                check(&format!("{} byte {at}, in order {in_order}", file.display()), damaged.path(), 1);
            }
        }
    }
}

#[test]
fn every_cut_costs_what_was_behind_it_and_is_counted() {
    for in_order in [true, false] {
        let spool = written(in_order);
        for file in files(spool.path()) {
            let bytes = fs::metadata(&file).unwrap().len();
            for len in 0..bytes {
                if len > 300 && len % 7 != 0 {
                    continue;
                }
                let cut = tempfile::tempdir().unwrap();
                copy(spool.path(), cut.path());
                let name = cut.path().join(file.file_name().unwrap());
                File::options().write(true).open(&name).unwrap().set_len(len).unwrap();
                check(&format!("{} cut to {len}", file.display()), cut.path(), beyond(&file, len));
            }
        }
    }
}

#[test]
fn a_file_that_is_gone_is_missed() {
    let spool = written(true);
    for file in files(spool.path()) {
        let gone = tempfile::tempdir().unwrap();
        copy(spool.path(), gone.path());
        fs::remove_file(gone.path().join(file.file_name().unwrap())).unwrap();
        check(&format!("{} gone", file.display()), gone.path(), beyond(&file, 0));
    }
    let gone = tempfile::tempdir().unwrap();
    fs::copy(spool.path().join("ledger"), gone.path().join("ledger")).unwrap();
    check("all gone", gone.path(), ENTRIES);
}

#[test]
fn misnamed_files_are_read_and_copies_are_not() {
    for name in [
        "flows-12.spool",
        "flows-0000000000000001.spool.bak",
        "slices-0000000000000077.spool",
        "x",
        "flows-0000000000000900.spool",
    ] {
        let spool = written(true);
        for file in files(spool.path()) {
            let renamed = tempfile::tempdir().unwrap();
            copy(spool.path(), renamed.path());
            fs::rename(renamed.path().join(file.file_name().unwrap()), renamed.path().join(name)).unwrap();
            check(&format!("{} is {name}", file.display()), renamed.path(), 0);
            let copied = tempfile::tempdir().unwrap();
            copy(spool.path(), copied.path());
            fs::copy(&file, copied.path().join(name)).unwrap();
            check(&format!("{} is {name} too", file.display()), copied.path(), 0);
        }
    }
    // Two that have each other's names.
    let spool = written(true);
    let files = files(spool.path());
    let aside = spool.path().join("aside");
    fs::rename(&files[0], &aside).unwrap();
    fs::rename(&files[1], &files[0]).unwrap();
    fs::rename(&aside, &files[1]).unwrap();
    check("exchanged", spool.path(), 0);
}

#[test]
fn what_cannot_be_read_is_kept_said_and_goes_first_when_room_is_needed() {
    let spool = written(true);
    let file = &files(spool.path())[0];
    let bytes = fs::metadata(file).unwrap().len();
    fs::write(file, vec![0x5A; bytes as usize]).unwrap();
    fs::write(spool.path().join("notes.txt"), "of somebody").unwrap();
    let small = limits(spool.path(), 16 << 10, 500);
    let (handle, mut appender, mut reader) = open_in(&small);
    let status = handle.status();
    assert_eq!((status.set_aside_files, status.set_aside_bytes, status.strangers), (1, bytes, 1));
    let aside = file.with_extension("spool.damaged");
    assert!(aside.exists());
    while reader.next_entry().is_some() {}
    handle.ack(&epoch(1), ENTRIES, None);
    drop((handle, appender, reader));
    let (handle, again, _reader) = open_in(&small);
    appender = again;
    assert!(aside.exists(), "kept over a restart");
    while handle.status().set_aside_files > 0 {
        appender.append(Lane::Slices, &epoch(2), 1, &[1; 300]);
    }
    assert!(!aside.exists());
    assert_eq!(handle.status().sacrificed_slices.entries, 0, "before anything else");
    assert!(spool.path().join("notes.txt").exists());
}

#[test]
fn a_file_with_damage_is_set_aside_once_the_rest_of_it_was_delivered() {
    let spool = written(true);
    let file = &files(spool.path())[0];
    let mut bytes = fs::read(file).unwrap();
    bytes[200] ^= 1;
    fs::write(file, bytes).unwrap();
    let (_, status) = delivered(spool.path());
    assert_eq!((status.damaged.entries, status.set_aside_files), (1, 1), "{status:?}");
    assert!(file.with_extension("spool.damaged").exists());
}

/// A spool that an earlier version wrote, the header of one of its files damaged.
#[test]
fn a_damaged_header_of_version_1_is_guessed_from_other_files() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir().unwrap();
    for (number, first) in [(1, 1), (2, 4)] {
        let header = segment::FileHeader::old(Lane::Flows, number, epoch(1), 7);
        let mut bytes = header.encode().to_vec();
        for seq in first..first + 3 {
            bytes.extend(segment::entry_v1(&header, seq, &payload(seq)));
        }
        fs::write(dir.path().join(segment::file_name(Lane::Flows, number)), bytes).unwrap();
    }
    let file = File::options().write(true).open(&files(dir.path())[1]).unwrap();
    file.write_all_at(&[0xFF; 80], 0).unwrap();
    let (seqs, status) = delivered(dir.path());
    assert_eq!((seqs, status.damaged.entries), ((1..=6).collect(), 0));
}

#[test]
fn the_files_are_private_whatever_they_were() {
    use std::os::unix::fs::PermissionsExt;
    let spool = written(true);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    fs::set_permissions(spool.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for file in files(spool.path()) {
        fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
    }
    let (_spool, mut appender, _reader) = open_in(&limits(spool.path(), 1 << 30, 500));
    appender.append(Lane::Flows, &epoch(2), 1, b"new");
    assert_eq!(mode(spool.path()), 0o700);
    for entry in fs::read_dir(spool.path()).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}
