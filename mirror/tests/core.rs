//! The source's end of the core, driven event by event where the order of two events decides: what an operator's command is
//! answered by, and what the destination is told.

use std::time::Duration;

use bytes::Bytes;
use lockstep_mirror::event::{Command, Connection, Effect, Event, Now, Ticket};
use lockstep_mirror::message::{Ack, Hello, Message, PROTOCOL_VERSION, Welcome};
use lockstep_mirror::node::Node;
use lockstep_mirror::plan::{AckLevel, Limits, NodePlan, OriginPlan, Policy, StreamPlan};
use lockstep_mirror::start::{Started, region_len, start};
use lockstep_mirror::worker::Worker;
use lockstep_storage::id::{Origin, Position, Seq};
use lockstep_storage::image::Image;
use lockstep_storage::image::memory::MemoryEngine;
use lockstep_storage::nvram::sim::SimNvram;
use lockstep_storage::op::{Bucket, CreateBucket, Mutation};
use lockstep_storage::record::Draft;
use lockstep_storage::superblock::EpochEntry;

/// A source whose device and engine do what they are asked when the test says so, and whose mirror the test plays.
struct Bench {
    node: Node,
    worker: Worker,
    origin: Origin,
    effects: Vec<Effect>,
    tickets: u64,
}

impl Bench {
    /// With what it asked for at its start.
    fn new(stream: Option<StreamPlan>) -> (Self, Vec<Effect>) {
        let origin = Origin::new("site-a").expect("a name");
        let own = OriginPlan { origin: origin.clone(), nvram_len: 1 << 20, stream };
        let plan = NodePlan {
            node: origin.clone(),
            origins: vec![own],
            bootstrap: Vec::new(),
            limits: Limits { record_len_max: 8 << 10, ..Limits::default() },
        };
        let mut nvram = SimNvram::new(region_len(&plan));
        let mut open = |_: &Origin, _| Ok(Image::new(std::sync::Arc::new(MemoryEngine::new())));
        let Started { node, images, effects } = start(&mut nvram, &plan, 7, &mut open, Now::default()).expect("starts");
        let image = images[0].1.clone();
        let worker = Worker::new(origin.clone(), image, Limits::default(), Box::new(|_, _, _| Ok(())));
        let mut bench = Self { node, worker, origin, effects, tickets: 0 };
        let left = bench.settle();
        (bench, left)
    }

    fn handle(&mut self, event: Event) {
        self.node.handle(event, Now { mono_ms: 1, wall_ms: 1 }, &mut self.effects);
    }

    /// Carries out what the core asks of device and engine, but for flushes, which are left to the test. Returns these, and
    /// what it says to clients, operators and the link.
    fn settle(&mut self) -> Vec<Effect> {
        let mut left = Vec::new();
        for _ in 0..100 {
            self.handle(Event::Idle);
            let asked = std::mem::take(&mut self.effects);
            for effect in asked {
                match effect {
                    Effect::Persist { id } => self.handle(Event::Persisted { id }),
                    Effect::Append { .. }
                    | Effect::Apply { .. }
                    | Effect::Trim { .. }
                    | Effect::Collect { .. }
                    | Effect::Fetch { .. } => {
                        if let Some(event) = self.worker.carry_out(effect).expect("the engine works") {
                            self.handle(event);
                        }
                        while let Some(event) = self.worker.step().expect("applies") {
                            self.handle(event);
                        }
                    }
                    Effect::Write { .. } | Effect::Placed { .. } | Effect::Publish(_) | Effect::Note { .. } => {}
                    said => left.push(said),
                }
            }
        }
        left
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    /// A write, until it is answered; its seq, and what else was asked for meanwhile.
    fn write(&mut self, bucket: &str) -> (Seq, Vec<Effect>) {
        let mutation = Mutation::CreateBucket(CreateBucket { bucket: bucket.into(), meta: Bucket::default() });
        let draft = Draft::new(mutation, Bytes::new()).expect("small");
        let (ticket, origin) = (self.ticket(), self.origin.clone());
        self.handle(Event::Submit { ticket, origin, draft, require: None });
        let mut left = self.settle();
        let at = left.iter().position(|effect| matches!(effect, Effect::Done { ticket: t, .. } if *t == ticket));
        match at.map(|at| left.remove(at)) {
            Some(Effect::Done { result: Ok(receipt), .. }) => (receipt.seq, left),
            other => panic!("the write is not answered: {other:?}"),
        }
    }

    fn flushed(&mut self) -> Vec<Effect> {
        let progress = self.worker.image().flush().expect("flushes");
        let origin = self.origin.clone();
        self.handle(Event::Flushed { origin, progress });
        self.settle()
    }

    /// The connection that the core asks for stands; its Hello.
    fn connected(&mut self, asked: &[Effect]) -> (Connection, Hello) {
        let connect = asked.iter().find_map(|effect| match effect {
            Effect::Connect { connection, .. } => Some(*connection),
            _ => None,
        });
        let connection = connect.unwrap_or_else(|| panic!("no connection is asked for: {asked:?}"));
        self.handle(Event::Connected { origin: self.origin.clone(), connection });
        let left = self.settle();
        let hello = left.into_iter().find_map(|effect| match effect {
            Effect::Send { message: Message::Hello(hello), .. } => Some(hello),
            _ => None,
        });
        (connection, hello.expect("a Hello"))
    }

    fn receive(&mut self, connection: Connection, message: Message) {
        let origin = self.origin.clone();
        self.handle(Event::Received { origin, connection, message });
    }

    /// The mirror's welcome: it has everything up to `last`, of these epochs.
    fn welcome(&mut self, connection: Connection, epochs: Vec<EpochEntry>, last: Position) {
        let node = Origin::new("site-b").expect("a name");
        let (version, credit) = (PROTOCOL_VERSION, 1 << 20);
        let welcome = Welcome { version, node, incarnation: 9, connection: connection.0, epochs, last, credit };
        self.receive(connection, Message::Welcome(welcome));
    }
}

fn is_flush(effects: &[Effect]) -> bool {
    matches!(effects, [Effect::Flush { .. }])
}

/// The ticket of the only reply, and the consistency point that it names.
fn replied(effects: &[Effect]) -> (Ticket, String) {
    let replies: Vec<_> = effects.iter().filter(|effect| matches!(effect, Effect::Reply { .. })).collect();
    match replies[..] {
        [Effect::Reply { ticket, result: Ok(report) }] => (*ticket, report.text.clone()),
        _ => panic!("one good reply is expected: {effects:?}"),
    }
}

#[test]
fn a_sync_is_answered_by_a_point_that_holds_what_was_committed_before_it() {
    let (mut bench, _) = Bench::new(None);
    let (first_seq, _) = bench.write("first");
    let first = bench.ticket();
    bench.handle(Event::Command { ticket: first, command: Command::Sync });
    assert!(is_flush(&bench.settle()), "the first point begins");
    // While it is under way, a write is committed, and another operator asks for a point: it must hold that write.
    let progress = bench.worker.image().flush().expect("flushes");
    let (second_seq, _) = bench.write("second");
    let second = bench.ticket();
    bench.handle(Event::Command { ticket: second, command: Command::Sync });
    assert!(bench.settle().is_empty(), "one point at a time");
    let origin = bench.origin.clone();
    bench.handle(Event::Flushed { origin, progress });
    let answered = bench.settle();
    assert_eq!(replied(&answered), (first, format!("consistency point at {first_seq}")));
    assert!(answered.iter().any(|effect| matches!(effect, Effect::Flush { .. })), "the second point begins at once");
    assert_eq!(replied(&bench.flushed()), (second, format!("consistency point at {second_seq}")));
}

/// Says that the destination is in sync, by this connection.
fn tells_in_sync(effects: &[Effect], by: Connection) -> bool {
    effects.iter().any(|effect| {
        matches!(effect, Effect::Send { connection, message: Message::SetInSync(true), .. } if *connection == by)
    })
}

#[test]
fn a_destination_that_missed_that_it_is_in_sync_is_told_by_the_next_connection() {
    let plan = StreamPlan {
        destination: Origin::new("site-b").expect("a name"),
        url: "http://site-b:9002".into(),
        policy: Policy::Sync,
        ack: AckLevel::Durable,
        link_timeout: Duration::from_secs(5),
        sync_interval: Duration::from_secs(10),
        backlog_limit: 1 << 30,
    };
    let (mut bench, asked) = Bench::new(Some(plan));
    let (first, hello) = bench.connected(&asked);
    bench.welcome(first, Vec::new(), Position::default());
    bench.settle();
    // The ack brings the source in sync. Its mark is under way to the device when the link is lost.
    let seq = hello.last.seq;
    bench.receive(first, Message::Ack(Ack { received: seq, persisted: seq, applied: Seq::ZERO, credit: 1 << 20 }));
    let marking = bench.effects.iter().any(|effect| matches!(effect, Effect::Persist { .. }));
    assert!(marking, "the mark is stored before it is told");
    let origin = bench.origin.clone();
    bench.handle(Event::Disconnected { origin, connection: first, reason: "cut".into() });
    let left = bench.settle();
    assert!(!tells_in_sync(&left, first), "nobody is there to be told");
    let (second, hello) = bench.connected(&left);
    assert!(hello.in_sync, "the mark stands at the source");
    bench.welcome(second, hello.epochs, hello.last);
    assert!(tells_in_sync(&bench.settle(), second), "a promote would be refused for want of a mark");
}
