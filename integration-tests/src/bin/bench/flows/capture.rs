//! Capture files made here: the same packets in every run, in the order in which many hosts talk at once.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Result;

/// A multiplicative generator (Knuth's constants): the same numbers in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((u128::from(self.0) * u128::from(bound)) >> 64) as u64
    }
}

/// How much of what a capture has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mix {
    pub(crate) flows: u32,
    /// Flows under way at once.
    pub(crate) at_once: usize,
    /// Whether a flow is more than one datagram.
    pub(crate) talk: bool,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Written {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

#[derive(Clone, Copy)]
enum Kind {
    Http,
    Tls,
    Dns,
    /// Long, and of nothing that anybody can read.
    Stream,
    Datagram,
}

struct Flow {
    number: u32,
    kind: Kind,
    step: u32,
    steps: u32,
    /// Next sequence numbers, of the client and of the server.
    seq: [u32; 2],
}

impl Flow {
    fn new(number: u32, talk: bool, random: &mut Random) -> Flow {
        let (kind, data) = match random.below(100) {
            _ if !talk => (Kind::Datagram, 1),
            0..25 => (Kind::Http, 5 + random.below(12)),
            25..55 => (Kind::Tls, 8 + random.below(24)),
            55..90 => (Kind::Dns, 2),
            _ => (Kind::Stream, 20 + random.below(200)),
        };
        let around = if matches!(kind, Kind::Http | Kind::Tls) { 6 } else { 0 };
        Flow { number, kind, step: 0, steps: data as u32 + around, seq: [number, !number] }
    }

    fn is_tcp(&self) -> bool {
        matches!(self.kind, Kind::Http | Kind::Tls)
    }
}

const SYN: u8 = 2;
const PUSH_ACK: u8 = 0x18;
const ACK: u8 = 0x10;
const FIN_ACK: u8 = 0x11;

/// Writes packets and counts them.
struct Pcap {
    file: BufWriter<File>,
    now_us: u64,
    written: Written,
    frame: Vec<u8>,
    noise: Vec<u8>,
}

impl Pcap {
    fn create(path: &Path, random: &mut Random) -> Result<Pcap> {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
        for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 262_144, 1] {
            file.write_all(&word.to_le_bytes())?;
        }
        let noise = (0..1 << 16).map(|_| random.below(256) as u8).collect();
        let now_us = 1_760_000_000_000_000;
        Ok(Pcap { file, now_us, written: Written::default(), frame: Vec::new(), noise })
    }

    /// `flags`: None for UDP.
    fn packet(
        &mut self,
        flow: &mut Flow,
        from_client: bool,
        flags: Option<u8>,
        payload: &[u8],
    ) -> Result<()> {
        let (client, server) = endpoints(flow);
        let (from, to) = if from_client { (client, server) } else { (server, client) };
        let header = if flags.is_some() { 20 } else { 8 };
        let length = 20 + header + payload.len();
        let frame = &mut self.frame;
        frame.clear();
        let macs = if from_client { [2, 1] } else { [1, 2] };
        for last in macs {
            frame.extend([2, 0, 0, 0, 0, last]);
        }
        frame.extend([8, 0, 0x45, 0]);
        frame.extend((length as u16).to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, if flags.is_some() { 6 } else { 17 }, 0, 0]);
        frame.extend(from.0);
        frame.extend(to.0);
        let sum = checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame.extend(from.1.to_be_bytes());
        frame.extend(to.1.to_be_bytes());
        if let Some(flags) = flags {
            let (mine, theirs) = (usize::from(!from_client), usize::from(from_client));
            frame.extend(flow.seq[mine].to_be_bytes());
            frame.extend(if flags == SYN { [0; 4] } else { flow.seq[theirs].to_be_bytes() });
            frame.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
            let counted = payload.len() as u32 + u32::from(flags & 3 != 0);
            flow.seq[mine] = flow.seq[mine].wrapping_add(counted);
        } else {
            frame.extend(((payload.len() + 8) as u16).to_be_bytes());
            frame.extend([0, 0]);
        }
        frame.extend(payload);
        // The least that Ethernet carries.
        frame.resize(frame.len().max(60), 0);
        self.write()
    }

    fn write(&mut self) -> Result<()> {
        self.now_us += 1;
        let len = self.frame.len() as u32;
        for word in [(self.now_us / 1_000_000) as u32, (self.now_us % 1_000_000) as u32, len, len] {
            self.file.write_all(&word.to_le_bytes())?;
        }
        self.file.write_all(&self.frame)?;
        self.written.packets += 1;
        self.written.bytes += u64::from(len);
        Ok(())
    }

    fn noise(&self, bytes: usize, random: &mut Random) -> Vec<u8> {
        let at = random.below((self.noise.len() - bytes) as u64) as usize;
        self.noise[at..at + bytes].to_vec()
    }
}

fn checksum(header: &[u8]) -> u16 {
    let mut sum: u32 = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

type Endpoint = ([u8; 4], u16);

fn endpoints(flow: &Flow) -> (Endpoint, Endpoint) {
    let number = flow.number;
    let port = match flow.kind {
        Kind::Http => 80,
        Kind::Tls => 443,
        Kind::Dns => 53,
        Kind::Stream | Kind::Datagram => 9_000,
    };
    let client =
        ([10, (number >> 16) as u8, (number >> 8) as u8, number as u8], 32_768 + (number % 28_000) as u16);
    let server = ([198, 18, (number / 7 % 16) as u8, (number % 250) as u8], port);
    (client, server)
}

/// The next packet of a flow.
fn step(flow: &mut Flow, pcap: &mut Pcap, random: &mut Random) -> Result<()> {
    let (at, last) = (flow.step, flow.steps);
    flow.step += 1;
    if flow.is_tcp() {
        let left = last - at;
        match (at, left) {
            (0, _) => return pcap.packet(flow, true, Some(SYN), &[]),
            (1, _) => return pcap.packet(flow, false, Some(SYN | ACK), &[]),
            (2, _) => return pcap.packet(flow, true, Some(ACK), &[]),
            (_, 3) => return pcap.packet(flow, true, Some(FIN_ACK), &[]),
            (_, 2) => return pcap.packet(flow, false, Some(FIN_ACK), &[]),
            (_, 1) => return pcap.packet(flow, true, Some(ACK), &[]),
            _ => {}
        }
    }
    match (flow.kind, at) {
        (Kind::Http, 3) => {
            let request = format!(
                "GET /path/{}/index.html?q={} HTTP/1.1\r\nHost: www{}.example.net\r\nUser-Agent: bench/{}.0\r\nAccept: */*\r\n\r\n",
                flow.number % 1000,
                flow.number,
                flow.number % 5000,
                flow.number % 9,
            );
            pcap.packet(flow, true, Some(PUSH_ACK), request.as_bytes())
        }
        (Kind::Http, 4) => {
            let head = "HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: text/html\r\nContent-Length: 100000\r\n\r\n";
            let mut answer = head.as_bytes().to_vec();
            answer.extend(pcap.noise(1000, random));
            pcap.packet(flow, false, Some(PUSH_ACK), &answer)
        }
        (Kind::Tls, 3) => {
            let hello = client_hello(&format!("host{}.example.org", flow.number % 20_000));
            pcap.packet(flow, true, Some(PUSH_ACK), &hello)
        }
        (Kind::Tls, 4) => {
            let hello = server_hello();
            pcap.packet(flow, false, Some(PUSH_ACK), &hello)
        }
        (Kind::Dns, 0) => {
            let query = dns(flow.number, false);
            pcap.packet(flow, true, None, &query)
        }
        (Kind::Dns, _) => {
            let answer = dns(flow.number, true);
            pcap.packet(flow, false, None, &answer)
        }
        (Kind::Datagram, _) => pcap.packet(flow, true, None, &[0; 18]),
        // The sizes of the simple Internet mix, 7:4:1; answers are small.
        (kind, _) => {
            let flags = matches!(kind, Kind::Http | Kind::Tls).then_some(ACK);
            let from_client = random.below(12) >= 7;
            let bytes = match random.below(5) {
                0 => 1446,
                1..=3 => 536,
                _ => 18,
            };
            let payload = if from_client { Vec::new() } else { pcap.noise(bytes, random) };
            pcap.packet(flow, from_client, flags, &payload)
        }
    }
}

/// RFC 1035, 4: one question for an address, and its answer.
fn dns(number: u32, answer: bool) -> Vec<u8> {
    let mut message = (number as u16).to_be_bytes().to_vec();
    message.extend(if answer {
        [0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]
    } else {
        [1, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    });
    for label in [&format!("name{}", number % 50_000), "example", "com"] {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    if answer {
        message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 0, 0, 4, 198, 18, 0, 1]);
    }
    message
}

/// A record around a handshake message (RFC 8446, 5.1 and 4).
fn handshake(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![22, 3, 1];
    message.extend((body.len() as u16 + 4).to_be_bytes());
    message.extend([kind, 0]);
    message.extend((body.len() as u16).to_be_bytes());
    message.extend(body);
    message
}

fn extension(number: u16, data: &[u8]) -> Vec<u8> {
    let mut all = number.to_be_bytes().to_vec();
    all.extend((data.len() as u16).to_be_bytes());
    all.extend(data);
    all
}

/// RFC 8446, 4.1.2, with a name (RFC 6066, 3).
fn client_hello(host: &str) -> Vec<u8> {
    let mut name = (host.len() as u16 + 3).to_be_bytes().to_vec();
    name.push(0);
    name.extend((host.len() as u16).to_be_bytes());
    name.extend(host.as_bytes());
    let extensions = [
        extension(0, &name),
        extension(10, &[0, 4, 0, 29, 0, 23]),
        extension(13, &[0, 4, 4, 3, 8, 4]),
        extension(16, &[0, 12, 2, b'h', b'2', 8, b'h', b't', b't', b'p', b'/', b'1', b'.', b'1']),
        extension(43, &[4, 3, 4, 3, 3]),
    ]
    .concat();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, 6, 0x13, 1, 0x13, 2, 0xc0, 0x2f, 1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    handshake(1, &body)
}

fn server_hello() -> Vec<u8> {
    let extensions = extension(43, &[3, 4]);
    let mut body = vec![3, 3];
    body.extend([9; 32]);
    body.extend([0, 0x13, 1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    handshake(2, &body)
}

/// Writes a capture file, flows of it under way at once taking turns at random, a microsecond apart.
pub(crate) fn write(path: &Path, mix: Mix) -> Result<Written> {
    let mut random = Random(42);
    let mut pcap = Pcap::create(path, &mut random)?;
    let mut flows: Vec<Flow> = Vec::with_capacity(mix.at_once);
    let mut begun = 0;
    loop {
        while flows.len() < mix.at_once && begun < mix.flows {
            flows.push(Flow::new(begun, mix.talk, &mut random));
            begun += 1;
        }
        if flows.is_empty() {
            break;
        }
        let at = random.below(flows.len() as u64) as usize;
        step(&mut flows[at], &mut pcap, &mut random)?;
        if flows[at].step == flows[at].steps {
            flows.swap_remove(at);
        }
    }
    pcap.file.flush()?;
    Ok(pcap.written)
}
