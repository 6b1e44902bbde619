//! Counts, tops and histograms over a real store.

use crate::query::testing::fixture;
use crate::query::*;
use crate::store::testing::S;

#[tokio::test]
async fn sums_are_exact() {
    let mut fixture = fixture(QueryLimits::default());
    fixture.many(210);
    let queries = &fixture.queries;
    let count = queries.count("ip.src == 10.0.0.3", TimeRange::default()).await.expect("count");
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
