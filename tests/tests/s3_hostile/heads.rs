//! Heads that are none, or ask for two readings.

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use lockstep_tests::node::resident_bytes;
use lockstep_tests::raw::{Answer, Ask, encode, exchange, talk};
use tokio::net::TcpStream;

use super::{no, node, refused, unharmed};

#[tokio::test]
async fn garbage_is_answered_or_dropped_and_hurts_nobody() {
    let node = node().await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let frames = [&preface[..], &[0xff; 4096]].concat();
    let settings_flood = [&preface[..], &b"\0\0\0\x04\0\0\0\0\0".repeat(20_000)].concat();
    let zeros = vec![0; 100_000];
    let cases: [&[u8]; 12] = [
        &zeros,
        &[0xff; 5000],
        b"\r\n\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\0",
        b"GET / HTTP/1.1\r\nHost: a\nb\r\n\r\n",
        b"GET / HTTP/1.1\r\n: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nA\0B: x\r\n\r\n",
        preface,
        &frames,
        &settings_flood,
    ];
    for garbage in cases {
        let got = talk(node.s3, garbage, true).await.expect("it is closed");
        if let Some(answer) = Answer::parse(&got) {
            assert!((400..500).contains(&answer.status), "{answer:?} to {:?}", &garbage[..garbage.len().min(40)]);
        }
    }
    unharmed(&node).await;
}

#[tokio::test]
async fn a_head_that_two_servers_would_read_differently_is_refused_and_nothing_behind_it_is_served() {
    let node = node().await;
    let inner = format!("DELETE /bucket/there HTTP/1.1\r\nHost: {}\r\n\r\n", node.s3);
    let put = Ask::new(&node, "PUT", "/bucket/smuggled").payload("UNSIGNED-PAYLOAD").signed();
    for framing in [
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 6",
        "Content-Length: +5",
        "Content-Length: -1",
        "Content-Length: 0x5",
        "Content-Length: 99999999999999999999999",
        "Content-Length: 5\r\n 6",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding : chunked",
    ] {
        let head = put.clone().without("content-length").head().replace("\r\n\r\n", &format!("\r\n{framing}\r\n\r\n"));
        let answer = exchange(node.s3, format!("{head}0\r\n\r\n{inner}").as_bytes()).await;
        // Without an answer the connection was dropped, which is as good.
        let status = answer.map_or(400, |answer| answer.status);
        assert!((400..=501).contains(&status), "{status} to {framing}");
    }
    // Both framings at once: the chunked one alone counts, and what is behind it is another request, which nobody signed.
    let both = put.clone().without("content-length").without("connection").head();
    let both = both.replace("\r\n\r\n", "\r\nContent-Length: 100\r\nTransfer-Encoding: chunked\r\n\r\n");
    let got = talk(node.s3, format!("{both}5\r\nabcde\r\n0\r\n\r\n{inner}").as_bytes(), true).await.expect("closed");
    let text = String::from_utf8_lossy(&got).into_owned();
    assert!(!text.contains("204 No Content"), "{text}");
    assert_eq!(Ask::new(&node, "GET", "/bucket/smuggled").send().await.text(), "abcde");
    assert_eq!(Ask::new(&node, "DELETE", "/bucket/smuggled").send().await.status, 204);
    // Chunks of HTTP whose sizes are none.
    for chunks in [
        "x\r\nabcde\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nabcde\r\n",
        "-5\r\nabcde\r\n0\r\n\r\n",
        "5\r\nabcdefgh\r\n0\r\n\r\n",
    ] {
        let head = put.clone().without("content-length").and("Transfer-Encoding", "chunked").head();
        let answer = exchange(node.s3, format!("{head}{chunks}").as_bytes()).await;
        assert!(answer.is_err() || answer.is_ok_and(|answer| answer.error() == no(400, "IncompleteBody")), "{chunks}");
    }
    unharmed(&node).await;
}

#[tokio::test]
async fn heads_are_bounded_in_bytes_and_in_number() {
    let node = node().await;
    let get = || Ask::new(&node, "GET", "/bucket/there");
    let large = get().header("x-amz-meta-large", &"v".repeat(33 << 10)).send().await;
    assert_eq!(refused(&large), no(400, "RequestHeaderSectionTooLarge"));
    let many = (0..300).map(|number| format!("x-h{number}: 1\r\n")).collect::<Vec<_>>().concat();
    let head = get().signed().head();
    let flood = exchange(node.s3, head.replace("\r\n\r\n", &format!("\r\n{many}\r\n")).as_bytes()).await;
    assert_eq!(flood.expect("an answer").status, 431);
    let endless = format!("GET / HTTP/1.1\r\nHost: x\r\nx-endless: {}", "v".repeat(3 << 20));
    // The answer may be lost behind what is still on its way when the connection is closed.
    let endless = exchange(node.s3, endless.as_bytes()).await;
    assert_eq!(endless.map_or(431, |answer| answer.status), 431);
    let long = exchange(node.s3, format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(70_000)).as_bytes()).await;
    assert_eq!(long.expect("an answer").status, 431);
    let pairs = "a&".repeat(200);
    assert_eq!(refused(&Ask::new(&node, "GET", &format!("/bucket?{pairs}")).send().await), no(400, "InvalidArgument"));
    unharmed(&node).await;
}

/// Found by reading: a head of HTTP/1 was bounded by what is read of a body at once, a MiB, and nobody had shown a key yet.
#[tokio::test]
async fn a_head_is_refused_when_it_is_longer_than_any_that_is_served() {
    let node = node().await;
    // It has no end: who refuses it knows so before the rest has come. With its end it is refused in the same way.
    for end in ["", "\r\n\r\n"] {
        for start in ["GET /bucket/there HTTP/1.1\r\nHost: x\r\nx-large: ", "GET /bucket/", "PUT /bucket/k?a="] {
            let head = format!("{start}{}{end}", "v".repeat(66 << 10));
            assert_eq!(exchange(node.s3, head.as_bytes()).await.expect("an answer").status, 431, "{start} {end:?}");
        }
    }
    // A second request on a connection is bounded as the first one is.
    let first = Ask::new(&node, "GET", "/bucket/there").signed().without("connection").head();
    let second = format!("GET / HTTP/1.1\r\nHost: x\r\nx-large: {}", "v".repeat(66 << 10));
    let got = talk(node.s3, format!("{first}{second}").as_bytes(), false).await.expect("it is closed");
    let text = String::from_utf8_lossy(&got).into_owned();
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("HTTP/1.1 431"), "{text}");
    // What clients do send is served: a long URL, with as many bytes of headers as the service takes.
    let long = format!("/bucket?list-type=2&prefix={}", "p".repeat(16 << 10));
    let answer = Ask::new(&node, "GET", &long).signed().and("x-large", &"v".repeat(30 << 10)).send().await;
    assert_eq!((answer.status, answer.element("KeyCount").as_str()), (200, "0"), "{}", answer.text());
    unharmed(&node).await;
}

#[tokio::test]
async fn http2_is_served_on_the_same_port_with_the_same_bound() {
    let node = node().await;
    for (len, status) in [(1 << 10, 403), (48 << 10, 400), (66 << 10, 431)] {
        let stream = TokioIo::new(TcpStream::connect(node.s3).await.expect("it listens"));
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.expect("HTTP/2");
        tokio::spawn(connection);
        let request = http::Request::get(format!("http://{}/bucket/there", node.s3)).header("x-large", "v".repeat(len));
        let answer = sender.send_request(request.body(Empty::<Bytes>::new()).expect("a request")).await;
        // Without an answer the stream was reset, which is as good.
        let seen = answer.map_or(431, |answer| answer.status().as_u16());
        assert_eq!(seen, status, "{len} bytes");
    }
    unharmed(&node).await;
}

#[tokio::test]
async fn a_flood_of_heads_does_not_take_memory_with_it() {
    let node = node().await;
    let head = format!("GET /bucket HTTP/1.1\r\nHost: x\r\nx-amz-meta-v: {}\r\n\r\n", "v".repeat(30 << 10));
    let one = async || {
        // Pipelined: each answer is an error document.
        let got = talk(node.s3, head.repeat(64).as_bytes(), true).await.expect("closed");
        assert!(String::from_utf8_lossy(&got).contains("AccessDenied"));
    };
    one().await;
    let before = resident_bytes();
    futures_util::future::join_all((0..32).map(|_| one())).await;
    let grown = resident_bytes().saturating_sub(before) >> 20;
    assert!(grown < 200, "{grown} MiB");
    unharmed(&node).await;
}

#[tokio::test]
async fn signatures_that_are_not_right_open_nothing() {
    let node = node().await;
    let put = || Ask::new(&node, "PUT", "/bucket/k").body("v");
    let mut other = put();
    other.key.1 = "another secret".into();
    assert_eq!(refused(&other.send().await), no(403, "SignatureDoesNotMatch"));
    other.key.0 = "AKNOBODY".into();
    assert_eq!(refused(&other.send().await), no(403, "InvalidAccessKeyId"));
    let mut elsewhere = put();
    elsewhere.region = "eu-west-1".into();
    assert_eq!(refused(&elsewhere.send().await), no(400, "AuthorizationHeaderMalformed"));
    for seconds in [-3600_i64, 3600] {
        let mut off = put();
        let shift = std::time::Duration::from_secs(seconds.unsigned_abs());
        off.time = if seconds < 0 { off.time - shift } else { off.time + shift };
        assert_eq!(refused(&off.send().await), no(403, "RequestTimeTooSkewed"));
    }
    let unsigned = put().signed().without("authorization").send().await;
    assert_eq!(refused(&unsigned), no(403, "AccessDenied"));
    let moved = put().signed().with("host", "elsewhere.example").send().await;
    assert_eq!(refused(&moved), no(403, "SignatureDoesNotMatch"));
    let two_hosts = put().signed().and("Host", "elsewhere.example").send().await;
    assert!(two_hosts.status == 400, "{two_hosts:?}");
    let more = put().signed().and("x-amz-acl", "private").send().await;
    assert_eq!(refused(&more), no(403, "AccessDenied"));
    // Every byte of a signature counts.
    let good = put().signed();
    let authorization = good.header("authorization").to_owned();
    let (before, signature) = authorization.rsplit_once('=').expect("a signature");
    for at in 0..signature.len() {
        let mut bytes = signature.as_bytes().to_vec();
        bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
        let changed = format!("{before}={}", String::from_utf8(bytes).expect("hex"));
        assert_eq!(
            refused(&good.clone().with("authorization", &changed).send().await),
            no(403, "SignatureDoesNotMatch")
        );
    }
    unharmed(&node).await;
}

#[tokio::test]
async fn paths_that_name_nothing_are_refused() {
    let node = node().await;
    for (path, code) in [
        ("/bucket/%ff", "InvalidURI"),
        ("/bucket/%c3%28", "InvalidURI"),
        ("/bucket?prefix=%ff", "InvalidURI"),
        ("/bucket%00", "InvalidBucketName"),
        ("//bucket/k", "InvalidBucketName"),
        ("/Bucket/k", "InvalidBucketName"),
        ("/ab/k", "InvalidBucketName"),
        ("/a..b/k", "InvalidBucketName"),
        ("/192.168.0.1/k", "InvalidBucketName"),
        ("/bucket%2Fthere", "InvalidBucketName"),
        ("/%2E%2E/k", "InvalidBucketName"),
    ] {
        assert_eq!(refused(&Ask::new(&node, "GET", path).send().await), no(400, code), "{path}");
        if !path.contains('?') {
            assert_eq!(refused(&Ask::new(&node, "PUT", path).body("v").send().await), no(400, code), "{path}");
        }
    }
    for name in
        ["a".repeat(64), "xn--bucket".into(), "bucket-s3alias".into(), "a_b".into(), "-abc".into(), "abc-".into()]
    {
        assert_eq!(
            refused(&Ask::new(&node, "PUT", &format!("/{name}")).send().await),
            no(400, "InvalidBucketName"),
            "{name}"
        );
    }
    let long = format!("/bucket/{}", encode(&"ü".repeat(513)));
    for method in ["PUT", "GET", "DELETE"] {
        assert_eq!(refused(&Ask::new(&node, method, &long).send().await), no(400, "KeyTooLongError"));
    }
    // Broken percent signs are plain characters, as at AWS.
    assert_eq!(refused(&Ask::new(&node, "GET", "/bucket/%zz%").send().await), no(404, "NoSuchKey"));
    unharmed(&node).await;
}
