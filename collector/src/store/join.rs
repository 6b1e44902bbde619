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

use super::alerts::{REACH_NS, REMEMBER_NS, Remembered, is_near, is_near_by};
use super::block::bloom::Mixing;
use super::block::{address_token, columns};
use super::epochs::Epoch;
use super::keys::{self, Family};
use super::live::Sealed;
use super::reader::Reader;
use super::rocks::Batch;
use super::stage::Stage;
use super::writer::Writer;
use super::{Shared, StoreError};

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
        if forgotten.is_empty() {
            return Ok(());
        }
        // None goes before it was looked for everywhere.
        while self.join_arrived()? || self.search_block()? {}
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
        let numbers = self.alerts.of(&pair);
        if numbers.is_empty() {
            return Ok(false);
        }
        let Some(id) = community_id(&record.key, record.icmp) else { return Ok(false) };
        let mut changed = false;
        // Of a flow that sets off the same signature with every packet, the alerts say the same.
        let mut said: HashSet<(u64, u64, u64, &str), Mixing> = HashSet::default();
        for number in numbers {
            let Some(Remembered { epoch: of, alert, .. }) = self.alerts.get(*number) else { continue };
            if alert.community_id != id {
                continue;
            }
            let near = if *of == epoch {
                is_near(record, alert.at)
            } else {
                self.shared.is_near(known, record, *of, alert.at)?
            };
            if !near {
                continue;
            }
            if said.insert((alert.gid, alert.signature_id, alert.revision, &alert.action)) {
                changed |= alert.add_to(&mut record.attributes);
            }
            stage.alerts_joined.push(*number);
        }
        Ok(changed)
    }

    /// Joins alerts that came with the records that are in no block, and notes which blocks to look through. Whether there
    /// was anything to do.
    pub(super) fn join_arrived(&mut self) -> Result<bool, StoreError> {
        if self.arrived.is_empty() {
            return Ok(false);
        }
        let arrived: Vec<u64> = self.arrived.iter().copied().collect();
        let pairs: HashSet<Pair, Mixing> =
            arrived.iter().filter_map(|number| Some(self.alerts.get(*number)?.alert.pair)).collect();
        let rows: Vec<(FlowRef, Arc<StoredFlow>)> = {
            let live = self.shared.live();
            let of_pairs = pairs.iter().flat_map(|pair| live.of_pair(pair));
            of_pairs.map(|(id, flow)| (id, Arc::clone(flow))).collect()
        };
        let mut stage = Stage::new(&self.shared);
        for (id, flow) in rows {
            self.rejoin(id, &flow, None, &mut stage)?;
        }
        let (mut searches, mut timed) = (Vec::new(), Vec::new());
        let blocks = Arc::clone(self.shared.live().blocks());
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
        self.publish(stage, true)?;
        for (block, pair) in searches {
            self.searches.entry(block).or_default().insert(pair);
        }
        timed.into_iter().for_each(|number| self.alerts.set_timed(number));
        self.arrived.clear();
        Ok(true)
    }

    /// Looks through one block for records that alerts belong to, the newest first. Whether there was one.
    pub(super) fn search_block(&mut self) -> Result<bool, StoreError> {
        let Some((id, pairs)) = self.searches.pop_last() else { return Ok(false) };
        let Some(block) = self.shared.live().block(id).cloned() else { return Ok(true) };
        let searched = self.join_in_block(&block, &pairs);
        match self.store().served(searched) {
            Ok(_) => Ok(true),
            Err(error) => {
                self.searches.insert(id, pairs);
                Err(error)
            }
        }
    }

    fn join_in_block(
        &mut self,
        block: &Arc<Sealed>,
        pairs: &HashSet<Pair, Mixing>,
    ) -> Result<(), StoreError> {
        let reader = self.store().read(block);
        let mut stage = Stage::new(&self.shared);
        for row in rows_of_pairs(&reader, pairs)? {
            let flow = reader.flow(row)?;
            self.rejoin(flow.id(), &flow, Some((block.id, row)), &mut stage)?;
        }
        self.publish(stage, true)
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
