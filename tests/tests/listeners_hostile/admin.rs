//! The admin listener: who has not the token learns nothing, who has it and errs is told in one sentence, and nobody can
//! keep operators out.

use std::sync::Arc;

use lockstep_gateway::admin::{Admin, listener};
use lockstep_tests::node::{Node, TOKEN};
use lockstep_tests::raw::{Answer, exchange, talk};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

async fn ask(node: &Node, method: &str, target: &str, token: &str, body: &str) -> Answer {
    let bearer = if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
    let len = body.len();
    let text = format!(
        "{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{bearer}Content-Length: {len}\r\n\r\n{body}"
    );
    exchange(node.admin, text.as_bytes()).await.expect("an answer")
}

/// The status of a refusal, which is JSON with one sentence.
fn refused(answer: &Answer) -> u16 {
    assert_eq!(answer.header("content-type"), "application/json", "{answer:?}");
    let text = answer.text();
    assert!(text.trim_start().starts_with("{\n  \"error\": \""), "{text}");
    answer.status
}

async fn unharmed(node: &Node) {
    assert_eq!(ask(node, "GET", "/health/ready", "", "").await.status, 200);
    let status = ask(node, "GET", "/v1/status", TOKEN, "").await;
    assert!(status.status == 200 && status.text().contains("site-a"));
}

#[tokio::test]
async fn without_the_token_nothing_is_told_and_nothing_done() {
    let node = Node::alone().await;
    let almost = &TOKEN[..TOKEN.len() - 1];
    for token in ["", "x", almost, &format!("{TOKEN}x"), &TOKEN.to_uppercase()] {
        for (method, target) in [
            ("GET", "/v1/status"),
            ("POST", "/v1/promote"),
            ("POST", "/v1/sync"),
            ("POST", "/v1/verify/parts"),
            ("POST", "/v1/verify/entries"),
            ("GET", "/v1/keys"),
            ("POST", "/v1/keys"),
            ("DELETE", "/v1/users?name=root"),
            ("PATCH", "/v1/status"),
        ] {
            assert_eq!(refused(&ask(&node, method, target, token, "{}").await), 401, "{method} {target}");
        }
    }
    let basic = "GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Basic eDp4\r\n\r\n";
    assert_eq!(refused(&exchange(node.admin, basic.as_bytes()).await.expect("an answer")), 401);
    unharmed(&node).await;
}

#[tokio::test]
async fn bad_bodies_verbs_and_origins_are_refused_in_one_sentence() {
    let node = Node::alone().await;
    let post = async |target: &str, body: &str| refused(&ask(&node, "POST", target, TOKEN, body).await);
    let deep = "[".repeat(10_000);
    for body in
        ["", "{", "[]", "null", "{\"origin\": 7}", "{\"origin\": \"site-a\", \"force\": true}", "\0\u{1}", &deep]
    {
        assert_eq!(post("/v1/promote", body).await, 400, "{}", &body[..body.len().min(40)]);
    }
    for name in ["", "Site-A", "-a", "a/b", &"a".repeat(64)] {
        assert_eq!(post("/v1/promote", &format!("{{\"origin\": \"{name}\"}}")).await, 400, "{name}");
    }
    for (target, rest, status) in [
        ("parts", "\"every\": 0", 400),
        ("parts", "\"every\": -1", 400),
        ("parts", "\"every\": 1, \"before\": [\"QQ==\"]", 400),
        ("parts", "\"before\": [\"Qg==\", \"QQ==\"]", 400),
        ("parts", "\"before\": [\"not base64\"]", 400),
        ("entries", "\"from\": \"?\"", 400),
        ("entries", "\"limit\": 1000000", 400),
        // Whatever the keys are: nothing lies there.
        ("parts", "\"from\": \"/w==\", \"until\": \"AA==\", \"every\": 18446744073709551615", 200),
        ("entries", "\"from\": \"/w==\", \"until\": \"AA==\"", 200),
    ] {
        let body = format!("{{\"origin\": \"site-a\", {rest}}}");
        let answer = ask(&node, "POST", &format!("/v1/verify/{target}"), TOKEN, &body).await;
        assert_eq!(answer.status, status, "{target} {rest}: {}", answer.text());
        let elsewhere = post(&format!("/v1/verify/{target}"), &body.replace("site-a", "nowhere")).await;
        assert_eq!(elsewhere, if status == 200 { 404 } else { 400 }, "{target} {rest}");
    }
    assert_eq!(post("/v1/promote", "{\"origin\": \"nowhere\"}").await, 409);
    assert_eq!(post("/v1/pause", "{\"origin\": \"site-a\"}").await, 409, "it has no mirror");
    assert_eq!(post("/v1/resume", "{\"origin\": \"nowhere\", \"alone\": true}").await, 409);
    assert_eq!(post("/v1/explode", "{}").await, 404);
    assert_eq!(post("/v1/promote", &" ".repeat(70_000)).await, 413);
    assert_eq!(post("/v1/keys", "{\"user\": \"nobody\"}").await, 409);
    assert_eq!(post("/v1/keys", "{\"user\": \"root\", \"access_key\": \"a b\"}").await, 400);
    assert_eq!(post("/v1/users", "{\"name\": \"a\\u0000b\"}").await, 409);
    for (method, target, status) in [
        ("GET", "/v1/promote", 405),
        ("POST", "/v1/status", 405),
        ("PATCH", "/v1/keys", 405),
        ("GET", "/", 404),
        ("GET", "/v1", 404),
        ("GET", "/v1/../etc/passwd", 404),
        ("DELETE", "/v1/users?name=root", 409),
        ("DELETE", "/v1/users?name=%00", 404),
        ("DELETE", "/v1/keys", 400),
        ("GET", "/v1/users?origin=nowhere", 404),
        ("GET", "/health/ready?max_lag=-1", 400),
        ("GET", "/health/ready?max_lag=99999999999999999999", 400),
        ("GET", "/health/ready?role=king", 400),
    ] {
        assert_eq!(refused(&ask(&node, method, target, TOKEN, "").await), status, "{method} {target}");
    }
    unharmed(&node).await;
}

#[tokio::test]
async fn garbage_and_floods_hurt_nobody() {
    let node = Node::alone().await;
    let many = (0..500).map(|number| format!("x-h{number}: 1\r\n")).collect::<Vec<_>>().concat();
    let flood = format!("GET /metrics HTTP/1.1\r\nHost: x\r\n{many}\r\n");
    let large = format!("GET /metrics HTTP/1.1\r\nHost: x\r\nx-large: {}", "v".repeat(2 << 20));
    let two = "POST /v1/sync HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcde";
    let zeros = vec![0; 50_000];
    let cases: [&[u8]; 6] = [
        &zeros,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\xff\xff\r\n\r\n",
        flood.as_bytes(),
        large.as_bytes(),
        two.as_bytes(),
    ];
    for garbage in cases {
        let got = talk(node.admin, garbage, true).await.expect("it is closed");
        if let Some(answer) = Answer::parse(&got) {
            assert!((400..600).contains(&answer.status), "{answer:?}");
        }
    }
    unharmed(&node).await;
}

/// Found by reading: a head was bounded by the HTTP library's buffer alone, 400 KiB on each of 256 connections.
#[tokio::test]
async fn a_long_head_is_refused_before_it_has_ended() {
    let node = Node::alone().await;
    let long = "v".repeat(20 << 10);
    for head in [format!("GET /metrics HTTP/1.1\r\nHost: x\r\nx-long: {long}"), format!("GET /health/live?{long}")] {
        assert_eq!(exchange(node.admin, head.as_bytes()).await.expect("an answer").status, 431);
    }
    let token = "t".repeat(8 << 10);
    assert_eq!(refused(&ask(&node, "GET", "/v1/status", &token, "").await), 401, "shorter ones are read");
    unharmed(&node).await;
}

/// Found by reading: a connection of which no byte ever came was waited for without end, and 256 of them kept every
/// operator out, also the one who wanted to promote. On the test's own clock, which jumps when nothing else is to do.
#[tokio::test]
async fn silent_connections_do_not_keep_operators_out() {
    let node = Node::alone().await;
    tokio::time::pause();
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = socket.local_addr().expect("bound");
    let state = Admin::new(node.client.clone(), Arc::default(), TOKEN.into());
    let (_stop, stopping) = watch::channel(false);
    tokio::spawn(listener::run(socket, state.router(), stopping));
    let mut silent = Vec::new();
    for number in 0..600_usize {
        let mut stream = TcpStream::connect(address).await.expect("it listens or waits");
        let opening: &[u8] = [&b""[..], b"G", b"PRI * HT", b"GET / HTTP/1.1\r\n"][number % 4];
        stream.write_all(opening).await.expect("written");
        silent.push(stream);
    }
    let mut stream = TcpStream::connect(address).await.expect("it listens or waits");
    let head = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(head).await.expect("written");
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await.expect("read");
    assert_eq!(Answer::parse(&got).map(|answer| answer.status), Some(200));
    tokio::time::resume();
    unharmed(&node).await;
}
