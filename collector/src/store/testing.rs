//! What tests of the collector are made with: records, a clock that can be set, a store in a temporary directory.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gnomon_clock::{Bracket, Clock, EpochId, Fix, FixSource, KernelStatus, MonoNs, Policy, RawNs, UtcNs};
use gnomon_flow::{Addresses, Alert, DirectionCounters, FlowEndReason, FlowId, FlowKey, FlowRecord, Pair};

use super::{Body, Change, Content, Evidence, Limits, Store, Writer};
use crate::clock_gate::ClockGate;
use crate::timekeeper::Timekeeper;

pub(crate) const S: u64 = 1_000_000_000;
/// The collector's time when a [`FakeClock`] is made, TAI.
pub(crate) const NOW: i64 = 1_800_000_000_000_000_000;

/// A clock that stands until it is told to go on.
#[derive(Debug)]
pub(crate) struct FakeClock {
    elapsed: AtomicU64,
    pub(crate) max_error_ns: AtomicU64,
}

impl FakeClock {
    pub(crate) fn new() -> Arc<FakeClock> {
        Arc::new(FakeClock { elapsed: AtomicU64::new(S), max_error_ns: AtomicU64::new(1_000_000) })
    }

    pub(crate) fn advance(&self, ns: u64) {
        self.elapsed.fetch_add(ns, Ordering::Relaxed);
    }
}

impl Clock for FakeClock {
    fn raw(&self) -> RawNs {
        RawNs(self.elapsed.load(Ordering::Relaxed))
    }

    fn monotonic(&self) -> MonoNs {
        MonoNs(self.elapsed.load(Ordering::Relaxed))
    }

    fn boottime(&self) -> MonoNs {
        self.monotonic()
    }

    fn bracket(&self) -> Bracket {
        let raw = self.raw();
        let since = raw.0.cast_signed() - S.cast_signed();
        Bracket { raw, half_width_ns: 100, realtime: UtcNs::from_tai_ns(NOW + since) }
    }

    fn kernel_status(&self) -> io::Result<KernelStatus> {
        let max_error_ns = self.max_error_ns.load(Ordering::Relaxed);
        Ok(KernelStatus { max_error_ns, ..KernelStatus::default() })
    }
}

pub(crate) fn epoch(n: u8) -> EpochId {
    EpochId { agent: [n; 16], boot_id: [7; 16], opened: RawNs(u64::from(n)) }
}

/// A final record of flow `id`, revision `revision`, from `first` to `last` RAW.
pub(crate) fn record(id: u64, revision: u32, first: u64, last: u64) -> FlowRecord {
    FlowRecord {
        id: FlowId(id),
        revision,
        key: FlowKey {
            ethertype: 0x0800,
            protocol: 17,
            addresses: Addresses::V4 { orig: [10, 0, 0, 1], resp: [10, 0, 0, 2] },
            orig_port: 40_000,
            resp_port: 53,
            ..FlowKey::default()
        },
        first: RawNs(first),
        last: RawNs(last),
        stamp_err_ns: 50,
        orig: DirectionCounters { packets: 1, bytes: 80, ip_bytes: 66, ..DirectionCounters::default() },
        end: Some(FlowEndReason::Idle),
        ..FlowRecord::default()
    }
}

/// A fix at `raw_s` that says the epoch's RAW 0 was `behind_s` seconds before [`NOW`].
pub(crate) fn fix(raw_s: u64, behind_s: u64) -> Fix {
    let utc = UtcNs::from_tai_ns(NOW + (raw_s * S).cast_signed() - (behind_s * S).cast_signed());
    Fix { raw: RawNs(raw_s * S), utc, err_ns: 1_000_000, source: FixSource::Collector }
}

pub(crate) fn change(epoch: EpochId, body: Body) -> Change {
    Change { epoch, agent_name: "sensor".into(), body }
}

pub(crate) fn fixes(epoch: EpochId, fixes: Vec<Fix>) -> Change {
    change(epoch, Body::Evidence(Evidence { fixes, ..Evidence::default() }))
}

pub(crate) fn flows(epoch: EpochId, seq: u64, records: Vec<FlowRecord>) -> Change {
    let payload = super::RecordBatch::payload("eth0", &records);
    let content = Content::Flows { interface: "eth0".into(), records, alerts: Vec::new(), payload };
    change(epoch, Body::Entry { seq, content })
}

/// Alert `n` of the flow of [`record`], at RAW second `at_s`.
pub(crate) fn alert(n: u64, at_s: u64) -> Alert {
    let key = record(0, 0, 0, 0).key;
    Alert {
        at: RawNs(at_s * S),
        read: RawNs(at_s * S + 1),
        said_unix_ns: n.cast_signed(),
        community_id: gnomon_flow::community::community_id(&key, None).unwrap(),
        pair: Pair::of(&key).unwrap(),
        signature: format!("ET SCAN test {n}"),
        signature_id: 9_000_000 + n,
        gid: 1,
        revision: 1,
        severity: 2,
        category: "Attempted Information Leak".to_owned(),
        action: "allowed".to_owned(),
        flow: 1,
    }
}

/// Alerts as an entry.
pub(crate) fn alerts(epoch: EpochId, seq: u64, alerts: Vec<Alert>) -> Change {
    let content =
        Content::Flows { interface: "".into(), records: Vec::new(), alerts, payload: Default::default() };
    change(epoch, Body::Entry { seq, content })
}

/// A block of one packet with `text` for each of `ids`, first at `raw`.
pub(crate) fn slices(epoch: EpochId, seq: u64, ids: &[u64], raw: u64, text: &str) -> Change {
    let mut block = Vec::new();
    for id in ids {
        let packet = gnomon_flow::slice::SlicedPacket {
            raw: RawNs(raw),
            err_ns: 1,
            flow: FlowId(*id),
            original_len: 60,
            linktype: 1,
            from_responder: false,
            outgoing: false,
            data: text.as_bytes(),
        };
        packet.append_to(&mut block);
    }
    let content = Content::Slices(super::Slices {
        interface: "eth0".to_owned(),
        packets: ids.len() as u32,
        first: RawNs(raw),
        last: RawNs(raw),
        block_bytes: block.len() as u32,
        flows: ids.iter().map(|id| FlowId(*id)).collect(),
        block: zstd::bulk::compress(&block, 1).unwrap().into(),
    });
    change(epoch, Body::Entry { seq, content })
}

pub(crate) const LIMITS: Limits = Limits {
    packets_bytes_max: 1 << 30,
    flows_bytes_max: 1 << 30,
    flows_bytes_kept: 1 << 20,
    free_bytes_min: 1 << 20,
    packets_age_ns_max: None,
    flows_age_ns_max: None,
};

pub(crate) fn gate(clock: &Arc<FakeClock>) -> ClockGate {
    ClockGate::new(Timekeeper::new(Arc::clone(clock) as Arc<dyn Clock>), Policy::default())
}

pub(crate) fn open(dir: &std::path::Path, clock: &Arc<FakeClock>) -> (Store, Writer) {
    super::open(dir, &gate(clock), LIMITS).unwrap()
}

/// Do all that is left to do.
pub(crate) fn settle(writer: &mut Writer) {
    while writer.settle().unwrap() || writer.finish_blocks().unwrap() {}
}

/// Put all that is indexed into blocks.
pub(crate) fn seal(writer: &mut Writer) {
    let rows = writer.select(|flow| flow.time_state == gnomon_flow::TimeState::Indexed);
    writer.checkpoint(rows, &[]).unwrap();
}

/// Has blocks made of what `wanted` wants, if none are being made. They are put in by [`Writer::finish_blocks`].
pub(crate) fn begin_blocks(writer: &mut Writer, wanted: impl Fn(&gnomon_flow::StoredFlow) -> bool) {
    if !writer.maker.is_busy() {
        let plan = writer.plan(writer.select(wanted));
        writer.maker.make(plan);
    }
}
