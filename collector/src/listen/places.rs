//! Places for connections: bounded in all and by peer. Who has no request under way makes room for who comes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::identity::Peer;
use super::limits::{Limits, WINDOW_BYTES_MAX, WINDOW_LARGE, WINDOW_SHARE, WINDOW_SMALL};
use super::refusal::Reason;

/// Who shares a share of places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Party {
    V4([u8; 4]),
    /// An IPv6 host has a whole /64 to call from.
    V6([u8; 8]),
    User(u32),
}

impl Party {
    pub(crate) fn of(peer: Peer) -> Party {
        let address = match peer {
            Peer::Unix { uid } => return Party::User(uid),
            Peer::Tcp(address) => address.ip().to_canonical(),
        };
        match address {
            IpAddr::V4(address) => Party::V4(address.octets()),
            IpAddr::V6(address) => Party::V6(address.octets().first_chunk().copied().unwrap_or_default()),
        }
    }
}

#[derive(Debug, Default)]
struct OfParty {
    connections: usize,
    requests: usize,
    window_bytes: usize,
    /// Those without a request under way, in the order in which they became so.
    waiting: BTreeSet<u64>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    connections: usize,
    window_bytes: usize,
    parties: HashMap<Party, OfParty>,
    waiting: BTreeMap<u64, (Party, CancellationToken)>,
}

#[derive(Debug)]
struct Inner {
    limits: Limits,
    state: Mutex<State>,
}

/// All places; clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Places(Arc<Inner>);

/// The place of one connection, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    party: Party,
    evicted: CancellationToken,
    /// The number it waits under, if it does; `Gone` once it made room.
    standing: Mutex<Standing>,
    window_bytes: Mutex<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Waiting(u64),
    Busy,
}

impl Places {
    pub(super) fn new(limits: Limits) -> Places {
        Places(Arc::new(Inner { limits, state: Mutex::default() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection that has just come. Another's place may be given up for it.
    pub(super) fn admit(&self, party: Party) -> Result<Place, Reason> {
        let limits = self.0.limits;
        let mut state = self.state();
        let of = state.parties.entry(party).or_default();
        let (mine, waiting) = (of.connections, of.waiting.len());
        if (mine >= limits.of_a_peer || waiting >= limits.waiting_of_a_peer) && !state.evict(party) {
            state.forget_if_empty(party);
            return Err(Reason::PeerFull);
        }
        if state.connections >= limits.connections {
            // The one with the most who wait.
            let most = state.parties.iter().max_by_key(|(_, of)| of.waiting.len()).map(|(party, _)| *party);
            if !most.is_some_and(|most| state.evict(most)) {
                state.forget_if_empty(party);
                return Err(Reason::Full);
            }
        }
        state.connections += 1;
        let evicted = CancellationToken::new();
        let number = state.wait(party, evicted.clone());
        state.parties.entry(party).or_default().connections += 1;
        Ok(Place {
            places: self.clone(),
            party,
            evicted,
            standing: Mutex::new(Standing::Waiting(number)),
            window_bytes: Mutex::new(0),
        })
    }
}

impl State {
    fn wait(&mut self, party: Party, evicted: CancellationToken) -> u64 {
        self.next += 1;
        let number = self.next;
        self.waiting.insert(number, (party, evicted));
        self.parties.entry(party).or_default().waiting.insert(number);
        number
    }

    /// Whether one of the party's connections gave way. It keeps counting until it is closed.
    fn evict(&mut self, party: Party) -> bool {
        let Some(number) = self.parties.get_mut(&party).and_then(|of| of.waiting.pop_first()) else {
            return false;
        };
        let Some((_, evicted)) = self.waiting.remove(&number) else { return false };
        evicted.cancel();
        true
    }

    fn no_longer_waits(&mut self, party: Party, number: u64) -> bool {
        if let Some(of) = self.parties.get_mut(&party) {
            of.waiting.remove(&number);
        }
        self.waiting.remove(&number).is_some()
    }

    fn forget_if_empty(&mut self, party: Party) {
        if self.parties.get(&party).is_some_and(|of| of.connections == 0 && of.requests == 0) {
            self.parties.remove(&party);
        }
    }
}

impl Place {
    /// Cancelled when this connection has to make room.
    pub(super) fn evicted(&self) -> &CancellationToken {
        &self.evicted
    }

    /// A request begins: the place is safe until all have ended. False when it is too late.
    pub(super) fn busy(&self) -> bool {
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        let Standing::Waiting(number) = *standing else { return true };
        let kept = self.places.state().no_longer_waits(self.party, number);
        if kept {
            *standing = Standing::Busy;
        }
        kept
    }

    /// The last request has ended.
    pub(super) fn waiting(&self) {
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        if *standing == Standing::Busy {
            let mut state = self.places.state();
            let most = self.places.0.limits.waiting_of_a_peer;
            if state.parties.get(&self.party).is_some_and(|of| of.waiting.len() >= most) {
                state.evict(self.party);
            }
            *standing = Standing::Waiting(state.wait(self.party, self.evicted.clone()));
        }
    }

    /// The HTTP/2 window this connection gets.
    pub(super) fn window(&self) -> u32 {
        let mut state = self.places.state();
        let large = WINDOW_LARGE as usize;
        let all = state.window_bytes;
        let of = state.parties.entry(self.party).or_default();
        if all + large > WINDOW_BYTES_MAX || of.window_bytes + large > WINDOW_SHARE {
            return WINDOW_SMALL;
        }
        of.window_bytes += large;
        state.window_bytes += large;
        *self.window_bytes.lock().unwrap_or_else(PoisonError::into_inner) = large;
        WINDOW_LARGE
    }

    /// A place for a request of this peer, until dropped.
    pub(super) fn request(&self) -> Option<RequestPlace> {
        let mut state = self.places.state();
        let of = state.parties.entry(self.party).or_default();
        if of.requests >= self.places.0.limits.requests_of_a_peer {
            return None;
        }
        of.requests += 1;
        Some(RequestPlace { places: self.places.clone(), party: self.party })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let standing = *self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        let window_bytes = *self.window_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.places.state();
        if let Standing::Waiting(number) = standing {
            state.no_longer_waits(self.party, number);
        }
        state.connections -= 1;
        state.window_bytes -= window_bytes;
        if let Some(of) = state.parties.get_mut(&self.party) {
            of.connections -= 1;
            of.window_bytes -= window_bytes;
        }
        state.forget_if_empty(self.party);
    }
}

/// See [`Place::request`].
#[derive(Debug)]
pub(super) struct RequestPlace {
    places: Places,
    party: Party,
}

impl Drop for RequestPlace {
    fn drop(&mut self) {
        let mut state = self.places.state();
        if let Some(of) = state.parties.get_mut(&self.party) {
            of.requests -= 1;
        }
        state.forget_if_empty(self.party);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { connections: 10, of_a_peer: 5, waiting_of_a_peer: 3, requests_of_a_peer: 2 };

    fn party(n: u8) -> Party {
        Party::V4([10, 0, 0, n])
    }

    #[test]
    fn the_oldest_who_waits_makes_room_for_a_newer_one_of_the_same_peer() {
        let places = Places::new(LIMITS);
        let mut held: Vec<Place> = (0..3).map(|_| places.admit(party(1)).unwrap()).collect();
        let fourth = places.admit(party(1)).unwrap();
        assert!(held[0].evicted().is_cancelled() && !held[1].evicted().is_cancelled());
        assert!(!held[0].busy(), "too late");
        held.remove(0);
        assert!(fourth.busy() && held[0].busy());
        fourth.waiting();
        assert!(held.iter().all(|place| !place.evicted().is_cancelled()));
        drop((held, fourth));
        assert_eq!(places.state().connections, 0);
        assert!(places.state().parties.is_empty() && places.state().waiting.is_empty());
    }

    #[test]
    fn who_is_busy_keeps_its_place_and_others_have_theirs() {
        let places = Places::new(LIMITS);
        let busy = |n| {
            let place = places.admit(party(n))?;
            assert!(place.busy());
            Ok::<_, Reason>(place)
        };
        let all: Vec<Place> = (0..5).map(|_| busy(1).unwrap()).collect();
        assert_eq!(busy(1).err(), Some(Reason::PeerFull));
        let rest: Vec<Place> = (0..5).map(|_| busy(2).unwrap()).collect();
        assert_eq!(busy(3).err(), Some(Reason::Full));
        rest[0].waiting();
        let third = busy(3).unwrap();
        assert!(rest[0].evicted().is_cancelled());
        assert!(all[0].request().is_some());
        let requests = [all[0].request(), all[1].request(), all[2].request()];
        assert!(requests[1].is_some() && requests[2].is_none());
        drop((all, rest, third, requests));
        assert!(places.state().parties.is_empty());
    }

    #[test]
    fn large_windows_are_bounded() {
        let places =
            Places::new(Limits { connections: 1000, of_a_peer: 500, ..Limits::of_open_files(8_192) });
        let held: Vec<(Place, u32)> = (0..40)
            .map(|_| {
                let place = places.admit(party(1)).unwrap();
                assert!(place.busy());
                let window = place.window();
                (place, window)
            })
            .collect();
        let large = held.iter().filter(|(_, window)| *window == WINDOW_LARGE).count();
        assert_eq!(large, WINDOW_SHARE / WINDOW_LARGE as usize);
        drop(held);
        assert_eq!(places.state().window_bytes, 0);
    }

    #[test]
    fn an_ipv6_network_is_one_peer() {
        let of = |text: &str| Party::of(Peer::Tcp(text.parse().unwrap()));
        assert_eq!(of("[2001:db8::1]:5"), of("[2001:db8::ffff:1]:7"));
        assert_ne!(of("[2001:db8::1]:5"), of("[2001:db8:0:1::1]:5"));
        assert_eq!(of("[::ffff:10.0.0.1]:5"), of("10.0.0.1:9"));
    }
}
