//! How fast packets are exported and taken in:
//! `cargo test --release -p gnomon-collector --lib -- --ignored --nocapture --test-threads=1 bench`.

use gnomon_clock::{Clock, KernelClock, RawNs};
use gnomon_flow::FlowId;
use gnomon_flow::slice::SlicedPacket;

use crate::query::testing::fixture;
use crate::query::*;
use crate::store::testing::{S, change, epoch, fix, fixes, record};
use crate::store::{Body, Change, Content, Slices};

const AGENTS: u8 = 8;
const FLOWS: u64 = 400;
const BLOCK_BYTES: usize = 64 << 10;

fn seconds(since: RawNs) -> f64 {
    KernelClock.raw().since(since) as f64 / 1e9
}

/// Seconds this thread was on a CPU.
fn on_cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

/// Blocks of an agent: packets of mixed lengths, half of whose bytes do not compress.
struct Traffic {
    state: u64,
    raw: u64,
    noise: Vec<u8>,
}

impl Traffic {
    fn random(&mut self) -> u64 {
        self.state =
            self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.state >> 33
    }

    fn block(&mut self, agent: u8, seq: u64) -> Change {
        let (mut bytes, mut flows, mut packets, first) = (Vec::new(), Vec::new(), 0, self.raw);
        while bytes.len() < BLOCK_BYTES {
            let flow = FlowId(1 + self.random() % FLOWS);
            let len = [60, 60, 90, 200, 600, 1514, 1514][self.random() as usize % 7];
            let mut data = vec![0u8; len];
            let from = self.random() as usize % (self.noise.len() - len);
            data[len / 2..].copy_from_slice(&self.noise[from + len / 2..from + len]);
            let packet = SlicedPacket {
                raw: RawNs(self.raw),
                err_ns: 40,
                flow,
                original_len: len as u32,
                linktype: 1,
                from_responder: false,
                outgoing: false,
                data: &data,
            };
            packet.append_to(&mut bytes);
            flows.push(flow);
            packets += 1;
            self.raw += 20_000;
        }
        flows.sort_unstable();
        flows.dedup();
        let content = Content::Slices(Slices {
            interface: "eth0".to_owned(),
            packets,
            first: RawNs(first),
            last: RawNs(self.raw - 20_000),
            block_bytes: bytes.len() as u32,
            flows,
            block: zstd::bulk::compress(&bytes, 1).expect("zstd").into(),
        });
        change(epoch(agent), Body::Entry { seq, content })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn bench_ingest_and_export() {
    let mut fixture = fixture(QueryLimits { deadline_ms: 600_000, ..QueryLimits::default() });
    let mut noise = Traffic { state: 1, raw: 0, noise: Vec::new() };
    let noise: Vec<u8> = (0..1 << 20).map(|_| noise.random() as u8).collect();
    let mut traffic: Vec<Traffic> = (1..=AGENTS)
        .map(|agent| Traffic {
            state: u64::from(agent),
            raw: 2 * S + u64::from(agent) * 777,
            noise: noise.clone(),
        })
        .collect();
    for agent in 1..=AGENTS {
        fixture.writer.commit(&[fixes(epoch(agent), vec![fix(1, 100), fix(99, 100)])]).expect("fixes");
    }
    let (mut spent, mut busy, mut packets, mut bytes) = (0.0, 0.0, 0, 0);
    for group in 0..150u64 {
        let mut changes = Vec::new();
        for seq in 2 + group * 8..10 + group * 8 {
            changes.extend((1..=AGENTS).zip(&mut traffic).map(|(agent, traffic)| traffic.block(agent, seq)));
        }
        let group = changes;
        for change in &group {
            if let Body::Entry { content: Content::Slices(slices), .. } = &change.body {
                packets += u64::from(slices.packets);
                bytes += u64::from(slices.block_bytes);
            }
        }
        let (since, before) = (KernelClock.raw(), on_cpu());
        fixture.writer.commit(&group).expect("group");
        spent += seconds(since);
        busy += on_cpu() - before;
    }
    eprintln!(
        "ingest: {packets} packets, {} MB in {spent:.2} s of the committer, {busy:.2} s of them on a CPU ({:.0} packets a CPU second)",
        bytes >> 20,
        packets as f64 / busy
    );
    for agent in 1..=AGENTS {
        let last = traffic[usize::from(agent) - 1].raw;
        let records = (1..=FLOWS).map(|id| record(id, 0, 2 * S, last)).collect();
        fixture.add(epoch(agent), 5000, records);
    }
    for (what, expression) in [
        ("everything", ""),
        ("everything", ""),
        ("one agent", "id == *-1*"),
        ("one flow of each agent", "id == *-7-0"),
    ] {
        let since = KernelClock.raw();
        let request = PcapRequest { expression: expression.to_owned(), ..PcapRequest::default() };
        let mut download = fixture.queries.pcap(request).await.expect("pcap");
        let found = seconds(since);
        let (mut written, mut end) = (0usize, None);
        while let Some(piece) = download.pieces.recv().await {
            match piece.expect("piece") {
                PcapPiece::Data(data) => written += data.len(),
                PcapPiece::End(summary) => end = Some(summary),
            }
        }
        let all = seconds(since);
        let end = end.expect("end");
        eprintln!(
            "export of {what}: {} flows, {} packets, {} MB in {all:.2} s ({found:.3} s to find them): {:.0} MB/s; {:?}",
            end.flows,
            end.packets,
            written >> 20,
            written as f64 / 1e6 / all,
            end.partial
        );
    }
}
