//! A flow record: what is known of one segment of a flow when it is exported.

use gnomon_clock::RawNs;

use crate::attribute::Attributes;
use crate::id::FlowId;
use crate::key::{Addresses, FlowKey};

/// Why a record was closed (IPFIX flowEndReason, RFC 5102 section 5.11.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowEndReason {
    /// No packet for the idle timeout.
    Idle,
    /// The active timeout: the flow goes on in the next segment.
    Active,
    /// The end was seen: FINs acknowledged or a reset.
    EndOfFlow,
    /// The agent stopped, its capture file ended, or its epoch did.
    Forced,
    /// The table was full and this flow made room.
    LackOfResources,
}

impl FlowEndReason {
    pub const ALL: [FlowEndReason; 5] = [
        FlowEndReason::Idle,
        FlowEndReason::Active,
        FlowEndReason::EndOfFlow,
        FlowEndReason::Forced,
        FlowEndReason::LackOfResources,
    ];

    pub fn name(self) -> &'static str {
        match self {
            FlowEndReason::Idle => "idle",
            FlowEndReason::Active => "active",
            FlowEndReason::EndOfFlow => "end-of-flow",
            FlowEndReason::Forced => "forced",
            FlowEndReason::LackOfResources => "lack-of-resources",
        }
    }
}

/// Where a TCP connection stood when the record was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TcpState {
    /// No handshake was seen: the capture began in the middle.
    #[default]
    Midstream,
    SynSent,
    SynReceived,
    Established,
    /// One side has sent FIN.
    Closing,
    /// Both FINs were acknowledged.
    Closed,
    Reset,
}

impl TcpState {
    pub const ALL: [TcpState; 7] = [
        TcpState::Midstream,
        TcpState::SynSent,
        TcpState::SynReceived,
        TcpState::Established,
        TcpState::Closing,
        TcpState::Closed,
        TcpState::Reset,
    ];

    pub fn name(self) -> &'static str {
        match self {
            TcpState::Midstream => "midstream",
            TcpState::SynSent => "syn-sent",
            TcpState::SynReceived => "syn-received",
            TcpState::Established => "established",
            TcpState::Closing => "closing",
            TcpState::Closed => "closed",
            TcpState::Reset => "reset",
        }
    }
}

/// Why the packets of a flow could not be decoded further. Such packets are a flow of their own, never lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DecodeProblem {
    /// The frame is shorter than its link-layer header.
    TruncatedLink,
    /// The frame ends inside the IP header.
    TruncatedNetwork,
    /// The frame ends inside the transport header.
    TruncatedTransport,
    /// A header field contradicts another (version, header length, total length).
    Malformed,
    /// More VLAN tags, extension headers or tunnels than are followed.
    TooDeep,
    /// A link type that is stored but not decoded.
    UnknownLink,
    /// An EtherType that is not read, or encrypted content: the field `ethertype` says which.
    Undecoded,
}

impl DecodeProblem {
    pub const ALL: [DecodeProblem; 7] = [
        DecodeProblem::TruncatedLink,
        DecodeProblem::TruncatedNetwork,
        DecodeProblem::TruncatedTransport,
        DecodeProblem::Malformed,
        DecodeProblem::TooDeep,
        DecodeProblem::UnknownLink,
        DecodeProblem::Undecoded,
    ];

    pub fn name(self) -> &'static str {
        match self {
            DecodeProblem::TruncatedLink => "truncated-link",
            DecodeProblem::TruncatedNetwork => "truncated-network",
            DecodeProblem::TruncatedTransport => "truncated-transport",
            DecodeProblem::Malformed => "malformed",
            DecodeProblem::TooDeep => "too-deep",
            DecodeProblem::UnknownLink => "unknown-link",
            DecodeProblem::Undecoded => "undecoded",
        }
    }
}

/// What went one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectionCounters {
    pub packets: u64,
    /// Bytes on the wire with the link-layer header, without preamble and FCS.
    pub bytes: u64,
    /// Bytes by the IP header's own length (0 for what is not IP).
    pub ip_bytes: u64,
    /// Payload above the transport header: TCP sequence space without retransmissions, UDP length − 8.
    pub data_bytes: u64,
    /// Packets that were IP fragments (the first included).
    pub fragments: u64,
    /// Smallest and largest TTL or hop limit; `None` for what is not IP.
    pub ttl: Option<(u8, u8)>,
    /// Source MAC address of the first packet that way.
    pub mac: Option<[u8; 6]>,
}

/// What the TCP headers said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpSummary {
    pub state: TcpState,
    /// Packets with FIN, SYN (without ACK), RST, PSH, ACK, URG, ECE, CWR, in the order of the flag bits.
    pub flags: [u32; 8],
    /// Packets with SYN and ACK.
    pub syn_ack: u32,
    /// The flags that any packet of the originator and of the responder had, by their bits in the header (RFC 9293
    /// section 3.1); both 0 where an agent of before them made the record.
    pub of_side: [u8; 2],
    /// From the originator's SYN to its first ACK of the SYN-ACK: the round trip over the whole path.
    pub rtt_ns: Option<u64>,
    /// Packets that repeated sequence space already seen.
    pub retransmissions: u32,
}

/// One segment of a flow. A flow longer than the active timeout has several, each with its own first time and its own
/// counters. `end == None` marks an interim record: a preview of an open segment, replaced by the next record of the
/// same flow and segment.
/// The default is a record of no packets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FlowRecord {
    pub id: FlowId,
    pub segment: u32,
    /// Counts the records made of this segment; of two with one id the higher revision holds.
    pub revision: u32,
    pub key: FlowKey,
    pub first: RawNs,
    pub last: RawNs,
    /// The largest stamp error of the packets.
    pub stamp_err_ns: u32,
    pub orig: DirectionCounters,
    pub resp: DirectionCounters,
    pub tcp: Option<TcpSummary>,
    /// ICMP or ICMPv6 type and code of the first packet.
    pub icmp: Option<(u8, u8)>,
    /// The capture began mid-stream or after the first packet: who began is a guess.
    pub direction_guessed: bool,
    /// gnomon's own traffic (see [`crate::OwnStreams`]): counted, its packets are not kept.
    pub own_uplink: bool,
    pub problem: Option<DecodeProblem>,
    /// Packets of this segment that were put into slices, and their bytes kept.
    pub sliced_packets: u64,
    pub sliced_bytes: u64,
    pub end: Option<FlowEndReason>,
    pub attributes: Attributes,
}

impl FlowRecord {
    pub fn packets(&self) -> u64 {
        self.orig.packets.saturating_add(self.resp.packets)
    }

    pub fn bytes(&self) -> u64 {
        self.orig.bytes.saturating_add(self.resp.bytes)
    }

    /// The MAC addresses of both sides: those that the flow is told by, or those seen beside IP addresses.
    pub fn macs(&self) -> (Option<[u8; 6]>, Option<[u8; 6]>) {
        match self.key.addresses {
            Addresses::Mac { orig, resp } => (Some(orig), Some(resp)),
            _ => (self.orig.mac, self.resp.mac),
        }
    }

    pub fn is_interim(&self) -> bool {
        self.end.is_none()
    }
}
