//! The commands `backup` and `restore`: the data of a collector, running or not, copied elsewhere and checked there.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use gnomon_daemon::exit::WithHint;
use indicatif::{ProgressBar, ProgressStyle};

use crate::store::{self, Hold, Report, Snapshot, StoreError};
use crate::verify;

/// A snapshot takes as long as writing what the database has in memory.
const PATIENCE: Duration = Duration::from_secs(120);

/// Copies the store in `dir` to `to`, which must be empty, and checks the copy. Blocking.
///
/// # Errors
/// When it cannot be copied or the copy not be checked.
pub fn backup(dir: &Path, to: &Path) -> anyhow::Result<Report> {
    match Hold::take(dir) {
        Ok(_held) => copy(dir, to)?,
        Err(StoreError::InUse { .. }) => {
            empty(to)?;
            let snapshot = Snapshot::ask(dir, PATIENCE)?;
            copy(snapshot.path(), to)?;
        }
        Err(error) => return Err(error.into()),
    }
    verify::check(to)
}

/// Copies a backup (or the store of a stopped collector) to `to`, which must be empty, and checks the copy. Blocking.
///
/// # Errors
/// As [`backup`].
pub fn restore(from: &Path, to: &Path) -> anyhow::Result<Report> {
    let _held = Hold::take(from)?;
    copy(from, to)?;
    verify::check(to)
}

fn empty(to: &Path) -> anyhow::Result<()> {
    match std::fs::read_dir(to).map(|mut there| there.next().is_none()) {
        Ok(true) => Ok(()),
        Ok(false) => Err(anyhow::anyhow!("{} is not empty", to.display()))
            .hint("nothing is overwritten: name a directory that is empty or not there yet"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", to.display())),
    }
}

/// The database goes last: without it there is no store, so that a copy that was broken off is none.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    empty(to)?;
    let bar = ProgressBar::new(store::size_of(from));
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} copied, {eta} left") {
        bar.set_style(style);
    }
    for part in ["segments", "db"] {
        let (from, to) = (from.join(part), to.join(part));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&to)
            .with_context(|| format!("cannot create {}", to.display()))?;
        let files = std::fs::read_dir(&from).with_context(|| format!("cannot read {}", from.display()))?;
        for file in files {
            let file = file.with_context(|| format!("cannot read {}", from.display()))?;
            let name = file.file_name();
            // The lock and the log of the process that has it open.
            if part == "db" && (name == "LOCK" || name.as_encoded_bytes().starts_with(b"LOG")) {
                continue;
            }
            if !file.file_type().is_ok_and(|kind| kind.is_file()) {
                bail!("{} is no file", file.path().display());
            }
            let to = to.join(name);
            let copied = std::fs::copy(file.path(), &to).and_then(|bytes| {
                File::open(&to)?.sync_all()?;
                Ok(bytes)
            });
            bar.inc(
                copied
                    .with_context(|| format!("cannot copy {} to {}", file.path().display(), to.display()))?,
            );
        }
        File::open(&to)
            .and_then(|dir| dir.sync_all())
            .with_context(|| format!("cannot sync {}", to.display()))?;
    }
    bar.finish_and_clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::store::testing::{self, FakeClock, S, change, epoch, fix, fixes, flows, record, slices};
    use crate::store::{Body, Span, Store, Writer};
    use gnomon_flow::{EpochHash, FlowId};

    /// One flow with one packet.
    fn ingest(writer: &mut Writer, n: u64) {
        let records = vec![record(n, 0, S + n, 2 * S + n)];
        writer.commit(&[flows(epoch(1), 2 * n + 1, records)]).unwrap();
        writer.commit(&[slices(epoch(1), 2 * n + 2, &[n], S + n, &format!("packet {n}"))]).unwrap();
    }

    /// What a store answers of the flow: its record's id, and its packets.
    fn answers(store: &Store) -> Vec<(String, Vec<Vec<u8>>)> {
        let found = store.scan(Span::ALL, false, None).map(|found| {
            let flow = found.unwrap().1;
            let places = store.slices_of(EpochHash::of(&epoch(1)), FlowId(flow.record.id.0)).unwrap();
            let blocks = places.iter().map(|at| store.read_block(at).unwrap()).collect();
            (flow.id().to_string(), blocks)
        });
        found.collect()
    }

    #[test]
    fn a_backup_beside_ingest_answers_as_the_store_did() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        let clock = FakeClock::new();
        let (store, mut writer) = testing::open(&path("data"), &clock);
        let evidence = fixes(epoch(1), vec![fix(0, 100), fix(50, 100)]);
        writer.commit(&[change(epoch(1), Body::Hello), evidence]).unwrap();
        let stop = AtomicBool::new(false);
        let (report, known) = std::thread::scope(|scope| {
            let (data, backup, stop) = (path("data"), path("backup"), &stop);
            let asker = scope.spawn(move || {
                let snapshot = Snapshot::ask(&data, PATIENCE);
                let copied = snapshot.map(|snapshot| copy(snapshot.path(), &backup).unwrap());
                stop.store(true, Ordering::Release);
                copied.unwrap();
                verify::check(&backup).unwrap()
            });
            let (mut n, mut known) = (0, None);
            while !stop.load(Ordering::Acquire) {
                ingest(&mut writer, n);
                n += 1;
                if writer.answer_snapshot() {
                    known = Some((n as usize, answers(&store)));
                }
            }
            (asker.join().unwrap(), known.expect("a snapshot was made"))
        });
        assert_eq!(report.damage, []);
        let (n, known) = known;
        assert_eq!(known.len(), n);
        assert!(!path("data").join("snapshot").exists(), "it was taken away");
        let report = restore(&path("backup"), &path("restored")).unwrap();
        assert_eq!((report.damaged, report.frames), (0, n as u64));
        let (restored, mut again) = testing::open(&path("restored"), &clock);
        assert_eq!(answers(&restored), known);
        // What came after the snapshot is sent again by its agent, or was lost with the disk: both go on from here.
        ingest(&mut again, n as u64);
        assert_eq!(answers(&restored).len(), n + 1);
    }

    #[test]
    fn nothing_is_overwritten_and_no_store_is_no_backup() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        let (_, writer) = testing::open(&path("data"), &FakeClock::new());
        writer.close().unwrap();
        backup(&path("data"), &path("backup")).unwrap();
        let error = backup(&path("data"), &path("backup")).unwrap_err().to_string();
        assert!(error.contains("is not empty"), "{error}");
        std::fs::remove_file(path("backup/db/CURRENT")).unwrap();
        let error = restore(&path("backup"), &path("restored")).unwrap_err().to_string();
        assert!(error.contains("holds no store"), "{error}");
        assert!(!path("restored").exists());
    }

    #[test]
    fn a_snapshot_that_cannot_be_made_says_why() {
        let root = tempfile::tempdir().unwrap();
        let (_, mut writer) = testing::open(root.path(), &FakeClock::new());
        std::fs::write(root.path().join("snapshot.request"), b"").unwrap();
        std::fs::remove_dir_all(root.path().join("segments")).unwrap();
        writer.answer_snapshot();
        let told = std::fs::read_to_string(root.path().join("snapshot.failed")).unwrap();
        assert!(told.contains("segments"), "{told}");
        assert!(!root.path().join("snapshot").exists() && !root.path().join("snapshot.new").exists());
        assert!(!root.path().join("snapshot.request").exists(), "it is not tried again and again");
    }
}
