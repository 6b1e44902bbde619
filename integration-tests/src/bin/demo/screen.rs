//! What the demo says, and the commands it shows as a person would type them.

use std::io::IsTerminal;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

fn bold(text: &str) -> String {
    if std::io::stdout().is_terminal() { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
}

pub(crate) fn heading(text: &str) {
    println!("\n{}", bold(&format!("── {text} ")));
}

pub(crate) fn say(text: &str) {
    println!("   {text}");
}

/// The `gnomon` command against one collector.
#[derive(Debug)]
pub(crate) struct Gnomon {
    program: std::path::PathBuf,
    server: String,
}

impl Gnomon {
    pub(crate) fn new(bin_dir: &Path, server: String) -> Gnomon {
        Gnomon { program: bin_dir.join("gnomon"), server }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("GNOMON_SERVER", &self.server).stdin(Stdio::null());
        command
    }

    /// Show the command and run it on the screen.
    pub(crate) fn show(&self, arguments: &[&str]) -> Result<()> {
        let quoted: Vec<String> = arguments
            .iter()
            .map(|a| {
                if a.is_empty() || a.contains([' ', '*', '&', '[', '|']) {
                    format!("'{a}'")
                } else {
                    (*a).to_owned()
                }
            })
            .collect();
        println!("{}", bold(&format!("$ gnomon {}", quoted.join(" "))));
        self.command(arguments).status().context("run gnomon")?;
        Ok(())
    }

    /// Run it for its answer, whole or partial. Nothing found is an empty answer.
    pub(crate) fn answer(&self, arguments: &[&str]) -> Result<Vec<u8>> {
        let output = self.command(arguments).output().context("run gnomon")?;
        match output.status.code() {
            Some(0 | 1 | 3) => Ok(output.stdout),
            _ => anyhow::bail!(
                "gnomon {}: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            ),
        }
    }

    /// The flows that match, as JSON objects.
    pub(crate) fn flows(&self, expression: &str) -> Result<Vec<serde_json::Value>> {
        let answer = self.answer(&["search", expression, "--output", "jsonl", "--limit", "10000"])?;
        let lines = std::str::from_utf8(&answer)?.lines();
        lines.map(|line| serde_json::from_str(line).context("read the answer of gnomon search")).collect()
    }
}
