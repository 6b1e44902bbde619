//! Which inspector a TCP stream goes to: by what it begins with, then by what came before.

use gnomon_flow::{Attributes, field};

use super::held::Need;
use super::protocol::Protocol;
use super::{
    BufferBudget, dns, ftp, greeting, http, http2, imap, irc, krb5, ldap, mqtt, mysql, pop3, postgresql,
    preamble, quic, rdp, signature, sip, smb, smtp, socks, ssh, tls,
};

/// What comes next in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    #[default]
    Unknown,
    Dns,
    Ftp(ftp::Part),
    /// Replies that begin with 220, which SMTP and FTP share.
    Greeting(greeting::Part),
    Http(http::Part),
    Http2(http2::Part),
    Imap(imap::Part),
    Irc,
    Krb5,
    Ldap,
    Mqtt,
    Mysql(mysql::Part),
    /// Known by its first bytes, and nothing more is read of it.
    Named(Protocol),
    Pop3(pop3::Part),
    Postgresql(postgresql::Part),
    Rdp,
    Sip,
    Smb,
    Smtp(smtp::Part),
    Socks(socks::Part),
    Ssh(ssh::Part),
    Tls(tls::Part),
    /// Nothing more is read.
    Done,
}

/// What a protocol remembers of both directions.
#[derive(Debug, Default)]
pub(super) enum Memory {
    #[default]
    Nothing,
    /// The first line of a greeting that does not say whose it is.
    Greeting(Box<str>),
    /// What the HTTP requests without a response so far will have for one.
    Http(http::Asked),
    Http2(Box<http2::State>),
    Smb(smb::Dialects),
    /// The length of the last NTP request that is known to amplify.
    Ntp(u32),
    Quic(Box<quic::Initial>),
}

impl Memory {
    /// Replaces what is remembered, but for what the budget was charged for: that stays until the flow ends.
    pub(super) fn set(&mut self, memory: Memory) {
        if !matches!(self, Memory::Http2(_)) {
            *self = memory;
        }
    }
}

/// What an inspector made of the bytes it was given.
pub(super) enum Step {
    /// So many bytes are dealt with, at least one.
    Took(usize),
    /// The message is not whole.
    Need(Need),
    /// This direction has nothing more to tell.
    Finished,
    /// Another protocol begins behind so many bytes (at least one), in both directions.
    Anew(usize),
    /// It is not this protocol after all.
    Mistaken,
}

/// What is known of the bytes behind those that an inspector is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    MayCome,
    /// More than can be held.
    TooMuch,
    /// They were not captured.
    Lost,
}

/// What an inspector may change besides the attributes.
pub(super) struct Turn<'a> {
    pub(super) from_originator: bool,
    /// No more can be held: what is not whole now never will be.
    pub(super) full: bool,
    /// What follows was not captured: the message is read as far as it goes, and the record says so.
    pub(super) cut: bool,
    /// What comes next in this direction, and in the other one.
    pub(super) stage: &'a mut Stage,
    pub(super) other: &'a mut Stage,
    /// Bytes of this direction to pass unread, behind those that are taken.
    pub(super) pass: &'a mut u32,
    pub(super) memory: &'a mut Memory,
    pub(super) protocol: &'a mut Protocol,
    pub(super) out: &'a mut Attributes,
    pub(super) budget: &'a mut BufferBudget,
}

impl Turn<'_> {
    pub(super) fn recognise(&mut self, protocol: Protocol) {
        if *self.protocol != protocol {
            *self.protocol = protocol;
            if let Some(name) = protocol.name() {
                self.out.text(field::PROTOCOLS, name);
            }
        }
    }

    /// Sets what comes next the other way, unless more is known of it already.
    pub(super) fn expect(&mut self, stage: Stage) {
        if matches!(self.other, Stage::Unknown | Stage::Greeting(_)) {
            *self.other = stage;
        }
    }

    /// A message of `bytes_total`, of which no more than `prefix_max` bytes are looked at: those bytes, when they are
    /// there, or as many as there will be. The rest is passed by [`Turn::took`].
    pub(super) fn prefix<'b>(
        &self,
        bytes: &'b [u8],
        bytes_total: usize,
        prefix_max: usize,
    ) -> Result<&'b [u8], Step> {
        let wanted = bytes_total.min(prefix_max);
        match bytes.get(..wanted) {
            Some(whole) => Ok(whole),
            None if self.cut => Ok(bytes),
            None if self.full => Err(Step::Finished),
            None => Err(Step::Need(Need::Bytes(wanted))),
        }
    }

    /// The message of `bytes_total` is dealt with, wherever `bytes` end.
    pub(super) fn took(&mut self, bytes: &[u8], bytes_total: usize) -> Step {
        let there = bytes_total.min(bytes.len());
        match u32::try_from(bytes_total - there) {
            Ok(pass) if there > 0 => {
                *self.pass = pass;
                Step::Took(there)
            }
            _ => Step::Finished,
        }
    }
}

/// Whether bytes are the beginning of a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begins {
    Yes,
    /// They are too few to tell.
    Perhaps,
    No,
}

impl Begins {
    pub(super) fn with(bytes: &[u8], prefix: &[u8]) -> Begins {
        if bytes.starts_with(prefix) {
            Begins::Yes
        } else if prefix.starts_with(bytes) {
            Begins::Perhaps
        } else {
            Begins::No
        }
    }

    /// The same, letter case aside; `prefix` is in upper case.
    pub(super) fn with_letters(bytes: &[u8], prefix: &[u8]) -> Begins {
        let common = bytes.len().min(prefix.len());
        if !bytes[..common].eq_ignore_ascii_case(&prefix[..common]) {
            Begins::No
        } else if common == prefix.len() {
            Begins::Yes
        } else {
            Begins::Perhaps
        }
    }

    /// Whether they begin with one of several.
    pub(super) fn with_any(bytes: &[u8], prefixes: &[&[u8]]) -> Begins {
        let mut begins = Begins::No;
        for prefix in prefixes {
            match Begins::with(bytes, prefix) {
                Begins::Yes => return Begins::Yes,
                Begins::Perhaps => begins = Begins::Perhaps,
                Begins::No => {}
            }
        }
        begins
    }

    /// Byte by byte, each by its own rule.
    pub(super) fn by_rules(bytes: &[u8], rules: &[fn(u8) -> bool]) -> Begins {
        if bytes.iter().zip(rules).any(|(byte, is_expected)| !is_expected(*byte)) {
            Begins::No
        } else if bytes.len() < rules.len() {
            Begins::Perhaps
        } else {
            Begins::Yes
        }
    }
}

/// A stage, and whether bytes are its beginning.
type Candidate = (Stage, fn(&[u8]) -> Begins);

const TLS: Candidate = (Stage::Tls(tls::Part::Hello), tls::begins);
const DNS: Candidate = (Stage::Dns, dns::begins_stream);
const KRB5: Candidate = (Stage::Krb5, krb5::begins_stream);
const SMB: Candidate = (Stage::Smb, smb::begins);
const POSTGRESQL: Candidate = (Stage::Postgresql(postgresql::Part::Startup), postgresql::begins);
const IRC: Candidate = (Stage::Irc, irc::begins);
const IMAP: Candidate = (Stage::Imap(imap::Part::Server), imap::begins);
const HTTP: Candidate = (Stage::Http(http::Part::Head), http::begins);

/// Protocols that begin with a capital letter, those first that are subsets of others.
const LETTERS: &[Candidate] = &[
    (Stage::Sip, sip::begins),
    (Stage::Named(Protocol::Rtsp), signature::rtsp),
    HTTP,
    (Stage::Http2(http2::Part::Preface), http2::begins),
    (Stage::Ssh(ssh::Part::Version), ssh::begins),
    (Stage::Smtp(smtp::Part::Command), smtp::begins),
    IRC,
    (Stage::Pop3(pop3::Part::Client), pop3::begins_client),
    (Stage::Named(Protocol::Vnc), signature::vnc),
    (Stage::Named(Protocol::X11), signature::x11),
];

/// What may begin with this byte. Most bytes begin nothing, and that is what most flows of unknown protocols cost.
fn candidates(first: u8) -> &'static [Candidate] {
    match first {
        0x00 => &[(Stage::Named(Protocol::Thrift), signature::thrift_framed), SMB, POSTGRESQL, KRB5, DNS],
        0x01 | 0x02 | 0x06..=0x0f => &[DNS],
        0x03 => &[(Stage::Rdp, rdp::begins), DNS],
        0x04 => &[(Stage::Socks(socks::Part::Request4), socks::begins4), DNS],
        0x05 => &[
            (Stage::Socks(socks::Part::Greeting), socks::begins5),
            (Stage::Named(Protocol::Dcerpc), signature::dcerpc),
            DNS,
        ],
        0x10 => &[(Stage::Mqtt, mqtt::begins), (Stage::Named(Protocol::Tds), signature::tds), DNS],
        0x12 => &[(Stage::Named(Protocol::Tds), signature::tds)],
        0x13 => &[(Stage::Named(Protocol::BitTorrent), signature::bittorrent)],
        0x16 => &[TLS],
        b'0' => &[(Stage::Ldap, ldap::begins)],
        b'+' => &[(Stage::Pop3(pop3::Part::Server), pop3::begins_server)],
        b'2' => &[(Stage::Greeting(greeting::Part::Server), greeting::begins)],
        b'*' => &[IMAP, (Stage::Named(Protocol::Redis), signature::redis)],
        b':' => &[IRC],
        b'<' => &[(Stage::Named(Protocol::Jabber), signature::jabber)],
        b'@' => &[(Stage::Named(Protocol::Rsync), signature::rsync)],
        b'A'..=b'Z' => LETTERS,
        b'a'..=b'z' => &[
            (Stage::Smtp(smtp::Part::Command), smtp::begins),
            (Stage::Named(Protocol::X11), signature::x11),
            (Stage::Named(Protocol::Memcached), signature::memcached),
        ],
        0x80 => &[
            (Stage::Named(Protocol::Thrift), signature::thrift),
            SMB,
            (Stage::Named(Protocol::Memcached), signature::memcached),
        ],
        0x81 => &[SMB, (Stage::Named(Protocol::Memcached), signature::memcached)],
        0xff => &[
            (Stage::Named(Protocol::Telnet), signature::telnet),
            (Stage::Named(Protocol::Bgp), signature::bgp),
        ],
        _ => &[],
    }
}

/// Protocols whose first byte is a length.
const OF_ANY_BYTE: &[Candidate] = &[
    (Stage::Mysql(mysql::Part::Greeting), mysql::begins),
    (Stage::Named(Protocol::Mongodb), signature::mongodb),
];

/// One step of one direction.
pub(super) fn step(turn: &mut Turn<'_>, bytes: &[u8]) -> Step {
    // Many protocols begin in the clear and then start TLS: by a command and its answer, or at once.
    if bytes[0] == tls::HANDSHAKE && turn.stage.may_start_tls() {
        match tls::begins(bytes) {
            Begins::Yes => *turn.stage = Stage::Tls(tls::Part::Hello),
            Begins::Perhaps => return Step::Need(Need::Bytes(bytes.len() + 1)),
            Begins::No => {}
        }
    }
    match *turn.stage {
        Stage::Unknown => recognise(turn, bytes),
        Stage::Dns => dns::stream(turn, bytes),
        Stage::Ftp(part) => ftp::stream(turn, part, bytes),
        Stage::Greeting(part) => greeting::stream(turn, part, bytes),
        Stage::Http(part) => http::stream(turn, part, bytes),
        Stage::Http2(part) => http2::stream(turn, part, bytes),
        Stage::Imap(part) => imap::stream(turn, part, bytes),
        Stage::Irc => irc::stream(turn, bytes),
        Stage::Krb5 => krb5::stream(turn, bytes),
        Stage::Ldap => ldap::stream(turn, bytes),
        Stage::Mqtt => mqtt::stream(turn, bytes),
        Stage::Mysql(part) => mysql::stream(turn, part, bytes),
        Stage::Named(protocol) => {
            turn.recognise(protocol);
            *turn.other = Stage::Done;
            Step::Finished
        }
        Stage::Pop3(part) => pop3::stream(turn, part, bytes),
        Stage::Postgresql(part) => postgresql::stream(turn, part, bytes),
        Stage::Rdp => rdp::stream(turn, bytes),
        Stage::Sip => sip::stream(turn, bytes),
        Stage::Smb => smb::stream(turn, bytes),
        Stage::Smtp(part) => smtp::stream(turn, part, bytes),
        Stage::Socks(part) => socks::stream(turn, part, bytes),
        Stage::Ssh(part) => ssh::stream(turn, part, bytes),
        Stage::Tls(part) => tls::stream(turn, part, bytes),
        Stage::Done => Step::Finished,
    }
}

impl Stage {
    fn may_start_tls(self) -> bool {
        matches!(
            self,
            Stage::Ftp(_)
                | Stage::Greeting(_)
                | Stage::Imap(_)
                | Stage::Irc
                | Stage::Ldap
                | Stage::Pop3(_)
                | Stage::Postgresql(_)
                | Stage::Rdp
                | Stage::Smtp(_)
        )
    }
}

/// At the beginning of a segment of a direction that was not understood so far.
fn recognise(turn: &mut Turn<'_>, bytes: &[u8]) -> Step {
    match preamble::bytes(bytes) {
        Ok(0) => {}
        Ok(taken) => return Step::Took(taken),
        Err(wanted) => return Step::Need(Need::Bytes(wanted)),
    }
    let mut unsure = false;
    for (stage, begins) in candidates(bytes[0]).iter().chain(OF_ANY_BYTE) {
        match begins(bytes) {
            // What comes before it in the list is a subset of it, and not ruled out yet.
            Begins::Yes if unsure => break,
            Begins::Yes => {
                *turn.stage = *stage;
                return step(turn, bytes);
            }
            Begins::Perhaps => unsure = true,
            Begins::No => {}
        }
    }
    if unsure { Step::Need(Need::Bytes(bytes.len() + 1)) } else { Step::Mistaken }
}
