//! When a flow is over for want of packets.

use gnomon_clock::RawNs;
use gnomon_flow::FlowEndReason;

use super::entry::Entry;
use super::{SECOND_NS, TableConfig};
use crate::decode::{ESP, ICMP, ICMPV6, SCTP, TCP, UDP};

/// After how long without a packet a flow has ended, in nanoseconds of the packets' time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdleTimeouts {
    pub tcp_ns: u64,
    pub udp_ns: u64,
    /// ICMP and ICMPv6.
    pub icmp_ns: u64,
    pub sctp_ns: u64,
    pub esp_ns: u64,
    pub other_ns: u64,
}

impl Default for IdleTimeouts {
    fn default() -> IdleTimeouts {
        IdleTimeouts {
            tcp_ns: 480 * SECOND_NS,
            udp_ns: 60 * SECOND_NS,
            icmp_ns: 60 * SECOND_NS,
            sctp_ns: 60 * SECOND_NS,
            esp_ns: 600 * SECOND_NS,
            other_ns: 60 * SECOND_NS,
        }
    }
}

/// When the flow is to be looked at next.
#[inline]
pub(super) fn deadline(config: &TableConfig, entry: &Entry) -> RawNs {
    let idle = entry.last.saturating_add(idle_ns(config, entry));
    entry.interim_due().map_or(idle, |due| due.min(idle))
}

#[inline]
pub(super) fn idle_ns(config: &TableConfig, entry: &Entry) -> u64 {
    match entry.key.protocol() {
        TCP if entry.tcp.is_closed() => config.linger_ns,
        TCP => config.idle.tcp_ns,
        UDP => config.idle.udp_ns,
        ICMP | ICMPV6 => config.idle.icmp_ns,
        SCTP => config.idle.sctp_ns,
        ESP => config.idle.esp_ns,
        _ => config.idle.other_ns,
    }
}

pub(super) fn ended_by_silence(entry: &Entry) -> FlowEndReason {
    if entry.tcp.is_closed() { FlowEndReason::EndOfFlow } else { FlowEndReason::Idle }
}
