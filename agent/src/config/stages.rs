//! What each stage is told: the configuration in the stage's own terms and units.

use gnomon_capture::{Backend, Options, Stance};
use gnomon_daemon::config::{ConfigError, HumanDuration};

use super::{BackendConfig, Config, InterfaceConfig, StanceConfig, TlsConfig};
use crate::selection::{self, Selection};
use crate::slicer::SlicerConfig;
use crate::spool::{Limits, WhenFull};
use crate::table::{IdleTimeouts, InterimPolicy, TableConfig};
use crate::uplink::Tls;

impl Config {
    /// What to ask a source for.
    pub fn options(&self, interface: &InterfaceConfig) -> Options {
        Options {
            stance: match interface.stance {
                StanceConfig::Auto => Stance::Auto,
                StanceConfig::Tap => Stance::Tap,
                StanceConfig::Host => Stance::Host,
            },
            backend: match interface.backend {
                BackendConfig::Auto => Backend::Auto,
                BackendConfig::AfXdp => Backend::AfXdp,
                BackendConfig::AfPacket => Backend::AfPacket,
            },
            ring_frames: self.capture.ring_frames,
            umem_bytes: interface.ring_bytes.unwrap_or(self.capture.ring_bytes).bytes(),
            snaplen: self.capture.snaplen,
            promiscuous: self.capture.promiscuous,
            filter: self.capture.filter.clone(),
            steal_addressed: interface.steal_addressed,
            hardware_stamps: self.capture.hardware_stamps,
            block_retire_ms: u32::try_from(self.capture.block_retire.get().as_millis()).unwrap_or(u32::MAX),
            ..Options::default()
        }
    }

    /// Which interfaces to capture.
    ///
    /// # Errors
    /// The entry that cannot be meant so.
    pub fn selection(&self) -> Result<Selection, ConfigError> {
        let limits = selection::Limits {
            ring_bytes: self.capture.ring_bytes.bytes(),
            rings_bytes_max: self.capture.rings_bytes_max.bytes(),
            flows_max: self.flows.flows_max,
        };
        Selection::new(&self.interfaces, limits)
            .map_err(|(at, error)| ConfigError::invalid(&format!("interfaces[{at}].name"), error))
    }

    pub fn table(&self) -> TableConfig {
        let flows = &self.flows;
        TableConfig {
            flows_max: flows.flows_max,
            idle: IdleTimeouts {
                tcp_ns: ns(flows.idle_tcp),
                udp_ns: ns(flows.idle_udp),
                icmp_ns: ns(flows.idle_icmp),
                sctp_ns: ns(flows.idle_sctp),
                esp_ns: ns(flows.idle_esp),
                other_ns: ns(flows.idle_other),
            },
            active_timeout_ns: ns(flows.active_timeout),
            active_packets_max: flows.active_packets,
            linger_ns: ns(flows.linger),
            interim: flows.interim.then(InterimPolicy::default),
            inspect: flows.inspect,
            inspect_bytes_max: flows.inspect_bytes_max.as_usize(),
            metadata_bytes_max: flows.metadata_bytes_max.as_usize(),
        }
    }

    pub fn slicer(&self) -> SlicerConfig {
        SlicerConfig {
            block_bytes_max: self.slices.block_bytes.as_usize(),
            block_age_max_ns: ns(self.slices.block_age),
            ..SlicerConfig::default()
        }
    }

    pub fn spool_limits(&self) -> Limits {
        let spool = &self.spool;
        Limits {
            dir: self.state_dir.join("spool"),
            bytes_max: spool.bytes_max.bytes(),
            segment_bytes: spool.segment_bytes.bytes(),
            free_bytes_min: spool.free_bytes_min.bytes(),
            free_percent_min: spool.free_percent_min,
            memory_bytes_max: spool.memory_max.bytes(),
            sync_interval: spool.sync_interval.get(),
            when_full: WhenFull::Sacrifice,
        }
    }

    pub fn tls(&self) -> Tls {
        let TlsConfig { ca, certificate, key, server_name, .. } = self.tls.clone();
        Tls { ca, identity: certificate.zip(key), domain: server_name }
    }
}

fn ns(human: HumanDuration) -> u64 {
    u64::try_from(human.get().as_nanos()).unwrap_or(u64::MAX)
}
