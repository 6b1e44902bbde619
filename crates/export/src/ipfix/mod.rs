//! IPFIX messages (RFC 7011) of bidirectional flows (RFC 5103). What stands in a file is messages one after another
//! (RFC 5655), and so it is over TCP.
//!
//! ```text
//! message  version 10 : 2 | length : 2 | export time : 4 | sequence : 4 | observation domain 0 : 4 | sets
//! set      id : 2 (2 templates, 256… data) | length : 2 | records
//! ```
//!
//! All big endian. The domain is 0: the records of several agents are in one stream (RFC 7011 section 3.1). The export
//! time is that of the newest record so far, when the collector took it in or else its last packet: no clock is read.

mod template;

use gnomon_clock::UtcNs;
use gnomon_flow::StoredFlow;

use crate::format::Carrier;
use crate::time::epoch_s;
use crate::units::Units;
use template::Template;

const VERSION: u16 = 10;
const HEADER_BYTES: usize = 16;
const SET_HEADER_BYTES: usize = 4;
const TEMPLATE_SET: u16 = 2;

/// Of a message on a stream, by its 16-bit length.
const STREAM_BYTES_MAX: usize = 65_535;
/// Of a message in a datagram, so that Ethernet carries it whole.
const DATAGRAM_BYTES_MAX: usize = 1_400;
/// Datagrams may be lost and collectors restart: templates come again after as many messages, or as much time.
const TEMPLATES_EVERY_MESSAGES: u32 = 20;
const TEMPLATES_EVERY_S: u32 = 60;

/// Fills messages with records.
#[derive(Clone, Debug)]
pub(crate) struct Messages {
    carrier: Carrier,
    /// The message being filled, with its header's room; empty when there is none.
    message: Vec<u8>,
    /// The data set being filled: where it begins in the message, and whose it is.
    set: Option<(usize, u16)>,
    records: u32,
    /// Data records of the messages before.
    sequence: u32,
    export_s: u32,
    /// Whether a reader may not know the templates.
    templates_due: bool,
    templates_sent_s: u32,
    messages_since: u32,
}

impl Messages {
    pub(crate) fn new(carrier: Carrier) -> Messages {
        Messages {
            carrier,
            message: Vec::new(),
            set: None,
            records: 0,
            sequence: 0,
            export_s: 0,
            templates_due: true,
            templates_sent_s: 0,
            messages_since: 0,
        }
    }

    /// A new session: its sequence begins at 0, and its templates come first. What waited is for the caller to give
    /// again.
    pub(crate) fn begin(&mut self) {
        *self = Messages { export_s: self.export_s, ..Messages::new(self.carrier) };
    }

    pub(crate) fn record(&mut self, flow: &StoredFlow, out: &mut Units) {
        let template = Template::of(&flow.record.key);
        let mut record = Vec::with_capacity(256);
        template.write(flow, &mut record);
        let limit = match self.carrier {
            Carrier::Stream => STREAM_BYTES_MAX,
            Carrier::Datagrams => DATAGRAM_BYTES_MAX,
        };
        if self.message.len() + SET_HEADER_BYTES + record.len() > limit {
            self.flush(out);
        }
        self.see(flow.ingested.or(flow.last.map(|last| last.utc)));
        if self.templates_are_due() {
            self.flush(out);
            self.templates(out);
        }
        if self.message.is_empty() {
            self.message.resize(HEADER_BYTES, 0);
        }
        if self.set.is_none_or(|(_, id)| id != template.id) {
            self.end_set();
            self.set = Some((self.message.len(), template.id));
            self.message.extend(template.id.to_be_bytes());
            self.message.extend([0; 2]);
        }
        self.message.extend(record);
        self.records += 1;
    }

    /// Ends the message being filled.
    pub(crate) fn flush(&mut self, out: &mut Units) {
        self.end_set();
        if self.records > 0 {
            self.send(out);
        }
    }

    fn see(&mut self, time: Option<UtcNs>) {
        self.export_s = self.export_s.max(time.map_or(0, epoch_s));
    }

    fn templates_are_due(&self) -> bool {
        let aged = self.messages_since >= TEMPLATES_EVERY_MESSAGES
            || self.export_s.saturating_sub(self.templates_sent_s) >= TEMPLATES_EVERY_S;
        self.templates_due || (self.carrier == Carrier::Datagrams && aged)
    }

    /// A message of all templates.
    fn templates(&mut self, out: &mut Units) {
        self.message.resize(HEADER_BYTES, 0);
        self.set = Some((HEADER_BYTES, TEMPLATE_SET));
        self.message.extend(TEMPLATE_SET.to_be_bytes());
        self.message.extend([0; 2]);
        for template in Template::ALL {
            template.describe(&mut self.message);
        }
        self.end_set();
        self.send(out);
        self.templates_due = false;
        self.messages_since = 0;
        self.templates_sent_s = self.export_s;
    }

    fn end_set(&mut self) {
        if let Some((start, _)) = self.set.take() {
            let length = (self.message.len() - start) as u16;
            self.message[start + 2..start + 4].copy_from_slice(&length.to_be_bytes());
        }
    }

    fn send(&mut self, out: &mut Units) {
        let length = self.message.len() as u16;
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend(VERSION.to_be_bytes());
        header.extend(length.to_be_bytes());
        header.extend(self.export_s.to_be_bytes());
        header.extend(self.sequence.to_be_bytes());
        header.extend(0u32.to_be_bytes());
        self.message[..HEADER_BYTES].copy_from_slice(&header);
        out.add(|out| out.extend_from_slice(&self.message));
        self.sequence = self.sequence.wrapping_add(self.records);
        self.message.clear();
        self.records = 0;
        self.messages_since += 1;
    }
}
