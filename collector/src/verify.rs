//! The check of a data directory, as commands do it.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};

use crate::store::{self, Report};

/// Checks the store under `dir` with a progress bar on standard error, where that is a terminal.
///
/// # Errors
/// When it cannot be looked at at all.
pub fn check(dir: &Path) -> anyhow::Result<Report> {
    let bar = ProgressBar::new(store::size_of(dir));
    if let Ok(style) =
        ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left")
    {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    let report = store::verify(dir, &mut |bytes| bar.inc(bytes));
    bar.finish_and_clear();
    report.with_context(|| format!("cannot check {}", dir.display()))
}
