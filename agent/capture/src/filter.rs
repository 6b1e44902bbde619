//! Capture filters in the language of pcap-filter(7): compiled by libpcap to classic BPF, run by the kernel where it can
//! (AF_PACKET), and by [`Program::run`] elsewhere (AF_XDP, capture files). docs/adr/0013 says why.

mod libpcap;
mod program;
pub(crate) mod shortened;

use arrayvec::ArrayVec;

use crate::frame::{FRAMES_AT_ONCE, Frame, LinkType};

pub use program::{Instruction, Malformed, Program};
pub use shortened::Shortened;

/// Bytes of a filter's text.
pub const FILTER_BYTES_MAX: usize = 4096;
/// Link types of one capture file that a filter is compiled for.
const LINKS_MAX: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    #[error(
        "the capture filter {filter:?} cannot be compiled: {reason}; pcap-filter(7) describes the language"
    )]
    Refused { filter: String, reason: String },
    #[error(
        "a capture filter needs libpcap, which cannot be loaded here ({reason}); install it (Debian, Ubuntu: \
         libpcap0.8; Fedora: libpcap)"
    )]
    NoCompiler { reason: String },
    /// Nothing is wrong with the filter: later it may work.
    #[error("the capture filter cannot be compiled for `{interface}` now: {reason}")]
    NotNow { interface: String, reason: String },
    #[error("the capture filter has {0} bytes, at most {FILTER_BYTES_MAX}")]
    TooLong(usize),
    #[error("the capture filter is empty; leave it out to capture everything")]
    Empty,
}

/// What frames look like to the program.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Frames<'a> {
    /// As the kernel shows a socket those of this Ethernet interface: VLAN tags stand beside the bytes.
    OfSocket(&'a str),
    /// Whole, tags included.
    OfLink(LinkType),
}

/// Compile a filter.
pub(crate) fn compile(filter: &str, frames: Frames<'_>) -> Result<Program, FilterError> {
    if filter.len() > FILTER_BYTES_MAX {
        return Err(FilterError::TooLong(filter.len()));
    }
    if filter.trim().is_empty() {
        // To libpcap an empty text is every frame, which nobody means by it.
        return Err(FilterError::Empty);
    }
    let instructions = libpcap::compile(filter, frames)?;
    Program::new(instructions)
        .map_err(|error| FilterError::Refused { filter: filter.to_owned(), reason: error.to_string() })
}

/// Whether a filter is understood, for Ethernet.
///
/// # Errors
/// What is wrong with it, or that it cannot be compiled here.
pub fn check(filter: &str) -> Result<(), FilterError> {
    compile(filter, Frames::OfLink(LinkType::Ethernet)).map(drop)
}

/// A filter that is run here, frame by frame, and counts what it leaves out.
#[derive(Debug)]
pub struct Sieve {
    filter: String,
    programs: ArrayVec<(LinkType, Program), LINKS_MAX>,
    filtered: u64,
    filtered_bytes: u64,
    failed: Option<FilterError>,
}

impl Sieve {
    /// # Errors
    /// As [`check`].
    pub fn new(filter: &str) -> Result<Sieve, FilterError> {
        let program = compile(filter, Frames::OfLink(LinkType::Ethernet))?;
        let mut programs = ArrayVec::new();
        programs.push((LinkType::Ethernet, program));
        Ok(Sieve { filter: filter.to_owned(), programs, filtered: 0, filtered_bytes: 0, failed: None })
    }

    /// Gives `sink` the frames that pass, together.
    pub fn sift(&mut self, frames: &[Frame<'_>], mut sink: impl FnMut(&[Frame<'_>])) {
        for frames in frames.chunks(FRAMES_AT_ONCE) {
            let mut passed = ArrayVec::<Frame<'_>, FRAMES_AT_ONCE>::new();
            for frame in frames {
                if self.passes(frame) {
                    passed.push(*frame);
                } else {
                    self.filtered += 1;
                    self.filtered_bytes += u64::from(frame.original_len);
                }
            }
            if !passed.is_empty() {
                sink(&passed);
            }
        }
    }

    fn passes(&mut self, frame: &Frame<'_>) -> bool {
        let known = self.programs.iter().position(|(link, _)| *link == frame.link);
        match known.or_else(|| self.learn(frame.link)) {
            Some(at) => self.programs[at].1.run(frame.data, frame.original_len) != 0,
            None => false,
        }
    }

    /// Compile for another link type.
    #[cold]
    fn learn(&mut self, link: LinkType) -> Option<usize> {
        if self.failed.is_some() {
            return None;
        }
        let compiled = match self.programs.is_full() {
            false => compile(&self.filter, Frames::OfLink(link)),
            true => Err(FilterError::Refused {
                filter: self.filter.clone(),
                reason: format!("more than {LINKS_MAX} link types in one file"),
            }),
        };
        match compiled {
            Ok(program) => {
                self.programs.push((link, program));
                Some(self.programs.len() - 1)
            }
            Err(error) => {
                self.failed = Some(error);
                None
            }
        }
    }

    /// Frames left out, and their bytes on the wire.
    pub fn filtered(&self) -> (u64, u64) {
        (self.filtered, self.filtered_bytes)
    }

    /// Why frames of some link type were all left out.
    pub fn failed(&self) -> Option<&FilterError> {
        self.failed.as_ref()
    }
}

#[cfg(test)]
mod tests;
