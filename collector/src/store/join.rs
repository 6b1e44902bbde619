//! Where alerts meet records. Those that come later find the alert in memory when they are placed; those that are there
//! already are looked for right after the commit that made the alert durable: first all that are in no block, then block by
//! block, in short runs between commits.
//!
//! A record that an alert belongs to is made anew with what the alert says, like one whose time was corrected: it leaves its
//! block if it is in one, and is written down by itself until it is in the next. So whatever finds records finds it, and no
//! summary, rollup or filter has to know of alerts.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use gnomon_clock::RawNs;
use gnomon_flow::alert::carry_over;
use gnomon_flow::community::community_id;
use gnomon_flow::{Alert, EpochHash, FlowRecord, FlowRef, Pair, StoredFlow};

use super::alerts::{REACH_NS, REMEMBER_NS, Remembered, is_near_by, near_span};
use super::block::bloom::Mixing;
use super::block::{address_token, columns};
use super::block_maker::{MadeBlock, Plan};
use super::epochs::Epoch;
use super::keys::{self, Family};
use super::live::Sealed;
use super::reader::Reader;
use super::rocks::Batch;
use super::stage::Stage;
use super::writer::Writer;
use super::{Shared, StoreError};

/// Records that are joined in one run between commits.
const JOIN_RUN: usize = 1_024;
/// Alerts whose records are looked for in one run, and how often blocks are asked for that.
const ARRIVED_RUN: usize = 256;
const LOOKS_MAX: usize = 200_000;
/// A record of a pair with more alerts is not joined while it is taken in.
const ALERTS_AT_ONCE: usize = 16;
/// Different alerts that one record tells of: with seven values each they nearly fill it.
const SAID_MAX: usize = 32;

/// What a block is looked through for.
#[derive(Clone, Debug, Default)]
pub(super) struct BlockSearch {
    pairs: HashSet<Pair, Mixing>,
    /// The first row that was not looked at.
    row: usize,
}

impl BlockSearch {
    fn add(&mut self, pair: Pair) {
        if self.pairs.insert(pair) {
            self.row = 0;
        }
    }
}

impl Writer {
    /// What is remembered of the last run, before any record is placed.
    pub(super) fn load_alerts(&mut self) -> Result<(), StoreError> {
        let now = self.shared.gate.monotonic();
        let shared = Arc::clone(&self.shared);
        shared.rocks.walk(Family::Alerts, &[], |key, value| {
            let Some(number) = keys::alert_of(key) else {
                return Err(StoreError::Key { bytes: key.to_vec() });
            };
            match Remembered::decode(value, now) {
                Ok(remembered) => self.alerts.insert(number, remembered),
                Err(error) => tracing::error!(number, %error, "an alert is damaged: the others are joined"),
            }
            Ok(())
        })?;
        self.rejoin_all();
        self.index_pairs();
        Ok(())
    }

    /// Remembers an alert, once.
    pub(super) fn take_alert(&self, epoch: EpochHash, alert: &Alert, stage: &mut Stage) {
        let digest = alert.digest();
        if self.alerts.has_digest(digest) || stage.alert_digests.contains(&digest) {
            stage.alerts_repeated += 1;
            return;
        }
        if self.alerts.is_full(stage.alerts.len()) {
            stage.alerts_crowded_out += 1;
            return;
        }
        let number = self.alerts.next() + stage.alerts.len() as u64;
        let remembered = Remembered::new(epoch, alert.clone(), self.shared.gate.monotonic());
        stage.batch.put(Family::Alerts, keys::alert(number), remembered.encode());
        stage.alert_digests.insert(digest);
        stage.alerts.push((number, remembered));
    }

    /// What a stage did to alerts is durable.
    pub(super) fn keep_alerts(&mut self, stage: &mut Stage) {
        let counts = Arc::clone(&self.shared.alert_counts);
        counts.taken.fetch_add(stage.alerts.len() as u64, Ordering::Relaxed);
        counts.repeated.fetch_add(stage.alerts_repeated, Ordering::Relaxed);
        counts.crowded_out.fetch_add(std::mem::take(&mut stage.alerts_crowded_out), Ordering::Relaxed);
        self.join_rows.extend(stage.join_later.drain(..));
        let some = !stage.alerts.is_empty();
        for (number, remembered) in stage.alerts.drain(..) {
            self.alerts.insert(number, remembered);
            self.arrived.insert(number);
        }
        if some {
            self.index_pairs();
        }
        for number in stage.alerts_joined.drain(..) {
            if self.alerts.set_joined(number) {
                counts.joined.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.waiting.extend(stage.waiting.drain(..));
        counts.waiting.store(self.alerts.waiting_len() as u64, Ordering::Relaxed);
    }

    /// Evidence of an epoch's time came. Alerts that have met no record may meet one now, if they are of this epoch and
    /// nothing was known of their time, or if records were `moved`.
    pub(super) fn rejoin_waiting(&mut self, epoch: EpochHash, moved: bool) {
        let waiting = self.alerts.iter().filter(|(_, remembered)| !remembered.joined);
        let again = waiting.filter(|(_, of)| moved || of.epoch == epoch && !of.timed);
        self.arrived.extend(again.map(|(number, _)| number));
    }

    /// Who uses no alerts does not pay for finding records by their pairs.
    fn index_pairs(&self) {
        let mut live = self.shared.live.write().unwrap_or_else(PoisonError::into_inner);
        live.index_pairs(!self.alerts.is_empty());
    }

    fn rejoin_all(&mut self) {
        self.arrived.extend(self.alerts.iter().map(|(number, _)| number));
    }

    /// Forgets alerts that were remembered long enough, or that there are too many of.
    pub(super) fn forget_alerts(&mut self) -> Result<(), StoreError> {
        let now = self.shared.gate.monotonic();
        let (mut forgotten, mut bytes) = (Vec::new(), 0);
        for (number, remembered) in self.alerts.iter() {
            let over = self.alerts.is_over((forgotten.len(), bytes));
            if now.since(remembered.since) < REMEMBER_NS && !over {
                break;
            }
            bytes += remembered.alert.bytes();
            forgotten.push(number);
        }
        // None goes before it was looked for everywhere.
        if forgotten.is_empty() || self.has_joins() {
            return Ok(());
        }
        let mut batch = Batch::default();
        forgotten.iter().for_each(|number| batch.delete(Family::Alerts, keys::alert(*number)));
        self.write(&batch, false)?;
        let counts = Arc::clone(&self.shared.alert_counts);
        for number in forgotten {
            let Some(gone) = self.alerts.remove(number).filter(|gone| !gone.joined) else { continue };
            let late = now.since(gone.since) >= REMEMBER_NS;
            let counter = if late { &counts.given_up } else { &counts.crowded_out };
            counter.fetch_add(1, Ordering::Relaxed);
            let Alert { signature_id, community_id, .. } = &gone.alert;
            tracing::debug!(signature_id, %community_id, late, "an alert met no record");
        }
        counts.waiting.store(self.alerts.waiting_len() as u64, Ordering::Relaxed);
        self.index_pairs();
        Ok(())
    }

    /// Gives a record that is being placed what alerts say of it, and what they said of its earlier revision. Whether it has
    /// anything by alerts that is not on the disk with it.
    pub(super) fn join(
        &self,
        epoch: EpochHash,
        known: &Epoch,
        record: &mut FlowRecord,
        stage: &mut Stage,
    ) -> Result<bool, StoreError> {
        if self.alerts.is_empty() {
            return Ok(false);
        }
        let Some(pair) = Pair::of(&record.key) else { return Ok(false) };
        if self.alerts.count_of(&pair) == 0 {
            return Ok(false);
        }
        let Some(id) = community_id(&record.key, record.icmp) else { return Ok(false) };
        let near = near_span(record);
        let mut changed = false;
        // Of a flow that sets off the same signature with every packet, the alerts say the same.
        let mut said: HashSet<(u64, u64, u64, &str), Mixing> = HashSet::default();
        for (number, Remembered { epoch: of, alert, .. }) in self.alerts.comparable(&pair, epoch, near) {
            if alert.community_id != id {
                continue;
            }
            let near = *of == epoch || self.shared.is_near(known, record, *of, alert.at)?;
            if !near {
                continue;
            }
            let new = !said.contains(&(alert.gid, alert.signature_id, alert.revision, &*alert.action));
            if new && said.len() < SAID_MAX {
                said.insert((alert.gid, alert.signature_id, alert.revision, &alert.action));
                changed |= alert.add_to(&mut record.attributes);
            }
            stage.alerts_joined.push(number);
        }
        Ok(changed)
    }

    /// The same for a record that comes in, which nothing waits for where it is little work; else between commits.
    pub(super) fn join_or_defer(
        &self,
        id: FlowRef,
        known: &Epoch,
        record: &mut FlowRecord,
        stage: &mut Stage,
    ) -> Result<bool, StoreError> {
        if self.alerts.is_empty() {
            return Ok(false);
        }
        if Pair::of(&record.key).is_some_and(|pair| self.alerts.count_of(&pair) > ALERTS_AT_ONCE) {
            stage.join_later.push(id);
            return Ok(false);
        }
        self.join(id.epoch, known, record, stage)
    }

    /// Alerts and records wait to be brought together.
    pub(super) fn has_joins(&self) -> bool {
        !self.arrived.is_empty() || !self.join_rows.is_empty() || !self.searches.is_empty()
    }

    /// One short run of bringing them together. Whether there was anything to do.
    pub(super) fn join_some(&mut self) -> Result<bool, StoreError> {
        Ok(self.join_waiting()? || self.join_arrived()? || self.search_block()?)
    }

    /// Joins some of the records in no block that wait for it. Whether there was any.
    fn join_waiting(&mut self) -> Result<bool, StoreError> {
        let run: Vec<FlowRef> = self.join_rows.iter().take(JOIN_RUN).copied().collect();
        if run.is_empty() {
            return Ok(false);
        }
        let mut stage = Stage::new(&self.shared);
        for id in &run {
            // One that is in a block by now is looked for there.
            let Some(flow) = self.shared.live().get(*id).cloned() else { continue };
            self.rejoin(*id, &flow, None, &mut stage)?;
        }
        self.publish(stage, true)?;
        self.join_rows.drain(..run.len());
        Ok(true)
    }

    /// Notes which records in no block, and which blocks, to look at for some of the alerts that came. Whether there was any.
    pub(super) fn join_arrived(&mut self) -> Result<bool, StoreError> {
        if self.arrived.is_empty() {
            return Ok(false);
        }
        let blocks = Arc::clone(self.shared.live().blocks());
        let run = (LOOKS_MAX / blocks.len().max(1)).clamp(1, ARRIVED_RUN);
        let arrived: Vec<u64> = self.arrived.iter().take(run).copied().collect();
        let pairs: HashSet<Pair, Mixing> =
            arrived.iter().filter_map(|number| Some(self.alerts.get(*number)?.alert.pair)).collect();
        let rows: Vec<FlowRef> = {
            let live = self.shared.live();
            pairs.iter().flat_map(|pair| live.of_pair(pair)).map(|(id, _)| id).collect()
        };
        let (mut searches, mut timed) = (Vec::new(), Vec::new());
        for number in &arrived {
            let Some(Remembered { epoch, alert, .. }) = self.alerts.get(*number) else { continue };
            let utc = self.store().estimate(*epoch, alert.at)?.map(|estimate| estimate.utc);
            timed.extend(utc.map(|_| *number));
            let tokens = alert.pair.ends.map(|(ip, _)| match ip {
                std::net::IpAddr::V4(ip) => address_token(&ip.octets()),
                std::net::IpAddr::V6(ip) => address_token(&ip.octets()),
            });
            for block in blocks.iter().filter(|block| may_concern(block, *epoch, alert.at, utc)) {
                if tokens.iter().all(|token| block.summary.may_have_token(*token)) {
                    searches.push((block.id, alert.pair));
                }
            }
        }
        self.join_rows.extend(rows);
        for (block, pair) in searches {
            self.searches.entry(block).or_default().add(pair);
        }
        timed.into_iter().for_each(|number| self.alerts.set_timed(number));
        arrived.iter().for_each(|number| _ = self.arrived.remove(number));
        Ok(true)
    }

    /// Records that wait to be joined are in these blocks now.
    pub(super) fn join_too(&mut self, plan: &Plan, blocks: &[MadeBlock], sealed: &[Arc<Sealed>]) {
        if self.join_rows.is_empty() {
            return;
        }
        let waiting: HashSet<FlowRef, Mixing> = self.join_rows.iter().copied().collect();
        for (block, sealed) in blocks.iter().zip(sealed) {
            let rows = plan.rows[block.rows.clone()].iter().filter(|(id, _)| waiting.contains(id));
            for pair in rows.filter_map(|(_, flow)| Pair::of(&flow.record.key)) {
                self.searches.entry(sealed.id).or_default().add(pair);
            }
        }
    }

    /// Looks through one block for records that alerts belong to, the newest first, or through the next part of it. Whether
    /// there was one.
    pub(super) fn search_block(&mut self) -> Result<bool, StoreError> {
        let Some((id, search)) = self.searches.pop_last() else { return Ok(false) };
        let Some(block) = self.shared.live().block(id).cloned() else { return Ok(true) };
        let mut next = None;
        let searched = self.join_in_block(&block, &search).map(|row| next = row);
        match self.store().served(searched) {
            Ok(_) => {
                if let Some(row) = next {
                    self.searches.insert(id, BlockSearch { row, ..search });
                }
                Ok(true)
            }
            Err(error) => {
                self.searches.insert(id, search);
                Err(error)
            }
        }
    }

    /// The row to go on with, if that was not all.
    fn join_in_block(
        &mut self,
        block: &Arc<Sealed>,
        search: &BlockSearch,
    ) -> Result<Option<usize>, StoreError> {
        let reader = self.store().read(block);
        let mut stage = Stage::new(&self.shared);
        let rows = rows_of_pairs(&reader, &search.pairs)?;
        let mut rows = rows.into_iter().filter(|row| *row >= search.row);
        for row in rows.by_ref().take(JOIN_RUN) {
            let flow = reader.flow(row)?;
            self.rejoin(flow.id(), &flow, Some((block.id, row)), &mut stage)?;
        }
        let next = rows.next();
        self.publish(stage, true)?;
        Ok(next)
    }

    /// Makes a record anew that alerts say something new of. `at` is its block and row.
    fn rejoin(
        &self,
        id: FlowRef,
        flow: &StoredFlow,
        at: Option<(u64, usize)>,
        stage: &mut Stage,
    ) -> Result<(), StoreError> {
        let Some(epoch) = self.shared.epochs.get(&self.shared.rocks, id.epoch)? else { return Ok(()) };
        let mut record = flow.record.clone();
        if !self.join(id.epoch, &epoch, &mut record, stage)? {
            return Ok(());
        }
        let judged = self.shared.judge(&epoch, &record, &stage.now)?;
        let flow = StoredFlow {
            time_state: judged.state,
            first: judged.first,
            last: judged.last,
            record,
            ..flow.clone()
        };
        if let Some((block, row)) = at {
            stage.leave(id, block, row);
        }
        stage.put_durably(id, flow);
        Ok(())
    }

    /// What alerts said of an open record that is in a block, of which a later revision has come.
    pub(super) fn said_of_row(
        &self,
        block: u64,
        row: usize,
        to: &mut FlowRecord,
    ) -> Result<bool, StoreError> {
        let Some(block) = self.shared.live().block(block).cloned() else { return Ok(false) };
        let is_there = |field: &gnomon_flow::FieldId| block.summary.has(super::block::Column(field.0));
        if !gnomon_flow::field::ALERT_FIELDS.iter().any(is_there) {
            return Ok(false);
        }
        let mut any = false;
        let read = self.store().read(&block).flow(row).map(|flow| {
            any = carry_over(&flow.record.attributes, &mut to.attributes);
        });
        self.store().served(read)?;
        Ok(any)
    }
}

impl Shared {
    fn is_near(
        &self,
        epoch: &Epoch,
        record: &FlowRecord,
        of: EpochHash,
        at: RawNs,
    ) -> Result<bool, StoreError> {
        let Some(other) = self.epochs.get(&self.rocks, of)? else { return Ok(false) };
        let (Some(at), Some(first), Some(last)) = (
            self.estimate(&other, at)?,
            self.estimate(epoch, record.first)?,
            self.estimate(epoch, record.last)?,
        ) else {
            return Ok(false);
        };
        Ok(is_near_by(record.end, (first, last), at))
    }
}

/// Whether some record of the block may be near the alert in time.
fn may_concern(block: &Sealed, epoch: EpochHash, at: RawNs, utc: Option<gnomon_clock::UtcNs>) -> bool {
    let (before, after) = REACH_NS;
    let own = block.summary.sources.iter().filter(|source| source.epoch == epoch);
    let mut workers = own.flat_map(|source| &source.workers);
    if workers.any(|w| w.first.0.saturating_sub(before) <= at && at <= w.last_max.saturating_add(after)) {
        return true;
    }
    block.times.zip(utc).is_some_and(|(times, utc)| {
        times.first_min.saturating_add_ns(-(before.cast_signed())) <= utc
            && utc <= times.last_max.saturating_add_ns(after.cast_signed())
    })
}

/// The rows that are alive and of one of these pairs.
fn rows_of_pairs(reader: &Reader, pairs: &HashSet<Pair, Mixing>) -> Result<Vec<usize>, StoreError> {
    let (Some(orig), Some(resp)) = (reader.dictionary(columns::ORIG)?, reader.dictionary(columns::RESP)?)
    else {
        return Ok(Vec::new());
    };
    let protocols = reader.integers(columns::PROTOCOL)?;
    let (orig_ports, resp_ports) =
        (reader.integers(columns::ORIG_PORT)?, reader.integers(columns::RESP_PORT)?);
    // Most rows are passed by without their addresses.
    let ports = |pair: &Pair| (u64::from(pair.protocol), pair.ends.map(|(_, port)| u64::from(port)));
    let outlines: HashSet<(u64, [u64; 2]), Mixing> = pairs
        .iter()
        .map(ports)
        .flat_map(|(protocol, [a, b])| [(protocol, [a, b]), (protocol, [b, a])])
        .collect();
    let address = |of: &super::block::Dictionary, row: usize| {
        of.of_row(row).first().and_then(|code| columns::ip_of(of.entries.get(*code as usize)))
    };
    let mut rows = Vec::new();
    for row in reader.alive().iter() {
        let (protocol, from, to) = (protocols[row], orig_ports[row], resp_ports[row]);
        if !outlines.contains(&(protocol, [from, to])) {
            continue;
        }
        let Some((orig, resp)) = address(&orig, row).zip(address(&resp, row)) else { continue };
        if pairs.contains(&Pair::new(protocol as u8, (orig, from as u16), (resp, to as u16))) {
            rows.push(row);
        }
    }
    Ok(rows)
}
