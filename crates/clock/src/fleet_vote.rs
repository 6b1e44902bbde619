//! What the agents of a fleet say of a collector's clock, and whose word counts.
//!
//! Anybody who reaches the collector's port can make up agents. So the *voter* is whoever holds a certificate, however many
//! agents use it, and it takes more than half of all voters that were known for long, present or not, to prove a time.
//! With at most half of those lying, and any number of newcomers, no time is proven that does not hold the truth.

/// One agent's word: how its own sources see the collector's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentVote {
    /// Is the agent SYNCED by its own sources (kernel, chronyd, PTP)?
    pub synced: bool,
    /// Its own sources' time minus the collector's, and how wrong that may be by the time it is heard.
    pub offset_ns: i64,
    pub err_ns: u64,
}

/// All agents of one identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Voter {
    /// Known for so long that its word counts.
    pub long_known: bool,
    /// What its connected agents say; none while it is away.
    pub words: Vec<AgentVote>,
}

/// What the fleet says of the collector's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FleetWord {
    /// Nothing that counts or contradicts.
    Silent,
    /// More than half of the long-known voters, and at least two: the collector's time is off by `offset_ns` (to be added to
    /// it), within `err_ns`.
    Agreed { offset_ns: i64, err_ns: u64 },
    /// Most of those who speak contradict the collector, but they have no say: they are new, or too few.
    Disputed { offset_ns: i64, err_ns: u64, voters: usize },
}

/// Fewer agree with nobody but themselves.
const VOTERS_MIN: usize = 2;
/// Who contradicts by less is not worth a word: a clock that nothing proves is never exact.
const DISPUTE_NS_MIN: i128 = 1_000_000_000;

impl FleetWord {
    /// What `voters` say. All long-known ones have to be among them, those who are away too.
    pub fn of(voters: &[Voter]) -> FleetWord {
        let word = |voter: &Voter| {
            let synced: Vec<Span> = voter.words.iter().filter(|w| w.synced).map(Span::of).collect();
            // Whose own agents are not of one mind says nothing.
            agreed(&synced, synced.len() / 2 + 1)
        };
        let long_known = voters.iter().filter(|voter| voter.long_known);
        let needed = (long_known.clone().count() / 2 + 1).max(VOTERS_MIN);
        let with_a_say: Vec<Span> = long_known.filter_map(word).collect();
        if let Some(span) = agreed(&with_a_say, needed) {
            let (offset_ns, err_ns) = span.middle();
            return FleetWord::Agreed { offset_ns, err_ns };
        }
        let all: Vec<Span> = voters.iter().filter_map(word).collect();
        match agreed(&all, all.len() / 2 + 1) {
            Some(span) if span.lo > DISPUTE_NS_MIN || span.hi < -DISPUTE_NS_MIN => {
                let (offset_ns, err_ns) = span.middle();
                FleetWord::Disputed { offset_ns, err_ns, voters: all.len() }
            }
            _ => FleetWord::Silent,
        }
    }
}

/// Both ends included.
#[derive(Clone, Copy, Debug)]
struct Span {
    lo: i128,
    hi: i128,
}

impl Span {
    fn of(vote: &AgentVote) -> Span {
        let (offset, err) = (i128::from(vote.offset_ns), i128::from(vote.err_ns));
        Span { lo: offset - err, hi: offset + err }
    }

    fn middle(self) -> (i64, u64) {
        let middle = (self.lo + self.hi).div_euclid(2);
        let clamped = i64::try_from(middle).unwrap_or(if middle < 0 { i64::MIN } else { i64::MAX });
        (clamped, u64::try_from(self.hi - middle).unwrap_or(u64::MAX))
    }
}

/// From the first point that `needed` of `spans` hold to the last (Marzullo). If fewer than `needed` lie it holds the
/// truth, and each of its ends is within the error of somebody honest; the narrowest overlap need not be.
fn agreed(spans: &[Span], needed: usize) -> Option<Span> {
    let mut ends: Vec<(i128, bool)> =
        spans.iter().flat_map(|span| [(span.lo, false), (span.hi, true)]).collect();
    // At one point, what begins there comes before what ends there.
    ends.sort_unstable();
    let (mut holding, mut found) = (0, None::<Span>);
    for (at, is_end) in ends {
        if is_end {
            if holding >= needed
                && let Some(span) = &mut found
            {
                span.hi = at;
            }
            holding -= 1;
        } else {
            holding += 1;
            if holding >= needed && found.is_none() {
                found = Some(Span { lo: at, hi: at });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(offset_ns: i64) -> AgentVote {
        AgentVote { synced: true, offset_ns, err_ns: 10 }
    }

    fn known(words: &[AgentVote]) -> Voter {
        Voter { long_known: true, words: words.to_vec() }
    }

    fn new(words: &[AgentVote]) -> Voter {
        Voter { long_known: false, words: words.to_vec() }
    }

    const YEARS: i64 = 315_360_000_000_000_000;

    #[test]
    fn the_majority_of_the_long_known_counts_and_two_at_least() {
        let agreed = FleetWord::Agreed { offset_ns: 1_002, err_ns: 8 };
        let pair = [known(&[says(1_000)]), known(&[says(1_004)])];
        assert_eq!(FleetWord::of(&pair), agreed);
        let [a, b] = pair;
        assert_eq!(FleetWord::of(&[a.clone(), b.clone(), known(&[says(-5_000)])]), agreed);
        assert_eq!(FleetWord::of(&[a.clone(), known(&[says(-5_000)])]), FleetWord::Silent);
        assert_eq!(FleetWord::of(std::slice::from_ref(&a)), FleetWord::Silent);
        let cold = known(&[AgentVote { synced: false, ..says(1_000) }]);
        assert_eq!(FleetWord::of(&[a.clone(), cold]), FleetWord::Silent);
        // Who is away still counts among all.
        assert_eq!(FleetWord::of(&[a, b, known(&[]), known(&[])]), FleetWord::Silent);
        assert_eq!(FleetWord::of(&[]), FleetWord::Silent);
    }

    #[test]
    fn one_identity_is_one_voter_and_newcomers_have_no_say() {
        let horde = new(&[says(YEARS); 50]);
        let disputed = |voters| FleetWord::Disputed { offset_ns: YEARS, err_ns: 10, voters };
        assert_eq!(FleetWord::of(std::slice::from_ref(&horde)), disputed(1));
        assert_eq!(FleetWord::of(&[horde.clone(), known(&[says(YEARS)])]), disputed(2));
        let honest = [known(&[says(0)]), known(&[says(0)]), horde.clone(), horde.clone(), horde];
        assert_eq!(FleetWord::of(&honest), FleetWord::Agreed { offset_ns: 0, err_ns: 10 });
        // Of one identity's agents, most are right.
        let mixed = known(&[says(0), says(0), says(YEARS)]);
        assert_eq!(
            FleetWord::of(&[mixed, known(&[says(0)])]),
            FleetWord::Agreed { offset_ns: 0, err_ns: 10 }
        );
        assert_eq!(
            FleetWord::of(&[new(&[says(500_000_000)])]),
            FleetWord::Silent,
            "half a second is no dispute"
        );
    }

    #[test]
    fn who_lies_at_the_edge_of_an_honest_error_narrows_nothing() {
        let wide = AgentVote { synced: true, offset_ns: 0, err_ns: 1_000 };
        let edge = AgentVote { synced: true, offset_ns: 1_000, err_ns: 1 };
        let word = FleetWord::of(&[known(&[wide]), known(&[wide]), known(&[edge])]);
        assert_eq!(word, FleetWord::Agreed { offset_ns: 0, err_ns: 1_000 });
    }

    #[test]
    fn hostile_numbers_do_not_panic() {
        let wild = |offset_ns, err_ns| AgentVote { synced: true, offset_ns, err_ns };
        let voters: Vec<Voter> = [i64::MIN, -1, 0, i64::MAX]
            .into_iter()
            .flat_map(|offset| [0, u64::MAX].map(|err| known(&[wild(offset, err)])))
            .collect();
        for n in 0..=voters.len() {
            let _ = FleetWord::of(&voters[..n]);
        }
    }
}
