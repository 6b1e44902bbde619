//! Which interfaces are captured: the entries of `interfaces`, or the agent's own picking, asked of the interfaces that there are
//! now. Pure: `capture_set.rs` asks again whenever a link or an address changes.
//!
//! An exclusion holds wherever it stands. Among the others the first entry that matches an interface says how it is captured. With
//! no entries, or exclusions only, the agent picks (`gnomon_capture::interface::pick`).

mod selector;

use std::collections::BTreeSet;

use gnomon_capture::interface::{self, Interface, Kind};

use crate::config::{InterfaceConfig, WORKERS_MAX};
pub use selector::{Class, Selector, SelectorError, What};

/// Memory for the ring of a virtual pair that no entry names: a node has hundreds of them.
const PAIR_RING_BYTES: u64 = 4 << 20;
/// Flows that the worker of such a pair can hold at once.
const PAIR_FLOWS_MAX: u32 = 1 << 16;

/// What was configured, read once.
#[derive(Clone, Debug)]
pub struct Selection {
    entries: Vec<(Selector, InterfaceConfig)>,
    limits: Limits,
}

/// What interfaces that no entry names may take together with the others.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Memory for a worker's ring, where the entry does not say it.
    pub ring_bytes: u64,
    /// Memory for all rings.
    pub rings_bytes_max: u64,
    /// Flows of a worker.
    pub flows_max: u32,
}

/// An interface that is captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    pub interface: Interface,
    pub settings: InterfaceConfig,
    /// Of each worker.
    pub ring_bytes: u64,
    pub flows_max: u32,
    /// Why it was chosen, one sentence.
    pub reason: String,
    /// That its packets are seen on another captured interface as well.
    pub seen_twice: Option<String>,
}

/// An interface that is not captured, or an entry that matches none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    pub name: String,
    pub reason: String,
    /// The entry names it: it is waited for.
    pub is_named: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    pub chosen: Vec<Chosen>,
    pub left_out: Vec<LeftOut>,
}

struct Candidate {
    chosen: Chosen,
    is_named: bool,
    was_captured: bool,
}

impl Selection {
    /// # Errors
    /// The entry that cannot be meant so.
    pub fn new(configured: &[InterfaceConfig], limits: Limits) -> Result<Selection, (usize, SelectorError)> {
        let parse = |(at, entry): (usize, &InterfaceConfig)| {
            Selector::parse(&entry.name)
                .map(|selector| (selector, entry.clone()))
                .map_err(|error| (at, error))
        };
        let entries: Result<_, _> = configured.iter().enumerate().map(parse).collect();
        Ok(Selection { entries: entries?, limits })
    }

    /// Whether the agent picks.
    fn picks(&self) -> bool {
        self.entries.iter().all(|(selector, _)| selector.excludes)
    }

    /// Decides for the interfaces there are. One that is `captured` (by index) and goes down stays: it may come up again, and
    /// then its first packets count as well.
    pub fn decide(&self, interfaces: Vec<Interface>, captured: &BTreeSet<u32>) -> Decision {
        let mut decision = Decision::default();
        let mut candidates = Vec::new();
        let all: Vec<Interface> = interfaces
            .into_iter()
            .map(|interface| Interface {
                up: interface.up || captured.contains(&interface.index),
                ..interface
            })
            .collect();
        let plans = interface::pick_among(all);
        for plan in plans {
            let (interface, picked) = (plan.interface, plan.taken);
            let judged = if let Some((selector, _)) = self.excluded(&interface) {
                Err(format!("left out: `{selector}` excludes it"))
            } else if self.picks() {
                let settings = InterfaceConfig::named(&interface.name);
                if picked { Ok((settings, plan.reason, false)) } else { Err(plan.reason) }
            } else {
                self.matching(&interface)
            };
            match judged {
                Ok((settings, reason, is_named)) => {
                    let was_captured = captured.contains(&interface.index);
                    let chosen = self.chosen(interface, settings, reason, is_named);
                    candidates.push(Candidate { chosen, is_named, was_captured });
                }
                Err(reason) => {
                    let is_named = self.names(&interface.name) && self.excluded(&interface).is_none();
                    decision.left_out.push(LeftOut { name: interface.name, reason, is_named });
                }
            }
        }
        self.within_limits(candidates, &mut decision);
        self.missing(&mut decision);
        note_seen_twice(&mut decision.chosen);
        decision
    }

    fn excluded(&self, interface: &Interface) -> Option<&(Selector, InterfaceConfig)> {
        self.entries.iter().find(|(selector, _)| selector.excludes && selector.matches(interface))
    }

    fn names(&self, name: &str) -> bool {
        self.entries.iter().any(|(selector, _)| !selector.excludes && is_name(selector, name))
    }

    fn matching(&self, interface: &Interface) -> Result<(InterfaceConfig, String, bool), String> {
        let found =
            self.entries.iter().find(|(selector, _)| !selector.excludes && selector.matches(interface));
        let Some((selector, settings)) = found else {
            return Err("left out: no entry of `interfaces` matches it".into());
        };
        match &selector.what {
            What::Name(_) => Ok((settings.clone(), "taken: named".into(), true)),
            What::Pattern(_) => Ok((settings.clone(), format!("taken: `{selector}` matches it"), false)),
            What::Class(_) if !interface.up => Err("left out: it is down".into()),
            What::Class(_) => {
                Ok((settings.clone(), format!("taken: it is of the class `{selector}`"), false))
            }
        }
    }

    fn chosen(
        &self,
        interface: Interface,
        settings: InterfaceConfig,
        reason: String,
        is_named: bool,
    ) -> Chosen {
        let Limits { ring_bytes, flows_max, .. } = self.limits;
        let is_small = interface.kind == Kind::Veth && !is_named && !self.picks();
        let usual = if is_small { ring_bytes.min(PAIR_RING_BYTES) } else { ring_bytes };
        Chosen {
            ring_bytes: settings.ring_bytes.map_or(usual, |bytes| bytes.bytes()),
            flows_max: if is_small { flows_max.min(PAIR_FLOWS_MAX) } else { flows_max },
            interface,
            settings,
            reason,
            seen_twice: None,
        }
    }

    /// Those that are captured already come first, then those that entries name, then the others.
    fn within_limits(&self, mut candidates: Vec<Candidate>, decision: &mut Decision) {
        candidates.sort_by_key(|candidate| (!candidate.was_captured, !candidate.is_named));
        let (mut workers, mut rings_bytes) = (0, 0_u64);
        for Candidate { chosen, is_named, .. } in candidates {
            let more_workers = workers + usize::from(chosen.settings.workers);
            let more_bytes = rings_bytes
                .saturating_add(chosen.ring_bytes.saturating_mul(u64::from(chosen.settings.workers)));
            let refused = if more_workers > WORKERS_MAX {
                Some(format!("left out: with it there were more than {WORKERS_MAX} workers"))
            } else if more_bytes > self.limits.rings_bytes_max && !is_named {
                let max = self.limits.rings_bytes_max >> 20;
                Some(format!(
                    "left out: with it all rings took more than `capture.rings_bytes_max`, {max} MiB"
                ))
            } else {
                None
            };
            match refused {
                None => {
                    (workers, rings_bytes) = (more_workers, more_bytes);
                    decision.chosen.push(chosen);
                }
                Some(reason) => {
                    decision.left_out.push(LeftOut { name: chosen.interface.name, reason, is_named });
                }
            }
        }
    }

    /// Entries that match nothing.
    fn missing(&self, decision: &mut Decision) {
        for (selector, settings) in self.entries.iter().filter(|(selector, _)| !selector.excludes) {
            let is_there = |interface: &Interface| selector.matches(interface);
            let is_left_out = |left: &LeftOut| is_name(selector, &left.name);
            if decision.chosen.iter().any(|chosen| is_there(&chosen.interface))
                || decision.left_out.iter().any(is_left_out)
            {
                continue;
            }
            let (is_named, reason) = match selector.what {
                What::Name(_) => (true, "waited for: no interface here has this name"),
                _ => (false, "waited for: no interface that can be taken matches it"),
            };
            let left = LeftOut { name: settings.name.clone(), reason: reason.into(), is_named };
            decision.left_out.push(left);
        }
    }
}

fn is_name(selector: &Selector, name: &str) -> bool {
    matches!(&selector.what, What::Name(own) if own == name)
}

/// A port's frames pass its bridge, a vlan's the card under it, those of one end of a pair the other end.
fn note_seen_twice(chosen: &mut [Chosen]) {
    let names: Vec<(u32, String)> =
        chosen.iter().map(|chosen| (chosen.interface.index, chosen.interface.name.clone())).collect();
    for chosen in chosen {
        let Interface { master, lower, .. } = chosen.interface;
        let others = names.iter().filter(|(index, _)| Some(*index) == master || Some(*index) == lower);
        let others: Vec<&str> = others.map(|(_, name)| name.as_str()).collect();
        if !others.is_empty() {
            let others = others.join(" and ");
            chosen.seen_twice =
                Some(format!("captured through {others} too: packets that pass both count twice"));
        }
    }
}

#[cfg(test)]
mod tests;
