//! Short rounds of failures between two real processes, the same that the program `rounds` runs in numbers. A failing one
//! says its seed and leaves its directory.

use std::path::PathBuf;
use std::time::Duration;

use lockstep_gateway::demo::sites::Stream;
use lockstep_gateway::demo::workload::Mix;
use lockstep_tests::process::scene::Options;
use lockstep_tests::process::{Kind, figures::Figures, round};

async fn short(kind: Kind, policy: &'static str) -> Figures {
    let seed = u64::from(std::process::id()) << 8;
    let root = tempfile::tempdir().expect("a directory");
    // Short where the round waits for it; elsewhere a device that stalls must not look like a lost link.
    let link_timeout = match kind {
        Kind::Destination | Kind::OutOfSync | Kind::Cut | Kind::Flap | Kind::Storm | Kind::Diverged => "500ms",
        Kind::History | Kind::Baseline | Kind::Rebuild | Kind::Large => "1s",
        Kind::Promote | Kind::Source | Kind::Both | Kind::Alone | Kind::Failback | Kind::Return => "10s",
    };
    let (load, least_keys) = if kind == Kind::History { (300, 6) } else { (600, 100) };
    let options = Options {
        program: PathBuf::from(env!("CARGO_BIN_EXE_rounds")),
        root: root.path().to_owned(),
        stream: Stream { policy, link_timeout },
        writers: 4,
        mix: Mix { keys: 300, ..Mix::MANY },
        objects: 100,
        load: Duration::from_millis(load),
        seed,
        housing: None,
    };
    let outcome = round(kind, &options).await;
    let good = outcome.as_ref().is_ok_and(|figures| figures.different.is_empty());
    if !good {
        let kept = root.keep();
        panic!("{kind} under {policy}, seed {seed}, kept {}: {outcome:#?}", kept.display());
    }
    let figures = outcome.expect("a round");
    assert!(figures.counts.writes > 100 && figures.keys >= least_keys, "hardly any load: {}", figures.line());
    figures
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_source_is_replaced_under_sync() {
    short(Kind::Promote, "sync").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_source_is_replaced_under_strict() {
    short(Kind::Promote, "strict").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_goes_to_its_destination_and_back_under_sync() {
    short(Kind::Failback, "sync").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_goes_to_its_destination_and_back_under_strict() {
    short(Kind::Failback, "strict").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_with_records_that_nobody_else_has_returns_by_a_cut_under_sync() {
    short(Kind::Return, "sync").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_with_records_that_nobody_else_has_returns_by_a_cut_under_strict() {
    short(Kind::Return, "strict").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_destination_comes_back_under_sync() {
    short(Kind::Destination, "sync").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_destination_comes_back_under_strict() {
    let figures = short(Kind::Destination, "strict").await;
    assert_eq!(figures.counts.local, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_source_comes_back_under_sync() {
    short(Kind::Source, "sync").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_source_comes_back_under_strict() {
    short(Kind::Source, "strict").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_waits_for_its_destination() {
    short(Kind::Both, "sync").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_goes_on_alone_when_told() {
    let figures = short(Kind::Alone, "sync").await;
    assert!(figures.counts.local > 0, "nothing was written alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_never_goes_on_alone_under_strict() {
    let figures = short(Kind::Alone, "strict").await;
    assert_eq!(figures.counts.local, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_was_out_of_sync_goes_on_by_itself() {
    let figures = short(Kind::OutOfSync, "sync").await;
    assert!(figures.counts.local > 0, "nothing was written alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_link_heals_under_sync() {
    let figures = short(Kind::Cut, "sync").await;
    assert!(figures.counts.local > 0, "nothing was answered alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_flaps_is_told_once_and_held_off_under_sync() {
    let figures = short(Kind::Flap, "sync").await;
    assert!(figures.counts.local > 0, "nothing was answered alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_acknowledged_behind_a_cut_under_strict() {
    let figures = short(Kind::Cut, "strict").await;
    assert!(figures.counts.refused + figures.counts.unknown > 0, "nothing was refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_failure_after_the_other_under_sync() {
    short(Kind::Storm, "sync").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_failure_after_the_other_under_strict() {
    short(Kind::Storm, "strict").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_are_told_is_one_history_under_sync() {
    short(Kind::History, "sync").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_are_told_is_one_history_under_strict() {
    short(Kind::History, "strict").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_begins_anew_gets_a_baseline_under_sync() {
    short(Kind::Baseline, "sync").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_begins_anew_gets_a_baseline_under_strict() {
    short(Kind::Baseline, "strict").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_without_its_data_directory_is_rebuilt_by_command() {
    short(Kind::Rebuild, "sync").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_went_another_way_gets_a_baseline_and_keeps_its_tail() {
    short(Kind::Diverged, "sync").await;
}
