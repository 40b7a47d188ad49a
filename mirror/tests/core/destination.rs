//! The destination's end: cutting what diverged, promotes that meet it, and sources that have gone back in time.

use lockstep_mirror::client::{OriginState, Role};
use lockstep_mirror::event::{Command, Connection, Effect, Event};
use lockstep_mirror::message::{Baseline, Hello, Message, PROTOCOL_VERSION};
use lockstep_mirror::plan::{AckLevel, Policy};
use lockstep_storage::id::{Epoch, Position, Seq};
use lockstep_storage::record::Record;
use lockstep_storage::superblock::EpochEntry;

use super::bench::{Bench, run, site};

pub(crate) fn hello(connection: Connection, epochs: &[EpochEntry], last: Position, in_sync: bool) -> Message {
    Message::Hello(said(connection, epochs, last, in_sync))
}

pub(crate) fn said(connection: Connection, epochs: &[EpochEntry], last: Position, in_sync: bool) -> Hello {
    Hello {
        version: PROTOCOL_VERSION,
        origin: site("site-a"),
        node: site("site-a"),
        peer: site("site-b"),
        incarnation: 5,
        connection: connection.0,
        epochs: epochs.to_vec(),
        last,
        trimmed: Seq::ZERO,
        policy: Policy::Sync,
        ack: AckLevel::Durable,
        link_timeout_ms: 5_000,
        in_sync,
    }
}

/// A destination that has five records of the source's first epoch, of which the source has lost all but three.
pub(crate) struct Scene {
    pub(crate) bench: Bench,
    pub(crate) records: Vec<Record>,
    pub(crate) epochs: Vec<EpochEntry>,
    /// With the epoch that the source began without hearing of the destination.
    alone: Vec<EpochEntry>,
}

pub(crate) const FIRST: Connection = Connection(1);
pub(crate) const SECOND: Connection = Connection(3);
const THIRD: Connection = Connection(5);

impl Scene {
    pub(crate) fn new() -> Self {
        let first = Epoch::default().next(site("site-a").node_id());
        let epochs = vec![EpochEntry::after(Position::default(), first)];
        let records = run(Position::default(), first, 5);
        let common = records[2].position();
        let next = EpochEntry::after(common, first.next(site("site-a").node_id()));
        let alone = vec![epochs[0], next];
        let mut scene = Self { bench: Bench::destination(), records, epochs, alone };
        scene.connect(FIRST);
        scene.bench.receive(FIRST, hello(FIRST, &scene.epochs, Position::default(), false));
        scene.bench.settle();
        scene.bench.receive_records(FIRST, scene.records.clone());
        assert_eq!(acked(&scene.bench.settle()), Some(Seq(5)));
        scene
    }

    pub(crate) fn connect(&mut self, connection: Connection) {
        let origin = self.bench.origin.clone();
        self.bench.handle(Event::Connected { origin, connection });
    }

    fn common(&self) -> Position {
        self.records[2].position()
    }

    /// The source comes by a new connection, after it went on alone.
    fn comes_from_alone(&mut self, connection: Connection) -> Vec<Effect> {
        self.connect(connection);
        let hello = hello(connection, &self.alone, self.common(), false);
        self.bench.receive(connection, hello);
        self.bench.settle()
    }

    pub(crate) fn promote(&mut self, accept_loss: bool) -> Option<Result<lockstep_mirror::event::Report, String>> {
        let origin = self.bench.origin.clone();
        self.bench.command(Command::Promote { origin, dry_run: false, accept_loss }).0
    }
}

pub(crate) fn acked(effects: &[Effect]) -> Option<Seq> {
    effects.iter().rev().find_map(|effect| match effect {
        Effect::Send { message: Message::Ack(ack), .. } => Some(ack.persisted),
        _ => None,
    })
}

pub(crate) fn refused(effects: &[Effect]) -> Option<&str> {
    effects.iter().find_map(|effect| match effect {
        Effect::Send { message: Message::Refused { reason, .. }, .. } => Some(reason.as_str()),
        _ => None,
    })
}

#[test]
fn a_source_that_comes_again_during_a_cut_waits_for_it() {
    let mut scene = Scene::new();
    let mut asked = scene.comes_from_alone(SECOND);
    scene.bench.lose(SECOND);
    asked.extend(scene.comes_from_alone(THIRD));
    let cuts = asked.iter().filter(|effect| matches!(effect, Effect::Cut { .. })).count();
    assert_eq!(cuts, 1, "a second one would take what is acknowledged after the first");
    scene.bench.cut(&asked);
    scene.bench.settle();
    let next = run(scene.common(), scene.alone[1].epoch, 1);
    scene.bench.receive_records(THIRD, next);
    assert_eq!(acked(&scene.bench.settle()), Some(Seq(4)));
    let (bench, _) = scene.bench.restart();
    assert_eq!(bench.image().progress().expect("reads").appended.seq, Seq(4), "it was acknowledged");
}

#[test]
fn a_promote_during_a_cut_begins_its_epoch_after_what_is_left() {
    let mut scene = Scene::new();
    // After a restart, so that more was found in the log than is left of it.
    scene.bench = scene.bench.restart().0;
    let asked = scene.comes_from_alone(SECOND);
    let promote = scene.bench.ticket();
    let origin = scene.bench.origin.clone();
    let command = Command::Promote { origin, dry_run: false, accept_loss: true };
    scene.bench.handle(Event::Command { ticket: promote, command });
    let early = scene.bench.settle();
    assert_eq!(super::bench::reply(&early, promote), None, "the cut comes first");
    assert_eq!(scene.bench.cut(&asked), 1);
    let left = scene.bench.settle();
    let report = super::bench::reply(&left, promote).expect("an answer").expect("promoted");
    assert_eq!(report.at, Some(scene.common()));
    let readable = left.iter().find_map(|effect| match effect {
        Effect::Publish(OriginState { origin, role: Role::Source, readable, .. }) => {
            (*origin == scene.bench.origin).then_some(*readable)
        }
        _ => None,
    });
    assert_eq!(readable, Some(true), "from the promote on, not only when enough was written");
    let (seq, _) = scene.bench.write("after");
    assert_eq!(seq, Seq(5), "after the first record of the new epoch");
    let (bench, _) = scene.bench.restart();
    assert_eq!(bench.image().progress().expect("reads").appended.seq, Seq(5));
}

#[test]
fn a_crash_after_a_cut_leaves_a_node_that_starts() {
    let mut scene = Scene::new();
    // What the engine has of the tail is not in the NVRAM any more; what comes then is.
    scene.bench = scene.bench.restart().0;
    scene.connect(SECOND);
    let last = scene.records[4].position();
    let behind = hello(SECOND, &scene.epochs, last, false);
    scene.bench.receive(SECOND, behind);
    scene.bench.settle();
    let more = run(last, scene.epochs[0].epoch, 2);
    scene.bench.receive_records(SECOND, more);
    assert_eq!(acked(&scene.bench.settle()), Some(Seq(7)));
    let asked = scene.comes_from_alone(THIRD);
    assert_eq!(scene.bench.cut(&asked), 1);
    // The power goes before the core can store anything.
    let (bench, _) = scene.bench.restart();
    assert_eq!(bench.image().progress().expect("reads").appended.seq, Seq(3));
}

impl Scene {
    /// Everything is applied, flushed and trimmed, as the source asks.
    fn consistency_point(&mut self) {
        self.bench.receive(FIRST, Message::SyncRequest { through: Seq(5), flushed: Seq(5) });
        self.bench.settle();
        let left = self.bench.flushed();
        let done = |effect: &Effect| matches!(effect, Effect::Send { message: Message::SyncDone { .. }, .. });
        assert!(left.iter().any(done));
    }
}

#[test]
fn a_source_that_has_gone_back_behind_what_is_trimmed_is_refused() {
    let mut scene = Scene::new();
    scene.consistency_point();
    scene.connect(SECOND);
    let rolled_back = hello(SECOND, &scene.epochs, scene.records[1].position(), false);
    scene.bench.receive(SECOND, rolled_back);
    scene.bench.settle();
    scene.bench.receive(SECOND, Message::Adopt { after: Seq(2) });
    let left = scene.bench.settle();
    assert!(refused(&left).is_some_and(|reason| reason.contains("baseline")), "{left:?}");
}

#[test]
fn a_destination_that_cannot_follow_its_source_any_more_is_not_in_sync() {
    let mut scene = Scene::new();
    scene.consistency_point();
    scene.bench.receive(FIRST, Message::SetInSync(true));
    scene.bench.settle();
    let left = scene.comes_from_alone(SECOND);
    let wants =
        |effect: &Effect| matches!(effect, Effect::Send { message: Message::Baseline(Baseline::Wanted { .. }), .. });
    assert!(left.iter().any(wants), "{left:?}");
    let answer = scene.promote(false).expect("an answer");
    assert!(answer.is_err_and(|reason| reason.contains("--accept-loss")), "its source has gone on alone");
}

#[test]
fn only_what_was_durable_here_before_its_answer_is_proved() {
    for (ack, verdict) in [(AckLevel::Durable, "proved"), (AckLevel::Received, "in_sync_at_last_contact")] {
        let mut scene = Scene::new();
        scene.connect(SECOND);
        let last = scene.records[4].position();
        let strict = Hello { policy: Policy::Strict, ack, ..said(SECOND, &scene.epochs, last, false) };
        scene.bench.receive(SECOND, Message::Hello(strict));
        scene.bench.settle();
        scene.bench.receive(SECOND, Message::SetInSync(true));
        scene.bench.settle();
        // At level `received` this may have lost records that clients were answered for.
        scene.bench = scene.bench.restart().0;
        let report = scene.promote(false).expect("an answer").expect("promoted");
        assert_eq!(report.verdict, Some(verdict), "{ack:?}");
    }
}

#[test]
fn a_source_whose_nvram_is_new_is_refused_and_changes_nothing() {
    let mut scene = Scene::new();
    scene.bench.receive(FIRST, Message::SetInSync(true));
    scene.bench.settle();
    scene.bench.lose(FIRST);
    scene.connect(SECOND);
    // It started empty: the same first epoch, no record, nothing in sync.
    let empty = Hello { incarnation: 6, ..said(SECOND, &scene.epochs, Position::default(), false) };
    scene.bench.receive(SECOND, Message::Hello(empty));
    let left = scene.bench.settle();
    let refused = left.iter().find_map(|effect| match effect {
        Effect::Send { message: Message::Refused { reason, .. }, .. } => Some(reason.clone()),
        _ => None,
    });
    assert!(refused.is_some_and(|reason| reason.contains("NVRAM that is new")), "{left:?}");
    let origin = scene.bench.origin.clone();
    let (answer, _) = scene.bench.command(Command::Promote { origin, dry_run: true, accept_loss: false });
    let verdict = answer.and_then(Result::ok).and_then(|report| report.verdict);
    assert_eq!(verdict, Some(lockstep_mirror::node::IN_SYNC_AT_LAST_CONTACT));
}
