//! Opening a store: the format's version, what a crash left in the newest segment file, and the work to take up again.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, RwLock};

use gnomon_clock::MonoNs;
use tokio::sync::broadcast;

use super::alerts::AlertTable;
use super::block_maker::BlockMaker;
use super::claims::{Claims, store_id};
use super::column_cache::ColumnCache;
use super::copies::Changed;
use super::directory;
use super::envelope::{Totals, numbers, numbers_of};
use super::epochs::Epochs;
use super::flusher::{Flusher, Settled};
use super::intake::Intake;
use super::keys::{self, Family};
use super::retention::{Limits, free_bytes, segment_table};
use super::rocks::{Batch, Rocks};
use super::rocks_mend::{is_replaying, table_named};
use super::rocks_survey::survey;
use super::salvage;
use super::segments::{Opening, Position, Segments};
use super::set_aside::{Aside, SetAside};
use super::snapshot::clear_leftovers;
use super::text_index::TextIndex;
use super::verify::Hold;
use super::writer::Writer;
use super::{SUBSCRIBER_QUEUE, Shared, Store, StoreError};
use crate::clock_gate::ClockGate;
use crate::enrich::CurrentEnrichment;

/// Opening for writing writes before it reads: with less than this free the database could die half open, so that it is opened
/// for reading only.
const OPEN_BYTES_MIN: u64 = 32 << 20;
/// With so much free, a store that was opened for reading only is opened for writing: more, so that it is not done in vain.
pub(super) const ROOM_BYTES: u64 = 2 * OPEN_BYTES_MIN;

/// Opens the store under `dir`, creating it if there is none.
///
/// # Errors
/// When another process has it, it was written by a newer version, or it cannot be read.
pub fn open(dir: &Path, gate: &ClockGate, limits: Limits) -> Result<(Store, Writer), StoreError> {
    open_enriched(dir, gate, limits, CurrentEnrichment::default())
}

/// As [`open`], for records that get what `enrichment` knows of their addresses.
///
/// # Errors
/// As [`open`].
pub fn open_enriched(
    dir: &Path,
    gate: &ClockGate,
    limits: Limits,
    enrichment: impl Into<CurrentEnrichment>,
) -> Result<(Store, Writer), StoreError> {
    let enrichment: CurrentEnrichment = enrichment.into();
    let mut opened = Opened::default();
    for _ in 0..=salvage::TABLES_MAX {
        match open_once(dir, gate.clone(), limits, enrichment.clone(), &mut opened) {
            Err(StoreError::Rocks(error)) if error.failure.is_damage() => {
                let Some(table) = table_named(&error.message) else { return Err(error.into()) };
                tracing::error!(%error, "a table file of the database is damaged: what can be read of it is kept");
                salvage::without_table(dir, table)?;
                opened.tables_out += 1;
            }
            opened => return opened,
        }
    }
    let problem = format!("more than {} table files of its database are damaged", salvage::TABLES_MAX);
    Err(StoreError::NotWhole { path: dir.to_owned(), problem, advice: super::ADVICE.to_owned() })
}

/// What was found when a store was opened.
#[derive(Clone, Debug, Default)]
pub(super) struct Opened {
    /// Writes of the database that were acknowledged and are not there.
    pub(super) lost_writes: u64,
    /// Table files that could not be used.
    pub(super) tables_out: u64,
    /// Other files of the database that were damaged.
    pub(super) files_damaged: u64,
    /// What is set aside, of earlier starts too.
    pub(super) aside: Aside,
}

impl Opened {
    pub(super) fn is_damaged(&self) -> bool {
        self.lost_writes + self.tables_out + self.files_damaged > 0
    }
}

fn open_once(
    dir: &Path,
    gate: ClockGate,
    limits: Limits,
    enrichment: CurrentEnrichment,
    opened: &mut Opened,
) -> Result<(Store, Writer), StoreError> {
    // Made here, not by whoever needs them: their names have to be durable before anything in them is.
    for dir in [dir, &dir.join("db"), &dir.join("segments")] {
        directory::create(dir).map_err(|source| StoreError::Directory { path: dir.to_owned(), source })?;
    }
    directory::make_private(dir);
    let free_bytes = free_bytes(dir)?;
    let no_room = || StoreError::NoRoom { path: dir.to_owned(), free_bytes, wanted_bytes: OPEN_BYTES_MIN };
    if free_bytes < OPEN_BYTES_MIN {
        let hold = Hold::take(dir).map_err(|error| match error {
            StoreError::NoStore { .. } => no_room(),
            error => error,
        })?;
        // Mending takes room.
        if !survey(dir)?.problems.is_empty() || is_replaying(dir) {
            return Err(no_room());
        }
        let rocks = Rocks::open_read_only(&dir.join("db"))?;
        if Family::ALL.iter().any(|family| !rocks.has(*family)) {
            return Err(no_room());
        }
        check_format(dir, &rocks)?;
        tracing::error!(
            free_bytes,
            wanted_bytes = OPEN_BYTES_MIN,
            "there is no room: searches are answered, nothing is taken in"
        );
        return load(
            dir,
            gate,
            limits,
            enrichment,
            rocks,
            Opening::ReadOnly,
            opened,
            Some((hold, no_room().to_string())),
        );
    }
    let survey = survey(dir)?;
    if !survey.is_new {
        // Of what an earlier try of this start found, nothing is found again.
        opened.lost_writes += survey.lost_writes;
        opened.tables_out += survey.tables_bad.len() as u64;
        opened.files_damaged += (survey.problems.len() - survey.tables_bad.len()) as u64;
        survey.mend(dir)?;
    }
    check_families(dir)?;
    let mut rocks = Rocks::open_with_log(&dir.join("db"), limits.log_bytes())?;
    check_format(dir, &rocks)?;
    rocks.drop_retired()?;
    salvage::replay_logs(dir, &rocks)?;
    rocks.keep_high_water(dir)?;
    clear_leftovers(dir);
    // Where the database may have forgotten packets, what is there of them is served.
    let forgot = !survey.is_new && rocks.get(Family::Meta, keys::META_SEGMENT)?.is_none();
    let opening = if forgot || opened.is_damaged() { Opening::KeepAll } else { Opening::Normal };
    load(dir, gate, limits, enrichment, rocks, opening, opened, None)
}

/// Reads what an open database and the files of packets hold. A store that is only read has a hold of the directory and says
/// why.
#[allow(clippy::too_many_arguments)]
fn load(
    dir: &Path,
    gate: ClockGate,
    limits: Limits,
    enrichment: CurrentEnrichment,
    rocks: Rocks,
    opening: Opening,
    opened: &Opened,
    read_only: Option<(Hold, String)>,
) -> Result<(Store, Writer), StoreError> {
    let meta = |key| rocks.get(Family::Meta, key);
    let totals = meta(keys::META_TOTALS)?.map(|v| Totals::decode(&v)).transpose()?;
    let durable = meta(keys::META_SEGMENT)?.map(|value| Position::decode(&value)).transpose()?;
    let table = segment_table(&rocks)?;
    let known = table.iter().map(|(number, [_, bytes, _])| (*number, *bytes)).collect();
    let durable = durable.filter(|_| opening != Opening::KeepAll);
    let (segments, segment_writer, recovered) =
        Segments::open(&dir.join("segments"), durable, opening, &known, limits.segment_bytes())?;
    if recovered.cut_bytes > 0 {
        tracing::info!(bytes = recovered.cut_bytes, "cut packets that were never acknowledged");
    }
    if recovered.lost_bytes > 0 {
        tracing::error!(
            bytes = recovered.lost_bytes,
            "packets that were acknowledged are missing from segment files: the disk lost them"
        );
    }
    let intake = Mutex::new(Intake::new(gate.monotonic()));
    let (changes, _) = broadcast::channel(SUBSCRIBER_QUEUE);
    let epochs = Epochs::new(gate.monotonic().0);
    let id = store_id(&rocks, opening == Opening::ReadOnly)?;
    let shared = Arc::new(Shared {
        dir: dir.to_owned(),
        id,
        rocks,
        segments,
        epochs,
        gate,
        enrichment,
        live: RwLock::default(),
        columns: ColumnCache::default(),
        texts: TextIndex::default(),
        totals: Mutex::new(totals.unwrap_or_default()),
        intake,
        limits,
        changes,
        listings: Mutex::default(),
        owners: Mutex::default(),
        damaged_blocks: AtomicU64::new(0),
        records_set_aside: AtomicU64::new(0),
        alert_counts: Arc::default(),
        torn_bytes: recovered.cut_bytes,
        lost_bytes: recovered.lost_bytes,
        settled: Settled::new(limits.log_bytes()),
        claims: Claims::default(),
        entries_missing: AtomicU64::new(0),
        entries_lost: AtomicU64::new(0),
        opened: Opened { aside: SetAside::of(dir).held(), ..opened.clone() },
        write_failures: AtomicU64::new(0),
        reopened: AtomicU64::new(0),
        stopped: Mutex::new(read_only.as_ref().map(|(_, why)| why.clone())),
        read_only,
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
        join_rows: VecDeque::new(),
        searches: BTreeMap::new(),
        joins_turn: false,
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
        changed: Changed::default(),
        kept_up_to: HashMap::new(),
        flusher: Flusher::start(&shared).map_err(|source| StoreError::Thread { source })?,
        unsettled: false,
    };
    if opening != Opening::ReadOnly {
        writer.check_copies(opened.is_damaged())?;
    }
    writer.load_ledgers()?;
    if opening == Opening::KeepAll {
        writer.adopt_segments()?;
    }
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
