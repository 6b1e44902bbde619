//! A file that another program appends lines to, followed over rotation, truncation and restarts.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::lines::Lines;
use super::place::Place;

/// Bytes read of a file in one look; the others have their turn then.
const LOOK_BYTES_MAX: usize = 4 << 20;
const READ_BYTES: usize = 64 << 10;
/// Files beside it that are looked at for the one that was read last.
const NEIGHBOURS_MAX: usize = 10_000;

/// What happened to the file, to be counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Happened {
    /// Lines that were too long.
    pub(super) too_long: u64,
    /// Lines that were cut by a rotation or a truncation.
    pub(super) half: u64,
    /// The file was cut or begun anew.
    pub(super) truncated: u64,
}

/// The file being read.
#[derive(Debug)]
struct Open {
    file: File,
    read: u64,
    /// Behind the last whole line.
    whole: u64,
    lines: Lines,
    /// The path is another file by now, seen so many times at this one's end.
    left_behind: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Tail {
    path: PathBuf,
    open: Option<Open>,
    /// Of the last run, until the file was opened.
    known: Option<Place>,
    /// The next file at the path is new: it is read from its beginning.
    from_start: bool,
    buffer: Vec<u8>,
    pub(super) happened: Happened,
}

impl Tail {
    /// `known`: how far it was read by the last run. A file that is there and was never read is read from its end.
    pub(super) fn new(path: PathBuf, known: Option<Place>) -> Tail {
        let from_start = known.is_some() || !path.exists();
        Tail {
            path,
            open: None,
            known,
            from_start,
            buffer: vec![0; READ_BYTES],
            happened: Happened::default(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads what is new. False when that was all for now.
    ///
    /// # Errors
    /// When it cannot be read; a file that is not there is waited for.
    pub(super) fn look(&mut self, each: &mut dyn FnMut(&[u8])) -> io::Result<bool> {
        let Some(open) = &mut self.open else {
            self.open = self.begin()?;
            return Ok(self.open.is_some());
        };
        let mut looked = 0;
        while looked < LOOK_BYTES_MAX {
            let count = match open.file.read(&mut self.buffer) {
                Ok(0) => return self.at_end(),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            looked += count;
            open.read += count as u64;
            let behind = open.lines.feed(&self.buffer[..count], each);
            if behind < count {
                open.whole = open.read - behind as u64;
            }
            self.happened.too_long += std::mem::take(&mut open.lines.too_long);
        }
        Ok(true)
    }

    /// Everything was read: has the file been cut, or is the path another one now?
    fn at_end(&mut self) -> io::Result<bool> {
        let Some(open) = &mut self.open else { return Ok(false) };
        let own = open.file.metadata()?;
        if own.len() < open.read {
            self.happened.truncated += 1;
            self.happened.half += u64::from(open.lines.drop_half());
            open.file.seek(SeekFrom::Start(0))?;
            (open.read, open.whole) = (0, 0);
            return Ok(true);
        }
        let same = match fs::metadata(&self.path) {
            Ok(there) => (there.dev(), there.ino()) == (own.dev(), own.ino()),
            // Moved away: its writer goes on with it until there is another one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(error),
        };
        open.left_behind = if same { 0 } else { open.left_behind + 1 };
        // What its writer wrote before it turned to the new one is there by the second time.
        if open.left_behind < 2 {
            return Ok(false);
        }
        self.happened.half += u64::from(open.lines.drop_half());
        self.open = None;
        Ok(true)
    }

    fn begin(&mut self) -> io::Result<Option<Open>> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.from_start = true;
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let (mut start, mut lines) = (0, Lines::default());
        if let Some(known) = self.known.take() {
            if known.is_in(&file)? {
                start = known.offset;
            } else if let Some(older) = self.rotated(&known) {
                // What was written to it while nobody read; the file at the path is next.
                (file, start) = (older, known.offset);
            } else {
                self.happened.truncated += 1;
                tracing::warn!(path = %self.path.display(), "the file that alerts were read from is gone: what was not read of it is lost");
            }
        } else if !self.from_start {
            start = file.metadata()?.len();
            // It may be in the middle of a line.
            if start > 0 && Place::last_byte(&file, start)? != Some(b'\n') {
                lines.skip();
            }
        }
        self.from_start = true;
        file.seek(SeekFrom::Start(start))?;
        Ok(Some(Open { file, read: start, whole: start, lines, left_behind: 0 }))
    }

    /// The file of a place under another name in the same directory.
    fn rotated(&self, known: &Place) -> Option<File> {
        let neighbours = fs::read_dir(self.path.parent()?).ok()?;
        for neighbour in neighbours.take(NEIGHBOURS_MAX).flatten() {
            let Ok(metadata) = neighbour.metadata() else { continue };
            if metadata.is_file()
                && (metadata.dev(), metadata.ino()) == (known.device, known.inode)
                && let Ok(file) = File::open(neighbour.path())
                && known.is_in(&file).unwrap_or(false)
            {
                return Some(file);
            }
        }
        None
    }

    /// Where to go on after a restart.
    pub(super) fn place(&self) -> Option<Place> {
        match &self.open {
            Some(open) => Place::of(&open.file, open.whole).ok(),
            None => self.known,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    struct Scene {
        dir: tempfile::TempDir,
        tail: Tail,
        found: Vec<String>,
    }

    impl Scene {
        fn new(text: Option<&str>) -> Scene {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("eve.json");
            if let Some(text) = text {
                fs::write(&path, text).unwrap();
            }
            Scene { tail: Tail::new(path, None), dir, found: Vec::new() }.looked()
        }

        fn path(&self) -> PathBuf {
            self.dir.path().join("eve.json")
        }

        fn append(&self, name: &str, text: &str) {
            let path = self.dir.path().join(name);
            let mut file = File::options().create(true).append(true).open(path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }

        /// Until there is nothing to do for a while.
        fn looked(mut self) -> Scene {
            self.look();
            self
        }

        fn look(&mut self) {
            for _ in 0..4 {
                while self
                    .tail
                    .look(&mut |line| self.found.push(String::from_utf8_lossy(line).into()))
                    .unwrap()
                {}
            }
        }

        fn found(&mut self) -> Vec<String> {
            self.look();
            std::mem::take(&mut self.found)
        }

        fn restart(&mut self) {
            self.tail = Tail::new(self.path(), self.tail.place());
        }
    }

    #[test]
    fn what_is_appended_is_read_once_in_whole_lines_over_restarts() {
        let mut scene = Scene::new(Some("old\nhal"));
        scene.append("eve.json", "f\none\ntw");
        assert_eq!(scene.found(), ["one"]);
        scene.restart();
        scene.append("eve.json", "o\nthree\n");
        assert_eq!(scene.found(), ["two", "three"]);
        scene.restart();
        scene.restart();
        assert_eq!(scene.found(), [""; 0]);
        scene.append("eve.json", "four\n");
        assert_eq!(scene.found(), ["four"]);
        assert_eq!(scene.tail.happened, Happened::default());
    }

    #[test]
    fn a_file_that_appears_is_read_from_its_beginning() {
        let mut scene = Scene::new(None);
        assert_eq!(scene.found(), [""; 0]);
        scene.append("eve.json", "one\n");
        assert_eq!(scene.found(), ["one"]);
    }

    #[test]
    fn rotation_loses_nothing_that_the_writer_wrote_to_the_old_file() {
        let mut scene = Scene::new(Some(""));
        scene.append("eve.json", "one\n");
        assert_eq!(scene.found(), ["one"]);
        fs::rename(scene.path(), scene.dir.path().join("eve.json.1")).unwrap();
        // Before it is told to open another one.
        scene.append("eve.json.1", "two\n");
        assert_eq!(scene.found(), ["two"]);
        scene.append("eve.json.1", "three\n");
        scene.append("eve.json", "four\n");
        scene.append("eve.json.1", "half");
        assert_eq!(scene.found(), ["three", "four"]);
        assert_eq!(scene.tail.happened, Happened { half: 1, ..Happened::default() });
    }

    #[test]
    fn rotation_while_nobody_reads_loses_nothing() {
        let mut scene = Scene::new(Some(""));
        scene.append("eve.json", "one\n");
        assert_eq!(scene.found(), ["one"]);
        let place = scene.tail.place();
        scene.append("eve.json", "two\n");
        fs::rename(scene.path(), scene.dir.path().join("eve.json.1")).unwrap();
        scene.append("eve.json", "three\n");
        scene.tail = Tail::new(scene.path(), place);
        assert_eq!(scene.found(), ["two", "three"]);
        // The older one is gone: what is at the path is new.
        let place = scene.tail.place();
        scene.append("eve.json", "four\n");
        fs::remove_file(scene.path()).unwrap();
        scene.append("another", "x");
        scene.append("eve.json", "five\n");
        scene.tail = Tail::new(scene.path(), place);
        assert_eq!(scene.found(), ["five"]);
        assert_eq!(scene.tail.happened.truncated, 1);
    }

    #[test]
    fn a_file_that_is_cut_is_read_anew() {
        let mut scene = Scene::new(Some(""));
        scene.append("eve.json", "one, and some more\nhal");
        assert_eq!(scene.found(), ["one, and some more"]);
        fs::write(scene.path(), "two\n").unwrap();
        assert_eq!(scene.found(), ["two"]);
        assert_eq!(scene.tail.happened, Happened { half: 1, truncated: 1, ..Happened::default() });
    }

    #[test]
    fn a_directory_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let mut tail = Tail::new(dir.path().to_owned(), None);
        assert!(tail.look(&mut |_| {}).and_then(|_| tail.look(&mut |_| {})).is_err());
    }
}
