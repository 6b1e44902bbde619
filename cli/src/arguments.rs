//! What can be typed. The doc comments are the help and the man page.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

const AFTER_HELP: &str = "\
Exit codes:
  0  something was found          3  the answer is partial (stderr says why)
  1  nothing was found            4  the collector could not be asked, or failed
  2  a mistake in what was typed

Times (--since, --until):  -15m  -2h  -5d  2026-11-21T21:30:00Z  1700000000
  Relative times count from the collector's clock: this machine's is not asked.

Examples:
  gnomon search 'ip.src == 10.0.0.0/8 && port.dst == [22,443] && packets >= 3' --since -1h
  gnomon pcap 'dns.host == *example.com' -w - | tshark -r -
  gnomon top ip.src port.dst 'tcp.state == syn-sent' --by flows
  gnomon export --since -1d --format zeek -w conn.log
  gnomon export --follow --format ecs --to http://elastic:9200/flows/_bulk
  gnomon facets 'tls.host == *example.com' --fields ip.src,tls.ja4 --since -1d
  gnomon hunt scan --since -5d
  gnomon fields                  every name an expression can use";

/// Search flows and packets that gnomon's agents have captured.
#[derive(Debug, Parser)]
#[command(name = "gnomon", version, about, after_help = AFTER_HELP, propagate_version = true)]
pub struct Arguments {
    #[command(flatten)]
    pub(crate) connection: Connection,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Connection {
    /// The collector's gRPC address: https://HOST:PORT, http://HOST:PORT, or unix:///PATH of its socket [default: the socket of
    /// the collector on this machine, /run/gnomon/collector.sock, else http://127.0.0.1:7440].
    #[arg(long, global = true, env = "GNOMON_SERVER", value_name = "URL")]
    pub(crate) server: Option<String>,
    /// Certificate of the authority that signed the collector's (PEM).
    #[arg(long, global = true, env = "GNOMON_CA", value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Your own certificate (PEM), where the collector asks for one.
    #[arg(long, global = true, env = "GNOMON_CERT", value_name = "FILE", requires = "key")]
    pub(crate) cert: Option<PathBuf>,
    /// The key of your certificate (PEM).
    #[arg(long, global = true, env = "GNOMON_KEY", value_name = "FILE", requires = "cert")]
    pub(crate) key: Option<PathBuf>,
    /// Talk to a collector beyond this machine without encryption.
    #[arg(long, global = true, env = "GNOMON_INSECURE")]
    pub(crate) insecure: bool,
}

/// Where a collector on this machine has its socket.
const LOCAL_SOCKETS: [&str; 2] = ["/run/gnomon/collector.sock", "/var/lib/gnomon-collector/collector.sock"];
/// And its port.
const LOCAL_PORT: &str = "http://127.0.0.1:7440";

impl Connection {
    /// The collector's URL: what was said, or where one on this machine is.
    pub(crate) fn url(&self) -> String {
        let local = || {
            let there = LOCAL_SOCKETS.into_iter().find(|path| UnixStream::connect(path).is_ok());
            there.map_or_else(|| LOCAL_PORT.to_owned(), |path| format!("unix://{path}"))
        };
        self.server.clone().unwrap_or_else(local)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for reading.
    Table,
    /// The answer as one JSON object, as `/api/v1` gives it.
    Json,
    /// Its rows, one JSON object a line.
    Jsonl,
    /// Comma separated, with a header (RFC 4180).
    Csv,
}

impl Format {
    pub(crate) fn is_json(self) -> bool {
        matches!(self, Format::Json | Format::Jsonl)
    }
}

#[derive(Args, Debug)]
pub(crate) struct Output {
    #[arg(long, short, value_enum, default_value = "table")]
    pub(crate) output: Format,
}

#[derive(Args, Debug)]
pub(crate) struct Range {
    /// Only what was going on at this time or later.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub(crate) since: Option<String>,
    /// Only what was going on at this time or before.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub(crate) until: Option<String>,
    /// Take the times as times of ingest: finds pending and quarantined records too.
    #[arg(long, visible_alias = "by-ingest")]
    pub(crate) by_ingest_time: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Query {
    /// What to look for; everything when left out. See `gnomon fields` and docs/search.md.
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) expression: String,
    #[command(flatten)]
    pub(crate) range: Range,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum By {
    Flows,
    Packets,
    Bytes,
    /// Different values of the first field of --distinct.
    Distinct,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PcapKind {
    Pcapng,
    Pcap,
}

/// The forms of exports; docs/exports.md says what is where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// One JSON object a line; the keys are the names of the search language.
    Jsonl,
    /// Comma separated, with a header (RFC 4180).
    Csv,
    /// Zeek's conn.log, tab-separated.
    Zeek,
    /// Zeek's conn.log, one JSON object a line.
    ZeekJson,
    /// Elastic Common Schema, one JSON object a line.
    Ecs,
    /// Suricata's EVE events of type `flow`.
    Eve,
    /// IPFIX messages of bidirectional flows (RFC 7011, RFC 5103).
    Ipfix,
}

#[derive(Args, Debug)]
pub(crate) struct Export {
    #[command(flatten)]
    pub(crate) query: Query,
    #[arg(long, short, value_enum)]
    pub(crate) format: ExportFormat,
    /// File to write, or `-` for standard output (what happens without --write and --to).
    #[arg(long, short, value_name = "FILE", conflicts_with = "to")]
    pub(crate) write: Option<String>,
    /// Send them: tcp://HOST:PORT, udp://HOST:PORT, or http://HOST:PORT/PATH (Elasticsearch's bulk form where the path
    /// ends in `_bulk`).
    #[arg(long, value_name = "URL")]
    pub(crate) to: Option<String>,
    /// Send flows as they arrive, from now on, until interrupted.
    #[arg(long, conflicts_with_all = ["since", "until", "by_ingest_time"])]
    pub(crate) follow: bool,
    /// Records whose time is not proven too. Ranges of time never find them: --by-ingest-time and --follow do.
    #[arg(long)]
    pub(crate) pending: bool,
    /// Records of flows that go on too: another with the same id will follow.
    #[arg(long)]
    pub(crate) interim: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Find flows, newest first.
    Search {
        #[command(flatten)]
        query: Query,
        /// Most flows to show; where there are more, stderr says so.
        #[arg(long, short = 'n', default_value_t = 100)]
        limit: u64,
        /// Show all that match, however many.
        #[arg(long, conflicts_with = "limit")]
        all: bool,
        /// Oldest first.
        #[arg(long)]
        oldest_first: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Show one record with all its fields, by the id that searches show.
    Show {
        id: String,
        #[arg(long, short, value_enum, default_value = "table")]
        output: Format,
    },
    /// Count flows, packets and bytes, and different values: `gnomon count --distinct ip.src`.
    Count {
        #[command(flatten)]
        query: Query,
        /// Count the different values of these fields too, at most 4: exact up to 65,536, within 0.8 % beyond.
        #[arg(long, value_name = "FIELD,…", value_delimiter = ',')]
        distinct: Vec<String>,
        #[command(flatten)]
        output: Output,
    },
    /// The most frequent values of one field, or combinations of several: `gnomon top ip.src port.dst 'packets >= 3'`;
    /// or those with the most different others: `gnomon top ip.src,ip.dst --distinct port.dst --by distinct`.
    Top {
        /// Field names, also joined by commas, and at most one expression.
        #[arg(required = true, value_name = "FIELD… [EXPRESSION]")]
        words: Vec<String>,
        #[command(flatten)]
        range: Range,
        #[arg(long, value_enum, default_value = "flows")]
        by: By,
        /// Count the different values of these fields in each row, at most 4: exact up to 1024, within 1.6 % beyond.
        #[arg(long, value_name = "FIELD,…", value_delimiter = ',')]
        distinct: Vec<String>,
        #[arg(long, short = 'n', default_value_t = 10)]
        limit: u32,
        #[command(flatten)]
        output: Output,
    },
    /// Flows, packets and bytes over time.
    Histogram {
        #[command(flatten)]
        query: Query,
        /// Width of a bucket (`10s`, `5m`, `1h`); chosen when left out.
        #[arg(long)]
        interval: Option<String>,
        /// Split every bucket by the values of this field.
        #[arg(long, value_name = "FIELD")]
        group: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// The most frequent values of many fields at once; on a terminal they are shown while flows are still being read.
    Facets {
        #[command(flatten)]
        query: Query,
        /// Fields; every one but times, ids, counters and those that stand for others when left out.
        #[arg(long, value_name = "FIELD,…", value_delimiter = ',')]
        fields: Vec<String>,
        /// Read every flow: without an expression, the most frequent values kept of each block are added up else.
        #[arg(long)]
        exact: bool,
        /// Most values of each field.
        #[arg(long, short = 'n', default_value_t = 10)]
        limit: u32,
        #[command(flatten)]
        output: Output,
    },
    /// Suspects, the worst first: `gnomon hunt scan`, `ntp-monlist`, `http-flood`. Lists them when no name is given.
    Hunt {
        /// Which hunt.
        name: Option<String>,
        /// Only flows that match are looked at.
        #[arg(default_value = "", hide_default_value = true)]
        expression: String,
        #[command(flatten)]
        range: Range,
        /// A number the hunt goes by, as `targets=50` (may be given several times); `gnomon hunt` lists them.
        #[arg(long, value_name = "NAME=NUMBER")]
        set: Vec<String>,
        /// Most findings.
        #[arg(long, short = 'n', default_value_t = 20)]
        limit: u32,
        #[command(flatten)]
        output: Output,
    },
    /// Write the packets of flows as a capture file.
    Pcap {
        #[command(flatten)]
        query: Query,
        /// File to write, or `-` for standard output.
        #[arg(long, short, value_name = "FILE")]
        write: String,
        /// A record by its id (may be given several times) in the place of an expression.
        #[arg(long, conflicts_with_all = ["since", "until"])]
        id: Vec<String>,
        #[arg(long, value_enum, default_value = "pcapng")]
        format: PcapKind,
        /// Most packets to write; 0 for all.
        #[arg(long, default_value_t = 0)]
        packets: u64,
    },
    /// Write flows in a form that other programs read, or send them there: a whole range, or new ones as they arrive.
    Export(Export),
    /// Follow new flows as they arrive, until interrupted.
    Tail {
        /// Only flows that match.
        #[arg(default_value = "", hide_default_value = true)]
        expression: String,
        #[arg(long, short, value_enum, default_value = "table")]
        output: Format,
        /// End after this many flows.
        #[arg(long, short = 'n')]
        limit: Option<u64>,
    },
    /// The agents' live rates, drops and queues, again each second.
    Live {
        /// Show this many times and end; 0 goes on until interrupted.
        #[arg(long, default_value_t = 0)]
        times: u64,
    },
    /// The agents and their state.
    Agents {
        #[command(flatten)]
        output: Output,
    },
    /// What the collector holds, and the state of its clock.
    Status {
        #[command(flatten)]
        output: Output,
    },
    /// The state of time: the collector's clock, each agent's, and the flows that wait for better evidence.
    Clock {
        /// What happened to clocks of late: steps, conflicts, corrections, changes of state.
        #[arg(long)]
        events: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Every field an expression can name.
    Fields {
        #[command(flatten)]
        output: Output,
    },
    /// Print a shell's completion script.
    Completions { shell: Shell },
    /// Print the man page.
    Man,
}

impl Command {
    /// The expression that was typed, for a message that points into it.
    pub(crate) fn expression(&self) -> Option<&str> {
        match self {
            Command::Search { query, .. }
            | Command::Count { query, .. }
            | Command::Histogram { query, .. }
            | Command::Facets { query, .. }
            | Command::Pcap { query, .. } => Some(&query.expression),
            Command::Export(export) => Some(&export.query.expression),
            Command::Tail { expression, .. } | Command::Hunt { expression, .. } => Some(expression),
            Command::Top { words, .. } => words.last().map(String::as_str),
            _ => None,
        }
    }
}
