//! What a guest is made of: `deploy/guest-parts.sh` fetches it into the cache, outside the checkout.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache;

/// Named with the recipe's number in the script, so that an older layout is not taken for this one.
const FOLDER: &str = "gnomon-ci/guest/parts-1";

/// The modules in the order in which they need each other; one that is built into the kernel is not in the folder.
const MODULES: [&str; 8] = [
    "virtio",
    "virtio_ring",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
];

/// The folder with QEMU, kernel, busybox and chronyd.
#[derive(Clone, Debug)]
pub struct Parts {
    dir: PathBuf,
}

impl Parts {
    /// The parts, or why there are none here: to be printed by the test that is skipped.
    ///
    /// # Errors
    /// The reason, in words.
    pub fn find() -> Result<Parts, String> {
        let dir = cache::parts(FOLDER, "QEMU and the guest's kernel are", "deploy/guest-parts.sh")?;
        Ok(Parts { dir })
    }

    pub fn vmlinux(&self) -> PathBuf {
        self.dir.join("vmlinux")
    }

    pub fn busybox(&self) -> PathBuf {
        self.dir.join("busybox")
    }

    /// chronyd with its libraries, as it lies in the guest.
    pub fn chrony(&self) -> PathBuf {
        self.dir.join("chrony")
    }

    /// The kernel package's name.
    pub fn kernel(&self) -> String {
        fs::read_to_string(self.dir.join("kernel.name")).unwrap_or_default().trim().to_owned()
    }

    /// Name and content of each module, in the order in which to load them.
    pub fn modules(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let files =
            MODULES.iter().map(|name| (format!("{name}.ko"), self.dir.join(format!("modules/{name}.ko"))));
        files
            .filter(|(_, path)| path.is_file())
            .map(|(name, path)| Ok((name, fs::read(&path).with_context(|| path.display().to_string())?)))
            .collect()
    }

    /// QEMU, with what it needs beside it where it was unpacked and not installed. It ends with the thread that starts
    /// it, however that ends: a test that is killed leaves no machine behind.
    pub fn qemu(&self) -> Command {
        let root = self.dir.join("qemu");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(root.join("qemu-system-x86_64"));
        if root.join("usr").is_dir() {
            command.env("LD_LIBRARY_PATH", root.join("usr/lib/x86_64-linux-gnu"));
            for firmware in ["usr/share/qemu", "usr/share/seabios"] {
                command.arg("-L").arg(root.join(firmware));
            }
        }
        command
    }
}

/// The shared libraries that a program of this machine is linked to, with the loader, by their absolute paths.
pub fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // "libm.so.6 => /lib/… (0x…)", or for the loader "/lib64/ld-linux-x86-64.so.2 (0x…)".
    let words = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(words.map(PathBuf::from).collect())
}
