//! Traffic whose every packet is known: exact counts of UDP datagrams, and the sizes that matter.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
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

/// A host `client` 10.9.0.1 on `c0`, and a sensor with the bare other end `tap` of the same veth pair: nobody answers, so
/// that no packet is on the wire but those sent on purpose.
pub fn host_and_tap(mtu: u32) -> Result<(Netns, Netns)> {
    let (client, sensor) = (Netns::new("client")?, Netns::new("sensor")?);
    client.veth("c0", &sensor, "tap", mtu)?;
    client.ip("addr add 10.9.0.1/24 dev c0")?;
    client.ip("neigh replace 10.9.0.2 lladdr 02:00:00:00:00:02 dev c0 nud permanent")?;
    Ok((client, sensor))
}

/// Send `bytes` over one TCP connection from one host to the other and wait until all of it has arrived.
pub fn tcp(from: &Netns, to: &Netns, listen: SocketAddr, bytes: u64) -> Result<()> {
    let listener = to.within(move || TcpListener::bind(listen))??;
    let reader = std::thread::spawn(move || -> std::io::Result<u64> {
        let (mut stream, _) = listener.accept()?;
        std::io::copy(&mut stream, &mut std::io::sink())
    });
    from.within(move || -> Result<()> {
        let mut stream = TcpStream::connect(listen).context("connect")?;
        let chunk = vec![0x5a; 1 << 20];
        let mut left = bytes;
        while left > 0 {
            let now = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
            stream.write_all(&chunk[..now])?;
            left -= now as u64;
        }
        Ok(())
    })??;
    let arrived = reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    anyhow::ensure!(arrived == bytes, "{arrived} of {bytes} bytes arrived");
    Ok(())
}
