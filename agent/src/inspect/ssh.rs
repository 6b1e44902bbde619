//! SSH: the identification string each side begins with (RFC 4253 §4.2).

use gnomon_flow::{Attributes, field};

use super::{Begins, Need, Step, claimed_text};

/// RFC 4253 §4.2: 255 bytes with the line end.
const LINE_BYTES_MAX: usize = 255;

pub(super) fn begins(bytes: &[u8]) -> Begins {
    Begins::with(bytes, b"SSH-")
}

pub(super) fn stream(bytes: &[u8], out: &mut Attributes) -> Step {
    let line = match bytes.iter().take(LINE_BYTES_MAX).position(|byte| *byte == b'\n') {
        Some(end) => &bytes[..end],
        None if bytes.len() < LINE_BYTES_MAX => return Step::Need(Need::Bytes(bytes.len() + 1)),
        None => &bytes[..LINE_BYTES_MAX],
    };
    out.text(field::SSH_VERSION, &claimed_text(line.trim_ascii_end()));
    Step::Finished
}
