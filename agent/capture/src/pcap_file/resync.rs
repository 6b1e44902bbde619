//! Behind damage: where the next record begins. Neither format has a mark to find it by, so a place counts as one where
//! several records in a row make sense, or all up to the end of the file.

use super::{PcapFile, State};

/// Bytes passed over in one go before a file is given up.
const TORN_BYTES_MAX: u64 = 64 << 20;
/// Places that are told one by one; all are counted.
const TORN_TOLD_MAX: usize = 16;
/// Records in a row that have to make sense.
const RECORDS: usize = 3;

/// What was passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Torn {
    /// In the (unpacked) file.
    pub offset: u64,
    pub bytes: u64,
}

/// What a format says of bytes that may be a record's.
pub(super) enum Sense {
    /// So many bytes, if they make sense up to there.
    Record(usize),
    None,
    /// More bytes are needed to tell.
    Need,
}

enum Verdict {
    Begins,
    DoesNot,
    Need,
}

/// Whether records begin at the start of `bytes`, which are the last of the file when it has `ended`.
fn verdict(bytes: &[u8], ended: bool, sense: impl Fn(&[u8]) -> Sense) -> Verdict {
    let mut at = 0;
    for known in 0..RECORDS {
        if known > 0 && ended && at == bytes.len() {
            return Verdict::Begins;
        }
        match bytes.get(at..).map_or(Sense::Need, &sense) {
            Sense::Record(length) => at += length,
            Sense::None => return Verdict::DoesNot,
            Sense::Need if !ended => return Verdict::Need,
            // The file was cut, too.
            Sense::Need if known + 1 == RECORDS => return Verdict::Begins,
            Sense::Need => return Verdict::DoesNot,
        }
    }
    Verdict::Begins
}

impl PcapFile {
    /// Passes over what makes no sense at the start of the window. False, with the window anywhere, when nothing behind it
    /// does.
    pub(super) fn resync(&mut self) -> std::io::Result<bool> {
        let offset = self.input.offset();
        self.format.forget_record();
        // What stands here was looked at.
        let mut at = 1;
        loop {
            let (window, ended) = (self.input.window(), self.input.has_ended());
            let is_full = window.len() == super::input::BUFFER_BYTES;
            let mut begins = false;
            while at < window.len() {
                match verdict(&window[at..], ended, |bytes| self.format.sense(bytes)) {
                    Verdict::Begins => {
                        begins = true;
                        break;
                    }
                    Verdict::Need if !is_full || at > 0 => break,
                    Verdict::DoesNot | Verdict::Need => at += 1,
                }
            }
            let passed = at.min(window.len());
            self.input.consume(passed);
            at -= passed;
            let bytes = self.input.offset() - offset;
            if begins {
                self.stats.torn += 1;
                self.stats.torn_bytes += bytes;
                if self.stats.torn_places.len() < TORN_TOLD_MAX {
                    self.stats.torn_places.push(Torn { offset, bytes });
                }
                self.state = State::Reading;
                return Ok(true);
            }
            if bytes > TORN_BYTES_MAX || !self.input.more()? {
                if bytes > TORN_BYTES_MAX || self.input.window().is_empty() {
                    return Ok(false);
                }
                // What is left has ended now: looked at once more, with nothing to wait for.
                if passed == 0 && ended {
                    at += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records of one byte, which is their length.
    fn of(bytes: &[u8], ended: bool) -> bool {
        let sense = |bytes: &[u8]| match bytes.first() {
            None => Sense::Need,
            Some(0) => Sense::None,
            Some(length) => Sense::Record(usize::from(*length)),
        };
        matches!(verdict(bytes, ended, sense), Verdict::Begins)
    }

    #[test]
    fn records_begin_where_three_make_sense_or_all_to_the_end() {
        assert!(of(&[1, 1, 1, 0], false));
        assert!(!of(&[1, 1, 0, 1], false));
        assert!(!of(&[1, 1], false), "what comes may be none");
        assert!(of(&[1, 1], true));
        assert!(of(&[2, 9], true), "one, and the end of the file");
        assert!(!of(&[3, 9], true), "one that is not whole");
        assert!(of(&[1, 2, 9], true) && !of(&[], true));
    }
}
