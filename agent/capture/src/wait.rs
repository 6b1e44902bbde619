//! How a source sleeps: short naps while traffic flows, poll(2) when it does not.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Naps cost a third of the CPU of a poll(2) wake-up for each frame, and let a batch gather.
const NAPS_US: [u64; 4] = [50, 100, 200, 200];

/// Sleeps until `ready` says so or `timeout` passed. `tick` runs at the start and between sleeps, at least every
/// `tick_every`, and ends the sleep by returning false.
///
/// # Errors
/// Whatever poll(2) says but EINTR, which ends the sleep early.
pub(crate) fn sleep_until(
    timeout: Duration,
    tick_every: Duration,
    fds: &mut [PollFd<'_>],
    mut ready: impl FnMut() -> bool,
    mut tick: impl FnMut() -> bool,
) -> Result<(), Errno> {
    let mut left = timeout;
    if !tick() {
        return Ok(());
    }
    for nap_us in NAPS_US {
        if ready() || left.is_zero() {
            return Ok(());
        }
        let nap = Duration::from_micros(nap_us).min(left);
        std::thread::sleep(nap);
        left = left.saturating_sub(nap);
    }
    // Counted in what was asked for instead of read from a clock: a little longer is no harm.
    while !ready() && !left.is_zero() {
        let step = left.min(tick_every);
        let timespec = Timespec::try_from(step).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 100_000_000 });
        match poll(fds, Some(&timespec)) {
            Ok(0) => left = left.saturating_sub(step),
            // Readable, or an error the caller must look at.
            Ok(_) | Err(Errno::INTR) => return Ok(()),
            Err(error) => return Err(error),
        }
        if !tick() {
            return Ok(());
        }
    }
    Ok(())
}

/// What to wait for on a socket: frames. Errors always wake.
pub(crate) fn readable(fd: BorrowedFd<'_>) -> PollFd<'_> {
    PollFd::from_borrowed_fd(fd, PollFlags::IN)
}
