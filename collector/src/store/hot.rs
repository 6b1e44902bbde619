//! Records in no block, by their id, in runs that readers share: a look at all of them takes hold of the runs and not of each
//! record, and a change copies the one run that somebody looks at.

use std::collections::HashMap;
use std::sync::Arc;

use gnomon_flow::{FlowRef, StoredFlow};

use super::block::bloom::Mixing;
use super::outline::Outline;

/// Records of a run: what a look takes hold of at once, and what a change may have to copy.
const RUN: usize = 64;

/// Some of the records. Those of one run came in one after the other, mostly.
#[derive(Clone, Debug, Default)]
pub(crate) struct Run {
    ids: Vec<FlowRef>,
    outlines: Vec<Outline>,
    flows: Vec<Arc<StoredFlow>>,
}

impl Run {
    pub(crate) fn flows(&self) -> &[Arc<StoredFlow>] {
        &self.flows
    }

    pub(super) fn outlined(&self) -> impl Iterator<Item = (&Outline, &Arc<StoredFlow>)> {
        self.outlines.iter().zip(&self.flows)
    }
}

/// Where a record is.
#[derive(Clone, Copy, Debug)]
struct Place {
    run: u32,
    at: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Hot {
    places: HashMap<FlowRef, Place, Mixing>,
    /// The last is being filled; others only get shorter.
    runs: Vec<Arc<Run>>,
}

impl Hot {
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// The oldest first, mostly.
    pub(super) fn runs(&self) -> &[Arc<Run>] {
        &self.runs
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (FlowRef, &Arc<StoredFlow>)> {
        self.runs.iter().flat_map(|run| run.ids.iter().copied().zip(&run.flows))
    }

    pub(super) fn get(&self, id: FlowRef) -> Option<&Arc<StoredFlow>> {
        let place = self.places.get(&id)?;
        self.runs.get(place.run as usize)?.flows.get(place.at as usize)
    }

    /// Of a record that is not there.
    pub(super) fn insert(&mut self, id: FlowRef, flow: Arc<StoredFlow>) {
        if self.runs.last().is_none_or(|run| run.ids.len() >= RUN) {
            self.pack();
            self.runs.push(Arc::default());
        }
        let run = self.runs.len() - 1;
        let last = Arc::make_mut(&mut self.runs[run]);
        self.places.insert(id, Place { run: run as u32, at: last.ids.len() as u32 });
        last.ids.push(id);
        last.outlines.push(Outline::of(&flow));
        last.flows.push(flow);
    }

    pub(super) fn remove(&mut self, id: FlowRef) -> Option<Arc<StoredFlow>> {
        let Place { run, at } = self.places.remove(&id)?;
        let of_run = Arc::make_mut(&mut self.runs[run as usize]);
        of_run.ids.swap_remove(at as usize);
        of_run.outlines.swap_remove(at as usize);
        let flow = of_run.flows.swap_remove(at as usize);
        if let Some(moved) = of_run.ids.get(at as usize) {
            self.places.insert(*moved, Place { run, at });
        }
        Some(flow)
    }

    /// Makes whole runs of what is left of them, when less than half is.
    fn pack(&mut self) {
        if self.runs.len() * RUN <= 2 * self.len() + 16 * RUN {
            return;
        }
        let flows: Vec<(FlowRef, Arc<StoredFlow>)> =
            self.iter().map(|(id, flow)| (id, Arc::clone(flow))).collect();
        self.runs.clear();
        for (run, flows) in (0..).zip(flows.chunks(RUN)) {
            for (at, (id, _)) in (0..).zip(flows) {
                self.places.insert(*id, Place { run, at });
            }
            let outlines = flows.iter().map(|(_, flow)| Outline::of(flow)).collect();
            let (ids, flows) = flows.iter().cloned().unzip();
            self.runs.push(Arc::new(Run { ids, outlines, flows }));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use gnomon_clock::sim::SimRandom;

    use super::*;
    use crate::store::testing::record;

    #[test]
    fn it_is_a_map_and_what_was_looked_at_stays_as_it_was() {
        let mut random = SimRandom::new(7);
        let mut pick = |to: i64| u64::try_from(random.range(0, to - 1)).unwrap_or(0);
        let flow = |id: u64, revision: u32| {
            let mut record = record(id, 0, 0, 0);
            record.revision = revision;
            Arc::new(StoredFlow { record, ..StoredFlow::default() })
        };
        let (mut hot, mut map) = (Hot::default(), BTreeMap::new());
        let mut looks = Vec::new();
        // It fills up, stays as full as it is, and is emptied.
        for (rounds, ids, removed_of_ten) in [(8_000, 3_000, 3), (8_000, 3_000, 5), (20_000, 3_000, 8)] {
            for round in 0..rounds {
                let flow = flow(pick(ids), round);
                let id = flow.id();
                let known = hot.remove(id);
                assert_eq!(known, map.remove(&id));
                if pick(10) >= removed_of_ten {
                    hot.insert(id, Arc::clone(&flow));
                    map.insert(id, flow);
                }
                assert_eq!(hot.len(), map.len());
                if round % 997 == 0 {
                    let all: Vec<Arc<StoredFlow>> = map.values().cloned().collect();
                    looks.push((hot.runs().to_vec(), all));
                    assert!(map.iter().all(|(id, flow)| hot.get(*id) == Some(flow)));
                }
                assert!(
                    hot.runs().len() * RUN <= 2 * hot.len() + 18 * RUN + RUN * RUN,
                    "{}",
                    hot.runs().len()
                );
            }
        }
        for (runs, mut all) in looks {
            let mut seen: Vec<Arc<StoredFlow>> =
                runs.iter().flat_map(|run| run.flows().iter().cloned()).collect();
            seen.sort_by_key(|flow| flow.id());
            all.sort_by_key(|flow| flow.id());
            assert_eq!(seen, all);
        }
    }
}
