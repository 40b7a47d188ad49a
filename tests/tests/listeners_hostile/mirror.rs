//! The mirror listener, as seen by someone who even has the secret: nothing that is not the origin's history gets into the
//! log, the reason is told, and the next one who comes is served.

use std::time::{Duration, Instant};

use bytes::Bytes;
use lockstep_mirror::message::wire::encode;
use lockstep_mirror::message::{Append, Hello, Message, PROTOCOL_VERSION};
use lockstep_mirror::plan::{AckLevel, Policy};
use lockstep_storage::id::{Epoch, Origin, Position, Seq};
use lockstep_storage::op::{Data, Mutation, PutUser, User};
use lockstep_storage::record::{Draft, Place, Record};
use lockstep_storage::superblock::EpochEntry;
use lockstep_tests::node::{MIRROR_SECRET, Node, PATIENCE, resident_bytes};
use lockstep_tests::raw::Ask;
use tokio::net::TcpStream;

use super::visitor::{Claimed, Stream, Visitor};

fn name(text: &str) -> Origin {
    Origin::new(text).expect("a name")
}

fn epoch() -> Epoch {
    Epoch { counter: 1, node: name("site-a").node_id() }
}

fn epochs() -> Vec<EpochEntry> {
    vec![EpochEntry { epoch: epoch(), first: Seq(1), parent: 0 }]
}

fn hello() -> Hello {
    Hello {
        version: PROTOCOL_VERSION,
        origin: name("site-a"),
        node: name("site-a"),
        peer: name("site-b"),
        incarnation: 1,
        connection: 2,
        epochs: epochs(),
        last: Position::default(),
        trimmed: Seq(0),
        policy: Policy::Sync,
        ack: AckLevel::Durable,
        link_timeout_ms: 5000,
        in_sync: false,
    }
}

/// What `site-a` claims, who has the secret.
fn good() -> Claimed {
    Claimed { secret: MIRROR_SECRET, ..Claimed::good() }
}

fn start() -> Position {
    Position { epoch: epoch(), seq: Seq(0), checksum: 0 }
}

fn draft() -> Draft {
    let user = PutUser { name: "eve".into(), user: User::default() };
    Draft::new(Mutation::PutUser(user), Bytes::new()).expect("small")
}

fn after(parent: Position, epoch: Epoch, draft: Draft) -> Record {
    draft.place(&Place { parent, epoch, committed: Seq(0), persisted: Seq(0), time_ms: 1 })
}

fn append(records: Vec<Record>) -> Bytes {
    bytes(&Message::Append(Append { committed: Seq(0), persisted: Seq(0), records }))
}

fn bytes(message: &Message) -> Bytes {
    encode(message).concat().into()
}

/// A connection of somebody who has the secret.
struct Peer<'a> {
    node: &'a Node,
    stream: Stream,
    _visitor: Visitor,
}

impl<'a> Peer<'a> {
    async fn new(node: &'a Node) -> Self {
        let mut visitor = Visitor::new(node.mirror).await;
        let nonce = visitor.nonce().await;
        let (status, stream) = visitor.open(&Claimed { nonce, ..good() }).await;
        assert_eq!(status, 200);
        Self { node, stream, _visitor: visitor }
    }

    /// One that was welcomed.
    async fn welcomed(node: &'a Node) -> Self {
        let mut peer = Self::new(node).await;
        peer.stream.send(bytes(&Message::Hello(hello())));
        peer.reason("linked").await;
        peer
    }

    /// Waits until the node says this of the stream of `site-a`.
    async fn reason(&self, wanted: &str) {
        let (began, mut seen) = (Instant::now(), String::new());
        while began.elapsed() < PATIENCE {
            let status = self.node.client.status();
            seen = status
                .origins
                .iter()
                .find(|o| o.origin == name("site-a"))
                .map(|o| o.reason.clone())
                .unwrap_or_default();
            if seen.contains(wanted) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("the node says '{seen}', not '{wanted}'");
    }
}

/// Nothing of it is in the log, and the node serves and listens as before.
async fn unharmed(node: &Node) {
    let status = node.client.status();
    let origin = status.origins.iter().find(|o| o.origin == name("site-a")).expect("its partition");
    assert_eq!((origin.persisted, origin.applied), (Seq(0), Seq(0)));
    goes_on(node).await;
}

async fn goes_on(node: &Node) {
    Peer::new(node).await;
    assert!([200, 409].contains(&Ask::new(node, "PUT", "/own-bucket").send().await.status));
    assert_eq!(Ask::new(node, "PUT", "/own-bucket/k").body(vec![1; 50_000]).send().await.status, 200);
    assert_eq!(Ask::new(node, "GET", "/own-bucket/k").send().await.body.len(), 50_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_do_not_follow_end_the_connection() {
    let node = Node::destination().await;
    let first = after(start(), epoch(), draft());
    let second = after(first.position(), epoch(), draft());
    let other_epoch = Epoch { counter: 2, ..epoch() };
    let last_of_all = after(Position { seq: Seq(u64::MAX - 1), ..start() }, epoch(), draft());
    for (records, reason) in [
        (vec![second.clone()], "record 2 does not follow 0"),
        (vec![after(Position { checksum: 1, ..start() }, epoch(), draft())], "record 1 does not follow 0"),
        (vec![after(start(), other_epoch, draft())], "record 1 is of epoch"),
        // Found by reading: the seq after the last of all seqs overflowed, and the node's core was gone.
        (vec![last_of_all.clone(), last_of_all], "does not follow 0"),
        (vec![first.clone(), first, second], "record 1 does not follow 1"),
    ] {
        let mut peer = Peer::welcomed(&node).await;
        peer.stream.send(append(records));
        peer.reason(reason).await;
    }
    unharmed(&node).await;
}

/// A record whose header is right for bytes that are no op.
fn unreadable(op: &[u8], kind: u8) -> Bytes {
    let good = after(start(), epoch(), draft());
    let mut head = good.head[..88].to_vec();
    head[4] = kind;
    head[72..76].copy_from_slice(&(op.len() as u32).to_le_bytes());
    let covered = [&head[..8], &head[16..], op].concat();
    let checksum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &covered);
    head[8..16].copy_from_slice(&checksum.to_le_bytes());
    let mut message = append(vec![good]).to_vec();
    // Header and marks of the message, then the record; the length counts what follows the header.
    message.truncate(12 + 20);
    message.extend_from_slice(&head);
    message.extend_from_slice(op);
    reseal(&mut message)
}

/// With the length and the checksum that the message's header and marks need.
fn reseal(message: &mut [u8]) -> Bytes {
    let len = (message.len() - 12) as u32;
    message[4..8].copy_from_slice(&len.to_le_bytes());
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &message[4..32]) as u32;
    message[..4].copy_from_slice(&crc.to_le_bytes());
    Bytes::copy_from_slice(message)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_message_or_no_record_end_the_connection() {
    let node = Node::destination().await;
    let good = append(vec![after(start(), epoch(), draft())]);
    let changed = |at: usize, to: u8| {
        let mut bytes = good.to_vec();
        bytes[at] = to;
        Bytes::from(bytes)
    };
    let mut huge = good.to_vec();
    huge[4..8].copy_from_slice(&(9_u32 << 20).to_le_bytes());
    let mut many = good.to_vec();
    many[28..32].copy_from_slice(&u32::MAX.to_le_bytes());
    for (bytes, reason) in [
        (Bytes::from_static(&[7; 100]), "message header is of another format"),
        (changed(8, 77), "message kind 77 is not known"),
        (Bytes::from(huge), "claims 9437184 bytes"),
        (changed(13, 1), "message checksum mismatch"),
        (reseal(&mut many), "append claims 4294967295 records"),
        (changed(32 + 4, 99), "record kind 99 is not known"),
        (changed(32 + 20, 1), "header checksum mismatch"),
        (changed(32, b'X'), "no record of a known format"),
        // Found by reading: both were persisted and acknowledged, and then stopped the node, at every start again.
        (unreadable(b"\xff\xff\xff", 12), "op at seq 1 does not decode"),
        (unreadable(b"", 2), "op at seq 1 does not decode"),
    ] {
        let mut peer = Peer::welcomed(&node).await;
        peer.stream.send(bytes);
        peer.reason(reason).await;
    }
    let mut peer = Peer::welcomed(&node).await;
    peer.stream.send(good.slice(..good.len() - 1));
    peer.stream.end();
    peer.reason("closed the connection within a message").await;
    unharmed(&node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hello_that_is_not_this_nodes_or_cannot_be_is_refused() {
    let node = Node::destination().await;
    let entry =
        |counter: u64, first: u64| EpochEntry { epoch: Epoch { counter, ..epoch() }, first: Seq(first), parent: 0 };
    let many: Vec<EpochEntry> = (1..=1500).map(|counter| entry(counter, counter)).collect();
    for (hello, reason) in [
        (Hello { version: 7, ..hello() }, "protocol version 7"),
        (Hello { peer: name("site-c"), ..hello() }, "this is site-b, not site-c"),
        (Hello { origin: name("site-c"), ..hello() }, "this stream is for site-a, not for site-c"),
        (Hello { node: name("site-c"), ..hello() }, "site-c is not the peer of site-b for site-a"),
        // Found by reading: this one did not fit the superblock, and the node stopped.
        (Hello { epochs: many, ..hello() }, "1500 of them, at most 64"),
        (Hello { epochs: vec![entry(2, 1), entry(1, 5)], ..hello() }, "they do not rise"),
        (Hello { epochs: vec![entry(u64::MAX, 1)], ..hello() }, "is higher than any"),
    ] {
        let mut peer = Peer::new(&node).await;
        peer.stream.send(bytes(&Message::Hello(hello)));
        peer.reason(reason).await;
    }
    unharmed(&node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_out_of_turn_end_the_connection() {
    let node = Node::destination().await;
    let early = append(vec![after(start(), epoch(), draft())]);
    let mut peer = Peer::new(&node).await;
    peer.stream.send(early);
    peer.reason("a message that a source does not send now").await;
    for message in [
        Message::Hello(hello()),
        Message::SyncDone { through: Seq(1) },
        Message::InSyncStored(true),
        Message::Refused { reason: "no".into(), epochs: Vec::new() },
        // Found by reading: the record after the last of all seqs was asked for, and the node's core was gone.
        Message::Adopt { after: Seq(u64::MAX) },
    ] {
        let mut peer = Peer::welcomed(&node).await;
        peer.stream.send(bytes(&message));
        peer.reason("a message that a source does not send now").await;
    }
    let mut peer = Peer::welcomed(&node).await;
    peer.stream.send(bytes(&Message::SyncRequest { through: Seq(u64::MAX), flushed: Seq(u64::MAX) }));
    peer.stream.send(Bytes::from_static(&[9; 40]));
    peer.reason("message header is of another format").await;
    unharmed(&node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_not_the_secret_opens_nothing() {
    let node = Node::destination().await;
    let mut visitor = Visitor::new(node.mirror).await;
    assert_eq!(visitor.post("/").await, 404);
    assert_eq!(visitor.post("/v1/stream/site-a").await, 400, "no signature");
    let (status, _) = visitor.open(&good()).await;
    assert_eq!(status, 401, "no nonce");
    let nonce = visitor.nonce().await;
    let (status, _) = visitor.open(&Claimed { nonce: nonce.clone(), sent_node: "site-b", ..good() }).await;
    assert_eq!(status, 401, "another node than was signed");
    let (status, _) = visitor.open(&Claimed { nonce, ..good() }).await;
    assert_eq!(status, 401, "a nonce is used up by a failure");
    let nonce = visitor.nonce().await;
    let (status, _) = visitor.open(&Claimed { nonce, path_origin: "site-z", ..good() }).await;
    assert_eq!(status, 404, "another origin");
    unharmed(&node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_connections_hellos_and_heartbeats_are_borne() {
    let node = Node::destination().await;
    for _ in 0..100 {
        let mut peer = Peer::new(&node).await;
        peer.stream.send(bytes(&Message::Hello(hello())));
    }
    let before = resident_bytes();
    let mut peer = Peer::welcomed(&node).await;
    // Each is answered, and nobody reads the answers.
    let heartbeats: Bytes = append(Vec::new()).repeat(1000).into();
    for _ in 0..100 {
        peer.stream.send(heartbeats.clone());
    }
    goes_on(&node).await;
    let grown = resident_bytes().saturating_sub(before) >> 20;
    assert!(grown < 300, "{grown} MiB");
    unharmed(&node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_beyond_the_credit_do_not_take_memory_with_them() {
    let node = Node::destination().await;
    let mut peer = Peer::welcomed(&node).await;
    let before = resident_bytes();
    let payload = Bytes::from(vec![3; 1 << 20]);
    let mut parent = start();
    for _ in 0..200 {
        let chunk = Draft::new(Mutation::Data(Data::default()), payload.clone()).expect("a chunk");
        let record = after(parent, epoch(), chunk);
        parent = record.position();
        for piece in encode(&Message::Append(Append { committed: Seq(0), persisted: Seq(0), records: vec![record] })) {
            peer.stream.send(piece);
        }
    }
    // Taken as fast as they are persisted, or refused: the node works on either way.
    goes_on(&node).await;
    let grown = resident_bytes().saturating_sub(before) >> 20;
    assert!(grown < 500, "{grown} MiB of 200 sent at once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_touch_neither_a_link_that_stands_nor_a_later_one() {
    let (a, b) = Node::pair().await;
    assert_eq!(Ask::new(&a, "PUT", "/bucket").send().await.status, 200);
    let mut idle = Vec::new();
    for _ in 0..300 {
        idle.push(TcpStream::connect(b.mirror).await.expect("it listens"));
    }
    for number in 0..5 {
        let put = Ask::new(&a, "PUT", &format!("/bucket/{number}")).body(vec![1; 100_000]).send().await;
        assert_eq!((put.status, put.header("x-lockstep-ack")), (200, "durable"));
    }
    // They lose their places by themselves; whoever comes then is let in.
    let began = Instant::now();
    loop {
        let mirror = b.mirror;
        let visit = async move {
            let mut visitor = Visitor::new(mirror).await;
            visitor.nonce().await
        };
        if tokio::spawn(visit).await.is_ok() {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "the listener stays full");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(idle);
}
