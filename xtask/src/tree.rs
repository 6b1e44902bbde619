//! The tracked files of the workspace, read once.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

/// A text file, by its path from the root with `/`.
#[derive(Clone, Debug)]
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl File {
    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    pub(crate) fn is_manifest(&self) -> bool {
        self.path == "Cargo.toml" || self.path.ends_with("/Cargo.toml")
    }

    /// The last part of the path, without `.rs`.
    pub(crate) fn stem(&self) -> &str {
        let name = self.path.rsplit('/').next().unwrap_or(&self.path);
        name.strip_suffix(".rs").unwrap_or(name)
    }

    /// A file of nothing but tests: `tests.rs`, or anything under a `tests` directory.
    pub(crate) fn is_test(&self) -> bool {
        self.stem() == "tests"
            || self.path.split('/').any(|part| part == "tests" || part == "integration-tests")
    }
}

/// The files that git tracks or would (new ones that are not ignored), without binary ones.
pub(crate) fn read(root: &Path) -> anyhow::Result<Vec<File>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("cannot run git, which knows which files belong to the workspace")?;
    if !output.status.success() {
        bail!(
            "git ls-files failed in {}: {}",
            root.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let mut files = Vec::new();
    for path in output.stdout.split(|byte| *byte == 0).filter(|path| !path.is_empty()) {
        let path = str::from_utf8(path).context("a tracked path is not UTF-8")?.to_owned();
        // Deleted but not yet committed, a link, or not text: no rule applies.
        let is_file = root.join(&path).symlink_metadata().is_ok_and(|data| data.is_file());
        if !is_file {
            continue;
        }
        let bytes = std::fs::read(root.join(&path)).with_context(|| format!("cannot read {path}"))?;
        if let Ok(text) = String::from_utf8(bytes) {
            files.push(File { path, text });
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files.dedup_by(|a, b| a.path == b.path);
    Ok(files)
}

#[cfg(test)]
pub(crate) fn file(path: &str, text: &str) -> File {
    File { path: path.to_owned(), text: text.to_owned() }
}
