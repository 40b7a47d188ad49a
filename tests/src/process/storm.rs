//! One failure after the other under load, each before the last one is healed for long: kills of either site and of both,
//! and cuts. Nobody is promoted, so the source keeps everything that it ever acknowledged, and in the end both are equal.

use std::time::{Duration, Instant};

use super::figures::Figures;
use super::link::CUTS;
use super::proxy::Wire;
use super::scene::{ORIGIN, Options, PATIENCE, Scene};

/// Failures in a round.
const FAILURES: u64 = 8;

/// A row of failures, then quiet.
///
/// # Errors
/// When a step fails.
pub async fn storm(options: &Options) -> Result<Figures, String> {
    let mut scene = Scene::open(options, true).await?;
    let running = scene.write();
    scene.some_load(&running).await?;
    let mut names = Vec::new();
    for _ in 0..FAILURES {
        names.push(failure(&mut scene, options).await?);
        scene.moment(Duration::ZERO, options.load / 2).await;
    }
    scene.figures.remarks.push(names.join(", "));
    scene.rest(running).await?;
    if options.is_strict() {
        let local = scene.ledger.counts.local;
        scene.figures.check(local == 0, format!("{local} writes answered alone under strict"));
    }
    let quiet = Instant::now();
    linked(&scene).await?;
    scene.figures.time("in sync at last", quiet.elapsed());
    scene.compare().await?;
    scene.close()
}

/// One failure, from its beginning to its end.
async fn failure(scene: &mut Scene, options: &Options) -> Result<&'static str, String> {
    let most = options.load;
    match scene.random.below(6) {
        0 | 1 => {
            scene.pair.b.kill();
            scene.moment(Duration::ZERO, most).await;
            scene.pair.b.start()?;
            Ok("B")
        }
        2 => {
            scene.pair.a.kill();
            scene.moment(Duration::ZERO, most / 2).await;
            scene.pair.a.start()?;
            Ok("A")
        }
        3 => {
            scene.pair.a.kill();
            scene.moment(Duration::ZERO, most / 4).await;
            scene.pair.b.kill();
            scene.moment(Duration::ZERO, most / 4).await;
            scene.pair.a.start()?;
            scene.moment(Duration::ZERO, most / 2).await;
            scene.pair.b.start()?;
            Ok("AB")
        }
        4 => {
            scene.pair.b.kill();
            scene.moment(Duration::ZERO, most).await;
            scene.pair.a.kill();
            scene.moment(Duration::ZERO, most / 4).await;
            scene.pair.b.start()?;
            scene.pair.a.start()?;
            Ok("BA")
        }
        _ => {
            let (name, forth, back) = CUTS[scene.random.below(3) as usize];
            scene.between.set(Wire { forth, back, ..Wire::WHOLE })?;
            scene.moment(Duration::ZERO, most * 2).await;
            scene.between.set(Wire::WHOLE)?;
            Ok(name)
        }
    }
}

/// Waits until A is in sync by a link that stands. Just after a link is lost A still says `in_sync`, rightly; but then it
/// cannot make a consistency point.
async fn linked(scene: &Scene) -> Result<(), String> {
    let began = Instant::now();
    loop {
        scene.pair.a.wait_for(ORIGIN, "in_sync", PATIENCE).await?;
        match scene.pair.a.operate(&["sync"]).await {
            Ok(_) => return Ok(()),
            Err(error) if began.elapsed() > PATIENCE => return Err(format!("no consistency point: {error}")),
            Err(_) => {}
        }
    }
}
