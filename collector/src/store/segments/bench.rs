//! How long one flow takes to be found among the segment files of 100 GB, and what the writer does in a second:
//! `cargo test --release -p gnomon-collector --lib -- --ignored --nocapture --test-threads=1 bench`.

use super::recovery::Opening;
use std::collections::BTreeMap;

use gnomon_clock::{Clock, KernelClock, RawNs};
use gnomon_flow::{EpochHash, FlowId};

use super::{FlowSpan, Frame, Segments};

fn ms(since: RawNs) -> f64 {
    KernelClock.raw().since(since) as f64 / 1e6
}

/// Some percentiles of `times`, milliseconds.
fn percentiles(mut times: Vec<f64>) -> String {
    times.sort_by(f64::total_cmp);
    let at = |percent: usize| {
        times.get((times.len() * percent / 100).min(times.len() - 1)).copied().unwrap_or(0.0)
    };
    format!("p50 {:.3}, p99 {:.3}, max {:.3} ms", at(50), at(99), at(100))
}

/// As many files and index entries as 100 GB of packets have, but next to no packets: 8 agents with 2 workers each, 4096
/// frames a file with 50 flows each, of which some last through all files.
#[test]
#[ignore = "a measurement"]
fn bench_one_flow_among_400_files() {
    let (files, frames, flows) = (400u64, 4096u64, 50u64);
    let dir = tempfile::tempdir().unwrap();
    let (segments, mut writer, _) =
        Segments::open(dir.path(), None, Opening::Normal, &BTreeMap::new(), 1).unwrap();
    let block = zstd::bulk::compress(&[0; 64], 1).unwrap();
    let mut ids = Vec::new();
    let (begun, mut rotating, mut next) = (KernelClock.raw(), Vec::new(), 1000u64);
    for file in 0..files {
        for frame in 0..frames {
            let n = file * frames + frame;
            let worker = (n % 2) as u8;
            // Lasting ones, some of before, and new ones.
            ids.clear();
            ids.extend((0..5).map(|k| FlowId::new(worker, (n * 7 + k) % 100)));
            ids.extend((0..flows - 5).map(|k| FlowId::new(worker, (next + k * 3).saturating_sub(60))));
            next += flows / 4;
            ids.sort_unstable();
            ids.dedup();
            let frame = Frame {
                epoch: EpochHash(n / 2 % 8),
                first: RawNs(n * 1_000_000),
                last: RawNs(n * 1_000_000 + 200_000_000),
                packets: 100,
                block_bytes: 64,
                interface: "eth0",
                flows: &ids,
                block: &block,
            };
            writer.append(&frame).unwrap();
        }
        writer.sync().unwrap();
        writer.commit();
        let since = KernelClock.raw();
        writer.rotate_if_full().unwrap();
        rotating.push(ms(since));
    }
    let appended = ms(begun);
    let position = writer.position();
    drop((segments, writer));
    eprintln!("appended {} frames in {appended:.0} ms; rotating: {}", files * frames, percentiles(rotating));

    let since = KernelClock.raw();
    let (segments, writer, _) =
        Segments::open(dir.path(), Some(position), Opening::Normal, &BTreeMap::new(), 1 << 30).unwrap();
    eprintln!("opened in {:.1} ms, indexes {} MB", ms(since), segments.index_bytes() >> 20);
    let find = |span: FlowSpan| {
        let (since, mut found) = (KernelClock.raw(), 0);
        segments.find(&[span], false, |_, _| found += 1).unwrap();
        (ms(since), found)
    };
    let span = |epoch: u64, flow, first, last| FlowSpan {
        epoch: EpochHash(epoch),
        flow,
        first: RawNs(first),
        last: RawNs(last),
    };
    let (mut within, mut whole, mut absent, mut lasting) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for n in 0..1000u64 {
        let flow = n * next / 1000 + 1000;
        // When the flow's packets were, within 20 s.
        let around = flow.saturating_sub(1000) / (flows / 4) * 1_000_000;
        let id = FlowId::new((n % 2) as u8, flow);
        let times = (around.saturating_sub(10_000_000_000), around + 10_000_000_000);
        within.push(find(span(n % 8, id, times.0, times.1)).0);
        whole.push(find(span(n % 8, id, 0, u64::MAX)).0);
        absent.push(find(span(n % 8, FlowId::new(3, flow), 0, u64::MAX)).0);
        if n % 100 == 0 {
            lasting.push(find(span(n % 8, FlowId::new((n % 2) as u8, n % 100), 0, u64::MAX)).0);
        }
    }
    eprintln!("one flow, its time known: {}", percentiles(within));
    eprintln!("one flow, any time:       {}", percentiles(whole));
    eprintln!("a flow that is not there: {}", percentiles(absent));
    eprintln!("one that lasts for ever:  {}", percentiles(lasting));
    let mut spans: Vec<FlowSpan> = (0..200_000u64)
        .map(|n| span(n % 8, FlowId::new((n / 8 % 2) as u8, n * next / 200_000 + 1000), 0, u64::MAX))
        .collect();
    spans.sort_unstable();
    let (since, mut found) = (KernelClock.raw(), 0u64);
    segments.find(&spans, true, |_, _| found += 1).unwrap();
    eprintln!("200,000 flows at once: {:.0} ms, {found} blocks", ms(since));
    drop(writer);
}
