//! A file is one noun: above 500 lines without its tests it is probably two.

use super::{Finding, finding};
use crate::rust_source::without_tests;
use crate::tree::File;

const LINES_MAX: usize = 500;

/// (file, the most lines it may have, why it is longer).
const LONGER: [(&str, usize, &str); 1] = [(
    "crates/flow/src/field.rs",
    1000,
    "the one field table: a row a field, and no logic that could change alone",
)];

pub(super) fn check(files: &[File]) -> Vec<Finding> {
    check_with(files, &LONGER)
}

fn check_with(files: &[File], longer: &[(&str, usize, &str)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.is_rust() && !file.is_test()) {
        let lines = without_tests(&file.text).lines().count();
        let exception = longer.iter().find(|(path, _, _)| *path == file.path);
        let limit = exception.map_or(LINES_MAX, |(_, limit, _)| *limit);
        if lines > limit {
            let message = format!(
                "{lines} lines without tests; the limit is {limit}: split it by what may change alone"
            );
            findings.push(finding(file, 0, message));
        } else if exception.is_some() && lines <= LINES_MAX {
            findings.push(finding(
                file,
                0,
                "is short enough again: take it out of the table in xtask/src/tidy/length.rs",
            ));
        }
    }
    let gone = longer.iter().filter(|(path, _, _)| !files.iter().any(|file| file.path == *path));
    findings.extend(gone.map(|(path, _, _)| Finding {
        path: (*path).to_owned(),
        line: 0,
        message: "does not exist: take it out of the table in xtask/src/tidy/length.rs".to_owned(),
    }));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::file;

    fn of(path: &str, lines: usize, tests: usize) -> File {
        file(path, &format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", "x\n".repeat(lines), "y\n".repeat(tests)))
    }

    #[test]
    fn counts_without_tests() {
        assert!(check_with(&[of("a.rs", 500, 900)], &[]).is_empty());
        assert!(check_with(&[of("a.rs", 501, 0)], &[])[0].message.starts_with("501 lines"));
        assert!(check_with(&[of("a/tests/b.rs", 900, 0)], &[]).is_empty());
    }

    #[test]
    fn an_exception_has_a_limit_and_an_end() {
        let table = [("a.rs", 600, "a pure table")];
        assert!(check_with(&[of("a.rs", 600, 0)], &table).is_empty());
        assert_eq!(check_with(&[of("a.rs", 601, 0)], &table).len(), 1);
        assert!(check_with(&[of("a.rs", 400, 0)], &table)[0].message.contains("short enough"));
        assert!(check_with(&[], &table)[0].message.contains("does not exist"));
    }
}
