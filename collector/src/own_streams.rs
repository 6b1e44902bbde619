//! Which streams on the wire are gnomon's own, for all agents: those to this collector, those that agents say they have open, and
//! those that a program announces with its questions. Agents keep no packets of them (docs/adr/0016).
//!
//! Of what agents and programs say, single streams are passed on and never an endpoint: whoever lies hides the packets of
//! connections that it knows both ends of, and the records of these stay.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gnomon_clock::{Clock, MonoNs};
use gnomon_daemon::connector::SocketEvents;
use gnomon_flow::{OwnStreams, StreamEnd, Transport, TransportStream};
use gnomon_proto::{Message, v1};

/// Addresses of this machine that connections came to.
const ADDRESSES_MAX: usize = 64;
/// Streams that one agent may have open, and those that one question may announce.
const STREAMS_OF_ONE_MAX: usize = 8;
/// Streams of agents that are passed on, over all agents.
const STREAMS_OF_AGENTS_MAX: usize = 768;
/// Streams announced with questions.
const ANNOUNCED_MAX: usize = 128;
/// An announcement holds so long.
const ANNOUNCED_NS: u64 = 600_000_000_000;
/// Of this process: telemetry.
const SOCKETS_MAX: usize = 8;

const _: () = assert!(STREAMS_OF_AGENTS_MAX + ANNOUNCED_MAX + SOCKETS_MAX <= OwnStreams::STREAMS_MAX);
const _: () = assert!(2 * (ADDRESSES_MAX + 2) <= OwnStreams::ENDPOINTS_MAX);

/// Clones are the same.
#[derive(Clone)]
pub struct StreamRegistry(Arc<Inner>);

struct Inner {
    ports: Vec<u16>,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Rises with every change.
    version: AtomicU64,
    refused: AtomicU64,
}

#[derive(Default)]
struct State {
    addresses: BTreeSet<IpAddr>,
    sessions: u64,
    of_sessions: BTreeMap<u64, Vec<TransportStream>>,
    announced: BTreeMap<TransportStream, MonoNs>,
    sockets: VecDeque<TransportStream>,
}

impl StreamRegistry {
    /// `listens`: where the collector does.
    pub fn new<const N: usize>(listens: [SocketAddr; N], clock: Arc<dyn Clock>) -> StreamRegistry {
        let mut state = State::default();
        for listen in listens {
            if listen.ip().is_unspecified() {
                state
                    .addresses
                    .extend([IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)]);
            } else {
                state.addresses.insert(listen.ip().to_canonical());
            }
        }
        StreamRegistry(Arc::new(Inner {
            ports: listens.iter().map(SocketAddr::port).collect(),
            clock,
            state: Mutex::new(state),
            version: AtomicU64::new(1),
            refused: AtomicU64::new(0),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.0.version.fetch_add(1, Ordering::Release);
    }

    /// It rises when [`StreamRegistry::view`] may have changed.
    pub fn version(&self) -> u64 {
        self.0.version.load(Ordering::Acquire)
    }

    /// Streams that were announced and are not passed on, because there were too many.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// A connection came to this address of ours.
    pub fn accepted(&self, local: SocketAddr) {
        let address = local.ip().to_canonical();
        let mut state = self.state();
        if !state.addresses.contains(&address) && state.addresses.len() < ADDRESSES_MAX {
            state.addresses.insert(address);
            self.changed();
        }
    }

    /// A place for the streams of one agent's session. `same_host`: the agent is on this machine.
    pub fn join(&self, same_host: bool) -> SessionStreams {
        let mut state = self.state();
        state.sessions += 1;
        SessionStreams { registry: self.clone(), number: state.sessions, same_host, told: Mutex::default() }
    }

    /// A program says with a question which streams it has open. They hold for ten minutes.
    pub fn announce(&self, streams: impl IntoIterator<Item = TransportStream>) {
        let now = self.0.clock.monotonic();
        let until = MonoNs(now.0.saturating_add(ANNOUNCED_NS));
        let mut state = self.state();
        let before = state.announced.len();
        state.announced.retain(|_, until| *until > now);
        let mut is_news = state.announced.len() != before;
        for stream in streams.into_iter().take(STREAMS_OF_ONE_MAX) {
            if state.announced.len() >= ANNOUNCED_MAX && !state.announced.contains_key(&stream) {
                self.0.refused.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            is_news |= state.announced.insert(stream, until).is_none();
        }
        if is_news {
            self.changed();
        }
    }

    /// What an agent is told. Loopback addresses mean something to one on this host only.
    pub fn view(&self, same_host: bool) -> OwnStreams {
        let state = self.state();
        let mut own = OwnStreams::default();
        self.endpoints(&state).filter(|end| same_host || !end.address.is_loopback()).for_each(|end| {
            own.add_endpoint(end);
        });
        let now = self.0.clock.monotonic();
        let announced = state.announced.iter().filter(|(_, until)| **until > now).map(|(stream, _)| stream);
        let streams = state.sockets.iter().chain(announced).chain(state.of_sessions.values().flatten());
        let means_something = |stream: &&TransportStream| {
            same_host || !stream.ends().iter().any(|end| end.address.is_loopback())
        };
        for stream in streams.filter(means_something) {
            if !own.is_to_endpoint(stream) {
                own.add_stream(*stream);
            }
        }
        own
    }

    fn endpoints<'s>(&'s self, state: &'s State) -> impl Iterator<Item = StreamEnd> + 's {
        let at = |address: &'s IpAddr| self.0.ports.iter().map(|port| StreamEnd::new(*address, *port));
        state.addresses.iter().flat_map(at)
    }
}

impl SocketEvents for StreamRegistry {
    fn resolved(&self, _address: SocketAddr) {}

    fn opened(&self, local: SocketAddr, remote: SocketAddr) {
        let mut state = self.state();
        if state.sockets.len() >= SOCKETS_MAX {
            state.sockets.pop_front();
        }
        state.sockets.push_back(TransportStream::new(Transport::Tcp, local.into(), remote.into()));
        self.changed();
    }
}

/// The streams of one session's agent, forgotten with it, and what the agent was told.
pub struct SessionStreams {
    registry: StreamRegistry,
    number: u64,
    same_host: bool,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    version: u64,
    own: OwnStreams,
    /// Not before.
    next: MonoNs,
}

/// An agent is told of changes with at most this many bytes a second, on average.
const TOLD_BYTES_PER_SECOND: u64 = 4096;

impl SessionStreams {
    /// What is said first.
    pub fn welcome(&self) -> v1::OwnStreams {
        self.news().unwrap_or_default()
    }

    /// The agent says which streams it has open. Gives what it is to be told now, if there is news and it understands it.
    pub fn heard(&self, heartbeat: &v1::Heartbeat) -> Option<v1::OwnStreams> {
        let streams = heartbeat.own_streams.iter().take(STREAMS_OF_ONE_MAX);
        self.set(streams.filter_map(|stream| TransportStream::try_from(stream).ok()));
        if heartbeat.takes_own_streams { self.news() } else { None }
    }

    fn news(&self) -> Option<v1::OwnStreams> {
        let version = self.registry.version();
        let now = self.registry.0.clock.monotonic();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.version == version || now < told.next {
            return None;
        }
        told.version = version;
        let own = self.registry.view(self.same_host);
        if own == told.own {
            return None;
        }
        let message = v1::OwnStreams::from(&own);
        told.own = own;
        let pause_ns = message.encoded_len() as u64 * 1_000_000_000 / TOLD_BYTES_PER_SECOND;
        told.next = MonoNs(now.0.saturating_add(pause_ns));
        Some(message)
    }

    /// What the agent says it has open now, in place of what it said before. Those to this collector are known without.
    fn set(&self, streams: impl IntoIterator<Item = TransportStream>) {
        let registry = &self.registry;
        let mut state = registry.state();
        let mut known = OwnStreams::default();
        registry.endpoints(&state).for_each(|end| {
            known.add_endpoint(end);
        });
        let mut streams: Vec<TransportStream> = streams
            .into_iter()
            .take(STREAMS_OF_ONE_MAX)
            .filter(|stream| stream.transport() == Transport::Tcp && !known.is_to_endpoint(stream))
            .collect();
        let before = state.of_sessions.get(&self.number).map_or(&[][..], Vec::as_slice);
        if streams == before {
            return;
        }
        let others: usize = state.of_sessions.values().map(Vec::len).sum::<usize>() - before.len();
        let fits = STREAMS_OF_AGENTS_MAX.saturating_sub(others);
        if streams.len() > fits {
            registry.0.refused.fetch_add((streams.len() - fits) as u64, Ordering::Relaxed);
            streams.truncate(fits);
        }
        if streams.is_empty() {
            state.of_sessions.remove(&self.number);
        } else {
            state.of_sessions.insert(self.number, streams);
        }
        registry.changed();
    }
}

impl Drop for SessionStreams {
    fn drop(&mut self) {
        if self.registry.state().of_sessions.remove(&self.number).is_some() {
            self.registry.changed();
        }
    }
}

/// `tcp 10.0.0.1:40000 10.0.0.2:514`, as questions announce a stream.
pub fn parse_announcement(text: &str) -> Option<TransportStream> {
    let mut words = text.split(' ');
    let transport = match words.next()? {
        "tcp" => Transport::Tcp,
        "udp" => Transport::Udp,
        _ => return None,
    };
    let mut end = || words.next()?.parse::<SocketAddr>().ok();
    let stream = TransportStream::new(transport, end()?.into(), end()?.into());
    words.next().is_none().then_some(stream)
}

#[cfg(test)]
mod tests {
    use gnomon_clock::KernelClock;

    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn registry(listen: &str) -> StreamRegistry {
        StreamRegistry::new(
            [7440, 7441].map(|port| SocketAddr::new(listen.parse().unwrap(), port)),
            Arc::new(KernelClock),
        )
    }

    fn tcp(one: &str, other: &str) -> TransportStream {
        TransportStream::new(Transport::Tcp, address(one).into(), address(other).into())
    }

    fn has(registry: &StreamRegistry, same_host: bool, one: &str, other: &str) -> bool {
        let (own, stream) = (registry.view(same_host), tcp(one, other));
        own.is_to_endpoint(&stream) || own.streams().any(|known| known == stream)
    }

    #[test]
    fn both_ports_are_told_at_every_address_that_connections_came_to() {
        let registry = registry("0.0.0.0");
        assert!(!has(&registry, false, "10.0.0.9:1", "10.0.0.1:7441"));
        let version = registry.version();
        registry.accepted(address("[::ffff:10.0.0.1]:7440"));
        assert!(registry.version() > version);
        assert!(has(&registry, false, "10.0.0.9:1", "10.0.0.1:7441"));
        assert!(!has(&registry, false, "10.0.0.9:1", "10.0.0.2:7441"));
        // Another host has a loopback of its own.
        assert!(has(&registry, true, "127.0.0.1:1", "127.0.0.1:7440"));
        assert!(!has(&registry, false, "127.0.0.1:1", "127.0.0.1:7440"));
    }

    #[test]
    fn streams_of_agents_are_passed_on_while_their_sessions_last_and_only_where_needed() {
        let registry = registry("10.0.0.1");
        let session = registry.join(false);
        let version = registry.version();
        session.set([tcp("10.0.0.9:40000", "10.0.0.1:7440")]);
        assert_eq!(registry.version(), version, "known without");
        session.set([tcp("10.0.0.9:40000", "10.0.0.5:3128")]);
        assert!(has(&registry, false, "10.0.0.9:40000", "10.0.0.5:3128"));
        assert!(!has(&registry, false, "10.0.0.9:40001", "10.0.0.5:3128"), "a stream, not an endpoint");
        let newer = registry.join(false);
        newer.set([tcp("10.0.0.9:40001", "10.0.0.5:3128")]);
        drop(session);
        assert!(!has(&registry, false, "10.0.0.9:40000", "10.0.0.5:3128"));
        assert!(has(&registry, false, "10.0.0.9:40001", "10.0.0.5:3128"));
    }

    #[test]
    fn what_is_passed_on_is_bounded_and_the_rest_counted() {
        let registry = registry("10.0.0.1");
        let stream = |n: usize| {
            let from = SocketAddr::new([10, 1, (n >> 8) as u8, n as u8].into(), 1);
            TransportStream::new(Transport::Tcp, from.into(), address("10.0.0.5:3128").into())
        };
        let sessions: Vec<SessionStreams> = (0..200).map(|_| registry.join(false)).collect();
        for (n, session) in sessions.iter().enumerate() {
            session.set((0..100).map(|m| stream(n * 100 + m)));
            registry.announce((0..100).map(|m| stream(30_000 + n * 100 + m)));
        }
        assert_eq!(registry.view(true).streams().count(), STREAMS_OF_AGENTS_MAX + ANNOUNCED_MAX);
        let offered = 2 * 200 * STREAMS_OF_ONE_MAX;
        assert_eq!(registry.refused() as usize, offered - STREAMS_OF_AGENTS_MAX - ANNOUNCED_MAX);
    }

    #[test]
    fn an_agent_is_told_of_changes_if_it_understands_them() {
        let registry = registry("10.0.0.1");
        let session = registry.join(false);
        assert_eq!(session.welcome().endpoints.len(), 2);
        let older = v1::Heartbeat::default();
        let newer = v1::Heartbeat { takes_own_streams: true, ..v1::Heartbeat::default() };
        assert_eq!(session.heard(&newer), None, "nothing changed");
        registry.accepted(address("10.0.0.2:7440"));
        assert_eq!(session.heard(&older), None);
        // What was told takes its time, 4 KiB a second.
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert_eq!(session.heard(&newer).map(|own| own.endpoints.len()), Some(4));
        assert_eq!(session.heard(&newer), None);
        let other = registry.join(false);
        let open = tcp("10.0.0.9:40000", "10.0.0.5:3128");
        other.heard(&v1::Heartbeat { own_streams: vec![(&open).into()], ..older });
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert_eq!(session.heard(&newer).map(|own| own.streams.len()), Some(1));
    }

    #[test]
    fn announcements_are_read_strictly() {
        let udp = TransportStream::new(
            Transport::Udp,
            address("10.0.0.1:4").into(),
            address("10.0.0.2:514").into(),
        );
        assert_eq!(parse_announcement("udp 10.0.0.1:4 10.0.0.2:514"), Some(udp));
        for bad in [
            "",
            "tcp",
            "tcp 10.0.0.1:4",
            "sctp 10.0.0.1:4 10.0.0.2:5",
            "tcp a:1 b:2",
            "tcp 1.1.1.1:1 1.1.1.1:2 x",
        ] {
            assert_eq!(parse_announcement(bad), None, "{bad}");
        }
    }
}
