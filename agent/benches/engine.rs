//! What a packet costs in the worker, without the kernel and without the disk: decode, flow table, slice append.
//!
//! `cargo bench -p gnomon-agent --bench engine` prints nanoseconds a packet. Frames stand in a ring of 4096 buffers, as
//! they would in a UMEM; packets arrive at 1 Mpps of their own time, flows in random order. Time is that of the CPU, so that
//! a busy machine spoils the figures only through its caches.

use std::hint::black_box;

use arrayvec::ArrayVec;
use gnomon_agent::decode::decode;
use gnomon_agent::engine::{Engine, EngineConfig};
use gnomon_agent::rules::{Keep, Rules};
use gnomon_agent::table::TableConfig;
use gnomon_capture::{FRAMES_AT_ONCE, Frame, LinkType, Stamp};
use gnomon_clock::RawNs;

const RING_FRAMES: usize = 4096;
const BATCH_FRAMES: usize = 256;
const PACKETS: u64 = 4_000_000;
/// Sizes of the simple Internet mix, 7:4:1, without FCS.
const IMIX: [usize; 12] = [60, 60, 590, 60, 590, 60, 60, 590, 60, 1514, 590, 60];

struct Ring {
    frames: Vec<Vec<u8>>,
    /// A full-period generator modulo 2³²: flow numbers in an order no prefetcher knows.
    random: u32,
    flows: u32,
}

impl Ring {
    fn new(make: fn(usize) -> Vec<u8>, sizes: &[usize], flows: u32) -> Ring {
        let frames = (0..RING_FRAMES).map(|n| make(sizes[n % sizes.len()])).collect();
        Ring { frames, random: 1, flows }
    }

    /// Frames from `n` on, each made to belong to a random flow, given to `sink` as a source gives them.
    fn give(&mut self, n: u64, count: usize, at_once: usize, mut sink: impl FnMut(&[Frame<'_>])) {
        let first = n as usize % RING_FRAMES;
        for data in &mut self.frames[first..first + count] {
            self.random = self.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let flow = ((u64::from(self.random) * u64::from(self.flows)) >> 32) as u32;
            data[26..30].copy_from_slice(&(0x0a00_0000 + flow).to_be_bytes());
        }
        let frames = (first..first + count).map(|at| self.frame(at, n + (at - first) as u64));
        let mut batch = ArrayVec::<Frame<'_>, FRAMES_AT_ONCE>::new();
        for frame in frames {
            batch.push(frame);
            if batch.len() == at_once {
                sink(&batch);
                batch.clear();
            }
        }
    }

    fn frame(&self, at: usize, n: u64) -> Frame<'_> {
        let data = &self.frames[at];
        Frame {
            stamp: Stamp { raw: RawNs(1_000_000_000 + n * 1000), err_ns: 1000 },
            link: LinkType::Ethernet,
            original_len: data.len() as u32,
            data,
            vlan: None,
            outgoing: false,
        }
    }
}

fn tcp_frame(len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    data[..14].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0]);
    data[14..24].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6]);
    data[16..18].copy_from_slice(&((len - 14) as u16).to_be_bytes());
    data[30..34].copy_from_slice(&[192, 0, 2, 1]);
    data[34..38].copy_from_slice(&[0x9c, 0x40, 0, 80]);
    data[46..50].copy_from_slice(&[0x50, 0x10, 0xff, 0xff]);
    data
}

/// With a payload of noise, as a cipher's.
fn udp_frame(len: usize) -> Vec<u8> {
    let mut data = tcp_frame(len);
    data[23] = 17;
    data[38..42].copy_from_slice(&[((len - 34) >> 8) as u8, (len - 34) as u8, 0, 0]);
    let mut noise = len as u64;
    for byte in &mut data[42..] {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *byte = (noise >> 56) as u8;
    }
    data
}

fn run(name: &str, make: fn(usize) -> Vec<u8>, sizes: &[usize], flows: u32, keep: Keep, at_once: usize) {
    // `-- IMIX` runs the cases whose name has it.
    if std::env::args().skip(1).any(|word| !word.starts_with('-') && !name.contains(&word)) {
        return;
    }
    let packets = PACKETS;
    let mut ring = Ring::new(make, sizes, flows);
    let mut engine = Engine::new(
        0,
        EngineConfig {
            table: TableConfig { flows_max: 1 << 20, ..TableConfig::default() },
            rules: std::sync::Arc::new(Rules::keep(keep)),
            ..EngineConfig::default()
        },
    );
    let before = resident_bytes();
    let mut records = 0;
    let mut pass = |from: u64, packets: u64, engine: &mut Engine| {
        let start = cpu_ns();
        let mut n = from;
        while n < from + packets {
            ring.give(n, BATCH_FRAMES, at_once, |frames| engine.on_frames(frames));
            n += BATCH_FRAMES as u64;
            engine.end_batch(RawNs(1_000_000_000 + n * 1000));
            records += engine.take_records().map_or(0, |records| records.len());
            while let Some(block) = engine.take_block() {
                engine.recycle(block);
            }
        }
        (cpu_ns() - start) as f64 / (n - from) as f64
    };
    // Fills the table and the caches. Random numbers repeat: 5 packets a flow see 99 % of the flows.
    let warm = (u64::from(flows) * 5).max(200_000).next_multiple_of(BATCH_FRAMES as u64);
    let warm_ns = pass(0, warm, &mut engine);
    let rss = resident_bytes().saturating_sub(before);
    let ns = pass(warm, packets, &mut engine);
    let stats = engine.stats();
    assert_eq!(stats.slicer.packets_queue_full, 0);
    println!(
        "{name:28} {ns:7.1} ns/packet  {:6.2} Mpps  (filling {warm_ns:.1} ns; {} flows, {} B resident each; {records} records)",
        1000.0 / ns,
        stats.table.flows_active,
        rss / stats.table.flows_active.max(1),
    );
}

fn decode_only(sizes: &[usize]) {
    let packets = PACKETS;
    let mut ring = Ring::new(tcp_frame, sizes, 10_000);
    let start = cpu_ns();
    for n in (0..packets).step_by(BATCH_FRAMES) {
        ring.give(n, BATCH_FRAMES, FRAMES_AT_ONCE, |frames| {
            for frame in frames {
                black_box(decode(frame));
            }
        });
    }
    let ns = (cpu_ns() - start) as f64 / packets as f64;
    println!("{:28} {ns:7.1} ns/packet", "decode 60 B");
}

/// What this thread has run, in nanoseconds (Linux, Documentation/scheduler/sched-stats.rst).
fn cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0)
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

fn main() {
    decode_only(&[60]);
    for (name, flows) in [("1 flow", 1), ("10 k flows", 10_000), ("1 M flows", 1_000_000)] {
        run(&format!("60 B, {name}, one by one"), tcp_frame, &[60], flows, Keep::Nothing, 1);
        run(&format!("60 B, {name}, no slices"), tcp_frame, &[60], flows, Keep::Nothing, FRAMES_AT_ONCE);
        run(&format!("60 B, {name}, all kept"), tcp_frame, &[60], flows, Keep::All, FRAMES_AT_ONCE);
    }
    run("UDP 60 B, 10 k flows, no slices", udp_frame, &[60], 10_000, Keep::Nothing, FRAMES_AT_ONCE);
    run("UDP IMIX, 10 k flows, headers", udp_frame, &IMIX, 10_000, Keep::Headers, FRAMES_AT_ONCE);
    run("UDP IMIX, 10 k flows, all kept", udp_frame, &IMIX, 10_000, Keep::All, FRAMES_AT_ONCE);
    run("IMIX, 10 k flows, headers", tcp_frame, &IMIX, 10_000, Keep::Headers, FRAMES_AT_ONCE);
    run("IMIX, 10 k flows, all kept", tcp_frame, &IMIX, 10_000, Keep::All, FRAMES_AT_ONCE);
}
