//! Two links in one process: everything arrives in order, everyone who should not open a stream is refused, and whatever
//! becomes of one end, the other one hears of it.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "two ends of a link on real sockets")]

#[path = "link/raw.rs"]
mod raw;
#[path = "link/support.rs"]
mod support;

use std::time::Duration;

use bytes::Bytes;
use lockstep_mirror::event::{Connection, Event};
use lockstep_mirror::link::{LinkOptions, Secret};
use lockstep_mirror::message::{Ack, Append, Hello, Message, PROTOCOL_VERSION, Welcome};
use lockstep_mirror::plan::{AckLevel, Policy};
use lockstep_storage::id::{Epoch, NodeId, Position, Seq};
use lockstep_storage::superblock::EpochEntry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

use raw::{Claimed, Visitor};
use support::{PATIENCE, Pair, Site, append, name, options, plan, record};

fn ack(received: u64) -> Message {
    Message::Ack(Ack { received: Seq(received), persisted: Seq(1), applied: Seq(0), credit: 1 << 20 })
}

fn of_each_kind() -> Vec<Message> {
    let epoch = Epoch { counter: 3, node: NodeId(9) };
    let last = Position { epoch, seq: Seq(4), checksum: 5 };
    let epochs = vec![EpochEntry { epoch, first: Seq(1), parent: 0 }];
    vec![
        Message::Hello(Hello {
            version: PROTOCOL_VERSION,
            origin: name("site-a"),
            node: name("site-a"),
            peer: name("site-b"),
            incarnation: 1,
            connection: 2,
            epochs: epochs.clone(),
            last,
            trimmed: Seq(0),
            policy: Policy::Async,
            ack: AckLevel::Received,
            link_timeout_ms: 5000,
            in_sync: true,
        }),
        Message::Welcome(Welcome {
            version: PROTOCOL_VERSION,
            node: name("site-b"),
            incarnation: 1,
            connection: 2,
            epochs: epochs.clone(),
            last,
            credit: 1,
        }),
        Message::Refused { reason: "not now".into(), epochs },
        append(vec![
            record(1, Bytes::from_static(b"one")),
            record(2, vec![2; 1 << 20].into()),
            record(3, Bytes::new()),
        ]),
        Message::Append(Append { committed: Seq(1), persisted: Seq(2), records: Vec::new() }),
        ack(4),
        Message::Adopt { after: Seq(4) },
        Message::SyncRequest { through: Seq(4), flushed: Seq(3) },
        Message::SyncDone { through: Seq(4) },
        Message::SetInSync(true),
        Message::InSyncStored(true),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_each_kind_arrive_in_order_at_both_ends() {
    let mut pair = Pair::new(options(), options()).await;
    for message in of_each_kind() {
        pair.send_from_a(message.clone());
        pair.send_from_b(message);
    }
    for message in of_each_kind() {
        assert_eq!(pair.b.received().await, message);
        assert_eq!(pair.a.received().await, message);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_listener_speaks_first_where_it_wants_to() {
    let mut pair = Pair::new(options(), options()).await;
    pair.send_from_b(ack(1));
    assert_eq!(pair.a.received().await, ack(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sent_before_a_close_arrives_and_both_ends_hear_of_the_close() {
    let last = || append((1..=8).map(|seq| record(seq, vec![1; 100_000].into())).collect());
    let mut pair = Pair::new(options(), options()).await;
    pair.send_from_b(last());
    pair.send_from_b(Message::Refused { reason: "no".into(), epochs: Vec::new() });
    pair.b.link.close(&name("site-a"), pair.at_b);
    pair.send_from_b(ack(9));
    assert_eq!(pair.b.disconnected(pair.at_b).await, "closed by this node");
    assert_eq!(pair.a.received().await, last());
    assert!(matches!(pair.a.received().await, Message::Refused { .. }));
    assert_eq!(pair.a.disconnected(pair.at_a).await, "site-b closed the connection");

    let mut pair = Pair::new(options(), options()).await;
    pair.send_from_a(last());
    pair.a.link.close(&name("site-a"), pair.at_a);
    assert_eq!(pair.a.disconnected(pair.at_a).await, "closed by this node");
    assert_eq!(pair.b.received().await, last());
    assert_eq!(pair.b.disconnected(pair.at_b).await, "site-a closed the connection");
    // Closing what is gone is no event.
    pair.a.link.close(&name("site-a"), pair.at_a);
    assert!(pair.a.events.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_says_so() {
    let mut pair = Pair::new(options(), options()).await;
    pair.b.stop.cancel();
    assert_eq!(pair.b.disconnected(pair.at_b).await, "this node is stopping");
    assert_eq!(pair.a.disconnected(pair.at_a).await, "site-b closed the connection");
    let mut pair = Pair::new(options(), options()).await;
    pair.a.link.close_all();
    assert_eq!(pair.a.disconnected(pair.at_a).await, "this node is stopping");
    assert_eq!(pair.b.disconnected(pair.at_b).await, "site-a closed the connection");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_connection_of_the_peer_replaces_the_older_one() {
    let mut pair = Pair::new(options(), options()).await;
    let newer_at_a = pair.a.connect("site-a");
    let newer_at_b = pair.b.connected().await;
    assert!(newer_at_b > pair.at_b);
    assert_eq!(pair.b.disconnected(pair.at_b).await, "replaced by a newer connection of the peer");
    // At the opener the two come in any order.
    for _ in 0..2 {
        match pair.a.next().await.0 {
            Event::Connected { connection, .. } => assert_eq!(connection, newer_at_a),
            Event::Disconnected { connection, .. } => assert_eq!(connection, pair.at_a),
            other => panic!("{other:?}"),
        }
    }
    pair.a.link.send(&name("site-a"), newer_at_a, ack(1));
    assert_eq!(pair.b.received().await, ack(1));
}

/// The sentence with which `site-a`, as planned and with this secret, is refused by `site-b`.
async fn refusal(origin: &str, destination: &str, secret: &str) -> String {
    let mut b = Site::new(&plan("site-b", &[("site-b", None), ("site-a", None), ("site-c", None)]), options());
    let url = format!("http://{}", b.listen().await);
    let options = LinkOptions::new(Secret::new(secret).expect("not empty"));
    let mut a = Site::new(&plan("site-a", &[(origin, Some((destination, url)))]), options);
    let connection = a.connect(origin);
    let reason = a.disconnected(connection).await;
    assert!(b.events.try_recv().is_err(), "the refusing node has no event");
    reason
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_should_not_open_a_stream_is_refused_in_one_sentence() {
    let secret = "a secret of both";
    let wrong_secret = refusal("site-a", "site-b", "another").await;
    assert!(wrong_secret.contains("(401)") && wrong_secret.contains("secret"), "{wrong_secret}");
    let wrong_peer = refusal("site-a", "site-x", secret).await;
    assert!(wrong_peer.contains("(403)") && wrong_peer.contains("site-b, not site-x"), "{wrong_peer}");
    let unknown_origin = refusal("site-z", "site-b", secret).await;
    assert!(unknown_origin.contains("(404)") && unknown_origin.contains("site-z"), "{unknown_origin}");
    let other_node = refusal("site-c", "site-b", secret).await;
    assert!(other_node.contains("(403)") && other_node.contains("is site-c, not site-a"), "{other_node}");
    let without_a_mirror = refusal("site-b", "site-b", secret).await;
    assert!(without_a_mirror.contains("(404)"), "{without_a_mirror}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nonce_is_good_once_and_on_its_own_connection() {
    let mut b = Site::new(&plan("site-b", &[("site-b", None), ("site-a", None)]), options());
    let addr = b.listen().await;
    let mut first = Visitor::new(addr).await;
    let nonce = first.nonce().await;
    let claimed = Claimed { nonce, ..Claimed::good() };
    let (status, stream) = first.open(&claimed).await;
    assert_eq!(status, 200);
    let connection = b.connected().await;
    let (status, _) = first.open(&claimed).await;
    assert_eq!(status, 401, "the same nonce again");

    let mut second = Visitor::new(addr).await;
    let own = second.nonce().await;
    let (status, _) = second.open(&claimed).await;
    assert_eq!(status, 401, "the nonce of another connection");
    let (status, _) = second.open(&Claimed { nonce: own, ..Claimed::good() }).await;
    assert_eq!(status, 401, "an own nonce is used up by a failure");

    let nonce = second.nonce().await;
    let (status, _) = second.open(&Claimed { nonce, path_origin: "site-b", ..Claimed::good() }).await;
    assert_eq!(status, 404, "the path names another origin than the signature");
    let nonce = second.nonce().await;
    let (status, _) = second.open(&Claimed { nonce, sent_node: "site-x", ..Claimed::good() }).await;
    assert_eq!(status, 401, "another node than the signature's");
    let (status, _) = second.open(&Claimed { nonce: String::new(), ..Claimed::good() }).await;
    assert_eq!(status, 401, "no nonce asked for");
    // None of this has touched the stream that stands.
    assert!(b.events.try_recv().is_err());
    drop(stream);
    b.disconnected(connection).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signature_of_another_year_is_good() {
    let mut b = Site::new(&plan("site-b", &[("site-b", None), ("site-a", None)]), options());
    let mut visitor = Visitor::new(b.listen().await).await;
    let nonce = visitor.nonce().await;
    let (status, _stream) = visitor.open(&Claimed { nonce, unix_seconds: 1_000_000_000, ..Claimed::good() }).await;
    assert_eq!(status, 200);
    b.connected().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_at_the_listener_hurts_nobody_else() {
    let short = LinkOptions { connect_timeout: Duration::from_millis(300), ..options() };
    let b = Site::new(&plan("site-b", &[("site-b", None), ("site-a", None)]), short);
    let addr = b.listen().await;
    let mut pair = Pair::through(addr, options(), b).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff";
    for garbage in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], preface, &vec![0; 100_000], &[], b"PRI * HT"] {
        let mut stream = TcpStream::connect(addr).await.expect("it listens");
        // It may be closed while this is written.
        let _closed = stream.write_all(garbage).await;
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await;
        assert!(ended.is_ok(), "the connection is dropped");
    }
    let mut visitor = Visitor::new(addr).await;
    assert_eq!(visitor.post("/").await, 404);
    assert_eq!(visitor.post("/v1/stream/site-a").await, 400);
    pair.send_from_a(ack(1));
    assert_eq!(pair.b.received().await, ack(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_messages_end_the_connection_with_a_reason() {
    let mut b = Site::new(&plan("site-b", &[("site-b", None), ("site-a", None)]), options());
    let addr = b.listen().await;
    let good: Vec<u8> = lockstep_mirror::message::wire::encode(&append(vec![record(7, vec![1; 50].into())])).concat();
    let mut damaged = good.clone();
    damaged[good.len() - 1] ^= 1;
    let cases = [
        (damaged, "payload checksum mismatch at seq 7"),
        (vec![9; 40], "message header is of another format"),
        (good[..good.len() - 5].to_vec(), "closed the connection within a message"),
    ];
    for (bytes, expected) in cases {
        let mut visitor = Visitor::new(addr).await;
        let nonce = visitor.nonce().await;
        let (status, mut stream) = visitor.open(&Claimed { nonce, ..Claimed::good() }).await;
        assert_eq!(status, 200);
        let connection = b.connected().await;
        assert!(stream.send(bytes.into()));
        stream.end();
        let reason = b.disconnected(connection).await;
        assert!(reason.contains(expected), "{reason}");
    }
}

/// Passes bytes between two ends until told to freeze (it then forwards nothing) or dropped (it then closes).
async fn relay(to: std::net::SocketAddr, mut frozen: watch::Receiver<bool>) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        let (mut left, _) = listener.accept().await.expect("a connection");
        let mut right = TcpStream::connect(to).await.expect("it listens");
        // False where the sender is gone: the relay closes both connections.
        let freeze = async { frozen.wait_for(|frozen| *frozen).await.is_ok() };
        let freeze = tokio::select! {
            _ended = tokio::io::copy_bidirectional(&mut left, &mut right) => false,
            freeze = freeze => freeze,
        };
        if freeze {
            std::future::pending::<()>().await;
        }
    });
    addr
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ends_hear_of_a_connection_that_breaks() {
    let b = Site::new(&plan("site-b", &[("site-b", None), ("site-a", None)]), options());
    let (alive, frozen) = watch::channel(false);
    let addr = relay(b.listen().await, frozen).await;
    let mut pair = Pair::through(addr, options(), b).await;
    drop(alive);
    let reason = pair.a.disconnected(pair.at_a).await;
    assert!(reason.starts_with("connection with site-b lost"), "{reason}");
    let reason = pair.b.disconnected(pair.at_b).await;
    assert!(reason.starts_with("connection with site-a lost"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ends_hear_of_a_network_that_swallows_everything() {
    let quick = LinkOptions {
        ping_interval: Duration::from_millis(100),
        ping_timeout: Duration::from_millis(300),
        ..options()
    };
    let b = Site::new(&plan("site-b", &[("site-b", None), ("site-a", None)]), quick.clone());
    let (alive, frozen) = watch::channel(false);
    let addr = relay(b.listen().await, frozen).await;
    let mut pair = Pair::through(addr, quick, b).await;
    alive.send(true).expect("the relay lives");
    let reason = pair.a.disconnected(pair.at_a).await;
    assert!(reason.starts_with("connection with site-b lost"), "{reason}");
    let reason = pair.b.disconnected(pair.at_b).await;
    assert!(reason.starts_with("connection with site-a lost"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_cannot_be_made_says_why() {
    // Bound and not listening: the port is nobody else's, and refuses.
    let closed = TcpSocket::new_v4().expect("a socket");
    closed.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let closed_addr = closed.local_addr().expect("bound");
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let other = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let (silent_addr, other_addr) = (silent.local_addr().expect("bound"), other.local_addr().expect("bound"));
    tokio::spawn(async move {
        let (mut stream, _) = other.accept().await.expect("a connection");
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.expect("written");
        stream.read_to_end(&mut Vec::new()).await.expect("read");
    });
    let cases = [
        (format!("http://{closed_addr}"), "refuses connections"),
        (format!("http://{silent_addr}"), "no answer from site-b"),
        (format!("http://{other_addr}"), "does not"),
        // A name that no resolver is asked for: it has an empty label.
        ("http://no..such:1".to_owned(), "no connection to site-b"),
        ("https://127.0.0.1:1".to_owned(), "TLS between sites is not supported"),
    ];
    for (url, expected) in cases {
        let silent = expected.starts_with("no answer");
        let connect_timeout = if silent { Duration::from_millis(200) } else { PATIENCE };
        let short = LinkOptions { connect_timeout, ..options() };
        let mut a = Site::new(&plan("site-a", &[("site-a", Some(("site-b", url)))]), short);
        let connection = a.connect("site-a");
        let reason = a.disconnected(connection).await;
        assert!(reason.contains(expected), "{reason}");
    }
    let mut a = Site::new(&plan("site-a", &[("site-a", None)]), options());
    let connection = a.connect("site-a");
    assert_eq!(a.disconnected(connection).await, "origin site-a has no peer");
    drop((silent, closed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_can_be_closed_while_it_waits() {
    let stream = Some(("site-b", "http://127.0.0.1:1".to_owned()));
    let mut a = Site::new(&plan("site-a", &[("site-a", stream)]), options());
    a.link.connect(&name("site-a"), Connection(7), 3_600_000);
    a.link.close(&name("site-a"), Connection(7));
    assert_eq!(a.disconnected(Connection(7)).await, "closed by this node");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inbox_that_is_not_drained_stops_its_reading_but_not_the_other_direction() {
    const COUNT: u64 = 100;
    let small = LinkOptions { inbox_limit: 4 << 20, ..options() };
    let mut pair = Pair::new(options(), small).await;
    for seq in 1..=COUNT {
        pair.send_from_a(append(vec![record(seq, vec![0; 1 << 20].into())]));
    }
    let mut held = Vec::new();
    // Four records with their headers are more than 4 MiB.
    for _ in 0..4 {
        held.push(pair.b.next().await);
    }
    // Acks pass while b reads nothing more, and they are answered by nobody's reading.
    for seq in 1..=1000 {
        pair.send_from_b(ack(seq));
    }
    for seq in 1..=1000 {
        assert_eq!(pair.a.received().await, ack(seq));
    }
    assert!(pair.b.events.is_empty(), "{} messages beyond the limit", pair.b.events.len());
    drop(held);
    for seq in 5..=COUNT {
        let Message::Append(got) = pair.b.received().await else { panic!("no append") };
        assert_eq!(got.records[0].header.seq, Seq(seq));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_beyond_its_limit_ends_the_connection() {
    let a_little = LinkOptions { outbox_limit: 8 << 20, ..options() };
    let small = LinkOptions { inbox_limit: 0, ..options() };
    let mut pair = Pair::new(a_little, small).await;
    let payload = Bytes::from(vec![0; 1 << 20]);
    for seq in 1..=200 {
        pair.send_from_a(append(vec![record(seq, payload.clone())]));
    }
    let reason = pair.a.disconnected(pair.at_a).await;
    assert!(reason.contains("bytes wait to be sent"), "{reason}");
}
