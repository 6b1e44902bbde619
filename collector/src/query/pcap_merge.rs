//! Blocks of packets as one file in order of time.
//!
//! A merge of as many ways as blocks overlap: a block is read when its first packet is due, and let go when its last was
//! written, so memory holds what overlaps in time and not the file. A few threads read and decompress ahead of the merge,
//! each every so many blocks, so that the merge takes them in their order.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use gnomon_clock::UtcNs;
use gnomon_flow::slice::{self, PACKET_HEADER_BYTES};

use super::execute::{QueryError, joined};
use super::memory::Charge;
use super::pcap_export::{Block, Chosen, PacketsMissing, PcapPiece, PcapSummary, Sending, when};
use super::pcap_file::{PcapFile, PcapFormat, PcapPacket};
use super::places::Place;
use crate::store::{BlockReader, SegmentError, StoreError};

/// Threads that read ahead.
const LOADERS: usize = 2;
/// Blocks that each of them is ahead.
const AHEAD: usize = 4;
/// Bytes of blocks that wait for their turn; beyond it blocks are read late, and the order may suffer.
const WAITING_BYTES_MAX: usize = if cfg!(test) { 4 << 20 } else { 256 << 20 };
/// Packets of a record that is no older may be on their way: an agent closes blocks of packets within seconds.
const ON_ITS_WAY_NS: i64 = 30_000_000_000;
/// Bytes of the file handed over at once.
const CHUNK_BYTES: usize = 256 << 10;

/// A packet that waits for its turn; its bytes are in its block.
#[derive(Clone, Copy)]
struct Due {
    utc: UtcNs,
    at: u32,
    len: u32,
    original_len: u32,
    err_ns: u32,
    interface: u32,
    /// Of the flow.
    number: u32,
    linktype: u16,
    outgoing: bool,
    proven: bool,
}

/// What is wanted of one block, in order of time.
#[derive(Default)]
struct Loaded {
    bytes: Vec<u8>,
    packets: Vec<Due>,
    gone: bool,
    damaged: bool,
}

/// A block in the merge.
struct Turn {
    /// When the packet `next` was.
    utc: UtcNs,
    number: usize,
    next: usize,
    loaded: Loaded,
}

impl Loaded {
    /// What it takes in memory.
    fn held_bytes(&self) -> usize {
        self.bytes.capacity() + self.packets.capacity() * size_of::<Due>()
    }
}

impl PartialEq for Turn {
    fn eq(&self, other: &Turn) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Turn {}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Turn) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The greatest is the one whose packet is the oldest.
impl Ord for Turn {
    fn cmp(&self, other: &Turn) -> Ordering {
        (other.utc, other.number).cmp(&(self.utc, self.number))
    }
}

/// What could not be given, counted.
#[derive(Default)]
struct Missing {
    gone: u64,
    damaged: u64,
    unproven: u64,
    other_linktype: u64,
    late: u64,
}

impl Missing {
    fn reasons(&self) -> impl Iterator<Item = String> {
        [
            (self.gone, "blocks of packets were given up for space"),
            (self.damaged, "blocks of packets are damaged"),
            (self.unproven, "packets have no proven time and stand where their flow or its ingest puts them"),
            (
                self.other_linktype,
                "packets have another link type than the first, which pcap cannot hold: take pcapng",
            ),
            (self.late, "packets may be out of order: more overlap in time than fit in memory"),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
    }
}

/// Write the file. Ends early when the caller goes away.
// By value: it ends with the download.
#[allow(clippy::needless_pass_by_value)]
pub(super) fn send(chosen: Chosen, format: PcapFormat, packets_max: u64, sending: &Sending, place: Place) {
    let merged = std::thread::scope(|scope| {
        let mut loaders = Vec::with_capacity(LOADERS);
        for loader in 0..LOADERS.min(chosen.blocks.len()) {
            let (sender, receiver) = sync_channel(AHEAD);
            let chosen = &chosen;
            let work = move || load_every(chosen, loader, &sender);
            match std::thread::Builder::new().name("export".to_owned()).spawn_scoped(scope, work) {
                Ok(_) => loaders.push(receiver),
                Err(error) => {
                    return Err(
                        StoreError::Directory { path: chosen.store.dir().to_owned(), source: error }.into()
                    );
                }
            }
        }
        let loads = Loads { chosen: &chosen, loaders, next: 0 };
        merge(&chosen, loads, format, packets_max, sending)
    });
    if let Err(error) = merged {
        sending.send(Err(error));
    }
    drop(place);
}

type Load = Result<Loaded, QueryError>;

/// Every so manieth block, from `loader` on, until the receiver is gone.
fn load_every(chosen: &Chosen, loader: usize, sender: &SyncSender<Load>) {
    let mut reader = match chosen.store.block_reader() {
        Ok(reader) => reader,
        Err(error) => {
            let _ = sender.send(Err(error.into()));
            return;
        }
    };
    for block in chosen.blocks.iter().skip(loader).step_by(LOADERS) {
        let loaded = load(chosen, block, &mut reader);
        let failed = loaded.is_err();
        if sender.send(loaded).is_err() || failed {
            return;
        }
    }
}

/// The blocks in their order, as the loaders bring them.
struct Loads<'a> {
    chosen: &'a Chosen,
    loaders: Vec<Receiver<Load>>,
    next: usize,
}

impl Loads<'_> {
    /// When the next block's first packet was.
    fn due(&self) -> Option<UtcNs> {
        self.chosen.blocks.get(self.next).map(|block| block.start)
    }

    fn take(&mut self) -> Load {
        let loader = self.loaders.get(self.next % LOADERS).ok_or(QueryError::Fault)?;
        self.next += 1;
        loader.recv().map_err(|_| QueryError::Fault)?
    }
}

fn merge(
    chosen: &Chosen,
    mut loads: Loads<'_>,
    format: PcapFormat,
    packets_max: u64,
    sending: &Sending,
) -> Result<(), QueryError> {
    let mut file = PcapFile::new(format, chosen.comment());
    let mut missing = Missing::default();
    let mut turns: BinaryHeap<Turn> = BinaryHeap::new();
    let mut waiting_bytes = 0usize;
    // A block more is read late rather than kept without room for it.
    let (mut charge, mut crowded) = (Charge::default(), false);
    let mut packets = 0u64;
    let mut of_flow = vec![0u32; chosen.flows.len()];
    let mut time_err_ns_max = chosen.found.time_err_ns_max;
    let mut last = UtcNs::MIN;
    let mut cut = false;
    loop {
        // Every block whose first packet is due before the first that waits.
        while let Some(due) = loads.due() {
            let is_due = turns.peek().is_none_or(|turn| due <= turn.utc);
            if !is_due || ((crowded || waiting_bytes >= WAITING_BYTES_MAX) && !turns.is_empty()) {
                break;
            }
            let (number, loaded) = (loads.next, loads.take()?);
            missing.gone += u64::from(loaded.gone);
            missing.damaged += u64::from(loaded.damaged);
            if let Some(first) = loaded.packets.first() {
                waiting_bytes += loaded.held_bytes();
                crowded = !charge.resize(&chosen.memory, waiting_bytes);
                turns.push(Turn { utc: first.utc, number, next: 0, loaded });
            }
        }
        let Some(mut turn) = turns.peek_mut() else { break };
        let Some(packet) = turn.loaded.packets.get(turn.next).copied() else { break };
        if packets_max > 0 && packets >= packets_max {
            cut = true;
            break;
        }
        missing.late += u64::from(packet.utc < last);
        last = last.max(packet.utc);
        let (from, to) = (packet.at as usize, packet.at as usize + packet.len as usize);
        let name = chosen.interfaces.get(packet.interface as usize).map_or("", String::as_str);
        let written = file.write(&PcapPacket {
            unix_ns: u64::try_from(packet.utc.unix_ns()).unwrap_or(0),
            interface: packet.interface,
            interface_name: name,
            linktype: packet.linktype,
            original_len: packet.original_len,
            outgoing: packet.outgoing,
            data: turn.loaded.bytes.get(from..to).unwrap_or_default(),
        });
        packets += u64::from(written);
        if let Some(count) = of_flow.get_mut(packet.number as usize) {
            *count = count.saturating_add(1);
        }
        missing.other_linktype += u64::from(!written);
        missing.unproven += u64::from(!packet.proven && written);
        time_err_ns_max = time_err_ns_max.max(u64::from(packet.err_ns));
        let next = turn.next + 1;
        match turn.loaded.packets.get(next).map(|following| following.utc) {
            Some(utc) => {
                turn.next = next;
                turn.utc = utc;
            }
            None => {
                waiting_bytes -= turn.loaded.held_bytes();
                crowded = !charge.resize(&chosen.memory, waiting_bytes);
                PeekMut::pop(turn);
            }
        }
        if file.out.len() >= CHUNK_BYTES {
            let room = Vec::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 4);
            let data = std::mem::replace(&mut file.out, room).into();
            if !sending.send(Ok(PcapPiece::Data(data))) {
                return Ok(());
            }
        }
    }
    // The loaders need not go on.
    drop(loads);
    let mut reasons = chosen.reasons.clone();
    let packets_missing = if cut { PacketsMissing::default() } else { not_given(chosen, &of_flow, &missing) };
    reasons.extend(packets_missing.words(chosen.found.packets_kept));
    reasons.extend(missing.reasons());
    if cut {
        reasons.push(format!("there are more than the {packets_max} packets asked for"));
    }
    let partial = joined(&reasons);
    let whole = partial.as_deref().map_or("whole", |_| "not whole: ");
    let on_their_way = match packets_missing.not_yet {
        0 => String::new(),
        packets => format!("; {packets} packets may be on their way"),
    };
    file.finish(&format!(
        "{packets} packets of {} flows, {whole}{}{on_their_way}",
        chosen.found.flows,
        partial.as_deref().unwrap_or_default()
    ));
    let data = std::mem::take(&mut file.out).into();
    if sending.send(Ok(PcapPiece::Data(data))) {
        let end = PcapSummary {
            packets,
            missing: packets_missing,
            partial,
            time_err_ns_max,
            ..chosen.found.clone()
        };
        sending.send(Ok(PcapPiece::End(end)));
    }
    Ok(())
}

/// What records say was kept, and was not there.
fn not_given(chosen: &Chosen, of_flow: &[u32], missing: &Missing) -> PacketsMissing {
    let mut not_given = PacketsMissing::default();
    let now = chosen.store.now().utc;
    let has_deleted = chosen.store.has_deleted_packets();
    for wanted in chosen.flows.values() {
        let given = of_flow.get(wanted.number as usize).copied().unwrap_or(0);
        let short = wanted.kept.saturating_sub(u64::from(given));
        if short == 0 {
            continue;
        }
        let is_new = now.minus(wanted.fallback.1) < ON_ITS_WAY_NS;
        if is_new {
            not_given.not_yet += short;
        } else if missing.damaged > 0 {
            not_given.damaged += short;
        } else if has_deleted || missing.gone > 0 {
            not_given.expired += short;
        } else {
            not_given.never_came += short;
        }
    }
    not_given
}

/// The wanted packets of a block.
fn load(chosen: &Chosen, block: &Block, reader: &mut BlockReader<'_>) -> Load {
    let mut loaded = Loaded::default();
    match reader.read(&block.at, &mut loaded.bytes) {
        Ok(()) => {}
        Err(SegmentError::Gone { .. }) => return Ok(Loaded { gone: true, ..Loaded::default() }),
        Err(SegmentError::Damaged { .. }) => return Ok(Loaded { damaged: true, ..Loaded::default() }),
        Err(error) => return Err(StoreError::from(error).into()),
    }
    let mut at = 0usize;
    let mut wanted_bytes = 0usize;
    // Packets of a flow often follow one another.
    let mut last = None;
    for packet in slice::packets(&loaded.bytes) {
        let Ok(packet) = packet else {
            loaded.damaged = true;
            break;
        };
        let data_at = at + PACKET_HEADER_BYTES;
        at = data_at + packet.data.len();
        let wanted = match last {
            Some((flow, wanted)) if flow == packet.flow => wanted,
            _ => chosen.flows.get(&(block.epoch, packet.flow)),
        };
        last = Some((packet.flow, wanted));
        let Some(wanted) = wanted.filter(|wanted| wanted.has(packet.raw)) else { continue };
        let (utc, proven) = when(&chosen.store, block.epoch, packet.raw, wanted.fallback)?;
        wanted_bytes += packet.data.len();
        loaded.packets.push(Due {
            utc,
            at: data_at as u32,
            len: packet.data.len() as u32,
            original_len: packet.original_len,
            err_ns: packet.err_ns,
            interface: wanted.interface,
            number: wanted.number,
            linktype: packet.linktype,
            outgoing: packet.outgoing,
            proven,
        });
    }
    if wanted_bytes < loaded.bytes.len() / 2 {
        // What nobody wants must not wait along.
        let mut bytes = Vec::with_capacity(wanted_bytes);
        for packet in &mut loaded.packets {
            let from = packet.at as usize;
            packet.at = bytes.len() as u32;
            bytes.extend_from_slice(loaded.bytes.get(from..from + packet.len as usize).unwrap_or_default());
        }
        loaded.bytes = bytes;
    }
    // Those of one time in the order they were captured in.
    if !loaded.packets.is_sorted_by_key(|packet| packet.utc) {
        loaded.packets.sort_by_key(|packet| packet.utc);
    }
    Ok(loaded)
}
