//! What may be configured: the bounds that the manual states, and what contradicts itself.

use gnomon_daemon::config::{ByteSize, ConfigError, HumanDuration, Validate, in_range};

use super::{Config, StanceConfig};

/// Workers have a number of eight bits in the ids of their flows.
pub const WORKERS_MAX: usize = 256;
/// Entries of `interfaces`.
const INTERFACES_MAX: usize = 1024;
/// Files of alerts that one thread looks at ten times a second.
const EVE_FILES_MAX: usize = 16;

impl Validate for Config {
    const RENAMED: &'static [(&'static str, &'static str)] = &[("slices.rules", "rules")];

    fn validate(&self) -> Result<(), ConfigError> {
        let ms = HumanDuration::from_millis;
        let s = HumanDuration::from_secs;
        const DAY: u64 = 86_400;
        if self.state_dir.as_os_str().is_empty() {
            return Err(ConfigError::invalid("state_dir", "is empty; name a directory"));
        }
        if self.name.as_ref().is_some_and(|name| name.is_empty() || name.len() > 255) {
            return Err(ConfigError::invalid("name", "must have 1 to 255 bytes"));
        }
        if self.labels.len() > 32 || self.labels.iter().any(|(k, v)| k.len() > 63 || v.len() > 255) {
            return Err(ConfigError::invalid(
                "labels",
                "at most 32, with names of up to 63 bytes and values of up to 255",
            ));
        }
        in_range("collector.drain", &self.collector.drain, &(s(0)..=s(300)))?;
        if self.tls.certificate.is_some() != self.tls.key.is_some() {
            return Err(ConfigError::invalid(
                "tls.certificate",
                "needs tls.key beside it, and the other way round",
            ));
        }
        self.validate_interfaces()?;
        let capture = &self.capture;
        in_range(
            "capture.ring_bytes",
            &capture.ring_bytes,
            &(ByteSize::from_mib(1)..=ByteSize::from_gib(4)),
        )?;
        in_range(
            "capture.rings_bytes_max",
            &capture.rings_bytes_max,
            &(ByteSize::from_mib(1)..=ByteSize::from_gib(1024)),
        )?;
        in_range("capture.block_retire", &capture.block_retire, &(ms(1)..=s(1)))?;
        let flows = &self.flows;
        for (key, value) in [
            ("flows.idle_tcp", flows.idle_tcp),
            ("flows.idle_udp", flows.idle_udp),
            ("flows.idle_icmp", flows.idle_icmp),
            ("flows.idle_sctp", flows.idle_sctp),
            ("flows.idle_esp", flows.idle_esp),
            ("flows.idle_other", flows.idle_other),
        ] {
            in_range(key, &value, &(ms(100)..=s(DAY)))?;
        }
        in_range("flows.active_timeout", &flows.active_timeout, &(s(1)..=s(DAY)))?;
        in_range("flows.linger", &flows.linger, &(s(0)..=s(600)))?;
        let slices = &self.slices;
        in_range(
            "slices.block_bytes",
            &slices.block_bytes,
            &(ByteSize::from_kib(16)..=ByteSize::from_mib(1)),
        )?;
        let inspect_max = ByteSize::from_bytes(0)..=ByteSize::from_gib(1);
        in_range("flows.inspect_bytes_max", &flows.inspect_bytes_max, &inspect_max)?;
        let metadata_max = ByteSize::from_mib(1)..=ByteSize::from_gib(64);
        in_range("flows.metadata_bytes_max", &flows.metadata_bytes_max, &metadata_max)?;
        in_range("slices.block_age", &slices.block_age, &(ms(1)..=s(10)))?;
        self.rules()?;
        let eve = &self.alerts.eve;
        if eve.len() > EVE_FILES_MAX {
            return Err(ConfigError::invalid(
                "alerts.eve",
                format!("{} files, at most {EVE_FILES_MAX}", eve.len()),
            ));
        }
        for (at, path) in eve.iter().enumerate() {
            // One line a path is how places are kept.
            let text = path.as_os_str().as_encoded_bytes();
            if text.is_empty() || text.contains(&b'\n') || eve[..at].contains(path) {
                let message = "is empty, no name of a file, or stands twice";
                return Err(ConfigError::invalid(&format!("alerts.eve[{at}]"), message));
            }
        }
        let spool = &self.spool;
        in_range(
            "spool.bytes_max",
            &spool.bytes_max,
            &(ByteSize::from_mib(16)..=ByteSize::from_gib(65_536)),
        )?;
        in_range("spool.memory_max", &spool.memory_max, &(ByteSize::from_mib(16)..=ByteSize::from_gib(64)))?;
        in_range(
            "spool.segment_bytes",
            &spool.segment_bytes,
            &(ByteSize::from_mib(1)..=ByteSize::from_mib(256)),
        )?;
        in_range("spool.sync_interval", &spool.sync_interval, &(ms(10)..=s(60)))?;
        self.telemetry.validate("telemetry")
    }
}

impl Config {
    /// Whether the capture filter is understood. Not part of [`Validate`]: it needs libpcap, which only capture does.
    ///
    /// # Errors
    /// What is wrong with it, or that nothing here can compile it.
    pub fn check_filter(&self) -> Result<(), ConfigError> {
        let checked = self.capture.filter.as_deref().map_or(Ok(()), gnomon_capture::filter::check);
        checked.map_err(|error| ConfigError::invalid("capture.filter", error))
    }

    /// Everything that keeps an agent from starting and needs a look at more than the text: files, and libpcap. The same
    /// for `config check` and `run`.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check_start(&self) -> Result<(), ConfigError> {
        self.check_filter()?;
        crate::uplink::check(&self.collector.urls, &self.tls(), self.tls.insecure)
    }

    fn validate_interfaces(&self) -> Result<(), ConfigError> {
        self.selection()?;
        if self.interfaces.len() > INTERFACES_MAX {
            let message = format!("{} entries, at most {INTERFACES_MAX}", self.interfaces.len());
            return Err(ConfigError::invalid("interfaces", message));
        }
        let mut workers = 0;
        for (at, interface) in self.interfaces.iter().enumerate() {
            let key = format!("interfaces[{at}]");
            if self.interfaces[..at].iter().any(|other| other.name == interface.name) {
                let message =
                    format!("{:?} stands twice: each of its packets would be seen twice", interface.name);
                return Err(ConfigError::invalid(&format!("{key}.name"), message));
            }
            if let Err(error) = self.options(interface).check() {
                return Err(ConfigError::invalid(&key, error));
            }
            if interface.workers > 1 && interface.stance == StanceConfig::Tap {
                let message =
                    "a tap has one worker for all its queues; several share only an AF_PACKET interface";
                return Err(ConfigError::invalid(&format!("{key}.workers"), message));
            }
            if let Some(bytes) = interface.ring_bytes {
                let allowed = ByteSize::from_mib(1)..=ByteSize::from_gib(4);
                in_range(&format!("{key}.ring_bytes"), &bytes, &allowed)?;
            }
            workers += usize::from(interface.workers);
        }
        if workers > WORKERS_MAX {
            return Err(ConfigError::invalid(
                "interfaces",
                format!("{workers} workers in all, at most {WORKERS_MAX}"),
            ));
        }
        Ok(())
    }
}
