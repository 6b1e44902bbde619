//! `export`: flows in the forms of others, a whole range of any size.

use std::io::{self, IsTerminal};

use anyhow::{Result, anyhow};
use gnomon_export::{Accept, Format};
use gnomon_flow::timestamp::rfc3339;
use gnomon_flow::{FlowRef, StoredFlow};
use gnomon_proto::v1;

use super::{follow, warn_partial};
use crate::arguments::{Export, ExportFormat, Query};
use crate::client::{Client, time_range};
use crate::exit::{Outcome, Usage};
use crate::recent::{REMEMBERED_MAX, Recent};
use crate::sink::{Announcer, Sink, Target};

/// Flows asked for at a time.
const PAGE: u32 = 2_000;
/// Tries to send one batch, with pauses between them that add up to about half a minute.
const TRIES_MAX: u32 = 9;

pub(crate) async fn run(client: &mut Client, export: Export) -> Result<Outcome> {
    let format = format(export.format);
    let target = Target::parse(export.write.as_deref(), export.to.as_deref(), format)?;
    if format == Format::Ipfix && target == Target::StandardOutput && io::stdout().is_terminal() {
        return Err(Usage("IPFIX is no text: name a file (-w) or a receiver (--to)".into()).into());
    }
    let accept = Accept { pending: export.pending, interim: export.interim };
    if accept.pending && !export.follow && !export.query.range.by_ingest_time {
        return Err(Usage(
            "records without a proven time are in no range of time: add --by-ingest-time".into(),
        )
        .into());
    }
    let mut sink = Sink::new(target, format, accept);
    if export.follow {
        follow::run(client, export.query.expression, format, accept, &mut sink).await
    } else {
        range(client, export.query, &mut sink).await
    }
}

fn format(format: ExportFormat) -> Format {
    match format {
        ExportFormat::Jsonl => Format::Jsonl,
        ExportFormat::Csv => Format::Csv,
        ExportFormat::Zeek => Format::Zeek,
        ExportFormat::ZeekJson => Format::ZeekJson,
        ExportFormat::Ecs => Format::Ecs,
        ExportFormat::Eve => Format::Eve,
        ExportFormat::Ipfix => Format::Ipfix,
    }
}

async fn range(client: &mut Client, query: Query, sink: &mut Sink) -> Result<Outcome> {
    let mut request = v1::SearchRequest {
        range: Some(time_range(client, &query.range).await?),
        expression: query.expression,
        oldest_first: true,
        limit: PAGE,
        cursor: String::new(),
    };
    let mut partial = false;
    // A record may move between two pages, when its time becomes better known: it is exported once.
    let mut exported: Recent<FlowRef> = Recent::new(REMEMBERED_MAX);
    let mut progress = Progress::new();
    let mut announcer = Announcer::new(client.clone());
    loop {
        let answer = match client.search(request.clone()).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => {
                progress.clear();
                if sink.tally().written > 0 {
                    eprintln!("partial: {} flows were written before", sink.tally().written);
                }
                return Err(status.into());
            }
        };
        if answer.partial.is_some() && !partial {
            progress.clear();
            partial = warn_partial(answer.partial.as_ref());
        }
        let mut flows = answer.flows.iter().map(StoredFlow::try_from).collect::<Result<Vec<_>, _>>()?;
        flows.retain(|flow| exported.is_new(flow.id()));
        if let Err(why) = sink.deliver(&flows, Some(TRIES_MAX)).await {
            if sink.is_unread() {
                return Ok(Outcome::Found);
            }
            progress.clear();
            return Err(anyhow!("{why} ({} flows were written before)", sink.tally().written));
        }
        announcer.announce(sink).await;
        progress.show(sink.tally().written, flows.last());
        // Pages that end early for want of time go on where they ended.
        if answer.next_cursor.is_empty() || answer.next_cursor == request.cursor {
            break;
        }
        request.cursor = answer.next_cursor;
    }
    progress.clear();
    if let Err(why) = sink.finish().await {
        return Err(anyhow!("{why}"));
    }
    if !request.range.is_some_and(|range| range.by_ingest_time) {
        tell_unproven(client).await?;
    }
    Ok(summary(sink, partial))
}

/// What no range of time can find.
async fn tell_unproven(client: &mut Client) -> Result<()> {
    let status = client.status(v1::StatusRequest {}).await?.into_inner();
    let unproven = status.flows_pending + status.flows_quarantined;
    if unproven > 0 {
        eprintln!(
            "note: {unproven} records without a proven time are in no range of time: --by-ingest-time --pending exports them"
        );
    }
    Ok(())
}

/// What was written, what was left out, what did not arrive: on stderr.
pub(super) fn summary(sink: &Sink, partial: bool) -> Outcome {
    let tally = sink.tally();
    eprintln!("{} flows", tally.written);
    if let Some(left) = tally.words() {
        eprintln!("{left}");
    }
    let losses = sink.losses();
    if let Some(losses) = &losses {
        eprintln!("partial: {losses}");
    }
    Outcome::of(tally.written > 0, partial || losses.is_some())
}

/// One line on stderr where that is a terminal.
struct Progress {
    people: bool,
}

impl Progress {
    fn new() -> Progress {
        Progress { people: io::stderr().is_terminal() }
    }

    fn show(&self, written: u64, newest: Option<&StoredFlow>) {
        if let (true, Some(flow)) = (self.people, newest) {
            let at =
                flow.first.map_or_else(String::new, |first| format!(", at {}", &rfc3339(first.utc)[..19]));
            eprint!("\r\x1b[K{written} flows{at}");
        }
    }

    fn clear(&mut self) {
        if self.people {
            eprint!("\r\x1b[K");
        }
    }
}
