//! Packets of chosen flows as one capture file, in order of time over all agents, as a stream.
//!
//! Two steps. First the flows are found, which bounds everything that follows: which blocks to read and how far wrong the
//! times may be. Then the blocks are merged by time: a block is read when its first packet is due, its wanted packets are
//! kept and the rest is let go, so memory holds what overlaps in time and not the file.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use gnomon_clock::{RawNs, UtcNs};
use gnomon_flow::{EpochHash, FlowId, FlowRef, StoredFlow, slice};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

use super::execute::{Queries, QueryError, TimeRange, Work, joined};
use super::pcap_file::{PcapFile, PcapFormat, PcapPacket};
use crate::store::{SegmentError, SliceLocation, Stop, Store, StoreError};

/// Records of one export; more are left out, and it says so.
const FLOWS_MAX: usize = 500_000;
/// Blocks of one export; likewise.
const BLOCKS_MAX: usize = 2_000_000;
/// Ids a caller may name.
pub const IDS_MAX: usize = 10_000;
/// Bytes of packets that wait for their turn; beyond it blocks are read late, and the order may suffer.
const WAITING_BYTES_MAX: usize = 256 << 20;
/// Bytes of the file handed over at once.
const CHUNK_BYTES: usize = 256 << 10;
/// A caller that takes nothing for so long is given up.
const STALLED: Duration = Duration::from_secs(60);
/// Epochs named in the file's comment.
const EPOCHS_NAMED: usize = 16;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PcapRequest {
    pub expression: String,
    pub range: TimeRange,
    /// Records by id; then expression and range are ignored.
    pub ids: Vec<FlowRef>,
    pub format: PcapFormat,
    /// 0: no limit.
    pub packets_max: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PcapSummary {
    pub packets: u64,
    pub flows: u64,
    /// No packet's time is wrong by more, as far as it is known.
    pub time_err_ns_max: u64,
    pub partial: Option<String>,
}

/// A piece of the file, or its end.
#[derive(Clone, Debug)]
pub enum PcapPiece {
    Data(Bytes),
    End(PcapSummary),
}

/// A file on its way.
pub struct PcapDownload {
    /// What is known before the first packet: flows, error, and why flows are missing.
    pub found: PcapSummary,
    /// Ends behind [`PcapPiece::End`]; an end without it is a broken file.
    pub pieces: mpsc::Receiver<Result<PcapPiece, QueryError>>,
}

/// The records found, and where their packets are.
struct Chosen {
    store: Store,
    flows: HashMap<(EpochHash, FlowId), Wanted>,
    interfaces: Vec<String>,
    interface_of: HashMap<String, u32>,
    /// By segment file and offset: a block holds packets of many flows.
    blocks: HashMap<(u32, u64), Block>,
    found: PcapSummary,
    reasons: Vec<String>,
    epochs: BTreeSet<String>,
}

/// What is wanted of one flow.
struct Wanted {
    /// First and last packet of each record, both included.
    segments: Vec<(RawNs, RawNs)>,
    interface: u32,
    /// A RAW reading and when it was, for want of evidence.
    fallback: (RawNs, UtcNs),
}

#[derive(Clone, Copy)]
struct Block {
    start: UtcNs,
    epoch: EpochHash,
    at: SliceLocation,
}

impl Queries {
    /// Find the flows and begin the file.
    ///
    /// # Errors
    /// See [`QueryError`]; [`QueryError::NotFound`] when none of the ids is there.
    pub async fn pcap(&self, request: PcapRequest) -> Result<PcapDownload, QueryError> {
        if request.ids.len() > IDS_MAX {
            let problem = format!("{} are more than {IDS_MAX}", request.ids.len());
            return Err(QueryError::invalid("ids", problem));
        }
        let permit = self.permit(Work::Download).await?;
        let chosen = if request.ids.is_empty() {
            let selection = self.selection(&request.expression, request.range)?;
            let store = self.store.clone();
            self.run(move |control| {
                let mut chosen = Chosen::new(store);
                let mut matches = selection.matches(false, control)?;
                while let Some(flow) = matches.next()? {
                    if !chosen.add(&flow)? {
                        break;
                    }
                }
                chosen.reasons.extend(matches.partial());
                Ok(chosen)
            })
            .await?
        } else {
            let (store, ids) = (self.store.clone(), request.ids);
            self.run(move |control| {
                let mut chosen = Chosen::new(store.clone());
                let mut missing = 0;
                for (done, id) in ids.iter().enumerate() {
                    control.check()?;
                    if control.stop() == Stop::Now {
                        chosen
                            .reasons
                            .push(format!("only {done} of {} records were looked up in time", ids.len()));
                        break;
                    }
                    match store.get(*id)? {
                        Some(flow) => {
                            chosen.add(&flow)?;
                        }
                        None => missing += 1,
                    }
                }
                match ids.first() {
                    Some(first) if missing == ids.len() => return Err(QueryError::NotFound(*first)),
                    _ if missing > 0 => {
                        chosen.reasons.push(format!("{missing} of {} records are not there", ids.len()))
                    }
                    _ => {}
                }
                Ok(chosen)
            })
            .await?
        };
        let (sender, pieces) = mpsc::channel(4);
        let found = PcapSummary { partial: joined(&chosen.reasons), ..chosen.found.clone() };
        let sending = Sending { sender, handle: Handle::current(), shutdown: self.shutdown.clone() };
        let (format, packets_max) = (request.format, request.packets_max);
        tokio::task::spawn_blocking(move || send(chosen, format, packets_max, &sending, permit));
        Ok(PcapDownload { found, pieces })
    }
}

impl Chosen {
    fn new(store: Store) -> Chosen {
        Chosen {
            store,
            flows: HashMap::new(),
            interfaces: Vec::new(),
            interface_of: HashMap::new(),
            blocks: HashMap::new(),
            found: PcapSummary::default(),
            reasons: Vec::new(),
            epochs: BTreeSet::new(),
        }
    }

    /// Add a record. False when there is room for no more.
    fn add(&mut self, flow: &StoredFlow) -> Result<bool, QueryError> {
        let limit = |what: &str, max: usize| {
            format!("more than {max} {what}: ask for a shorter time range or a narrower expression")
        };
        if self.found.flows as usize >= FLOWS_MAX {
            self.reasons.push(limit("flows", FLOWS_MAX));
            return Ok(false);
        }
        if self.blocks.len() >= BLOCKS_MAX {
            self.reasons.push(limit("blocks of packets", BLOCKS_MAX));
            return Ok(false);
        }
        let record = &flow.record;
        self.found.flows += 1;
        self.found.time_err_ns_max = self.found.time_err_ns_max.max(flow.time_err_ns().unwrap_or(0));
        if self.epochs.len() <= EPOCHS_NAMED {
            self.epochs.insert(flow.origin.epoch.to_string());
        }
        let epoch = EpochHash::of(&flow.origin.epoch);
        let fallback = match (flow.first, flow.ingested) {
            (Some(first), _) => (record.first, first.utc),
            (None, Some(at)) => (record.last, at),
            (None, None) => (record.last, self.store.now().utc),
        };
        for at in self.store.slices_of(epoch, record.id)? {
            if at.first <= record.last && at.last >= record.first {
                let start = when(&self.store, epoch, at.first, fallback)?.0;
                self.blocks.entry((at.segment, at.offset)).or_insert(Block { start, epoch, at });
            }
        }
        let name = format!("{}:{}", flow.origin.agent_name, flow.origin.interface);
        let interface = self.interface(name);
        let wanted = self.flows.entry((epoch, record.id)).or_insert(Wanted {
            segments: Vec::new(),
            interface,
            fallback,
        });
        wanted.segments.push((record.first, record.last));
        Ok(true)
    }

    fn interface(&mut self, name: String) -> u32 {
        if let Some(index) = self.interface_of.get(&name) {
            return *index;
        }
        let index = u32::try_from(self.interfaces.len()).unwrap_or(u32::MAX);
        self.interfaces.push(name.clone());
        self.interface_of.insert(name, index);
        index
    }

    /// What the file's header says of its times.
    fn comment(&self) -> String {
        let mut epochs: Vec<&str> = self.epochs.iter().take(EPOCHS_NAMED).map(String::as_str).collect();
        if self.epochs.len() > EPOCHS_NAMED {
            epochs.push("…");
        }
        format!(
            "{} flows; times within ±{} ns of UTC by the evidence at export; epochs {}",
            self.found.flows,
            self.found.time_err_ns_max,
            if epochs.is_empty() { "none".to_owned() } else { epochs.join(", ") }
        )
    }
}

/// When `raw` was by the evidence of now, and whether there is any.
fn when(
    store: &Store,
    epoch: EpochHash,
    raw: RawNs,
    (known_raw, known_utc): (RawNs, UtcNs),
) -> Result<(UtcNs, bool), StoreError> {
    if let Some(estimate) = store.estimate(epoch, raw)? {
        return Ok((estimate.utc, true));
    }
    let ahead = i64::try_from(raw.since(known_raw)).unwrap_or(i64::MAX);
    let behind = i64::try_from(known_raw.since(raw)).unwrap_or(i64::MAX);
    Ok((known_utc.saturating_add_ns(ahead).saturating_add_ns(-behind), false))
}

/// The way to the caller.
struct Sending {
    sender: mpsc::Sender<Result<PcapPiece, QueryError>>,
    handle: Handle,
    shutdown: CancellationToken,
}

impl Sending {
    /// False when the caller went away, stalled, or the collector stops.
    fn send(&self, piece: Result<PcapPiece, QueryError>) -> bool {
        let sent = async {
            tokio::select! {
                sent = tokio::time::timeout(STALLED, self.sender.send(piece)) => matches!(sent, Ok(Ok(()))),
                () = self.shutdown.cancelled() => false,
            }
        };
        self.handle.block_on(sent)
    }
}

/// A packet that waits for its turn.
struct Waiting {
    utc: UtcNs,
    proven: bool,
    interface: u32,
    linktype: u16,
    original_len: u32,
    outgoing: bool,
    err_ns: u32,
    data: Box<[u8]>,
}

/// What is wanted of one block, in order of time, the last one first.
struct Loaded {
    packets: Vec<Waiting>,
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
fn send(
    chosen: Chosen,
    format: PcapFormat,
    packets_max: u64,
    sending: &Sending,
    permit: OwnedSemaphorePermit,
) {
    if let Err(error) = merge(chosen, format, packets_max, sending) {
        sending.send(Err(error));
    }
    drop(permit);
}

fn merge(
    mut chosen: Chosen,
    format: PcapFormat,
    packets_max: u64,
    sending: &Sending,
) -> Result<(), QueryError> {
    let mut file = PcapFile::new(format, chosen.comment());
    let mut missing = Missing::default();
    let mut blocks: Vec<Block> = std::mem::take(&mut chosen.blocks).into_values().collect();
    blocks.sort_unstable_by_key(|block| (block.start, block.at.segment, block.at.offset));
    let mut blocks = blocks.into_iter().peekable();
    let mut loaded: HashMap<u64, Loaded> = HashMap::new();
    let mut next: BinaryHeap<Reverse<(UtcNs, u64)>> = BinaryHeap::new();
    let mut waiting_bytes = 0usize;
    let mut number = 0u64;
    let mut packets = 0u64;
    let mut last = UtcNs::MIN;
    let mut cut = false;
    loop {
        // Read every block whose first packet is due before the first that waits.
        while let Some(block) = blocks.peek() {
            let due = next.peek().is_none_or(|Reverse((utc, _))| block.start <= *utc);
            if !due || (waiting_bytes >= WAITING_BYTES_MAX && !next.is_empty()) {
                break;
            }
            let Some(block) = blocks.next() else { break };
            let wanted = load(&chosen, &block, &mut missing)?;
            if let Some(first) = wanted.packets.last() {
                number += 1;
                next.push(Reverse((first.utc, number)));
                waiting_bytes += wanted.packets.iter().map(|p| p.data.len()).sum::<usize>();
                loaded.insert(number, wanted);
            }
        }
        let Some(Reverse((_, from))) = next.pop() else { break };
        let Some(block) = loaded.get_mut(&from) else { continue };
        let Some(packet) = block.packets.pop() else { continue };
        waiting_bytes -= packet.data.len();
        match block.packets.last() {
            Some(following) => next.push(Reverse((following.utc, from))),
            None => {
                loaded.remove(&from);
            }
        }
        if packets_max > 0 && packets >= packets_max {
            cut = true;
            break;
        }
        missing.late += u64::from(packet.utc < last);
        last = last.max(packet.utc);
        let name = chosen.interfaces.get(packet.interface as usize).map_or("", String::as_str);
        let written = file.write(&PcapPacket {
            unix_ns: u64::try_from(packet.utc.unix_ns()).unwrap_or(0),
            interface: packet.interface,
            interface_name: name,
            linktype: packet.linktype,
            original_len: packet.original_len,
            outgoing: packet.outgoing,
            data: &packet.data,
        });
        packets += u64::from(written);
        missing.other_linktype += u64::from(!written);
        missing.unproven += u64::from(!packet.proven && written);
        chosen.found.time_err_ns_max = chosen.found.time_err_ns_max.max(u64::from(packet.err_ns));
        if file.out.len() >= CHUNK_BYTES {
            let data = std::mem::take(&mut file.out).into();
            if !sending.send(Ok(PcapPiece::Data(data))) {
                return Ok(());
            }
        }
    }
    let mut reasons = std::mem::take(&mut chosen.reasons);
    reasons.extend(missing.reasons());
    if cut {
        reasons.push(format!("there are more than the {packets_max} packets asked for"));
    }
    let partial = joined(&reasons);
    let whole = partial.as_deref().map_or("whole", |_| "not whole: ");
    file.finish(&format!(
        "{packets} packets of {} flows, {whole}{}",
        chosen.found.flows,
        partial.as_deref().unwrap_or_default()
    ));
    let data = std::mem::take(&mut file.out).into();
    if sending.send(Ok(PcapPiece::Data(data))) {
        sending.send(Ok(PcapPiece::End(PcapSummary { packets, partial, ..chosen.found })));
    }
    Ok(())
}

/// The wanted packets of a block.
fn load(chosen: &Chosen, block: &Block, missing: &mut Missing) -> Result<Loaded, QueryError> {
    let mut packets = Vec::new();
    let bytes = match chosen.store.read_block(&block.at) {
        Ok(bytes) => bytes,
        Err(StoreError::Segment(SegmentError::Gone { .. })) => {
            missing.gone += 1;
            return Ok(Loaded { packets });
        }
        Err(StoreError::Segment(SegmentError::Damaged { .. })) => {
            missing.damaged += 1;
            return Ok(Loaded { packets });
        }
        Err(error) => return Err(error.into()),
    };
    for packet in slice::packets(&bytes) {
        let Ok(packet) = packet else {
            missing.damaged += 1;
            break;
        };
        let Some(wanted) = chosen.flows.get(&(block.epoch, packet.flow)) else { continue };
        if !wanted.segments.iter().any(|(first, last)| (first..=last).contains(&&packet.raw)) {
            continue;
        }
        let (utc, proven) = when(&chosen.store, block.epoch, packet.raw, wanted.fallback)?;
        packets.push(Waiting {
            utc,
            proven,
            interface: wanted.interface,
            linktype: packet.linktype,
            original_len: packet.original_len,
            outgoing: packet.outgoing,
            err_ns: packet.err_ns,
            data: packet.data.into(),
        });
    }
    // Taken from the end; those of one time in the order they were captured in.
    packets.sort_by_key(|packet| packet.utc);
    packets.reverse();
    Ok(Loaded { packets })
}
