//! A source whose mirror is away for longer than its backlog may grow (F20), with two real processes.

use http::{Method, StatusCode};
use lockstep_tests::process::nodes::{Nodes, Told, assert_equal, log_of, noise, put, send, serves, state, until};
use lockstep_tests::process::proxy::{Proxy, Wire};

const PROGRAM: &str = env!("CARGO_BIN_EXE_rounds");
const LARGE: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_beyond_the_limit_is_given_up_and_the_mirror_gets_a_baseline() {
    let root = tempfile::tempdir().expect("a directory");
    let nodes = Nodes::new(root.path(), PROGRAM);
    let (mut a, mut b) = (nodes.site("site-a"), nodes.site("site-b"));
    let proxy = Proxy::new(&b.mirror).await.expect("a proxy");
    let more = "link_timeout = \"1s\"\nsync_interval = \"1s\"\nbacklog_limit = \"8MiB\"";
    nodes.tell(&a, &Told::nvram("24MiB").to("site-b", &proxy.address, more));
    nodes.tell(&b, &Told::nvram("24MiB").from("site-a", "24MiB", ""));
    b.start().expect("it starts");
    a.start().expect("it starts");
    state(&a, "site-a", "in_sync").await;
    serves(&a).await;
    assert_eq!(put(&a, "/bucket", "").await.0, StatusCode::OK);
    for n in 0..3 {
        assert_eq!(put(&a, &format!("/bucket/{n}"), noise(LARGE, n)).await, (StatusCode::OK, "durable".into()));
    }

    proxy.set(Wire { forth: false, back: false, ..Wire::WHOLE });
    for n in 3..12 {
        assert_eq!(put(&a, &format!("/bucket/{n}"), noise(LARGE, n)).await, (StatusCode::OK, "local".into()));
    }
    let found = state(&a, "site-a", "baseline").await;
    let lost_at = found["last_seq"].as_u64().expect("a seq");
    assert!(log_of(&a).contains("event=\"backlog_dropped\""), "{}", log_of(&a));
    // Writes go on, and the next consistency point makes room for them.
    let deleted = send(&a.s3, &a, Method::DELETE, "/bucket/1", "").await;
    assert_eq!(deleted.status, StatusCode::NO_CONTENT);
    for n in 20..24 {
        assert_eq!(put(&a, &format!("/bucket/{n}"), noise(LARGE, n)).await, (StatusCode::OK, "local".into()));
    }
    until(&a, "site-a", "trimmed", |found| found["trimmed_seq"].as_u64() >= Some(lost_at)).await;

    proxy.set(Wire::WHOLE);
    assert_equal("site-a", &a, &b).await;
    assert!(
        log_of(&b).contains("event=\"baseline_done\""),
        "the mirror caught up by records that were trimmed: {}",
        log_of(&b)
    );
    assert_eq!(put(&a, "/bucket/after", "after").await, (StatusCode::OK, "durable".into()));
    for (n, status) in [(0, StatusCode::OK), (1, StatusCode::NOT_FOUND), (11, StatusCode::OK), (23, StatusCode::OK)] {
        let read = send(&b.s3, &a, Method::GET, &format!("/bucket/{n}"), "").await;
        assert_eq!(read.status, status, "{n} at the mirror");
        assert!(status != StatusCode::OK || read.body == noise(LARGE, n), "{n} at the mirror");
    }
}
