//! The language as a whole: what is understood, what is refused and how, and that nothing panics.

use gnomon_clock::UtcNs;
use gnomon_flow::{FIELDS, FieldKind};
use proptest::prelude::*;

use super::*;

fn canonical(text: &str) -> String {
    match parse(text) {
        Ok(expression) => {
            let canonical = expression.to_string();
            assert_eq!(parse(&canonical), Ok(expression), "{text} → {canonical}");
            canonical
        }
        Err(error) => panic!("{error}\n{}", error.caret(text)),
    }
}

#[test]
fn expressions_have_one_canonical_form() {
    for (text, expected) in [
        ("", ""),
        ("  \n ", ""),
        (
            "ip.src==10.0.0.0/8&&port.dst==[22, 443]&&packets>=3",
            "ip.src == 10.0.0.0/8 && port.dst == [22,443] && packets >= 3",
        ),
        ("SRC_IP == 10.1", "ip.src == 10.1.0.0/16"),
        ("!port == 3-7", "!(port == 3-7)"),
        ("!!port == 3", "!!(port == 3)"),
        ("port == 1 || port == 2 && port == 3", "port == 1 || port == 2 && port == 3"),
        ("(port == 1 || port == 2) && port == 3", "(port == 1 || port == 2) && port == 3"),
        ("((port == 1))", "port == 1"),
        ("port == 1 && (port == 2 && port == 3)", "port == 1 && (port == 2 && port == 3)"),
        ("dns.host == exists!", "dns.host == EXISTS!"),
        ("dns.host != EXISTS!", "dns.host != EXISTS!"),
        ("tags == ]a,b[", "tags == ]a,b["),
        ("http.host == *.Example.org", "http.host == *.Example.org"),
        ("http.host == a**b", "http.host == a*b"),
        (r#"http.uri == "/a b\*c*""#, r#"http.uri == "/a b\*c*""#),
        (r"http.uri == /\/a\/(b|c) d\\/", r"http.uri == /\/a\/(b|c) d\\/"),
        ("ip.protocol == 6", "ip.protocol == tcp"),
        ("protocol == [17, icmp6, IP-253, ip-6]", "ip.protocol == [udp,icmpv6,ip-253,tcp]"),
        ("tcp.state == Syn-Sent", "tcp.state == syn-sent"),
        ("mac == 02-00-5E-00-00-01", "mac == 02:00:5e:00:00:01"),
        ("starttime >= \"2023/11/14 22:13:20\"", "starttime >= 2023-11-14T22:13:20Z"),
        ("starttime < now-1h30m", "starttime < now-1h30m"),
        ("stoptime == 2023-11-14", "stoptime == 2023-11-14"),
        ("stoptime > 1700000000.5", "stoptime > 2023-11-14T22:13:20.500000000Z"),
        ("time.conflict == TRUE", "time.conflict == true"),
        ("ethertype == 0x88cc", "ethertype == 35020"),
        ("http.host == \"\"", "http.host == \"\""),
        ("http.host == EXISTS", "http.host == \"EXISTS\""),
        ("http.host == Straße.example", "http.host == \"Straße.example\""),
        ("tcpflags.syn-ack > 0", "tcpflags.syn-ack > 0"),
    ] {
        assert_eq!(canonical(text), expected);
    }
}

#[test]
fn errors_point_at_the_column_and_say_what_to_write() {
    for (text, column, length, message, hint) in [
        ("prot == tcp", 1, 4, "unknown field `prot`", "did you mean port"),
        ("port = 22", 6, 1, "means nothing", "=="),
        ("port == 22 & ip == 10", 12, 1, "means nothing", "&&"),
        ("port == 22 | ip == 10", 12, 1, "means nothing", "||"),
        ("port == abc", 9, 3, "not an integer", "443"),
        ("port == -3", 9, 2, "negative", ""),
        ("port == 7-3", 9, 3, "empty", "3-7"),
        ("port == +3", 9, 2, "not an integer", ""),
        ("port == 99999999999999999999", 9, 20, "too large", "18446744073709551615"),
        ("port == 4*", 9, 2, "no wildcards", "443"),
        ("port == /4/", 9, 3, "no regular expressions", "443"),
        ("port >= [1,2]", 9, 1, "single value", "lists"),
        ("port > 3-7", 8, 3, "single value", "ranges"),
        ("port > EXISTS!", 8, 7, "single value", "EXISTS!"),
        ("port == [22", 12, 1, "expression ends where a comma or ]", ""),
        ("port == []", 9, 1, "list is empty", "EXISTS!"),
        ("port == [22 443]", 13, 3, "`443` stands where a comma or ]", ""),
        ("port == 22,443", 11, 1, "`,` stands", "[22,443]"),
        ("port", 5, 1, "expression ends where an operator", "port == …"),
        ("port ==", 8, 1, "expression ends where a value", ""),
        ("port == 22 &&", 14, 1, "expression ends where a field", "field == value"),
        ("(port == 22", 12, 1, "expression ends where )", "column 1 is not closed"),
        ("port == 22)", 11, 1, "`)` stands where the end", "no ( before"),
        ("22 == port", 1, 2, "unknown field `22`", ""),
        ("http.host > a", 11, 1, "no order", "== or !="),
        ("http.host == *", 14, 1, "wildcard alone", "EXISTS!"),
        ("http.host == $list", 14, 5, "shortcut", "quote"),
        ("http.host == \"abc", 14, 4, "no end", "\""),
        (r#"http.host == "a\qb""#, 16, 2, "unknown escape", r"\\"),
        ("http.uri == /a/b", 13, 3, "more follows", r"\/"),
        ("http.uri == /a", 13, 2, "no end", "quote"),
        ("http.uri == /(/", 13, 3, "malformed", ""),
        ("http.uri == /a)(b/", 13, 6, "malformed", ""),
        ("http.uri == //", 13, 2, "empty", "EXISTS!"),
        ("ip == 10.0.0.0/33", 7, 11, "0 to 32", "10.0.0.0/8"),
        ("ip == example.org", 7, 11, "not an address", "10.1.2.3"),
        ("dns.ip == 10.0.0.1:53", 11, 11, "no port beside it", "`port`"),
        ("ip.protocol == tpc", 16, 3, "unknown protocol", "did you mean tcp"),
        ("tcp.state == open", 14, 4, "no value of tcp.state", "established"),
        ("mac == zz:00", 8, 5, "not a MAC", "wildcard"),
        ("starttime > yesterday", 13, 9, "not a time", "now-5m"),
        ("time.conflict == maybe", 18, 5, "not true or false", ""),
        ("é", 1, 1, "unknown field", ""),
        ("dns.host == münchen 1", 21, 1, "`1` stands where the end", "quote"),
        ("\"port\" == 1", 1, 6, "where a field", "not quoted"),
    ] {
        let error = parse(text).expect_err(text);
        assert_eq!((error.column, error.length), (column, length), "{text}: {error}");
        assert!(error.message.contains(message), "{text}: {error}");
        assert!(error.hint.contains(hint), "{text}: {error}");
    }
}

#[test]
fn bounds_are_kept_and_named() {
    let long = format!("port == [{}1]", "1,".repeat(EXPRESSION_BYTES_MAX / 2));
    assert!(parse(&long).expect_err("too long").message.contains("at most 16384"));
    let nested = |depth: usize| format!("{}port == 1{}", "(".repeat(depth), ")".repeat(depth));
    assert!(parse(&nested(DEPTH_MAX)).is_ok());
    let error = parse(&nested(DEPTH_MAX + 1)).expect_err("too deep");
    assert_eq!((error.column, error.message.contains("64")), (DEPTH_MAX + 1, true));
    assert!(parse(&format!("{}port == 1", "!".repeat(DEPTH_MAX + 1))).is_err());
    // Depth is what is open at once, not how many there are.
    assert!(parse(&vec!["(port == 1)"; 500].join(" && ")).is_ok());
    let patterns = |count: usize| vec!["a*"; count].join(",");
    assert!(parse(&format!("tags == [{}]", patterns(PATTERNS_MAX))).is_ok());
    assert!(parse(&format!("tags == [{}]", patterns(PATTERNS_MAX + 1))).is_err());
    let greedy = parse(r"tags == /(\w{100}){100}/").expect_err("too big");
    assert!(greedy.message.contains("bytes when compiled"), "{greedy}");
}

fn term(kind: FieldKind) -> BoxedStrategy<Term> {
    match kind {
        FieldKind::Ip => (any::<std::net::IpAddr>(), 0u8..=128, any::<Option<u16>>())
            .prop_map(|(address, prefix, port)| {
                let network = Network::new(address, prefix.min(if address.is_ipv4() { 32 } else { 128 }));
                Term::Ip(IpTerm { network: network.filter(|_| port != Some(80)), port })
            })
            .boxed(),
        FieldKind::Integer => {
            any::<(u64, u64)>().prop_map(|(a, b)| Term::Integer(a.min(b), a.max(b))).boxed()
        }
        FieldKind::Text => prop_oneof![
            any::<String>().prop_map(TextTerm::Exact),
            "[a-z0-9.:-]{1,9}".prop_map(TextTerm::Exact),
            (any::<String>(), prop::collection::vec(".+", 0..2), "[a-z/ \"]+").prop_map(
                |(first, inner, last)| { TextTerm::Wildcard([vec![first], inner, vec![last]].concat()) }
            ),
            prop::sample::select(vec![r"a/b\\", r"[^/]+\.example", r"\d{3}", "ä|ö", "a\nb"])
                .prop_map(|pattern| TextTerm::Regex(pattern.to_owned())),
        ]
        .prop_map(Term::Text)
        .boxed(),
        FieldKind::Time => prop_oneof![
            any::<i64>().prop_map(|ns| TimeTerm::At(UtcNs::from_unix_ns(ns / 2), Precision::Nanosecond)),
            any::<u32>().prop_map(|s| {
                TimeTerm::At(UtcNs::from_unix_ns(i64::from(s) * 1_000_000_000), Precision::Second)
            }),
            (0i64..40_000)
                .prop_map(|d| { TimeTerm::At(UtcNs::from_unix_ns(d * 86_400_000_000_000), Precision::Day) }),
            any::<i64>().prop_map(|ns| TimeTerm::Now(ns / 2)),
        ]
        .prop_map(Term::Time)
        .boxed(),
        FieldKind::Bool => any::<bool>().prop_map(Term::Bool).boxed(),
    }
}

fn comparison() -> impl Strategy<Value = Expression> {
    // Fields whose values are checked have tests of their own.
    let free: Vec<_> = FIELDS
        .iter()
        .filter(|f| {
            f.values.is_empty()
                && !f.name.starts_with("mac")
                && f.name != "ip.protocol"
                && (f.kind != FieldKind::Ip || ["ip", "ip.src", "ip.dst"].contains(&f.name))
        })
        .map(FieldRef)
        .collect();
    (prop::sample::select(free), 0usize..6, 0u8..4).prop_flat_map(|(FieldRef(field), operator, shape)| {
        let operator = Operator::ALL[operator];
        let ordered = !operator.is_equality();
        let operator = match field.kind {
            FieldKind::Text | FieldKind::Bool if ordered => Operator::Equal,
            _ => operator,
        };
        prop::collection::vec(term(field.kind), 1..4).prop_map(move |mut terms| {
            let operand = match shape {
                _ if !operator.is_equality() => Operand::One(match terms.remove(0) {
                    Term::Integer(from, _) => Term::Integer(from, from),
                    Term::Ip(IpTerm { network, .. }) => {
                        let any = Network::new(std::net::Ipv4Addr::LOCALHOST.into(), 32);
                        Term::Ip(IpTerm { network: network.or(any), port: None })
                    }
                    other => other,
                }),
                0 => Operand::Exists,
                1 => Operand::One(terms.remove(0)),
                2 => Operand::AnyOf(terms),
                _ => Operand::AllOf(terms),
            };
            // A network or a port must be there.
            let whole = |term: &Term| !matches!(term, Term::Ip(IpTerm { network: None, port: None }));
            let operand = if operand.terms().iter().all(whole) { operand } else { Operand::Exists };
            Expression::Compare(Comparison { field: FieldRef(field), operator, operand })
        })
    })
}

fn expression() -> impl Strategy<Value = Expression> {
    comparison().prop_recursive(5, 40, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|e| Expression::Not(Box::new(e))),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Expression::And),
            prop::collection::vec(inner, 2..4).prop_map(Expression::Or),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn what_is_printed_is_parsed_to_the_same(expression in expression()) {
        let text = expression.to_string();
        match parse(&text) {
            Ok(parsed) => prop_assert_eq!(parsed, expression),
            // Regexes and wildcards are few enough here; only the length may be too much.
            Err(error) => prop_assert!(text.len() > EXPRESSION_BYTES_MAX, "{}\n{}", error, error.caret(&text)),
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in any::<String>()) {
        if let Err(error) = parse(&text) {
            let _ = (error.to_string(), error.caret(&text));
        }
    }

    #[test]
    fn no_run_of_pieces_makes_the_parser_panic(pieces in prop::collection::vec(prop::sample::select(vec![
        "ip", "port", "dns.host", "starttime", "==", "!=", "<", ">=", "=", "&&", "||", "!", "(", ")", "[", "]", ",", "EXISTS!",
        "10.1", "::1", "1::2.80", "3-7", "tcp", "a*b", "/a.b/", "/", "\"", "\\", "\"x\"", "now-1h", "2023-11-14", " ", "é", "$", "\u{0}",
    ]), 0..24)) {
        let text = pieces.concat();
        match parse(&text) {
            Ok(expression) => prop_assert_eq!(parse(&expression.to_string()), Ok(expression)),
            Err(error) => {
                prop_assert!(error.column >= 1 && error.column <= text.chars().count() + 1);
                let _ = error.caret(&text);
            }
        }
    }
}

#[test]
fn what_cannot_be_asked_somewhere_is_refused_where_it_stands() {
    let scope = Scope {
        refuse: |field| (field.name == "packets").then_some("it changes with every packet"),
        relative_times: false,
    };
    assert!(parse_in("port == 443 && starttime > 2026-01-31", scope).is_ok());
    let error = parse_in("port == 443 && packets > 3", scope).expect_err("refused");
    assert_eq!((error.column, error.length), (16, 7));
    assert_eq!(error.to_string(), "column 16: packets cannot be asked here; it changes with every packet");
    let error = parse_in("starttime > now-5m", scope).expect_err("refused");
    assert_eq!((error.column, error.length), (13, 6));
}
