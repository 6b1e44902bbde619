//! The end of a socket's filter: of some streams no more than their headers is copied.

use std::net::{IpAddr, SocketAddr};

use super::program::{
    ABS, B, H, IND, INSTRUCTIONS_MAX, Instruction, JA, JEQ, JMP, JSET, K, LD, LDX, MSH, RET, W,
};

/// Streams of which headers suffice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shortened {
    /// IP protocol and both ends.
    pub streams: Vec<(u8, SocketAddr, SocketAddr)>,
    /// Every TCP stream that has one of these as an end.
    pub endpoints: Vec<SocketAddr>,
}

/// What is copied: Ethernet, a tag, and the longest headers of IPv4 and TCP.
pub(crate) const HEADERS: u32 = 14 + 4 + 60 + 60;
/// Tests in one program, of which each costs every other frame two instructions. What comes later is copied whole, which
/// costs time and nothing else: a stream by itself takes two, as does an endpoint.
const TESTS_MAX: usize = 32;

/// Where the network header of a frame begins, as a socket's filter sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Ethernet,
    /// The frame begins with it.
    Cooked,
}

impl Frame {
    fn network(self) -> u32 {
        match self {
            Frame::Ethernet => 14,
            Frame::Cooked => 0,
        }
    }

    /// Where the EtherType is: in the frame, or beside it (SKF_AD_OFF + SKF_AD_PROTOCOL, linux/filter.h).
    fn ethertype(self) -> u32 {
        match self {
            Frame::Ethernet => 12,
            Frame::Cooked => 0xffff_f000,
        }
    }
}

/// An address and port on one side of a packet.
type End = (IpAddr, u16);

/// What must hold of a packet: its protocol, the end that sent it, the end that gets it.
type Test = (u8, Option<End>, Option<End>);

const TCP: u8 = 6;
const IPV4: u32 = 0x0800;
const IPV6: u32 = 0x86dd;

/// `wanted` (nothing: every frame), then: [`HEADERS`] bytes of the streams, `keep` of all others.
pub(crate) fn instructions(
    wanted: &[Instruction],
    keep: u32,
    frame: Frame,
    streams: &Shortened,
) -> Vec<Instruction> {
    let mut end = Vec::new();
    let tests = tests(streams);
    if keep > HEADERS && !tests.is_empty() {
        for (ethertype, family) in [(IPV4, IpAddr::is_ipv4 as fn(&IpAddr) -> bool), (IPV6, IpAddr::is_ipv6)] {
            let of_family: Vec<&Test> = tests
                .iter()
                .filter(|(_, from, to)| from.iter().chain(to).all(|(address, _)| family(address)))
                .collect();
            if of_family.is_empty() {
                continue;
            }
            let body = family_tests(&of_family, ethertype == IPV4, frame);
            end.push(load(LD | ABS | H, frame.ethertype()));
            end.push(equal(ethertype, 1, 0));
            end.push(jump(body.len()));
            end.extend(body);
        }
    }
    end.push(give(keep));
    let mut program = wanted.to_vec();
    let length = program.len();
    for (at, instruction) in program.iter_mut().enumerate() {
        if instruction.code == RET | K && instruction.k != 0 {
            *instruction = jump(length - at - 1);
        }
    }
    program.extend(end);
    if program.len() > INSTRUCTIONS_MAX {
        // Copied whole then.
        return if wanted.is_empty() { vec![give(keep)] } else { wanted.to_vec() };
    }
    program
}

fn tests(streams: &Shortened) -> Vec<Test> {
    let end = |address: &SocketAddr| (address.ip().to_canonical(), address.port());
    let of_streams = streams.streams.iter().flat_map(|(protocol, one, other)| {
        let (one, other) = (end(one), end(other));
        [(*protocol, Some(one), Some(other)), (*protocol, Some(other), Some(one))]
    });
    let of_endpoints = streams
        .endpoints
        .iter()
        .flat_map(|endpoint| [(TCP, Some(end(endpoint)), None), (TCP, None, Some(end(endpoint)))]);
    let mixed = |(_, from, to): &Test| matches!((from, to), (Some((a, _)), Some((b, _))) if a.is_ipv4() != b.is_ipv4());
    of_streams.chain(of_endpoints).filter(|test| !mixed(test)).take(TESTS_MAX).collect()
}

/// Falls through to its end when no test holds.
fn family_tests(tests: &[&Test], is_ipv4: bool, frame: Frame) -> Vec<Instruction> {
    let network = frame.network();
    let (protocol_at, addresses_at) = if is_ipv4 { (9, [12, 16]) } else { (6, [8, 24]) };
    // Ports of IPv4 stand behind a header of any length, those of IPv6 behind one of 40 bytes: extension headers name no
    // protocol that is asked for.
    let port = |side: u32| match is_ipv4 {
        true => load(LD | IND | H, network + 2 * side),
        false => load(LD | ABS | H, network + 40 + 2 * side),
    };
    let mut bodies = Vec::new();
    for (protocol, from, to) in tests {
        let mut checks = Vec::new();
        let ends = [(0, from), (1, to)].into_iter().filter_map(|(side, end)| Some((side, (*end)?)));
        for (side, (_, number)) in ends.clone() {
            checks.push((port(side), u32::from(number)));
        }
        for (side, (address, _)) in ends {
            let bytes = match address {
                IpAddr::V4(v4) => v4.octets().to_vec(),
                IpAddr::V6(v6) => v6.octets().to_vec(),
            };
            for (at, word) in (0..).step_by(4).zip(bytes.chunks_exact(4)) {
                let word = word.iter().fold(0, |word, byte| word << 8 | u32::from(*byte));
                let place = network + addresses_at[side as usize] + at;
                checks.push((load(LD | ABS | W, place), word));
            }
        }
        checks.push((load(LD | ABS | B, network + protocol_at), u32::from(*protocol)));
        let left = |done: usize| u8::try_from(2 * (checks.len() - done - 1) + 1).unwrap_or(u8::MAX);
        for (done, (load, value)) in checks.iter().enumerate() {
            bodies.push(*load);
            bodies.push(equal(*value, 0, left(done)));
        }
        bodies.push(give(HEADERS));
    }
    let mut program = Vec::new();
    if is_ipv4 {
        // Of later fragments nothing is known.
        program.push(load(LD | ABS | H, network + 6));
        program.push(Instruction { code: JMP | JSET | K, jump_true: 0, jump_false: 1, k: 0x1fff });
        program.push(jump(1 + bodies.len()));
        program.push(load(LDX | MSH | B, network));
    }
    program.extend(bodies);
    program
}

fn load(code: u16, k: u32) -> Instruction {
    Instruction { code, jump_true: 0, jump_false: 0, k }
}

fn equal(k: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction { code: JMP | JEQ | K, jump_true, jump_false, k }
}

fn jump(over: usize) -> Instruction {
    Instruction { code: JMP | JA, jump_true: 0, jump_false: 0, k: u32::try_from(over).unwrap_or(u32::MAX) }
}

fn give(bytes: u32) -> Instruction {
    Instruction { code: RET | K, jump_true: 0, jump_false: 0, k: bytes }
}

#[cfg(test)]
mod tests {
    use super::super::Program;
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn packet(from: SocketAddr, to: SocketAddr, protocol: u8, options: usize, fragment: u16) -> Vec<u8> {
        let mut packet = vec![2; 12];
        match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                packet.extend([0x08, 0, 0x45 + (options / 4) as u8, 0, 5, 220, 0, 1]);
                packet.extend(fragment.to_be_bytes());
                packet.extend([64, protocol, 0, 0]);
                packet.extend(from.octets());
                packet.extend(to.octets());
                packet.extend(vec![1; options]);
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                packet.extend([0x86, 0xdd, 0x60, 0, 0, 0, 5, 180, protocol, 64]);
                packet.extend(from.octets());
                packet.extend(to.octets());
            }
            _ => unreachable!("of one family"),
        }
        packet.extend(from.port().to_be_bytes());
        packet.extend(to.port().to_be_bytes());
        packet.resize(1514, 7);
        packet
    }

    fn kept(wanted: &[Instruction], keep: u32, streams: &Shortened, packet: &[u8]) -> u32 {
        let program = Program::new(instructions(wanted, keep, Frame::Ethernet, streams)).unwrap();
        program.run(packet, packet.len() as u32)
    }

    fn streams() -> Shortened {
        Shortened {
            streams: vec![
                (6, address("10.0.0.1:40000"), address("10.0.0.2:3128")),
                (17, address("10.0.0.1:5000"), address("10.0.0.3:514")),
            ],
            endpoints: vec![address("10.0.0.9:7440"), address("[fd00::9]:7440")],
        }
    }

    #[test]
    fn headers_of_the_streams_and_all_of_the_others() {
        for (from, to, protocol, is_short) in [
            ("10.0.0.1:40000", "10.0.0.2:3128", 6, true),
            ("10.0.0.1:40000", "10.0.0.2:3128", 17, false),
            ("10.0.0.1:40001", "10.0.0.2:3128", 6, false),
            ("10.0.0.1:40000", "10.0.0.3:3128", 6, false),
            ("10.0.0.1:5000", "10.0.0.3:514", 17, true),
            ("10.7.7.7:1", "10.0.0.9:7440", 6, true),
            ("10.7.7.7:1", "10.0.0.9:7440", 17, false),
            ("10.7.7.7:7440", "10.0.0.9:1", 6, false),
            ("[fd00::1]:1", "[fd00::9]:7440", 6, true),
            ("[fd00::1]:7440", "[fd00::9]:1", 6, false),
            ("[fd00::1]:1", "[fd00::8]:7440", 6, false),
        ] {
            for (from, to) in [(from, to), (to, from)] {
                for options in [0, 4, 40] {
                    let packet = packet(address(from), address(to), protocol, options, 0);
                    let expected = if is_short { HEADERS } else { 9000 };
                    assert_eq!(kept(&[], 9000, &streams(), &packet), expected, "{from} {to} {options}");
                }
            }
        }
        let later = packet(address("10.7.7.7:1"), address("10.0.0.9:7440"), 6, 0, 100);
        assert_eq!(kept(&[], 9000, &streams(), &later), 9000, "a later fragment has no ports");
        for len in 0..60 {
            kept(&[], 9000, &streams(), &later[..len]);
        }
    }

    #[test]
    fn what_was_filtered_stays_filtered_and_a_short_slice_stays_short() {
        let own = packet(address("10.7.7.7:1"), address("10.0.0.9:7440"), 6, 0, 0);
        let other = packet(address("10.7.7.7:1"), address("10.0.0.9:80"), 6, 0, 0);
        // Destination port 80 only.
        let wanted = [load(LD | ABS | H, 36), equal(80, 0, 1), give(9000), give(0)];
        assert_eq!(kept(&wanted, 9000, &streams(), &own), 0);
        assert_eq!(kept(&wanted, 9000, &streams(), &other), 9000);
        let wanted = [load(LD | ABS | H, 36), equal(80, 1, 0), give(9000), give(0)];
        assert_eq!(kept(&wanted, 9000, &streams(), &own), HEADERS);
        assert_eq!(kept(&[], 96, &streams(), &own), 96);
    }

    #[test]
    fn a_program_stays_in_bounds_whatever_there_is_of_streams() {
        let many = |n: u16| SocketAddr::new([10, 1, (n >> 8) as u8, n as u8].into(), n);
        let streams = Shortened { streams: Vec::new(), endpoints: (1..1000).map(many).collect() };
        let program = instructions(&[], 9000, Frame::Ethernet, &streams);
        assert!(program.len() < 300, "{}", program.len());
        Program::new(program).unwrap();
        let long = vec![give(9000); INSTRUCTIONS_MAX];
        assert_eq!(instructions(&long, 9000, Frame::Ethernet, &streams), long);
        assert_eq!(instructions(&[], 9000, Frame::Cooked, &Shortened::default()), [give(9000)]);
    }
}
