//! A directory as a disk has it: what was synced, what was only written, and what may be left of the latter.
//!
//! The rules are those of POSIX and no kinder: bytes are safe once their file was synced, names once their directory was.
//! A sync that failed makes what was written before it neither safe nor unsafe for ever: some of it is on the disk, some
//! is not, and no later sync changes that, since the kernel holds those pages to be clean.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result};

use super::Dice;
use super::journal::{Event, Journal};

/// What a disk writes whole.
const SECTOR_BYTES: usize = 512;

/// What of the unsynced is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Everything.
    All,
    /// Nothing.
    Nothing,
    /// What was done after some moment; the write at that moment is torn at a sector.
    AfterAMoment,
    /// Whatever chance takes, sector by sector and name by name.
    AtRandom,
}

impl Loss {
    pub fn by(dice: &mut Dice) -> Loss {
        [Loss::All, Loss::Nothing, Loss::AfterAMoment, Loss::AtRandom][dice.below(4) as usize]
    }
}

#[derive(Clone, Debug)]
enum Change {
    /// Bytes of the journal.
    Write {
        offset: u64,
        data: Range<usize>,
    },
    Length(u64),
}

#[derive(Clone, Debug, Default)]
struct Content {
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

/// A change of names, with the directory whose sync makes it safe.
#[derive(Clone, Debug)]
struct Naming {
    directory: String,
    what: NameChange,
}

#[derive(Clone, Debug)]
enum NameChange {
    Put(String, Node),
    Move(String, String),
    Remove(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Directory,
    /// A place in [`Disk::contents`].
    File(usize),
}

type Names = BTreeMap<String, Node>;

/// Everything below one directory.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    contents: Vec<Content>,
    /// As the running program sees them.
    names: Names,
    durable_names: Names,
    unsynced_names: Vec<Naming>,
    /// What an inode's number stands for now.
    files: HashMap<u64, usize>,
    directories: HashMap<u64, String>,
}

fn directory_of(path: &str) -> String {
    path.rsplit_once('/').map_or_else(String::new, |(directory, _)| directory.to_owned())
}

fn apply_name(names: &mut Names, change: &NameChange) {
    match change {
        NameChange::Put(path, node) => {
            names.insert(path.clone(), *node);
        }
        NameChange::Move(from, to) => {
            if let Some(node) = names.remove(from) {
                names.insert(to.clone(), node);
            }
        }
        NameChange::Remove(path) => {
            names.remove(path);
        }
    }
}

fn apply(content: &mut Vec<u8>, change: &Change, bytes: &[u8]) -> Result<()> {
    match change {
        Change::Write { offset, data } => put(content, usize::try_from(*offset)?, &bytes[data.clone()]),
        Change::Length(len) => content.resize(usize::try_from(*len)?, 0),
    }
    Ok(())
}

fn put(content: &mut Vec<u8>, at: usize, data: &[u8]) {
    if content.len() < at + data.len() {
        content.resize(at + data.len(), 0);
    }
    content[at..at + data.len()].copy_from_slice(data);
}

impl Disk {
    /// As `dir` is, all of it safe.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(dir: &Path) -> Result<Disk> {
        let mut disk = Disk::default();
        disk.read(dir, "")?;
        disk.names = disk.durable_names.clone();
        Ok(disk)
    }

    fn read(&mut self, dir: &Path, below: &str) -> Result<()> {
        for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
            let entry = entry?;
            let name = entry.file_name().into_string().ok().context("a name that is not UTF-8")?;
            let path = if below.is_empty() { name } else { format!("{below}/{name}") };
            if entry.file_type()?.is_dir() {
                self.durable_names.insert(path.clone(), Node::Directory);
                self.read(&entry.path(), &path)?;
            } else {
                let content = Content { durable: fs::read(entry.path())?, unsynced: Vec::new() };
                self.durable_names.insert(path, Node::File(self.contents.len()));
                self.contents.push(content);
            }
        }
        Ok(())
    }

    /// Everything that the first `events` records of `journal` tell.
    ///
    /// # Errors
    /// When the journal tells of files that never were.
    pub fn replay(&mut self, journal: &Journal, events: usize, dice: &mut Dice) -> Result<()> {
        for (_, event) in &journal.events[..events] {
            self.take(event, &journal.bytes, dice).with_context(|| format!("{event:?}"))?;
        }
        Ok(())
    }

    fn name(&mut self, path: &str, what: NameChange) {
        apply_name(&mut self.names, &what);
        self.unsynced_names.push(Naming { directory: directory_of(path), what });
    }

    fn file(&mut self, inode: u64) -> Result<&mut Content> {
        let at = *self.files.get(&inode).context("a file that was never opened")?;
        Ok(&mut self.contents[at])
    }

    fn take(&mut self, event: &Event, bytes: &[u8], dice: &mut Dice) -> Result<()> {
        match event {
            Event::Open { path, inode } => match self.names.get(path.trim_end_matches('/')) {
                Some(Node::File(at)) => {
                    self.files.insert(*inode, *at);
                }
                // The watched directory itself has no name here.
                Some(Node::Directory) | None => {
                    self.directories.insert(*inode, path.trim_end_matches('/').to_owned());
                }
            },
            Event::Create { path, inode } => {
                let at = self.contents.len();
                self.contents.push(Content::default());
                self.files.insert(*inode, at);
                self.name(path, NameChange::Put(path.clone(), Node::File(at)));
            }
            Event::Write { inode, offset, data } => {
                let change = Change::Write { offset: *offset, data: data.clone() };
                self.file(*inode)?.unsynced.push(change);
            }
            Event::Truncate { inode, len } => self.file(*inode)?.unsynced.push(Change::Length(*len)),
            Event::Sync { inode, directory: true } => {
                let directory = self.directories.get(inode).context("a directory that was never opened")?;
                for naming in self.unsynced_names.extract_if(.., |naming| naming.directory == *directory) {
                    apply_name(&mut self.durable_names, &naming.what);
                }
            }
            Event::Sync { inode, directory: false } => {
                let file = self.file(*inode)?;
                for change in std::mem::take(&mut file.unsynced) {
                    apply(&mut file.durable, &change, bytes)?;
                }
            }
            Event::SyncFailed { inode } => {
                // Of a directory nothing became safe, and the next sync has it all to do again.
                if let Ok(file) = self.file(*inode) {
                    for change in std::mem::take(&mut file.unsynced) {
                        if matches!(change, Change::Length(_)) || dice.coin() {
                            apply(&mut file.durable, &change, bytes)?;
                        }
                    }
                }
            }
            Event::Rename { from, to } => self.name(to, NameChange::Move(from.clone(), to.clone())),
            Event::Link { from, to } => {
                let node = *self.names.get(from).context("a link to nothing")?;
                self.name(to, NameChange::Put(to.clone(), node));
            }
            Event::Remove { path } => self.name(path, NameChange::Remove(path.clone())),
            Event::MakeDirectory { path } => {
                self.name(path, NameChange::Put(path.clone(), Node::Directory));
            }
        }
        Ok(())
    }

    /// Writes to `dir` what is there after the power was cut, where `bytes` of files and `names` are lost as said.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn cut(
        &self,
        journal: &Journal,
        bytes: Loss,
        names: Loss,
        dice: &mut Dice,
        dir: &Path,
    ) -> Result<()> {
        let mut left = self.durable_names.clone();
        let moment = match names {
            Loss::All => 0,
            Loss::Nothing | Loss::AtRandom => self.unsynced_names.len(),
            Loss::AfterAMoment => dice.below(self.unsynced_names.len() as u64 + 1) as usize,
        };
        for naming in &self.unsynced_names[..moment] {
            if names != Loss::AtRandom || dice.coin() {
                apply_name(&mut left, &naming.what);
            }
        }
        fs::create_dir_all(dir)?;
        // In order of name a directory comes before what is in it.
        for (path, node) in &left {
            let to = dir.join(path);
            match node {
                Node::Directory => fs::create_dir(&to)?,
                Node::File(at) => {
                    // Without its directory nobody finds it.
                    if to.parent().is_some_and(Path::is_dir) {
                        fs::write(&to, self.contents[*at].after(&journal.bytes, bytes, dice)?)?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Content {
    fn after(&self, bytes: &[u8], loss: Loss, dice: &mut Dice) -> Result<Vec<u8>> {
        let mut content = self.durable.clone();
        let moment = match loss {
            Loss::All => 0,
            Loss::Nothing | Loss::AtRandom => self.unsynced.len(),
            Loss::AfterAMoment => dice.below(self.unsynced.len() as u64 + 1) as usize,
        };
        for change in &self.unsynced[..moment] {
            match (loss, change) {
                (Loss::AtRandom, Change::Write { offset, data }) => {
                    let mut at = usize::try_from(*offset)?;
                    let mut data = &bytes[data.clone()];
                    while !data.is_empty() {
                        let sector = (SECTOR_BYTES - at % SECTOR_BYTES).min(data.len());
                        if dice.coin() {
                            put(&mut content, at, &data[..sector]);
                        }
                        (at, data) = (at + sector, &data[sector..]);
                    }
                }
                _ => apply(&mut content, change, bytes)?,
            }
        }
        if loss == Loss::AfterAMoment
            && let Some(Change::Write { offset, data }) = self.unsynced.get(moment)
        {
            let offset = usize::try_from(*offset)?;
            let torn = offset + dice.below(data.len() as u64 + 1) as usize;
            let end = (torn / SECTOR_BYTES * SECTOR_BYTES).max(offset);
            put(&mut content, offset, &bytes[data.start..data.start + end - offset]);
        }
        Ok(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of two sectors of which one is synced, under a name that is not.
    fn journal() -> Journal {
        let path = "a/file.seg".to_owned();
        let events = vec![
            Event::MakeDirectory { path: "a".to_owned() },
            Event::Open { path: "a".to_owned(), inode: 1 },
            Event::Create { path: path.clone(), inode: 2 },
            Event::Write { inode: 2, offset: 0, data: 0..512 },
            Event::Sync { inode: 2, directory: false },
            Event::Write { inode: 2, offset: 512, data: 512..1024 },
            Event::Rename { from: path, to: "a/named".to_owned() },
        ];
        let bytes: Vec<u8> = (0..1024u32).map(|n| if n < 512 { 1 } else { 2 }).collect();
        Journal { bytes, events: events.into_iter().enumerate().collect() }
    }

    fn left(bytes: Loss, names: Loss, more: &[Event]) -> Vec<(String, usize)> {
        let mut journal = journal();
        journal.events.extend(more.iter().map(|event| (0, event.clone())));
        let mut dice = Dice::new(1);
        let mut disk = Disk::default();
        disk.replay(&journal, journal.len(), &mut dice).unwrap();
        let dir = tempfile::tempdir().unwrap();
        disk.cut(&journal, bytes, names, &mut dice, &dir.path().join("cut")).unwrap();
        let after = Disk::of(&dir.path().join("cut")).unwrap();
        let files = after.names.iter().filter_map(|(name, node)| match node {
            Node::File(at) => Some((name.clone(), after.contents[*at].durable.len())),
            Node::Directory => None,
        });
        files.collect()
    }

    #[test]
    fn what_was_not_synced_is_lost_or_not() {
        let sync = |inode| Event::Sync { inode, directory: true };
        assert_eq!(left(Loss::All, Loss::All, &[]), []);
        assert_eq!(left(Loss::Nothing, Loss::Nothing, &[]), [("a/named".to_owned(), 1024)]);
        assert_eq!(left(Loss::All, Loss::Nothing, &[]), [("a/named".to_owned(), 512)]);
        // The directory's own name lies in the directory above.
        let named = [sync(1), Event::Open { path: String::new(), inode: 9 }, sync(9)];
        assert_eq!(left(Loss::All, Loss::All, &named[..1]), []);
        assert_eq!(left(Loss::All, Loss::All, &named), [("a/named".to_owned(), 512)]);
    }

    #[test]
    fn what_a_failed_sync_lost_no_later_sync_brings_back() {
        let failed = Event::SyncFailed { inode: 2 };
        let lens: Vec<usize> = (0..20)
            .map(|seed| {
                let mut journal = journal();
                journal.events.push((0, failed.clone()));
                journal.events.push((0, Event::Sync { inode: 2, directory: false }));
                let mut disk = Disk::default();
                disk.replay(&journal, journal.len(), &mut Dice::new(seed)).unwrap();
                disk.contents[0].durable.len()
            })
            .collect();
        assert!(lens.contains(&512) && lens.contains(&1024), "{lens:?}");
    }
}
