//! What every operator means, asked of records.

use gnomon_clock::UtcNs;
use gnomon_expression::parse;
use gnomon_flow::{FIELDS, FieldKind};

use crate::query::testing::{T0, arp_flow, tls_flow, v6_flow};
use crate::query::{Hints, Plan};

fn plan(text: &str) -> Plan {
    let expression = parse(text).unwrap_or_else(|error| panic!("{error}\n{}", error.caret(text)));
    Plan::new(&expression, UtcNs::from_unix_ns(T0 + 60_000_000_000))
}

#[test]
fn each_operator_means_what_the_manual_says() {
    let (tls, arp, v6) = (tls_flow(), arp_flow(), v6_flow());
    for (text, expected) in [
        // (of the TLS flow, of ARP, of IPv6)
        ("", [true, true, true]),
        ("ip.src == 10.0.0.1", [true, false, false]),
        ("ip.src == 10.0.0.0/8", [true, false, false]),
        ("ip.src == 10", [true, false, false]),
        ("ip.dst == 192.168.7", [true, false, false]),
        ("ip == 192.168.7.9", [true, false, false]),
        ("ip.src == 192.168.7.9", [false, false, false]),
        ("ip == ipv4", [true, false, false]),
        ("ip == ipv6", [false, false, true]),
        ("ip == 2001:db8::/32", [false, false, true]),
        ("ip.dst == 2001:db8::53.53", [false, false, true]),
        ("ip != 10.0.0.1", [false, true, true]),
        ("ip != EXISTS!", [false, true, false]),
        ("ip == [1.2.3.4, 192.168.0.0/16]", [true, false, false]),
        ("ip == ]10.0.0.1, 192.168.0.0/16[", [true, false, false]),
        ("ip == ]10.0.0.1, 1.2.3.4[", [false, false, false]),
        ("ip.src > 9.255.255.255 && ip.src < 10.0.0.2", [true, false, false]),
        ("ip.src >= 10.0.0.1 && ip.src <= 10.0.0.1", [true, false, false]),
        ("ip.src > 10.0.0.1", [false, false, false]),
        ("ip.src < 10/8", [false, false, false]),
        ("ip.src <= 10/8", [true, false, false]),
        ("ip < 255.255.255.255", [true, false, false]),
        ("ip.dst == 192.168.7.9:443", [true, false, false]),
        ("ip.src == 10.0.0.1:443", [false, false, false]),
        ("ip == 10.0.0.1:443", [false, false, false]),
        ("ip == 10:40000", [true, false, false]),
        ("ip == :443", [true, false, false]),
        ("ip.src == :443", [false, false, false]),
        ("ip == [1.2.3.4, :443]", [true, false, false]),
        ("port == 443", [true, false, false]),
        ("port == [22,443]", [true, false, false]),
        ("port == 400-500", [true, false, false]),
        ("port == 444-39999", [false, false, false]),
        ("port != 443", [false, true, true]),
        ("port != [1,2]", [true, true, true]),
        ("port == ]443, 40000[", [true, false, false]),
        ("port > 50000", [false, false, true]),
        ("port < 54", [false, false, true]),
        ("packets == 22", [true, true, true]),
        ("packets < 22 || packets > 22", [false, false, false]),
        ("packets <= 22 && packets >= 22", [true, true, true]),
        ("packets > 18446744073709551615", [false, false, false]),
        ("packets < 0", [false, false, false]),
        ("packets >= 0", [true, true, true]),
        ("vlan == 100", [true, false, false]),
        ("vlan != 100", [false, true, true]),
        ("vlan == EXISTS!", [true, false, false]),
        ("http.statuscode > 403", [true, false, false]),
        ("http.statuscode == ]200,404[", [true, false, false]),
        ("http.statuscode != 200", [false, true, true]),
        ("ip.protocol == tcp", [true, false, false]),
        ("ip.protocol == [17, arp]", [false, true, true]),
        ("ip.protocol == *dp", [false, false, true]),
        ("protocols == tls", [true, false, false]),
        ("protocols == ]tls,tcp[", [true, false, false]),
        ("protocols == ]tls,http[", [false, false, false]),
        ("protocols != tls", [false, true, true]),
        ("protocols != [http,dns]", [true, true, true]),
        ("tls.host == WWW.example.ORG", [true, false, false]),
        ("tls.host == *.example.org", [true, false, false]),
        ("tls.host == *example", [false, false, false]),
        ("tls.host == /www\\.[a-z]+\\.org/", [true, false, false]),
        ("tls.host == /example/", [false, false, false]),
        ("tls.host != /.*example.*/", [false, true, true]),
        ("tls.host == [x, *.org]", [true, false, false]),
        (r#"http.uri == "/a b/c\*d""#, [true, false, false]),
        (r#"http.uri == "/a*\*d""#, [true, false, false]),
        (r#"http.uri == "/a*\*e""#, [false, false, false]),
        ("dns.ip == 93.184.216.0/24", [true, false, false]),
        ("dns.ip == ]93.184.216.34, 2001:db8::34[", [true, false, false]),
        ("mac == 02-00-00-00-00-01", [true, true, true]),
        ("mac.dst == ff:ff:ff:ff:ff:ff", [false, true, false]),
        ("mac.src == 02:00:*", [true, true, true]),
        ("node == SENSOR-a", [true, true, true]),
        ("starttime == 2023-11-14T22:13:20Z", [true, true, true]),
        ("starttime == 2023-11-14", [true, true, true]),
        ("starttime == 2023-11-15", [false, false, false]),
        ("starttime > 2023-11-14T22:13:20Z", [false, false, false]),
        ("starttime >= 2023-11-14T22:13:20Z", [true, true, true]),
        ("starttime < 2023-11-14T22:13:21Z", [true, true, true]),
        ("starttime <= 1700000000", [true, true, true]),
        ("starttime >= now-1m && starttime < now-59s", [true, true, true]),
        ("starttime > -59s", [false, false, false]),
        ("time.conflict == false", [true, true, true]),
        ("time.conflict != false", [false, false, false]),
        ("direction.guessed == [true,false]", [true, true, true]),
        ("tcp.state == established", [true, false, false]),
        ("tcp.rtt == EXISTS!", [true, false, false]),
        ("tcp.rtt != EXISTS!", [false, true, true]),
        ("session.length == 1000", [true, true, true]),
        ("!ip == ipv4", [false, true, true]),
        ("!(ip == ipv4 || ip == ipv6)", [false, true, false]),
        ("!!port == 443", [true, false, false]),
        // && binds tighter: true || (true && false).
        ("packets == 22 || packets == 22 && packets == 1", [true, true, true]),
        ("(packets == 22 || packets == 22) && packets == 1", [false, false, false]),
        ("id == 0-0-0", [false, false, false]),
    ] {
        let plan = plan(text);
        let found = [&tls, &arp, &v6].map(|flow| plan.matches(flow));
        assert_eq!(found, expected, "{text}");
    }
}

#[test]
fn a_record_is_found_by_each_value_that_its_json_shows() {
    let flow = tls_flow();
    let mut asked = 0;
    for field in FIELDS {
        let mut values = Vec::new();
        field.each(&flow, &mut |value| values.push(value.into_owned()));
        assert_eq!(plan(&format!("{} == EXISTS!", field.name)).matches(&flow), !values.is_empty());
        for value in values {
            let shown = serde_json::to_value(&value).expect("json");
            let shown = shown.as_str().map_or_else(|| shown.to_string(), |text| text.replace('*', "\\*"));
            let text = match field.kind {
                FieldKind::Text => format!("{} == \"{shown}\"", field.name),
                _ => format!("{} == {shown}", field.name),
            };
            assert!(plan(&text).matches(&flow), "{text}");
            assert!(!plan(&text.replacen("==", "!=", 1)).matches(&flow), "{text}");
            asked += 1;
        }
    }
    assert!(asked > 50, "{asked}");
}

#[test]
fn large_lists_are_the_same_as_many_comparisons() {
    let numbers: Vec<String> = (0..2000).step_by(2).map(|n| n.to_string()).collect();
    let (even, flow) = (plan(&format!("packets == [{}]", numbers.join(","))), tls_flow());
    assert!(even.matches(&flow));
    let mut odd = flow;
    odd.record.orig.packets += 1;
    assert!(!even.matches(&odd));
    let networks: Vec<String> = (0..900).map(|n| format!("172.{}.{}.0/24", 16 + n / 256, n % 256)).collect();
    assert!(!plan(&format!("ip == [{}]", networks.join(","))).matches(&odd));
    assert!(plan(&format!("ip == [{},10.0.0.0/8]", networks.join(","))).matches(&odd));
}

#[test]
fn the_top_level_says_where_to_look() {
    let at = |ns: i64| Some(UtcNs::from_unix_ns(T0 + ns));
    let hints = |text: &str| plan(text).hints().clone();
    assert_eq!(hints("port == 1"), Hints::default());
    assert_eq!(hints("starttime >= 1700000000 && port == 1").since, at(0));
    assert_eq!(hints("stoptime < 1700000000 && (port == 1 || port == 2)").until, at(0));
    assert_eq!(hints("starttime == 1700000000").until, at(1_000_000_000));
    let both = hints("starttime >= 1700000000 && (starttime > 1700000010 && stoptime < now)");
    assert_eq!((both.since, both.until), (at(11_000_000_000 - 1), at(60_000_000_000)));
    // Under an or, or a not, it says nothing.
    assert_eq!(hints("starttime >= 1700000000 || port == 1"), Hints::default());
    assert_eq!(hints("!(starttime >= 1700000000)"), Hints::default());
    assert_eq!(hints("starttime != 1700000000"), Hints::default());
    let flow = tls_flow();
    let ids = hints(&format!("id == {} && port == 443", flow.id()));
    assert_eq!(ids.ids, Some(vec![flow.id()]));
    assert_eq!(hints("id == nonsense").ids, None);
    assert_eq!(hints(&format!("id != {}", flow.id())).ids, None);
    assert!(hints("time.state == pending").held && hints("time.state == [pending,quarantined]").held);
    assert!(!hints("time.state == [pending,indexed]").held && !hints("time.state != pending").held);
}
