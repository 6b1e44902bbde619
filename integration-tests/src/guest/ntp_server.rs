//! The NTP server that owns the truth, and can be told to lie about it (RFC 5905, client and server mode only).

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use gnomon_clock::{Clock, KernelClock, MonoNs};

/// Seconds from NTP's era to POSIX's.
const NTP_TO_UNIX_S: i64 = 2_208_988_800;
const NS_PER_S: i64 = 1_000_000_000;
/// How long a stopped server may still listen.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// Error that the server admits to: 1/2048 s, as a good one on a local network would.
const ROOT_DISPERSION: u32 = 32;

/// What the server says in place of this host's time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Lie {
    pub shift_ns: i64,
    /// The shift grows by this from now on.
    pub rate_ppm: f64,
    pub silent: bool,
    /// POSIX nanoseconds of the end of a day that has a second more: announced before, told after.
    pub leap_at_unix_ns: Option<i64>,
}

#[derive(Debug)]
struct Shared {
    lie: Mutex<(Lie, MonoNs)>,
    stop: AtomicBool,
    answered: AtomicU64,
}

/// A server on loopback, stopped when dropped.
#[derive(Debug)]
pub struct NtpServer {
    pub port: u16,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl NtpServer {
    /// One that tells the truth.
    pub fn start() -> io::Result<NtpServer> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(LOOK_PAUSE))?;
        let port = socket.local_addr()?.port();
        let lie = Mutex::new((Lie::default(), KernelClock.monotonic()));
        let shared = Arc::new(Shared { lie, stop: AtomicBool::new(false), answered: AtomicU64::new(0) });
        let own = shared.clone();
        let thread = std::thread::spawn(move || serve(&socket, &own));
        Ok(NtpServer { port, shared, thread: Some(thread) })
    }

    /// From now on say this.
    pub fn tell(&self, lie: Lie) {
        let now = KernelClock.monotonic();
        *self.shared.lie.lock().unwrap_or_else(PoisonError::into_inner) = (lie, now);
    }

    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }
}

impl Drop for NtpServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(socket: &UdpSocket, shared: &Shared) {
    let mut request = [0; 128];
    while !shared.stop.load(Ordering::Relaxed) {
        let Ok((bytes, from)) = socket.recv_from(&mut request) else { continue };
        let (lie, since) = *shared.lie.lock().unwrap_or_else(PoisonError::into_inner);
        let received = told(&lie, since);
        let is_client = bytes >= 48 && request[0] & 7 == 3;
        if lie.silent || !is_client {
            continue;
        }
        let reply = answer(&request, received, told(&lie, since));
        // A client that is gone asks no more.
        let _ = socket.send_to(&reply, from);
        shared.answered.fetch_add(1, Ordering::Relaxed);
    }
}

/// What the server says the time is, in POSIX nanoseconds, and whether this day has a second more.
fn told(lie: &Lie, since: MonoNs) -> (i64, bool) {
    let lied_for_ns = KernelClock.monotonic().since(since) as f64;
    let now =
        KernelClock.bracket().realtime.unix_ns() + lie.shift_ns + (lied_for_ns * lie.rate_ppm / 1e6) as i64;
    match lie.leap_at_unix_ns {
        Some(leap) if now >= leap => (now - NS_PER_S, false),
        leap => (now, leap.is_some()),
    }
}

fn answer(request: &[u8], received: (i64, bool), now: (i64, bool)) -> [u8; 48] {
    let mut reply = [0; 48];
    let version = request[0] & 0o70;
    reply[0] = u8::from(now.1) << 6 | version | 4;
    reply[1] = 1;
    reply[2] = request[2];
    // Precision 2^-24 s.
    reply[3] = (-24_i8).cast_unsigned();
    reply[8..12].copy_from_slice(&ROOT_DISPERSION.to_be_bytes());
    reply[12..16].copy_from_slice(b"TEST");
    reply[16..24].copy_from_slice(&ntp(received.0 - NS_PER_S).to_be_bytes());
    // The client's transmit time, to tell which request this answers.
    reply[24..32].copy_from_slice(&request[40..48]);
    reply[32..40].copy_from_slice(&ntp(received.0).to_be_bytes());
    reply[40..48].copy_from_slice(&ntp(now.0).to_be_bytes());
    reply
}

/// NTP's 32.32 bits of POSIX nanoseconds.
fn ntp(unix_ns: i64) -> u64 {
    let seconds = (unix_ns.div_euclid(1_000_000_000) + NTP_TO_UNIX_S).cast_unsigned();
    let nanoseconds = unix_ns.rem_euclid(1_000_000_000).cast_unsigned();
    (seconds << 32) | ((nanoseconds << 32) / 1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(server: &NtpServer) -> Option<[u8; 48]> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let mut request = [0; 48];
        request[0] = 0o43;
        request[40..48].copy_from_slice(b"original");
        socket.send_to(&request, (Ipv4Addr::LOCALHOST, server.port)).unwrap();
        let mut reply = [0; 48];
        socket.recv(&mut reply).ok()?;
        Some(reply)
    }

    fn told_unix_s(reply: &[u8; 48]) -> i64 {
        let seconds = u32::from_be_bytes(reply[40..44].try_into().unwrap());
        i64::from(seconds) - NTP_TO_UNIX_S
    }

    #[test]
    fn it_tells_the_truth_or_what_it_was_told_to_say() {
        let server = NtpServer::start().unwrap();
        let truth = KernelClock.bracket().realtime.unix_ns() / NS_PER_S;
        let reply = ask(&server).unwrap();
        assert_eq!((reply[0], &reply[24..32]), (0o44, &b"original"[..]));
        assert!((told_unix_s(&reply) - truth).abs() <= 1);
        server.tell(Lie { shift_ns: 3_600 * NS_PER_S, ..Lie::default() });
        assert!((told_unix_s(&ask(&server).unwrap()) - truth - 3600).abs() <= 1);
        server.tell(Lie { silent: true, ..Lie::default() });
        assert_eq!(ask(&server), None);
        assert_eq!(server.answered(), 2);
    }

    #[test]
    fn a_leap_second_is_announced_and_then_taken() {
        let now = KernelClock.bracket().realtime.unix_ns();
        let since = KernelClock.monotonic();
        let at = |leap: i64| told(&Lie { leap_at_unix_ns: Some(leap), ..Lie::default() }, since);
        assert!(at(now + 3_600 * NS_PER_S).1);
        let (after, announced) = at(now);
        assert!(!announced && (after - now + NS_PER_S).abs() < NS_PER_S / 2, "{after}");
    }
}
