//! What requests decide about their responses.

/// What requests decide about their responses, which come in the same order: two bits a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::inspect) struct Asked {
    bits: u32,
    count: u8,
}

/// What one request decides about its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    Body,
    /// The response has no body, whatever its head says.
    NoBody,
    /// A 2xx response begins a tunnel.
    Tunnel,
}

impl Expected {
    pub(super) fn of(method: &[u8]) -> Expected {
        match method {
            b"HEAD" => Expected::NoBody,
            b"CONNECT" => Expected::Tunnel,
            _ => Expected::Body,
        }
    }
}

impl Asked {
    const COUNT_MAX: u8 = 16;

    /// Of more requests than are remembered, the latest are taken for ordinary ones.
    pub(super) fn push(&mut self, expected: Expected) {
        if self.count < Asked::COUNT_MAX {
            self.bits |= (expected as u32) << (2 * self.count);
            self.count += 1;
        }
    }

    pub(super) fn first(self) -> Expected {
        match self.bits & 3 {
            1 => Expected::NoBody,
            2 => Expected::Tunnel,
            _ => Expected::Body,
        }
    }

    pub(super) fn pop(&mut self) {
        self.bits >>= 2;
        self.count = self.count.saturating_sub(1);
    }
}

/// Interim responses come before the one that was asked for (RFC 9110 §15.2).
pub(super) fn is_final(status: u16) -> bool {
    !(100..=199).contains(&status) || status == 101
}
