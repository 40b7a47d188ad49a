//! The clocks of two nodes: what is shown and told of the peer's, and that no record seems older than the one before it.

use lockstep_mirror::event::{Command, Connection, Effect, Event};
use lockstep_mirror::message::{Clock, Message};
use lockstep_mirror::note::Noted;
use lockstep_mirror::plan::Policy;
use lockstep_storage::id::{Epoch, Position};
use lockstep_storage::superblock::EpochEntry;

use super::bench::{Bench, run_at, site};
use super::destination::hello;
use super::source::{ack, in_sync};

/// The last question for the mirror's time.
fn question(effects: &[Effect]) -> Option<Clock> {
    effects.iter().rev().find_map(|effect| match effect {
        Effect::Send { message: Message::Clock(clock), .. } => Some(*clock),
        _ => None,
    })
}

#[test]
fn clocks_that_are_apart_are_shown_and_told_once() {
    let (mut bench, connection, ..) = in_sync(Policy::Sync);
    bench.notes.clear();
    for (ahead_ms, expected) in
        [(200, None), (3_000, Some(Noted::ClocksApart)), (3_000, None), (100, Some(Noted::ClocksClose))]
    {
        bench.now_ms += 5_000;
        bench.receive(connection, ack(bench.shown().last));
        let asked = question(&bench.settle()).expect("it is asked every five seconds");
        bench.now_ms += 40;
        bench.receive(
            connection,
            Message::ClockEcho { sent_ms: asked.sent_ms, clock_ms: asked.sent_ms + 20 + ahead_ms },
        );
        bench.settle();
        assert_eq!(bench.shown().skew_ms, Some(ahead_ms.cast_signed()));
        let said = bench.notes.drain(..).find(|note| matches!(note.what, Noted::ClocksApart | Noted::ClocksClose));
        assert_eq!(said.as_ref().map(|note| note.what), expected, "{ahead_ms}");
        assert!(said.is_none_or(|note| note.skew_ms == Some(ahead_ms.cast_signed())));
    }
}

#[test]
fn a_mirror_answers_with_its_own_time_and_shows_what_the_source_has_found() {
    let first = Epoch::default().next(site("site-a").node_id());
    let epochs = vec![EpochEntry::after(Position::default(), first)];
    let mut bench = Bench::destination();
    let connection = Connection(1);
    bench.handle(Event::Connected { origin: bench.origin.clone(), connection });
    bench.receive(connection, hello(connection, &epochs, Position::default(), false));
    bench.settle();
    (bench.now_ms, bench.wall_offset_ms) = (10_000, -4_000);
    let clock = Clock { sent_ms: 9_990, skew_ms: Some(-4_000), error_ms: 5 };
    bench.receive(connection, Message::Clock(clock));
    let echo = bench.settle().into_iter().find_map(|effect| match effect {
        Effect::Send { message: Message::ClockEcho { sent_ms, clock_ms }, .. } => Some((sent_ms, clock_ms)),
        _ => None,
    });
    assert_eq!(echo, Some((9_990, 6_000)));
    assert_eq!(bench.shown().skew_ms, Some(4_000));
    assert_eq!(bench.notes.iter().filter(|note| note.what == Noted::ClocksApart).count(), 1);
}

/// Writes at a source, and the modification time that it gets.
fn modified(bench: &mut Bench, bucket: &str) -> u64 {
    let asked = bench.submit(bucket);
    let answer = bench.settle().into_iter().find_map(|effect| match effect {
        Effect::Done { ticket, result } if ticket == asked => Some(result),
        _ => None,
    });
    answer.expect("an answer").expect("it is done").time_ms
}

#[test]
fn modification_times_do_not_go_back_when_a_node_whose_clock_is_behind_is_promoted() {
    let first = Epoch::default().next(site("site-a").node_id());
    let epochs = vec![EpochEntry::after(Position::default(), first)];
    let connection = Connection(1);
    let mut bench = Bench::destination();
    bench.handle(Event::Connected { origin: bench.origin.clone(), connection });
    bench.receive(connection, hello(connection, &epochs, Position::default(), true));
    bench.settle();
    // The source's clock is an hour ahead.
    let ahead_ms = 3_600_000;
    let records = run_at(Position::default(), first, 3, ahead_ms);
    bench.receive_records(connection, records);
    bench.settle();
    let origin = bench.origin.clone();
    let promote = Command::Promote { origin, dry_run: false, accept_loss: true };
    assert!(matches!(bench.command(promote).0, Some(Ok(_))));
    assert!(bench.now_ms < ahead_ms);
    let at_first = modified(&mut bench, "promoted");
    assert!(at_first >= ahead_ms, "modified at {at_first}, the record before at {ahead_ms}");
    bench.flushed();
    let (mut bench, _) = bench.restart();
    // Time passes, and its clock is set back further.
    (bench.now_ms, bench.wall_offset_ms) = (50_000, -40_000);
    let at_last = modified(&mut bench, "restarted");
    assert!(at_last >= at_first, "modified at {at_last}, the record before at {at_first}");
}
