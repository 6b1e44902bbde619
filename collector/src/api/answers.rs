//! What both doors say in the same words.

use gnomon_clock::UtcNs;
use gnomon_proto::v1;

use super::Api;
use crate::query::QueryError;
use crate::store::StoreError;

impl Api {
    /// What the store holds and what the time is worth.
    pub(super) fn status(&self) -> Result<v1::StatusResponse, StoreError> {
        let status = self.store.status()?;
        let now = self.store.now();
        Ok(v1::StatusResponse {
            version: self.version.clone(),
            flows: status.flows,
            flows_pending: status.flows_pending,
            flows_quarantined: status.flows_quarantined,
            slice_packets: status.slice_packets,
            slice_bytes: status.slice_bytes,
            disk_free_bytes: status.disk_free_bytes,
            oldest_flow_unix_ns: status.oldest_flow.map(UtcNs::unix_ns),
            newest_flow_unix_ns: status.newest_flow.map(UtcNs::unix_ns),
            oldest_packet_unix_ns: status.oldest_packet.map(UtcNs::unix_ns),
            now_unix_ns: now.utc.unix_ns(),
            now_err_ns: now.err_ns,
            clock_proven: now.proven,
            packets_bytes: status.slice_bytes.saturating_add(status.index_bytes),
            packets_bytes_max: status.packets_bytes_max,
            flows_bytes: status.flows_bytes,
            flows_bytes_max: status.flows_bytes_max,
            rate_over_s: status.rate.map(|rate| rate.over_s),
            packet_bytes_a_day: status.rate.map(|rate| rate.packet_bytes_a_day),
            flow_bytes_a_day: status.flow_bytes_a_day,
            packets_full_in_s: status.packets_full_in_s,
            flows_full_in_s: status.flows_full_in_s,
            damage: status.damage(),
            stopped: status.stopped,
        })
    }
}

/// When a caller that found no place or memory may try again, in seconds.
pub(super) const RETRY_AFTER_S: u64 = 1;

/// The kinds of failure that a caller can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    BadExpression,
    BadRequest,
    NotFound,
    /// Of places or of memory, for now.
    Busy,
    /// The question takes more memory than one may have.
    TooLarge,
    Cancelled,
    Cut,
    Internal,
}

impl Failure {
    pub(super) fn of(error: &QueryError) -> Failure {
        match error {
            QueryError::Expression(_) => Failure::BadExpression,
            QueryError::Invalid { .. } => Failure::BadRequest,
            QueryError::NotFound(_) => Failure::NotFound,
            QueryError::Busy { .. } | QueryError::NoMemory { .. } => Failure::Busy,
            QueryError::TooLarge { .. } => Failure::TooLarge,
            QueryError::Cancelled => Failure::Cancelled,
            QueryError::Cut(_) => Failure::Cut,
            QueryError::Store(_) | QueryError::Fault => Failure::Internal,
        }
    }

    /// The word in JSON.
    pub(super) fn code(self) -> &'static str {
        match self {
            Failure::BadExpression => "bad_expression",
            Failure::BadRequest => "bad_request",
            Failure::NotFound => "not_found",
            Failure::Busy => "busy",
            Failure::TooLarge => "too_large",
            Failure::Cancelled => "cancelled",
            Failure::Cut => "cut_short",
            Failure::Internal => "internal",
        }
    }
}
