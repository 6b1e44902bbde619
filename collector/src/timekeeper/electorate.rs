//! Whose word about the collector's time counts: certificates by which agents were connected for long enough.
//!
//! How long is counted in this collector's own running time, so that no clock that is set makes anybody old.

use std::collections::{BTreeMap, HashMap};

use gnomon_clock::{AgentVote, MonoNs, Voter};
use gnomon_proto::v1;

/// Certificates that are remembered. Beyond it those known for the shortest time go.
const REMEMBERED_MAX: usize = 1024;
/// Who was not seen for so long, while the collector ran, has no say any more.
const FORGET_AFTER_NS: u64 = 30 * 86_400 * 1_000_000_000;
/// Between two looks no more than this is counted: what a stall hides is nobody's acquaintance.
const LOOK_NS_MAX: u64 = 15_000_000_000;

/// What one connected agent says of the collector's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Whose certificate it showed. `None`: it showed none, and is one with all others that do not.
    pub voter: Option<String>,
    /// `None` while it has no source of its own.
    pub vote: Option<AgentVote>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Acquaintance {
    /// Connected for so long, in all.
    known_ns: u64,
    /// By [`Electorate::ran_ns`].
    seen_at_ns: u64,
}

/// All certificates that agents used, present or not.
#[derive(Debug, Default)]
pub(super) struct Electorate {
    /// How long this collector ran while it kept this, over restarts.
    ran_ns: u64,
    known: BTreeMap<String, Acquaintance>,
    looked: Option<MonoNs>,
}

impl Electorate {
    /// Takes in who is there and what they say. `vote_after_ns`: known for so long, a voter's word counts.
    pub(super) fn hear(&mut self, said: Vec<Said>, now: MonoNs, vote_after_ns: u64) -> Vec<Voter> {
        let passed = self.looked.replace(now).map_or(0, |before| now.since(before).min(LOOK_NS_MAX));
        self.ran_ns = self.ran_ns.saturating_add(passed);
        let mut present: HashMap<Option<String>, Vec<AgentVote>> = HashMap::new();
        for Said { voter, vote } in said {
            present.entry(voter).or_default().extend(vote);
        }
        for name in present.keys().flatten() {
            let acquaintance = self.known.entry(name.clone()).or_default();
            acquaintance.known_ns = acquaintance.known_ns.saturating_add(passed);
            acquaintance.seen_at_ns = self.ran_ns;
        }
        let ran_ns = self.ran_ns;
        self.known.retain(|_, who| ran_ns.saturating_sub(who.seen_at_ns) <= FORGET_AFTER_NS);
        while self.known.len() > REMEMBERED_MAX {
            let newest = self.known.iter().min_by_key(|(_, who)| who.known_ns).map(|(name, _)| name.clone());
            newest.map(|name| self.known.remove(&name));
        }
        let long_known = self.known.iter().filter(|(_, who)| who.known_ns >= vote_after_ns);
        let mut voters: Vec<Voter> = long_known
            .map(|(name, _)| Voter {
                long_known: true,
                words: present.remove(&Some(name.clone())).unwrap_or_default(),
            })
            .collect();
        voters.extend(present.into_values().map(|words| Voter { long_known: false, words }));
        voters
    }

    /// Everybody is a newcomer from now on.
    pub(super) fn forget(&mut self) {
        self.known.clear();
        self.looked = None;
    }

    /// As it is kept over a restart.
    pub(super) fn stored(&self) -> v1::StoredVoters {
        let voter = |(name, who): (&String, &Acquaintance)| v1::StoredVoter {
            name: name.clone(),
            known_ns: who.known_ns,
            seen_at_ns: who.seen_at_ns,
        };
        v1::StoredVoters { ran_ns: self.ran_ns, voters: self.known.iter().map(voter).collect() }
    }

    pub(super) fn restore(&mut self, stored: v1::StoredVoters) {
        self.ran_ns = stored.ran_ns;
        self.known = stored
            .voters
            .into_iter()
            .take(REMEMBERED_MAX)
            .map(|v| (v.name, Acquaintance { known_ns: v.known_ns, seen_at_ns: v.seen_at_ns }))
            .collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;
    const DAY: u64 = 86_400 * S;

    fn said(name: &str) -> Said {
        let vote = AgentVote { synced: true, offset_ns: 0, err_ns: 1 };
        Said { voter: (!name.is_empty()).then(|| name.to_owned()), vote: Some(vote) }
    }

    fn long_known(voters: &[Voter]) -> Vec<usize> {
        voters.iter().filter(|voter| voter.long_known).map(|voter| voter.words.len()).collect()
    }

    #[test]
    fn one_certificate_is_one_voter_known_by_the_time_it_was_connected() {
        let mut electorate = Electorate::default();
        let mut now = 0;
        let mut hear = |electorate: &mut Electorate, seconds: u64, names: &[&str]| {
            let mut heard = Vec::new();
            for _ in 0..seconds.div_ceil(5) {
                now += 5 * S;
                heard = electorate.hear(names.iter().map(|n| said(n)).collect(), MonoNs(now), 100 * S);
            }
            heard
        };
        let voters = hear(&mut electorate, 90, &["a", "a", "b", "", "", ""]);
        assert_eq!((voters.len(), long_known(&voters)), (3, vec![]));
        assert_eq!(long_known(&hear(&mut electorate, 20, &["a", "a", ""])), [2], "b was away meanwhile");
        let stored = electorate.stored();
        let mut next = Electorate::default();
        next.restore(stored);
        assert_eq!(long_known(&hear(&mut next, 5, &["b"])), [0], "a is away, and still one of all");
        // Nobody gets old by a stall.
        assert_eq!(long_known(&next.hear(vec![said("c")], MonoNs(DAY), 100 * S)), [0]);
        next.ran_ns += 31 * DAY;
        assert_eq!(long_known(&next.hear(vec![], MonoNs(DAY), 100 * S)), [] as [usize; 0]);
    }

    #[test]
    fn a_horde_of_certificates_drives_out_nobody_who_was_known_before() {
        let mut electorate = Electorate::default();
        for n in 0..25 {
            electorate.hear(vec![said("old")], MonoNs(n * 5 * S), 100 * S);
        }
        let horde: Vec<Said> = (0..3 * REMEMBERED_MAX).map(|n| said(&format!("new {n}"))).collect();
        for n in 25..40 {
            let voters = electorate.hear(horde.clone(), MonoNs(n * 5 * S), 100 * S);
            assert_eq!(long_known(&voters), [0]);
        }
        assert!(electorate.known.len() <= REMEMBERED_MAX);
    }
}
