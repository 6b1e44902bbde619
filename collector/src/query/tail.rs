//! New flows as they arrive.

use std::sync::Arc;

use gnomon_expression::parse;
use gnomon_flow::StoredFlow;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use super::execute::{Queries, QueryError, Work};
use super::plan::Plan;

/// Records that wait for a caller; behind them the store's own queue waits, and then records are missed.
const QUEUE: usize = 256;

#[derive(Clone, Debug)]
pub struct TailItem {
    pub flow: Arc<StoredFlow>,
    /// Records this caller was too slow to be asked about, so far.
    pub missed: u64,
}

impl Queries {
    /// Matching records, new and changed, from now on, until the receiver is dropped or the collector stops. Relative
    /// times count from now.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn tail(&self, expression: &str) -> Result<mpsc::Receiver<TailItem>, QueryError> {
        let plan = Plan::new(&parse(expression)?, self.store.now().utc);
        let permit = self.permit(Work::Tail).await?;
        let mut changes = self.store.subscribe();
        let shutdown = self.shutdown.clone();
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            let _permit = permit;
            let mut missed = 0u64;
            loop {
                let change = tokio::select! {
                    change = changes.recv() => change,
                    () = sender.closed() => return,
                    () = shutdown.cancelled() => return,
                };
                match change {
                    Ok(flow) if plan.matches(&flow) => {
                        let sent = tokio::select! {
                            sent = sender.send(TailItem { flow, missed }) => sent.is_ok(),
                            () = shutdown.cancelled() => false,
                        };
                        if !sent {
                            return;
                        }
                    }
                    Ok(_) => {}
                    Err(RecvError::Lagged(count)) => missed = missed.saturating_add(count),
                    Err(RecvError::Closed) => return,
                }
            }
        });
        Ok(receiver)
    }
}
