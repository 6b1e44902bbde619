//! What waits for evidence of its time is told by every question that it would be an answer to.

use super::super::testing::{fixture, numbered, search};
use super::super::{Facets, Histogram, QueryLimits, TimeRange, Top, Waiting};
use crate::store::testing::{S, epoch, seal};

#[tokio::test]
async fn records_that_wait_are_told_by_every_question() {
    let mut fixture = fixture(QueryLimits::default());
    fixture.add(epoch(1), 1, vec![numbered(1, 3 * S)]);
    // Of this epoch nothing is known: its records wait, sealed in a block and not.
    fixture.add(epoch(9), 1, (10..14).map(|id| numbered(id, 3 * S)).collect());
    seal(&mut fixture.writer);
    fixture.add(epoch(9), 2, (14..17).map(|id| numbered(id, 3 * S)).collect());
    let queries = &fixture.queries;
    let waits = |flows| Waiting { counts: vec![("pending", "no-fix", flows)], not_looked_at: 0 };

    let page = queries.search(search("")).await.unwrap();
    assert_eq!((page.flows.len(), &page.waiting), (1, &waits(7)));
    // What does not match is not told, and one range is as good as another.
    let range = TimeRange { until: Some(super::super::testing::utc(S)), ..TimeRange::default() };
    for (expression, waiting) in [
        ("", waits(7)),
        ("port.dst == [0,1,2]", waits(7)),
        ("port.dst == 3", Waiting::default()),
        ("ip.src == 192.0.2.77", Waiting::default()),
    ] {
        let count = queries.count(expression, range, &[]).await.unwrap();
        assert_eq!(count.waiting, waiting, "{expression}");
    }
    let top = Top { fields: vec!["port.dst".to_owned()], ..Top::default() };
    assert_eq!(queries.top(top).await.unwrap().waiting, waits(7));
    assert_eq!(queries.histogram(Histogram::default()).await.unwrap().waiting, waits(7));
    let mut answers = queries.facets(Facets::default()).await.unwrap();
    assert_eq!(answers.recv().await.unwrap().unwrap().waiting, waits(7));
    // Who asks for them finds them.
    for expression in ["time.state == pending", "time.state == [pending,quarantined]"] {
        let page = queries.search(search(expression)).await.unwrap();
        assert_eq!((page.flows.len(), page.waiting), (7, Waiting::default()), "{expression}");
    }
}
