//! Floods made to fill tables and buffers: what the process takes stays under what is promised, and no packet is lost.

use gnomon_agent::engine::Engine;
use gnomon_agent::offline::engine_config;
use gnomon_agent::table::TableConfig;
use gnomon_capture::{Frame, LinkType, Stamp};
use gnomon_clock::RawNs;
use gnomon_flow::FlowRecord;
use gnomon_flow::field::HTTP_HOST;

use crate::corpus::{ethernet, ipv4_piece, tcp, udp};

const FLOWS_MAX: u32 = 20_000;
const INSPECT_BYTES_MAX: usize = 8 << 20;
const METADATA_BYTES_MAX: usize = 16 << 20;
/// 400 bytes a flow and as much again for one that is wrapped in tunnels; inspection's budget twice, for messages that
/// are not whole and for segments that wait; what fragments may hold; what inspection keeps of a flow with payload
/// (about 600 bytes), and of all together what it read; and as much as an allocator wastes.
const RESIDENT_MAX: u64 = (FLOWS_MAX as u64 * (400 + 400 + 600)
    + 2 * INSPECT_BYTES_MAX as u64
    + METADATA_BYTES_MAX as u64
    + (8 << 20))
    * 3
    / 2;

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

/// Feeds `packets` frames and returns by how much the process grew at most since it took `before`.
fn flood(before: u64, packets: u32, make: impl Fn(u32) -> Vec<u8>) -> u64 {
    let table = TableConfig {
        flows_max: FLOWS_MAX,
        inspect_bytes_max: INSPECT_BYTES_MAX,
        metadata_bytes_max: METADATA_BYTES_MAX,
        ..TableConfig::default()
    };
    let mut engine = Engine::new(0, engine_config(table));
    let (mut grown, mut counted) = (0, 0);
    let mut count = |engine: &mut Engine| {
        let records = engine.take_records().unwrap_or_default();
        counted += records.iter().map(FlowRecord::packets).sum::<u64>();
    };
    let give = |engine: &mut Engine, now: RawNs, data: &[u8]| {
        engine.on_frame(&Frame {
            stamp: Stamp { raw: now, err_ns: 0 },
            link: LinkType::Ethernet,
            original_len: data.len() as u32,
            data,
            vlan: None,
            outgoing: false,
        });
    };
    for n in 0..packets {
        let now = RawNs(1_000_000_000 + u64::from(n) * 1000);
        give(&mut engine, now, &make(n));
        if n % 256 == 0 {
            while engine.end_batch(now) {}
            count(&mut engine);
            grown = grown.max(resident_bytes().saturating_sub(before));
        }
    }
    while engine.finish_some(RawNs(u64::MAX / 2)) {
        count(&mut engine);
    }
    count(&mut engine);
    assert_eq!(counted, u64::from(packets));
    // Whatever was full is empty again.
    let request = tcp((9, 80), 1, 1, 0x18, b"GET / HTTP/1.1\r\nHost: after\r\n\r\n");
    let end = RawNs(u64::MAX / 2);
    give(
        &mut engine,
        end,
        &ethernet(0x0800, &ipv4_piece(6, ([192, 0, 2, 9], [192, 0, 2, 1]), 0, 0, &request)),
    );
    while engine.finish_some(end) {}
    let after = engine.take_records().unwrap_or_default();
    assert_eq!(after.iter().filter(|record| record.attributes.of(HTTP_HOST).count() == 1).count(), 1);
    grown
}

/// Numbers in no order.
fn mixed(n: u32) -> u32 {
    n.wrapping_mul(0x9e37_79b1).rotate_left(15).wrapping_mul(0x85eb_ca77)
}

/// One test, because memory is the process's and tests run beside each other.
#[test]
fn floods_stay_within_memory_and_lose_no_packet() {
    let ends = |n: u32| (mixed(n).to_be_bytes(), [192, 0, 2, 1]);
    let ports = |n: u32| (mixed(n + 1) as u16, 80);
    let payload = [b'x'; 1200];
    type Flood<'a> = (&'a str, &'a dyn Fn(u32) -> Vec<u8>);
    let floods: [Flood<'_>; 7] = [
        ("SYN", &|n| ethernet(0x0800, &ipv4_piece(6, ends(n), 0, 0, &tcp(ports(n), n, 0, 2, b"")))),
        // One byte is missing before each, in a few thousand connections.
        ("segments out of order", &|n| {
            let flow = n % 5000;
            let seq = 2 + n / 5000 * 1201;
            let segment = tcp(
                ports(flow),
                seq,
                1,
                if n < 5000 { 2 } else { 0x18 },
                if n < 5000 { b"" } else { &payload },
            );
            ethernet(0x0800, &ipv4_piece(6, ends(flow), 0, 0, &segment))
        }),
        ("first fragments", &|n| {
            ethernet(0x0800, &ipv4_piece(17, ends(n), n as u16, 0x2000, &udp((1, 2), &payload)))
        }),
        ("later fragments", &|n| ethernet(0x0800, &ipv4_piece(17, ends(n), n as u16, 0x2001, &payload))),
        ("tunnels", &|n| {
            let inner = ethernet(0x0800, &ipv4_piece(17, ends(n), 0, 0, &udp(ports(n), b"")));
            let header = [8, 0, 0, 0, n as u8, 0, 9, 0];
            ethernet(
                0x0800,
                &ipv4_piece(17, ends(n + 7), 0, 0, &udp((9, 4789), &[&header, &inner[..]].concat())),
            )
        }),
        ("messages without end", &|n| {
            let segment = tcp(
                (mixed(n % 9000) as u16, 80),
                1 + n / 9000 * 900,
                1,
                0x18,
                &[&b"GET / HTTP/1.1\r\nX: "[..], &payload[..880]].concat(),
            );
            ethernet(0x0800, &ipv4_piece(6, ends(n % 9000), 0, 0, &segment))
        }),
        // Every request brings a kilobyte that no other has said.
        ("much to tell", &|n| {
            let (flow, turn) = (n % 18_000, n / 18_000);
            let request = format!("GET /{n:01000} HTTP/1.1\r\nHost: h{n:0150}\r\n\r\n");
            let segment = tcp(ports(flow), 1 + turn * request.len() as u32, 1, 0x18, request.as_bytes());
            ethernet(0x0800, &ipv4_piece(6, ends(flow), 0, 0, &segment))
        }),
    ];
    // What the allocator keeps of one flood is not taken anew in the next.
    let before = resident_bytes();
    for (name, make) in floods {
        let grown = flood(before, 120_000, make);
        println!("{name}: {} KiB", grown >> 10);
        assert!(grown <= RESIDENT_MAX, "{name}: {grown} bytes more, and {RESIDENT_MAX} are promised");
    }
}
