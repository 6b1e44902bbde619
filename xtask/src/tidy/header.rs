//! Every Rust file opens with a `//!` that says what it is for.

use super::{Finding, finding};
use crate::tree::File;

pub(super) fn check(files: &[File]) -> Vec<Finding> {
    let rust = files.iter().filter(|file| file.is_rust());
    let silent = rust.filter(|file| {
        let first = file.text.lines().next().unwrap_or_default();
        first.strip_prefix("//!").is_none_or(|words| words.trim().is_empty())
    });
    silent
        .map(|file| finding(file, 1, "must open with a `//!` line that says what the file is for"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::file;

    #[test]
    fn a_file_that_does_not_say_what_it_is_for_is_found() {
        for bad in ["", "fn f() {}\n", "// x\n", "//!\n//! late\n", "\n//! late\n"] {
            assert_eq!(check(&[file("a.rs", bad)]).len(), 1, "{bad:?}");
        }
        assert!(check(&[file("a.rs", "//! What it is for.\n"), file("a.md", "x")]).is_empty());
    }
}
