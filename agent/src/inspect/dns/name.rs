//! Domain names in messages (RFC 1035 §3.1 and §4.1.4), hostile ones included.

/// RFC 1035 §2.3.4. With it a name has at most 127 labels, which bounds the work as well.
const NAME_BYTES_MAX: usize = 255;
/// Pointers may go to pointers; of a name that needs more, nobody meant well.
const POINTERS_MAX: usize = 127;

/// The two ways a length byte can be read; 0x40 and 0x80 are no longer anything (RFC 6891 §5).
enum Label<'a> {
    Text(&'a [u8]),
    /// The rest of the name stands at this offset.
    Pointer(usize),
}

fn label(message: &[u8], at: usize) -> Option<Label<'_>> {
    let first = usize::from(*message.get(at)?);
    match first {
        0..=0x3f => Some(Label::Text(message.get(at + 1..at + 1 + first)?)),
        0xc0..=0xff => Some(Label::Pointer((first & 0x3f) << 8 | usize::from(*message.get(at + 1)?))),
        _ => None,
    }
}

/// Where the name at `at` ends in the message, not following a pointer.
pub(super) fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    let begin = at;
    loop {
        match label(message, at)? {
            Label::Text(text) => {
                at += 1 + text.len();
                if text.is_empty() {
                    return Some(at);
                }
            }
            // Only backwards, or it could never have been written.
            Label::Pointer(to) => return (to < begin).then_some(at + 2),
        }
        if at - begin > NAME_BYTES_MAX {
            return None;
        }
    }
}

/// The name at `at`, in lower case and without the last dot; the root is `.`. Bytes that are no printable ASCII, and
/// dots inside a label, are written `\DDD` (RFC 1035 §5.1). None when it is too long or its pointers do not go back.
pub(super) fn name(message: &[u8], mut at: usize) -> Option<String> {
    // Longer ones are rare.
    let mut text = String::with_capacity(64);
    let mut name_bytes = 1;
    // Each pointer must go before everything that was read so far: so there is no loop.
    let mut earliest = at;
    let mut pointers = 0;
    loop {
        match label(message, at)? {
            Label::Text([]) => break,
            Label::Text(bytes) => {
                name_bytes += 1 + bytes.len();
                if name_bytes > NAME_BYTES_MAX {
                    return None;
                }
                if !text.is_empty() {
                    text.push('.');
                }
                for byte in bytes {
                    match byte {
                        b'.' | b'\\' => {
                            text.push('\\');
                            text.push(char::from(*byte));
                        }
                        0x21..=0x7e => text.push(char::from(byte.to_ascii_lowercase())),
                        other => text.push_str(&format!("\\{other:03}")),
                    }
                }
                at += 1 + bytes.len();
            }
            Label::Pointer(to) => {
                pointers += 1;
                if to >= earliest || pointers > POINTERS_MAX {
                    return None;
                }
                earliest = to;
                at = to;
            }
        }
    }
    if text.is_empty() {
        text.push('.');
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_through_pointers_and_odd_bytes_are_escaped() {
        let message = b"\x03Www\x07Example\x03com\x00\x04mail\xc0\x04\xc0\x11\x03a.\xff\x00\x00";
        assert_eq!(name(message, 0).unwrap(), "www.example.com");
        assert_eq!(name(message, 17).unwrap(), "mail.example.com");
        assert_eq!(skip_name(message, 17), Some(24));
        assert_eq!(name(message, 24).unwrap(), "mail.example.com");
        assert_eq!(name(message, 26).unwrap(), "a\\.\\255");
        assert_eq!(name(message, 31).unwrap(), ".");
    }

    #[test]
    fn loops_forward_pointers_and_endless_names_are_refused() {
        assert_eq!(name(b"\xc0\x00", 0), None);
        assert_eq!(skip_name(b"\xc0\x00", 0), None);
        assert_eq!(name(b"\x01a\xc0\x00", 2), None);
        assert_eq!(name(b"\x00\xc0\x03\xc0\x01", 3), None);
        assert_eq!(name(b"\xc0\x02\x01a\x00", 0), None);
        assert_eq!(name(b"\x41a", 0), None);
        assert_eq!(name(b"\x3fabc", 0), None);
        let mut long: Vec<u8> = b"\x3f".iter().copied().chain([b'x'; 63]).collect::<Vec<_>>().repeat(4);
        long.push(0);
        assert_eq!(name(&long, 0), None);
        assert_eq!(skip_name(&long, 0), None);
        // Pointers that go back one by one, as far as a message is long.
        let mut chain = vec![0, 0];
        chain.extend((0..1000u16).flat_map(|nth| (0xc000 | (nth * 2)).to_be_bytes()));
        assert_eq!(name(&chain, 100), Some(".".into()));
        assert_eq!(name(&chain, 2000), None);
    }
}
