//! Opening a store: the format's version, what a crash left in the newest segment file, and the work to take up again.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, RwLock};

use gnomon_clock::MonoNs;
use tokio::sync::broadcast;

use super::alerts::AlertTable;
use super::block_maker::BlockMaker;
use super::column_cache::ColumnCache;
use super::directory;
use super::envelope::{Totals, numbers, numbers_of};
use super::epochs::Epochs;
use super::intake::Intake;
use super::keys::{self, Family};
use super::retention::{Limits, free_bytes, segment_table};
use super::rocks::{Batch, Rocks};
use super::segments::{Position, Segments};
use super::snapshot::clear_leftovers;
use super::text_index::TextIndex;
use super::writer::Writer;
use super::{SUBSCRIBER_QUEUE, Shared, Store, StoreError};
use crate::clock_gate::ClockGate;
use crate::enrich::CurrentEnrichment;

/// Opening writes before it reads: with less than this free the database could die half open.
const OPEN_BYTES_MIN: u64 = 32 << 20;

/// Opens the store under `dir`, creating it if there is none.
///
/// # Errors
/// When another process has it, it was written by a newer version, or it cannot be read.
pub fn open(dir: &Path, gate: ClockGate, limits: Limits) -> Result<(Store, Writer), StoreError> {
    open_enriched(dir, gate, limits, CurrentEnrichment::default())
}

/// As [`open`], for records that get what `enrichment` knows of their addresses.
///
/// # Errors
/// As [`open`].
pub fn open_enriched(
    dir: &Path,
    gate: ClockGate,
    limits: Limits,
    enrichment: impl Into<CurrentEnrichment>,
) -> Result<(Store, Writer), StoreError> {
    // Made here, not by whoever needs them: their names have to be durable before anything in them is.
    for dir in [dir, &dir.join("db"), &dir.join("segments")] {
        directory::create(dir).map_err(|source| StoreError::Directory { path: dir.to_owned(), source })?;
    }
    let free_bytes = free_bytes(dir)?;
    if free_bytes < OPEN_BYTES_MIN {
        return Err(StoreError::NoRoom { path: dir.to_owned(), free_bytes, wanted_bytes: OPEN_BYTES_MIN });
    }
    check_families(dir)?;
    let mut rocks = Rocks::open(&dir.join("db"))?;
    check_format(dir, &rocks)?;
    rocks.drop_retired()?;
    clear_leftovers(dir);
    let meta = |key| rocks.get(Family::Meta, key);
    let totals = meta(keys::META_TOTALS)?.map(|v| Totals::decode(&v)).transpose()?;
    let durable = meta(keys::META_SEGMENT)?.map(|value| Position::decode(&value)).transpose()?;
    let table = segment_table(&rocks)?;
    let known = table.iter().map(|(number, [_, bytes, _])| (*number, *bytes)).collect();
    let (segments, segment_writer, recovered) =
        Segments::open(&dir.join("segments"), durable, &known, limits.segment_bytes())?;
    if recovered.cut_bytes > 0 {
        tracing::info!(bytes = recovered.cut_bytes, "cut packets that were never acknowledged");
    }
    if recovered.lost_bytes > 0 {
        tracing::error!(
            bytes = recovered.lost_bytes,
            "packets that were acknowledged are missing from the newest segment file: the disk lost them"
        );
    }
    let intake = Mutex::new(Intake::new(gate.monotonic()));
    let (changes, _) = broadcast::channel(SUBSCRIBER_QUEUE);
    let epochs = Epochs::new(gate.monotonic().0);
    let shared = Arc::new(Shared {
        dir: dir.to_owned(),
        rocks,
        segments,
        epochs,
        gate,
        enrichment: enrichment.into(),
        live: RwLock::default(),
        columns: ColumnCache::default(),
        texts: TextIndex::default(),
        totals: Mutex::new(totals.unwrap_or_default()),
        intake,
        limits,
        changes,
        listings: Mutex::default(),
        damaged_blocks: AtomicU64::new(0),
        alert_counts: Arc::default(),
        torn_bytes: recovered.cut_bytes,
        lost_bytes: recovered.lost_bytes,
        write_failures: AtomicU64::new(0),
        reopened: AtomicU64::new(0),
        stopped: Mutex::default(),
    });
    let mut writer = Writer {
        shared: Arc::clone(&shared),
        segments: segment_writer,
        table,
        next_block: 1,
        recent: (0, 0),
        waiting: HashMap::new(),
        alerts: AlertTable::default(),
        arrived: BTreeSet::new(),
        searches: BTreeMap::new(),
        keyed_by: HashMap::new(),
        jobs: VecDeque::new(),
        maker: BlockMaker::start().map_err(|source| StoreError::Thread { source })?,
        limits,
        pruned_at: None,
        regated_at: (MonoNs(0), MonoNs(0)),
        relative: HashSet::new(),
        expired_at: None,
        age_held_up: false,
        time_saved_at: None,
        events_saved: 0,
        closing: Arc::new(AtomicBool::new(false)),
        unsettled: false,
    };
    writer.load_segments()?;
    writer.load_alerts()?;
    writer.load_records()?;
    writer.load_jobs();
    writer.load_time()?;
    Ok((Store { shared, then: None }, writer))
}

/// Refuses what this version does not know before anything is changed: opening a database for writing gives it the families
/// that it lacks, and the version that it belongs to would not open it any more.
fn check_families(dir: &Path) -> Result<(), StoreError> {
    let db = dir.join("db");
    let there = Rocks::families_of(&db);
    let known = |name: &String| Family::ALL.iter().any(|family| family.name() == *name);
    let lacks = Family::ALL.iter().any(|family| !there.iter().any(|name| name == family.name()));
    let retired = |name: &String| keys::RETIRED.contains(&name.as_str()) || name == "default";
    let unknown: Vec<String> = there.iter().filter(|name| !known(name) && !retired(name)).cloned().collect();
    // Most stores have what this version has, and say their format when they are open.
    if there.is_empty() || (unknown.is_empty() && !lacks) {
        return Ok(());
    }
    let rocks = Rocks::open_read_only(&db)?;
    if rocks.has(Family::Meta)
        && let Some(value) = rocks.get(Family::Meta, keys::META_FORMAT)?
    {
        judge_format(dir, &value)?;
    }
    if unknown.is_empty() {
        return Ok(());
    }
    Err(StoreError::NewerFamilies { path: dir.to_owned(), families: unknown.join(", ") })
}

fn check_format(dir: &Path, rocks: &Rocks) -> Result<(), StoreError> {
    let Some(value) = rocks.get(Family::Meta, keys::META_FORMAT)? else {
        let mut batch = Batch::default();
        batch.put(Family::Meta, keys::META_FORMAT, numbers([u64::from(keys::FORMAT)]));
        return Ok(rocks.write(&batch, true)?);
    };
    judge_format(dir, &value)
}

pub(super) fn judge_format(dir: &Path, value: &[u8]) -> Result<(), StoreError> {
    let [found] = numbers_of("the format's version", value)?;
    if found > u64::from(keys::FORMAT) {
        return Err(StoreError::Newer { path: dir.to_owned(), found, known: keys::FORMAT });
    }
    if found < u64::from(keys::FORMAT) {
        return Err(StoreError::Older { path: dir.to_owned(), found, known: keys::FORMAT });
    }
    Ok(())
}
