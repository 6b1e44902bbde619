//! X.509 certificates as a handshake carries them: who, by whom, when, for which names.
//!
//! Sources: RFC 5280 §4.1 (fields), §4.2.1.6 (alternative names); RFC 5480 §2.1.1.1 (curves); RFC 5246 §7.4.2 (the chain).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gnomon_flow::{Attributes, FieldId, field};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use crate::inspect::der::object_identifier;
use crate::inspect::der::{Der, INTEGER, OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE, SET, context};
use crate::inspect::reader::Reader;
use crate::inspect::{claim, hex};

/// Certificates of a chain that are read, and alternative names of one.
const CERTIFICATES_MAX: usize = 8;
const NAMES_MAX: usize = 64;

const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const BMP_STRING: u8 = 0x1e;
/// [2] and [7] of GeneralName, IMPLICIT.
const DNS_NAME: u8 = 0x82;
const IP_ADDRESS: u8 = 0x87;

/// 2.5.4.n, with what it is shown as for a subject and for an issuer.
const NAME_PARTS: [(u8, FieldId, FieldId); 3] = [
    (3, field::CERT_SUBJECT_CN, field::CERT_ISSUER_CN),
    (10, field::CERT_SUBJECT_ON, field::CERT_ISSUER_ON),
    (11, field::CERT_SUBJECT_OU, field::CERT_ISSUER_OU),
];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

const DAY_SECONDS: i64 = 86_400;

/// Names of public key algorithms and of curves, as OpenSSL calls them.
const ALGORITHMS: [(&[u8], &str); 8] = [
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01], "rsaEncryption"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a], "rsassaPss"),
    (&[0x2a, 0x86, 0x48, 0xce, 0x38, 0x04, 0x01], "dsaEncryption"),
    (EC_PUBLIC_KEY, "id-ecPublicKey"),
    (&[0x2b, 0x65, 0x6e], "X25519"),
    (&[0x2b, 0x65, 0x6f], "X448"),
    (&[0x2b, 0x65, 0x70], "ED25519"),
    (&[0x2b, 0x65, 0x71], "ED448"),
];
const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const CURVES: [(&[u8], &str); 4] = [
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07], "prime256v1"),
    (&[0x2b, 0x81, 0x04, 0x00, 0x22], "secp384r1"),
    (&[0x2b, 0x81, 0x04, 0x00, 0x23], "secp521r1"),
    (&[0x2b, 0x81, 0x04, 0x00, 0x0a], "secp256k1"),
];

/// The certificates of a Certificate message's body; what is no certificate is left out.
pub(super) fn chain(body: &[u8], out: &mut Attributes) {
    let mut reader = Reader::new(body);
    let Some(_length) = reader.take(3) else { return };
    let mut count = 0u32;
    while let Some(certificate) = vector_u24(&mut reader).filter(|_| (count as usize) < CERTIFICATES_MAX) {
        if read(certificate, out).is_some() {
            count += 1;
            let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, certificate);
            let pairs: Vec<String> = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
            out.text(field::CERT_HASH, &pairs.join(":"));
        }
    }
    if count > 0 {
        out.integer(field::CERT_COUNT, count);
    }
}

fn vector_u24<'a>(reader: &mut Reader<'a>) -> Option<&'a [u8]> {
    let [high, middle, low] = *reader.take(3)? else { return None };
    reader.take(u32::from_be_bytes([0, high, middle, low]) as usize)
}

/// None where the structure breaks; what came before that is told.
fn read(certificate: &[u8], out: &mut Attributes) -> Option<()> {
    let mut to_be_signed = Der::new(certificate).enter(SEQUENCE)?.enter(SEQUENCE)?;
    let _version = to_be_signed.value(context(0));
    let serial = to_be_signed.value(INTEGER)?;
    let _signature = to_be_signed.value(SEQUENCE)?;
    let issuer = to_be_signed.enter(SEQUENCE)?;
    let mut validity = to_be_signed.enter(SEQUENCE)?;
    let subject = to_be_signed.enter(SEQUENCE)?;
    out.text(field::CERT_SERIAL, &hex(&serial[..serial.len().min(64)]));
    name(issuer, |(_, _, issuer)| issuer, out);
    name(subject, |(_, subject, _)| subject, out);
    let (not_before, not_after) = (time(validity.element()?), time(validity.element()?));
    for (field, at) in [(field::CERT_NOT_BEFORE, not_before), (field::CERT_NOT_AFTER, not_after)] {
        if let Some(seconds) = at.and_then(|at| u64::try_from(at).ok()) {
            out.integer(field, seconds);
        }
    }
    if let (Some(from), Some(to)) = (not_before, not_after)
        && let Ok(days) = u64::try_from((to - from).div_euclid(DAY_SECONDS))
    {
        out.integer(field::CERT_VALID_DAYS, days);
    }
    let mut key = to_be_signed.enter(SEQUENCE)?.enter(SEQUENCE)?;
    let algorithm = key.value(OBJECT_IDENTIFIER)?;
    named(&ALGORITHMS, algorithm, field::CERT_PUBLIC_ALGORITHM, out);
    if algorithm == EC_PUBLIC_KEY
        && let Some(curve) = key.value(OBJECT_IDENTIFIER)
    {
        named(&CURVES, curve, field::CERT_CURVE, out);
    }
    // Unique identifiers may stand before the extensions.
    if let Some(mut extensions) = to_be_signed.inner(context(3)) {
        for (_, extension) in extensions.enter(SEQUENCE)? {
            let mut extension = Der::new(extension);
            if extension.value(OBJECT_IDENTIFIER) == Some(SUBJECT_ALT_NAME) {
                let _critical = extension.value(1);
                alternative_names(extension.value(OCTET_STRING)?, out);
            }
        }
    }
    Some(())
}

fn named(table: &[(&[u8], &str)], identifier: &[u8], field: FieldId, out: &mut Attributes) {
    match table.iter().find(|(known, _)| *known == identifier) {
        Some((_, name)) => out.text(field, name),
        None => object_identifier(identifier).is_some_and(|dotted| out.text(field, &dotted)),
    };
}

fn name(name: Der<'_>, field_of: fn((u8, FieldId, FieldId)) -> FieldId, out: &mut Attributes) {
    for (_, set) in name.filter(|(tag, _)| *tag == SET) {
        for (_, part) in Der::new(set) {
            let mut part = Der::new(part);
            let Some([0x55, 0x04, kind]) = part.value(OBJECT_IDENTIFIER) else { continue };
            let Some((tag, value)) = part.element() else { continue };
            if let Some(known) = NAME_PARTS.into_iter().find(|(known, _, _)| known == kind) {
                let field = field_of(known);
                if tag == BMP_STRING {
                    let units = value.as_chunks::<2>().0.iter().map(|unit| u16::from_be_bytes(*unit));
                    let text: String =
                        char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
                    out.text(field, &text);
                } else {
                    claim(out, field, value);
                }
            }
        }
    }
}

fn alternative_names(value: &[u8], out: &mut Attributes) {
    let Some(names) = Der::new(value).enter(SEQUENCE) else { return };
    for (tag, name) in names.take(NAMES_MAX) {
        match tag {
            DNS_NAME => claim(out, field::CERT_ALT, name),
            IP_ADDRESS => {
                let address = match <[u8; 4]>::try_from(name) {
                    Ok(octets) => Some(IpAddr::V4(Ipv4Addr::from(octets))),
                    Err(_) => {
                        <[u8; 16]>::try_from(name).ok().map(|octets| IpAddr::V6(Ipv6Addr::from(octets)))
                    }
                };
                if let Some(address) = address {
                    out.text(field::CERT_ALT, &address.to_string());
                }
            }
            _ => {}
        }
    }
}

/// Seconds since 1970 (RFC 5280 §4.1.2.5): `YYMMDDhhmmssZ`, or with four digits of the year.
fn time((tag, text): (u8, &[u8])) -> Option<i64> {
    let (year_digits, century) = match tag {
        UTC_TIME => (2, true),
        GENERALIZED_TIME => (4, false),
        _ => return None,
    };
    let digits = text.strip_suffix(b"Z").unwrap_or(text);
    let mut reader = Reader::new(digits);
    let mut number = |count: usize| -> Option<i64> {
        reader
            .take(count)?
            .iter()
            .try_fold(0, |n, digit| digit.is_ascii_digit().then(|| n * 10 + i64::from(digit - b'0')))
    };
    let mut year = number(year_digits)?;
    if century {
        year += if year >= 50 { 1900 } else { 2000 };
    }
    let (month, day) = (number(2)?, number(2)?);
    let (hour, minute) = (number(2)?, number(2)?);
    let second = number(2).unwrap_or(0);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 24 || minute > 59 || second > 60 {
        return None;
    }
    Some(days_since_1970(year, month, day) * DAY_SECONDS + hour * 3600 + minute * 60 + second)
}

/// Of the Gregorian calendar. Years begin in March here, so that the leap day is a year's last one.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_both_forms() {
        assert_eq!(time((UTC_TIME, b"700101000000Z")), Some(0));
        assert_eq!(time((UTC_TIME, b"491231235959Z")), Some(2_524_607_999));
        assert_eq!(time((UTC_TIME, b"500101000000Z")), Some(-631_152_000));
        assert_eq!(time((GENERALIZED_TIME, b"20240229120000Z")), Some(1_709_208_000));
        assert_eq!(time((GENERALIZED_TIME, b"99991231235959Z")), Some(253_402_300_799));
        assert_eq!(time((UTC_TIME, b"7001")), None);
        assert_eq!(time((UTC_TIME, b"701301000000Z")), None);
    }

    #[test]
    fn a_certificate_made_by_someone_else() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params =
            rcgen::CertificateParams::new(vec!["www.example.org".into(), "192.0.2.7".into()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "Näme");
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "Example, Inc");
        params.distinguished_name.push(rcgen::DnType::OrganizationalUnitName, "Unit");
        params.serial_number = Some(rcgen::SerialNumber::from_slice(&[0x1a, 0xff, 3]));
        params.not_before = rcgen::date_time_ymd(2024, 1, 2);
        params.not_after = rcgen::date_time_ymd(2060, 3, 4);
        let certificate = params.self_signed(&key).unwrap();
        let der = certificate.der().to_vec();
        let mut body = vec![0, 0, 0];
        body.extend(&(der.len() as u32).to_be_bytes()[1..]);
        body.extend(&der);
        let mut out = Attributes::default();
        chain(&body, &mut out);
        let text = |field| {
            out.of(field)
                .map(|value| match value {
                    gnomon_flow::AttributeValue::Text(text) => text.to_string(),
                    gnomon_flow::AttributeValue::Integer(n) => n.to_string(),
                    gnomon_flow::AttributeValue::Ip(ip) => ip.to_string(),
                })
                .collect::<Vec<_>>()
        };
        for (cn, on, ou) in [
            (field::CERT_SUBJECT_CN, field::CERT_SUBJECT_ON, field::CERT_SUBJECT_OU),
            (field::CERT_ISSUER_CN, field::CERT_ISSUER_ON, field::CERT_ISSUER_OU),
        ] {
            assert_eq!(
                (text(cn), text(on), text(ou)),
                (vec!["Näme".into()], vec!["Example, Inc".into()], vec!["Unit".into()])
            );
        }
        assert_eq!(text(field::CERT_SERIAL), ["1aff03"]);
        assert_eq!(text(field::CERT_ALT), ["www.example.org", "192.0.2.7"]);
        assert_eq!(text(field::CERT_NOT_BEFORE), ["1704153600"]);
        assert_eq!(text(field::CERT_NOT_AFTER), ["2845584000"]);
        assert_eq!(text(field::CERT_VALID_DAYS), ["13211"]);
        assert_eq!(text(field::CERT_PUBLIC_ALGORITHM), ["id-ecPublicKey"]);
        assert_eq!(text(field::CERT_CURVE), ["prime256v1"]);
        assert_eq!(text(field::CERT_COUNT), ["1"]);
        assert_eq!(text(field::CERT_HASH)[0].len(), 59);
        // Cut or spoiled anywhere it breaks nothing.
        for at in 0..body.len() {
            chain(&body[..at], &mut Attributes::default());
            let mut spoiled = body.clone();
            spoiled[at] ^= 0xff;
            chain(&spoiled, &mut Attributes::default());
        }
    }
}
