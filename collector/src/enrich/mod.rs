//! What files of the user's say of a record's addresses: country and autonomous system of IP addresses, vendor of MAC
//! addresses. Told wherever records are decoded (`RecordBatch::read`): as they come in, and when the store reads again what
//! is in no block yet. Without files nothing is told, and nothing is missed.

mod current;
mod database;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod vendors;

use std::collections::HashMap;
use std::fmt::Display;
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;

use gnomon_daemon::config::ConfigError;
use gnomon_flow::{FlowRecord, field};

pub use self::current::CurrentEnrichment;
use self::database::Database;
use self::vendors::Vendors;
use crate::config::EnrichConfig;

/// A database of addresses is at most this large; all of it is kept in memory.
const DATABASE_BYTES_MAX: u64 = 1 << 30;
const VENDORS_BYTES_MAX: u64 = 64 << 20;
/// What is told is at most so long; what is longer is cut.
const NAME_BYTES_MAX: usize = 128;
/// Addresses whose answers are remembered while one batch is read.
const TOLD_MAX: usize = 4096;

/// The files that were named, read.
#[derive(Debug, Default)]
pub struct Enrichment {
    countries: Option<Database>,
    systems: Option<Database>,
    vendors: Option<Vendors>,
}

/// What is known of one IP address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Told {
    country: Option<String>,
    system: Option<String>,
}

impl Enrichment {
    /// Reads what is configured. Blocking.
    ///
    /// # Errors
    /// With the key, the file, what is wrong with it and what to do.
    pub fn load(config: &EnrichConfig) -> Result<Enrichment, ConfigError> {
        let country = |bytes, path: &Path| Database::countries(bytes, path);
        let system = |bytes, path: &Path| Database::systems(bytes, path);
        Ok(Enrichment {
            countries: read("enrich.country_db", config.country_db.as_deref(), DATABASE_BYTES_MAX, country)?,
            systems: read("enrich.asn_db", config.asn_db.as_deref(), DATABASE_BYTES_MAX, system)?,
            vendors: read("enrich.oui_file", config.oui_file.as_deref(), VENDORS_BYTES_MAX, |bytes, _| {
                Vendors::parse(&bytes)
            })?,
        })
    }

    /// Adds what is known to records. Those whose attributes are full stay as they are.
    pub fn add_to(&self, records: &mut [FlowRecord]) {
        let mut told = HashMap::new();
        for record in records {
            self.add_to_one(record, &mut told);
        }
    }

    fn add_to_one(&self, record: &mut FlowRecord, told: &mut HashMap<IpAddr, Told>) {
        if self.countries.is_some() || self.systems.is_some() {
            let ways = [
                (record.key.orig_ip(), field::COUNTRY_SRC, field::ASN_SRC),
                (record.key.resp_ip(), field::COUNTRY_DST, field::ASN_DST),
            ];
            for (ip, country, system) in ways {
                let Some(ip) = ip.filter(|ip| is_public(*ip)) else { continue };
                if told.len() >= TOLD_MAX {
                    told.clear();
                }
                let told = told.entry(ip).or_insert_with(|| self.ask(ip));
                for (field, name) in [(country, &told.country), (system, &told.system)] {
                    if let Some(name) = name {
                        record.attributes.text(field, name);
                    }
                }
            }
        }
        if let Some(vendors) = &self.vendors {
            let (orig, resp) = record.macs();
            for (mac, field) in [(orig, field::OUI_SRC), (resp, field::OUI_DST)] {
                if let Some(name) = mac.and_then(|mac| vendors.of(mac)) {
                    record.attributes.text(field, name);
                }
            }
        }
    }

    fn ask(&self, ip: IpAddr) -> Told {
        Told {
            country: self.countries.as_ref().and_then(|db| db.of(ip)),
            system: self.systems.as_ref().and_then(|db| db.of(ip)),
        }
    }
}

/// Reads a file and what it says; errors name the key, the file and what to do.
fn read<T, E: Display>(
    key: &str,
    path: Option<&Path>,
    bytes_max: u64,
    parse: impl FnOnce(Vec<u8>, &Path) -> Result<T, E>,
) -> Result<Option<T>, ConfigError> {
    let Some(path) = path else { return Ok(None) };
    let refused = |problem: &dyn Display| {
        let remedy = "name another file, or leave the key out: gnomon works without";
        ConfigError::invalid(key, format_args!("{}: {problem}; {remedy}", path.display()))
    };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| refused(&error))?;
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(|error| refused(&error))?;
    if bytes.len() as u64 > bytes_max {
        return Err(refused(&format_args!("it is larger than {} MiB", bytes_max >> 20)));
    }
    parse(bytes, path).map(Some).map_err(|error| refused(&error))
}

/// A name as it is told: without space around it, and not too long.
fn clip(name: &str) -> &str {
    let name = name.trim();
    name[..name.floor_char_boundary(NAME_BYTES_MAX)].trim_end()
}

/// Whether an address can belong to somebody in particular everywhere: private ones and those of the link have no country.
fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xC0 == 64;
            let reserved = ip.octets()[0] == 0 || ip.octets()[0] >= 224;
            !(ip.is_private() || ip.is_loopback() || ip.is_link_local() || shared || reserved)
        }
        IpAddr::V6(ip) => {
            !(ip.is_unspecified()
                || ip.is_loopback()
                || ip.is_unique_local()
                || ip.is_unicast_link_local()
                || ip.is_multicast())
        }
    }
}
