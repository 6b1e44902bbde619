//! A line of EVE JSON (Suricata's user guide, section "EVE JSON Format"): of all its events, alerts are taken.
//!
//! Whatever stands in a line was written by another program about packets of strangers: it is checked, cut and escaped
//! where it is shown.

use std::borrow::Cow;
use std::net::IpAddr;

use gnomon_clock::{RawNs, UtcNs};
use gnomon_flow::community::community_id;
use gnomon_flow::field::PROTOCOL_NAMES;
use gnomon_flow::timestamp::parse_rfc3339;
use gnomon_flow::{Addresses, Alert, FlowKey, Pair};
use serde::Deserialize;

/// Why a line is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLine {
    #[error("it is no JSON object of EVE's fields")]
    Json,
    #[error("its timestamp is none")]
    Time,
    #[error("it names no two IP addresses and protocol: it is about no flow")]
    Flow,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    event_type: Cow<'a, str>,
    #[serde(borrow)]
    timestamp: Option<Cow<'a, str>>,
    flow_id: Option<u64>,
    #[serde(borrow)]
    src_ip: Option<Cow<'a, str>>,
    #[serde(borrow)]
    dest_ip: Option<Cow<'a, str>>,
    src_port: Option<u16>,
    dest_port: Option<u16>,
    #[serde(borrow)]
    proto: Option<Cow<'a, str>>,
    icmp_type: Option<u8>,
    icmp_code: Option<u8>,
    alert: Option<Signature>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Signature {
    action: String,
    gid: u64,
    signature_id: u64,
    rev: u64,
    signature: String,
    category: String,
    severity: u64,
}

/// An alert as it stands in a line: its time is that of a clock nobody vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub at: UtcNs,
    alert: Alert,
}

impl Said {
    /// Reads a line; `None` when it is another event.
    ///
    /// # Errors
    /// When it is no event, or an alert that is about no flow.
    pub fn parse(line: &[u8]) -> Result<Option<Said>, BadLine> {
        let line: Line<'_> = serde_json::from_slice(line).map_err(|_| BadLine::Json)?;
        if line.event_type != "alert" {
            return Ok(None);
        }
        let signature = line.alert.ok_or(BadLine::Json)?;
        let at = line.timestamp.as_deref().and_then(parse_rfc3339).ok_or(BadLine::Time)?;
        let ip = |text: &Option<Cow<'_, str>>| text.as_deref()?.parse::<IpAddr>().ok();
        let ends = ip(&line.src_ip).zip(ip(&line.dest_ip));
        let (src, dst) = ends.ok_or(BadLine::Flow)?;
        let protocol = line.proto.as_deref().and_then(protocol).ok_or(BadLine::Flow)?;
        let key = FlowKey {
            protocol,
            addresses: match (src, dst) {
                (IpAddr::V4(src), IpAddr::V4(dst)) => {
                    Addresses::V4 { orig: src.octets(), resp: dst.octets() }
                }
                (IpAddr::V6(src), IpAddr::V6(dst)) => {
                    Addresses::V6 { orig: src.octets(), resp: dst.octets() }
                }
                _ => return Err(BadLine::Flow),
            },
            orig_port: line.src_port.unwrap_or(0),
            resp_port: line.dest_port.unwrap_or(0),
            ..FlowKey::default()
        };
        // Made here and not taken from the line: Suricata may have another seed, or none written down.
        let community_id = community_id(&key, line.icmp_type.zip(line.icmp_code)).ok_or(BadLine::Flow)?;
        let alert = Alert {
            at: RawNs(0),
            read: RawNs(0),
            said_unix_ns: at.unix_ns(),
            community_id,
            pair: Pair::of(&key).ok_or(BadLine::Flow)?,
            signature: Alert::clip(signature.signature),
            signature_id: signature.signature_id,
            gid: signature.gid,
            revision: signature.rev,
            severity: signature.severity,
            category: Alert::clip(signature.category),
            action: Alert::clip(signature.action),
            flow: line.flow_id.unwrap_or(0),
        };
        Ok(Some(Said { at, alert }))
    }

    /// The alert, once it is known when that was on the clock of packets.
    pub fn alert(self, at: RawNs, read: RawNs) -> Alert {
        Alert { at, read, ..self.alert }
    }
}

/// The number of a protocol as Suricata names it: `TCP`, `IPv6-ICMP`, `047`.
fn protocol(name: &str) -> Option<u8> {
    if name.eq_ignore_ascii_case("ipv6-icmp") {
        return Some(58);
    }
    let known = PROTOCOL_NAMES.iter().find(|(_, known)| known.eq_ignore_ascii_case(name));
    known.map(|(number, _)| *number).or_else(|| name.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LINE: &str = r#"{"timestamp":"2023-11-14T23:13:20.123456+0100","flow_id":1913,"in_iface":"eth0",
        "event_type":"alert","src_ip":"128.232.110.120","src_port":34855,"dest_ip":"66.35.250.204","dest_port":80,
        "proto":"TCP","community_id":"1:LQU9qZlK+B5F3KDmev6m5PMibrg=","tx_id":0,"alert":{"action":"allowed","gid":1,
        "signature_id":2100498,"rev":7,"signature":"GPL \"id\" check","category":"Potentially Bad Traffic",
        "severity":2,"metadata":{"created_at":["2010_09_23"]}},"http":{"hostname":"x"},"app_proto":"http"}"#;

    fn parsed(line: &str) -> Result<Option<Said>, BadLine> {
        Said::parse(line.as_bytes())
    }

    #[test]
    fn an_alert_is_read_with_its_community_id_and_time() {
        let said = parsed(LINE).unwrap().unwrap();
        assert_eq!(said.at.unix_ns(), 1_700_000_000_123_456_000);
        let alert = said.alert(RawNs(5), RawNs(6));
        assert_eq!(
            (alert.at, alert.read, alert.said_unix_ns),
            (RawNs(5), RawNs(6), 1_700_000_000_123_456_000)
        );
        // What the Community ID specification gives for this tuple.
        assert_eq!(alert.community_id, "1:LQU9qZlK+B5F3KDmev6m5PMibrg=");
        assert_eq!((alert.signature_id, alert.gid, alert.revision, alert.severity), (2_100_498, 1, 7, 2));
        assert_eq!((&*alert.signature, &*alert.action), ("GPL \"id\" check", "allowed"));
        assert_eq!((&*alert.category, alert.flow), ("Potentially Bad Traffic", 1913));
        // With another seed, and with none, the id is ours.
        let without = LINE.replace("\"community_id\":\"1:LQU9qZlK+B5F3KDmev6m5PMibrg=\",", "");
        assert_ne!(without, LINE);
        let other = LINE.replace("1:LQU", "1:XXX");
        for line in [without, other] {
            let alert = parsed(&line).unwrap().unwrap().alert(RawNs(0), RawNs(0));
            assert_eq!(alert.community_id, "1:LQU9qZlK+B5F3KDmev6m5PMibrg=");
        }
    }

    #[test]
    fn pings_and_ipv6_have_their_ids_too() {
        let ping = r#"{"timestamp":"2023-11-14T22:13:20.000001Z","event_type":"alert","src_ip":"192.168.0.89",
            "dest_ip":"192.168.0.1","proto":"ICMP","icmp_type":8,"icmp_code":0,"alert":{"signature_id":1}}"#;
        // The same from the other side, where Suricata saw the answer first.
        let pong = ping
            .replace("\"src_ip\":\"192.168.0.89\"", "\"src_ip\":\"192.168.0.1\"")
            .replace("\"dest_ip\":\"192.168.0.1\"", "\"dest_ip\":\"192.168.0.89\"")
            .replace("\"icmp_type\":8", "\"icmp_type\":0");
        let id = |line: &str| parsed(line).unwrap().unwrap().alert(RawNs(0), RawNs(0)).community_id;
        // Of the specification's baseline for ICMP.
        assert_eq!(id(ping), "1:X0snYXpgwiv9TZtqg64sgzUn6Dk=");
        assert_eq!(id(&pong), id(ping));
        let six = ping
            .replace("192.168.0.89", "fe80::200:86ff:fe05:80da")
            .replace("192.168.0.1", "fe80::260:97ff:fe07:69ea");
        let six = six.replace("\"ICMP\"", "\"IPv6-ICMP\"").replace("\"icmp_type\":8", "\"icmp_type\":135");
        assert_eq!(id(&six), "1:dGHyGvjMfljg6Bppwm3bg0LO8TY=");
    }

    #[test]
    fn other_events_are_passed_and_what_is_wrong_is_told() {
        assert_eq!(parsed(r#"{"event_type":"flow","src_ip":7}"#), Err(BadLine::Json));
        assert_eq!(parsed(r#"{"event_type":"stats","stats":{"x":[{"y":1e400}]}}"#), Ok(None));
        assert_eq!(parsed(r#"{"event_type":"flow"}"#), Ok(None));
        assert_eq!(parsed(r#"{"event_type":"alert"}"#), Err(BadLine::Json));
        for bad in ["", "{", "[]", "7", "{}", "null", &LINE[..LINE.len() - 1], &"[".repeat(100_000)] {
            assert_eq!(parsed(bad), Err(BadLine::Json), "{:.20}", bad);
        }
        assert_eq!(parsed(&LINE.replace("+0100", "")), Err(BadLine::Time));
        assert_eq!(parsed(&LINE.replace("2023-11-14", "2023-13-14")), Err(BadLine::Time));
        assert_eq!(parsed(&LINE.replace("128.232.110.120", "eth0")), Err(BadLine::Flow));
        assert_eq!(parsed(&LINE.replace("128.232.110.120", "::1")), Err(BadLine::Flow));
        assert_eq!(parsed(&LINE.replace("TCP", "carrier pigeon")), Err(BadLine::Flow));
        assert_eq!(parsed(&LINE.replace("34855", "348550")), Err(BadLine::Json));
        // Suricata writes no addresses when a packet has none that can be read.
        assert_eq!(parsed(&LINE.replace("src_ip", "no_ip")), Err(BadLine::Flow));
    }

    #[test]
    fn protocols_are_known_by_name_and_by_number() {
        for (name, number) in
            [("TCP", 6), ("UDP", 17), ("ICMP", 1), ("IPv6-ICMP", 58), ("SCTP", 132), ("047", 47)]
        {
            assert_eq!(protocol(name), Some(number), "{name}");
        }
        assert_eq!((protocol("256"), protocol("")), (None, None));
    }

    #[test]
    fn long_texts_are_cut() {
        let long = LINE.replace("Potentially Bad Traffic", &"é".repeat(3000));
        let alert = parsed(&long).unwrap().unwrap().alert(RawNs(0), RawNs(0));
        assert_eq!(alert.category.len(), Alert::TEXT_BYTES_MAX);
    }

    proptest! {
        #[test]
        fn no_line_panics(mut line: Vec<u8>, at: prop::sample::Index, cut: prop::sample::Index, whole: bool) {
            let _ = Said::parse(&line);
            // And good ones with a stretch of anything inside.
            let mut good = LINE.as_bytes().to_vec();
            let at = at.index(good.len());
            let end = if whole { at } else { at + cut.index(good.len() - at) };
            good.splice(at..end, line.drain(..));
            if let Ok(Some(said)) = Said::parse(&good) {
                let alert = said.alert(RawNs(1), RawNs(2));
                prop_assert!(alert.signature.len() <= Alert::TEXT_BYTES_MAX);
                prop_assert!(alert.community_id.len() <= Alert::COMMUNITY_ID_BYTES_MAX);
            }
        }
    }
}
