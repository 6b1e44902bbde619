//! The map raw → [utc ± err] of one epoch: pure arithmetic over its fixes, rebuilt when they change.
//!
//! Each fix is a cone: at its own raw time UTC is within `err`, and away from it the bound widens with the uncertainty
//! of the rate of RAW. Honest cones all hold the truth, so their intersection does.
//!
//! * Fixes that can be true together (a curve of rate 1 ± 500 ppm passes through all of them) form a *group*, and
//!   inside a group the rate is narrowed by its best pair of fixes.
//! * Evidence that cannot be true together makes several groups. RAW may stand still while the world goes on (a paused
//!   machine), so UTC may jump forward from one group to the next; it can never jump back. Of all histories that obey
//!   this, the one with the most fixes behind it is the *chain*; a jump costs three fixes, so a lone outlier makes none.
//! * The estimate is the chain's, which makes it monotone in raw whatever the evidence. Wherever evidence near a point
//!   disagrees with the chain, the answer is flagged and its error spans all of it.
//!
//! Nothing here depends on the order in which fixes arrived. docs/adr/0010 has the reasons and the measurements.

mod near;

use std::cmp::Reverse;

use crate::time::{Estimate, Fix, FixSource, RawNs, UtcNs};

/// No RAW clock is wrong in rate by more than this (the kernel's own limit for what it corrects).
pub const RATE_ERR_MAX_PPM: u64 = 500;

/// How far the momentary rate of RAW may be from its average between two fixes of the same epoch: the whole swing that
/// temperature gives a crystal, as the average may have been taken at one end of it and the moment lie at the other.
pub const WANDER_PPM: u64 = 20;

/// Evidence is "near" within this many fixes or this much time, each side.
const NEAR_FIXES: usize = 32;
const NEAR_NS: u64 = 64_000_000_000;

/// Fixes that a jump of the chain must win: three must agree before a new history is believed.
const JUMP_COST: i64 = 2;

/// More groups than this are junk: what fits none of them only widens.
const GROUPS_MAX: usize = 16;

/// Rates are fractions of 2³², so that scaling is a shift. 500 ppm and its like, rounded up.
const fn frac_of_ppm(ppm: u64) -> i128 {
    ((ppm as i128) << 32) / 1_000_000 + 1
}
const ONE: i128 = 1 << 32;
const RATE_ERR_MAX: i128 = frac_of_ppm(RATE_ERR_MAX_PPM);
const RATE_ERR_FALLBACK: i128 = frac_of_ppm(50);
const WANDER: i128 = frac_of_ppm(WANDER_PPM);

/// The rate of UTC against RAW is within `ONE + deviation ± err` at every moment.
#[derive(Clone, Copy, Debug)]
struct Rate {
    deviation: i128,
    err: i128,
}

impl Rate {
    const UNKNOWN: Rate = Rate { deviation: 0, err: RATE_ERR_MAX };

    fn slow(self) -> i128 {
        ONE + self.deviation - self.err
    }

    fn fast(self) -> i128 {
        ONE + self.deviation + self.err
    }
}

fn lower(fix: &Fix) -> i128 {
    i128::from(fix.utc.tai_ns()) - i128::from(fix.err_ns)
}

fn upper(fix: &Fix) -> i128 {
    i128::from(fix.utc.tai_ns()) + i128::from(fix.err_ns)
}

fn raw(fix: &Fix) -> i128 {
    i128::from(fix.raw.0)
}

fn ceil_shift(x: i128) -> i128 {
    -((-x) >> 32)
}

/// A bound on UTC, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    lo: i128,
    hi: i128,
}

impl Span {
    fn mid(self) -> i128 {
        (self.lo + self.hi).div_euclid(2)
    }

    fn hull(self, other: Span) -> Span {
        Span { lo: self.lo.min(other.lo), hi: self.hi.max(other.hi) }
    }
}

/// The bound that fixes passed so far, in rising raw, put on what follows them.
#[derive(Clone, Copy, Debug)]
struct Running {
    rate: Rate,
    lo_key: i128,
    hi_key: i128,
}

impl Running {
    fn start(rate: Rate, fix: &Fix) -> Running {
        Running {
            rate,
            lo_key: (lower(fix) << 32) - raw(fix) * rate.slow(),
            hi_key: (upper(fix) << 32) - raw(fix) * rate.fast(),
        }
    }

    fn at(&self, raw: i128) -> Span {
        Span {
            lo: (self.lo_key + raw * self.rate.slow()) >> 32,
            hi: ceil_shift(self.hi_key + raw * self.rate.fast()),
        }
    }

    /// The cone of one fix, on both sides of it.
    fn cone(fix: &Fix, r: i128) -> Span {
        let away = ((r - raw(fix)).abs() * RATE_ERR_MAX) >> 32;
        let utc = i128::from(fix.utc.tai_ns()) + r - raw(fix);
        Span { lo: utc - i128::from(fix.err_ns) - away - 1, hi: utc + i128::from(fix.err_ns) + away + 1 }
    }

    fn agrees(&self, fix: &Fix) -> bool {
        let span = self.at(raw(fix));
        span.lo <= upper(fix) && lower(fix) <= span.hi
    }

    fn add(&mut self, fix: &Fix) {
        let next = Running::start(self.rate, fix);
        self.lo_key = self.lo_key.max(next.lo_key);
        self.hi_key = self.hi_key.min(next.hi_key);
    }
}

fn consistent<'a>(rate: Rate, mut fixes: impl Iterator<Item = &'a Fix>) -> bool {
    let Some(first) = fixes.next() else { return true };
    let mut running = Running::start(rate, first);
    for fix in fixes {
        if !running.agrees(fix) {
            return false;
        }
        running.add(fix);
    }
    true
}

/// Can both be true of one RAW clock?
pub(crate) fn agree(a: &Fix, b: &Fix) -> bool {
    let (first, second) = if a.raw <= b.raw { (a, b) } else { (b, a) };
    Running::start(Rate::UNKNOWN, first).agrees(second)
}

/// Fixes that can all be true together, and the intersection of their cones, answered in O(log n).
#[derive(Clone, Debug)]
struct Group {
    rate: Rate,
    raws: Vec<i128>,
    /// Running best keys over fixes up to an index, and from an index on.
    left_lo: Vec<i128>,
    left_hi: Vec<i128>,
    right_lo: Vec<i128>,
    right_hi: Vec<i128>,
}

impl Group {
    fn new(members: &[&Fix]) -> Group {
        let rate = best_rate(members);
        let mut group = Group {
            rate,
            raws: members.iter().map(|f| raw(f)).collect(),
            left_lo: members.iter().map(|f| (lower(f) << 32) - raw(f) * rate.slow()).collect(),
            left_hi: members.iter().map(|f| (upper(f) << 32) - raw(f) * rate.fast()).collect(),
            right_lo: members.iter().map(|f| (lower(f) << 32) - raw(f) * rate.fast()).collect(),
            right_hi: members.iter().map(|f| (upper(f) << 32) - raw(f) * rate.slow()).collect(),
        };
        for i in 1..members.len() {
            group.left_lo[i] = group.left_lo[i].max(group.left_lo[i - 1]);
            group.left_hi[i] = group.left_hi[i].min(group.left_hi[i - 1]);
        }
        for i in (1..members.len()).rev() {
            group.right_lo[i - 1] = group.right_lo[i - 1].max(group.right_lo[i]);
            group.right_hi[i - 1] = group.right_hi[i - 1].min(group.right_hi[i]);
        }
        group
    }

    fn at(&self, raw: i128) -> Span {
        let split = self.raws.partition_point(|r| *r <= raw);
        let (slow, fast) = (self.rate.slow(), self.rate.fast());
        let mut lo = i128::MIN;
        let mut hi = i128::MAX;
        if split > 0 {
            lo = lo.max(self.left_lo[split - 1] + raw * slow);
            hi = hi.min(self.left_hi[split - 1] + raw * fast);
        }
        if split < self.raws.len() {
            lo = lo.max(self.right_lo[split] + raw * fast);
            hi = hi.min(self.right_hi[split] + raw * slow);
        }
        // Rounded outwards: the truth is never cut off by half a nanosecond.
        Span { lo: lo >> 32, hi: ceil_shift(hi) }
    }
}

/// The rate from the pair that pins it down best, if all members can live with it; else what no clock exceeds.
fn best_rate(members: &[&Fix]) -> Rate {
    // The search is in floating point, thousands of pairs each time evidence comes; the winner's rate is exact.
    let mut best: Option<(f64, &Fix, &Fix)> = None;
    for anchor in anchors(members) {
        for other in members {
            let (a, b) = if anchor.raw < other.raw { (anchor, *other) } else { (*other, anchor) };
            let d_raw = b.raw.since(a.raw) as f64;
            let off = b.utc.minus(a.utc) as f64 - d_raw;
            let err = (a.err_ns as f64 + b.err_ns as f64) / d_raw;
            let possible = d_raw > 0.0 && off.abs() <= d_raw * (RATE_ERR_MAX_PPM as f64 / 1e6);
            if possible && best.is_none_or(|(least, _, _)| err < least) {
                best = Some((err, a, b));
            }
        }
    }
    let Some((_, a, b)) = best else { return Rate::UNKNOWN };
    let d_raw = raw(b) - raw(a);
    let d_utc = i128::from(b.utc.tai_ns()) - i128::from(a.utc.tai_ns());
    let err = ((i128::from(a.err_ns) + i128::from(b.err_ns)) << 32) / d_raw + 1 + WANDER;
    if err >= RATE_ERR_MAX {
        return Rate::UNKNOWN;
    }
    let rate = Rate { deviation: ((d_utc << 32) / d_raw) - ONE, err };
    let wider = Rate { err: rate.err.max(RATE_ERR_FALLBACK), ..rate };
    [rate, wider].into_iter().find(|r| consistent(*r, members.iter().copied())).unwrap_or(Rate::UNKNOWN)
}

/// The fixes worth pairing with all others: the outermost and the narrowest.
fn anchors<'a>(members: &[&'a Fix]) -> Vec<&'a Fix> {
    const EACH: usize = 8;
    if members.len() <= 3 * EACH {
        return members.to_vec();
    }
    let mut narrow: Vec<&Fix> = members.to_vec();
    narrow.sort_by_key(|f| (f.err_ns, f.raw));
    let outer = members[..EACH].iter().chain(&members[members.len() - EACH..]);
    outer.chain(&narrow[..EACH]).copied().collect()
}

/// A stretch of the chain: from its first to its last fix the group `group` is believed.
#[derive(Clone, Copy, Debug)]
struct Segment {
    group: usize,
    first: i128,
    last: i128,
}

/// What the fixes of one epoch say together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Map {
    groups: Vec<Group>,
    chain: Vec<Segment>,
    /// (raw, source, group) of every fix that has a say in disputes, in rising raw.
    witnesses: Vec<(RawNs, FixSource, usize)>,
    /// The sources among them, a bit each.
    sources: u32,
    /// Fixes outside every group: only their own interval is known, near them.
    stray: Vec<Fix>,
    overruled: usize,
}

/// Whose word stands when sources disagree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Authority {
    /// Nobody's: disagreement is shown as conflict.
    #[default]
    Nobody,
    /// The exchange with a synchronised collector.
    Collector,
    /// The agent's own sources, when most synchronised agents agree against the collector.
    Agent,
}

impl Authority {
    pub(crate) fn includes(self, source: FixSource) -> bool {
        match self {
            Authority::Nobody => true,
            Authority::Collector => source == FixSource::Collector,
            Authority::Agent => matches!(source, FixSource::Kernel | FixSource::Chrony | FixSource::Ptp),
        }
    }
}

impl Map {
    /// `fixes` in rising raw.
    pub(crate) fn build(fixes: &[Fix], authority: Authority) -> Map {
        let authority =
            if fixes.iter().any(|f| authority.includes(f.source)) { authority } else { Authority::Nobody };
        let mut map = Map::default();
        let mut members: Vec<Vec<&Fix>> = Vec::new();
        let mut running: Vec<Running> = Vec::new();
        for fix in fixes.iter().filter(|f| authority.includes(f.source)) {
            let home = (0..running.len())
                .filter(|g| running[*g].agrees(fix))
                .max_by_key(|g| (members[*g].len(), Reverse(*g)));
            let group = match home {
                Some(group) => {
                    running[group].add(fix);
                    members[group].push(fix);
                    group
                }
                None if running.len() < GROUPS_MAX => {
                    running.push(Running::start(Rate::UNKNOWN, fix));
                    members.push(vec![fix]);
                    running.len() - 1
                }
                None => {
                    map.stray.push(*fix);
                    continue;
                }
            };
            map.witnesses.push((fix.raw, fix.source, group));
            map.sources |= 1 << fix.source as u32;
        }
        map.groups = members.iter().map(|m| Group::new(m)).collect();
        map.chain = chain(&map.groups, &map.witnesses);
        if authority != Authority::Nobody {
            map.admit(fixes.iter().filter(|f| !authority.includes(f.source)), &mut members);
        }
        map
    }

    /// Lets the word of others narrow what the authority says, where it speaks with one voice and they agree.
    fn admit<'a>(&mut self, others: impl Iterator<Item = &'a Fix>, members: &mut [Vec<&'a Fix>]) {
        let mut grown = vec![false; members.len()];
        for fix in others {
            let group = match self.near(fix.raw).as_slice() {
                [only] => *only,
                _ => continue,
            };
            if members[group].iter().all(|m| agree(m, fix)) {
                let at = members[group].partition_point(|m| m.raw <= fix.raw);
                members[group].insert(at, fix);
                grown[group] = true;
            } else {
                self.overruled += 1;
            }
        }
        for (group, _) in grown.iter().enumerate().filter(|(_, grown)| **grown) {
            self.groups[group] = Group::new(&members[group]);
        }
        // Narrower bounds move the middle; the order of the chain must still hold.
        self.chain = chain(&self.groups, &self.witnesses);
    }

    /// How many fixes contradict the authority.
    pub(crate) fn overruled(&self) -> usize {
        self.overruled
    }

    pub(crate) fn estimate(&self, raw: RawNs) -> Option<Estimate> {
        // Beyond the evidence nobody new speaks and nobody falls silent: the outermost fix decides who is heard, and
        // the error is never less than there (two histories that disagree may seem to converge).
        let (first, last) = (self.witnesses.first()?.0, self.witnesses.last()?.0);
        let inside = raw.clamp(first, last);
        // Where all evidence is of one group nobody near can say anything else.
        let heard = if self.groups.len() > 1 { self.near(inside) } else { Vec::new() };
        let (centre, mut err, conflict) = self.bound(raw, inside, &heard)?;
        if inside != raw {
            err = err.max(self.bound(inside, inside, &heard)?.1);
        }
        let utc = i64::try_from(centre).unwrap_or(if centre < 0 { i64::MIN } else { i64::MAX });
        let clipped = (centre - i128::from(utc)).abs();
        Some(Estimate {
            utc: UtcNs::from_tai_ns(utc),
            err_ns: u64::try_from(err + clipped).unwrap_or(u64::MAX),
            conflict,
        })
    }

    /// The chain's word at `raw`, the error that covers all groups of `heard`, and whether they disagree.
    fn bound(&self, raw: RawNs, inside: RawNs, heard: &[usize]) -> Option<(i128, i128, bool)> {
        let r = i128::from(raw.0);
        let (first, last) = (self.chain.first()?, self.chain.last()?);
        // The segments of the chain around r: one inside a segment or beyond the ends, two in a jump.
        let next = self.chain.partition_point(|s| s.last < r);
        let alone = |group: usize| {
            let span = self.groups[group].at(r);
            (span.mid(), span, false, group)
        };
        let (centre, mut span, mut conflict, home) = if next == self.chain.len() {
            alone(last.group)
        } else if next == 0 {
            alone(first.group)
        } else if self.chain[next].first <= r {
            alone(self.chain[next].group)
        } else {
            let (from, to) = (self.chain[next - 1], self.chain[next]);
            let (a, b) = (&self.groups[from.group], &self.groups[to.group]);
            let middle = (a.at(r).mid() + b.at(r).mid()).div_euclid(2);
            let centre = middle.max(a.at(from.last).mid()).min(b.at(to.first).mid());
            (centre, a.at(r).hull(b.at(r)), true, from.group)
        };
        for group in heard.iter().filter(|g| **g != home) {
            conflict = true;
            span = span.hull(self.groups[*group].at(r));
        }
        for fix in self.stray.iter().filter(|f| f.raw.0.abs_diff(inside.0) <= NEAR_NS) {
            conflict = true;
            span = span.hull(Running::cone(fix, r));
        }
        Some((centre, (span.hi - centre).max(centre - span.lo), conflict))
    }
}

/// The history with the most fixes behind it in which UTC never goes back.
fn chain(groups: &[Group], witnesses: &[(RawNs, FixSource, usize)]) -> Vec<Segment> {
    // best[g]: the heaviest history that ends in group g; each step links to the segment before.
    struct Step {
        segment: Segment,
        before: Option<usize>,
    }
    let mut steps: Vec<Step> = Vec::new();
    let mut best: Vec<Option<(i64, usize)>> = vec![None; groups.len()];
    for (raw, _, group) in witnesses {
        let r = i128::from(raw.0);
        let here = groups[*group].at(r).mid();
        // A jump lands ahead of where the history left off, or it is no jump forward.
        let jump = (0..groups.len())
            .filter(|g| g != group)
            .filter_map(|g| best[g].map(|(weight, step)| (weight, step, g)))
            .filter(|(_, step, g)| {
                let left = steps[*step].segment.last;
                left < r && groups[*g].at(left).mid() <= here && groups[*g].at(r).mid() <= here
            })
            .map(|(weight, step, _)| (weight - JUMP_COST, step))
            .max_by_key(|(weight, step)| (*weight, Reverse(*step)));
        let stay = best[*group];
        let fresh = Segment { group: *group, first: r, last: r };
        let (weight, step) = match (stay, jump) {
            (Some((weight, step)), jump) if jump.is_none_or(|(j, _)| weight >= j) => {
                let grown = Segment { last: r, ..steps[step].segment };
                let before = steps[step].before;
                steps.push(Step { segment: grown, before });
                (weight + 1, steps.len() - 1)
            }
            (_, Some((weight, step))) if weight > 0 => {
                steps.push(Step { segment: fresh, before: Some(step) });
                (weight + 1, steps.len() - 1)
            }
            _ => {
                steps.push(Step { segment: fresh, before: None });
                (1, steps.len() - 1)
            }
        };
        best[*group] = Some((weight, step));
    }
    let mut chain = Vec::new();
    let mut at =
        best.iter().flatten().max_by_key(|(weight, step)| (*weight, Reverse(*step))).map(|(_, s)| *s);
    while let Some(step) = at {
        chain.push(steps[step].segment);
        at = steps[step].before;
    }
    chain.reverse();
    chain
}
