//! The interpreter's verdicts are the kernel's, and damaged programs and frames do no harm.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, OwnedFd};

use proptest::prelude::*;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};

use super::*;

const FILTERS: [&str; 16] = [
    "tcp port 80",
    "tcp port 80 or vlan",
    "udp",
    "ip host 10.0.0.1 and not tcp",
    "src net 10.0.0.0/8 and dst portrange 50-100",
    "ip6 and udp port 53",
    "vlan 7 and tcp",
    "vlan and vlan and udp",
    "arp",
    "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0",
    "ip[2:2] - ((ip[0]&0xf)<<2) > 100",
    "icmp or (greater 500 and less 900)",
    "ether src 02:02:02:02:02:02",
    "udp[4:2] % 3 = 1 or udp[8] / 3 = 7",
    "mpls and ip",
    "not ip",
];

fn compiled(filter: &str) -> Option<Program> {
    match compile(filter, Frames::OfLink(LinkType::Ethernet)) {
        Ok(program) => Some(program),
        Err(FilterError::NoCompiler { reason }) => {
            println!("SKIPPED: no libpcap ({reason})");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// The kernel, running a program over the datagrams of a socket.
struct Kernel {
    from: OwnedFd,
    to: OwnedFd,
}

impl Kernel {
    fn new(program: &Program) -> Kernel {
        let (from, to) =
            socketpair(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::empty(), None).unwrap();
        let mut instructions: Vec<libc::sock_filter> = program
            .instructions()
            .iter()
            .map(|i| libc::sock_filter { code: i.code, jt: i.jump_true, jf: i.jump_false, k: i.k })
            .collect();
        let filter =
            libc::sock_fprog { len: instructions.len() as libc::c_ushort, filter: instructions.as_mut_ptr() };
        // SAFETY: `filter` and the instructions it points to live through the call, of the sizes given.
        let result = unsafe {
            libc::setsockopt(
                to.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                (&raw const filter).cast(),
                size_of::<libc::sock_fprog>() as libc::socklen_t,
            )
        };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        Kernel { from, to }
    }

    fn run(&self, data: &[u8]) -> usize {
        send(&self.from, data, SendFlags::empty()).unwrap();
        let mut buffer = vec![0; data.len() + 1];
        match recv(&self.to, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((bytes, _)) => bytes,
            Err(error) => {
                assert_eq!(error, rustix::io::Errno::AGAIN);
                0
            }
        }
    }
}

/// Frames that get far into filters: headers of the usual protocols with some bytes changed and the end cut off.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let link = prop_oneof![
        Just(vec![]),
        Just(vec![0x81, 0, 0, 7]),
        Just(vec![0x88, 0xa8, 0, 7, 0x81, 0, 0, 9]),
        Just(vec![0x88, 0x47, 0, 0, 0x11, 0x40]),
    ];
    let protocol = prop_oneof![Just(6u8), Just(17), Just(1), any::<u8>()];
    let port = prop_oneof![Just(80u16), Just(53), 0..200u16, any::<u16>()];
    let v4 = (protocol, any::<u16>(), port.clone(), port).prop_map(|(protocol, length, from, to)| {
        let mut data = vec![0x08, 0, 0x45, 0];
        data.extend_from_slice(&length.to_be_bytes());
        data.extend_from_slice(&[0, 1, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        data.extend_from_slice(&from.to_be_bytes());
        data.extend_from_slice(&to.to_be_bytes());
        data
    });
    let v6 = (any::<u16>(), any::<bool>()).prop_map(|(port, dns)| {
        let mut data = vec![0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 17, 64];
        data.extend_from_slice(&[0x20; 32]);
        data.extend_from_slice(&if dns { 53 } else { port }.to_be_bytes());
        data.extend_from_slice(&[0, 53]);
        data
    });
    let other = prop_oneof![
        Just(vec![0x08, 0x06, 0, 1, 8, 0]),
        Just(vec![0x88, 0x47, 0, 0, 0x11, 0x40, 0x45, 0]),
        any::<[u8; 2]>().prop_map(Vec::from),
    ];
    let rest = prop::collection::vec(any::<u8>(), 0..1000);
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    (
        link,
        prop_oneof![4 => v4, 2 => v6, 1 => other],
        rest,
        changes,
        any::<prop::sample::Index>(),
        any::<bool>(),
    )
        .prop_map(|(link, inside, rest, changes, cut, is_cut)| {
            let mut data = [&[2; 12][..], &link, &inside, &rest].concat();
            for (at, value) in changes {
                let at = at.index(data.len().min(60));
                data[at] = value;
            }
            if is_cut {
                data.truncate(cut.index(data.len()).max(1));
            }
            data
        })
}

#[test]
fn verdicts_are_the_kernels() {
    use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
    for filter in FILTERS {
        let Some(program) = compiled(filter) else { return };
        let kernel = Kernel::new(&program);
        let (mut passed, mut left_out) = (0, 0);
        // The same frames each time: among others a rare filter would now and then meet none of its own.
        let config = Config { cases: 800, failure_persistence: None, ..Config::default() };
        let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
        let counts = std::cell::RefCell::new((&mut passed, &mut left_out));
        runner
            .run(&frame(), |data| {
                let here = (program.run(&data, data.len() as u32) as usize).min(data.len());
                prop_assert_eq!(here, kernel.run(&data), "{} of {:02x?}", filter, data);
                let mut counts = counts.borrow_mut();
                *(if here > 0 { &mut *counts.0 } else { &mut *counts.1 }) += 1;
                Ok(())
            })
            .unwrap();
        assert!(passed > 0 && left_out > 0, "{filter}: {passed} passed, {left_out} did not");
    }
}

#[test]
fn what_is_kept_can_be_said() {
    let Some(program) = compiled("udp") else { return };
    let mut data = [&[2; 12][..], &[8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17], &[0; 30]].concat();
    assert_eq!(program.clone().keeping(u32::MAX).run(&data, 54), u32::MAX);
    assert_eq!(program.clone().keeping(96).run(&data, 54), 96);
    data[23] = 6;
    assert_eq!(program.keeping(96).run(&data, 54), 0);
}

#[test]
fn mistakes_are_said() {
    if compiled("ip").is_none() {
        return;
    }
    let error = check("tcp prt 80").unwrap_err().to_string();
    assert!(error.contains("tcp prt 80") && error.contains("syntax error"), "{error}");
    assert_eq!(check("  "), Err(FilterError::Empty));
    assert_eq!(check(&" ".repeat(5000)), Err(FilterError::TooLong(5000)));
    assert!(check("ip\0").is_err());
}

#[test]
fn a_sieve_counts_what_it_leaves_out_and_learns_link_types() {
    let Ok(mut sieve) = Sieve::new("udp") else {
        println!("SKIPPED: no libpcap");
        return;
    };
    let ip = [&[0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17][..], &[0; 18]].concat();
    let tcp = [&[0x45, 0, 0, 28, 0, 0, 0, 0, 64, 6][..], &[0; 18]].concat();
    let ethernet = [&[2; 12][..], &[8, 0], &ip].concat();
    let frame = |link, data| Frame {
        stamp: Default::default(),
        link,
        original_len: 100,
        data,
        vlan: None,
        outgoing: false,
    };
    let mut frames = Vec::new();
    for _ in 0..40 {
        frames.push(frame(LinkType::RawIp, &ip[..]));
        frames.push(frame(LinkType::RawIp, &tcp));
        frames.push(frame(LinkType::Ethernet, &ethernet));
    }
    let mut passed = 0;
    sieve.sift(&frames, |frames| passed += frames.len());
    assert_eq!((passed, sieve.filtered(), sieve.failed()), (80, (40, 4000), None));
    // A link type that libpcap has no words for: nothing passes, and why is said.
    sieve.sift(&[frame(LinkType::Other(60_000), &ip)], |_| panic!("passed"));
    assert!(sieve.failed().is_some());
}

fn instruction() -> impl Strategy<Value = Instruction> {
    let code = prop_oneof![0..0xb8u16, any::<u16>()];
    let k = prop_oneof![0..64u32, any::<u32>()];
    (code, 0..4u8, 0..4u8, k).prop_map(|(code, jump_true, jump_false, k)| Instruction {
        code,
        jump_true,
        jump_false,
        k,
    })
}

proptest! {
    #[test]
    fn no_program_and_no_frame_does_harm(
        mut list in prop::collection::vec(instruction(), 0..40),
        data in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        list.push(Instruction { code: 0x16, jump_true: 0, jump_false: 0, k: 0 });
        // Most lists are no programs: what is left of one without its first fault may be.
        while let Err(error) = Program::new(list.clone()) {
            let at = match error {
                Malformed::Unknown(at)
                | Malformed::Jump(at)
                | Malformed::DivisionByZero(at)
                | Malformed::Memory(at) => at,
                Malformed::Length(_) | Malformed::NoReturn => break,
            };
            list.remove(at);
        }
        if let Ok(program) = Program::new(list) {
            program.run(&data, u32::MAX);
        }
    }
}

#[test]
fn what_is_no_program_is_refused() {
    let i = |code, k| Instruction { code, jump_true: 0, jump_false: 0, k };
    let end = i(0x06, 1);
    for (list, error) in [
        (vec![], Malformed::Length(0)),
        (vec![end; 4097], Malformed::Length(4097)),
        (vec![i(0x00, 1)], Malformed::NoReturn),
        (vec![i(0x05, 1), end], Malformed::Jump(0)),
        (vec![i(0x05, u32::MAX), end], Malformed::Jump(0)),
        (vec![Instruction { jump_false: 1, ..i(0x15, 0) }, end], Malformed::Jump(0)),
        (vec![i(0x34, 0), end], Malformed::DivisionByZero(0)),
        (vec![end, i(0x60, 16), end], Malformed::Memory(1)),
        (vec![i(0x02, 16), end], Malformed::Memory(0)),
        (vec![i(0xff, 0), end], Malformed::Unknown(0)),
    ] {
        assert_eq!(Program::new(list), Err(error));
    }
}
