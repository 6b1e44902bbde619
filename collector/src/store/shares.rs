//! Limits that nobody gave: shares of the room that a store has, by what was free at its first start. They are written down
//! in the data directory and stay, whatever else comes to be on the disk.
//!
//! ```text
//! limits: lines of a name, " = " and bytes: packets_max, flows_max, free_min
//! ```

use std::path::Path;

use super::retention::{Limits, free_bytes};
use super::rocks_mend::replace;
use super::verify::{files_bytes, size_of};
use super::{StoreError, directory};

const LIMITS: &str = "limits";
/// What packets get of the room, and what flow records get; the rest is for the log, for merging and to be left free.
const PACKETS_SHARE: (u64, u64) = (2, 5);
const FLOWS_SHARE: (u64, u64) = (3, 10);
const FREE_SHARE: (u64, u64) = (1, 5);
/// Nobody has to leave more free than that.
const FREE_BYTES_MAX: u64 = 1 << 30;
const KEPT_BYTES_MAX: u64 = 1 << 30;

/// Limits as they were asked for; what is `None` is a share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WantedLimits {
    pub packets_bytes_max: Option<u64>,
    pub flows_bytes_max: Option<u64>,
    pub flows_bytes_kept: Option<u64>,
    pub free_bytes_min: Option<u64>,
    pub packets_age_ns_max: Option<u64>,
    pub flows_age_ns_max: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shares {
    packets: u64,
    flows: u64,
    free: u64,
}

fn share(room: u64, (part, of): (u64, u64)) -> u64 {
    room / of * part
}

impl Shares {
    fn of(room: u64) -> Shares {
        Shares {
            packets: share(room, PACKETS_SHARE),
            flows: share(room, FLOWS_SHARE),
            free: share(room, FREE_SHARE).min(FREE_BYTES_MAX),
        }
    }

    /// Of a store that may have been there before there were shares: what it has is not given up for that.
    fn of_dir(dir: &Path) -> Result<Shares, StoreError> {
        let (taken, packets) = (size_of(dir), files_bytes(&dir.join("segments")));
        let shares = Shares::of(free_bytes(dir)?.saturating_add(taken));
        Ok(Shares {
            packets: shares.packets.max(packets),
            flows: shares.flows.max(taken.saturating_sub(packets)),
            ..shares
        })
    }

    fn encode(self) -> String {
        let Shares { packets, flows, free } = self;
        format!("packets_max = {packets}\nflows_max = {flows}\nfree_min = {free}\n")
    }

    fn decode(text: &str) -> Option<Shares> {
        let number = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "))?;
            value.trim().parse().ok()
        };
        Some(Shares {
            packets: number("packets_max")?,
            flows: number("flows_max")?,
            free: number("free_min")?,
        })
    }
}

impl WantedLimits {
    /// The limits of the store under `dir`, which is made if it is not there.
    ///
    /// # Errors
    /// When the directory cannot be made or the file system not be asked.
    pub fn limits(&self, dir: &Path) -> Result<Limits, StoreError> {
        let at = |source| StoreError::Directory { path: dir.to_owned(), source };
        directory::create(dir).map_err(at)?;
        let path = dir.join(LIMITS);
        let known = std::fs::read_to_string(&path).ok().and_then(|text| Shares::decode(&text));
        let shares = match known {
            Some(shares) => shares,
            None => {
                let shares = Shares::of_dir(dir)?;
                match replace(&path, shares.encode().as_bytes()) {
                    Ok(()) => {
                        tracing::info!(?shares, file = %path.display(), "the store's limits are shares of the room it has")
                    }
                    // Without room: they are found again, about the same.
                    Err(error) => {
                        tracing::warn!(%error, file = %path.display(), "cannot write down the store's limits")
                    }
                }
                shares
            }
        };
        let flows_bytes_max = self.flows_bytes_max.unwrap_or(shares.flows);
        Ok(Limits {
            packets_bytes_max: self.packets_bytes_max.unwrap_or(shares.packets),
            flows_bytes_max,
            flows_bytes_kept: self.flows_bytes_kept.unwrap_or((flows_bytes_max / 2).min(KEPT_BYTES_MAX)),
            free_bytes_min: self.free_bytes_min.unwrap_or(shares.free),
            packets_age_ns_max: self.packets_age_ns_max,
            flows_age_ns_max: self.flows_age_ns_max,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_fit_the_room_and_stay() {
        for room in [0, 1 << 20, 200 << 20, 4 << 30, 1 << 40] {
            let Shares { packets, flows, free } = Shares::of(room);
            assert!(packets + flows + free <= room / 10 * 9 + 9, "{room}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let first = WantedLimits::default().limits(&path).unwrap();
        let free = free_bytes(&path).unwrap();
        assert!(first.packets_bytes_max.abs_diff(free / 5 * 2) < free / 100);
        // Whatever the disk has later.
        std::fs::write(path.join(LIMITS), "packets_max = 70\nflows_max = 60\nfree_min = 50\n").unwrap();
        let later = WantedLimits { flows_bytes_max: Some(9), ..WantedLimits::default() };
        let later = later.limits(&path).unwrap();
        assert_eq!((later.packets_bytes_max, later.flows_bytes_max, later.free_bytes_min), (70, 9, 50));
        // One that cannot be read is made again.
        std::fs::write(path.join(LIMITS), "nonsense").unwrap();
        assert!(WantedLimits::default().limits(&path).unwrap().packets_bytes_max > 70);
    }
}
