//! What most searches pass a record in no block by with. Records lie all over the memory, their outlines side by side.

use gnomon_clock::UtcNs;
use gnomon_flow::{Addresses, StoredFlow, TimeState};

/// A record in short.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outline {
    /// The first and the last time by the evidence of when it was placed, when it is indexed.
    pub(super) times: Option<(UtcNs, UtcNs)>,
    pub(crate) ends: Ends,
    /// The originator's and the responder's.
    pub(crate) ports: [u16; 2],
}

/// The originator's and the responder's address.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ends {
    V4([u32; 2]),
    /// The first half of each.
    V6([u64; 2]),
    Other,
}

impl Outline {
    pub(super) fn of(flow: &StoredFlow) -> Outline {
        let key = &flow.record.key;
        let half = |ip: [u8; 16]| (u128::from_be_bytes(ip) >> 64) as u64;
        let first = flow.first.filter(|_| flow.time_state == TimeState::Indexed);
        Outline {
            times: first.map(|first| (first.utc, flow.last.map_or(first.utc, |last| last.utc))),
            ends: match key.addresses {
                Addresses::V4 { orig, resp } => Ends::V4([orig, resp].map(u32::from_be_bytes)),
                Addresses::V6 { orig, resp } => Ends::V6([orig, resp].map(half)),
                Addresses::Mac { .. } | Addresses::None => Ends::Other,
            },
            ports: [key.orig_port, key.resp_port],
        }
    }
}
