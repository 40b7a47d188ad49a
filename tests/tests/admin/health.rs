//! Readiness of real nodes as their roles change: what load balancers and DNS health checks go by.

use std::time::{Duration, Instant};

use lockstep_mirror::status::StreamState;
use lockstep_tests::node::{Node, Options, PATIENCE};
use lockstep_tests::raw::{Ask, admin};

/// Asks one question after the other.
async fn expect(node: &Node, what: &str, questions: &[(&str, u16)]) {
    for (query, status) in questions {
        let answer = admin(node, "GET", &format!("/health/ready?{query}"), "").await;
        assert_eq!(answer.status, *status, "{what}, {query}: {}", answer.text());
        let sentence = answer.text().contains("\"reason\": \"");
        assert_eq!(sentence, *status == 503, "{what}, {query}: {}", answer.text());
    }
}

/// A source and its destination, in sync, under a policy; the link counts as lost soon.
async fn pair(policy: &str) -> (Node, Node) {
    let b = Node::destination().await;
    let tables = format!(
        "[mirror.destination]\nnode = \"site-b\"\nurl = \"http://{}\"\npolicy = \"{policy}\"\nlink_timeout = \"500ms\"\n",
        b.mirror
    );
    let a = Node::start(Options { tables, ..Options::default() }).await;
    a.wait_for("in sync", |state| state == StreamState::InSync).await;
    b.wait_for("in sync", |state| state == StreamState::InSync).await;
    (a, b)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_is_active_in_sync_and_out_of_sync_as_its_policy_says() {
    for (policy, alone) in [("sync", 200), ("strict", 503)] {
        let (a, b) = pair(policy).await;
        let in_sync = [
            ("", 200),
            ("role=active", 200),
            ("max_lag=60", 200),
            ("role=active&max_lag=60", 200),
            ("role=active&origin=site-a&max_lag=60", 200),
            ("origin=site-b", 503),
        ];
        expect(&a, &format!("the source in sync, {policy}"), &in_sync).await;
        drop(b);
        // The listener answers while this waits for the mirror.
        assert_eq!(Ask::new(&a, "PUT", "/bucket").send().await.status, alone);
        a.wait_for("out of sync", |state| state == StreamState::OutOfSync).await;
        let out_of_sync = [
            ("", 200),
            ("role=active", alone),
            ("max_lag=3600", 200),
            ("role=active&max_lag=3600", alone),
            ("role=active&origin=site-a&max_lag=3600", alone),
            // The record that was answered alone is older than the limit that made the link a lost one. Under strict it may
            // have been refused before it was one.
            ("role=active&max_lag=0", 503),
            ("max_lag=0", 503),
        ];
        let out_of_sync = if policy == "sync" { &out_of_sync[..] } else { &out_of_sync[..6] };
        expect(&a, &format!("the source out of sync, {policy}"), out_of_sync).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_is_active_when_it_is_promoted_and_its_source_no_longer() {
    let (a, b) = pair("sync").await;
    let mirrors = [
        ("", 200),
        ("role=active", 503),
        ("max_lag=60", 200),
        ("role=active&max_lag=60", 503),
        ("role=active&origin=site-a", 503),
        ("role=active&origin=site-b", 200),
        ("max_lag=60&origin=site-a", 200),
    ];
    expect(&b, "the destination", &mirrors).await;
    let promote = admin(&b, "POST", "/v1/promote", "{\"origin\": \"site-a\"}").await;
    assert_eq!(promote.status, 200, "{}", promote.text());
    a.wait_for("fenced", |state| state == StreamState::Fenced).await;
    let took_over = [
        ("", 200),
        ("role=active", 200),
        ("max_lag=60", 200),
        ("role=active&max_lag=60", 200),
        ("role=active&origin=site-a&max_lag=60", 200),
    ];
    expect(&b, "the promoted node", &took_over).await;
    // The promoted node has no way back: nothing comes from there.
    let fenced = [
        ("", 200),
        ("role=active", 503),
        ("max_lag=60", 503),
        ("role=active&max_lag=60", 503),
        ("role=active&origin=site-a", 503),
    ];
    // It is fenced before it is a destination: that is when its fence is durable.
    let began = Instant::now();
    while admin(&a, "GET", "/health/ready?max_lag=60", "").await.status != 503 {
        assert!(began.elapsed() < PATIENCE, "the fenced node is no destination");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    expect(&a, "the fenced node", &fenced).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_whose_source_is_silent_falls_behind_and_one_that_never_heard_of_it_says_so() {
    let (a, b) = pair("sync").await;
    drop(a);
    let began = Instant::now();
    loop {
        let answer = admin(&b, "GET", "/health/ready?max_lag=1", "").await;
        if answer.status == 503 {
            let said = answer.text();
            assert!(said.contains("the stream of site-a is ") && said.contains(" s behind"), "{said}");
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{}", answer.text());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    expect(&b, "the destination without its source", &[("", 200), ("max_lag=3600", 200), ("role=active", 503)]).await;
    let never = Node::destination().await;
    let answer = admin(&never, "GET", "/health/ready?max_lag=3600", "").await;
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("the source of site-a has not been heard of yet"), "{}", answer.text());
    expect(&never, "a destination without a source", &[("", 200), ("role=active", 503)]).await;
}
