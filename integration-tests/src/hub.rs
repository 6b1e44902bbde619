//! Three hosts on a hub, with a tap for a sensor:
//!
//! ```text
//!   client    10.77.0.10 ──┐
//!   server    10.77.0.20 ──┤ hub (a bridge that floods) ─┬─ tap0 ═ tap1  sensor: gnomon-agent, AF_XDP on tap1
//!   lonely    10.77.0.30 ──┤                             │
//!   collector 10.77.0.40 ──┘                             └─ eth0 10.77.0.50, by which the sensor reaches the collector
//! ```
//!
//! What the sensor sends to the collector passes its own tap, as everything does.
//! All links have a 9000-byte MTU and GSO on.

use crate::netns::Netns;
use anyhow::Result;

/// Everything a host sends is seen by all others and by the sensor.
#[derive(Debug)]
pub struct Hub {
    pub client: Netns,
    pub server: Netns,
    pub lonely: Netns,
    pub sensor: Netns,
    /// The way to a collector that runs elsewhere: see [`crate::forward`].
    pub collector: Netns,
    // Dropped last: the others hang on it.
    _hub: Netns,
}

const MTU: u32 = 9000;

impl Hub {
    pub fn build() -> Result<Hub> {
        let hub = Netns::new("hub")?;
        hub.ip("link add br0 type bridge ageing_time 0 mcast_snooping 0")?;
        hub.ip(&format!("link set br0 mtu {MTU} up"))?;
        let host = |label: &str, address: &str| -> Result<Netns> {
            let netns = Netns::new(label)?;
            let port = format!("{label}-p");
            netns.veth("eth0", &hub, &port, MTU)?;
            netns.ip(&format!("addr add {address}/24 dev eth0"))?;
            hub.ip(&format!("link set {port} master br0"))?;
            // A hub: what comes in on one port goes out on all others.
            hub.run("bridge", &["link", "set", "dev", &port, "learning", "off"])?;
            Ok(netns)
        };
        let client = host("client", "10.77.0.10")?;
        let server = host("server", "10.77.0.20")?;
        let lonely = host("lonely", "10.77.0.30")?;
        server.ip("addr add 10.77.0.21/24 dev eth0")?;
        let collector = host("collector", "10.77.0.40")?;
        let sensor = host("sensor", "10.77.0.50")?;
        sensor.veth("tap1", &hub, "tap0", MTU)?;
        hub.ip("link set tap0 master br0")?;
        hub.run("bridge", &["link", "set", "dev", "tap0", "learning", "off"])?;
        Ok(Hub { client, server, lonely, sensor, collector, _hub: hub })
    }
}
