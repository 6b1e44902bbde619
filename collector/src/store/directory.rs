//! Directories and names that outlive a power cut: a name is safe once the directory that it is in was synced.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

/// Makes `dir` and what is missing above it, all of it durable. One that is there is synced too: whoever made it may have
/// been killed before that.
///
/// # Errors
/// What the disk said.
pub(crate) fn create(dir: &Path) -> io::Result<()> {
    let missing = dir.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).count();
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mut names = dir.ancestors();
    for _ in 0..missing {
        names.next();
        sync(above(names.clone().next()))?;
    }
    if missing == 0 {
        match sync(above(dir.parent())) {
            // Somebody else made it, whose business its name is.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            synced => synced?,
        }
    }
    Ok(())
}

/// What a store has of directories.
const OURS: [&str; 7] = ["db", "segments", "quarantine", "damaged", "log.replay", "snapshot", "snapshot.new"];

/// Takes the store under `dir` away from everybody but its owner: packets of a whole network are in it. Older versions left
/// that to the umask.
pub(crate) fn make_private(dir: &Path) {
    let close = |path: &Path, mode: u32| {
        let closed = std::fs::symlink_metadata(path).and_then(|there| {
            if there.file_type().is_symlink() || there.permissions().mode() & 0o077 == 0 {
                return Ok(());
            }
            std::fs::set_permissions(path, Permissions::from_mode(mode))
        });
        if let Err(error) = closed
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "others may read it");
        }
    };
    close(dir, 0o700);
    for part in OURS.iter().map(|name| dir.join(name)).chain([dir.to_owned()]) {
        let Ok(files) = std::fs::read_dir(&part) else { continue };
        if part != dir {
            close(&part, 0o700);
        }
        for file in files.filter_map(Result::ok) {
            if file.file_type().is_ok_and(|kind| kind.is_file()) {
                close(&file.path(), 0o600);
            }
        }
    }
}

fn above(parent: Option<&Path>) -> &Path {
    parent.filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the names in `dir` durable.
///
/// # Errors
/// What the disk said.
pub(crate) fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_missing_is_made_once_or_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/c");
        create(&path).unwrap();
        create(&path).unwrap();
        assert!(path.is_dir());
        create(Path::new(".")).unwrap();
        assert!(create(&dir.path().join("\0")).is_err());
    }
}
