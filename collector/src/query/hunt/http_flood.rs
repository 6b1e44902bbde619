//! Floods of requests: one or a few sources ask a host for the same over and over (`POST /xmlrpc.php`).

use std::collections::HashMap;
use std::net::IpAddr;

use gnomon_clock::UtcNs;

use super::rows::{Columns, Row};
use super::{
    Ask, Evidence, Expression, Found, HuntFinding, HuntKind, Key, Record, Suspects, Term, TextTerm, ip_term,
    is_one_of, parameter, rounded, text_term,
};
use crate::query::control::Control;
use crate::query::execute::QueryError;
use crate::store::block::bloom::Mixing;

pub(super) const KIND: HuntKind = HuntKind {
    name: "http-flood",
    doc: "One or a few sources that ask a web server for the same over and over.",
    parameters: &[
        parameter("requests", 100, (2, 1_000_000_000), "Flows to one host, path and method, at least."),
        parameter("rate", 30, (1, 1_000_000), "Of them in their busiest minute, at least."),
        parameter("sources", 5, (1, 1000), "Sources that are a few."),
        parameter("share", 80, (1, 100), "Percent of the flows that come from those few, at least."),
    ],
    run,
};

const MINUTE_NS: i64 = 60_000_000_000;
/// Targets that are looked at closely.
const CANDIDATES_MAX: usize = 200;
/// Sources of a target that are told apart: where there are more, no few of them make a flood.
const SOURCES_MAX: usize = 20_000;
/// Minutes of a target that are told apart: ten weeks.
const MINUTES_MAX: usize = 100_000;
/// Requests whose sizes differ by less are alike.
const SIZE_STEP: u64 = 64;
const SIZES_MAX: usize = 10_000;
/// Bytes of a path that tell targets apart.
const PATH_BYTES_MAX: usize = 512;

const SRC: usize = 0;
const HOST: usize = 1;
const URI: usize = 2;
const METHOD: usize = 3;
const SIZE: usize = 4;

/// Host, path without what follows `?`, method.
type Target = (Box<str>, Box<str>, Box<str>);

impl Key for Target {
    fn text_bytes(&self) -> usize {
        self.0.len() + self.1.len() + self.2.len()
    }
}

#[derive(Debug, Default)]
struct Requests(u64);

impl Record for Requests {
    fn seen(&self) -> u64 {
        self.0
    }

    fn merge(&mut self, other: Requests) {
        self.0 += other.0;
    }
}

/// Everything about a target.
#[derive(Debug, Default)]
struct Look {
    flows: u64,
    sources: HashMap<IpAddr, u64, Mixing>,
    minutes: HashMap<i64, u64, Mixing>,
    sizes: HashMap<u64, u64, Mixing>,
    bytes: u64,
    first: Option<UtcNs>,
    last: Option<UtcNs>,
}

fn add<K: std::hash::Hash + Eq>(to: &mut HashMap<K, u64, Mixing>, key: K, count: u64, max: usize) {
    if let Some(known) = to.get_mut(&key) {
        *known = known.saturating_add(count);
    } else if to.len() < max {
        to.insert(key, count);
    }
}

impl Look {
    fn add(&mut self, row: &Row<'_>) {
        self.flows += 1;
        if let Some(src) = row.ip(SRC) {
            add(&mut self.sources, src, 1, SOURCES_MAX);
        }
        if let Some(at) = row.at {
            add(&mut self.minutes, at.unix_ns().div_euclid(MINUTE_NS), 1, MINUTES_MAX);
        }
        add(&mut self.sizes, row.number(SIZE) / SIZE_STEP, 1, SIZES_MAX);
        self.bytes = self.bytes.saturating_add(row.number(SIZE));
        self.first = [self.first, row.at].into_iter().flatten().min();
        self.last = self.last.max(row.at);
    }

    fn merge(&mut self, other: Look) {
        self.flows += other.flows;
        other.sources.into_iter().for_each(|(src, count)| add(&mut self.sources, src, count, SOURCES_MAX));
        other.minutes.into_iter().for_each(|(at, count)| add(&mut self.minutes, at, count, MINUTES_MAX));
        other.sizes.into_iter().for_each(|(size, count)| add(&mut self.sizes, size, count, SIZES_MAX));
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.first = [self.first, other.first].into_iter().flatten().min();
        self.last = self.last.max(other.last);
    }
}

/// The targets of a record: a connection may ask for several things of several hosts, and which went with which is not
/// kept. Then every pair of them counts.
fn targets(row: &Row<'_>, each: &mut dyn FnMut(Target)) {
    let path = |uri: &str| {
        let path = uri.split(['?', '#', ';']).next().unwrap_or_default();
        Box::<str>::from(&path[..path.floor_char_boundary(PATH_BYTES_MAX)])
    };
    let mut paths: Vec<Box<str>> = row.all(URI).filter_map(text).map(path).collect();
    paths.sort_unstable();
    paths.dedup();
    let mut hosts: Vec<Box<str>> =
        row.all(HOST).filter_map(text).map(|host| host.to_lowercase().into()).collect();
    if hosts.is_empty() {
        hosts.push(Box::default());
    }
    for method in row.all(METHOD).filter_map(text) {
        for host in &hosts {
            for path in &paths {
                each((host.clone(), path.clone(), method.into()));
            }
        }
    }
}

fn text<'v>(value: &'v gnomon_flow::Value<'static>) -> Option<&'v str> {
    if let gnomon_flow::Value::Text(text) = value { Some(text) } else { None }
}

fn run(ask: &Ask, control: &Control) -> Result<Found, QueryError> {
    let fields = Columns::of(&["ip.src", "http.host", "http.uri", "http.method", "databytes.src"]);
    const REQUESTS: &str = "http.uri == EXISTS! && http.method == EXISTS!";
    let (parts, mut partial) =
        ask.selection(REQUESTS)?.walk(control, &|suspects: &mut Suspects<Target, Requests>, part| {
            fields.each(&part, &mut |row| targets(row, &mut |target| suspects.of(target).0 += 1))?;
            suspects.bound(&control.memory);
            Ok(())
        })?;
    let suspects = Suspects::all(parts, &control.memory);
    partial.extend(suspects.partial("hosts and paths", ask.number("requests")));
    let mut ranked: Vec<(u64, Target)> = suspects
        .by_key
        .into_iter()
        .filter(|(_, requests)| requests.0 >= ask.number("requests"))
        .map(|(target, requests)| (requests.0, target))
        .collect();
    ranked.sort_unstable_by(|a, b| b.cmp(a));
    if ranked.len() > CANDIDATES_MAX {
        partial.push(format!(
            "{} targets are more than {CANDIDATES_MAX}: those with the fewest requests were not looked at; ask for more requests",
            ranked.len()
        ));
        ranked.truncate(CANDIDATES_MAX);
    }
    if ranked.is_empty() {
        return Ok(Found { findings: Vec::new(), partial });
    }
    let places: HashMap<Target, usize, Mixing> =
        ranked.into_iter().enumerate().map(|(place, (_, target))| (target, place)).collect();
    let (parts, reasons) =
        ask.selection(REQUESTS)?.walk(control, &|looks: &mut HashMap<usize, Look, Mixing>, part| {
            fields.each(&part, &mut |row| {
                targets(row, &mut |target| {
                    if let Some(place) = places.get(&target) {
                        looks.entry(*place).or_default().add(row);
                    }
                });
            })
        })?;
    for reason in reasons {
        if !partial.contains(&reason) {
            partial.push(reason);
        }
    }
    let mut looks: HashMap<usize, Look, Mixing> = HashMap::default();
    for (place, look) in parts.into_iter().flatten() {
        looks.entry(place).or_default().merge(look);
    }
    let found = |(target, place): (Target, usize)| finding(ask, &target, looks.get(&place)?);
    Ok(Found { findings: places.into_iter().filter_map(found).collect(), partial })
}

fn finding(ask: &Ask, (host, path, method): &Target, look: &Look) -> Option<HuntFinding> {
    let mut sources: Vec<(u64, IpAddr)> = look.sources.iter().map(|(src, count)| (*count, *src)).collect();
    sources.sort_unstable_by(|a, b| b.cmp(a));
    let few = &sources[..sources.len().min(ask.number("sources") as usize)];
    let share = few.iter().map(|(count, _)| count).sum::<u64>() as f64 / look.flows.max(1) as f64;
    let peak = look.minutes.values().copied().max().unwrap_or(0);
    let enough = look.flows >= ask.number("requests")
        && peak >= ask.number("rate")
        && share * 100.0 >= ask.number("share") as f64;
    if !enough {
        return None;
    }
    let alike = look.sizes.values().copied().max().unwrap_or(0) as f64 / look.flows.max(1) as f64;
    // Who sends makes a server work more than who reads.
    let sends = if matches!(&**method, "POST" | "PUT" | "PATCH" | "DELETE") { 2.0 } else { 1.0 };
    let score = (1.0 + look.flows as f64).log2() * (1.0 + peak as f64).log2() * share * alike * sends;
    let mut tests = vec![is_one_of("ip.src", few.iter().map(|(_, src)| ip_term(*src)).collect())];
    if !host.is_empty() {
        tests.push(is_one_of("http.host", vec![text_term(host)]));
    }
    if !path.is_empty() {
        let behind = Term::Text(TextTerm::Wildcard(vec![path.to_string(), String::new()]));
        tests.push(is_one_of("http.uri", vec![behind]));
    }
    tests.push(is_one_of("http.method", vec![text_term(method)]));
    let named: Vec<String> = few.iter().map(|(_, src)| src.to_string()).collect();
    Some(HuntFinding {
        score: rounded(score),
        what: "flood",
        evidence: vec![
            ("http.host", Evidence::Text(host.to_string())),
            ("path", Evidence::Text(path.to_string())),
            ("http.method", Evidence::Text(method.to_string())),
            ("flows", Evidence::Number(look.flows)),
            ("peak_a_minute", Evidence::Number(peak)),
            ("sources", Evidence::Number(look.sources.len() as u64)),
            ("ip.src", Evidence::Text(named.join(","))),
            ("share", Evidence::Ratio(rounded(share))),
            ("alike", Evidence::Ratio(rounded(alike))),
            ("request_bytes", Evidence::Number(look.bytes)),
            ("first", look.first.into()),
            ("last", look.last.into()),
        ],
        expression: Expression::And(tests).to_string(),
    })
}
