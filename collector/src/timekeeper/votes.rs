//! One agent's word about the collector's clock.

use gnomon_clock::{AgentVote, Authority, FixSource, RawNs, SYNCED_ERR_NS_MAX, Timeline};

/// An agent's own sources may have been silent for so long and still count.
const SILENCE_NS_MAX: u64 = 40_000_000_000;
/// A heartbeat is older than this by no more when its vote is heard; the two clocks part meanwhile by 500 ppm at most.
const HEARD_NS_MAX: u64 = 15_000_000_000;

/// How an agent's own sources see the collector's clock at `raw` of its epoch; `None` when it has not exchanged, or has no
/// source of its own.
pub fn vote(timeline: &Timeline, raw: RawNs) -> Option<AgentVote> {
    let own = timeline.estimate_by(Authority::Agent, raw)?;
    let collector = timeline.estimate_by(Authority::Collector, raw)?;
    let newest = timeline.fixes().filter(|fix| fix.source != FixSource::Collector).last()?;
    let fresh = raw.0.abs_diff(newest.raw.0) <= SILENCE_NS_MAX;
    Some(AgentVote {
        synced: fresh && !own.conflict && own.err_ns <= SYNCED_ERR_NS_MAX,
        offset_ns: own.utc.minus(collector.utc),
        err_ns: own.err_ns.saturating_add(collector.err_ns).saturating_add(HEARD_NS_MAX / 2_000),
    })
}
