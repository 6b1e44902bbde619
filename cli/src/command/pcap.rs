//! `pcap`: packets as a capture file.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::Path;

use anyhow::{Context, Result};
use gnomon_proto::v1;

use super::warn_partial;
use crate::arguments::{PcapKind, Query};
use crate::client::{Client, time_range};
use crate::exit::{Outcome, Usage};

pub(crate) async fn write(
    client: &mut Client,
    query: Query,
    path: &str,
    ids: Vec<String>,
    kind: PcapKind,
    packets_max: u64,
) -> Result<Outcome> {
    if path == "-" && io::stdout().is_terminal() {
        return Err(
            Usage("a capture file is no text: pipe it (`-w - | tshark -r -`) or name a file".into()).into()
        );
    }
    let range = time_range(client, &query.range).await?;
    let format = match kind {
        PcapKind::Pcapng => v1::PcapFormat::Pcapng,
        PcapKind::Pcap => v1::PcapFormat::Pcap,
    };
    let request = v1::PcapRequest {
        expression: query.expression,
        range: Some(range),
        ids,
        format: format.into(),
        packets_max,
    };
    let mut stream = client.pcap(request).await?.into_inner();
    // Only now, so that a bad expression leaves no empty file behind.
    let mut out: Box<dyn Write> = if path == "-" {
        Box::new(io::stdout().lock())
    } else {
        Box::new(BufWriter::new(File::create(Path::new(path)).with_context(|| format!("create {path}"))?))
    };
    let (mut summary, mut bytes) = (None, 0);
    let ended = loop {
        match stream.message().await {
            Ok(Some(chunk)) => {
                out.write_all(&chunk.data).with_context(|| format!("write {path}"))?;
                bytes += chunk.data.len();
                summary = chunk.summary.or(summary);
            }
            Ok(None) => break summary.context("the collector ended the file without a summary"),
            Err(status) => break Err(status.into()),
        }
    };
    out.flush().with_context(|| format!("write {path}"))?;
    let summary = match ended {
        Ok(summary) => summary,
        Err(error) => {
            let file = if path == "-" { "the file" } else { path };
            eprintln!("partial: {file} is cut short behind {bytes} bytes");
            return Err(error);
        }
    };
    eprintln!(
        "{} packets of {} flows; times within ± {:.3} ms",
        summary.packets,
        summary.flows,
        summary.time_err_ns_max as f64 / 1e6
    );
    let on_their_way = summary.missing.iter().filter(|missing| missing.reason == "not-yet");
    let on_their_way: u64 = on_their_way.map(|missing| missing.packets).sum();
    if on_their_way > 0 {
        eprintln!("{on_their_way} packets may be on their way from their agents: ask again in some seconds");
    }
    Ok(Outcome::of(summary.packets > 0, warn_partial(summary.partial.as_ref())))
}
