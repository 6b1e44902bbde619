//! Disks that fail and power that goes: a library of ours (`interpose.c`) stands between a program and the files below one
//! directory. It fails what [`Control`] says, and writes down ([`journal`]) what was written, synced and named in which
//! order, from which [`Disk`] makes the directory as it may look after the power was cut at any moment.

mod disk;
mod journal;

pub use disk::{Disk, Loss};
pub use journal::Journal;

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

const SOURCE: &str = include_str!("interpose.c");

/// Numbers in the control file, as `interpose.c` has them.
const NUMBERS: usize = 32;

/// What a call is made on: bits to be put together.
pub mod kind {
    /// Files of packets, and their directory.
    pub const SEGMENT: u64 = 1;
    /// The database's write-ahead log; the spool has none.
    pub const LOG: u64 = 2;
    /// The database's tables.
    pub const TABLE: u64 = 4;
    /// The database's list of its files, and its directory.
    pub const MANIFEST: u64 = 8;
    pub const OTHER: u64 = 16;
    pub const ALL: u64 = 31;
}

/// How a write fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    Eio = 0,
    /// No space: what shrinks or removes still works.
    Enospc = 1,
    /// Half of it is written, which the caller has to notice.
    Short = 2,
    /// The file system turned read-only: nothing can be removed or renamed either.
    Erofs = 3,
}

/// Which calls fail from now on. Calls are counted from the start of the program, those of [`Faults::kinds`] only.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    pub kinds: u64,
    /// Syncs by number.
    pub syncs: (u64, u64),
    /// Besides, so many of a thousand.
    pub sync_permille: u64,
    /// Writes, new files, new names.
    pub writes: (u64, u64),
    pub write_permille: u64,
    pub failure: Failure,
    /// How long each sync takes.
    pub sync_us: u64,
    /// How long each write takes, however much it writes: a disk that stalls.
    pub write_us: u64,
}

impl Faults {
    pub const NONE: Faults = Faults {
        kinds: kind::ALL,
        syncs: (u64::MAX, u64::MAX),
        sync_permille: 0,
        writes: (u64::MAX, u64::MAX),
        write_permille: 0,
        failure: Failure::Eio,
        sync_us: 0,
        write_us: 0,
    };
}

/// What the library has seen, of the kinds it is to fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub syncs: u64,
    pub writes: u64,
    pub syncs_failed: u64,
    pub writes_failed: u64,
}

/// The library, built, and the file that commands it.
#[derive(Debug)]
pub struct Control {
    library: PathBuf,
    control: PathBuf,
    file: File,
}

impl Control {
    /// Builds the library into `dir`; `None` where there is no C compiler, which is said as for every skipped test.
    pub fn new(dir: &Path, seed: u64) -> Result<Option<Control>> {
        let (source, library) = (dir.join("interpose.c"), dir.join("interpose.so"));
        std::fs::write(&source, SOURCE)?;
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O2", "-pthread", "-o"])
            .args([&library, &source])
            .output();
        let built = match built {
            Ok(built) => built,
            Err(error) => {
                eprintln!("SKIPPED: faults need a C compiler: cc: {error}");
                return Ok(None);
            }
        };
        ensure!(built.status.success(), "cc: {}", String::from_utf8_lossy(&built.stderr));
        let control = dir.join("control");
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&control)?;
        file.set_len(8 * NUMBERS as u64)?;
        file.write_all_at(&seed.to_ne_bytes(), 0)?;
        let made = Control { library, control, file };
        made.set(Faults::NONE)?;
        Ok(Some(made))
    }

    /// The environment of a program whose files below `dir` are watched; what it does to them goes to `journal`.
    pub fn environment(&self, dir: &Path, journal: Option<&Path>) -> Vec<(OsString, OsString)> {
        let mut all = vec![
            ("LD_PRELOAD".into(), self.library.clone().into()),
            ("GNOMON_FAULTS_DIR".into(), dir.into()),
            ("GNOMON_FAULTS_CONTROL".into(), self.control.clone().into()),
        ];
        all.extend(journal.map(|journal| ("GNOMON_FAULTS_JOURNAL".into(), journal.into())));
        all
    }

    pub fn set(&self, faults: Faults) -> Result<()> {
        let numbers = [
            faults.syncs.0,
            faults.syncs.1,
            faults.sync_permille,
            faults.writes.0,
            faults.writes.1,
            faults.write_permille,
            faults.failure as u64,
            faults.kinds,
            faults.sync_us,
            faults.write_us,
        ];
        let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_ne_bytes()).collect();
        self.file.write_all_at(&bytes, 8).context("write the control file")
    }

    pub fn seen(&self) -> Result<Seen> {
        let mut bytes = [0; 32];
        self.file.read_exact_at(&mut bytes, 16 * 8).context("read the control file")?;
        let number = |at: usize| {
            u64::from_ne_bytes(std::array::from_fn(|i| bytes.get(8 * at + i).copied().unwrap_or(0)))
        };
        Ok(Seen { syncs: number(0), writes: number(1), syncs_failed: number(2), writes_failed: number(3) })
    }
}

/// Chance that can be had again: the same seed, the same numbers.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(2).wrapping_add(1))
    }

    /// Below `end`; 0 where that is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end.max(1)
    }

    pub fn coin(&mut self) -> bool {
        self.below(2) == 0
    }
}
