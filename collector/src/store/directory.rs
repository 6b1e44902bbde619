//! Directories and names that outlive a power cut: a name is safe once the directory that it is in was synced.

use std::fs::File;
use std::io;
use std::path::Path;

/// Makes `dir` and what is missing above it, all of it durable. One that is there is synced too: whoever made it may have
/// been killed before that.
///
/// # Errors
/// What the disk said.
pub(crate) fn create(dir: &Path) -> io::Result<()> {
    let missing = dir.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).count();
    std::fs::create_dir_all(dir)?;
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
