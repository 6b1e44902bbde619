//! Fingerprints of hellos.
//!
//! JA3 and JA3S (Salesforce, BSD-3): MD5 of the hello's numbers, decimal, lists joined by `-` and fields by `,`.
//! JA4 (FoxIO, BSD-3; technical_details/JA4.md): a readable part and two SHA-256 prefixes. The other members of JA4+ are
//! under another licence and are not made here.

use std::fmt::Write;

use md5::{Digest, Md5};
use ring::digest::{SHA256, digest};

use crate::inspect::{hex, push_hex};

use super::hello::{ALPN, ClientHello, SERVER_NAME, SIGNATURE_ALGORITHMS, SUPPORTED_GROUPS, ServerHello};

/// What carries the hello, the first letter of a JA4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::inspect) enum Transport {
    Tcp,
    Quic,
}

/// Of an empty list there is no hash.
const NO_HASH: &str = "000000000000";
const COUNT_MAX: usize = 99;

/// 32 hexadecimal digits.
pub(super) fn ja3(hello: &ClientHello<'_>) -> String {
    let mut text = hello.version.to_string();
    join_decimal(&mut text, hello.ciphers());
    join_decimal(&mut text, hello.extension_types());
    join_decimal(&mut text, hello.list_u16(SUPPORTED_GROUPS));
    join_decimal(&mut text, hello.point_formats().iter().copied().map(u16::from));
    hex(&Md5::digest(text))
}

/// 32 hexadecimal digits.
pub(super) fn ja3s(hello: &ServerHello<'_>) -> String {
    let mut text = format!("{},{}", hello.legacy_version, hello.cipher);
    join_decimal(&mut text, hello.extension_types());
    hex(&Md5::digest(text))
}

/// `t13d1516h2_8daaf6152771_e5627efa2ab1`.
pub(super) fn ja4(hello: &ClientHello<'_>, transport: Transport) -> String {
    let mut ciphers: Vec<u16> = hello.ciphers().collect();
    ciphers.sort_unstable();
    let mut extensions: Vec<u16> = hello.extension_types().collect();
    let extension_count = extensions.len();
    extensions.retain(|kind| !matches!(*kind, SERVER_NAME | ALPN));
    extensions.sort_unstable();

    let mut ja4 = String::with_capacity(36);
    ja4.push(match transport {
        Transport::Tcp => 't',
        Transport::Quic => 'q',
    });
    ja4.push_str(match hello.version_max() {
        0x0304 => "13",
        0x0303 => "12",
        0x0302 => "11",
        0x0301 => "10",
        0x0300 => "s3",
        0x0002 => "s2",
        _ => "00",
    });
    ja4.push(if hello.has(SERVER_NAME) { 'd' } else { 'i' });
    let _ = write!(ja4, "{:02}{:02}", ciphers.len().min(COUNT_MAX), extension_count.min(COUNT_MAX));
    ja4.extend(alpn_ends(hello.protocols().next().unwrap_or_default()));
    ja4.push('_');
    ja4.push_str(&hash_12(&join_hex(&ciphers)));
    ja4.push('_');
    let mut list = join_hex(&extensions);
    let algorithms: Vec<u16> = hello.list_u16(SIGNATURE_ALGORITHMS).collect();
    if !list.is_empty() && !algorithms.is_empty() {
        list.push('_');
        list.push_str(&join_hex(&algorithms));
    }
    ja4.push_str(&hash_12(&list));
    ja4
}

/// First and last character of a protocol's name, or of its hexadecimal form when one of them is no letter or digit.
fn alpn_ends(protocol: &[u8]) -> [char; 2] {
    let ([first, ..], [.., last]) = (protocol, protocol) else { return ['0', '0'] };
    if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() {
        return [char::from(*first), char::from(*last)];
    }
    let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or('0');
    [digit(first >> 4), digit(last & 0xf)]
}

/// A comma, and the values in decimal.
fn join_decimal(text: &mut String, values: impl Iterator<Item = u16>) {
    text.push(',');
    for (nth, value) in values.enumerate() {
        if nth > 0 {
            text.push('-');
        }
        let mut left = value;
        let mut digits = [0; 5];
        let mut at = digits.len();
        while left > 0 || at == digits.len() {
            at -= 1;
            digits[at] = (left % 10) as u8;
            left /= 10;
        }
        text.extend(digits[at..].iter().map(|digit| char::from(b'0' + digit)));
    }
}

fn join_hex(values: &[u16]) -> String {
    let mut text = String::with_capacity(values.len() * 5);
    for (nth, value) in values.iter().enumerate() {
        if nth > 0 {
            text.push(',');
        }
        push_hex(&mut text, &value.to_be_bytes());
    }
    text
}

fn hash_12(list: &str) -> String {
    if list.is_empty() {
        return NO_HASH.to_owned();
    }
    hex(&digest(&SHA256, list.as_bytes()).as_ref()[..6])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_ja4_document() {
        let ciphers = [
            0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0xc013, 0xc014, 0x009c,
            0x009d, 0x002f, 0x0035,
        ];
        let mut sorted = ciphers;
        sorted.sort_unstable();
        assert_eq!(hash_12(&join_hex(&sorted)), "8daaf6152771");
        let list = "0005,000a,000b,000d,0012,0015,0017,001b,0023,002b,002d,0033,4469,ff01";
        assert_eq!(hash_12(list), "6d807ffa2a79");
        assert_eq!(hash_12(&format!("{list}_0403,0804,0401,0503,0805,0501,0806,0601")), "e5627efa2ab1");
    }

    /// The body of a ClientHello with these suites, and extensions of a type and a body each.
    fn body(ciphers: &[u16], extensions: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, ciphers.len() as u8 * 2]);
        body.extend(ciphers.iter().flat_map(|cipher| cipher.to_be_bytes()));
        body.extend([1, 0]);
        let mut list = Vec::new();
        for (kind, value) in extensions {
            list.extend(kind.to_be_bytes());
            list.extend((value.len() as u16).to_be_bytes());
            list.extend(*value);
        }
        body.extend((list.len() as u16).to_be_bytes());
        body.extend(list);
        body
    }

    #[test]
    fn grease_changes_nothing() {
        let plain = body(
            &[0x1301, 0xc02b],
            &[(10, &[0, 2, 0, 29]), (13, &[0, 2, 4, 3]), (43, &[4, 3, 4, 3, 3]), (16, b"\0\x03\x02h2")],
        );
        let greased = body(
            &[0x1a1a, 0x1301, 0xc02b],
            &[
                (0xfafa, b""),
                (10, &[0, 4, 0x2a, 0x2a, 0, 29]),
                (13, &[0, 4, 0x3a, 0x3a, 4, 3]),
                (43, &[6, 0x7a, 0x7a, 3, 4, 3, 3]),
                (16, b"\0\x03\x02h2"),
            ],
        );
        let [plain, greased] = [&plain, &greased].map(|body| ClientHello::read(body).unwrap());
        assert_eq!(ja3(&plain), ja3(&greased));
        assert_eq!(ja4(&plain, Transport::Tcp), ja4(&greased, Transport::Tcp));
        assert!(ja4(&plain, Transport::Tcp).starts_with("t13i0204h2_"));
        // MD5 of "771,4865-49195,10-13-43-16,29,".
        assert_eq!(ja3(&plain), hex(&Md5::digest("771,4865-49195,10-13-43-16,29,")));
    }

    #[test]
    fn empty_lists_have_no_hash() {
        let body = body(&[], &[]);
        let hello = ClientHello::read(&body).unwrap();
        assert_eq!(ja4(&hello, Transport::Quic), "q12i000000_000000000000_000000000000");
    }

    #[test]
    fn the_ends_of_an_application_protocol() {
        let cases: [(&[u8], &str); 10] = [
            (b"h2", "h2"),
            (b"http/1.1", "h1"),
            (b"", "00"),
            (b"x", "xx"),
            (b"\xab", "ab"),
            (b"\xab\xcd", "ad"),
            (b"\x30\xab", "3b"),
            (b"\x30\x31\xab\xcd", "3d"),
            (b"\x30\xab\xcd\x31", "01"),
            (b"h/", "6f"),
        ];
        for (protocol, ends) in cases {
            assert_eq!(String::from_iter(alpn_ends(protocol)), ends);
        }
    }
}
