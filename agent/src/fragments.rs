//! Which flow a fragment belongs to, and whole datagrams for inspection.
//!
//! Only a datagram's first fragment has the ports (or the tunnelled packet) that make its flow. What it says is remembered
//! for the others, by address pair, protocol and identification, within the VLAN or overlay network. A fragment that comes
//! before the first one is held back, with its own time stamp, until that comes or [`HOLD_NS`] are over; then it is counted
//! by address pair and protocol, with ports 0. So every fragment is in exactly one record, and one whose first fragment
//! never comes is still visible.
//!
//! The payload of UDP datagrams is put together and inspected once it is whole. **A datagram whose fragments overlap is
//! counted and not inspected** (RFC 5722 forbids them; what receivers make of them differs). Fragments of TCP go into
//! their stream by their place in it.
//!
//! Bounds: [`DATAGRAMS_MAX`] datagrams for [`REMEMBERED_NS`], [`HELD_BYTES_MAX`] for everything that is copied. Time is the
//! packets' own. A packet that is no fragment never comes here.

use std::collections::{HashMap, VecDeque};

use gnomon_capture::{Frame, LinkType, Stamp, VlanTag};
use gnomon_clock::RawNs;
use gnomon_flow::FlowKey;

use crate::decode::{self, Fragment, Packet, Piece, TcpHeader};

/// Datagrams that are under way at once. When there are more, the oldest is forgotten.
pub(crate) const DATAGRAMS_MAX: usize = 4096;
/// Bytes of frames held back and of payload kept for inspection, together.
pub(crate) const HELD_BYTES_MAX: usize = 8 << 20;
/// Copies of one datagram; the smallest datagram that an IPv6 host must take in has far fewer.
const COPIES_MAX: usize = 64;
/// What a copy takes beside its bytes.
const COPY_OVERHEAD: usize = 96;
/// How long a fragment waits for the first one.
const HOLD_NS: u64 = 1_000_000_000;
/// How long a first fragment speaks for the others (Linux reassembles for as long).
const REMEMBERED_NS: u64 = 30_000_000_000;

/// Cumulative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FragmentStats {
    /// Fragments that came before the first one of their datagram and waited for it.
    pub held: u64,
    /// Of those, how many waited in vain.
    pub orphaned: u64,
    /// Datagrams put together and inspected.
    pub assembled: u64,
    /// Datagrams with fragments that overlap.
    pub overlapping: u64,
}

impl FragmentStats {
    pub const COUNT: usize = 4;

    /// Each with the label of a metric.
    pub fn named(&self) -> [(&'static str, u64); FragmentStats::COUNT] {
        [
            ("held", self.held),
            ("orphaned", self.orphaned),
            ("assembled", self.assembled),
            ("overlapping", self.overlapping),
        ]
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct DatagramKey {
    source: [u8; 16],
    destination: [u8; 16],
    id: u32,
    scope: u32,
    /// 0 for IPv6, whose identification is enough (RFC 8200 section 4.5).
    protocol: u8,
}

#[derive(Debug)]
struct Datagram {
    begun: RawNs,
    first: First,
    copies: Vec<Copy>,
    /// Bytes seen, and where the last fragment ends.
    have: u32,
    total: Option<u32>,
    /// Not, or no longer, put together.
    given_up: bool,
}

/// What is known of the first fragment.
#[derive(Debug)]
enum First {
    /// Those that came before it wait.
    Awaited(Vec<HeldFrame>),
    /// It has not come in time.
    Missing,
    Seen(Leader),
}

/// What a first fragment says about the others.
#[derive(Clone, Copy, Debug)]
struct Leader {
    key: FlowKey,
    network_id: u32,
    is_wrapped: bool,
    /// The number of the first byte of a TCP segment's payload.
    tcp_seq: Option<u32>,
    /// Where in the datagram the innermost payload begins.
    payload_at: u32,
}

/// Payload of a fragment by its place in the datagram.
#[derive(Debug)]
struct Copy {
    at: u32,
    bytes: Box<[u8]>,
}

/// A frame that waits.
#[derive(Debug)]
pub(crate) struct HeldFrame {
    stamp: Stamp,
    link: LinkType,
    original_len: u32,
    vlan: Option<VlanTag>,
    outgoing: bool,
    data: Box<[u8]>,
}

impl HeldFrame {
    fn of(frame: &Frame<'_>) -> HeldFrame {
        let Frame { stamp, link, original_len, data, vlan, outgoing } = *frame;
        HeldFrame { stamp, link, original_len, vlan, outgoing, data: data.into() }
    }

    pub(crate) fn frame(&self) -> Frame<'_> {
        let HeldFrame { stamp, link, original_len, vlan, outgoing, data } = self;
        Frame {
            stamp: *stamp,
            link: *link,
            original_len: *original_len,
            data,
            vlan: *vlan,
            outgoing: *outgoing,
        }
    }
}

/// What is to be done with a fragment.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It is counted now, as it was decoded or as [`Fragments::take`] has made it.
    Count,
    /// It is kept until more is known.
    Hold,
}

#[derive(Debug, Default)]
pub(crate) struct Fragments {
    datagrams: HashMap<DatagramKey, Datagram>,
    /// All of them, the oldest first.
    order: VecDeque<(RawNs, DatagramKey)>,
    /// Those of them that had frames waiting, in the same order.
    awaited: VecDeque<(RawNs, DatagramKey)>,
    held_bytes: usize,
    stats: FragmentStats,
}

impl Fragments {
    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    pub(crate) fn stats(&self) -> FragmentStats {
        self.stats
    }

    /// Takes note of a fragment, and gives it the key of its datagram's flow. Frames that waited for it are put into
    /// `released`, in the order they came in: they are to be decoded, given to [`Fragments::join`] and counted after it.
    pub(crate) fn take(
        &mut self,
        frame: &Frame<'_>,
        packet: &mut Packet<'_>,
        released: &mut Vec<HeldFrame>,
    ) -> Verdict {
        let Some((key, piece)) = datagram_key(frame) else { return Verdict::Count };
        let now = frame.stamp.raw;
        if !self.datagrams.contains_key(&key) {
            if self.order.len() >= DATAGRAMS_MAX {
                self.forget_oldest(released);
            }
            self.order.push_back((now, key));
            let first = First::Missing;
            let datagram =
                Datagram { begun: now, first, copies: Vec::new(), have: 0, total: None, given_up: false };
            self.datagrams.insert(key, datagram);
            if packet.fragment == Fragment::Later && self.hold(&key, frame, true) {
                return Verdict::Hold;
            }
        }
        if packet.fragment == Fragment::First {
            self.lead(&key, &piece, packet, released);
            return Verdict::Count;
        }
        if self.hold(&key, frame, false) {
            return Verdict::Hold;
        }
        self.join_known(&key, &piece, packet);
        Verdict::Count
    }

    /// Gives a fragment that waited the key of its datagram's flow, if that is known by now.
    pub(crate) fn join(&mut self, frame: &Frame<'_>, packet: &mut Packet<'_>) {
        if let Some((key, piece)) = datagram_key(frame) {
            self.join_known(&key, &piece, packet);
        }
    }

    /// The whole payload of the datagram that the frame has the last missing fragment of.
    pub(crate) fn whole(&mut self, frame: &Frame<'_>) -> Option<Vec<u8>> {
        let datagram = self.datagrams.get_mut(&datagram_key(frame)?.0)?;
        let First::Seen(leader) = &datagram.first else { return None };
        let total = datagram.total?;
        if datagram.given_up || datagram.have < total {
            return None;
        }
        datagram.given_up = true;
        let mut copies = std::mem::take(&mut datagram.copies);
        self.held_bytes -= cost(&copies);
        copies.sort_by_key(|copy| copy.at);
        let mut whole = Vec::with_capacity(total.saturating_sub(leader.payload_at) as usize);
        let mut next = leader.payload_at;
        for Copy { at, bytes } in &copies {
            if *at != next {
                self.stats.overlapping += 1;
                return None;
            }
            whole.extend_from_slice(bytes);
            next = next.saturating_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        }
        self.stats.assembled += 1;
        (next == total).then_some(whole)
    }

    /// It is `now`: frames that waited long enough are put into `released`, and old datagrams are forgotten.
    pub(crate) fn expire(&mut self, now: RawNs, released: &mut Vec<HeldFrame>) {
        while let Some((since, key)) = self.awaited.front().copied()
            && now.since(since) >= HOLD_NS
        {
            self.awaited.pop_front();
            self.give_up_waiting(&key, since, released);
        }
        while let Some((since, _)) = self.order.front()
            && now.since(*since) >= REMEMBERED_NS
        {
            self.forget_oldest(released);
        }
    }

    /// Everything that waits, at the end.
    pub(crate) fn release_all(&mut self, released: &mut Vec<HeldFrame>) {
        while !self.order.is_empty() {
            self.forget_oldest(released);
        }
        self.awaited.clear();
    }

    fn forget_oldest(&mut self, released: &mut Vec<HeldFrame>) {
        let Some((since, key)) = self.order.pop_front() else { return };
        if self.awaited.front() == Some(&(since, key)) {
            self.awaited.pop_front();
        }
        self.give_up_waiting(&key, since, released);
        if let Some(datagram) = self.datagrams.remove(&key) {
            self.held_bytes -= cost(&datagram.copies);
        }
    }

    fn give_up_waiting(&mut self, key: &DatagramKey, since: RawNs, released: &mut Vec<HeldFrame>) {
        let Some(datagram) = self.datagrams.get_mut(key).filter(|datagram| datagram.begun == since) else {
            return;
        };
        if let First::Awaited(frames) = &mut datagram.first {
            let frames = std::mem::take(frames);
            datagram.first = First::Missing;
            self.held_bytes -= frames.iter().map(|frame| frame.data.len() + COPY_OVERHEAD).sum::<usize>();
            self.stats.orphaned += frames.len() as u64;
            released.extend(frames);
        }
    }

    /// Keep a fragment until the first one comes: the one that `begins` a datagram, and what follows it.
    fn hold(&mut self, key: &DatagramKey, frame: &Frame<'_>, begins: bool) -> bool {
        let Some(datagram) = self.datagrams.get_mut(key) else { return false };
        let bytes = frame.data.len() + COPY_OVERHEAD;
        if self.held_bytes + bytes > HELD_BYTES_MAX {
            return false;
        }
        if begins {
            datagram.first = First::Awaited(Vec::new());
            self.awaited.push_back((datagram.begun, *key));
        }
        let First::Awaited(frames) = &mut datagram.first else { return false };
        if frames.len() >= COPIES_MAX {
            return false;
        }
        frames.push(HeldFrame::of(frame));
        self.held_bytes += bytes;
        self.stats.held += 1;
        true
    }

    /// A first fragment: of this datagram, or of the next one with the same identification.
    fn lead(&mut self, key: &DatagramKey, piece: &Piece, packet: &Packet<'_>, released: &mut Vec<HeldFrame>) {
        let Some(datagram) = self.datagrams.get_mut(key) else { return };
        if let First::Awaited(frames) = &mut datagram.first {
            self.held_bytes -= frames.iter().map(|frame| frame.data.len() + COPY_OVERHEAD).sum::<usize>();
            released.append(frames);
        }
        self.held_bytes -= cost(&datagram.copies);
        datagram.copies.clear();
        datagram.have = 0;
        datagram.total = None;
        if !packet.key_complete {
            // Too short for the ports: the others cannot be helped.
            datagram.first = First::Missing;
            return;
        }
        let payload_at = packet.header_len.saturating_sub(piece.data_at);
        let leader = Leader {
            key: packet.key,
            network_id: packet.network_id,
            is_wrapped: packet.is_wrapped,
            tcp_seq: packet.tcp.map(|tcp| tcp.seq.wrapping_add(u32::from(tcp.has(TcpHeader::SYN)))),
            payload_at,
        };
        datagram.first = First::Seen(leader);
        datagram.given_up = packet.key.protocol != decode::UDP;
        self.keep(key, piece, payload_at, packet);
    }

    fn join_known(&mut self, key: &DatagramKey, piece: &Piece, packet: &mut Packet<'_>) {
        let Some(datagram) = self.datagrams.get(key) else { return };
        let First::Seen(leader) = datagram.first else { return };
        packet.key = leader.key;
        packet.network_id = leader.network_id;
        // Those of the packet around the flow's own.
        packet.is_wrapped = false;
        packet.ttl = packet.ttl.filter(|_| !leader.is_wrapped);
        let at = u32::from(piece.offset);
        packet.tcp = leader.tcp_seq.filter(|_| at >= leader.payload_at).map(|seq| TcpHeader {
            seq: seq.wrapping_add(at - leader.payload_at),
            ack: 0,
            flags: 0,
        });
        self.keep(key, piece, at, packet);
    }

    /// Keep a copy of the payload, which begins at `at` in the datagram, until all is there.
    fn keep(&mut self, key: &DatagramKey, piece: &Piece, at: u32, packet: &Packet<'_>) {
        let Some(datagram) = self.datagrams.get_mut(key).filter(|datagram| !datagram.given_up) else {
            return;
        };
        let end = u32::from(piece.offset).saturating_add(piece.data_bytes);
        // Again, from another place of the network.
        if datagram.copies.iter().any(|copy| copy.at == at && copy.bytes.len() == packet.payload.len()) {
            return;
        }
        datagram.have = datagram.have.saturating_add(piece.data_bytes);
        if !piece.more {
            datagram.total = Some(end);
        }
        let bytes = packet.payload.len() + COPY_OVERHEAD;
        let is_captured = packet.payload.len() == packet.payload_len as usize;
        let has_room = datagram.copies.len() < COPIES_MAX && self.held_bytes + bytes <= HELD_BYTES_MAX;
        if is_captured && has_room {
            self.held_bytes += bytes;
            datagram.copies.push(Copy { at, bytes: packet.payload.into() });
        } else {
            datagram.given_up = true;
            self.held_bytes -= cost(&datagram.copies);
            datagram.copies = Vec::new();
        }
    }
}

#[cfg(test)]
impl Fragments {
    /// And what is accounted for is what is there.
    pub(crate) fn is_within_bounds(&self) -> bool {
        let bytes: usize = self
            .datagrams
            .values()
            .map(|datagram| {
                cost(&datagram.copies)
                    + match &datagram.first {
                        First::Awaited(frames) => {
                            frames.iter().map(|frame| frame.data.len() + COPY_OVERHEAD).sum()
                        }
                        _ => 0,
                    }
            })
            .sum();
        bytes == self.held_bytes
            && bytes <= HELD_BYTES_MAX
            && self.datagrams.len() <= DATAGRAMS_MAX
            && self.order.len() == self.datagrams.len()
            && self.awaited.len() <= DATAGRAMS_MAX
    }
}

fn cost(copies: &[Copy]) -> usize {
    copies.iter().map(|copy| copy.bytes.len() + COPY_OVERHEAD).sum()
}

/// `None` where the address pair is all of the key anyway.
fn datagram_key(frame: &Frame<'_>) -> Option<(DatagramKey, Piece)> {
    let piece = decode::piece(frame)?;
    let Piece { id, scope, ip_at, .. } = piece;
    let header = frame.data.get(ip_at as usize..)?;
    let mut key = DatagramKey { source: [0; 16], destination: [0; 16], id, scope, protocol: 0 };
    if header.first()? >> 4 == 6 {
        let (source, rest) = header.get(8..)?.split_first_chunk::<16>()?;
        key.source = *source;
        key.destination = *rest.first_chunk::<16>()?;
        return Some((key, piece));
    }
    let header = header.first_chunk::<20>()?;
    key.protocol = header[9];
    key.source[..4].copy_from_slice(&header[12..16]);
    key.destination[..4].copy_from_slice(&header[16..20]);
    decode::may_hide_its_flow(key.protocol).then_some((key, piece))
}
