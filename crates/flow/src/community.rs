//! Community ID v1 (github.com/corelight/community-id-spec), the key that joins flows with other tools' records.

use std::net::IpAddr;

use crate::key::FlowKey;

/// The id of a flow, `None` for what is not IP. `icmp` is the type and code of the flow's first packet, which the
/// specification hashes in the place of ports.
pub fn community_id(key: &FlowKey, icmp: Option<(u8, u8)>) -> Option<String> {
    if !key.is_ip() {
        return None;
    }
    let (orig, resp): (IpAddr, IpAddr) = (key.orig_ip()?, key.resp_ip()?);
    let ports = match (key.protocol, icmp) {
        (1 | 58, Some((kind, code))) => (Some(u16::from(kind)), Some(u16::from(code))),
        _ if key.has_ports() => (Some(key.orig_port), Some(key.resp_port)),
        _ => (None, None),
    };
    community_id::calculate_community_id(0, orig, resp, ports.0, ports.1, key.protocol, Default::default())
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Addresses;

    #[test]
    fn both_directions_have_one_id() {
        let key = FlowKey {
            vlan: [0; 2],
            ethertype: 0x0800,
            protocol: 6,
            addresses: Addresses::V4 { orig: [128, 232, 110, 120], resp: [66, 35, 250, 204] },
            orig_port: 34855,
            resp_port: 80,
        };
        let turned = FlowKey {
            addresses: Addresses::V4 { orig: [66, 35, 250, 204], resp: [128, 232, 110, 120] },
            orig_port: 80,
            resp_port: 34855,
            ..key
        };
        // The value the specification gives for this tuple with seed 0.
        assert_eq!(community_id(&key, None).as_deref(), Some("1:LQU9qZlK+B5F3KDmev6m5PMibrg="));
        assert_eq!(community_id(&key, None), community_id(&turned, None));
    }
}
