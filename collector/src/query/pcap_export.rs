//! Packets of chosen flows as one capture file, in order of time over all agents, as a stream.
//!
//! Three steps. First the flows are found, in one go over everything, which bounds what follows: how far wrong the times may
//! be, and which blocks to read. Those are looked for all at once, so that each index is walked once. Then they are merged by
//! time: see `pcap_merge.rs`. No step has a limit in time as long as it goes on: what ends a download early is a caller who
//! takes nothing, and then it does not end as if it were whole.

use std::collections::{BTreeSet, HashMap};
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use gnomon_clock::{RawNs, UtcNs};
use gnomon_flow::{EpochHash, FlowId, FlowRef, Origin, StoredFlow};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;

use super::counters::Operation;
use super::execute::{Queries, QueryError, TimeRange, Work, joined};
use super::memory::{Charge, Question};
use super::pcap_file::PcapFormat;
use super::pcap_found::{FoundFlow, Oldest};
use super::pcap_merge::send;
use crate::store::{FlowSpan, Part, SliceLocation, Stop, Store, StoreError};

/// Records of one export; more are left out, and it says so.
pub(super) const FLOWS_MAX: usize = 500_000;
/// Blocks of one export; likewise.
const BLOCKS_MAX: usize = 2_000_000;
/// Ids a caller may name.
pub const IDS_MAX: usize = 10_000;
/// Records looked at between two looks at what others found.
const OUTLINES: usize = 1024;
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
    /// Packets of the flows that their agents kept, as the records say.
    pub packets_kept: u64,
    /// Of those, what is not in the file: known at its end, where it was not cut at a number of packets.
    pub missing: PacketsMissing,
    pub partial: Option<String>,
}

/// Packets that were kept and could not be given, by the reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketsMissing {
    /// Deleted since, for room or age.
    pub expired: u64,
    /// Damaged, or in a block that was given up while it was to be read.
    pub damaged: u64,
    /// Of records that are so new that their packets may be on their way.
    pub not_yet: u64,
    /// For none of these reasons: an agent gave them up before they could be sent.
    pub never_came: u64,
}

impl PacketsMissing {
    pub fn all(&self) -> u64 {
        self.expired.saturating_add(self.damaged).saturating_add(self.not_yet).saturating_add(self.never_came)
    }

    /// By name.
    pub fn named(&self) -> [(&'static str, u64); 4] {
        [
            ("expired", self.expired),
            ("damaged", self.damaged),
            ("not-yet", self.not_yet),
            ("never-came", self.never_came),
        ]
    }

    /// Why the file is not whole. What may be on its way is no reason: it comes within seconds.
    pub(super) fn words(&self, kept: u64) -> Option<String> {
        let gone = self.all() - self.not_yet;
        let reasons = [
            (self.expired, "were deleted since, for room or age"),
            (self.damaged, "are damaged"),
            (self.never_came, "never came from their agent"),
        ];
        let reasons = reasons.iter().filter(|(count, _)| *count > 0);
        let reasons: Vec<String> = reasons.map(|(count, what)| format!("{count} {what}")).collect();
        (gone > 0)
            .then(|| format!("{gone} of {kept} packets that were kept are missing: {}", reasons.join(", ")))
    }
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
    pub pieces: PcapPieces,
}

/// The pieces of a file, in order: the last is [`PcapPiece::End`], or the error that broke the file off.
pub struct PcapPieces {
    receiver: mpsc::Receiver<Result<PcapPiece, QueryError>>,
    why_cut: Arc<OnceLock<&'static str>>,
    ended: bool,
}

impl PcapPieces {
    pub async fn recv(&mut self) -> Option<Result<PcapPiece, QueryError>> {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<PcapPiece, QueryError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let piece = ready!(self.receiver.poll_recv(context)).unwrap_or_else(|| {
            let why = self.why_cut.get().copied();
            Err(QueryError::Cut(why.unwrap_or("the thread that wrote the file ended by a fault")))
        });
        self.ended = !matches!(piece, Ok(PcapPiece::Data(_)));
        Poll::Ready(Some(piece))
    }
}

impl Stream for PcapPieces {
    type Item = Result<PcapPiece, QueryError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll(context)
    }
}

/// The records found, and where their packets are.
pub(super) struct Chosen {
    pub(super) store: Store,
    pub(super) flows: HashMap<(EpochHash, FlowId), Wanted>,
    pub(super) interfaces: Vec<String>,
    interface_of: HashMap<String, u32>,
    /// In the order of their first packets.
    pub(super) blocks: Vec<Block>,
    pub(super) found: PcapSummary,
    pub(super) reasons: Vec<String>,
    epochs: BTreeSet<String>,
    pub(super) memory: Arc<Question>,
    charge: Charge,
}

/// What is wanted of one flow.
pub(super) struct Wanted {
    /// First and last packet of each record, both included; in order and apart once all records are there.
    segments: Vec<(RawNs, RawNs)>,
    pub(super) interface: u32,
    /// Its place in counts by flow.
    pub(super) number: u32,
    /// Packets that its agent kept, over all records.
    pub(super) kept: u64,
    /// A RAW reading and when it was, for want of evidence.
    pub(super) fallback: (RawNs, UtcNs),
}

impl Wanted {
    /// Whether a packet of the flow belongs to one of the records.
    pub(super) fn has(&self, raw: RawNs) -> bool {
        let behind = self.segments.partition_point(|(first, _)| *first <= raw);
        behind.checked_sub(1).and_then(|at| self.segments.get(at)).is_some_and(|(_, last)| raw <= *last)
    }

    /// Put the records' times in order, and those that touch together.
    fn tidy(&mut self) {
        self.segments.sort_unstable();
        self.segments.dedup_by(|next, last| {
            let touch = next.0 <= last.1;
            if touch {
                last.1 = last.1.max(next.1);
            }
            touch
        });
    }
}

#[derive(Clone, Copy)]
pub(super) struct Block {
    pub(super) start: UtcNs,
    pub(super) epoch: EpochHash,
    pub(super) at: SliceLocation,
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
        let place = self.place(Work::Download).await?;
        let chosen = if request.ids.is_empty() {
            let selection = self.selection(&request.expression, request.range)?;
            let store = self.store.clone();
            let now = store.now().utc;
            self.run_while_it_goes_on(Operation::Pcap, move |control| {
                let found = Mutex::new(Oldest::default());
                let (_, reasons) = selection.walk(&control, &|(): &mut (), part| {
                    let found = || found.lock().unwrap_or_else(PoisonError::into_inner);
                    match part {
                        Part::Flows(flows) => found().extend(flows, now, &control.memory),
                        Part::Rows(reader, rows) => {
                            let rows: Vec<usize> = rows.iter().collect();
                            for rows in rows.chunks(OUTLINES) {
                                let outlines = rows.iter().map(|row| reader.outline(*row));
                                let outlines: Vec<StoredFlow> = outlines.collect::<Result<_, _>>()?;
                                found().extend(&outlines, now, &control.memory);
                            }
                        }
                    }
                    Ok(())
                })?;
                let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
                found.cut();
                let mut chosen = Chosen::new(store, Arc::clone(&control.memory));
                found.flows().for_each(|(flow, origin)| chosen.add(flow, origin));
                if found.more() {
                    chosen.reasons.push(too_many("flows", found.len()));
                }
                drop(found);
                chosen.charge();
                chosen.reasons.extend(reasons);
                control.check()?;
                chosen.find_blocks()?;
                control.check()?;
                Ok(chosen)
            })
            .await?
        } else {
            let (store, ids) = (self.store.clone(), request.ids);
            let now = store.now().utc;
            self.run(Operation::Pcap, move |control| {
                let mut chosen = Chosen::new(store.clone(), Arc::clone(&control.memory));
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
                        Some(flow) => chosen.add(&FoundFlow::of(&flow, now), &flow.origin),
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
                chosen.find_blocks()?;
                Ok(chosen)
            })
            .await?
        };
        let (sender, pieces) = mpsc::channel(4);
        let found = PcapSummary { partial: joined(&chosen.reasons), ..chosen.found.clone() };
        let why_cut = Arc::new(OnceLock::new());
        let sending = Sending {
            sender,
            handle: Handle::current(),
            shutdown: self.shutdown.clone(),
            stalled: Duration::from_millis(self.limits.stalled_ms),
            why_cut: Arc::clone(&why_cut),
        };
        let pieces = PcapPieces { receiver: pieces, why_cut, ended: false };
        let (format, packets_max) = (request.format, request.packets_max);
        tokio::task::spawn_blocking(move || send(chosen, format, packets_max, &sending, place));
        Ok(PcapDownload { found, pieces })
    }
}

impl Chosen {
    fn new(store: Store, memory: Arc<Question>) -> Chosen {
        Chosen {
            store,
            flows: HashMap::new(),
            interfaces: Vec::new(),
            interface_of: HashMap::new(),
            blocks: Vec::new(),
            found: PcapSummary::default(),
            reasons: Vec::new(),
            epochs: BTreeSet::new(),
            memory,
            charge: Charge::default(),
        }
    }

    /// Asks for what it takes; the question is refused where there is no room for it.
    fn charge(&mut self) {
        let of_flow = size_of::<((EpochHash, FlowId), Wanted)>() + size_of::<(RawNs, RawNs)>();
        let bytes = self.flows.capacity() * of_flow + self.blocks.capacity() * size_of::<Block>();
        if !self.charge.resize(&self.memory, bytes) {
            self.memory.refuse();
        }
    }

    /// Add a record.
    fn add(&mut self, flow: &FoundFlow, origin: &Origin) {
        self.found.flows += 1;
        self.found.time_err_ns_max = self.found.time_err_ns_max.max(flow.time_err_ns);
        if self.epochs.len() <= EPOCHS_NAMED {
            self.epochs.insert(origin.epoch.to_string());
        }
        let name = format!("{}:{}", origin.agent_name, origin.interface);
        let interface = self.interface(name);
        self.found.packets_kept = self.found.packets_kept.saturating_add(flow.kept);
        // At most FLOWS_MAX.
        let number = self.flows.len() as u32;
        let wanted = self.flows.entry((flow.id.epoch, flow.id.flow)).or_insert(Wanted {
            segments: Vec::new(),
            interface,
            number,
            kept: 0,
            fallback: flow.fallback,
        });
        wanted.kept = wanted.kept.saturating_add(flow.kept);
        wanted.segments.push((flow.first, flow.last));
    }

    /// Find the blocks with packets of all records that were added.
    fn find_blocks(&mut self) -> Result<(), QueryError> {
        let mut spans = Vec::with_capacity(self.flows.len());
        for ((epoch, flow), wanted) in &mut self.flows {
            wanted.tidy();
            let span = |(first, last): &(RawNs, RawNs)| FlowSpan {
                epoch: *epoch,
                flow: *flow,
                first: *first,
                last: *last,
            };
            spans.extend(wanted.segments.iter().map(span));
        }
        spans.sort_unstable();
        let mut places: Vec<(usize, SliceLocation)> = Vec::new();
        let mut more = false;
        self.store.blocks_of(&spans, |span, at| {
            more = places.len() >= BLOCKS_MAX;
            if !more {
                places.push((span, at));
            }
        })?;
        if more {
            self.reasons.push(too_many("blocks of packets", BLOCKS_MAX));
        }
        let mut blocks = Vec::with_capacity(places.len());
        for (span, at) in places {
            let Some(FlowSpan { epoch, flow, .. }) = spans.get(span).copied() else { continue };
            let Some(wanted) = self.flows.get(&(epoch, flow)) else { continue };
            let start = when(&self.store, epoch, at.first, wanted.fallback)?.0;
            blocks.push(Block { start, epoch, at });
        }
        blocks.sort_unstable_by_key(|block| (block.start, block.at.segment, block.at.offset));
        self.blocks = blocks;
        self.charge();
        Ok(())
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
    pub(super) fn comment(&self) -> String {
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

fn too_many(what: &str, max: usize) -> String {
    format!("more than {max} {what}: ask for a shorter time range or a narrower expression")
}

/// When `raw` was by the evidence of now, and whether there is any.
pub(super) fn when(
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
pub(super) struct Sending {
    sender: mpsc::Sender<Result<PcapPiece, QueryError>>,
    handle: Handle,
    shutdown: CancellationToken,
    /// A caller that takes nothing for so long is given up.
    stalled: Duration,
    why_cut: Arc<OnceLock<&'static str>>,
}

impl Sending {
    /// False when the caller went away, stalled, or the collector stops.
    pub(super) fn send(&self, piece: Result<PcapPiece, QueryError>) -> bool {
        let sent = async {
            tokio::select! {
                sent = tokio::time::timeout(self.stalled, self.sender.send(piece)) => match sent {
                    Ok(sent) => sent.map_err(|_| "nobody reads it any more"),
                    Err(_) => Err("the caller took nothing for a minute, the limit of a download"),
                },
                () = self.shutdown.cancelled() => Err("the collector is being stopped"),
            }
        };
        let sent = self.handle.block_on(sent);
        // Whoever still listens is told by `PcapPieces` that this is not the end.
        sent.map_err(|why| self.why_cut.set(why)).is_ok()
    }
}
