//! Visiting everything that matches, in no order, on all cores. Where nothing but sums is wanted, what blocks that lie
//! beside each other have in common may be told instead of the blocks: see `rollup_group.rs`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use gnomon_flow::FieldId;

use super::live::Sealed;
use super::progress::Progress;
use super::rollup::Rollup;
use super::rollup_group::{GroupId, LEVELS};
use super::scan::{Filter, Order, Part, Span, Stop, lock, parallel, threads};
use super::{Store, StoreError};

/// Records of a block that had to be made whole are given away in lots of so many.
const FLOWS_AT_ONCE: usize = 256;

/// How a walk over all matches ended.
pub(crate) struct Walked<T> {
    pub(crate) parts: Vec<T>,
    pub(crate) damaged: u64,
    pub(crate) stopped: bool,
}

/// Who takes rollups of many blocks instead of the blocks.
pub(crate) struct FromRollups<'r> {
    /// What a rollup has to have.
    pub(crate) fields: &'r [FieldId],
    pub(crate) each: &'r (dyn Fn(&Rollup) -> Result<(), StoreError> + Sync),
}

/// What going over groups of blocks goes by.
struct Grouped<'g> {
    order: &'g Order<'g>,
    stop: &'g (dyn Fn() -> Stop + Sync),
    progress: &'g Progress,
    rollups: &'g FromRollups<'g>,
    told: &'g AtomicBool,
}

impl Store {
    /// Gives all matches to `each`, in no order, on several threads; each thread adds to a part of its own. With
    /// `rollups` those that were rolled up together are told there instead; the filter has to match everything then.
    ///
    /// # Errors
    /// When the database cannot be read. A damaged block is counted and passed.
    pub(crate) fn walk<T: Default + Send>(
        &self,
        span: Span,
        filter: &dyn Filter,
        stop: &(dyn Fn() -> Stop + Sync),
        progress: &Progress,
        rollups: Option<&FromRollups<'_>>,
        each: &(dyn Fn(&mut T, Part<'_>) -> Result<(), StoreError> + Sync),
    ) -> Result<Walked<T>, StoreError> {
        let slack_ns = self.shared.gate.rekey_ns().cast_signed();
        let (store, view) = self.look()?;
        let order = Order { span, newest_first: true, after: None, filter, slack_ns, settled: view.settled };
        let mut blocks: Vec<&Arc<Sealed>> =
            view.blocks.iter().filter(|block| order.concerns(block)).collect();
        blocks.reverse();
        let of_blocks = blocks.iter().map(|block| block.records()).sum::<u64>();
        progress.begin(view.hot().count() as u64 + of_blocks);
        let told = AtomicBool::new(false);
        if let Some(rollups) = rollups {
            let of_groups = Grouped { order: &order, stop, progress, rollups, told: &told };
            blocks = self.walk_groups(&of_groups, blocks)?;
        }
        let hot = &view.hot;
        let damaged = AtomicU64::new(0);
        let of_threads: Vec<Mutex<T>> = (0..threads()).map(|_| Mutex::new(T::default())).collect();
        parallel(hot.len() + blocks.len(), &|thread, at| {
            if stop() == Stop::Now {
                told.store(true, Ordering::Relaxed);
                return Ok(false);
            }
            if let Some(hot) = hot.get(at) {
                let mut run = Vec::new();
                store.hot(
                    hot,
                    &order,
                    |_| true,
                    |flow, _| {
                        run.push(flow);
                        Ok(())
                    },
                )?;
                if !run.is_empty() {
                    each(&mut lock(&of_threads[thread]), Part::Flows(&run))?;
                }
                progress.add(hot.flows().len() as u64);
                return Ok(true);
            }
            let at = at - hot.len();
            let reader = store.read(blocks[at]);
            let mut part = lock(&of_threads[thread]);
            let walked = order.rows(&reader).and_then(|(rows, exact)| {
                if rows.is_empty() {
                    return Ok(());
                }
                if exact {
                    return each(&mut part, Part::Rows(&reader, &rows));
                }
                let mut flows = Vec::new();
                for row in rows.iter() {
                    let flow = reader.flow(row)?;
                    if filter.matches(&flow) {
                        flows.push(flow);
                    }
                    if flows.len() >= FLOWS_AT_ONCE {
                        each(&mut part, Part::Flows(&flows))?;
                        flows.clear();
                    }
                }
                each(&mut part, Part::Flows(&flows))
            });
            if !self.served(walked)? {
                damaged.fetch_add(1, Ordering::Relaxed);
            }
            progress.add(blocks[at].records());
            Ok(true)
        })?;
        let parts =
            of_threads.into_iter().map(|part| part.into_inner().unwrap_or_else(PoisonError::into_inner));
        let parts = parts.collect();
        let stopped = told.into_inner();
        Ok(Walked { parts, damaged: damaged.into_inner(), stopped })
    }

    /// Tells the rollups of groups that lie whole in what is asked for, the largest first. Gives the blocks that are in none
    /// of these.
    fn walk_groups<'b>(
        &self,
        by: &Grouped<'_>,
        mut blocks: Vec<&'b Arc<Sealed>>,
    ) -> Result<Vec<&'b Arc<Sealed>>, StoreError> {
        for level in (1..=LEVELS).rev() {
            let group = |block: &Arc<Sealed>| GroupId::of(level, block.id);
            let runs: Vec<&[&'b Arc<Sealed>]> = blocks.chunk_by(|a, b| group(a) == group(b)).collect();
            let left = Mutex::new(Vec::new());
            parallel(runs.len(), &|_, at| {
                let run = runs[at];
                if (by.stop)() == Stop::Now {
                    by.told.store(true, Ordering::Relaxed);
                    return Ok(false);
                }
                let of_run = self.walk_group(by, group(run[0]), run)?;
                lock(&left).extend(of_run);
                Ok(true)
            })?;
            blocks = left.into_inner().unwrap_or_else(PoisonError::into_inner);
            blocks.sort_unstable_by_key(|block| std::cmp::Reverse(block.id));
        }
        Ok(blocks)
    }

    /// Tells the rollup of a group, of which `run` has the blocks that are asked for, falling. Gives those that are not in it.
    fn walk_group<'b>(
        &self,
        by: &Grouped<'_>,
        id: GroupId,
        run: &[&'b Arc<Sealed>],
    ) -> Result<Vec<&'b Arc<Sealed>>, StoreError> {
        let Some(group) = self.group(id, Some(by.rollups.fields))? else { return Ok(run.to_vec()) };
        // It is right for all of its blocks, each of them whole, or of no use.
        let (of_group, left): (Vec<_>, Vec<_>) =
            run.iter().copied().partition(|block| group.blocks.binary_search(&block.id).is_ok());
        let whole = |block: &&Arc<Sealed>| block.dead.is_empty() && !block.held() && by.order.within(block);
        let rows: u64 = of_group.iter().map(|block| block.summary.rows as u64).sum();
        if of_group.len() != group.blocks.len() || rows != group.rollup.rows || !of_group.iter().all(whole) {
            return Ok(run.to_vec());
        }
        (by.rollups.each)(&group.rollup)?;
        by.progress.add(rows);
        Ok(left)
    }
}
