//! A question has one answer, whether the records it is asked of are single or in blocks.

use gnomon_clock::sim::SimRandom;
use gnomon_flow::{
    Addresses, AttributeValue, DecodeProblem, FIELDS, FlowEndReason, FlowRecord, TcpState, TcpSummary, field,
};

use crate::query::testing::{fixture, search};
use crate::query::*;
use crate::store::testing::{S, epoch, record, seal};

/// Records with something in every field, or nothing, as the dice fall.
pub(super) fn records(random: &mut SimRandom, ids: std::ops::Range<u64>) -> Vec<FlowRecord> {
    ids.map(|id| {
        let mut pick = |to: i64| u64::try_from(random.range(0, to - 1)).unwrap_or(0);
        let first = S + pick(90_000) * 1_000_000;
        let mut flow = record(id | pick(3) << 56, 0, first, first + pick(5) * pick(1_000_000_000));
        let byte = |n: u64| n as u8;
        flow.key.addresses = match pick(6) {
            0 => Addresses::V6 { orig: [byte(pick(3)); 16], resp: [byte(pick(200)); 16] },
            1 => Addresses::Mac { orig: [2; 6], resp: [byte(pick(9)); 6] },
            2 => Addresses::None,
            _ => Addresses::V4 {
                orig: [10, 0, byte(pick(3)), byte(pick(9))],
                resp: [192, 168, 7, byte(pick(250))],
            },
        };
        flow.key.ethertype = match flow.key.addresses {
            Addresses::V4 { .. } => 0x0800,
            Addresses::V6 { .. } => 0x86DD,
            _ => [0x0806, 0x88CC, 0, 0x1234][pick(4) as usize],
        };
        flow.key.protocol = [6, 17, 1, 58, 132, 47][pick(6) as usize];
        (flow.key.orig_port, flow.key.resp_port) =
            (pick(65_536) as u16, [22, 53, 80, 443, 0][pick(5) as usize]);
        flow.key.vlan = [[0, 0], [12, 0], [12, 100]][pick(3) as usize];
        for way in [&mut flow.orig, &mut flow.resp] {
            way.packets = pick(30);
            way.bytes = way.packets * 60 + pick(1000);
            way.ip_bytes = way.bytes.saturating_sub(14 * way.packets);
            way.data_bytes = way.ip_bytes / 2;
            way.fragments = pick(2);
            way.ttl = (pick(3) > 0).then(|| (60 + byte(pick(5)), 70));
            way.mac = (pick(3) > 0).then(|| [2, 0, 0, 0, 0, byte(pick(4))]);
        }
        flow.tcp = (flow.key.protocol == 6).then(|| TcpSummary {
            state: TcpState::ALL[pick(7) as usize],
            flags: std::array::from_fn(|_| pick(3) as u32),
            syn_ack: pick(2) as u32,
            of_side: [byte(pick(256)), byte(pick(256))],
            rtt_ns: (pick(2) > 0).then(|| pick(9_000_000)),
            retransmissions: pick(2) as u32,
        });
        flow.icmp = (flow.key.protocol == 1).then(|| (byte(pick(9)), byte(pick(2))));
        flow.direction_guessed = pick(4) == 0;
        flow.problem = (pick(9) == 0).then(|| DecodeProblem::ALL[pick(6) as usize]);
        flow.end = Some(FlowEndReason::ALL[pick(5) as usize]);
        flow.sliced_packets = pick(20);
        for _ in 0..pick(4) {
            let host = ["www.Example.org", "example.org", "Straße.de", "a b/c*d", ""][pick(5) as usize];
            flow.attributes
                .text([field::DNS_HOST, field::HTTP_HOST, field::PROTOCOLS][pick(3) as usize], host);
        }
        if pick(3) == 0 {
            flow.attributes.push(field::HTTP_STATUS, AttributeValue::Integer(200 + pick(9)));
            flow.attributes.push(field::DNS_IP, AttributeValue::Ip([1, 2, 3, byte(pick(9))].into()));
            flow.attributes.push(field::CERT_NOT_BEFORE, AttributeValue::Integer(1_700_000_000 + pick(5)));
            flow.attributes.push(field::OUTER_IP_SRC, AttributeValue::Ip([9, 9, 9, byte(pick(3))].into()));
            flow.attributes.push(field::OUTER_IP_DST, AttributeValue::Ip([9, 9, 9, byte(pick(3))].into()));
            flow.attributes.text(field::OUTER_MAC_SRC, "02:00:00:00:00:09");
        }
        flow
    })
    .collect()
}

const QUESTIONS: &[&str] = &[
    "",
    "ip.src == 10.0.1.0/24",
    "ip.dst == 192.168.7.9",
    "ip == 10.0.0.3 || ip == 10.9.9.9",
    "ip != 10.0.0.3",
    "ip == ipv6 && port != 53",
    "ip.dst == 192.168.7.9:443",
    "port == 22",
    "port.dst == [80,443] && packets >= 3",
    "port == 70-400",
    "port != [22,53]",
    "bytes > 1000 && bytes < 1500",
    "databytes.src == 0-100",
    "ip.bytes >= 700",
    "ip.protocol == tcp",
    "ip.protocol == [udp, arp, ip-132]",
    "ethertype == 2048",
    "vlan == 100",
    "vlan == EXISTS!",
    "mac.src == 02:00:00:00:00:01",
    "tcpflags.syn == 1 && tcpflags.syn-ack == 0",
    "tcpflags.rst == 0",
    "tcpflags.src == [rst, fin] && tcpflags.dst != ack",
    "tcpflags.dst == EXISTS!",
    "tcp.state == established",
    "tcp.rtt < 1000000",
    "icmp.type == 3",
    "end.reason == idle",
    "undecodable == EXISTS!",
    "direction.guessed == true",
    "dns.host == www.example.org",
    "host.dns == *.example.org",
    "http.host == /.*a.*/",
    "http.host != example.org",
    "dns.host == ]example.org,straße.de[",
    "http.statuscode == 200-203",
    "http.statuscode == EXISTS!",
    "dns.ip == 1.2.3.4",
    "dns.ip == 1.2.3.0/24 && ip.protocol != tcp",
    "protocols == EXISTS! && !(port == 443)",
    "node == sensor && interface == eth0",
    "node == nobody",
    "time.state == indexed",
    "segment == 0",
    "session.length >= 1000",
    "fragments == 1",
    "stored.packets > 10",
    "tls.host == nowhere",
    "cert.notbefore == 1700000003",
    "cert.notbefore > 1700000002 && port == 443",
    "outerip == 9.9.9.1",
    "outermac == 02:00:00:00:00:09",
    "mac == 02:00:00:00:00:02 && mac.dst != 02:00:00:00:00:03",
    "mac.dst == EXISTS!",
    "ip.protocol.number == 132",
    "ttl.src == 61",
    "ttl.dst != 60",
    "vlan != 12",
    "icmp.code == 1",
    "tcp.retransmissions == 1",
    "direction.guessed == false",
];

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_the_same_from_blocks_as_from_single_records() {
    let mut fixture = fixture(QueryLimits::default());
    let mut random = SimRandom::new(7);
    for (of, seq) in [(1, 1), (2, 1), (1, 2)] {
        let records = records(&mut random, seq * 1000..seq * 1000 + 150);
        fixture.add(epoch(of), seq, records);
    }
    let top = |fields: &[&str], expression: &str| Top {
        expression: expression.to_owned(),
        fields: fields.iter().map(|name| (*name).to_owned()).collect(),
        by: Measure::Bytes,
        limit: 10_000,
        ..Top::default()
    };
    let mut before = Vec::new();
    for sealed in [false, true] {
        if sealed {
            seal(&mut fixture.writer);
            assert_eq!(fixture.store.status().expect("status").flows, 450);
        }
        let queries = &fixture.queries;
        let mut answers = Vec::new();
        for question in QUESTIONS {
            for oldest_first in [false, true] {
                // In pages, so that cursors go through blocks too.
                let mut cursor = String::new();
                let mut all = Vec::new();
                loop {
                    let page = Search { oldest_first, limit: 100, cursor, ..search(question) };
                    let page =
                        queries.search(page).await.unwrap_or_else(|error| panic!("{question}: {error}"));
                    assert_eq!(page.partial, None);
                    let mut flows = page.flows;
                    // The order of values of different fields is no part of a record.
                    for flow in &mut flows {
                        let mut list: Vec<_> = flow.record.attributes.iter().cloned().collect();
                        list.sort_by_key(|attribute| attribute.field);
                        flow.record.attributes = Default::default();
                        for attribute in list {
                            flow.record.attributes.push(attribute.field, attribute.value);
                        }
                    }
                    all.extend(flows);
                    cursor = page.next_cursor;
                    if cursor.is_empty() {
                        break;
                    }
                }
                answers.push(format!("{question} {oldest_first} {} {all:?}", all.len()));
            }
            let different = ["ip", "port.src", "http.host", "starttime"].map(str::to_owned);
            let count = queries.count(question, TimeRange::default(), &different).await.expect("count");
            answers.push(format!("{question} {count:?}"));
        }
        for field in FIELDS.iter().filter(|field| field.name != "ingesttime") {
            let rows = queries.top(top(&[field.name], "")).await.expect(field.name);
            answers.push(format!("{} {rows:?}", field.name));
        }
        for fields in
            [&["ip.src", "port.dst"][..], &["ip", "protocols", "ip.protocol"], &["ip.src", "tcp.rtt"]]
        {
            answers.push(format!("{:?}", queries.top(top(fields, "packets > 4")).await.expect("top")));
        }
        for (fields, distinct) in [
            (&["ip.dst"][..], &["port.src", "protocols"][..]),
            (&["ip", "protocols"], &["ip", "stoptime"]),
            (&["tcp.rtt"], &["mac"]),
        ] {
            let distinct = distinct.iter().map(|name| (*name).to_owned()).collect();
            let top = Top { distinct, by: Measure::Distinct, ..top(fields, "bytes > 100") };
            answers.push(format!("{:?}", queries.top(top).await.expect("top")));
        }
        for group in ["", "ip.protocol", "icmp.code"] {
            let histogram = Histogram { interval_ns: 7 * S, group: group.to_owned(), ..Histogram::default() };
            answers.push(format!("{:?}", queries.histogram(histogram).await.expect("histogram")));
        }
        if !sealed {
            before = answers;
            continue;
        }
        for (before, after) in before.iter().zip(&answers) {
            assert!(before == after, "single:\n{}\nin blocks:\n{}", cut(before, after), cut(after, before));
        }
        assert_eq!(before.len(), answers.len());
    }
}

/// From a little before the first difference on.
fn cut(text: &str, other: &str) -> String {
    let at = text.bytes().zip(other.bytes()).position(|(a, b)| a != b).unwrap_or(text.len().min(other.len()));
    let head: String = text.chars().take(60).collect();
    let around: String = text.chars().skip(at.saturating_sub(300)).take(400).collect();
    format!("{head} … {around}")
}
