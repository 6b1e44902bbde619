//! The words of rules (`packet 128B`, `packets 20`), read into what the engine goes by.

use gnomon_daemon::config::{ByteSize, ConfigError};

use super::{Config, RuleConfig};
use crate::rules::scope::When;
use crate::rules::{Action, Keep, RuleText, Rules};

impl Config {
    /// The rules as the engine has them.
    ///
    /// # Errors
    /// With the key of what does not parse.
    pub fn rules(&self) -> Result<Rules, ConfigError> {
        self.rules_with(|action| action, keep("slices.keep", &self.slices.keep)?)
    }

    /// The rules where no packets are kept: tags, and what is ignored.
    ///
    /// # Errors
    /// As [`Config::rules`].
    pub fn rules_of_records(&self) -> Result<Rules, ConfigError> {
        let records_only = |action| match action {
            Action::Keep(_) => Action::Keep(Keep::Nothing),
            Action::Ignore => Action::Ignore,
        };
        self.rules_with(records_only, Keep::Nothing)
    }

    fn rules_with(&self, action: impl Fn(Action) -> Action, otherwise: Keep) -> Result<Rules, ConfigError> {
        let text = |(at, rule): (usize, &RuleConfig)| {
            let text = rule.text(&format!("rules[{at}]"))?;
            Ok(RuleText { action: text.action.map(&action), ..text })
        };
        let texts: Result<Vec<RuleText>, ConfigError> = self.rules.iter().enumerate().map(text).collect();
        let rules = Rules::compile(&texts?, otherwise).map_err(|(at, key, error)| {
            let rule = at.map_or_else(|| "rules".to_owned(), |at| format!("rules[{at}]"));
            let key = if key.is_empty() { rule } else { format!("{rule}.{key}") };
            ConfigError::invalid(&key, error)
        })?;
        let in_vain = rules.list().iter().position(|rule| rule.decided == When::Metadata);
        if let Some(at) = in_vain.filter(|_| !self.flows.inspect) {
            let message = "asks for metadata, and `flows.inspect = false` leaves payload unread";
            return Err(ConfigError::invalid(&format!("rules[{at}].when"), message));
        }
        Ok(rules)
    }
}

impl RuleConfig {
    fn text(&self, key: &str) -> Result<RuleText, ConfigError> {
        let action = match (&self.keep, self.ignore) {
            (Some(_), true) => {
                let message = "a flow that is ignored has no packets to keep; take one of the two out";
                return Err(ConfigError::invalid(&format!("{key}.keep"), message));
            }
            (Some(text), false) => Some(Action::Keep(keep(&format!("{key}.keep"), text)?)),
            (None, true) => Some(Action::Ignore),
            (None, false) => None,
        };
        Ok(RuleText { name: self.name.clone(), when: self.when.clone(), tags: self.tag.clone(), action })
    }
}

fn keep(key: &str, text: &str) -> Result<Keep, ConfigError> {
    parse_keep(text).ok_or_else(|| {
        let allowed = r#""all", "nothing", "headers", "packet 128B" or "flow 64KiB" (1B to 1GiB), "packets 20" (1 to 1000000000)"#;
        ConfigError::out_of_range(key, text, allowed)
    })
}

fn parse_keep(text: &str) -> Option<Keep> {
    let bytes = |text: &str| {
        let size: ByteSize = text.trim().parse().ok()?;
        u32::try_from(size.bytes()).ok().filter(|bytes| (1..=1 << 30).contains(bytes))
    };
    let count = |text: &str| text.trim().parse().ok().filter(|count| (1..=1_000_000_000).contains(count));
    match text.trim().split_once(' ') {
        None => match text.trim() {
            "all" => Some(Keep::All),
            "nothing" => Some(Keep::Nothing),
            "headers" => Some(Keep::Headers),
            _ => None,
        },
        Some(("packet", size)) => bytes(size).map(Keep::OfPacket),
        Some(("flow", size)) => bytes(size).map(Keep::OfFlow),
        Some(("packets", number)) => count(number).map(Keep::Packets),
        Some(_) => None,
    }
}
