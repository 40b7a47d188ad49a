//! The story of the demo, in short rounds with real processes: a source killed under load, its destination promoted, every
//! acknowledged write read back.

use std::path::PathBuf;
use std::time::Duration;

use lockstep_gateway::demo::sites::Stream;
use lockstep_gateway::demo::workload::Mix;
use lockstep_gateway::demo::{RoundOptions, round};

async fn killed_source(policy: &'static str, seed: u64) {
    let root = tempfile::tempdir().expect("a directory");
    let options = RoundOptions {
        program: PathBuf::from(env!("CARGO_BIN_EXE_lockstep")),
        root: root.path().to_owned(),
        stream: Stream { policy, link_timeout: "5s" },
        writers: 4,
        mix: Mix::BROAD,
        objects: 0,
        load: Duration::from_secs(2),
        seed,
        talk: false,
    };
    let (outcome, site) = round(&options).await.expect("a round");
    drop(site);
    assert!(outcome.read_back.different.is_empty(), "seed {seed}: {:#?}", outcome.read_back.different);
    assert!(outcome.counts.writes > 50, "only {} writes were acknowledged", outcome.counts.writes);
    assert!(outcome.read_back.equal > 50, "only {} keys were read back", outcome.read_back.equal);
    let verdict = if policy == "strict" { "proved" } else { "in_sync_at_last_contact" };
    assert_eq!(outcome.verdict, verdict);
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_under_sync() {
    killed_source("sync", u64::from(std::process::id())).await;
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_under_strict() {
    killed_source("strict", u64::from(std::process::id()) + 1).await;
}
