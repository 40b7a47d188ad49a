//! `lockstep verify` between two real processes: equal images are equal, and what somebody has changed behind a site's back is
//! named, in its image and in the bytes of its bodies.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use lockstep_gateway::demo::client::S3Client;
use lockstep_gateway::demo::make_bucket;
use lockstep_gateway::demo::sites::{Pair, Site, Stream};
use lockstep_gateway::demo::workload::BUCKET;
use lockstep_storage::id::Origin;
use lockstep_storage::image::rocks::{RocksEngine, RocksOptions, RocksShared};
use lockstep_storage::image::{Change, Engine, Family, keys};
use serde_json::Value;

const ORIGIN: &str = "site-a";
/// Nothing takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_mins(1);
const PROGRAM: &str = env!("CARGO_BIN_EXE_rounds");

/// How a command ended, and what it printed.
struct Said {
    good: bool,
    out: String,
    err: String,
}

/// The command at a site, with these words; beside another site where there is one.
async fn verify(site: &Site, other: Option<&Site>, words: &[&str]) -> Said {
    let mut command = tokio::process::Command::new(PROGRAM);
    command.args(["verify", ORIGIN, "--admin", &site.admin, "--token-file"]).arg(site.token_file()).args(words);
    if let Some(other) = other {
        command.args(["--with", &other.admin, "--with-token-file"]).arg(other.token_file());
    }
    let output = command.env_remove("LOCKSTEP_ADMIN_TOKEN").stdin(Stdio::null()).output().await.expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { good: output.status.success(), out: text(&output.stdout), err: text(&output.stderr) }
}

impl Said {
    /// The differences among what was printed.
    fn differences(&self) -> Vec<&str> {
        self.out.lines().filter_map(|line| line.strip_prefix("  ")).collect()
    }
}

/// A pair in sync with a hundred small objects and a large one, at one consistency point.
async fn pair(root: &Path) -> Pair {
    let mut pair = Pair::new(root, &PathBuf::from(PROGRAM)).expect("two sites");
    let link = pair.b.mirror.clone();
    pair.start(root, &Stream { policy: "sync", link_timeout: "10s" }, &link).await.expect("two sites in sync");
    make_bucket(&pair.a).await.expect("a bucket");
    let mut client = S3Client::connect(&pair.a.s3, &pair.a.key).await.expect("a listener");
    for number in 0..100 {
        let target = format!("/{BUCKET}/small{number:03}");
        let put = client.send(Method::PUT, &target, Bytes::from(number.to_string())).await;
        assert!(put.expect("an answer").status.is_success());
    }
    let large = client.send(Method::PUT, &format!("/{BUCKET}/large"), Bytes::from(vec![7; 1_500_000])).await;
    assert!(large.expect("an answer").status.is_success());
    pair.a.operate(&["sync"]).await.expect("a consistency point");
    pair
}

/// Changes a site's image behind its back.
async fn tamper(pair: &mut Pair, changes: Vec<Change>) {
    pair.b.kill();
    let shared = RocksShared::new(8 << 20, 16 << 20);
    let dir = engine_dir(&pair.b);
    let engine = RocksEngine::open(&RocksOptions::new(&dir, Origin::new(ORIGIN).expect("a name"), shared));
    let engine = engine.expect("its engine");
    engine.commit(changes).expect("a change");
    engine.flush().expect("durable");
    drop(engine);
    let connects = pair.a.origin(ORIGIN).await.expect("a status")["connects"].as_u64();
    pair.b.start().expect("it starts again");
    let again = |found: &Value| found["state"] == "in_sync" && found["connects"].as_u64() > connects;
    pair.a.wait_until(ORIGIN, "in sync again", PATIENCE, again).await.expect("in sync again");
    pair.a.operate(&["sync"]).await.expect("a consistency point");
}

fn engine_dir(site: &Site) -> PathBuf {
    let generations = site.dir.join("origins").join(ORIGIN);
    let mut dirs = std::fs::read_dir(generations).expect("a directory").map(|entry| entry.expect("an entry").path());
    dirs.next().expect("an engine")
}

/// Found by reading: the images were said to differ, and nobody said in what.
#[tokio::test(flavor = "multi_thread")]
async fn what_differs_between_two_images_is_named() {
    let root = tempfile::tempdir().expect("a directory");
    let mut pair = pair(root.path()).await;
    let equal = verify(&pair.a, Some(&pair.b), &["--deep"]).await;
    assert!(equal.good && equal.out.contains("the images are equal at seq "), "{}{}", equal.out, equal.err);
    let json = verify(&pair.a, Some(&pair.b), &["--json"]).await;
    let json: Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!((&json["equal"], &json["differences"]), (&true.into(), &Value::Array(Vec::new())));

    let object = |key| keys::object(BUCKET, key);
    let changes = vec![
        Change::Delete(Family::Image, object("small042")),
        Change::Put(Family::Image, object("small077"), keys::encode_object(lockstep_storage::op::Object::default())),
        Change::Put(Family::Image, object("small100\n"), keys::encode_object(lockstep_storage::op::Object::default())),
        Change::Put(Family::Image, keys::bucket("never-made"), Bytes::new()),
    ];
    tamper(&mut pair, changes).await;
    let expected = [
        "bucket never-made: missing at site-a".to_owned(),
        format!("object {BUCKET}/small042: missing at site-b"),
        format!("object {BUCKET}/small077: differs"),
        format!("object {BUCKET}/small100\\n: missing at site-a"),
    ];
    for words in [&[][..], &["--deep"]] {
        let said = verify(&pair.a, Some(&pair.b), words).await;
        assert!(!said.good && said.differences() == expected, "{}{}", said.out, said.err);
        let sentence = "site-a is not equal to site-b; 4 differences are named above";
        assert!(said.err.contains(sentence) && said.err.lines().count() == 1, "{}", said.err);
    }
    // From the other end, and for a script.
    let said = verify(&pair.b, Some(&pair.a), &["--json"]).await;
    let json: Value = serde_json::from_str(&said.out).expect("JSON");
    assert!(!said.good && json["equal"] == false && json["more"] == false, "{json}");
    let one = &json["differences"][1];
    let fields = ["kind", "bucket", "key", "found", "at"].map(|name| one[name].as_str().unwrap_or_default());
    assert_eq!(fields, ["object", BUCKET, "small042", "missing", "site-b"], "{json}");
    assert_eq!(json["differences"].as_array().map(Vec::len), Some(4));
}

/// Found by reading: the first damaged chunk ended the whole comparison with an error that named a body, and no object.
#[tokio::test(flavor = "multi_thread")]
async fn objects_whose_bytes_are_damaged_are_named() {
    let root = tempfile::tempdir().expect("a directory");
    let pair = pair(root.path()).await;
    let file = engine_dir(&pair.b).join("000001.body");
    let file = OpenOptions::new().write(true).open(file).expect("the file with the chunks");
    file.write_all_at(b"damage", 10_000).expect("written");
    let shallow = verify(&pair.a, Some(&pair.b), &[]).await;
    assert!(shallow.good, "what does not read the bytes sees nothing: {}{}", shallow.out, shallow.err);
    let expected = format!("object {BUCKET}/large: damaged at site-b: corrupt: chunk 0 of body ");
    for other in [None, Some(&pair.a)] {
        let said = verify(&pair.b, other, &["--deep", "--no-repair"]).await;
        let differences = said.differences();
        assert!(!said.good && differences.len() == 1, "{}{}", said.out, said.err);
        assert!(differences[0].starts_with(&expected), "{}", differences[0]);
        assert!(said.err.contains("1 of the entries at site-b"), "{}", said.err);
    }
    let sound = verify(&pair.a, None, &["--deep", "--json"]).await;
    let json: Value = serde_json::from_str(&sound.out).expect("JSON");
    assert!(sound.good && json["damaged"] == 0, "{json}");
}
