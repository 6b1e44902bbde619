//! What compiles and what does not, and what rules make of packets.

use gnomon_capture::{Frame, Stamp};
use gnomon_clock::RawNs;
use gnomon_flow::{
    AttributeValue, FlowRecord, Origin, OwnStreams, StreamEnd, Transport, TransportStream, field,
};

use super::*;
use crate::decode::{TcpHeader, example};
use crate::engine::{Engine, EngineConfig};
use crate::table::TableConfig;

const MS: u64 = 1_000_000;

fn rule(name: &str, when: &str) -> RuleText {
    RuleText { name: name.into(), when: when.into(), ..RuleText::default() }
}

fn keep(name: &str, when: &str, what: Keep) -> RuleText {
    RuleText { action: Some(Action::Keep(what)), ..rule(name, when) }
}

fn ignore(name: &str, when: &str) -> RuleText {
    RuleText { action: Some(Action::Ignore), ..rule(name, when) }
}

fn tag(name: &str, when: &str, tag: &str) -> RuleText {
    RuleText { tags: vec![tag.into()], ..rule(name, when) }
}

fn compiled(texts: &[RuleText]) -> Arc<Rules> {
    Arc::new(
        Rules::compile(texts, Keep::All).unwrap_or_else(|(at, key, error)| panic!("{at:?} {key}: {error}")),
    )
}

struct Bench {
    engine: Engine,
    rules: Arc<Rules>,
    at: u64,
    sent: u64,
}

impl Bench {
    fn new(texts: &[RuleText]) -> Bench {
        Bench::with(texts, TableConfig { interim: None, flows_max: 256, ..TableConfig::default() })
    }

    fn with(texts: &[RuleText], table: TableConfig) -> Bench {
        let rules = compiled(texts);
        let origin = Origin { agent_name: "sensor".into(), interface: "eth0".into(), ..Origin::default() };
        let config = EngineConfig { table, rules: rules.clone(), origin, ..EngineConfig::default() };
        Bench { engine: Engine::new(0, config), rules, at: 0, sent: 0 }
    }

    fn feed(&mut self, data: &[u8]) {
        self.at += MS;
        self.sent += 1;
        let stamp = Stamp { raw: RawNs(self.at), err_ns: 0 };
        self.engine.on_frame(&Frame { stamp, ..example::frame(data) });
    }

    fn replace(&mut self, texts: &[RuleText]) {
        self.rules = compiled(texts);
        self.engine.replace_rules(self.rules.clone());
    }

    fn matches(&self) -> Vec<u64> {
        self.rules.list().iter().map(Rule::matches).collect()
    }

    /// All final records; what was sent is in them or was ignored.
    fn finish(&mut self) -> Vec<FlowRecord> {
        while self.engine.finish_some(RawNs(self.at)) {}
        let mut records = self.engine.take_records().unwrap_or_default();
        records.retain(|record| !record.is_interim());
        let stats = self.engine.stats();
        assert_eq!(records.iter().map(FlowRecord::packets).sum::<u64>(), stats.packets);
        assert_eq!(stats.packets + stats.packets_ignored, self.sent);
        assert_eq!(stats.table.records_final, records.len() as u64);
        records.sort_by_key(|record| (record.first, record.id));
        records
    }
}

fn udp(port: u16, data: &[u8]) -> Vec<u8> {
    example::ipv4(17, [10, 0, 0, 1], [10, 0, 0, 2], &example::udp((port, 9), data))
}

/// A segment of a connection to port 80, from the client or the server.
fn http(client: bool, seq: u32, flags: u8, data: &[u8]) -> Vec<u8> {
    let (a, b) = ([10, 0, 0, 1], [10, 0, 0, 80]);
    if client {
        example::ipv4(6, a, b, &example::tcp((40_000, 80), seq, 1, flags, data))
    } else {
        example::ipv4(6, b, a, &example::tcp((80, 40_000), seq, 1, flags, data))
    }
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: www.example\r\n\r\n";

fn tags(record: &FlowRecord) -> Vec<String> {
    let text = |value: &AttributeValue| match value {
        AttributeValue::Text(text) => text.to_string(),
        other => panic!("{other:?}"),
    };
    record.attributes.of(field::TAGS).map(text).collect()
}

#[test]
fn the_first_rule_with_a_word_on_packets_decides_and_all_give_tags() {
    let mut bench = Bench::new(&[
        tag("all", "ip.protocol == EXISTS!", "seen"),
        keep("some", "port == 1000-1999 && node == sensor && interface == eth0", Keep::Packets(2)),
        keep("none", "ip == 10.0.0.0/8", Keep::Nothing),
        tag("mine", "port == 1000", "mine"),
        keep("other", "interface == eth1", Keep::All),
    ]);
    for _ in 0..3 {
        bench.feed(&udp(1000, b"x"));
        bench.feed(&udp(3000, b"x"));
        bench.feed(&example::udp_v6());
    }
    let records = bench.finish();
    let shape: Vec<_> = records.iter().map(|r| (r.packets(), r.sliced_packets, tags(r).join(" "))).collect();
    assert_eq!(shape, [(3, 2, "seen mine".to_owned()), (3, 0, "seen".to_owned()), (3, 3, "seen".to_owned())]);
    assert_eq!(bench.matches(), [3, 1, 2, 1, 0]);
}

#[test]
fn an_ignored_flow_leaves_nothing_but_a_count() {
    let mut bench = Bench::with(
        &[keep("but", "port == 1001", Keep::Headers), ignore("noise", "port == 1000-1999")],
        TableConfig { flows_max: 256, active_timeout_ns: 5 * MS, ..TableConfig::default() },
    );
    for _ in 0..20 {
        bench.feed(&udp(1000, b"x"));
        bench.feed(&udp(1001, b"x"));
        bench.engine.end_batch(RawNs(bench.at));
    }
    // Far beyond the delay of interim records.
    bench.engine.end_batch(RawNs(bench.at + 2_000 * MS));
    let stats = bench.engine.stats();
    assert_eq!((stats.packets, stats.packets_ignored), (20, 20));
    assert_eq!(stats.slicer.packets_kept, 20);
    assert_eq!(stats.bytes_ignored, 20 * udp(1000, b"x").len() as u64);
    let records = bench.finish();
    assert!(records.len() > 2 && records.iter().all(|record| record.key.orig_port == 1001), "{records:?}");
    assert_eq!(bench.matches(), [1, 2]);
}

#[test]
fn a_connection_is_ignored_to_its_end_and_the_next_one_is_judged_anew() {
    let mut bench = Bench::new(&[ignore("to-web", "port.dst == 80")]);
    // SYN, an answer and a reset; then the other side opens a connection from the same port.
    bench.feed(&http(true, 100, 0x02, b""));
    bench.feed(&http(false, 500, 0x12, b""));
    bench.feed(&http(true, 101, 0x14, b""));
    bench.feed(&http(false, 90_000, 0x02, b""));
    let records = bench.finish();
    assert_eq!(bench.engine.stats().packets_ignored, 3);
    assert_eq!((records.len(), records[0].key.orig_port), (1, 80));
}

#[test]
fn a_rule_over_metadata_holds_from_the_packet_that_brings_it() {
    let mut bench = Bench::new(&[
        RuleText {
            tags: vec!["example".into()],
            ..keep("host", "http.host == *.example && port.dst == 80", Keep::Nothing)
        },
        keep("web", "port == 80", Keep::Headers),
        tag("other", "http.host != www.example", "other"),
        tag("none", "!(http.host == EXISTS!)", "none"),
    ]);
    bench.feed(&http(true, 99, 0x02, b""));
    bench.feed(&http(true, 100, 0x18, REQUEST));
    bench.feed(&http(true, 100 + REQUEST.len() as u32, 0x18, b"more"));
    let records = bench.finish();
    assert_eq!((records[0].packets(), records[0].sliced_packets), (3, 1));
    assert_eq!(tags(&records[0]), ["example"]);
    assert_eq!(bench.matches(), [1, 1, 0, 0]);
}

#[test]
fn what_waited_for_lost_segments_still_gives_its_tag() {
    let mut bench = Bench::new(&[tag("host", "http.host == www.example", "example")]);
    bench.feed(&http(true, 99, 0x02, b""));
    // The first segment never comes.
    bench.feed(&http(true, 110, 0x18, REQUEST));
    let records = bench.finish();
    assert_eq!(tags(&records[0]), ["example"]);
}

#[test]
fn every_segment_and_every_interim_record_has_the_tags() {
    let table = TableConfig { flows_max: 256, active_packets_max: 2, ..TableConfig::default() };
    let mut bench = Bench::with(&[tag("udp", "ip.protocol == udp", "datagram")], table);
    for _ in 0..5 {
        bench.feed(&udp(1, b"x"));
    }
    bench.engine.end_batch(RawNs(bench.at + 2_000 * MS));
    let mut records = bench.engine.take_records().unwrap();
    assert!(records.iter().any(FlowRecord::is_interim));
    while bench.engine.finish_some(RawNs(bench.at)) {}
    records.extend(bench.engine.take_records().unwrap());
    assert_eq!(records.iter().filter(|record| !record.is_interim()).count(), 3);
    assert!(records.iter().all(|record| tags(record) == ["datagram"]), "{records:?}");
}

#[test]
fn a_flow_full_of_values_keeps_its_tags() {
    let mut bench =
        Bench::new(&[tag("dns", "port == 53", "name"), tag("many", "dns.host == EXISTS!", "asked")]);
    for n in 0..400u32 {
        let mut question = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        let name = format!("host{n}");
        question.push(name.len() as u8);
        question.extend_from_slice(name.as_bytes());
        question.extend_from_slice(&[0, 0, 1, 0, 1]);
        bench.feed(&example::ipv4(17, [10, 0, 0, 1], [10, 0, 0, 2], &example::udp((999, 53), &question)));
    }
    let records = bench.finish();
    assert!(records[0].attributes.is_full());
    assert_eq!(tags(&records[0]), ["name", "asked"]);
}

#[test]
fn around_a_tunnel_is_metadata() {
    let inner = udp(5, b"x");
    let gre = example::ipv4(47, [7; 4], [8; 4], &[&[0, 0, 8, 0], &inner[14..]].concat());
    let mut bench = Bench::new(&[tag("tunnel", "outerip == 7.7.7.7 && port == 5", "inside")]);
    bench.feed(&gre);
    assert_eq!(tags(&bench.finish()[0]), ["inside"]);
}

#[test]
fn flows_that_exist_are_judged_anew() {
    let mut bench =
        Bench::new(&[keep("all", "port == 80", Keep::All), tag("old", "http.host == EXISTS!", "old")]);
    bench.feed(&http(true, 99, 0x02, b""));
    bench.feed(&http(true, 100, 0x18, REQUEST));
    bench.feed(&udp(1, b"x"));
    bench.feed(&udp(2, b"x"));
    // Metadata that came before is known; a flow without another packet is judged when its record is made.
    bench.replace(&[
        keep("none", "http.host == www.example", Keep::Nothing),
        tag("new", "http.host == EXISTS!", "new"),
        tag("quiet", "port == 1", "quiet"),
        ignore("noise", "port == 2"),
    ]);
    bench.feed(&http(true, 100 + REQUEST.len() as u32, 0x18, b"more"));
    bench.feed(&udp(2, b"x"));
    bench.feed(&udp(2, b"x"));
    // And back: what was ignored is a flow again.
    bench.replace(&[]);
    bench.feed(&udp(2, b"x"));
    let records = bench.finish();
    assert_eq!(bench.engine.stats().packets_ignored, 2);
    let of = |port: u16| records.iter().find(|r| r.key.orig_port == port).unwrap();
    assert_eq!((of(40_000).packets(), of(40_000).sliced_packets), (3, 2));
    // Before it was ignored, and after.
    let shape: Vec<_> = records
        .iter()
        .filter(|record| record.key.orig_port == 2)
        .map(|record| (record.segment, record.packets(), record.first, record.last))
        .collect();
    assert_eq!(shape, [(0, 1, RawNs(4 * MS), RawNs(4 * MS)), (1, 1, RawNs(8 * MS), RawNs(8 * MS))]);
    // The last rules gave no tags.
    assert!(records.iter().all(|record| tags(record).is_empty()));
}

#[test]
fn a_flow_that_was_ignored_from_its_start_begins_when_it_is_recorded() {
    let mut bench = Bench::new(&[ignore("noise", "port == 2")]);
    for _ in 0..10 {
        bench.feed(&udp(2, b"x"));
    }
    bench.replace(&[tag("seen", "port == 2", "seen")]);
    bench.feed(&udp(2, b"x"));
    let records = bench.finish();
    assert_eq!((records.len(), records[0].packets()), (1, 1));
    assert_eq!((records[0].first, records[0].last), (RawNs(11 * MS), RawNs(11 * MS)));
    assert_eq!(tags(&records[0]), ["seen"]);
}

fn own(ends: [(&str, u16); 2]) -> Arc<OwnStreams> {
    let [one, other] = ends.map(|(address, port)| StreamEnd::new(address.parse().unwrap(), port));
    let mut own = OwnStreams::default();
    own.add_stream(TransportStream::new(Transport::Tcp, one, other));
    Arc::new(own)
}

/// A connection of [`http`]'s ends that brings a payload with its last packet.
fn connection(bench: &mut Bench, payload: &[u8]) {
    bench.feed(&http(true, 1, TcpHeader::SYN, b""));
    bench.feed(&http(false, 1, TcpHeader::SYN | TcpHeader::ACK, b""));
    bench.feed(&http(true, 2, TcpHeader::ACK, payload));
}

#[test]
fn own_streams_are_counted_and_neither_kept_nor_read_whatever_rules_say() {
    let texts = [
        tag("own", "own_uplink == true", "gnomon"),
        keep("all", "port == 80", Keep::All),
        keep("late", "http.host == EXISTS!", Keep::All),
    ];
    let mut bench = Bench::new(&texts);
    bench.engine.replace_own_streams(own([("10.0.0.1", 40_000), ("10.0.0.80", 80)]));
    connection(&mut bench, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    bench.feed(&udp(80, b"not by TCP"));
    let records = bench.finish();
    let [ours, other] = &records[..] else { panic!("{records:?}") };
    assert!(ours.own_uplink && !other.own_uplink);
    assert_eq!((ours.packets(), ours.sliced_packets), (3, 0));
    assert_eq!((tags(ours), ours.attributes.of(field::HTTP_HOST).count()), (vec!["gnomon".to_owned()], 0));
    assert_eq!((other.packets(), other.sliced_packets), (1, 1));
}

#[test]
fn a_stream_that_is_known_late_is_own_from_its_next_packet_on_and_stays_so() {
    let mut bench = Bench::new(&[tag("all", "port == 80", "web")]);
    connection(&mut bench, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    bench.engine.replace_own_streams(own([("10.0.0.80", 80), ("10.0.0.1", 40_000)]));
    bench.feed(&http(false, 2, TcpHeader::ACK, b"HTTP/1.1 200 OK\r\n\r\n"));
    // The next connection of the agent has other ends; this one's last packets are under way.
    bench.engine.replace_own_streams(Arc::default());
    bench.replace(&[keep("all", "port == 80", Keep::All)]);
    bench.feed(&http(false, 21, TcpHeader::ACK, b"more"));
    let records = bench.finish();
    let [record] = &records[..] else { panic!("{records:?}") };
    assert!(record.own_uplink);
    assert_eq!((record.packets(), record.sliced_packets), (5, 3));
    assert_eq!(record.attributes.of(field::HTTP_STATUS).count(), 0, "its answer was not read");
}

#[test]
fn rules_are_not_asked_again_when_only_other_streams_are_own() {
    let mut bench = Bench::new(&[tag("all", "port == 80", "web")]);
    connection(&mut bench, b"");
    for port in 1..10 {
        bench.engine.replace_own_streams(own([("10.0.0.80", port), ("10.0.0.1", 40_000)]));
        bench.feed(&http(true, 2, TcpHeader::ACK, b""));
    }
    assert_eq!(bench.matches(), [1]);
    assert_eq!(bench.finish()[0].sliced_packets, 12);
}

#[test]
fn an_own_stream_is_reported_once_a_minute() {
    let table = TableConfig { flows_max: 256, ..TableConfig::default() };
    let mut bench = Bench::with(&[], table);
    bench.engine.replace_own_streams(own([("10.0.0.80", 80), ("10.0.0.1", 40_000)]));
    let mut interim = 0;
    for _ in 0..200 {
        bench.at += 1_000 * MS;
        bench.feed(&http(true, 2, TcpHeader::ACK, b""));
        while bench.engine.end_batch(RawNs(bench.at + 500 * MS)) {}
        interim += bench.engine.take_records().map_or(0, |records| records.len());
    }
    // At its start, and in the 200 seconds after it.
    assert!((3..=5).contains(&interim), "{interim}");
}

#[test]
fn what_cannot_work_is_refused() {
    let many = |count: usize| -> Vec<RuleText> {
        (0..count).map(|n| tag(&format!("r{n}"), "port == 1", "a")).collect()
    };
    let refused = |texts: &[RuleText]| Rules::compile(texts, Keep::All).map(drop).unwrap_err();
    assert!(Rules::compile(&many(RULES_MAX), Keep::All).is_ok());
    assert_eq!(refused(&many(RULES_MAX + 1)).2, RuleError::TooMany);
    let tags: Vec<RuleText> =
        (0..=TAGS_MAX).map(|n| tag(&format!("r{n}"), "port == 1", &format!("t{n}"))).collect();
    assert_eq!(refused(&tags), (Some(TAGS_MAX), "tag", RuleError::TooManyTags));
    let list = (0..60).map(|n| format!("a{n}*")).collect::<Vec<_>>().join(",");
    let patterns: Vec<RuleText> =
        (0..5).map(|n| tag(&format!("r{n}"), &format!("http.host == [{list}]"), "a")).collect();
    assert_eq!(refused(&patterns), (Some(4), "when", RuleError::TooManyPatterns));
    for (text, key, error) in [
        (tag("", "port == 1", "a"), "name", RuleError::Name),
        (tag(&"x".repeat(64), "port == 1", "a"), "name", RuleError::Name),
        (tag("x", " ", "a"), "when", RuleError::WhenEmpty),
        (tag("x", "port == 1", "a b"), "tag", RuleError::Tag("a b".into())),
        (rule("x", "port == 1"), "", RuleError::NoAction),
        (ignore("x", "port == 1 || vni == 3"), "ignore", RuleError::IgnoreTooLate),
        (RuleText { tags: vec!["a".into()], ..ignore("x", "port == 1") }, "tag", RuleError::TagOfIgnored),
    ] {
        assert_eq!(refused(&[text]), (Some(0), key, error));
    }
    let twice = [tag("x", "port == 1", "a"), tag("x", "port == 2", "a")];
    assert_eq!(refused(&twice), (Some(1), "name", RuleError::NameTwice("x".into())));
    let (_, _, error) = refused(&[tag("x", "port == 1 && starttime > 2026-01-31", "a")]);
    assert_eq!(error.to_string(), "column 14: starttime cannot be asked here; only the collector knows it");
}
