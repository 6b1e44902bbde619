//! What is wrong with a database's files, found before RocksDB opens them, and what is done about it.
//!
//! | found | done |
//! |---|---|
//! | no database where there was one, or an older one | refused |
//! | `CURRENT` names nothing | the newest MANIFEST is named again, if it is the one that was there last |
//! | a MANIFEST that is damaged or shorter than it was | made anew from its copy; without one, refused |
//! | a table file that is missing, has another length or cannot be opened | taken out of the MANIFEST |
//! | a log with records behind ones that cannot be read | set aside and replayed record by record |
//! | fewer writes than were acknowledged | counted |
//!
//! Whatever is taken out or replaced is set aside first (`set_aside.rs`). Every step leaves a directory that the next start
//! can go on with.

use std::io;
use std::path::{Path, PathBuf};

use super::StoreError;
use super::high_water::{self, Found, MANIFEST_COPY, Mark};
use super::keys::{self, Family};
use super::rocks_manifest::{Manifest, manifest_name, manifest_number, table_name};
use super::rocks_mend::{REPLAY, listed_before};
use super::rocks_open::{CURRENT, has_data};
use super::rocks_wal::{self, LogState};

/// A MANIFEST is up to 1 GiB before RocksDB begins another.
const MANIFEST_BYTES_MAX: u64 = 2 << 30;

/// Something that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) file: PathBuf,
    pub(super) offset: Option<u64>,
    pub(super) problem: String,
}

/// The files of a database as they were found.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub(super) problems: Vec<Problem>,
    /// Acknowledged writes that are not there.
    pub(super) lost_writes: u64,
    /// There are writes behind missing ones.
    pub(super) log_is_holed: bool,
    /// There is nothing to open yet.
    pub(super) is_new: bool,
    /// What a MANIFEST is to be, and its number.
    pub(super) manifest_anew: Option<(u64, Vec<u8>)>,
    pub(super) current_anew: bool,
    pub(super) manifest: Option<Manifest>,
    pub(super) manifest_bytes: Vec<u8>,
    pub(super) manifest_number: u64,
    /// Table files that have to be taken out.
    pub(super) tables_bad: Vec<u64>,
    pub(super) log: LogState,
}

pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> StoreError + '_ {
    move |source| StoreError::Directory { path: path.to_owned(), source }
}

fn not_whole(path: &Path, problem: String, advice: String) -> StoreError {
    StoreError::NotWhole { path: path.to_owned(), problem, advice }
}

const OTHER_PLACE: &str = "bring back what is missing (is a disk not mounted?), or `gnomon-collector restore` a backup to another data_dir; to begin anew here, move everything in the directory elsewhere";

/// Looks at the files of the store under `dir` and changes nothing.
///
/// # Errors
/// When there is less than there was and nothing can be done about it, or what the disk said.
pub(super) fn survey(dir: &Path) -> Result<Survey, StoreError> {
    let db = dir.join("db");
    let mut survey = Survey::default();
    let mark = match high_water::find(dir).map_err(at(dir))? {
        Found::Mark(mark) => Some(mark),
        Found::Nothing => None,
        Found::Damaged => {
            let problem = "the record of what the store held at least cannot be read".to_owned();
            survey.problem(dir.join(high_water::HIGH_WATER), None, problem);
            None
        }
    };
    if !db.join(CURRENT).exists() && !has_data(&db).map_err(at(&db))? {
        survey.is_new = true;
        nothing_was_there(dir, mark)?;
        return Ok(survey);
    }
    if !survey.find_manifest(dir, mark)? {
        return Ok(survey);
    }
    survey.check_tables(&db)?;
    survey.check_log(dir, mark)?;
    Ok(survey)
}

/// A store begins only where there was none.
fn nothing_was_there(dir: &Path, mark: Option<Mark>) -> Result<(), StoreError> {
    if let Some(mark) = mark {
        let problem = format!(
            "its database is gone, which had {} writes that were acknowledged (file {})",
            mark.sequence,
            high_water::HIGH_WATER
        );
        return Err(not_whole(dir, problem, OTHER_PLACE.to_owned()));
    }
    // More than a header: somebody's packets, which an empty database would take for never acknowledged.
    let packets = std::fs::read_dir(dir.join("segments")).map_or(0, |files| {
        let files = files
            .filter_map(|file| file.ok())
            .filter(|file| file.path().extension().is_some_and(|e| e == "seg"));
        files.filter_map(|file| file.metadata().ok()).filter(|file| file.len() > 64).count()
    });
    if packets > 0 {
        let problem = format!("there are {packets} files of packets and no database");
        return Err(not_whole(dir, problem, OTHER_PLACE.to_owned()));
    }
    Ok(())
}

impl Survey {
    fn problem(&mut self, file: PathBuf, offset: Option<u64>, problem: String) {
        self.problems.push(Problem { file, offset, problem });
    }

    /// False when this version does not know what is there, and leaves it to RocksDB.
    fn find_manifest(&mut self, dir: &Path, mark: Option<Mark>) -> Result<bool, StoreError> {
        let db = dir.join("db");
        // RocksDB and its callers say what a missing one means.
        if !db.join(CURRENT).exists() {
            return Ok(false);
        }
        let named = std::fs::read(db.join(CURRENT)).map_err(at(&db))?;
        let named = String::from_utf8_lossy(&named).into_owned();
        let named = named.strip_suffix('\n').and_then(manifest_number);
        let there = manifests_in(&db).map_err(at(&db))?;
        let newest = there.last().copied();
        let number = match (named, mark) {
            (Some(named), _) if there.contains(&named) => named,
            // One that is missing has a copy, and one that is not named is the newest.
            (_, Some(mark)) if mark.manifest > 0 => newest.unwrap_or(0).max(mark.manifest),
            (Some(named), None) => named,
            (None, None) => {
                let newest = newest.map_or("none is there".to_owned(), |n| {
                    format!("the newest there is {}", manifest_name(n))
                });
                return Err(not_whole(
                    &db,
                    format!("Corruption: file {CURRENT} does not name a list of files"),
                    format!(
                        "with a good copy of the directory at hand, restore it; {newest}: if it is whole, put its name and a newline into {CURRENT}"
                    ),
                ));
            }
            (_, Some(_)) => return Ok(false),
        };
        self.current_anew = named != Some(number);
        if self.current_anew {
            self.problem(db.join(CURRENT), Some(0), "it names no list of files that is there".to_owned());
        }
        if let Some(mark) = mark.filter(|mark| number < mark.manifest) {
            let problem = format!(
                "its database is older than it was: {} is in force, and {} was",
                manifest_name(number),
                manifest_name(mark.manifest)
            );
            let advice = format!(
                "{OTHER_PLACE}; to go on with the older one, remove the file {}",
                high_water::HIGH_WATER
            );
            return Err(not_whole(dir, problem, advice));
        }
        self.manifest_number = number;
        let path = db.join(manifest_name(number));
        let bytes = match read_bounded(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read.map_err(at(&path))?,
        };
        let wanted = mark.filter(|mark| mark.manifest == number).map_or(1, |mark| mark.manifest_bytes);
        let manifest = match Manifest::read(&bytes) {
            Ok(manifest) => manifest,
            Err(error) => {
                tracing::debug!(file = %path.display(), %error, "not looked at before it is opened");
                return Ok(false);
            }
        };
        if !manifest.holed && manifest.good_bytes >= wanted {
            self.manifest = Some(manifest).filter(knows_all_families);
            self.manifest_bytes = bytes;
            return Ok(self.manifest.is_some());
        }
        let offset = Some(manifest.good_bytes);
        let text = if manifest.holed || manifest.cut {
            "the database's list of files cannot be read from here on".to_owned()
        } else {
            format!("the database's list of files ends here, and had {wanted} bytes")
        };
        self.problem(path, offset, text);
        let Some((manifest, bytes)) =
            from_copy(dir, &bytes, wanted).filter(|(manifest, _)| knows_all_families(manifest))
        else {
            return Err(not_whole(
                &db,
                format!(
                    "Corruption: the list of files {} is damaged, and there is no copy of it",
                    manifest_name(number)
                ),
                OTHER_PLACE.to_owned(),
            ));
        };
        self.manifest_bytes.clone_from(&bytes);
        self.manifest_anew = Some((number, bytes));
        self.manifest = Some(manifest);
        Ok(true)
    }

    fn check_tables(&mut self, db: &Path) -> Result<(), StoreError> {
        let Some(manifest) = &self.manifest else { return Ok(()) };
        let mut bad = Vec::new();
        for (number, file) in manifest.files() {
            let path = db.join(table_name(number));
            let problem = match path.metadata() {
                Ok(there) if there.len() == file.bytes => continue,
                Ok(there) => format!("it has {} bytes, and had {}", there.len(), file.bytes),
                Err(error) if error.kind() == io::ErrorKind::NotFound => "it is missing".to_owned(),
                Err(error) => return Err(at(&path)(error)),
            };
            bad.push((number, Problem { file: path, offset: None, problem }));
        }
        for (number, problem) in bad {
            self.tables_bad.push(number);
            self.problems.push(problem);
        }
        Ok(())
    }

    fn check_log(&mut self, dir: &Path, mark: Option<Mark>) -> Result<(), StoreError> {
        let db = dir.join("db");
        let replay = dir.join(REPLAY);
        let flushed = match listed_before(&replay) {
            Some(before) => before.last_sequence,
            None => self.manifest.as_ref().map_or(0, |manifest| manifest.last_sequence),
        };
        // What an earlier start did not finish is looked at first, and what was acknowledged then is in there.
        let from = [replay, db].into_iter().find(|dir| dir.is_dir()).unwrap_or_default();
        let log = rocks_wal::state_of(&from, flushed).map_err(at(&from))?;
        // Behind what was noted, a power cut may have left anything.
        let acknowledged = mark.map(|mark| mark.sequence);
        let known = |gap: &rocks_wal::Gap| {
            gap.to.min(acknowledged.map_or(u64::MAX, |last| last + 1)).saturating_sub(gap.from)
        };
        let in_gaps: u64 = log.gaps.iter().map(known).sum();
        let next = log.next.max(flushed + 1);
        let behind = acknowledged.map_or(0, |last| (last + 1).saturating_sub(next));
        self.log_is_holed = !log.gaps.is_empty();
        self.lost_writes = in_gaps + behind;
        let text = |writes: u64| {
            format!(
                "the database's log cannot be read from here on: {writes} writes that were acknowledged are missing"
            )
        };
        if in_gaps > 0 {
            for (file, offset) in &log.bad {
                self.problems.push(Problem {
                    file: file.clone(),
                    offset: Some(*offset),
                    problem: text(in_gaps),
                });
            }
            if log.bad.is_empty() {
                self.problems.push(Problem { file: from.clone(), offset: None, problem: format!("a file of the database's log is missing, with {in_gaps} writes that were acknowledged") });
            }
        }
        if behind > 0 {
            let (file, offset) = log.tail.clone().map_or((from, None), |(file, offset)| (file, Some(offset)));
            self.problem(file, offset, text(behind));
        }
        self.log = log;
        Ok(())
    }
}

/// The families of a newer version are its own business.
fn knows_all_families(manifest: &Manifest) -> bool {
    let known = |name: &str| {
        name == "default"
            || keys::RETIRED.contains(&name)
            || Family::ALL.iter().any(|family| family.name() == name)
    };
    manifest.families.values().all(|family| known(&family.name))
}

/// The numbers of the lists of files in `db`, rising.
fn manifests_in(db: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for file in std::fs::read_dir(db)? {
        numbers.extend(file?.file_name().to_str().and_then(manifest_number));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

pub(super) fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    if path.metadata()?.len() > MANIFEST_BYTES_MAX {
        return Err(io::Error::other("it is too long"));
    }
    std::fs::read(path)
}

/// The list of files by its copy, and what the damaged one has behind it.
fn from_copy(dir: &Path, damaged: &[u8], wanted: u64) -> Option<(Manifest, Vec<u8>)> {
    let mut bytes = read_bounded(&dir.join(MANIFEST_COPY)).ok()?;
    let wanted = usize::try_from(wanted).ok()?;
    if bytes.len() < wanted {
        return None;
    }
    // What is behind may be of a copy that was not finished.
    bytes.truncate(wanted);
    let copy =
        Manifest::read(&bytes).ok().filter(|copy| !copy.holed && copy.good_bytes as usize == wanted)?;
    let mut whole = bytes.clone();
    whole.extend(damaged.get(wanted..).unwrap_or_default());
    match Manifest::read(&whole) {
        Ok(longer) if !longer.holed => {
            whole.truncate(usize::try_from(longer.good_bytes).ok()?);
            Some((longer, whole))
        }
        _ => Some((copy, bytes)),
    }
}
