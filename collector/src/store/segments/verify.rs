//! Checking segment files byte by byte, without changing any: headers, frames, indexes, and the chain through them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::chain::Chain;
use super::footer::{Footer, Sealing};
use super::header::{HEADER_BYTES, Header};
use super::memory_index::MemoryIndex;
use super::pages::Unreadable;
use super::recovery::header_of;
use super::rescan::walk;
use super::{Position, index_path_of, numbers_in, path_of};
use crate::store::verify::Findings;

/// Bytes of one index in memory at most; one that claims more is only checked page by page.
const INDEX_BYTES_MAX: u64 = 1 << 30;

/// Checks the files under `dir`. `durable` is what the database says of the newest, `known` the bytes of the frames of
/// each by the same.
pub(in crate::store) fn verify(
    dir: &Path,
    durable: Option<Position>,
    known: &BTreeMap<u32, u64>,
    findings: &mut Findings<'_>,
) {
    let numbers = match numbers_in(dir) {
        Ok(numbers) => numbers,
        Err(error) => return findings.damage(dir, None, format!("it cannot be listed: {error}")),
    };
    let mut decompressor = match zstd::bulk::Decompressor::new() {
        Ok(decompressor) => decompressor,
        Err(error) => return findings.damage(dir, None, format!("cannot prepare to decompress: {error}")),
    };
    let newest = durable.map_or(0, |position| position.number);
    let mut before: Option<(u32, Option<Chain>)> = None;
    for number in numbers {
        if number > newest {
            // Begun, but nothing in it was ever acknowledged: the next start removes it.
            continue;
        }
        if let Some((last, _)) = before {
            missing(dir, last, number, findings);
        }
        let chain =
            before.filter(|(last, _)| last.checked_add(1) == Some(number)).and_then(|(_, chain)| chain);
        let durable = durable.filter(|position| position.number == number);
        let file = Checked { dir, number, durable, frames_bytes: known.get(&number).copied() };
        let end = match file.check(chain, &mut decompressor, findings) {
            Ok(end) => end,
            Err(error) => {
                findings.damage(&path_of(dir, number), None, format!("it cannot be read: {error}"));
                None
            }
        };
        findings.report.files += 1;
        before = Some((number, end));
    }
    match (before, durable) {
        (Some((last, _)), Some(position)) if last < position.number => {
            missing(dir, last, position.number.saturating_add(1), findings);
        }
        (None, Some(position)) if position.len > HEADER_BYTES as u64 => {
            findings.damage(&path_of(dir, position.number), None, "it is missing".to_owned());
        }
        _ => {}
    }
}

/// Files are numbered without gaps, and given up from the oldest on.
fn missing(dir: &Path, last: u32, next: u32, findings: &mut Findings<'_>) {
    let gone = next.saturating_sub(last).saturating_sub(1);
    if gone > 0 {
        findings.damage(
            &path_of(dir, last.saturating_add(1)),
            None,
            match gone {
                1 => "it is missing".to_owned(),
                _ => format!("it and the {} after it are missing", gone - 1),
            },
        );
    }
}

struct Checked<'a> {
    dir: &'a Path,
    number: u32,
    /// Where the newest file ends.
    durable: Option<Position>,
    frames_bytes: Option<u64>,
}

impl Checked<'_> {
    fn path(&self) -> PathBuf {
        path_of(self.dir, self.number)
    }

    /// The end of the chain behind this file, where it is known.
    fn check(
        &self,
        chain_before: Option<Chain>,
        decompressor: &mut zstd::bulk::Decompressor<'_>,
        findings: &mut Findings<'_>,
    ) -> io::Result<Option<Chain>> {
        let path = self.path();
        let file = File::open(&path)?;
        let len = file.metadata()?.len();
        let header = match header_of(&file) {
            Ok(header) => Some(header),
            Err(problem) => {
                findings.damage(&path, Some(0), problem);
                None
            }
        };
        if let Some(header) = header.filter(|header| header.number != self.number) {
            findings.damage(&path, Some(0), format!("it says it is file {}", header.number));
        }
        let version_1 = matches!(header, Some(Header { before: None, .. }));
        let from = header.map_or(HEADER_BYTES as u64, Header::len);
        let mut chain = None;
        if let Some(Header { before: Some(before), .. }) = header {
            let mut bytes = [0; HEADER_BYTES];
            file.read_exact_at(&mut bytes, 0)?;
            chain = Some(Chain::begin(&bytes));
            if chain_before.is_some_and(|expected| expected != before) {
                findings.damage(
                    &path,
                    Some(0),
                    "the hash chain is broken: it does not go on where the file before ends".to_owned(),
                );
            }
        }
        let footer = match Footer::load(&file, self.number) {
            Ok(footer) => footer,
            Err(Unreadable::Damaged(problem)) => {
                findings.damage(&path, None, format!("its index is damaged: {problem}"));
                None
            }
            Err(Unreadable::Io(error)) => return Err(error),
        };
        let acknowledged = self.durable.map(|position| position.len);
        let by_table = self.frames_bytes.map(|bytes| from.saturating_add(bytes));
        let to = footer.as_ref().map(|footer| footer.frames_end).or(acknowledged).or(by_table).unwrap_or(len);
        let wanted = acknowledged.unwrap_or(to).max(to);
        if len < wanted {
            findings.damage(
                &path,
                Some(len),
                format!("{} acknowledged bytes are missing at its end", wanted - len),
            );
        }
        let to = to.min(len);
        let mut index = MemoryIndex::default();
        let mut block = Vec::new();
        let (mut bad_blocks, mut packets) = (Vec::new(), 0u64);
        let told = &mut *findings.told;
        let holes = walk(&file, from, to, |offset, bytes, frame| {
            if let Err(problem) = frame.decompress(decompressor, &mut block) {
                bad_blocks.push((offset, problem));
            }
            let head = frame.head;
            index.add(head.epoch, (offset, bytes.len() as u32), (head.first, head.last), frame.flows());
            chain = chain.map(|chain| chain.then(bytes));
            packets = packets.saturating_add(u64::from(head.packets));
            told(bytes.len() as u64);
        })?;
        for (offset, problem) in bad_blocks {
            findings.damage(&path, Some(offset), format!("the frame there is damaged: {problem}"));
        }
        for hole in &holes {
            findings.damage(
                &path,
                Some(hole.offset),
                format!("{} bytes from there on are no frame", hole.bytes),
            );
        }
        findings.report.frames += index.frames().len() as u64;
        findings.report.packets += packets;
        findings.report.frame_bytes += to.saturating_sub(from);
        let whole = holes.is_empty() && len >= wanted;
        if let Some(footer) = &footer {
            self.check_index(&path, &file, footer, &index, whole, findings)?;
            if let Some(chain) = chain.filter(|chain| whole && *chain != footer.chain) {
                findings.damage(
                    &path,
                    None,
                    format!("the hash chain is broken: its frames end in {chain}, not in {}", footer.chain),
                );
            }
        }
        if let Some(position) = self.durable
            && let Some(chain) = chain.filter(|chain| whole && position.len == to && *chain != position.chain)
        {
            findings.damage(
                &path,
                None,
                format!(
                    "the hash chain is broken: its frames end in {chain}, the database says {}",
                    position.chain
                ),
            );
        }
        self.check_beside(&index, whole, findings)?;
        Ok(match (chain, footer) {
            // So that damage here is not found in the next file too.
            (Some(_), Some(footer)) => Some(footer.chain),
            (Some(chain), None) if whole => Some(chain),
            _ if version_1 => Some(Chain::default()),
            _ => None,
        })
    }

    /// An index is what the frames make, to the byte.
    fn check_index(
        &self,
        path: &Path,
        file: &File,
        footer: &Footer,
        index: &MemoryIndex,
        whole: bool,
        findings: &mut Findings<'_>,
    ) -> io::Result<()> {
        match footer.check(file) {
            Ok(()) => {}
            Err(Unreadable::Io(error)) => return Err(error),
            Err(Unreadable::Damaged(problem)) => {
                findings.damage(path, None, format!("its index is damaged: {problem}"));
                return Ok(());
            }
        }
        findings.told(footer.len);
        if whole && footer.len <= INDEX_BYTES_MAX {
            let begin = file.metadata()?.len().saturating_sub(footer.len);
            let (before, chain, frames_end) = (footer.before, footer.chain, footer.frames_end);
            let expected = Sealing { number: self.number, before, chain, frames_end, index }.encode(begin);
            let mut found = vec![0; footer.len as usize];
            file.read_exact_at(&mut found, begin)?;
            if found != expected {
                findings.damage(path, Some(begin), "its index does not tell its frames".to_owned());
            }
        }
        Ok(())
    }

    /// The index beside the file, if there is one.
    fn check_beside(&self, index: &MemoryIndex, whole: bool, findings: &mut Findings<'_>) -> io::Result<()> {
        let path = index_path_of(self.dir, self.number);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        match Footer::load(&file, self.number) {
            Ok(Some(footer)) => self.check_index(&path, &file, &footer, index, whole, findings),
            Ok(None) => {
                findings.damage(&path, None, "it is no index".to_owned());
                Ok(())
            }
            Err(Unreadable::Io(error)) => Err(error),
            Err(Unreadable::Damaged(problem)) => {
                findings.damage(&path, None, format!("it is damaged: {problem}"));
                Ok(())
            }
        }
    }
}
