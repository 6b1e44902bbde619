//! Who this agent is, and that it is the only one: the files `agent-id` and `lock` of the state directory.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use gnomon_clock::{Clock, EpochId};
use gnomon_flow::AgentId;
use rustix::fs::{FlockOperation, flock};

use crate::private;

/// Files of the state directory, besides the spool's.
const FILES: [&str; 4] = ["agent-id", "lock", "clock", "alerts"];

/// The state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error(
        "another agent uses the state directory {}: give each its own state_dir, or stop the other",
        dir.display()
    )]
    InUse { dir: PathBuf },
    #[error("{}: holds {found:?}, not an agent id (32 hexadecimal digits); delete it to become a new agent", path.display())]
    Damaged { path: PathBuf, found: String },
    #[error("{what} {}: {source} (the agent's user must own its state directory; state_dir sets another)", path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The agent's state directory, locked while this lives.
#[derive(Debug)]
pub struct Identity {
    pub agent: AgentId,
    _lock: File,
}

impl Identity {
    /// Takes the state directory, makes it and the agent's id at the first start.
    ///
    /// # Errors
    /// When another process has it, or its files cannot be read or made.
    pub fn open(state_dir: &Path) -> Result<Identity, IdentityError> {
        let file_error = |what, path: &Path| {
            let path = path.to_owned();
            move |source| IdentityError::File { what, path, source }
        };
        private::directory(state_dir).map_err(file_error("cannot make", state_dir))?;
        for name in FILES {
            // What an earlier version left open to others.
            let path = state_dir.join(name);
            if let Ok(metadata) = fs::symlink_metadata(&path)
                && metadata.is_file()
            {
                let _ = File::open(&path).and_then(|file| private::tighten(&file));
            }
        }
        let lock_path = state_dir.join("lock");
        let lock = match private::open(&lock_path) {
            // On a disk that is read-only, a lock that is there can be taken all the same.
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => File::open(&lock_path),
            opened => opened,
        };
        let lock = lock.map_err(file_error("cannot open", &lock_path))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(IdentityError::InUse { dir: state_dir.to_owned() });
            }
            Err(errno) => return Err(file_error("cannot lock", &lock_path)(errno.into())),
        }
        let agent = agent_id(&state_dir.join("agent-id"))?;
        Ok(Identity { agent, _lock: lock })
    }

    /// A new epoch of this agent, opened now.
    ///
    /// # Errors
    /// When the kernel's boot id cannot be read.
    pub fn open_epoch(&self, clock: &dyn Clock) -> io::Result<EpochId> {
        gnomon_clock::open_epoch(self.agent.0, clock)
    }
}

fn agent_id(path: &Path) -> Result<AgentId, IdentityError> {
    let error = |what| move |source| IdentityError::File { what, path: path.to_owned(), source };
    match fs::read_to_string(path) {
        Ok(text) => text.trim().parse().map_err(|_| IdentityError::Damaged {
            path: path.to_owned(),
            found: text.chars().take(64).collect(),
        }),
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
            let mut bytes = [0u8; 16];
            let random = File::open("/dev/urandom").and_then(|mut urandom| urandom.read_exact(&mut bytes));
            random.map_err(error("cannot read randomness for"))?;
            let id = AgentId(bytes);
            // Renamed into place: a crash leaves an id or none, never half of one.
            let new = path.with_extension("new");
            let written = private::create(&new).and_then(|mut file| {
                writeln!(file, "{id}")?;
                file.sync_all()?;
                fs::rename(&new, path)?;
                // What is in the spool is this agent's: a power cut must not take its name away.
                path.parent().map_or(Ok(()), crate::spool::sync_directory)
            });
            written.map_err(error("cannot write"))?;
            Ok(id)
        }
        Err(other) => Err(error("cannot read")(other)),
    }
}

/// The epoch being captured in now; clones are the same one.
#[derive(Clone, Debug)]
pub struct CurrentEpoch(Arc<Mutex<EpochId>>);

impl CurrentEpoch {
    pub fn new(epoch: EpochId) -> CurrentEpoch {
        CurrentEpoch(Arc::new(Mutex::new(epoch)))
    }

    pub fn get(&self) -> EpochId {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set(&self, epoch: EpochId) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = epoch;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_stays_who_it_is_and_is_alone() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::open(dir.path()).unwrap();
        assert_ne!(first.agent, AgentId::default());
        assert_ne!(first.open_epoch(&gnomon_clock::KernelClock).unwrap().boot_id, [0; 16]);
        assert!(matches!(Identity::open(dir.path()), Err(IdentityError::InUse { .. })));
        let agent = first.agent;
        drop(first);
        assert_eq!(Identity::open(dir.path()).unwrap().agent, agent);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(Identity::open(other.path()).unwrap().agent, agent);
    }

    #[test]
    fn a_damaged_id_is_not_replaced_in_silence() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("agent-id"), "half").unwrap();
        assert!(matches!(Identity::open(dir.path()), Err(IdentityError::Damaged { .. })));
    }
}
