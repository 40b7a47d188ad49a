//! Real nodes on disks of their own that are filled, in part or to the last byte (F22, F23): what needs space is refused before
//! there is none, what makes room is taken, a restart comes up, and everything goes on by itself. Runs as root, where a disk can
//! be mounted; says so where it cannot.

use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use lockstep_gateway::demo::sites::Site;
use lockstep_tests::process::disk::Disk;
use lockstep_tests::process::nodes::{
    Nodes, PATIENCE, Told, assert_equal, log_of, noise, put, send, serves, state, until,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_rounds");
const DISK_LEN: u64 = 768 << 20;
/// Free bytes that are below what every role asks for, and far from none.
const SHORT: u64 = 16 << 20;
/// Free bytes with which a source says no, and a destination on a disk of the same length does not.
const BETWEEN: u64 = 150 << 20;
const LARGE: usize = 3 << 20;

async fn get(address: &str, of: &Site, target: &str) -> (StatusCode, Vec<u8>) {
    let answer = send(address, of, Method::GET, target, "").await;
    (answer.status, answer.body.to_vec())
}

/// The file that holds a part of the disk has its length.
async fn holds(site: &Site) {
    let began = Instant::now();
    while std::fs::metadata(site.dir.join("reserve")).map_or(0, |file| file.len()) == 0 {
        assert!(began.elapsed() < PATIENCE, "nothing is held: {}", log_of(site));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A source without a mirror on a disk of its own, with a bucket.
async fn alone(nodes: &Nodes, disk: &Disk) -> Site {
    let mut site = nodes.site_on("site-a", &disk.path());
    nodes.tell(&site, &Told::nvram("24MiB"));
    site.start().expect("it starts");
    serves(&site).await;
    assert_eq!(put(&site, "/bucket", "").await.0, StatusCode::OK);
    site
}

async fn is_full(site: &Site, origin: &str, full: bool) {
    until(site, origin, "told how much space there is", |found| found["disk_full"] == full).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_whose_disk_is_short_refuses_puts_and_takes_deletes() {
    let Some(disk) = Disk::or_skip(DISK_LEN) else { return };
    let root = tempfile::tempdir().expect("a directory");
    let nodes = Nodes::new(root.path(), PROGRAM);
    let site = alone(&nodes, &disk).await;
    assert_eq!(put(&site, "/bucket/kept", "kept").await.0, StatusCode::OK);
    assert_eq!(put(&site, "/bucket/large", noise(LARGE, 1)).await.0, StatusCode::OK);
    let begun = send(&site.s3, &site, Method::POST, "/bucket/parts?uploads", "").await;
    let text = String::from_utf8_lossy(&begun.body).into_owned();
    let upload = text.split("<UploadId>").nth(1).and_then(|rest| rest.split('<').next()).expect("an upload").to_owned();
    let part = format!("/bucket/parts?partNumber=1&uploadId={upload}");
    assert_eq!(put(&site, &part, noise(LARGE, 2)).await.0, StatusCode::OK);

    disk.fill(SHORT);
    is_full(&site, "site-a", true).await;
    assert!(disk.free_bytes() > SHORT / 2, "there is space that only a full disk would not have");
    let small = bytes::Bytes::from_static(b"small");
    for (method, target, body) in [
        (Method::PUT, "/bucket/small", small.clone()),
        (Method::PUT, "/bucket/kept", small.clone()),
        (Method::PUT, "/bucket/big", noise(LARGE, 3)),
        (Method::PUT, part.as_str(), noise(LARGE, 4)),
        (Method::POST, "/bucket/more?uploads", bytes::Bytes::new()),
        (Method::PUT, "/other", bytes::Bytes::new()),
    ] {
        let answer = send(&site.s3, &site, method, target, body).await;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, StatusCode::INSUFFICIENT_STORAGE, "{target}: {text}");
        assert!(text.contains("InsufficientStorage"), "{target}: {text}");
        assert!(!answer.headers.contains_key("x-lockstep-seq"), "{target} is in the log");
    }
    assert_eq!(get(&site.s3, &site, "/bucket/small").await.0, StatusCode::NOT_FOUND);
    assert_eq!(get(&site.s3, &site, "/other").await.0, StatusCode::NOT_FOUND);
    assert_eq!(get(&site.s3, &site, "/bucket/kept").await, (StatusCode::OK, b"kept".to_vec()));
    let listed = get(&site.s3, &site, "/bucket?list-type=2").await.1;
    assert!(String::from_utf8_lossy(&listed).contains("<KeyCount>2</KeyCount>"), "kept and large are there");
    for target in ["/bucket/large", &format!("/bucket/parts?uploadId={upload}")] {
        let answer = send(&site.s3, &site, Method::DELETE, target, "").await;
        assert_eq!(answer.status, StatusCode::NO_CONTENT, "{target}: {answer:?}");
    }
    assert_eq!(get(&site.s3, &site, "/bucket/large").await.0, StatusCode::NOT_FOUND);

    disk.free();
    is_full(&site, "site-a", false).await;
    assert_eq!(put(&site, "/bucket/big", noise(LARGE, 3)).await.0, StatusCode::OK);
    assert_eq!(get(&site.s3, &site, "/bucket/big").await.1, noise(LARGE, 3));
}

/// Found by reading: a node whose disk somebody else had filled did not start any more, and so nobody could make room by a
/// delete.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_starts_on_a_full_disk_and_can_be_read_and_deleted_from() {
    let Some(disk) = Disk::or_skip(DISK_LEN) else { return };
    let root = tempfile::tempdir().expect("a directory");
    let nodes = Nodes::new(root.path(), PROGRAM);
    let mut site = alone(&nodes, &disk).await;
    // More than one segment of the NVRAM, so that a part of it waits to be written out.
    for n in 0..4 {
        assert_eq!(put(&site, &format!("/bucket/{n}"), noise(LARGE, n)).await.0, StatusCode::OK);
    }
    holds(&site).await;
    site.kill();
    disk.fill(0);
    site.start().expect("the program runs");
    serves(&site).await;
    assert!(log_of(&site).contains("is given back"), "it came up without what was held for it: {}", log_of(&site));
    for n in 0..4 {
        assert_eq!(get(&site.s3, &site, &format!("/bucket/{n}")).await, (StatusCode::OK, noise(LARGE, n).to_vec()));
    }
    is_full(&site, "site-a", true).await;
    assert_eq!(put(&site, "/bucket/new", "new").await.0, StatusCode::INSUFFICIENT_STORAGE);
    for n in 0..3 {
        let answer = send(&site.s3, &site, Method::DELETE, &format!("/bucket/{n}"), "").await;
        assert_eq!(answer.status, StatusCode::NO_CONTENT, "{answer:?}");
    }
    site.operate(&["sync"]).await.expect("what was deleted is durable");
    disk.free();
    is_full(&site, "site-a", false).await;
    assert_eq!(put(&site, "/bucket/new", "new").await.0, StatusCode::OK);
    assert_eq!(get(&site.s3, &site, "/bucket/3").await.1, noise(LARGE, 3));
}

/// Others fill the disk to its last byte while the node runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_node_goes_on_when_a_full_disk_has_space_again() {
    let Some(disk) = Disk::or_skip(DISK_LEN) else { return };
    let root = tempfile::tempdir().expect("a directory");
    let nodes = Nodes::new(root.path(), PROGRAM);
    let site = alone(&nodes, &disk).await;
    assert_eq!(put(&site, "/bucket/large", noise(LARGE, 1)).await.0, StatusCode::OK);
    holds(&site).await;
    disk.fill(0);
    is_full(&site, "site-a", true).await;
    let deleted = send(&site.s3, &site, Method::DELETE, "/bucket/large", "").await;
    assert_eq!(deleted.status, StatusCode::NO_CONTENT, "{deleted:?}");
    // Its flush finds no space, and then some of what is held.
    site.operate(&["sync"]).await.expect("a consistency point");
    disk.free();
    is_full(&site, "site-a", false).await;
    assert_eq!(put(&site, "/bucket/again", noise(LARGE, 2)).await.0, StatusCode::OK);
    site.operate(&["sync"]).await.expect("a consistency point");
    assert_eq!(get(&site.s3, &site, "/bucket/again").await.1, noise(LARGE, 2));
}

/// A pair in sync, the second one on a disk of its own, the first one too where it has one.
async fn pair(nodes: &Nodes, policy: &str, a_on: Option<&Disk>, b_on: &Disk) -> (Site, Site) {
    let mut a = match a_on {
        Some(disk) => nodes.site_on("site-a", &disk.path()),
        None => nodes.site("site-a"),
    };
    let mut b = nodes.site_on("site-b", &b_on.path());
    let more = format!("policy = \"{policy}\"\nlink_timeout = \"1s\"\nsync_interval = \"1s\"");
    nodes.tell(&a, &Told::nvram("24MiB").to("site-b", &b.mirror, &more));
    nodes.tell(&b, &Told::nvram("24MiB").from("site-a", "24MiB", ""));
    b.start().expect("it starts");
    a.start().expect("it starts");
    state(&a, "site-a", "in_sync").await;
    serves(&a).await;
    assert_eq!(put(&a, "/bucket", "").await.0, StatusCode::OK);
    (a, b)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_whose_disk_is_short_refuses_its_source_under_sync() {
    let Some(disk) = Disk::or_skip(DISK_LEN) else { return };
    let root = tempfile::tempdir().expect("a directory");
    let nodes = Nodes::new(root.path(), PROGRAM);
    let (a, b) = pair(&nodes, "sync", None, &disk).await;
    assert_eq!(put(&a, "/bucket/before", noise(LARGE, 1)).await, (StatusCode::OK, "durable".into()));
    a.operate(&["sync"]).await.expect("a consistency point");
    disk.fill(SHORT);
    until(&a, "site-a", "refused", |found| found["reason"].as_str().is_some_and(|why| why.contains("no room"))).await;
    is_full(&b, "site-a", true).await;
    assert!(disk.free_bytes() > SHORT / 2, "it says no before there is no space");
    let held = b.origin("site-a").await.expect("a status")["persisted_seq"].clone();
    // As with a link that is lost: after its time the source answers alone.
    assert_eq!(put(&a, "/bucket/alone", noise(LARGE, 2)).await, (StatusCode::OK, "local".into()));
    assert_eq!(b.origin("site-a").await.expect("a status")["persisted_seq"], held, "records were taken");
    assert_eq!(get(&b.s3, &a, "/bucket/before").await.1, noise(LARGE, 1), "the replica is served");
    disk.free();
    assert_equal("site-a", &a, &b).await;
    assert_eq!(put(&a, "/bucket/after", "after").await, (StatusCode::OK, "durable".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_whose_disk_is_short_refuses_its_source_under_strict() {
    let Some(disk) = Disk::or_skip(DISK_LEN) else { return };
    let root = tempfile::tempdir().expect("a directory");
    let nodes = Nodes::new(root.path(), PROGRAM);
    let (a, b) = pair(&nodes, "strict", None, &disk).await;
    disk.fill(SHORT);
    until(&a, "site-a", "refused", |found| found["reason"].as_str().is_some_and(|why| why.contains("no room"))).await;
    let answer = send(&a.s3, &a, Method::PUT, "/bucket/refused", "refused").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(!answer.headers.contains_key("x-lockstep-seq"), "it is in the log");
    assert!(String::from_utf8_lossy(&answer.body).contains("no room"), "the client is not told why: {answer:?}");
    disk.free();
    state(&a, "site-a", "in_sync").await;
    assert_eq!(put(&a, "/bucket/after", "after").await, (StatusCode::OK, "durable".into()));
    assert_equal("site-a", &a, &b).await;
    assert_eq!(get(&a.s3, &a, "/bucket/refused").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_starts_on_a_full_disk_and_catches_up_when_there_is_space() {
    let Some(disk) = Disk::or_skip(DISK_LEN) else { return };
    let root = tempfile::tempdir().expect("a directory");
    let nodes = Nodes::new(root.path(), PROGRAM);
    let (a, mut b) = pair(&nodes, "sync", None, &disk).await;
    assert_eq!(put(&a, "/bucket/before", noise(LARGE, 1)).await, (StatusCode::OK, "durable".into()));
    a.operate(&["sync"]).await.expect("a consistency point");
    assert_eq!(put(&a, "/bucket/later", noise(LARGE, 2)).await, (StatusCode::OK, "durable".into()));
    holds(&b).await;
    b.kill();
    disk.fill(0);
    b.start().expect("the program runs");
    serves(&b).await;
    assert_eq!(get(&b.s3, &a, "/bucket/before").await, (StatusCode::OK, noise(LARGE, 1).to_vec()));
    until(&a, "site-a", "refused", |found| found["reason"].as_str().is_some_and(|why| why.contains("no room"))).await;
    disk.free();
    assert_equal("site-a", &a, &b).await;
    assert_eq!(get(&b.s3, &a, "/bucket/later").await.1, noise(LARGE, 2));
}

/// Both disks are as full: the source says no first, and what makes room still reaches the mirror.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_disks_that_fill_together_both_are_freed_by_deletes() {
    let (Some(disk_a), Some(disk_b)) = (Disk::or_skip(DISK_LEN), Disk::or_skip(DISK_LEN)) else { return };
    let root = tempfile::tempdir().expect("a directory");
    let nodes = Nodes::new(root.path(), PROGRAM);
    let (a, b) = pair(&nodes, "strict", Some(&disk_a), &disk_b).await;
    for n in 0..8 {
        assert_eq!(put(&a, &format!("/bucket/{n}"), noise(LARGE, n)).await, (StatusCode::OK, "durable".into()));
    }
    holds(&a).await;
    holds(&b).await;
    disk_a.fill(BETWEEN);
    disk_b.fill(BETWEEN);
    is_full(&a, "site-a", true).await;
    assert_eq!(put(&a, "/bucket/more", "more").await.0, StatusCode::INSUFFICIENT_STORAGE);
    let before = (disk_a.free_bytes(), disk_b.free_bytes());
    for n in 0..8 {
        let answer = send(&a.s3, &a, Method::DELETE, &format!("/bucket/{n}"), "").await;
        assert_eq!(
            (answer.status, &answer.headers["x-lockstep-ack"]),
            (StatusCode::NO_CONTENT, &"durable".parse().unwrap())
        );
    }
    let began = Instant::now();
    let freed = |disk: &Disk, before: u64| disk.free_bytes() >= before + 4 * LARGE as u64;
    while !(freed(&disk_a, before.0) && freed(&disk_b, before.1)) {
        assert!(began.elapsed() < PATIENCE, "{before:?}, now {:?}", (disk_a.free_bytes(), disk_b.free_bytes()));
        a.operate(&["sync"]).await.expect("a consistency point");
    }
    state(&a, "site-a", "in_sync").await;
    state(&b, "site-a", "in_sync").await;
}
