//! What a daemon asks of the kernel for its own process.

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};

/// Raises the number of files that may be open at once to the most that is allowed; gives what holds then.
pub fn raise_open_files() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: maximum, maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum.unwrap_or(u64::MAX),
        // Without a limit a kernel may refuse "no limit".
        Err(_) => current.unwrap_or(u64::MAX),
    }
}

/// Files and directories that are made from now on are this user's alone. For the whole process: before its threads.
pub fn keep_files_private() {
    umask(Mode::RWXG | Mode::RWXO);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_files_as_may_be_open_are() {
        let may = raise_open_files();
        assert_eq!(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX), may);
    }
}
