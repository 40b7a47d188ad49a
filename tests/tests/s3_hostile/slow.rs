//! Clients that are slow on purpose. The listener runs in the test's own runtime, whose clock jumps when nothing else is
//! to do: a minute costs nothing, and only what never ends would hang.

use std::time::Duration;

use lockstep_gateway::s3::{Gateway, listener};
use lockstep_tests::raw::Ask;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};

use super::{node, unharmed};

/// A listener like the node's, on the test's clock.
async fn listen(node: &lockstep_tests::node::Node) -> std::net::SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = socket.local_addr().expect("bound");
    let gateway = Gateway::new(node.client.clone(), "us-east-1".into(), Vec::new());
    tokio::spawn(listener::serve(socket, gateway, std::future::pending()));
    address
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

/// The rest on a clock that runs: what is fine here is fine in real time.
async fn unharmed_after(node: lockstep_tests::node::Node) {
    tokio::time::resume();
    unharmed(&node).await;
}
