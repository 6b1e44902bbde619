//! How much disk the spool may use, and what it gives up first. Decided before each write.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::index::Index;
use super::memory::Key;
use super::segment::Lane;

/// What to do when an entry does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// Give up the oldest slices, and the oldest flows when there are no slices left: capture goes on.
    Sacrifice,
    /// Wait until the collector has taken something: for files, which can wait.
    Wait,
}

/// The limits of a spool.
#[derive(Clone, Debug)]
pub struct Limits {
    pub dir: PathBuf,
    /// Of all files together.
    pub bytes_max: u64,
    /// A segment is closed when it has grown to this; what is sacrificed, is sacrificed in such pieces.
    pub segment_bytes: u64,
    /// Left free on the file system: the smaller of the two.
    pub free_bytes_min: u64,
    pub free_percent_min: u8,
    /// Of entries that wait for the disk.
    pub memory_bytes_max: u64,
    /// What a power cut may cost.
    pub sync_interval: Duration,
    pub when_full: WhenFull,
}

impl Limits {
    /// A segment, no larger than an eighth of all: enough of them to give up one without losing much.
    pub(super) fn segment_bytes(&self) -> u64 {
        self.segment_bytes.min(self.bytes_max / 8).max(1)
    }
}

/// Bytes of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Space {
    pub(super) total: u64,
    /// For processes without privilege.
    pub(super) free: u64,
}

impl Space {
    pub(super) fn of(dir: &Path) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(Space {
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }
}

/// Bytes that must go before `need` more may be written; 0 when they fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shortage {
    /// Of the spool's own budget.
    pub(super) budget: u64,
    /// Of what is left free on the disk, which others may have filled.
    pub(super) disk: u64,
}

impl Shortage {
    pub(super) fn bytes(&self) -> u64 {
        self.budget.max(self.disk)
    }
}

pub(super) fn shortage(limits: &Limits, used: u64, space: Space, need: u64) -> Shortage {
    let budget = used.saturating_add(need).saturating_sub(limits.bytes_max);
    let percent = u64::from(limits.free_percent_min.min(100));
    let reserve = limits.free_bytes_min.min(space.total / 100 * percent);
    let disk = reserve.saturating_add(need).saturating_sub(space.free);
    Shortage { budget, disk }
}

/// What goes to make room on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Victim {
    Segment(u64),
    /// The oldest file that cannot be read.
    SetAside,
}

/// What goes to make room for an entry of `lane`: first what the collector has and is only not settled there, then what
/// cannot be read, then slices. Flows never make room for slices.
pub(super) fn victim(index: &Index, lane: Lane) -> Option<Victim> {
    let spare = index.oldest_acked().map(Victim::Segment);
    let spare = spare.or_else(|| index.set_aside.front().map(|_| Victim::SetAside));
    let slices = || index.oldest(Lane::Slices);
    spare.or_else(|| match lane {
        Lane::Slices => slices().map(Victim::Segment),
        Lane::Flows => slices().or_else(|| index.oldest(Lane::Flows)).map(Victim::Segment),
    })
}

/// Which entry of the memory goes to make room there for one of `lane`: in the same order.
pub(super) fn victim_in_memory(index: &Index, lane: Lane) -> Option<(Lane, Key)> {
    let oldest = |lane: Lane| index.memory.oldest_idle(lane).map(|key| (lane, key));
    let is_acked = |(_, (epoch, seq)): &(Lane, Key)| *seq <= index.epochs[*epoch].acked;
    let acked = Lane::ALL.into_iter().filter_map(oldest).find(is_acked);
    acked.or_else(|| oldest(Lane::Slices)).or_else(|| oldest(Lane::Flows).filter(|_| lane == Lane::Flows))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            dir: PathBuf::new(),
            bytes_max: 1000,
            segment_bytes: 64 << 20,
            free_bytes_min: 500,
            free_percent_min: 5,
            memory_bytes_max: 1 << 20,
            sync_interval: Duration::from_secs(1),
            when_full: WhenFull::Sacrifice,
        }
    }

    #[test]
    fn the_budget_and_the_free_space_both_hold() {
        let space = Space { total: 100_000, free: 600 };
        let shortage = |used, space, need| shortage(&limits(), used, space, need).bytes();
        assert_eq!(shortage(900, space, 100), 0);
        assert_eq!(shortage(901, space, 100), 1);
        assert_eq!(shortage(0, space, 101), 1);
        // On a small disk the percentage is the smaller one: 50 bytes.
        assert_eq!(shortage(0, Space { total: 1_000, free: 150 }, 100), 0);
        assert_eq!(shortage(0, Space { total: 1_000, free: 0 }, 100), 150);
    }

    #[test]
    fn a_segment_is_never_more_than_an_eighth_of_the_spool() {
        assert_eq!(limits().segment_bytes(), 125);
    }
}
