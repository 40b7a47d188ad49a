//! A destination is made anew while writers go on: another machine stands at its place, with nothing; it gets a baseline,
//! and in most rounds one end or both are killed while it comes. And a source whose records nobody else had comes back after
//! its destination was promoted: its own are set aside, and it gets a baseline too.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use lockstep_gateway::demo::client::S3Client;
use lockstep_gateway::demo::workload::BUCKET;
use serde_json::Value;

use super::figures::Figures;
use super::proxy::Wire;
use super::scene::{ORIGIN, Options, PATIENCE, Scene};

/// Longest time between two looks at how far a baseline is.
const POLL_PAUSE: Duration = Duration::from_millis(10);
/// Bytes of a site's NVRAM.
const NVRAM_LEN: u64 = 64 << 20;
/// Objects that only the source has when it dies.
const ALONE: usize = 40;

/// B burns down and begins anew.
///
/// # Errors
/// When a step fails.
pub async fn made_anew(options: &Options) -> Result<Figures, String> {
    let mut scene = Scene::open(options, false).await?;
    let running = scene.write();
    scene.some_load(&running).await?;
    // Its log is trimmed: what B will lack is in the image only.
    scene.pair.a.operate(&["sync"]).await?;
    let ran = scene.pair.b.kill();
    scene.figures.check(ran, "site-b had stopped by itself");
    std::fs::remove_dir_all(&scene.pair.b.dir).map_err(|error| error.to_string())?;
    std::fs::create_dir_all(&scene.pair.b.dir).map_err(|error| error.to_string())?;
    let connects = scene.connects().await?;
    let began = Instant::now();
    scene.pair.b.start()?;
    let kills = scene.random.below(4);
    for _ in 0..kills {
        if under_way(&scene).await?.is_none() {
            break;
        }
        let delay = Duration::from_millis(scene.random.below(400));
        tokio::time::sleep(delay).await;
        let (a, b) = (&mut scene.pair.a, &mut scene.pair.b);
        let victim = scene.random.below(3);
        if victim != 1 {
            a.kill();
            a.start()?;
        }
        if victim != 0 {
            b.kill();
            b.start()?;
        }
        scene.figures.remarks.push(["site-a", "site-b", "both"][victim as usize].to_owned() + " killed");
    }
    let connects = if kills > 0 { 0 } else { connects };
    scene.back_in_sync(connects).await?;
    scene.figures.time("made anew", began.elapsed());
    scene.moment(options.load / 4, options.load / 2).await;
    scene.rest(running).await?;
    let log = std::fs::read_to_string(&scene.pair.b.log).map_err(|error| error.to_string())?;
    scene.figures.check(log.contains("event=\"baseline_done\""), "site-b logged no baseline that was put in place");
    scene.compare().await?;
    scene.close_with(400)
}

/// Waits until a baseline is under way, as its taker says; none where both are in sync already.
async fn under_way(scene: &Scene) -> Result<Option<Value>, String> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        if let Ok(found) = scene.pair.b.origin(ORIGIN).await {
            if !found["baseline"].is_null() {
                return Ok(Some(found));
            }
            if found["state"] == "in_sync" {
                return Ok(None);
            }
        }
        tokio::time::sleep(POLL_PAUSE).await;
    }
    Err("no baseline begins".into())
}

/// B's data directory is gone and its NVRAM is not: it takes no part until it is rebuilt, by command.
///
/// # Errors
/// When a step fails.
pub async fn rebuilt(options: &Options) -> Result<Figures, String> {
    let mut scene = Scene::open(options, false).await?;
    let running = scene.write();
    // More than B's NVRAM holds: from what it holds nothing would be lost.
    scene.until(&running, "more than the NVRAM holds", |p| p.bytes.load(Ordering::Relaxed) > 3 * NVRAM_LEN).await?;
    scene.some_load(&running).await?;
    scene.pair.a.operate(&["sync"]).await?;
    scene.pair.b.kill();
    std::fs::remove_dir_all(scene.pair.b.dir.join("origins").join(ORIGIN)).map_err(|error| error.to_string())?;
    scene.pair.b.start()?;
    scene.pair.b.wait_for(ORIGIN, "lost", PATIENCE).await?;
    let promoted = scene.pair.b.operate(&["promote", ORIGIN, "--accept-loss"]).await;
    let refused = promoted.as_ref().is_err_and(|sentence| sentence.contains("data directory is gone"));
    scene.figures.check(refused, format!("promote of what is lost says {promoted:?}"));
    let token = scene.pair.a.token_file().display().to_string();
    let began = Instant::now();
    let words = ["rebuild", "--from", &scene.pair.a.admin, "--from-token-file", &token];
    let said = scene.pair.b.operate(&words).await?;
    scene.figures.check(said == format!("{ORIGIN} is rebuilt from site-a"), format!("rebuild says {said}"));
    scene.back_in_sync(0).await?;
    scene.figures.time("rebuilt", began.elapsed());
    let again = scene.pair.b.operate(&words).await;
    scene.figures.check(again.is_err_and(|sentence| sentence.contains("nothing of site-b is lost")), "rebuilt twice");
    scene.rest(running).await?;
    scene.compare().await?;
    scene.close_with(400)
}

/// A has answered alone, and shown, what B never got; B is promoted all the same.
///
/// # Errors
/// When a step fails.
pub async fn went_another_way(options: &Options) -> Result<Figures, String> {
    let mut scene = Scene::open(options, true).await?;
    let running = scene.write();
    scene.some_load(&running).await?;
    scene.rest(running).await?;
    // Whatever was answered so far is at B too.
    scene.pair.a.operate(&["sync"]).await?;
    scene.between.set(Wire { forth: false, back: false, ..Wire::WHOLE })?;
    let mut client = S3Client::connect(&scene.pair.a.s3, &scene.pair.a.key).await?;
    for n in 0..ALONE {
        let body = Bytes::from(format!("only site-a has this, number {n}"));
        let answer = client.send(Method::PUT, &format!("/{BUCKET}/alone/{n}"), body).await?;
        let local = answer.headers.get("x-lockstep-ack").is_some_and(|ack| ack == "local");
        scene.figures.check(answer.status.is_success() && local, format!("a write alone: {}", answer.status));
    }
    scene.pair.a.kill();
    let refused = scene.pair.b.operate(&["promote", ORIGIN, "--dry-run"]).await;
    scene.figures.remarks.push(format!("{refused:?}"));
    scene.pair.b.operate(&["promote", ORIGIN, "--accept-loss"]).await?;
    let running = scene.write_at_b();
    scene.moment(options.load / 4, options.load / 2).await;
    scene.between.set(Wire::WHOLE)?;
    let began = Instant::now();
    scene.pair.a.start()?;
    let in_sync = |o: &Value| o["role"] == "source" && o["state"] == "in_sync";
    scene.pair.b.wait_until(ORIGIN, "in sync at site-b", PATIENCE, in_sync).await?;
    scene.figures.time("old source made anew", began.elapsed());
    scene.rest(running).await?;
    lost_is_the_tail(&mut scene).await?;
    scene.pair.b.operate(&["sync", ORIGIN]).await?;
    scene.pair.b.operate(&["failback", ORIGIN]).await?;
    scene.pair.a.wait_until(ORIGIN, "in sync at site-a", PATIENCE, in_sync).await?;
    scene.compare().await?;
    scene.close_with(400)
}

/// What only A had is nowhere served any more, and all of it is in the tail.
async fn lost_is_the_tail(scene: &mut Scene) -> Result<(), String> {
    let mut client = S3Client::connect(&scene.pair.b.s3, &scene.pair.a.key).await?;
    for n in 0..ALONE {
        let answer = client.send(Method::GET, &format!("/{BUCKET}/alone/{n}"), Bytes::new()).await?;
        scene.figures.check(answer.status == http::StatusCode::NOT_FOUND, format!("alone/{n}: {}", answer.status));
    }
    let to = scene.pair.a.dir.with_file_name("tail.jsonl");
    let path = to.display().to_string();
    scene.pair.a.operate(&["tail", "export", ORIGIN, "--to", &path]).await?;
    let exported = std::fs::read_to_string(&to).map_err(|error| error.to_string())?;
    for n in 0..ALONE {
        let name = format!("\"alone/{n}\"");
        scene.figures.check(exported.contains(&name), format!("{name} is not in the exported tail"));
    }
    Ok(())
}
