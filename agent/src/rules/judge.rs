//! One worker's rules, asked of its flows.
//!
//! Constraints: nothing is asked of a packet but whether its flow was judged by these rules and whether it brought
//! metadata that a rule waits for. What is asked of a flow is asked of the field table, as searches do: the same
//! expression finds at the collector what it matched here.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use gnomon_flow::{Attributes, Field, FlowKey, Origin, OwnStreams, StoredFlow, field};

use super::scope::{When, when};
use super::{Action, Keep, RULES_MAX, Rule, Rules};

/// What the rules said of a flow so far. The default is that of a flow nobody asked about.
#[derive(Debug, Default)]
pub struct Verdict {
    /// [`Judge::generation`] of the rules and own streams that were asked.
    generation: u32,
    /// Rules before this one may still decide what is kept.
    undecided: u16,
    ignored: bool,
    /// The flow is gnomon's own, and stays so.
    own: bool,
    /// Rules that matched and have tags or wait for metadata.
    matched: Option<Box<Matched>>,
}

impl Verdict {
    #[inline]
    pub fn is_ignored(&self) -> bool {
        self.ignored
    }

    #[inline]
    pub fn is_own(&self) -> bool {
        self.own
    }
}

/// A set of rules by their place.
#[derive(Debug, Default)]
struct Matched([u64; RULES_MAX / 64]);

impl Matched {
    fn has(&self, at: u16) -> bool {
        self.0[usize::from(at) / 64] & 1 << (at % 64) != 0
    }

    fn add(&mut self, at: u16) {
        self.0[usize::from(at) / 64] |= 1 << (at % 64);
    }
}

/// What rules are asked of, beside metadata.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    pub key: FlowKey,
    pub icmp: Option<(u8, u8)>,
    pub direction_guessed: bool,
}

#[derive(Debug)]
pub struct Judge {
    rules: Arc<Rules>,
    own_streams: Arc<OwnStreams>,
    /// Of the two together: it rises whenever either changes.
    generation: u32,
    /// The generation since which these rules hold.
    rules_since: u32,
    /// A record with the facts of the flow that is judged, made once.
    flow: StoredFlow,
}

impl Default for Judge {
    fn default() -> Judge {
        Judge::new(Arc::default(), Origin::default())
    }
}

impl Judge {
    pub fn new(rules: Arc<Rules>, origin: Origin) -> Judge {
        Judge {
            rules,
            own_streams: Arc::default(),
            generation: 1,
            rules_since: 1,
            flow: StoredFlow { origin, ..StoredFlow::default() },
        }
    }

    /// From now on these are asked, of every flow anew.
    pub fn replace(&mut self, rules: Arc<Rules>) {
        self.rules = rules;
        self.next_generation();
        self.rules_since = self.generation;
    }

    /// From now on these streams are gnomon's own, of the flows that there are too.
    pub fn replace_own_streams(&mut self, own_streams: Arc<OwnStreams>) {
        self.own_streams = own_streams;
        self.next_generation();
    }

    fn next_generation(&mut self) {
        // 0 is that of flows nobody asked about.
        self.generation = self.generation.checked_add(1).unwrap_or(1);
    }

    /// Whether a flow was not judged by these rules and own streams yet.
    #[inline]
    pub fn is_news(&self, verdict: &Verdict) -> bool {
        verdict.generation != self.generation
    }

    /// Whether it matters that a flow has new metadata.
    #[inline]
    pub fn waits_for_metadata(&self) -> bool {
        !self.rules.by_metadata.is_empty()
    }

    /// Ask about a flow: all rules if they were not asked yet, those over metadata otherwise. Gives `attributes` back as
    /// they were.
    pub fn judge(
        &mut self,
        facts: Facts,
        attributes: &mut Attributes,
        verdict: &mut Verdict,
        keep: &mut Keep,
    ) {
        std::mem::swap(&mut self.flow.record.attributes, attributes);
        let record = &mut self.flow.record;
        record.key = facts.key;
        record.icmp = facts.icmp;
        record.direction_guessed = facts.direction_guessed;
        let mut rules_are_news = false;
        if self.is_news(verdict) {
            // Once its own, a flow stays so: a stream that was closed still has packets under way.
            let own = verdict.own || self.own_streams.has(&facts.key);
            rules_are_news = own != verdict.own || !(self.rules_since..).contains(&verdict.generation);
            (verdict.own, verdict.generation) = (own, self.generation);
        }
        self.flow.record.own_uplink = verdict.own;
        if rules_are_news {
            *keep = self.rules.otherwise;
            *verdict = Verdict {
                generation: self.generation,
                undecided: self.rules.list.len() as u16,
                own: verdict.own,
                ..Verdict::default()
            };
            for (at, rule) in self.rules.list.iter().enumerate() {
                ask(rule, at as u16, &self.flow, verdict, keep);
            }
        } else {
            for at in &self.rules.by_metadata {
                if !verdict.matched.as_ref().is_some_and(|matched| matched.has(*at)) {
                    ask(&self.rules.list[usize::from(*at)], *at, &self.flow, verdict, keep);
                }
            }
        }
        if verdict.own {
            *keep = Keep::Nothing;
        }
        std::mem::swap(&mut self.flow.record.attributes, attributes);
    }

    /// The attributes with the flow's tags, which come first: however many values a flow sends, it keeps its tags.
    pub fn tagged(&self, verdict: &Verdict, attributes: Attributes) -> Attributes {
        let Some(matched) = &verdict.matched else { return attributes };
        let mut all = Attributes::default();
        for (at, rule) in self.rules.list.iter().enumerate() {
            if matched.has(at as u16) {
                for tag in &rule.tags {
                    all.text(field::TAGS, tag);
                }
            }
        }
        if all.is_empty() {
            return attributes;
        }
        all.add_dropped(attributes.dropped());
        for attribute in attributes.iter() {
            all.push(attribute.field, attribute.value.clone());
        }
        all
    }
}

fn ask(rule: &Rule, at: u16, flow: &StoredFlow, verdict: &mut Verdict, keep: &mut Keep) {
    let known = |field: &'static Field| {
        when(field) == Ok(When::FirstPacket) || {
            let mut any = false;
            field.each(flow, &mut |_| any = true);
            any
        }
    };
    if rule.predicate.0.decide(flow, &known) != Some(true) {
        return;
    }
    rule.matches.fetch_add(1, Ordering::Relaxed);
    if !rule.tags.is_empty() || rule.decided == When::Metadata {
        verdict.matched.get_or_insert_default().add(at);
    }
    if let Some(action) = rule.action
        && at < verdict.undecided
    {
        verdict.undecided = at;
        match action {
            Action::Keep(what) => *keep = what,
            Action::Ignore => verdict.ignored = true,
        }
    }
}
