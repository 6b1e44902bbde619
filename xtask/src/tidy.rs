//! The shape of the workspace, checked: each rule is a file, each exception a line with its reason.

mod confined;
mod edges;
mod header;
mod length;
mod names;
mod workplace;

use std::fmt;
use std::path::Path;

use crate::tree::{self, File};

/// A broken rule, at a place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    path: String,
    /// From 1; 0 stands for the file itself.
    line: usize,
    message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.message),
            line => write!(f, "{}:{line}: {}", self.path, self.message),
        }
    }
}

type Rule = fn(&[File]) -> Vec<Finding>;

/// All rules. A new one is a line here and a file beside the others.
const RULES: [Rule; 6] =
    [edges::check, confined::check, names::check, length::check, header::check, workplace::check];

/// Checks the workspace at `root`; true if it is tidy.
pub(crate) fn run(root: &Path) -> anyhow::Result<bool> {
    let files = tree::read(root)?;
    let mut findings: Vec<Finding> = RULES.iter().flat_map(|rule| rule(&files)).collect();
    findings.sort();
    for finding in &findings {
        eprintln!("{finding}");
    }
    match findings.len() {
        0 => println!("tidy: {} files, nothing to say", files.len()),
        count => eprintln!("tidy: {count} findings in {} files", files.len()),
    }
    Ok(findings.is_empty())
}

fn finding(file: &File, line: usize, message: impl Into<String>) -> Finding {
    Finding { path: file.path.clone(), line, message: message.into() }
}
