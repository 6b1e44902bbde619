//! Files and directories that nobody but the agent's user may read, whatever the umask, and that no link can divert.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
const STICKY: u32 = 0o1000;
/// Names tried before a directory of a random name is given up.
const NAMES_TRIED: usize = 8;

/// Makes a directory and those above it, or closes one that is there to others. One that is shared on purpose (sticky, or
/// of another user) stays as it is.
pub(crate) fn directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path)?;
    let metadata = fs::metadata(path)?;
    let is_ours = metadata.uid() == rustix::process::geteuid().as_raw() && mode(&metadata) & STICKY == 0;
    if is_ours && mode(&metadata) != DIRECTORY_MODE {
        let tightened = fs::set_permissions(path, Permissions::from_mode(DIRECTORY_MODE));
        // A disk that is read-only now is no reason not to run.
        if let Err(error) = tightened {
            tracing::warn!(path = %path.display(), %error, "others may be able to read this directory");
        }
    }
    Ok(())
}

/// A file to write, empty, in a private directory. A link of its name is an error.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(FILE_MODE);
    let file = options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed()).open(path)?;
    tighten(&file)?;
    Ok(file)
}

/// A file to read and write that was not there before.
pub(crate) fn create_new(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).write(true).create_new(true).mode(FILE_MODE).open(path)?;
    tighten(&file)?;
    Ok(file)
}

/// A file of ours as it is, to be locked or appended to, made when it is not there.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
    let file = options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed()).open(path)?;
    tighten(&file)?;
    Ok(file)
}

/// Closes an open file to others, if it is not.
pub(crate) fn tighten(file: &File) -> io::Result<()> {
    if mode(&file.metadata()?) != FILE_MODE {
        file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    }
    Ok(())
}

/// Closes every plain file in a directory of ours to others; what cannot be changed is left.
pub(crate) fn tighten_files(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_file() && mode(&metadata) != FILE_MODE {
            let tightened = fs::set_permissions(entry.path(), Permissions::from_mode(FILE_MODE));
            if let Err(error) = tightened {
                tracing::warn!(path = %entry.path().display(), %error, "others may be able to read this file");
            }
        }
    }
}

/// A new directory of a name that nobody can know before, in the directory for temporary files.
pub(crate) fn temporary_directory(label: &str) -> io::Result<PathBuf> {
    let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
    for _ in 0..NAMES_TRIED {
        let mut random = [0u8; 8];
        File::open("/dev/urandom")?.read_exact(&mut random)?;
        let path = std::env::temp_dir().join(format!("{label}-{:016x}", u64::from_ne_bytes(random)));
        // Fails where anything has the name, a link too.
        match DirBuilder::new().mode(DIRECTORY_MODE).create(&path) {
            Ok(()) => {
                fs::set_permissions(&path, Permissions::from_mode(DIRECTORY_MODE))?;
                return Ok(path);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

fn mode(metadata: &fs::Metadata) -> u32 {
    metadata.permissions().mode() & 0o7777
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_private_and_what_was_open_is_closed() {
        let above = tempfile::tempdir().unwrap();
        let dir = above.path().join("state");
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
        fs::write(dir.join("old"), "x").unwrap();
        fs::set_permissions(dir.join("old"), Permissions::from_mode(0o644)).unwrap();
        directory(&dir).unwrap();
        tighten_files(&dir);
        create(&dir.join("new")).unwrap();
        create_new(&dir.join("newer")).unwrap();
        open(&dir.join("newest")).unwrap();
        assert_eq!(mode(&fs::metadata(&dir).unwrap()), 0o700);
        for name in ["old", "new", "newer", "newest"] {
            assert_eq!(mode(&fs::metadata(dir.join(name)).unwrap()), 0o600, "{name}");
        }
    }

    #[test]
    fn no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, dir.path().join("link")).unwrap();
        assert!(create(&dir.path().join("link")).is_err());
        assert!(create_new(&dir.path().join("link")).is_err());
        assert!(open(&dir.path().join("link")).is_err());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    }
}
