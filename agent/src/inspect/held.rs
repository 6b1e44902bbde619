//! What is held of messages that are not whole, and the budget it is charged to.

/// Bytes of an incomplete message that are held for one direction of a flow.
pub const HELD_BYTES_MAX: usize = 16 * 1024;

/// What all inspections of a worker may hold together.
#[derive(Clone, Debug)]
pub struct BufferBudget {
    left: usize,
    denied: u64,
}

impl BufferBudget {
    pub fn new(bytes: usize) -> BufferBudget {
        BufferBudget { left: bytes, denied: 0 }
    }

    /// Bytes not taken.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Messages that could not be held, and so were not read.
    pub fn denied(&self) -> u64 {
        self.denied
    }

    pub(crate) fn take(&mut self, bytes: usize) -> bool {
        match self.left.checked_sub(bytes) {
            Some(left) => self.left = left,
            None => {
                self.denied += 1;
                return false;
            }
        }
        true
    }

    /// Something was left out for want of memory.
    pub(crate) fn deny(&mut self) {
        self.denied += 1;
    }

    pub(crate) fn give_back(&mut self, bytes: usize) {
        self.left += bytes;
    }
}

/// What must come before it is worth reading again: somebody may send a head byte by byte, and each reading begins at
/// the front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// So many bytes, from the message's first one.
    Bytes(usize),
    /// The end of a line.
    Line,
}

impl Default for Need {
    fn default() -> Need {
        Need::Bytes(0)
    }
}

#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) bytes: Vec<u8>,
    /// Which bytes are there, for QUIC, whose pieces come in any order.
    pub(super) ranges: Vec<(u16, u16)>,
    /// What the budget was charged.
    charged: usize,
    pub(super) need: Need,
}

impl Held {
    pub(super) fn waiting(need: Need) -> Held {
        Held { need, ..Held::default() }
    }

    /// False when the budget does not allow it.
    pub(super) fn append(&mut self, bytes: &[u8], budget: &mut BufferBudget) -> bool {
        self.reserve(self.bytes.len() + bytes.len(), budget) && {
            self.bytes.extend_from_slice(bytes);
            true
        }
    }

    /// Room for `length` bytes, charged in steps that keep the copying small.
    pub(super) fn reserve(&mut self, length: usize, budget: &mut BufferBudget) -> bool {
        debug_assert!(length <= HELD_BYTES_MAX);
        if length > self.charged {
            let charge = length.next_power_of_two().clamp(256, HELD_BYTES_MAX);
            if !budget.take(charge - self.charged) {
                return false;
            }
            self.charged = charge;
            self.bytes.reserve_exact(charge - self.bytes.len());
        }
        true
    }

    pub(super) fn has_needed(&self, latest: &[u8]) -> bool {
        match self.need {
            _ if self.bytes.len() == HELD_BYTES_MAX => true,
            Need::Bytes(bytes) => self.bytes.len() >= bytes,
            Need::Line => latest.contains(&b'\n'),
        }
    }

    pub(super) fn release(&mut self, budget: &mut BufferBudget) {
        budget.give_back(std::mem::take(&mut self.charged));
    }
}
