//! Two sources at one destination (F18, F19), three real nodes: what holds one of them up does not hold up the other.

use std::time::{Duration, Instant};

use http::StatusCode;
use lockstep_gateway::demo::sites::Site;
use lockstep_tests::process::disk::Disk;
use lockstep_tests::process::nodes::{Nodes, PATIENCE, Told, assert_equal, noise, put, serves, state, until};
use lockstep_tests::process::proxy::{Proxy, Wire};

const PROGRAM: &str = env!("CARGO_BIN_EXE_rounds");
const LARGE: usize = 4 << 20;
/// Writes that are timed.
const TIMED: u64 = 60;
/// What another load on the machine may add to a write. Whoever waits for the other source waits for much longer.
const NOISE: Duration = Duration::from_millis(400);

/// `site-a` and `site-c`, both mirrored at `site-b`.
struct Three {
    a: Site,
    b: Site,
    c: Site,
    /// From C to B.
    proxy: Proxy,
}

impl Three {
    /// They run and are in sync; each source has a bucket. `more` are lines of C's stream; B has the engine of C's origin on
    /// this disk, where there is one.
    async fn start(nodes: &Nodes, more: &str, disk: Option<&Disk>) -> Self {
        let (mut a, mut b, mut c) = (nodes.site("site-a"), nodes.site("site-b"), nodes.site("site-c"));
        let proxy = Proxy::new(&b.mirror).await.expect("a proxy");
        let calm = "policy = \"strict\"\nlink_timeout = \"60s\"";
        nodes.tell(&a, &Told::nvram("24MiB").to("site-b", &b.mirror, calm));
        nodes.tell(&b, &Told::nvram("24MiB").from("site-a", "24MiB", "").from("site-c", "24MiB", ""));
        nodes.tell(&c, &Told::nvram("24MiB").to("site-b", &proxy.address, more));
        if let Some(disk) = disk {
            let origins = b.dir.join("origins");
            std::fs::create_dir_all(&origins).expect("a directory");
            std::os::unix::fs::symlink(disk.path(), origins.join("site-c")).expect("a link");
        }
        for site in [&mut b, &mut a, &mut c] {
            site.start().expect("it starts");
        }
        for site in [&a, &c] {
            state(site, site.name, "in_sync").await;
            serves(site).await;
            assert_eq!(put(site, "/bucket", "").await.0, StatusCode::OK);
        }
        Self { a, b, c, proxy }
    }

    /// The slowest of A's writes, and the one in the middle. Each is at B when it is answered.
    async fn timed(&self) -> (Duration, Duration) {
        let mut times = Vec::new();
        for n in 0..TIMED {
            let began = Instant::now();
            let answer = put(&self.a, &format!("/bucket/{n}"), noise(4096, n)).await;
            times.push(began.elapsed());
            assert_eq!(answer, (StatusCode::OK, "durable".into()));
        }
        times.sort_unstable();
        (times[times.len() - 1], times[times.len() / 2])
    }

    /// Both are in sync with B, and the images are equal.
    async fn end(self) {
        assert_equal("site-a", &self.a, &self.b).await;
        assert_equal("site-c", &self.c, &self.b).await;
    }
}

fn assert_not_held_up(alone: (Duration, Duration), beside: (Duration, Duration)) {
    println!("A's writes, slowest and median: {alone:?} alone, {beside:?} beside");
    assert!(beside.1 <= alone.1 * 4 + Duration::from_millis(20), "the median: {alone:?} alone, {beside:?} beside");
    assert!(beside.0 <= alone.0 * 4 + NOISE, "the slowest: {alone:?} alone, {beside:?} beside");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_whose_link_stalls_does_not_hold_up_the_other() {
    let root = tempfile::tempdir().expect("a directory");
    let nodes = Nodes::new(root.path(), PROGRAM);
    let three = Three::start(&nodes, "policy = \"strict\"\nlink_timeout = \"60s\"", None).await;
    let alone = three.timed().await;
    // C's records arrive and no ack comes back: C sends until its credit is used up, and its writers wait.
    three.proxy.set(Wire { back: false, ..Wire::WHOLE });
    let writing = async {
        let body = |n| noise(LARGE, n);
        tokio::join!(put(&three.c, "/bucket/0", body(0)), put(&three.c, "/bucket/1", body(1)))
    };
    let watching = async {
        until(&three.c, "site-c", "waiting", |found| found["behind_ms"].as_u64() > Some(300)).await;
        let beside = three.timed().await;
        let found = three.c.origin("site-c").await.expect("a status");
        assert!(found["behind_ms"].as_u64() > Some(300), "C has not waited all the while: {found}");
        three.proxy.set(Wire::WHOLE);
        beside
    };
    let (answers, beside) = tokio::join!(writing, watching);
    let mirrored = || (StatusCode::OK, "durable".to_owned());
    assert_eq!(answers, (mirrored(), mirrored()));
    assert_not_held_up(alone, beside);
    three.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_whose_partition_is_full_does_not_hold_up_the_other() {
    let root = tempfile::tempdir().expect("a directory");
    let nodes = Nodes::new(root.path(), PROGRAM);
    let three =
        Three::start(&nodes, "policy = \"strict\"\nlink_timeout = \"60s\"\nsync_interval = \"500ms\"", None).await;
    let before = three.b.origin("site-a").await.expect("a status")["segment_waits"].clone();
    // C writes several times what its partitions hold, as fast as it can, while A writes its few bytes.
    let large = async |n: u64| put(&three.c, &format!("/bucket/{n}"), noise(LARGE, n)).await.0;
    let waited = |status: &serde_json::Value| status["segment_waits"].as_u64().unwrap_or_default();
    let was_full = async || {
        let at_c = three.c.origin("site-c").await.expect("a status");
        let at_b = three.b.origin("site-c").await.expect("a status");
        waited(&at_c) + waited(&at_b) > 0
    };
    // On a slow machine the engines keep up for a while.
    let load = async {
        for n in (0..512).step_by(4) {
            let done = tokio::join!(large(n), large(n + 1), large(n + 2), large(n + 3));
            assert_eq!([done.0, done.1, done.2, done.3], [StatusCode::OK; 4]);
            if n >= 60 && was_full().await {
                break;
            }
        }
    };
    let watching = async {
        let mut worst = Duration::ZERO;
        for _ in 0..3 {
            worst = worst.max(three.timed().await.0);
        }
        worst
    };
    let ((), worst) = tokio::join!(load, watching);
    println!("the slowest of A's writes beside a load of C's: {worst:?}");
    // The machine and its device are shared, segments are not.
    assert!(worst < PATIENCE / 12, "A's writes waited for C's: {worst:?}");
    let waits = three.b.origin("site-a").await.expect("a status")["segment_waits"].clone();
    assert_eq!(waits, before, "A's records waited for a segment");
    assert!(was_full().await, "C's partitions were never full");
    three.end().await;
}

/// C's engine at B has not one byte of disk left; A's has.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_whose_engine_has_no_space_does_not_hold_up_the_other() {
    let Some(disk) = Disk::or_skip(192 << 20) else { return };
    let root = tempfile::tempdir().expect("a directory");
    let nodes = Nodes::new(root.path(), PROGRAM);
    let three = Three::start(&nodes, "link_timeout = \"1s\"\nsync_interval = \"500ms\"", Some(&disk)).await;
    let alone = three.timed().await;
    disk.fill(0);
    // What comes finds no space at B; after its time C answers alone.
    let mut n = 0;
    while three.b.origin("site-c").await.expect("a status")["disk_full"] != true {
        assert!(n < 64, "C's engine at B never runs out of space");
        assert_eq!(put(&three.c, &format!("/bucket/{n}"), noise(LARGE, n)).await.0, StatusCode::OK);
        n += 1;
    }
    let beside = three.timed().await;
    assert_not_held_up(alone, beside);
    let found = three.b.origin("site-c").await.expect("a status");
    assert_eq!(found["disk_full"], true, "{found}");
    disk.free();
    three.end().await;
}
