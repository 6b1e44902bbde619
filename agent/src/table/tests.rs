//! What a flow is, by example, and that no packet is lost, for any frames.

mod repeats;
mod segments;
mod splitting;

use gnomon_flow::{Addresses, DecodeProblem, TcpState, field};
use proptest::prelude::*;

use super::*;
use crate::decode::{TcpHeader, decode, example};
use gnomon_capture::Frame;

const SYN: u8 = TcpHeader::SYN;
const ACK: u8 = TcpHeader::ACK;
const FIN: u8 = TcpHeader::FIN;
const RST: u8 = TcpHeader::RST;
const MS: u64 = 1_000_000;
const S: u64 = 1000 * MS;
const START: u64 = 1_000_000 * S;

struct Bench {
    table: Table,
    out: Vec<FlowRecord>,
}

impl Bench {
    fn new(config: TableConfig) -> Bench {
        Bench { table: Table::new(3, config, Judge::default()), out: Vec::new() }
    }

    /// Without interim records.
    fn finals() -> Bench {
        Bench::new(TableConfig { interim: None, flows_max: 64, ..TableConfig::default() })
    }

    fn feed(&mut self, at: u64, data: &[u8]) -> Seen {
        let stamp = Stamp { raw: RawNs(START + at), err_ns: 10 };
        let frame = Frame { stamp, ..example::frame(data) };
        let packet = decode(&frame);
        let sought = self.table.seek(&packet);
        self.table.observe(&packet, &sought, &frame, &mut self.out)
    }

    fn tcp(&mut self, at: u64, back: bool, seq: u32, ack: u32, flags: u8, payload: &[u8]) -> Seen {
        let (orig, resp) = (example::ORIG_V4, example::RESP_V4);
        let data = if back {
            example::ipv4(6, resp, orig, &example::tcp((80, 40_000), seq, ack, flags, payload))
        } else {
            example::ipv4(6, orig, resp, &example::tcp((40_000, 80), seq, ack, flags, payload))
        };
        self.feed(at, &data)
    }

    fn tick(&mut self, at: u64) {
        while self.table.tick(RawNs(START + at), &mut self.out) {}
    }

    fn ends(&mut self) -> Vec<FlowRecord> {
        while self.table.close_some(RawNs(START), &mut self.out) {}
        std::mem::take(&mut self.out)
    }
}

fn reasons(records: &[FlowRecord]) -> Vec<Option<FlowEndReason>> {
    records.iter().map(|record| record.end).collect()
}

#[test]
fn both_directions_are_one_flow_of_the_first_sender() {
    let mut bench = Bench::finals();
    let (orig, resp) = (example::ORIG_V4, example::RESP_V4);
    // The originator is the high end of the key here.
    bench.feed(0, &example::ipv4(17, resp, orig, &example::udp((999, 53), b"query")));
    let seen = bench.feed(MS, &example::ipv4(17, orig, resp, &example::udp((53, 999), b"an answer")));
    assert!(seen.from_responder && !seen.is_new);
    let records = bench.ends();
    let [record] = &records[..] else { panic!("{records:?}") };
    assert_eq!(record.key.addresses, Addresses::V4 { orig: resp, resp: orig });
    assert_eq!((record.key.orig_port, record.key.resp_port), (999, 53));
    assert_eq!((record.orig.packets, record.resp.packets), (1, 1));
    assert_eq!((record.orig.data_bytes, record.resp.data_bytes), (5, 9));
    assert_eq!((record.orig.bytes, record.orig.ip_bytes), (47, 33));
    assert_eq!((record.orig.ttl, record.orig.mac), (Some((64, 64)), Some(example::ORIG_MAC)));
    assert_eq!((record.first, record.last), (RawNs(START), RawNs(START + MS)));
    // Neither says so in DNS.
    assert_eq!((record.stamp_err_ns, record.direction_guessed), (10, true));
    assert_eq!((record.id, record.segment, record.end), (FlowId::new(3, 1), 0, Some(FlowEndReason::Forced)));
}

#[test]
fn a_syn_ack_first_turns_the_flow_and_a_data_segment_first_is_a_guess() {
    let mut bench = Bench::finals();
    assert!(bench.tcp(0, true, 500, 101, SYN | ACK, b"").from_responder);
    let record = &bench.ends()[0];
    assert_eq!((record.key.orig_port, record.direction_guessed), (40_000, false));
    assert_eq!(record.tcp.unwrap().state, TcpState::SynReceived);

    bench.tcp(0, true, 500, 101, ACK, b"data");
    let record = &bench.ends()[0];
    assert_eq!((record.key.orig_port, record.direction_guessed), (80, true));
    assert_eq!(record.tcp.unwrap().state, TcpState::Midstream);
}

#[test]
fn vlans_are_apart() {
    let mut bench = Bench::finals();
    for id in [0, 5, 6] {
        bench.feed(0, &example::tagged(&[(0x8100, id)], &example::tcp_v4()));
    }
    bench.feed(0, &example::tagged(&[(0x88a8, 5), (0x8100, 6)], &example::tcp_v4()));
    assert_eq!(bench.ends().len(), 4);
}

#[test]
fn silence_splits_by_the_flows_own_clock_before_the_wheel_turns() {
    for (gap, flows) in [(60 * S, 1), (60 * S + 1, 2)] {
        let mut bench = Bench::finals();
        bench.feed(0, &example::udp_v6());
        bench.feed(gap, &example::udp_v6());
        let records = bench.ends();
        assert_eq!(records.len(), flows);
        if flows == 2 {
            assert_eq!(records[0].end, Some(FlowEndReason::Idle));
            assert_ne!(records[0].id, records[1].id);
            assert_eq!(records[1].first, RawNs(START + gap));
        }
    }
}

#[test]
fn the_wheel_ends_each_protocol_after_its_own_silence() {
    for (data, timeout) in [
        (example::tcp_v4(), 480),
        (example::udp_v6(), 60),
        (example::icmp_v4(), 60),
        (example::ipv4(50, [1; 4], [2; 4], &[0; 20]), 600),
        (example::ipv4(132, [1; 4], [2; 4], &[0; 20]), 60),
        (example::ipv4(47, [1; 4], [2; 4], &[0; 20]), 60),
        (example::arp(), 60),
    ] {
        let mut bench = Bench::finals();
        bench.tick(0);
        bench.feed(0, &data);
        // Timers are lazy: a later packet moves the end.
        bench.feed(10 * S, &data);
        bench.tick((timeout + 10) * S - 1);
        assert_eq!(bench.out, []);
        bench.tick((timeout + 10) * S + 20 * MS);
        assert_eq!(reasons(&bench.out), [Some(FlowEndReason::Idle)]);
        assert_eq!(bench.out[0].packets(), 2);
        assert_eq!(bench.table.stats().flows_active, 0);
    }
}

#[test]
fn a_stamp_far_from_the_flow_either_way_is_another_flow_and_hurts_nobody_else() {
    let mut bench = Bench::finals();
    let nine_hours = 9 * 3600 * S;
    bench.feed(0, &example::udp_v6());
    bench.feed(nine_hours, &example::udp_v6());
    bench.feed(S, &example::udp_v6());
    bench.feed(2 * S, &example::udp_v6());
    let records = bench.ends();
    assert_eq!(records.iter().map(|r| r.packets()).collect::<Vec<_>>(), [1, 1, 2]);
    assert!(records.iter().all(|r| r.last.since(r.first) <= S));
}

#[test]
fn packets_a_little_out_of_order_stay_together() {
    let mut bench = Bench::finals();
    bench.feed(5 * S, &example::udp_v6());
    bench.feed(4 * S, &example::udp_v6());
    let records = bench.ends();
    assert_eq!(records.len(), 1);
    assert_eq!((records[0].first, records[0].last), (RawNs(START + 4 * S), RawNs(START + 5 * S)));
}

#[test]
fn a_long_flow_has_segments_with_their_own_times_and_counts() {
    let mut bench = Bench::finals();
    bench.tcp(0, false, 99, 0, SYN, b"");
    bench.tcp(S, true, 499, 100, SYN | ACK, b"");
    bench.tcp(2 * S, false, 100, 500, ACK, b"0123456789");
    bench.tcp(479 * S, false, 110, 500, ACK, b"0123456789");
    bench.tcp(480 * S, false, 110, 500, ACK, b"0123456789abc");
    bench.tcp(500 * S, true, 500, 123, ACK, b"");
    let records = bench.ends();
    assert_eq!(reasons(&records), [Some(FlowEndReason::Active), Some(FlowEndReason::Forced)]);
    let [first, second] = &records[..] else { panic!() };
    assert_eq!((first.id, first.segment), (second.id, 0));
    assert_eq!((second.segment, second.revision), (1, 0));
    assert_eq!((second.first, second.last), (RawNs(START + 480 * S), RawNs(START + 500 * S)));
    assert_eq!((first.packets(), second.packets()), (4, 2));
    // What was sent before the cut is known after it.
    assert_eq!((first.orig.data_bytes, second.orig.data_bytes), (20, 3));
    assert_eq!(second.tcp.unwrap().state, TcpState::Established);
    assert_eq!(second.tcp.unwrap().rtt_ns, Some(2 * S));
    assert_eq!(second.tcp.unwrap().flags[4], 2);
    assert_eq!(second.tcp.unwrap().retransmissions, 1);
}

#[test]
fn a_closed_connection_lingers_for_stragglers_and_ends() {
    let mut bench = Bench::finals();
    bench.tick(0);
    bench.tcp(0, false, 99, 0, SYN, b"");
    bench.tcp(MS, true, 499, 100, SYN | ACK, b"");
    bench.tcp(2 * MS, false, 100, 500, FIN | ACK, b"");
    bench.tcp(3 * MS, true, 500, 101, FIN | ACK, b"");
    bench.tcp(4 * MS, false, 101, 501, ACK, b"");
    bench.tcp(4 * S, false, 101, 501, ACK, b"");
    bench.tick(9 * S - 1);
    assert_eq!(bench.out, []);
    bench.tick(9 * S + 20 * MS);
    assert_eq!(reasons(&bench.out), [Some(FlowEndReason::EndOfFlow)]);
    assert_eq!((bench.out[0].packets(), bench.out[0].tcp.unwrap().state), (6, TcpState::Closed));
}

#[test]
fn a_syn_with_a_new_number_after_the_end_is_a_new_flow() {
    for (seq, flows) in [(99, 1), (7777, 2)] {
        let mut bench = Bench::finals();
        bench.tcp(0, false, 99, 0, SYN, b"");
        bench.tcp(MS, true, 0, 100, RST | ACK, b"");
        bench.tcp(2 * MS, false, seq, 0, SYN, b"");
        let records = bench.ends();
        assert_eq!(records.len(), flows);
        assert!(records.iter().all(|record| !record.direction_guessed));
        if flows == 2 {
            assert_eq!(records[0].end, Some(FlowEndReason::EndOfFlow));
            assert_eq!(records[0].tcp.unwrap().state, TcpState::Reset);
            assert_eq!(records[1].tcp.unwrap().state, TcpState::SynSent);
        }
    }
}

#[test]
fn fragments_are_counted_in_flows_of_their_own() {
    let mut first = example::udp_v4(&[7; 64]);
    first[20] = 0x20;
    let mut later = first.clone();
    later[20..22].copy_from_slice(&[0, 9]);
    let mut bench = Bench::finals();
    bench.feed(0, &first);
    bench.feed(0, &later);
    bench.feed(0, &later);
    let mut records = bench.ends();
    records.sort_by_key(|record| record.id);
    let shape: Vec<_> = records.iter().map(|r| (r.key.orig_port, r.orig.fragments, r.problem)).collect();
    assert_eq!(shape, [(5353, 1, None), (0, 2, None)]);
}

#[test]
fn undecodable_packets_are_flows_of_their_own_with_the_reason() {
    let mut bench = Bench::finals();
    let data = example::tcp_v4();
    bench.feed(0, &data);
    bench.feed(0, &data[..20]);
    bench.feed(0, &data[..36]);
    bench.feed(0, &data[..5]);
    let mut records = bench.ends();
    records.sort_by_key(|record| record.id);
    let problems: Vec<_> = records.iter().map(|record| record.problem).collect();
    let expected = [
        None,
        Some(DecodeProblem::TruncatedNetwork),
        Some(DecodeProblem::Malformed),
        Some(DecodeProblem::TruncatedLink),
    ];
    // Cut to 36 bytes on the wire, the total length lies, and the ports are gone.
    assert_eq!(problems.len(), 4);
    assert_eq!((problems[0], problems[1], problems[3]), (expected[0], expected[1], expected[3]));
    assert!(problems[2].is_some());
}

#[test]
fn a_changed_flow_is_reported_soon_then_ever_more_rarely() {
    let mut bench = Bench::new(TableConfig { flows_max: 64, ..TableConfig::default() });
    let mut times = Vec::new();
    for step in 0..4000 {
        let now = step * 10 * MS;
        bench.feed(now, &example::udp_v6());
        bench.tick(now);
        for record in bench.out.drain(..) {
            assert_eq!((record.end, record.segment), (None, 0));
            assert_eq!((record.revision as usize, record.packets()), (times.len(), step + 1));
            times.push(now / MS);
        }
    }
    let gaps: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!((100..=120).contains(&times[0]), "{times:?}");
    for (gap, expected) in gaps.iter().zip([1000, 2000, 4000, 8000, 10_000, 10_000]) {
        assert!((expected..=expected + 30).contains(gap), "{times:?}");
    }
    // After a pause a packet is seen at once again, and nothing is said while nothing happens.
    bench.tick(79 * S);
    bench.out.clear();
    bench.tick(89 * S);
    assert_eq!(bench.out, []);
    bench.feed(90 * S, &example::udp_v6());
    bench.tick(90 * S + 120 * MS);
    assert_eq!((bench.out.len(), bench.out[0].packets()), (1, 4001));
    bench.tick(151 * S);
    assert_eq!(reasons(&bench.out), [None, Some(FlowEndReason::Idle)]);
    assert_eq!(bench.out[1].revision, bench.out[0].revision + 1);
}

#[test]
fn too_many_interims_at_once_are_spread_and_none_is_lost() {
    let policy = InterimPolicy { per_tick_max: 10, ..InterimPolicy::default() };
    let mut bench =
        Bench::new(TableConfig { flows_max: 256, interim: Some(policy), ..TableConfig::default() });
    bench.tick(0);
    for port in 0..100 {
        bench.feed(0, &example::ipv4(17, [1; 4], [2; 4], &example::udp((port, 9), b"")));
    }
    let mut reported = Vec::new();
    for step in 0..100 {
        bench.tick(step * 10 * MS);
        assert!(bench.out.len() <= 10);
        reported.extend(bench.out.drain(..).map(|record| record.id));
    }
    reported.sort_unstable();
    reported.dedup();
    assert_eq!(reported.len(), 100);
    assert!(bench.table.stats().interims_delayed > 0);
}

#[test]
fn the_bound_on_flows_holds_and_a_flood_evicts_itself() {
    let mut bench = Bench::new(TableConfig { interim: None, flows_max: 50, ..TableConfig::default() });
    let keep = example::tcp_v4();
    let mut sent = 0;
    for n in 0..5000u32 {
        let address = n.to_be_bytes();
        bench.feed(u64::from(n), &example::ipv4(17, address, [9; 4], &example::udp((1, 2), b"")));
        sent += 1;
        if n % 20 == 0 {
            bench.feed(u64::from(n), &keep);
            sent += 1;
        }
        assert!(bench.table.stats().flows_active <= 50);
    }
    let stats = bench.table.stats();
    assert_eq!(stats.flows_evicted, stats.flows_made - 50);
    let records = bench.ends();
    let evicted = records.iter().filter(|r| r.end == Some(FlowEndReason::LackOfResources)).count() as u64;
    assert_eq!(evicted, stats.flows_evicted);
    assert_eq!(records.iter().map(|r| r.packets()).sum::<u64>(), sent);
    // The flow that lives was never evicted.
    assert_eq!(records.iter().filter(|r| r.key.protocol == 6).count(), 1);
}

#[test]
fn no_packet_of_a_known_flow_allocates() {
    let mut bench = Bench::finals();
    bench.feed(0, &example::udp_v6());
    let (entries, free) = (bench.table.entries.capacity(), bench.table.free.capacity());
    for n in 0..1000 {
        bench.feed(n, &example::udp_v6());
        bench.tick(n);
    }
    assert_eq!((bench.table.entries.capacity(), bench.table.free.capacity()), (entries, free));
    assert!(bench.out.is_empty());
}

#[derive(Clone, Debug)]
enum Event {
    Known { which: usize, cut: usize, extra: u32 },
    Tcp { back: bool, port: u16, seq: u32, ack: u32, flags: u8, len: usize },
    Noise(Vec<u8>),
    Wait(i64),
    Tick,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let wait = prop_oneof![0..S as i64, 0..700 * S as i64, -100 * S as i64..0];
    let seq = prop_oneof![0u32..50, any::<u32>()];
    let event = prop_oneof![
        3 => (0..example::ALL.len(), 0usize..100, 0u32..2000)
            .prop_map(|(which, cut, extra)| Event::Known { which, cut, extra }),
        6 => (any::<bool>(), 0u16..5, seq, 0u32..50, any::<u8>(), 0usize..50)
            .prop_map(|(back, port, seq, ack, flags, len)| Event::Tcp { back, port, seq, ack, flags, len }),
        1 => prop::collection::vec(any::<u8>(), 0..80).prop_map(Event::Noise),
        2 => wait.prop_map(Event::Wait),
        2 => Just(Event::Tick),
    ];
    prop::collection::vec(event, 0..200)
}

proptest! {
    #[test]
    fn final_records_add_up_to_the_packets_fed(events in events(), flows_max in 1u32..12, interim in any::<bool>()) {
        let interim = interim.then(InterimPolicy::default);
        let mut bench = Bench::new(TableConfig { flows_max, interim, ..TableConfig::default() });
        let (mut now, mut packets, mut bytes) = (1000 * S, 0u64, 0u64);
        let mut all = Vec::new();
        for event in events {
            let (data, extra) = match event {
                Event::Wait(by) => {
                    now = now.saturating_add_signed(by);
                    continue;
                }
                Event::Tick => {
                    bench.tick(now);
                    continue;
                }
                Event::Known { which, cut, extra } => {
                    let mut data = (example::ALL[which])();
                    data.truncate(cut);
                    (data, extra)
                }
                Event::Tcp { back, port, seq, ack, flags, len } => {
                    let (a, b) = (example::ORIG_V4, example::RESP_V4);
                    let (ends, ports) = if back { ((b, a), (80, port)) } else { ((a, b), (port, 80)) };
                    (example::ipv4(6, ends.0, ends.1, &example::tcp(ports, seq, ack, flags, &vec![0; len])), 0)
                }
                Event::Noise(data) => (data, 7),
            };
            let stamp = Stamp { raw: RawNs(START + now), err_ns: 0 };
            let frame = Frame { stamp, original_len: data.len() as u32 + extra, ..example::frame(&data) };
            let packet = decode(&frame);
            let sought = bench.table.seek(&packet);
            bench.table.observe(&packet, &sought, &frame, &mut bench.out);
            packets += 1;
            bytes += u64::from(frame.original_len);
            prop_assert!(bench.table.stats().flows_active <= u64::from(flows_max));
            all.append(&mut bench.out);
        }
        all.append(&mut bench.ends());
        let mut ids = std::collections::HashSet::new();
        let (mut counted, mut counted_bytes) = (0, 0);
        let mut revisions = std::collections::HashMap::new();
        for record in &all {
            prop_assert!(record.first <= record.last);
            prop_assert!(record.packets() > 0);
            prop_assert!(record.orig.data_bytes <= record.orig.bytes);
            // Revisions rise from 0, and nothing follows the final one.
            let next = revisions.entry((record.id, record.segment)).or_insert(0);
            prop_assert_eq!(record.revision, *next);
            *next += 1;
            prop_assert!(!ids.contains(&(record.id, record.segment)));
            if record.end.is_some() {
                ids.insert((record.id, record.segment));
                counted += record.packets();
                counted_bytes += record.bytes();
            }
        }
        prop_assert_eq!((counted, counted_bytes), (packets, bytes));
        let stats = bench.table.stats();
        prop_assert_eq!(stats.records_final, ids.len() as u64);
        prop_assert_eq!(stats.flows_active, 0);
    }
}

fn hosts(record: &FlowRecord) -> Vec<String> {
    let of = |field| record.attributes.of(field);
    of(field::HTTP_HOST).chain(of(field::DNS_HOST)).map(|value| format!("{value:?}")).collect()
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: www.example\r\n\r\n";

#[test]
fn payload_in_order_is_inspected_however_it_is_cut_and_repeated() {
    for cut in [1, 20, REQUEST.len() - 1] {
        let mut bench = Bench::finals();
        let (head, tail) = REQUEST.split_at(cut);
        bench.tcp(0, false, 99, 0, SYN, b"");
        bench.tcp(0, false, 100, 500, ACK, head);
        bench.tcp(0, false, 100, 500, ACK, head);
        bench.tcp(0, false, 100 + cut as u32, 500, ACK, tail);
        let record = &bench.ends()[0];
        assert_eq!(hosts(record).len(), 1, "cut at {cut}: {:?}", record.attributes);
        assert_eq!(bench.table.budget.inspect.left(), bench.table.config.inspect_bytes_max);
    }
}

#[test]
fn inspection_begins_anew_after_a_gap_and_after_what_was_not_captured() {
    let mut bench = Bench::finals();
    bench.tcp(0, false, 99, 0, SYN, b"");
    // The request's first byte is missing, and what comes later is in order again.
    bench.tcp(0, false, 101, 500, ACK, &REQUEST[1..]);
    bench.tcp(0, false, 100 + REQUEST.len() as u32, 500, ACK, REQUEST);
    assert_eq!(hosts(&bench.ends()[0]).len(), 1);

    let whole = example::ipv4(
        6,
        example::ORIG_V4,
        example::RESP_V4,
        &example::tcp((40_000, 80), 100, 0, ACK, REQUEST),
    );
    let stamp = Stamp { raw: RawNs(START), err_ns: 0 };
    for captured in [whole.len() - 6, 54 + 10] {
        let frame = Frame { stamp, original_len: whole.len() as u32, ..example::frame(&whole[..captured]) };
        let packet = decode(&frame);
        let sought = bench.table.seek(&packet);
        bench.table.observe(&packet, &sought, &frame, &mut bench.out);
        // Told as far as it was captured.
        let told: &[&str] = if captured == 54 + 10 { &[] } else { &["Text(\"www.examp\")"] };
        assert_eq!(hosts(&bench.ends()[0]), told);
        bench.table.observe(&packet, &bench.table.seek(&packet), &frame, &mut bench.out);
        // Not so soon that it would be a copy of the frame above.
        bench.tcp(captured as u64 * 10 * MS, false, 100 + REQUEST.len() as u32, 500, ACK, REQUEST);
        let record = &bench.ends()[0];
        assert_eq!(hosts(record), [told, &["Text(\"www.example\")"]].concat());
        assert_eq!(record.attributes.of(field::INSPECT_CUT).count(), 1);
    }
}

#[test]
fn segments_in_any_order_are_inspected_in_theirs() {
    let mut bench = Bench::finals();
    bench.tcp(0, false, 99, 0, SYN, b"");
    for (from, to) in [(20, REQUEST.len()), (8, 20), (0, 8)] {
        bench.tcp(0, false, 100 + from as u32, 500, ACK, &REQUEST[from..to]);
    }
    let record = &bench.ends()[0];
    assert_eq!((hosts(record).len(), record.orig.data_bytes), (1, REQUEST.len() as u64));
    assert_eq!(bench.table.budget.waiting.left(), bench.table.config.inspect_bytes_max);
}

#[test]
fn a_flow_of_many_packets_has_segments_with_no_more_than_allowed() {
    let mut bench =
        Bench::new(TableConfig { interim: None, active_packets_max: 100, ..TableConfig::default() });
    for n in 0..250 {
        bench.feed(n * MS, &example::udp_v6());
    }
    let records = bench.ends();
    let shape: Vec<_> = records.iter().map(|r| (r.segment, r.packets(), r.first.0 - START)).collect();
    assert_eq!(shape, [(0, 100, 0), (1, 100, 100 * MS), (2, 50, 200 * MS)]);
}

fn texts(record: &FlowRecord, field: gnomon_flow::FieldId) -> Vec<String> {
    record.attributes.of(field).map(|value| format!("{value:?}")).collect()
}

#[test]
fn a_tunnelled_flow_says_what_it_is_wrapped_in_and_overlay_networks_are_apart() {
    use gnomon_flow::field;
    let (a, b) = ([172, 16, 0, 1], [172, 16, 0, 2]);
    let tunnel = |from, to, vni: u8, inner: &[u8]| {
        let header = [8, 0, 0, 0, 0, 0, vni, 0];
        example::ipv4(17, from, to, &example::udp((1, 4789), &[&header, inner].concat()))
    };
    let there = example::udp_v4(b"x");
    let back = example::ipv4(17, example::RESP_V4, example::ORIG_V4, &example::udp((53, 5353), b"y"));
    let mut bench = Bench::finals();
    bench.feed(0, &tunnel(a, b, 7, &there));
    bench.feed(0, &tunnel(b, a, 7, &back));
    bench.feed(0, &tunnel(a, b, 8, &there));
    bench.feed(0, &there);
    let mut records = bench.ends();
    records.sort_by_key(|record| record.id);
    let vnis: Vec<_> = records.iter().map(|record| (record.packets(), texts(record, field::VNI))).collect();
    let integer = |n: u64| vec![format!("Integer({n})")];
    assert_eq!(vnis, [(2, integer(7)), (1, integer(8)), (1, vec![])]);
    assert_eq!(texts(&records[0], field::OUTER_IP_SRC), ["Ip(172.16.0.1)"]);
    assert_eq!(texts(&records[0], field::OUTER_IP_DST), ["Ip(172.16.0.2)"]);
    assert_eq!(texts(&records[0], field::OUTER_MAC_SRC).len(), 2, "each packet came from the same MAC here");
    assert_eq!(texts(&records[0], field::PROTOCOLS), ["Text(\"vxlan\")"]);
    assert!(records[2].attributes.of(field::VNI).next().is_none());
}

#[test]
fn icmp_both_ways_is_one_flow_and_errors_name_the_flows_they_are_about() {
    let (orig, resp) = (example::ORIG_V4, example::RESP_V4);
    let mut bench = Bench::finals();
    bench.feed(0, &example::icmp_v4());
    bench.feed(0, &example::ipv4(1, resp, orig, &[0, 0, 0, 0, 0, 1, 0, 1]));
    let about = example::udp_v4(b"x");
    let error = example::ipv4(1, [9; 4], orig, &[&[3, 3, 0, 0, 0, 0, 0, 0], &about[14..42]].concat());
    bench.feed(0, &error);
    bench.feed(0, &error);
    bench.feed(0, &about);
    let mut records = bench.ends();
    records.sort_by_key(|record| record.id);
    assert_eq!(
        records.iter().map(|r| (r.packets(), r.icmp)).collect::<Vec<_>>(),
        [(2, Some((8, 0))), (2, Some((3, 3))), (1, None)]
    );
    let id = gnomon_flow::community::community_id(&records[2].key, None).unwrap();
    assert_eq!(texts(&records[1], field::ICMP_INNER), [format!("Text({id:?})")]);
}

#[test]
fn datagrams_are_inspected_and_interims_keep_what_was_found_in_their_segment() {
    let mut question = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    question.extend_from_slice(b"\x03www\x07example\0\0\x01\0\x01");
    let data = example::udp_v4(&question);
    let config = TableConfig { flows_max: 64, active_timeout_ns: 10 * S, ..TableConfig::default() };
    let mut bench = Bench::new(config);
    bench.tick(0);
    bench.feed(0, &data);
    bench.tick(S);
    bench.feed(11 * S, &example::udp_v4(b"x"));
    let records = bench.ends();
    assert_eq!(reasons(&records), [None, Some(FlowEndReason::Active), Some(FlowEndReason::Forced)]);
    assert_eq!(records.iter().map(|record| hosts(record).len()).collect::<Vec<_>>(), [1, 1, 0]);
}

#[test]
fn nothing_is_inspected_when_told_not_to() {
    let mut bench = Bench::new(TableConfig { inspect: false, flows_max: 64, ..TableConfig::default() });
    bench.tcp(0, false, 100, 500, ACK, REQUEST);
    assert!(bench.ends()[0].attributes.is_empty());
}

#[test]
fn a_table_that_a_flood_filled_gives_memory_back_and_loses_no_flow() {
    const FLOWS: u32 = 60_000;
    let config = TableConfig { interim: None, flows_max: 1 << 17, ..TableConfig::default() };
    let mut bench = Bench::new(config);
    let udp = |n: u32| {
        example::ipv4(17, [10, (n >> 16) as u8, (n >> 8) as u8, n as u8], [2; 4], &example::udp((1, 9), b"x"))
    };
    for n in 0..FLOWS {
        bench.feed(u64::from(n) * 1000, &udp(n));
    }
    // Some of them live on, wherever they stand in the table; the others end.
    let lives = |n: &u32| n.is_multiple_of(97);
    let idle = bench.table.config.idle.udp_ns;
    let (mut at, mut packets) = (S, u64::from(FLOWS));
    while at < 2 * idle + 20 * S {
        for n in (0..FLOWS).filter(lives) {
            bench.feed(at, &udp(n));
            packets += 1;
        }
        bench.tick(at);
        at += idle / 4;
    }
    let living = (0..FLOWS).filter(lives).count();
    for _ in 0..100 {
        bench.tick(at);
    }
    assert_eq!(bench.table.stats().flows_active as usize, living);
    assert_eq!(bench.table.entries.len(), shrink::KEPT_ENTRIES);
    assert_eq!(bench.table.free.len() + living, shrink::KEPT_ENTRIES);
    // Each goes on as the flow that it was, and ends by its own timer.
    let made = bench.table.stats().flows_made;
    for n in (0..FLOWS).filter(lives) {
        bench.feed(at, &udp(n));
        packets += 1;
    }
    assert_eq!(bench.table.stats().flows_made, made);
    bench.tick(at + idle + 2 * S);
    assert_eq!(bench.table.stats().flows_active, 0);
    // And it fills again.
    for n in 0..FLOWS {
        bench.feed(at + 2 * idle, &udp(n));
        packets += 1;
    }
    let records = bench.ends();
    assert_eq!(records.iter().map(FlowRecord::packets).sum::<u64>(), packets);
}
