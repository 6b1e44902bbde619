//! The rules in force, for all workers: a version that is looked at once a batch, and a lock that is taken only when it
//! has changed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Rules;

/// Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct CurrentRules(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Sets of rules there were before this one.
    version: AtomicU64,
    rules: Mutex<Arc<Rules>>,
    refused: AtomicU64,
    /// The last ones read were refused.
    stale: AtomicBool,
}

impl CurrentRules {
    pub fn new(rules: Rules) -> CurrentRules {
        CurrentRules(Arc::new(Inner { rules: Mutex::new(Arc::new(rules)), ..Inner::default() }))
    }

    pub fn get(&self) -> Arc<Rules> {
        Arc::clone(&self.0.rules.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// These hold from now on; rules that keep their name go on counting.
    pub fn replace(&self, rules: Rules) {
        let mut current = self.0.rules.lock().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(rules.counting_on(&current));
        self.0.version.fetch_add(1, Ordering::Release);
        self.0.stale.store(false, Ordering::Relaxed);
    }

    /// What was read last is no good: these stay.
    pub fn refuse(&self) {
        self.0.refused.fetch_add(1, Ordering::Relaxed);
        self.0.stale.store(true, Ordering::Relaxed);
    }

    /// Whether the last ones read were refused.
    pub fn is_stale(&self) -> bool {
        self.0.stale.load(Ordering::Relaxed)
    }

    /// How often new ones were taken, and how often refused.
    pub fn reloads(&self) -> (u64, u64) {
        (self.0.version.load(Ordering::Relaxed), self.0.refused.load(Ordering::Relaxed))
    }

    /// What a worker looks at, who begins with what [`CurrentRules::get`] gave before.
    pub fn follow(&self) -> Follower {
        Follower { version: 0, current: self.clone() }
    }
}

/// One worker's view of them.
#[derive(Debug)]
pub struct Follower {
    current: CurrentRules,
    version: u64,
}

impl Follower {
    /// The rules, if they changed since the last call.
    #[inline]
    pub fn news(&mut self) -> Option<Arc<Rules>> {
        let version = self.current.0.version.load(Ordering::Acquire);
        if version == self.version {
            return None;
        }
        self.version = version;
        Some(self.current.get())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Action, Keep, RuleText};
    use super::*;

    fn rules(name: &str) -> Rules {
        let text = RuleText {
            name: name.into(),
            when: "port == 1".into(),
            action: Some(Action::Keep(Keep::All)),
            ..RuleText::default()
        };
        Rules::compile(&[text], Keep::Nothing).unwrap()
    }

    #[test]
    fn a_follower_is_told_once_and_counts_go_on_by_name() {
        let current = CurrentRules::new(rules("a"));
        let mut follower = current.follow();
        assert!(follower.news().is_none());
        current.get().list()[0].matches.fetch_add(3, Ordering::Relaxed);
        current.replace(rules("a"));
        current.replace(rules("a"));
        let news = follower.news().unwrap();
        assert_eq!(news.list()[0].matches(), 3);
        assert!(follower.news().is_none());
        current.replace(rules("b"));
        assert_eq!(follower.news().unwrap().list()[0].matches(), 0);
    }
}
