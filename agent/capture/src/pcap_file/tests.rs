//! Files written by hand, one for each thing a writer may do; then every kind of damage.

mod written;

use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use proptest::prelude::*;

use super::*;
use crate::frame::{LinkType, each};
use written::{Classic, Order, Packet, Pcapng, Written, block, option};

/// What a test sees of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    ns: u64,
    err_ns: u32,
    link: LinkType,
    original_len: u32,
    data: Vec<u8>,
    outgoing: bool,
}

impl From<Frame<'_>> for Seen {
    fn from(frame: Frame<'_>) -> Seen {
        Seen {
            ns: frame.stamp.raw.0,
            err_ns: frame.stamp.err_ns,
            link: frame.link,
            original_len: frame.original_len,
            data: frame.data.to_vec(),
            outgoing: frame.outgoing,
        }
    }
}

fn read_all(file: &mut PcapFile) -> (Vec<Seen>, Result<(), FileError>) {
    let mut seen = Vec::new();
    loop {
        let before = seen.len();
        let drained = file.drain(
            7,
            each(|frame| {
                seen.push(Seen::from(frame));
            }),
        );
        match drained {
            Ok(0) => return (seen, Ok(())),
            Ok(n) => assert_eq!(n, seen.len() - before, "drain returns what the sink was given"),
            Err(error) => return (seen, Err(error)),
        }
    }
}

fn open(bytes: &[u8]) -> Result<PcapFile, FileError> {
    PcapFile::from_reader("test", Box::new(io::Cursor::new(bytes.to_vec())))
}

/// Reads a file that must be sound.
fn read(bytes: &[u8]) -> (Vec<Seen>, FileStats) {
    let mut file = open(bytes).unwrap();
    let (seen, result) = read_all(&mut file);
    result.unwrap();
    assert_eq!(file.stats().frames, seen.len() as u64);
    assert_eq!(file.stats().bytes, seen.iter().map(|s| s.data.len() as u64).sum::<u64>());
    assert_eq!(file.stats().original_bytes, seen.iter().map(|s| u64::from(s.original_len)).sum::<u64>());
    (seen, file.stats().clone())
}

fn packet(fill: u8, len: usize) -> Packet {
    Packet { seconds: 1_700_000_000, ticks: 123_456, data: vec![fill; len], original: len as u32 }
}

#[test]
fn pcap_in_both_orders_and_resolutions() {
    for order in [Order::Little, Order::Big] {
        let packets = [packet(1, 60), packet(2, 0), Packet { original: 1500, ..packet(3, 96) }];
        let (micro, stats) = read(&Classic::micro(order).write(&packets).bytes);
        assert_eq!(micro.len(), 3);
        assert_eq!((micro[0].ns, micro[0].err_ns), (1_700_000_000_123_456_000, 1000));
        assert_eq!(micro[0].data, vec![1; 60]);
        assert_eq!((micro[2].original_len, micro[2].data.len()), (1500, 96));
        assert_eq!(stats.truncated_tail, None);

        let (nano, _) = read(&Classic::nano(order).write(&packets).bytes);
        assert_eq!((nano[0].ns, nano[0].err_ns), (1_700_000_000_000_123_456, 1));
        assert_eq!(nano.len(), 3);
    }
}

#[test]
fn pcap_with_modified_headers_knows_what_the_host_sent() {
    for order in [Order::Little, Order::Big] {
        let (seen, _) = read(&Classic::modified(order).write(&[packet(1, 60), packet(4, 61)]).bytes);
        // The generator marks packets of odd length as outgoing.
        assert_eq!(seen.iter().map(|s| s.outgoing).collect::<Vec<_>>(), [false, true]);
        assert_eq!(seen[1].data, vec![4; 61]);
        assert_eq!(seen[1].ns, 1_700_000_000_123_456_000);
    }
}

#[test]
fn pcap_linktypes_with_and_without_check_sequence_bits() {
    for (field, link) in [
        (0, LinkType::Null),
        (1, LinkType::Ethernet),
        (0x5400_0001, LinkType::Ethernet),
        (101, LinkType::RawIp),
        (108, LinkType::Loop),
        (113, LinkType::LinuxSll),
        (276, LinkType::LinuxSll2),
        (0x2400_0114, LinkType::LinuxSll2),
        (147, LinkType::Other(147)),
    ] {
        let written = Classic { linktype: field, ..Classic::micro(Order::Little) }.write(&[packet(1, 60)]);
        assert_eq!(read(&written.bytes).0[0].link, link, "link type field {field:#x}");
    }
}

#[test]
fn pcap_of_early_versions_has_its_lengths_the_other_way_round() {
    let packets = [Packet { original: 1500, ..packet(3, 96) }, packet(1, 60)];
    for minor in [2, 3] {
        let (seen, _) =
            read(&Classic { minor, swapped: true, ..Classic::micro(Order::Big) }.write(&packets).bytes);
        assert_eq!((seen[0].data.len(), seen[0].original_len), (96, 1500), "version 2.{minor}");
        assert_eq!(seen.len(), 2);
    }
    let (seen, _) = read(&Classic { minor: 3, ..Classic::micro(Order::Big) }.write(&packets).bytes);
    assert_eq!((seen[0].data.len(), seen[0].original_len), (96, 1500));
}

#[test]
fn a_wire_length_below_the_captured_length_is_clamped_and_counted() {
    let packets = [Packet { original: 20, ..packet(1, 60) }];
    for bytes in
        [Classic::micro(Order::Little).write(&packets).bytes, Pcapng::new(Order::Big).write(&packets).bytes]
    {
        let (seen, stats) = read(&bytes);
        assert_eq!((seen[0].original_len, stats.clamped_lengths), (60, 1));
    }
}

#[test]
fn a_fraction_over_a_second_is_dropped_counted_and_widens_the_error() {
    let packets = [Packet { ticks: 1_000_000, ..packet(1, 60) }];
    let (seen, stats) = read(&Classic::micro(Order::Little).write(&packets).bytes);
    assert_eq!((seen[0].ns, seen[0].err_ns), (1_700_000_000_000_000_000, 1_000_000_000));
    assert_eq!(stats.clamped_stamps, 1);
}

#[test]
fn pcapng_in_both_orders_with_every_packet_block_and_unknown_blocks_between() {
    for order in [Order::Little, Order::Big] {
        let mut bytes = order.section();
        bytes.extend(block(order, 0x0bad, &[7; 40]));
        bytes.extend(order.interface(1, 96, &[]));
        let head =
            |captured: u32, original: u32| order.words(&[0x0006_09ff, 0xa5e1_0000, captured, original]);
        let mut enhanced = order.words(&[0]);
        enhanced.extend(head(61, 61));
        enhanced.extend([1; 64]);
        // Outbound, behind a comment; then the end mark.
        enhanced.extend(option(order, 1, b"hello"));
        enhanced.extend(option(order, 2, &order.words(&[2])));
        enhanced.extend(option(order, 0, &[]));
        bytes.extend(block(order, 6, &enhanced));
        bytes.extend(block(order, 5, &[0; 12]));
        let mut obsolete = match order {
            Order::Little => vec![0, 0, 9, 9],
            Order::Big => vec![0, 0, 9, 9],
        };
        obsolete.extend(head(60, 1000));
        obsolete.extend([2; 60]);
        obsolete.extend(option(order, 2, &order.words(&[1])));
        bytes.extend(block(order, 2, &obsolete));
        let mut simple = order.words(&[300]);
        simple.extend([3; 96]);
        bytes.extend(block(order, 3, &simple));
        let (seen, stats) = read(&bytes);
        assert_eq!(seen.len(), 3);
        let ns = 0x0006_09ff_a5e1_0000 * 1000;
        assert_eq!((seen[0].ns, seen[0].err_ns, seen[0].outgoing), (ns, 1000, true));
        assert_eq!(seen[0].data, vec![1; 61]);
        assert_eq!((seen[1].ns, seen[1].outgoing, seen[1].original_len), (ns, false, 1000));
        assert_eq!(seen[1].data, vec![2; 60]);
        assert_eq!((seen[2].data.len(), seen[2].original_len), (96, 300));
        assert_eq!((seen[2].ns, seen[2].err_ns), (0, u32::MAX));
        assert_eq!((stats.skipped_blocks, stats.unstamped, stats.bad_blocks), (2, 1, 0));
        assert_eq!(stats.truncated_tail, None);
    }
}

#[test]
fn pcapng_sections_change_byte_order_and_forget_interfaces() {
    let mut bytes = Pcapng::new(Order::Little).write(&[packet(1, 60)]).bytes;
    bytes.extend(Pcapng { linktype: 101, ..Pcapng::new(Order::Big) }.write(&[packet(2, 60)]).bytes);
    // A section that describes no interface.
    bytes.extend(Order::Little.section());
    bytes.extend(Pcapng::new(Order::Little).packet_block(0, &packet(3, 60)));
    bytes.extend(Pcapng::new(Order::Big).write(&[packet(4, 60)]).bytes);
    let (seen, stats) = read(&bytes);
    assert_eq!(seen.iter().map(|s| s.data[0]).collect::<Vec<_>>(), [1, 2, 4]);
    assert_eq!(seen[1].link, LinkType::RawIp);
    assert_eq!(stats.bad_blocks, 1, "the packet whose interface is unknown is counted");
}

#[test]
fn pcapng_interfaces_have_their_own_link_type_resolution_and_offset() {
    let order = Order::Big;
    let cases: [(u8, i64, u64, Option<u64>, u32); 12] = [
        // if_tsresol, if_tsoffset, ticks, ns, error
        (6, 0, 1_700_000_000_123_456, Some(1_700_000_000_123_456_000), 1000),
        (9, 0, 1_700_000_000_123_456_789, Some(1_700_000_000_123_456_789), 1),
        (0, 0, 1_700_000_000, Some(1_700_000_000_000_000_000), 1_000_000_000),
        (12, 0, 1_700_000_123_456_789_999, Some(1_700_000_123_456_789), 1),
        (0x80, 0, 1_700_000_000, Some(1_700_000_000_000_000_000), 1_000_000_000),
        (0x80 | 10, 0, 1_700_000_000 * 1024 + 512, Some(1_700_000_000_500_000_000), 976_562),
        (0x80 | 32, 1_700_000_000, 3 << 30, Some(1_700_000_000_750_000_000), 1),
        (9, 1_700_000_000, 5, Some(1_700_000_000_000_000_005), 1),
        (6, -1, 500_000, None, 0),
        (6, 0, u64::MAX, None, 0),
        (0xff, 0, u64::MAX, Some(0), 1),
        (127, 0, u64::MAX, Some(0), 1),
    ];
    let mut bytes = order.section();
    for (tsresol, tsoffset, ..) in cases {
        let mut options = option(order, 9, &[tsresol]);
        options.extend(option(order, 14, &order.i64(tsoffset)));
        options.extend(option(order, 0, &[]));
        bytes.extend(order.interface(if tsresol == 9 { 113 } else { 1 }, 0, &options));
    }
    for (id, (_, _, ticks, ..)) in cases.iter().enumerate() {
        let mut body = order.words(&[id as u32, (ticks >> 32) as u32, *ticks as u32, 4, 4]);
        body.extend([0; 4]);
        bytes.extend(block(order, 6, &body));
    }
    let (seen, stats) = read(&bytes);
    assert_eq!(seen.len(), cases.len());
    for ((tsresol, _, _, ns, err_ns), seen) in cases.iter().zip(&seen) {
        assert_eq!(seen.ns, ns.unwrap_or(0), "if_tsresol {tsresol:#x}");
        if ns.is_some() {
            assert_eq!(seen.err_ns, *err_ns, "if_tsresol {tsresol:#x}");
        }
    }
    assert_eq!(stats.clamped_stamps, 2);
    assert_eq!(seen[1].link, LinkType::LinuxSll);
}

#[test]
fn interfaces_are_told_apart_by_name_over_all_sections_and_by_number_without_one() {
    let named = |order: Order, name: &[u8]| {
        let options = [option(order, 2, name), option(order, 0, &[])].concat();
        order.interface(1, 0, &options)
    };
    let one = |order: Order, interface: u32, fill: u8| {
        let body = [order.words(&[interface, 0, 0, 4, 4]), vec![fill; 4]].concat();
        block(order, 6, &body)
    };
    let (a, b) = (Order::Little, Order::Big);
    let mut bytes = a.section();
    bytes.extend([named(a, b"lan"), named(a, b"wan\0"), a.interface(1, 0, &[])].concat());
    bytes.extend([one(a, 0, 1), one(a, 1, 2), one(a, 1, 3), one(a, 2, 4), one(a, 0, 5)].concat());
    bytes
        .extend([b.section(), named(b, b"wan"), b.interface(1, 0, &[]), one(b, 0, 6), one(b, 1, 7)].concat());
    let mut file = open(&bytes).unwrap();
    let mut seen = Vec::new();
    while file
        .drain_by_interface(100, |number, interface, frames| {
            let name = interface.name.as_deref().unwrap_or("-").to_owned();
            seen.extend(frames.iter().map(|frame| (number, name.clone(), interface.index, frame.data[0])));
        })
        .unwrap()
        > 0
    {}
    let seen: Vec<_> =
        seen.iter().map(|(number, name, index, fill)| (*number, &name[..], *index, *fill)).collect();
    let right = [
        (0, "lan", 0, 1),
        (1, "wan", 1, 2),
        (1, "wan", 1, 3),
        (2, "-", 2, 4),
        (0, "lan", 0, 5),
        (1, "wan", 1, 6),
        (3, "-", 1, 7),
    ];
    assert_eq!(seen, right);
    // Hostile: more than are told apart, with names that are none.
    let mut bytes = a.section();
    for n in 0..u32::from(u8::MAX) + 10 {
        bytes.extend(named(a, format!("if{n}").as_bytes()));
        bytes.extend(one(a, n, n as u8));
    }
    let mut file = open(&bytes).unwrap();
    let (mut frames_of_last, mut numbers) = (0, std::collections::BTreeSet::new());
    while file
        .drain_by_interface(100, |number, interface, frames| {
            numbers.insert(number);
            assert!(number + 1 < INTERFACES_APART_MAX || interface.name.is_some());
            frames_of_last += if number + 1 == INTERFACES_APART_MAX { frames.len() } else { 0 };
        })
        .unwrap()
        > 0
    {}
    assert_eq!((numbers.len(), frames_of_last), (INTERFACES_APART_MAX, 265 - INTERFACES_APART_MAX + 1));
    assert!(file.stats().interfaces_together > 0);
}

#[test]
fn pcapng_packets_that_contradict_their_block_are_counted_and_passed_over() {
    let order = Order::Little;
    let mut bytes = Pcapng::new(order).write(&[packet(1, 60)]).bytes;
    let mut body = order.words(&[0, 0, 0, 61, 61]);
    body.extend([0; 60]);
    bytes.extend(block(order, 6, &body));
    // Not oversize: it is not there.
    bytes.extend(block(order, 6, &order.words(&[0, 0, 0, 300_000, 300_000, 0])));
    bytes.extend(block(order, 6, &[0; 8]));
    bytes.extend(block(order, 3, &[]));
    bytes.extend(block(order, 6, &order.words(&[9, 0, 0, 0, 0])));
    bytes.extend(Pcapng::new(order).packet_block(0, &packet(2, 60)));
    let (seen, stats) = read(&bytes);
    assert_eq!(seen.len(), 2);
    assert_eq!((stats.bad_blocks, stats.oversize), (5, 0));
}

#[test]
fn a_block_whose_two_lengths_differ_is_damage() {
    let mut written = Pcapng::new(Order::Big).write(&[packet(1, 60), packet(2, 60)]);
    let end = written.ends[1];
    written.bytes[end - 1] ^= 4;
    // A block of another kind ends the file.
    let (seen, stats) = read(&written.bytes);
    assert_eq!((seen.len(), stats.torn), (1, 1));
    assert_eq!(stats.torn_places, [Torn { offset: (end - 92) as u64, bytes: 92 }]);
    let (_, result) = read_all(&mut open(&written.bytes[..end]).unwrap());
    let message = result.unwrap_err().to_string();
    assert!(
        message.contains(&format!("at byte {}: a block of length 92 that ends with", end - 4)),
        "{message}"
    );
}

#[test]
fn options_that_run_over_their_block_end_the_options_only() {
    let order = Order::Little;
    let mut bytes = order.section();
    bytes.extend(order.interface(1, 0, &[9, 0, 0xff, 0xff, 9, 0, 0, 0]));
    let mut body = order.words(&[0, 0, 1, 4, 4]);
    body.extend([5; 4]);
    body.extend([2, 0, 4]);
    body.push(0);
    bytes.extend(block(order, 6, &body));
    let (seen, _) = read(&bytes);
    assert_eq!((seen[0].data.as_slice(), seen[0].outgoing), ([5u8; 4].as_slice(), false));
    assert_eq!(seen[0].err_ns, 1000, "the default resolution");
}

#[test]
fn frames_to_256_kib_are_delivered_and_longer_ones_counted_with_their_wire_length() {
    let packets = [packet(1, 262_144), packet(2, 262_145), packet(3, 60), packet(4, 3_000_000), packet(5, 1)];
    let written = [
        Classic::nano(Order::Little).write(&packets).bytes,
        Classic::modified(Order::Big).write(&packets).bytes,
        Pcapng::new(Order::Little).write(&packets).bytes,
        Pcapng::new(Order::Big).write(&packets).bytes,
    ];
    for bytes in written {
        let (seen, stats) = read(&bytes);
        assert_eq!(seen.iter().map(|s| s.data.len()).collect::<Vec<_>>(), [262_144, 60, 1]);
        assert_eq!((stats.oversize, stats.oversize_bytes), (2, 3_262_145));
        assert_eq!(stats.truncated_tail, None);
    }
}

#[test]
fn a_block_with_more_options_than_are_held_still_gives_its_packet() {
    let order = Order::Little;
    let mut body = order.words(&[0, 0, 1, 8, 8]);
    body.extend([6; 8]);
    for _ in 0..40 {
        body.extend(option(order, 1, &[b'x'; 60_000]));
    }
    let mut bytes = Pcapng::new(order).write(&[]).bytes;
    bytes.extend(block(order, 6, &body));
    bytes.extend(block(order, 0x77, &vec![1; 5_000_000]));
    let sound = bytes.len();
    bytes.extend(Pcapng::new(order).packet_block(0, &packet(2, 60)));
    let (seen, stats) = read(&bytes);
    assert_eq!(seen.len(), 2);
    assert_eq!((seen[0].data.as_slice(), stats.skipped_blocks), ([6u8; 8].as_slice(), 1));
    // Its closing length is checked although the block was never held.
    bytes[sound - 2] ^= 1;
    let (seen, stats) = read(&bytes);
    assert_eq!((seen.len(), stats.torn_places), (2, vec![Torn { offset: (sound - 4) as u64, bytes: 4 }]));
}

#[test]
fn a_half_written_file_ends_with_a_note_of_where() {
    let packets = [packet(1, 60), packet(2, 61), packet(3, 62)];
    // The generator follows each pcapng packet by a block of 20 bytes.
    for (written, gap) in [
        (Classic::micro(Order::Little).write(&packets), 0),
        (Classic::modified(Order::Big).write(&packets), 0),
        (Pcapng::new(Order::Big).write(&packets), 20),
    ] {
        let begins = written.ends[1] + gap;
        for cut in begins + 1..written.ends[2] {
            let (seen, stats) = read(&written.bytes[..cut]);
            assert_eq!(seen.len(), 2);
            let tail = stats.truncated_tail.unwrap();
            assert_eq!(tail.offset, begins as u64);
            let TailCause::InsideRecord { have, need } = tail.why else { panic!("{tail}") };
            assert!(have as usize == cut - begins && need > have, "{tail}");
        }
        assert_eq!(read(&written.bytes[..begins]).1.truncated_tail, None);
    }
    let (_, stats) = read(&Classic::micro(Order::Little).write(&[packet(1, 700_000)]).bytes[..600_000]);
    let tail = stats.truncated_tail.unwrap();
    assert_eq!(tail.to_string(), "the file ends inside the record at byte 24: it has 599976 of 700016 bytes");
}

#[test]
fn space_that_was_reserved_and_never_written_is_a_truncated_tail() {
    for written in [
        Classic::nano(Order::Little).write(&[packet(1, 60)]),
        Pcapng::new(Order::Little).write(&[packet(1, 60)]),
    ] {
        let end = written.bytes.len();
        let mut bytes = written.bytes;
        bytes.resize(end + 3_000_000, 0);
        let (seen, stats) = read(&bytes);
        assert_eq!(seen.len(), 1);
        assert_eq!(stats.truncated_tail, Some(TruncatedTail { offset: end as u64, why: TailCause::Zeros }));
        // With something behind the zeros it is damage.
        bytes.push(1);
        let (seen, result) = read_all(&mut open(&bytes).unwrap());
        assert_eq!(seen.len(), 1);
        assert!(result.unwrap_err().to_string().contains(&format!("at byte {end}: zeros")));
    }
}

#[test]
fn garbage_in_the_middle_is_passed_by_and_said() {
    let packets: Vec<Packet> = (1..=9).map(|n| packet(n, 60 + usize::from(n))).collect();
    // In pcapng another block stands between.
    for (written, gap) in
        [(Classic::micro(Order::Little).write(&packets), 0), (Pcapng::new(Order::Big).write(&packets), 20)]
    {
        let (at, end) = (written.ends[1] + gap, written.ends[2]);
        let mut garbled = written.bytes.clone();
        garbled[at..at + 16].copy_from_slice(b"#!/bin/sh -e # x");
        let missing = [&written.bytes[..at + 7], &written.bytes[end - 9..]].concat();
        let inserted = [&written.bytes[..at], &[0xee; 4000], &written.bytes[at..]].concat();
        for (what, bytes, lost) in
            [("garbled", garbled, 1), ("bytes missing", missing, 1), ("bytes inserted", inserted, 0)]
        {
            let (seen, stats) = read(&bytes);
            let fills: Vec<u8> = seen.iter().map(|seen| seen.data[0]).collect();
            let right: Vec<u8> = (1..=9).filter(|n| lost == 0 || *n != 3).collect();
            assert_eq!(fills, right, "{what}");
            assert_eq!((stats.torn, stats.torn_places.len()), (1, 1), "{what}");
            let torn = stats.torn_places[0];
            assert!(torn.offset as usize >= at && torn.bytes == stats.torn_bytes, "{what}: {torn:?} {at}");
        }
    }
}

#[test]
fn garbage_to_the_end_is_an_error_that_names_the_offset_and_comes_once() {
    let packets = [packet(1, 60), packet(2, 61), packet(3, 62)];
    for written in [Classic::micro(Order::Little).write(&packets), Pcapng::new(Order::Little).write(&packets)]
    {
        let at = written.ends[1];
        let mut bytes = written.bytes[..at].to_vec();
        bytes.extend(b"#!/bin/sh -e # x".repeat(50_000));
        let mut file = open(&bytes).unwrap();
        let (seen, result) = read_all(&mut file);
        assert_eq!(seen.len(), 2);
        let error = result.unwrap_err();
        assert!(
            matches!(&error, FileError::Damaged { offset, frames: 2, .. } if (*offset as usize) - at <= 4)
        );
        assert!(error.to_string().starts_with("test is damaged at byte "), "{error}");
        assert_eq!(file.drain(10, each(|_| panic!("ended"))).unwrap(), 0);
    }
}

fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn compressed_files_are_known_by_their_magic_and_may_have_several_members() {
    let packets: Vec<Packet> = (0..200).map(|i| packet(i as u8, 500 + i)).collect();
    let plain = Classic::nano(Order::Little).write(&packets).bytes;
    let (expected, _) = read(&plain);
    let (head, tail) = plain.split_at(5_000);
    let skippable =
        [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &zstd::encode_all(&plain[..], 1).unwrap()];
    let cases = [
        gzip(&plain),
        [gzip(head), gzip(tail)].concat(),
        zstd::encode_all(&plain[..], 3).unwrap(),
        [zstd::encode_all(head, 3).unwrap(), zstd::encode_all(tail, 3).unwrap()].concat(),
        skippable.concat(),
        bzip2(&plain),
        [bzip2(head), bzip2(tail)].concat(),
        xz(&plain),
        [xz(head), xz(tail)].concat(),
    ];
    let directory = tempfile::tempdir().unwrap();
    for (i, packed) in cases.iter().enumerate() {
        // The wrong extension on purpose.
        let path = directory.path().join(format!("{i}.pcap"));
        std::fs::write(&path, packed).unwrap();
        let mut file = PcapFile::open(&path).unwrap();
        let (seen, result) = read_all(&mut file);
        result.unwrap();
        assert_eq!(seen, expected, "case {i}");
        assert_eq!(file.stats().truncated_tail, None);
        let total = packed.len() as u64;
        assert_eq!(file.progress(), FileProgress { bytes_read: total, bytes_total: Some(total) });
    }
}

#[test]
fn a_cut_compressed_file_gives_what_can_be_unpacked_and_a_corrupt_one_an_error() {
    // Bytes that do not compress, so that the packed file has several blocks.
    let mut state = 1u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let packets: Vec<Packet> = (0..600)
        .map(|_| Packet {
            data: std::iter::repeat_with(&mut random).take(900).collect(),
            original: 900,
            ..packet(0, 0)
        })
        .collect();
    let plain = Classic::nano(Order::Little).write(&packets).bytes;
    let (expected, _) = read(&plain);
    for packed in [gzip(&plain), zstd::encode_all(&plain[..], 3).unwrap(), bzip2(&plain), xz(&plain)] {
        for cut in [packed.len() - 1, packed.len() * 3 / 4] {
            let mut file = open(&packed[..cut]).unwrap();
            let (seen, result) = read_all(&mut file);
            result.unwrap();
            assert!(expected.starts_with(&seen) && seen.len() > 200, "{} packets", seen.len());
            assert!(file.stats().truncated_tail.is_some(), "cut at {cut} of {}", packed.len());
        }
        let mut corrupt = packed.clone();
        let middle = corrupt.len() * 3 / 4;
        corrupt[middle..middle + 40].fill(0xff);
        let mut file = open(&corrupt).unwrap();
        let (seen, result) = read_all(&mut file);
        match result {
            // Unpacked without a checksum, it is damage of the capture.
            Ok(()) => assert_eq!(file.stats().torn, 1),
            Err(error) => {
                assert!(matches!(error, FileError::Decompress { .. } | FileError::Damaged { .. }), "{error}");
            }
        }
        assert!(seen.len() < expected.len());
    }
}

#[test]
fn what_is_no_capture_file_is_refused_with_what_to_do() {
    let wrong_version = Classic { major: 4, ..Classic::micro(Order::Little) }.write(&[]).bytes;
    for (bytes, expected) in [
        (b"".to_vec(), "the file is empty"),
        (b"ab".to_vec(), "found 61 62"),
        (b"\x7fELF\x02\x01\x01\x00\x00".to_vec(), "found 7f 45 4c 46"),
        (b"\x04\x22\x4d\x18rest".to_vec(), "lz4 -dc"),
        (xz(&xz(&Classic::micro(Order::Little).write(&[]).bytes)), "xz twice"),
        (wrong_version, "version 4.4"),
        (
            Classic::micro(Order::Little).write(&[]).bytes[..10].to_vec(),
            "ends after 10 bytes, inside its header of 24",
        ),
        (
            Pcapng::new(Order::Big).write(&[]).bytes[..10].to_vec(),
            "ends after 10 bytes, inside its header of 16",
        ),
        (gzip(&gzip(&Classic::micro(Order::Little).write(&[]).bytes)), "gzip twice"),
        (gzip(b"")[..12].to_vec(), "ends before the first byte"),
    ] {
        let error = open(&bytes).err().unwrap().to_string();
        assert!(error.contains(expected), "{error:?} has {expected:?}");
        assert!(error.contains("test is not a capture file"), "{error}");
    }
    let error = PcapFile::open(Path::new("/nonexistent/x.pcap")).err().unwrap().to_string();
    assert!(error.starts_with("cannot open /nonexistent/x.pcap: No such file"), "{error}");
    let error = PcapFile::open(Path::new("/tmp")).err().unwrap().to_string();
    assert!(error.contains("directory"), "{error}");
}

/// Gives its bytes in pieces, as a pipe may, and counts how often it was asked.
struct Pieces {
    bytes: Vec<u8>,
    at: usize,
    piece: usize,
}

impl Read for Pieces {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.piece = self.piece % 97 + 1;
        let n = self.piece.min(buf.len()).min(self.bytes.len() - self.at);
        buf[..n].copy_from_slice(&self.bytes[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

#[test]
fn a_slow_pipe_is_not_waited_on_while_something_can_be_delivered() {
    struct Never(io::Cursor<Vec<u8>>);
    impl Read for Never {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            match self.0.read(buf)? {
                0 => panic!("would wait"),
                n => Ok(n),
            }
        }
    }
    let bytes = Classic::nano(Order::Little).write(&[packet(1, 60), packet(2, 60)]).bytes;
    let mut file = PcapFile::from_reader("pipe", Box::new(Never(io::Cursor::new(bytes)))).unwrap();
    assert_eq!(file.drain(1000, each(|_| {})).unwrap(), 2);
    assert_eq!(file.progress().bytes_total, None);
}

/// The child of the test below: reads its standard input.
#[test]
#[ignore = "run by standard_input_is_the_file_dash"]
fn child_that_reads_standard_input() {
    let mut file = PcapFile::open(Path::new("-")).unwrap();
    let (seen, result) = read_all(&mut file);
    result.unwrap();
    println!("{} has {} frames, {:?} bytes", file.name(), seen.len(), file.progress().bytes_total);
}

#[test]
fn standard_input_is_the_file_dash() {
    let child = |stdin: Stdio| {
        Command::new(std::env::current_exe().unwrap())
            .args([
                "pcap_file::tests::child_that_reads_standard_input",
                "--exact",
                "--ignored",
                "--nocapture",
            ])
            .stdin(stdin)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let answer = |child: Child| String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    let packets: Vec<Packet> = (0..3000).map(|n| packet(n as u8, 700)).collect();
    let bytes = gzip(&Classic::nano(Order::Little).write(&packets).bytes);
    let mut piped = child(Stdio::piped());
    piped.stdin.take().unwrap().write_all(&bytes).unwrap();
    let said = answer(piped);
    assert!(said.contains("standard input has 3000 frames, None bytes"), "{said}");
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    file.rewind().unwrap();
    let said = answer(child(file.into()));
    assert!(said.contains(&format!("3000 frames, Some({}) bytes", bytes.len())), "{said}");
}

#[test]
fn wireshark_s_tools_write_files_that_read_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let original = directory.path().join("original.pcap");
    let packets: Vec<Packet> = (0..50)
        .map(|i| Packet { ticks: 1000 * i as u32, original: 1000 + i as u32, ..packet(i as u8, 14 + i) })
        .collect();
    let bytes = Classic::nano(Order::Big).write(&packets).bytes;
    std::fs::write(&original, &bytes).unwrap();
    let (expected, _) = read(&bytes);
    for format in ["pcap", "nsecpcap", "modpcap", "pcapng"] {
        let converted = directory.path().join(format);
        match Command::new("editcap").arg("-F").arg(format).arg(&original).arg(&converted).status() {
            Ok(status) => assert!(status.success()),
            Err(error) => {
                println!("SKIPPED: editcap cannot be run ({error})");
                return;
            }
        }
        let mut file = PcapFile::open(&converted).unwrap();
        let (seen, result) = read_all(&mut file);
        result.unwrap();
        assert_eq!(seen.len(), expected.len(), "{format}");
        for (seen, expected) in seen.iter().zip(&expected) {
            assert_eq!(
                (&seen.data, seen.original_len, seen.link),
                (&expected.data, expected.original_len, expected.link)
            );
            let coarse = if matches!(format, "pcap" | "modpcap") { 1000 } else { 1 };
            assert_eq!(seen.ns, expected.ns / coarse * coarse, "{format}");
        }
    }
}

fn any_written() -> impl Strategy<Value = Written> {
    let packets = prop::collection::vec(
        (0u32..2_000_000_000, 0u32..1_000_000, prop::collection::vec(any::<u8>(), 0..200), 1u32..100)
            .prop_map(|(seconds, ticks, data, more)| Packet {
                seconds,
                ticks,
                original: data.len() as u32 + more,
                data,
            }),
        0..12,
    );
    (packets, 0..8).prop_map(|(packets, kind)| match kind {
        0 => Classic::micro(Order::Little).write(&packets),
        1 => Classic::micro(Order::Big).write(&packets),
        2 => Classic::nano(Order::Little).write(&packets),
        3 => Classic::modified(Order::Little).write(&packets),
        4 => Pcapng::new(Order::Little).write(&packets),
        5 => Pcapng::new(Order::Big).write(&packets),
        6 => Pcapng { options: true, ..Pcapng::new(Order::Little) }.write(&packets),
        _ => Pcapng { obsolete: true, ..Pcapng::new(Order::Big) }.write(&packets),
    })
}

/// Reads to the end, which must come within as many calls as there are bytes.
fn read_damaged(bytes: &[u8]) -> Vec<Seen> {
    let reader = Pieces { bytes: bytes.to_vec(), at: 0, piece: bytes.len() };
    let Ok(mut file) = PcapFile::from_reader("test", Box::new(reader)) else {
        return Vec::new();
    };
    let mut seen = Vec::new();
    for _ in 0..bytes.len() + 2 {
        let drained = file.drain(
            3,
            each(|frame| {
                assert!(frame.original_len as usize >= frame.data.len());
                seen.push(Seen::from(frame));
            }),
        );
        if !matches!(drained, Ok(1..)) {
            assert_eq!(file.drain(3, each(|_| panic!("after the end"))).unwrap(), 0);
            return seen;
        }
    }
    panic!("no end");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn pieces_of_any_size_make_no_difference(written in any_written()) {
        let (whole, stats) = read(&written.bytes);
        prop_assert_eq!(whole.len(), written.ends.len());
        prop_assert_eq!(stats.truncated_tail, None);
        prop_assert_eq!(read_damaged(&written.bytes), whole);
    }

    #[test]
    fn a_cut_anywhere_leaves_exactly_the_packets_before_it(written in any_written(), at in any::<prop::sample::Index>()) {
        let (whole, _) = read(&written.bytes);
        let cut = at.index(written.bytes.len());
        let sound = written.ends.iter().filter(|end| **end <= cut).count();
        let seen = read_damaged(&written.bytes[..cut]);
        prop_assert_eq!(&seen[..], &whole[..sound]);
    }

    #[test]
    fn damage_anywhere_leaves_the_packets_before_it(
        written in any_written(),
        at in any::<prop::sample::Index>(),
        junk in prop::collection::vec(any::<u8>(), 1..40),
        how in 0..3,
    ) {
        let (whole, _) = read(&written.bytes);
        let mut bytes = written.bytes;
        let at = at.index(bytes.len());
        match how {
            0 => bytes[at] ^= junk[0] | 1,
            1 => drop(bytes.splice(at..(at + junk.len()).min(bytes.len()), junk)),
            _ => drop(bytes.splice(at..at, junk)),
        }
        let sound = written.ends.iter().filter(|end| **end <= at).count();
        let seen = read_damaged(&bytes);
        prop_assert!(seen.len() >= sound, "{} of {sound}", seen.len());
        prop_assert_eq!(&seen[..sound], &whole[..sound]);
    }

    #[test]
    fn damage_in_compressed_data_never_panics(
        written in any_written(),
        at in any::<prop::sample::Index>(),
        junk in any::<u8>(),
        zstd in any::<bool>(),
    ) {
        let mut packed = if zstd { zstd::encode_all(&written.bytes[..], 1).unwrap() } else { gzip(&written.bytes) };
        let at = at.index(packed.len());
        packed[at] ^= junk | 1;
        read_damaged(&packed);
    }

    #[test]
    fn random_bytes_behind_a_header_never_panic(head in any_written(), junk in prop::collection::vec(any::<u8>(), 0..400)) {
        let end = *head.ends.first().unwrap_or(&head.bytes.len());
        read_damaged(&[&head.bytes[..end], &junk[..]].concat());
    }
}

/// The speed target; run by hand: `cargo test --release -p gnomon-capture -- --ignored --nocapture millions`.
#[test]
#[ignore = "a measurement"]
fn millions_of_packets_a_second() {
    use gnomon_clock::{Clock, KernelClock};
    let directory = tempfile::tempdir().unwrap();
    let packets: Vec<Packet> = (0..400_000).map(|i| packet(i as u8, 500)).collect();
    for (name, bytes) in [
        ("pcap", Classic::nano(Order::Little).write(&packets).bytes),
        ("pcap.gz", gzip(&Classic::nano(Order::Little).write(&packets).bytes)),
        ("pcap.zst", zstd::encode_all(&Classic::nano(Order::Little).write(&packets).bytes[..], 1).unwrap()),
        ("pcapng", Pcapng::new(Order::Little).write(&packets).bytes),
    ] {
        let path = directory.path().join(name);
        std::fs::write(&path, &bytes).unwrap();
        drop(bytes);
        for _ in 0..3 {
            let clock = KernelClock;
            let began = clock.monotonic();
            let mut file = PcapFile::open(&path).unwrap();
            let mut sum = 0u64;
            while file.drain(64, each(|frame| sum += u64::from(frame.data[0]))).unwrap() > 0 {}
            let ns = clock.monotonic().since(began);
            let rate = file.stats().frames as f64 * 1e3 / ns as f64;
            println!("{name}: {rate:.1} M packets/s ({sum})");
        }
    }
}
