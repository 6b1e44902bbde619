//! The host that a request is for, and its port.

use gnomon_flow::{Attributes, FieldId, field};

use crate::inspect::claim;

/// A header that is shown as it is, but for the port of a host (RFC 9110 §7.2), which is a field of its own.
pub(in crate::inspect) fn claim_shown(out: &mut Attributes, shown: FieldId, value: &[u8]) {
    if shown != field::HTTP_HOST {
        return claim(out, shown, value);
    }
    let (host, port) = host_and_port(value);
    claim(out, shown, host);
    if let Some(port) = port {
        out.integer(field::HTTP_HOST_PORT, port);
    }
}

/// An IPv6 address stands in brackets, and has colons of its own.
fn host_and_port(value: &[u8]) -> (&[u8], Option<u16>) {
    let at = value.iter().rposition(|byte| *byte == b':');
    let parts = at.map(|at| (&value[..at], &value[at + 1..]));
    match parts {
        Some((host, digits)) if host.ends_with(b"]") || !host.contains(&b':') => {
            match std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()) {
                Some(port) => (host, Some(port)),
                None => (value, None),
            }
        }
        _ => (value, None),
    }
}
