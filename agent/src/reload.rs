//! SIGHUP: rules and `slices.keep` are read again, and nothing else. What is wrong with them leaves those of before in
//! force.

use std::sync::{Arc, Mutex, PoisonError};

use gnomon_daemon::config::changed;
use gnomon_daemon::notify;
use gnomon_daemon::reload::Reload;

use crate::config::Config;
use crate::rules::current::CurrentRules;

/// Loads the configuration as the start did.
pub type Load = Box<dyn Fn() -> anyhow::Result<Config> + Send>;

/// Keys that a reload takes; everything else needs a restart.
const TAKEN: [&str; 2] = ["rules", "slices.keep"];

pub struct Reloader {
    load: Load,
    /// As at the start.
    config: Config,
    rules: CurrentRules,
}

/// What a reload made of the configuration.
#[derive(Debug, PartialEq, Eq)]
pub enum Reloaded {
    Taken {
        rules: usize,
        /// Keys that changed since the start and need a restart.
        waiting: Vec<String>,
    },
    /// What is wrong. The rules of before hold.
    Refused(String),
}

impl Reloader {
    pub fn new(load: Load, config: Config, rules: CurrentRules) -> Reloader {
        Reloader { load, config, rules }
    }

    pub fn reload(&self) -> Reloaded {
        let loaded = (self.load)().and_then(|config| {
            let rules = config.rules()?;
            Ok((config, rules))
        });
        match loaded {
            Ok((config, rules)) => {
                let count = rules.list().len();
                self.rules.replace(rules);
                let mut waiting = changed(&self.config, &config);
                waiting.retain(|key| !TAKEN.contains(&key.as_str()));
                Reloaded::Taken { rules: count, waiting }
            }
            Err(error) => {
                self.rules.refuse();
                Reloaded::Refused(gnomon_flow::causes::in_one_line(error.as_ref()))
            }
        }
    }

    /// Serves the signal.
    pub async fn run(self, mut signal: Reload, status: StatusLine) {
        loop {
            signal.asked().await;
            // Reads a file and compiles: the runtime's other thread goes on.
            let words = match tokio::task::block_in_place(|| self.reload()) {
                Reloaded::Taken { rules, waiting } => {
                    tracing::info!(rules, "rules read again");
                    if waiting.is_empty() {
                        format!("{rules} rules")
                    } else {
                        let waiting = waiting.join(", ");
                        tracing::warn!(keys = %waiting, "changed too, and needs a restart");
                        format!("{rules} rules; needs a restart: {waiting}")
                    }
                }
                Reloaded::Refused(error) => {
                    tracing::error!(%error, "rules refused: those of before stay in force");
                    let first = error.lines().next().unwrap_or_default();
                    format!("rules refused, those of before stay in force: {first}")
                }
            };
            status.rules(words);
        }
    }
}

/// The line for the service manager, of which several threads write their part. Clones are the same line.
#[derive(Clone, Debug, Default)]
pub struct StatusLine(Arc<Mutex<[String; 3]>>);

impl StatusLine {
    pub fn new(capture: String) -> StatusLine {
        StatusLine(Arc::new(Mutex::new([capture, String::new(), String::new()])))
    }

    pub fn clock(&self, words: String) {
        self.set(1, words);
    }

    pub fn capture(&self, words: String) {
        self.set(0, words);
    }

    fn rules(&self, words: String) {
        self.set(2, words);
    }

    fn set(&self, part: usize, words: String) {
        let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        parts[part] = words;
        let said: Vec<&str> = parts.iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
        notify::status(&said.join("; "));
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::config::PROGRAM;

    fn write(file: &Path, text: &str) {
        std::fs::write(file, text).unwrap();
    }

    fn load(file: &Path) -> anyhow::Result<Config> {
        let loaded =
            gnomon_daemon::config::load_from(PROGRAM, Some(file), Path::new("/nonexistent"), [], &[])?;
        Ok(loaded.value)
    }

    fn rule(name: &str) -> String {
        format!("[[rules]]\nname = \"{name}\"\nwhen = \"port == 1\"\nkeep = \"headers\"\n")
    }

    #[test]
    fn what_is_good_is_taken_and_what_is_bad_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file: PathBuf = dir.path().join("agent.toml");
        write(&file, &rule("a"));
        let config = load(&file).unwrap();
        let rules = CurrentRules::new(config.rules().unwrap());
        let from = file.clone();
        let reloader = Reloader::new(Box::new(move || load(&from)), config, rules.clone());
        let names = || rules.get().list().iter().map(|rule| rule.name.to_string()).collect::<Vec<_>>();

        write(&file, &format!("[slices]\nkeep = \"nothing\"\n{}{}", rule("a"), rule("b")));
        assert_eq!(reloader.reload(), Reloaded::Taken { rules: 2, waiting: Vec::new() });
        assert_eq!(names(), ["a", "b"]);

        for bad in [rule("c").replace("port", "prot"), "[spool\n".to_owned(), "spol = 1\n".to_owned()] {
            write(&file, &bad);
            let Reloaded::Refused(error) = reloader.reload() else { panic!("{bad}") };
            assert!(error.contains("agent.toml:"), "{error}");
            assert_eq!(names(), ["a", "b"]);
            assert!(rules.is_stale());
        }
        std::fs::remove_file(&file).unwrap();
        assert!(matches!(reloader.reload(), Reloaded::Refused(_)));

        // What needs a restart is said for as long as it does.
        write(&file, &format!("[capture]\nsnaplen = 96\n{}", rule("c")));
        for _ in 0..2 {
            let waiting = vec!["capture.snaplen".to_owned()];
            assert_eq!(reloader.reload(), Reloaded::Taken { rules: 1, waiting });
        }
        assert_eq!((names(), rules.is_stale()), (vec!["c".to_owned()], false));
        assert_eq!(rules.reloads(), (4 - 1, 4));
    }
}
