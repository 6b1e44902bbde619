//! Traffic whose every packet is known: exact counts of UDP datagrams, and the sizes that matter.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::netns::Netns;

/// Bytes of Ethernet, IPv4 and UDP headers before a datagram's payload.
pub const HEADER_BYTES: usize = 14 + 20 + 8;

/// Two hosts, `client` 10.9.0.1 and `server` 10.9.0.2, on one veth pair (`c0` – `s0`) with fixed neighbours, so that no
/// packet is on the wire but those sent on purpose.
pub fn two_hosts(mtu: u32) -> Result<(Netns, Netns)> {
    let (client, server) = (Netns::new("client")?, Netns::new("server")?);
    client.veth("c0", &server, "s0", mtu)?;
    client.ip("addr add 10.9.0.1/24 dev c0")?;
    server.ip("addr add 10.9.0.2/24 dev s0")?;
    let mac = |netns: &Netns, interface: &str| -> Result<String> {
        Ok(netns.run("cat", &[&format!("/sys/class/net/{interface}/address")])?.trim().to_owned())
    };
    let (client_mac, server_mac) = (mac(&client, "c0")?, mac(&server, "s0")?);
    client.ip(&format!("neigh replace 10.9.0.2 lladdr {server_mac} dev c0 nud permanent"))?;
    server.ip(&format!("neigh replace 10.9.0.1 lladdr {client_mac} dev s0 nud permanent"))?;
    Ok((client, server))
}

/// Send exactly `count` datagrams whose frames are `frame_bytes` long, at most `per_second` (0: as fast as it goes).
/// A full socket buffer is waited for, never skipped.
pub fn udp(from: &Netns, to: SocketAddr, count: u64, frame_bytes: usize, per_second: u64) -> Result<()> {
    from.within(move || -> Result<()> {
        let socket = UdpSocket::bind("0.0.0.0:0").context("bind a UDP socket")?;
        socket.connect(to)?;
        let payload = vec![0xa5; frame_bytes.saturating_sub(HEADER_BYTES)];
        let pause_every = per_second / 100;
        for n in 0..count {
            // ECONNREFUSED is the answer to an earlier datagram (nobody listens there), not to this one.
            while socket.send(&payload).is_err() {
                std::thread::sleep(Duration::from_micros(50));
            }
            if pause_every > 0 && n % pause_every == pause_every - 1 {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        Ok(())
    })?
}
