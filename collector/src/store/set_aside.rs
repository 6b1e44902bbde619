//! Files that were found damaged: they go to `damaged/` under the data directory and stay there until somebody takes them
//! away. Nothing there is read again, and nothing there is deleted by the collector.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::directory;

const DAMAGED: &str = "damaged";
/// Names tried for one file.
const NAMES_MAX: u32 = 10_000;

/// The directory of such files.
#[derive(Clone, Debug)]
pub(super) struct SetAside {
    dir: PathBuf,
}

/// How much was set aside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Aside {
    pub(super) dir: PathBuf,
    pub(super) files: u64,
}

impl SetAside {
    pub(super) fn of(data_dir: &Path) -> SetAside {
        SetAside { dir: data_dir.join(DAMAGED) }
    }

    /// A new name for `path`, whose directory is there.
    fn place(&self, path: &Path) -> io::Result<PathBuf> {
        match DirBuilder::new().mode(0o700).create(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let names = (0..NAMES_MAX).map(|n| if n == 0 { name.clone() } else { format!("{name}.{n}") });
        let mut places = names.map(|name| self.dir.join(name));
        places.find(|place| !place.exists()).ok_or_else(|| io::Error::other("it is full"))
    }

    /// Moves `path` there: a file or a directory. Where it is now.
    pub(super) fn take(&self, path: &Path) -> io::Result<PathBuf> {
        let place = self.place(path)?;
        std::fs::rename(path, &place)?;
        self.sync(path)?;
        Ok(place)
    }

    /// Keeps `path` there too: a link, or a copy where there are no links.
    pub(super) fn keep(&self, path: &Path) -> io::Result<PathBuf> {
        let place = self.place(path)?;
        if std::fs::hard_link(path, &place).is_err() {
            std::fs::copy(path, &place)?;
            File::open(&place)?.sync_all()?;
        }
        directory::sync(&self.dir)?;
        Ok(place)
    }

    fn sync(&self, from: &Path) -> io::Result<()> {
        directory::sync(&self.dir)?;
        from.parent().map_or(Ok(()), directory::sync)
    }

    /// What is there now.
    pub(super) fn held(&self) -> Aside {
        let files = std::fs::read_dir(&self.dir).map_or(0, |files| files.count() as u64);
        Aside { dir: self.dir.clone(), files }
    }
}
