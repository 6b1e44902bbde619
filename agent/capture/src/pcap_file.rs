//! Frames from capture files: pcap and pcapng, plain or compressed with gzip, zstd, xz or bzip2, from a path or standard input.
//!
//! What a file is, is read from its first bytes, never from its name. A file is a stream: it is read once, forwards,
//! through one buffer of [`input::BUFFER_BYTES`], and frames are lent out of that buffer without a copy.
//!
//! A damaged file gives every whole packet before the damage. A file that merely ends too early (the writer was killed,
//! the disk was full) then ends with a [`TruncatedTail`] in its [`FileStats`]; bytes that cannot be what they should be
//! are passed over up to the next place where records make sense, and counted; where there is none, they end it with a
//! [`FileError`] that names the offset.

mod classic;
mod error;
mod input;
mod pcapng;
mod resync;
#[cfg(test)]
mod tests;

use std::io::{self, Read};
use std::path::Path;

use crate::frame::{FRAMES_AT_ONCE, Frame};
use arrayvec::ArrayVec;

pub use error::{FileError, TailCause, TruncatedTail};
pub use resync::Torn;

use classic::Classic;
use input::Input;
use pcapng::Pcapng;

/// A record that claims more captured bytes than this is damage: it is the largest snapshot length libpcap knows for
/// any link type (DLT_DBUS, DLT_USB_*).
const RECORD_BYTES_MAX: u32 = 128 * 1024 * 1024;

/// Interfaces of a file that are told apart: each has flows of its own.
pub const INTERFACES_APART_MAX: usize = 64;

/// An interface that packets of a file were captured on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileInterface {
    /// pcapng's if_name, as it is in the file.
    pub name: Option<Box<str>>,
    /// Its number in its section.
    pub index: u32,
    /// It stands for all that came after [`INTERFACES_APART_MAX`] of them, too.
    pub others: bool,
}

/// That of a format without interfaces.
static NO_INTERFACE: FileInterface = FileInterface { name: None, index: 0, others: false };

/// A capture file that is being read.
pub struct PcapFile {
    name: String,
    input: Input,
    format: Format,
    stats: FileStats,
    /// Bytes of the current record that are still to be passed over, and where that record began.
    passing: Passing,
    state: State,
}

enum Format {
    Classic(Classic),
    Pcapng(Pcapng),
}

#[derive(Default)]
struct Passing {
    left: u64,
    record_offset: u64,
    record_bytes: u64,
}

enum State {
    Reading,
    /// The frames before the fault were delivered; the fault itself is the next answer.
    Failing(FileError),
    Ended,
}

/// What was read so far, and everything that was not delivered or not taken as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileStats {
    /// Frames delivered.
    pub frames: u64,
    /// Captured bytes delivered.
    pub bytes: u64,
    /// The delivered frames' lengths on the wire, summed.
    pub original_bytes: u64,
    /// Frames not delivered because more than 256 KiB of them were captured.
    pub oversize: u64,
    /// Their lengths on the wire, summed.
    pub oversize_bytes: u64,
    /// pcapng blocks that carry no packet and are not needed to understand one.
    pub skipped_blocks: u64,
    /// pcapng packet blocks of sound length that cannot be understood: an interface that was never described, or more
    /// captured bytes than the block holds. Each is a packet not delivered.
    pub bad_blocks: u64,
    /// Delivered with stamp 0 or with the fraction of the second dropped, because the file's stamp is before 1970,
    /// after 2262, or has a fraction of a second and more.
    pub clamped_stamps: u64,
    /// Delivered with stamp 0 because the block has none (pcapng simple packet blocks).
    pub unstamped: u64,
    /// Delivered with the captured length as wire length, because the file has a smaller wire length.
    pub clamped_lengths: u64,
    /// pcapng interfaces beyond [`INTERFACES_APART_MAX`], which were taken for one.
    pub interfaces_together: u64,
    /// Places where bytes made no sense and were passed over, those bytes, and the first of those places.
    pub torn: u64,
    pub torn_bytes: u64,
    pub torn_places: Vec<Torn>,
    /// The file ends in the middle of something.
    pub truncated_tail: Option<TruncatedTail>,
}

/// How far the reading is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileProgress {
    /// Bytes taken from disk or pipe, before decompression.
    pub bytes_read: u64,
    /// The file's size when it was opened; `None` for a pipe.
    pub bytes_total: Option<u64>,
}

/// What a format's reader finds at the start of the window.
enum Step<'a> {
    /// A packet of an interface; the record is `record_bytes` long, which may be more than the window holds.
    Frame { frame: Frame<'a>, record_bytes: u64, interface: u8 },
    /// Nothing to deliver in the next `record_bytes`.
    Pass { record_bytes: u64 },
    /// This many bytes must be in the window to decide.
    Need(usize),
    /// Zeros where a record must begin: a file preallocated or lengthened by a crash, if nothing else follows.
    Zeros,
}

/// What is to be done after the frames that were gathered.
enum Next {
    /// Nothing more is in the record at the start of the window.
    Leave(u64),
    /// Until this many bytes are in the window.
    Read(usize),
    Zeros,
}

/// Bytes that cannot be right, relative to the start of the window.
struct Damage {
    at: u64,
    what: String,
}

impl Damage {
    fn new(at: u64, what: impl Into<String>) -> Damage {
        Damage { at, what: what.into() }
    }
}

impl PcapFile {
    /// Opens a capture file, or standard input for the path `-`, and reads its header (which waits, on a pipe, until
    /// the header has come).
    pub fn open(path: &Path) -> Result<PcapFile, FileError> {
        let name = if path == Path::new("-") { "standard input".into() } else { path.display().to_string() };
        let input = Input::open(path).map_err(|source| FileError::Open { name: name.clone(), source })?;
        PcapFile::begin(name, input)
    }

    /// Reads a capture from anything that gives bytes; `name` is what messages call it.
    pub fn from_reader(name: &str, reader: Box<dyn Read + Send>) -> Result<PcapFile, FileError> {
        let input =
            Input::from_reader(reader).map_err(|source| FileError::Open { name: name.to_owned(), source })?;
        PcapFile::begin(name.to_owned(), input)
    }

    fn begin(name: String, mut input: Input) -> Result<PcapFile, FileError> {
        let format = match Format::begin(&mut input) {
            Ok(format) => format,
            Err(error::BeginError::Io(source)) => return Err(read_error(&name, &input, source)),
            Err(error::BeginError::Not(found)) => return Err(FileError::NotACapture { name, found }),
        };
        Ok(PcapFile {
            name,
            input,
            format,
            stats: FileStats::default(),
            passing: Passing::default(),
            state: State::Reading,
        })
    }

    /// [`PcapFile::drain_by_interface`] for whoever does not mind the interfaces.
    pub fn drain<F: FnMut(&[Frame<'_>])>(
        &mut self,
        frames_max: usize,
        mut sink: F,
    ) -> Result<usize, FileError> {
        self.drain_by_interface(frames_max, |_, _, frames| sink(frames))
    }

    /// Hands up to `frames_max` frames to `sink`, in file order and some of one interface at a time, and returns how many; 0 is the
    /// end of the file (so `frames_max` 0 counts as 1). Interfaces have numbers from 0 to [`INTERFACES_APART_MAX`] - 1.
    ///
    /// Returns early rather than wait for a slow pipe when it has delivered something. An error comes once, after all
    /// frames before it; thereafter the file has ended.
    pub fn drain_by_interface<F: FnMut(usize, &FileInterface, &[Frame<'_>])>(
        &mut self,
        frames_max: usize,
        mut sink: F,
    ) -> Result<usize, FileError> {
        match std::mem::replace(&mut self.state, State::Reading) {
            State::Reading => {}
            State::Failing(error) => {
                self.state = State::Ended;
                return Err(error);
            }
            State::Ended => {
                self.state = State::Ended;
                return Ok(0);
            }
        }
        let mut delivered = 0;
        match self.deliver(frames_max, &mut delivered, &mut sink) {
            Ok(()) => Ok(delivered),
            Err(error) if delivered == 0 => {
                self.state = State::Ended;
                Err(error)
            }
            Err(error) => {
                self.state = State::Failing(error);
                Ok(delivered)
            }
        }
    }

    pub fn stats(&self) -> &FileStats {
        &self.stats
    }

    pub fn progress(&self) -> FileProgress {
        FileProgress { bytes_read: self.input.bytes_read(), bytes_total: self.input.bytes_total() }
    }

    /// The file's name as messages have it.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn deliver<F: FnMut(usize, &FileInterface, &[Frame<'_>])>(
        &mut self,
        frames_max: usize,
        delivered: &mut usize,
        sink: &mut F,
    ) -> Result<(), FileError> {
        while *delivered < frames_max.max(1) {
            if self.passing.left > 0 && !self.pass(*delivered > 0)? {
                return Ok(());
            }
            let window = self.input.window();
            let frames_left = frames_max.max(1) - *delivered;
            let mut batch = ArrayVec::<Frame<'_>, FRAMES_AT_ONCE>::new();
            let mut interfaces = ArrayVec::<u8, FRAMES_AT_ONCE>::new();
            // Of whole records whose frames are in the batch.
            let mut window_bytes = 0;
            let next = loop {
                let rest = &window[window_bytes..];
                let step = match &mut self.format {
                    Format::Classic(classic) => classic.step(rest, &mut self.stats),
                    Format::Pcapng(pcapng) => pcapng.step(rest, &mut self.stats),
                };
                let (frame, record_bytes, interface) = match step {
                    Ok(Step::Frame { frame, record_bytes, interface }) => (frame, record_bytes, interface),
                    Ok(Step::Pass { record_bytes }) => break Ok(Next::Leave(record_bytes)),
                    Ok(Step::Need(bytes)) => break Ok(Next::Read(bytes)),
                    Ok(Step::Zeros) => break Ok(Next::Zeros),
                    Err(damage) => break Err(damage),
                };
                self.stats.frames += 1;
                self.stats.bytes += frame.data.len() as u64;
                self.stats.original_bytes += u64::from(frame.original_len);
                batch.push(frame);
                interfaces.push(interface);
                let over = record_bytes > rest.len() as u64;
                if over || batch.is_full() || batch.len() == frames_left {
                    break Ok(Next::Leave(record_bytes));
                }
                window_bytes += record_bytes as usize;
            };
            if !batch.is_empty() {
                *delivered += batch.len();
                let mut frames = &batch[..];
                for run in interfaces.chunk_by(|a, b| a == b) {
                    let (of_one, rest) = frames.split_at(run.len());
                    let interface = match &self.format {
                        Format::Classic(_) => &NO_INTERFACE,
                        Format::Pcapng(pcapng) => pcapng.interface(run[0]).unwrap_or(&NO_INTERFACE),
                    };
                    sink(usize::from(run[0]), interface, of_one);
                    frames = rest;
                }
            }
            drop(batch);
            self.input.consume(window_bytes);
            match next {
                Ok(Next::Leave(record_bytes)) => self.advance(record_bytes),
                Ok(Next::Read(bytes)) => {
                    debug_assert!(bytes <= input::BUFFER_BYTES && bytes > self.input.window().len());
                    if *delivered > 0 && !self.input.has_ended() {
                        return Ok(());
                    }
                    if !self.more()? {
                        self.end(bytes);
                        return Ok(());
                    }
                }
                Ok(Next::Zeros) => {
                    let offset = self.input.offset();
                    if self.input.rest_is_zero().map_err(|e| read_error(&self.name, &self.input, e))? {
                        self.end_with(offset, TailCause::Zeros);
                        return Ok(());
                    }
                    self.pass_damage(offset, "zeros where a packet must begin".into())?;
                }
                Err(Damage { at, what }) => self.pass_damage(self.input.offset() + at, what)?,
            }
        }
        Ok(())
    }

    /// Leaves the record at the start of the window, of which part may not have been read yet.
    fn advance(&mut self, record_bytes: u64) {
        let held = self.input.window().len() as u64;
        if record_bytes <= held {
            self.input.consume(record_bytes as usize);
            return;
        }
        self.passing =
            Passing { left: record_bytes - held, record_offset: self.input.offset(), record_bytes };
        self.input.consume(held as usize);
    }

    /// Reads on to the end of the record being passed over; false when to come back later, or at the end of the file.
    fn pass(&mut self, something_delivered: bool) -> Result<bool, FileError> {
        while self.passing.left > 0 {
            if something_delivered && !self.input.has_ended() {
                return Ok(false);
            }
            if !self.more()? {
                let Passing { left, record_offset, record_bytes } = self.passing;
                let cause = TailCause::InsideRecord { have: record_bytes - left, need: record_bytes };
                self.end_with(record_offset, cause);
                return Ok(false);
            }
            let held = self.input.window().len() as u64;
            let step = held.min(self.passing.left);
            self.input.consume(step as usize);
            self.passing.left -= step;
        }
        Ok(true)
    }

    fn more(&mut self) -> Result<bool, FileError> {
        self.input.more().map_err(|source| read_error(&self.name, &self.input, source))
    }

    /// The stream has ended and `need` bytes were wanted at the start of the window.
    fn end(&mut self, need: usize) {
        let have = self.input.window().len() as u64;
        let offset = self.input.offset();
        if have > 0 {
            self.end_with(offset, TailCause::InsideRecord { have, need: need as u64 });
        } else if self.input.is_cut() {
            self.end_with(offset, TailCause::CompressedStream);
        } else {
            self.state = State::Ended;
        }
    }

    fn end_with(&mut self, offset: u64, why: TailCause) {
        self.stats.truncated_tail = Some(TruncatedTail { offset, why });
        self.state = State::Ended;
    }

    /// Goes on behind damage, if anything behind it makes sense.
    fn pass_damage(&mut self, offset: u64, what: String) -> Result<(), FileError> {
        if self.resync().map_err(|source| read_error(&self.name, &self.input, source))? {
            return Ok(());
        }
        Err(self.damaged(offset, what))
    }

    fn damaged(&self, offset: u64, what: String) -> FileError {
        FileError::Damaged {
            name: self.name.clone(),
            offset,
            unpacked: self.input.compression().is_some(),
            what,
            frames: self.stats.frames,
        }
    }
}

impl Format {
    /// What bytes would be as a record.
    fn sense(&self, bytes: &[u8]) -> resync::Sense {
        match self {
            Format::Classic(classic) => classic.sense(bytes),
            Format::Pcapng(pcapng) => pcapng.sense(bytes),
        }
    }

    /// Where in a record the reading was no longer matters.
    fn forget_record(&mut self) {
        if let Format::Pcapng(pcapng) = self {
            pcapng.forget_record();
        }
    }

    fn begin(input: &mut Input) -> Result<Format, error::BeginError> {
        let magic = input.begin_with(4)?;
        let bytes = [magic[0], magic[1], magic[2], magic[3]];
        if bytes == pcapng::SECTION_HEADER.to_be_bytes() {
            // The whole header of the first section, so that a wrong file is refused before anything is built on it.
            let head = input.begin_with(pcapng::SECTION_HEAD_BYTES)?;
            return Ok(Format::Pcapng(Pcapng::begin(head).map_err(error::BeginError::Not)?));
        }
        if !classic::is_magic(bytes) {
            while input.window().len() < error::LOOKALIKE_BYTES && input.more()? {}
            return Err(error::BeginError::Not(error::what_begins_with(input.window())));
        }
        let head = input.begin_with(classic::FILE_HEADER_BYTES)?;
        let classic = Classic::begin(head).map_err(error::BeginError::Not)?;
        input.consume(classic::FILE_HEADER_BYTES);
        Ok(Format::Classic(classic))
    }
}

fn read_error(name: &str, input: &Input, source: io::Error) -> FileError {
    match input.compression() {
        // The decoder's own complaints are InvalidData, InvalidInput or Other; what the disk says is anything else.
        Some(format) if is_decoder_error(&source) => FileError::Decompress {
            name: name.to_owned(),
            format,
            bytes_read: input.bytes_read(),
            unpacked: input.offset() + input.window().len() as u64,
            source,
        },
        _ => FileError::Read { name: name.to_owned(), offset: input.bytes_read(), source },
    }
}

fn is_decoder_error(error: &io::Error) -> bool {
    error.raw_os_error().is_none()
}
