//! NTP servers that are made to flood somebody: a small request of mode 7 (or 6) in a victim's name, a large answer to it.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use gnomon_clock::UtcNs;

use super::rows::{Columns, Row};
use super::{
    Ask, Evidence, Expression, Found, HuntFinding, HuntKind, Key, Record, Suspects, ip_term, is_one_of,
    parameter, parse, rounded,
};
use crate::query::control::Control;
use crate::query::execute::QueryError;
use crate::store::block::bloom::Mixing;

impl Key for (IpAddr, IpAddr) {}

pub(super) const KIND: HuntKind = HuntKind {
    name: "ntp-monlist",
    doc: "NTP servers that answer monlist and other long questions, at whom they are aimed, and who looks for them.",
    parameters: &[
        parameter("ratio", 5, (1, 100_000), "An answer so many times as large as its request amplifies."),
        parameter("servers", 10, (2, 1_000_000), "Who asks so many servers looks for some."),
    ],
    run,
};

const PORT: u64 = 123;
const REQUESTS: &str = "ntp.monlist == 1 || ntp.amplification == 1";
/// Servers that are remembered of who looks for some.
const SERVERS_MAX: usize = 100_000;

const SRC: usize = 0;
const DST: usize = 1;
const SRC_PORT: usize = 2;
const DST_PORT: usize = 3;

/// What went between a victim and a server.
#[derive(Debug, Default)]
struct Pair {
    flows: u64,
    /// Packets and bytes.
    requests: (u64, u64),
    answers: (u64, u64),
    first: Option<UtcNs>,
    last: Option<UtcNs>,
}

impl Record for Pair {
    fn seen(&self) -> u64 {
        self.flows
    }

    fn merge(&mut self, other: Pair) {
        self.flows += other.flows;
        let add = |to: &mut (u64, u64), more: (u64, u64)| {
            *to = (to.0.saturating_add(more.0), to.1.saturating_add(more.1));
        };
        add(&mut self.requests, other.requests);
        add(&mut self.answers, other.answers);
        self.first = [self.first, other.first].into_iter().flatten().min();
        self.last = self.last.max(other.last);
    }
}

impl Pair {
    fn of(row: &Row<'_>) -> Option<((IpAddr, IpAddr), Pair)> {
        let (src, dst) = (row.ip(SRC)?, row.ip(DST)?);
        let (there, back) = ((row.number(4), row.number(5)), (row.number(6), row.number(7)));
        // Where only answers are seen, the server seems to have begun.
        let backwards = row.number(SRC_PORT) == PORT && row.number(DST_PORT) != PORT;
        let ((victim, server), (requests, answers)) =
            if backwards { ((dst, src), (back, there)) } else { ((src, dst), (there, back)) };
        Some(((victim, server), Pair { flows: 1, requests, answers, first: row.at, last: row.at }))
    }

    /// Bytes of answers for a byte of requests; the answers themselves where no request was seen.
    fn ratio(&self) -> f64 {
        self.answers.1 as f64 / self.requests.1.max(1) as f64
    }
}

fn run(ask: &Ask, control: &Control) -> Result<Found, QueryError> {
    let fields = Columns::of(&[
        "ip.src",
        "ip.dst",
        "port.src",
        "port.dst",
        "packets.src",
        "bytes.src",
        "packets.dst",
        "bytes.dst",
    ]);
    let (parts, mut partial) =
        ask.selection(REQUESTS)?.walk(control, &|pairs: &mut Suspects<(IpAddr, IpAddr), Pair>, part| {
            fields.each(&part, &mut |row| {
                if let Some((key, pair)) = Pair::of(row) {
                    pairs.of(key).merge(pair);
                }
            })?;
            pairs.bound(&control.memory);
            Ok(())
        })?;
    let pairs = Suspects::all(parts, &control.memory);
    partial.extend(pairs.partial("pairs of addresses", 1));
    let mut findings = Vec::new();
    let mut seekers: HashMap<IpAddr, (HashSet<IpAddr, Mixing>, Pair), Mixing> = HashMap::default();
    for ((victim, server), pair) in pairs.by_key {
        if pair.answers.1 > 0 && pair.ratio() >= ask.number("ratio") as f64 {
            findings.push(amplified(victim, server, &pair));
            continue;
        }
        let (servers, all) = seekers.entry(victim).or_default();
        if servers.len() < SERVERS_MAX {
            servers.insert(server);
        }
        all.merge(pair);
    }
    let many =
        |(_, (servers, _)): &(IpAddr, (HashSet<_, _>, Pair))| servers.len() as u64 >= ask.number("servers");
    findings.extend(
        seekers.into_iter().filter(many).map(|(src, (servers, all))| seeker(src, servers.len() as u64, &all)),
    );
    Ok(Found { findings, partial })
}

/// By how much reached the victim, and by how little that took.
fn amplified(victim: IpAddr, server: IpAddr, pair: &Pair) -> HuntFinding {
    let score = (1.0 + pair.answers.1 as f64).log2() * (1.0 + pair.ratio().min(10_000.0)).log2();
    finding("amplification", score, (victim, Some(server)), 1, pair)
}

/// Looking for servers harms nobody yet: below every amplification of more than a few packets.
fn seeker(src: IpAddr, servers: u64, pair: &Pair) -> HuntFinding {
    finding("search", (1.0 + servers as f64).log2(), (src, None), servers, pair)
}

fn finding(
    what: &'static str,
    score: f64,
    (victim, server): (IpAddr, Option<IpAddr>),
    servers: u64,
    pair: &Pair,
) -> HuntFinding {
    let mut tests = vec![is_one_of("ip", vec![ip_term(victim)])];
    tests.extend(server.map(|server| is_one_of("ip", vec![ip_term(server)])));
    tests.extend(parse(REQUESTS).ok());
    HuntFinding {
        score: rounded(score),
        what,
        evidence: vec![
            ("victim", Evidence::Text(victim.to_string())),
            ("server", server.map_or(Evidence::None, |server| Evidence::Text(server.to_string()))),
            ("servers", Evidence::Number(servers)),
            ("flows", Evidence::Number(pair.flows)),
            ("requests", Evidence::Number(pair.requests.0)),
            ("request_bytes", Evidence::Number(pair.requests.1)),
            ("answers", Evidence::Number(pair.answers.0)),
            ("answer_bytes", Evidence::Number(pair.answers.1)),
            ("ratio", Evidence::Ratio(rounded(pair.ratio()))),
            ("first", pair.first.into()),
            ("last", pair.last.into()),
        ],
        expression: Expression::And(tests).to_string(),
    }
}
