//! A network of a test's own: an anonymous namespace that dies with the test's thread, a veth pair, and a sender.
#![allow(
    unsafe_code,
    dead_code,
    unreachable_pub,
    reason = "shared by several test programs, each of which uses a part"
)]

use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use gnomon_capture::{Frame, Source, SourceStats, each};
use gnomon_clock::{Clock, KernelClock};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

/// A local experimental EtherType (IEEE 802): no stack answers to it.
pub const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

/// Runs `test` on a thread in a network namespace of its own, which the kernel removes when the thread ends, however it
/// ends. Without the privilege it says so and passes.
pub fn in_private_namespace(test: impl FnOnce() + Send + 'static) {
    let result = std::thread::spawn(move || {
        // SAFETY: no pointers; affects this thread only.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            println!("SKIPPED: no network namespace: {}", std::io::Error::last_os_error());
            return;
        }
        if Command::new("ip").arg("-V").stdout(Stdio::null()).status().is_err() {
            println!("SKIPPED: no ip(8), which makes the interfaces of this test");
            return;
        }
        // No router solicitations among the counted frames.
        for which in ["all", "default"] {
            let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"), "1");
        }
        ip("link set lo up");
        test();
    })
    .join();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

/// Leaves this thread, which ends with its test, the capabilities that the agent has under systemd. False, loudly, where that
/// cannot be.
pub fn with_capabilities_of_the_unit() -> bool {
    let unit = include_str!("../../../../deploy/systemd/gnomon-agent.service");
    let granted = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
    let mut effective = CapabilitySet::empty();
    for name in granted.split_whitespace().filter_map(|name| name.strip_prefix("CAP_")) {
        effective |= CapabilitySet::from_name(name).expect("a capability of capabilities(7)");
    }
    let sets = CapabilitySets { effective, permitted: effective, inheritable: CapabilitySet::empty() };
    let dropped = set_capabilities(None, sets);
    if let Err(error) = dropped {
        println!("SKIPPED: capabilities cannot be dropped here: {error}");
    }
    dropped.is_ok()
}

/// What ip(8) says.
pub fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("ip(8) runs");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A veth pair `tx0`/`rx0` that is up.
pub fn veth(mtu: u32, queues: u32) {
    ip(&format!(
        "link add tx0 mtu {mtu} numtxqueues {queues} numrxqueues {queues} type veth \
         peer name rx0 mtu {mtu} numtxqueues {queues} numrxqueues {queues}"
    ));
    ip("link set tx0 up");
    ip("link set rx0 up");
}

/// A second namespace, held by a child process that dies with this value.
pub struct OtherHost(Child);

impl OtherHost {
    pub fn new() -> OtherHost {
        let child = Command::new("unshare")
            .args(["-n", "sleep", "120"])
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare(1) runs");
        let host = OtherHost(child);
        // Its namespace is ready once it differs from ours.
        let ours = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        wait_for(Duration::from_secs(5), || {
            std::fs::read_link(format!("/proc/{}/ns/net", host.pid())).is_ok_and(|theirs| theirs != ours)
        });
        host
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Runs a shell command there; true when it succeeded.
    pub fn run(&self, command: &str) -> bool {
        Command::new("nsenter")
            .args(["-t", &self.pid().to_string(), "-n", "timeout", "10", "bash", "-c", command])
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }
}

/// Answers `connections` TCP clients on `address` with the line they sent, as a host that has its traffic does.
pub fn echo_server(address: &str, connections: usize) {
    let listener = std::net::TcpListener::bind(address).expect("the address is ours");
    std::thread::spawn(move || {
        for stream in listener.incoming().take(connections).flatten() {
            let mut line = String::new();
            let _ = BufReader::new(&stream).read_line(&mut line);
            let _ = (&stream).write_all(line.as_bytes());
        }
    });
}

/// The client of [`echo_server`] for [`OtherHost::run`].
pub fn echo_client(host: &str, port: u16) -> String {
    format!("exec 3<>/dev/tcp/{host}/{port} && echo hello >&3 && read -r line <&3 && [ \"$line\" = hello ]")
}

impl Drop for OtherHost {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn wait_for(limit: Duration, mut done: impl FnMut() -> bool) {
    let start = KernelClock.monotonic();
    while !done() {
        assert!(KernelClock.monotonic().since(start) < limit.as_nanos() as u64, "not within {limit:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A raw AF_PACKET sender. With `vnet`, each frame is preceded by a virtio_net_hdr.
pub struct Sender {
    fd: OwnedFd,
}

impl Sender {
    pub fn new(interface: &str, vnet: bool) -> Sender {
        let index = gnomon_capture::interface::describe(interface).unwrap().index;
        // SAFETY: no pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        // SAFETY: just opened, owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        if vnet {
            let on = 1_i32;
            // SAFETY: an int of the length given.
            let result = unsafe {
                libc::setsockopt(
                    fd.as_raw_fd(),
                    libc::SOL_PACKET,
                    libc::PACKET_VNET_HDR,
                    (&raw const on).cast(),
                    4,
                )
            };
            assert_eq!(result, 0);
        }
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: 0,
            sll_ifindex: index.cast_signed(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: a live sockaddr_ll of its own size.
        let result = unsafe {
            libc::bind(
                fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        Sender { fd }
    }

    /// True when the kernel took the frame.
    pub fn send(&self, frame: &[u8]) -> bool {
        // SAFETY: a live slice and its length.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        sent == frame.len() as isize
    }

    /// Sends `count` numbered frames of `len` bytes, beginning with number `first`; returns how many were taken.
    pub fn send_numbered(&self, first: u64, count: u64, len: usize) -> u64 {
        (first..first + count).filter(|number| self.send(&numbered(*number, len))).count() as u64
    }
}

/// An Ethernet frame that carries its number and is filled with bytes that follow from it.
pub fn numbered(number: u64, len: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1];
    frame.extend(ETHERTYPE);
    frame.extend(number.to_be_bytes());
    frame.extend((frame.len()..len).map(|at| fill(number, at)));
    frame
}

/// What the tests of capture filters let pass: half of what [`send_filtered`] sends.
pub const FILTER: &str = "udp dst port 1009 or vlan 7";

/// `rounds` times four frames, of which [`FILTER`] lets the first and the third pass.
pub fn send_filtered(sender: &Sender, rounds: u64) {
    for _ in 0..rounds {
        for (vlan, port) in [(None, 1009), (None, 1010), (Some(7), 1010), (Some(8), 1010)] {
            assert!(sender.send(&udp_frame(vlan, port)));
        }
    }
}

/// A UDP datagram to a port, of 142 bytes and those of its tag.
fn udp_frame(vlan: Option<u16>, port: u16) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1];
    if let Some(id) = vlan {
        frame.extend([0x81, 0]);
        frame.extend(id.to_be_bytes());
    }
    frame.extend([8, 0, 0x45, 0, 0, 128, 0, 0, 0, 0, 64, 17, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2]);
    frame.extend([0x10, 0]);
    frame.extend(port.to_be_bytes());
    frame.extend([0, 108, 0, 0]);
    frame.resize(frame.len() + 100, 7);
    frame
}

fn fill(number: u64, at: usize) -> u8 {
    (number as usize).wrapping_mul(31).wrapping_add(at) as u8
}

/// The number of a frame made by [`numbered`] with every byte right, None for a foreign frame.
pub fn number_of(frame: &Frame<'_>) -> Option<u64> {
    let data = frame.data;
    if data.get(12..14)? != ETHERTYPE {
        return None;
    }
    let number = u64::from_be_bytes(data.get(14..22)?.try_into().ok()?);
    for (at, byte) in data.iter().enumerate().skip(22) {
        assert_eq!(*byte, fill(number, at), "frame {number} of {} bytes differs at {at}", data.len());
    }
    Some(number)
}

/// What a reader saw.
#[derive(Debug, Default)]
pub struct Seen {
    pub numbers: Vec<u64>,
    pub foreign: u64,
    pub lengths: Vec<u32>,
    pub raw_out_of_order: u64,
}

/// Drains until nothing has come for `quiet`.
pub fn drain_all(source: &mut Source, quiet: Duration, seen: &mut Seen) {
    let mut last = KernelClock.monotonic();
    let mut newest = 0;
    while KernelClock.monotonic().since(last) < quiet.as_nanos() as u64 {
        let count = source
            .drain(
                256,
                each(|frame| {
                    match number_of(&frame) {
                        Some(number) => seen.numbers.push(number),
                        None => seen.foreign += 1,
                    }
                    seen.lengths.push(frame.original_len);
                    seen.raw_out_of_order += u64::from(frame.stamp.raw.0 < newest);
                    newest = frame.stamp.raw.0;
                }),
            )
            .expect("draining");
        if count > 0 {
            last = KernelClock.monotonic();
        } else {
            source.wait(Duration::from_millis(20)).expect("waiting");
        }
    }
}

/// Asserts that `first..first + count` were seen once each, in order.
pub fn assert_complete(seen: &Seen, first: u64, count: u64, stats: &SourceStats) {
    let expected: Vec<u64> = (first..first + count).collect();
    assert!(
        seen.numbers == expected,
        "saw {} of {count} frames ({} foreign); {stats:?}",
        seen.numbers.len(),
        seen.foreign
    );
}

/// A 54-byte Ethernet, IPv4 and TCP header before `payload` bytes, and the virtio_net_hdr that makes the kernel treat it
/// as one TSO frame of segments of `segment` bytes.
pub fn gso_tcp(payload: usize, segment: u16) -> Vec<u8> {
    let mut frame = vec![1_u8, 1]; // VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4
    frame.extend(54_u16.to_ne_bytes());
    frame.extend(segment.to_ne_bytes());
    frame.extend(34_u16.to_ne_bytes());
    frame.extend(16_u16.to_ne_bytes());
    frame.extend([2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 0]);
    let total = u16::try_from(40 + payload).expect("an IPv4 packet");
    let mut ip = vec![0x45, 0];
    ip.extend(total.to_be_bytes());
    ip.extend([0, 1, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    let mut sum: u32 = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    sum = (sum & 0xffff) + (sum >> 16);
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    frame.extend(ip);
    // Ports, sequence, acknowledgement, offset 5, PSH|ACK, window, checksum (of the pseudo header), urgent.
    frame.extend([0x9c, 0x40, 0x1f, 0x90, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0]);
    frame.extend((0..payload).map(|at| at as u8));
    frame
}
