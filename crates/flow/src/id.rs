//! Identities: of an agent, of an epoch in short form, of a flow in its epoch, and of one record of a flow.

use std::fmt;
use std::str::FromStr;

use gnomon_clock::EpochId;

/// An agent's own identity: random, made at its first start and kept in its state directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentId(pub [u8; 16]);

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The text is not an id of the kind asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct IdError {
    pub text: String,
    pub expected: &'static str,
}

impl FromStr for AgentId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<AgentId, IdError> {
        let error = || IdError { text: text.to_owned(), expected: "an agent id (32 hexadecimal digits)" };
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(error());
        }
        u128::from_str_radix(text, 16).map(|n| AgentId(n.to_be_bytes())).map_err(|_| error())
    }
}

/// The short form of an [`EpochId`] in keys and in the ids people see: FNV-1a (64 bit) of its 40 bytes. The bytes hashed
/// are random (agent, boot), so chance collisions are those of a random 64-bit number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EpochHash(pub u64);

impl EpochHash {
    pub fn of(epoch: &EpochId) -> EpochHash {
        let opened = epoch.opened.0.to_be_bytes();
        let bytes = epoch.agent.iter().chain(&epoch.boot_id).chain(&opened);
        EpochHash(fnv1a(bytes.copied()))
    }
}

/// FNV-1a of 64 bits. What it gives is written to disk: it never changes.
pub fn fnv1a(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// A flow, unique inside its epoch: the worker's number in the top byte, a counter below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId(pub u64);

impl FlowId {
    pub const COUNTER_BITS: u32 = 56;

    pub fn new(worker: u8, counter: u64) -> FlowId {
        FlowId((u64::from(worker) << Self::COUNTER_BITS) | (counter & ((1 << Self::COUNTER_BITS) - 1)))
    }

    pub fn worker(self) -> u8 {
        (self.0 >> Self::COUNTER_BITS) as u8
    }
}

/// One record: a flow's segment, named uniquely over all agents and epochs. Interim records of a segment share it, so
/// that the last one to arrive replaces the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowRef {
    pub epoch: EpochHash,
    pub flow: FlowId,
    pub segment: u32,
}

impl fmt::Display for FlowRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:x}-{:x}", self.epoch.0, self.flow.0, self.segment)
    }
}

impl FromStr for FlowRef {
    type Err = IdError;

    fn from_str(text: &str) -> Result<FlowRef, IdError> {
        let parse = || {
            let mut parts = text.split('-');
            let (epoch, flow, segment) = (parts.next()?, parts.next()?, parts.next()?);
            // from_str_radix would take a sign.
            let digits = |s: &str| s.bytes().all(|b| b.is_ascii_hexdigit());
            if parts.next().is_some() || epoch.len() != 16 || ![epoch, flow, segment].into_iter().all(digits)
            {
                return None;
            }
            Some(FlowRef {
                epoch: EpochHash(u64::from_str_radix(epoch, 16).ok()?),
                flow: FlowId(u64::from_str_radix(flow, 16).ok()?),
                segment: u32::from_str_radix(segment, 16).ok()?,
            })
        };
        parse().ok_or_else(|| IdError {
            text: text.to_owned(),
            expected: "a record id (EPOCH-FLOW-SEGMENT in hexadecimal, as the field `id` shows it)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_id_survives_its_text_form() {
        let id = FlowRef { epoch: EpochHash(0xfeed), flow: FlowId::new(3, 77), segment: 2 };
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "1-2-3", "000000000000feed-+1-2", "000000000000feed-1-2-3", "000000000000feed-1-"] {
            assert!(bad.parse::<FlowRef>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_agent_id_survives_its_text_form() {
        let id = AgentId([0xab; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("+bababababababababababababababab".parse::<AgentId>().is_err());
    }
}
