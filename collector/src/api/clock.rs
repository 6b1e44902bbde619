//! The state of time, for both doors.

use gnomon_answers::source_word;
use gnomon_clock::{CollectorState, EpochId, FixSource, UtcNs};
use gnomon_flow::EpochHash;
use gnomon_proto::v1;

use super::Api;
use crate::store::StoreError;

/// Held records that one answer looks at.
const HELD_MAX: u64 = 200_000;

impl Api {
    /// The collector's clock, each agent's, and what waits. Blocking.
    pub(super) fn clock(&self) -> Result<v1::ClockResponse, StoreError> {
        let held = self.store.held(HELD_MAX)?;
        let reason =
            format!("{} records that wait were not counted by reason: there are too many", held.left_out);
        let counted = held.counts.into_iter().map(|((state, reason), flows)| v1::HeldFlows {
            state: match state {
                "quarantined" => v1::TimeState::Quarantined.into(),
                _ => v1::TimeState::Pending.into(),
            },
            reason: reason.to_owned(),
            flows,
        });
        let events = self.store.gate().keeper().events().list().into_iter().map(v1::ClockEvent::from);
        let agents =
            self.fleet.clocks().iter().map(|agent| self.agent_clock(agent)).collect::<Result<_, _>>()?;
        Ok(v1::ClockResponse {
            collector: Some(self.collector_clock()),
            agents,
            held: counted.collect(),
            events: events.collect(),
            partial: (held.left_out > 0).then_some(v1::Partial { reason }),
        })
    }

    fn collector_clock(&self) -> v1::CollectorClock {
        let gate = self.store.gate();
        let view = gate.keeper().view();
        let now = view.moment.now;
        let (state, reason) = match view.state {
            CollectorState::Proven(_) => ("proven", String::new()),
            CollectorState::Unproven(reason) => ("unproven", reason.to_string()),
        };
        v1::CollectorClock {
            state: state.to_owned(),
            reason,
            source: match view.source {
                // What the collector has from exchanges is what its agents say of it.
                Some(FixSource::Collector) => "fleet".to_owned(),
                source => source_word(source.map_or(0, |source| v1::FixSource::from(source).into())),
            },
            now_unix_ns: now.utc.unix_ns(),
            now_err_ns: now.err_ns,
            authority: match view.moment.authority {
                gnomon_clock::Authority::Collector => "collector",
                gnomon_clock::Authority::Agent => "agents",
                gnomon_clock::Authority::Nobody => "nobody",
            }
            .to_owned(),
            policy: gate.policy().mode.name().to_owned(),
            tolerance_ns: gate.policy().tolerance_ns,
            index_error_max_ns: gate.policy().index_err_max_ns,
            deletion_by_age: view.age.err().map(|why| why.to_string()).unwrap_or_default(),
            corrections: view.corrections,
            last_correction_ns: view.last_correction.map(|(_, by_ns)| by_ns),
            last_correction_unix_ns: view.last_correction.map(|(at, _)| at.unix_ns()),
            timeline: view.moment.timeline,
        }
    }

    fn agent_clock(&self, agent: &v1::Agent) -> Result<v1::AgentClock, StoreError> {
        let heartbeat = agent.heartbeat.as_ref();
        let epoch = heartbeat.and_then(|heartbeat| EpochId::try_from(heartbeat.epoch.as_ref()?).ok());
        let clock = heartbeat.and_then(|heartbeat| heartbeat.clock.clone());
        let known = clock.is_some();
        let clock = clock.unwrap_or_default();
        let last_step = match epoch.filter(|_| clock.steps > 0) {
            Some(epoch) => {
                self.store.estimate(EpochHash::of(&epoch), gnomon_clock::RawNs(clock.last_step_raw_ns))?
            }
            None => None,
        };
        Ok(v1::AgentClock {
            id: agent.id.clone(),
            name: agent.name.clone(),
            connected: agent.connected,
            state: if known { clock.state().word() } else { "unknown".to_owned() },
            offset_ns: agent.clock_offset_ns,
            err_ns: agent.clock_err_ns,
            source: source_word(clock.source),
            epoch: epoch.map(|epoch| epoch.to_string()).unwrap_or_default(),
            steps: clock.steps,
            last_step_ns: (clock.steps > 0).then_some(clock.last_step_ns),
            last_step_unix_ns: last_step.map(|at| UtcNs::unix_ns(at.utc)),
            disruptions: clock.disruptions,
            last_disruption: clock.last_disruption,
            note: clock.note,
            overruled: match epoch {
                Some(epoch) => self.store.overruled(&epoch)? as u64,
                None => 0,
            },
        })
    }
}
