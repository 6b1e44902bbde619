//! What may be named in one place only: prost, RocksDB, JSON and `unsafe`.

use toml::Table;

use super::edges::{dependencies, line_of};
use super::{Finding, finding};
use crate::rust_source::{code_only, without_tests, words};
use crate::tree::File;

struct Confined {
    /// The crate as code names it.
    name: &'static str,
    /// The paths (prefixes) that may name it.
    places: &'static [&'static str],
    why: &'static str,
}

const CRATES: [Confined; 3] = [
    Confined { name: "prost", places: &["proto/"], why: "only proto knows the wire: convert there" },
    Confined {
        name: "rocksdb",
        places: &["collector/src/store/rocks"],
        why: "only collector/src/store/rocks knows RocksDB",
    },
    Confined {
        name: "serde_json",
        places: &[
            "collector/src/api",
            // What the API says, for it and for the command line.
            "crates/answers/src",
            // Forms that others read.
            "crates/export/src",
            // A form of others that is read.
            "agent/src/alerts/eve.rs",
            // The programs that print JSON for people and scripts.
            "agent/src/output",
            "cli/src/output",
            "collector/src/output",
            // A JSON Schema is a JSON value; nothing else of it leaves the file.
            "crates/daemon/src/config/schema.rs",
        ],
        why: "JSON is a matter of the API and of output modules (see the table in xtask/src/tidy/confined.rs)",
    },
];

/// ring memory and raw sockets; adjtimex.
const UNSAFE: [&str; 2] = ["agent/capture/", "crates/clock/src/kernel.rs"];

pub(super) fn check(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files {
        if file.is_rust() {
            findings.extend(names_in(file));
            findings.extend(unsafe_in(file));
        } else if file.is_manifest() && file.path != "Cargo.toml" {
            findings.extend(dependencies_in(file));
        }
    }
    findings
}

/// Tests may read JSON back: what they check is what others see.
fn names_in(file: &File) -> Vec<Finding> {
    if file.is_test() {
        return Vec::new();
    }
    let code = code_only(without_tests(&file.text));
    let mut findings = Vec::new();
    for word in words(&code) {
        let Some(confined) = CRATES.iter().find(|confined| confined.name == word.word) else { continue };
        let is_path = word.after.starts_with("::") || matches!(word.before, "use" | "crate");
        // `self::rocksdb::…` or `x.prost` is somebody's own name.
        if is_path && !confined.places.iter().any(|place| file.path.starts_with(place)) {
            findings.push(finding(file, word.line, format!("names `{}`: {}", confined.name, confined.why)));
        }
    }
    findings
}

fn unsafe_in(file: &File) -> Vec<Finding> {
    if UNSAFE.iter().any(|place| file.path.starts_with(place)) {
        return Vec::new();
    }
    let code = code_only(&file.text);
    let found = words(&code).filter(|word| word.word == "unsafe");
    let message = format!("`unsafe` may stand in {} alone", UNSAFE.join(" and "));
    found.map(|word| finding(file, word.line, message.clone())).collect()
}

fn dependencies_in(file: &File) -> Vec<Finding> {
    let Ok(manifest) = file.text.parse::<Table>() else { return Vec::new() };
    let directory = file.path.trim_end_matches("Cargo.toml");
    // Tests may read JSON back.
    let in_tests = |name: &str| {
        let listed = |section: &str| manifest.get(section).and_then(|table| table.get(name)).is_some();
        listed("dev-dependencies") && !listed("dependencies")
    };
    let mut findings = Vec::new();
    for (name, _) in dependencies(&manifest) {
        let Some(confined) = CRATES.iter().find(|confined| confined.name == name) else { continue };
        let holds_a_place = confined.places.iter().any(|place| place.starts_with(directory));
        if !holds_a_place && !in_tests(name) && !directory.starts_with("integration-tests/") {
            findings.push(finding(
                file,
                line_of(&file.text, name),
                format!("depends on {name}: {}", confined.why),
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::file;

    fn found(path: &str, text: &str) -> Vec<String> {
        check(&[file(path, text)]).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_confined_crate_is_found_outside_of_its_place() {
        for text in
            ["use prost::Message;\n", "fn f() { prost::encode() }\n", "use prost;\n", "extern crate prost;\n"]
        {
            assert_eq!(found("agent/src/x.rs", text).len(), 1, "{text}");
            assert!(found("proto/src/x.rs", text).is_empty(), "{text}");
        }
        assert!(
            found("collector/src/store/flows.rs", "use rocksdb::DB;\n")[0]
                .contains("store/flows.rs:1: names `rocksdb`")
        );
        assert!(found("collector/src/store/rocks/open.rs", "use rocksdb::DB;\n").is_empty());
        assert!(found("collector/src/store/rocks.rs", "use rocksdb::DB;\n").is_empty());
        assert_eq!(found("collector/src/query/plan.rs", "let x = serde_json::json!({});\n").len(), 1);
        assert!(found("collector/src/api/http.rs", "let x = serde_json::json!({});\n").is_empty());
    }

    #[test]
    fn a_word_a_comment_and_a_test_are_not_a_use() {
        assert!(
            found("agent/src/x.rs", "// prost::Message\nlet prost = 1; tonic_prost::x(); \"prost::x\";\n")
                .is_empty()
        );
        assert!(
            found("agent/src/x.rs", "#[cfg(test)]\nmod tests {\n    use serde_json::Value;\n}\n").is_empty()
        );
    }

    #[test]
    fn a_dependency_is_found_too() {
        assert_eq!(found("cli/Cargo.toml", "[dependencies]\nrocksdb.workspace = true\n").len(), 1);
        assert!(found("collector/Cargo.toml", "[dependencies]\nrocksdb.workspace = true\n").is_empty());
        assert!(
            found("crates/flow/Cargo.toml", "[dev-dependencies]\nserde_json.workspace = true\n").is_empty()
        );
        assert_eq!(found("crates/flow/Cargo.toml", "[dependencies]\nserde_json.workspace = true\n").len(), 1);
    }

    #[test]
    fn unsafe_is_found_outside_of_its_places_in_tests_too() {
        let text = "#[cfg(test)]\nmod tests {\n    fn f() { unsafe { g() } }\n}\n";
        assert!(found("agent/src/x.rs", text)[0].starts_with("agent/src/x.rs:3: `unsafe`"));
        assert_eq!(found("crates/clock/src/time.rs", "unsafe fn f() {}\n").len(), 1);
        assert!(found("crates/clock/src/kernel.rs", "unsafe fn f() {}\n").is_empty());
        assert!(found("agent/capture/src/x.rs", "unsafe fn f() {}\n").is_empty());
        assert!(found("agent/src/x.rs", "#![forbid(unsafe_code)] // unsafe\n").is_empty());
    }
}
