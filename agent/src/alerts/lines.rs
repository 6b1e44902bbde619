//! Lines out of pieces of a file.

/// Bytes of a line; of a longer one nothing is taken. An alert with its packet and payload in it has some 100 KiB.
pub const LINE_BYTES_MAX: usize = 1 << 20;

/// What was read of a line that has not ended yet.
#[derive(Debug, Default)]
pub struct Lines {
    part: Vec<u8>,
    /// The line so far is not taken: it is too long, or its beginning was not read.
    skipping: bool,
    /// Lines that were too long.
    pub too_long: u64,
}

impl Lines {
    /// As if in the middle of a line.
    pub fn skip(&mut self) {
        self.skipping = true;
    }

    /// Gives each line that ends in `bytes`, without its end. Returns how many of `bytes` are behind the last of them.
    pub fn feed(&mut self, bytes: &[u8], each: &mut dyn FnMut(&[u8])) -> usize {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, behind) = (&rest[..end], &rest[end + 1..]);
            rest = behind;
            if std::mem::take(&mut self.skipping) {
                self.part.clear();
                continue;
            }
            if self.part.len() + line.len() > LINE_BYTES_MAX {
                self.too_long += 1;
            } else if self.part.is_empty() {
                each(trimmed(line));
            } else {
                self.part.extend_from_slice(line);
                each(trimmed(&self.part));
            }
            self.part.clear();
        }
        if !self.skipping {
            if self.part.len() + rest.len() > LINE_BYTES_MAX {
                self.too_long += 1;
                self.skipping = true;
                self.part = Vec::new();
            } else {
                self.part.extend_from_slice(rest);
            }
        }
        rest.len()
    }

    /// Forgets a line that never ended; whether there was one.
    pub fn drop_half(&mut self) -> bool {
        let half = !self.part.is_empty();
        self.part.clear();
        self.skipping = false;
        half
    }
}

/// Without what Windows puts before the end.
fn trimmed(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn lines_are_the_same_in_any_pieces(text in "[ab\n]{0,200}", cuts in prop::collection::vec(0usize..200, 0..10)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|at| at.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let (mut lines, mut found, mut behind) = (Lines::default(), Vec::new(), 0);
            for pair in cuts.windows(2) {
                let piece = &text.as_bytes()[pair[0]..pair[1]];
                let mut ended = false;
                let left = lines.feed(piece, &mut |line| { found.push(line.to_vec()); ended = true; });
                behind = if ended || left < piece.len() { left } else { behind + left };
            }
            let half = text.rsplit('\n').next().unwrap_or("");
            let whole = &text[..text.len() - half.len()];
            let expected: Vec<Vec<u8>> = whole.lines().map(|line| line.as_bytes().to_vec()).collect();
            prop_assert_eq!(found, expected);
            prop_assert_eq!(behind, half.len());
            prop_assert_eq!(lines.drop_half(), !half.is_empty());
        }
    }

    #[test]
    fn a_line_that_is_too_long_takes_no_other_along() {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        let long = vec![b'x'; LINE_BYTES_MAX / 2 + 1];
        for piece in [&b"one\r\n"[..], &long, &long, &long, b"end\ntwo\n"] {
            lines.feed(piece, &mut |line| found.push(line.to_vec()));
            assert!(lines.part.capacity() <= 2 * LINE_BYTES_MAX);
        }
        assert_eq!((found, lines.too_long), (vec![b"one".to_vec(), b"two".to_vec()], 1));
        // In one piece too, and of exactly the limit.
        let mut text = vec![b'y'; LINE_BYTES_MAX];
        text.extend(b"\n");
        let mut count = 0;
        lines.feed(&text, &mut |_| count += 1);
        text.insert(0, b'y');
        lines.feed(&text, &mut |_| count += 1);
        assert_eq!((count, lines.too_long), (1, 2));
        lines.skip();
        lines.feed(b"the rest of something\nthree\n", &mut |line| assert_eq!(line, b"three"));
    }
}
