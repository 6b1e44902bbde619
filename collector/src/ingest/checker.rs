//! From an entry to a change, between the task that reads and the committer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gnomon_clock::{EpochId, MonoNs};
use gnomon_flow::{AgentId, EpochHash};
use gnomon_proto::v1;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tracing::{Instrument, Span};

use super::committer::{Answer, Submission};
use super::ledger::Ledger;
use super::refusal::Refusal;
use super::service::Shared;
use crate::fleet::{Received, Tally};
use crate::store::{Body, Change, Content, Evidence};

/// Bad entries are logged this often at most.
const COMPLAIN_NS: u64 = 60_000_000_000;
/// Of a session's entries and reports one in so many is traced, the first among them.
const TRACED_OF: u64 = 64;

/// An entry or a clock report that holds its bytes of the window and the budget.
pub(super) struct Unchecked {
    pub(super) what: What,
    pub(super) epoch: EpochId,
    pub(super) window: OwnedSemaphorePermit,
    pub(super) budget: OwnedSemaphorePermit,
    pub(super) bytes: usize,
}

pub(super) enum What {
    Hello,
    Evidence(Evidence),
    Entry(v1::Entry),
}

/// Turns entries into changes, in their order, beside the task that reads: an exchange must not wait for it.
pub(super) struct Checker {
    pub(super) shared: Arc<Shared>,
    pub(super) agent: AgentId,
    pub(super) session: u64,
    pub(super) ledger: Ledger,
    pub(super) sacrificed: Arc<AtomicU64>,
    pub(super) tally: Tally,
    pub(super) agent_name: Arc<str>,
    pub(super) answers: mpsc::UnboundedSender<Answer>,
    pub(super) complained: Option<MonoNs>,
    pub(super) suppressed: u64,
}

impl Checker {
    pub(super) async fn run(mut self, mut unchecked: mpsc::Receiver<Unchecked>) {
        let mut entries = 0u64;
        while let Some(Unchecked { what, epoch, window, mut budget, bytes }) = unchecked.recv().await {
            let mut decoded = None;
            // One of many: an entry takes microseconds, and a span costs one.
            let span = match entries % TRACED_OF {
                0 => tracing::info_span!("entry", bytes),
                _ => Span::none(),
            };
            entries += 1;
            let body = match what {
                What::Hello => Body::Hello,
                What::Evidence(evidence) => Body::Evidence(evidence),
                What::Entry(entry) => {
                    let hash = EpochHash::of(&epoch);
                    let seq = entry.seq;
                    if !self.ledger.knows(hash) {
                        self.learn(hash).await;
                    }
                    let sacrificed = self.sacrificed.load(Ordering::Relaxed);
                    let missing = match self.ledger.take(hash, seq, sacrificed) {
                        Ok(missing) => missing,
                        Err(jump) => {
                            self.shared.fleet.refusals().count(Refusal::LedgerJump);
                            self.complain(|agent, more| tracing::error!(
                                agent, %jump, more,
                                "an entry is refused: it is not acknowledged, and what the agent has stays there"
                            ));
                            continue;
                        }
                    };
                    let checking = match span.is_none() {
                        true => Span::none(),
                        false => tracing::info_span!(parent: &span, "check"),
                    };
                    let (content, room) = self.check(hash, entry, missing).instrument(checking).await;
                    decoded = room;
                    // What it was decompressed to is gone.
                    let spare = budget.num_permits().saturating_sub(bytes);
                    drop(budget.split(spare));
                    Body::Entry { seq, content }
                }
            };
            let change = Change { epoch, agent_name: Arc::clone(&self.agent_name), body };
            let answer = self.answers.clone();
            let session = self.session;
            let submission = Submission { session, change, bytes, decoded, answer, window, budget, span };
            if !self.shared.committer.submit(submission) {
                return;
            }
        }
    }

    /// Asks the store how far an epoch is durable. Where it cannot say, it will not take the entry either.
    async fn learn(&mut self, hash: EpochHash) {
        let (store, agent) = (self.shared.store.clone(), self.agent);
        let durable = tokio::task::spawn_blocking(move || store.durable_seq(agent, hash)).await;
        self.ledger.learn(hash, durable.ok().and_then(Result::ok).flatten());
    }

    async fn check(
        &mut self,
        hash: EpochHash,
        entry: v1::Entry,
        missing: u64,
    ) -> (Content, Option<OwnedSemaphorePermit>) {
        let entry = Arc::new(entry);
        let (checked, room) = self.shared.reading.check(&entry, &self.shared.store.enrichment()).await;
        let bad = u64::from(checked.bad.is_some());
        self.tally.received(&Received { entries: 1, bad, missing, ..Received::default() });
        if let Some(bad) = checked.bad {
            let seq = entry.seq;
            let quarantine = self.shared.quarantine.clone();
            let kept = tokio::task::spawn_blocking(move || quarantine.keep(hash, &entry)).await;
            let kept = match kept {
                Ok(Ok(Some(path))) => path.display().to_string(),
                Ok(Ok(None)) => "nowhere: the quarantine is full".to_owned(),
                Ok(Err(error)) => format!("nowhere: {error}"),
                Err(error) => format!("nowhere: {error}"),
            };
            let records = checked.records_bad;
            self.complain(|agent, more| {
                tracing::error!(
                    agent, seq, %bad, records, kept, more,
                    "an entry cannot be understood: it is kept aside and acknowledged"
                )
            });
        }
        (checked.content, room)
    }

    /// At most once in a while; `say` is told whose entry it was, and how often nothing was said since.
    fn complain(&mut self, say: impl FnOnce(&str, u64)) {
        let now = self.shared.clock.monotonic();
        if self.complained.is_some_and(|at| now.since(at) < COMPLAIN_NS) {
            self.suppressed += 1;
            return;
        }
        let more = std::mem::take(&mut self.suppressed);
        say(&self.agent_name, more);
        self.complained = Some(now);
    }
}
