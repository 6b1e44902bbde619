//! Who is out there: each agent's last heartbeat, whether it is connected, and what came from it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gnomon_clock::{EpochId, Estimate, RawNs, UtcNs};
use gnomon_flow::AgentId;
use gnomon_proto::v1;
use tokio_util::sync::CancellationToken;

/// Agents known at once; of those that are not connected the one not seen for longest makes room.
pub const AGENTS_MAX: usize = 10_000;

/// What an agent said when it connected.
#[derive(Clone, Debug, Default)]
pub struct Introduction {
    pub id: AgentId,
    pub name: String,
    pub version: String,
    pub labels: HashMap<String, String>,
    pub peer: String,
}

/// Why an agent is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FleetError {
    #[error("{AGENTS_MAX} agents are connected already, which is the limit")]
    Crowded,
}

/// What came from one agent since the collector started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    pub entries: u64,
    pub duplicate: u64,
    pub bad: u64,
    pub flows: u64,
    pub packets: u64,
    /// Sequence numbers that were never sent: what the agent's spool had to sacrifice.
    pub missing: u64,
    pub stale: u64,
}

impl Received {
    /// Each count with its name, for metrics.
    pub fn named(&self) -> [(&'static str, u64); 7] {
        [
            ("entries", self.entries),
            ("duplicate", self.duplicate),
            ("bad", self.bad),
            ("flows", self.flows),
            ("packets", self.packets),
            ("missing", self.missing),
            ("stale", self.stale),
        ]
    }

    fn add(&mut self, other: &Received) {
        self.entries += other.entries;
        self.duplicate += other.duplicate;
        self.bad += other.bad;
        self.flows += other.flows;
        self.packets += other.packets;
        self.missing += other.missing;
        self.stale += other.stale;
    }
}

#[derive(Debug, Default)]
struct Member {
    introduction: Introduction,
    /// Of the session it is connected by.
    session: Option<(u64, CancellationToken)>,
    last_seen: Option<UtcNs>,
    heartbeat: Option<v1::Heartbeat>,
    clock: Option<(i64, u64)>,
    received: Received,
}

#[derive(Debug, Default)]
struct Members {
    by_id: BTreeMap<AgentId, Member>,
    sessions: u64,
}

/// All agents; clones are the same fleet.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    members: Arc<Mutex<Members>>,
}

/// An agent's place in the fleet for as long as its session lasts.
#[derive(Debug)]
pub struct Seat {
    tally: Tally,
    number: u64,
    replaced: CancellationToken,
}

/// Counts what comes from an agent; what is under way when its session ends still counts.
#[derive(Clone, Debug)]
pub struct Tally {
    fleet: Fleet,
    id: AgentId,
}

impl Fleet {
    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Agents known from what is stored, though they have not called since the start.
    pub fn remember(&self, agents: impl IntoIterator<Item = (AgentId, String)>) {
        let mut members = self.members();
        for (id, name) in agents.into_iter().take(AGENTS_MAX) {
            let member = members.by_id.entry(id).or_default();
            member.introduction.id = id;
            if member.introduction.name.is_empty() {
                member.introduction.name = name;
            }
        }
    }

    /// Let an agent in. A session it already has ends: the newer one is the one that lives.
    ///
    /// # Errors
    /// When too many are connected.
    pub fn join(&self, introduction: Introduction, now: UtcNs) -> Result<Seat, FleetError> {
        let mut members = self.members();
        let id = introduction.id;
        if !members.by_id.contains_key(&id) && members.by_id.len() >= AGENTS_MAX {
            let absent = members.by_id.iter().filter(|(_, m)| m.session.is_none());
            let oldest = absent.min_by_key(|(_, m)| m.last_seen).map(|(id, _)| *id);
            members.by_id.remove(&oldest.ok_or(FleetError::Crowded)?);
        }
        members.sessions += 1;
        let number = members.sessions;
        let replaced = CancellationToken::new();
        let member = members.by_id.entry(id).or_default();
        member.introduction = introduction;
        member.last_seen = Some(now);
        if let Some((_, older)) = member.session.replace((number, replaced.clone())) {
            older.cancel();
        }
        drop(members);
        Ok(Seat { tally: Tally { fleet: self.clone(), id }, number, replaced })
    }

    /// All agents, by id.
    pub fn agents(&self) -> Vec<v1::Agent> {
        let members = self.members();
        let agent = |member: &Member| v1::Agent {
            id: member.introduction.id.0.to_vec(),
            name: member.introduction.name.clone(),
            version: member.introduction.version.clone(),
            connected: member.session.is_some(),
            last_seen_unix_ns: member.last_seen.map(UtcNs::unix_ns),
            peer: member.introduction.peer.clone(),
            heartbeat: member.heartbeat.clone(),
            labels: member.introduction.labels.clone(),
            entries_received: member.received.entries,
            entries_duplicate: member.received.duplicate,
            entries_bad: member.received.bad,
            flows_received: member.received.flows,
            packets_received: member.received.packets,
            clock_offset_ns: member.clock.map(|(offset, _)| offset),
            clock_err_ns: member.clock.map(|(_, err)| err),
        };
        members.by_id.values().map(agent).collect()
    }

    /// The connected agents' epochs and when their clocks were read last, in RAW.
    pub fn readings(&self) -> Vec<(EpochId, RawNs)> {
        let members = self.members();
        let connected = members.by_id.values().filter(|member| member.session.is_some());
        let reading = |member: &Member| {
            let heartbeat = member.heartbeat.as_ref()?;
            let epoch = EpochId::try_from(heartbeat.epoch.as_ref()?).ok()?;
            Some((epoch, RawNs(heartbeat.clock.as_ref()?.raw_ns)))
        };
        connected.filter_map(reading).collect()
    }

    /// How many are connected.
    pub fn connected(&self) -> usize {
        self.members().by_id.values().filter(|m| m.session.is_some()).count()
    }

    /// What came from all agents together.
    pub fn received(&self) -> Received {
        let mut sum = Received::default();
        self.members().by_id.values().for_each(|m| sum.add(&m.received));
        sum
    }
}

impl Seat {
    /// Ends when the agent opened a newer session.
    pub fn replaced(&self) -> &CancellationToken {
        &self.replaced
    }

    pub fn tally(&self) -> Tally {
        self.tally.clone()
    }

    pub fn name(&self) -> String {
        let members = self.tally.fleet.members();
        members.by_id.get(&self.tally.id).map(|member| member.introduction.name.clone()).unwrap_or_default()
    }

    /// What the last heartbeat said of the agent's clock, of an earlier session maybe.
    pub fn clock(&self) -> Option<v1::ClockStatus> {
        let members = self.tally.fleet.members();
        members.by_id.get(&self.tally.id)?.heartbeat.as_ref()?.clock.clone()
    }

    /// The agent says how it fares. `raw_is` is when its clock sample was taken, by the evidence.
    pub fn heartbeat(&self, heartbeat: v1::Heartbeat, now: UtcNs, raw_is: Option<Estimate>) {
        let clock = heartbeat.clock.as_ref().zip(raw_is).map(|(clock, is)| {
            let claimed = UtcNs::from_tai_ns(clock.realtime_tai_ns);
            (claimed.minus(is.utc), is.err_ns.saturating_add(clock.half_width_ns))
        });
        self.tally.update(|member| {
            member.last_seen = Some(now);
            member.heartbeat = Some(heartbeat);
            member.clock = clock;
        });
    }
}

impl Tally {
    fn update(&self, change: impl FnOnce(&mut Member)) {
        if let Some(member) = self.fleet.members().by_id.get_mut(&self.id) {
            change(member);
        }
    }

    pub fn received(&self, more: &Received) {
        self.update(|member| member.received.add(more));
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let number = self.number;
        self.tally.update(|member| {
            if member.session.as_ref().is_some_and(|(current, _)| *current == number) {
                member.session = None;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn introduction(id: u8) -> Introduction {
        Introduction { id: AgentId([id; 16]), name: format!("agent-{id}"), ..Introduction::default() }
    }

    #[test]
    fn a_newer_session_replaces_the_older_and_the_older_leaves_without_a_trace() {
        let fleet = Fleet::default();
        let older = fleet.join(introduction(1), UtcNs::default()).unwrap();
        let newer = fleet.join(introduction(1), UtcNs::default()).unwrap();
        assert!(older.replaced().is_cancelled() && !newer.replaced().is_cancelled());
        drop(older);
        assert!(fleet.agents()[0].connected);
        newer.tally().received(&Received { flows: 3, ..Received::default() });
        drop(newer);
        let agent = &fleet.agents()[0];
        assert!(!agent.connected && agent.flows_received == 3);
        assert_eq!((fleet.connected(), fleet.received().flows), (0, 3));
    }

    #[test]
    fn the_fleet_is_bounded_and_forgets_the_absent_first() {
        let fleet = Fleet::default();
        let seat = |n: usize| {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&n.to_be_bytes());
            fleet.join(
                Introduction { id: AgentId(id), ..Introduction::default() },
                UtcNs::from_tai_ns(n as i64),
            )
        };
        let mut seats: Vec<_> = (0..AGENTS_MAX).map(|n| seat(n).unwrap()).collect();
        assert_eq!(seat(AGENTS_MAX).err(), Some(FleetError::Crowded));
        seats.remove(5);
        assert!(seat(AGENTS_MAX).is_ok());
        assert_eq!(fleet.agents().len(), AGENTS_MAX);
    }

    #[test]
    fn the_offset_of_an_agents_clock_is_claim_minus_evidence() {
        let fleet = Fleet::default();
        let seat = fleet.join(introduction(1), UtcNs::default()).unwrap();
        let clock = v1::ClockStatus { realtime_tai_ns: 5_000, half_width_ns: 10, ..Default::default() };
        let heartbeat = v1::Heartbeat { clock: Some(clock), ..Default::default() };
        let is = Estimate { utc: UtcNs::from_tai_ns(2_000), err_ns: 100, conflict: false };
        seat.heartbeat(heartbeat, UtcNs::default(), Some(is));
        let agent = &fleet.agents()[0];
        assert_eq!((agent.clock_offset_ns, agent.clock_err_ns), (Some(3_000), Some(110)));
    }
}
