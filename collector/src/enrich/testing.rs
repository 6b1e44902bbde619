//! Databases made for tests: a writer of MaxMind's format, and the little that the collector of a test knows.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::Enrichment;
use crate::config::EnrichConfig;

/// A value of the format's data section.
#[derive(Clone, Debug)]
pub(crate) enum Data<'a> {
    Text(&'a str),
    U16(u16),
    U32(u32),
    U64(u64),
    List(Vec<Data<'a>>),
    Map(Vec<(&'a str, Data<'a>)>),
}

use Data::{List, Map, Text, U16, U32, U64};

impl Data<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Text(text) => {
                control(2, text.len(), out);
                out.extend_from_slice(text.as_bytes());
            }
            U16(n) => number(5, &n.to_be_bytes(), out),
            U32(n) => number(6, &n.to_be_bytes(), out),
            U64(n) => number(9, &n.to_be_bytes(), out),
            List(list) => {
                control(11, list.len(), out);
                list.iter().for_each(|value| value.encode(out));
            }
            Map(map) => {
                control(7, map.len(), out);
                for (key, value) in map {
                    Text(key).encode(out);
                    value.encode(out);
                }
            }
        }
    }
}

fn number(kind: u8, bytes: &[u8], out: &mut Vec<u8>) {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    control(kind, bytes.len() - zeros, out);
    out.extend_from_slice(&bytes[zeros..]);
}

fn control(kind: u8, size: usize, out: &mut Vec<u8>) {
    let (low, more) = if size < 29 { (size as u8, None) } else { (29, Some((size - 29) as u8)) };
    if kind <= 7 {
        out.push(kind << 5 | low);
    } else {
        out.extend([low, kind - 7]);
    }
    out.extend(more);
}

#[derive(Clone, Copy)]
enum Slot {
    Nothing,
    Node(usize),
    Data(usize),
}

/// A database in the making. Networks must not overlap.
pub(crate) struct Mmdb {
    version: u16,
    nodes: Vec<[Slot; 2]>,
    data: Vec<u8>,
}

impl Mmdb {
    /// Of IP version 4 or 6.
    pub(crate) fn new(version: u16) -> Mmdb {
        Mmdb { version, nodes: vec![[Slot::Nothing; 2]], data: Vec::new() }
    }

    pub(crate) fn with(mut self, network: &str, value: &Data<'_>) -> Mmdb {
        let (ip, bits) = network.split_once('/').expect("a prefix length");
        self.add(ip.parse().expect("an address"), bits.parse().expect("a number"), value);
        self
    }

    pub(crate) fn add(&mut self, ip: IpAddr, bits: usize, value: &Data<'_>) {
        let (address, length, bits) = match (ip, self.version) {
            (IpAddr::V4(ip), 4) => (u128::from(ip.to_bits()), 32, bits),
            (IpAddr::V4(ip), _) => (u128::from(ip.to_bits()), 128, 96 + bits),
            (IpAddr::V6(ip), _) => (ip.to_bits(), 128, bits),
        };
        let mut node = 0;
        for at in 0..bits {
            let side = (address >> (length - 1 - at) & 1) as usize;
            if at + 1 == bits {
                self.nodes[node][side] = Slot::Data(self.data.len());
                break;
            }
            node = match self.nodes[node][side] {
                Slot::Node(next) => next,
                _ => {
                    self.nodes.push([Slot::Nothing; 2]);
                    let next = self.nodes.len() - 1;
                    self.nodes[node][side] = Slot::Node(next);
                    next
                }
            };
        }
        value.encode(&mut self.data);
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let count = self.nodes.len();
        let mut bytes = Vec::new();
        for slot in self.nodes.as_flattened() {
            let record = match slot {
                Slot::Nothing => count,
                Slot::Node(at) => *at,
                Slot::Data(at) => count + 16 + at,
            };
            bytes.extend_from_slice(&(record as u32).to_be_bytes()[1..]);
        }
        bytes.extend([0; 16]);
        bytes.extend_from_slice(&self.data);
        bytes.extend_from_slice(b"\xab\xcd\xefMaxMind.com");
        let about = Map(vec![
            ("binary_format_major_version", U16(2)),
            ("binary_format_minor_version", U16(0)),
            ("build_epoch", U64(1_800_000_000)),
            ("database_type", Text("gnomon-test")),
            ("description", Map(vec![("en", Text("made by a test of gnomon"))])),
            ("ip_version", U16(self.version)),
            ("languages", List(vec![Text("en")])),
            ("node_count", U32(count as u32)),
            ("record_size", U16(24)),
        ]);
        about.encode(&mut bytes);
        bytes
    }
}

/// As GeoLite2 Country has it.
pub(crate) fn country<'a>(code: &'a str) -> Data<'a> {
    let names = || Map(vec![("de", Text("Land")), ("en", Text("Country"))]);
    let place = |code| Map(vec![("geoname_id", U32(7)), ("iso_code", Text(code)), ("names", names())]);
    Map(vec![
        ("continent", Map(vec![("code", Text("EU")), ("names", names())])),
        ("country", place(code)),
        ("registered_country", place("ZZ")),
    ])
}

/// As GeoLite2 ASN has it.
pub(crate) fn system<'a>(number: u32, organization: &'a str) -> Data<'a> {
    Map(vec![
        ("autonomous_system_number", U32(number)),
        ("autonomous_system_organization", Text(organization)),
    ])
}

pub(crate) fn written(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).expect("a file");
    path
}

/// Knows 198.51.100.0/24 and 2001:db8:de::/48 in DE, 203.0.113.0/24 in FR, their systems, and two vendors.
pub(crate) fn enrichment() -> Enrichment {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let networks = [("198.51.100.0/24", "DE"), ("2001:db8:de::/48", "DE"), ("203.0.113.0/24", "FR")];
    let (mut countries, mut systems) = (Mmdb::new(6), Mmdb::new(6));
    for (network, code) in networks {
        countries = countries.with(network, &country(code));
        systems = systems.with(network, &system(64_496, "Example \u{1b}[1mNet"));
    }
    // Nobody's, whatever a database says.
    countries = countries.with("10.0.0.0/8", &country("XX"));
    let vendors = "02:00:00\tExample\tExample Cards Ltd\n02:00:00:00:10:00/36\tSmall\tSmall Cards Ltd\n";
    let config = EnrichConfig {
        country_db: Some(written(dir.path(), "country.mmdb", countries.bytes())),
        asn_db: Some(written(dir.path(), "asn.mmdb", systems.bytes())),
        oui_file: Some(written(dir.path(), "manuf", vendors)),
    };
    Enrichment::load(&config).expect("files that were just made")
}
