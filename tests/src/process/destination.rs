//! The destination is killed under load and comes back: nothing acknowledged is lost at the source, and the destination
//! catches up by itself.

use std::time::Duration;

use super::figures::Figures;
use super::scene::{Options, Scene};

/// B is killed at a random moment and stays away for a random time, shorter or longer than the link's timeout.
///
/// # Errors
/// When a step fails.
pub async fn killed(options: &Options) -> Result<Figures, String> {
    let mut scene = Scene::open(options, false).await?;
    let running = scene.write();
    scene.some_load(&running).await?;
    let connects = scene.connects().await?;
    let ran = scene.pair.b.kill();
    scene.figures.check(ran, "site-b had stopped by itself");
    let away = scene.moment(Duration::ZERO, options.load * 3 / 2).await;
    scene.figures.time("away", away);
    scene.pair.b.start()?;
    let caught_up = scene.back_in_sync(connects).await?;
    scene.figures.time("in sync again", caught_up);
    scene.moment(options.load / 4, options.load / 2).await;
    scene.rest(running).await?;
    let counts = scene.ledger.counts;
    scene.figures.check(counts.broken == 0, format!("site-a broke {} connections of its clients", counts.broken));
    if options.is_strict() {
        scene.figures.check(counts.local == 0, format!("{} writes answered alone under strict", counts.local));
    }
    scene.compare().await?;
    scene.close()
}
