//! What was sent and when, against what the collector made of it.

use std::fmt;

use gnomon_clock::{Clock, KernelClock, MonoNs, UtcNs};
use gnomon_flow::TimeState;

use super::sightings::Seen;

/// A frame, known by its source port, and this host's clocks around the sending of it.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    pub port: u16,
    pub before: UtcNs,
    pub after: UtcNs,
    pub mono: MonoNs,
}

impl Sent {
    /// Send by `send` and note the time.
    ///
    /// # Errors
    /// Those of `send`.
    pub fn note<E>(port: u16, send: impl FnOnce() -> Result<(), E>) -> Result<Sent, E> {
        let (mono, before) = (KernelClock.monotonic(), KernelClock.bracket().realtime);
        send()?;
        Ok(Sent { port, before, after: KernelClock.bracket().realtime, mono })
    }
}

/// How the claims of all frames stand to the truth.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    pub sent: usize,
    pub missing: Vec<u16>,
    pub not_indexed: Vec<(u16, TimeState)>,
    /// Latest claimed time before the frame was sent, and by how much.
    pub too_early: Vec<(u16, u64)>,
    /// Earliest claimed time after the frame was sent, and by how much: the emulator may have held it as long.
    pub too_late: Vec<(u16, u64)>,
    pub in_future: Vec<String>,
    /// `utc` less the time of sending, each frame's: the clock's error and what emulator and agent held the frame.
    pub error_ns: Vec<i64>,
    /// The claimed bound: of the map from the agent's clock to UTC ...
    pub map_err_ns: Vec<i64>,
    /// ... and of the stamp.
    pub stamp_err_ns: Vec<i64>,
    /// From sending until it was visible, of the frames that could be.
    pub visible_ns: Vec<i64>,
    /// Frames first seen as pending.
    pub pending_first: usize,
}

/// Half of the frames may claim a time that is too late by what the emulator held them.
const LATE_SHARE_MAX: f64 = 0.5;

impl Verdict {
    /// `truth_ns` is how far the truth is ahead of this host's clock. A frame counts for `visible_ns` when it was sent
    /// after `online`: before, there was no way to the collector.
    pub fn of(sent: &[Sent], seen: &Seen, truth_ns: i64, online: MonoNs) -> Verdict {
        let mut verdict =
            Verdict { sent: sent.len(), in_future: seen.in_future.clone(), ..Verdict::default() };
        for frame in sent {
            let Some(sighting) = seen.frames.get(&frame.port) else {
                verdict.missing.push(frame.port);
                continue;
            };
            if frame.mono > online {
                verdict.visible_ns.push(sighting.visible.since(frame.mono).cast_signed());
            }
            verdict.pending_first += usize::from(sighting.first_state == TimeState::Pending);
            if sighting.state != TimeState::Indexed {
                verdict.not_indexed.push((frame.port, sighting.state));
            }
            let (Some((earliest, latest)), Some(first)) = (sighting.claim(), sighting.first) else {
                continue;
            };
            let (before, after) =
                (frame.before.saturating_add_ns(truth_ns), frame.after.saturating_add_ns(truth_ns));
            let by = |ns: i64| u64::try_from(ns).ok().filter(|ns| *ns > 0);
            verdict.too_early.extend(by(before.minus(latest)).map(|ns| (frame.port, ns)));
            verdict.too_late.extend(by(earliest.minus(after)).map(|ns| (frame.port, ns)));
            verdict.error_ns.push(first.utc.minus(before));
            verdict.map_err_ns.push(first.err_ns.cast_signed());
            verdict.stamp_err_ns.push(sighting.stamp_err_ns.cast_signed());
        }
        let Verdict { error_ns, map_err_ns, stamp_err_ns, visible_ns, .. } = &mut verdict;
        [error_ns, map_err_ns, stamp_err_ns, visible_ns].into_iter().for_each(|ns| ns.sort_unstable());
        verdict
    }

    /// What is not as it must be of what was found, in words; empty when all is well. `pending_share_max` of the frames may still be
    /// pending: 0 but where the truth cannot be known well.
    pub fn violations(&self, pending_share_max: f64) -> Vec<String> {
        let mut found = self.in_future.clone();
        let mut say = |bad: bool, what: String| found.extend(bad.then_some(what));
        say(self.sent == 0, "nothing was sent".to_owned());
        let (pending, other): (Vec<_>, Vec<_>) =
            self.not_indexed.iter().copied().partition(|(_, state)| *state == TimeState::Pending);
        let too_many = pending.len() as f64 > pending_share_max * self.sent as f64;
        say(too_many, format!("{} of {} pending: {}", pending.len(), self.sent, ports(&pending)));
        say(!other.is_empty(), format!("neither indexed nor pending: {other:?}"));
        say(!self.too_early.is_empty(), format!("claimed before they were sent: {:?}", self.too_early));
        let late_share = self.too_late.len() as f64 / self.sent.max(1) as f64;
        say(late_share > LATE_SHARE_MAX, format!("claimed after they were sent: {:?}", self.too_late));
        found
    }
}

/// The first and the last say enough.
fn ports(frames: &[(u16, TimeState)]) -> String {
    let port = |frame: Option<&(u16, TimeState)>| frame.map_or(0, |frame| frame.0);
    format!("{} to {}", port(frames.first()), port(frames.last()))
}

/// The smallest value that `share` of the sorted ones are not above, in milliseconds.
pub fn quantile_ms(sorted_ns: &[i64], share: f64) -> f64 {
    let rank = (share * sorted_ns.len() as f64).ceil() as usize;
    sorted_ns.get(rank.max(1) - 1).map_or(f64::NAN, |ns| *ns as f64 / 1e6)
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |ns: &[i64]| {
            let at = |share| quantile_ms(ns, share);
            let (min, low, median) = (at(0.0), at(0.1), at(0.5));
            format!("min {min:.3}, p10 {low:.3}, p50 {median:.3}, p90 {:.3}, max {:.3} ms", at(0.9), at(1.0))
        };
        let mut late: Vec<i64> = self.too_late.iter().map(|(_, ns)| ns.cast_signed()).collect();
        late.sort_unstable();
        writeln!(f, "{} frames, {} never seen", self.sent, self.missing.len())?;
        let mut distance: Vec<i64> = self.error_ns.iter().map(|ns| ns.abs()).collect();
        distance.sort_unstable();
        writeln!(f, "  utc − sent    {}", line(&self.error_ns))?;
        writeln!(f, "  |utc − sent|  {}", line(&distance))?;
        writeln!(f, "  bound, map    {}", line(&self.map_err_ns))?;
        writeln!(f, "  bound, stamp  {}", line(&self.stamp_err_ns))?;
        let (first, still) = (self.pending_first, self.not_indexed.len());
        writeln!(f, "  visible after {}", line(&self.visible_ns))?;
        writeln!(f, "  pending       {first} at first, {still} at the end")?;
        writeln!(f, "  too early     {}, in the future {}", self.too_early.len(), self.in_future.len())?;
        write!(
            f,
            "  too late      {}: {}",
            late.len(),
            if late.is_empty() { String::new() } else { line(&late) }
        )
    }
}

#[cfg(test)]
mod tests {
    use gnomon_clock::Estimate;

    use super::super::sightings::Sighting;
    use super::*;

    const NOW: i64 = 1_800_000_000_000_000_000;

    fn verdict(off_ns: i64, err_ns: u64) -> Verdict {
        let at = |ns: i64| UtcNs::from_tai_ns(NOW + ns);
        let sent = [Sent { port: 7, before: at(0), after: at(1_000), mono: MonoNs(5) }];
        let first = Some(Estimate { utc: at(off_ns), err_ns, conflict: false });
        let state = TimeState::Indexed;
        let sighting = Sighting { visible: MonoNs(9), first_state: state, state, first, stamp_err_ns: 100 };
        let seen = Seen { frames: [(7, sighting)].into(), ..Seen::default() };
        Verdict::of(&sent, &seen, 0, MonoNs(0))
    }

    #[test]
    fn only_a_claim_that_holds_the_truth_passes() {
        assert_eq!(verdict(500, 10).violations(0.0), Vec::<String>::new());
        assert_eq!(verdict(-1_000, 1_000).violations(0.0), Vec::<String>::new());
        assert_eq!(verdict(-1_000_000_000, 1_000).too_early, [(7, 999_998_900)]);
        assert_eq!(verdict(1_000_000_000, 1_000).too_late, [(7, 999_997_900)]);
        assert_eq!(verdict(-1_000_000_000, 1_000).violations(0.0).len(), 1);
        assert_eq!(verdict(1_000_000_000, 1_000).violations(0.0).len(), 1);
        assert_eq!(verdict(500, 10).visible_ns, [4]);
    }
}
