//! Clients that are slow on purpose. The listener runs in the test's own runtime, whose clock jumps when nothing else is
//! to do: a minute costs nothing, and only what never ends would hang.

use std::time::Duration;

use lockstep_gateway::s3::{Gateway, listener};
use lockstep_tests::raw::Ask;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::{node, unharmed};

/// A listener like the node's, on the test's clock.
async fn listen(node: &lockstep_tests::node::Node) -> std::net::SocketAddr {
    listen_until(node, std::future::pending()).await.0
}

/// The same, until it is told to end.
async fn listen_until(
    node: &lockstep_tests::node::Node,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> (std::net::SocketAddr, JoinHandle<()>) {
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = socket.local_addr().expect("bound");
    let gateway = Gateway::new(node.client.clone(), "us-east-1".into(), Vec::new());
    (address, tokio::spawn(listener::serve(socket, gateway, shutdown)))
}

/// Sends a head piece by piece with a pause after each, then nothing; gives what came until the other side closed.
async fn drip(address: std::net::SocketAddr, pieces: &[&[u8]], pause: Duration) -> (Vec<u8>, Duration) {
    let began = Instant::now();
    let (mut reader, mut writer) = TcpStream::connect(address).await.expect("it listens").into_split();
    let mut got = Vec::new();
    let write = async {
        for piece in pieces {
            // It may be closed by now.
            let _closed = writer.write_all(piece).await;
            sleep(pause).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ended = reader.read_to_end(&mut got) => {}
        () = write => {}
    }
    (got, began.elapsed())
}

#[tokio::test]
async fn whoever_says_nothing_or_never_ends_a_head_loses_the_connection() {
    let node = node().await;
    tokio::time::pause();
    let address = listen(&node).await;
    let second = Duration::from_secs(1);
    let slow: Vec<&[u8]> =
        b"GET / HTTP/1.1\r\nHost: x\r\nx-slow: loris, one byte at a time and never at its end".chunks(1).collect();
    let cases: [&[&[u8]]; 6] = [
        &[],
        &[b"G"],
        &[b"PRI * HTTP/2.0\r\n"],
        &[b"GET / HTTP/1.1\r\nHost: x\r\n"],
        &slow,
        // An answered request, and then silence.
        &[b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"],
    ];
    for pieces in cases {
        let (got, took) = drip(address, pieces, 5 * second).await;
        assert!(took <= 125 * second, "{took:?} after {pieces:?}");
        let answered = String::from_utf8_lossy(&got).contains("403 Forbidden");
        assert_eq!(answered, pieces.first().is_some_and(|piece| piece.ends_with(b"\r\n\r\n")), "{pieces:?}");
    }
    unharmed_after(node).await;
}

#[tokio::test]
async fn a_body_that_stops_coming_is_refused_in_time_and_stores_nothing() {
    let node = node().await;
    tokio::time::pause();
    let address = listen(&node).await;
    let head = Ask::new(&node, "PUT", "/bucket/k")
        .payload("UNSIGNED-PAYLOAD")
        .header("Content-Length", "100000")
        .signed()
        .head();
    let (got, took) = drip(address, &[head.as_bytes(), b"the first bytes"], Duration::ZERO).await;
    let text = String::from_utf8_lossy(&got).into_owned();
    assert!(text.contains("<Code>RequestTimeout</Code>"), "{text}");
    assert!(took <= Duration::from_secs(200), "{took:?}");
    unharmed_after(node).await;
}

/// On a clock that runs: the request's answer comes from other threads.
#[tokio::test]
async fn a_listener_that_ends_waits_for_requests_and_not_for_who_has_asked_nothing() {
    let node = node().await;
    let (end, ended) = oneshot::channel::<()>();
    let (address, serving) = listen_until(&node, async move { drop(ended.await) }).await;
    let answered = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut idle = Vec::new();
    for opening in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n", answered] {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        stream.write_all(opening).await.expect("written");
        if opening == answered {
            while stream.read_u8().await.expect("an answer") != b'>' {}
        }
        idle.push(stream);
    }
    let put = Ask::new(&node, "PUT", "/bucket/k").payload("UNSIGNED-PAYLOAD").header("Content-Length", "5");
    let head = put.header("Expect", "100-continue").signed().without("connection").head();
    let mut put = TcpStream::connect(address).await.expect("it listens");
    put.write_all(head.as_bytes()).await.expect("written");
    let mut got = [0; 25];
    put.read_exact(&mut got).await.expect("a handler wants the body");
    assert_eq!(&got, b"HTTP/1.1 100 Continue\r\n\r\n");
    let began = Instant::now();
    end.send(()).expect("it runs");
    for mut stream in idle {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.expect("it is closed");
    }
    assert!(!serving.is_finished(), "a request is under way");
    put.write_all(b"bytes").await.expect("written");
    let mut got = Vec::new();
    put.read_to_end(&mut got).await.expect("an answer, and the end");
    assert!(got.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&got));
    serving.await.expect("it does not panic");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(Ask::new(&node, "DELETE", "/bucket/k").send().await.status, 204);
    unharmed(&node).await;
}

/// The rest on a clock that runs: what is fine here is fine in real time.
async fn unharmed_after(node: lockstep_tests::node::Node) {
    tokio::time::resume();
    unharmed(&node).await;
}
