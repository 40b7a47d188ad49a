//! Real nodes whose disks are damaged (F10), gone, or old copies (F12): what a start says, what its operator does, and that both
//! sites are one again.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use lockstep_gateway::demo::sites::Site;
use lockstep_tests::process::nodes::{
    Nodes, PATIENCE, Told, assert_equal, log_of, noise, put, send, serves, state, until,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_rounds");
const LARGE: usize = 1 << 20;

/// A pair in sync with the way back, and an object.
async fn pair(nodes: &Nodes, more: &str) -> (Site, Site) {
    let (mut a, mut b) = (nodes.site("site-a"), nodes.site("site-b"));
    nodes.tell(&a, &Told::nvram("24MiB").to("site-b", &b.mirror, more));
    let back = format!("url = \"http://{}\"", a.mirror);
    nodes.tell(&b, &Told::nvram("24MiB").from("site-a", "24MiB", &back));
    b.start().expect("it starts");
    a.start().expect("it starts");
    state(&a, "site-a", "in_sync").await;
    serves(&a).await;
    assert_eq!(put(&a, "/bucket", "").await.0, StatusCode::OK);
    assert_eq!(put(&a, "/bucket/first", noise(LARGE, 1)).await, (StatusCode::OK, "durable".into()));
    (a, b)
}

/// Everything so far is trimmed: what a node lacks of it, it gets by a baseline.
async fn point(source: &Site) {
    source.operate(&["sync", "site-a"]).await.expect("a consistency point");
}

async fn rebuild(site: &Site, from: &Site, more: &[&str]) -> Result<String, String> {
    let token = from.token_file().display().to_string();
    let words = ["rebuild", "site-a", "--from", &from.admin, "--from-token-file", &token];
    site.operate(&[&words, more].concat()).await
}

async fn is_source(site: &Site) {
    until(site, "site-a", "the source in sync", |found| found["role"] == "source" && found["state"] == "in_sync").await;
}

/// A stop that was asked for.
async fn stop(site: &mut Site) {
    run("kill", &["-TERM", &site.id().expect("it runs").to_string()]);
    let began = Instant::now();
    while !log_of(site).contains("INFO stopped") {
        assert!(began.elapsed() < PATIENCE, "it does not stop: {}", log_of(site));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The engines are closed after the last line.
    let gone = || std::fs::read_link(format!("/proc/{}/exe", site.id().unwrap_or_default())).is_err();
    while !gone() {
        assert!(began.elapsed() < PATIENCE, "it does not end: {}", log_of(site));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    site.kill();
}

fn run(program: &str, words: &[&str]) {
    assert!(Command::new(program).args(words).status().expect("it runs").success(), "{program} {words:?}");
}

/// A copy of a node's machine as it is now: nothing of the node moves meanwhile.
fn copy(site: &Site, to: &Path) {
    let id = site.id().expect("it runs").to_string();
    run("kill", &["-STOP", &id]);
    run("cp", &["-a", &site.dir.display().to_string(), &to.display().to_string()]);
    run("kill", &["-CONT", &id]);
}

/// The node is killed, and an old copy of its machine starts in its place.
fn set_back(site: &mut Site, copy: &Path) {
    site.kill();
    std::fs::remove_dir_all(&site.dir).expect("its directory");
    run("cp", &["-a", &copy.display().to_string(), &site.dir.display().to_string()]);
    site.start().expect("it starts");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_whose_nvram_is_gone_is_rebuilt_by_command() {
    let root = tempfile::tempdir().expect("a directory");
    let nodes = Nodes::new(root.path(), PROGRAM);
    let (a, mut b) = pair(&nodes, "link_timeout = \"1s\"").await;
    point(&a).await;
    b.operate(&["sync"]).await.expect("its own origin is written out too");
    b.kill();
    std::fs::remove_file(b.dir.join("nvram")).expect("its NVRAM");
    b.start().expect("it starts");
    let found = state(&b, "site-a", "lost").await;
    assert!(found["reason"].as_str().is_some_and(|why| why.contains("NVRAM is gone")), "{found}");
    // Its own origin had lost its log too: it is lost, and nothing that was in it is given up.
    assert_eq!(b.origin("site-b").await.expect("a status")["state"], "lost");
    until(&a, "site-a", "refused", |found| found["reason"].as_str().is_some_and(|why| why.contains("rebuild"))).await;
    assert_eq!(put(&a, "/bucket/alone", "alone").await, (StatusCode::OK, "local".into()));
    rebuild(&b, &a, &[]).await.expect("a rebuild");
    assert_equal("site-a", &a, &b).await;
    // Nobody mirrors its own origin. Where its data are removed too, it begins anew.
    b.kill();
    std::fs::remove_dir_all(b.dir.join("origins").join("site-b")).expect("its data");
    b.start().expect("it starts");
    state(&b, "site-b", "alone").await;
    serves(&b).await;
    assert_eq!(put(&b, "/bucket", "").await.0, StatusCode::OK);
    assert_equal("site-a", &a, &b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_whose_nvram_is_gone_is_rebuilt_from_its_promoted_mirror() {
    let root = tempfile::tempdir().expect("a directory");
    let nodes = Nodes::new(root.path(), PROGRAM);
    let (mut a, b) = pair(&nodes, "link_timeout = \"1s\"").await;
    point(&a).await;
    assert_eq!(put(&a, "/bucket/second", noise(LARGE, 2)).await, (StatusCode::OK, "durable".into()));
    a.kill();
    b.operate(&["promote", "site-a"]).await.expect("a promote");
    let at_b = send(&b.s3, &a, Method::PUT, "/bucket/third", noise(LARGE, 3)).await;
    assert_eq!(at_b.status, StatusCode::OK);
    std::fs::remove_file(a.dir.join("nvram")).expect("its NVRAM");
    a.start().expect("it starts");
    state(&a, "site-a", "lost").await;
    let refused = rebuild(&a, &b, &[]).await.expect_err("it may have answered alone");
    assert!(refused.contains("--accept-loss"), "{refused}");
    rebuild(&a, &b, &["--accept-loss"]).await.expect("a rebuild");
    is_source(&b).await;
    b.operate(&["failback", "site-a"]).await.expect("a return");
    is_source(&a).await;
    assert_equal("site-a", &a, &b).await;
    for (name, seed) in [("first", 1), ("second", 2), ("third", 3)] {
        let read = send(&a.s3, &a, Method::GET, &format!("/bucket/{name}"), "").await;
        assert_eq!((read.status, read.body), (StatusCode::OK, noise(LARGE, seed)), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_whose_nvram_goes_while_it_takes_a_baseline_is_lost() {
    let root = tempfile::tempdir().expect("a directory");
    let nodes = Nodes::new(root.path(), PROGRAM);
    let (a, mut b) = pair(&nodes, "link_timeout = \"1s\"\nbaseline_rate = \"1MiB\"").await;
    for n in 0..6 {
        assert_eq!(put(&a, &format!("/bucket/{n}"), noise(LARGE, n)).await.0, StatusCode::OK);
    }
    point(&a).await;
    // Another machine stands at its place, with nothing.
    b.kill();
    std::fs::remove_dir_all(&b.dir).expect("its directory");
    std::fs::create_dir_all(&b.dir).expect("a directory");
    b.start().expect("it starts");
    until(&b, "site-a", "taking a baseline", |found| found["baseline"]["bytes"].as_u64() > Some(0)).await;
    // What it has so far is written out.
    stop(&mut b).await;
    std::fs::remove_file(b.dir.join("nvram")).expect("its NVRAM");
    b.start().expect("it starts");
    let found = state(&b, "site-a", "lost").await;
    assert_eq!(found["baseline"], serde_json::Value::Null, "{found}");
    assert!(b.operate(&["promote", "site-a", "--accept-loss"]).await.is_err(), "half an image");
    rebuild(&b, &a, &[]).await.expect("a rebuild");
    assert_equal("site-a", &a, &b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_whose_machine_is_an_old_copy_takes_back_what_its_mirror_has() {
    let root = tempfile::tempdir().expect("a directory");
    let nodes = Nodes::new(root.path(), PROGRAM);
    let (mut a, b) = pair(&nodes, "link_timeout = \"5s\"\nsync_interval = \"1h\"").await;
    let old = root.path().join("copy");
    copy(&a, &old);
    for n in 0..3 {
        assert_eq!(put(&a, &format!("/bucket/{n}"), noise(LARGE, n)).await, (StatusCode::OK, "durable".into()));
    }
    set_back(&mut a, &old);
    state(&a, "site-a", "in_sync").await;
    assert!(log_of(&a).contains("event=\"adopt_done\""), "{}", log_of(&a));
    for n in 0..3 {
        let read = send(&a.s3, &a, Method::GET, &format!("/bucket/{n}"), "").await;
        assert_eq!((read.status, read.body), (StatusCode::OK, noise(LARGE, n)), "{n}");
    }
    assert_eq!(put(&a, "/bucket/after", "after").await, (StatusCode::OK, "durable".into()));
    assert_equal("site-a", &a, &b).await;
}

/// The copy is from before a restart: the mirror has records of a later epoch of the source's own.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_whose_machine_is_a_copy_from_before_a_restart_takes_no_writes() {
    let root = tempfile::tempdir().expect("a directory");
    let nodes = Nodes::new(root.path(), PROGRAM);
    let (mut a, b) = pair(&nodes, "link_timeout = \"1s\"\nsync_interval = \"1h\"").await;
    let old = root.path().join("copy");
    copy(&a, &old);
    a.kill();
    a.start().expect("it starts");
    state(&a, "site-a", "in_sync").await;
    assert_eq!(put(&a, "/bucket/later", noise(LARGE, 2)).await, (StatusCode::OK, "durable".into()));
    set_back(&mut a, &old);
    let why = |found: &serde_json::Value| found["reason"].as_str().is_some_and(|why| why.contains("gone back in time"));
    let found = until(&a, "site-a", "known to have gone back", why).await;
    assert_eq!(found["state"], "unsettled", "{found}");
    let refused = put(&a, "/bucket/refused", "refused").await;
    assert_eq!(refused.0, StatusCode::SERVICE_UNAVAILABLE, "on top of what clients have seen more of");
    let at_b = b.origin("site-a").await.expect("a status");
    assert_eq!((&at_b["role"], at_b["last_seq"].as_u64() > found["last_seq"].as_u64()), (&"destination".into(), true));
    // The one with the later history goes on, and the other one gets what it lacks.
    b.operate(&["promote", "site-a"]).await.expect("its mark in sync stands");
    is_source(&b).await;
    b.operate(&["failback", "site-a"]).await.expect("a return");
    is_source(&a).await;
    assert_equal("site-a", &a, &b).await;
    let read = send(&a.s3, &a, Method::GET, "/bucket/later", "").await;
    assert_eq!((read.status, read.body), (StatusCode::OK, noise(LARGE, 2)));
}

/// Flips a bit of the record that names an object, in the file.
fn rot(nvram: &Path, key: &str) {
    let mut bytes = std::fs::read(nvram).expect("its NVRAM");
    let found = bytes.windows(key.len()).rposition(|window| window == key.as_bytes()).expect("the record is there");
    bytes[found] ^= 8;
    std::fs::write(nvram, bytes).expect("its NVRAM");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_mirror_does_not_start_with_a_damaged_record_and_names_it() {
    let root = tempfile::tempdir().expect("a directory");
    let nodes = Nodes::new(root.path(), PROGRAM);
    let mut site = nodes.site("site-a");
    nodes.tell(&site, &Told::nvram("24MiB"));
    site.start().expect("it starts");
    serves(&site).await;
    assert_eq!(put(&site, "/bucket", "").await.0, StatusCode::OK);
    let began = Instant::now();
    let mut number = 0;
    // What is written out is not read from the NVRAM any more: enough comes after the last time.
    let (damaged, count) = loop {
        for _ in 0..20 {
            assert_eq!(put(&site, &format!("/bucket/key-{number:04}"), "small").await.0, StatusCode::OK);
            number += 1;
        }
        let found = site.origin("site-a").await.expect("a status");
        let (last, flushed) = (found["last_seq"].as_u64().unwrap(), found["flushed_seq"].as_u64().unwrap());
        if last - flushed >= 15 {
            break (number - 10, number);
        }
        assert!(began.elapsed() < PATIENCE, "everything is written out at once");
    };
    site.kill();
    let (nvram, key) = (site.dir.join("nvram"), format!("key-{damaged:04}"));
    rot(&nvram, &key);
    for start in 1..=2 {
        site.start().expect("the program runs");
        let began = Instant::now();
        while log_of(&site).matches("has no mirror").count() < start {
            assert!(began.elapsed() < PATIENCE, "it says nothing: {}", log_of(&site));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let line = log_of(&site).lines().last().unwrap_or_default().to_owned();
        let named =
            line.contains("records ") && line.contains(" of site-a in the NVRAM are damaged, and it has no mirror");
        assert!(named, "{line}");
        site.kill();
    }
    // Whoever can repair the device has lost nothing by these starts.
    let mut bytes = std::fs::read(&nvram).expect("its NVRAM");
    let mut rotten = key.clone().into_bytes();
    rotten[0] ^= 8;
    let found = bytes.windows(rotten.len()).rposition(|window| window == rotten).expect("the damage");
    bytes[found] ^= 8;
    std::fs::write(&nvram, bytes).expect("its NVRAM");
    site.start().expect("it starts");
    serves(&site).await;
    for n in [0, damaged - 1, damaged, count - 1] {
        let read = send(&site.s3, &site, Method::GET, &format!("/bucket/key-{n:04}"), "").await;
        assert_eq!((read.status, &read.body[..]), (StatusCode::OK, &b"small"[..]), "{n}");
    }
}
