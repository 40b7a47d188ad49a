//! The whole story on loopback: two sites as real processes, writes at A mirrored to B, A killed with SIGKILL under load,
//! B promoted, every acknowledged write read back and compared. The failover tests run the same rounds.

pub mod audit;
pub mod client;
pub mod ledger;
pub mod sites;
pub mod workload;

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use http::{Method, StatusCode};
use serde_json::Value;

use self::audit::{Audit, audit};
use self::client::S3Client;
use self::ledger::{Counts, Ledger};
use self::sites::{Pair, Site, Stream};
use self::workload::{BUCKET, Load, Mix, Random, Running};

/// Longest time for the objects of a round to be there.
const LOAD_PATIENCE: Duration = Duration::from_mins(5);

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
    /// How A mirrors to B.
    pub stream: Stream,
    /// Writers at once.
    pub writers: u64,
    /// What they do.
    pub mix: Mix,
    /// A is not killed before so many objects are there.
    pub objects: u64,
    /// How long the load lasts at least; a random part of up to a half is added.
    pub load: Duration,
    /// Decides contents, order and the moment of the kill.
    pub seed: u64,
    /// Print progress.
    pub talk: bool,
}

/// What came of a round.
#[derive(Debug)]
pub struct Outcome {
    /// What was acknowledged.
    pub counts: Counts,
    /// What was read back.
    pub read_back: Audit,
    /// From the promote command to its answer.
    pub promote: Duration,
    /// From the promote command to the first object read.
    pub first_read: Duration,
    /// From the promote command to the first write's answer.
    pub first_write: Duration,
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
        stream: Stream { policy: "sync", link_timeout: "5s" },
        writers: 16,
        mix: Mix::BROAD,
        objects: 0,
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
    Err(format!("{} keys or uploads differ", outcome.read_back.different.len()))
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
    let mut pair = Pair::new(&options.root, &options.program)?;
    let link = pair.b.mirror.clone();
    pair.start(&options.root, &options.stream, &link).await?;
    say(&format!("in sync; {} writers put, overwrite, copy, complete and delete objects at site-a", options.writers));
    make_bucket(&pair.a).await?;
    let Pair { mut a, b } = pair;
    let mut ledger = load(options, &mut a).await?;
    say("site-a is dead (SIGKILL); promoting site-b, as an operator would: lockstep promote site-a");
    let began = Instant::now();
    let said = b.operate(&["promote", "site-a", "--json"]).await?;
    let promote = began.elapsed();
    let first_read = first_read(&b, &a, &ledger, began).await?;
    let first_write = first_write(&b, &a, began).await?;
    let report: Value = serde_json::from_str(&said).map_err(|error| format!("{error}: {said}"))?;
    say(&format!("promoted in {} ms; reading everything back", promote.as_millis()));
    let read_back = audit(&b.s3, &a.key, &mut ledger).await?;
    let outcome = Outcome {
        counts: ledger.counts,
        read_back,
        promote,
        first_read,
        first_write,
        verdict: report["verdict"].as_str().unwrap_or_default().to_owned(),
        last_seq: report["seq"].to_string(),
    };
    Ok((outcome, b))
}

/// Makes the bucket that writers write to.
///
/// # Errors
/// When the site does not.
pub async fn make_bucket(site: &Site) -> Result<(), String> {
    let mut client = S3Client::connect(&site.s3, &site.key).await?;
    let made = client.send(Method::PUT, &format!("/{BUCKET}"), Bytes::new()).await?;
    if made.status.is_success() { Ok(()) } else { Err(format!("the bucket cannot be made: {}", made.status)) }
}

/// Writers write until A is killed at a random moment.
async fn load(options: &RoundOptions, a: &mut Site) -> Result<Ledger, String> {
    let load = Load {
        address: a.s3.clone(),
        key: a.key.clone(),
        writers: options.writers,
        seed: options.seed,
        mix: options.mix,
    };
    let running = Running::start(&load, Ledger::default());
    let progress = &running.progress;
    let extra = Random::new(options.seed).below(options.load.as_millis() as u64 / 2 + 1);
    let began = Instant::now();
    let mut until = began + options.load + Duration::from_millis(extra);
    let mut said = Instant::now();
    loop {
        let now = Instant::now();
        if progress.objects.load(Ordering::Relaxed) < options.objects {
            until = until.max(now + Duration::from_millis(extra));
        }
        if now >= until {
            break;
        }
        if began.elapsed() > LOAD_PATIENCE {
            return Err(format!("the objects are not there after {LOAD_PATIENCE:?}: see {}", a.log.display()));
        }
        if options.talk && said.elapsed() >= Duration::from_secs(1) {
            said = now;
            let mib = progress.bytes.load(Ordering::Relaxed) >> 20;
            println!("  {} operations answered, {mib} MiB", progress.answered.load(Ordering::Relaxed));
        }
        tokio::time::sleep((until - now).min(Duration::from_millis(10))).await;
    }
    if !a.kill() {
        return Err(format!("{} had stopped by itself: see {}", a.name, a.log.display()));
    }
    running.stop().await
}

/// The first object that the promoted site serves, timed from the promote command on.
async fn first_read(b: &Site, a: &Site, ledger: &Ledger, began: Instant) -> Result<Duration, String> {
    let known = ledger.keys.iter().find(|(_, known)| known.certain().is_some());
    let (name, _) = known.ok_or("no object was acknowledged before the kill")?;
    let mut client = S3Client::connect(&b.s3, &a.key).await?;
    let answer = client.send(Method::GET, &format!("/{BUCKET}/{name}"), Bytes::new()).await?;
    let took = began.elapsed();
    if answer.status == StatusCode::OK { Ok(took) } else { Err(format!("first read of {name}: {}", answer.status)) }
}

/// The first write that the promoted site takes, timed from the promote command on; it leaves nothing.
async fn first_write(b: &Site, a: &Site, began: Instant) -> Result<Duration, String> {
    let mut client = S3Client::connect(&b.s3, &a.key).await?;
    let path = format!("/{BUCKET}/first-write");
    let answer = client.send(Method::PUT, &path, Bytes::from_static(b"promoted")).await?;
    let took = began.elapsed();
    let content = client.send(Method::DELETE, &path, Bytes::new()).await?;
    let good = answer.status == StatusCode::OK && content.status.is_success();
    if good { Ok(took) } else { Err(format!("first write: {}, its delete: {}", answer.status, content.status)) }
}

fn table(outcome: &Outcome, total: Duration) -> String {
    let row = |name: &str, value: String| format!("  {name:<40}{value:>20}\n");
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1000.0);
    let read = &outcome.read_back;
    let counts = &outcome.counts;
    [
        row("objects acknowledged at site-a", counts.writes.to_string()),
        row("  of them copies, multipart uploads", format!("{}, {}", counts.copies, counts.multiparts)),
        row("bytes acknowledged", mib(counts.bytes)),
        row("deletes acknowledged", counts.deletes.to_string()),
        row("keys read back from site-b, equal", read.equal.to_string()),
        row("  objects among them", read.objects.to_string()),
        row("  bytes of them", mib(read.bytes)),
        row("  last operation in flight at the kill", read.unanswered.to_string()),
        row("keys and uploads that differ", read.different.len().to_string()),
        row("promote", ms(outcome.promote)),
        row("promote command to first read", ms(outcome.first_read)),
        row("promote command to first write", ms(outcome.first_write)),
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
