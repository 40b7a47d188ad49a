//! A tail from its making to its end, with two real processes: what a source had behind a cut link is set aside when it hears
//! of its peer's promote, and an operator lists, exports and discards it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use lockstep_gateway::demo::client::S3Client;
use lockstep_gateway::demo::make_bucket;
use lockstep_gateway::demo::sites::{Pair, Site, Stream};
use lockstep_gateway::demo::workload::BUCKET;
use lockstep_tests::process::proxy::{Proxy, Wire};
use lockstep_tests::raw::{Answer, Ask};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ORIGIN: &str = "site-a";
/// Nothing takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_mins(1);

async fn send(site: &Site, key: &Pair, method: Method, name: &str, body: Vec<u8>) -> StatusCode {
    let mut client = S3Client::connect(&site.s3, &key.a.key).await.expect("a listener");
    client.send(method, &format!("/{BUCKET}/{name}"), body.into()).await.expect("an answer").status
}

/// Bytes that differ from chunk to chunk.
fn contents(len: usize, salt: u8) -> Vec<u8> {
    (0..len).map(|at| (at >> 20) as u8 ^ (at % 251) as u8 ^ salt).collect()
}

/// A PUT of which two chunks are at both sites, and the rest is not sent yet.
async fn begun(pair: &Pair, name: &str, body: &[u8]) -> (TcpStream, Vec<u8>) {
    let last = pair.a.origin(ORIGIN).await.expect("a status")["last_seq"].as_u64().expect("a seq");
    let key = (pair.a.key.access_key.clone(), pair.a.key.secret_key.clone());
    let address = pair.a.s3.parse().expect("an address");
    let put = Ask::to(address, key, "PUT", &format!("/{BUCKET}/{name}")).body(body).signed();
    let mut stream = TcpStream::connect(address).await.expect("a listener");
    let (first, rest) = body.split_at(2_500_000);
    stream.write_all(&[put.head().as_bytes(), first].concat()).await.expect("it reads");
    let mirrored = |origin: &Value| origin["peer_persisted_seq"].as_u64() >= Some(last + 2);
    pair.a.wait_until(ORIGIN, "two chunks further", PATIENCE, mirrored).await.expect("a mirror");
    (stream, rest.to_vec())
}

/// Sends the rest of it: the status of its answer.
async fn ended((mut stream, rest): (TcpStream, Vec<u8>)) -> StatusCode {
    stream.write_all(&rest).await.expect("it reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an answer");
    let answer = Answer::parse(&answer).expect("an answer");
    StatusCode::from_u16(answer.status).expect("a status")
}

/// A pair under `strict` whose source has writes that its peer never got, and whose peer was promoted: the source's tail.
async fn diverged(root: &Path) -> (Pair, Proxy, Value) {
    let mut pair = Pair::new(root, &PathBuf::from(env!("CARGO_BIN_EXE_rounds"))).expect("two sites");
    let proxy = Proxy::new(&pair.b.mirror).await.expect("a proxy");
    let stream = Stream { policy: "strict", link_timeout: "5s" };
    pair.start(root, &stream, &proxy.address).await.expect("two sites in sync");
    make_bucket(&pair.a).await.expect("a bucket");
    assert_eq!(send(&pair.a, &pair, Method::PUT, "both", contents(2_500_000, 1)).await, StatusCode::OK);
    assert_eq!(send(&pair.a, &pair, Method::PUT, "gone", b"deleted behind the cut".to_vec()).await, StatusCode::OK);
    pair.a.operate(&["sync"]).await.expect("a consistency point");
    let slow = begun(&pair, "slow", &contents(3_300_000, 3)).await;
    proxy.set(Wire { forth: false, ..Wire::WHOLE });
    let copy = async {
        let mut client = S3Client::connect(&pair.a.s3, &pair.a.key).await.expect("a listener");
        client.copy(&format!("/{BUCKET}/both"), &format!("/{BUCKET}/copy")).await.expect("an answer").status
    };
    let put = |name, body| send(&pair.a, &pair, Method::PUT, name, body);
    let delete = send(&pair.a, &pair, Method::DELETE, "gone", Vec::new());
    let answers = tokio::join!(
        put("small", b"a few bytes".to_vec()),
        put("../../odd%20name", Vec::new()),
        put("large", contents(3_300_000, 2)),
        copy,
        delete,
        ended(slow)
    );
    // Nobody was told that these are safe.
    let answers = [answers.0, answers.1, answers.2, answers.3, answers.4, answers.5];
    assert_eq!(answers, [StatusCode::SERVICE_UNAVAILABLE; 6]);
    pair.b.operate(&["promote", ORIGIN]).await.expect("a promote");
    assert_eq!(send(&pair.b, &pair, Method::PUT, "after", b"written at site-b".to_vec()).await, StatusCode::OK);
    proxy.set(Wire::WHOLE);
    let began = Instant::now();
    loop {
        let said = pair.a.operate(&["tail", "list", "--json"]).await.expect("a list");
        let list: Value = serde_json::from_str(&said).expect("JSON");
        if pair.a.origin(ORIGIN).await.is_ok_and(|origin| origin["role"] == "destination")
            && let Some(tail) = list["tails"].get(0)
        {
            return (pair, proxy, tail.clone());
        }
        assert!(began.elapsed() < PATIENCE, "no tail: {said}, {:?}", pair.a.origin(ORIGIN).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The op of an object in an export.
fn op<'a>(ops: &'a [Value], kind: &str, key: &str) -> &'a Value {
    let found = ops.iter().find(|op| op["kind"] == kind && op["key"] == key);
    found.unwrap_or_else(|| panic!("no {kind} of {key} in {ops:#?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_deposed_source_had_is_listed_exported_and_discarded() {
    let root = tempfile::tempdir().expect("a directory");
    let (pair, _proxy, tail) = diverged(root.path()).await;
    let a = &pair.a;
    let epoch = tail["epoch"].as_str().expect("an epoch").to_owned();
    assert_eq!((&tail["origin"], &tail["damage"]), (&Value::from(ORIGIN), &Value::Null));
    assert_eq!((&tail["breaks"], &tail["damaged_payloads"]), (&Value::from(0), &Value::from(0)));
    let count = tail["last"]["seq"].as_u64().unwrap() - tail["first"]["seq"].as_u64().unwrap() + 1;
    assert_eq!(tail["records"], count);
    let table = a.operate(&["tail", "list"]).await.expect("a table");
    assert!(table.contains(&epoch) && table.lines().count() == 2, "{table}");
    let status = a.operate(&["status"]).await.expect("a status");
    assert!(status.contains("tails   1 set aside"), "{status}");

    let to = root.path().join("export");
    let said = a.operate(&["tail", "export", ORIGIN, "--to", to.to_str().unwrap()]).await.expect("an export");
    let text = std::fs::read_to_string(to.join("ops.jsonl")).expect("ops");
    let ops: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    assert_eq!(ops.len() as u64, count, "{said}");
    let body = |op: &Value| std::fs::read(to.join(op["file"].as_str().expect("a file"))).expect("a body");
    assert_eq!(body(op(&ops, "put_object", "small")), b"a few bytes");
    assert!(body(op(&ops, "put_object", "../../odd name")).is_empty());
    // Its chunks lie in the container, which has them from before.
    let copy = op(&ops, "put_object", "copy");
    assert_eq!((&copy["body"]["missing_bytes"], body(copy) == contents(2_500_000, 1)), (&Value::from(0), true));
    assert_eq!(copy["body"]["container_bytes"], 2_500_000);
    let chunks: Vec<&Value> = ops.iter().filter(|op| op["kind"] == "data").collect();
    let (both, rest) = (2_u64 << 20, 3_300_000 - (2_u64 << 20));
    assert_eq!(chunks.iter().map(|op| op["len"].as_u64().unwrap()).sum::<u64>(), 3_300_000 + rest);
    let large = op(&ops, "put_object", "large");
    assert_eq!((&large["body"]["tail_bytes"], body(large) == contents(3_300_000, 2)), (&Value::from(3_300_000), true));
    // The peer has its first chunks too, and has given them up.
    let slow = op(&ops, "put_object", "slow");
    assert_eq!((&slow["body"]["missing_bytes"], body(slow) == contents(3_300_000, 3)), (&Value::from(0), true));
    assert_eq!((&slow["body"]["beside_bytes"], &slow["body"]["tail_bytes"]), (&Value::from(both), &Value::from(rest)));
    op(&ops, "delete_object", "gone");
    let again = a.operate(&["tail", "export", ORIGIN, "--to", to.to_str().unwrap()]).await;
    assert!(again.is_err(), "an export over another one: {again:?}");
    let only_ops = root.path().join("ops.jsonl");
    a.operate(&["tail", "export", ORIGIN, "--to", only_ops.to_str().unwrap()]).await.expect("an export of ops");
    assert_eq!(std::fs::read_to_string(only_ops).expect("ops").lines().count() as u64, count);

    for (words, expected) in [
        (vec!["tail", "discard", ORIGIN], "--yes"),
        (vec!["tail", "discard", ORIGIN, "--epoch", "7-00000000"], "there is no tail"),
        (vec!["tail", "discard", ORIGIN, "--epoch", "../x"], "there is no tail"),
        (vec!["tail", "discard", "site-b", "--yes"], "has no tail"),
    ] {
        let refused = a.operate(&words).await.expect_err("a refusal");
        assert!(refused.contains(expected), "{words:?}: {refused}");
    }
    let beside = a.dir.join(format!("tail-bodies.{ORIGIN}.{epoch}"));
    assert!(beside.exists() && tail["bytes"].as_u64() > Some(2 * 3_300_000), "{tail}");
    a.operate(&["tail", "discard", ORIGIN, "--epoch", &epoch]).await.expect("it is named exactly");
    assert!(!beside.exists());
    assert_eq!(a.operate(&["tail", "list"]).await.expect("a list"), "site-a has no tails");
}
