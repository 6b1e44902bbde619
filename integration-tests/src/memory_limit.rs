//! A process in a memory cgroup of its own: what takes more than it may is killed by the kernel.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A cgroup; removed when dropped.
#[derive(Debug)]
pub struct MemoryLimit {
    dir: PathBuf,
}

impl MemoryLimit {
    /// A cgroup of `bytes`, of version 1 or 2; `None` where this process may make none.
    pub fn new(bytes: u64) -> Option<MemoryLimit> {
        let name = format!("gnomon-{}", std::process::id());
        let kinds = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        kinds.into_iter().find_map(|(root, limit)| {
            let dir = Path::new(root).join(&name);
            fs::create_dir(&dir).ok()?;
            let made = MemoryLimit { dir };
            fs::write(made.dir.join(limit), bytes.to_string()).ok()?;
            // Swap would only make it slow.
            let _ = fs::write(made.dir.join("memory.swap.max"), "0");
            Some(made)
        })
    }

    pub fn add(&self, pid: u32) -> Result<()> {
        let file = self.dir.join("cgroup.procs");
        fs::write(&file, pid.to_string()).with_context(|| format!("write {}", file.display()))
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        // Refused while a process is in it: then it stays, empty soon.
        let _ = fs::remove_dir(&self.dir);
    }
}

/// The most memory that a process has had at once.
pub fn peak_bytes(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().context(line.to_owned())?;
    Ok(kib * 1024)
}
