//! The link breaks again and again under load, and comes back each time. Both sites say once that it flaps, attempts come
//! farther apart, and the stream is not brought into sync for each moment that it stands. In the end all is as ever.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::figures::Figures;
use super::scene::{ORIGIN, Options, PATIENCE, Scene};

/// How often it breaks: some times more than makes it flap.
const BREAKS: u64 = 10;
/// Losses within a short while that make a link flap.
const FLAPS: u64 = 6;
/// Lines that a site may log in such a round: some for its start and its end, and a few for each loss until it flaps.
const LOG_LINES_MAX: usize = 75;
/// Changes of the stream's state that a loss may bring while it flaps: out, and back to catching up.
const CHANGES_MAX: u64 = 2;

/// Breaks the link, and sees it come back, until it flaps and some times more; then lets it stand.
///
/// # Errors
/// When a step fails.
pub async fn flap(options: &Options) -> Result<Figures, String> {
    let mut scene = Scene::open(options, true).await?;
    let running = scene.write();
    scene.some_load(&running).await?;
    let (mut away, mut changes) = (Vec::new(), Vec::new());
    for _ in 0..BREAKS {
        let before = scene.pair.a.origin(ORIGIN).await?;
        away.push(break_once(&mut scene, &before).await?);
        let after = scene.pair.a.origin(ORIGIN).await?;
        changes.push(number(&after, "state_changes") - number(&before, "state_changes"));
    }
    let shown: Vec<String> = away.iter().map(|away| format!("{:.1}", away.as_secs_f64())).collect();
    scene.figures.remarks.push(format!("away for {} s", shown.join(", ")));
    let found = scene.pair.a.origin(ORIGIN).await?;
    scene.figures.check(found["flapping"] == true, format!("a link that flaps is shown as {}", found["flapping"]));
    scene.figures.check(number(&found, "link_losses") >= BREAKS, format!("{} losses are shown", found["link_losses"]));
    let (early, late) = (away[1], away[BREAKS as usize - 1]);
    scene.figures.check(late > early + Duration::from_secs(2), format!("attempts come no farther apart: {shown:?}"));
    let while_flapping = &changes[FLAPS as usize..];
    let few = options.is_strict() || while_flapping.iter().all(|changes| *changes <= CHANGES_MAX);
    scene.figures.check(few, format!("the state changes with each loss: {changes:?}"));
    let stands = Instant::now();
    scene.pair.a.wait_for(ORIGIN, "in_sync", PATIENCE).await?;
    scene.figures.time("in sync again", stands.elapsed());
    scene.rest(running).await?;
    if options.is_strict() {
        let local = scene.ledger.counts.local;
        scene.figures.check(local == 0, format!("{local} writes answered alone under strict"));
    }
    scene.compare().await?;
    for site in [&scene.pair.a, &scene.pair.b] {
        let log = std::fs::read_to_string(&site.log).map_err(|error| error.to_string())?;
        let said = |event: &str| log.lines().filter(|line| line.contains(&format!("event=\"{event}\""))).count();
        let (flapping, lost) = (said("link_flapping"), said("link_lost"));
        scene.figures.check(flapping == 1, format!("{} says {flapping} times that its link flaps", site.name));
        let right = (FLAPS as usize - 1..BREAKS as usize).contains(&lost);
        scene.figures.check(right, format!("{} says {lost} times that its link is lost", site.name));
    }
    scene.close_with(LOG_LINES_MAX)
}

/// Breaks the link once. How long it was away.
async fn break_once(scene: &mut Scene, before: &Value) -> Result<Duration, String> {
    let losses = number(before, "link_losses");
    let began = Instant::now();
    scene.between.reset()?;
    let back = |found: &Value| found["linked"] == true && number(found, "link_losses") > losses;
    scene.pair.a.wait_until(ORIGIN, "linked again", PATIENCE, back).await?;
    let away = began.elapsed();
    scene.moment(Duration::from_millis(100), Duration::from_millis(300)).await;
    Ok(away)
}

fn number(origin: &Value, field: &str) -> u64 {
    origin[field].as_u64().unwrap_or_default()
}
