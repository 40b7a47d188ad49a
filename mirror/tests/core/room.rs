//! A destination whose disk is nearly full (F22), and a record that cannot be applied (F42): nothing of what was acknowledged is
//! touched, and who asks is told.

use lockstep_mirror::client::Refusal;
use lockstep_mirror::event::{Command, Effect, Event};
use lockstep_mirror::message::Message;
use lockstep_mirror::status::StreamState;
use lockstep_storage::id::Seq;

use super::bench::{Bench, done, run};
use super::destination::{FIRST, SECOND, Scene, acked, hello, refused};

fn full(bench: &mut Bench, full: bool) -> Vec<Effect> {
    let origin = bench.origin.clone();
    bench.handle(Event::Full { origin, full });
    bench.settle()
}

#[test]
fn a_destination_without_room_refuses_its_source_until_there_is_some() {
    let mut scene = Scene::new();
    let left = full(&mut scene.bench, true);
    assert!(refused(&left).is_some_and(|reason| reason.contains("has no room")), "{left:?}");
    assert!(left.iter().any(|effect| matches!(effect, Effect::Close { connection: FIRST, .. })), "{left:?}");
    assert_eq!(scene.bench.shown().persisted, Seq(5), "what it had acknowledged");
    // The source comes again, with more.
    scene.connect(SECOND);
    let last = scene.records[4].position();
    let again = hello(SECOND, &scene.epochs, last, false);
    scene.bench.receive(SECOND, again);
    let left = scene.bench.settle();
    assert!(refused(&left).is_some_and(|reason| reason.contains("has no room")), "{left:?}");
    let (third, more) = (lockstep_mirror::event::Connection(5), run(last, scene.epochs[0].epoch, 1));
    full(&mut scene.bench, false);
    scene.connect(third);
    let again = hello(third, &scene.epochs, last, false);
    scene.bench.receive(third, again);
    scene.bench.settle();
    scene.bench.receive_records(third, more);
    assert_eq!(acked(&scene.bench.settle()), Some(Seq(6)));
}

#[test]
fn what_has_come_before_the_room_was_gone_is_kept_and_can_be_promoted() {
    let mut scene = Scene::new();
    let last = scene.records[4].position();
    scene.bench.receive_records(FIRST, run(last, scene.epochs[0].epoch, 2));
    full(&mut scene.bench, true);
    assert_eq!(scene.bench.shown().persisted, Seq(7), "the NVRAM has room for it, whatever the disk says");
    let report = scene.promote(true).expect("an answer").expect("a promote needs no room");
    assert_eq!(report.at.map(|at| at.seq), Some(Seq(7)));
}

/// The source asks for a consistency point, and record 3 of 5 is damaged in the container.
fn stuck() -> Scene {
    let mut scene = Scene::new();
    scene.bench.damage(Seq(3));
    scene.bench.receive(FIRST, Message::SyncRequest { through: Seq(5), flushed: Seq(5) });
    scene.bench.settle();
    scene
}

#[test]
fn a_destination_that_cannot_apply_a_record_goes_on_taking_the_log() {
    let mut scene = stuck();
    let status = scene.bench.shown();
    assert_eq!((status.applied, status.stuck.as_ref().map(|(at, _)| *at)), (Seq(2), Some(Seq(3))), "{status:?}");
    let last = scene.records[4].position();
    scene.bench.receive_records(FIRST, run(last, scene.epochs[0].epoch, 2));
    let left = scene.bench.settle();
    assert_eq!(acked(&left), Some(Seq(7)));
    let is_done = |effect: &Effect| matches!(effect, Effect::Send { message: Message::SyncDone { .. }, .. });
    assert!(!left.iter().any(is_done), "no point is claimed that the image is not at");
    // Asked again, it is not tried again, and says the same.
    scene.bench.receive(FIRST, Message::SyncRequest { through: Seq(7), flushed: Seq(7) });
    scene.bench.settle();
    assert_eq!((scene.bench.shown().applied, scene.bench.stuck), (Seq(2), 1), "no loop");
    let answer = scene.promote(true).expect("an answer");
    assert!(answer.is_err_and(|reason| reason.contains("record 3 of site-a cannot be applied")), "it would never end");
    assert_eq!(scene.bench.shown().state, StreamState::CatchingUp, "nothing has changed");
}

#[test]
fn a_restart_finds_the_record_that_cannot_be_applied_again() {
    let mut scene = stuck();
    scene.bench.flushed();
    scene.bench = scene.bench.restart().0;
    assert_eq!(scene.bench.shown().stuck, None, "nobody has asked for it yet");
    scene.connect(SECOND);
    let last = scene.records[4].position();
    let again = hello(SECOND, &scene.epochs, last, false);
    scene.bench.receive(SECOND, again);
    scene.bench.settle();
    scene.bench.receive(SECOND, Message::SyncRequest { through: Seq(5), flushed: Seq(5) });
    scene.bench.settle();
    assert_eq!(scene.bench.shown().stuck.map(|(at, _)| at), Some(Seq(3)));
}

#[test]
fn a_source_that_cannot_apply_a_record_takes_no_writes_and_answers_whoever_waits() {
    let (mut bench, _) = Bench::source(None);
    let (seq, _) = bench.write("applied");
    let waits = bench.submit("waits");
    bench.handle(Event::Idle);
    let origin = bench.origin.clone();
    // The bench is asked to apply it only later: the worker says that it cannot.
    bench.handle(Event::Stuck { origin: origin.clone(), at: seq.next(), reason: "corrupt: a test".into() });
    let answered = done(&bench.effects, waits);
    let unknown = matches!(&answered, Some(Err(Refusal::Unknown { reason, .. })) if reason.contains("record"));
    assert!(unknown, "it is in the log, and nobody can tell when it will be seen: {answered:?}");
    let later = bench.submit("later");
    let refused = done(&bench.effects, later);
    assert!(matches!(refused, Some(Err(Refusal::Unavailable { .. }))), "{refused:?}");
    let (answer, _) = bench.command(Command::Sync { origin: Some(origin) });
    assert!(answer.expect("an answer").is_err_and(|reason| reason.contains("cannot be applied")));
}
