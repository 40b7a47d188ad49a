//! Two real nodes that mirror each other, with as little NVRAM as they can have, both under more than it holds (F43): neither
//! waits for the other for ever.

use std::time::Instant;

use http::StatusCode;
use lockstep_gateway::demo::sites::Site;
use lockstep_tests::process::nodes::{Nodes, PATIENCE, Told, assert_equal, noise, put, serves, state, until};

const PROGRAM: &str = env!("CARGO_BIN_EXE_rounds");
const WRITERS: u64 = 4;
/// Objects of each writer, and their length: in all much more than a partition.
const OBJECTS: u64 = 12;
const LARGE: usize = 6 << 20;

/// A writer's objects, one after the other. Each must be at both sites when it is answered.
async fn write(site: &Site, writer: u64) {
    for n in 0..OBJECTS {
        let body = noise(LARGE, writer * OBJECTS + n).slice(..LARGE - n as usize * 1000);
        let answer = put(site, &format!("/bucket/{writer}/{n}"), body).await;
        assert_eq!(answer, (StatusCode::OK, "durable".into()), "{} writes {writer}/{n}", site.name);
    }
}

async fn load(site: &Site) {
    tokio::join!(write(site, 0), write(site, 1), write(site, 2), write(site, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_that_mirror_each_other_go_on_when_both_are_full() {
    let root = tempfile::tempdir().expect("a directory");
    let nodes = Nodes::new(root.path(), PROGRAM);
    let (mut a, mut b) = (nodes.site("site-a"), nodes.site("site-b"));
    // Nobody gives up before the test does.
    let more = "policy = \"strict\"\nlink_timeout = \"120s\"\nsync_interval = \"500ms\"";
    let told = |to: &Site| Told::nvram("24MiB").to(to.name, &to.mirror, more).from(to.name, "24MiB", "");
    nodes.tell(&a, &told(&b));
    nodes.tell(&b, &told(&a));
    a.start().expect("it starts");
    b.start().expect("it starts");
    for site in [&a, &b] {
        state(site, site.name, "in_sync").await;
        serves(site).await;
        assert_eq!(put(site, "/bucket", "").await.0, StatusCode::OK);
    }
    let began = Instant::now();
    let done = tokio::time::timeout(PATIENCE * 5, async { tokio::join!(load(&a), load(&b)) }).await;
    let bytes = 2 * WRITERS * OBJECTS * LARGE as u64;
    assert!(done.is_ok(), "they wait for each other: {:?}, {:?}", a.origin("site-a").await, b.origin("site-b").await);
    println!("{} MiB both ways in {:?}", bytes >> 20, began.elapsed());
    // It was more than the partitions could take at once, at either end of either stream.
    for site in [&a, &b] {
        let mut waits = 0;
        for origin in ["site-a", "site-b"] {
            let found = until(site, origin, "there", |_| true).await;
            waits += found["segment_waits"].as_u64().unwrap_or_default();
        }
        assert!(waits > 0, "{} was never full", site.name);
    }
    assert_equal("site-a", &a, &b).await;
    assert_equal("site-b", &b, &a).await;
}
