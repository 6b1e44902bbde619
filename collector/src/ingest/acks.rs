//! What is said to an agent, above all what of its entries is durable.

use std::collections::HashMap;

use gnomon_clock::EpochId;
use gnomon_flow::EpochHash;
use gnomon_proto::v1;
use tokio::sync::mpsc;
use tonic::Status;

use super::committer::Answer;
use crate::fleet::{Received, Tally};
use crate::store::Store;

/// Epochs of a session that are acknowledged and not settled, and are followed until they are.
const EPOCHS_MAX: usize = 1024;

pub(super) type Outbound = mpsc::Sender<Result<v1::CollectorMessage, Status>>;

pub(super) fn reply(body: v1::collector_message::Body) -> v1::CollectorMessage {
    v1::CollectorMessage { body: Some(body) }
}

pub(super) fn ack(store: &Store, epoch: &EpochId, seq: u64) -> v1::Ack {
    let settled_seq = Some(store.settled_seq(EpochHash::of(epoch), seq));
    v1::Ack { epoch: Some(epoch.into()), seq, settled_seq }
}

/// Say what is durable: one acknowledgement an epoch for all that became so together. It is said again when more of it is
/// settled.
pub(super) async fn acknowledge(
    mut answered: mpsc::UnboundedReceiver<Answer>,
    outbound: Outbound,
    tally: Tally,
    store: Store,
) {
    let mut settling = store.settling();
    // Acknowledged and not settled, with what was said to be.
    let mut unsettled: HashMap<EpochId, v1::Ack> = HashMap::new();
    loop {
        let first = tokio::select! {
            first = answered.recv() => first,
            Ok(()) = settling.changed() => {
                let mut settled = Vec::new();
                unsettled.retain(|epoch, said| {
                    let now = ack(&store, epoch, said.seq);
                    if now != *said {
                        settled.push(now.clone());
                        *said = now;
                    }
                    said.settled_seq < Some(said.seq)
                });
                for now in settled {
                    // As below.
                    let _ = outbound.send(Ok(reply(v1::collector_message::Body::Ack(now)))).await;
                }
                continue;
            }
        };
        let Some(first) = first else { return };
        let mut acks: HashMap<EpochId, u64> = HashMap::new();
        let mut received = Received::default();
        let mut windows = Vec::new();
        let mut next = Some(first);
        while let Some(Answer { epoch, entry, committed, window }) = next {
            received.flows += committed.records;
            received.packets += committed.packets;
            received.stale += committed.stale;
            received.duplicate += u64::from(committed.duplicate);
            received.bad += u64::from(committed.refused);
            if let Some(seq) = committed.durable_seq.filter(|_| entry) {
                let acked = acks.entry(epoch).or_default();
                *acked = seq.max(*acked);
            }
            windows.push(window);
            next = answered.try_recv().ok();
        }
        tally.received(&received);
        for (epoch, seq) in acks {
            let ack = ack(&store, &epoch, seq);
            if ack.settled_seq < Some(seq) {
                if unsettled.len() >= EPOCHS_MAX && !unsettled.contains_key(&epoch) {
                    // The agent keeps what it has of them, until it comes again.
                    unsettled.clear();
                }
                unsettled.insert(epoch, ack.clone());
            }
            let message = reply(v1::collector_message::Body::Ack(ack));
            // Once the agent is gone, what was under way still counts.
            let _ = outbound.send(Ok(message)).await;
        }
    }
}
