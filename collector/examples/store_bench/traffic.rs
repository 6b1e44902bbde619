//! The records of the bench: made up, the same each time.

use gnomon_clock::{EpochId, RawNs};
use gnomon_flow::{
    Addresses, AttributeValue, Attributes, DirectionCounters, FieldId, FlowEndReason, FlowId, FlowKey,
    FlowRecord, TcpState, TcpSummary, field,
};

pub(crate) const SENSORS: u8 = 8;
pub(crate) const DAY_NS: u64 = 86_400_000_000_000;
pub(crate) const SPAN_NS: u64 = 5 * DAY_NS;

/// Multiplies and adds (Knuth); the high bits are good enough for made-up traffic.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 20
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Small numbers far more often than large ones: about one in `1/x`.
    pub(crate) fn skewed(&mut self, n: u64) -> u64 {
        let unit = self.below(1 << 30) as f64 / f64::from(1u32 << 30);
        ((n as f64).powf(unit) - 1.0) as u64 % n
    }
}

fn spread(n: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40
}

pub(crate) fn name(n: u64) -> String {
    const WORDS: [&str; 12] =
        ["api", "cdn", "mail", "login", "static", "img", "news", "shop", "data", "cloud", "edge", "video"];
    let word = |n: u64| WORDS[(n % 12) as usize];
    format!("{}{}.{}-{}.example", word(n), n % 97, word(n / 12), n / 144)
}

pub(crate) fn epoch(sensor: u8) -> EpochId {
    EpochId { agent: [sensor + 1; 16], boot_id: [7; 16], opened: RawNs(0) }
}

/// Record `n` of `all`. RAW 0 is the beginning of the five days.
pub(crate) fn record(n: u64, all: u64, dice: &mut Dice) -> FlowRecord {
    let first = (u128::from(SPAN_NS - 200_000_000_000) * u128::from(n) / u128::from(all)) as u64
        + dice.below(30_000_000_000);
    // The slow scanner: 720 probes in five days.
    let scan = all >= 720 && n.is_multiple_of(all / 720);
    let src = if scan { 0xF00 } else { 256 + dice.skewed(40_000) };
    let dst = if scan { 77 } else { dice.skewed(400_000) };
    let port = match dice.below(100) {
        _ if scan => (1000 + n / (all / 720)) as u16,
        0..45 => 443,
        45..65 => 53,
        65..80 => 80,
        80..84 => 22,
        84..88 => 123,
        _ => 1024 + dice.skewed(60_000) as u16,
    };
    let protocol = if matches!(port, 53 | 123) { 17 } else { 6 };
    let packets = if scan { 1 } else { 1 + dice.skewed(2000) };
    let answered = if scan { 0 } else { packets * 4 / 5 };
    let way = |packets: u64, bytes: u64, mac: u64| DirectionCounters {
        packets,
        bytes: packets * 66 + bytes,
        ip_bytes: packets * 52 + bytes,
        data_bytes: bytes,
        fragments: 0,
        ttl: (packets > 0).then(|| (56 + (mac % 8) as u8, 64)),
        mac: Some([2, 0, 0, 0, (mac >> 8) as u8, mac as u8]),
    };
    let mut attributes = Attributes::default();
    let host = name(spread(dice.skewed(20_000)) % 20_000);
    let mut text = |field: FieldId, value: &str| {
        attributes.text(field, value);
    };
    text(field::PROTOCOLS, if protocol == 6 { "tcp" } else { "udp" });
    match port {
        443 => {
            text(field::PROTOCOLS, "tls");
            text(field::TLS_HOST, &host);
            text(field::TLS_VERSION, if dice.below(5) == 0 { "TLSv1.2" } else { "TLSv1.3" });
            text(field::TLS_CIPHER, "TLS_AES_128_GCM_SHA256");
            text(field::TLS_JA3, &format!("{:032x}", u128::from(dice.skewed(500)) << 64 | 0xfeed));
        }
        53 => {
            text(field::PROTOCOLS, "dns");
            text(field::DNS_HOST, &host);
            text(field::DNS_QUERY_TYPE, if dice.below(3) == 0 { "AAAA" } else { "A" });
            text(field::DNS_STATUS, if dice.below(20) == 0 { "NXDOMAIN" } else { "NOERROR" });
        }
        80 => {
            text(field::PROTOCOLS, "http");
            text(field::HTTP_HOST, &host);
            text(field::HTTP_METHOD, if dice.below(9) == 0 { "POST" } else { "GET" });
            text(field::HTTP_URI, &format!("/{}", dice.skewed(3000)));
            text(field::HTTP_USER_AGENT, ["curl/8", "Mozilla/5.0 (X11)", "python"][dice.below(3) as usize]);
        }
        _ => {}
    }
    if dice.below(1000) == 0 {
        text(field::TAGS, ["beacon", "tor", "suspicious"][dice.below(3) as usize]);
    }
    if port == 80 {
        attributes
            .push(field::HTTP_STATUS, AttributeValue::Integer([200, 200, 304, 404][dice.below(4) as usize]));
    }
    // A probe carries nothing.
    let bytes = dice.skewed(1 << 24) * u64::from(!scan);
    FlowRecord {
        id: FlowId::new((n % 2) as u8, n),
        segment: 0,
        revision: 0,
        key: FlowKey {
            vlan: [(src % 4) as u16 * 10, 0],
            ethertype: 0x0800,
            protocol,
            addresses: Addresses::V4 {
                orig: (0x0A00_0000 | src as u32).to_be_bytes(),
                resp: (0x2000_0000 | spread(dst) as u32).to_be_bytes(),
            },
            orig_port: 32_768 + dice.below(28_000) as u16,
            resp_port: port,
        },
        first: RawNs(first),
        last: RawNs(first + if packets > 1 { dice.skewed(100_000_000_000) } else { 0 }),
        stamp_err_ns: 200,
        orig: way(packets, bytes / 10, src % 500),
        resp: way(answered, if answered > 0 { bytes } else { 0 }, 7),
        tcp: (protocol == 6).then(|| TcpSummary {
            state: if scan { TcpState::SynSent } else { TcpState::Closed },
            flags: [2, 1, 0, (packets / 3) as u32, packets as u32, 0, 0, 0],
            syn_ack: u32::from(answered > 0),
            of_side: if scan { [0x02, 0] } else { [0x1b, if answered > 0 { 0x1b } else { 0 }] },
            rtt_ns: (answered > 0).then(|| 1_000_000 + dice.skewed(100_000_000)),
            retransmissions: u32::from(dice.below(50) == 0),
        }),
        icmp: None,
        direction_guessed: false,
        own_uplink: false,
        problem: None,
        sliced_packets: packets + answered,
        sliced_bytes: (packets + answered) * 128,
        end: Some(if protocol == 6 { FlowEndReason::EndOfFlow } else { FlowEndReason::Idle }),
        attributes,
    }
}
