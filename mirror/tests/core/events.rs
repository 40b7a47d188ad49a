//! The log of events with an explicit clock: each change is one line, and a link that flaps is told once.

use lockstep_mirror::client::Refusal;
use lockstep_mirror::event::{Connection, Effect, Event};
use lockstep_mirror::message::Message;
use lockstep_mirror::note::{Note, Noted};
use lockstep_mirror::plan::Policy;
use lockstep_mirror::status::StreamState;

use super::bench::{Bench, site};
use super::source::{ack, in_sync};

/// What was told since the last time, in few words.
fn told(bench: &mut Bench) -> Vec<String> {
    let word = |note: Note| match (note.from, note.to) {
        (Some(from), Some(to)) => format!("{} {from} {to}", note.what.as_str()),
        _ => note.what.as_str().to_owned(),
    };
    std::mem::take(&mut bench.notes).into_iter().map(word).collect()
}

fn lines(bench: &Bench, what: Noted) -> usize {
    bench.notes.iter().filter(|note| note.what == what).count()
}

/// The link that the source asks for comes about: the mirror has everything, and says so.
fn links(bench: &mut Bench, asked: &[Effect]) -> Connection {
    let (connection, hello) = bench.connected(asked);
    bench.welcome(connection, hello.epochs, hello.last);
    bench.settle();
    bench.receive(connection, ack(hello.last.seq));
    bench.settle();
    connection
}

/// The link is lost, and a write waits in vain for the mirror: what is asked for, and the pause before the next attempt.
fn loses(bench: &mut Bench, connection: Connection) -> (Vec<Effect>, u64) {
    bench.lose(connection);
    let mut asked = bench.settle();
    bench.submit(&format!("bucket-{}", bench.now_ms));
    asked.extend(bench.settle());
    bench.now_ms += 5_000;
    asked.extend(bench.settle());
    let pause_ms = asked.iter().find_map(|effect| match effect {
        Effect::Connect { delay_ms, .. } => Some(*delay_ms),
        _ => None,
    });
    (asked, pause_ms.expect("it is tried again"))
}

#[test]
fn each_change_is_one_line_with_why_and_when_it_is_tried_again() {
    let (mut bench, connection, ..) = in_sync(Policy::Sync);
    assert_eq!(
        told(&mut bench),
        [
            "origin_opened",
            "epoch_begun",
            "link_up",
            "stream_state unsettled catching_up",
            "degraded_begun",
            "stream_state catching_up closing",
            "degraded_ended",
            "stream_state closing in_sync",
        ]
    );
    bench.now_ms += 60_000;
    let (asked, _) = loses(&mut bench, connection);
    let lost = bench.notes[0].clone();
    assert_eq!((lost.what, lost.reason.as_deref(), lost.retry_ms), (Noted::LinkLost, Some("cut"), Some(0)));
    assert_eq!(lost.peer, Some(site("site-b")));
    assert_eq!(told(&mut bench), ["link_lost", "stream_state in_sync out_of_sync", "degraded_begun"]);
    links(&mut bench, &asked);
    let ended = bench.notes.iter().find(|note| note.what == Noted::DegradedEnded).expect("it ends");
    assert_eq!(ended.count, Some(1), "one write was answered alone");
    assert!(told(&mut bench).contains(&"stream_state closing in_sync".to_owned()));
    assert_eq!(bench.shown().link_losses, 1);
    // Time alone is no news.
    for _ in 0..100 {
        bench.now_ms += 1_000;
        bench.handle(Event::Idle);
        bench.settle();
    }
    let about_the_link: Vec<String> = told(&mut bench);
    assert!(about_the_link.len() <= 3, "{about_the_link:?}");
}

/// Lets the link be lost every `gap_ms`, `count` times; the pauses before the attempts, and how often it came back in sync.
fn flap(bench: &mut Bench, mut connection: Connection, gap_ms: u64, count: usize) -> (Connection, Vec<u64>, usize) {
    let (mut pauses, mut back) = (Vec::new(), 0);
    for _ in 0..count {
        let (asked, pause_ms) = loses(bench, connection);
        pauses.push(pause_ms);
        bench.now_ms += pause_ms;
        connection = links(bench, &asked);
        for _ in 0..gap_ms / 500 {
            bench.now_ms += 500;
            bench.handle(Event::Idle);
            bench.receive(connection, ack(bench.shown().last));
            bench.settle();
        }
        back += usize::from(bench.shown().state == StreamState::InSync);
    }
    (connection, pauses, back)
}

#[test]
fn a_link_that_flaps_is_told_once_its_stream_is_held_off_and_it_is_told_when_it_is_steady() {
    let (mut bench, connection, ..) = in_sync(Policy::Sync);
    bench.notes.clear();
    let (connection, pauses, back) = flap(&mut bench, connection, 3_000, 60);
    assert_eq!(lines(&bench, Noted::LinkFlapping), 1);
    assert_eq!(lines(&bench, Noted::LinkSteady), 0);
    assert!(bench.notes.len() <= 50, "{} lines for 60 losses: {:?}", bench.notes.len(), told(&mut bench));
    let shown = bench.shown();
    assert!(shown.flapping && shown.link_losses == 60);
    assert!(pauses.is_sorted() && *pauses.last().expect("some") == 5_000, "{pauses:?}");
    // Held off for longer than it stands, it is not in sync and out again with each loss.
    assert!((5..=9).contains(&back), "in sync {back} times");
    assert!(shown.state_changes < 60 * 2 + 20, "{} changes", shown.state_changes);
    assert_eq!(shown.state, StreamState::CatchingUp);
    assert!(shown.reason.contains("when its link has stood for 30000 ms"), "{}", shown.reason);
    // It stands: writers wait for the mirror again after the hold-off, and what was untold is told at last.
    bench.notes.clear();
    for _ in 0..800 {
        bench.now_ms += 500;
        bench.handle(Event::Idle);
        bench.receive(connection, ack(bench.shown().last));
        bench.settle();
    }
    let shown = bench.shown();
    assert_eq!((shown.state, shown.flapping), (StreamState::InSync, false));
    let steady = bench.notes.iter().find(|note| note.what == Noted::LinkSteady).expect("it is told");
    assert_eq!((steady.count, steady.to), (Some(60), Some("in_sync")));
    assert_eq!(lines(&bench, Noted::LinkSteady), 1);
    let said = told(&mut bench);
    assert!(said.len() <= 12, "{said:?}");
    // Then it is told as ever.
    loses(&mut bench, connection);
    assert_eq!(told(&mut bench), ["link_lost", "stream_state in_sync out_of_sync", "degraded_begun"]);
}

#[test]
fn under_strict_nothing_is_held_off_because_writers_would_be_refused_for_longer() {
    let (mut bench, connection, ..) = in_sync(Policy::Strict);
    let (_, _, back) = flap(&mut bench, connection, 1_000, 20);
    assert_eq!(back, 20);
    assert!(bench.shown().flapping);
}

#[test]
fn a_connection_that_stands_for_a_moment_does_not_begin_the_pauses_anew_and_one_that_stood_does() {
    let (mut bench, connection, ..) = in_sync(Policy::Sync);
    let (connection, pauses, _) = flap(&mut bench, connection, 500, 4);
    assert!(pauses.windows(2).all(|pair| pair[0] < pair[1]), "{pauses:?}");
    for _ in 0..25 {
        bench.now_ms += 500;
        bench.handle(Event::Idle);
        bench.receive(connection, ack(bench.shown().last));
        bench.settle();
    }
    let (_, pause_ms) = loses(&mut bench, connection);
    assert_eq!(pause_ms, 0);
}

#[test]
fn a_state_that_lasts_is_told_while_the_link_flaps() {
    let (mut bench, connection, ..) = in_sync(Policy::Sync);
    let (connection, ..) = flap(&mut bench, connection, 500, 8);
    bench.notes.clear();
    bench.lose(connection);
    bench.settle();
    assert_eq!(told(&mut bench), Vec::<String>::new());
    bench.now_ms += 61_000;
    bench.settle();
    assert_eq!(told(&mut bench), ["stream_state in_sync out_of_sync", "degraded_begun"]);
}

#[test]
fn a_refusal_that_comes_with_every_attempt_is_told_once() {
    let (mut bench, connection, ..) = in_sync(Policy::Sync);
    bench.lose(connection);
    let mut asked = bench.settle();
    bench.notes.clear();
    for _ in 0..50 {
        bench.now_ms += 5_000;
        let (connection, _) = bench.connected(&asked);
        bench.receive(connection, Message::Refused { reason: "another secret".into(), epochs: Vec::new() });
        asked = bench.settle();
    }
    assert_eq!(lines(&bench, Noted::StreamRefused), 1);
    assert!(bench.notes.len() <= 4, "{:?}", told(&mut bench));
}

#[test]
fn no_client_is_told_of_a_flapping_link() {
    // What a flap means to a writer stays what its policy says: a late mirror is answered for at `link_timeout`.
    let (mut bench, connection, ..) = in_sync(Policy::Strict);
    let (connection, ..) = flap(&mut bench, connection, 500, 8);
    bench.lose(connection);
    bench.settle();
    let ticket = bench.submit("refused");
    let refused = bench.effects.iter().any(
        |effect| matches!(effect, Effect::Done { ticket: t, result: Err(Refusal::Unavailable { .. }) } if *t == ticket),
    );
    assert!(refused, "{:?}", bench.effects);
}
