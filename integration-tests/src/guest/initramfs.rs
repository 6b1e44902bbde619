//! The guest's file system: a cpio archive in the "newc" format (kernel: Documentation/driver-api/early-userspace/
//! buffer-format.rst) that the kernel unpacks into memory.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};

use super::parts::{self, Parts};

const FOLDER: u32 = 0o040_755;
const PLAIN: u32 = 0o100_644;
const PROGRAM: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// The first program: mounts, drivers, and then it does what it is told line by line. A line's output is followed by
/// `@@` and its exit code.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /run /tmp /var /sbin /usr/bin /usr/sbin
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox mount -t tmpfs -o size=75% tmpfs /var
/bin/busybox --install -s
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/
exec < /dev/ttyS1 > /dev/ttyS1 2>&1
stty raw -echo
for module in $(cat /lib/modules/order); do insmod /lib/modules/$module || echo "$module does not load"; done
sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
ip link set lo up
hostname guest
echo @@0
while read -r line; do
    eval "$line"
    echo "@@$?"
done
poweroff -f
"#;

#[derive(Debug)]
struct Node {
    mode: u32,
    content: Vec<u8>,
    /// Major and minor number of a device.
    device: (u32, u32),
}

/// Files by their path in the guest, without the leading slash.
#[derive(Debug, Default)]
pub struct Image {
    nodes: BTreeMap<String, Node>,
}

impl Image {
    /// What every guest has: busybox, the network drivers, chronyd, and `init`.
    pub fn base(parts: &Parts) -> Result<Image> {
        let mut image = Image::default();
        image.put("dev/console", Node { mode: CHARACTER_DEVICE, content: Vec::new(), device: (5, 1) });
        image.file("init", PROGRAM, INIT.into());
        image.host_file("bin/busybox", &parts.busybox())?;
        let mut order = String::new();
        for (name, content) in parts.modules()? {
            image.file(&format!("lib/modules/{name}"), PLAIN, content);
            order.push_str(&name);
            order.push('\n');
        }
        image.file("lib/modules/order", PLAIN, order.into());
        image.file("etc/passwd", PLAIN, b"root:x:0:0:root:/:/bin/sh\n".to_vec());
        image.file("etc/group", PLAIN, b"root:x:0:\n".to_vec());
        // A config with nothing in it: what a test sets, it sets by words.
        image.text("etc/empty.toml", "");
        image.tree("", &parts.chrony())?;
        Ok(image)
    }

    /// A program of this machine with the libraries it is linked to.
    pub fn program(&mut self, path: &Path) -> Result<()> {
        let name = path.file_name().context("a program has a name")?.to_string_lossy().into_owned();
        self.host_file(&format!("usr/bin/{name}"), path)?;
        for library in parts::libraries(path)? {
            let inside = library.to_string_lossy().trim_start_matches('/').to_owned();
            self.host_file(&inside, &library)?;
        }
        Ok(())
    }

    pub fn text(&mut self, path: &str, text: &str) {
        self.file(path, PLAIN, text.into());
    }

    fn host_file(&mut self, path: &str, from: &Path) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("read {}", from.display()))?;
        let executable = fs::metadata(from)?.permissions().mode() & 0o111 != 0;
        self.file(path, if executable { PROGRAM } else { PLAIN }, content);
        Ok(())
    }

    fn tree(&mut self, path: &str, from: &Path) -> Result<()> {
        for entry in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
            let entry = entry?;
            let inside = format!("{path}{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() {
                self.tree(&format!("{inside}/"), &entry.path())?;
            } else {
                self.host_file(&inside, &entry.path())?;
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &str, mode: u32, content: Vec<u8>) {
        self.put(path, Node { mode, content, device: (0, 0) });
    }

    /// The kernel makes no folder by itself.
    fn put(&mut self, path: &str, node: Node) {
        for (at, _) in path.match_indices('/') {
            let folder = Node { mode: FOLDER, content: Vec::new(), device: (0, 0) };
            self.nodes.entry(path[..at].to_owned()).or_insert(folder);
        }
        self.nodes.insert(path.to_owned(), node);
    }

    /// The archive. A folder's path is a prefix of its files' and so comes before them.
    pub fn archive(&self) -> Vec<u8> {
        let mut archive = Vec::new();
        for (number, (path, node)) in self.nodes.iter().enumerate() {
            append(&mut archive, number as u32 + 1, path, node);
        }
        append(&mut archive, 0, "TRAILER!!!", &Node { mode: 0, content: Vec::new(), device: (0, 0) });
        archive
    }
}

fn append(archive: &mut Vec<u8>, number: u32, path: &str, node: &Node) {
    let size = u32::try_from(node.content.len()).unwrap_or(u32::MAX);
    let name_bytes = u32::try_from(path.len() + 1).unwrap_or(u32::MAX);
    // inode, mode, uid, gid, links, mtime, size, device of the file system (2), device (2), name, checksum
    let (major, minor) = node.device;
    let fields = [number, node.mode, 0, 0, 1, 0, size, 0, 0, major, minor, name_bytes, 0];
    archive.extend_from_slice(b"070701");
    for field in fields {
        archive.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    archive.extend_from_slice(path.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(&node.content);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_before_their_files_and_all_is_aligned() {
        let mut image = Image::default();
        image.text("a/b/c", "x");
        image.text("a/d", "four");
        let archive = image.archive();
        assert_eq!(archive.len() % 4, 0);
        let text = String::from_utf8_lossy(&archive);
        let at = |name: &str| text.find(&format!("{name}\0")).unwrap();
        assert!(at("a") < at("a/b") && at("a/b") < at("a/b/c") && at("a/b/c") < at("a/d"));
        assert_eq!(text.matches("070701").count(), 5);
        // 6 + 13 × 8 bytes of header, "a" and its end, two of padding.
        assert_eq!(&archive[112..118], b"070701");
    }
}
