//! Which forms there are, and what carries them.

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// One JSON object a line, keys as in searches.
    Jsonl,
    /// Every field, RFC 4180, with a line of names first.
    Csv,
    /// Zeek's conn.log, tab-separated.
    Zeek,
    /// Zeek's conn.log, a JSON object a line.
    ZeekJson,
    /// Elastic Common Schema, a JSON object a line.
    Ecs,
    /// Suricata's EVE events of type `flow`.
    Eve,
    /// IPFIX messages (RFC 7011) of bidirectional flows (RFC 5103).
    Ipfix,
}

impl Format {
    pub const ALL: [Format; 7] =
        [Format::Jsonl, Format::Csv, Format::Zeek, Format::ZeekJson, Format::Ecs, Format::Eve, Format::Ipfix];

    pub fn name(self) -> &'static str {
        match self {
            Format::Jsonl => "jsonl",
            Format::Csv => "csv",
            Format::Zeek => "zeek",
            Format::ZeekJson => "zeek-json",
            Format::Ecs => "ecs",
            Format::Eve => "eve",
            Format::Ipfix => "ipfix",
        }
    }

    /// One JSON object a line.
    pub fn is_json_lines(self) -> bool {
        matches!(self, Format::Jsonl | Format::ZeekJson | Format::Ecs | Format::Eve)
    }

    /// Lines that mean nothing without the first ones.
    pub fn has_header(self) -> bool {
        matches!(self, Format::Csv | Format::Zeek)
    }

    /// Can say that a record has no known time.
    pub fn takes_no_time(self) -> bool {
        matches!(self, Format::Jsonl | Format::Csv)
    }

    /// Is about IP alone.
    pub fn is_ip_only(self) -> bool {
        matches!(self, Format::Zeek | Format::ZeekJson | Format::Eve)
    }
}

/// What the bytes travel in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// A file or a connection: nothing is lost in the middle.
    Stream,
    /// Datagrams, any of which may be lost.
    Datagrams,
}
