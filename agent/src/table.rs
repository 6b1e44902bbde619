//! The flow table of one worker: from packets to records.
//!
//! Constraints: no allocation, lock or clock call for a packet of a known flow; a hard bound on flows; all time is the
//! packets' own. Every packet is counted in exactly one segment of one flow, and every segment ends in exactly one final
//! record, so the packets of all final records add up to the packets seen.
//!
//! Eviction: when the table is full, a hand goes round the entries (the CLOCK algorithm) and takes the first whose flow
//! had no second packet since the hand last passed. Floods of one-packet flows evict each other and not the flows that
//! live; the hand looks at no more than [`EVICTION_STEPS_MAX`] entries a time.

mod challenge;
mod direction;
mod entry;
mod index;
mod key;
mod layer7;
mod reassembly;
mod repeats;
mod sequence;
mod shrink;
mod split;
mod tcp;
mod timeouts;
mod wheel;
mod wrapping;

use std::sync::Arc;

use gnomon_capture::{Frame, Stamp, memory};
use gnomon_clock::RawNs;
use gnomon_flow::{FlowEndReason, FlowId, FlowRecord, OwnStreams};

use crate::decode::Packet;
use crate::rules::Rules;
use crate::rules::judge::Judge;
use challenge::Challenges;
use entry::Entry;
pub use entry::{FlowSlice, InterimPolicy};
use index::Index;
use key::{KeyHasher, TableKey};
use layer7::Budget;
use repeats::Repeats;
use sequence::InOrder;
pub use timeouts::IdleTimeouts;
use timeouts::{deadline, ended_by_silence, idle_ns};
use wheel::Wheel;

/// How far the evicting hand goes before it takes what it is at.
const EVICTION_STEPS_MAX: usize = 64;
/// Timers looked at in one [`Table::tick`]. More than one a packet of a full batch, so that timers keep up with packets.
const TIMERS_PER_TICK_MAX: usize = 1024;
/// Flows ended in one [`Table::close_some`].
const CLOSED_AT_ONCE_MAX: usize = 1024;

const SECOND_NS: u64 = 1_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableConfig {
    /// 1 to 2³⁰. A flow takes about 400 bytes, of which untouched ones cost nothing.
    pub flows_max: u32,
    pub idle: IdleTimeouts,
    /// A flow that goes on is reported in segments no longer than this.
    pub active_timeout_ns: u64,
    /// Nor with more packets than this.
    pub active_packets_max: u16,
    /// The idle timeout of a TCP connection that was closed or reset.
    pub linger_ns: u64,
    /// `None`: no interim records.
    pub interim: Option<InterimPolicy>,
    /// Incomplete messages that the inspectors of all flows may hold together; 0: what does not come whole is not read.
    pub inspect_bytes_max: usize,
    /// Memory for what was read from payload, over all flows: then nothing more is read.
    pub metadata_bytes_max: usize,
    /// Whether payload is looked at.
    pub inspect: bool,
}

impl Default for TableConfig {
    fn default() -> TableConfig {
        TableConfig {
            flows_max: 1 << 19,
            idle: IdleTimeouts::default(),
            active_timeout_ns: 480 * SECOND_NS,
            active_packets_max: 10_000,
            linger_ns: 5 * SECOND_NS,
            interim: Some(InterimPolicy::default()),
            inspect_bytes_max: 64 << 20,
            metadata_bytes_max: 512 << 20,
            inspect: true,
        }
    }
}

/// Cumulative, but for `active`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableStats {
    pub flows_active: u64,
    pub flows_made: u64,
    /// Ended to make room.
    pub flows_evicted: u64,
    pub records_interim: u64,
    pub records_final: u64,
    /// Interim records that were put off because too many were due.
    pub interims_delayed: u64,
    /// Messages that were not inspected because `inspect_bytes_max` were held already, or `metadata_bytes_max`.
    pub inspections_denied: u64,
}

/// The key of a packet, hashed.
#[derive(Clone, Copy, Debug)]
pub struct Sought {
    key: TableKey,
    from_high: bool,
    hash: u64,
}

/// Where a packet was counted.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    entry: u32,
    pub flow: FlowId,
    pub from_responder: bool,
    /// The packet began the flow.
    pub is_new: bool,
    /// A rule ignores the flow: the packet is in no record.
    pub is_ignored: bool,
}

#[derive(Debug)]
pub struct Table {
    config: TableConfig,
    worker: u8,
    hasher: KeyHasher,
    index: Index,
    entries: Vec<Entry>,
    free: Vec<u32>,
    wheel: Wheel,
    hand: u32,
    flows_numbered: u64,
    /// The wheel's tick that `interims` counts in.
    interim_tick: u64,
    interims: u32,
    /// Since when there have been few flows for so large a table.
    quiet_since: Option<RawNs>,
    budget: Budget,
    challenges: Challenges,
    repeats: Repeats,
    judge: Judge,
    stats: TableStats,
}

impl Table {
    pub fn new(worker: u8, config: TableConfig, judge: Judge) -> Table {
        let flows_max = config.flows_max.clamp(1, 1 << 30);
        // Address space only, until a flow needs it.
        let mut entries = Vec::with_capacity(flows_max as usize);
        memory::use_huge_pages(entries.spare_capacity_mut());
        Table {
            config: TableConfig { flows_max, ..config },
            worker,
            hasher: KeyHasher::random(),
            index: Index::new(flows_max),
            entries,
            free: Vec::with_capacity(flows_max as usize),
            wheel: Wheel::new(flows_max),
            hand: 0,
            flows_numbered: 0,
            interim_tick: 0,
            interims: 0,
            quiet_since: None,
            budget: Budget::new(config.inspect_bytes_max, config.metadata_bytes_max),
            challenges: Challenges::default(),
            repeats: Repeats::default(),
            judge,
            stats: TableStats::default(),
        }
    }

    /// Flows get numbers beyond the first `flows`.
    pub(crate) fn numbering_after(self, flows: u64) -> Table {
        Table { flows_numbered: flows, ..self }
    }

    /// From now on these rules hold, for the flows that there are too.
    pub fn replace_rules(&mut self, rules: Arc<Rules>) {
        self.judge.replace(rules);
    }

    /// From now on these streams are gnomon's own, of the flows that there are too.
    pub fn replace_own_streams(&mut self, own_streams: Arc<OwnStreams>) {
        self.judge.replace_own_streams(own_streams);
    }

    /// Where to look for a packet's flow. Asks memory for it, without waiting.
    #[inline(always)]
    pub fn seek(&self, packet: &Packet<'_>) -> Sought {
        let (key, from_high) = TableKey::of(packet);
        let hash = self.hasher.hash(&key);
        self.index.prefetch(hash);
        Sought { key, from_high, hash }
    }

    /// Asks memory for the flow itself, if there seems to be one.
    #[inline]
    pub fn approach(&self, sought: &Sought) {
        if let Some(at) = self.index.find(sought.hash, |_| true) {
            memory::prefetch(&self.entries[at as usize]);
        }
    }

    /// Count the packet of a frame whose flow was sought. Records that it closed (at most two) are pushed to `out`.
    #[inline(always)]
    pub fn observe(
        &mut self,
        packet: &Packet<'_>,
        sought: &Sought,
        frame: &Frame<'_>,
        out: &mut Vec<FlowRecord>,
    ) -> Seen {
        let stamp = frame.stamp;
        let Sought { key, from_high, hash } = *sought;
        let is_repeat = self.repeats.is_repeat(hash ^ u64::from(from_high), frame, packet);
        if is_repeat && let Some(seen) = self.observe_again(packet, sought, frame, out) {
            return seen;
        }
        let found = self.index.find(hash, |at| self.entries[at as usize].key == key);
        let (at, is_new) = match found {
            Some(at) => (at, self.split(at, key, from_high, packet, stamp, out)),
            None => (self.begin(hash, key, from_high, packet, stamp, out), true),
        };
        let entry = &mut self.entries[at as usize];
        let side = entry.side(from_high);
        if self.judge.is_news(&entry.verdict) {
            entry.ask(&mut self.judge, stamp);
            if entry.verdict.is_own() {
                entry.inspected.stop(&mut self.budget);
            }
        }
        let is_ignored = entry.verdict.is_ignored();
        let last = entry.last;
        let is_challenge = packet.tcp.is_some_and(|tcp| entry.tcp.is_challenge(&tcp, side));
        if is_ignored {
            if entry.packets() > 0 {
                self.close_segment(at, stamp.raw, out);
            }
            self.entries[at as usize].pass_over(packet, side, stamp);
        } else {
            let (in_order, mut learned) = entry.add(frame, packet, side, self.config.interim.as_ref());
            if self.config.inspect && !entry.verdict.is_own() {
                learned |= entry.inspected.feed(packet, side, in_order, stamp.raw, &mut self.budget);
            }
            if learned && self.judge.waits_for_metadata() {
                entry.ask(&mut self.judge, stamp);
            }
        }
        if is_challenge {
            self.challenge(at, from_high, packet, stamp, last);
        }
        let entry = &mut self.entries[at as usize];
        entry.used |= !is_new;
        let deadline = deadline(&self.config, entry);
        if deadline < entry.timer {
            entry.timer = deadline;
            self.wheel.schedule(at, deadline);
        }
        Seen { entry: at, flow: entry.id, from_responder: side == 1, is_new, is_ignored }
    }

    /// Count a frame that repeats another of its flow: it says nothing new.
    #[cold]
    #[inline(never)]
    fn observe_again(
        &mut self,
        packet: &Packet<'_>,
        sought: &Sought,
        frame: &Frame<'_>,
        out: &mut Vec<FlowRecord>,
    ) -> Option<Seen> {
        let Sought { key, from_high, hash } = *sought;
        let at = self.index.find(hash, |at| self.entries[at as usize].key == key)?;
        let entry = &mut self.entries[at as usize];
        let side = entry.side(from_high);
        let is_ignored = entry.verdict.is_ignored();
        if entry.packets() >= u64::from(self.config.active_packets_max) {
            self.close_segment(at, frame.stamp.raw, out);
        }
        let entry = &mut self.entries[at as usize];
        if !is_ignored {
            entry.add_again(packet, side, frame.stamp, self.config.interim.as_ref());
        }
        entry.used = true;
        let deadline = deadline(&self.config, entry);
        if deadline < entry.timer {
            entry.timer = deadline;
            self.wheel.schedule(at, deadline);
        }
        Some(Seen { entry: at, flow: entry.id, from_responder: side == 1, is_new: false, is_ignored })
    }

    /// Inspect the payload of a datagram whose last fragment was just observed.
    pub(crate) fn inspect_datagram(&mut self, packet: &Packet<'_>, seen: Seen) {
        let entry = &mut self.entries[seen.entry as usize];
        if self.config.inspect && !seen.is_ignored && !entry.verdict.is_own() {
            let side = usize::from(seen.from_responder);
            let learned = entry.inspected.feed(packet, side, InOrder::Nothing, entry.last, &mut self.budget);
            if learned && self.judge.waits_for_metadata() {
                let stamp = Stamp { raw: entry.last, err_ns: 0 };
                entry.ask(&mut self.judge, stamp);
            }
        }
    }

    /// What the slicer keeps with the flow of a packet just observed.
    #[inline]
    pub fn slice_mut(&mut self, seen: Seen) -> &mut FlowSlice {
        &mut self.entries[seen.entry as usize].slice
    }

    /// The segment's record; the flow goes on.
    #[cold]
    #[inline(never)]
    fn close_segment(&mut self, at: u32, now: RawNs, out: &mut Vec<FlowRecord>) {
        self.settle(at, now);
        let entry = &mut self.entries[at as usize];
        out.push(entry.record(Some(FlowEndReason::Active), now, self.config.interim.as_ref(), &self.judge));
        entry.next_segment(now, &mut self.budget);
        self.stats.records_final += 1;
    }

    fn begin(
        &mut self,
        hash: u64,
        key: TableKey,
        from_high: bool,
        packet: &Packet<'_>,
        stamp: Stamp,
        out: &mut Vec<FlowRecord>,
    ) -> u32 {
        if self.free.is_empty() && self.entries.len() >= self.config.flows_max as usize {
            self.evict(stamp.raw, out);
        }
        let entry = Entry::new(key, from_high, self.number(), packet, stamp);
        let at = match self.free.pop() {
            Some(at) => {
                self.entries[at as usize] = entry;
                at
            }
            None => {
                self.entries.push(entry);
                (self.entries.len() - 1) as u32
            }
        };
        self.index.insert(hash, at);
        self.stats.flows_made += 1;
        self.stats.flows_active += 1;
        at
    }

    fn number(&mut self) -> FlowId {
        self.flows_numbered += 1;
        FlowId::new(self.worker, self.flows_numbered)
    }

    /// Called with every entry in use.
    fn evict(&mut self, now: RawNs, out: &mut Vec<FlowRecord>) {
        let mut at = self.hand;
        for _ in 0..EVICTION_STEPS_MAX {
            at = if self.hand as usize >= self.entries.len() { 0 } else { self.hand };
            self.hand = at + 1;
            if !std::mem::take(&mut self.entries[at as usize].used) {
                break;
            }
        }
        self.stats.flows_evicted += 1;
        self.end(at, FlowEndReason::LackOfResources, now, out);
    }

    /// A record is about to be made: rules that came after the flow's last packet are asked too.
    fn settle(&mut self, at: u32, now: RawNs) {
        let entry = &mut self.entries[at as usize];
        if self.judge.is_news(&entry.verdict) {
            entry.ask(&mut self.judge, Stamp { raw: now, err_ns: 0 });
        }
    }

    /// The flow's last record, unless there is nothing to tell.
    fn conclude(&mut self, at: u32, reason: FlowEndReason, now: RawNs, out: &mut Vec<FlowRecord>) {
        let entry = &mut self.entries[at as usize];
        if entry.inspected.conclude(&mut self.budget) && self.judge.waits_for_metadata() {
            entry.ask(&mut self.judge, Stamp { raw: now, err_ns: 0 });
        }
        if entry.packets() > 0 {
            self.settle(at, now);
            let entry = &mut self.entries[at as usize];
            out.push(entry.last_record(reason, &self.judge));
            self.stats.records_final += 1;
        }
        self.entries[at as usize].inspected.end(&mut self.budget);
    }

    /// The flow's end.
    fn end(&mut self, at: u32, reason: FlowEndReason, now: RawNs, out: &mut Vec<FlowRecord>) {
        self.conclude(at, reason, now, out);
        let entry = &mut self.entries[at as usize];
        entry.live = false;
        entry.tcp = Default::default();
        entry.verdict = Default::default();
        let hash = self.hasher.hash(&entry.key);
        self.index.remove(hash, at);
        self.wheel.cancel(at);
        self.free.push(at);
        self.stats.flows_active -= 1;
    }

    /// It is `now` by the packets' clock: end what is idle, report what changed. Whether more is due: then call again,
    /// after taking the records away if they are many.
    pub fn tick(&mut self, now: RawNs, out: &mut Vec<FlowRecord>) -> bool {
        self.wheel.advance(now);
        if self.wheel.tick() != self.interim_tick {
            self.interim_tick = self.wheel.tick();
            self.interims = 0;
        }
        for _ in 0..TIMERS_PER_TICK_MAX {
            let Some(at) = self.wheel.pop_due() else {
                self.shrink_some(now);
                return false;
            };
            self.due(at, now, out);
        }
        true
    }

    fn due(&mut self, at: u32, now: RawNs, out: &mut Vec<FlowRecord>) {
        let entry = &mut self.entries[at as usize];
        if entry.last.saturating_add(idle_ns(&self.config, entry)) <= now {
            let reason = ended_by_silence(entry);
            return self.end(at, reason, now, out);
        }
        if let (Some(policy), Some(due)) = (&self.config.interim, entry.interim_due())
            && due <= now
        {
            self.interims = self.interims.saturating_add(1);
            let late_ticks = u64::from(self.interims.saturating_sub(1) / policy.per_tick_max.max(1));
            if late_ticks == 0 {
                self.settle(at, now);
                let (entry, policy) = (&mut self.entries[at as usize], self.config.interim.as_ref());
                out.push(entry.record(None, now, policy, &self.judge));
                self.stats.records_interim += 1;
            } else {
                entry.delay_interim(now.saturating_add(late_ticks.saturating_mul(wheel::TICK_NS)));
                self.stats.interims_delayed += 1;
            }
        }
        let entry = &mut self.entries[at as usize];
        entry.timer = deadline(&self.config, entry);
        self.wheel.schedule(at, entry.timer);
    }

    /// End flows whatever their state (the agent stops, the file or the epoch ended). Whether there are more.
    pub fn close_some(&mut self, now: RawNs, out: &mut Vec<FlowRecord>) -> bool {
        // Free entries are popped with the others.
        self.free.clear();
        for _ in 0..CLOSED_AT_ONCE_MAX {
            let Some(last) = self.entries.last() else { break };
            if last.live {
                self.end((self.entries.len() - 1) as u32, FlowEndReason::Forced, now, out);
            }
            self.entries.pop();
        }
        self.free.clear();
        !self.entries.is_empty()
    }

    pub fn stats(&self) -> TableStats {
        TableStats { inspections_denied: self.budget.denied(), ..self.stats }
    }
}

#[cfg(test)]
mod tests;
