//! What is done with which flows: tags, how much of their packets is kept, or that they are not recorded at all. What
//! decides when is docs/rules.md; [`judge`] asks, [`current`] is what is in force.

pub mod current;
pub mod judge;
pub mod scope;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gnomon_clock::UtcNs;
use gnomon_expression::{Expression, ParseError, Predicate, Term, TextTerm, parse_in};
use scope::{RULES, When};

/// Rules there may be.
pub const RULES_MAX: usize = 256;
/// Bytes of a rule's name, and of a tag.
pub const WORD_BYTES_MAX: usize = 63;
/// Different tags that all rules together may give: what a record can carry of them is bounded.
pub const TAGS_MAX: usize = 64;
/// Wildcards and regular expressions in all rules together, at up to 256 KiB each.
pub const PATTERNS_MAX: usize = 256;

/// What is kept of a flow's packets. The length on the wire is kept with every packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    Nothing,
    /// Layers 2 to 4, no payload.
    Headers,
    /// The first so many bytes of each packet.
    OfPacket(u32),
    /// Packets until so many bytes of the flow are kept, the last one cut.
    OfFlow(u32),
    /// Packets until so many of the flow are kept.
    Packets(u32),
    #[default]
    All,
}

/// What a rule says of a flow, beside its tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Keep(Keep),
    /// No record and no packets.
    Ignore,
}

/// A rule as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleText {
    pub name: String,
    pub when: String,
    pub tags: Vec<String>,
    pub action: Option<Action>,
}

/// What is wrong with a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    #[error("must have 1 to {WORD_BYTES_MAX} letters, digits, `-`, `_`, `.` or `:`")]
    Name,
    #[error("{0:?} stands twice; matches are counted by name")]
    NameTwice(String),
    #[error("is empty; say which flows, all of them are `ip.protocol == EXISTS!`")]
    WhenEmpty,
    #[error(transparent)]
    When(#[from] ParseError),
    #[error(
        "`ignore` is decided with a flow's first packet, and `when` asks for metadata, which comes later"
    )]
    IgnoreTooLate,
    #[error("{0:?} is no tag; a tag has 1 to {WORD_BYTES_MAX} letters, digits, `-`, `_`, `.` or `:`")]
    Tag(String),
    #[error("more than {TAGS_MAX} different tags in all rules")]
    TooManyTags,
    #[error("more than {PATTERNS_MAX} wildcards and regular expressions in all rules")]
    TooManyPatterns,
    #[error("does nothing; give it `tag`, `keep` or `ignore = true`")]
    NoAction,
    #[error("a flow that is ignored has no record that could carry a tag")]
    TagOfIgnored,
    #[error("more than {RULES_MAX} rules")]
    TooMany,
}

/// A rule that is ready to be asked.
#[derive(Debug)]
pub struct Rule {
    pub name: Arc<str>,
    /// As it was understood.
    pub when: String,
    pub decided: When,
    pub tags: Vec<String>,
    pub action: Option<Action>,
    predicate: AskedPredicate,
    /// Flows it matched. Shared with the rule of this name that stood before it and will stand after it.
    matches: Arc<AtomicU64>,
}

/// [`Predicate`] has patterns, which nobody wants printed.
struct AskedPredicate(Predicate);

impl std::fmt::Debug for AskedPredicate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("predicate")
    }
}

impl Rule {
    pub fn matches(&self) -> u64 {
        self.matches.load(Ordering::Relaxed)
    }
}

/// All rules in their order, and what is kept of flows of which none says it.
#[derive(Debug, Default)]
pub struct Rules {
    list: Vec<Rule>,
    otherwise: Keep,
    /// Places of those that are decided by metadata.
    by_metadata: Vec<u16>,
}

impl Rules {
    /// No rules: the same is kept of every flow.
    #[must_use]
    pub fn keep(otherwise: Keep) -> Rules {
        Rules { otherwise, ..Rules::default() }
    }

    /// Compile rules.
    ///
    /// # Errors
    /// The place in the list, the key there, and what is wrong with it.
    pub fn compile(
        texts: &[RuleText],
        otherwise: Keep,
    ) -> Result<Rules, (Option<usize>, &'static str, RuleError)> {
        if texts.len() > RULES_MAX {
            return Err((None, "", RuleError::TooMany));
        }
        let mut rules = Rules::keep(otherwise);
        let (mut tags, mut patterns) = (Vec::new(), 0);
        for (at, text) in texts.iter().enumerate() {
            let rule = rules.rule(text, &mut tags, &mut patterns);
            let rule = rule.map_err(|(key, error)| (Some(at), key, error))?;
            if rule.decided == When::Metadata {
                rules.by_metadata.push(at as u16);
            }
            rules.list.push(rule);
        }
        Ok(rules)
    }

    fn rule<'t>(
        &self,
        text: &'t RuleText,
        all_tags: &mut Vec<&'t str>,
        patterns: &mut usize,
    ) -> Result<Rule, (&'static str, RuleError)> {
        if !is_word(&text.name) {
            return Err(("name", RuleError::Name));
        }
        if self.list.iter().any(|other| *other.name == *text.name) {
            return Err(("name", RuleError::NameTwice(text.name.clone())));
        }
        if text.when.trim().is_empty() {
            return Err(("when", RuleError::WhenEmpty));
        }
        let expression = parse_in(&text.when, RULES).map_err(|error| ("when", error.into()))?;
        let mut decided = When::FirstPacket;
        expression.each_comparison(&mut |comparison| {
            decided = decided.max(scope::when(comparison.field.0).unwrap_or(When::Metadata));
            *patterns += comparison.operand.terms().iter().filter(|term| is_pattern(term)).count();
        });
        if *patterns > PATTERNS_MAX {
            return Err(("when", RuleError::TooManyPatterns));
        }
        for tag in &text.tags {
            if !is_word(tag) {
                return Err(("tag", RuleError::Tag(tag.clone())));
            }
            if !all_tags.contains(&tag.as_str()) {
                all_tags.push(tag);
            }
        }
        if all_tags.len() > TAGS_MAX {
            return Err(("tag", RuleError::TooManyTags));
        }
        match text.action {
            None if text.tags.is_empty() => return Err(("", RuleError::NoAction)),
            Some(Action::Ignore) if !text.tags.is_empty() => return Err(("tag", RuleError::TagOfIgnored)),
            Some(Action::Ignore) if decided == When::Metadata => {
                return Err(("ignore", RuleError::IgnoreTooLate));
            }
            _ => {}
        }
        Ok(Rule {
            name: text.name.as_str().into(),
            when: expression.to_string(),
            decided,
            tags: text.tags.clone(),
            action: text.action,
            predicate: AskedPredicate(predicate(&expression)),
            matches: Arc::default(),
        })
    }

    /// Go on counting where the rules of the same names in `before` were.
    #[must_use]
    pub fn counting_on(mut self, before: &Rules) -> Rules {
        let counted: HashMap<&str, &Rule> = before.list.iter().map(|rule| (&*rule.name, rule)).collect();
        for rule in &mut self.list {
            if let Some(before) = counted.get(&*rule.name) {
                rule.matches = Arc::clone(&before.matches);
            }
        }
        self
    }

    pub fn list(&self) -> &[Rule] {
        &self.list
    }

    pub fn otherwise(&self) -> Keep {
        self.otherwise
    }
}

/// Relative times are refused, so that the moment does not matter.
fn predicate(expression: &Expression) -> Predicate {
    Predicate::of(expression, UtcNs::from_unix_ns(0))
}

fn is_word(text: &str) -> bool {
    (1..=WORD_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
}

fn is_pattern(term: &Term) -> bool {
    matches!(term, Term::Text(TextTerm::Wildcard(_) | TextTerm::Regex(_)))
}

#[cfg(test)]
mod tests;
