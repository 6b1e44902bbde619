//! The different values of a field that were met so far, by numbers.

use std::hash::BuildHasher;
use std::net::IpAddr;

use gnomon_flow::Value;
use hashbrown::HashTable;

use super::coded::NONE;
use crate::store::block::bloom::Mixing;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) values: Vec<Value<'static>>,
    places: HashTable<(Code, u32)>,
    /// The numbers of integers below [`SMALL_MAX`]: ports are most of what is looked up.
    small: Vec<u32>,
}

/// A quarter of a megabyte a field at most.
const SMALL_MAX: u64 = 65_536;

/// What stands for a value in a table: most need no other look then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Code {
    Address(u32),
    Integer(u64),
    /// Of what else there is, the hash.
    Like(u64),
}

impl Code {
    fn of(value: &Value<'static>) -> Code {
        match value {
            Value::Ip(IpAddr::V4(ip)) => Code::Address(ip.to_bits()),
            Value::Integer(n) => Code::Integer(*n),
            other => Code::Like(Mixing::default().hash_one(other)),
        }
    }

    fn hash(self) -> u64 {
        Mixing::default().hash_one(match self {
            Code::Address(ip) => u64::from(ip),
            Code::Integer(word) | Code::Like(word) => word,
        })
    }
}

impl Known {
    /// What it takes of memory, but for texts.
    pub(super) fn bytes(&self) -> usize {
        self.values.capacity() * size_of::<Value<'static>>()
            + self.places.capacity() * (size_of::<(Code, u32)>() + 1)
            + self.small.capacity() * size_of::<u32>()
    }

    /// [`NONE`] of a value that is not known.
    pub(super) fn find(&self, value: &Value<'static>) -> u32 {
        if let Value::Integer(n @ 0..SMALL_MAX) = value {
            return self.small.get(*n as usize).copied().unwrap_or(NONE);
        }
        let code = Code::of(value);
        let same = |(known, at): &(Code, u32)| {
            *known == code && (!matches!(code, Code::Like(_)) || self.values[*at as usize] == *value)
        };
        self.places.find(code.hash(), same).map_or(NONE, |(_, number)| *number)
    }

    /// Of a value that is new.
    pub(super) fn insert(&mut self, value: &Value<'static>) -> u32 {
        let number = self.values.len() as u32;
        self.values.push(value.clone());
        if let Value::Integer(n @ 0..SMALL_MAX) = value {
            let place = *n as usize;
            if self.small.len() <= place {
                self.small.resize((place + 1).next_power_of_two(), NONE);
            }
            self.small[place] = number;
            return number;
        }
        let code = Code::of(value);
        self.places.insert_unique(code.hash(), (code, number), |(code, _)| code.hash());
        number
    }
}
