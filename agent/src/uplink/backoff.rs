//! How long to wait before the next connection.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LAST: Duration = Duration::from_secs(10);

/// Doubling waits from 100 ms to 10 s, each shortened at random by up to half: a fleet that lost its collector does not
/// come back all at once.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
    random: u64,
}

impl Backoff {
    /// `seed` must differ between agents.
    pub(super) fn new(seed: u64) -> Backoff {
        Backoff { next: FIRST, random: seed | 1 }
    }

    pub(super) fn wait(&mut self) -> Duration {
        let longest = self.next;
        self.next = (longest * 2).min(LAST);
        // xorshift64 (Marsaglia, 2003): good enough to spread agents out.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let thousandth = u32::try_from(self.random % 1000).unwrap_or(0);
        longest - longest / 2 * thousandth / 1000
    }

    /// A session was good: the next failure is a new one.
    pub(super) fn reset(&mut self) {
        self.next = FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_bound_are_spread_and_start_over() {
        let mut backoff = Backoff::new(42);
        let waits: Vec<Duration> = (0..40).map(|_| backoff.wait()).collect();
        assert!(waits[0] >= FIRST / 2 && waits[0] <= FIRST);
        assert!(waits[10..].iter().all(|wait| *wait >= LAST / 2 && *wait <= LAST));
        assert!(waits[10..].windows(2).any(|pair| pair[0] != pair[1]));
        backoff.reset();
        assert!(backoff.wait() <= FIRST);
        assert_ne!(Backoff::new(1).wait(), Backoff::new(99).wait());
    }
}
