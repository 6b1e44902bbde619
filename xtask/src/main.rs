//! The workspace's own chores: `tidy` checks its shape, `generate` writes what is derived from code.

mod generate;
mod rust_source;
mod tidy;
mod tree;

use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "usage: cargo run -p xtask -- <task>

  tidy                 check edges between crates, names, headers, lengths and where unsafe may stand
  generate [--check]   write the files that are derived from code, or only say which are stale";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // Where this crate was compiled, so that the tasks work from any directory of the workspace.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let done = match arguments[..] {
        ["tidy"] => tidy::run(root),
        ["generate"] => generate::run(root, generate::Mode::Write),
        ["generate", "--check"] => generate::run(root, generate::Mode::Check),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
