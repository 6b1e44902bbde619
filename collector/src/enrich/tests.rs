//! Databases made here, in every form there is, whole, cut and damaged; and what records get of them.

use std::net::IpAddr;

use gnomon_clock::{Clock, KernelClock};
use gnomon_flow::{Addresses, Attributes, FieldId};
use tokio_util::sync::CancellationToken;

use super::testing::Data::{Map, Text};
use super::testing::{Mmdb, country, enrichment, system, written};
use super::*;
use crate::query::{Queries, QueryLimits, Search};
use crate::store::testing::{FakeClock, LIMITS, change, epoch, fix, fixes, gate, record, seal};
use crate::store::{Body, Content, RecordBatch, Store, open_enriched};

fn load(country_db: &[u8]) -> Result<Enrichment, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = Some(written(dir.path(), "country.mmdb", country_db));
    Enrichment::load(&EnrichConfig { country_db: path, ..EnrichConfig::default() })
}

fn systems(bytes: Vec<u8>) -> Database {
    Database::systems(bytes, Path::new("asn.mmdb")).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A record from 198.51.100.7 to `resp`, between the network cards of the two vendors.
fn between(id: u64, resp: &str) -> FlowRecord {
    let mut record = record(id, 0, 5_000_000_000 + id, 6_000_000_000 + id);
    record.key.addresses = match ip(resp) {
        IpAddr::V4(resp) => Addresses::V4 { orig: [198, 51, 100, 7], resp: resp.octets() },
        IpAddr::V6(resp) => {
            record.key.ethertype = 0x86DD;
            Addresses::V6 { orig: [0xfe; 16], resp: resp.octets() }
        }
    };
    record.orig.mac = Some([2, 0, 0, 9, 9, 9]);
    record.resp.mac = Some([2, 0, 0, 0, 0x10, 0xff]);
    record
}

fn texts(record: &FlowRecord, field: FieldId) -> Vec<String> {
    record.attributes.of(field).map(|value| format!("{value:?}")).collect()
}

#[test]
fn countries_are_read_in_the_forms_of_three_suppliers() {
    let plain = Map(vec![("country", Text("SE")), ("country_name", Text("Sweden"))]);
    let lite = Map(vec![("as_name", Text("x")), ("country", Text("Norway")), ("country_code", Text("NO"))]);
    let registered = Map(vec![("registered_country", Map(vec![("iso_code", Text("PT"))]))]);
    let mmdb = Mmdb::new(6)
        .with("198.51.100.0/25", &country("DE"))
        .with("198.51.100.128/26", &plain)
        .with("198.51.100.192/26", &lite)
        .with("2001:db8:1::/48", &country("FI"))
        .with("2001:db8:2::/48", &registered)
        .with("2001:db8:3::/48", &Map(vec![]));
    let known = load(&mmdb.bytes()).unwrap();
    let of = |text| known.ask(ip(text)).country;
    assert_eq!(of("198.51.100.1").as_deref(), Some("DE"));
    assert_eq!(of("::ffff:198.51.100.1").as_deref(), Some("DE"));
    assert_eq!(of("198.51.100.129").as_deref(), Some("SE"));
    assert_eq!(of("198.51.100.200").as_deref(), Some("NO"));
    assert_eq!(of("2001:db8:1::9").as_deref(), Some("FI"));
    assert_eq!(of("2001:db8:2::9").as_deref(), Some("PT"));
    assert_eq!((of("2001:db8:3::9"), of("203.0.113.1"), of("2001:db8:4::")), (None, None, None));
}

#[test]
fn systems_are_read_in_the_forms_of_three_suppliers() {
    let standard = Map(vec![("asn", Text("AS64500")), ("name", Text("Example Two"))]);
    let lite = Map(vec![("asn", Text("AS64501")), ("as_name", Text("Example Three"))]);
    let mmdb = Mmdb::new(4)
        .with("198.51.100.0/25", &system(64_499, "Example One"))
        .with("198.51.100.128/26", &standard)
        .with("198.51.100.192/26", &lite)
        .with("203.0.113.0/24", &system(64_502, &"é".repeat(200)));
    let known = systems(mmdb.bytes());
    assert_eq!(known.of(ip("198.51.100.1")).as_deref(), Some("AS64499 Example One"));
    assert_eq!(known.of(ip("198.51.100.129")).as_deref(), Some("AS64500 Example Two"));
    assert_eq!(known.of(ip("198.51.100.200")).as_deref(), Some("AS64501 Example Three"));
    let long = known.of(ip("203.0.113.1")).unwrap();
    assert!(long.starts_with("AS64502 éé") && (NAME_BYTES_MAX - 1..=NAME_BYTES_MAX).contains(&long.len()));
    // A database without IPv6 has nothing to say of it, which is no damage.
    assert_eq!(known.of(ip("2001:db8::1")), None);
}

#[test]
fn records_get_what_is_known_and_private_addresses_nothing() {
    let known = enrichment();
    let mut records = [between(1, "203.0.113.9"), between(2, "10.1.2.3"), between(3, "2001:db8:de::1")];
    known.add_to(&mut records);
    let all = |fields: [FieldId; 2], at: usize| fields.map(|field| texts(&records[at], field).concat());
    assert_eq!(all([field::COUNTRY_SRC, field::COUNTRY_DST], 0), [r#"Text("DE")"#, r#"Text("FR")"#]);
    assert_eq!(all([field::COUNTRY_SRC, field::COUNTRY_DST], 1), [r#"Text("DE")"#, ""]);
    assert_eq!(all([field::COUNTRY_SRC, field::COUNTRY_DST], 2), ["", r#"Text("DE")"#]);
    assert_eq!(texts(&records[0], field::ASN_DST), [r#"Text("AS64496 Example \u{1b}[1mNet")"#]);
    assert_eq!(
        all([field::OUI_SRC, field::OUI_DST], 0),
        [r#"Text("Example Cards Ltd")"#, r#"Text("Small Cards Ltd")"#]
    );
    let nothing = between(4, "203.0.113.9");
    let mut same = [nothing.clone()];
    Enrichment::default().add_to(&mut same);
    assert_eq!(same[0], nothing);
    for text in ["127.0.0.1", "169.254.1.1", "100.64.0.1", "224.0.0.251", "0.0.0.0", "255.255.255.255"] {
        assert!(!is_public(ip(text)), "{text}");
    }
    for text in ["::", "::1", "fe80::1", "fd00::1", "ff02::fb", "::ffff:192.168.0.1"] {
        assert!(!is_public(ip(text)), "{text}");
    }
    assert!(is_public(ip("100.128.0.1")) && is_public(ip("2001:db8::1")));
}

#[test]
fn a_record_that_is_full_keeps_what_it_has() {
    let mut full = between(1, "203.0.113.9");
    for n in 0..Attributes::COUNT_MAX as u64 {
        full.attributes.integer(field::HTTP_STATUS, n);
    }
    let mut records = [full.clone(), between(2, "203.0.113.9")];
    enrichment().add_to(&mut records);
    assert!(records[0].attributes.iter().eq(full.attributes.iter()));
    assert_eq!(texts(&records[1], field::COUNTRY_DST), [r#"Text("FR")"#]);
}

#[test]
fn a_file_that_is_no_use_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |config: &EnrichConfig| Enrichment::load(config).unwrap_err().to_string();
    let missing = EnrichConfig { country_db: Some(dir.path().join("none.mmdb")), ..EnrichConfig::default() };
    let text = refused(&missing);
    for part in ["enrich.country_db", "none.mmdb", "No such file", "name another file, or leave the key out"]
    {
        assert!(text.contains(part), "{text}");
    }
    let asn = written(dir.path(), "asn.mmdb", Mmdb::new(4).with("198.51.100.0/24", &system(1, "x")).bytes());
    let text = refused(&EnrichConfig { country_db: Some(asn.clone()), ..EnrichConfig::default() });
    assert!(text.contains("\"gnomon-test\", in which there are no countries"), "{text}");
    let text = refused(&EnrichConfig { oui_file: Some(asn), ..EnrichConfig::default() });
    assert!(text.contains("enrich.oui_file") && text.contains("manuf"), "{text}");
    let directory = EnrichConfig { asn_db: Some(dir.path().to_owned()), ..EnrichConfig::default() };
    assert!(refused(&directory).contains("enrich.asn_db"));
    assert!(Enrichment::load(&EnrichConfig::default()).is_ok());
}

#[test]
fn a_cut_database_is_refused_and_a_damaged_one_survived() {
    let mmdb = Mmdb::new(6).with("198.51.100.0/24", &country("DE")).with("2001:db8::/32", &country("FI"));
    let bytes = mmdb.bytes();
    assert!(load(&bytes).is_ok());
    for len in 0..bytes.len() {
        assert!(Database::countries(bytes[..len].to_vec(), Path::new("x")).is_err(), "cut to {len} bytes");
    }
    let mut survived = 0;
    for at in 0..bytes.len() {
        for flip in [0xff, 0x01, 0x20, 0x80] {
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            if let Ok(database) = Database::countries(damaged, Path::new("x")) {
                for text in ["198.51.100.1", "203.0.113.1", "2001:db8::1", "fe80::1"] {
                    assert!(database.of(ip(text)).is_none_or(|code| code.len() <= NAME_BYTES_MAX));
                }
                survived += 1;
            }
        }
    }
    assert!(survived > bytes.len(), "most bits of a tree are of other addresses: {survived}");
}

#[test]
fn vendors_are_read_in_three_forms_and_the_longest_prefix_holds() {
    let manuf = "# a comment\n\n\
        00:00:0C\tCisco\tCisco Systems, Inc\n\
        00:55:DA\tIEEERegi\tIEEE Registration Authority\n\
        00:55:DA:10:00:00/28\tMid      \tMid Cards GmbH\n\
        00-55-DA-20-00-00/36  Small\n\
        00.55.DB\tOld # Old Cards Inc.\n\
        nonsense\n01:02\tTooShort\n00:00:00:00:00:00/12\tHalf\n";
    let csv = "Registry,Assignment,Organization Name,Organization Address\r\n\
        MA-L,00000C,\"Cisco Systems, Inc\",\"a street\nof two lines\"\r\n\
        MA-L,0055DA,IEEE Registration Authority,x\r\n\
        Registry,Assignment,Organization Name,Organization Address\r\n\
        MA-M,0055DA1,Mid Cards GmbH,x\r\n\
        MA-S,0055DA200,Small,x\r\nMA-L,0055DB,Old Cards Inc.,x\r\n";
    let text = "OUI/MA-L                    Organization\ncompany_id                  Organization\n\n\
        00-00-0C   (hex)\t\tCisco Systems, Inc\n00000C     (base 16)\t\tCisco Systems, Inc\n\t\t\t\ta street\n\n\
        00-55-DA   (hex)\t\tIEEE Registration Authority\n0055DA     (base 16)\t\tIEEE Registration Authority\n\n\
        00-55-DA   (hex)\t\tMid Cards GmbH\n100000-1FFFFF     (base 16)\t\tMid Cards GmbH\n\n\
        00-55-DA   (hex)\t\tSmall\n200000-200FFF     (base 16)\t\tSmall\n\n\
        00-55-DB   (hex)\t\tOld Cards Inc.\n0055DB     (base 16)\t\tOld Cards Inc.\n\
        300000-300FFE     (base 16)\t\tno range\n";
    for form in [manuf, csv, text] {
        let vendors = Vendors::parse(form.as_bytes()).unwrap();
        let of = |mac| vendors.of(mac);
        assert_eq!(of([0, 0, 0x0c, 1, 2, 3]), Some("Cisco Systems, Inc"));
        assert_eq!(of([0, 0x55, 0xda, 0x10, 0, 0]), Some("Mid Cards GmbH"), "28 bits");
        assert_eq!(of([0, 0x55, 0xda, 0x1f, 0xff, 0xff]), Some("Mid Cards GmbH"), "28 bits");
        assert_eq!(of([0, 0x55, 0xda, 0x20, 0x0f, 0xff]), Some("Small"), "36 bits");
        assert_eq!(of([0, 0x55, 0xda, 0x20, 0x10, 0]), Some("IEEE Registration Authority"), "24 bits");
        assert_eq!(of([0, 0x55, 0xdb, 0, 0, 0]), Some("Old Cards Inc."));
        assert_eq!(of([0xaa, 0, 0, 0, 0, 0]), None);
    }
    assert!(Vendors::parse(b"").is_err() && Vendors::parse(b"hello world\n").is_err());
    assert!(Vendors::parse(&[0xff; 100]).is_err());
}

/// The ids of the flows that an expression finds.
async fn found(store: &Store, clock: &std::sync::Arc<FakeClock>, expression: &str) -> Vec<u64> {
    let queries =
        Queries::new(store.clone(), clock.clone(), QueryLimits::default(), CancellationToken::new());
    let search = Search { expression: expression.to_owned(), ..Search::default() };
    let page = queries.search(search).await.unwrap();
    let mut ids: Vec<u64> = page.flows.iter().map(|flow| flow.record.id.0).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn a_country_is_found_at_once_after_a_restart_and_in_a_block() {
    let dir = tempfile::tempdir().unwrap();
    let clock = FakeClock::new();
    let open = |known| open_enriched(dir.path(), &gate(&clock), LIMITS, known).unwrap();
    let (store, mut writer) = open(enrichment());
    writer.commit(&[fixes(epoch(1), vec![fix(1, 100), fix(99, 100)])]).unwrap();
    let records = [between(1, "203.0.113.9"), between(2, "10.1.2.3"), between(3, "2001:db8:de::1")];
    let payload = RecordBatch::payload("eth0", &records);
    let batch = RecordBatch::read(&payload, &store.enrichment()).unwrap();
    let content =
        Content::Flows { interface: "eth0".into(), records: batch.records, alerts: Vec::new(), payload };
    writer.commit(&[change(epoch(1), Body::Entry { seq: 1, content })]).unwrap();
    let cases: [(&str, &[u64]); 7] = [
        ("country.dst == DE", &[3]),
        ("country.dst == fr && country.src == [DE,FR]", &[1]),
        ("country == DE", &[1, 2, 3]),
        ("country != DE", &[]),
        ("asn == AS64496*", &[1, 2, 3]),
        ("asn.dst != EXISTS!", &[2]),
        ("oui == \"small cards*\" && oui.src == EXISTS!", &[1, 2, 3]),
    ];
    let check = async |store: &Store, when: &str| {
        for (expression, ids) in cases {
            assert_eq!(found(store, &clock, expression).await, ids, "{when}: {expression}");
        }
    };
    check(&store, "as it came in").await;
    drop((store, writer));
    let (store, mut writer) = open(enrichment());
    check(&store, "read again, in no block").await;
    seal(&mut writer);
    check(&store, "in a block").await;
    drop((store, writer));
    // In a block it stays as it was, whatever files there are then.
    let (store, _writer) = open(Enrichment::default());
    check(&store, "read again, in a block").await;
}

/// Not a promise: with optimisation it is a million of each, and `--nocapture` prints what one costs.
#[test]
fn lookups_are_measured() {
    let (mut countries, mut numbers) = (Mmdb::new(6), Mmdb::new(6));
    for n in 0..40_000u32 {
        let network = IpAddr::V4((0x0b00_0000 + (n << 12)).into());
        countries.add(network, 20 + (n % 5) as usize, &country("DE"));
        numbers.add(network, 20 + (n % 5) as usize, &system(n, "An Organisation of Examples"));
    }
    let known = Enrichment {
        countries: Some(Database::countries(countries.bytes(), Path::new("x")).unwrap()),
        systems: Some(systems(numbers.bytes())),
        vendors: None,
    };
    let batches = if cfg!(debug_assertions) { 10 } else { 1000u32 };
    let count = batches * 1000;
    let address =
        |n: u32| IpAddr::V4((0x0b00_0000 + (n.wrapping_mul(2_654_435_761) % (40_000 << 12))).into());
    let begun = KernelClock.raw();
    let told = (0..count).filter(|n| known.ask(address(*n)).country.is_some()).count();
    let each = KernelClock.raw().since(begun) / u64::from(count);
    println!("country and system of {count} addresses, {told} known: {each} ns each");
    let mut batch: Vec<FlowRecord> = (0..1000).map(|n| between(n, "203.0.113.9")).collect();
    let begun = KernelClock.raw();
    for at in 0..batches {
        for (n, record) in (0..).zip(&mut batch) {
            record.attributes = Attributes::default();
            let resp = 0x0b00_0000u32 + ((at + n % 100) << 12);
            record.key.addresses = Addresses::V4 { orig: [11, 0, 0, 1], resp: resp.to_be_bytes() };
        }
        known.add_to(&mut batch);
    }
    let each = KernelClock.raw().since(begun) / u64::from(count);
    println!("{batches} batches of 1000 records with 101 addresses: {each} ns a record");
    assert!(told > 0);
}

#[test]
fn files_are_read_again_and_a_bad_one_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let of = |code: &str| Mmdb::new(6).with("198.51.100.0/24", &country(code)).bytes();
    let config = EnrichConfig {
        country_db: Some(written(dir.path(), "country.mmdb", of("DE"))),
        ..EnrichConfig::default()
    };
    let current = CurrentEnrichment::from(Enrichment::load(&config).unwrap());
    let (store, _writer) =
        open_enriched(&dir.path().join("store"), &gate(&FakeClock::new()), LIMITS, current.clone()).unwrap();
    let told = |enrichment: &Enrichment| enrichment.ask(ip("198.51.100.7")).country.unwrap();
    let before = store.enrichment();
    written(dir.path(), "country.mmdb", of("SE"));
    assert_eq!(told(&store.enrichment()), "DE", "nobody asked yet");
    current.reload(&config).unwrap();
    assert_eq!(told(&store.enrichment()), "SE");
    assert_eq!(told(&before), "DE", "whoever reads by the old one goes on");
    written(dir.path(), "country.mmdb", &of("NO")[..100]);
    let error = current.reload(&config).unwrap_err().to_string();
    assert!(error.contains("enrich.country_db"), "{error}");
    assert_eq!(told(&store.enrichment()), "SE");
}
