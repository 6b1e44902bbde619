//! Which crate may know which: clock ← flow ← proto ← {agent, collector, cli}; flow ← expression ← {agent, collector};
//! flow ← export ← {agent, cli}; clock ← capture ← agent; daemon ← {agent, collector}. And versions stand in the root's
//! Cargo.toml alone.

use toml::{Table, Value};

use super::{Finding, finding};
use crate::tree::File;

/// (crate, the crates of ours that it may depend on). What an arrow reaches through others is allowed directly too.
const EDGES: [(&str, &[&str]); 14] = [
    ("gnomon-clock", &[]),
    ("gnomon-flow", &["gnomon-clock"]),
    ("gnomon-expression", &["gnomon-clock", "gnomon-flow"]),
    ("gnomon-export", &["gnomon-clock", "gnomon-flow"]),
    ("gnomon-proto", &["gnomon-clock", "gnomon-flow"]),
    ("gnomon-answers", &["gnomon-clock", "gnomon-flow", "gnomon-proto"]),
    ("gnomon-daemon", &["gnomon-flow"]),
    ("gnomon-capture", &["gnomon-clock"]),
    (
        "gnomon-agent",
        &[
            "gnomon-clock",
            "gnomon-flow",
            "gnomon-expression",
            "gnomon-export",
            "gnomon-proto",
            "gnomon-capture",
            "gnomon-daemon",
        ],
    ),
    (
        "gnomon-collector",
        &[
            "gnomon-clock",
            "gnomon-flow",
            "gnomon-expression",
            "gnomon-proto",
            "gnomon-answers",
            "gnomon-daemon",
        ],
    ),
    ("gnomon-cli", &["gnomon-clock", "gnomon-flow", "gnomon-export", "gnomon-proto", "gnomon-answers"]),
    // These stand outside of the product and look at all of it.
    ("gnomon-fuzz", &ALL),
    ("gnomon-integration-tests", &ALL),
    ("xtask", &ALL),
];

const ALL: [&str; 11] = [
    "gnomon-clock",
    "gnomon-flow",
    "gnomon-expression",
    "gnomon-export",
    "gnomon-proto",
    "gnomon-answers",
    "gnomon-daemon",
    "gnomon-capture",
    "gnomon-agent",
    "gnomon-collector",
    "gnomon-cli",
];

const SECTIONS: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];

pub(super) fn check(files: &[File]) -> Vec<Finding> {
    files.iter().filter(|file| file.is_manifest() && file.path != "Cargo.toml").flat_map(manifest).collect()
}

fn manifest(file: &File) -> Vec<Finding> {
    let manifest: Table = match file.text.parse() {
        Ok(manifest) => manifest,
        Err(error) => {
            return vec![finding(file, 0, format!("does not parse: {}", toml::de::Error::message(&error)))];
        }
    };
    let Some(name) = manifest.get("package").and_then(|package| package.get("name")).and_then(Value::as_str)
    else {
        return Vec::new();
    };
    let Some((_, allowed)) = EDGES.iter().find(|(known, _)| *known == name) else {
        return vec![finding(
            file,
            0,
            format!("crate {name} is not in xtask's table of edges: say what it may know"),
        )];
    };
    let mut findings = Vec::new();
    for (dependency, value) in dependencies(&manifest) {
        let line = line_of(&file.text, dependency);
        let package = value.get("package").and_then(Value::as_str).unwrap_or(dependency);
        if (package.starts_with("gnomon") || package == "xtask") && !allowed.contains(&package) {
            findings.push(finding(
                file,
                line,
                format!("{name} must not depend on {package}: see the edges in ENGINEERING"),
            ));
        }
        if value.get("workspace").and_then(Value::as_bool) != Some(true) {
            findings.push(finding(file, line, format!("{dependency}: versions and paths stand in the root's Cargo.toml alone: use `workspace = true`")));
        }
    }
    findings
}

/// All dependencies, also those of a target.
pub(super) fn dependencies(manifest: &Table) -> Vec<(&str, &Value)> {
    let targets = manifest.get("target").and_then(Value::as_table);
    let targets = targets.into_iter().flat_map(|targets| targets.values().filter_map(Value::as_table));
    let tables = std::iter::once(manifest).chain(targets);
    let sections =
        tables.flat_map(|table| SECTIONS.iter().filter_map(|section| table.get(*section)?.as_table()));
    sections.flatten().map(|(name, value)| (name.as_str(), value)).collect()
}

pub(super) fn line_of(text: &str, key: &str) -> usize {
    let starts = |line: &str| {
        let rest = line.trim_start().strip_prefix(key);
        rest.is_some_and(|rest| rest.starts_with([' ', '.', '=']))
    };
    text.lines().position(starts).map_or(0, |index| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::file;

    fn messages(text: &str) -> Vec<String> {
        check(&[file("crates/x/Cargo.toml", text)]).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_allowed_edge_passes() {
        assert!(
            messages("[package]\nname = \"gnomon-flow\"\n[dependencies]\ngnomon-clock.workspace = true\n")
                .is_empty()
        );
    }

    #[test]
    fn a_forbidden_edge_is_found_in_every_section() {
        for section in
            ["dependencies", "dev-dependencies", "build-dependencies", "target.'cfg(unix)'.dependencies"]
        {
            let text =
                format!("[package]\nname = \"gnomon-flow\"\n[{section}]\ngnomon-proto.workspace = true\n");
            let found = messages(&text);
            assert_eq!(found.len(), 1, "{section}");
            assert!(
                found[0].starts_with("crates/x/Cargo.toml:4: gnomon-flow must not depend on gnomon-proto"),
                "{found:?}"
            );
        }
    }

    #[test]
    fn an_edge_cannot_hide_behind_another_name() {
        let text = "[package]\nname = \"gnomon-cli\"\n[dependencies]\nx = { workspace = true, package = \"gnomon-agent\" }\n";
        assert_eq!(messages(text).len(), 1);
    }

    #[test]
    fn a_version_outside_of_the_root_is_found() {
        let found = messages("[package]\nname = \"gnomon-cli\"\n[dependencies]\nanyhow = \"1\"\n");
        assert!(found[0].contains(":4: anyhow: versions"), "{found:?}");
    }

    #[test]
    fn a_crate_that_nobody_placed_is_found() {
        assert!(messages("[package]\nname = \"gnomon-new\"\n")[0].contains("not in xtask's table"));
    }
}
