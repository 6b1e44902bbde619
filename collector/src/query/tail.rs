//! New flows as they arrive. What is told comes from a queue in memory; who must have all of it and falls behind is told from
//! the store until he has caught up: the store is the queue then.
//!
//! Each record ends in a block, and blocks rise by number. So a block's number says how far somebody is: everything in blocks
//! up to there was told, and what was told since may come again.

use std::sync::Arc;
use std::time::Duration;

use gnomon_expression::parse;
use gnomon_flow::StoredFlow;
use tokio::runtime::Handle;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio_util::sync::CancellationToken;

use super::counters::{QueryCounters, Refusal};
use super::execute::{Queries, QueryError, Work};
use super::plan::Plan;
use crate::store::{Since, Store};

/// Records that wait for a caller; behind them the store's own queue waits, and then records are missed or read from the store.
const QUEUE: usize = 256;
/// While blocks come in such a time, who catches up reads these alone: what is in none will be in the next.
const LULL: Duration = Duration::from_secs(if cfg!(test) { 0 } else { 2 });

#[derive(Clone, Debug)]
pub struct TailItem {
    pub flow: Arc<StoredFlow>,
    /// Records this caller was too slow to be asked about, or that could not be read, so far.
    pub missed: u64,
    /// Everything in blocks up to this one was told.
    pub behind: u64,
}

/// What is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Following {
    /// Nothing may be missed: what the caller was too slow for is read from the store, and may come twice.
    pub whole: bool,
    /// [`TailItem::behind`] of an earlier call, to go on where that ended.
    pub behind: Option<u64>,
}

impl Queries {
    /// Matching records, new and changed, from now on, until the receiver is dropped or the collector stops. Relative
    /// times count from now.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn tail(
        &self,
        expression: &str,
        following: Following,
    ) -> Result<mpsc::Receiver<TailItem>, QueryError> {
        let plan = Plan::new(&parse(expression)?, self.store.now().utc);
        let place = self.place(Work::Tail).await?;
        let newest = self.store.newest_block();
        let (sender, receiver) = mpsc::channel(QUEUE);
        let tail = Tail {
            store: self.store.clone(),
            plan: Arc::new(plan),
            sender,
            changes: self.store.subscribe(),
            missed: 0,
            // One of another store may be beyond all that is here.
            behind: following.behind.unwrap_or(newest).min(newest),
            shutdown: self.shutdown.clone(),
            stalled: Duration::from_millis(self.limits.stalled_ms),
            counters: Arc::clone(self.counters()),
        };
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            let _place = place;
            tokio::select! {
                () = tail.run(following) => {}
                () = shutdown.cancelled() => {}
            }
        });
        Ok(receiver)
    }
}

struct Tail {
    store: Store,
    plan: Arc<Plan>,
    sender: mpsc::Sender<TailItem>,
    changes: Receiver<Arc<StoredFlow>>,
    missed: u64,
    behind: u64,
    shutdown: CancellationToken,
    /// A caller that takes nothing for so long is given up.
    stalled: Duration,
    counters: Arc<QueryCounters>,
}

impl Tail {
    async fn run(mut self, following: Following) {
        let mut fell_behind = following.whole && following.behind.is_some();
        loop {
            if fell_behind && !self.catch_up().await {
                return;
            }
            fell_behind = false;
            // Before the queue is looked at: what is in the block went through the queue before.
            let newest = self.store.newest_block();
            if self.changes.is_empty() {
                self.behind = newest;
            }
            let change = tokio::select! {
                change = self.changes.recv() => change,
                () = self.sender.closed() => return,
            };
            match change {
                Ok(flow) if self.plan.matches(&flow) => {
                    if !self.send(flow).await {
                        return;
                    }
                }
                Ok(_) => {}
                Err(RecvError::Lagged(_)) if following.whole => fell_behind = true,
                Err(RecvError::Lagged(count)) => self.missed = self.missed.saturating_add(count),
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// False when nobody listens, or the caller takes nothing.
    async fn send(&self, flow: Arc<StoredFlow>) -> bool {
        let item = TailItem { flow, missed: self.missed, behind: self.behind };
        match self.sender.send_timeout(item, self.stalled).await {
            Ok(()) => true,
            Err(SendTimeoutError::Closed(_)) => false,
            Err(SendTimeoutError::Timeout(_)) => {
                self.counters.refused(Refusal::Stalled);
                false
            }
        }
    }

    /// Tells what came since `behind`: block by block until no more come, then what is in no block. False when nobody listens.
    async fn catch_up(&mut self) -> bool {
        loop {
            let from = self.behind;
            while let Some(block) = self.store.next_block(self.behind) {
                if !self.tell(move |since| since.block(block)).await {
                    return false;
                }
                self.behind = block;
            }
            tokio::time::sleep(LULL).await;
            if from == self.behind && self.store.next_block(self.behind).is_none() {
                break;
            }
        }
        // First, so that nothing comes between the two.
        self.changes = self.store.subscribe();
        self.tell(|since| since.hot()).await
    }

    async fn tell(
        &mut self,
        what: impl FnOnce(&mut Since<'_>) -> Result<(), crate::store::StoreError> + Send + 'static,
    ) -> bool {
        let (store, plan) = (self.store.clone(), Arc::clone(&self.plan));
        let (sender, missed, behind) = (self.sender.clone(), self.missed, self.behind);
        let (shutdown, stalled, handle) = (self.shutdown.clone(), self.stalled, Handle::current());
        let counters = Arc::clone(&self.counters);
        let told = tokio::task::spawn_blocking(move || {
            let mut send = |flow: StoredFlow| {
                let item = TailItem { flow: Arc::new(flow), missed, behind };
                let sent = handle.block_on(sender.send_timeout(item, stalled));
                if matches!(sent, Err(SendTimeoutError::Timeout(_))) {
                    counters.refused(Refusal::Stalled);
                }
                !shutdown.is_cancelled() && sent.is_ok()
            };
            let mut since = Since::new(&store, &*plan, &mut send);
            let told = what(&mut since);
            (told, since.missed, since.gone)
        });
        match told.await {
            Ok((Ok(()), missed, gone)) => {
                self.missed = self.missed.saturating_add(missed);
                !gone
            }
            Ok((Err(error), ..)) => {
                // The stream ends, and whoever calls again goes on from there.
                tracing::error!(%error, "a caller that follows new flows cannot be told of them");
                false
            }
            Err(_) => false,
        }
    }
}
