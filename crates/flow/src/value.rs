//! What a field says of a record.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use gnomon_clock::UtcNs;

use crate::timestamp::rfc3339;

/// One value of a field of one record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value<'a> {
    Ip(IpAddr),
    Integer(u64),
    Text(Cow<'a, str>),
    Time(UtcNs),
    Bool(bool),
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
