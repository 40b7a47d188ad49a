//! Failover and return. The source is killed under load and its destination promoted, which takes the writers; the source
//! comes back, becomes the destination of its own origin and gets what it lacks; then the origin is handed back under load.
//! In most rounds a site is killed while that goes on: it ends with one source, whichever, and nothing lost.

use std::time::{Duration, Instant};

use super::figures::Figures;
use super::scene::{ORIGIN, Options, PATIENCE, Scene};

/// Longest time between two looks at who is the source.
const POLL_PAUSE: Duration = Duration::from_millis(20);

/// Who fails while the origin is handed back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Nobody,
    A,
    B,
    Both,
}

/// There and back.
///
/// # Errors
/// When a step fails.
pub async fn there_and_back(options: &Options) -> Result<Figures, String> {
    let mut scene = Scene::open(options, false).await?;
    let running = scene.write();
    scene.some_load(&running).await?;
    let ran = scene.pair.a.kill();
    scene.figures.check(ran, "site-a had stopped by itself");
    scene.rest(running).await?;
    scene.pair.b.operate(&["promote", ORIGIN]).await?;

    let running = scene.write_at_b();
    scene.moment(options.load / 4, options.load).await;
    scene.pair.a.start()?;
    let back = scene.pair.b.wait_until(ORIGIN, "in sync at site-b", PATIENCE, is_source_in_sync).await?;
    scene.figures.time("old source in sync", back);
    scene.moment(options.load / 4, options.load / 2).await;

    let said = scene.pair.b.operate(&["failback", ORIGIN, "--dry-run"]).await?;
    scene.figures.check(said.contains("would take"), format!("failback --dry-run says: {said}"));
    hand_back(&mut scene).await?;
    scene.rest(running).await?;

    let running = scene.write();
    scene.moment(options.load / 4, options.load / 2).await;
    scene.rest(running).await?;
    scene.compare().await?;
    scene.close()
}

fn is_source_in_sync(origin: &serde_json::Value) -> bool {
    origin["role"] == "source" && origin["state"] == "in_sync"
}

/// Orders the failback until it is done, whoever fails meanwhile.
async fn hand_back(scene: &mut Scene) -> Result<(), String> {
    let victims = [Victim::Nobody, Victim::A, Victim::B, Victim::Both];
    let mut victim = victims[scene.random.below(4) as usize];
    scene.figures.remarks.push(format!("{victim:?} fails in the failback"));
    let began = Instant::now();
    loop {
        let delay = Duration::from_millis(scene.random.below(60));
        let order = Instant::now();
        let pair = &mut scene.pair;
        let (a, b) = (&mut pair.a, &mut pair.b);
        if victim == Victim::Nobody {
            // Refused where the stream has just reconnected: then again.
            if b.operate(&["failback", ORIGIN]).await.is_ok() {
                scene.figures.time("failback", order.elapsed());
            }
        } else {
            // Done, refused or cut off: what comes of it is seen below.
            drop(tokio::time::timeout(delay, b.operate(&["failback", ORIGIN])).await);
            if matches!(victim, Victim::A | Victim::Both) {
                a.kill();
            }
            if matches!(victim, Victim::B | Victim::Both) {
                b.kill();
            }
            a.start_again()?;
            b.start_again()?;
            victim = Victim::Nobody;
        }
        let settled = Instant::now();
        loop {
            if a.origin(ORIGIN).await.is_ok_and(|o| is_source_in_sync(&o)) {
                scene.figures.time("handed back", began.elapsed());
                return Ok(());
            }
            if b.origin(ORIGIN).await.is_ok_and(|o| is_source_in_sync(&o)) {
                break;
            }
            if settled.elapsed() > PATIENCE {
                let (a, b) = (a.origin(ORIGIN).await, b.origin(ORIGIN).await);
                return Err(format!("nobody is the source in sync: site-a says {a:?}, site-b {b:?}"));
            }
            tokio::time::sleep(POLL_PAUSE).await;
        }
        if began.elapsed() > PATIENCE * 2 {
            return Err("the origin does not go back".into());
        }
    }
}
