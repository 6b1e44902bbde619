//! Segment files as a whole: what is found after crashes, damage and faults.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use gnomon_clock::RawNs;
use gnomon_flow::{EpochHash, FlowId};
use tempfile::TempDir;

use super::files::Index;
use super::*;

const BIG: u64 = 1 << 20;

fn open(dir: &Path, durable: Option<Position>, bytes_max: u64) -> (Arc<Segments>, SegmentWriter, Recovered) {
    Segments::open(dir, durable, Opening::Normal, &BTreeMap::new(), bytes_max).unwrap()
}

fn append_of(
    writer: &mut SegmentWriter,
    epoch: u64,
    flows: &[u64],
    raw: (u64, u64),
    text: &str,
) -> SliceLocation {
    let block = zstd::bulk::compress(text.as_bytes(), 1).unwrap();
    let flows: Vec<FlowId> = flows.iter().map(|id| FlowId(*id)).collect();
    let frame = Frame {
        epoch: EpochHash(epoch),
        first: RawNs(raw.0),
        last: RawNs(raw.1),
        packets: 2,
        block_bytes: text.len() as u32,
        interface: "eth0",
        flows: &flows,
        block: &block,
    };
    writer.append(&frame).unwrap()
}

fn append(writer: &mut SegmentWriter, text: &str) -> SliceLocation {
    append_of(writer, 1, &[5, 6], (10, 20), text)
}

fn committed(writer: &mut SegmentWriter, text: &str) -> (SliceLocation, Position) {
    let at = append(writer, text);
    let position = writer.sync().unwrap();
    writer.commit();
    (at, position)
}

fn block(segments: &Segments, at: SliceLocation) -> Result<Vec<u8>, SegmentError> {
    let mut block = Vec::new();
    segments.block_reader()?.read(&at, &mut block).map(|()| block)
}

fn places(segments: &Segments, epoch: u64, flow: u64) -> Vec<SliceLocation> {
    let mut found = Vec::new();
    segments.find(&[FlowSpan::all(EpochHash(epoch), FlowId(flow))], false, |_, at| found.push(at)).unwrap();
    found
}

#[test]
fn frames_come_back_and_an_unacknowledged_tail_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let (segments, mut writer, recovered) = open(dir.path(), None, BIG);
    assert_eq!(recovered, Recovered::default());
    let (first, durable) = committed(&mut writer, "first");
    let torn = append(&mut writer, "never acknowledged");
    assert_eq!(places(&segments, 1, 5), [first], "what is not acknowledged is not found");
    drop(writer);
    let (segments, mut writer, recovered) = open(dir.path(), Some(durable), BIG);
    assert_eq!(recovered, Recovered { cut_bytes: u64::from(torn.len), lost_bytes: 0 });
    let (third, _) = committed(&mut writer, "third");
    assert_eq!(third.offset, torn.offset);
    assert_eq!(places(&segments, 1, 6), [first, third]);
    assert_eq!(block(&segments, first).unwrap(), b"first");
    assert_eq!(block(&segments, third).unwrap(), b"third");
    assert_eq!(segments.interface(&third).unwrap(), "eth0");
}

#[test]
fn a_roll_back_leaves_no_trace() {
    let dir = tempfile::tempdir().unwrap();
    let (segments, mut writer, _) = open(dir.path(), None, BIG);
    let gone = append(&mut writer, "gone");
    writer.roll_back();
    let (at, durable) = committed(&mut writer, "kept");
    assert_eq!(at.offset, gone.offset);
    assert_eq!(path_of(dir.path(), 1).metadata().unwrap().len(), durable.len);
    assert_eq!(places(&segments, 1, 5), [at]);
    drop(writer);
    let (_, writer, _) = open(dir.path(), Some(durable), BIG);
    assert_eq!(writer.position(), durable, "the chain too");
}

#[test]
fn files_rotate_and_one_nobody_was_told_of_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (_, mut writer, _) = open(dir.path(), None, 80);
    let (at, durable) = committed(&mut writer, "fills it");
    assert!(writer.rotate_if_full().unwrap());
    append(&mut writer, "in the second");
    drop(writer);
    assert_eq!(numbers_in(dir.path()).unwrap(), [1, 2]);
    let (segments, writer, recovered) = open(dir.path(), Some(durable), 80);
    assert!(recovered.cut_bytes > 0 && recovered.lost_bytes == 0);
    // The first was sealed, so another second one is begun.
    assert_eq!(numbers_in(dir.path()).unwrap(), [1, 2]);
    assert_eq!(writer.position().number, 2);
    assert_eq!(places(&segments, 1, 5), [at]);
    assert!(matches!(*segments.index(1).unwrap(), Index::Disk { beside: false, .. }));
}

#[test]
fn a_file_that_lost_acknowledged_bytes_is_left_alone_and_said() {
    let dir = tempfile::tempdir().unwrap();
    let (_, mut writer, _) = open(dir.path(), None, BIG);
    let (kept, _) = committed(&mut writer, "kept");
    let (lost, durable) = committed(&mut writer, "lost");
    drop(writer);
    let file = OpenOptions::new().write(true).open(path_of(dir.path(), 1)).unwrap();
    file.set_len(lost.offset + 3).unwrap();
    let (segments, mut writer, recovered) = open(dir.path(), Some(durable), BIG);
    assert_eq!(recovered.lost_bytes, u64::from(lost.len) - 3);
    let (next, _) = committed(&mut writer, "next");
    assert_eq!(next.segment, 2);
    assert_eq!(places(&segments, 1, 5), [kept, next]);
    assert_eq!(block(&segments, kept).unwrap(), b"kept");
    assert_eq!(block(&segments, next).unwrap(), b"next");
    assert!(matches!(block(&segments, lost), Err(SegmentError::Damaged { .. })));
}

#[test]
fn a_file_of_version_1_is_indexed_and_never_written() {
    let dir = tempfile::tempdir().unwrap();
    let (_, mut writer, _) = open(dir.path(), None, BIG);
    let (first, _) = committed(&mut writer, "first");
    let (second, durable) = committed(&mut writer, "second");
    drop(writer);
    // The same frames behind the header of version 1, and a torn tail.
    let path = path_of(dir.path(), 1);
    let mut bytes = std::fs::read(&path).unwrap();
    let moved = 64 - 16;
    bytes.drain(16..64);
    bytes[8] = 1;
    bytes.extend_from_slice(b"torn");
    std::fs::write(&path, &bytes).unwrap();
    let durable = Position { len: durable.len - moved, chain: Chain::default(), ..durable };
    let back = |at: SliceLocation| SliceLocation { offset: at.offset - moved, ..at };
    for round in 0..2 {
        let (segments, mut writer, recovered) = open(dir.path(), Some(durable), BIG);
        // The second time, what was begun behind it.
        assert_eq!(recovered.cut_bytes == 4, round == 0);
        assert_eq!(writer.position().number, 2);
        assert_eq!(places(&segments, 1, 5), [back(first), back(second)]);
        assert_eq!(block(&segments, back(second)).unwrap(), b"second");
        assert!(matches!(*segments.index(1).unwrap(), Index::Disk { beside: true, .. }));
        committed(&mut writer, "next");
        assert_eq!(std::fs::read(&path).unwrap(), bytes[..bytes.len() - 4]);
    }
}

/// Files that were filled and sealed, what is in them, and how far the newest is durable.
struct Filled {
    dir: TempDir,
    durable: Position,
    /// Epoch, flow and place of everything.
    truth: Vec<(u64, u64, SliceLocation)>,
}

/// Several epochs, workers and long flows over `files` files with `frames` frames each.
fn fill(files: u64, frames: u64) -> Filled {
    // In memory where there is such a place: these tests open the files some thousand times.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let (_, mut writer, _) = open(dir.path(), None, 1);
    let mut truth = Vec::new();
    let mut durable = writer.position();
    for file in 0..files {
        writer.rotate_if_full().unwrap();
        for frame in 0..frames {
            let n = file * frames + frame;
            let epoch = 100 + n % 3;
            let worker = (n % 2) << 56;
            // A flow of its own, one that lasts, and one now and then.
            let flows = [worker | (10 + n), worker | 1, worker | (5 + n % 4)];
            let at = append_of(&mut writer, epoch, &flows, (n * 10, n * 10 + 15), &format!("block {n}"));
            let mut of: Vec<u64> = flows.to_vec();
            of.dedup();
            truth.extend(of.into_iter().map(|flow| (epoch, flow, at)));
        }
        durable = writer.sync().unwrap();
        writer.commit();
    }
    drop(writer);
    truth.sort_by_key(|(epoch, flow, at)| (*epoch, *flow, at.segment, at.offset));
    truth.dedup();
    Filled { dir, durable, truth }
}

impl Filled {
    fn open(&self) -> Arc<Segments> {
        open(self.dir.path(), Some(self.durable), BIG).0
    }

    fn flows(&self) -> Vec<(u64, u64)> {
        let mut flows: Vec<_> = self.truth.iter().map(|(epoch, flow, _)| (*epoch, *flow)).collect();
        flows.dedup();
        flows
    }

    /// The places of a flow whose packets touch `first..=last`.
    fn expected(&self, epoch: u64, flow: u64, first: u64, last: u64) -> Vec<SliceLocation> {
        let of = self.truth.iter().filter(|(e, f, _)| (*e, *f) == (epoch, flow)).map(|(.., at)| *at);
        of.filter(|at| at.first.0 <= last && at.last.0 >= first).collect()
    }
}

#[test]
fn every_flow_is_found_in_footers_alone_and_all_at_once() {
    let filled = fill(5, 700);
    let segments = filled.open();
    for number in 1..5 {
        assert!(matches!(*segments.index(number).unwrap(), Index::Disk { beside: false, .. }), "{number}");
    }
    for (epoch, flow) in filled.flows() {
        assert_eq!(places(&segments, epoch, flow), filled.expected(epoch, flow, 0, u64::MAX));
    }
    for (epoch, flow) in [(99, 1), (100, 0), (100, 1 << 60), (103, 1), (100, 1_000_000)] {
        assert_eq!(places(&segments, epoch, flow), []);
    }
    // All at once, each within a time.
    let wanted: Vec<FlowSpan> = filled
        .flows()
        .into_iter()
        .flat_map(|(epoch, flow)| {
            [(0, 4000), (9000, 21_000)].map(|(first, last)| FlowSpan {
                epoch: EpochHash(epoch),
                flow: FlowId(flow),
                first: RawNs(first),
                last: RawNs(last),
            })
        })
        .collect();
    let mut found: Vec<Vec<SliceLocation>> = vec![Vec::new(); wanted.len()];
    segments.find(&wanted, false, |at, place| found[at].push(place)).unwrap();
    for (span, found) in wanted.iter().zip(found) {
        assert_eq!(found, filled.expected(span.epoch.0, span.flow.0, span.first.0, span.last.0), "{span:?}");
    }
    // Each block once, for whichever flow.
    let mut once = Vec::new();
    segments.find(&wanted, true, |at, place| once.push((place.segment, place.offset, at))).unwrap();
    once.sort_unstable();
    let mut blocks: Vec<_> = once.iter().map(|(segment, offset, _)| (*segment, *offset)).collect();
    blocks.dedup();
    assert_eq!(blocks.len(), once.len());
    let touched = |at: &SliceLocation| {
        [(0, 4000), (9000, 21_000)].iter().any(|(first, last)| at.first.0 <= *last && at.last.0 >= *first)
    };
    let mut expected: Vec<_> = filled.truth.iter().map(|(.., at)| *at).filter(touched).collect();
    expected.sort_unstable_by_key(|at| (at.segment, at.offset));
    expected.dedup();
    assert_eq!(blocks, expected.iter().map(|at| (at.segment, at.offset)).collect::<Vec<_>>());
    assert_eq!((segments.damaged_blocks(), segments.damaged_indexes()), (0, 0));
    assert_eq!(segments.oldest().iter().map(|(_, first)| first.0).min(), Some(0));
}

#[test]
fn a_large_file_is_finished_and_linked_so_that_little_is_copied() {
    let (dir, links) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (segments, mut writer, _) = open(dir.path(), None, 1 << 30);
    let block = vec![7; 9 << 20];
    for n in 0..2 {
        let (epoch, first, last) = (EpochHash(1), RawNs(n), RawNs(n));
        let flows = &[FlowId(5)];
        let frame =
            Frame { epoch, first, last, packets: 1, block_bytes: 9, interface: "", flows, block: &block };
        writer.append(&frame).unwrap();
    }
    let durable = writer.sync().unwrap();
    writer.commit();
    let newest = writer.finish_large().unwrap();
    assert_eq!((newest.number, newest.len), (2, HEADER_BYTES as u64));
    segments.link(newest.number, links.path()).unwrap();
    let (found, _, recovered) = open(links.path(), Some(durable), BIG);
    assert_eq!(recovered, Recovered::default());
    assert_eq!(places(&found, 1, 5), places(&segments, 1, 5));
    let again = writer.finish_large().unwrap();
    assert_eq!(again, newest, "a small one is left");
}

fn verified(dir: &Path, durable: Position) -> crate::store::Report {
    let mut told = |_| {};
    let mut findings = crate::store::verify::Findings { report: Default::default(), told: &mut told };
    verify(dir, Some(durable), &BTreeMap::new(), &mut findings);
    findings.report
}

#[test]
fn a_check_finds_every_flipped_byte_of_a_sealed_file_and_every_cut() {
    let filled = fill(3, 12);
    let dir = filled.dir.path();
    let good = verified(dir, filled.durable);
    assert_eq!((good.damage.as_slice(), good.files, good.frames), (&[][..], 3, 36));
    let path = path_of(dir, 2);
    let whole = std::fs::read(&path).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    for at in 0..whole.len() {
        file.write_all_at(&[whole[at] ^ 0x40], at as u64).unwrap();
        let report = verified(dir, filled.durable);
        assert!(report.damaged > 0, "byte {at}");
        assert!(report.damage.iter().any(|damage| damage.file == path), "byte {at}: {:?}", report.damage);
        assert!(report.frames >= 35, "byte {at}");
        file.write_all_at(&whole[at..=at], at as u64).unwrap();
    }
    file.set_len(whole.len() as u64 / 3).unwrap();
    assert!(verified(dir, filled.durable).damaged > 0);
    std::fs::remove_file(&path).unwrap();
    let report = verified(dir, filled.durable);
    assert_eq!((report.damaged, report.damage[0].problem.as_str()), (1, "it is missing"));
}

#[test]
fn a_file_that_another_took_the_place_of_breaks_the_chain() {
    let (filled, other) = (fill(3, 12), fill(3, 11));
    std::fs::copy(path_of(other.dir.path(), 2), path_of(filled.dir.path(), 2)).unwrap();
    let report = verified(filled.dir.path(), filled.durable);
    let problems: Vec<_> =
        report.damage.iter().map(|damage| (&damage.file, damage.problem.as_str())).collect();
    let broken = "the hash chain is broken: it does not go on where the file before ends";
    let files = [path_of(filled.dir.path(), 2), path_of(filled.dir.path(), 3)];
    assert_eq!(problems, [(&files[0], broken), (&files[1], broken)]);
}

#[test]
fn every_flipped_byte_of_a_sealed_file_costs_one_frame_at_most() {
    let filled = fill(2, 12);
    let path = path_of(filled.dir.path(), 1);
    let whole = std::fs::read(&path).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    let mut named = 0;
    for at in 0..whole.len() {
        file.write_all_at(&[whole[at] ^ 0x40], at as u64).unwrap();
        let _ = std::fs::remove_file(index_path_of(filled.dir.path(), 1));
        let segments = filled.open();
        let mut unread = std::collections::BTreeSet::new();
        let (mut reader, mut bytes) = (segments.block_reader().unwrap(), Vec::<u8>::new());
        for (epoch, flow) in filled.flows() {
            let expected = filled.expected(epoch, flow, 0, u64::MAX);
            assert_eq!(places(&segments, epoch, flow), expected, "byte {at}");
            let bad = expected.into_iter().filter(|at| reader.read(at, &mut bytes).is_err());
            unread.extend(bad.map(|at| at.offset));
        }
        let hit = filled.truth.iter().any(|(.., place)| {
            place.segment == 1 && (place.offset..place.offset + u64::from(place.len)).contains(&(at as u64))
        });
        assert_eq!(unread.len(), usize::from(hit), "byte {at}");
        named += segments.damaged_indexes();
        file.write_all_at(&whole[at..=at], at as u64).unwrap();
    }
    assert!(named > 100, "{named}");
}

#[test]
fn every_flipped_byte_of_a_file_without_footer_costs_one_frame_at_most() {
    let filled = fill(1, 12);
    let path = path_of(filled.dir.path(), 1);
    let whole = std::fs::read(&path).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    for at in 0..whole.len() {
        file.write_all_at(&[whole[at] ^ 0x40], at as u64).unwrap();
        let _ = std::fs::remove_file(index_path_of(filled.dir.path(), 1));
        let segments = filled.open();
        let (mut reader, mut bytes) = (segments.block_reader().unwrap(), Vec::<u8>::new());
        let inside = |place: &SliceLocation| {
            (place.offset..place.offset + u64::from(place.len)).contains(&(at as u64))
        };
        for (epoch, flow) in filled.flows() {
            let mut expected = filled.expected(epoch, flow, 0, u64::MAX);
            expected.retain(|place| !inside(place));
            let found = places(&segments, epoch, flow);
            assert_eq!(found, expected, "byte {at}");
            assert!(found.into_iter().all(|place| reader.read(&place, &mut bytes).is_ok()));
        }
        assert_eq!(segments.damaged_blocks(), 1, "byte {at}");
        file.write_all_at(&whole[at..=at], at as u64).unwrap();
    }
}

#[test]
fn a_cut_file_serves_what_is_left() {
    let filled = fill(2, 12);
    let path = path_of(filled.dir.path(), 1);
    let whole = std::fs::read(&path).unwrap();
    for len in (0..whole.len()).rev() {
        std::fs::write(&path, &whole[..len]).unwrap();
        let _ = std::fs::remove_file(index_path_of(filled.dir.path(), 1));
        let segments = filled.open();
        let is_left = |at: &SliceLocation| at.segment != 1 || at.offset + u64::from(at.len) <= len as u64;
        for (epoch, flow) in filled.flows() {
            let mut expected = filled.expected(epoch, flow, 0, u64::MAX);
            expected.retain(is_left);
            assert_eq!(places(&segments, epoch, flow), expected, "{len} bytes");
        }
    }
}

#[test]
fn a_file_given_up_for_space_is_not_found_and_said_to_be_gone() {
    let filled = fill(3, 12);
    let segments = filled.open();
    let (_, _, at) = *filled.truth.iter().find(|(.., at)| at.segment == 1).unwrap();
    segments.remove(1).unwrap();
    assert!(matches!(block(&segments, at), Err(SegmentError::Gone { .. })));
    for (epoch, flow) in filled.flows() {
        let mut expected = filled.expected(epoch, flow, 0, u64::MAX);
        expected.retain(|at| at.segment != 1);
        assert_eq!(places(&segments, epoch, flow), expected);
    }
}
