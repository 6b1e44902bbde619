//! Who is out there: each agent's last heartbeat, whether it is connected, and what came from it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gnomon_clock::{EpochId, Estimate, MonoNs, RawNs, UtcNs};
use gnomon_flow::AgentId;
use gnomon_proto::v1;
use tokio_util::sync::CancellationToken;

use crate::ingest::Refusals;
use crate::listen::Identity;

/// Agents known at once; of those that are not connected the one not seen for longest makes room.
pub const AGENTS_MAX: usize = 10_000;

/// Memory for what all agents said last, about: beyond it the largest heartbeats are forgotten, those of absent agents first.
pub const MEMORY_BYTES_MAX: usize = 64 << 20;
/// An agent that is not connected is forgotten after this.
pub const FORGET_NS: u64 = 7 * 86_400 * 1_000_000_000;
/// What one answer about all agents takes, about; it says how many are left out.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Between looks for agents to forget.
const LOOK_NS: u64 = 60_000_000_000;

/// What an agent said when it connected.
#[derive(Clone, Debug, Default)]
pub struct Introduction {
    pub id: AgentId,
    pub name: String,
    pub version: String,
    pub labels: HashMap<String, String>,
    pub peer: String,
    /// As whom it connected.
    pub identity: Identity,
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
    /// When it was first missed.
    absent_since: Option<MonoNs>,
    heartbeat: Option<Arc<v1::Heartbeat>>,
    /// What it takes of memory.
    heartbeat_bytes: usize,
    clock: Option<(i64, u64)>,
    received: Received,
}

impl Member {
    fn bytes(&self) -> usize {
        self.introduction.bytes() + self.heartbeat_bytes
    }

    fn agent(&self, heartbeat: Option<v1::Heartbeat>) -> v1::Agent {
        v1::Agent {
            id: self.introduction.id.0.to_vec(),
            name: self.introduction.name.clone(),
            version: self.introduction.version.clone(),
            connected: self.session.is_some(),
            last_seen_unix_ns: self.last_seen.map(UtcNs::unix_ns),
            peer: self.introduction.peer.clone(),
            heartbeat,
            labels: self.introduction.labels.clone(),
            entries_received: self.received.entries,
            entries_duplicate: self.received.duplicate,
            entries_bad: self.received.bad,
            flows_received: self.received.flows,
            packets_received: self.received.packets,
            clock_offset_ns: self.clock.map(|(offset, _)| offset),
            clock_err_ns: self.clock.map(|(_, err)| err),
        }
    }
}

impl Introduction {
    fn bytes(&self) -> usize {
        let labels = self.labels.iter().map(|(name, value)| name.len() + value.len() + 64);
        128 + self.name.len() + self.version.len() + self.peer.len() + labels.sum::<usize>()
    }
}

/// What a heartbeat takes of memory, about.
fn bytes_of(heartbeat: &v1::Heartbeat) -> usize {
    let counts = |of: &HashMap<String, u64>| of.keys().map(|name| name.len() + 64).sum::<usize>();
    let interface = |of: &v1::InterfaceStatus| {
        let texts = of.name.len() + of.mode.len() + of.error.len();
        size_of::<v1::InterfaceStatus>() + texts + counts(&of.drops) + counts(&of.queues)
    };
    let clock = heartbeat.clock.as_ref().map_or(0, |clock| clock.note.len() + clock.last_disruption.len());
    let spool = heartbeat.spool.as_ref().map_or(0, |spool| spool.error.len());
    let interfaces: usize = heartbeat.interfaces.iter().map(interface).sum();
    size_of::<v1::Heartbeat>() + interfaces + clock + spool
}

#[derive(Debug, Default)]
struct Members {
    by_id: BTreeMap<AgentId, Member>,
    sessions: u64,
    /// Of all heartbeats.
    heartbeat_bytes: usize,
    looked_at: Option<MonoNs>,
}

impl Members {
    fn remove(&mut self, id: AgentId) {
        if let Some(member) = self.by_id.remove(&id) {
            self.heartbeat_bytes -= member.heartbeat_bytes;
        }
    }

    fn forget_heartbeat(&mut self, id: AgentId) {
        if let Some(member) = self.by_id.get_mut(&id) {
            member.heartbeat = None;
            self.heartbeat_bytes -= std::mem::take(&mut member.heartbeat_bytes);
        }
    }
}

/// What is told of all agents.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Those connected first, then those seen last.
    pub agents: Vec<v1::Agent>,
    /// Agents that there was no room for.
    pub left_out: usize,
}

impl Answer {
    /// Why it is not whole, in words.
    pub fn partial(&self) -> Option<String> {
        let left_out = self.left_out;
        (left_out > 0).then(|| {
            format!(
                "{left_out} agents are left out: the answer is larger than {} MiB",
                ANSWER_BYTES_MAX >> 20
            )
        })
    }
}

/// What is known of an agent.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    pub introduction: &'a Introduction,
    pub connected: bool,
    pub last_seen: Option<UtcNs>,
    pub heartbeat: Option<&'a v1::Heartbeat>,
}

/// All agents; clones are the same fleet.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    members: Arc<Mutex<Members>>,
    refusals: Arc<Refusals>,
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

    /// What was not taken from agents.
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Forgets agents that have been away for long. A look once a minute is enough, and more are passed by.
    pub fn forget_absent(&self, now: MonoNs) {
        let mut members = self.members();
        if members.looked_at.is_some_and(|at| now.since(at) < LOOK_NS) {
            return;
        }
        members.looked_at = Some(now);
        let mut gone = Vec::new();
        for (id, member) in &mut members.by_id {
            if member.session.is_some() {
                member.absent_since = None;
            } else if now.since(*member.absent_since.get_or_insert(now)) >= FORGET_NS {
                gone.push(*id);
            }
        }
        gone.into_iter().for_each(|id| members.remove(id));
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
            members.remove(oldest.ok_or(FleetError::Crowded)?);
        }
        members.sessions += 1;
        let number = members.sessions;
        let replaced = CancellationToken::new();
        let member = members.by_id.entry(id).or_default();
        member.introduction = introduction;
        member.last_seen = Some(now);
        member.absent_since = None;
        if let Some((_, older)) = member.session.replace((number, replaced.clone())) {
            older.cancel();
        }
        drop(members);
        Ok(Seat { tally: Tally { fleet: self.clone(), id }, number, replaced })
    }

    /// All agents, by id, as far as one answer has room.
    pub fn agents(&self) -> Vec<v1::Agent> {
        let mut agents = self.answer().agents;
        agents.sort_by(|a, b| a.id.cmp(&b.id));
        agents
    }

    /// What is told of all agents at once, in bounded memory.
    pub fn answer(&self) -> Answer {
        let mut shared = Vec::new();
        let mut bytes = 0;
        let (mut answer, all) = {
            let members = self.members();
            let mut order: Vec<&Member> = members.by_id.values().collect();
            order.sort_by_key(|member| std::cmp::Reverse((member.session.is_some(), member.last_seen)));
            let mut answer = Answer::default();
            for member in order.iter() {
                bytes += member.bytes();
                // One always has room.
                if bytes > ANSWER_BYTES_MAX && !answer.agents.is_empty() {
                    break;
                }
                answer.agents.push(member.agent(None));
                shared.push(member.heartbeat.clone());
            }
            (answer, members.by_id.len())
        };
        // Outside of the lock that sessions need.
        for (agent, heartbeat) in answer.agents.iter_mut().zip(shared) {
            agent.heartbeat = heartbeat.map(Arc::unwrap_or_clone);
        }
        answer.left_out = all - answer.agents.len();
        answer
    }

    /// All agents, by id, with what they say of their clocks and of nothing else.
    pub fn clocks(&self) -> Vec<v1::Agent> {
        let members = self.members();
        let clock = |member: &Member| {
            let heartbeat = member.heartbeat.as_deref().map(|heartbeat| v1::Heartbeat {
                epoch: heartbeat.epoch.clone(),
                clock: heartbeat.clock.clone(),
                ..Default::default()
            });
            v1::Agent { labels: HashMap::new(), ..member.agent(heartbeat) }
        };
        members.by_id.values().map(clock).collect()
    }

    /// Shows every agent to `each`.
    pub fn each(&self, mut each: impl FnMut(Known<'_>)) {
        for member in self.members().by_id.values() {
            each(Known {
                introduction: &member.introduction,
                connected: member.session.is_some(),
                last_seen: member.last_seen,
                heartbeat: member.heartbeat.as_deref(),
            });
        }
    }

    /// The connected agents: as whom, in which epoch, and when their clocks were read last, in RAW.
    pub fn readings(&self) -> Vec<(Identity, Option<(EpochId, RawNs)>)> {
        let members = self.members();
        let connected = members.by_id.values().filter(|member| member.session.is_some());
        let reading = |member: &Member| {
            let heartbeat = member.heartbeat.as_ref()?;
            let epoch = EpochId::try_from(heartbeat.epoch.as_ref()?).ok()?;
            Some((epoch, RawNs(heartbeat.clock.as_ref()?.raw_ns)))
        };
        connected.map(|member| (member.introduction.identity.clone(), reading(member))).collect()
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

    /// Of the session; no two are the same.
    pub fn number(&self) -> u64 {
        self.number
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

    /// The agent says how it fares. `raw_is` is when its clock sample was taken, by the evidence. Whether there was room to
    /// remember it; the largest of all makes room for the others.
    pub fn heartbeat(&self, heartbeat: v1::Heartbeat, now: UtcNs, raw_is: Option<Estimate>) -> bool {
        let clock = heartbeat.clock.as_ref().zip(raw_is).map(|(clock, is)| {
            let claimed = UtcNs::from_tai_ns(clock.realtime_tai_ns);
            (claimed.minus(is.utc), is.err_ns.saturating_add(clock.half_width_ns))
        });
        let bytes = bytes_of(&heartbeat);
        let mut members = self.tally.fleet.members();
        members.forget_heartbeat(self.tally.id);
        let Some(member) = members.by_id.get_mut(&self.tally.id) else { return true };
        member.last_seen = Some(now);
        member.clock = clock;
        while members.heartbeat_bytes + bytes > MEMORY_BYTES_MAX {
            let known = members.by_id.iter().filter(|(_, member)| member.heartbeat_bytes > 0);
            let largest = known.max_by_key(|(_, member)| (member.session.is_none(), member.heartbeat_bytes));
            let Some((id, largest)) = largest else { return false };
            if largest.session.is_some() && largest.heartbeat_bytes <= bytes {
                return false;
            }
            let id = *id;
            members.forget_heartbeat(id);
        }
        members.heartbeat_bytes += bytes;
        if let Some(member) = members.by_id.get_mut(&self.tally.id) {
            member.heartbeat_bytes = bytes;
            member.heartbeat = Some(Arc::new(heartbeat));
        }
        true
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

    fn large(bytes: usize) -> v1::Heartbeat {
        let error = "x".repeat(bytes);
        v1::Heartbeat {
            interfaces: vec![v1::InterfaceStatus { error, ..Default::default() }],
            ..Default::default()
        }
    }

    #[test]
    fn heartbeats_take_bounded_memory_and_small_ones_are_remembered() {
        let fleet = Fleet::default();
        let join = |n: u32| {
            let mut id = [0; 16];
            id[..4].copy_from_slice(&n.to_be_bytes());
            fleet.join(
                Introduction { id: AgentId(id), ..Introduction::default() },
                UtcNs::from_tai_ns(n.into()),
            )
        };
        let honest = join(0).unwrap();
        let mut seats = Vec::new();
        for n in 1..1_000 {
            let seat = join(n).unwrap();
            seat.heartbeat(large(250 << 10), UtcNs::from_tai_ns(n.into()), None);
            // Every other is gone at once.
            if n % 2 == 0 {
                seats.push(seat);
            }
            assert!(fleet.members().heartbeat_bytes <= MEMORY_BYTES_MAX);
        }
        let again = |seat: &Seat| seat.heartbeat(large(250 << 10), UtcNs::default(), None);
        assert!(!seats.iter().all(again), "there is no room for all of them");
        assert!(honest.heartbeat(large(100), UtcNs::from_tai_ns(5_000), None));
        let answer = fleet.answer();
        let bytes: usize =
            answer.agents.iter().filter_map(|agent| agent.heartbeat.as_ref()).map(bytes_of).sum();
        assert!(bytes <= ANSWER_BYTES_MAX + (256 << 10), "{bytes}");
        assert!(answer.left_out > 0 && answer.partial().is_some());
        assert_eq!(answer.agents[0].last_seen_unix_ns, Some(UtcNs::from_tai_ns(5_000).unix_ns()));
        assert!(answer.agents[0].heartbeat.is_some());
        drop((seats, honest));
        let of_all: usize = fleet.members().by_id.values().map(|member| member.heartbeat_bytes).sum();
        assert_eq!(of_all, fleet.members().heartbeat_bytes);
    }

    #[test]
    fn who_stays_away_is_forgotten_and_who_is_there_is_not() {
        let fleet = Fleet::default();
        fleet.remember([(AgentId([7; 16]), "of-before".to_owned())]);
        let _there = fleet.join(introduction(1), UtcNs::default()).unwrap();
        drop(fleet.join(introduction(2), UtcNs::default()).unwrap());
        fleet.forget_absent(MonoNs(0));
        fleet.forget_absent(MonoNs(FORGET_NS - 1));
        assert_eq!(fleet.agents().len(), 3);
        fleet.forget_absent(MonoNs(FORGET_NS + LOOK_NS));
        let names: Vec<_> = fleet.agents().into_iter().map(|agent| agent.name).collect();
        assert_eq!(names, ["agent-1"]);
    }
}
