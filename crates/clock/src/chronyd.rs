//! The machine's chronyd, which may come and go while we run.

use std::time::Duration;

use crate::chrony::{ChronyClient, NtpDaemon};
use crate::sampler::ChronyWord;
use crate::time::MonoNs;

/// chronyd answers in under a millisecond; a stopped one must not keep steps from being seen.
const TIMEOUT: Duration = Duration::from_millis(50);
/// Between looks for a chronyd where there was none.
const AGAIN_NS: u64 = 10_000_000_000;

/// The connection to it while there is one.
#[derive(Debug, Default)]
pub struct Chronyd {
    client: Option<ChronyClient>,
    due: MonoNs,
}

impl Chronyd {
    /// It, if it is there; looked for from time to time if it is not.
    pub fn daemon(&mut self, now: MonoNs) -> Option<&mut dyn NtpDaemon> {
        if self.client.is_none() && now >= self.due {
            self.client = ChronyClient::find(TIMEOUT).ok();
            self.due = MonoNs(now.0.saturating_add(AGAIN_NS));
        }
        self.client.as_mut().map(|client| client as &mut dyn NtpDaemon)
    }

    /// What it said: one that failed is looked for again.
    pub fn heard(&mut self, word: &ChronyWord) {
        if matches!(word, ChronyWord::Failed(_)) {
            self.client = None;
        }
    }
}
