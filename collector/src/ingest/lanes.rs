//! What waits to be committed, a queue for each session, and who is next.

use std::collections::{HashMap, VecDeque};

use super::committer::Submission;
use crate::store::{Body, Content};

/// A group is at most this many changes…
const GROUP_CHANGES_MAX: usize = 1024;
/// …about this many bytes as they came…
const GROUP_BYTES_MAX: usize = 16 << 20;
/// …and about this much work, in microseconds: nobody waits longer for what others had done. One change may be more.
const GROUP_WORK_US_MAX: u64 = 150_000;

/// A group of less work says nothing of how slow the machine is, which is believed up to so many times.
const WEIGHED_US_MIN: u64 = 20_000;
const SLOWNESS_MAX: f64 = 32.0;
/// A queue's share of a group is at least this.
const SHARE_US_MIN: u64 = 1_000;
/// A change of at most this is little work: a heartbeat's worth of evidence, a few thousand records.
const LITTLE_US: u64 = 10_000;

/// What a change costs the committer, about, in microseconds.
pub(super) fn work_us(body: &Body) -> u64 {
    match body {
        Body::Hello => 100,
        // A new map of time, and a look at the epoch's records.
        Body::Evidence(evidence) => 3_000 + 20 * evidence.fixes.len() as u64,
        Body::Entry { content: Content::Flows { records, alerts, .. }, .. } => {
            20 + 4 * records.len() as u64 + 20 * alerts.len() as u64
        }
        Body::Entry { content: Content::Slices(slices), .. } => 50 + slices.flows.len() as u64 / 4,
        Body::Entry { content: Content::Unreadable, .. } => 20,
    }
}

/// A session's queue. Bounded in bytes by the permits that each submission holds.
#[derive(Default)]
struct Lane {
    waiting: VecDeque<(u64, Submission)>,
    /// Work that it may still have done in its turn; below zero where its last change was more.
    credit: i64,
}

/// All queues; those that are empty are forgotten.
#[derive(Default)]
pub(super) struct Lanes {
    by_session: HashMap<u64, Lane>,
    /// In whose turn.
    turns: VecDeque<u64>,
    /// Of the last group.
    group_work: u64,
    /// What work takes here, against what was said of it.
    slowness: Option<f64>,
}

impl Lanes {
    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    pub(super) fn push(&mut self, submission: Submission) {
        let lane = self.by_session.entry(submission.session).or_default();
        if lane.waiting.is_empty() {
            self.turns.push_back(submission.session);
        }
        lane.waiting.push_back((work_us(&submission.change.body), submission));
    }

    /// The next group: from each queue in turn as much as its share of the work (deficit round robin, Shreedhar and Varghese
    /// 1995). The order within a queue stays. First what is little work in any queue, so that nobody with little waits for
    /// however many with much; a part of the group is left to these.
    pub(super) fn group(&mut self) -> Vec<Submission> {
        let work_max = (GROUP_WORK_US_MAX as f64 / self.slowness()) as u64;
        let share = (work_max / self.turns.len().max(1) as u64).max(SHARE_US_MIN).cast_signed();
        let mut group = Group::default();
        for _ in 0..self.turns.len() {
            if group.is_full(work_max / 2) {
                break;
            }
            self.turn(&mut group, work_max / 2, LITTLE_US, share);
        }
        for _ in 0..self.turns.len() {
            if group.is_full(work_max) {
                break;
            }
            self.turn(&mut group, work_max, u64::MAX, share);
        }
        self.group_work = group.work;
        group.submissions
    }

    /// How long the last group took: groups are smaller on a slow machine.
    pub(super) fn took(&mut self, us: u64) {
        // Of little work most is the disk's sync.
        if self.group_work >= WEIGHED_US_MIN {
            let now = us as f64 / self.group_work as f64;
            self.slowness = Some((self.slowness() * 3.0 + now) / 4.0);
        }
    }

    fn slowness(&self) -> f64 {
        self.slowness.unwrap_or(1.0).clamp(1.0, SLOWNESS_MAX)
    }

    /// One queue's turn: changes of at most `each` work while it has credit, until the group has `work_max`.
    fn turn(&mut self, group: &mut Group, work_max: u64, each: u64, share: i64) {
        let Some(session) = self.turns.pop_front() else { return };
        let Some(lane) = self.by_session.get_mut(&session) else { return };
        // What others left of a group's room is no credit for later.
        lane.credit = (lane.credit + share).min(share);
        while lane.credit > 0 && !group.is_full(work_max) {
            if lane.waiting.front().is_none_or(|(work, _)| *work > each) {
                break;
            }
            let Some((work, submission)) = lane.waiting.pop_front() else { break };
            lane.credit -= work.cast_signed();
            group.work += work;
            group.bytes += submission.bytes;
            group.submissions.push(submission);
        }
        if lane.waiting.is_empty() {
            self.by_session.remove(&session);
        } else {
            self.turns.push_back(session);
        }
    }
}

/// A group in the making.
#[derive(Default)]
struct Group {
    submissions: Vec<Submission>,
    bytes: usize,
    work: u64,
}

impl Group {
    fn is_full(&self, work_max: u64) -> bool {
        self.submissions.len() >= GROUP_CHANGES_MAX || self.bytes >= GROUP_BYTES_MAX || self.work >= work_max
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gnomon_clock::{Fix, FixSource, RawNs, UtcNs};
    use tokio::sync::{Semaphore, mpsc};

    use super::*;
    use crate::store::{Evidence, testing};

    fn submission(session: u64, body: Body) -> Submission {
        let permits = Arc::new(Semaphore::new(2));
        let permit = || Arc::clone(&permits).try_acquire_owned().unwrap();
        let (answer, _) = mpsc::unbounded_channel();
        let change = testing::change(testing::epoch(session as u8), body);
        Submission {
            session,
            change,
            bytes: 1_000,
            decoded: None,
            answer,
            window: permit(),
            budget: permit(),
            span: tracing::Span::none(),
        }
    }

    fn evidence(fixes: usize) -> Body {
        let fix = Fix { raw: RawNs(1), utc: UtcNs::default(), err_ns: 1, source: FixSource::Kernel };
        Body::Evidence(Evidence { fixes: vec![fix; fixes], ..Evidence::default() })
    }

    #[test]
    fn who_sends_much_waits_for_himself() {
        let mut lanes = Lanes::default();
        for _ in 0..2_000 {
            lanes.push(submission(1, evidence(1_000)));
        }
        for session in 2..20 {
            lanes.push(submission(session, Body::Hello));
            lanes.push(submission(session, Body::Entry { seq: 1, content: Content::Unreadable }));
        }
        let group = lanes.group();
        let of = |session: u64| group.iter().filter(|submission| submission.session == session).count();
        assert!((2..20).all(|session| of(session) == 2), "all others are in the first group");
        assert!((1..=10).contains(&of(1)), "{}", of(1));
        let work: u64 = group.iter().map(|submission| work_us(&submission.change.body)).sum();
        assert!(work < 2 * GROUP_WORK_US_MAX, "{work}");
        let mut rest = 0;
        while !lanes.is_empty() {
            let group = lanes.group();
            assert!(!group.is_empty() && group.len() <= GROUP_CHANGES_MAX);
            rest += group.len();
        }
        assert_eq!(rest + group.len(), 2_000 + 36);
    }

    #[test]
    fn one_alone_fills_the_group_in_its_order() {
        let mut lanes = Lanes::default();
        for seq in 0..3_000 {
            lanes.push(submission(7, Body::Entry { seq, content: Content::Unreadable }));
        }
        let mut expected = 0;
        while !lanes.is_empty() {
            for submission in lanes.group() {
                assert!(matches!(submission.change.body, Body::Entry { seq, .. } if seq == expected));
                expected += 1;
            }
        }
        assert_eq!(expected, 3_000);
    }
}
