//! What a field says of a record.

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use gnomon_clock::UtcNs;

use crate::timestamp::rfc3339;

/// One value of a field of one record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value<'a> {
    Ip(IpAddr),
    Integer(u64),
    Text(Cow<'a, str>),
    Time(UtcNs),
    Bool(bool),
}

/// In as few words as tell most values of one field apart: counting asks for little else.
impl Hash for Value<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Value::Ip(IpAddr::V4(ip)) => state.write_u64(ip.to_bits().into()),
            Value::Ip(IpAddr::V6(ip)) => state.write_u128(ip.to_bits()),
            Value::Integer(n) => state.write_u64(*n),
            Value::Text(text) => state.write(text.as_bytes()),
            Value::Time(time) => state.write_u64(time.tai_ns().cast_unsigned()),
            Value::Bool(b) => state.write_u64((*b).into()),
        }
    }
}

/// As searches and JSON write it.
impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Ip(ip) => ip.fmt(f),
            Value::Integer(n) => n.fmt(f),
            Value::Text(text) => text.fmt(f),
            Value::Time(time) => rfc3339(*time).fmt(f),
            Value::Bool(b) => b.fmt(f),
        }
    }
}

impl Value<'_> {
    pub fn into_owned(self) -> Value<'static> {
        match self {
            Value::Ip(ip) => Value::Ip(ip),
            Value::Integer(n) => Value::Integer(n),
            Value::Text(text) => Value::Text(Cow::Owned(text.into_owned())),
            Value::Time(time) => Value::Time(time),
            Value::Bool(b) => Value::Bool(b),
        }
    }
}
