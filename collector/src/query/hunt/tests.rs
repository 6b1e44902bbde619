//! Attackers planted among louder ones and everyday traffic of five days.

use gnomon_clock::sim::SimRandom;
use gnomon_flow::{Addresses, AttributeValue, FieldId, FlowRecord, TcpState, TcpSummary, field};

use super::*;
use crate::query::QueryLimits;
use crate::query::testing::{Fixture, fixture};
use crate::store::testing::{S, epoch, fix, fixes, record, seal};

const MINUTE: u64 = 60;
const DAY: u64 = 86_400;
const SPAN: u64 = 5 * DAY;

/// Traffic in the making.
struct Traffic {
    random: SimRandom,
    flows: Vec<FlowRecord>,
}

type Ip = [u8; 4];

impl Traffic {
    fn below(&mut self, n: u64) -> u64 {
        u64::try_from(self.random.range(0, n as i64 - 1)).unwrap_or(0)
    }

    /// A flow at `at` seconds, of so many packets and bytes each way.
    fn flow(
        &mut self,
        at: u64,
        (src, dst): (Ip, Ip),
        (protocol, port): (u8, u16),
        (there, back): ((u64, u64), (u64, u64)),
    ) -> &mut FlowRecord {
        let id = self.flows.len() as u64 + 1;
        let mut flow = record(id, 0, at * S, at * S + S / 2);
        flow.key.addresses = Addresses::V4 { orig: src, resp: dst };
        (flow.key.protocol, flow.key.resp_port) = (protocol, port);
        flow.key.orig_port = 20_000 + (id % 40_000) as u16;
        let header = if protocol == 6 { 66 } else { 42 };
        for (way, (packets, data)) in [(&mut flow.orig, there), (&mut flow.resp, back)] {
            (way.packets, way.data_bytes) = (packets, data);
            way.bytes = packets * header + data;
            way.ip_bytes = way.bytes - 14 * packets;
        }
        flow.tcp = (protocol == 6).then(|| TcpSummary {
            state: if back.0 == 0 { TcpState::SynSent } else { TcpState::Closed },
            ..TcpSummary::default()
        });
        self.flows.push(flow);
        self.flows.last_mut().expect("just pushed")
    }

    fn with_text(&mut self, texts: &[(FieldId, &str)]) {
        let flow = self.flows.last_mut().expect("a flow");
        for (field, text) in texts {
            flow.attributes.text(*field, text);
        }
    }

    /// What goes on without attackers.
    fn everyday(&mut self) {
        for n in 0..9_000 {
            let at = self.below(SPAN);
            let client = [10, 1, 0, self.below(200) as u8];
            let server = [192, 0, 2, self.below(250) as u8];
            let port = [443, 443, 80, 53, 22][self.below(5) as usize];
            let protocol = if port == 53 { 17 } else { 6 };
            // One in thirty finds nobody home, and tries for a while.
            let back = if n % 30 == 0 { (0, 0) } else { (6, 4000) };
            let there = if n % 30 == 0 { (1 + self.below(7), 0) } else { (5, 600) };
            self.flow(at, (client, server), (protocol, port), (there, back));
        }
        // A client that goes on trying three services which are gone, and a monitor that only connects.
        for at in (0..SPAN).step_by(10 * MINUTE as usize) {
            for port in [8080, 9090, 5432] {
                self.flow(at, ([10, 1, 0, 9], [192, 0, 2, 9]), (6, port), ((1, 0), (0, 0)));
            }
            for host in 0..4 {
                self.flow(at, ([10, 1, 0, 10], [192, 0, 2, host]), (6, 443), ((4, 0), (3, 0)));
            }
        }
        // Two hosts that share files on ever other ports.
        for n in 0..1556 {
            let at = self.below(SPAN);
            self.flow(at, ([10, 1, 0, 11], [10, 1, 0, 12]), (6, 10_000 + n), ((9, 8000), (9, 9000)));
        }
        // Time, and one question of an administrator to a server of old.
        for n in 0..1000 {
            let at = self.below(SPAN);
            self.flow(at, ([10, 1, 0, (n % 200) as u8], [192, 0, 2, 123]), (17, 123), ((1, 48), (1, 48)));
            self.with_text(&[(field::NTP_MODE, "client"), (field::NTP_MODE, "server")]);
        }
        self.monlist(DAY, ([10, 1, 0, 1], [192, 0, 2, 123]), (1, 60));
        // A page that many read at once, a probe of health each minute, a crawler.
        for n in 0..1500 {
            let at = 2 * DAY + self.below(5 * MINUTE);
            self.http(at, [10, 1, (n % 2) as u8, (n % 240) as u8], "GET", "www.example.org", "/news", 300);
        }
        for n in 0..600 {
            self.http(DAY + n * MINUTE, [10, 1, 0, 20], "GET", "api.example.org", "/health", 90);
            let uri = format!("/page/{n}?from=crawler");
            self.http(DAY + n, [10, 1, 0, 21], "GET", "www.example.org", &uri, 120);
        }
    }

    fn monlist(&mut self, at: u64, ends: (Ip, Ip), (packets, bytes): (u64, u64)) {
        let flow = self.flow(at, ends, (17, 123), ((1, 60), (packets, bytes)));
        flow.attributes.push(field::NTP_MONLIST, AttributeValue::Integer(1));
    }

    fn http(&mut self, at: u64, src: Ip, method: &str, host: &str, uri: &str, bytes: u64) {
        self.flow(at, (src, [192, 0, 2, 80]), (6, 80), ((6, bytes), (6, 4000)));
        self.with_text(&[(field::HTTP_METHOD, method), (field::HTTP_HOST, host), (field::HTTP_URI, uri)]);
    }

    /// A probe every five to fifteen minutes for five days, each at another port.
    fn slow_scanner(&mut self) {
        let mut at = 60;
        for n in 0..720 {
            self.flow(at.min(SPAN - 1), (SLOW, VICTIM), (6, 1000 + n), ((1, 0), (0, 0)));
            at += 5 * MINUTE + self.below(10 * MINUTE);
        }
    }

    /// Fast over all ports of one host, fast over a network, and again and again over the same ports.
    fn loud_scanners(&mut self) {
        for n in 0..4000 {
            self.flow(DAY + n / 10, ([198, 51, 100, 1], VICTIM), (6, n as u16 + 1), ((1, 0), (1, 0)));
        }
        for n in 0..1500u64 {
            let host = [192, 0, 3 + (n / 250) as u8, (n % 250) as u8];
            self.flow(2 * DAY + n / 20, ([198, 51, 100, 2], host), (6, 22), ((1, 0), (0, 0)));
        }
        for at in (0..SPAN).step_by(3600) {
            for n in 0..40 {
                self.flow(at + n, ([198, 51, 100, 3], VICTIM), (17, 100 + n as u16), ((1, 8), (0, 0)));
            }
        }
    }
}

const SLOW: Ip = [203, 0, 113, 66];
const VICTIM: Ip = [192, 0, 2, 77];

fn stored(make: impl FnOnce(&mut Traffic)) -> Fixture {
    let mut fixture = fixture(QueryLimits { hunt_deadline_ms: 600_000, ..QueryLimits::default() });
    // Evidence for five days that end at the collector's now.
    let behind = SPAN + 100;
    let evidence: Vec<_> = (0..=SPAN / 500).map(|n| fix(n * 500, behind)).collect();
    for evidence in evidence.chunks(100) {
        fixture.writer.commit(&[fixes(epoch(5), evidence.to_vec())]).expect("fixes");
    }
    let mut traffic = Traffic { random: SimRandom::new(11), flows: Vec::new() };
    make(&mut traffic);
    let all = traffic.flows.len() as u64;
    for (seq, flows) in (1..).zip(traffic.flows.chunks(1000)) {
        fixture.add(epoch(5), seq, flows.to_vec());
    }
    assert_eq!(fixture.store.status().expect("status").flows, all, "all are indexed");
    fixture
}

async fn hunt(fixture: &Fixture, name: &str, parameters: &[(&str, u64)]) -> Vec<HuntFinding> {
    let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    let hunt = Hunt { name: name.to_owned(), parameters, limit: 1000, ..Hunt::default() };
    let answer = fixture.queries.hunt(hunt).await.expect(name);
    assert_eq!((answer.others, answer.partial), (0, None));
    answer.findings
}

fn evidence<'f>(finding: &'f HuntFinding, name: &str) -> &'f Evidence {
    &finding.evidence.iter().find(|(known, _)| *known == name).expect(name).1
}

fn text(ip: Ip) -> Evidence {
    Evidence::Text(IpAddr::from(ip).to_string())
}

/// More busy sources than are looked at closely miss some host in every hour, and each looks worse than a small patient
/// scanner until their answered flows are seen.
#[tokio::test(flavor = "multi_thread")]
async fn busy_sources_that_miss_many_hosts_do_not_hide_a_patient_scanner() {
    let fixture = stored(|traffic| {
        for source in 0..520u64 {
            let src = [10, 2, (source / 250) as u8, (source % 250) as u8];
            for hour in 0..40u64 {
                let at = hour * 3 * 3600 + traffic.below(3600);
                traffic.flow(at, (src, [192, 0, 2, hour as u8]), (6, 443), ((1, 0), (0, 0)));
                traffic.flow(at, (src, [192, 0, 2, hour as u8 + 100]), (6, 443), ((5, 600), (6, 4000)));
            }
        }
        for port in 0..25u64 {
            traffic.flow(port * 4 * 3600, (SLOW, VICTIM), (6, 1000 + port as u16), ((1, 0), (0, 0)));
        }
    });
    let hunt = Hunt { name: "scan".to_owned(), ..Hunt::default() };
    let answer = fixture.queries.hunt(hunt).await.expect("an answer");
    assert!(answer.partial.is_some_and(|why| why.contains("520 suspects of hosts are more than 500")));
    let [finding] = &answer.findings[..] else { panic!("{:#?}", answer.findings) };
    assert_eq!((finding.what, evidence(finding, "ip.src")), ("ports", &text(SLOW)));
    assert_eq!(evidence(finding, "ports"), &Evidence::Number(25));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slow_scanner_ranks_before_louder_ones() {
    let mut fixture = stored(|traffic| {
        traffic.everyday();
        traffic.loud_scanners();
        traffic.slow_scanner();
    });
    let mut before = Vec::new();
    for sealed in [false, true] {
        if sealed {
            seal(&mut fixture.writer);
        }
        let findings = hunt(&fixture, "scan", &[]).await;
        let first = &findings[0];
        assert_eq!(first.what, "ports", "{findings:#?}");
        assert_eq!((evidence(first, "ip.src"), evidence(first, "ip.dst")), (&text(SLOW), &text(VICTIM)));
        assert_eq!(evidence(first, "ports"), &Evidence::Number(720));
        assert_eq!(evidence(first, "probes"), &Evidence::Number(720));
        let Evidence::Number(hours) = evidence(first, "hours") else { panic!("{first:?}") };
        assert!((100..=120).contains(hours), "{hours}");
        // The loud ones are there, far behind; who tries the same again and again is not.
        let of = |ip: Ip| findings.iter().filter(|f| evidence(f, "ip.src") == &text(ip)).collect::<Vec<_>>();
        for loud in [[198, 51, 100, 1], [198, 51, 100, 2]] {
            assert!(of(loud).iter().any(|found| found.score * 3.0 < first.score), "{findings:#?}");
        }
        assert!(of([198, 51, 100, 3]).is_empty() && findings.len() == 3, "{findings:#?}");
        // The expression finds what it is about.
        let behind =
            fixture.queries.count(&first.expression, TimeRange::default(), &["port.dst".into()]).await;
        let behind = behind.expect(&first.expression);
        assert_eq!((behind.sums.flows, behind.distinct[0].count), (720, 720));
        if sealed {
            assert_eq!(findings, before, "from blocks as from single records");
        }
        before = findings;
    }
    // By ports alone a loud one would be first.
    let by_ports = crate::query::Top {
        fields: vec!["ip.src".into(), "ip.dst".into()],
        distinct: vec!["port.dst".into()],
        by: crate::query::Measure::Distinct,
        ..Default::default()
    };
    let top = fixture.queries.top(by_ports).await.expect("top");
    assert_ne!(top.rows[0].values[0], IpAddr::from(SLOW).to_string());
    let patient = hunt(&fixture, "scan", &[("hours", 24)]).await;
    assert_eq!(patient.len(), 1);
    let again = hunt(&fixture, "scan", &[("fresh", 0)]).await;
    assert!(again.iter().any(|f| evidence(f, "ip.src") == &text([198, 51, 100, 3])));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_amplified_at_whom_ranks_before_who_asks() {
    let (victim, server, seeker) = ([203, 0, 113, 7], [192, 0, 2, 124], [198, 51, 100, 9]);
    let mut fixture = stored(|traffic| {
        traffic.everyday();
        for n in 0..300u64 {
            let host = [192, 0, 3, (n % 250) as u8];
            traffic.monlist(DAY + n, (seeker, host), (0, 0));
        }
        // A small one that was first found by the seeker.
        traffic.monlist(DAY + 400, (seeker, server), (2, 900));
        for n in 0..200 {
            traffic.monlist(2 * DAY + n, (victim, server), (100, 44_000));
        }
        // The same seen from the victim's side: only answers come by.
        let flow = traffic.flow(3 * DAY, (server, [203, 0, 113, 8]), (17, 80), ((5000, 2_200_000), (0, 0)));
        flow.key.orig_port = 123;
        flow.attributes.push(field::NTP_AMPLIFICATION, AttributeValue::Integer(1));
    });
    for sealed in [false, true] {
        if sealed {
            seal(&mut fixture.writer);
        }
        let findings = hunt(&fixture, "ntp-monlist", &[]).await;
        let whats: Vec<_> = findings.iter().map(|found| found.what).collect();
        assert_eq!(whats, ["amplification", "amplification", "amplification", "search"], "{findings:#?}");
        let pairs: Vec<_> =
            findings.iter().map(|found| (evidence(found, "victim"), evidence(found, "server"))).collect();
        assert_eq!(
            pairs[0],
            (&text([203, 0, 113, 8]), &text(server)),
            "without a request the ratio is endless"
        );
        assert_eq!(pairs[1], (&text(victim), &text(server)));
        assert_eq!(pairs[3], (&text(seeker), &Evidence::None));
        let first = &findings[1];
        assert_eq!(evidence(first, "answers"), &Evidence::Number(20_000));
        let behind = fixture.queries.count(&first.expression, TimeRange::default(), &[]).await;
        assert_eq!(behind.expect(&first.expression).sums.flows, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_posts_the_same_over_and_over_ranks_first() {
    let mut fixture = stored(|traffic| {
        traffic.everyday();
        for n in 0..600 {
            let uri = format!("/xmlrpc.php?try={n}");
            traffic.http(3 * DAY + n, [203, 0, 113, 99], "POST", "Blog.example.org", &uri, 700 + n % 3);
        }
        // A script that fetches one thing in a hurry: not as bad.
        for n in 0..400 {
            let size = 100 + 90 * (n % 7);
            traffic.http(3 * DAY + n, [10, 1, 0, 30], "GET", "www.example.org", "/data*.csv", size);
        }
    });
    for sealed in [false, true] {
        if sealed {
            seal(&mut fixture.writer);
        }
        let findings = hunt(&fixture, "http-flood", &[]).await;
        assert_eq!(findings.len(), 2, "{findings:#?}");
        let first = &findings[0];
        assert_eq!(evidence(first, "path"), &Evidence::Text("/xmlrpc.php".into()));
        assert_eq!(evidence(first, "ip.src"), &text([203, 0, 113, 99]));
        assert_eq!(evidence(first, "peak_a_minute"), &Evidence::Number(60));
        for (finding, flows) in findings.iter().zip([600, 400]) {
            let behind = fixture.queries.count(&finding.expression, TimeRange::default(), &[]).await;
            assert_eq!(behind.expect(&finding.expression).sums.flows, flows, "{}", finding.expression);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everyday_traffic_has_no_suspects() {
    let fixture = stored(Traffic::everyday);
    for kind in HUNTS {
        assert_eq!(hunt(&fixture, kind.name, &[]).await, [], "{}", kind.name);
    }
    // It is the parameters that make it so.
    assert!(!hunt(&fixture, "scan", &[("targets", 3), ("fresh", 0)]).await.is_empty());
    assert!(!hunt(&fixture, "http-flood", &[("rate", 1)]).await.is_empty());
    assert!(!hunt(&fixture, "ntp-monlist", &[("ratio", 1)]).await.is_empty());
}

#[tokio::test]
async fn what_cannot_be_hunted_is_said() {
    let fixture = fixture(QueryLimits::default());
    let hunt = |name: &str, parameters: &[(&str, u64)], expression: &str| Hunt {
        name: name.to_owned(),
        parameters: parameters.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
        expression: expression.to_owned(),
        ..Hunt::default()
    };
    for (hunt, problem) in [
        (hunt("dragons", &[], ""), "name: there is no such hunt; there are scan, ntp-monlist, http-flood"),
        (hunt("scan", &[("luck", 1)], ""), "parameters: scan has no \"luck\"; it has targets, packets"),
        (hunt("scan", &[("hours", 0)], ""), "parameters: hours is 0, not between 1 and 100000"),
        (hunt("scan", &[], "port =="), "column 8"),
    ] {
        let error = fixture.queries.hunt(hunt).await.expect_err(problem).to_string();
        assert!(error.starts_with(problem), "{error}");
    }
    let longest = "(".repeat(60) + "port == 1" + &")".repeat(60);
    assert!(fixture.queries.hunt(hunt("http-flood", &[], &longest)).await.is_ok());
}

#[derive(Debug, Default)]
struct Times(u64);

impl Record for Times {
    fn seen(&self) -> u64 {
        self.0
    }
    fn merge(&mut self, other: Times) {
        self.0 += other.0;
    }
}

impl Key for u64 {}

#[test]
fn what_is_seen_often_outlasts_any_number_of_others() {
    let mut suspects: Suspects<u64, Times> = Suspects::default();
    let many = 4 * SUSPECTS_MAX as u64;
    for n in 0..many {
        suspects.of(n + 1).0 += 1;
        if n.is_multiple_of(many / 720) {
            suspects.of(0).0 += 1;
        }
    }
    assert!(suspects.by_key.len() <= SUSPECTS_MAX && suspects.missed > 0);
    let left = suspects.by_key.get(&0).map_or(0, Times::seen);
    assert!(left + suspects.missed >= 720 && left <= 721, "{left} {}", suspects.missed);
    assert!(suspects.partial("keys", suspects.missed).is_some());
    assert!(suspects.partial("keys", suspects.missed + 1).is_none());
}

#[test]
fn the_manual_has_every_hunt_and_parameter() {
    let manual = include_str!("../../../../docs/hunts.md");
    for kind in HUNTS {
        assert!(manual.contains(&format!("## `{}`", kind.name)), "{}", kind.name);
        for parameter in kind.parameters {
            let row = format!("| `{}` | {} | {} |", parameter.name, parameter.default, parameter.doc);
            assert!(manual.contains(&row), "docs/hunts.md lacks: {row}");
        }
    }
}

/// A version before took in counters of any size: every question is answered, and what is too large says the largest.
#[tokio::test(flavor = "multi_thread")]
async fn stored_counters_of_any_size_are_no_fault() {
    let mut fixture = stored(|traffic| {
        let huge = |flow: &mut FlowRecord, packets: u64| {
            for way in [&mut flow.orig, &mut flow.resp] {
                way.bytes = u64::MAX;
                (way.ip_bytes, way.data_bytes) = (u64::MAX - 1, if packets == 1 { 0 } else { u64::MAX });
            }
            (flow.sliced_packets, flow.sliced_bytes) = (u64::MAX, u64::MAX);
        };
        for n in 0..300u16 {
            huge(traffic.flow(DAY + u64::from(n), (SLOW, VICTIM), (6, 1_000 + n), ((1, 0), (0, 0))), 1);
            traffic.http(DAY + u64::from(n / 10), SLOW, "GET", "www.example.org", "/", 90);
            huge(traffic.flows.last_mut().expect("a flow"), 6);
            traffic.monlist(DAY + u64::from(n), (SLOW, VICTIM), (1, 60));
            huge(traffic.flows.last_mut().expect("a flow"), 6);
        }
    });
    for sealed in [false, true] {
        if sealed {
            seal(&mut fixture.writer);
        }
        for kind in HUNTS {
            let hunt = Hunt { name: kind.name.to_owned(), limit: 1000, ..Hunt::default() };
            fixture.queries.hunt(hunt).await.expect(kind.name);
        }
        let count = fixture.queries.count("", TimeRange::default(), &[]).await.expect("a count");
        assert_eq!((count.sums.flows, count.sums.bytes), (900, u64::MAX), "sealed: {sealed}");
        for by in [crate::query::Measure::Packets, crate::query::Measure::Bytes] {
            let fields = vec!["ip.src".to_owned()];
            let top = crate::query::Top { fields, by, ..Default::default() };
            assert_eq!(fixture.queries.top(top).await.expect("a top").rows.len(), 1);
        }
        let histogram = crate::query::Histogram::default();
        assert!(!fixture.queries.histogram(histogram).await.expect("a histogram").buckets.is_empty());
        for expression in ["bytes >= 18446744073709551615", "databytes > 1", "packets.src < 9"] {
            fixture.queries.count(expression, TimeRange::default(), &[]).await.expect(expression);
        }
    }
}
