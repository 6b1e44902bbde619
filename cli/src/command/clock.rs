//! `clock`: the state of time.

use std::io::{self, Write};

use anyhow::Result;
use gnomon_clock::UtcNs;
use gnomon_flow::escape::terminal_safe;
use gnomon_flow::timestamp::rfc3339;
use gnomon_proto::v1;

use super::warn_partial;
use crate::arguments::Format;
use crate::client::Client;
use crate::exit::Outcome;
use crate::output::{Cell, Sheet, print_json};

pub(crate) async fn show(client: &mut Client, events: bool, format: Format) -> Result<Outcome> {
    let answer = client.clock(v1::ClockRequest {}).await?.into_inner();
    let partial = warn_partial(answer.partial.as_ref());
    if format == Format::Json {
        print_json(format, &gnomon_answers::clock(&answer), "")?;
        let found = if events { !answer.events.is_empty() } else { !answer.agents.is_empty() };
        return Ok(Outcome::of(found, partial));
    }
    if events {
        let sheet = events_sheet(&answer.events);
        sheet.print(format)?;
        return Ok(Outcome::of(!answer.events.is_empty(), partial));
    }
    if format == Format::Table {
        let mut out = io::stdout().lock();
        for line in collector_words(&answer.collector.clone().unwrap_or_default()) {
            writeln!(out, "{}", terminal_safe(&line))?;
        }
        for held in &answer.held {
            let text = format!("{} flows {}: {}", held.flows, state_word(held.state()), held.reason);
            writeln!(out, "{}", terminal_safe(&text))?;
        }
        writeln!(out)?;
        drop(out);
        agents_sheet(&answer.agents).print(format)?;
    } else {
        all_sheet(&answer).print(format)?;
    }
    Ok(Outcome::of(!answer.agents.is_empty(), partial))
}

fn seconds(ns: i64) -> String {
    match ns.unsigned_abs() {
        0..1_000_000_000 => format!("{:+.3} ms", ns as f64 / 1e6),
        _ => format!("{:+.3} s", ns as f64 / 1e9),
    }
}

fn bound(ns: u64) -> String {
    seconds(i64::try_from(ns).unwrap_or(i64::MAX)).replace('+', "±")
}

fn time(unix_ns: i64) -> String {
    rfc3339(UtcNs::from_unix_ns(unix_ns))
}

fn state_word(state: v1::TimeState) -> &'static str {
    match state {
        v1::TimeState::Quarantined => "quarantined",
        _ => "pending",
    }
}

fn collector_words(clock: &v1::CollectorClock) -> Vec<String> {
    let mut lines = vec![match clock.reason.as_str() {
        "" => format!(
            "collector: proven by {} within {}; policy {}",
            clock.source,
            bound(clock.now_err_ns),
            clock.policy
        ),
        reason => format!("collector: unproven: {reason}; policy {}", clock.policy),
    }];
    lines.push(format!(
        "now: {}; where sources disagree: {}",
        time(clock.now_unix_ns),
        match clock.authority.as_str() {
            "collector" => "the collector's word stands",
            "agents" => "the word of most agents stands",
            _ => "nobody's word stands, and the error spans all of them",
        }
    ));
    if let (Some(by_ns), Some(at)) = (clock.last_correction_ns, clock.last_correction_unix_ns) {
        lines.push(format!("its timeline was last corrected by {} at {}", seconds(by_ns), time(at)));
    }
    if !clock.deletion_by_age.is_empty() {
        lines.push(clock.deletion_by_age.clone());
    }
    lines
}

fn agents_sheet(agents: &[v1::AgentClock]) -> Sheet {
    let columns =
        ["node", "state", "offset", "error", "source", "steps", "last_step", "epoch", "connected", "note"];
    let mut sheet = Sheet::new(&columns);
    for agent in agents {
        let mut notes = Vec::new();
        if agent.overruled > 0 {
            notes.push(format!("{} fixes of its own contradict", agent.overruled));
        }
        if agent.disruptions > 0 {
            notes.push(format!("{} breaks, last: {}", agent.disruptions, agent.last_disruption));
        }
        if !agent.note.is_empty() {
            notes.push(agent.note.clone());
        }
        let last_step = agent.last_step_ns.map(|by_ns| match agent.last_step_unix_ns {
            Some(at) => format!("{} at {}", seconds(by_ns), time(at)),
            None => seconds(by_ns),
        });
        sheet.rows.push(vec![
            agent.name.as_str().into(),
            agent.state.as_str().into(),
            agent.offset_ns.map(seconds).into(),
            agent.err_ns.map(bound).into(),
            agent.source.as_str().into(),
            agent.steps.into(),
            last_step.into(),
            agent.epoch.as_str().into(),
            agent.connected.into(),
            notes.join("; ").into(),
        ]);
    }
    sheet
}

fn events_sheet(events: &[v1::ClockEvent]) -> Sheet {
    let mut sheet = Sheet::new(&["time", "who", "kind", "by_ns", "text"]);
    for event in events {
        let who = if event.who.is_empty() { "collector" } else { event.who.as_str() };
        sheet.rows.push(vec![
            time(event.unix_ns).into(),
            who.into(),
            event.kind.as_str().into(),
            event.by_ns.into(),
            event.text.as_str().into(),
        ]);
    }
    sheet
}

/// For programs: a row for the collector, one an agent, one a reason to wait, with numbers in nanoseconds.
fn all_sheet(answer: &v1::ClockResponse) -> Sheet {
    let columns = [
        "what",
        "name",
        "state",
        "reason",
        "offset_ns",
        "err_ns",
        "source",
        "steps",
        "last_step_ns",
        "last_step",
        "epoch",
        "disruptions",
        "overruled",
        "flows",
        "authority",
        "policy",
        "deletion_by_age",
    ];
    let mut sheet = Sheet::new(&columns);
    let mut add = |pairs: Vec<(&str, Cell)>| {
        let of = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone());
        sheet
            .rows
            .push(columns.iter().map(|name| of(name).unwrap_or_else(|| None::<String>.into())).collect());
    };
    if let Some(clock) = &answer.collector {
        add(vec![
            ("what", "collector".into()),
            ("state", clock.state.as_str().into()),
            ("reason", clock.reason.as_str().into()),
            ("err_ns", clock.now_err_ns.into()),
            ("source", clock.source.as_str().into()),
            ("steps", clock.corrections.into()),
            ("last_step_ns", clock.last_correction_ns.into()),
            ("last_step", clock.last_correction_unix_ns.map(time).into()),
            ("authority", clock.authority.as_str().into()),
            ("policy", clock.policy.as_str().into()),
            ("deletion_by_age", clock.deletion_by_age.as_str().into()),
        ]);
    }
    for agent in &answer.agents {
        add(vec![
            ("what", "agent".into()),
            ("name", agent.name.as_str().into()),
            ("state", agent.state.as_str().into()),
            ("reason", agent.note.as_str().into()),
            ("offset_ns", agent.offset_ns.into()),
            ("err_ns", agent.err_ns.into()),
            ("source", agent.source.as_str().into()),
            ("steps", agent.steps.into()),
            ("last_step_ns", agent.last_step_ns.into()),
            ("last_step", agent.last_step_unix_ns.map(time).into()),
            ("epoch", agent.epoch.as_str().into()),
            ("disruptions", agent.disruptions.into()),
            ("overruled", agent.overruled.into()),
        ]);
    }
    for held in &answer.held {
        add(vec![
            ("what", "held".into()),
            ("state", state_word(held.state()).into()),
            ("reason", held.reason.as_str().into()),
            ("flows", held.flows.into()),
        ]);
    }
    sheet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_milliseconds_and_seconds() {
        assert_eq!(seconds(-32_399_550_000_000), "-32399.550 s");
        assert_eq!(seconds(190_000), "+0.190 ms");
        assert_eq!(bound(1_400_000), "±1.400 ms");
        assert_eq!(bound(u64::MAX), "±9223372036.855 s");
    }

    #[test]
    fn programs_get_one_row_a_thing() {
        let answer = v1::ClockResponse {
            collector: Some(v1::CollectorClock { state: "proven".to_owned(), ..Default::default() }),
            agents: vec![v1::AgentClock { offset_ns: Some(-5), ..Default::default() }],
            held: vec![v1::HeldFlows { reason: "no-fix".to_owned(), flows: 3, ..Default::default() }],
            ..Default::default()
        };
        let sheet = all_sheet(&answer);
        let whats: Vec<&Cell> = sheet.rows.iter().map(|row| &row[0]).collect();
        let words: [Cell; 3] = ["collector".into(), "agent".into(), "held".into()];
        assert_eq!(whats, words.iter().collect::<Vec<_>>());
        assert_eq!(sheet.rows[1][4], Cell::from(-5_i64));
    }
}
