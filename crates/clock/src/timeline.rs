//! What is known of one epoch's time: fixes in, estimates out. The collector keeps one per epoch, the agent one of its
//! own.

use crate::map::{Authority, Map, agree};
use crate::state::ClockState;
use crate::time::{EpochId, Estimate, Fix, FixSource, RawNs, UtcNs};

/// Fixes kept per epoch. Beyond it the timeline is thinned: dense at the new end, ever sparser towards the old, per
/// source, narrow fixes before wide ones; the first and the newest always stay.
pub const FIXES_MAX: usize = 256;

/// What adding a fix did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Added {
    /// The evidence changed: estimates of this epoch may have moved, and pending records may now be bounded.
    pub changed: bool,
    /// The evidence at the fix is disjoint.
    pub conflict: bool,
}

/// The evidence of one epoch. Equal evidence gives equal estimates, in whatever order it came.
#[derive(Clone, Debug)]
pub struct Timeline {
    epoch: EpochId,
    authority: Authority,
    fixes: Vec<Fix>,
    map: Map,
}

impl Timeline {
    pub fn new(epoch: EpochId) -> Timeline {
        Timeline { epoch, authority: Authority::default(), fixes: Vec::new(), map: Map::default() }
    }

    /// A timeline from stored fixes, in any order; the same as adding them one by one, at the cost of one build.
    pub fn from_fixes(epoch: EpochId, fixes: impl IntoIterator<Item = Fix>) -> Timeline {
        let mut timeline = Timeline::new(epoch);
        for fix in fixes {
            if timeline.insert(fix) && timeline.fixes.len() > FIXES_MAX {
                timeline.thin();
            }
        }
        timeline.rebuild();
        timeline
    }

    pub fn epoch(&self) -> EpochId {
        self.epoch
    }

    pub fn is_empty(&self) -> bool {
        self.fixes.is_empty()
    }

    /// The fixes kept, in rising raw: what to store in order to have the same estimates again.
    pub fn fixes(&self) -> impl Iterator<Item = &Fix> {
        self.fixes.iter()
    }

    /// Takes evidence in. An implausible fix (before 2025, unless from a file) and one already known change nothing.
    pub fn add(&mut self, fix: Fix) -> Added {
        if !self.insert(fix) {
            return Added { changed: false, conflict: false };
        }
        if self.fixes.len() > FIXES_MAX {
            self.thin();
        }
        self.rebuild();
        Added { changed: true, conflict: self.estimate(fix.raw).is_some_and(|e| e.conflict) }
    }

    /// Takes much evidence in at the cost of one [`Timeline::add`] and a little for each fix. Returns those that were new.
    pub fn add_all(&mut self, fixes: impl IntoIterator<Item = Fix>) -> Vec<Fix> {
        let mut new = Vec::new();
        for fix in fixes {
            if self.insert(fix) {
                new.push(fix);
                if self.fixes.len() > FIXES_MAX {
                    self.thin();
                }
            }
        }
        if !new.is_empty() {
            self.rebuild();
        }
        new
    }

    /// UTC at `raw`, or `None` without any fix. Never ask with a `raw` of another epoch.
    ///
    /// Monotone in `raw`. In an epoch of a capture file (a fix of [`FixSource::File`]) `raw` is the file's stamp in POSIX
    /// nanoseconds and the estimate is that, moved by what the fix moves its own stamp by (a file whose clock was wrong).
    /// A file is evidence of itself: simulators and devices without a battery begin at 1970.
    pub fn estimate(&self, raw: RawNs) -> Option<Estimate> {
        match self.fixes.first() {
            Some(fix) if fix.source == FixSource::File => {
                let moved_by_ns = i128::from(fix.utc.unix_ns()) - i128::from(fix.raw.0);
                // What 64 bits cannot say is no stamp.
                let stamp = i64::try_from(raw.0).ok()?;
                let unix_ns = i64::try_from(i128::from(stamp) + moved_by_ns).ok()?;
                Some(Estimate { utc: UtcNs::from_unix_ns(unix_ns), err_ns: fix.err_ns, conflict: false })
            }
            _ => self.map.estimate(raw),
        }
    }

    /// Between two readings of the epoch that lie at most this far apart (in nanoseconds of RAW), the straight line through
    /// their estimates is nowhere further from the estimates than `within_ns`. 0 where that cannot be said: evidence that
    /// disagrees may make UTC jump.
    pub fn straight_ns(&self, within_ns: u64) -> u64 {
        match self.fixes.first() {
            Some(fix) if fix.source == FixSource::File => 0,
            _ => self.map.straight_ns(within_ns),
        }
    }

    /// The state of the epoch's clock at `raw`, as its evidence shows it.
    pub fn state(&self, raw: RawNs) -> ClockState {
        let Some(newest) = self.fixes.last() else { return ClockState::Cold };
        if newest.source == FixSource::File {
            return ClockState::Synced;
        }
        let Some(estimate) = self.estimate(raw) else { return ClockState::Cold };
        ClockState::of(&estimate, self.fixes.len(), newest, raw)
    }

    /// Whose word stands when sources disagree. True when that changed the estimates.
    pub fn set_authority(&mut self, authority: Authority) -> bool {
        let changed = authority != self.authority;
        if changed {
            self.authority = authority;
            self.rebuild();
        }
        changed
    }

    pub fn authority(&self) -> Authority {
        self.authority
    }

    /// How many fixes contradict the authority: the agent to be flagged.
    pub fn overruled(&self) -> usize {
        self.map.overruled()
    }

    /// The estimate at `raw` by only one party's fixes, for the arbitration between parties.
    pub fn estimate_by(&self, authority: Authority, raw: RawNs) -> Option<Estimate> {
        let fixes: Vec<Fix> = self.fixes.iter().copied().filter(|f| authority.includes(f.source)).collect();
        Map::build(&fixes, Authority::Nobody).estimate(raw)
    }

    /// Moves the fixes of `source` from `since` on by `by_ns` and widens them by `err_ns`: for when the clock behind them
    /// turns out to have been wrong by a known amount (a collector that had no time of its own, and now has).
    pub fn rebase(&mut self, source: FixSource, since: RawNs, by_ns: i64, err_ns: u64) {
        for fix in self.fixes.iter_mut().filter(|f| f.source == source && f.raw >= since) {
            fix.utc = fix.utc.saturating_add_ns(by_ns);
            fix.err_ns = fix.err_ns.saturating_add(err_ns);
        }
        self.rebuild();
    }

    /// Forgets the fixes of `source` from `since` on: for when it was found to lie. Returns how many there were.
    pub fn retract(&mut self, source: FixSource, since: RawNs) -> usize {
        let before = self.fixes.len();
        self.fixes.retain(|f| f.source != source || f.raw < since);
        if self.fixes.len() != before {
            self.rebuild();
        }
        before - self.fixes.len()
    }

    /// Forgets what the machine's own clock and chronyd said before `before`: for when the clock was set since and they say
    /// otherwise now. Returns how many fixes there were.
    pub fn disown(&mut self, before: RawNs) -> usize {
        let known = self.fixes.len();
        self.fixes.retain(|f| !f.source.is_settable() || f.raw >= before);
        if self.fixes.len() != known {
            self.rebuild();
        }
        known - self.fixes.len()
    }

    fn rebuild(&mut self) {
        self.map = Map::build(&self.fixes, self.authority);
    }

    /// True when `fix` was new.
    fn insert(&mut self, fix: Fix) -> bool {
        if fix.source != FixSource::File && !fix.utc.is_plausible() {
            return false;
        }
        let key = |f: &Fix| (f.raw, f.source, f.utc, f.err_ns);
        match self.fixes.binary_search_by_key(&key(&fix), key) {
            Ok(_) => false,
            Err(at) => {
                self.fixes.insert(at, fix);
                true
            }
        }
    }

    /// Drops the one fix that is missed least: close to its neighbours of the same source for its age, wide, and in
    /// agreement with both, so that no trace of a disagreement is lost before all else.
    fn thin(&mut self) {
        let Some(newest) = self.fixes.last().map(|f| f.raw) else { return };
        let mut least: Option<(bool, f64, usize)> = None;
        for i in 0..self.fixes.len() {
            let fix = &self.fixes[i];
            let before = self.fixes[..i].iter().rev().find(|f| f.source == fix.source);
            let after = self.fixes[i + 1..].iter().find(|f| f.source == fix.source);
            let (Some(before), Some(after)) = (before, after) else { continue };
            let disputed = !agree(before, fix) || !agree(fix, after) || !agree(before, after);
            let gap = after.raw.since(before.raw) as f64;
            let age = newest.since(fix.raw) as f64 + 10e9;
            let score = gap / age / (fix.err_ns as f64 + 100_000.0);
            if least.is_none_or(|(d, s, _)| (disputed, score) < (d, s)) {
                least = Some((disputed, score, i));
            }
        }
        // Five sources cannot fill the timeline with fixes that are first or last of theirs.
        if let Some((_, _, i)) = least {
            self.fixes.remove(i);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;
    const BASE: i64 = 1_800_000_000_000_000_000;

    fn fix_by(source: FixSource, raw_s: u64, off_ns: i64, err_ns: u64) -> Fix {
        let utc = UtcNs::from_tai_ns(BASE + (raw_s * S) as i64 + off_ns);
        Fix { raw: RawNs(raw_s * S), utc, err_ns, source }
    }

    fn fix(raw_s: u64, off_ns: i64, err_ns: u64) -> Fix {
        fix_by(FixSource::Collector, raw_s, off_ns, err_ns)
    }

    fn offset(timeline: &Timeline, raw_s: u64) -> (i64, u64, bool) {
        let e = timeline.estimate(RawNs(raw_s * S)).unwrap();
        (e.utc.tai_ns() - BASE - (raw_s * S) as i64, e.err_ns, e.conflict)
    }

    #[test]
    fn one_fix_bounds_everything_at_500_ppm() {
        let mut t = Timeline::new(EpochId::default());
        assert_eq!(t.estimate(RawNs(5)), None);
        assert_eq!(t.add(fix(100, 0, 1_000)), Added { changed: true, conflict: false });
        assert_eq!(t.add(fix(100, 0, 1_000)), Added { changed: false, conflict: false });
        assert_eq!(offset(&t, 100), (0, 1_000, false));
        let (off, err, _) = offset(&t, 0);
        assert!(off.abs() <= 1 && (50_001_000..50_001_100).contains(&err), "{off} {err}");
    }

    #[test]
    fn a_pair_narrows_the_rate() {
        let mut t = Timeline::new(EpochId::default());
        t.add(fix(0, 0, 100_000));
        t.add(fix(1_000, 100_000_000, 100_000)); // +100 ppm
        let (off, err, conflict) = offset(&t, 2_000);
        assert!((off - 200_000_000).abs() < 1_000 && !conflict);
        assert!(err < 21_000_000, "20 ppm of wander and 0.2 of the pair over 1000 s: {err}");
    }

    #[test]
    fn a_pause_is_a_jump_believed_after_three_fixes_and_flagged_only_inside() {
        let mut t = Timeline::new(EpochId::default());
        for s in 0..10 {
            t.add(fix(s * 16, 0, 500_000));
        }
        assert!(t.add(fix(160, 6_000_000_000, 500_000)).conflict);
        assert!(t.add(fix(176, 6_000_000_000, 500_000)).conflict);
        assert!(!t.add(fix(192, 6_000_000_000, 500_000)).conflict);
        assert_eq!(t.state(RawNs(193 * S)), ClockState::Synced);
        let (_, err, conflict) = offset(&t, 150);
        assert!(conflict && err >= 3_000_000_000, "{err}");
        assert!(!offset(&t, 140).2 && offset(&t, 140).0.abs() < 1_000_000);
        assert!(!offset(&t, 170).2 && (offset(&t, 170).0 - 6_000_000_000).abs() < 1_000_000);
    }

    #[test]
    fn a_lone_outlier_spoils_only_its_neighbourhood() {
        for lie in [-32_400_000_000_000, 32_400_000_000_000] {
            let mut t = Timeline::new(EpochId::default());
            for s in 0..20 {
                t.add(fix(s * 16, if s == 10 { lie } else { 0 }, 500_000));
            }
            assert!(offset(&t, 155).2 && offset(&t, 155).1 >= lie.unsigned_abs() / 2);
            for s in [10, 140, 180, 400] {
                assert!(!offset(&t, s).2 && offset(&t, s).0.abs() < 1_000_000, "at {s}");
            }
        }
    }

    #[test]
    fn many_fixes_at_once_are_the_same_as_one_by_one() {
        let fixes: Vec<Fix> =
            (0..600).map(|n| fix(n * 7 % 599, (n % 5) as i64 * 1_000, 1_000_000 + n)).collect();
        let (mut one_by_one, mut at_once) =
            (Timeline::new(EpochId::default()), Timeline::new(EpochId::default()));
        let new: Vec<Fix> = fixes.iter().copied().filter(|fix| one_by_one.add(*fix).changed).collect();
        assert_eq!(at_once.add_all(fixes.iter().copied()), new);
        assert!(one_by_one.fixes().eq(at_once.fixes()));
        assert_eq!(one_by_one.estimate(RawNs(300 * S)), at_once.estimate(RawNs(300 * S)));
        assert!(at_once.add_all(at_once.clone().fixes().copied()).is_empty());
    }

    #[test]
    fn the_authority_settles_a_disagreement_of_sources() {
        let mut t = Timeline::new(EpochId::default());
        for s in 0..40 {
            t.add(fix_by(FixSource::Kernel, s * 4 + 1, -9_000_000_000, 2_000_000));
            if s % 4 == 0 {
                t.add(fix(s * 4, 0, 300_000));
            }
        }
        assert!(offset(&t, 70).2 && offset(&t, 70).1 >= 4_500_000_000);
        assert_eq!(t.state(RawNs(150 * S)), ClockState::Conflict);
        assert!(t.set_authority(Authority::Collector));
        let (off, err, conflict) = offset(&t, 70);
        assert!(off.abs() < 1_000_000 && err < 10_000_000 && !conflict, "{off} {err}");
        assert_eq!(t.overruled(), 40);
        assert!(t.set_authority(Authority::Agent));
        assert!((offset(&t, 70).0 + 9_000_000_000).abs() < 4_000_000);
        let by = t.estimate_by(Authority::Collector, RawNs(70 * S)).unwrap();
        assert!((by.utc.tai_ns() - BASE - 70_000_000_000).abs() < 1_000_000);
        t.set_authority(Authority::Nobody);
        t.rebase(FixSource::Kernel, RawNs(0), 9_000_000_000, 1_000);
        assert!(!offset(&t, 70).2);
        assert_eq!(t.retract(FixSource::Kernel, RawNs(0)), 40);
    }

    #[test]
    fn two_words_of_one_source_at_one_moment_both_count_in_either_order() {
        let (a, b) = (fix(10, 0, 1_000), fix(10, 5_000_000_000, 1_000));
        let (ab, ba) = ([a, b], [b, a]);
        let of = |fixes: [Fix; 2]| Timeline::from_fixes(EpochId::default(), fixes).estimate(a.raw).unwrap();
        assert_eq!(of(ab), of(ba));
        assert!(of(ab).conflict);
    }

    #[test]
    fn a_file_is_taken_at_its_word() {
        let file = |raw, utc, err_ns| Fix { raw: RawNs(raw), utc, err_ns, source: FixSource::File };
        let t = Timeline::from_fixes(EpochId::default(), [file(0, UtcNs::from_unix_ns(0), 7)]);
        let stamp = 946_684_800_000_000_123; // the year 2000: files may be old
        let e = t.estimate(RawNs(stamp)).unwrap();
        assert_eq!((e.utc.unix_ns(), e.err_ns, e.conflict), (stamp as i64, 7, false));
        let begin = t.estimate(RawNs(0)).unwrap();
        assert_eq!(begin.utc.unix_ns(), 0, "a simulator's clock begins in 1970");
        assert_eq!(t.estimate(RawNs(u64::MAX)), None);
        let hours_9 = 9 * 3600 * 1_000_000_000;
        let base = 1_700_000_000_000_000_000u64;
        let utc = UtcNs::from_unix_ns(base as i64 - hours_9);
        let moved = Timeline::from_fixes(EpochId::default(), [file(base, utc, 0)]);
        assert_eq!(moved.estimate(RawNs(stamp)).unwrap().utc.unix_ns(), stamp as i64 - hours_9);
        assert_eq!(moved.estimate(RawNs(0)).unwrap().utc.unix_ns(), -hours_9);
        assert_eq!(moved.estimate(RawNs(u64::MAX)), None);
        assert_eq!(t.state(RawNs(1)), ClockState::Synced);
    }

    #[test]
    fn the_timeline_is_bounded_and_keeps_both_ends() {
        let mut t = Timeline::new(EpochId::default());
        for s in 0..2_000 {
            t.add(fix(s, 0, 1_000_000));
        }
        assert_eq!(t.fixes().count(), FIXES_MAX);
        assert_eq!(t.fixes().next().unwrap().raw, RawNs(0));
        assert_eq!(t.fixes().last().unwrap().raw, RawNs(1_999 * S));
        let gaps: Vec<u64> = t.fixes().zip(t.fixes().skip(1)).map(|(a, b)| b.raw.since(a.raw) / S).collect();
        assert!(gaps[gaps.len() - 20..].iter().all(|g| *g <= 2), "dense at the new end: {gaps:?}");
        assert!(gaps.iter().all(|g| *g <= 120), "no hole: {gaps:?}");
        let again = Timeline::from_fixes(EpochId::default(), t.fixes().copied());
        assert_eq!(again.estimate(RawNs(700 * S)), t.estimate(RawNs(700 * S)));
    }

    #[test]
    fn hostile_numbers_do_not_panic() {
        let mut t = Timeline::new(EpochId::default());
        for (i, raw) in [0, 1, u64::MAX, u64::MAX / 2, 5].into_iter().enumerate() {
            for utc in [UtcNs::MAX, UtcNs::MIN, UtcNs::from_tai_ns(BASE)] {
                for err_ns in [0, u64::MAX] {
                    let source = if i % 2 == 0 { FixSource::Kernel } else { FixSource::Collector };
                    t.add(Fix { raw: RawNs(raw), utc, err_ns, source });
                    t.set_authority(Authority::Collector);
                    for r in [0, 1, u64::MAX / 2, u64::MAX] {
                        let _ = (t.estimate(RawNs(r)), t.state(RawNs(r)));
                    }
                    t.set_authority(Authority::Nobody);
                }
            }
        }
    }

    #[test]
    fn between_readings_near_each_other_the_line_is_the_estimate() {
        const WITHIN_NS: u64 = 500_000;
        let mut t = Timeline::new(EpochId::default());
        for n in 0..40u64 {
            // A clock that is 30 ppm slow, and evidence that is up to 3 ms wrong either way.
            let wrong = (n * 7_919 % 6_000) as i64 * 1_000 - 3_000_000;
            t.add(fix(n * 600, (n * 600 * 30_000) as i64 + wrong, 3_000_000));
        }
        let far = t.straight_ns(WITHIN_NS);
        assert!(far > S, "{far}");
        let at = |raw: u64| t.estimate(RawNs(raw)).unwrap().utc.tai_ns();
        for n in 0..500 {
            let (from, inside) = (n * 53 * S + n * 1_234_567, far / 100 * (n % 100));
            let line = at(from) + ((at(from + far) - at(from)) as f64 * (inside as f64 / far as f64)) as i64;
            assert!(line.abs_diff(at(from + inside)) <= WITHIN_NS + 2_000, "{n}");
        }
        // Machines that were paused: UTC jumps somewhere in between.
        for n in 40..44 {
            t.add(fix(n * 600, 100_000_000_000, 1_000));
        }
        assert_eq!(t.straight_ns(WITHIN_NS), 0);
    }
}
