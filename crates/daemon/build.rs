//! Tells the crate which commit and compiler it was built from.
//!
//! Only a release build asks git and watches it: a debug build that did would recompile every daemon after each
//! commit. `GNOMON_COMMIT` (a package build without a repository) wins over both.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=GNOMON_COMMIT");
    let given = std::env::var("GNOMON_COMMIT").ok().filter(|commit| !commit.trim().is_empty());
    let release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = match given {
        Some(commit) => commit.trim().to_owned(),
        None if release => from_git().unwrap_or_else(|| "unknown".to_owned()),
        None => "unknown".to_owned(),
    };
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    let built_at = std::env::var("SOURCE_DATE_EPOCH").ok().filter(|time| !time.trim().is_empty());
    let built_at = match built_at {
        Some(time) => time.trim().to_owned(),
        None if release => output("git", &["log", "-1", "--format=%ct"]).unwrap_or_default(),
        None => String::new(),
    };
    println!("cargo::rustc-env=GNOMON_BUILD_TIME={built_at}");
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let rustc = output(&rustc, &["--version"]).unwrap_or_else(|| "rustc unknown".to_owned());
    let target = std::env::var("TARGET").unwrap_or_else(|_| "unknown".to_owned());
    println!("cargo::rustc-env=GNOMON_BUILD_COMMIT={commit}");
    println!("cargo::rustc-env=GNOMON_BUILD_RUSTC={rustc}");
    println!("cargo::rustc-env=GNOMON_BUILD_TARGET={target}");
}

fn from_git() -> Option<String> {
    // The log of HEAD grows with every commit, checkout and rebase, in worktrees too.
    let log = output("git", &["rev-parse", "--git-path", "logs/HEAD"])?;
    if Path::new(&log).exists() {
        println!("cargo::rerun-if-changed={log}");
    }
    output("git", &["rev-parse", "--short=12", "HEAD"])
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output =
        Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}
