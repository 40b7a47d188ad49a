//! The whole story on loopback: two sites as real processes, writes at A mirrored to B, A killed with SIGKILL under load,
//! B promoted, every acknowledged write read back and compared. The failover tests run the same rounds.

pub mod client;
pub mod sites;
pub mod workload;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use http::Method;
use serde_json::json;

use self::client::S3Client;
use self::sites::Site;
use self::workload::{BUCKET, Comparison, Diary, Progress, Random, compare, writer};

/// Options of `lockstep demo`.
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// Leave the promoted site running and print how to reach it
    #[arg(long)]
    pub keep: bool,
}

/// One round.
#[derive(Debug, Clone)]
pub struct RoundOptions {
    /// The program that runs a site.
    pub program: PathBuf,
    /// An empty directory.
    pub root: PathBuf,
    /// Policy of the stream.
    pub policy: &'static str,
    /// Writers at once.
    pub writers: u64,
    /// How long they write before A is killed; a random part of up to a half is added.
    pub load: Duration,
    /// Decides contents, order and the moment of the kill.
    pub seed: u64,
    /// Print progress.
    pub talk: bool,
}

/// What came of a round.
#[derive(Debug)]
pub struct Outcome {
    /// Writes acknowledged.
    pub writes: u64,
    /// Deletes acknowledged.
    pub deletes: u64,
    /// Bytes acknowledged.
    pub bytes: u64,
    /// What was read back.
    pub read_back: Comparison,
    /// From the promote command to its answer.
    pub promote: Duration,
    /// From the promote command to the first object read.
    pub first_read: Duration,
    /// What the promote said.
    pub verdict: String,
    /// Where the origin stood.
    pub last_seq: String,
}

/// Runs the demo.
///
/// # Errors
/// When a step fails or anything that was acknowledged is not there.
pub fn run(args: &DemoArgs) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(story(args))
}

async fn story(args: &DemoArgs) -> Result<(), String> {
    let began = Instant::now();
    let seed = u64::from(std::process::id()) << 20 ^ now_ms();
    let root = std::env::temp_dir().join(format!("lockstep-demo-{}", std::process::id()));
    std::fs::create_dir_all(&root).map_err(|e| format!("{}: {e}", root.display()))?;
    let options = RoundOptions {
        program: std::env::current_exe().map_err(|e| e.to_string())?,
        root: root.clone(),
        policy: "sync",
        writers: 16,
        load: Duration::from_secs(6),
        seed,
        talk: true,
    };
    let (outcome, mut b) = round(&options).await?;
    println!("\n{}", table(&outcome, began.elapsed()));
    if args.keep {
        let pid = b.leave().unwrap_or_default();
        println!("site-b goes on: S3 http://{}, admin {}, process {pid}", b.s3, b.admin);
        println!("data in {}; the keys are in its *.toml files", root.display());
    } else {
        drop(b);
        let _left = std::fs::remove_dir_all(&root);
    }
    if outcome.read_back.different.is_empty() {
        println!("Everything that was acknowledged was read back.");
        return Ok(());
    }
    outcome.read_back.different.iter().for_each(|line| eprintln!("  {line}"));
    Err(format!("{} keys differ", outcome.read_back.different.len()))
}

/// One round: load, kill, promote, compare. The promoted site is given back running.
///
/// # Errors
/// When a step fails; a difference is no error but part of the outcome.
pub async fn round(options: &RoundOptions) -> Result<(Outcome, Site), String> {
    let say = |text: &str| {
        if options.talk {
            println!("{text}");
        }
    };
    say("starting site-a and site-b; site-a mirrors its writes to site-b");
    let (mut a, b) = sites::pair(&options.root, &options.program, options.policy).await?;
    say(&format!("in sync; {} writers put, overwrite, complete and delete objects at site-a", options.writers));
    let mut first = S3Client::connect(&a.s3, &a.key).await?;
    let made = first.send(Method::PUT, &format!("/{BUCKET}"), Bytes::new()).await?;
    if !made.status.is_success() {
        return Err(format!("the bucket cannot be made: {}", made.status));
    }
    let diaries = load(options, &mut a).await;
    say("site-a is dead (SIGKILL); promoting site-b, as an operator would: lockstep promote site-a");
    let began = Instant::now();
    let report = b.admin()?.call(Method::POST, "/v1/promote", Some(json!({ "origin": "site-a" }))).await?;
    let promote = began.elapsed();
    let first_read = first_read(&b, &a, &diaries, began).await?;
    say(&format!("promoted in {} ms; reading everything back", promote.as_millis()));
    let read_back = read_all(&b, &a, &diaries).await?;
    let sum = |of: fn(&Diary) -> u64| diaries.iter().map(of).sum::<u64>();
    let outcome = Outcome {
        writes: sum(|d| d.writes),
        deletes: sum(|d| d.deletes),
        bytes: sum(|d| d.bytes),
        read_back,
        promote,
        first_read,
        verdict: report["verdict"].as_str().unwrap_or_default().to_owned(),
        last_seq: report["seq"].to_string(),
    };
    Ok((outcome, b))
}

/// Writers write until A is killed at a random moment.
async fn load(options: &RoundOptions, a: &mut Site) -> Vec<Diary> {
    let progress = Arc::new(Progress::default());
    let writers: Vec<_> = (0..options.writers)
        .map(|n| tokio::spawn(writer(a.s3.clone(), a.key.clone(), n, options.seed, Arc::clone(&progress))))
        .collect();
    let extra = Random::new(options.seed).below(options.load.as_millis() as u64 / 2 + 1);
    let until = Instant::now() + options.load + Duration::from_millis(extra);
    while Instant::now() < until {
        let left = until.saturating_duration_since(Instant::now());
        tokio::time::sleep(left.min(Duration::from_secs(1))).await;
        if options.talk {
            let (answered, bytes) = (&progress.answered, &progress.bytes);
            let mib = bytes.load(Ordering::Relaxed) >> 20;
            println!("  {} operations answered, {mib} MiB", answered.load(Ordering::Relaxed));
        }
    }
    a.kill();
    let mut diaries = Vec::new();
    for writer in writers {
        diaries.extend(writer.await);
    }
    diaries
}

/// The first object that the promoted site serves, timed from the promote command on.
async fn first_read(b: &Site, a: &Site, diaries: &[Diary], began: Instant) -> Result<Duration, String> {
    let mut known = diaries.iter().flat_map(|d| &d.keys).filter(|(_, k)| k.acknowledged.is_some());
    let name = known.next().map(|(name, _)| name.clone()).unwrap_or_default();
    let mut client = S3Client::connect(&b.s3, &a.key).await?;
    client.send(Method::HEAD, &format!("/{BUCKET}/{name}"), Bytes::new()).await?;
    Ok(began.elapsed())
}

/// Every key of every writer, read from the promoted site with site A's key.
async fn read_all(b: &Site, a: &Site, diaries: &[Diary]) -> Result<Comparison, String> {
    let mut all = Comparison::default();
    let mut client = S3Client::connect(&b.s3, &a.key).await?;
    for diary in diaries {
        let found = compare(&mut client, diary).await?;
        all.equal += found.equal;
        all.bytes += found.bytes;
        all.uncertain += found.uncertain;
        all.different.extend(found.different);
    }
    Ok(all)
}

fn table(outcome: &Outcome, total: Duration) -> String {
    let row = |name: &str, value: String| format!("  {name:<40}{value:>20}\n");
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1000.0);
    let read = &outcome.read_back;
    [
        row("writes acknowledged at site-a", outcome.writes.to_string()),
        row("bytes acknowledged", mib(outcome.bytes)),
        row("deletes acknowledged", outcome.deletes.to_string()),
        row("keys read back from site-b, equal", read.equal.to_string()),
        row("  bytes of them", mib(read.bytes)),
        row("  last operation in flight at the kill", read.uncertain.to_string()),
        row("keys that differ", read.different.len().to_string()),
        row("promote", ms(outcome.promote)),
        row("promote command to first read", ms(outcome.first_read)),
        row("last seq of site-a", outcome.last_seq.clone()),
        row("all in all", format!("{:.1} s", total.as_secs_f64())),
    ]
    .concat()
        + &format!("  verdict of the promote: {}\n", outcome.verdict)
}

/// A seed that no earlier demo had.
fn now_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |t| t.as_millis() as u64)
}
