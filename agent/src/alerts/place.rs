//! How far each file was read, so that a restart neither forgets nor repeats: the file `alerts` of the state directory.
//!
//! Constraints: written whole and renamed into place, after what was read is in the spool; a crash in between reads some
//! lines again, and the collector knows them. One line a file: device, inode, bytes read, length and CRC-32C of its
//! beginning, its path. What cannot be read as that is as if it was not there.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::private;

/// The first line.
const HEADER: &[u8] = b"gnomon alerts 1";
/// Bytes of a file's beginning that tell it from another with the same inode. An event's time is in them.
const HEAD_BYTES_MAX: usize = 128;
/// A place file is no larger; what is behind is not read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// How far a file was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) device: u64,
    pub(super) inode: u64,
    /// Behind the last whole line.
    pub(super) offset: u64,
    head_len: u32,
    head_crc: u32,
}

impl Place {
    /// The place `offset` in a file.
    pub(super) fn of(file: &File, offset: u64) -> io::Result<Place> {
        let metadata = file.metadata()?;
        let mut head = [0; HEAD_BYTES_MAX];
        let head = head_of(file, &mut head[..HEAD_BYTES_MAX.min(offset as usize)])?;
        Ok(Place {
            device: metadata.dev(),
            inode: metadata.ino(),
            offset,
            head_len: head.len() as u32,
            head_crc: crc32c::crc32c(head),
        })
    }

    /// The byte before `offset`.
    pub(super) fn last_byte(file: &File, offset: u64) -> io::Result<Option<u8>> {
        let mut byte = [0];
        let read = file.read_at(&mut byte, offset.saturating_sub(1))?;
        Ok((read == 1).then_some(byte[0]))
    }

    /// Whether `file` is the one it is a place of, and was not begun anew.
    pub(super) fn is_in(&self, file: &File) -> io::Result<bool> {
        let metadata = file.metadata()?;
        if (metadata.dev(), metadata.ino()) != (self.device, self.inode) || metadata.len() < self.offset {
            return Ok(false);
        }
        let mut head = [0; HEAD_BYTES_MAX];
        let wanted = HEAD_BYTES_MAX.min(self.head_len as usize);
        let head = head_of(file, &mut head[..wanted])?;
        Ok(head.len() == self.head_len as usize && crc32c::crc32c(head) == self.head_crc)
    }
}

fn head_of<'h>(file: &File, head: &'h mut [u8]) -> io::Result<&'h [u8]> {
    let mut len = 0;
    while len < head.len() {
        match file.read_at(&mut head[len..], len as u64)? {
            0 => break,
            more => len += more,
        }
    }
    Ok(&head[..len])
}

/// The places of all files.
#[derive(Debug)]
pub(super) struct Places {
    file: PathBuf,
    known: BTreeMap<PathBuf, Place>,
}

impl Places {
    /// Those of the last run, as far as they can be read.
    pub(super) fn load(file: PathBuf) -> Places {
        let known = match read(&file) {
            Ok(known) => known,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                tracing::warn!(path = %file.display(), %error, "how far alerts were read is not known: only new ones are");
                BTreeMap::new()
            }
        };
        Places { file, known }
    }

    pub(super) fn get(&self, path: &Path) -> Option<Place> {
        self.known.get(path).copied()
    }

    /// Remembers where each file was read to. Blocking.
    ///
    /// # Errors
    /// What the disk said; what was remembered before is still there.
    pub(super) fn save(&mut self, places: impl Iterator<Item = (PathBuf, Place)>) -> io::Result<()> {
        let places: BTreeMap<PathBuf, Place> = places.collect();
        if places == self.known {
            return Ok(());
        }
        let mut text = HEADER.to_vec();
        text.push(b'\n');
        for (path, Place { device, inode, offset, head_len, head_crc }) in &places {
            text.extend(format!("{device} {inode} {offset} {head_len} {head_crc:08x} ").into_bytes());
            text.extend(path.as_os_str().as_bytes());
            text.push(b'\n');
        }
        let new = self.file.with_extension("new");
        io::Write::write_all(&mut private::create(&new)?, &text)?;
        fs::rename(&new, &self.file)?;
        self.known = places;
        Ok(())
    }
}

fn read(file: &Path) -> io::Result<BTreeMap<PathBuf, Place>> {
    let mut text = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(File::open(file)?, FILE_BYTES_MAX), &mut text)?;
    let mut lines = text.split(|byte| *byte == b'\n');
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the file is damaged");
    if lines.next() != Some(HEADER) {
        return Err(damaged());
    }
    lines.filter(|line| !line.is_empty()).map(|line| place_of(line).ok_or_else(damaged)).collect()
}

fn place_of(line: &[u8]) -> Option<(PathBuf, Place)> {
    let mut words = line.splitn(6, |byte| *byte == b' ');
    let mut word = || std::str::from_utf8(words.next()?).ok();
    let place = Place {
        device: word()?.parse().ok()?,
        inode: word()?.parse().ok()?,
        offset: word()?.parse().ok()?,
        head_len: word()?.parse().ok()?,
        head_crc: u32::from_str_radix(word()?, 16).ok()?,
    };
    let path = words.next().filter(|path| !path.is_empty())?;
    Some((PathBuf::from(std::ffi::OsString::from_vec(path.to_vec())), place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_survive_and_know_their_file() {
        let dir = tempfile::tempdir().unwrap();
        let (log, file) = (dir.path().join("eve log.json"), dir.path().join("alerts"));
        fs::write(&log, "{\"timestamp\":1}\n{\"timestamp\":2}\n").unwrap();
        let place = Place::of(&File::open(&log).unwrap(), 16).unwrap();
        Places::load(file.clone()).save([(log.clone(), place)].into_iter()).unwrap();
        let read = Places::load(file).get(&log).unwrap();
        assert_eq!(read, place);
        assert!(read.is_in(&File::open(&log).unwrap()).unwrap());
        fs::write(&log, "{\"timestamp\":1}\n").unwrap();
        assert!(read.is_in(&File::open(&log).unwrap()).unwrap());
        // Begun anew in place, shorter and longer; and another file of that name.
        fs::write(&log, "short\n").unwrap();
        assert!(!read.is_in(&File::open(&log).unwrap()).unwrap());
        fs::write(&log, "{\"timestamp\":3}\n{\"timestamp\":4}\n").unwrap();
        assert!(!read.is_in(&File::open(&log).unwrap()).unwrap());
        let other = dir.path().join("other");
        fs::write(&other, "{\"timestamp\":1}\n{\"timestamp\":2}\n").unwrap();
        assert!(!read.is_in(&File::open(&other).unwrap()).unwrap());
    }

    #[test]
    fn a_damaged_place_file_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("alerts");
        for text in [
            "",
            "nonsense",
            "gnomon alerts 1\n1 2 3\n",
            "gnomon alerts 1\n1 2 -3 4 5 /x\n",
            "gnomon alerts 1\n1 2 3 4 5 \n",
        ] {
            fs::write(&file, text).unwrap();
            assert!(read(&file).is_err(), "{text:?}");
            assert_eq!(Places::load(file.clone()).known.len(), 0);
        }
        fs::write(&file, "gnomon alerts 1\n").unwrap();
        assert_eq!(read(&file).unwrap().len(), 0);
    }
}
