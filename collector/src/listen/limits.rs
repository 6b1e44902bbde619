//! Every limit of a connection, in one place. What is beyond one is refused or closed, and counted by its reason
//! (`gnomon.collector.connections.refused`, see [`super::refusal`]).

use std::time::Duration;

/// Descriptors that are not connections: the database's (1,024 at most), segment files, the listeners.
const FILES_RESERVED: u64 = 1_536;
/// Connections at once, however many files may be open.
const CONNECTIONS_MAX: u64 = 8_192;
const CONNECTIONS_MIN: u64 = 64;

/// TLS handshakes, and then the head of the first request.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(10);
/// After an error of `accept` (too many open files) nothing is accepted for so long.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Answers under way have so long to be finished at a stop.
pub(super) const GRACE: Duration = Duration::from_secs(5);
/// A connection looks this often at what it waits for.
pub(super) const TICK: Duration = Duration::from_secs(1);
/// From the handshake to the end of the head of the first request, in ticks.
pub(super) const FIRST_REQUEST_TICKS: u32 = 10;
/// Between requests, in ticks.
pub(super) const IDLE_TICKS: u32 = 180;
/// A part of an answer has so long to be taken, in ticks, and a tick more for each [`TAKE_BYTES_A_TICK`].
pub(super) const TAKE_TICKS: u32 = 30;
pub(super) const TAKE_BYTES_A_TICK: usize = 16 << 10;
/// Bytes that a socket does not take at all for this long end its connection.
pub(super) const WRITE_STALL: Duration = Duration::from_secs(30);
/// A request's body, or one message of a stream of messages, has so long to come whole, and a second more for each
/// [`BODY_BYTES_A_SECOND`].
pub(super) const BODY: Duration = Duration::from_secs(30);
pub(super) const BODY_BYTES_A_SECOND: usize = 4 << 10;
/// A silent HTTP/2 connection is asked so often whether it lives, and has as long to say so.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Streams of one HTTP/2 connection at once.
pub(super) const STREAMS_MAX: u32 = 32;
/// Bytes of the fields of a request's head.
pub(super) const HEAD_BYTES_MAX: u32 = 16 << 10;
/// Bytes of an answer that wait in one HTTP/2 stream to be taken.
pub(super) const SEND_BUFFER_BYTES: usize = 256 << 10;
/// Of one HTTP/1.1 connection, for the head of a request.
pub(super) const HTTP1_BUFFER_BYTES: usize = 64 << 10;

/// Bytes of messages and bodies that have begun and are not whole, of all peers. One peer's oldest gives way when it
/// holds more than an eighth and somebody waited for longer than [`GIVE_WAY`].
pub(super) const UNFINISHED_BYTES_MAX: usize = 128 << 20;
pub(super) const UNFINISHED_SHARE: usize = UNFINISHED_BYTES_MAX / 8;
pub(super) const GIVE_WAY: Duration = Duration::from_secs(1);

/// HTTP/2 windows: what a peer may send ahead of what is read. Large ones are given out of this; who comes when it, or
/// the peer's quarter of it, is spent gets the smallest.
pub(super) const WINDOW_BYTES_MAX: usize = 512 << 20;
pub(super) const WINDOW_SHARE: usize = WINDOW_BYTES_MAX / 4;
pub(super) const WINDOW_LARGE: u32 = gnomon_proto::STREAM_WINDOW_BYTES;
/// What HTTP/2 begins with (RFC 9113, section 6.9.2).
pub(super) const WINDOW_SMALL: u32 = 65_535;

/// Peers whose refusals were logged in the last minute; beyond it they are only counted.
pub(super) const LOGGED_PEERS_MAX: usize = 1_024;
pub(super) const LOG_NS: u64 = 60_000_000_000;

/// How many places there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Of one peer: an IPv4 address, an IPv6 /64, a local user.
    pub of_a_peer: usize,
    /// Of one peer without a request under way; a newer one takes the place of the oldest.
    pub waiting_of_a_peer: usize,
    /// Requests of one peer under way at once, streams of agents aside.
    pub requests_of_a_peer: usize,
}

impl Limits {
    /// By how many files this process may have open.
    #[must_use]
    pub fn of_open_files(files: u64) -> Limits {
        let connections = files.saturating_sub(FILES_RESERVED).clamp(CONNECTIONS_MIN, CONNECTIONS_MAX);
        let connections = usize::try_from(connections).unwrap_or(usize::MAX);
        Limits {
            connections,
            of_a_peer: connections / 2,
            waiting_of_a_peer: (connections / 8).min(256),
            requests_of_a_peer: (connections / 4).min(256),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_stay_below_the_open_files() {
        for files in [256, 1_024, 4_096, 65_536, u64::MAX] {
            let limits = Limits::of_open_files(files);
            let connections = limits.connections as u64;
            assert!(connections + FILES_RESERVED <= files || connections == CONNECTIONS_MIN, "{limits:?}");
            assert!(
                limits.waiting_of_a_peer < limits.of_a_peer && limits.requests_of_a_peer < limits.of_a_peer
            );
        }
    }
}
