//! Floods that make an agent hold as much as it can: every packet a new flow, lone fragments, segments that wait for earlier
//! ones. Its memory stays within a bound, and is given back when it is over.
//!
//! `GNOMON_FLOOD_SECONDS=3600` runs it for an hour, at the rate that this machine can send.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, Result};
use gnomon_clock::{Clock, KernelClock};
use gnomon_integration_tests::fleet::{Agent, built_binaries, eventually};
use gnomon_integration_tests::netns::{Netns, skip};
use gnomon_integration_tests::traffic;
use rustix::net::ipproto::RAW;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, sendto, socket_with};

const SECONDS: u64 = 12;
/// Under a flood, with the default limits of one worker.
const FLOODED_BYTES_MAX: u64 = 1 << 30;
/// What a flood must take for this test to say anything, beyond what may be left.
const GROWTH_BYTES_MIN: u64 = 16 << 20;
const FLOODS_MAX: u32 = 4;
/// Above the idle figure, after it.
const LEFT_BYTES_MAX: u64 = 48 << 20;
/// From the end of the flood: 8 s until its flows have ended, 5 s until the table shrinks, and two looks.
const GIVEN_BACK_S: u64 = 40;

/// Pseudo-random, the same each time.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// An IPv4 packet of one of the kinds; the kernel fills in length and checksum.
fn packet(dice: &mut Dice) -> Vec<u8> {
    let [a, b, c, d, e, g, h, kind] = dice.next().to_be_bytes();
    let source = [11, a, b, c];
    let (protocol, fragment) = match kind % 4 {
        0 | 1 => (17, 0_u16),
        // The middle of a datagram that never begins, and the beginning of one that never ends.
        2 => (17, if kind & 4 == 0 { 0x2003 } else { 0x2000 }),
        _ => (6, 0),
    };
    let mut bytes = vec![0x45, 0, 0, 0, d, e];
    bytes.extend(fragment.to_be_bytes());
    bytes.extend([64, protocol, 0, 0]);
    bytes.extend(source);
    bytes.extend([10, 9, 0, 2, d, e]);
    if protocol == 17 {
        bytes.extend([g, h, 0, 200, 0, 0]);
        bytes.extend(b"GET / HTTP/1.1\r\nHost: www.example\r\n");
    } else {
        // Of few flows, so that their segments wait: always one beyond the next.
        let at = bytes.len() - 2;
        bytes[12..16].copy_from_slice(&[12, 0, a % 4, b]);
        bytes[at..].copy_from_slice(&[0x9c, 0x40]);
        bytes.extend([0, 80]);
        bytes.extend((u32::from(c) * 1_500 + 1).to_be_bytes());
        bytes.extend([0, 0, 0, 1, 0x50, 0x18, 1, 0, 0, 0, 0, 0]);
    }
    bytes.resize(200 + usize::from(h) * 4, 7);
    bytes
}

fn flood(from: &Netns, seconds: u64) -> Result<u64> {
    from.within(move || -> Result<u64> {
        let socket = socket_with(AddressFamily::INET, SocketType::RAW, SocketFlags::CLOEXEC, Some(RAW))?;
        let (target, begun) = (SocketAddrV4::new(Ipv4Addr::new(10, 9, 0, 2), 0), KernelClock.monotonic());
        let (mut dice, mut sent) = (Dice(0x9e37_79b9_7f4a_7c15), 0);
        while KernelClock.monotonic().since(begun) < seconds * 1_000_000_000 {
            for _ in 0..500 {
                // A full queue is no matter: as much as goes.
                sent += u64::from(sendto(&socket, &packet(&mut dice), SendFlags::empty(), &target).is_ok());
            }
        }
        Ok(sent)
    })?
}

fn resident(pid: u32) -> Result<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages: u64 = statm.split(' ').nth(1).context("no second word")?.parse()?;
    Ok(pages * rustix::param::page_size() as u64)
}

/// The most memory that the process has during a flood.
fn most_during(client: &Netns, seconds: u64, pid: u32) -> Result<u64> {
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| flood(client, seconds));
        let mut most = 0;
        while !sending.is_finished() {
            most = most.max(resident(pid)?);
            std::thread::sleep(Duration::from_millis(200));
        }
        eprintln!("{} packets in {seconds} s", sending.join().expect("no panic")?);
        Ok(most)
    })
}

#[test]
fn memory_is_bounded_under_a_flood_and_given_back_after_it() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let seconds = std::env::var("GNOMON_FLOOD_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(SECONDS);
    let (client, sensor) = traffic::host_and_tap(1_500)?;
    let (bin, dir) = (built_binaries()?, tempfile::tempdir()?);
    let idle_soon = ["tcp", "udp", "icmp", "other"].map(|what| format!("flows.idle_{what}=8s"));
    let mut settings: Vec<&str> = idle_soon.iter().map(String::as_str).collect();
    settings.extend(["flows.linger=1s", "spool.bytes_max=64MiB"]);
    // Nobody listens there: the spool is full soon, and goes on.
    let url = "http://127.0.0.1:9";
    let mut agent = Agent::start(&bin, dir.path(), Some(&sensor), "name = \"tap\"", url, &settings)?;
    let process = agent.process()?;
    eventually("capturing", 20, || Ok(process.said()), |said| said.contains("capturing tap"))?;
    std::thread::sleep(Duration::from_secs(1));
    let pid = process.pid();
    let idle = resident(pid)?;
    let mut most = 0;
    // A busy machine sends less.
    for _ in 0..FLOODS_MAX {
        most = most.max(most_during(&client, seconds, pid)?);
        if most > idle + LEFT_BYTES_MAX + GROWTH_BYTES_MIN {
            break;
        }
    }
    eprintln!("idle {} MiB, most {} MiB", idle >> 20, most >> 20);
    assert!(most < FLOODED_BYTES_MAX, "{} MiB under a flood", most >> 20);
    assert!(most > idle + LEFT_BYTES_MAX + GROWTH_BYTES_MIN, "no flood: {} MiB", most >> 20);
    let left = eventually(
        "memory is given back",
        GIVEN_BACK_S,
        || resident(pid),
        |now| *now < idle + LEFT_BYTES_MAX,
    );
    let now = resident(pid)?;
    eprintln!("then {} MiB", now >> 20);
    left.with_context(|| format!("idle {} MiB, most {} MiB, now {} MiB", idle >> 20, most >> 20, now >> 20))?;
    assert!(!agent.process()?.has_ended()?);
    Ok(())
}
