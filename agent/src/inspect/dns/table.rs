//! Names of record types and response codes (IANA "Domain Name System (DNS) Parameters").

use std::borrow::Cow;

const RECORD_TYPES: [(u16, &str); 51] = [
    (1, "A"),
    (2, "NS"),
    (5, "CNAME"),
    (6, "SOA"),
    (10, "NULL"),
    (12, "PTR"),
    (13, "HINFO"),
    (15, "MX"),
    (16, "TXT"),
    (17, "RP"),
    (18, "AFSDB"),
    (24, "SIG"),
    (25, "KEY"),
    (28, "AAAA"),
    (29, "LOC"),
    (33, "SRV"),
    (35, "NAPTR"),
    (36, "KX"),
    (37, "CERT"),
    (39, "DNAME"),
    (41, "OPT"),
    (42, "APL"),
    (43, "DS"),
    (44, "SSHFP"),
    (45, "IPSECKEY"),
    (46, "RRSIG"),
    (47, "NSEC"),
    (48, "DNSKEY"),
    (49, "DHCID"),
    (50, "NSEC3"),
    (51, "NSEC3PARAM"),
    (52, "TLSA"),
    (53, "SMIMEA"),
    (55, "HIP"),
    (59, "CDS"),
    (60, "CDNSKEY"),
    (61, "OPENPGPKEY"),
    (62, "CSYNC"),
    (63, "ZONEMD"),
    (64, "SVCB"),
    (65, "HTTPS"),
    (99, "SPF"),
    (108, "EUI48"),
    (109, "EUI64"),
    (249, "TKEY"),
    (250, "TSIG"),
    (251, "IXFR"),
    (252, "AXFR"),
    (255, "ANY"),
    (256, "URI"),
    (257, "CAA"),
];

const RESPONSE_CODES: [(u16, &str); 19] = [
    (0, "NOERROR"),
    (1, "FORMERR"),
    (2, "SERVFAIL"),
    (3, "NXDOMAIN"),
    (4, "NOTIMP"),
    (5, "REFUSED"),
    (6, "YXDOMAIN"),
    (7, "YXRRSET"),
    (8, "NXRRSET"),
    (9, "NOTAUTH"),
    (10, "NOTZONE"),
    (11, "DSOTYPENI"),
    (16, "BADVERS"),
    (17, "BADKEY"),
    (18, "BADTIME"),
    (19, "BADMODE"),
    (20, "BADNAME"),
    (22, "BADTRUNC"),
    (23, "BADCOOKIE"),
];

/// `AAAA`, or `TYPE65280` for one without a name (RFC 3597 §5).
pub(super) fn record_type(number: u16) -> Cow<'static, str> {
    lookup(&RECORD_TYPES, number).map_or_else(|| Cow::Owned(format!("TYPE{number}")), Cow::Borrowed)
}

/// `NXDOMAIN`, or `RCODE3841` for one without a name.
pub(super) fn response_code(number: u16) -> Cow<'static, str> {
    lookup(&RESPONSE_CODES, number).map_or_else(|| Cow::Owned(format!("RCODE{number}")), Cow::Borrowed)
}

fn lookup(table: &[(u16, &'static str)], number: u16) -> Option<&'static str> {
    table.binary_search_by_key(&number, |(n, _)| *n).ok().map(|i| table[i].1)
}
