//! The cable into a guest's network card: frames written here are frames on its wire. Lossless: the sender waits where
//! the guest has no buffer.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::net::RecvFlags;

/// A guest that takes nothing for this long is dead.
const SEND_TIMEOUT: Duration = Duration::from_secs(20);

/// The host's end.
#[derive(Debug)]
pub struct Wire {
    socket: UnixDatagram,
    host_end: PathBuf,
    guest_end: PathBuf,
}

impl Wire {
    /// Both ends are sockets under `dir`; QEMU makes the guest's.
    pub fn new(dir: &Path, name: &str) -> Result<Wire> {
        let (host_end, guest_end) = (dir.join(format!("{name}.host")), dir.join(format!("{name}.guest")));
        let socket = UnixDatagram::bind(&host_end).with_context(|| format!("bind {}", host_end.display()))?;
        socket.set_write_timeout(Some(SEND_TIMEOUT))?;
        Ok(Wire { socket, host_end, guest_end })
    }

    /// QEMU's word for its end.
    pub(super) fn netdev(&self, id: &str) -> String {
        format!(
            "dgram,id={id},local.type=unix,local.path={},remote.type=unix,remote.path={}",
            self.guest_end.display(),
            self.host_end.display()
        )
    }

    pub fn send(&self, frame: &[u8]) -> Result<()> {
        // What the guest says is of no interest, but a full socket would stop its card.
        let mut ignored = [0; 64];
        while rustix::net::recv(&self.socket, &mut ignored, RecvFlags::DONTWAIT).is_ok() {}
        self.socket.send_to(frame, &self.guest_end).context("the guest's card takes no frame")?;
        Ok(())
    }
}

/// An Ethernet frame of `frame_bytes` (at least 42, without the checksum) with a UDP datagram from 10.9.0.1 to 10.9.0.2.
pub fn udp_frame(source_port: u16, port: u16, frame_bytes: usize) -> Vec<u8> {
    const HEADERS: usize = 14 + 20 + 8;
    let payload = vec![0x67; frame_bytes.saturating_sub(HEADERS)];
    let ip_bytes = (20 + 8 + payload.len()) as u16;
    let mut frame = vec![0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1, 0x08, 0x00];
    let mut ip = vec![0x45, 0];
    ip.extend_from_slice(&ip_bytes.to_be_bytes());
    ip.extend_from_slice(&[0, 0, 0x40, 0, 64, 17, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2]);
    let checksum = ones_complement(&ip);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    frame.extend_from_slice(&ip);
    frame.extend_from_slice(&source_port.to_be_bytes());
    frame.extend_from_slice(&port.to_be_bytes());
    frame.extend_from_slice(&(ip_bytes - 20).to_be_bytes());
    // No UDP checksum: allowed over IPv4 (RFC 768).
    frame.extend_from_slice(&[0, 0]);
    frame.extend_from_slice(&payload);
    frame
}

/// The checksum of RFC 1071 over an even number of bytes.
fn ones_complement(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !(((folded & 0xffff) + (folded >> 16)) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_the_length_asked_for_and_a_whole_checksum() {
        for bytes in [64, 1514, 9014] {
            let frame = udp_frame(1, 2, bytes);
            assert_eq!(frame.len(), bytes);
            assert_eq!(ones_complement(&frame[14..34]), 0);
        }
    }
}
