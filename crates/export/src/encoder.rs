//! Records in, bytes out.

use gnomon_flow::StoredFlow;
use gnomon_flow::json::AsJson;

use crate::format::{Carrier, Format};
use crate::ipfix::Messages;
use crate::left::{Accept, Left, Tally};
use crate::units::Units;
use crate::{csv, ecs, eve, object, zeek};

/// Writes one form. Holds no record but those of the IPFIX message being filled, 64 KiB at most.
///
/// To send again what did not arrive, keep a clone of what the encoder was before.
#[derive(Clone, Debug)]
pub struct Encoder {
    format: Format,
    accept: Accept,
    tally: Tally,
    messages: Messages,
}

impl Encoder {
    pub fn new(format: Format, carrier: Carrier, accept: Accept) -> Encoder {
        Encoder { format, accept, tally: Tally::default(), messages: Messages::new(carrier) }
    }

    pub fn format(&self) -> Format {
        self.format
    }

    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// A reader begins here: a file, or a connection made anew. Writes what has to stand first.
    pub fn begin(&mut self, out: &mut Units) {
        match self.format {
            Format::Csv => out.add(csv::header),
            Format::Zeek => out.add(zeek::header),
            Format::Ipfix => self.messages.begin(),
            Format::Jsonl | Format::ZeekJson | Format::Ecs | Format::Eve => {}
        }
    }

    /// Writes a record, or says and counts why not.
    pub fn record(&mut self, flow: &StoredFlow, out: &mut Units) -> Result<(), Left> {
        if let Some(why) = Left::of(flow, self.format, self.accept) {
            self.tally.leave(why);
            return Err(why);
        }
        match self.format {
            Format::Jsonl => out.add(|out| jsonl(flow, out)),
            Format::Csv => out.add(|out| csv::record(flow, out)),
            Format::Zeek => out.add(|out| zeek::tsv(flow, out)),
            Format::ZeekJson => out.add(|out| object::line(&zeek::object(flow), out)),
            Format::Ecs => out.add(|out| object::line(&ecs::object(flow), out)),
            Format::Eve => out.add(|out| object::line(&eve::object(flow), out)),
            Format::Ipfix => self.messages.record(flow, out),
        }
        self.tally.written += 1;
        Ok(())
    }

    /// Completes what waits to be filled: before a pause, and at the end.
    pub fn flush(&mut self, out: &mut Units) {
        if self.format == Format::Ipfix {
            self.messages.flush(out);
        }
    }
}

fn jsonl(flow: &StoredFlow, out: &mut Vec<u8>) {
    object::append(&AsJson(flow), out);
    out.push(b'\n');
}
