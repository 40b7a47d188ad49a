//! What a start makes of disks that are damaged (F10), gone, or old copies (F12), and what its peer's word changes about it.

use lockstep_mirror::client::{Answered, OriginState, Refusal, Role};
use lockstep_mirror::event::{Command, Connection, Effect, Event};
use lockstep_mirror::message::{Baseline, Message};
use lockstep_mirror::plan::Policy;
use lockstep_mirror::status::StreamState;
use lockstep_storage::id::{Position, Seq};
use lockstep_storage::image::Image;
use lockstep_storage::record::Record;
use lockstep_storage::superblock::EpochEntry;

use super::bench::{Bench, Disks, done, run, site};
use super::destination::{FIRST, SECOND, Scene, acked, hello, refused, said};
use super::source::{ack, in_sync};

/// Writes that the mirror has too; their records.
fn mirrored(bench: &mut Bench, connection: Connection, count: usize) -> Vec<Record> {
    let write = |n: usize| {
        let ticket = bench.submit(&format!("mirrored-{n}"));
        bench.settle();
        let seq = bench.shown().last;
        bench.receive(connection, ack(seq));
        assert!(matches!(done(&bench.settle(), ticket), Some(Ok(_))), "write {n} is answered");
        bench.record(seq)
    };
    (0..count).map(write).collect()
}

/// The source of a pair in sync loses a record in the middle of its NVRAM.
fn with_a_damaged_record(policy: Policy) -> (Disks, Vec<Record>) {
    let (mut bench, connection, ..) = in_sync(policy);
    let records = mirrored(&mut bench, connection, 4);
    let mut disks = bench.disks();
    disks.rot(&records[1]);
    (disks, records)
}

/// Does the node serve reads, as it said last?
fn is_readable(effects: &[Effect]) -> Option<bool> {
    effects.iter().rev().find_map(|effect| match effect {
        Effect::Publish(OriginState { origin, readable, .. }) => (*origin == site("site-a")).then_some(*readable),
        _ => None,
    })
}

fn write_is_refused(bench: &mut Bench) -> String {
    let ticket = bench.submit("refused");
    match done(&bench.settle(), ticket) {
        Some(Err(Refusal::Unavailable { reason, .. } | Refusal::NotWritable { reason })) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_record_that_neither_end_has_is_given_up_only_by_resume_alone() {
    let (disks, records) = with_a_damaged_record(Policy::Sync);
    let before = records[0].position();
    let (mut bench, asked) = disks.open().unwrap_or_else(|error| panic!("it starts: {error}"));
    assert_eq!(is_readable(&asked), Some(false), "clients were answered for what is damaged");
    let (connection, hello) = bench.connected(&asked);
    assert_eq!(hello.last, before, "the log ends before it");
    bench.welcome(connection, hello.epochs.clone(), before);
    bench.settle();
    let (first, last) = (records[1].header.seq, records[3].header.seq.prev());
    let status = bench.shown();
    assert_eq!(status.state, StreamState::Unsettled);
    let named = format!("records {first} to {last} are damaged here, and the mirror does not have them");
    assert_eq!(status.reason, named);
    assert!(write_is_refused(&mut bench).contains(&named));
    // A restart forgets nothing of it.
    let (mut bench, asked) = bench.restart();
    assert_eq!((bench.shown().state, is_readable(&asked)), (StreamState::Unsettled, Some(false)));
    write_is_refused(&mut bench);
    let origin = bench.origin.clone();
    let (answer, left) = bench.command(Command::Resume { origin, alone: true });
    assert!(answer.expect("an answer").is_ok());
    assert_eq!(is_readable(&left), Some(true));
    let ticket = bench.submit("after");
    let left = bench.settle();
    let Some(Ok(receipt)) = done(&left, ticket) else { panic!("the write is not answered: {left:?}") };
    // The record that begins the epoch takes the first place.
    assert_eq!((receipt.seq, receipt.ack), (first.next(), Answered::Local));
    let (bench, asked) = bench.restart();
    assert_eq!((bench.shown().state, is_readable(&asked)), (StreamState::OutOfSync, Some(true)), "it is settled");
}

#[test]
fn under_strict_nobody_goes_on_without_a_damaged_record() {
    let (disks, _) = with_a_damaged_record(Policy::Strict);
    let (mut bench, _) = disks.open().unwrap_or_else(|error| panic!("it starts: {error}"));
    let origin = bench.origin.clone();
    let (answer, _) = bench.command(Command::Resume { origin, alone: true });
    assert!(answer.expect("an answer").is_err_and(|reason| reason.contains("strict")));
    write_is_refused(&mut bench);
}

#[test]
fn a_start_without_a_mirror_names_what_is_damaged_and_gives_nothing_up() {
    let (mut bench, _) = Bench::source(None);
    let seqs: Vec<Seq> = (0..4).map(|n| bench.write(&format!("bucket-{n}")).0).collect();
    let damaged = bench.record(seqs[1]);
    let mut disks = bench.disks();
    disks.rot(&damaged);
    for _ in 0..2 {
        let refused = disks.start().expect_err("it does not start").to_string();
        let named = format!("records {} to {} of site-a in the NVRAM are damaged", seqs[1], seqs[3].prev());
        assert!(refused.contains(&named) && refused.contains("it has no mirror"), "{refused}");
    }
    disks.rot(&damaged);
    let (bench, _) = disks.open().unwrap_or_else(|error| panic!("it is sound again: {error}"));
    assert_eq!(bench.shown().last, seqs[3]);
}

/// The origin is lost: nobody is served, and nothing is given up.
fn assert_lost(disks: &Disks, why: &str) -> Bench {
    let (mut bench, _) = disks.clone().open().unwrap_or_else(|error| panic!("it starts: {error}"));
    let status = bench.shown();
    assert_eq!((status.state, status.role), (StreamState::Lost, Role::Fenced));
    assert!(status.reason.contains(why), "{}", status.reason);
    write_is_refused(&mut bench);
    let origin = bench.origin.clone();
    let (answer, _) = bench.command(Command::Promote { origin, dry_run: false, accept_loss: true });
    assert!(answer.expect("an answer").is_err_and(|reason| reason.contains("cannot be served here")));
    bench
}

#[test]
fn a_source_whose_nvram_is_gone_beside_its_data_is_lost_and_can_be_rebuilt() {
    let (mut bench, connection, epochs, _) = in_sync(Policy::Sync);
    let records = mirrored(&mut bench, connection, 2);
    bench.flushed();
    let sound = bench.disks();
    let mut disks = sound.clone();
    disks.lose_nvram();
    let mut bench = assert_lost(&disks, "its NVRAM is gone");
    // The file was only not mounted: it is there again, and so is everything.
    let again = sound.open().unwrap_or_else(|error| panic!("it starts: {error}")).0;
    assert_eq!((again.shown().state, again.shown().last), (StreamState::Unsettled, records[1].header.seq));
    // It is gone for good: the promoted peer fills this node.
    let origin = bench.origin.clone();
    let rebuild = |accept_loss| Command::Rebuild { origin: origin.clone(), accept_loss };
    let (answer, _) = bench.command(rebuild(false));
    assert!(
        answer.expect("an answer").is_err_and(|reason| reason.contains("--accept-loss")),
        "it may have answered alone"
    );
    let (answer, _) = bench.command(rebuild(true));
    assert!(answer.expect("an answer").is_ok());
    let last = records[1].position();
    let promoted = EpochEntry::after(last, epochs[0].epoch.next_promoted(site("site-b").node_id()));
    let mut hello = said(FIRST, &[epochs[0], promoted], last, false);
    (hello.node, hello.peer) = (site("site-b"), site("site-a"));
    bench.handle(Event::Connected { origin, connection: FIRST });
    bench.receive(FIRST, Message::Hello(hello));
    let left = bench.settle();
    let wants =
        |effect: &Effect| matches!(effect, Effect::Send { message: Message::Baseline(Baseline::Wanted { .. }), .. });
    assert!(left.iter().any(wants), "{left:?}");
}

#[test]
fn an_origin_whose_data_are_removed_after_its_nvram_was_lost_begins_anew() {
    let (mut bench, _) = Bench::source(None);
    bench.write("gone");
    bench.flushed();
    let mut disks = bench.disks();
    disks.lose_nvram();
    let bench = assert_lost(&disks, "its NVRAM is gone");
    // What was found lost is stored; a start after it finds the same, as long as the data are there.
    let mut disks = bench.disks();
    assert_lost(&disks, "its NVRAM is gone");
    disks.engines.clear();
    let (mut bench, _) = disks.open().unwrap_or_else(|error| panic!("it starts: {error}"));
    bench.write("new");
    assert_eq!(bench.shown().state, StreamState::Alone);
}

#[test]
fn a_destination_whose_nvram_is_gone_beside_its_data_is_lost_and_refuses_its_source() {
    let mut scene = Scene::new();
    scene.bench.flushed();
    let mut disks = scene.bench.disks();
    disks.lose_nvram();
    scene.bench = assert_lost(&disks, "its NVRAM is gone");
    scene.connect(SECOND);
    let last = scene.records[4].position();
    let comes = hello(SECOND, &scene.epochs, last, true);
    scene.bench.receive(SECOND, comes);
    let left = scene.bench.settle();
    assert!(refused(&left).is_some_and(|reason| reason.contains("rebuild")), "{left:?}");
}

#[test]
fn nvram_and_data_of_different_histories_are_lost() {
    let with = |buckets: &[&str]| {
        let (mut bench, _) = Bench::source(None);
        for bucket in buckets {
            bench.write(bucket);
        }
        bench.flushed();
        bench.disks()
    };
    let (one, other) = (with(&["a", "b"]), with(&["p", "q", "r"]));
    let mixed = Disks { engines: one.engines, ..other };
    assert_lost(&mixed, "different histories");
}

#[test]
fn an_origin_whose_nvram_went_while_a_baseline_was_taken_is_lost() {
    let mut disks = Bench::destination().disks();
    disks.lose_nvram();
    let engine = std::sync::Arc::clone(&disks.engines[&site("site-a")]);
    let at = Position { seq: Seq(40), ..Position::default() };
    Image::new(engine).begin_baseline(at).expect("an empty engine");
    assert_lost(&disks, "its NVRAM is gone");
}

#[test]
fn a_source_that_was_set_back_takes_back_what_its_mirror_has_more() {
    let (mut bench, connection, ..) = in_sync(Policy::Sync);
    mirrored(&mut bench, connection, 1);
    let old = bench.disks();
    let since = mirrored(&mut bench, connection, 2);
    let end = since[1].position();
    let (mut bench, asked) = old.open().unwrap_or_else(|error| panic!("it starts: {error}"));
    write_is_refused(&mut bench);
    let (connection, hello) = bench.connected(&asked);
    bench.welcome(connection, hello.epochs, end);
    let left = bench.settle();
    assert_eq!(is_readable(&left), Some(false), "clients have seen more than is here");
    bench.receive_records(connection, since);
    let asked = bench.settle();
    let (connection, hello) = bench.connected(&asked);
    assert_eq!(hello.epochs.last().expect("an epoch").parent, end.checksum, "it goes on after what it took back");
    bench.welcome(connection, hello.epochs, end);
    assert_eq!(is_readable(&bench.settle()), Some(true));
}

/// A source that answers alone, as it was when its disks were copied; and the epochs that its mirror has had from it since.
fn set_back_alone() -> (Disks, Vec<EpochEntry>, Position) {
    let (mut bench, connection, ..) = in_sync(Policy::Sync);
    bench.submit("degrades");
    bench.settle();
    bench.lose(connection);
    bench.now_ms += 5_000;
    bench.settle();
    bench.write("alone");
    let old = bench.disks();
    let (mut bench, _) = bench.restart();
    let (_, asked) = bench.write("after a restart");
    let (_, hello) = bench.connected(&asked);
    assert!(hello.epochs.len() > 1, "each start begins an epoch");
    (old, hello.epochs, hello.last)
}

#[test]
fn a_source_that_was_set_back_behind_its_own_epoch_stops_answering_alone() {
    let (old, epochs, _) = set_back_alone();
    let (mut bench, asked) = old.open().unwrap_or_else(|error| panic!("it starts: {error}"));
    assert_eq!(bench.shown().state, StreamState::OutOfSync, "by itself it cannot tell");
    let (connection, _) = bench.connected(&asked);
    bench.receive(connection, Message::Refused { reason: "unrelated".into(), epochs: epochs.clone() });
    let left = bench.settle();
    assert!(write_is_refused(&mut bench).contains("gone back in time"), "what it would add to is not what clients saw");
    let health = bench.shown();
    assert_eq!(health.state, StreamState::Unsettled, "{}", health.reason);
    // Its operator knows better: it goes on, and not under an epoch that was used.
    let origin = bench.origin.clone();
    let (answer, more) = bench.command(Command::Resume { origin, alone: true });
    assert!(answer.expect("an answer").is_ok());
    let (_, last) = bench.write("on purpose");
    let asked: Vec<Effect> = [left, more, last].concat();
    let (_, hello) = bench.connected(&asked);
    assert!(hello.epochs.last().expect("an epoch").epoch > epochs.last().expect("an epoch").epoch);
}

#[test]
fn a_source_that_was_set_back_and_wrote_again_under_an_epoch_is_never_linked() {
    let (old, epochs, last) = set_back_alone();
    for ahead in [true, false] {
        let (mut bench, _) = old.clone().open().unwrap_or_else(|error| panic!("it starts: {error}"));
        // The mirror is away: it answers alone, under the epoch that it has used before.
        let (_, mut asked) = bench.write("again");
        if !ahead {
            asked.extend(bench.write("and again").1);
        }
        let (connection, hello) = bench.connected(&asked);
        assert_eq!(hello.epochs, epochs, "the same epoch");
        let at = if ahead { Position { seq: Seq(hello.last.seq.0 + 3), ..last } } else { last };
        bench.welcome(connection, epochs.clone(), at);
        let left = bench.settle();
        let records = |effect: &Effect| match effect {
            Effect::Send { message: Message::Append(append), .. } => append.records.len(),
            _ => 0,
        };
        assert_eq!(left.iter().map(records).sum::<usize>(), 0, "nothing is sent on top of another history");
        let status = bench.shown();
        assert_eq!(status.state, StreamState::Refused, "{}", status.reason);
        assert!(status.reason.contains("gone back in time"), "{}", status.reason);
    }
}

#[test]
fn a_destination_that_was_set_back_gets_its_records_again() {
    let mut scene = Scene::new();
    let old = scene.bench.disks();
    let last = scene.records[4].position();
    let more = run(last, scene.epochs[0].epoch, 2);
    scene.bench.receive_records(FIRST, more.clone());
    scene.bench.receive(FIRST, Message::SetInSync(true));
    assert_eq!(acked(&scene.bench.settle()), Some(Seq(7)));
    scene.bench = old.open().unwrap_or_else(|error| panic!("it starts: {error}")).0;
    assert_eq!(scene.promote(false).map(|answer| answer.is_err()), Some(true), "it was not in sync then");
    scene.connect(SECOND);
    let comes = hello(SECOND, &scene.epochs, more[1].position(), true);
    scene.bench.receive(SECOND, comes);
    let left = scene.bench.settle();
    let has = left.iter().find_map(|effect| match effect {
        Effect::Send { message: Message::Welcome(welcome), .. } => Some(welcome.last),
        _ => None,
    });
    assert_eq!(has, Some(last), "it says what it has, and no more");
    scene.bench.receive_records(SECOND, more);
    assert_eq!(acked(&scene.bench.settle()), Some(Seq(7)));
}

#[test]
fn an_origin_that_was_out_of_the_configuration_is_all_there_when_it_is_back() {
    let scene = Scene::new();
    let (epochs, last) = (scene.epochs, scene.records[4].position());
    let mut disks = scene.bench.disks();
    let mirrored = disks.plan.origins.pop().expect("the mirrored origin");
    disks.start().unwrap_or_else(|error| panic!("it starts without it: {error}"));
    disks.plan.origins.push(mirrored);
    let (mut bench, _) = disks.open().unwrap_or_else(|error| panic!("it starts with it: {error}"));
    assert_eq!((bench.shown().role, bench.shown().last), (Role::Destination, Seq(5)));
    let origin = bench.origin.clone();
    bench.handle(Event::Connected { origin, connection: SECOND });
    bench.receive(SECOND, hello(SECOND, &epochs, last, false));
    bench.settle();
    bench.receive_records(SECOND, run(last, epochs[0].epoch, 1));
    assert_eq!(acked(&bench.settle()), Some(Seq(6)), "it goes on where it was");
}
