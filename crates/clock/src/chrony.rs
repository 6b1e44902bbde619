//! chronyd's own word on its clock: a client of its command socket, for the one monitoring request `tracking`.
//!
//! The wire format is that of `candm.h` of chrony, protocol version 6 (chrony 1.19 of 2005 to 4.x), in network order.
//!
//! ```text
//! request, padded with zeros to 104 bytes          reply, at least 104 bytes
//!  0 u8  version 6                                  0 u8  version 6
//!  1 u8  packet type 1 (request)                    1 u8  packet type 2 (reply)
//!  2 u16 reserved                                   2 u16 reserved
//!  4 u16 command 33 (tracking)                      4 u16 command, as asked
//!  6 u16 attempt                                    6 u16 reply 5 (tracking)
//!  8 u32 sequence                                   8 u16 status 0 (success)
//! 12 u32 ×2 padding                                10 u16 ×3 padding
//! 20 data (none)                                   16 u32 sequence, as asked
//!                                                  20 u32 ×2 padding
//!                                                  28 u32 reference id
//!                                                  32 address: 16 bytes, u16 family, u16 padding
//!                                                  52 u16 stratum
//!                                                  54 u16 leap status: 0 normal, 1 insert, 2 delete, 3 unsynchronised
//!                                                  56 u32 ×3 time of the last update: seconds high, low, ns
//!                                                  68 float ×9: current correction, last offset, RMS offset,
//!                                                     frequency ppm, residual ppm, skew ppm, root delay,
//!                                                     root dispersion, update interval (seconds)
//! ```
//! A float has a signed 7-bit exponent e above a signed 25-bit coefficient c and means c · 2^(e − 25). The request is as
//! long as the reply, so that the server cannot be used to amplify.

use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::clock::{Bracket, KernelStatus};
use crate::time::{Fix, FixSource};

const VERSION: u8 = 6;
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const TRACKING_COMMAND: u16 = 33;
const TRACKING_REPLY: u16 = 5;
const PACKET_LEN: usize = 104;
/// Replies to earlier, timed-out requests that are skipped before giving up.
const STALE_REPLIES_MAX: usize = 4;
/// chronyd serving its own undisciplined clock (`local`): 127.127.1.1.
const REFERENCE_LOCAL: u32 = 0x7F7F_0101;

/// chronyd's answer, in its own units.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tracking {
    pub reference_id: u32,
    pub stratum: u16,
    /// 3: unsynchronised.
    pub leap_status: u16,
    /// When chronyd last updated its clock, by that clock: (seconds, nanoseconds). Used as a mark of the update only.
    pub updated: (u64, u32),
    /// UTC − CLOCK_REALTIME, as chronyd believes it, in seconds.
    pub correction_s: f64,
    pub root_delay_s: f64,
    pub root_dispersion_s: f64,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ChronyError {
    #[error("chronyd does not answer: {0}")]
    Io(#[from] io::Error),
    #[error("chronyd's reply is malformed: {0}")]
    Malformed(&'static str),
    #[error("chronyd refuses the request with status {0}: allow it with `cmdallow` or use the unix socket")]
    Refused(u16),
}

/// Why an answer is no evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChronyFixRejected {
    #[error("chronyd is not synchronised")]
    NotSynchronised,
    #[error("chronyd serves its own undisciplined clock (`local`)")]
    LocalReference,
    #[error("chronyd's root distance is {err_ns} ns, the limit is {ERR_NS_MAX} ns")]
    TooVague { err_ns: u64 },
    #[error("the clock was set, or the answer took too long, while chronyd was asked")]
    ClockChanged,
    #[error("chronyd has not looked at its sources since the clock was set")]
    NotSinceStep,
    #[error("the clock stands before 2025: it was never set")]
    Implausible,
    #[error("a leap second is being inserted")]
    LeapSecond,
}

const ERR_NS_MAX: u64 = 3_000_000_000;
const ANSWER_NS_MAX: u64 = 1_000_000_000;
/// The fastest slew chronyd makes is 83,333 ppm: assumed where adjtimex may not be read.
const SLEW_PPB_MAX: u64 = 100_000_000;

/// Whoever can tell how well the machine's clock is disciplined: chronyd, or a simulation of it.
pub trait NtpDaemon: Send {
    /// # Errors
    /// When it does not answer, or not in its own protocol.
    fn tracking(&mut self) -> Result<Tracking, ChronyError>;
}

/// The evidence in an answer of chronyd, asked between `before` and `after`.
///
/// UTC = CLOCK_REALTIME + correction. The two are not read at one instant, so what the clock may be slewed between them
/// adds to root delay / 2 + root dispersion. `status` is `None` where adjtimex is forbidden.
///
/// # Errors
/// When chronyd itself has no time, or the clock moved under the question.
pub fn chrony_fix(
    before: &Bracket,
    after: &Bracket,
    status: Option<&KernelStatus>,
    tracking: &Tracking,
) -> Result<Fix, ChronyFixRejected> {
    if tracking.leap_status >= 3 || tracking.stratum == 0 || tracking.stratum > 15 {
        return Err(ChronyFixRejected::NotSynchronised);
    }
    if tracking.reference_id == REFERENCE_LOCAL {
        return Err(ChronyFixRejected::LocalReference);
    }
    let status = status.copied();
    if status.is_some_and(|s| s.in_leap_second) {
        return Err(ChronyFixRejected::LeapSecond);
    }
    let took_ns = after.raw.since(before.raw);
    let rho_ppb = status.map_or(SLEW_PPB_MAX, |s| s.rho_ppb.unsigned_abs()).min(SLEW_PPB_MAX) + 500_000;
    let slew_ns =
        took_ns.saturating_mul(rho_ppb) / 1_000_000_000 + before.half_width_ns + after.half_width_ns + 1;
    let moved_ns = after.realtime.minus(before.realtime).saturating_sub_unsigned(took_ns).unsigned_abs();
    if took_ns > ANSWER_NS_MAX || moved_ns > slew_ns {
        return Err(ChronyFixRejected::ClockChanged);
    }
    let root_s = tracking.root_delay_s / 2.0 + tracking.root_dispersion_s;
    if !root_s.is_finite() || tracking.root_delay_s < 0.0 || tracking.root_dispersion_s < 0.0 {
        return Err(ChronyFixRejected::NotSynchronised);
    }
    // `as` saturates. The coefficient of a float has 24 bits: its rounding is granted.
    let rounding_ns = (tracking.correction_s.abs() * 1e9 / f64::from(1 << 22)) as u64;
    let err_ns = ((root_s * 1e9).ceil() as u64).saturating_add(slew_ns).saturating_add(rounding_ns);
    if err_ns > ERR_NS_MAX {
        return Err(ChronyFixRejected::TooVague { err_ns });
    }
    let utc =
        before.civil(&status.unwrap_or_default()).saturating_add_ns((tracking.correction_s * 1e9) as i64);
    if !utc.is_plausible() {
        return Err(ChronyFixRejected::Implausible);
    }
    Ok(Fix { raw: before.raw, utc, err_ns, source: FixSource::Chrony })
}

/// Where chronyd listens for commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChronyAddress {
    /// 127.0.0.1:323 by default; monitoring is allowed from the same host.
    Udp(SocketAddr),
    /// /run/chrony/chronyd.sock by default: root or chronyd's user only, as we must bind a socket beside it.
    Unix(PathBuf),
}

impl ChronyAddress {
    /// The two usual places, in the order to try them.
    pub fn usual() -> [ChronyAddress; 2] {
        [
            ChronyAddress::Udp(SocketAddr::from((Ipv4Addr::LOCALHOST, 323))),
            ChronyAddress::Unix(PathBuf::from("/run/chrony/chronyd.sock")),
        ]
    }
}

#[derive(Debug)]
enum Socket {
    Udp(UdpSocket),
    /// With the path of our end, which we remove.
    Unix(UnixDatagram, PathBuf),
}

/// A client of one chronyd. Every call is bounded by the timeout.
#[derive(Debug)]
pub struct ChronyClient {
    socket: Socket,
    sequence: u32,
}

impl ChronyClient {
    /// # Errors
    /// When the socket cannot be made, or (unix) chronyd is not there. A silent UDP port shows only on asking.
    pub fn connect(address: &ChronyAddress, timeout: Duration) -> io::Result<ChronyClient> {
        let sequence = std::hash::RandomState::new().build_hasher().finish() as u32;
        let socket = match address {
            ChronyAddress::Udp(to) => {
                let from: SocketAddr = match to {
                    SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                    SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
                };
                let socket = UdpSocket::bind(from)?;
                socket.connect(to)?;
                socket.set_read_timeout(Some(timeout))?;
                socket.set_write_timeout(Some(timeout))?;
                Socket::Udp(socket)
            }
            ChronyAddress::Unix(to) => {
                let folder = to.parent().unwrap_or(Path::new("/"));
                let ours = folder.join(format!("gnomon.{}.{sequence:08x}.sock", std::process::id()));
                let socket = UnixDatagram::bind(&ours)?;
                // From here on dropping the client removes the file.
                let client = ChronyClient { socket: Socket::Unix(socket, ours.clone()), sequence };
                if let Socket::Unix(socket, _) = &client.socket {
                    // chronyd has dropped its privileges and must be able to write to us.
                    std::fs::set_permissions(&ours, std::fs::Permissions::from_mode(0o666))?;
                    socket.connect(to)?;
                    socket.set_read_timeout(Some(timeout))?;
                    socket.set_write_timeout(Some(timeout))?;
                }
                return Ok(client);
            }
        };
        Ok(ChronyClient { socket, sequence })
    }

    /// The first of the usual places that answers.
    ///
    /// # Errors
    /// The last failure when none does.
    pub fn find(timeout: Duration) -> Result<ChronyClient, ChronyError> {
        let mut last = ChronyError::Malformed("nobody was asked");
        for address in ChronyAddress::usual() {
            match ChronyClient::connect(&address, timeout) {
                Ok(mut client) => match client.tracking() {
                    Ok(_) => return Ok(client),
                    Err(error) => last = error,
                },
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }
}

impl NtpDaemon for ChronyClient {
    fn tracking(&mut self) -> Result<Tracking, ChronyError> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = request(self.sequence);
        match &self.socket {
            Socket::Udp(s) => s.send(&request)?,
            Socket::Unix(s, _) => s.send(&request)?,
        };
        let mut reply = [0_u8; 1024];
        for _ in 0..STALE_REPLIES_MAX {
            let len = match &self.socket {
                Socket::Udp(s) => s.recv(&mut reply)?,
                Socket::Unix(s, _) => s.recv(&mut reply)?,
            };
            match parse(&reply[..len], self.sequence) {
                Ok(None) => {}
                Ok(Some(tracking)) => return Ok(tracking),
                Err(error) => return Err(error),
            }
        }
        Err(ChronyError::Malformed("only replies to other requests"))
    }
}

impl Drop for ChronyClient {
    fn drop(&mut self) {
        if let Socket::Unix(_, path) = &self.socket {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn request(sequence: u32) -> [u8; PACKET_LEN] {
    let mut packet = [0; PACKET_LEN];
    packet[0] = VERSION;
    packet[1] = REQUEST;
    packet[4..6].copy_from_slice(&TRACKING_COMMAND.to_be_bytes());
    packet[8..12].copy_from_slice(&sequence.to_be_bytes());
    packet
}

fn bytes<const N: usize>(packet: &[u8], at: usize) -> Result<[u8; N], ChronyError> {
    let end = at.checked_add(N).ok_or(ChronyError::Malformed("too short"))?;
    let field = packet.get(at..end).ok_or(ChronyError::Malformed("too short"))?;
    field.try_into().map_err(|_| ChronyError::Malformed("too short"))
}

fn float(bits: u32) -> f64 {
    let exponent = i32::from((bits >> 24) as i8 >> 1);
    let coefficient = (bits << 7).cast_signed() >> 7;
    f64::from(coefficient) * 2.0_f64.powi(exponent - 25)
}

/// `None`: a reply to another request.
fn parse(packet: &[u8], sequence: u32) -> Result<Option<Tracking>, ChronyError> {
    let u16_at = |at| bytes(packet, at).map(u16::from_be_bytes);
    let u32_at = |at| bytes(packet, at).map(u32::from_be_bytes);
    let float_at = |i: usize| u32_at(68 + 4 * i).map(float);
    let [version, kind] = bytes(packet, 0)?;
    if kind != REPLY {
        return Err(ChronyError::Malformed("not a reply"));
    }
    if version != VERSION {
        return Err(ChronyError::Malformed("another protocol version than 6"));
    }
    if u32_at(16)? != sequence {
        return Ok(None);
    }
    let status = u16_at(8)?;
    if status != 0 {
        return Err(ChronyError::Refused(status));
    }
    if u16_at(4)? != TRACKING_COMMAND || u16_at(6)? != TRACKING_REPLY {
        return Err(ChronyError::Malformed("not a tracking reply"));
    }
    if packet.len() < PACKET_LEN {
        return Err(ChronyError::Malformed("too short"));
    }
    // A high word of 0x7FFFFFFF says "not known".
    let high = u64::from(u32_at(56)?);
    let high = if high == 0x7FFF_FFFF { 0 } else { high };
    Ok(Some(Tracking {
        reference_id: u32_at(28)?,
        stratum: u16_at(52)?,
        leap_status: u16_at(54)?,
        updated: (high << 32 | u64::from(u32_at(60)?), u32_at(64)?),
        correction_s: float_at(0)?,
        root_delay_s: float_at(6)?,
        root_dispersion_s: float_at(7)?,
    }))
}

/// After the clock was set from outside, chronyd's correction is that of before until it has looked at its sources
/// again: its word counts from the next update on.
#[derive(Debug, Default)]
pub(crate) struct UpdateGuard {
    last: Option<(u64, u32)>,
    stale: Option<(u64, u32)>,
}

impl UpdateGuard {
    pub(crate) fn stepped(&mut self) {
        self.stale = self.last;
    }

    pub(crate) fn admits(&mut self, tracking: &Tracking) -> bool {
        self.last = Some(tracking.updated);
        self.stale != Some(tracking.updated)
    }
}

/// Asks `daemon` between two brackets of `clock`. The inner error is about evidence, the outer about the daemon.
pub(crate) fn ask(
    clock: &dyn crate::clock::Clock,
    status: Option<&KernelStatus>,
    daemon: &mut dyn NtpDaemon,
    guard: &mut UpdateGuard,
) -> Result<Result<Fix, ChronyFixRejected>, ChronyError> {
    let before = clock.bracket();
    let tracking = daemon.tracking()?;
    let after = clock.bracket();
    if !guard.admits(&tracking) {
        return Ok(Err(ChronyFixRejected::NotSinceStep));
    }
    Ok(chrony_fix(&before, &after, status, &tracking))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::{RawNs, UtcNs};

    /// A reply as chronyd 4.3 sends it, by the layout above.
    fn reply(sequence: u32) -> Vec<u8> {
        let mut p = vec![0_u8; PACKET_LEN];
        p[0] = VERSION;
        p[1] = REPLY;
        p[4..6].copy_from_slice(&TRACKING_COMMAND.to_be_bytes());
        p[6..8].copy_from_slice(&TRACKING_REPLY.to_be_bytes());
        p[16..20].copy_from_slice(&sequence.to_be_bytes());
        p[28..32].copy_from_slice(&[192, 0, 2, 1]);
        p[52..54].copy_from_slice(&3_u16.to_be_bytes());
        p[60..64].copy_from_slice(&1_800_000_000_u32.to_be_bytes());
        // −0.5 = −2²³ · 2^(1 − 25): coefficient 0x1800000, exponent 1; 0.25 s and 0.125 s the like.
        p[68..72].copy_from_slice(&(1 << 25 | 0x180_0000_u32).to_be_bytes());
        p[92..96].copy_from_slice(&(0x080_0000_u32).to_be_bytes());
        p[96..100].copy_from_slice(&(127 << 25 | 0x080_0000_u32).to_be_bytes());
        p
    }

    #[test]
    fn a_reply_is_read_by_its_layout() {
        let t = parse(&reply(9), 9).unwrap().unwrap();
        assert_eq!((t.reference_id, t.stratum, t.leap_status), (0xC000_0201, 3, 0));
        assert_eq!(t.updated, (1_800_000_000, 0));
        assert_eq!((t.correction_s, t.root_delay_s, t.root_dispersion_s), (-0.5, 0.25, 0.125));
        assert_eq!(parse(&reply(9), 10).unwrap(), None);
    }

    #[test]
    fn every_length_and_every_flipped_byte_is_survived() {
        let good = reply(9);
        for len in 0..PACKET_LEN {
            assert!(!matches!(parse(&good[..len], 9), Ok(Some(_))), "{len} bytes accepted");
        }
        for at in 0..PACKET_LEN {
            for value in [0, 1, 0x7F, 0x80, 0xFF] {
                let mut bad = good.clone();
                bad[at] = value;
                if let Ok(Some(t)) = parse(&bad, 9) {
                    let _ = chrony_fix(&bracket(0), &bracket(100), None, &t);
                }
            }
        }
        let mut refused = reply(9);
        refused[9] = 2;
        assert!(matches!(parse(&refused, 9), Err(ChronyError::Refused(2))));
    }

    fn bracket(at_ns: u64) -> Bracket {
        let unix_ns = 1_800_000_000_000_000_000 + at_ns as i64;
        Bracket { raw: RawNs(1_000 + at_ns), half_width_ns: 10, realtime: UtcNs::from_unix_ns(unix_ns) }
    }

    #[test]
    fn the_fix_adds_the_correction_and_all_doubts() {
        let t = parse(&reply(9), 9).unwrap().unwrap();
        let status = KernelStatus { rho_ppb: 1_000_000, ..KernelStatus::default() };
        let (before, after) = (bracket(0), bracket(1_000_000));
        let fix = chrony_fix(&before, &after, Some(&status), &t).unwrap();
        assert_eq!(fix.utc.minus(before.realtime), -500_000_000);
        // 0.125 + 0.125 s, 1 ms at 1,500 ppm, two half brackets, and the rounding of the float.
        assert!((250_001_520..250_001_700).contains(&fix.err_ns), "{}", fix.err_ns);
        let stepped = Bracket { realtime: after.realtime.saturating_add_ns(5_000_000), ..after };
        assert_eq!(chrony_fix(&before, &stepped, Some(&status), &t), Err(ChronyFixRejected::ClockChanged));
        let refuse = |t: Tracking| chrony_fix(&before, &after, Some(&status), &t).unwrap_err();
        assert_eq!(refuse(Tracking { leap_status: 3, ..t }), ChronyFixRejected::NotSynchronised);
        assert_eq!(refuse(Tracking { stratum: 0, ..t }), ChronyFixRejected::NotSynchronised);
        assert_eq!(refuse(Tracking { stratum: 16, ..t }), ChronyFixRejected::NotSynchronised);
        assert_eq!(
            refuse(Tracking { reference_id: REFERENCE_LOCAL, ..t }),
            ChronyFixRejected::LocalReference
        );
        assert!(matches!(refuse(Tracking { root_delay_s: 1e9, ..t }), ChronyFixRejected::TooVague { .. }));
        // Rounding of a correction of centuries is more than 3 s, and the clock must not wrap.
        let centuries = refuse(Tracking { correction_s: -1e10, root_delay_s: 0.0, ..t });
        assert!(matches!(centuries, ChronyFixRejected::TooVague { .. } | ChronyFixRejected::Implausible));
    }

    #[test]
    fn a_real_socket_is_asked_and_a_stale_reply_skipped() {
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = ChronyAddress::Udp(server.local_addr().unwrap());
        let answering = std::thread::spawn(move || {
            let mut buf = [0; 512];
            let (len, from) = server.recv_from(&mut buf).unwrap();
            assert_eq!(len, PACKET_LEN, "padded to the length of the reply");
            let sequence = u32::from_be_bytes(buf[8..12].try_into().unwrap());
            server.send_to(&reply(sequence.wrapping_sub(1)), from).unwrap();
            server.send_to(&reply(sequence), from).unwrap();
        });
        let mut client = ChronyClient::connect(&address, Duration::from_secs(5)).unwrap();
        assert_eq!(client.tracking().unwrap().stratum, 3);
        answering.join().unwrap();
    }

    #[test]
    fn after_a_step_only_a_new_update_counts() {
        let t = parse(&reply(9), 9).unwrap().unwrap();
        let mut guard = UpdateGuard::default();
        assert!(guard.admits(&t));
        guard.stepped();
        assert!(!guard.admits(&t) && !guard.admits(&t));
        assert!(guard.admits(&Tracking { updated: (1_800_000_016, 0), ..t }));
    }
}
