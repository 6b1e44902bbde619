//! Which streams are gnomon's own, as this agent knows it: the collector's endpoints by the configured URLs, the sockets that this
//! process has open, and what the collector says (docs/adr/0016). For all workers: a version that is looked at once a batch, and a
//! lock that is taken only when it has changed.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gnomon_daemon::connector::SocketEvents;
use gnomon_flow::{OwnStreams, StreamEnd, Transport, TransportStream};
use tonic::transport::Uri;

/// Sockets remembered: those that are open, and some that were, whose last packets are under way.
const SOCKETS_MAX: usize = 8;
/// Addresses of the collector remembered that names were resolved to.
const RESOLVED_MAX: usize = 64;

/// Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct CurrentOwnStreams(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Changes so far.
    version: AtomicU64,
    parts: Mutex<Parts>,
    /// They are captured as any other stream.
    kept: bool,
}

#[derive(Debug, Default)]
struct Parts {
    /// Of all below.
    all: Arc<OwnStreams>,
    /// The newest last.
    resolved: VecDeque<StreamEnd>,
    sockets: VecDeque<TransportStream>,
    told: OwnStreams,
}

impl CurrentOwnStreams {
    /// Those that the collector's URLs name by address. `kept`: gnomon's own streams are captured like any other.
    pub fn new(urls: &[String], kept: bool) -> CurrentOwnStreams {
        let current = CurrentOwnStreams(Arc::new(Inner { kept, ..Inner::default() }));
        for address in urls.iter().filter_map(|url| literal(url)) {
            current.resolved(address);
        }
        current
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.0.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Parts)) {
        let mut parts = self.parts();
        change(&mut parts);
        if self.0.kept {
            return;
        }
        let mut all = OwnStreams::default();
        parts.sockets.iter().for_each(|stream| {
            all.add_stream(*stream);
        });
        parts.resolved.iter().for_each(|endpoint| {
            all.add_endpoint(*endpoint);
        });
        all.add_all(&parts.told);
        if *parts.all != all {
            parts.all = Arc::new(all);
            self.0.version.fetch_add(1, Ordering::Release);
        }
    }

    /// All that are known.
    pub fn get(&self) -> Arc<OwnStreams> {
        Arc::clone(&self.parts().all)
    }

    /// Those of this process, the newest last.
    pub fn sockets(&self) -> Vec<TransportStream> {
        self.parts().sockets.iter().copied().collect()
    }

    /// What the collector says, in place of what it said before.
    pub fn told(&self, told: OwnStreams) {
        self.change(|parts| parts.told = told);
    }

    /// What a worker looks at.
    pub fn follow(&self) -> Follower {
        Follower { current: self.clone(), version: None }
    }
}

impl SocketEvents for CurrentOwnStreams {
    fn resolved(&self, address: SocketAddr) {
        self.change(|parts| remember(&mut parts.resolved, address.into(), RESOLVED_MAX));
    }

    fn opened(&self, local: SocketAddr, remote: SocketAddr) {
        let stream = TransportStream::new(Transport::Tcp, local.into(), remote.into());
        self.change(|parts| remember(&mut parts.sockets, stream, SOCKETS_MAX));
    }
}

fn remember<T: PartialEq>(list: &mut VecDeque<T>, item: T, max: usize) {
    list.retain(|other| *other != item);
    if list.len() >= max {
        list.pop_front();
    }
    list.push_back(item);
}

/// The address and port of a URL that names its host by address.
fn literal(url: &str) -> Option<SocketAddr> {
    let uri: Uri = url.parse().ok()?;
    let host: IpAddr = uri.host()?.trim_matches(['[', ']']).parse().ok()?;
    let usual = if uri.scheme_str() == Some("http") { 80 } else { 443 };
    Some(SocketAddr::new(host, uri.port_u16().unwrap_or(usual)))
}

/// One worker's view of them.
#[derive(Debug)]
pub struct Follower {
    current: CurrentOwnStreams,
    version: Option<u64>,
}

impl Follower {
    /// The streams, at the first call and if they changed since the last one.
    #[inline]
    pub fn news(&mut self) -> Option<Arc<OwnStreams>> {
        let version = Some(self.current.0.version.load(Ordering::Acquire));
        if version == self.version {
            return None;
        }
        self.version = version;
        Some(self.current.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn urls_sockets_and_what_the_collector_says_are_one_set_that_followers_see_change() {
        let urls = ["https://10.0.0.1:7440", "http://[fd00::1]", "https://collector.example:7440"];
        let current = CurrentOwnStreams::new(&urls.map(str::to_owned), false);
        let mut follower = current.follow();
        let first = follower.news().unwrap();
        assert_eq!((first.endpoints().count(), first.streams().count()), (2, 0));
        assert!(follower.news().is_none());

        current.resolved(address("10.0.0.1:7440"));
        assert!(follower.news().is_none(), "that was known");
        current.opened(address("10.0.0.9:40000"), address("10.0.0.1:7440"));
        assert_eq!(follower.news().unwrap().streams().count(), 1);

        let mut told = OwnStreams::default();
        told.add_endpoint(address("10.0.0.1:7441").into());
        current.told(told);
        assert_eq!(follower.news().unwrap().endpoints().count(), 3);
        current.told(OwnStreams::default());
        assert_eq!(follower.news().unwrap().endpoints().count(), 2);
    }

    #[test]
    fn the_last_sockets_are_remembered_and_no_more() {
        let current = CurrentOwnStreams::default();
        for port in 1..=100 {
            current.opened(SocketAddr::new([10, 0, 0, 9].into(), port), address("10.0.0.1:7440"));
            current.resolved(SocketAddr::new([10, 0, 0, 9].into(), port));
        }
        assert_eq!((current.sockets().len(), current.get().streams().count()), (SOCKETS_MAX, SOCKETS_MAX));
        assert_eq!(current.get().endpoints().count(), RESOLVED_MAX);
        assert_eq!(current.sockets().last().unwrap().ends()[1].port, 100);
    }

    #[test]
    fn where_they_are_kept_none_is_own() {
        let current = CurrentOwnStreams::new(&["http://127.0.0.1:7440".to_owned()], true);
        current.opened(address("127.0.0.1:40000"), address("127.0.0.1:7440"));
        assert!(current.get().is_empty());
        assert_eq!(current.sockets().len(), 1);
    }
}
