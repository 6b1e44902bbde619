//! No trace of the machine that something was written on: such a path works for nobody else.

use super::{Finding, finding};
use crate::tree::File;

/// Put together here, so that this file does not find itself.
const WORDS: [&str; 4] =
    [concat!("/ro", "ot/"), concat!("/wo", "rk/"), concat!("/tmp/", "brief"), concat!("/home/", "user")];

/// A file that others write: what stands in it is not ours to choose.
const FOREIGN: [&str; 1] = ["Cargo.lock"];

pub(super) fn check(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| !FOREIGN.contains(&file.path.as_str())) {
        for (index, line) in file.text.lines().enumerate() {
            for word in WORDS.iter().filter(|word| line.contains(**word)) {
                findings.push(finding(file, index + 1, format!("names `{word}`, a path of one machine")));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::file;

    #[test]
    fn a_path_of_one_machine_is_found_in_any_file() {
        for word in WORDS {
            let found = check(&[file("README.md", &format!("fine\nsee {word}x\n"))]);
            assert_eq!((found.len(), found[0].line), (1, 2), "{word}");
        }
        assert!(check(&[file("a.md", "/var/lib/gnomon, /network/, work/")]).is_empty());
    }
}
