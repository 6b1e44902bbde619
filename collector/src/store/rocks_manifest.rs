//! RocksDB's MANIFEST, read without RocksDB: which families there are, which table files are live, which logs are needed.
//!
//! It tells before the database is opened what an open would do: RocksDB takes a MANIFEST that was cut for an older state,
//! and deletes the table files that this state does not know. A table file that cannot be opened keeps the whole database
//! closed; an edit that takes it out (as `ldb unsafe_remove_sst_file` writes it) costs what is in it and nothing else.
//!
//! The source of the format is RocksDB's `db/version_edit.h`: a record is a run of tags, each with its fields. A tag that is
//! not known and may be ignored carries its length; any other ends the reading ([`ManifestError`]).

use std::collections::BTreeMap;
use std::path::Path;

use super::rocks_log::{self, Piece};

const COMPARATOR: u64 = 1;
const LOG_NUMBER: u64 = 2;
const NEXT_FILE: u64 = 3;
const LAST_SEQUENCE: u64 = 4;
const COMPACT_CURSOR: u64 = 5;
const DELETED_FILE: u64 = 6;
const PREVIOUS_LOG: u64 = 9;
const LOG_TO_KEEP: u64 = 10;
const NEW_FILE: u64 = 103;
const FAMILY: u64 = 200;
const FAMILY_ADD: u64 = 201;
const FAMILY_DROP: u64 = 202;
const FAMILY_MAX: u64 = 203;
const ATOMIC_GROUP: u64 = 300;
/// Tags with this bit carry the length of what they hold.
const IGNORABLE: u64 = 1 << 13;
/// Ends the fields of a new file.
const FILE_END: u64 = 1;

/// A record that means something this version does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record that ends at byte {end} has the tag {tag}, which is not known, or is cut")]
pub(super) struct ManifestError {
    end: usize,
    tag: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TableFile {
    pub(super) level: u64,
    pub(super) bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FamilyFiles {
    pub(super) name: String,
    /// What logs before this one have of the family is in its table files.
    pub(super) log: u64,
    pub(super) files: BTreeMap<u64, TableFile>,
}

/// What a MANIFEST says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) families: BTreeMap<u64, FamilyFiles>,
    pub(super) last_sequence: u64,
    pub(super) next_file: u64,
    /// Where its good records end; none behind it is good.
    pub(super) good_bytes: u64,
    /// There is something that cannot be read before a good record.
    pub(super) holed: bool,
    /// There is something that cannot be read behind the last good record.
    pub(super) cut: bool,
}

/// Fields as RocksDB writes them: integers of seven bits a byte, and runs of bytes behind their length.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn number(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.number()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }
}

/// The parts of one record: a family, and what becomes of it.
#[derive(Default)]
struct Edit {
    family: u64,
    add: Option<String>,
    drop: bool,
    log: Option<u64>,
    deleted: Vec<u64>,
    new: Vec<(u64, TableFile)>,
}

impl Manifest {
    /// # Errors
    /// When a good record means something that is not known.
    pub(super) fn read(bytes: &[u8]) -> Result<Manifest, ManifestError> {
        let mut manifest = Manifest::default();
        manifest.families.insert(0, FamilyFiles { name: "default".to_owned(), ..FamilyFiles::default() });
        for piece in rocks_log::read(bytes) {
            match piece {
                Piece::Bad(_) => manifest.cut = true,
                Piece::Record { bytes, end } => {
                    manifest.holed |= std::mem::take(&mut manifest.cut);
                    manifest.apply(&bytes).map_err(|tag| ManifestError { end, tag })?;
                    manifest.good_bytes = end as u64;
                }
            }
        }
        Ok(manifest)
    }

    fn apply(&mut self, record: &[u8]) -> Result<(), u64> {
        let mut fields = Fields(record);
        let mut edit = Edit::default();
        while !fields.0.is_empty() {
            let tag = fields.number().ok_or(0u64)?;
            self.field(tag, &mut fields, &mut edit).ok_or(tag)?;
        }
        if let Some(name) = edit.add {
            self.families.insert(edit.family, FamilyFiles { name, ..FamilyFiles::default() });
        }
        if edit.drop {
            self.families.remove(&edit.family);
            return Ok(());
        }
        let Some(family) = self.families.get_mut(&edit.family) else { return Ok(()) };
        for number in edit.deleted {
            family.files.remove(&number);
        }
        family.files.extend(edit.new);
        family.log = edit.log.unwrap_or(0).max(family.log);
        Ok(())
    }

    fn field(&mut self, tag: u64, fields: &mut Fields<'_>, edit: &mut Edit) -> Option<()> {
        match tag {
            COMPARATOR => {
                fields.bytes()?;
            }
            LOG_NUMBER => edit.log = Some(fields.number()?),
            NEXT_FILE => self.next_file = self.next_file.max(fields.number()?),
            LAST_SEQUENCE => self.last_sequence = self.last_sequence.max(fields.number()?),
            COMPACT_CURSOR => {
                fields.number()?;
                fields.bytes()?;
            }
            DELETED_FILE => {
                fields.number()?;
                edit.deleted.push(fields.number()?);
            }
            PREVIOUS_LOG | LOG_TO_KEEP | FAMILY_MAX | ATOMIC_GROUP => {
                fields.number()?;
            }
            NEW_FILE => {
                let (level, number, bytes) = (fields.number()?, fields.number()?, fields.number()?);
                // The lowest and the highest key, and the lowest and highest sequence number.
                fields.bytes()?;
                fields.bytes()?;
                fields.number()?;
                fields.number()?;
                while fields.number()? != FILE_END {
                    fields.bytes()?;
                }
                edit.new.push((number, TableFile { level, bytes }));
            }
            FAMILY => edit.family = fields.number()?,
            FAMILY_ADD => edit.add = Some(String::from_utf8_lossy(fields.bytes()?).into_owned()),
            FAMILY_DROP => edit.drop = true,
            _ if tag & IGNORABLE != 0 => {
                fields.bytes()?;
            }
            _ => return None,
        }
        Some(())
    }

    /// The family and the table file of this number.
    pub(super) fn file(&self, number: u64) -> Option<(u64, TableFile)> {
        self.families.iter().find_map(|(id, family)| Some((*id, *family.files.get(&number)?)))
    }

    pub(super) fn files(&self) -> impl Iterator<Item = (u64, TableFile)> {
        self.families.values().flat_map(|family| family.files.iter().map(|(number, file)| (*number, *file)))
    }
}

fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// A record that takes a table file out of a family.
pub(super) fn without(family: u64, level: u64, number: u64) -> Vec<u8> {
    let mut record = Vec::new();
    for field in [DELETED_FILE, level, number, FAMILY, family] {
        put(&mut record, field);
    }
    record
}

/// The number in the name of a MANIFEST (`MANIFEST-000012`).
pub(super) fn manifest_number(name: &str) -> Option<u64> {
    name.strip_prefix("MANIFEST-")?.parse().ok()
}

pub(super) fn manifest_name(number: u64) -> String {
    format!("MANIFEST-{number:06}")
}

pub(super) fn table_name(number: u64) -> String {
    format!("{number:06}.sst")
}

/// The number in the name of a file with this ending (`000012.sst`).
pub(super) fn file_number(path: &Path, ending: &str) -> Option<u64> {
    if path.extension()?.to_str()? != ending {
        return None;
    }
    path.file_stem()?.to_str()?.parse().ok()
}
