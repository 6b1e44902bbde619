//! What a collector says it has: less than it acknowledged, more than it was sent, and what of it is settled.

use super::*;

fn said(n: u64, seq: u64, settled: Option<u64>) -> Durable {
    Durable { epoch: epoch(n), seq, settled }
}

fn filled(dir: &Path, entries: u64) -> (Spool, Appender, Reader) {
    let (spool, mut appender, reader) = open_in(&limits(dir, 1 << 30, 2048));
    for _ in 0..entries {
        appender.append(Lane::Flows, &epoch(1), 1, &[1; 300]);
    }
    (spool, appender, reader)
}

#[test]
fn what_is_not_settled_is_kept_over_a_restart_and_sent_again_when_it_was_lost() {
    let dir = tempfile::tempdir().unwrap();
    let limits = limits(dir.path(), 1 << 30, 2048);
    let (spool, appender, mut reader) = filled(dir.path(), 50);
    assert_eq!(all_seqs(&mut reader).len(), 50);
    spool.ack(&epoch(1), 40, Some(20));
    let status = spool.status();
    assert_eq!((status.entries, status.items), (10, 10), "what is acknowledged is no backlog");
    assert!(status.unsettled_bytes > 0);
    assert_eq!(spool.acked(), [said(1, 40, Some(20))]);
    drop((spool, appender, reader));
    let (spool, appender, mut reader) = open_in(&limits);
    assert_eq!((spool.status().entries, spool.acked()), (10, vec![said(1, 40, Some(20))]));
    // Nothing was lost there.
    assert_eq!(spool.durable(&[said(1, 40, Some(20))], &[epoch(1)], &epoch(2)), []);
    assert_eq!(all_seqs(&mut reader), (41..=50).collect::<Vec<_>>());
    // The log of the collector was damaged.
    spool.durable(&[said(1, 25, Some(25))], &[epoch(1)], &epoch(2));
    assert_eq!(all_seqs(&mut reader), (26..=50).collect::<Vec<_>>());
    assert_eq!((spool.status().entries, spool.status().asked_again), (25, 15));
    // It lost more than it had settled, and says nothing of what it does not know.
    spool.durable(&[], &[epoch(1)], &epoch(2));
    let seqs = all_seqs(&mut reader);
    assert!(seqs[0] <= 26 && seqs.ends_with(&(26..=50).collect::<Vec<_>>()), "{seqs:?}");
    spool.ack(&epoch(1), 50, Some(30));
    assert!(spool.is_drained());
    assert!(!files(dir.path()).is_empty());
    // The same acknowledgement again, and more is settled.
    spool.ack(&epoch(1), 50, Some(50));
    assert!(files(dir.path()).is_empty(), "{:?}", files(dir.path()));
    drop((spool, appender));
}

#[test]
fn what_is_not_settled_goes_first_when_room_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, mut appender, mut reader) = open_in(&limits(dir.path(), 32 << 10, 2048));
    for _ in 0..20 {
        appender.append(Lane::Flows, &epoch(1), 1, &[1; 300]);
    }
    assert_eq!(all_seqs(&mut reader).len(), 20);
    spool.ack(&epoch(1), 20, Some(0));
    let mut appended = 20;
    while files(dir.path()).len() > 1 && spool.status().unsettled_bytes > 0 {
        appender.append(Lane::Slices, &epoch(1), 1, &[1; 300]);
        appended += 1;
        assert!(appended < 200);
    }
    assert!(appended > 40);
    let status = spool.status();
    assert_eq!(
        (status.sacrificed_slices, status.sacrificed_flows),
        Default::default(),
        "nothing was given up"
    );
    assert_eq!(status.entries, appended - 20);
}

#[test]
fn an_old_collector_settles_what_it_acknowledges() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _appender, mut reader) = filled(dir.path(), 50);
    assert_eq!(all_seqs(&mut reader).len(), 50);
    spool.ack(&epoch(1), 50, None);
    assert_eq!((spool.status().unsettled_bytes, files(dir.path()).len()), (0, 1));
}

/// Claims of more than was sent, by this process and by one before it.
#[test]
fn a_collector_that_claims_what_it_was_never_sent_makes_nobody_forget() {
    for claimed in [51, 60, 5_000, u64::MAX / 2, u64::MAX] {
        for restarted in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let limits = limits(dir.path(), 1 << 30, 2048);
            let (mut spool, mut appender, mut reader) = filled(dir.path(), 50);
            for _ in 0..10 {
                reader.next_entry().unwrap();
            }
            spool.ack(&epoch(1), 10, None);
            if restarted {
                drop((spool, appender, reader));
                (spool, appender, reader) = open_in(&limits);
            }
            let current = epoch(if restarted { 2 } else { 1 });
            let conflicts = spool.durable(&[said(1, claimed, Some(claimed))], &[], &current);
            assert_eq!((conflicts.len(), conflicts[0].claimed), (1, claimed));
            let status = spool.status();
            assert_eq!((status.entries, status.ledger_conflicts), (40, 1), "{claimed}: nothing is forgotten");
            let check = |reader: &mut Reader, expected: u64| {
                let sent: Vec<SpoolEntry> = std::iter::from_fn(|| reader.next_entry()).collect();
                assert_eq!(sent.len() as u64, expected, "{claimed}");
                assert!(sent.is_sorted_by_key(|entry| entry.seq));
                // Either beyond what was claimed, or under a name of which nothing was.
                let first = &sent[0];
                assert!(first.epoch != epoch(1) || first.seq > claimed, "{claimed}: {}", first.seq);
                assert_eq!((first.epoch.agent, first.epoch.boot_id), (epoch(1).agent, epoch(1).boot_id));
                sent
            };
            let sent = check(&mut reader, 40);
            spool.ack(&sent[19].epoch, sent[19].seq, None);
            assert_eq!(spool.status().entries, 20);
            // The names on the wire outlive the process, so that what was acknowledged is not sent again.
            drop((spool, appender, reader));
            (spool, appender, reader) = open_in(&limits);
            let durable =
                [said(1, claimed, None), Durable { epoch: sent[19].epoch, seq: sent[19].seq, settled: None }];
            let known: &[Durable] = if sent[19].epoch == epoch(1) { &durable[1..] } else { &durable };
            assert_eq!(spool.durable(known, &[], &epoch(3)), []);
            let sent = check(&mut reader, 20);
            spool.ack(&sent[19].epoch, sent[19].seq, None);
            assert!(spool.is_drained());
            drop(appender);
        }
    }
}

/// The epoch that is being captured in, of which nothing was written yet.
#[test]
fn a_claim_about_an_epoch_that_has_just_begun_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, mut appender, mut reader) = filled(dir.path(), 0);
    assert_eq!(spool.durable(&[said(1, 7, None)], &[], &epoch(1)).len(), 1);
    appender.append(Lane::Flows, &epoch(1), 1, b"first");
    assert_eq!(reader.next_entry().unwrap().seq, 8);
    spool.ack(&epoch(1), 8, None);
    assert!(spool.is_drained());
}
