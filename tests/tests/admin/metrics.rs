//! The figures in `/metrics`.

use std::time::{Duration, Instant};

use lockstep_tests::node::{Node, PATIENCE};
use lockstep_tests::raw::{Ask, admin};

/// The values of a metric, one for each set of labels.
async fn values(node: &Node, name: &str) -> Vec<u64> {
    let text = admin(node, "GET", "/metrics", "").await.text();
    let is_named = |line: &&str| line.split(['{', ' ']).next() == Some(name);
    let value = |line: &str| line.rsplit(' ').next()?.parse().ok();
    text.lines().filter(is_named).map(|line| value(line).unwrap_or_else(|| panic!("{line}"))).collect()
}

/// Found by reading: the counter of records counted what clients of the node handed in, also what was refused. So it stood
/// still at a node that only mirrors, and at a source it missed what the node itself puts in its log.
#[tokio::test]
async fn records_are_counted_wherever_they_come_from_once_each() {
    let (a, b) = Node::pair().await;
    assert_eq!(Ask::new(&a, "PUT", "/bucket").send().await.status, 200);
    for number in 0..5 {
        let put = Ask::new(&a, "PUT", &format!("/bucket/{number}")).body(vec![number; 1_500_000]);
        assert_eq!(put.send().await.status, 200);
    }
    for node in [&a, &b] {
        let began = Instant::now();
        loop {
            // Both regions are new: what was ever put in their logs is what was put there since the start.
            let persisted: u64 = values(node, "lockstep_persisted_seq").await.iter().sum();
            let counted = values(node, "lockstep_log_records_total").await;
            // Bucket, objects, and two chunks of each.
            if persisted > 16 && counted == [persisted] {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "{}: {counted:?} counted, {persisted} persisted", node.name);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn a_lost_link_and_the_clock_of_the_peer_are_in_the_figures() {
    let (a, b) = Node::pair().await;
    for node in [&a, &b] {
        let began = Instant::now();
        loop {
            let text = admin(node, "GET", "/metrics", "").await.text();
            let skew = text
                .lines()
                .find_map(|line| line.strip_prefix("lockstep_stream_clock_skew_seconds{origin=\"site-a\"} "));
            if let Some(skew) = skew {
                // Both have one clock.
                assert!(skew.parse::<f64>().is_ok_and(|skew| skew.abs() < 1.0), "{skew}");
                break;
            }
            assert!(began.elapsed() < PATIENCE, "{} does not know the time of its peer", node.name);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert_eq!(values(&a, "lockstep_stream_link_losses_total").await, [0]);
    let changes = values(&a, "lockstep_stream_state_changes_total").await;
    drop(b);
    let began = Instant::now();
    while values(&a, "lockstep_stream_link_losses_total").await != [1] {
        assert!(began.elapsed() < PATIENCE, "a link that is gone is not counted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(values(&a, "lockstep_stream_flapping").await, [0], "once is not often");
    assert!(changes[0] >= 2 && values(&a, "lockstep_stream_state_changes_total").await >= changes);
}
