//! The Unix socket: in a directory that only its owner can write to, so that nobody else can stand in for the collector.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

use crate::config::Listen;

/// Who may connect is in the mode of the socket; who may look for it in that of the directory.
const DIRECTORY_MODE: u32 = 0o750;
const SOCKET_MODE: u32 = 0o660;
/// `sun_path` of `sockaddr_un`, with its final zero (unix(7)).
const PATH_BYTES_MAX: usize = 107;
/// Where the socket is when the configuration says nothing.
const DEFAULT: &str = "/run/gnomon/collector.sock";
/// And where it is, beside the data, when that place cannot be had.
const BESIDE_DATA: &str = "collector.sock";

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("listen.unix {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("listen.unix {}: {problem}", path.display())]
    Refused { path: PathBuf, problem: String },
}

/// The socket that was bound.
#[derive(Debug)]
pub struct Bound {
    pub listener: UnixListener,
    pub path: PathBuf,
}

/// Where the socket of a collector with this configuration may be.
#[must_use]
pub fn places(listen: &Listen, data_dir: &Path) -> Vec<PathBuf> {
    match &listen.unix {
        Some(path) if path.as_os_str().is_empty() => Vec::new(),
        Some(path) => vec![path.clone()],
        None => vec![data_dir.join(BESIDE_DATA), PathBuf::from(DEFAULT)],
    }
}

/// Bind the Unix socket of the configuration; `None` where it says that there is none.
///
/// # Errors
/// When it cannot be bound where others cannot replace it, or another collector has it. Where the configuration names no
/// place and the usual one cannot be had, it is `collector.sock` beside the data.
pub fn bind(listen: &Listen, group: Option<u32>, data_dir: &Path) -> Result<Option<Bound>, SocketError> {
    match &listen.unix {
        Some(path) if path.as_os_str().is_empty() => Ok(None),
        Some(path) => bind_at(path, group).map(Some),
        None => match bind_at(Path::new(DEFAULT), group) {
            Ok(bound) => Ok(Some(bound)),
            Err(error) => {
                let path = data_dir.join(BESIDE_DATA);
                tracing::info!(path = %path.display(), %error, "the Unix socket is beside the data");
                bind_at(&path, group).map(Some)
            }
        },
    }
}

fn bind_at(path: &Path, group: Option<u32>) -> Result<Bound, SocketError> {
    let io = |source| SocketError::Io { path: path.to_owned(), source };
    let refused = |problem: &str| SocketError::Refused { path: path.to_owned(), problem: problem.to_owned() };
    if path.as_os_str().len() > PATH_BYTES_MAX {
        return Err(refused("is longer than the 107 bytes that the path of a socket may have"));
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.ok_or_else(|| refused("has no directory: name a whole path"))?;
    match fs::DirBuilder::new().mode(DIRECTORY_MODE).create(parent) {
        Ok(()) => {
            // Whatever the umask.
            fs::set_permissions(parent, fs::Permissions::from_mode(DIRECTORY_MODE)).map_err(io)?;
            if let Some(group) = group {
                std::os::unix::fs::chown(parent, None, Some(group)).map_err(io)?;
            }
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(io(error)),
    }
    let own = rustix::process::geteuid().as_raw();
    let directory = fs::metadata(parent).map_err(io)?;
    if ![0, own].contains(&directory.uid()) || directory.mode() & 0o022 != 0 {
        return Err(refused(
            "lies in a directory that others can write to: they could put a socket of theirs in its place",
        ));
    }
    clear_leftover(path)?;
    let listener = UnixListener::bind(path).map_err(io)?;
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE)).map_err(io)?;
    if let Some(group) = group {
        std::os::unix::fs::chown(path, None, Some(group)).map_err(io)?;
    }
    Ok(Bound { listener, path: path.to_owned() })
}

/// A socket that nobody listens on was left behind by a process that was killed.
fn clear_leftover(path: &Path) -> Result<(), SocketError> {
    let io = |source| SocketError::Io { path: path.to_owned(), source };
    let refused = |problem: &str| SocketError::Refused { path: path.to_owned(), problem: problem.to_owned() };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io(error)),
        Ok(there) if !there.file_type().is_socket() => {
            return Err(refused("is there already, and no socket: remove it or choose another place"));
        }
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(refused("another collector listens there")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(io),
        Err(error) => Err(io(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(unix: Option<PathBuf>) -> Listen {
        Listen { unix, ..Listen::default() }
    }

    #[tokio::test]
    async fn a_socket_is_ours_alone_and_a_leftover_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/collector.sock");
        let bound = bind(&listen(Some(path.clone())), None, dir.path()).unwrap().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (SOCKET_MODE, DIRECTORY_MODE));
        let text = bind(&listen(Some(path.clone())), None, dir.path()).unwrap_err().to_string();
        assert!(text.contains("another collector"), "{text}");
        drop(bound);
        drop(bind(&listen(Some(path.clone())), None, dir.path()).unwrap().unwrap());
        assert!(bind(&listen(Some(PathBuf::new())), None, dir.path()).unwrap().is_none());
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        assert!(bind(&listen(Some(path.clone())), None, dir.path()).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[tokio::test]
    async fn a_directory_that_others_write_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let open = dir.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        let text = bind(&listen(Some(open.join("s.sock"))), None, dir.path()).unwrap_err().to_string();
        assert!(text.contains("others can write"), "{text}");
    }
}
