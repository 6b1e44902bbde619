//! What must be seen for the demo to have worked.

use std::thread;
use std::time::Duration;

use anyhow::Result;

use crate::screen::{Gnomon, say};

/// Collects what was seen and what was not.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    seen: usize,
    missing: Vec<String>,
}

const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(200);

impl Checks {
    pub(crate) fn note(&mut self, what: &str, seen: bool) {
        if seen {
            self.seen += 1;
            say(&format!("seen     {what}"));
        } else {
            self.missing.push(what.to_owned());
            say(&format!("MISSING  {what}"));
        }
    }

    /// Wait until the expression finds at least `least` flows.
    pub(crate) fn finds(
        &mut self,
        gnomon: &Gnomon,
        what: &str,
        expression: &str,
        least: usize,
    ) -> Result<()> {
        let mut found = 0;
        for _ in 0..TRIES {
            found = gnomon.flows(expression)?.len();
            if found >= least {
                break;
            }
            thread::sleep(PAUSE);
        }
        self.note(&format!("{what}: {found} flows by  {expression}"), found >= least);
        Ok(())
    }

    pub(crate) fn verdict(&self) -> Result<()> {
        println!("\n{} parts seen to work, {} missing", self.seen, self.missing.len());
        anyhow::ensure!(self.missing.is_empty(), "not seen: {}", self.missing.join("; "));
        Ok(())
    }
}
