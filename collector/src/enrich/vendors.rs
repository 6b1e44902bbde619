//! Who makes a network card: Wireshark's `manuf`, and the registries of the IEEE as CSV and as text.
//!
//! `manuf` has `00:00:0C⇥short name⇥long name`, with `/28` or `/36` after longer prefixes. The CSV has
//! `MA-L,00000C,name,address`, where the assignment has 6, 7 or 9 digits. The text has `00-00-0C   (hex)⇥⇥name` and below it
//! `00000C     (base 16)⇥⇥name`, where longer prefixes have a range instead: `100000-1FFFFF`.

use std::collections::HashMap;
use std::sync::Arc;

use super::clip;

const MAC_BITS: u32 = 48;

/// Vendors by prefix: the longest one that fits holds.
#[derive(Debug)]
pub(super) struct Vendors {
    /// Each with its length in bits, the longest first.
    lengths: Vec<(u32, HashMap<u64, Arc<str>>)>,
}

/// Why a file is no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum VendorsError {
    #[error(
        "not a line of it is a prefix and a vendor, as in Wireshark's manuf or the IEEE's oui.csv and oui.txt"
    )]
    Nothing,
}

/// The `bits` upper bits of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Prefix {
    value: u64,
    bits: u32,
}

impl Vendors {
    pub(super) fn parse(bytes: &[u8]) -> Result<Vendors, VendorsError> {
        // Names are in UTF-8 here and in Latin 1 there: a wrong letter is no reason to refuse a file.
        let text = String::from_utf8_lossy(bytes);
        let text = text.trim_start_matches('\u{feff}').trim_start();
        let list = if text.contains("(base 16)") {
            registry_text(text)
        } else if text.starts_with("Registry,") {
            registry_csv(text)
        } else {
            text.lines().filter_map(manuf_line).collect()
        };
        let mut names: HashMap<&str, Arc<str>> = HashMap::new();
        let mut lengths: HashMap<u32, HashMap<u64, Arc<str>>> = HashMap::new();
        for (prefix, name) in &list {
            let name = clip(name);
            if name.is_empty() {
                continue;
            }
            let name = names.entry(name).or_insert_with(|| name.into());
            lengths.entry(prefix.bits).or_default().insert(prefix.value, Arc::clone(name));
        }
        if lengths.is_empty() {
            return Err(VendorsError::Nothing);
        }
        let mut lengths: Vec<_> = lengths.into_iter().collect();
        lengths.sort_unstable_by_key(|(bits, _)| std::cmp::Reverse(*bits));
        Ok(Vendors { lengths })
    }

    pub(super) fn of(&self, mac: [u8; 6]) -> Option<&str> {
        let mac = mac.iter().fold(0u64, |all, byte| all << 8 | u64::from(*byte));
        let found = self.lengths.iter().find_map(|(bits, names)| names.get(&(mac >> (MAC_BITS - bits))));
        found.map(|name| &**name)
    }
}

/// Hexadecimal digits with or without `:`, `-` and `.` between them; of `bits`, or of as many as there are digits.
fn prefix(text: &str, bits: Option<u32>) -> Option<Prefix> {
    let (mut value, mut digits) = (0u64, 0u32);
    for letter in text.trim().chars().filter(|letter| !":-.".contains(*letter)) {
        if digits == MAC_BITS / 4 {
            return None;
        }
        value = value << 4 | u64::from(letter.to_digit(16)?);
        digits += 1;
    }
    let bits = bits.unwrap_or(4 * digits);
    // Shorter than a vendor's: it would name half the network.
    if digits < 6 || !(24..=MAC_BITS).contains(&bits) {
        return None;
    }
    let value = value << (MAC_BITS - 4 * digits);
    Some(Prefix { value: value >> (MAC_BITS - bits), bits })
}

/// The long name, or the short one where there is no other.
fn manuf_line(line: &str) -> Option<(Prefix, String)> {
    let line = line.trim();
    let (address, names) = line.split_once(char::is_whitespace)?;
    if address.starts_with('#') {
        return None;
    }
    let prefix = match address.split_once('/') {
        Some((address, bits)) => prefix(address, Some(bits.parse().ok()?))?,
        None => prefix(address, None)?,
    };
    // Before 2016 the long name was behind a comment's sign.
    let names = names.trim_start();
    let (short, long) = names.split_once(['\t', '#']).unwrap_or((names, ""));
    let long = long.trim_start_matches(['#', '\t', ' ']);
    Some((prefix, if long.is_empty() { short } else { long }.to_owned()))
}

fn registry_csv(text: &str) -> Vec<(Prefix, String)> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
    let rows = reader.records().filter_map(Result::ok);
    rows.filter_map(|row| Some((prefix(row.get(1)?, None)?, row.get(2)?.to_owned()))).collect()
}

fn registry_text(text: &str) -> Vec<(Prefix, String)> {
    let mut list = Vec::new();
    let mut oui = None;
    for line in text.lines() {
        if let Some((address, _)) = line.split_once("(hex)") {
            oui = prefix(address, None).filter(|oui| oui.bits == 24);
        } else if let Some((address, name)) = line.split_once("(base 16)") {
            let prefix = match address.split_once('-') {
                None => prefix(address, None),
                Some((from, to)) => oui.and_then(|oui| range(oui, from, to)),
            };
            list.extend(prefix.map(|prefix| (prefix, name.to_owned())));
        }
    }
    list
}

/// The prefix of the addresses `from` to `to` of an OUI.
fn range(oui: Prefix, from: &str, to: &str) -> Option<Prefix> {
    let number = |text: &str| u64::from_str_radix(text.trim(), 16).ok().filter(|number| *number < 1 << 24);
    let (from, to) = (number(from)?, number(to)?);
    let count = (to + 1).checked_sub(from).filter(|count| count.is_power_of_two())?;
    let low = count.trailing_zeros();
    let aligned = from.is_multiple_of(count);
    aligned.then_some(Prefix { value: (oui.value << 24 | from) >> low, bits: MAC_BITS - low })
}
