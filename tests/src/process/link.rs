//! The link is cut under load, one way or both, and heals. Under `sync` the source goes on alone and says so; under
//! `strict` it refuses writes, and nothing is acknowledged that only one site has.

use std::sync::atomic::Ordering;
use std::time::Duration;

use lockstep_gateway::demo::audit::audit;
use serde_json::Value;

use super::figures::Figures;
use super::proxy::Wire;
use super::scene::{ORIGIN, Options, PATIENCE, Scene};

/// The ways to cut, with their names.
pub(super) const CUTS: [(&str, bool, bool); 3] =
    [("both ways", false, false), ("to B", false, true), ("to A", true, false)];

/// One cut that heals; under `strict` a second one, in which B is promoted while A still runs.
///
/// # Errors
/// When a step fails.
pub async fn cut(options: &Options) -> Result<Figures, String> {
    let mut scene = Scene::open(options, true).await?;
    let (name, forth, back) = CUTS[scene.random.below(3) as usize];
    let delay = Duration::from_millis(scene.random.below(4));
    scene.figures.remarks.push(format!("cut {name}, delay {delay:?}"));
    let whole = Wire { delay, ..Wire::WHOLE };
    scene.between.set(whole)?;
    let running = scene.write();
    scene.some_load(&running).await?;
    let connects = scene.connects().await?;
    scene.between.set(Wire { forth, back, delay })?;
    let felt = if options.is_strict() {
        scene.until(&running, "a refusal", |p| p.refused.load(Ordering::Relaxed) > 0).await?
    } else {
        scene.until(&running, "an answer of A alone", |p| p.local.load(Ordering::Relaxed) > 0).await?
    };
    scene.figures.time("felt after", felt);
    scene.pair.a.wait_for(ORIGIN, "out_of_sync", PATIENCE).await?;
    scene.moment(options.load / 2, options.load).await;
    scene.between.set(whole)?;
    let healed = scene.back_in_sync(connects).await?;
    scene.figures.time("in sync again", healed);
    scene.moment(options.load / 4, options.load / 2).await;
    scene.rest(running).await?;
    let counts = scene.ledger.counts;
    scene.figures.check(counts.broken == 0, format!("site-a broke {} connections of its clients", counts.broken));
    if options.is_strict() {
        scene.figures.check(counts.local == 0, format!("{} writes answered alone under strict", counts.local));
    }
    scene.compare().await?;
    if options.is_strict() {
        promote_while_cut(&mut scene, options).await?;
    }
    scene.close()
}

/// A lives on behind the cut and B is promoted: all that A ever acknowledged is at B, and A is fenced when it hears of it.
async fn promote_while_cut(scene: &mut Scene, options: &Options) -> Result<(), String> {
    let running = scene.write();
    scene.moment(options.load / 4, options.load / 2).await;
    scene.between.set(Wire { forth: false, back: false, delay: Duration::ZERO })?;
    let refused = running.progress.refused.load(Ordering::Relaxed);
    scene.until(&running, "refusals", |p| p.refused.load(Ordering::Relaxed) > refused + 20).await?;
    let said = scene.pair.b.operate(&["promote", ORIGIN, "--json"]).await?;
    let report: Value = serde_json::from_str(&said).map_err(|error| format!("{error}: {said}"))?;
    scene.figures.check(report["verdict"] == "proved", format!("the verdict under strict: {said}"));
    let found = scene.pair.b.origin(ORIGIN).await?;
    scene.figures.check(found["role"] == "source", format!("after the promote, status says {}", found["role"]));
    scene.rest(running).await?;
    let counts = scene.ledger.counts;
    scene.figures.check(counts.local == 0, format!("{} writes answered alone under strict", counts.local));
    let read = audit(&scene.pair.b.s3, &scene.pair.a.key, &mut scene.ledger).await?;
    scene.figures.add("site-b, promoted behind a cut", read);
    scene.between.set(Wire::WHOLE)?;
    // Fenced, and soon after that the destination of its own origin.
    let deposed = scene.pair.a.wait_until(ORIGIN, "deposed", PATIENCE, |origin| origin["role"] != "source").await?;
    scene.figures.time("deposed", deposed);
    let refusal = scene.refusal().await?;
    scene.figures.check(refusal.is_some(), "a deposed source takes a write");
    Ok(())
}
