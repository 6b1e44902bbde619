//! The one table of fields. The search language, the index, JSON, exports and the documentation are all made from it:
//! the key you see in JSON is the name you type in a search.
//!
//! Ids are written to disk and to the wire: they never change, and an id that is retired stays reserved. A pure table,
//! so it may be long.

mod ids;

use std::borrow::Cow;

use gnomon_clock::UtcNs;

use crate::attribute::AttributeValue;
use crate::community::community_id;
use crate::key::FlowKey;
use crate::stored::StoredFlow;
pub use crate::value::Value;
pub use ids::*;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FieldId(pub u16);

/// What values of a field are, which decides how they are compared in a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FieldKind {
    /// IPv4 or IPv6 address; compares with CIDR, short forms and `ip:port`.
    Ip,
    Integer,
    /// Compares exactly, with `*` wildcards or by /regular expression/; letter case is ignored.
    Text,
    /// A point of time; JSON has RFC 3339 with nanoseconds.
    Time,
    Bool,
}

/// Called with each value that a record has in a field.
pub type Sink<'s> = &'s mut dyn FnMut(Value<'_>);

pub struct Field {
    pub id: FieldId,
    /// The name in searches and in JSON. Arkime's where it has the field.
    pub name: &'static str,
    pub aliases: &'static [&'static str],
    pub kind: FieldKind,
    /// A record may have several values; JSON has an array.
    pub many: bool,
    /// Stands for several other fields in searches (`ip` for `ip.src` and `ip.dst`); not in JSON.
    pub any_of: bool,
    /// Text that is a closed set, for completion and checking; empty for open text.
    pub values: &'static [&'static str],
    pub doc: &'static str,
    get: fn(&StoredFlow, FieldId, Sink<'_>),
}

impl Field {
    /// Call `sink` with each value that `flow` has in this field.
    pub fn each(&self, flow: &StoredFlow, sink: Sink<'_>) {
        (self.get)(flow, self.id, sink);
    }

    /// The first value, for fields that have at most one.
    pub fn first(&self, flow: &StoredFlow) -> Option<Value<'static>> {
        let mut first = None;
        self.each(flow, &mut |value| {
            if first.is_none() {
                first = Some(value.into_owned());
            }
        });
        first
    }

    /// Whether the field is layer-7 metadata, kept as an attribute.
    pub fn is_attribute(&self) -> bool {
        self.id.0 >= ATTRIBUTE_ID_FIRST
    }
}

/// The field of this name or alias; letter case is ignored.
pub fn by_name(name: &str) -> Option<&'static Field> {
    FIELDS
        .iter()
        .find(|f| f.name.eq_ignore_ascii_case(name) || f.aliases.iter().any(|a| a.eq_ignore_ascii_case(name)))
}

pub fn by_id(id: FieldId) -> Option<&'static Field> {
    FIELDS.binary_search_by_key(&id, |f| f.id).ok().map(|i| &FIELDS[i])
}

/// Ids from here on are attributes.
pub const ATTRIBUTE_ID_FIRST: u16 = 1000;

const fn one(
    id: u16,
    name: &'static str,
    aliases: &'static [&'static str],
    kind: FieldKind,
    doc: &'static str,
    get: fn(&StoredFlow, FieldId, Sink<'_>),
) -> Field {
    Field { id: FieldId(id), name, aliases, kind, many: false, any_of: false, values: &[], doc, get }
}

const fn any(
    id: u16,
    name: &'static str,
    kind: FieldKind,
    doc: &'static str,
    get: fn(&StoredFlow, FieldId, Sink<'_>),
) -> Field {
    Field { id: FieldId(id), name, aliases: &[], kind, many: true, any_of: true, values: &[], doc, get }
}

const fn attribute(
    id: FieldId,
    name: &'static str,
    aliases: &'static [&'static str],
    kind: FieldKind,
    doc: &'static str,
) -> Field {
    assert!(id.0 >= ATTRIBUTE_ID_FIRST);
    Field { id, name, aliases, kind, many: true, any_of: false, values: &[], doc, get: attribute_values }
}

/// A text attribute of which a record has one at most.
const fn single(id: FieldId, name: &'static str, doc: &'static str) -> Field {
    Field { many: false, ..attribute(id, name, &[], Text, doc) }
}

fn attribute_values(flow: &StoredFlow, id: FieldId, sink: Sink<'_>) {
    for value in flow.record.attributes.of(id) {
        sink(match value {
            AttributeValue::Integer(n) => Value::Integer(*n),
            AttributeValue::Text(text) => Value::Text(Cow::Borrowed(text)),
            AttributeValue::Ip(ip) => Value::Ip(*ip),
        });
    }
}

/// An attribute that is a time: its integers are seconds since 1970, shown to the years that times can be.
const fn time_attribute(
    id: FieldId,
    name: &'static str,
    aliases: &'static [&'static str],
    doc: &'static str,
) -> Field {
    Field { get: attribute_times, ..attribute(id, name, aliases, Time, doc) }
}

fn attribute_times(flow: &StoredFlow, id: FieldId, sink: Sink<'_>) {
    for value in flow.record.attributes.of(id) {
        if let AttributeValue::Integer(seconds) = value {
            let ns = i64::try_from(*seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
            sink(Value::Time(UtcNs::from_unix_ns(ns)));
        }
    }
}

fn integer(sink: Sink<'_>, n: impl Into<u64>) {
    sink(Value::Integer(n.into()));
}

fn text(sink: Sink<'_>, text: &str) {
    sink(Value::Text(Cow::Borrowed(text)));
}

fn owned(sink: Sink<'_>, text: String) {
    sink(Value::Text(Cow::Owned(text)));
}

fn flag_count(flow: &StoredFlow, bit: usize, sink: Sink<'_>) {
    if let Some(tcp) = &flow.record.tcp {
        integer(sink, tcp.flags[bit]);
    }
}

/// The TCP flags in the order of their bits in the header (RFC 9293 section 3.1).
pub const TCP_FLAG_NAMES: &[&str] = &["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"];

fn side_flags(flow: &StoredFlow, side: usize, sink: Sink<'_>) {
    let Some(tcp) = &flow.record.tcp else { return };
    for (bit, name) in TCP_FLAG_NAMES.iter().enumerate() {
        if tcp.of_side[side] >> bit & 1 == 1 {
            text(sink, name);
        }
    }
}

/// `aa:bb:cc:dd:ee:ff`.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

/// The names of IP protocols that are shown by name (IANA protocol numbers).
pub const PROTOCOL_NAMES: &[(u8, &str)] = &[
    (1, "icmp"),
    (2, "igmp"),
    (4, "ipip"),
    (6, "tcp"),
    (17, "udp"),
    (33, "dccp"),
    (41, "ipv6"),
    (47, "gre"),
    (50, "esp"),
    (51, "ah"),
    (58, "icmpv6"),
    (88, "eigrp"),
    (89, "ospf"),
    (103, "pim"),
    (112, "vrrp"),
    (132, "sctp"),
    (136, "udplite"),
];

/// The name of a flow's protocol: `tcp`, `icmp`, `arp`, `ip-253`, `ethertype-88cc`.
pub fn protocol_name(key: &FlowKey) -> Cow<'static, str> {
    match key.ethertype {
        0x0800 | 0x86DD => PROTOCOL_NAMES
            .iter()
            .find(|(number, _)| *number == key.protocol)
            .map_or_else(|| Cow::Owned(format!("ip-{}", key.protocol)), |(_, name)| Cow::Borrowed(*name)),
        0x0806 => Cow::Borrowed("arp"),
        0x8035 => Cow::Borrowed("rarp"),
        0x88CC => Cow::Borrowed("lldp"),
        0 => Cow::Borrowed("unknown"),
        other => Cow::Owned(format!("ethertype-{other:04x}")),
    }
}

use FieldKind::{Bool, Integer, Ip, Text, Time};

/// Every field, in the order of ids.
pub static FIELDS: &[Field] = &[
    one(
        1,
        "id",
        &["_id"],
        Text,
        "The record's own id; `gnomon search 'id == …'` finds just it.",
        |f, _, s| {
            owned(s, f.id().to_string());
        },
    ),
    one(2, "node", &["agent"], Text, "Name of the agent that saw the flow.", |f, _, s| {
        text(s, &f.origin.agent_name)
    }),
    one(3, "node.id", &["agent.id"], Text, "The agent's own id (32 hexadecimal digits).", |f, _, s| {
        owned(s, f.origin.agent.to_string());
    }),
    one(4, "interface", &[], Text, "Interface the flow was seen on.", |f, _, s| text(s, &f.origin.interface)),
    one(
        5,
        "epoch",
        &[],
        Text,
        "Stretch of the agent's raw clock that the record's times belong to.",
        |f, _, s| {
            owned(s, f.origin.epoch.to_string());
        },
    ),
    one(10, "starttime", &["firstPacket"], Time, "Time of the segment's first packet.", |f, _, s| {
        if let Some(first) = f.first {
            s(Value::Time(first.utc));
        }
    }),
    one(11, "stoptime", &["lastPacket"], Time, "Time of the segment's last packet.", |f, _, s| {
        if let Some(last) = f.last {
            s(Value::Time(last.utc));
        }
    }),
    one(
        12,
        "session.length",
        &["duration"],
        Integer,
        "Milliseconds from first to last packet.",
        |f, _, s| {
            integer(s, f.record.last.since(f.record.first) / 1_000_000);
        },
    ),
    one(
        13,
        "time.error",
        &[],
        Integer,
        "The record's times are within ± this many nanoseconds of UTC.",
        |f, _, s| {
            if let Some(err) = f.time_err_ns() {
                integer(s, err);
            }
        },
    ),
    Field {
        values: &["indexed", "pending", "quarantined"],
        ..one(14, "time.state", &[], Text, "What the clock gate made of the record's time.", |f, _, s| {
            text(s, f.time_state.name());
        })
    },
    one(
        15,
        "ingesttime",
        &[],
        Time,
        "When the collector took the record in, by the collector's clock.",
        |f, _, s| {
            if let Some(at) = f.ingested {
                s(Value::Time(at));
            }
        },
    ),
    one(16, "time.conflict", &[], Bool, "The evidence about the record's time disagrees.", |f, _, s| {
        if let Some(first) = f.first {
            s(Value::Bool(first.conflict));
        }
    }),
    one(17, "time.reason", &[], Text, "Why the record is pending or quarantined, in a word.", |f, _, s| {
        if !f.time_reason.is_empty() {
            text(s, &f.time_reason);
        }
    }),
    any(20, "ip", Ip, "Address of either side.", |f, _, s| {
        for ip in [f.record.key.orig_ip(), f.record.key.resp_ip()].into_iter().flatten() {
            s(Value::Ip(ip));
        }
    }),
    one(21, "ip.src", &["src_ip"], Ip, "Originator's address.", |f, _, s| {
        if let Some(ip) = f.record.key.orig_ip() {
            s(Value::Ip(ip));
        }
    }),
    one(22, "ip.dst", &["dst_ip"], Ip, "Responder's address.", |f, _, s| {
        if let Some(ip) = f.record.key.resp_ip() {
            s(Value::Ip(ip));
        }
    }),
    any(23, "port", Integer, "Port of either side.", |f, _, s| {
        if f.record.key.has_ports() {
            integer(s, f.record.key.orig_port);
            integer(s, f.record.key.resp_port);
        }
    }),
    one(24, "port.src", &["src_port"], Integer, "Originator's port.", |f, _, s| {
        if f.record.key.has_ports() {
            integer(s, f.record.key.orig_port);
        }
    }),
    one(25, "port.dst", &["dst_port"], Integer, "Responder's port.", |f, _, s| {
        if f.record.key.has_ports() {
            integer(s, f.record.key.resp_port);
        }
    }),
    one(
        26,
        "ip.protocol",
        &["protocol"],
        Text,
        "Protocol above IP by name (`tcp`, `udp`, `icmp`, `ip-253`), or the layer-2 protocol (`arp`).",
        |f, _, s| {
            s(Value::Text(protocol_name(&f.record.key)));
        },
    ),
    one(27, "ip.protocol.number", &[], Integer, "Protocol number above IP.", |f, _, s| {
        if f.record.key.orig_ip().is_some() {
            integer(s, f.record.key.protocol);
        }
    }),
    one(28, "ethertype", &[], Integer, "EtherType under the VLAN tags.", |f, _, s| {
        integer(s, f.record.key.ethertype)
    }),
    Field {
        many: true,
        ..one(29, "vlan", &[], Integer, "VLAN ids, outermost first.", |f, _, s| {
            for vlan in f.record.key.vlan.into_iter().filter(|v| *v != 0) {
                integer(s, vlan);
            }
        })
    },
    any(30, "mac", Text, "MAC address of either side.", |f, _, s| {
        let (orig, resp) = f.record.macs();
        for mac in [orig, resp].into_iter().flatten() {
            owned(s, mac_text(mac));
        }
    }),
    one(31, "mac.src", &[], Text, "Originator's MAC address.", |f, _, s| {
        if let (Some(mac), _) = f.record.macs() {
            owned(s, mac_text(mac));
        }
    }),
    one(32, "mac.dst", &[], Text, "Responder's MAC address.", |f, _, s| {
        if let (_, Some(mac)) = f.record.macs() {
            owned(s, mac_text(mac));
        }
    }),
    one(40, "packets", &[], Integer, "Packets both ways.", |f, _, s| integer(s, f.record.packets())),
    one(41, "packets.src", &[], Integer, "Packets from the originator.", |f, _, s| {
        integer(s, f.record.orig.packets)
    }),
    one(42, "packets.dst", &[], Integer, "Packets from the responder.", |f, _, s| {
        integer(s, f.record.resp.packets)
    }),
    one(43, "bytes", &[], Integer, "Bytes on the wire both ways, link-layer headers included.", |f, _, s| {
        integer(s, f.record.bytes());
    }),
    one(44, "bytes.src", &[], Integer, "Bytes on the wire from the originator.", |f, _, s| {
        integer(s, f.record.orig.bytes)
    }),
    one(45, "bytes.dst", &[], Integer, "Bytes on the wire from the responder.", |f, _, s| {
        integer(s, f.record.resp.bytes)
    }),
    one(46, "ip.bytes", &[], Integer, "Bytes by the IP headers both ways.", |f, _, s| {
        integer(s, f.record.orig.ip_bytes.saturating_add(f.record.resp.ip_bytes));
    }),
    one(47, "ip.bytes.src", &[], Integer, "Bytes by the IP headers from the originator.", |f, _, s| {
        integer(s, f.record.orig.ip_bytes);
    }),
    one(48, "ip.bytes.dst", &[], Integer, "Bytes by the IP headers from the responder.", |f, _, s| {
        integer(s, f.record.resp.ip_bytes);
    }),
    one(49, "databytes", &[], Integer, "Payload bytes both ways, retransmissions not counted.", |f, _, s| {
        integer(s, f.record.orig.data_bytes.saturating_add(f.record.resp.data_bytes));
    }),
    one(50, "databytes.src", &[], Integer, "Payload bytes from the originator.", |f, _, s| {
        integer(s, f.record.orig.data_bytes);
    }),
    one(51, "databytes.dst", &[], Integer, "Payload bytes from the responder.", |f, _, s| {
        integer(s, f.record.resp.data_bytes);
    }),
    one(52, "fragments", &[], Integer, "Packets that were IP fragments.", |f, _, s| {
        integer(s, f.record.orig.fragments.saturating_add(f.record.resp.fragments));
    }),
    one(53, "ttl.src", &[], Integer, "Smallest TTL or hop limit from the originator.", |f, _, s| {
        if let Some((min, _)) = f.record.orig.ttl {
            integer(s, min);
        }
    }),
    one(54, "ttl.dst", &[], Integer, "Smallest TTL or hop limit from the responder.", |f, _, s| {
        if let Some((min, _)) = f.record.resp.ttl {
            integer(s, min);
        }
    }),
    one(60, "tcpflags.fin", &[], Integer, "Packets with FIN.", |f, _, s| flag_count(f, 0, s)),
    one(61, "tcpflags.syn", &[], Integer, "Packets with SYN and no ACK.", |f, _, s| flag_count(f, 1, s)),
    one(62, "tcpflags.rst", &[], Integer, "Packets with RST.", |f, _, s| flag_count(f, 2, s)),
    one(63, "tcpflags.psh", &[], Integer, "Packets with PSH.", |f, _, s| flag_count(f, 3, s)),
    one(64, "tcpflags.ack", &[], Integer, "Packets with ACK, those with SYN among them.", |f, _, s| {
        flag_count(f, 4, s)
    }),
    one(65, "tcpflags.urg", &[], Integer, "Packets with URG.", |f, _, s| flag_count(f, 5, s)),
    one(66, "tcpflags.ece", &[], Integer, "Packets with ECE.", |f, _, s| flag_count(f, 6, s)),
    one(67, "tcpflags.cwr", &[], Integer, "Packets with CWR.", |f, _, s| flag_count(f, 7, s)),
    one(68, "tcpflags.syn-ack", &[], Integer, "Packets with SYN and ACK.", |f, _, s| {
        if let Some(tcp) = &f.record.tcp {
            integer(s, tcp.syn_ack);
        }
    }),
    Field {
        values: &["midstream", "syn-sent", "syn-received", "established", "closing", "closed", "reset"],
        ..one(
            69,
            "tcp.state",
            &[],
            Text,
            "Where the connection stood when the record was made.",
            |f, _, s| {
                if let Some(tcp) = &f.record.tcp {
                    text(s, tcp.state.name());
                }
            },
        )
    },
    one(70, "tcp.rtt", &["initRTT"], Integer, "Round trip of the handshake in nanoseconds.", |f, _, s| {
        if let Some(rtt) = f.record.tcp.as_ref().and_then(|tcp| tcp.rtt_ns) {
            integer(s, rtt);
        }
    }),
    one(71, "tcp.retransmissions", &[], Integer, "Packets that repeated sequence space.", |f, _, s| {
        if let Some(tcp) = &f.record.tcp {
            integer(s, tcp.retransmissions);
        }
    }),
    one(72, "icmp.type", &[], Integer, "ICMP type of the first packet.", |f, _, s| {
        if let Some((kind, _)) = f.record.icmp {
            integer(s, kind);
        }
    }),
    one(73, "icmp.code", &[], Integer, "ICMP code of the first packet.", |f, _, s| {
        if let Some((_, code)) = f.record.icmp {
            integer(s, code);
        }
    }),
    Field {
        many: true,
        values: TCP_FLAG_NAMES,
        ..one(74, "tcpflags.src", &[], Text, "Flags that any packet of the originator had.", |f, _, s| {
            side_flags(f, 0, s);
        })
    },
    Field {
        many: true,
        values: TCP_FLAG_NAMES,
        ..one(75, "tcpflags.dst", &[], Text, "Flags that any packet of the responder had.", |f, _, s| {
            side_flags(f, 1, s);
        })
    },
    one(80, "communityId", &["community.id"], Text, "Community ID v1 of the flow.", |f, _, s| {
        if let Some(id) = community_id(&f.record.key, f.record.icmp) {
            owned(s, id);
        }
    }),
    one(
        81,
        "segment",
        &[],
        Integer,
        "0 for a flow's first record, one more after each active timeout.",
        |f, _, s| {
            integer(s, f.record.segment);
        },
    ),
    Field {
        values: &["open", "idle", "active", "end-of-flow", "forced", "lack-of-resources"],
        ..one(82, "end.reason", &[], Text, "Why the record was closed; `open` while it is not.", |f, _, s| {
            text(s, f.record.end.map_or("open", |end| end.name()));
        })
    },
    one(
        83,
        "direction.guessed",
        &[],
        Bool,
        "The first packet was not seen: who began is a guess.",
        |f, _, s| {
            s(Value::Bool(f.record.direction_guessed));
        },
    ),
    Field {
        values: &[
            "truncated-link",
            "truncated-network",
            "truncated-transport",
            "malformed",
            "too-deep",
            "unknown-link",
        ],
        ..one(
            84,
            "undecodable",
            &[],
            Text,
            "Why the flow's packets could not be decoded further.",
            |f, _, s| {
                if let Some(problem) = f.record.problem {
                    text(s, problem.name());
                }
            },
        )
    },
    one(85, "stored.packets", &[], Integer, "Packets kept as slices.", |f, _, s| {
        integer(s, f.record.sliced_packets)
    }),
    one(86, "stored.bytes", &[], Integer, "Bytes of packets kept as slices.", |f, _, s| {
        integer(s, f.record.sliced_bytes)
    }),
    one(
        87,
        "own_uplink",
        &[],
        Bool,
        "gnomon's own traffic: an agent's stream to the collector, and whatever else speaks to the collector. Its packets \
         are counted and not kept.",
        |f, _, s| {
            s(Value::Bool(f.record.own_uplink));
        },
    ),
    Field {
        aliases: &["gre.ip"],
        ..any(90, "outerip", Ip, "Address of either side of a tunnel that the flow is in.", |f, _, s| {
            attribute_values(f, OUTER_IP_SRC, s);
            attribute_values(f, OUTER_IP_DST, s);
        })
    },
    any(
        91,
        "outermac",
        Text,
        "MAC address of either side, around an Ethernet frame in a tunnel.",
        |f, _, s| {
            attribute_values(f, OUTER_MAC_SRC, s);
            attribute_values(f, OUTER_MAC_DST, s);
        },
    ),
    any(92, "country", Text, "Country of either side's address.", |f, _, s| {
        attribute_values(f, COUNTRY_SRC, s);
        attribute_values(f, COUNTRY_DST, s);
    }),
    any(93, "asn", Text, "Autonomous system of either side's address.", |f, _, s| {
        attribute_values(f, ASN_SRC, s);
        attribute_values(f, ASN_DST, s);
    }),
    any(94, "oui", Text, "Vendor of either side's MAC address.", |f, _, s| {
        attribute_values(f, OUI_SRC, s);
        attribute_values(f, OUI_DST, s);
    }),
    attribute(PROTOCOLS, "protocols", &[], Text, "Protocols recognised in the flow."),
    attribute(TAGS, "tags", &[], Text, "Tags given by rules and alerts."),
    attribute(
        INSPECT_CUT,
        "inspect.cut",
        &[],
        Text,
        "Protocols of messages that were not captured whole and are told as far as they were read.",
    ),
    attribute(
        INSPECT_ENDED,
        "inspect.ended",
        &[],
        Text,
        "Why payload of the record was not read to its end: `bytes`, `values` or `memory`, the limit that was hit.",
    ),
    attribute(FILE, "file", &[], Text, "The capture file that it was read from, without its directory."),
    Field {
        many: false,
        ..attribute(
            DUPLICATES,
            "duplicates",
            &[],
            Integer,
            "Packets that were captured twice (a mirror port's copies), which the other counters count, too. Absent where there are none.",
        )
    },
    attribute(DNS_HOST, "dns.host", &["host.dns"], Text, "Names asked for or answered."),
    attribute(DNS_QUERY_TYPE, "dns.query.type", &[], Text, "Types asked for (A, AAAA, MX …)."),
    attribute(DNS_STATUS, "dns.status", &[], Text, "Response codes (NOERROR, NXDOMAIN …)."),
    attribute(DNS_IP, "dns.ip", &["ip.dns"], Ip, "Addresses answered."),
    attribute(DNS_CNAME, "dns.cname", &[], Text, "Canonical names answered."),
    attribute(HTTP_METHOD, "http.method", &[], Text, "Request methods."),
    attribute(HTTP_HOST, "http.host", &["host.http"], Text, "Host headers, without their ports."),
    attribute(HTTP_URI, "http.uri", &[], Text, "Request targets."),
    attribute(HTTP_STATUS, "http.statuscode", &["http.status"], Integer, "Response status codes."),
    attribute(HTTP_USER_AGENT, "http.user-agent", &[], Text, "User-Agent headers."),
    attribute(HTTP_CONTENT_TYPE, "http.content-type", &[], Text, "Content-Type headers."),
    attribute(HTTP_SERVER, "http.server", &[], Text, "Server headers."),
    attribute(HTTP_REFERER, "http.referer", &[], Text, "Referer headers."),
    attribute(HTTP_HOST_PORT, "http.host.port", &[], Integer, "Ports in Host headers."),
    attribute(TLS_HOST, "tls.host", &["host.tls", "tls.sni"], Text, "Server names asked for (SNI)."),
    attribute(TLS_VERSION, "tls.version", &[], Text, "Versions chosen."),
    attribute(TLS_CIPHER, "tls.cipher", &[], Text, "Cipher suites chosen."),
    attribute(TLS_ALPN, "tls.alpn", &[], Text, "Application protocols offered or chosen (ALPN)."),
    attribute(TLS_JA3, "tls.ja3", &[], Text, "JA3 of the client hello."),
    attribute(TLS_JA3S, "tls.ja3s", &[], Text, "JA3S of the server hello."),
    attribute(TLS_JA4, "tls.ja4", &[], Text, "JA4 of the client hello."),
    attribute(SSH_VERSION, "ssh.version", &["ssh.ver"], Text, "Version strings of both sides."),
    attribute(NTP_MODE, "ntp.mode", &[], Text, "NTP modes seen."),
    attribute(NTP_MONLIST, "ntp.monlist", &[], Integer, "1 where a monlist request or answer was seen."),
    attribute(USER, "user", &["user.name"], Text, "User names claimed, whatever the protocol."),
    attribute(PAYLOAD8_SRC, "payload8.src.hex", &[], Text, "First eight bytes of the originator's payload."),
    attribute(PAYLOAD8_DST, "payload8.dst.hex", &[], Text, "First eight bytes of the responder's payload."),
    attribute(DNS_OPCODE, "dns.opcode", &[], Text, "Kinds of messages (QUERY, NOTIFY, UPDATE …)."),
    attribute(
        DNS_MAILSERVER,
        "dns.mailserver",
        &["host.dns.mailserver", "dns.answer.mx"],
        Text,
        "Mail servers answered (MX).",
    ),
    attribute(
        DNS_NAMESERVER,
        "dns.nameserver",
        &["host.dns.nameserver", "dns.answer.ns"],
        Text,
        "Name servers answered (NS).",
    ),
    attribute(DNS_TXT, "dns.answer.txt", &[], Text, "Text records answered."),
    attribute(HTTP_AUTH_TYPE, "http.authtype", &[], Text, "Authorization schemes."),
    attribute(HTTP_USER, "http.user", &[], Text, "Users of Basic, Digest and NTLM authorization."),
    attribute(HTTP_XFF, "http.xff", &["ip.xff"], Ip, "Addresses in X-Forwarded-For."),
    attribute(HTTP_VERSION_SRC, "http.version.src", &[], Text, "HTTP versions of requests."),
    attribute(HTTP_VERSION_DST, "http.version.dst", &[], Text, "HTTP versions of responses."),
    attribute(CERT_COUNT, "cert.cnt", &[], Integer, "Certificates in a chain."),
    attribute(CERT_SUBJECT_CN, "cert.subject.cn", &[], Text, "Common names of subjects."),
    attribute(CERT_SUBJECT_ON, "cert.subject.on", &[], Text, "Organisations of subjects."),
    attribute(CERT_SUBJECT_OU, "cert.subject.ou", &[], Text, "Organisational units of subjects."),
    attribute(CERT_ISSUER_CN, "cert.issuer.cn", &[], Text, "Common names of issuers."),
    attribute(CERT_ISSUER_ON, "cert.issuer.on", &[], Text, "Organisations of issuers."),
    attribute(CERT_ISSUER_OU, "cert.issuer.ou", &[], Text, "Organisational units of issuers."),
    attribute(CERT_SERIAL, "cert.serial", &[], Text, "Serial numbers, the number's bytes in hexadecimal."),
    time_attribute(CERT_NOT_BEFORE, "cert.notbefore", &[], "Valid from."),
    time_attribute(CERT_NOT_AFTER, "cert.notafter", &[], "Valid until."),
    attribute(CERT_VALID_DAYS, "cert.validfor", &[], Integer, "Days from notbefore to notafter."),
    attribute(CERT_ALT, "cert.alt", &[], Text, "Alternative names of subjects: DNS names and addresses."),
    attribute(CERT_HASH, "cert.hash", &[], Text, "SHA-1 of the certificate, bytes joined by colons."),
    attribute(CERT_PUBLIC_ALGORITHM, "cert.publicAlgorithm", &[], Text, "Algorithms of public keys."),
    attribute(CERT_CURVE, "cert.curve", &[], Text, "Curves of public keys."),
    attribute(SSH_HASSH, "ssh.hassh", &[], Text, "HASSH of the client's key exchange."),
    attribute(SSH_HASSH_SERVER, "ssh.hasshServer", &[], Text, "HASSH of the server's key exchange."),
    attribute(SSH_KEY, "ssh.key", &[], Text, "The server's host key, in base64."),
    attribute(
        EMAIL_SRC,
        "email.src",
        &["email.from"],
        Text,
        "Senders: of the envelope and of the From header.",
    ),
    attribute(
        EMAIL_DST,
        "email.dst",
        &["email.to"],
        Text,
        "Recipients: of the envelope and of To and Cc headers.",
    ),
    attribute(EMAIL_SUBJECT, "email.subject", &[], Text, "Subjects, decoded."),
    attribute(EMAIL_ID, "email.message-id", &[], Text, "Message-ID headers."),
    attribute(EMAIL_MAILER, "email.x-mailer", &["email.useragent"], Text, "X-Mailer and User-Agent headers."),
    attribute(EMAIL_HELLO, "email.smtp-hello", &[], Text, "Names given with HELO, EHLO or LHLO."),
    attribute(
        EMAIL_CONTENT_TYPE,
        "email.content-type",
        &[],
        Text,
        "Content-Type headers of messages and their parts.",
    ),
    attribute(EMAIL_FILENAME, "email.fn", &[], Text, "Names of attached files."),
    attribute(EMAIL_FOLDER, "email.folder", &[], Text, "IMAP mailboxes selected."),
    attribute(FTP_COMMAND, "ftp.command", &[], Text, "Commands."),
    attribute(FTP_FILENAME, "ftp.filename", &[], Text, "Files stored, fetched, deleted or renamed."),
    attribute(FTP_CODE, "ftp.responseCode", &[], Integer, "Reply codes."),
    attribute(FTP_BANNER, "ftp.banner", &[], Text, "Text of the greeting."),
    attribute(IRC_NICK, "irc.nick", &[], Text, "Nicknames."),
    attribute(IRC_CHANNEL, "irc.channel", &[], Text, "Channels joined."),
    attribute(NTLM_USER, "ntlm.user", &[], Text, "NTLM user names."),
    attribute(NTLM_DOMAIN, "ntlm.domain", &[], Text, "NTLM domains, of users and of servers."),
    attribute(NTLM_HOST, "ntlm.host", &[], Text, "NTLM workstation names."),
    attribute(NTLM_TARGET, "ntlm.targetName", &[], Text, "NTLM target names, as servers give them."),
    attribute(SMB_SHARE, "smb.share", &[], Text, "Shares connected to."),
    attribute(SMB_FILENAME, "smb.fn", &["smb.filename"], Text, "Files opened."),
    attribute(SMB_OS, "smb.os", &[], Text, "Operating systems of SMB 1 session setups."),
    attribute(SMB_DOMAIN, "smb.domain", &[], Text, "Domains of session setups."),
    attribute(SMB_VERSION, "smb.ver", &[], Text, "LAN managers of SMB 1 session setups."),
    attribute(SMB_DIALECT, "smb.dialect", &[], Text, "Dialects chosen."),
    attribute(SMB_USER, "smb.user", &[], Text, "Users of session setups."),
    attribute(SMB_HOST, "smb.host", &["host.smb"], Text, "Workstations of session setups."),
    attribute(KRB5_REALM, "krb5.realm", &[], Text, "Realms."),
    attribute(KRB5_CNAME, "krb5.cname", &[], Text, "Client principals."),
    attribute(KRB5_SNAME, "krb5.sname", &[], Text, "Service principals."),
    attribute(KRB5_ETYPE, "krb5.etype", &[], Text, "Encryption types offered or chosen."),
    attribute(KRB5_ERROR, "krb5.error", &[], Text, "Error codes."),
    attribute(LDAP_AUTH_TYPE, "ldap.authtype", &[], Text, "Authentication of binds: simple, sasl, none."),
    attribute(LDAP_BIND_NAME, "ldap.bindname", &[], Text, "Names bound as."),
    attribute(RDP_REQUESTED, "rdp.requested-protocols", &[], Text, "Security protocols the client offers."),
    attribute(RDP_SELECTED, "rdp.selected-protocol", &[], Text, "Security protocol the server chose."),
    attribute(DHCP_TYPE, "dhcp.type", &[], Text, "Message types."),
    attribute(DHCP_HOST, "dhcp.host", &[], Text, "Host names and client FQDNs."),
    attribute(DHCP_MAC, "dhcp.mac", &[], Text, "Clients' hardware addresses."),
    attribute(DHCP_ID, "dhcp.id", &[], Text, "Transaction ids, hexadecimal."),
    attribute(DHCP_CLASS_ID, "dhcp.classId", &[], Text, "Vendor classes."),
    attribute(DHCP_REQUEST_IP, "dhcp.requestIp", &[], Ip, "Addresses asked for."),
    attribute(
        DHCP_ASSIGNED_IP,
        "dhcp.assignedIp",
        &["dhcp.assigned_addr"],
        Ip,
        "Addresses offered or assigned.",
    ),
    attribute(NTP_VERSION, "ntp.version", &[], Integer, "Versions."),
    attribute(
        NTP_STRATUM,
        "ntp.stratum",
        &[],
        Text,
        "Strata: unspecified, primary, secondary, unsynchronized.",
    ),
    attribute(
        NTP_AMPLIFICATION,
        "ntp.amplification",
        &[],
        Integer,
        "1 where an answer of mode 6 or 7 was at least five times as long as its request.",
    ),
    attribute(SNMP_VERSION, "snmp.version", &[], Integer, "Versions: 1, 2, 3."),
    attribute(SNMP_COMMUNITY, "snmp.community", &[], Text, "Communities."),
    attribute(SNMP_TYPE, "snmp.type", &[], Text, "Kinds of messages."),
    attribute(SNMP_VARIABLE, "snmp.variable", &[], Text, "Object identifiers."),
    attribute(SNMP_ERROR, "snmp.error", &[], Text, "Errors answered."),
    attribute(SIP_METHOD, "sip.method", &[], Text, "Request methods."),
    attribute(SIP_STATUS, "sip.statuscode", &[], Integer, "Response status codes."),
    attribute(SIP_CALL_ID, "sip.callid", &[], Text, "Call-ID headers."),
    attribute(SIP_FROM, "sip.from", &[], Text, "From headers."),
    attribute(SIP_TO, "sip.to", &[], Text, "To headers."),
    attribute(SIP_USER_AGENT, "sip.user-agent", &[], Text, "User-Agent and Server headers."),
    attribute(SIP_USER, "sip.user", &[], Text, "Users of request targets and of Digest authorization."),
    attribute(RADIUS_USER, "radius.user", &[], Text, "User names."),
    attribute(RADIUS_MAC, "radius.mac", &[], Text, "Calling stations that are hardware addresses."),
    attribute(RADIUS_ENDPOINT_IP, "radius.endpoint-ip", &[], Ip, "Tunnel client endpoints."),
    attribute(RADIUS_FRAMED_IP, "radius.framed-ip", &[], Ip, "Addresses given to users."),
    attribute(RADIUS_TYPE, "radius.msgType", &[], Text, "Kinds of messages."),
    attribute(MQTT_CLIENT_ID, "mqtt.clientId", &[], Text, "Client identifiers."),
    attribute(MQTT_TOPIC, "mqtt.topic", &[], Text, "Topics published or subscribed to."),
    attribute(MQTT_VERSION, "mqtt.version", &[], Text, "Protocol versions."),
    attribute(MQTT_TYPE, "mqtt.type", &[], Text, "Kinds of packets."),
    attribute(MYSQL_USER, "mysql.user", &[], Text, "Users."),
    attribute(MYSQL_VERSION, "mysql.ver", &[], Text, "Server versions."),
    attribute(MYSQL_DATABASE, "mysql.db", &[], Text, "Databases."),
    attribute(POSTGRESQL_USER, "postgresql.user", &[], Text, "Users."),
    attribute(POSTGRESQL_DATABASE, "postgresql.db", &[], Text, "Databases."),
    attribute(POSTGRESQL_APPLICATION, "postgresql.app", &[], Text, "Application names."),
    attribute(SOCKS_IP, "socks.ip", &["ip.socks"], Ip, "Addresses asked for."),
    attribute(SOCKS_HOST, "socks.host", &["host.socks"], Text, "Names asked for."),
    attribute(SOCKS_PORT, "socks.port", &["port.socks"], Integer, "Ports asked for."),
    attribute(SOCKS_USER, "socks.user", &[], Text, "Users."),
    attribute(TFTP_FILENAME, "tftp.filename", &[], Text, "Files asked for."),
    attribute(TFTP_OPCODE, "tftp.opcode", &[], Text, "Requests: read, write."),
    attribute(SYSLOG_FACILITY, "syslog.facility", &[], Text, "Facilities."),
    attribute(SYSLOG_SEVERITY, "syslog.severity", &[], Text, "Severities."),
    attribute(QUIC_VERSION, "quic.version", &[], Text, "Versions."),
    attribute(STUN_TYPE, "stun.type", &[], Text, "Methods and classes of messages."),
    attribute(
        STUN_MAPPED_IP,
        "stun.mapped-ip",
        &["stun.xor-mapped-ip"],
        Ip,
        "Addresses as servers see them.",
    ),
    attribute(STUN_SOFTWARE, "stun.software", &[], Text, "Software names."),
    attribute(NBNS_NAME, "nbns.name", &[], Text, "NetBIOS names."),
    attribute(NBNS_IP, "nbns.ip", &[], Ip, "Addresses of NetBIOS names."),
    attribute(
        OUTER_MAC_SRC,
        "outermac.src",
        &[],
        Text,
        "MAC address around a tunnelled frame, originator's side.",
    ),
    attribute(
        OUTER_MAC_DST,
        "outermac.dst",
        &[],
        Text,
        "MAC address around a tunnelled frame, responder's side.",
    ),
    attribute(
        OUTER_IP_SRC,
        "outerip.src",
        &[],
        Ip,
        "Addresses of the tunnels around the flow, originator's side.",
    ),
    attribute(
        OUTER_IP_DST,
        "outerip.dst",
        &[],
        Ip,
        "Addresses of the tunnels around the flow, responder's side.",
    ),
    attribute(OUTER_VLAN, "outervlan", &[], Integer, "VLAN ids around a tunnelled frame."),
    attribute(VNI, "vni", &[], Integer, "Networks that overlay headers name (VXLAN, GENEVE)."),
    attribute(GRE_KEY, "gre.key", &[], Integer, "GRE keys."),
    attribute(ERSPAN_ID, "erspan.id", &[], Integer, "ERSPAN sessions."),
    attribute(GTP_TEID, "gtp.teid", &[], Integer, "GTP tunnel endpoints, one each way."),
    attribute(
        MPLS_LABEL,
        "mpls.label",
        &[],
        Integer,
        "MPLS labels at the bottom of the stack, one each way.",
    ),
    attribute(PPPOE_SESSION, "pppoe.session", &[], Integer, "PPPoE sessions."),
    attribute(L2TP_TUNNEL, "l2tp.tunnel", &[], Integer, "L2TP tunnels, one each way."),
    attribute(L2TP_SESSION, "l2tp.session", &[], Integer, "L2TP sessions, one each way."),
    attribute(AH_SPI, "ah.spi", &[], Integer, "Security parameter indices of authentication headers."),
    attribute(NSH_PATH, "nsh.path", &[], Integer, "Service paths of network service headers."),
    attribute(
        PBB_SERVICE,
        "pbb.service",
        &[],
        Integer,
        "Service instances of provider backbone bridges (802.1ah).",
    ),
    attribute(
        ARP_OPERATION,
        "arp.operation",
        &[],
        Text,
        "What ARP packets did: `request`, `reply`, `reverse-request`, `reverse-reply`.",
    ),
    attribute(
        ARP_SENDER_MAC,
        "arp.mac.sender",
        &[],
        Text,
        "MAC addresses that senders of ARP packets claim; of two in one record, one may be forged.",
    ),
    attribute(ARP_TARGET_MAC, "arp.mac.target", &[], Text, "MAC addresses that ARP packets are for."),
    attribute(
        ICMP_INNER,
        "icmp.inner.communityId",
        &[],
        Text,
        "Community IDs of the flows that ICMP errors are about.",
    ),
    single(COUNTRY_SRC, "country.src", "Country of the originator's address (by `enrich.country_db`)."),
    single(COUNTRY_DST, "country.dst", "Country of the responder's address (by `enrich.country_db`)."),
    single(ASN_SRC, "asn.src", "Autonomous system of the originator's address (by `enrich.asn_db`)."),
    single(ASN_DST, "asn.dst", "Autonomous system of the responder's address (by `enrich.asn_db`)."),
    single(OUI_SRC, "oui.src", "Vendor of the originator's MAC address (by `enrich.oui_file`)."),
    single(OUI_DST, "oui.dst", "Vendor of the responder's MAC address (by `enrich.oui_file`)."),
    attribute(
        ALERT_SIGNATURE,
        "alert.signature",
        &["suricata.signature"],
        Text,
        "Messages of the signatures that Suricata alerted by.",
    ),
    attribute(
        ALERT_SIGNATURE_ID,
        "alert.signature_id",
        &["alert.sid", "suricata.signatureId"],
        Integer,
        "Numbers of the signatures that Suricata alerted by.",
    ),
    attribute(
        ALERT_SEVERITY,
        "alert.severity",
        &["suricata.severity"],
        Integer,
        "Severities of alerts; 1 is the most severe.",
    ),
    attribute(
        ALERT_CATEGORY,
        "alert.category",
        &["suricata.category"],
        Text,
        "Classifications of the signatures that Suricata alerted by.",
    ),
    attribute(
        ALERT_ACTION,
        "alert.action",
        &["suricata.action"],
        Text,
        "What Suricata did about it: `allowed`, `blocked`.",
    ),
    attribute(ALERT_GID, "alert.gid", &["suricata.gid"], Integer, "Generators of the signatures."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_rise_and_names_are_unique() {
        assert!(FIELDS.is_sorted_by(|a, b| a.id < b.id), "by_id searches by halves");
        let mut names: Vec<String> =
            FIELDS.iter().flat_map(|f| f.aliases.iter().chain([&f.name])).map(|n| n.to_lowercase()).collect();
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn fields_are_found_by_name_alias_and_id() {
        assert_eq!(by_name("IP.SRC").map(|f| f.id), Some(FieldId(21)));
        assert_eq!(by_name("src_ip").map(|f| f.id), Some(FieldId(21)));
        assert_eq!(by_id(TLS_JA4).map(|f| f.name), Some("tls.ja4"));
        assert!(by_name("nonsense").is_none() && by_id(FieldId(9)).is_none());
    }
}
