//! Clock evidence to and from the wire.

use gnomon_clock::{ClockState, Fix, FixSource, RawNs, UtcNs};

use crate::v1;
use crate::wire::WireError;

impl From<FixSource> for v1::FixSource {
    fn from(source: FixSource) -> v1::FixSource {
        match source {
            FixSource::Kernel => v1::FixSource::Kernel,
            FixSource::Chrony => v1::FixSource::Chrony,
            FixSource::Collector => v1::FixSource::Collector,
            FixSource::Ptp => v1::FixSource::Ptp,
            FixSource::File => v1::FixSource::File,
        }
    }
}

impl From<ClockState> for v1::ClockState {
    fn from(state: ClockState) -> v1::ClockState {
        match state {
            ClockState::Cold => v1::ClockState::Cold,
            ClockState::Acquiring => v1::ClockState::Acquiring,
            ClockState::Synced => v1::ClockState::Synced,
            ClockState::Holdover => v1::ClockState::Holdover,
            ClockState::Unbounded => v1::ClockState::Unbounded,
            ClockState::Conflict => v1::ClockState::Conflict,
        }
    }
}

impl v1::ClockState {
    /// As people and JSON have it: `synced`.
    pub fn word(self) -> String {
        self.as_str_name().trim_start_matches("CLOCK_STATE_").to_ascii_lowercase()
    }
}

impl From<&Fix> for v1::Fix {
    fn from(fix: &Fix) -> v1::Fix {
        v1::Fix {
            raw_ns: fix.raw.0,
            tai_ns: fix.utc.tai_ns(),
            err_ns: fix.err_ns,
            source: v1::FixSource::from(fix.source).into(),
        }
    }
}

impl TryFrom<&v1::Fix> for Fix {
    type Error = WireError;

    fn try_from(wire: &v1::Fix) -> Result<Fix, WireError> {
        let source = match wire.source() {
            v1::FixSource::Kernel => FixSource::Kernel,
            v1::FixSource::Chrony => FixSource::Chrony,
            v1::FixSource::Collector => FixSource::Collector,
            v1::FixSource::Ptp => FixSource::Ptp,
            v1::FixSource::File => FixSource::File,
            v1::FixSource::Unspecified => {
                return Err(WireError::new("fix.source", format!("{} is unknown", wire.source)));
            }
        };
        Ok(Fix { raw: RawNs(wire.raw_ns), utc: UtcNs::from_tai_ns(wire.tai_ns), err_ns: wire.err_ns, source })
    }
}
