//! Databases in MaxMind's format (maxmind.github.io/MaxMind-DB), as MaxMind, DB-IP and IPinfo fill them.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use maxminddb::{LookupResult, MaxMindDbError, Reader, WithinOptions};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::clip;

/// Networks looked at to see whether a database is of the kind that was asked for.
const TRIED_MAX: usize = 10_000;

type Found<'a> = LookupResult<'a, Vec<u8>>;
type Tell = for<'a> fn(&Found<'a>) -> Result<Option<String>, MaxMindDbError>;

/// One file, and what it is asked for.
pub(super) struct Database {
    reader: Reader<Vec<u8>>,
    tell: Tell,
    path: PathBuf,
    damaged: AtomicBool,
}

/// Why a file is no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum DatabaseError {
    #[error("no database in MaxMind's format, or a cut one: {0}")]
    Format(MaxMindDbError),
    #[error("damaged: {0}")]
    Damaged(MaxMindDbError),
    #[error("a database of the kind \"{kind}\", in which there are no {what}")]
    Kind { kind: String, what: &'static str },
}

impl Database {
    pub(super) fn countries(bytes: Vec<u8>, path: &Path) -> Result<Database, DatabaseError> {
        Database::open(bytes, path, "countries", country)
    }

    pub(super) fn systems(bytes: Vec<u8>, path: &Path) -> Result<Database, DatabaseError> {
        Database::open(bytes, path, "autonomous systems", system)
    }

    fn open(bytes: Vec<u8>, path: &Path, what: &'static str, tell: Tell) -> Result<Database, DatabaseError> {
        let reader = Reader::from_source(bytes).map_err(DatabaseError::Format)?;
        let mut answers = false;
        for found in
            reader.networks(WithinOptions::default()).map_err(DatabaseError::Damaged)?.take(TRIED_MAX)
        {
            if tell(&found.map_err(DatabaseError::Damaged)?).map_err(DatabaseError::Damaged)?.is_some() {
                answers = true;
                break;
            }
        }
        if !answers {
            let kind = clip(&reader.metadata().database_type).to_owned();
            return Err(DatabaseError::Kind { kind, what });
        }
        Ok(Database { reader, tell, path: path.to_owned(), damaged: AtomicBool::new(false) })
    }

    /// What the database says of an address; nothing where it is damaged.
    pub(super) fn of(&self, ip: IpAddr) -> Option<String> {
        let ip = ip.to_canonical();
        if ip.is_ipv6() && self.reader.metadata().ip_version == 4 {
            return None;
        }
        let told = self.reader.lookup(ip).and_then(|found| (self.tell)(&found));
        told.unwrap_or_else(|error| {
            if !self.damaged.swap(true, Ordering::Relaxed) {
                tracing::error!(
                    file = %self.path.display(), %error,
                    "a database of addresses is damaged: some records do not get what it should tell; replace it and restart"
                );
            }
            None
        })
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("path", &self.path).finish_non_exhaustive()
    }
}

/// `country.iso_code` (MaxMind, DB-IP), `country_code` or a plain `country` (IPinfo). Where an address is not known to be
/// used, the country it was registered in.
#[derive(serde::Deserialize)]
struct CountryRecord<'a> {
    #[serde(borrow)]
    country: Option<Place<'a>>,
    #[serde(borrow)]
    country_code: Option<&'a str>,
    #[serde(borrow)]
    registered_country: Option<Place<'a>>,
}

fn country(found: &Found<'_>) -> Result<Option<String>, MaxMindDbError> {
    let Some(record) = found.decode::<CountryRecord>()? else { return Ok(None) };
    let place = |place: Option<Place>| place.and_then(|place| place.0).map(str::to_owned);
    let code = record.country_code.map(str::to_owned);
    let code = code.or_else(|| place(record.country)).or_else(|| place(record.registered_country));
    Ok(code.map(|code| clip(&code).to_owned()).filter(|code| !code.is_empty()))
}

/// `autonomous_system_number` and `…_organization` (MaxMind, DB-IP), or `asn` and `as_name` or `name` (IPinfo).
#[derive(serde::Deserialize)]
struct SystemRecord<'a> {
    autonomous_system_number: Option<u32>,
    #[serde(borrow)]
    autonomous_system_organization: Option<&'a str>,
    #[serde(borrow)]
    asn: Option<&'a str>,
    #[serde(borrow)]
    as_name: Option<&'a str>,
    #[serde(borrow)]
    name: Option<Place<'a>>,
}

fn system(found: &Found<'_>) -> Result<Option<String>, MaxMindDbError> {
    let Some(record) = found.decode::<SystemRecord>()? else { return Ok(None) };
    let number = match (record.autonomous_system_number, record.asn.map(clip)) {
        (Some(number), _) => format!("AS{number}"),
        (None, Some(asn)) if !asn.is_empty() => asn.to_owned(),
        (None, _) => return Ok(None),
    };
    let name = record.autonomous_system_organization.or(record.as_name);
    let name = name.or(record.name.and_then(|name| name.0)).unwrap_or_default();
    Ok(Some(clip(&format!("{number} {}", name.trim())).to_owned()))
}

/// Text, or the `iso_code` of a map.
struct Place<'a>(Option<&'a str>);

impl<'de: 'a, 'a> Deserialize<'de> for Place<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Place<'a>, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Place<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text, or a map with iso_code")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Place<'de>, E> {
                Ok(Place(Some(text)))
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Place<'de>, M::Error> {
                let mut code = None;
                while let Some(key) = map.next_key::<&str>()? {
                    if key == "iso_code" {
                        code = Some(map.next_value()?);
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Place(code))
            }
        }

        deserializer.deserialize_any(Either)
    }
}
