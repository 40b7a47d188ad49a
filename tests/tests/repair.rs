//! Damage on the disks of two real processes: bytes of bodies, and files of storage engines. What the other site has comes back
//! from there, by itself or by command, and no client ever gets other bytes than were put.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, StatusCode};
use lockstep_gateway::demo::client::{Answer, S3Client};
use lockstep_gateway::demo::make_bucket;
use lockstep_gateway::demo::sites::{Pair, Site, Stream};
use lockstep_gateway::demo::workload::BUCKET;
use serde_json::Value;

const ORIGIN: &str = "site-a";
/// Nothing takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_mins(1);
const PROGRAM: &str = env!("CARGO_BIN_EXE_rounds");
/// Chunks of the object that is damaged.
const CHUNKS: usize = 3;

/// A pair in sync with a hundred small objects and a large one, at one consistency point.
async fn pair(root: &Path) -> Pair {
    let mut pair = Pair::new(root, &PathBuf::from(PROGRAM)).expect("two sites");
    let link = pair.b.mirror.clone();
    pair.start(root, &Stream { policy: "sync", link_timeout: "1s" }, &link).await.expect("two sites in sync");
    make_bucket(&pair.a).await.expect("a bucket");
    for number in 0..100 {
        put(&pair, &format!("small{number:03}"), Bytes::from(number.to_string())).await;
    }
    put(&pair, "large", large()).await;
    pair.a.operate(&["sync"]).await.expect("a consistency point");
    pair
}

/// No two of its chunks are the same, and no two bytes of one that stand beside each other.
fn large() -> Bytes {
    (0..(CHUNKS << 20)).map(|at| (at * 7 + (at >> 20)) as u8).collect::<Vec<_>>().into()
}

async fn send(pair: &Pair, site: &Site, method: Method, key: &str, body: Bytes) -> Result<Answer, String> {
    let mut client = S3Client::connect(&site.s3, &pair.a.key).await?;
    client.send(method, &format!("/{BUCKET}/{key}"), body).await
}

async fn put(pair: &Pair, key: &str, body: Bytes) {
    let answer = send(pair, &pair.a, Method::PUT, key, body).await.expect("an answer");
    assert!(answer.status.is_success(), "{key}: {}", answer.status);
}

async fn get(pair: &Pair, site: &Site) -> Answer {
    send(pair, site, Method::GET, "large", Bytes::new()).await.expect("an answer")
}

/// The client gets what was put.
async fn is_sound(pair: &Pair, site: &Site) {
    let answer = get(pair, site).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", log(site));
    assert!(answer.body == large(), "{} bytes, and not those that were put", answer.body.len());
}

fn log(site: &Site) -> String {
    std::fs::read_to_string(&site.log).expect("a log")
}

fn engine_dir(site: &Site) -> PathBuf {
    site.dir.join("origins").join(ORIGIN).join("1")
}

/// Writes over the first bytes of every chunk.
fn damage_bodies(site: &Site) {
    let file = OpenOptions::new().write(true).open(engine_dir(site).join("000001.body")).expect("the file of chunks");
    for chunk in 0..CHUNKS {
        file.write_all_at(b"damage", ((chunk << 20) + 1_000) as u64).expect("written");
    }
}

/// The engine's tables, the largest first.
fn tables(site: &Site) -> Vec<PathBuf> {
    let files = std::fs::read_dir(engine_dir(site)).expect("a directory").map(|entry| entry.expect("an entry").path());
    let mut tables: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "sst")).collect();
    tables.sort_by_key(|path| std::cmp::Reverse(path.metadata().expect("a file").len()));
    assert!(!tables.is_empty(), "the engine has flushed");
    tables
}

fn shorten(table: &Path) {
    let file = OpenOptions::new().write(true).open(table).expect("a table");
    file.set_len(file.metadata().expect("a file").len() / 2).expect("is shorter");
}

async fn repaired(site: &Site) -> (u64, u64) {
    let found = site.origin(ORIGIN).await.expect("a status");
    let count = |name: &str| found[name].as_u64().expect("a number");
    (count("chunks_repaired"), count("chunks_unrepaired"))
}

async fn in_sync(pair: &Pair) {
    pair.a.wait_for(ORIGIN, "in_sync", PATIENCE).await.expect("in sync");
    pair.b.wait_for(ORIGIN, "in_sync", PATIENCE).await.expect("and both know it");
}

/// Both images are equal, bodies and all, without any repair.
async fn are_equal(pair: &Pair, source: &Site, other: &Site) {
    in_sync(pair).await;
    source.operate(&["sync", ORIGIN]).await.expect("a consistency point");
    let token = other.token_file().display().to_string();
    let words = ["verify", ORIGIN, "--deep", "--no-repair", "--with", &other.admin, "--with-token-file", &token];
    let said = source.operate(&words).await.expect("equal images");
    assert!(said.contains("the images are equal"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn f10_damaged_chunks_at_the_source_come_from_the_mirror() {
    let root = tempfile::tempdir().expect("a directory");
    let mut pair = pair(root.path()).await;
    // Without its mirror the source says so, and nothing else than the right bytes is ever sent.
    pair.b.kill();
    damage_bodies(&pair.a);
    assert_eq!(get(&pair, &pair.a).await.status, StatusCode::INTERNAL_SERVER_ERROR);
    pair.b.start().expect("it starts again");
    in_sync(&pair).await;
    is_sound(&pair, &pair.a).await;
    let from = "of body ";
    let said: Vec<_> =
        log(&pair.a).lines().filter(|line| line.contains("event=\"chunk_repaired\"")).map(str::to_owned).collect();
    assert_eq!(said.len(), CHUNKS, "{said:#?}");
    assert!(
        said.iter().all(|line| line.contains(from) && line.contains("has its bytes from site-b again")),
        "{said:#?}"
    );
    assert_eq!(repaired(&pair.a).await.0, CHUNKS as u64);
    // It is so for good.
    pair.a.operate(&["sync"]).await.expect("a consistency point");
    pair.a.kill();
    pair.a.start().expect("it starts again");
    in_sync(&pair).await;
    is_sound(&pair, &pair.a).await;
    assert_eq!(repaired(&pair.a).await, (0, 0));
    are_equal(&pair, &pair.a, &pair.b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f10_damaged_chunks_at_the_destination_are_repaired_before_it_is_promoted() {
    let root = tempfile::tempdir().expect("a directory");
    let mut pair = pair(root.path()).await;
    damage_bodies(&pair.b);
    let untouched = pair.b.operate(&["verify", ORIGIN, "--deep", "--no-repair"]).await.expect_err("it is damaged");
    assert!(untouched.contains("large: damaged at site-b"), "{untouched}");
    let said = pair.b.operate(&["verify", ORIGIN, "--deep"]).await.expect("it is repaired");
    assert!(said.contains(&format!("{CHUNKS} damaged chunks, {CHUNKS} repaired")), "{said}");
    let json = pair.b.operate(&["verify", ORIGIN, "--deep", "--json"]).await.expect("it is sound");
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&json["damaged"], &json["chunks_damaged"]), (&0.into(), &0.into()), "{json}");
    pair.a.kill();
    pair.b.operate(&["promote", ORIGIN]).await.expect("it was in sync");
    is_sound(&pair, &pair.b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f10_what_is_damaged_at_both_ends_is_an_error_and_never_other_bytes() {
    let root = tempfile::tempdir().expect("a directory");
    let pair = pair(root.path()).await;
    damage_bodies(&pair.a);
    damage_bodies(&pair.b);
    for site in [&pair.a, &pair.b] {
        assert_eq!(get(&pair, site).await.status, StatusCode::INTERNAL_SERVER_ERROR);
        let said = site.operate(&["verify", ORIGIN, "--deep"]).await.expect_err("it is damaged");
        assert!(said.contains("1 damaged chunks, 0 repaired") && said.contains("large: damaged at"), "{said}");
        assert!(log(site).contains("its peer does not have it either"), "{}", log(site));
    }
    assert!(pair.a.origin(ORIGIN).await.expect("a status")["state"] == "in_sync", "nothing else is the worse for it");
}

#[tokio::test(flavor = "multi_thread")]
async fn f10_a_destination_whose_engine_is_damaged_is_filled_again_by_itself() {
    let root = tempfile::tempdir().expect("a directory");
    let mut pair = pair(root.path()).await;
    pair.b.kill();
    shorten(&tables(&pair.b)[0]);
    // Away from its source it serves nothing of the origin, keeps what is there, and goes on with its own.
    pair.a.kill();
    pair.b.start().expect("it starts again");
    pair.b.wait_for(ORIGIN, "lost", PATIENCE).await.expect("it says so");
    let found = pair.b.origin(ORIGIN).await.expect("a status");
    assert!(found["reason"].as_str().is_some_and(|reason| reason.contains("its storage engine is damaged")), "{found}");
    assert_eq!(pair.b.origin("site-b").await.expect("a status")["role"], "source");
    assert_eq!(get(&pair, &pair.b).await.status, StatusCode::SERVICE_UNAVAILABLE);
    let promoted = pair.b.operate(&["promote", ORIGIN, "--accept-loss"]).await.expect_err("there is nothing to serve");
    assert!(promoted.contains("cannot be served here"), "{promoted}");
    assert!(engine_dir(&pair.b).exists(), "the damaged files stay");
    pair.a.start().expect("it starts again");
    in_sync(&pair).await;
    assert!(log(&pair.b).contains("site-a fills it"), "{}", log(&pair.b));
    assert!(!engine_dir(&pair.b).exists(), "they are of no use any more");
    are_equal(&pair, &pair.a, &pair.b).await;
    is_sound(&pair, &pair.b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f10_an_engine_that_is_found_damaged_while_it_runs_is_not_used_by_the_next_start() {
    let root = tempfile::tempdir().expect("a directory");
    let mut pair = pair(root.path()).await;
    let write = async |pair: &Pair, body: &str| {
        for number in 0..800 {
            put(
                pair,
                &format!("{number:03}/of/many/so/that/the/image/has/a/block/that/a/start/does/not/read"),
                Bytes::from(body.to_owned()),
            )
            .await;
        }
        pair.a.operate(&["sync"]).await
    };
    write(&pair, "first").await.expect("a consistency point");
    // A restart, so that nothing of the tables is in memory. Those of the image say so.
    pair.b.kill();
    let is_image = |table: &&PathBuf| {
        let bytes = std::fs::read(table).expect("reads");
        bytes.windows(12).any(|name| name == b"image.site-a")
    };
    let table = tables(&pair.b).iter().find(is_image).expect("a table of the image").clone();
    let file = OpenOptions::new().write(true).open(table).expect("a table");
    let middle = file.metadata().expect("a file").len() / 2;
    file.write_all_at(&[0x55; 64], middle).expect("written");
    pair.b.start().expect("it starts again");
    in_sync(&pair).await;
    // What is overwritten is looked up in the image of the destination.
    let began = Instant::now();
    while pair.b.runs() && began.elapsed() < PATIENCE {
        let _it_stops_meanwhile = write(&pair, "second").await;
    }
    assert!(!pair.b.runs(), "it goes on with a damaged engine: {}", log(&pair.b));
    assert!(log(&pair.b).contains("the storage engine of site-a failed: corrupt"), "{}", log(&pair.b));
    pair.b.kill();
    pair.b.start().expect("it starts again");
    in_sync(&pair).await;
    are_equal(&pair, &pair.a, &pair.b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f10_a_source_whose_engine_is_damaged_is_filled_from_its_mirror_by_command() {
    let root = tempfile::tempdir().expect("a directory");
    let mut pair = pair(root.path()).await;
    pair.a.kill();
    shorten(&tables(&pair.a)[0]);
    pair.a.start().expect("it starts again");
    pair.a.wait_for(ORIGIN, "lost", PATIENCE).await.expect("it says so");
    pair.b.operate(&["promote", ORIGIN]).await.expect("it was in sync");
    is_sound(&pair, &pair.b).await;
    let token = pair.b.token_file().display().to_string();
    let words = ["rebuild", "--from", &pair.b.admin, "--from-token-file", &token];
    let said = pair.a.operate(&words).await.expect("it is filled");
    assert!(said.contains("site-a is rebuilt from site-b"), "{said}");
    are_equal(&pair, &pair.b, &pair.a).await;
    is_sound(&pair, &pair.a).await;
}
