//! The source dies under load with records in its log that its destination lacks. It comes back after the destination was
//! promoted and has written: what only it had is set aside and cut from its log, and it gets the promoted node's records by
//! seq. No image is copied, and hardly more crosses the link than these records.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::between::Between;
use super::figures::Figures;
use super::proxy::Wire;
use super::scene::{ORIGIN, Options, PATIENCE, Scene};

/// Nobody has written for so long.
const QUIET: Duration = Duration::from_millis(300);
/// Bytes that may cross the link beside records: heads, acks and heartbeats.
const BESIDE_LEN: u64 = 256 << 10;

/// There and back, by a cut.
///
/// # Errors
/// When a step fails.
pub async fn returned(options: &Options) -> Result<Figures, String> {
    let mut scene = Scene::open(options, true).await?;
    let running = scene.write();
    scene.some_load(&running).await?;
    // What A hears still lets its writers go on to the next record, which does not pass: each waits with one or more.
    scene.between.set(Wire { forth: false, ..Wire::WHOLE })?;
    let lacks = lacking(&scene, options.writers / 2).await?;
    scene.pair.a.kill();
    scene.between.set(Wire { forth: false, back: false, ..Wire::WHOLE })?;
    scene.rest(running).await?;
    scene.pair.b.operate(&["promote", ORIGIN]).await?;
    let running = scene.write_at_b();
    scene.moment(options.load / 2, options.load).await;
    scene.rest(running).await?;

    let before = at_rest(&scene).await?;
    let (behind, records) = (number(&before, "behind_bytes"), number(&before, "last_seq"));
    scene.between.set(Wire::WHOLE)?;
    let crossed = crossed(&scene.between);
    let began = Instant::now();
    scene.pair.a.start()?;
    let in_sync = |origin: &Value| origin["role"] == "source" && origin["state"] == "in_sync";
    scene.pair.b.wait_until(ORIGIN, "in sync at site-b", PATIENCE, in_sync).await?;
    scene.figures.time("in sync by a cut", began.elapsed());
    if let (Some(before), Some(now)) = (crossed, self::crossed(&scene.between)) {
        let crossed = now - before;
        let bound = behind + behind / 8 + BESIDE_LEN;
        scene
            .figures
            .check(crossed <= bound, format!("{crossed} bytes crossed the link for {behind} bytes of records"));
        scene
            .figures
            .remarks
            .push(format!("{lacks} records cut, {crossed} bytes for {behind} of records of {records}"));
    }
    let log = std::fs::read_to_string(&scene.pair.b.log).map_err(|error| error.to_string())?;
    scene.figures.check(!log.contains("baseline"), "site-b gave a baseline");
    let tails = scene.pair.a.operate(&["tail", "list", ORIGIN, "--json"]).await?;
    scene.figures.check(tails.contains(ORIGIN), format!("what was cut is in no tail: {tails}"));

    scene.pair.b.operate(&["failback", ORIGIN]).await?;
    scene.pair.a.wait_until(ORIGIN, "in sync at site-a", PATIENCE, in_sync).await?;
    scene.compare().await?;
    scene.close()
}

/// B's status when what its writers left behind has come to its end.
async fn at_rest(scene: &Scene) -> Result<Value, String> {
    let began = Instant::now();
    let mut before = scene.pair.b.origin(ORIGIN).await?;
    loop {
        tokio::time::sleep(QUIET).await;
        let now = scene.pair.b.origin(ORIGIN).await?;
        if number(&now, "last_seq") == number(&before, "last_seq") {
            return Ok(now);
        }
        if began.elapsed() > PATIENCE {
            return Err("site-b goes on writing without writers".into());
        }
        before = now;
    }
}

fn number(origin: &Value, field: &str) -> u64 {
    origin[field].as_u64().unwrap_or_default()
}

/// Waits until A has so many records that B lacks; how many.
async fn lacking(scene: &Scene, least: u64) -> Result<u64, String> {
    let began = Instant::now();
    loop {
        let (a, b) = (scene.pair.a.origin(ORIGIN).await?, scene.pair.b.origin(ORIGIN).await?);
        let lacks = number(&a, "persisted_seq").saturating_sub(number(&b, "last_seq"));
        if lacks >= least {
            return Ok(lacks);
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("only {lacks} records wait for the destination: {a} and {b}"));
        }
    }
}

/// Bytes that have crossed the link that B opens to A, where they are counted. What the cut held back of A's own comes on
/// the other one.
fn crossed(between: &Between) -> Option<u64> {
    match between {
        Between::Proxies { back, .. } => Some(back.carried()),
        Between::Loopback | Between::Hosts(_) => None,
    }
}
