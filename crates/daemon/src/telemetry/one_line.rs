//! A log event is one line that says nothing but what it says: names and texts of others are in it, and may hold line ends,
//! escape sequences and marks that change the direction of writing.

use std::io::{self, Write};

use gnomon_flow::escape::{terminal_safe, terminal_safe_json};
use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

/// What the lines are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lines {
    Text,
    /// Text with colours: what is in fields has no escape sequence left, the formatter sees to that.
    Colours,
    Json,
}

/// Hands each event on as one line.
#[derive(Clone, Debug)]
pub(super) struct OneLine<W> {
    pub(super) writer: W,
    pub(super) lines: Lines,
}

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for OneLine<W> {
    type Writer = Line<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Line { out: self.writer.make_writer(), lines: self.lines }
    }

    fn make_writer_for(&'a self, of: &Metadata<'_>) -> Self::Writer {
        Line { out: self.writer.make_writer_for(of), lines: self.lines }
    }
}

/// Takes an event at a time, as the formatter writes it.
pub(super) struct Line<W> {
    out: W,
    lines: Lines,
}

impl<W: Write> Write for Line<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let (line, end) = match text.strip_suffix('\n') {
            Some(line) => (line, "\n"),
            None => (&*text, ""),
        };
        match self.lines {
            Lines::Text => self.out.write_all(terminal_safe(line).as_bytes())?,
            Lines::Json => self.out.write_all(terminal_safe_json(line).as_bytes())?,
            Lines::Colours => {
                for part in line.split_inclusive('\u{1b}') {
                    let (part, escape) = match part.strip_suffix('\u{1b}') {
                        Some(part) => (part, "\u{1b}"),
                        None => (part, ""),
                    };
                    self.out.write_all(terminal_safe(part).as_bytes())?;
                    self.out.write_all(escape.as_bytes())?;
                }
            }
        }
        self.out.write_all(end.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(lines: Lines, event: &str) -> String {
        let mut out = Vec::new();
        Line { out: &mut out, lines }.write_all(event.as_bytes()).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_event_stays_one_line_and_shows_no_mark() {
        let event = "INFO joined name=a\nERROR forged \u{1b}[2J\u{202e}b\u{200b}\n";
        let line = written(Lines::Text, event);
        assert_eq!(line, "INFO joined name=a\\nERROR forged \\u{1b}[2J\\u{202e}b\\u{200b}\n");
        assert_eq!(written(Lines::Text, "no end"), "no end");
        let json = written(Lines::Json, "{\"name\":\"a\\nb\u{202e}\"}\n");
        assert_eq!(json, "{\"name\":\"a\\nb\\u202e\"}\n");
        let colours = written(Lines::Colours, "\u{1b}[32mINFO\u{1b}[0m a\nb\u{202e}\n");
        assert_eq!(colours, "\u{1b}[32mINFO\u{1b}[0m a\\nb\\u{202e}\n");
    }
}
