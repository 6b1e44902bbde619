//! The hash chain over all segment files: what was written cannot be changed, dropped or put in another order without
//! its end changing too. It proves something only against a copy of its end that was kept elsewhere, which is why every
//! sealing says it in the log.

use std::fmt;

/// The end of the chain: BLAKE3 over the end before and what came next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Chain(pub(in crate::store) [u8; 32]);

impl Chain {
    /// A file begins with its header, which holds the end of the file before.
    pub(super) fn begin(header: &[u8]) -> Chain {
        Chain(*blake3::hash(header).as_bytes())
    }

    /// The chain with one frame more.
    pub(super) fn then(self, frame: &[u8]) -> Chain {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0).update(frame);
        Chain(*hasher.finalize().as_bytes())
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
