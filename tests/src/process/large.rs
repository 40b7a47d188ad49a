//! A baseline of many objects while writes go on at a steady pace: how long it takes, what it costs in memory, and what the
//! writers feel of it. Both ends are killed on the way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use lockstep_gateway::config::KeyPair;
use lockstep_gateway::demo::client::S3Client;
use lockstep_gateway::demo::workload::BUCKET;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::figures::Figures;
use super::scene::{ORIGIN, Options, Scene};

/// Bytes of an object.
const OBJECT_LEN: usize = 1024;
/// Writes in a second that go on.
const PACE: u64 = 200;
/// How long the pace is measured before anything happens.
const BEFORE: Duration = Duration::from_secs(10);
/// Longest time for the baseline.
const PATIENCE: Duration = Duration::from_mins(20);
const POLL_PAUSE: Duration = Duration::from_millis(50);

/// The round. `objects` in the options is how many there are.
///
/// # Errors
/// When a step fails.
pub async fn large(options: &Options) -> Result<Figures, String> {
    let mut scene = Scene::open(options, false).await?;
    let key = scene.pair.a.key.clone();
    let filled = Instant::now();
    fill(&scene.pair.a.s3, &key, options.objects, options.writers).await?;
    scene.figures.time("filled", filled.elapsed());
    scene.pair.a.operate(&["sync"]).await?;
    let paced = Paced::start(scene.pair.a.s3.clone(), key.clone());
    tokio::time::sleep(BEFORE).await;
    let before = paced.latencies();

    scene.pair.b.kill();
    std::fs::remove_dir_all(&scene.pair.b.dir).map_err(|error| error.to_string())?;
    std::fs::create_dir_all(&scene.pair.b.dir).map_err(|error| error.to_string())?;
    let began = Instant::now();
    scene.pair.b.start()?;
    let mut peaks = [0; 2];
    for (percent, at_a) in [(25, false), (50, true), (75, false)] {
        until(&mut scene, percent, &mut peaks).await?;
        let site = if at_a { &mut scene.pair.a } else { &mut scene.pair.b };
        site.kill();
        site.start()?;
        scene.figures.remarks.push(format!("{} killed past {percent} %", if at_a { "site-a" } else { "site-b" }));
    }
    until(&mut scene, 200, &mut peaks).await?;
    scene.figures.time("baseline", began.elapsed());
    let during = paced.latencies();
    tokio::time::sleep(BEFORE).await;
    let counts = paced.stop().await?;
    scene.figures.remarks.push(format!(
        "p99 of a write at {PACE}/s: {} before, {} during; {} writes, {} tried again; peak memory {} MiB at site-a, {} MiB at site-b",
        percentile(&before),
        percentile(&during[before.len()..]),
        counts.0,
        counts.1,
        peaks[0] >> 10,
        peaks[1] >> 10
    ));
    scene.pair.a.wait_for(ORIGIN, "in_sync", PATIENCE).await?;
    scene.pair.a.operate(&["sync"]).await?;
    let token = scene.pair.b.token_file().display().to_string();
    let verified = Instant::now();
    let words = ["verify", ORIGIN, "--deep", "--no-repair", "--with", &scene.pair.b.admin, "--with-token-file", &token];
    if let Err(sentence) = scene.pair.a.operate(&words).await {
        scene.figures.different.push(sentence);
    }
    scene.figures.time("verified", verified.elapsed());
    scene.close_with(1_000)
}

async fn fill(address: &str, key: &KeyPair, objects: u64, writers: u64) -> Result<(), String> {
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..writers {
        let (next, address, key) = (Arc::clone(&next), address.to_owned(), key.clone());
        tasks.spawn(async move {
            let mut client = S3Client::connect(&address, &key).await?;
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= objects {
                    return Ok::<(), String>(());
                }
                let body = Bytes::from(vec![(n % 251) as u8; OBJECT_LEN]);
                let target = format!("/{BUCKET}/many/{:03}/{n:09}", n % 512);
                let answer = client.send(Method::PUT, &target, body).await?;
                if !answer.status.is_success() {
                    return Err(format!("{target}: {}", answer.status));
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.map_err(|error| error.to_string())??;
    }
    Ok(())
}

/// Waits until the baseline has come so far, in percent, or is over; peaks of both processes' memory are kept.
async fn until(scene: &mut Scene, percent: u64, peaks: &mut [u64; 2]) -> Result<(), String> {
    let began = Instant::now();
    let mut seen = Value::Null;
    while began.elapsed() < PATIENCE {
        for (peak, site) in peaks.iter_mut().zip([&scene.pair.a, &scene.pair.b]) {
            *peak = (*peak).max(site.id().and_then(peak_kib).unwrap_or_default());
        }
        if let Ok(found) = scene.pair.a.origin(ORIGIN).await {
            let baseline = &found["baseline"];
            let (bytes, total) = (baseline["bytes"].as_u64(), baseline["total_bytes"].as_u64());
            if let (Some(bytes), Some(total)) = (bytes, total)
                && 100 * bytes >= percent * total
                && percent <= 100
            {
                return Ok(());
            }
            if found["state"] == "in_sync" || (percent <= 100 && found["state"] == "catching_up") {
                return Ok(());
            }
            seen = found;
        }
        tokio::time::sleep(POLL_PAUSE).await;
    }
    Err(format!("the baseline does not come to {percent} %: {seen}"))
}

/// Most memory that a process has had, in KiB.
fn peak_kib(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn percentile(latencies: &[Duration]) -> String {
    let mut sorted = latencies.to_vec();
    sorted.sort_unstable();
    let at = sorted.len() * 99 / 100;
    sorted.get(at).map_or_else(|| "nothing".into(), |p99| format!("{:.1} ms", p99.as_secs_f64() * 1000.0))
}

/// Writes at a steady pace, each tried until it is answered.
struct Paced {
    latencies: Arc<std::sync::Mutex<Vec<Duration>>>,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<Result<(u64, u64), String>>,
}

impl Paced {
    fn start(address: String, key: KeyPair) -> Self {
        let latencies = Arc::default();
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(pace(address, key, Arc::clone(&latencies), stopped));
        Self { latencies, stop, task }
    }

    fn latencies(&self) -> Vec<Duration> {
        self.latencies.lock().map(|all| all.clone()).unwrap_or_default()
    }

    async fn stop(self) -> Result<(u64, u64), String> {
        self.stop.send_replace(true);
        self.task.await.map_err(|error| error.to_string())?
    }
}

async fn pace(
    address: String,
    key: KeyPair,
    latencies: Arc<std::sync::Mutex<Vec<Duration>>>,
    stopped: watch::Receiver<bool>,
) -> Result<(u64, u64), String> {
    let mut ticks = tokio::time::interval(Duration::from_micros(1_000_000 / PACE));
    let (mut writes, mut again) = (0_u64, 0_u64);
    let mut client = None;
    while !*stopped.borrow() {
        ticks.tick().await;
        let began = Instant::now();
        let target = format!("/{BUCKET}/meanwhile/{writes:07}");
        loop {
            let connected = match client.take() {
                Some(client) => Ok(client),
                None => S3Client::connect(&address, &key).await,
            };
            if let Ok(mut connected) = connected {
                let body = Bytes::from(vec![7; OBJECT_LEN]);
                let answer = connected.send(Method::PUT, &target, body).await;
                if answer.is_ok_and(|answer| answer.status.is_success()) {
                    client = Some(connected);
                    break;
                }
            }
            again += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        writes += 1;
        if let Ok(mut latencies) = latencies.lock() {
            latencies.push(began.elapsed());
        }
    }
    Ok((writes, again))
}
