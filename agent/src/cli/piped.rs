//! Standard input as a file: an import reads its files twice.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use anyhow::Context;
use gnomon_daemon::exit::WithHint;

use crate::private;

/// A copy in a directory that nobody else can read, removed at the end.
pub(super) struct Piped {
    pub(super) path: PathBuf,
    dir: PathBuf,
}

impl Piped {
    pub(super) fn read() -> anyhow::Result<Piped> {
        let dir = private::temporary_directory("gnomon-stdin")
            .context("cannot make a directory for standard input")?;
        let piped = Piped { path: dir.join("stdin"), dir };
        let mut file: File = private::create(&piped.path).context("cannot make a file for standard input")?;
        io::copy(&mut io::stdin().lock(), &mut file)
            .context("cannot save standard input")
            .hint("it is saved under TMPDIR, else /tmp, before it is read: let TMPDIR name a directory with room for it")?;
        Ok(piped)
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            eprintln!("cannot remove {}: {error}", self.dir.display());
        }
    }
}
