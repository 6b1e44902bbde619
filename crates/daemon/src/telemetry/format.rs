//! The form of a log line on standard error: for a person, for journald, or for a machine.

use std::fmt;
use std::io::{self, IsTerminal};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{Compact, Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry};

use super::LogFormat;
use super::one_line::{Lines, OneLine};

/// What standard error is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sink {
    Terminal,
    Journald,
    Other,
}

pub(super) fn layer<W>(format: LogFormat, writer: W) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let sink = sink();
    let lines = match (format, sink) {
        (LogFormat::Json, _) => Lines::Json,
        (LogFormat::Auto, Sink::Terminal) => Lines::Colours,
        _ => Lines::Text,
    };
    let writer = OneLine { writer, lines };
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false);
    match (format, sink) {
        (LogFormat::Json, _) => layer.json().flatten_event(true).boxed(),
        (LogFormat::Auto, Sink::Journald) => layer.event_format(Journald::new()).boxed(),
        (LogFormat::Auto, Sink::Terminal) => layer.with_ansi(true).compact().boxed(),
        (LogFormat::Auto, Sink::Other) | (LogFormat::Text, _) => layer.compact().boxed(),
    }
}

fn sink() -> Sink {
    // journald names the device and inode of the stream it reads (systemd.exec(5), JOURNAL_STREAM); a child that was
    // started with its errors sent elsewhere inherits the variable, so the numbers must be compared.
    let stream = std::env::var("JOURNAL_STREAM").ok();
    let opened = rustix::fs::fstat(io::stderr()).ok();
    if let (Some(stream), Some(opened)) = (stream, opened)
        && stream == format!("{}:{}", opened.st_dev, opened.st_ino)
    {
        return Sink::Journald;
    }
    if io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) {
        return Sink::Terminal;
    }
    Sink::Other
}

/// A line for journald: the priority in front (sd-daemon(3)), no time, since journald has its own.
pub(super) struct Journald {
    line: Format<Compact, ()>,
}

impl Journald {
    pub(super) fn new() -> Self {
        Self {
            line: tracing_subscriber::fmt::format()
                .compact()
                .without_time()
                .with_level(false)
                .with_ansi(false),
        }
    }
}

impl<S, N> FormatEvent<S, N> for Journald
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        write!(writer, "<{priority}>")?;
        self.line.format_event(context, writer, event)
    }
}
