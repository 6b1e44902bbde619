//! The collector on this host, by its Unix socket. Whoever answers there gets all that is captured and is believed about the
//! time, so it is looked at who could have put the socket there, and who answers.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

/// Others than the owner may write.
const WRITABLE: u32 = 0o022;
/// In such a directory only the owner of a file may remove or rename it.
const STICKY: u32 = 0o1000;

/// Why the socket is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum SocketError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: {problem}: whoever put it there may not be the collector", path.display())]
    Untrusted { path: PathBuf, problem: String },
}

/// Connect to the socket at `path`, if only root, this process' user or the owner of its directory can have put it there,
/// and one of them answers.
pub(super) async fn connect(path: PathBuf) -> Result<TokioIo<UnixStream>, SocketError> {
    let io = |source| SocketError::Io { path: path.clone(), source };
    let owner = trusted(&path)?;
    let stream = UnixStream::connect(&path).await.map_err(io)?;
    let answers = stream.peer_cred().map_err(io)?.uid();
    if answers != 0 && answers != own() && answers != owner {
        let problem = format!("a process of user {answers} answers, and the directory is of user {owner}");
        return Err(SocketError::Untrusted { path, problem });
    }
    Ok(TokioIo::new(stream))
}

fn own() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The owner of the socket's directory.
fn trusted(path: &Path) -> Result<u32, SocketError> {
    let untrusted = |problem: String| SocketError::Untrusted { path: path.to_owned(), problem };
    let io = |source| SocketError::Io { path: path.to_owned(), source };
    let parent = path.parent().filter(|parent| parent.is_absolute());
    let parent = parent.ok_or_else(|| untrusted("is no absolute path".to_owned()))?;
    // Where the links lead: `/var/run` is `/run`.
    let parent = parent.canonicalize().map_err(io)?;
    let owner = parent.metadata().map_err(io)?.uid();
    let mut ours_alone = true;
    for (depth, directory) in parent.ancestors().enumerate() {
        let is = directory.metadata().map_err(io)?;
        if ![0, own(), owner].contains(&is.uid()) {
            return Err(untrusted(format!("{} is of user {}", directory.display(), is.uid())));
        }
        if is.mode() & WRITABLE != 0 {
            // Anybody can make a directory in /tmp, and call it as they like.
            ours_alone = false;
            if depth == 0 || is.mode() & STICKY == 0 {
                return Err(untrusted(format!("others can write to {}", directory.display())));
            }
        }
    }
    if !ours_alone && owner != 0 && owner != own() {
        return Err(untrusted(format!("user {owner} has made its directory where anybody can")));
    }
    Ok(owner)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[tokio::test]
    async fn only_a_socket_that_nobody_else_can_have_put_there_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("run");
        fs::create_dir(&place).unwrap();
        mode(&place, 0o750);
        let path = place.join("collector.sock");
        assert!(matches!(connect(path.clone()).await, Err(SocketError::Io { .. })), "nobody is there");
        let _listener = tokio::net::UnixListener::bind(&path).unwrap();
        connect(path.clone()).await.unwrap();
        mode(&place, 0o777);
        let text = connect(path.clone()).await.unwrap_err().to_string();
        assert!(text.contains("others can write"), "{text}");
        mode(&place, 0o1777);
        assert!(connect(path.clone()).await.is_err());
        mode(&place, 0o755);
        mode(dir.path(), 0o777);
        assert!(connect(path.clone()).await.is_err(), "the directory itself can be replaced");
        mode(dir.path(), 0o755);
        if own() == 0 {
            // Another user's directory, where anybody can make one, and where only root can.
            std::os::unix::fs::chown(&place, Some(4711), None).unwrap();
            let text = connect(path.clone()).await.unwrap_err().to_string();
            assert!(text.contains("where anybody can"), "{text}");
        }
        assert!(connect(PathBuf::from("collector.sock")).await.is_err());
    }
}
