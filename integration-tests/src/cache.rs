//! Programs that a script under `deploy/` fetched for the tests, unpacked in the user's cache outside the checkout.

use std::path::PathBuf;

/// `folder` below the cache, or why it is not there: to be printed by the test that is skipped. It is named with the
/// recipe's number in the script, so that an older layout is not taken for this one.
///
/// # Errors
/// The reason, in words: that `what` is missing, and which script fetches it.
pub(crate) fn parts(folder: &str, what: &str, script: &str) -> Result<PathBuf, String> {
    let env = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = env("XDG_CACHE_HOME").or_else(|| Some(env("HOME")?.join(".cache")));
    let parts = cache.ok_or("neither HOME nor XDG_CACHE_HOME is set")?.join(folder);
    if !parts.join("complete").is_file() {
        return Err(format!("{what} not in the cache: run {script}"));
    }
    Ok(parts)
}
