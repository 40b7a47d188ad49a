//! A log device that is slow: what clients are answered, and what operators are told.

use lockstep_mirror::client::{Answered, Receipt, Refusal};
use lockstep_mirror::event::{Effect, Event, Ticket};
use lockstep_mirror::note::Noted;
use lockstep_mirror::plan::Policy;

use super::bench::Bench;
use super::source::{ack, in_sync};

fn answer(effects: &[Effect], asked: Ticket) -> Option<Result<Receipt, Refusal>> {
    effects.iter().find_map(|effect| match effect {
        Effect::Done { ticket, result } if *ticket == asked => Some(result.clone()),
        _ => None,
    })
}

/// Time passes for the core alone: its device carries nothing out.
fn wait(bench: &mut Bench, ms: u64) {
    for _ in 0..ms.div_ceil(50) {
        bench.now_ms += 50;
        bench.handle(Event::Idle);
    }
}

#[test]
fn a_writer_who_waits_for_the_own_device_hears_that_the_outcome_is_unknown() {
    let (mut bench, _) = Bench::source(None);
    let (before, _) = bench.write("before");
    let ticket = bench.submit("late");
    wait(&mut bench, 29_950);
    assert_eq!(answer(&bench.effects, ticket), None, "it may still come");
    assert!(bench.status().device.stalled);
    wait(&mut bench, 100);
    match answer(&bench.effects, ticket) {
        Some(Err(Refusal::Unknown { seq, reason, .. })) => {
            assert_eq!(seq, before.next());
            assert!(reason.contains("did not persist it in 30000 ms"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    let settled =
        |effects: &[Effect]| effects.iter().any(|e| matches!(e, Effect::Settled { ticket: t } if *t == ticket));
    assert!(!settled(&bench.effects), "it may become visible");
    // The device comes back: the record is there, and whoever waited for the outcome goes on.
    assert!(settled(&bench.settle()));
    assert!(bench.image().progress().expect("reads").applied.seq > before);
    let (seq, _) = bench.write("after");
    assert!(seq > before.next());
}

#[test]
fn a_writer_who_finds_no_room_is_refused_without_effect() {
    let (mut bench, _) = Bench::source(None);
    let (before, _) = bench.write("before");
    // Nothing is flushed, so sooner or later every segment is held.
    let mut waits = None;
    for n in 0..10_000 {
        let ticket = bench.submit(&format!("bucket-{n}"));
        let left = bench.settle();
        if answer(&left, ticket).is_none() {
            waits = Some((ticket, bench.shown().last));
            break;
        }
    }
    let (ticket, last) = waits.expect("a partition that is full");
    wait(&mut bench, 30_100);
    match answer(&bench.effects, ticket) {
        Some(Err(Refusal::Unavailable { reason, .. })) => assert!(reason.contains("no room"), "{reason}"),
        other => panic!("{other:?}"),
    }
    bench.settle();
    bench.flushed();
    let (seq, _) = bench.write("after");
    assert_eq!(seq, last.next(), "what was refused has no record; the first was {before}");
}

#[test]
fn a_mirror_that_is_late_is_judged_before_the_own_device() {
    let (mut bench, connection, _, last) = in_sync(Policy::Sync);
    let ticket = bench.submit("alone");
    bench.handle(Event::Idle);
    for _ in 0..6 {
        bench.now_ms += 1_000;
        bench.receive(connection, ack(last.seq));
        bench.handle(Event::Idle);
    }
    let left = bench.settle();
    assert!(
        matches!(answer(&left, ticket), Some(Ok(Receipt { ack: Answered::Local, .. }))),
        "out of sync comes first: {left:?}"
    );
}

#[test]
fn a_slow_device_is_told_and_shown_and_so_is_its_end() {
    let (mut bench, _) = Bench::source(None);
    bench.write("before");
    bench.notes.clear();
    for n in 0..4 {
        bench.submit(&format!("slow-{n}"));
        wait(&mut bench, 1_200);
        bench.settle();
    }
    let said: Vec<Noted> = bench.notes.iter().map(|note| note.what).collect();
    assert_eq!(said, [Noted::DeviceSlow]);
    let device = bench.status().device;
    assert!(device.slow && !device.stalled && device.worst_ms >= 1_150 && device.slow_times == 1, "{device:?}");
    for n in 0..12 {
        bench.now_ms += 1_000;
        bench.write(&format!("fast-{n}"));
    }
    let said: Vec<Noted> = bench.notes.iter().map(|note| note.what).collect();
    assert_eq!(said, [Noted::DeviceSlow, Noted::DeviceSteady]);
    assert!(!bench.status().device.slow);
}
