//! Who was refused and why: counted always, logged once per peer and minute (and once more for who it is: that is for an
//! owner to mend, and must not hide behind a crowd).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use gnomon_clock::{Clock, MonoNs};

use super::identity::Peer;
use super::limits::{LOG_NS, LOGGED_PEERS_MAX};
use super::places::Party;

/// Why a connection was refused or closed, or a request refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// All places are taken.
    Full,
    /// The peer's share of places is taken.
    PeerFull,
    /// It waited without a request, and made room for a newer connection.
    Crowded,
    Handshake,
    /// The first request did not come in time.
    Silent,
    /// No request for too long: closed, and not counted as refused.
    Idle,
    /// A body or a message did not come whole in time.
    SlowBody,
    /// What was sent is not taken.
    NotReading,
    /// Unfinished messages hold too much memory.
    Unfinished,
    /// Too many requests of the peer at once.
    Busy,
    /// A name that is not the collector's, or none.
    Host,
    /// A page of somebody else's.
    Origin,
    /// A body of a kind that is not taken.
    ContentType,
    /// No certificate where one is needed.
    NoCertificate,
    /// A certificate that is not taken.
    Certificate,
    /// A certificate whose role does not allow it.
    Role,
    /// A local user who may not.
    User,
    /// An agent's id that belongs to somebody else.
    AgentId,
}

impl Reason {
    const ALL: [Reason; 18] = [
        Reason::Full,
        Reason::PeerFull,
        Reason::Crowded,
        Reason::Handshake,
        Reason::Silent,
        Reason::Idle,
        Reason::SlowBody,
        Reason::NotReading,
        Reason::Unfinished,
        Reason::Busy,
        Reason::Host,
        Reason::Origin,
        Reason::ContentType,
        Reason::NoCertificate,
        Reason::Certificate,
        Reason::Role,
        Reason::User,
        Reason::AgentId,
    ];

    /// It is about who somebody is, not about what they do.
    fn is_who(self) -> bool {
        matches!(
            self,
            Reason::NoCertificate | Reason::Certificate | Reason::Role | Reason::User | Reason::AgentId
        )
    }

    /// Its name in metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Reason::Full => "full",
            Reason::PeerFull => "peer_full",
            Reason::Crowded => "crowded",
            Reason::Handshake => "handshake",
            Reason::Silent => "silent",
            Reason::Idle => "idle",
            Reason::SlowBody => "slow_body",
            Reason::NotReading => "not_reading",
            Reason::Unfinished => "unfinished",
            Reason::Busy => "busy",
            Reason::Host => "host",
            Reason::Origin => "origin",
            Reason::ContentType => "content_type",
            Reason::NoCertificate => "no_certificate",
            Reason::Certificate => "certificate",
            Reason::Role => "role",
            Reason::User => "user",
            Reason::AgentId => "agent_id",
        }
    }
}

struct Logged {
    /// When a peer's refusal was last logged, and how many were not since.
    peers: HashMap<(Party, bool), (MonoNs, u64)>,
}

struct Inner {
    counts: [AtomicU64; Reason::ALL.len()],
    /// Certificates that have ended by a clock that nothing vouches for, and passed.
    expired_passed: AtomicU64,
    clock: Arc<dyn Clock>,
    logged: Mutex<Logged>,
}

/// Clones count together.
#[derive(Clone)]
pub struct Refusals(Arc<Inner>);

impl std::fmt::Debug for Refusals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Refusals").field("counts", &self.0.counts).finish_non_exhaustive()
    }
}

impl Refusals {
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Refusals {
        Refusals(Arc::new(Inner {
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            expired_passed: AtomicU64::new(0),
            clock,
            logged: Mutex::new(Logged { peers: HashMap::new() }),
        }))
    }

    /// Each count with its name, for metrics.
    #[must_use]
    pub fn named(&self) -> Vec<(&'static str, u64)> {
        Reason::ALL.iter().map(|reason| (reason.name(), self.count(*reason))).collect()
    }

    #[must_use]
    pub fn count(&self, reason: Reason) -> u64 {
        self.0.counts[reason as usize].load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn expired_passed(&self) -> u64 {
        self.0.expired_passed.load(Ordering::Relaxed)
    }

    pub(crate) fn refused(&self, reason: Reason, peer: Peer, text: &str) {
        self.0.counts[reason as usize].fetch_add(1, Ordering::Relaxed);
        if let Some(more) = self.may_log((Party::of(peer), reason.is_who())) {
            tracing::warn!(%peer, reason = reason.name(), more, "refused: {text}");
        }
    }

    /// A certificate that may have ended, by a clock that nothing vouches for.
    pub(crate) fn expired_but_passed(&self, peer: Peer, who: &dyn std::fmt::Display) {
        self.0.expired_passed.fetch_add(1, Ordering::Relaxed);
        if self.may_log((Party::of(peer), true)).is_some() {
            tracing::warn!(
                %peer,
                "let in while this collector's time is unproven: {who} has expired by the machine's clock"
            );
        }
    }

    /// How many were not logged since the last one that was; `None` when this one is not either.
    fn may_log(&self, party: (Party, bool)) -> Option<u64> {
        let now = self.0.clock.monotonic();
        let mut logged = self.0.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, more)) = logged.peers.get_mut(&party) {
            if now.since(*at) < LOG_NS {
                *more += 1;
                return None;
            }
            let before = std::mem::take(more);
            *at = now;
            return Some(before);
        }
        if logged.peers.len() >= LOGGED_PEERS_MAX {
            logged.peers.retain(|_, (at, _)| now.since(*at) < LOG_NS);
            if logged.peers.len() >= LOGGED_PEERS_MAX {
                return None;
            }
        }
        logged.peers.insert(party, (now, 0));
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use gnomon_clock::KernelClock;

    use super::*;

    #[test]
    fn everything_is_counted_and_a_peer_is_logged_once_a_minute() {
        let refusals = Refusals::new(Arc::new(KernelClock));
        let peer = |n: u16| Peer::Tcp(SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 5)));
        assert_eq!(refusals.may_log((Party::of(peer(1)), false)), Some(0));
        assert_eq!(refusals.may_log((Party::of(peer(1)), false)), None);
        for n in 0..3_000 {
            refusals.refused(Reason::Silent, peer(n), "nothing was said");
        }
        assert_eq!(refusals.count(Reason::Silent), 3_000);
        assert!(refusals.named().contains(&("silent", 3_000)));
        let logged = refusals.0.logged.lock().unwrap();
        assert_eq!(logged.peers.len(), LOGGED_PEERS_MAX);
    }

    #[test]
    fn reasons_have_their_own_places() {
        for (at, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, at);
        }
    }
}
