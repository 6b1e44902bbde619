//! Files that are derived from code: docs and example configs that cannot say anything else than the code does.

use std::path::Path;

use anyhow::Context;

/// A file and the function that writes its content. The same code must always give the same bytes.
struct Generated {
    /// From the root of the workspace.
    path: &'static str,
    content: fn() -> String,
}

/// Everything that is generated, a line each.
const GENERATED: &[Generated] = &[
    // Named as they are when installed: /etc/gnomon/agent.toml and /etc/gnomon/collector.toml.
    Generated { path: "deploy/examples/agent.toml", content: gnomon_agent::config::example },
    Generated { path: "deploy/examples/collector.toml", content: gnomon_collector::config::example },
    Generated { path: "docs/metrics.md", content: metrics },
    Generated { path: "docs/search.md", content: gnomon_expression::search_docs },
];

fn metrics() -> String {
    format!(
        "\
# Metrics

Names follow OpenTelemetry. Where `telemetry.otlp_endpoint` is set, both programs push theirs by OTLP; every one carries
`service.name`, `service.version` and `host.name`. Counters count from the start of the process.

## gnomon-agent

The agent never listens: OTLP is the only way to its metrics. `gnomon live` and the collector's API show the most
important ones of each agent, from its heartbeats.

{}
## gnomon-collector

Also served for Prometheus to scrape, at `/metrics` of the HTTP address, under the names in the second column.

{}",
        gnomon_agent::metrics::reference(),
        gnomon_collector::metrics::reference(),
    )
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Write,
    /// Writes nothing; says which files differ, for CI.
    Check,
}

/// Brings all files up to date, or checks that they are; false if a check found one that is not.
pub(crate) fn run(root: &Path, mode: Mode) -> anyhow::Result<bool> {
    run_with(root, mode, GENERATED)
}

fn run_with(root: &Path, mode: Mode, generated: &[Generated]) -> anyhow::Result<bool> {
    let mut stale = 0;
    for Generated { path, content } in generated {
        let wanted = content();
        let file = root.join(path);
        let found = match std::fs::read_to_string(&file) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("cannot read {path}")),
        };
        if found.as_deref() == Some(wanted.as_str()) {
            continue;
        }
        stale += 1;
        match mode {
            Mode::Write => {
                if let Some(directory) = file.parent() {
                    std::fs::create_dir_all(directory)
                        .with_context(|| format!("cannot make the directory of {path}"))?;
                }
                std::fs::write(&file, wanted).with_context(|| format!("cannot write {path}"))?;
                println!("wrote {path}");
            }
            Mode::Check => eprintln!(
                "{path}: {}; run `cargo run -p xtask -- generate`",
                difference(found.as_deref(), &wanted)
            ),
        }
    }
    println!(
        "generate: {} files, {stale} {}",
        generated.len(),
        if mode == Mode::Write { "written" } else { "stale" }
    );
    Ok(mode == Mode::Write || stale == 0)
}

fn difference(found: Option<&str>, wanted: &str) -> String {
    let Some(found) = found else { return "does not exist".to_owned() };
    let same = found.lines().zip(wanted.lines()).take_while(|(found, wanted)| found == wanted).count();
    format!("line {} is not what the code says", same + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAKE: &[Generated] = &[
        Generated { path: "docs/reference/keys.md", content: || "# Keys\n\nnone\n".to_owned() },
        Generated { path: "example.toml", content: || "# nothing\n".to_owned() },
    ];

    #[test]
    fn a_missing_or_edited_file_is_stale_until_it_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        assert!(!run_with(root, Mode::Check, FAKE).unwrap());
        assert!(!root.join("example.toml").exists(), "a check must write nothing");
        assert!(run_with(root, Mode::Write, FAKE).unwrap());
        assert!(run_with(root, Mode::Check, FAKE).unwrap());
        assert_eq!(std::fs::read_to_string(root.join("docs/reference/keys.md")).unwrap(), "# Keys\n\nnone\n");
        std::fs::write(root.join("example.toml"), "# edited\n").unwrap();
        assert!(!run_with(root, Mode::Check, FAKE).unwrap());
    }

    #[test]
    fn a_difference_is_placed() {
        assert_eq!(difference(None, "x"), "does not exist");
        assert_eq!(difference(Some("a\nb\n"), "a\nc\n"), "line 2 is not what the code says");
        assert_eq!(difference(Some("a\n"), "a\nc\n"), "line 2 is not what the code says");
    }

    #[test]
    fn each_real_entry_is_stable_and_named_once() {
        for (index, entry) in GENERATED.iter().enumerate() {
            assert_eq!((entry.content)(), (entry.content)(), "{}", entry.path);
            assert!(!GENERATED[..index].iter().any(|other| other.path == entry.path), "{}", entry.path);
        }
    }
}
