//! What is done about what a survey found: files are made anew, taken out and set aside, so that RocksDB can open the rest.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::high_water;
use super::keys::Family;
use super::rocks_log;
use super::rocks_manifest::{self, Manifest, file_number, manifest_name, table_name};
use super::rocks_open::CURRENT;
use super::rocks_survey::{Problem, Survey, at, read_bounded};
use super::rocks_wal;
use super::set_aside::SetAside;
use super::{StoreError, directory};

/// Logs that are being replayed, and the list of files of before: they are set aside when that is done.
pub(super) const REPLAY: &str = "log.replay";
const REPLAY_MANIFEST: &str = "manifest";

impl Survey {
    /// Makes of the files what RocksDB can open.
    ///
    /// # Errors
    /// What the disk said: the next start tries again.
    pub(super) fn mend(&self, dir: &Path) -> Result<(), StoreError> {
        let (db, aside) = (dir.join("db"), SetAside::of(dir));
        for Problem { file, offset, problem } in &self.problems {
            tracing::error!(file = %file.display(), offset, problem, "the database is damaged");
        }
        let mend = || -> io::Result<()> {
            if self.problems.iter().any(|problem| problem.file.ends_with(high_water::HIGH_WATER)) {
                aside.take(&dir.join(high_water::HIGH_WATER))?;
            }
            if self.manifest_anew.is_some() || self.log_is_holed {
                self.keep_unlisted(&db, &aside)?;
            }
            if let Some((number, bytes)) = &self.manifest_anew {
                let path = db.join(manifest_name(*number));
                if path.exists() {
                    aside.keep(&path)?;
                }
                replace(&path, bytes)?;
            }
            if self.current_anew {
                aside.keep(&db.join(CURRENT))?;
                replace(&db.join(CURRENT), format!("{}\n", manifest_name(self.manifest_number)).as_bytes())?;
            }
            if self.log_is_holed {
                let replay = dir.join(REPLAY);
                if !replay.is_dir() {
                    // Filled before it gets its name, so that it is there whole or not at all.
                    let new = dir.join(format!("{REPLAY}.new"));
                    std::fs::create_dir_all(&new)?;
                    for file in &self.log.files {
                        let place = new.join(file.file_name().unwrap_or_default());
                        match std::fs::hard_link(file, &place) {
                            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                            linked => linked?,
                        }
                    }
                    replace(&new.join(REPLAY_MANIFEST), &self.manifest_bytes)?;
                    directory::sync(&new)?;
                    std::fs::rename(&new, &replay)?;
                    directory::sync(dir)?;
                }
                for file in rocks_wal::files_of(&replay)? {
                    let file = db.join(file.file_name().unwrap_or_default());
                    match std::fs::remove_file(&file) {
                        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                        _ => {}
                    }
                }
                directory::sync(&db)?;
            } else if self.lost_writes > 0
                && let Some((file, _)) = &self.log.tail
            {
                aside.keep(file)?;
            }
            Ok(())
        };
        mend().map_err(at(dir))?;
        self.tables_bad.iter().try_for_each(|number| take_out(dir, *number))
    }

    /// Table files that the list does not have: it may be older than they are, and RocksDB deletes them.
    fn keep_unlisted(&self, db: &Path, aside: &SetAside) -> io::Result<()> {
        let Some(manifest) = &self.manifest else { return Ok(()) };
        for file in std::fs::read_dir(db)? {
            let path = file?.path();
            if file_number(&path, "sst").is_some_and(|number| manifest.file(number).is_none()) {
                aside.keep(&path)?;
            }
        }
        Ok(())
    }
}

/// Takes a table file out of the list of files, and sets it aside. Only while the database is closed.
///
/// # Errors
/// What the disk said, or that it is not in the list.
pub(super) fn take_out(dir: &Path, number: u64) -> Result<(), StoreError> {
    let db = dir.join("db");
    let named = std::fs::read_to_string(db.join(CURRENT)).map_err(at(&db))?;
    let path = db.join(named.trim_end());
    let bytes = read_bounded(&path).map_err(at(&path))?;
    let manifest = Manifest::read(&bytes).ok();
    let Some((manifest, (family, file))) =
        manifest.and_then(|manifest| manifest.file(number).map(|found| (manifest, found)))
    else {
        let source = io::Error::other(format!("{} is not in the list of files", table_name(number)));
        return Err(at(&path)(source));
    };
    let aside = SetAside::of(dir);
    let take_out = || -> io::Result<()> {
        let table = db.join(table_name(number));
        if table.exists() {
            aside.keep(&table)?;
        }
        let mut whole =
            bytes[..usize::try_from(manifest.good_bytes).unwrap_or(usize::MAX).min(bytes.len())].to_vec();
        let edit = rocks_log::append(whole.len(), &rocks_manifest::without(family, file.level, number));
        whole.extend(edit);
        replace(&path, &whole)?;
        match std::fs::remove_file(&table) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => directory::sync(&db),
        }
    };
    take_out().map_err(at(&path))?;
    tracing::error!(
        file = table_name(number),
        "a table file of the database cannot be used: it is set aside, and what it held is missing"
    );
    Ok(())
}

/// The number of the table file that a message of RocksDB names.
pub(super) fn table_named(message: &str) -> Option<u64> {
    message
        .split(|c: char| c.is_whitespace() || c == '\'' || c == ':' || c == ',')
        .find_map(|word| file_number(Path::new(word), "sst"))
}

/// Whether a start has still to bring in logs that were moved away.
pub(super) fn is_replaying(dir: &Path) -> bool {
    dir.join(REPLAY).is_dir()
}

/// The list of files that goes with logs that are being replayed.
pub(super) fn listed_before(replay: &Path) -> Option<Manifest> {
    Manifest::read(&read_bounded(&replay.join(REPLAY_MANIFEST)).ok()?).ok()
}

/// Applies what logs that were moved away hold. `apply` is told the writes of each batch that no table file has, and whether
/// writes before it are missing. Whether there were any.
///
/// # Errors
/// What `apply` or the disk said: the next start does it again.
pub(super) fn replay(
    dir: &Path,
    mut apply: impl FnMut(Vec<(Family, &[u8], Option<&[u8]>)>, bool) -> Result<(), StoreError>,
) -> Result<bool, StoreError> {
    let replay = dir.join(REPLAY);
    let Some(before) = listed_before(&replay) else { return Ok(false) };
    let family_of = |id: u64, log: u64| {
        let listed = before.families.get(&id)?;
        let family = Family::ALL.into_iter().find(|family| family.name() == listed.name)?;
        (log >= listed.log).then_some(family)
    };
    rocks_wal::replay(&replay, before.last_sequence, &mut |log, after_gap, batch| {
        let writes = batch.writes.iter();
        let writes = writes.filter_map(|write| Some((family_of(write.family, log)?, write.key, write.value)));
        apply(writes.collect(), after_gap)
    })?;
    Ok(true)
}

/// What was replayed is durable elsewhere.
pub(super) fn replayed(dir: &Path) -> Result<(), StoreError> {
    SetAside::of(dir).take(&dir.join(REPLAY)).map(drop).map_err(at(dir))
}

/// Puts `bytes` in the place of a file, whole or not at all.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let mut file: File = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), directory::sync)
}
