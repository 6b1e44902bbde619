//! Counts, tops and histograms over a real store.

use crate::query::testing::fixture;
use crate::query::*;
use crate::store::testing::{S, epoch, record, seal};

#[tokio::test]
async fn sums_are_exact() {
    let mut fixture = fixture(QueryLimits::default());
    fixture.many(210);
    let queries = &fixture.queries;
    let count = queries.count("ip.src == 10.0.0.3", TimeRange::default(), &[]).await.expect("count");
    assert_eq!(count.sums, Sums { flows: 30, packets: 30, bytes: 2400 });

    let top = Top { fields: vec!["ip.src".into(), "port.dst".into()], limit: 4, ..Top::default() };
    let answer = queries.top(top).await.expect("top");
    assert_eq!(answer.rows.iter().map(|row| row.sums.flows).collect::<Vec<_>>(), [10; 4]);
    assert_eq!(answer.rows[0].values, ["10.0.0.0", "0"], "equal sums go by value");
    assert_eq!((answer.others_flows, answer.partial), (170, None));

    // Either side counts, and a flow between one address counts once.
    let answer = queries.top(Top { fields: vec!["ip".into()], ..Top::default() }).await.expect("top");
    assert_eq!((answer.rows[0].values[0].as_str(), answer.rows[0].sums.flows), ("10.0.0.2", 210));
    // A field that no flow has gives no row.
    let answer = queries.top(Top { fields: vec!["dns.host".into()], ..Top::default() }).await.expect("top");
    assert!(answer.rows.is_empty() && answer.others_flows == 0);

    let histogram = Histogram { interval_ns: S, ..Histogram::default() };
    let answer = queries.histogram(histogram.clone()).await.expect("histogram");
    assert_eq!(answer.buckets.iter().map(|b| b.sums.flows).sum::<u64>(), 210);
    assert!(answer.buckets.iter().all(|b| b.start.unix_ns() % S.cast_signed() == 0));
    assert_eq!(answer.buckets[0].sums.flows, 99, "10 ms apart from 1.01 s on");
    let split = Histogram { group: "port.dst".into(), ..histogram };
    let answer = queries.histogram(split).await.expect("histogram");
    assert_eq!(answer.buckets.iter().filter(|b| b.group == "1").map(|b| b.sums.flows).sum::<u64>(), 70);
    let chosen = queries.histogram(Histogram::default()).await.expect("histogram");
    assert_eq!(chosen.interval_ns, 2 * S, "100 s to now in about 60");
    let fine = queries.histogram(Histogram { interval_ns: 1000, ..Histogram::default() }).await;
    assert!(fine.expect_err("too fine").to_string().contains("more than 10000 buckets"));
}

#[tokio::test]
async fn different_values_are_counted_and_ranked_by() {
    let mut fixture = fixture(QueryLimits::default());
    // 10.0.0.1 asks 10.0.0.2 at 3000 ports, three times each; 10.0.0.3 asks it 40,000 times at one.
    let mut seq = 0;
    let mut add = |src: u8, ports: std::ops::Range<u64>, port: fn(u64) -> u16| {
        let of = |n: u64| {
            let mut record = record(u64::from(src) << 32 | n, 0, S, S);
            record.key.addresses = gnomon_flow::Addresses::V4 { orig: [10, 0, 0, src], resp: [10, 0, 0, 2] };
            record.key.resp_port = port(n);
            record
        };
        for chunk in ports.clone().step_by(1000) {
            seq += 1;
            fixture.add(epoch(1), seq, (chunk..(chunk + 1000).min(ports.end)).map(of).collect());
        }
    };
    add(1, 0..9000, |n| (n % 3000) as u16);
    add(3, 0..12_000, |_| 443);
    add(4, 0..500, |n| n as u16);
    let pairs = Top {
        fields: vec!["ip.src".into(), "ip.dst".into()],
        distinct: vec!["port.dst".into(), "ip.src".into()],
        by: Measure::Distinct,
        ..Top::default()
    };
    for sealed in [false, true] {
        if sealed {
            seal(&mut fixture.writer);
        }
        let answer = fixture.queries.top(pairs.clone()).await.expect("top");
        let sources: Vec<&str> = answer.rows.iter().map(|row| row.values[0].as_str()).collect();
        assert_eq!(sources, ["10.0.0.1", "10.0.0.4", "10.0.0.3"]);
        let [many, few, one] = &answer.rows[..] else { panic!("{answer:?}") };
        let off = (many.distinct[0].count as f64 / 3000.0 - 1.0).abs();
        assert!(many.distinct[0].error == 0.016 && off < 0.08, "{many:?}");
        assert_eq!((few.distinct[0].count, few.distinct[0].error), (500, 0.0));
        assert_eq!((one.distinct[0].count, one.sums.flows), (1, 12_000));
        assert!(answer.rows.iter().all(|row| row.distinct[1].count == 1) && answer.partial.is_none());

        let asked = ["port.dst".to_owned(), "dns.host".to_owned()];
        let answer = fixture.queries.count("ip.src != 10.0.0.3", TimeRange::default(), &asked).await;
        let answer = answer.expect("count");
        let counts: Vec<_> =
            answer.distinct.iter().map(|different| (different.count, different.error)).collect();
        assert_eq!((counts, answer.sums.flows), (vec![(3000, 0.0), (0, 0.0)], 9500));
    }
    let wrong = Top { distinct: Vec::new(), ..pairs.clone() };
    let error = fixture.queries.top(wrong).await.expect_err("no field").to_string();
    assert_eq!(error, "by: distinct needs a field to count: name it in `distinct`");
    let wrong = Top { distinct: vec!["nonsense".into()], ..pairs };
    let error = fixture.queries.top(wrong).await.expect_err("no field").to_string();
    assert!(error.starts_with("distinct: unknown field `nonsense`"), "{error}");
}
