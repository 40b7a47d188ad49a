//! The source's end: what an operator's command is answered by, what the destination is told, and what a source makes of what
//! the destination says.

use std::time::Duration;

use lockstep_mirror::client::Refusal;
use lockstep_mirror::event::{Command, Connection, Effect, Event, Ticket};
use lockstep_mirror::message::{Ack, Message};
use lockstep_mirror::plan::{AckLevel, Policy, StreamPlan};
use lockstep_storage::id::{Position, Seq};
use lockstep_storage::superblock::EpochEntry;

use super::bench::{Bench, create_bucket, done, reply, run, site};

pub(crate) fn stream(policy: Policy) -> StreamPlan {
    StreamPlan {
        destination: site("site-b"),
        url: "http://site-b:9002".into(),
        policy,
        ack: AckLevel::Durable,
        link_timeout: Duration::from_secs(5),
        sync_interval: Duration::from_secs(10),
        backlog_limit: 1 << 30,
        baseline_rate: 1 << 30,
    }
}

/// Without these, a flush is the only thing that is asked for.
fn told(effects: Vec<Effect>) -> Vec<Effect> {
    effects.into_iter().filter(|effect| !matches!(effect, Effect::Publish(_))).collect()
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
    let (mut bench, _) = Bench::source(None);
    let (first_seq, _) = bench.write("first");
    let first = bench.ticket();
    bench.handle(Event::Command { ticket: first, command: Command::Sync { origin: None } });
    assert!(is_flush(&told(bench.settle())), "the first point begins");
    // While it is under way, a write is committed, and another operator asks for a point: it must hold that write.
    let progress = bench.image().flush().expect("flushes");
    let (second_seq, _) = bench.write("second");
    let second = bench.ticket();
    bench.handle(Event::Command { ticket: second, command: Command::Sync { origin: None } });
    assert!(told(bench.settle()).is_empty(), "one point at a time");
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
    let (mut bench, asked) = Bench::source(Some(stream(Policy::Sync)));
    let (first, hello) = bench.connected(&asked);
    bench.welcome(first, Vec::new(), Position::default());
    bench.settle();
    // The ack brings the source in sync. Its mark is under way to the device when the link is lost.
    let seq = hello.last.seq;
    bench.receive(first, Message::Ack(Ack { received: seq, persisted: seq, applied: Seq::ZERO, credit: 1 << 20 }));
    let marking = bench.effects.iter().any(|effect| matches!(effect, Effect::Persist { .. }));
    assert!(marking, "the mark is stored before it is told");
    bench.lose(first);
    let left = bench.settle();
    assert!(!tells_in_sync(&left, first), "nobody is there to be told");
    let (second, hello) = bench.connected(&left);
    assert!(hello.in_sync, "the mark stands at the source");
    bench.welcome(second, hello.epochs, hello.last);
    assert!(tells_in_sync(&bench.settle(), second), "a promote would be refused for want of a mark");
}

/// A source in sync with its mirror: the connection, its Hello, and the last record.
pub(crate) fn in_sync(policy: Policy) -> (Bench, Connection, Vec<EpochEntry>, Position) {
    let (mut bench, asked) = Bench::source(Some(stream(policy)));
    let (connection, hello) = bench.connected(&asked);
    bench.welcome(connection, Vec::new(), Position::default());
    bench.settle();
    let seq = hello.last.seq;
    bench.receive(connection, ack(seq));
    assert!(tells_in_sync(&bench.settle(), connection));
    (bench, connection, hello.epochs, hello.last)
}

pub(crate) fn ack(seq: Seq) -> Message {
    Message::Ack(Ack { received: seq, persisted: seq, applied: Seq::ZERO, credit: 1 << 20 })
}

#[test]
fn an_adoption_that_a_lost_link_interrupts_begins_anew() {
    let (bench, _, _, _) = in_sync(Policy::Sync);
    let (mut bench, asked) = bench.restart();
    let (first, hello) = bench.connected(&asked);
    let lost = run(hello.last, hello.epochs.last().expect("an epoch").epoch, 2);
    let end = lost[1].position();
    bench.welcome(first, hello.epochs.clone(), end);
    bench.settle();
    // The link is lost before what has come has its place.
    bench.receive_records(first, lost[..1].to_vec());
    bench.lose(first);
    let asked = bench.settle();
    let (second, hello) = bench.connected(&asked);
    bench.welcome(second, hello.epochs.clone(), end);
    bench.settle();
    let missing = lost.into_iter().filter(|record| record.header.seq > hello.last.seq).collect();
    bench.receive_records(second, missing);
    let asked = bench.settle();
    let (_, hello) = bench.connected(&asked);
    let begun = hello.epochs.last().expect("an epoch");
    assert_eq!(begun.first, end.seq.next(), "the mirror's records are here, and a new epoch begins after them");
    assert_eq!(begun.parent, end.checksum);
}

#[test]
fn under_async_no_mark_of_an_earlier_policy_stands() {
    let (bench, ..) = in_sync(Policy::Sync);
    let under_async = |plan: &mut lockstep_mirror::plan::NodePlan| plan.origins[0].stream = Some(stream(Policy::Async));
    let (mut bench, asked) = bench.crash(under_async).unwrap_or_else(|error| panic!("it starts again: {error}"));
    let (connection, hello) = bench.connected(&asked);
    assert!(!hello.in_sync, "from now on writes may be answered without the mirror");
    bench.welcome(connection, hello.epochs.clone(), hello.last);
    let asked = bench.settle();
    let (connection, hello) = bench.connected(&asked);
    bench.welcome(connection, hello.epochs.clone(), hello.last);
    bench.settle();
    bench.write("alone");
    let by_sync = |plan: &mut lockstep_mirror::plan::NodePlan| plan.origins[0].stream = Some(stream(Policy::Sync));
    let (mut bench, asked) = bench.crash(by_sync).unwrap_or_else(|error| panic!("it starts again: {error}"));
    let (_, hello) = bench.connected(&asked);
    assert!(!hello.in_sync, "the mirror lacks a write that was answered");
}

/// Found by reading: the mark in sync outlived the mirror's place in the configuration, and what was answered without it.
#[test]
fn a_mirror_that_was_out_of_the_configuration_is_not_in_sync_when_it_is_back() {
    let (bench, ..) = in_sync(Policy::Strict);
    let without = |plan: &mut lockstep_mirror::plan::NodePlan| plan.origins[0].stream = None;
    let (mut bench, _) = bench.crash(without).unwrap_or_else(|error| panic!("it starts again: {error}"));
    bench.write("alone");
    let with = |plan: &mut lockstep_mirror::plan::NodePlan| plan.origins[0].stream = Some(stream(Policy::Strict));
    let (mut bench, asked) = bench.crash(with).unwrap_or_else(|error| panic!("it starts again: {error}"));
    let (_, hello) = bench.connected(&asked);
    assert!(!hello.in_sync, "the mirror lacks a write that was answered");
}

#[test]
fn a_source_that_is_deposed_while_it_degrades_applies_nothing_more() {
    let (mut bench, connection, epochs, last) = in_sync(Policy::Sync);
    bench.submit("tail");
    bench.settle();
    bench.now_ms += 5_000;
    // The mirror speaks, but has no ack for the write: the out-of-sync mark is under way when the promote is heard of.
    bench.receive(connection, ack(last.seq));
    bench.handle(Event::Idle);
    let marking = bench.effects.iter().any(|effect| matches!(effect, Effect::Persist { .. }));
    assert!(marking, "the mark is stored before anything is answered alone");
    let promoted = EpochEntry::after(last, epochs[0].epoch.next_promoted(site("site-b").node_id()));
    let epochs = epochs.into_iter().chain([promoted]).collect();
    bench.receive(connection, Message::Refused { reason: "promoted".into(), epochs });
    let left = bench.settle();
    assert!(
        left.iter().any(|effect| matches!(effect, Effect::Done { result: Err(_), .. })),
        "its outcome is not known"
    );
    let applied = bench.image().progress().expect("reads").applied.seq;
    assert!(applied <= last.seq, "record {applied} is nobody's history but this node's");
}

#[test]
fn what_was_decided_before_records_came_from_the_mirror_is_refused() {
    let (bench, ..) = in_sync(Policy::Sync);
    let under_async = |plan: &mut lockstep_mirror::plan::NodePlan| plan.origins[0].stream = Some(stream(Policy::Async));
    let (mut bench, asked) = bench.crash(under_async).unwrap_or_else(|error| panic!("it starts again: {error}"));
    let (connection, hello) = bench.connected(&asked);
    let lost = run(hello.last, hello.epochs.last().expect("an epoch").epoch, 2);
    bench.welcome(connection, hello.epochs.clone(), lost[1].position());
    bench.settle();
    // It answers alone, so it takes writes meanwhile. A client looks at the image; then the first of the lost records comes.
    let looked_at = 0;
    bench.receive_records(connection, lost[..1].to_vec());
    let left = bench.settle();
    let history = left.iter().rev().find_map(|effect| match effect {
        Effect::Publish(state) if state.origin == bench.origin => Some(state.history),
        _ => None,
    });
    assert!(history.is_some_and(|history| history > looked_at), "{left:?}");
    let (ticket, origin) = (bench.ticket(), bench.origin.clone());
    let draft = create_bucket("late");
    bench.handle(Event::Submit { ticket, origin, draft, require: None, history: Some(looked_at) });
    let left = bench.settle();
    let refused = left.iter().any(|effect| match effect {
        Effect::Done { ticket: done, result: Err(Refusal::Unavailable { .. }) } => *done == ticket,
        _ => false,
    });
    assert!(refused, "it was decided on an image that lacked a record before it: {left:?}");
}

/// The last thing that the node said of itself.
fn readable(effects: &[Effect]) -> Option<bool> {
    effects.iter().rev().find_map(|effect| match effect {
        Effect::Publish(state) => Some(state.readable),
        _ => None,
    })
}

#[test]
fn a_new_source_takes_nothing_before_it_has_met_its_mirror() {
    for policy in [Policy::Sync, Policy::Strict] {
        let (bench, asked) = Bench::source(Some(stream(policy)));
        assert_eq!(readable(&asked), Some(false), "an empty image may be one whose records the mirror has");
        // Neither time nor a restart changes that.
        let (mut bench, asked) = bench.restart();
        bench.now_ms += 60_000;
        bench.submit("early");
        let left = bench.settle();
        let refused = |effect: &Effect| matches!(effect, Effect::Done { result: Err(Refusal::Unavailable { .. }), .. });
        assert!(left.iter().any(refused), "{policy:?}: {left:?}");
        let (connection, _) = bench.connected(&asked);
        bench.welcome(connection, Vec::new(), Position::default());
        let asked = bench.settle();
        let (connection, hello) = bench.connected(&asked);
        bench.welcome(connection, Vec::new(), Position::default());
        let mut said = bench.settle();
        bench.receive(connection, ack(hello.last.seq));
        said.extend(bench.settle());
        assert_eq!(readable(&said), Some(true));
        bench.submit("met");
        bench.settle();
        bench.receive(connection, ack(hello.last.seq.next()));
        let left = bench.settle();
        assert!(left.iter().any(|effect| matches!(effect, Effect::Done { result: Ok(_), .. })), "{policy:?}: {left:?}");
    }
}

#[test]
fn an_operator_may_begin_a_new_source_without_its_mirror() {
    let (mut bench, _) = Bench::source(Some(stream(Policy::Sync)));
    let origin = bench.origin.clone();
    let (answer, left) = bench.command(Command::Resume { origin, alone: true });
    assert!(answer.is_some_and(|answer| answer.is_ok()));
    assert_eq!(readable(&left), Some(true));
    bench.write("alone");
    // What it has written is told from nothing at the next start.
    let (mut bench, asked) = bench.restart();
    assert_eq!(readable(&asked), Some(true));
    bench.write("alone-again");
}

#[test]
fn a_new_source_whose_mirror_was_promoted_is_filled_from_it() {
    let (mut bench, asked) = Bench::source(Some(stream(Policy::Sync)));
    let (connection, hello) = bench.connected(&asked);
    let mut epochs = hello.epochs.clone();
    let ours = hello.last;
    let promoted = EpochEntry::after(
        Position { seq: Seq(40), ..ours },
        hello.epochs[0].epoch.next_promoted(site("site-b").node_id()),
    );
    epochs.push(promoted);
    bench.receive(connection, Message::Refused { reason: "promoted".into(), epochs });
    bench.settle();
    let stored = bench.stored();
    assert!(stored.rebuild, "the records of its own start are compared with nothing");
}

#[test]
fn an_ack_of_a_record_that_was_never_made_ends_the_connection() {
    for which in 0..3 {
        let (mut bench, connection, epochs, last) = in_sync(Policy::Sync);
        let ticket = bench.submit("bucket");
        bench.settle();
        let (seq, beyond) = (bench.shown().last, Seq(bench.shown().last.0 + 1));
        let mut said = [last.seq; 3];
        said[which] = beyond;
        let [received, persisted, applied] = said;
        bench.receive(connection, Message::Ack(Ack { received, persisted, applied, credit: 1 << 20 }));
        let left = bench.settle();
        let closed = |effect: &Effect| matches!(effect, Effect::Close { connection: c, .. } if *c == connection);
        assert!(left.iter().any(closed), "{said:?}: {left:?}");
        assert_eq!(done(&left, ticket), None, "nobody is answered on the word of such a peer");
        // Whoever comes by the next connection with what there is, is believed.
        let (connection, _) = bench.connected(&left);
        bench.welcome(connection, epochs, last);
        bench.settle();
        bench.receive(connection, ack(seq));
        assert!(matches!(done(&bench.settle(), ticket), Some(Ok(_))));
    }
}

/// Found by reading: a destination whose image cannot go on kept a return from ending, and its writers out, for ever.
#[test]
fn a_return_whose_destination_does_not_come_to_a_point_is_given_up() {
    let (mut bench, connection, _, last) = in_sync(Policy::Sync);
    let (origin, asked) = (bench.origin.clone(), bench.ticket());
    bench.handle(Event::Command { ticket: asked, command: Command::Failback { origin, dry_run: false } });
    bench.settle();
    bench.flushed();
    let refused = bench.submit("refused");
    assert!(matches!(done(&bench.settle(), refused), Some(Err(Refusal::Unavailable { .. }))), "it drains");
    let mut answer = None;
    for _ in 0..130 {
        // The destination speaks, and acknowledges whatever comes.
        bench.now_ms += 1_000;
        bench.receive(connection, ack(last.seq));
        answer = answer.or_else(|| reply(&bench.settle(), asked));
    }
    assert!(answer.is_some_and(|answer| answer.is_err_and(|reason| reason.contains("consistency point"))));
    let ticket = bench.submit("taken again");
    bench.settle();
    bench.receive(connection, ack(bench.shown().last));
    assert!(matches!(done(&bench.settle(), ticket), Some(Ok(_))));
}
