//! Watches the collector's answers while a test runs: when each frame was first visible, and whether anything was ever
//! shown at a time that had not come yet.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use gnomon_clock::{Clock, Estimate, KernelClock, MonoNs, UtcNs};
use gnomon_flow::{StoredFlow, TimeState};
use gnomon_proto::v1;
use gnomon_proto::v1::query_client::QueryClient;
use tonic::transport::Channel;

const POLL_PAUSE: Duration = Duration::from_millis(100);
/// Flows in one answer: more than a test sends.
const FLOWS_MAX: u32 = 10_000;
/// The first lines of what went wrong say enough.
const COMPLAINTS_MAX: usize = 20;

/// What was seen of the flow of one frame.
#[derive(Clone, Copy, Debug)]
pub struct Sighting {
    /// When an answer first had it, whatever its state.
    pub visible: MonoNs,
    pub first_state: TimeState,
    pub state: TimeState,
    pub first: Option<Estimate>,
    pub stamp_err_ns: u64,
}

impl Sighting {
    /// The earliest and the latest time that the record claims.
    pub fn claim(&self) -> Option<(UtcNs, UtcNs)> {
        let first = self.first?;
        let err = first.err_ns.saturating_add(self.stamp_err_ns).cast_signed();
        Some((first.utc.saturating_add_ns(-err), first.utc.saturating_add_ns(err)))
    }
}

/// Everything seen so far.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// By source port.
    pub frames: BTreeMap<u16, Sighting>,
    /// Records shown as indexed, or found by time, that lay in the future at that moment.
    pub in_future: Vec<String>,
    pub polls: u64,
    /// Polls that failed.
    pub failures: Vec<String>,
}

impl Seen {
    fn complain(&mut self, what: String) {
        if self.in_future.len() < COMPLAINTS_MAX {
            self.in_future.push(what);
        }
    }

    fn polled(&mut self, polled: Result<()>) {
        self.polls += 1;
        if let Err(error) = polled {
            self.failures.push(format!("{error:#}"));
        }
    }

    /// A frame's flow was in an answer, which had come by `after`.
    fn look(&mut self, port: u16, sighting: Sighting, after: UtcNs) {
        let entry = self.frames.entry(port).or_insert(sighting);
        *entry = Sighting { visible: entry.visible, first_state: entry.first_state, ..sighting };
        if sighting.state == TimeState::Indexed && is_future(sighting.first, after) {
            self.complain(format!("frame {port} shown as indexed at {:?}, it is {after:?}", sighting.first));
        }
    }
}

fn is_future(first: Option<Estimate>, now: UtcNs) -> bool {
    first.is_some_and(|first| first.utc.minus(now) > first.err_ns.cast_signed())
}

/// Polls until dropped or finished.
#[derive(Debug)]
pub struct Watcher {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watcher {
    /// Watch the flows to `port`, by a clock of the collector that is `ahead_ns` ahead of this host's.
    pub fn start(url: String, port: u16, ahead_ns: i64) -> Watcher {
        let (seen, stop) = (Arc::<Mutex<Seen>>::default(), Arc::<AtomicBool>::default());
        let (own_seen, own_stop) = (seen.clone(), stop.clone());
        let thread = std::thread::spawn(move || watch(url, port, ahead_ns, &own_seen, &own_stop));
        Watcher { seen, stop, thread: Some(thread) }
    }

    pub fn seen(&self) -> Seen {
        lock(&self.seen).clone()
    }

    /// Stop, and everything that was seen.
    pub fn finish(mut self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_| anyhow::anyhow!("the watcher panicked"))??;
        }
        Ok(self.seen())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn watch(url: String, port: u16, ahead_ns: i64, seen: &Mutex<Seen>, stop: &AtomicBool) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let channel = Channel::from_shared(url)?.connect().await.context("connect to the collector")?;
        let mut client = QueryClient::new(channel).max_decoding_message_size(gnomon_proto::MESSAGE_BYTES_MAX);
        let expression = format!("port.dst == {port}");
        while !stop.load(Ordering::Relaxed) {
            let polled = poll(&mut client, &expression, ahead_ns, seen).await;
            lock(seen).polled(polled);
            tokio::time::sleep(POLL_PAUSE).await;
        }
        Ok(())
    })
}

async fn poll(
    client: &mut QueryClient<Channel>,
    expression: &str,
    ahead_ns: i64,
    seen: &Mutex<Seen>,
) -> Result<()> {
    let host_now = || KernelClock.bracket().realtime.saturating_add_ns(ahead_ns);
    // By the time of ingest: indexed, pending and quarantined.
    let all = v1::TimeRange { by_ingest_time: true, ..v1::TimeRange::default() };
    let flows = search(client, expression, all).await?;
    let (visible, after) = (KernelClock.monotonic(), host_now());
    for flow in &flows {
        let (state, first) = (flow.time_state, flow.first);
        let stamp_err_ns = u64::from(flow.record.stamp_err_ns);
        let sighting = Sighting { visible, first_state: state, state, first, stamp_err_ns };
        lock(seen).look(flow.record.key.orig_port, sighting, after);
    }
    // By time: what an operator finds who asks for the future.
    let since_unix_ns = Some(host_now().unix_ns());
    let future = v1::TimeRange { since_unix_ns, ..v1::TimeRange::default() };
    let flows = search(client, expression, future).await?;
    let now = host_now();
    for flow in flows.iter().filter(|flow| is_future(flow.first, now)) {
        let port = flow.record.key.orig_port;
        lock(seen)
            .complain(format!("frame {port} found at {:?} by a search for {now:?} and later", flow.first));
    }
    Ok(())
}

async fn search(
    client: &mut QueryClient<Channel>,
    expression: &str,
    range: v1::TimeRange,
) -> Result<Vec<StoredFlow>> {
    let request = v1::SearchRequest {
        expression: expression.to_owned(),
        range: Some(range),
        limit: FLOWS_MAX,
        ..v1::SearchRequest::default()
    };
    let answer = client.search(request).await.context("search")?.into_inner();
    answer.flows.iter().map(|flow| StoredFlow::try_from(flow).map_err(Into::into)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sighting(utc_ns: i64, state: TimeState, visible: u64) -> Sighting {
        let first = Some(Estimate { utc: UtcNs::from_tai_ns(utc_ns), err_ns: 500, conflict: false });
        Sighting { visible: MonoNs(visible), first_state: state, state, first, stamp_err_ns: 0 }
    }

    #[test]
    fn what_lies_in_the_future_is_told_and_what_waits_is_not() {
        let now = UtcNs::from_tai_ns(1_000);
        let mut seen = Seen::default();
        seen.look(1, sighting(1_400, TimeState::Indexed, 7), now);
        seen.look(2, sighting(1_600, TimeState::Indexed, 7), now);
        seen.look(3, sighting(9_000, TimeState::Pending, 7), now);
        seen.look(3, sighting(1_100, TimeState::Indexed, 8), now);
        assert_eq!(seen.in_future.len(), 1);
        assert!(seen.in_future[0].starts_with("frame 2 "), "{:?}", seen.in_future);
        let third = seen.frames[&3];
        assert_eq!((third.visible, third.first_state), (MonoNs(7), TimeState::Pending));
        assert_eq!(third.state, TimeState::Indexed);
    }
}
