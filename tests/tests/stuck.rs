//! A record in a real node's container that cannot be applied (F42): the node says which, serves its image from before it, goes on
//! taking the log, and can be filled anew.

use std::time::Duration;

use http::{Method, StatusCode};
use lockstep_gateway::demo::sites::Site;
use lockstep_storage::id::Seq;
use lockstep_storage::image::{Change, Engine, Family, keys};
use lockstep_tests::process::nodes::{
    Nodes, Told, assert_equal, engine_of, log_of, noise, put, send, serves, state, until,
};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_rounds");
const ORIGIN: &str = "site-a";

/// Flips a bit of a record in the container of a node that does not run.
fn damage(site: &Site, seq: u64) {
    let engine = engine_of(site, ORIGIN);
    let key = keys::log(Seq(seq));
    let mut bytes = engine.snapshot().get(Family::Log, &key).expect("reads").expect("it is there").to_vec();
    bytes[30] ^= 4;
    engine.commit(vec![Change::Put(Family::Log, key, bytes.into())]).expect("commits");
    engine.flush().expect("durable");
}

/// A pair whose destination has a record that it will not be able to apply; its seq.
async fn pair(nodes: &Nodes) -> (Site, Site, u64) {
    let (mut a, mut b) = (nodes.site("site-a"), nodes.site("site-b"));
    // Consistency points come when the test asks for them.
    let more = "link_timeout = \"5s\"\nsync_interval = \"1h\"";
    nodes.tell(&a, &Told::nvram("24MiB").to("site-b", &b.mirror, more));
    nodes.tell(&b, &Told::nvram("24MiB").from(ORIGIN, "24MiB", ""));
    b.start().expect("it starts");
    a.start().expect("it starts");
    state(&a, ORIGIN, "in_sync").await;
    serves(&a).await;
    assert_eq!(put(&a, "/bucket", "").await.0, StatusCode::OK);
    assert_eq!(put(&a, "/bucket/before", "before").await.0, StatusCode::OK);
    a.operate(&["sync"]).await.expect("a consistency point");
    let answer = send(&a.s3, &a, Method::PUT, "/bucket/damaged", "damaged at site-b").await;
    let place = answer.headers["x-lockstep-seq"].to_str().expect("text").to_owned();
    let seq = place.rsplit('/').next().and_then(|seq| seq.parse().ok()).expect("a seq");
    assert_eq!(put(&a, "/bucket/after", "after").await, (StatusCode::OK, "durable".into()));
    // A start writes out what the NVRAM holds, and does not read it again.
    b.kill();
    b.start().expect("it starts");
    until(&b, ORIGIN, "in sync again", |found| found["state"] == "in_sync").await;
    b.kill();
    damage(&b, seq);
    b.start().expect("it starts");
    state(&b, ORIGIN, "in_sync").await;
    state(&a, ORIGIN, "in_sync").await;
    (a, b, seq)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_applied_is_named_and_holds_up_nothing_else() {
    let root = tempfile::tempdir().expect("a directory");
    let nodes = Nodes::new(root.path(), PROGRAM);
    let (a, b, seq) = pair(&nodes).await;
    let point = a.admin().expect("its token");
    let never = tokio::time::timeout(Duration::from_secs(2), point.call(Method::POST, "/v1/sync", None)).await;
    assert!(!matches!(never, Ok(Ok(_))), "a point was claimed: {never:?}");
    let found = until(&b, ORIGIN, "stuck", |found| found["stuck_seq"] == seq).await;
    assert_eq!(found["applied_seq"], seq - 1, "{found}");

    // The node says so to whoever asks: people, alarms, load balancers, the log.
    let status = b.operate(&["status"]).await.expect("a status");
    assert!(status.contains(&format!("record {seq} cannot be applied")), "{status}");
    let metrics = send_admin(&b, "/metrics").await;
    assert!(metrics.contains(&format!("lockstep_apply_stuck{{origin=\"{ORIGIN}\"}} 1")), "{metrics}");
    let health = send_admin(&b, &format!("/health/ready?role=active&origin={ORIGIN}")).await;
    assert!(health.contains(&format!("record {seq} of {ORIGIN} cannot be applied")), "{health}");
    let alarm = log_of(&b).lines().filter(|line| line.contains("ERROR") && line.contains("cannot be applied")).count();
    assert_eq!(alarm, 1, "once, and not in a loop: {}", log_of(&b));
    let shown = b.operate(&["record", ORIGIN, &seq.to_string()]).await.expect("the record");
    assert!(shown.contains("not applied") && shown.contains("cannot be used: corrupt"), "{shown}");
    let sound = a.operate(&["record", ORIGIN, &seq.to_string(), "--json"]).await.expect("the record");
    let sound: Value = serde_json::from_str(&sound).expect("JSON");
    assert_eq!((&sound["op"]["kind"], &sound["op"]["key"]), (&"put_object".into(), &"damaged".into()), "{sound}");
    assert_eq!(sound["damage"], Value::Null, "{sound}");
    let none = b.operate(&["record", ORIGIN, "999999"]).await.expect_err("there is none");
    assert!(none.contains("is not here: the container has those from"), "{none}");

    // The log goes on, and what was applied before is served.
    assert_eq!(put(&a, "/bucket/more", noise(1 << 20, 1)).await, (StatusCode::OK, "durable".into()));
    let read = send(&b.s3, &a, Method::GET, "/bucket/before", "").await;
    assert_eq!((read.status, &read.body[..]), (StatusCode::OK, &b"before"[..]));
    assert_eq!(send(&b.s3, &a, Method::GET, "/bucket/damaged", "").await.status, StatusCode::NOT_FOUND);
    let refused = b.operate(&["promote", ORIGIN, "--accept-loss"]).await.expect_err("a promote would never end");
    assert!(refused.contains(&format!("record {seq} of {ORIGIN} cannot be applied")), "{refused}");

    // The way out: the source has it.
    let token = a.token_file().display().to_string();
    let words = ["rebuild", ORIGIN, "--from", &a.admin, "--from-token-file", &token, "--accept-loss"];
    b.operate(&words).await.expect("a rebuild");
    assert_equal(ORIGIN, &a, &b).await;
    let found = b.origin(ORIGIN).await.expect("a status");
    assert_eq!(found["stuck_seq"], Value::Null, "{found}");
    let read = send(&b.s3, &a, Method::GET, "/bucket/damaged", "").await;
    assert_eq!((read.status, &read.body[..]), (StatusCode::OK, &b"damaged at site-b"[..]));
}

/// What the admin listener says, whatever its status.
async fn send_admin(site: &Site, target: &str) -> String {
    let address = site.admin.trim_start_matches("http://");
    let answer = send(address, site, Method::GET, target, "").await;
    String::from_utf8_lossy(&answer.body).into_owned()
}
