//! `live`, `agents`, `status`, `fields`: the state of things.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anyhow::Result;
use gnomon_clock::UtcNs;
use gnomon_flow::escape::terminal_safe;
use gnomon_flow::timestamp::rfc3339;
use gnomon_proto::v1;

use super::warn_partial;
use crate::arguments::Format;
use crate::client::Client;
use crate::exit::Outcome;
use crate::output::{Cell, Sheet, human, print_json};

pub(crate) async fn list(client: &mut Client, format: Format) -> Result<Outcome> {
    let answer = client.agents(v1::AgentsRequest {}).await?.into_inner();
    let agents = &answer.agents;
    let columns = [
        "node",
        "connected",
        "last_seen",
        "version",
        "interfaces",
        "left_out",
        "clock",
        "spooled",
        "sacrificed",
        "spool",
        "peer",
        "id",
    ];
    let mut sheet = Sheet::new(&columns);
    for agent in agents {
        let heartbeat = agent.heartbeat.clone().unwrap_or_default();
        let spool = heartbeat.spool.unwrap_or_default();
        let interfaces: Vec<String> = heartbeat.interfaces.iter().map(interface_words).collect();
        let id: String = agent.id.iter().map(|b| format!("{b:02x}")).collect();
        sheet.rows.push(vec![
            agent.name.as_str().into(),
            agent.connected.into(),
            time(agent.last_seen_unix_ns),
            agent.version.as_str().into(),
            interfaces.into(),
            left_out_words(&heartbeat.left_out, heartbeat.left_out_more).into(),
            clock_words(heartbeat.clock.as_ref(), agent).into(),
            spool.entries.into(),
            spool.sacrificed_slice_packets.saturating_add(spool.sacrificed_flow_records).into(),
            spool_words(&spool).into(),
            agent.peer.as_str().into(),
            id.into(),
        ]);
    }
    sheet.print_or(format, || gnomon_answers::agents(&answer), "agents")?;
    let partial = warn_partial(answer.partial.as_ref());
    Ok(Outcome::of(!agents.is_empty(), partial))
}

/// How it is captured, or why it is not, and what else is to be known.
fn interface_words(interface: &v1::InterfaceStatus) -> String {
    let how = if interface.error.is_empty() {
        interface.mode.clone()
    } else {
        format!("not captured: {}", interface.error)
    };
    let twice =
        if interface.seen_twice.is_empty() { String::new() } else { format!("; {}", interface.seen_twice) };
    format!("{} ({how}{twice})", interface.name)
}

fn left_out_words(left_out: &[v1::InterfaceLeftOut], more: u32) -> Vec<String> {
    let mut words: Vec<String> =
        left_out.iter().map(|left| format!("{} ({})", left.name, left.reason)).collect();
    if more > 0 {
        words.push(format!("{more} more"));
    }
    words
}

/// A moment as RFC 3339 has it, or an empty cell.
fn time(unix_ns: Option<i64>) -> Cell {
    unix_ns.map(|ns| rfc3339(UtcNs::from_unix_ns(ns))).into()
}

fn clock_words(clock: Option<&v1::ClockStatus>, agent: &v1::Agent) -> String {
    let Some(clock) = clock else { return "unknown".to_owned() };
    let state = clock.state().word();
    match (agent.clock_offset_ns, agent.clock_err_ns) {
        (Some(offset), Some(err)) => {
            format!("{state} {:+.3} ± {:.3} ms", offset as f64 / 1e6, err as f64 / 1e6)
        }
        _ => format!("{state} ± {:.3} ms", clock.err_ns as f64 / 1e6),
    }
}

/// What is wrong with an agent's spool; empty when nothing is.
fn spool_words(spool: &v1::SpoolStatus) -> String {
    let counts = [
        (spool.damaged_entries, "entries damaged"),
        (spool.missing_entries, "entries missing"),
        (spool.set_aside_files, "files that cannot be read"),
        (spool.ledger_conflicts, "times the collector claimed what it was not sent"),
        (spool.asked_again_entries, "entries the collector lost and asked for again"),
    ];
    let counts = counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
    let error = Some(spool.error.clone()).filter(|error| !error.is_empty());
    error.into_iter().chain(counts).collect::<Vec<_>>().join("; ")
}

pub(crate) async fn live(client: &mut Client, times: u64) -> Result<Outcome> {
    let people = io::stdout().is_terminal();
    let (mut shown, mut found) = (0u64, false);
    loop {
        let agents = client.agents(v1::AgentsRequest {}).await?.into_inner().agents;
        found |= !agents.is_empty();
        let text = live_text(&agents);
        let mut out = io::stdout().lock();
        if people {
            // Home and clear, so that the table stands still.
            write!(out, "\x1b[H\x1b[2J")?;
        }
        writeln!(out, "{text}")?;
        out.flush()?;
        drop(out);
        shown += 1;
        if shown == times {
            return Ok(Outcome::of(found, false));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn live_text(agents: &[v1::Agent]) -> String {
    let mut lines = vec![format!(
        "{:<14} {:<12} {:>10} {:>12} {:>12} {:>9} {:>8}  {}",
        "NODE", "INTERFACE", "PACKETS/S", "BITS/S", "PACKETS", "FLOWS", "SPOOLED", "DROPS"
    )];
    for agent in agents {
        let heartbeat = agent.heartbeat.clone().unwrap_or_default();
        let spooled = heartbeat.spool.as_ref().map_or(0, |s| s.entries);
        let state = if agent.connected { "" } else { " (gone)" };
        for interface in &heartbeat.interfaces {
            let mut drops: Vec<_> = interface.drops.iter().filter(|(_, n)| **n > 0).collect();
            drops.sort();
            let drops: Vec<String> = drops.iter().map(|(reason, n)| format!("{reason} {n}")).collect();
            let drops = if drops.is_empty() { "none".to_owned() } else { drops.join(", ") };
            let trouble =
                if interface.error.is_empty() { drops } else { format!("{drops}; {}", interface.error) };
            lines.push(format!(
                "{:<14} {:<12} {:>10} {:>12} {:>12} {:>9} {:>8}  {}",
                terminal_safe(&format!("{}{state}", agent.name)),
                terminal_safe(&interface.name),
                human(interface.packets_per_second),
                human(interface.bits_per_second),
                human(interface.packets as f64),
                human(interface.flows_active as f64),
                spooled,
                terminal_safe(&trouble),
            ));
        }
    }
    if agents.is_empty() {
        lines.push("no agent has connected yet".to_owned());
    }
    lines.join("\n")
}

pub(crate) async fn status(client: &mut Client, format: Format) -> Result<Outcome> {
    let status = client.status(v1::StatusRequest {}).await?.into_inner();
    if format == Format::Table {
        let mut out = io::stdout().lock();
        for line in reach_words(&status) {
            writeln!(out, "{}", terminal_safe(&line))?;
        }
        if let Some(why) = &status.stopped {
            writeln!(out, "nothing is taken in, agents keep what they have: {}", terminal_safe(why))?;
        }
        if let Some(what) = &status.damage {
            writeln!(out, "damaged: {}", terminal_safe(what))?;
        }
        writeln!(out)?;
    }
    if format.is_json() {
        print_json(format, &gnomon_answers::status(&status), "")?;
        return Ok(Outcome::Found);
    }
    let pairs: Vec<(&str, Cell)> = vec![
        ("version", status.version.as_str().into()),
        ("flows", status.flows.into()),
        ("flows_pending", status.flows_pending.into()),
        ("flows_quarantined", status.flows_quarantined.into()),
        ("flows_reach_back_to", time(status.oldest_flow_unix_ns)),
        ("newest_flow", time(status.newest_flow_unix_ns)),
        ("flow_bytes", status.flows_bytes.into()),
        ("flow_bytes_max", status.flows_bytes_max.into()),
        ("flow_bytes_a_day", status.flow_bytes_a_day.into()),
        ("flows_full_in", full_in(status.flows_full_in_s)),
        ("packets", status.slice_packets.into()),
        ("packet_bytes", status.packets_bytes.into()),
        ("packet_bytes_max", status.packets_bytes_max.into()),
        ("packet_bytes_a_day", status.packet_bytes_a_day.into()),
        ("packets_full_in", full_in(status.packets_full_in_s)),
        ("packets_reach_back_to", time(status.oldest_packet_unix_ns)),
        ("disk_free_bytes", status.disk_free_bytes.into()),
        ("stopped", status.stopped.clone().into()),
        ("damage", status.damage.clone().into()),
        ("now", time(Some(status.now_unix_ns))),
        ("now_err_ns", status.now_err_ns.into()),
        ("clock_proven", status.clock_proven.into()),
    ];
    let mut sheet = Sheet::default();
    if format == Format::Table {
        sheet.columns = vec!["what".into(), "value".into()];
        sheet.rows = pairs.into_iter().map(|(name, value)| vec![name.into(), value]).collect();
    } else {
        sheet.columns = pairs.iter().map(|(name, _)| (*name).to_owned()).collect();
        sheet.rows = vec![pairs.into_iter().map(|(_, value)| value).collect()];
    }
    sheet.print(format)?;
    Ok(Outcome::Found)
}

/// How far back each kind goes, and for how long it still grows.
fn reach_words(status: &v1::StatusResponse) -> [String; 2] {
    let words = |what: &str, oldest: Option<i64>, full_in_s: Option<u64>, max: u64, a_day: Option<u64>| {
        let Some(oldest) = oldest else { return format!("{what} there are none") };
        let back = rfc3339(UtcNs::from_unix_ns(oldest));
        let end = match (full_in_s, status.rate_over_s) {
            (Some(0), _) => "full: the oldest go as new ones come".to_owned(),
            (Some(seconds), Some(over)) => {
                format!("full in {} at the rate of the last {}", duration(seconds), duration(over))
            }
            (_, Some(_)) => "none came of late".to_owned(),
            (_, None) => "the rate is not known yet".to_owned(),
        };
        // However much is there now.
        let holds = a_day.filter(|a_day| *a_day > 0 && max > 0).map_or_else(String::new, |a_day| {
            let seconds = u128::from(max) * 86_400 / u128::from(a_day);
            format!("; the room holds {} at this rate", duration(u64::try_from(seconds).unwrap_or(u64::MAX)))
        });
        format!("{what} reach back to {back}; {end}{holds}")
    };
    [
        words(
            "packets",
            status.oldest_packet_unix_ns,
            status.packets_full_in_s,
            status.packets_bytes_max,
            status.packet_bytes_a_day,
        ),
        words(
            "flows",
            status.oldest_flow_unix_ns,
            status.flows_full_in_s,
            status.flows_bytes_max,
            status.flow_bytes_a_day,
        ),
    ]
}

fn full_in(seconds: Option<u64>) -> Cell {
    seconds.map(duration).into()
}

/// In the largest unit of which there are two.
fn duration(seconds: u64) -> String {
    let units = [(365 * 86_400, "years"), (86_400, "days"), (3_600, "hours"), (60, "minutes")];
    match units.into_iter().find(|(unit, _)| seconds >= 2 * unit) {
        Some((unit, name)) => format!("{} {name}", seconds / unit),
        None => format!("{seconds} seconds"),
    }
}

pub(crate) async fn fields(client: &mut Client, format: Format) -> Result<Outcome> {
    let answer = client.fields(v1::FieldsRequest {}).await?.into_inner();
    let fields = answer.fields.clone();
    let mut sheet = Sheet::new(&["name", "type", "aliases", "doc"]);
    for field in fields {
        sheet.rows.push(vec![field.name.into(), field.kind.into(), field.aliases.into(), field.doc.into()]);
    }
    sheet.print_or(format, || gnomon_answers::fields(&answer), "fields")?;
    Ok(Outcome::Found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_back_and_how_long_still() {
        let mut status = v1::StatusResponse::default();
        assert_eq!(reach_words(&status), ["packets there are none", "flows there are none"]);
        status.oldest_packet_unix_ns = Some(0);
        status.oldest_flow_unix_ns = Some(0);
        status.rate_over_s = Some(3_540);
        status.packets_full_in_s = Some(0);
        status.flows_full_in_s = Some(90 * 86_400);
        let [packets, flows] = reach_words(&status);
        assert!(packets.starts_with("packets reach back to 1970-01-01T00:00:00"), "{packets}");
        assert!(packets.ends_with("Z; full: the oldest go as new ones come"), "{packets}");
        assert!(flows.ends_with("; full in 90 days at the rate of the last 59 minutes"), "{flows}");
        status.flows_full_in_s = None;
        assert!(reach_words(&status)[1].ends_with("none came of late"));
        (status.packets_bytes_max, status.packet_bytes_a_day) = (50 << 30, Some(20 << 30));
        let [packets, _] = reach_words(&status);
        assert!(packets.ends_with("; the room holds 2 days at this rate"), "{packets}");
        assert_eq!((duration(119), duration(121)), ("119 seconds".to_owned(), "2 minutes".to_owned()));
    }
}
