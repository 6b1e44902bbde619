//! No crate, module or file whose name gives it no reason not to take one more thing.

use toml::{Table, Value};

use super::{Finding, finding};
use crate::rust_source::{code_only, words};
use crate::tree::File;

const NAMES: [&str; 9] = ["common", "core", "utils", "util", "helpers", "helper", "misc", "stuff", "shared"];

pub(super) fn check(files: &[File]) -> Vec<Finding> {
    files.iter().flat_map(in_file).collect()
}

fn in_file(file: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    let say = |name: &str| format!("nothing is called `{name}`: name it after the one thing it holds");
    let stem = |part: &str| part.split('.').next().unwrap_or_default().to_ascii_lowercase();
    for part in file.path.split('/').map(stem).filter(|part| NAMES.contains(&part.as_str())) {
        findings.push(finding(file, 0, say(&part)));
    }
    if file.is_rust() {
        let code = code_only(&file.text);
        for word in words(&code).filter(|word| word.before == "mod" && NAMES.contains(&word.word)) {
            findings.push(finding(file, word.line, say(word.word)));
        }
    } else if file.is_manifest() {
        let manifest: Table = file.text.parse().unwrap_or_default();
        let name = manifest.get("package").and_then(|package| package.get("name")).and_then(Value::as_str);
        let last = name.and_then(|name| name.rsplit(['-', '_']).next()).unwrap_or_default();
        if NAMES.contains(&last) {
            findings.push(finding(file, 0, say(last)));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::file;

    #[test]
    fn finds_files_folders_modules_and_crates() {
        let bad = [
            file("agent/src/utils.rs", "//! x\n"),
            file("agent/src/common/x.rs", "//! x\n"),
            file("agent/src/lib.rs", "pub mod helpers;\n"),
            file("agent/src/x.rs", "mod misc { }\n"),
            file("crates/x/Cargo.toml", "[package]\nname = \"gnomon-core\"\n"),
        ];
        for bad in &bad {
            assert_eq!(check(std::slice::from_ref(bad)).len(), 1, "{}", bad.path);
        }
    }

    #[test]
    fn other_names_pass() {
        let good =
            file("agent/src/commons.rs", "//! x\nmod table;\nuse core::fmt; // mod utils\nlet common = 1;\n");
        assert!(check(&[good]).is_empty());
    }
}
