//! Stored flows to and from the wire, and the field table as the API shows it.

use gnomon_clock::{EpochId, Estimate, UtcNs};
use gnomon_flow::{AgentId, FIELDS, FieldKind, FlowRecord, Origin, StoredFlow, TimeState};

use crate::v1;
use crate::wire::WireError;

impl From<&Estimate> for v1::Estimate {
    fn from(estimate: &Estimate) -> v1::Estimate {
        v1::Estimate { unix_ns: estimate.utc.unix_ns(), err_ns: estimate.err_ns, conflict: estimate.conflict }
    }
}

impl From<&v1::Estimate> for Estimate {
    fn from(wire: &v1::Estimate) -> Estimate {
        Estimate { utc: UtcNs::from_unix_ns(wire.unix_ns), err_ns: wire.err_ns, conflict: wire.conflict }
    }
}

impl From<TimeState> for v1::TimeState {
    fn from(state: TimeState) -> v1::TimeState {
        match state {
            TimeState::Indexed => v1::TimeState::Indexed,
            TimeState::Pending => v1::TimeState::Pending,
            TimeState::Quarantined => v1::TimeState::Quarantined,
        }
    }
}

impl From<&StoredFlow> for v1::StoredFlow {
    fn from(flow: &StoredFlow) -> v1::StoredFlow {
        v1::StoredFlow {
            record: Some((&flow.record).into()),
            agent_name: flow.origin.agent_name.to_string(),
            interface: flow.origin.interface.to_string(),
            epoch: Some((&flow.origin.epoch).into()),
            first: flow.first.as_ref().map(Into::into),
            last: flow.last.as_ref().map(Into::into),
            ingested_unix_ns: flow.ingested.map(UtcNs::unix_ns),
            time_state: v1::TimeState::from(flow.time_state).into(),
            time_reason: flow.time_reason.to_string(),
        }
    }
}

impl TryFrom<&v1::StoredFlow> for StoredFlow {
    type Error = WireError;

    fn try_from(wire: &v1::StoredFlow) -> Result<StoredFlow, WireError> {
        let record = wire.record.as_ref().ok_or(WireError::missing("flow.record"))?;
        let epoch: EpochId = wire.epoch.as_ref().ok_or(WireError::missing("flow.epoch"))?.try_into()?;
        Ok(StoredFlow {
            record: FlowRecord::try_from(record)?,
            origin: Origin {
                agent: AgentId(epoch.agent),
                agent_name: wire.agent_name.as_str().into(),
                interface: wire.interface.as_str().into(),
                epoch,
            },
            first: wire.first.as_ref().map(Into::into),
            last: wire.last.as_ref().map(Into::into),
            ingested: wire.ingested_unix_ns.map(UtcNs::from_unix_ns),
            time_state: match wire.time_state() {
                v1::TimeState::Pending => TimeState::Pending,
                v1::TimeState::Quarantined => TimeState::Quarantined,
                v1::TimeState::Indexed | v1::TimeState::Unspecified => TimeState::Indexed,
            },
            time_reason: wire.time_reason.clone().into(),
        })
    }
}

impl v1::FieldsResponse {
    /// The whole field table.
    pub fn of_table() -> v1::FieldsResponse {
        let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        let fields = FIELDS.iter().map(|field| v1::FieldInfo {
            id: u32::from(field.id.0),
            name: field.name.to_owned(),
            aliases: owned(field.aliases),
            kind: match field.kind {
                FieldKind::Ip => "ip",
                FieldKind::Integer => "integer",
                FieldKind::Text => "text",
                FieldKind::Time => "time",
                FieldKind::Bool => "bool",
            }
            .to_owned(),
            many: field.many,
            any_of: field.any_of,
            values: owned(field.values),
            doc: field.doc.to_owned(),
        });
        v1::FieldsResponse { fields: fields.collect() }
    }
}
