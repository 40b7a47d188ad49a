//! Consistency points of the core, driven event by event: which one an operator's command is answered by.

use bytes::Bytes;
use lockstep_mirror::event::{Command, Effect, Event, Now, Ticket};
use lockstep_mirror::node::Node;
use lockstep_mirror::plan::{NodePlan, OriginPlan};
use lockstep_mirror::start::{Started, region_len, start};
use lockstep_mirror::worker::Worker;
use lockstep_storage::id::{Origin, Seq};
use lockstep_storage::image::Image;
use lockstep_storage::image::memory::MemoryEngine;
use lockstep_storage::nvram::sim::SimNvram;
use lockstep_storage::op::{Bucket, CreateBucket, Mutation};
use lockstep_storage::record::Draft;

/// A node without a mirror, whose device and engine do what they are asked when the test says so.
struct Alone {
    node: Node,
    worker: Worker,
    origin: Origin,
    effects: Vec<Effect>,
    tickets: u64,
}

impl Alone {
    fn new() -> Self {
        let origin = Origin::new("site-a").expect("a name");
        let own = OriginPlan { origin: origin.clone(), nvram_len: 1 << 20, stream: None };
        let plan =
            NodePlan { node: origin.clone(), origins: vec![own], bootstrap: Vec::new(), record_len_max: 8 << 10 };
        let mut nvram = SimNvram::new(region_len(&plan));
        let mut open = |_: &Origin, _| Ok(Image::new(std::sync::Arc::new(MemoryEngine::new())));
        let Started { node, images, effects } = start(&mut nvram, &plan, 7, &mut open, Now::default()).expect("starts");
        let image = images[0].1.clone();
        let worker = Worker::new(origin.clone(), image, Box::new(|_, _, _| Ok(())));
        let mut alone = Self { node, worker, origin, effects, tickets: 0 };
        alone.settle();
        alone
    }

    fn handle(&mut self, event: Event) {
        self.node.handle(event, Now { mono_ms: 1, wall_ms: 1 }, &mut self.effects);
    }

    /// Carries out what the core asks of device and engine, but for flushes, which are left to the test. Returns what it
    /// says to clients and operators, and the flushes.
    fn settle(&mut self) -> Vec<Effect> {
        let mut left = Vec::new();
        for _ in 0..100 {
            self.handle(Event::Idle);
            let asked = std::mem::take(&mut self.effects);
            for effect in asked {
                match effect {
                    Effect::Persist { id } => self.handle(Event::Persisted { id }),
                    Effect::Append { .. } | Effect::Apply { .. } | Effect::Trim { .. } | Effect::Collect { .. } => {
                        drop(self.worker.carry_out(effect).expect("the engine works"));
                        while let Some(event) = self.worker.apply_step().expect("applies") {
                            self.handle(event);
                        }
                    }
                    Effect::Flush { .. } | Effect::Done { .. } | Effect::Reply { .. } => left.push(effect),
                    _ => {}
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
    let mut alone = Alone::new();
    let (first_seq, _) = alone.write("first");
    let first = alone.ticket();
    alone.handle(Event::Command { ticket: first, command: Command::Sync });
    assert!(is_flush(&alone.settle()), "the first point begins");
    // While it is under way, a write is committed, and another operator asks for a point: it must hold that write.
    let progress = alone.worker.image().flush().expect("flushes");
    let (second_seq, _) = alone.write("second");
    let second = alone.ticket();
    alone.handle(Event::Command { ticket: second, command: Command::Sync });
    assert!(alone.settle().is_empty(), "one point at a time");
    let origin = alone.origin.clone();
    alone.handle(Event::Flushed { origin, progress });
    let answered = alone.settle();
    assert_eq!(replied(&answered), (first, format!("consistency point at {first_seq}")));
    assert!(answered.iter().any(|effect| matches!(effect, Effect::Flush { .. })), "the second point begins at once");
    assert_eq!(replied(&alone.flushed()), (second, format!("consistency point at {second_seq}")));
}
