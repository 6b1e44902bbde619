//! `export --follow`: new flows to a sink as they arrive, whatever happens to either end. Between the two waits a
//! bounded queue: while it is full nothing is read from the collector, who tells later, from its store, what came meanwhile.

use std::cell::Cell;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Result, anyhow};
use gnomon_export::{Accept, Format, Left};
use gnomon_flow::{FlowRef, StoredFlow, TimeState};
use gnomon_proto::v1;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::export::summary;
use crate::client::Client;
use crate::exit::Outcome;
use crate::recent::{REMEMBERED_MAX, Recent};
use crate::sink::{Announcer, Sink};

/// Records between the collector and the sink: 2 s at 5,000 a second. Each is about 1 KiB, and at most 25.
const QUEUE: usize = 10_000;
/// Records sent together.
const BATCH_MAX: usize = 500;
/// What is left in the queue has so long to be sent when told to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// How many there were, and what became of those that are not in the export.
#[derive(Debug, Default)]
struct Lost {
    /// Given to the queue.
    queued: Cell<u64>,
    /// The collector's own word: this client was slow for one that keeps nothing, or what it has is damaged.
    missed: Cell<u64>,
    /// The collector was away, and could not say where to go on.
    gaps: Cell<u64>,
}

impl Lost {
    /// The collector's count for this connection, besides those of the connections before.
    fn miss(&self, before: u64, now: u64) {
        if self.missed.replace(before + now) == 0 && now > 0 {
            eprintln!("partial: {now} flows were missed so far: the collector could not tell them");
        }
    }

    fn words(&self) -> Option<String> {
        let mut parts = Vec::new();
        if self.missed.get() > 0 {
            parts.push(format!("{} flows were missed: the collector could not tell them", self.missed.get()));
        }
        if self.gaps.get() > 0 {
            parts.push(format!(
                "the collector was away {} times: what came in then is not there",
                self.gaps.get()
            ));
        }
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

pub(super) async fn run(
    client: &mut Client,
    expression: String,
    format: Format,
    accept: Accept,
    sink: &mut Sink,
) -> Result<Outcome> {
    let lost = Lost::default();
    let stopped = stop_signal()?;
    let (queue, waiting) = mpsc::channel(QUEUE);
    let ended = {
        let announcer = Announcer::new(client.clone());
        let mut writing = pin!(write(sink, waiting, announcer));
        let ended = {
            // Dropped before the rest is written: its end of the queue closes.
            let reading = read(client, expression, (format, accept), queue, &lost);
            tokio::select! {
                ended = reading => Some(ended),
                ended = &mut writing => return unread_or(ended, &lost),
                () = stopped => None,
            }
        };
        let drained = timeout(DRAIN_TIMEOUT, writing).await;
        match (ended, drained) {
            (Some(Err(error)), _) => return Err(error),
            (_, Ok(Err(why))) => Err(why),
            (_, Ok(Ok(()))) => Ok(true),
            (_, Err(_)) => Ok(false),
        }
    };
    let whole = ended.map_err(|why| anyhow!("{why}"))?;
    if whole {
        sink.finish().await.map_err(|why| anyhow!("{why}"))?;
    } else {
        let tally = sink.tally();
        let waiting = lost.queued.get().saturating_sub(tally.written + tally.left_total());
        eprintln!("partial: {waiting} flows waited and were not taken within {} s", DRAIN_TIMEOUT.as_secs());
    }
    let words = lost.words();
    if let Some(words) = &words {
        eprintln!("partial: {words}");
    }
    Ok(summary(sink, !whole || words.is_some()))
}

/// The sink has ended for good: by its own failure, or since nobody reads.
fn unread_or(ended: Result<(), String>, lost: &Lost) -> Result<Outcome> {
    if let Some(words) = lost.words() {
        eprintln!("partial: {words}");
    }
    match ended {
        Ok(()) => Ok(Outcome::Found),
        Err(why) => Err(anyhow!("{why}")),
    }
}

/// Ctrl-C or SIGTERM; a second one ends the process as if the first had not been taken.
fn stop_signal() -> Result<impl Future<Output = ()>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            std::process::exit(130);
        });
    })
}

/// Gives what the collector tells to the queue, over its restarts. Ends with an error only before the first word.
async fn read(
    client: &mut Client,
    expression: String,
    (format, accept): (Format, Accept),
    queue: mpsc::Sender<StoredFlow>,
    lost: &Lost,
) -> Result<()> {
    let mut told: Recent<(FlowRef, u32, TimeState)> = Recent::new(REMEMBERED_MAX);
    let mut connected_before = false;
    let mut pause = PAUSE_MIN;
    let mut behind = None;
    loop {
        let request = v1::TailRequest { expression: expression.clone(), whole: true, behind };
        let why = match client.tail(request).await {
            Err(status) if !connected_before => return Err(status.into()),
            Err(status) => status.to_string(),
            Ok(stream) => {
                if connected_before {
                    eprintln!("the collector is back");
                }
                connected_before = true;
                pause = PAUSE_MIN;
                let mut stream = stream.into_inner();
                let missed_before = lost.missed.get();
                loop {
                    match stream.message().await {
                        Ok(Some(message)) => {
                            lost.miss(missed_before, message.missed);
                            behind = Some(message.behind);
                            let Some(wire) = &message.flow else { continue };
                            let flow = StoredFlow::try_from(wire)?;
                            // Previews would fill the queue to be left out behind it.
                            if Left::of(&flow, format, accept) == Some(Left::Interim)
                                || !told.is_new((flow.id(), flow.record.revision, flow.time_state))
                            {
                                continue;
                            }
                            lost.queued.set(lost.queued.get() + 1);
                            if queue.send(flow).await.is_err() {
                                return Ok(());
                            }
                        }
                        Ok(None) => break "it ended the stream".to_owned(),
                        Err(status) => break status.to_string(),
                    }
                }
            }
        };
        lost.gaps.set(lost.gaps.get() + u64::from(pause == PAUSE_MIN && behind.is_none()));
        if pause == PAUSE_MIN {
            let why = gnomon_flow::escape::terminal_safe(&why).into_owned();
            eprintln!("the collector is away ({why}); trying again");
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Gives what is in the queue to the sink until the queue is closed and empty.
async fn write(
    sink: &mut Sink,
    mut queue: mpsc::Receiver<StoredFlow>,
    mut announcer: Announcer,
) -> Result<(), String> {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while queue.recv_many(&mut batch, BATCH_MAX).await > 0 {
        if let Err(why) = sink.deliver(&batch, None).await {
            return if sink.is_unread() { Ok(()) } else { Err(why) };
        }
        announcer.announce(sink).await;
        batch.clear();
    }
    Ok(())
}
