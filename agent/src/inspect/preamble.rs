//! What may stand before a stream's protocol and is none itself: empty lines (RFC 9112 section 2.2), the header of the PROXY
//! protocol (haproxy.org, versions 1 and 2), and lines before SSH's version (RFC 4253 section 4.2).

/// Empty lines are told from binary protocols by what follows them.
const EMPTY_LINES_BYTES_MAX: usize = 64;
const PROXY_V1: &[u8] = b"PROXY ";
/// "The maximum line lengths" of version 1.
const PROXY_V1_BYTES_MAX: usize = 107;
const PROXY_V2: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const BANNER_BYTES_MAX: usize = 4096;

/// How many bytes go before the protocol; an error says how many bytes it takes to know. Asked of whatever begins a
/// direction: most first bytes decide.
pub(super) fn bytes(bytes: &[u8]) -> Result<usize, usize> {
    match bytes.first() {
        Some(b'\r' | b'\n' | b'P') => before_lines(bytes),
        Some(first) if is_text(first) => Ok(banner(bytes).unwrap_or(0)),
        _ => Ok(0),
    }
}

fn before_lines(bytes: &[u8]) -> Result<usize, usize> {
    if bytes.len() < PROXY_V2.len() && bytes.len() > 4 && PROXY_V2.starts_with(bytes) {
        return Err(PROXY_V2.len());
    }
    if let Some(rest) = bytes.strip_prefix(PROXY_V2) {
        return match rest {
            [_, _, high, low, ..] => {
                let total = PROXY_V2.len() + 4 + usize::from(u16::from_be_bytes([*high, *low]));
                if total <= bytes.len() { Ok(total) } else { Err(total) }
            }
            _ => Err(PROXY_V2.len() + 4),
        };
    }
    if bytes.starts_with(PROXY_V1) {
        return match bytes.iter().take(PROXY_V1_BYTES_MAX).position(|byte| *byte == b'\n') {
            Some(end) => Ok(end + 1),
            None if bytes.len() < PROXY_V1_BYTES_MAX => Err(bytes.len() + 1),
            None => Ok(0),
        };
    }
    let blank = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let is_text_behind = bytes.get(blank).is_none_or(u8::is_ascii_graphic);
    if (1..=EMPTY_LINES_BYTES_MAX).contains(&blank) && is_text_behind {
        return Ok(blank);
    }
    Ok(banner(bytes).unwrap_or(0))
}

/// Lines of text before a line that begins with SSH's version.
fn banner(bytes: &[u8]) -> Option<usize> {
    let looked_at = &bytes[..bytes.len().min(BANNER_BYTES_MAX)];
    let at = memchr::memchr_iter(b'\n', looked_at).find(|end| looked_at[end + 1..].starts_with(b"SSH-"))? + 1;
    looked_at[..at].iter().all(is_text).then_some(at)
}

fn is_text(byte: &u8) -> bool {
    byte.is_ascii_graphic() || byte.is_ascii_whitespace() || *byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_before_a_protocol_is_passed_over() {
        let mut v2 = PROXY_V2.to_vec();
        v2.extend([0x21, 0x11, 0, 12]);
        v2.extend([9; 12]);
        for (head, tail) in [
            (&b"\r\n"[..], &b"GET / HTTP/1.1\r\n"[..]),
            (b"\n\n\r\n", b"OPTIONS sip:a SIP/2.0"),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n", b"GET /"),
            (&v2, b"\x16\x03\x01"),
            (b"Welcome.\r\nBe good.\r\n", b"SSH-2.0-OpenSSH_9.2\r\n"),
        ] {
            let all = [head, tail].concat();
            assert_eq!(bytes(&all), Ok(head.len()), "{all:x?}");
        }
        assert_eq!(bytes(&PROXY_V2[..7]), Err(12));
        assert_eq!(bytes(&v2[..14]), Err(16));
        assert_eq!(bytes(b"PROXY TCP4 1"), Err(13));
        for nothing in [&b""[..], b"GET / HTTP/1.1\r\n", b"\x0a\x00\x01", b"PROXYING", b"SSH-2.0-x\r\n"] {
            assert_eq!(bytes(nothing), Ok(0), "{nothing:x?}");
        }
    }
}
