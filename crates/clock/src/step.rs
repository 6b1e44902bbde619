//! Notice of a clock step in the moment it happens.
//!
//! A timer on CLOCK_REALTIME armed with TFD_TIMER_CANCEL_ON_SET ends with ECANCELED when the clock is set
//! (timerfd_create(2)); slews do not wake it. A second descriptor wakes the wait for shutdown.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepEvent {
    /// CLOCK_REALTIME was set: sample and exchange now.
    Stepped,
    TimedOut,
    /// [`StepStop::stop`] was called; so will every later wait say.
    Stopped,
}

/// Waits for clock steps, in a thread of its own.
#[derive(Debug)]
pub struct StepWatch {
    timer: OwnedFd,
    stop: Arc<OwnedFd>,
}

/// Ends the wait of a [`StepWatch`] from another thread.
#[derive(Clone, Debug)]
pub struct StepStop(Arc<OwnedFd>);

impl StepStop {
    pub fn stop(&self) {
        // Fails only when the counter is full, and then it is readable already.
        let _ = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }
}

impl StepWatch {
    /// # Errors
    /// When the kernel gives no timer or event descriptor.
    pub fn new() -> io::Result<StepWatch> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Realtime, flags)?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let watch = StepWatch { timer, stop };
        watch.arm()?;
        Ok(watch)
    }

    pub fn stopper(&self) -> StepStop {
        StepStop(Arc::clone(&self.stop))
    }

    /// Blocks until the clock is set, the watch is stopped, or `timeout` (by the monotonic clock) is over.
    ///
    /// # Errors
    /// When the kernel refuses to wait or to arm the timer again.
    pub fn wait(&self, timeout: Duration) -> io::Result<StepEvent> {
        let timeout = Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        let mut fds = [
            PollFd::new(&self.timer, PollFlags::IN),
            PollFd::from_borrowed_fd(self.stop.as_fd(), PollFlags::IN),
        ];
        match poll(&mut fds, Some(&timeout)) {
            // A signal: the caller comes round again.
            Ok(0) | Err(Errno::INTR) => return Ok(StepEvent::TimedOut),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        if !fds[1].revents().is_empty() {
            return Ok(StepEvent::Stopped);
        }
        let read = rustix::io::read(&self.timer, &mut [0_u8; 8]);
        match read {
            Err(Errno::CANCELED) => {
                self.arm()?;
                Ok(StepEvent::Stepped)
            }
            // The timer ran out: the clock stands in a far future, and that is a step as well.
            Ok(_) => {
                self.arm()?;
                Ok(StepEvent::Stepped)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(StepEvent::TimedOut),
            Err(error) => Err(error.into()),
        }
    }

    /// Armed for the year 2200: only setting the clock ends it.
    fn arm(&self) -> io::Result<()> {
        const FAR_S: i64 = 7_258_118_400;
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let far = Itimerspec { it_interval: zero, it_value: Timespec { tv_sec: FAR_S, tv_nsec: 0 } };
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        timerfd_settime(&self.timer, flags, &far)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_times_out_and_stops_at_once() {
        let watch = StepWatch::new().unwrap();
        assert_eq!(watch.wait(Duration::from_millis(5)).unwrap(), StepEvent::TimedOut);
        let stop = watch.stopper();
        let waiting = std::thread::spawn(move || watch.wait(Duration::from_secs(60)).unwrap());
        stop.stop();
        assert_eq!(waiting.join().unwrap(), StepEvent::Stopped);
    }
}
