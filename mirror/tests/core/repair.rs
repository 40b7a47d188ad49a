//! Damage: what a reader of a damaged chunk is told, what the peer may ask for, and what becomes of an engine that is found
//! damaged.

use std::time::Duration;

use bytes::Bytes;
use lockstep_mirror::client::Role;
use lockstep_mirror::event::{Command, Connection, Effect, Event, Ticket};
use lockstep_mirror::message::{Append, Baseline, Mending, Message};
use lockstep_mirror::plan::{AckLevel, Policy, StreamPlan};
use lockstep_storage::id::{BodyId, ChunkId, Position, Seq};
use lockstep_storage::image::{Family, keys};
use lockstep_storage::op::{Data, Mutation};
use lockstep_storage::record::{Draft, payload_crc};
use lockstep_storage::superblock::EpochEntry;

use super::bench::{Bench, reply, site};
use super::destination::{FIRST, SECOND, Scene, hello, refused};

const CHUNK: &[u8] = b"the bytes of a chunk";

/// A source that is linked to its mirror and has one chunk, which is damaged.
struct Damaged {
    bench: Bench,
    link: Connection,
    chunk: ChunkId,
}

fn stream() -> StreamPlan {
    StreamPlan {
        destination: site("site-b"),
        url: "http://site-b:9002".into(),
        policy: Policy::Async,
        ack: AckLevel::Durable,
        link_timeout: Duration::from_mins(1),
        sync_interval: Duration::from_mins(10),
        backlog_limit: 1 << 30,
        baseline_rate: 1 << 30,
    }
}

impl Damaged {
    fn new() -> Self {
        let (mut bench, mut asked) = Bench::source(Some(stream()));
        let (origin, ticket) = (bench.origin.clone(), bench.ticket());
        let draft = Draft::new(Mutation::Data(Data::default()), Bytes::from_static(CHUNK)).expect("small");
        bench.handle(Event::Submit { ticket, origin, draft, require: None, history: None });
        asked.extend(bench.settle());
        let (link, hello) = bench.connected(&asked);
        bench.welcome(link, hello.epochs.clone(), hello.last);
        let epoch = hello.last.epoch;
        let chunk = ChunkId { body: BodyId { epoch, seq: hello.last.seq }, index: 0 };
        assert_eq!(bench.image().view().chunk(chunk.body, 0).expect("is there"), CHUNK);
        let mut damaged = Self { bench, link, chunk };
        damaged.bench.settle();
        damaged.spoil();
        damaged
    }

    fn spoil(&mut self) {
        let key = keys::chunk(self.chunk.body, self.chunk.index);
        self.bench.engine().spoil(Family::Body, &key, Some(&Bytes::from_static(b"other bytes")));
    }

    /// A reader asks; what the node does.
    fn reader(&mut self) -> (Ticket, Vec<Effect>) {
        let (ticket, origin) = (self.bench.ticket(), self.bench.origin.clone());
        self.bench.now_ms += 100;
        self.bench.handle(Event::Command { ticket, command: Command::Repair { origin, chunk: self.chunk } });
        (ticket, self.bench.settle())
    }

    fn answer(&mut self, bytes: Option<&'static [u8]>) -> Vec<Effect> {
        self.bench.now_ms += 100;
        let bytes = bytes.map(Bytes::from_static);
        let crc = bytes.as_ref().map_or(0, |bytes| payload_crc(bytes));
        self.bench.receive(self.link, Message::Mending(Mending::Have { chunk: self.chunk, bytes, crc }));
        self.bench.settle()
    }
}

fn wanted(effects: &[Effect]) -> usize {
    let want = |effect: &&Effect| matches!(effect, Effect::Send { message: Message::Mending(Mending::Want(_)), .. });
    effects.iter().filter(want).count()
}

#[test]
fn a_reader_waits_for_the_right_bytes() {
    let mut damaged = Damaged::new();
    let (first, asked) = damaged.reader();
    assert_eq!((wanted(&asked), reply(&asked, first)), (1, None));
    let (second, asked) = damaged.reader();
    assert_eq!((wanted(&asked), reply(&asked, second)), (0, None), "it is asked for already");
    let again = damaged.answer(Some(b"not the bytes of the chunk"));
    assert_eq!((wanted(&again), reply(&again, first)), (1, None), "these are not put in place");
    let done = damaged.answer(Some(CHUNK));
    for reader in [first, second] {
        assert!(reply(&done, reader).is_some_and(|result| result.is_ok()), "{done:?}");
    }
    assert_eq!(damaged.bench.image().view().chunk(damaged.chunk.body, 0).expect("repaired"), CHUNK);
    assert_eq!(wanted(&damaged.answer(Some(CHUNK))), 0, "an answer that nobody waits for changes nothing");
}

#[test]
fn a_reader_does_not_wait_for_ever() {
    let mut damaged = Damaged::new();
    let given_up = |effects: &[Effect], reader| reply(effects, reader).is_some_and(|result| result.is_err());
    // The peer has none, or wrong ones only.
    let (reader, _) = damaged.reader();
    assert!(given_up(&damaged.answer(None), reader));
    let (reader, _) = damaged.reader();
    let said: Vec<_> = (0..3).map(|_| given_up(&damaged.answer(Some(b"wrong")), reader)).collect();
    assert_eq!(said, [false, false, true], "a few times only");
    // It does not answer.
    let (reader, _) = damaged.reader();
    damaged.bench.now_ms += 10_000;
    assert!(given_up(&damaged.bench.settle(), reader));
    // Nobody is there.
    damaged.bench.lose(damaged.link);
    damaged.bench.settle();
    let (reader, left) = damaged.reader();
    assert!(given_up(&left, reader) && wanted(&left) == 0, "{left:?}");
}

#[test]
fn a_peer_asks_for_a_few_chunks_at_once_and_gets_what_verifies() {
    let mut damaged = Damaged::new();
    let (link, chunk) = (damaged.link, damaged.chunk);
    let answered = |effects: Vec<Effect>| {
        effects.into_iter().find_map(|effect| match effect {
            Effect::Send { message: Message::Mending(Mending::Have { bytes, .. }), .. } => Some(bytes),
            _ => None,
        })
    };
    damaged.bench.receive(link, Message::Mending(Mending::Want(chunk)));
    assert_eq!(answered(damaged.bench.settle()), Some(None), "nobody gets what does not verify here");
    damaged.reader();
    damaged.answer(Some(CHUNK));
    damaged.bench.receive(link, Message::Mending(Mending::Want(chunk)));
    assert_eq!(answered(damaged.bench.settle()), Some(Some(Bytes::from_static(CHUNK))));
    for _ in 0..5 {
        damaged.bench.receive(link, Message::Mending(Mending::Want(chunk)));
    }
    let left = damaged.bench.settle();
    assert!(left.iter().any(|effect| matches!(effect, Effect::Close { .. })), "{left:?}");
}

#[test]
fn who_lacks_a_record_that_is_damaged_gets_a_baseline() {
    let mut damaged = Damaged::new();
    damaged.bench.lose(damaged.link);
    let asked = damaged.bench.settle();
    let (link, hello) = damaged.bench.connected(&asked);
    let begin = Position::default();
    damaged.bench.welcome(link, hello.epochs.clone(), begin);
    let left = damaged.bench.settle();
    let sent = left.iter().filter_map(|effect| match effect {
        Effect::Send { message: Message::Append(Append { records, .. }), .. } => records.last(),
        _ => None,
    });
    let before = Seq(hello.last.seq.0 - 1);
    assert_eq!(sent.map(|record| record.header.seq).max(), Some(before), "what comes before it is sent: {left:?}");
    assert!(left.iter().any(|effect| matches!(effect, Effect::Close { connection, .. } if *connection == link)));
    let (link, hello) = damaged.bench.connected(&left);
    damaged.bench.welcome(link, hello.epochs.clone(), Position { seq: before, ..begin });
    let offers = |effect: &Effect| matches!(effect, Effect::Send { message: Message::Baseline(Baseline::Offer), connection, .. } if *connection == link);
    let left = damaged.bench.settle();
    assert!(left.iter().any(offers), "{left:?}");
}

/// The engine of `site-a` is found damaged.
fn found_damaged(bench: &mut Bench) -> Vec<Effect> {
    let origin = bench.origin.clone();
    bench.handle(Event::EngineFailed { origin, reason: "corrupt: a file".into(), damaged: true });
    let stops = |effect: &Effect| matches!(effect, Effect::Stop { .. });
    assert!(!bench.effects.iter().any(stops), "the mark comes first: {:?}", bench.effects);
    let left = bench.settle();
    assert!(left.iter().any(stops), "{left:?}");
    left
}

fn wants_a_baseline(effects: &[Effect]) -> bool {
    let wants =
        |effect: &Effect| matches!(effect, Effect::Send { message: Message::Baseline(Baseline::Wanted { .. }), .. });
    effects.iter().any(wants)
}

#[test]
fn a_damaged_engine_is_not_used_again_and_its_source_fills_another_one() {
    let mut scene = Scene::new();
    found_damaged(&mut scene.bench);
    let (bench, left) = scene.bench.restart();
    scene.bench = bench;
    let shown = left.iter().find_map(|effect| match effect {
        Effect::Publish(state) if state.origin == site("site-a") => Some((state.role, state.readable)),
        _ => None,
    });
    assert_eq!(shown, Some((Role::Destination, false)), "nobody reads what is not there");
    // A source that does not have what was here cannot take its place.
    let other = EpochEntry { parent: 7, ..scene.epochs[0] };
    scene.connect(FIRST);
    scene.bench.receive(FIRST, hello(FIRST, &[other], scene.records[4].position(), false));
    let left = scene.bench.settle();
    assert!(!wants_a_baseline(&left), "{left:?}");
    assert!(refused(&left).is_some_and(|reason| reason.contains("does not have what was here")), "{left:?}");
    scene.connect(SECOND);
    scene.bench.receive(SECOND, hello(SECOND, &scene.epochs, scene.records[4].position(), false));
    let left = scene.bench.settle();
    assert!(wants_a_baseline(&left), "{left:?}");
}

#[test]
fn a_source_whose_engine_is_damaged_waits_for_its_operator() {
    let mut damaged = Damaged::new();
    found_damaged(&mut damaged.bench);
    let (mut bench, left) = damaged.bench.restart();
    let connects = |effect: &Effect| matches!(effect, Effect::Connect { .. });
    assert!(!left.iter().any(connects), "it speaks to nobody as the source: {left:?}");
    let origin = bench.origin.clone();
    let rebuild = |accept_loss| Command::Rebuild { origin: origin.clone(), accept_loss };
    let (said, _) = bench.command(rebuild(false));
    assert!(said.is_some_and(|said| said.is_err()), "it may have answered alone");
    let (said, _) = bench.command(rebuild(true));
    assert!(said.is_some_and(|said| said.is_ok()));
}
