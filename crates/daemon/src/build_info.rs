//! What this binary is: version, commit, compiler.

/// The version of the workspace.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The first 12 digits of the git commit, or `unknown` (in every debug build: see `build.rs`).
pub const COMMIT: &str = env!("GNOMON_BUILD_COMMIT");
/// What `rustc --version` said.
pub const RUSTC: &str = env!("GNOMON_BUILD_RUSTC");
/// The target triple.
pub const TARGET: &str = env!("GNOMON_BUILD_TARGET");

/// When this was built or committed, and at least 2025 began. Built twice it is the same program: the time is
/// `SOURCE_DATE_EPOCH`, or the commit's in a release build; a debug build only knows the year.
pub const BUILT_AT_UNIX_S: u64 = built_at(env!("GNOMON_BUILD_TIME"));

const fn built_at(text: &str) -> u64 {
    const YEAR_2025: u64 = 1_735_689_600;
    match u64::from_str_radix(text, 10) {
        Ok(unix_s) if unix_s > YEAR_2025 => unix_s,
        _ => YEAR_2025,
    }
}

/// For clap's `long_version`, shown by `--version`; `-V` shows [`VERSION`].
#[must_use]
pub const fn long_version() -> &'static str {
    concat!(
        env!("CARGO_PKG_VERSION"),
        "\ncommit: ",
        env!("GNOMON_BUILD_COMMIT"),
        "\ncompiler: ",
        env!("GNOMON_BUILD_RUSTC"),
        "\ntarget: ",
        env!("GNOMON_BUILD_TARGET"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_version_commit_and_compiler() {
        assert!(long_version().starts_with(VERSION));
        for part in [COMMIT, RUSTC, TARGET] {
            assert!(!part.is_empty() && long_version().contains(part), "{part}");
        }
    }
}
