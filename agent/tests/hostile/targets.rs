//! What must hold for any bytes. Shared with `fuzz/`, where libFuzzer chooses them.

use std::io::Cursor;
use std::sync::{Arc, OnceLock};

use gnomon_agent::alerts::eve::Said;
use gnomon_agent::alerts::lines::Lines;
use gnomon_agent::decode;
use gnomon_agent::engine::{Engine, EngineConfig};
use gnomon_agent::inspect::{BufferBudget, Inspection};
use gnomon_agent::offline::{FileName, engine_config, flows};
use gnomon_agent::rules::{Action, Keep, RuleText, Rules};
use gnomon_agent::table::{InterimPolicy, TableConfig};
use gnomon_capture::{Frame, LinkType, PcapFile, Stamp, VlanTag};
use gnomon_clock::RawNs;
use gnomon_flow::{Addresses, Alert, Attributes, FlowRecord, Origin};
use gnomon_proto::Message;

pub(crate) const LINKS: [u16; 18] =
    [1, 0, 108, 101, 113, 276, 9, 50, 51, 104, 105, 107, 127, 239, 228, 229, 147, 12];

/// `link, flags, wire length beyond, bytes…`: one frame.
pub(crate) fn decode(input: &[u8]) {
    let [link, flags, extra, data @ ..] = input else { return };
    let frame = Frame {
        stamp: Stamp::default(),
        link: LinkType::from_linktype(LINKS[usize::from(*link) % LINKS.len()]),
        original_len: data.len() as u32 + u32::from(*extra) * if flags & 2 != 0 { 1 << 23 } else { 1 },
        data,
        vlan: (flags & 1 != 0).then_some(VlanTag { tpid: 0x8100, tci: u16::from(*flags) << 4 }),
        outgoing: false,
    };
    let packet = decode::decode(&frame);
    assert!(packet.ip_len <= packet.wire_len);
    assert!(packet.payload_len <= packet.wire_len);
    assert!(packet.payload.len() <= packet.payload_len as usize);
    assert!(packet.header_len as usize + packet.payload.len() <= frame.data.len());
    assert!(packet.key_complete || packet.problem.is_some());
    assert!(packet.network_id < 1 << 24);
    if frame.link == LinkType::Ethernet && packet.key.addresses == Addresses::None {
        assert!(packet.problem.is_some());
    }
}

/// Sets of rules to change between: what is ignored by one is recorded by the next.
fn rules(which: usize) -> Arc<Rules> {
    static SETS: OnceLock<Vec<Arc<Rules>>> = OnceLock::new();
    let sets = SETS.get_or_init(|| {
        let text = |name: &str, when: &str, action| RuleText {
            name: name.into(),
            when: when.into(),
            tags: if action == Some(Action::Ignore) { Vec::new() } else { vec![name.into()] },
            action,
        };
        let compiled = |texts: &[RuleText]| {
            Arc::new(
                Rules::compile(texts, Keep::OfFlow(1000)).unwrap_or_else(|(_, _, error)| panic!("{error}")),
            )
        };
        let seen = text("seen", "protocols == EXISTS! || outerip == EXISTS!", None);
        let few = text("few", "ip.protocol == tcp", Some(Action::Keep(Keep::Packets(3))));
        vec![
            compiled(&[]),
            compiled(&[text("all", "ip.protocol == EXISTS!", Some(Action::Ignore))]),
            compiled(&[seen.clone(), few.clone(), text("udp", "ip.protocol == udp", Some(Action::Ignore))]),
            compiled(&[text("odd", "port == 0-500 || ip == EXISTS!", Some(Action::Ignore)), seen, few]),
        ]
    });
    sets[which % sets.len()].clone()
}

/// Many `link, time, length, bytes…`: frames one after the other, through the engine.
pub(crate) fn sequence(input: &[u8]) {
    let table = TableConfig {
        flows_max: 8,
        interim: input.first().is_some_and(|byte| byte & 1 != 0).then(InterimPolicy::default),
        active_packets_max: 20,
        inspect_bytes_max: 1 << 16,
        ..TableConfig::default()
    };
    let mut engine = Engine::new(
        0,
        EngineConfig { table, rules: Arc::new(Rules::keep(Keep::OfFlow(1000))), ..engine_config(table) },
    );
    let with_rules = input.first().is_some_and(|byte| byte & 2 != 0);
    let (mut sent, mut bytes) = (0, 0);
    let mut records = Vec::new();
    let mut now = 1_000_000_000_000u64;
    let mut rest = input;
    while let [link, time, high, low, following @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([high & 0x07, *low])).min(following.len());
        let (data, next) = following.split_at(length);
        rest = next;
        // Mostly a little later, sometimes much, sometimes earlier.
        now = match time {
            0..200 => now.saturating_add(u64::from(*time) << 20),
            200..230 => now.saturating_add(u64::from(*time) << 32),
            _ => now.saturating_sub(u64::from(*time) << 24),
        };
        let frame = Frame {
            stamp: Stamp { raw: RawNs(now), err_ns: 1 },
            link: LinkType::from_linktype(LINKS[usize::from(*link) % LINKS.len()]),
            original_len: data.len() as u32,
            data,
            vlan: None,
            outgoing: false,
        };
        if with_rules && time % 8 == 1 {
            engine.replace_rules(rules(usize::from(*time) / 8));
        }
        engine.on_frame(&frame);
        sent += 1;
        bytes += data.len() as u64;
        if time % 4 == 0 {
            while engine.end_batch(RawNs(now)) {}
        }
        records.extend(engine.take_records().into_iter().flatten());
        while let Some(block) = engine.take_block() {
            engine.recycle(block);
        }
        assert!(engine.stats().table.flows_active <= 8);
    }
    while engine.finish_some(RawNs(now)) {}
    records.extend(engine.take_records().into_iter().flatten());
    let finals = || records.iter().filter(|record: &&FlowRecord| record.end.is_some());
    let (packets_ignored, bytes_ignored) = (engine.stats().packets_ignored, engine.stats().bytes_ignored);
    assert!(with_rules || packets_ignored == 0);
    assert_eq!(finals().map(FlowRecord::packets).sum::<u64>() + packets_ignored, sent);
    assert_eq!(finals().map(FlowRecord::bytes).sum::<u64>() + bytes_ignored, bytes);
    for record in &records {
        assert!(record.first <= record.last);
        assert!(record.packets() > 0 && record.packets() <= 20);
        assert!(record.orig.data_bytes <= record.orig.bytes && record.resp.data_bytes <= record.resp.bytes);
        assert!(record.attributes.len() <= Attributes::COUNT_MAX);
    }
}

/// A capture file, from its first byte.
pub(crate) fn capture_file(input: &[u8]) {
    let Ok(mut file) = PcapFile::from_reader("input", Box::new(Cursor::new(input.to_vec()))) else { return };
    let mut packets = 0;
    let table = TableConfig { flows_max: 64, inspect_bytes_max: 1 << 20, ..TableConfig::default() };
    let mut drained = 0;
    let ended = flows(
        table,
        &Default::default(),
        &Origin::default(),
        &FileName::new("input"),
        |sink| {
            let frames = file.drain_by_interface(256, sink);
            drained += frames.as_ref().copied().unwrap_or(0) as u64;
            frames
        },
        |flow| packets += flow.record.packets(),
    );
    assert_eq!(packets, file.stats().frames);
    assert_eq!(packets, drained);
    if let Ok(stats) = ended {
        assert_eq!(stats.iter().map(|stats| stats.packets).sum::<u64>(), packets);
    }
}

/// Many `side and kind, length, bytes…`: what both sides of a connection say, in pieces.
pub(crate) fn stream(input: &[u8]) {
    const BUDGET: usize = 1 << 16;
    let mut budget = BufferBudget::new(BUDGET);
    let mut inspection = Inspection::default();
    let mut found = Attributes::default();
    let mut rest = input;
    while let [kind, high, low, following @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([high & 0x0f, *low])).min(following.len());
        let (piece, next) = following.split_at(length);
        rest = next;
        let from_originator = kind & 1 == 0;
        match kind >> 4 {
            15 => inspection.tcp_gap(from_originator, length as u64, &mut found, &mut budget),
            14 => {
                for byte in piece.chunks(1) {
                    inspection.tcp_payload(from_originator, byte, &mut found, &mut budget);
                }
            }
            _ => {
                inspection.tcp_payload(from_originator, piece, &mut found, &mut budget);
            }
        }
        assert!(budget.left() <= BUDGET && found.len() <= Attributes::COUNT_MAX);
    }
    inspection.conclude(&mut found, &mut budget);
    inspection.release(&mut budget);
    assert_eq!(budget.left(), BUDGET);
}

/// `ports (4 bytes), side`, then many `length, bytes…`: datagrams.
pub(crate) fn datagram(input: &[u8]) {
    const BUDGET: usize = 1 << 16;
    let [a, b, c, d, pieces @ ..] = input else { return };
    let mut rest = pieces;
    let ports = [u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])];
    let mut budget = BufferBudget::new(BUDGET);
    let mut inspection = Inspection::default();
    let mut found = Attributes::default();
    while let [kind, high, low, following @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([high & 0x0f, *low])).min(following.len());
        let (piece, next) = following.split_at(length);
        rest = next;
        let from_originator = kind & 1 == 0;
        let ports = if from_originator { ports } else { [ports[1], ports[0]] };
        inspection.udp_payload(from_originator, ports, piece, length % 2 == 1, &mut found, &mut budget);
    }
    inspection.release(&mut budget);
    assert_eq!(budget.left(), BUDGET);
}

/// `length of pieces`, then an EVE file: lines in pieces, and alerts that the wire takes as they are.
pub(crate) fn eve(input: &[u8]) {
    let [pieces, text @ ..] = input else { return };
    let mut lines = Lines::default();
    let mut whole = 0;
    for piece in text.chunks(usize::from(*pieces) + 1) {
        lines.feed(piece, &mut |line| {
            whole += 1;
            let Ok(Some(said)) = Said::parse(line) else { return };
            let alert = said.alert(RawNs(1), RawNs(2));
            assert!(alert.signature.len() <= Alert::TEXT_BYTES_MAX);
            let mut attributes = Attributes::default();
            assert!(alert.add_to(&mut attributes));
            let wire = gnomon_proto::v1::Alert::from(&alert);
            assert_eq!(Alert::try_from(wire).ok(), Some(alert));
        });
    }
    assert_eq!(whole, text.iter().filter(|byte| **byte == b'\n').count());
}

/// A flow record as it comes off the wire: what is taken is the same when it is sent on.
pub(crate) fn entry(input: &[u8]) {
    let Ok(message) = gnomon_proto::v1::FlowRecord::decode(input) else { return };
    if let Ok(record) = FlowRecord::try_from(&message) {
        let again = gnomon_proto::v1::FlowRecord::from(&record);
        assert_eq!(FlowRecord::try_from(&again).ok(), Some(record));
    }
}
