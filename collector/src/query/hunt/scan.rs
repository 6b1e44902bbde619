//! Scanners, the slow ones first: who probes many ports of a host, or many hosts, each with next to nothing, over hours.

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::net::IpAddr;

use gnomon_clock::UtcNs;

use super::rows::{Columns, Row};
use super::sieve::Sieve;
use super::{
    Ask, Evidence, Expression, Found, HuntFinding, HuntKind, Record, Suspects, ip_term, is_one_of, parameter,
    parse, rounded,
};
use crate::query::control::Control;
use crate::query::distinct::{Distinct, OF_ROW, hash_of};
use crate::query::execute::QueryError;
use crate::query::memory::Charge;
use crate::store::block::bloom::Mixing;

pub(super) const KIND: HuntKind = HuntKind {
    name: "scan",
    doc: "Who probes many ports of a host, or many hosts; the slow and patient ones first.",
    parameters: &[
        parameter("targets", 20, (2, 1_000_000), "Ports of a host, or hosts, that were probed at least."),
        parameter("packets", 4, (1, 100), "Packets from the originator that a probe has at most."),
        parameter(
            "unanswered",
            70,
            (0, 100),
            "Percent of the source's flows there that are probes, at least.",
        ),
        parameter(
            "fresh",
            20,
            (0, 100),
            "Percent of the probes that go to a target for the first time, at least.",
        ),
        parameter("hours", 1, (1, 100_000), "Different hours with probes, at least."),
    ],
    run,
};

const HOUR_NS: i64 = 3_600_000_000_000;
/// Suspects of each kind that are looked at closely.
const CANDIDATES_MAX: usize = 500;
/// Targets that a suspect has before it is looked at, at most: nearly all have fewer.
const FEW_TARGETS: u64 = 6;
/// Different hours that are kept of a suspect: eleven years.
const HOURS_MAX: usize = 100_000;

/// A source, and the host whose ports it probes; none: it probes hosts.
type Key = (IpAddr, Option<IpAddr>);

impl super::Key for Key {}

/// A first look at a suspect, in few bytes.
#[derive(Debug, Default)]
struct Glance {
    probes: u32,
    /// A bit for each hash of a target: how many are set tells about how many targets there are.
    targets: [u64; 4],
    hours: [u64; 2],
}

impl Record for Glance {
    fn seen(&self) -> u64 {
        u64::from(self.probes)
    }

    fn merge(&mut self, other: Glance) {
        self.probes = self.probes.saturating_add(other.probes);
        self.targets.iter_mut().zip(other.targets).for_each(|(a, b)| *a |= b);
        self.hours.iter_mut().zip(other.hours).for_each(|(a, b)| *a |= b);
    }
}

impl Glance {
    fn add(&mut self, target: u64, hour: i64) {
        self.probes = self.probes.saturating_add(1);
        self.targets[(target >> 62) as usize] |= 1 << (target >> 56 & 63);
        let hour = hour.rem_euclid(128) as usize;
        self.hours[hour / 64] |= 1 << (hour % 64);
    }

    /// Linear counting (Whang et al. 1990); good to about a thousand.
    fn targets(&self) -> f64 {
        let unset: u32 = self.targets.iter().map(|bits| bits.count_zeros()).sum();
        256.0 * (256.0 / f64::from(unset.max(1))).ln()
    }

    fn score(&self) -> f64 {
        let hours: u32 = self.hours.iter().map(|bits| bits.count_ones()).sum();
        score(f64::from(self.probes), self.targets(), f64::from(hours), 1.0)
    }
}

/// Everything about a suspect.
#[derive(Debug, Default)]
struct Look {
    flows: u64,
    probes: u64,
    targets: Distinct,
    hours: HashSet<i64, Mixing>,
    packets: u64,
    bytes: u64,
    first: Option<UtcNs>,
    last: Option<UtcNs>,
}

impl Look {
    fn merge(&mut self, other: Look) {
        self.flows += other.flows;
        self.probes += other.probes;
        self.targets.merge(OF_ROW, other.targets);
        self.hours.extend(other.hours);
        self.packets = self.packets.saturating_add(other.packets);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.first = [self.first, other.first].into_iter().flatten().min();
        self.last = self.last.max(other.last);
    }
}

/// Patience outweighs numbers: many hours and few probes an hour score high, a flood of probes low; probing the same again
/// and again, and mostly talking otherwise, scores low too.
fn score(probes: f64, targets: f64, hours: f64, unanswered: f64) -> f64 {
    let fresh = (targets / probes.max(1.0)).min(1.0);
    let pace = probes / hours.max(1.0);
    unanswered * fresh * (1.0 + targets).log2() * (1.0 + hours).log2() / (2.0 + pace).log2()
}

const SRC: usize = 0;
const DST: usize = 1;
const PORT: usize = 2;
const PROTOCOL: usize = 3;
const PACKETS_SRC: usize = 4;
const PACKETS_DST: usize = 5;
const DATA_BYTES: usize = 6;
const BYTES: usize = 7;

fn columns() -> Columns {
    Columns::of(&[
        "ip.src",
        "ip.dst",
        "port.dst",
        "ip.protocol",
        "packets.src",
        "packets.dst",
        "databytes",
        "bytes",
    ])
}

/// A TCP connection without a byte of data, or an unanswered datagram or echo, of a few packets.
fn is_probe(row: &Row<'_>, packets_max: u64) -> bool {
    let few = (1..=packets_max).contains(&row.number(PACKETS_SRC));
    let nothing = match row.text(PROTOCOL) {
        "tcp" => row.number(DATA_BYTES) == 0,
        "udp" | "icmp" | "icmpv6" => row.number(PACKETS_DST) == 0,
        _ => false,
    };
    few && nothing
}

/// The suspects that a record speaks of, each with the hash of its target there.
fn keys(row: &Row<'_>) -> Option<[Option<(Key, u64)>; 2]> {
    let (src, dst) = (row.ip(SRC)?, row.ip(DST)?);
    let port = row.all(PORT).next().map(|port| {
        let protocol = u64::from(row.text(PROTOCOL) == "udp");
        ((src, Some(dst)), hash_of(port) ^ protocol)
    });
    Some([port, Some(((src, None), Mixing::default().hash_one(dst)))])
}

fn run(ask: &Ask, control: &Control) -> Result<Found, QueryError> {
    let (targets_min, packets_max) = (ask.number("targets"), ask.number("packets"));
    let fields = columns();
    // First a glance at everybody, to know who is worth a close look.
    // What `is_probe` asks, as far as columns can tell without reading a row.
    let probes = format!(
        "packets.src >= 1 && packets.src <= {packets_max} && \
         (packets.dst == 0 && ip.protocol == [udp,icmp,icmpv6] || ip.protocol == tcp && databytes == 0)"
    );
    let glances = ask.selection(&probes)?;
    let few = (targets_min / 3).min(FEW_TARGETS);
    let sieve = Sieve::new(ask.queries.store.status()?.flows, few as u32);
    let mut of_sieve = Charge::default();
    if !of_sieve.resize(&control.memory, sieve.bytes()) {
        control.memory.refuse();
        control.check()?;
    }
    let (parts, mut partial) = glances.walk(control, &|suspects: &mut Suspects<Key, Glance>, part| {
        fields.each(&part, &mut |row| {
            if !is_probe(row, packets_max) {
                return;
            }
            let hour = row.at.map_or(0, |at| at.unix_ns().div_euclid(HOUR_NS));
            for (key, target) in keys(row).into_iter().flatten().flatten() {
                if sieve.lets_through(Mixing::default().hash_one(key), target) {
                    suspects.of(key).add(target, hour);
                }
            }
        })?;
        suspects.bound(&control.memory);
        Ok(())
    })?;
    let suspects = Suspects::all(parts, &control.memory);
    drop((sieve, of_sieve));
    partial.extend(suspects.partial("sources", targets_min));
    let ranked: Vec<(f64, Key)> = suspects
        .by_key
        .iter()
        // The estimate may be off by a tenth, and the first few are not in it.
        .filter(|(_, glance)| glance.targets() + few as f64 >= 0.8 * targets_min.min(1000) as f64)
        .map(|(key, glance)| (glance.score(), *key))
        .collect();
    // Each kind by itself: many a busy source misses some host every hour, and would leave no place for a patient one.
    let (mut of_ports, mut of_hosts): (Vec<_>, Vec<_>) =
        ranked.into_iter().partition(|(_, (_, dst))| dst.is_some());
    for (ranked, what) in [(&mut of_ports, "of ports"), (&mut of_hosts, "of hosts")] {
        ranked.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        if ranked.len() > CANDIDATES_MAX {
            partial.push(format!(
                "{} suspects {what} are more than {CANDIDATES_MAX}: those of the lowest score were not looked at; ask for more targets",
                ranked.len()
            ));
            ranked.truncate(CANDIDATES_MAX);
        }
    }
    let ranked = [of_ports, of_hosts].concat();
    drop(suspects);
    if ranked.is_empty() {
        return Ok(Found { findings: Vec::new(), partial });
    }
    let wanted: HashSet<Key, Mixing> = ranked.into_iter().map(|(_, key)| key).collect();
    let (looks, reasons) = look(ask, control, &fields, &wanted)?;
    for reason in reasons {
        if !partial.contains(&reason) {
            partial.push(reason);
        }
    }
    let mut findings: Vec<HuntFinding> =
        looks.into_iter().filter_map(|(key, look)| finding(ask, key, &look)).collect();
    findings.sort_by(|a, b| a.expression.cmp(&b.expression));
    Ok(Found { findings, partial })
}

type Looks = HashMap<Key, Look, Mixing>;

/// All flows of the suspects, probes or not: a source that mostly talks is none.
fn look(
    ask: &Ask,
    control: &Control,
    fields: &Columns,
    wanted: &HashSet<Key, Mixing>,
) -> Result<(Looks, Vec<String>), QueryError> {
    let packets_max = ask.number("packets");
    let mut sources: Vec<IpAddr> = wanted.iter().map(|(src, _)| *src).collect();
    sources.sort_unstable();
    sources.dedup();
    let theirs = is_one_of("ip.src", sources.into_iter().map(ip_term).collect());
    let (parts, partial) = ask.selection_of(theirs)?.walk(control, &|looks: &mut Looks, part| {
        fields.each(&part, &mut |row| {
            let probe = is_probe(row, packets_max);
            for (key, target) in keys(row).into_iter().flatten().flatten() {
                if !wanted.contains(&key) {
                    continue;
                }
                let look = looks.entry(key).or_default();
                look.flows += 1;
                if !probe {
                    continue;
                }
                look.probes += 1;
                look.targets.add(OF_ROW, target);
                if let Some(at) = row.at.filter(|_| look.hours.len() < HOURS_MAX) {
                    look.hours.insert(at.unix_ns().div_euclid(HOUR_NS));
                }
                look.packets = look.packets.saturating_add(row.number(PACKETS_SRC));
                look.bytes = look.bytes.saturating_add(row.number(BYTES));
                look.first = [look.first, row.at].into_iter().flatten().min();
                look.last = look.last.max(row.at);
            }
        })
    })?;
    let mut all = Looks::default();
    for (key, look) in parts.into_iter().flatten() {
        all.entry(key).or_default().merge(look);
    }
    Ok((all, partial))
}

fn finding(ask: &Ask, (src, dst): Key, look: &Look) -> Option<HuntFinding> {
    let (targets, hours) = (look.targets.count().count, look.hours.len() as u64);
    let unanswered = look.probes as f64 / look.flows.max(1) as f64;
    let fresh = targets as f64 / look.probes.max(1) as f64;
    let enough = targets >= ask.number("targets")
        && fresh * 100.0 >= ask.number("fresh") as f64
        && hours >= ask.number("hours")
        && unanswered * 100.0 >= ask.number("unanswered") as f64;
    if !enough {
        return None;
    }
    let score = score(look.probes as f64, targets as f64, hours as f64, unanswered);
    let mut tests = vec![is_one_of("ip.src", vec![ip_term(src)])];
    tests.extend(dst.map(|dst| is_one_of("ip.dst", vec![ip_term(dst)])));
    tests.extend(parse(&format!("packets.src <= {}", ask.number("packets"))).ok());
    let of_host = |a, b| Evidence::Number(if dst.is_some() { a } else { b });
    Some(HuntFinding {
        score: rounded(score),
        what: if dst.is_some() { "ports" } else { "hosts" },
        evidence: vec![
            ("ip.src", Evidence::Text(src.to_string())),
            ("ip.dst", dst.map_or(Evidence::None, |dst| Evidence::Text(dst.to_string()))),
            ("ports", dst.map_or(Evidence::None, |_| of_host(targets, 0))),
            ("hosts", of_host(1, targets)),
            ("probes", Evidence::Number(look.probes)),
            ("hours", Evidence::Number(hours)),
            ("probes_an_hour", Evidence::Ratio(rounded(look.probes as f64 / hours.max(1) as f64))),
            ("fresh", Evidence::Ratio(rounded(fresh.min(1.0)))),
            ("unanswered", Evidence::Ratio(rounded(unanswered))),
            ("packets", Evidence::Number(look.packets)),
            ("bytes", Evidence::Number(look.bytes)),
            ("first", look.first.into()),
            ("last", look.last.into()),
        ],
        expression: Expression::And(tests).to_string(),
    })
}
