//! The bytes of a capture file, unpacked, through one buffer of fixed size.

use std::fs::File;
use std::io::{self, BufReader, Cursor, ErrorKind, Read};
use std::os::fd::AsFd;
use std::path::Path;

use bzip2::read::MultiBzDecoder;
use flate2::read::MultiGzDecoder;
use liblzma::read::XzDecoder;

use super::error::{BeginError, what_begins_with};

/// Holds the longest record that is read whole, with room to read on in large pieces.
pub(super) const BUFFER_BYTES: usize = 512 * 1024;
/// Read at once: little enough that what was read is still in the core's own cache when its packets are looked at.
const READ_BYTES_MAX: usize = 128 * 1024;

/// Bytes read before it is known whether they are compressed.
const MAGIC_BYTES: usize = 6;
/// What unpacking an xz file may take: `xz -9` needs 65 MiB, and a hostile file could ask for 4 GiB.
const XZ_MEMORY_MAX: u64 = 256 << 20;

pub(super) struct Input {
    stream: Stream,
    bytes_total: Option<u64>,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Where in the unpacked stream `buffer[start]` is.
    offset: u64,
    ended: bool,
    cut: bool,
}

type Source = Counted<io::Chain<Cursor<Vec<u8>>, Box<dyn Read + Send>>>;

enum Stream {
    Plain(Source),
    Gzip(Box<MultiGzDecoder<Source>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, BufReader<Source>>>),
    Xz(Box<XzDecoder<Source>>),
    Bzip2(Box<MultiBzDecoder<Source>>),
}

/// Counts what is taken from below the decoder.
struct Counted<R> {
    inner: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.bytes += n as u64;
        Ok(n)
    }
}

impl Input {
    pub(super) fn open(path: &Path) -> io::Result<Input> {
        let file = if path == Path::new("-") {
            // A descriptor of our own: std's handle would copy everything through its own small buffer.
            File::from(io::stdin().as_fd().try_clone_to_owned()?)
        } else {
            File::open(path)?
        };
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(io::Error::new(
                ErrorKind::IsADirectory,
                "it is a directory, expected a capture file",
            ));
        }
        // Only advice: a pipe refuses it.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
        let mut input = Input::from_reader(Box::new(file))?;
        input.bytes_total = metadata.is_file().then_some(metadata.len());
        Ok(input)
    }

    pub(super) fn from_reader(mut reader: Box<dyn Read + Send>) -> io::Result<Input> {
        let mut magic = Vec::with_capacity(MAGIC_BYTES);
        reader.by_ref().take(MAGIC_BYTES as u64).read_to_end(&mut magic)?;
        let packed = Packed::from_magic(&magic);
        let source = Counted { inner: Cursor::new(magic).chain(reader), bytes: 0 };
        let stream = match packed {
            None => Stream::Plain(source),
            Some(Packed::Gzip) => Stream::Gzip(Box::new(MultiGzDecoder::new(source))),
            Some(Packed::Zstd) => Stream::Zstd(Box::new(zstd::stream::read::Decoder::new(source)?)),
            Some(Packed::Xz) => {
                let stream = liblzma::stream::Stream::new_stream_decoder(
                    XZ_MEMORY_MAX,
                    liblzma::stream::CONCATENATED,
                )?;
                Stream::Xz(Box::new(XzDecoder::new_stream(source, stream)))
            }
            Some(Packed::Bzip2) => Stream::Bzip2(Box::new(MultiBzDecoder::new(source))),
        };
        Ok(Input {
            stream,
            bytes_total: None,
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
            offset: 0,
            ended: false,
            cut: false,
        })
    }

    /// What has been read and not consumed.
    #[inline]
    pub(super) fn window(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    #[inline]
    pub(super) fn consume(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.end - self.start);
        self.start += bytes;
        self.offset += bytes as u64;
    }

    /// Where the window starts in the unpacked stream.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Reads once more behind the window; false at the end of the stream. The window must not fill the buffer.
    pub(super) fn more(&mut self) -> io::Result<bool> {
        if self.ended {
            return Ok(false);
        }
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        debug_assert!(self.end < self.buffer.len());
        let upto = self.buffer.len().min(self.end + READ_BYTES_MAX);
        let free = &mut self.buffer[self.end..upto];
        let read = loop {
            let result = match &mut self.stream {
                Stream::Plain(source) => source.read(free),
                Stream::Gzip(decoder) => decoder.read(free),
                Stream::Zstd(decoder) => decoder.read(free),
                Stream::Xz(decoder) => decoder.read(free),
                Stream::Bzip2(decoder) => decoder.read(free),
            };
            match result {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof && self.compression().is_some() => {
                    self.cut = true;
                    break 0;
                }
                other => break other?,
            }
        };
        self.end += read;
        self.ended = read == 0;
        Ok(!self.ended)
    }

    /// The first `bytes` of the stream, or what the file is that has fewer.
    pub(super) fn begin_with(&mut self, bytes: usize) -> Result<&[u8], BeginError> {
        while self.window().len() < bytes {
            if !self.more()? {
                return Err(BeginError::Not(match self.window() {
                    [] if self.cut => "the compressed data ends before the first byte".into(),
                    [] => "the file is empty".into(),
                    head if head.len() < MAGIC_BYTES => what_begins_with(head),
                    head => format!("the file ends after {} bytes, inside its header of {bytes}", head.len()),
                }));
            }
        }
        Ok(&self.window()[..bytes])
    }

    /// Reads to the end; whether only zeros came.
    pub(super) fn rest_is_zero(&mut self) -> io::Result<bool> {
        loop {
            if self.window().iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            self.consume(self.window().len());
            if !self.more()? {
                return Ok(true);
            }
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// The compressed stream ended without its end mark.
    pub(super) fn is_cut(&self) -> bool {
        self.cut
    }

    pub(super) fn compression(&self) -> Option<&'static str> {
        match &self.stream {
            Stream::Plain(_) => None,
            Stream::Gzip(_) => Some("gzip"),
            Stream::Zstd(_) => Some("zstd"),
            Stream::Xz(_) => Some("xz"),
            Stream::Bzip2(_) => Some("bzip2"),
        }
    }

    /// Bytes taken from the file or pipe.
    pub(super) fn bytes_read(&self) -> u64 {
        match &self.stream {
            Stream::Plain(source) => source.bytes,
            Stream::Gzip(decoder) => decoder.get_ref().bytes,
            Stream::Zstd(decoder) => decoder.get_ref().get_ref().bytes,
            Stream::Xz(decoder) => decoder.get_ref().bytes,
            Stream::Bzip2(decoder) => decoder.get_ref().bytes,
        }
    }

    pub(super) fn bytes_total(&self) -> Option<u64> {
        self.bytes_total
    }
}

enum Packed {
    Gzip,
    Zstd,
    Xz,
    Bzip2,
}

impl Packed {
    /// RFC 1952 §2.3.1, RFC 8878 §3.1.1 and §3.1.2 (a skippable frame, which parallel packers write first), the .xz file
    /// format §2.1.1.1, bzip2's "BZh" and a level.
    fn from_magic(magic: &[u8]) -> Option<Packed> {
        match *magic {
            [0x1f, 0x8b, ..] => Some(Packed::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Packed::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0] => Some(Packed::Xz),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some(Packed::Bzip2),
            _ => None,
        }
    }
}
