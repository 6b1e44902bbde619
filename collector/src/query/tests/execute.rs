//! The limits of questions: how long, how many at once, and for nobody.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::query::testing::{fixture, search};
use crate::query::*;
use crate::store::Part;

#[tokio::test]
async fn a_deadline_gives_what_was_found_and_a_cursor_to_go_on() {
    let mut fixture = fixture(QueryLimits { deadline_ms: 0, ..QueryLimits::default() });
    fixture.many(300);
    let page = fixture.queries.search(search("")).await.expect("partial");
    assert!(page.flows.is_empty() && page.partial.expect("partial").contains("stopped after 0 s"));
    let count = fixture.queries.count("", TimeRange::default(), &[]).await.expect("partial");
    assert!(count.partial.is_some() && count.sums.flows < 300);
}

#[tokio::test]
async fn no_more_run_at_once_than_may() {
    let limits = QueryLimits { queries_max: 1, queue_ms: 50, tails_max: 1, ..QueryLimits::default() };
    let fixture = fixture(limits);
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let queries = fixture.queries.clone();
    let blocked = tokio::spawn(async move { queries.run(Operation::Get, move |_| Ok(held.recv())).await });
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    let error = fixture.queries.count("", TimeRange::default(), &[]).await.expect_err("busy");
    assert!(matches!(error, QueryError::Busy { limit: 1, .. }), "{error}");
    drop(hold);
    assert!(blocked.await.is_ok());
    assert!(fixture.queries.count("", TimeRange::default(), &[]).await.is_ok());

    let tail = fixture.queries.tail("", Following::default()).await.expect("tail");
    assert!(matches!(fixture.queries.tail("", Following::default()).await, Err(QueryError::Busy { .. })));
    drop(tail);
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert!(fixture.queries.tail("", Following::default()).await.is_ok());
}

#[tokio::test]
async fn a_question_nobody_waits_for_is_given_up() {
    let mut fixture = fixture(QueryLimits::default());
    fixture.many(1000);
    let (tell, told) = std::sync::mpsc::channel();
    let selection = fixture.queries.selection("", TimeRange::default()).expect("selection");
    let queries = fixture.queries.clone();
    let asked = tokio::spawn(async move {
        queries
            .run(Operation::Count, move |control| {
                let seen = AtomicUsize::new(0);
                let walked = selection.walk(&control, &|(): &mut (), part| {
                    let Part::Flows(flows) = part else { return Ok(()) };
                    seen.fetch_add(flows.len(), Ordering::Relaxed);
                    std::thread::sleep(std::time::Duration::from_millis(5) * flows.len() as u32);
                    Ok(())
                });
                let ended = matches!(walked, Err(QueryError::Cancelled)) && seen.into_inner() < 1000;
                let _ = tell.send(ended);
                Ok(())
            })
            .await
    });
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    asked.abort();
    let ended =
        tokio::task::spawn_blocking(move || told.recv_timeout(std::time::Duration::from_secs(2))).await;
    assert!(ended.expect("join").expect("it ends before it has seen all"));
}
