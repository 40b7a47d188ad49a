//! The source is killed under load. Its destination is promoted; or it comes back, with its destination there, or without
//! it, and then waits or is told to go on alone.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use lockstep_gateway::demo::{RoundOptions, round};

use super::figures::Figures;
use super::scene::{ORIGIN, Options, PATIENCE, Scene};

/// A is killed, B promoted: everything acknowledged is at B.
///
/// # Errors
/// When a step fails.
pub async fn killed_and_promoted(options: &Options) -> Result<Figures, String> {
    let round_options = RoundOptions {
        program: options.program.clone(),
        root: options.root.clone(),
        stream: options.stream.clone(),
        writers: options.writers,
        mix: options.mix,
        objects: options.objects,
        load: options.load,
        seed: options.seed,
        talk: false,
    };
    let (outcome, _b) = round(&round_options).await?;
    let mut figures = Figures { counts: outcome.counts, ..Figures::default() };
    figures.time("promote", outcome.promote);
    figures.time("first read", outcome.first_read);
    figures.time("first write", outcome.first_write);
    figures.remarks.push(outcome.verdict.clone());
    let verdict = if options.is_strict() { "proved" } else { "in_sync_at_last_contact" };
    figures.check(outcome.verdict == verdict, format!("the verdict is {}, not {verdict}", outcome.verdict));
    figures.check(outcome.counts.local == 0, format!("{} writes were answered alone", outcome.counts.local));
    figures.add("site-b", outcome.read_back);
    Ok(figures)
}

/// A is killed and comes back while B runs: it settles by itself.
///
/// # Errors
/// When a step fails.
pub async fn killed(options: &Options) -> Result<Figures, String> {
    let mut scene = Scene::open(options, false).await?;
    kill_source(&mut scene).await?;
    scene.pair.a.start()?;
    let settled = scene.pair.a.wait_for(ORIGIN, "in_sync", PATIENCE).await?;
    scene.figures.time("in sync again", settled);
    scene.compare().await?;
    go_on(&mut scene, options).await?;
    scene.close()
}

/// Both are killed, in any order, and A comes back first: it takes no writes until B is back or, where `alone`, until an
/// operator lets it. Under `strict` no operator can.
///
/// # Errors
/// When a step fails.
pub async fn killed_with_its_destination(options: &Options, alone: bool) -> Result<Figures, String> {
    let mut scene = Scene::open(options, false).await?;
    let destination_first = scene.random.below(2) == 0;
    if destination_first {
        let running = scene.write();
        scene.some_load(&running).await?;
        scene.pair.b.kill();
        // Shorter than any link timeout: A is still waiting for B.
        scene.moment(Duration::ZERO, Duration::from_millis(200)).await;
        scene.pair.a.kill();
        scene.rest(running).await?;
    } else {
        kill_source(&mut scene).await?;
        scene.pair.b.kill();
    }
    scene.pair.a.start()?;
    scene.pair.a.wait_for(ORIGIN, "unsettled", PATIENCE).await?;
    expect_refusal(&mut scene).await?;
    let says = scene.pair.a.operate(&["status"]).await?;
    let way_out = says.contains("lockstep resume site-a --alone");
    scene.figures.check(way_out != options.is_strict(), format!("status of an unsettled source: {says}"));
    if alone && options.is_strict() {
        let refused = scene.pair.a.operate(&["resume", ORIGIN, "--alone"]).await;
        let right = refused.as_ref().is_err_and(|sentence| sentence.contains("strict"));
        scene.figures.check(right, format!("resume --alone under strict: {refused:?}"));
        expect_refusal(&mut scene).await?;
    } else if alone {
        write_alone(&mut scene, options).await?;
    }
    let connects = scene.connects().await?;
    let began = Instant::now();
    scene.pair.b.start()?;
    scene.back_in_sync(connects).await?;
    scene.figures.time("in sync again", began.elapsed());
    scene.compare().await?;
    go_on(&mut scene, options).await?;
    scene.close()
}

/// B is killed and A goes on alone, as `sync` lets it; then A is killed too and comes back first: it was out of sync before,
/// so it takes writes at once, and says that only it has them.
///
/// # Errors
/// When a step fails.
pub async fn killed_out_of_sync(options: &Options) -> Result<Figures, String> {
    let mut scene = Scene::open(options, false).await?;
    let running = scene.write();
    scene.some_load(&running).await?;
    scene.pair.b.kill();
    scene.until(&running, "answers of A alone", |p| p.local.load(Ordering::Relaxed) > 20).await?;
    scene.moment(Duration::ZERO, options.load / 2).await;
    let ran = scene.pair.a.kill();
    scene.figures.check(ran, "site-a had stopped by itself");
    scene.rest(running).await?;
    scene.pair.a.start()?;
    scene.pair.a.wait_for(ORIGIN, "out_of_sync", PATIENCE).await?;
    takes_writes(&mut scene).await?;
    let local = scene.ledger.counts.local;
    let running = scene.write();
    scene.moment(options.load / 4, options.load / 2).await;
    scene.rest(running).await?;
    scene.figures.check(scene.ledger.counts.local > local, "no write was answered alone after the return");
    let connects = scene.connects().await?;
    let began = Instant::now();
    scene.pair.b.start()?;
    scene.back_in_sync(connects).await?;
    scene.figures.time("in sync again", began.elapsed());
    scene.compare().await?;
    go_on(&mut scene, options).await?;
    scene.close()
}

async fn kill_source(scene: &mut Scene) -> Result<(), String> {
    let running = scene.write();
    scene.some_load(&running).await?;
    let ran = scene.pair.a.kill();
    scene.figures.check(ran, "site-a had stopped by itself");
    scene.rest(running).await
}

/// A takes writes as soon as its log is in its image again; nobody else is needed for that.
async fn takes_writes(scene: &mut Scene) -> Result<(), String> {
    let began = Instant::now();
    while let Some(refusal) = scene.refusal().await? {
        if began.elapsed() > PATIENCE {
            return Err(format!("a source that was out of sync says {refusal} to a write"));
        }
    }
    Ok(())
}

/// A refuses a write.
async fn expect_refusal(scene: &mut Scene) -> Result<(), String> {
    let refusal = scene.refusal().await?;
    scene.figures.check(refusal.is_some(), "an unsettled source takes a write");
    Ok(())
}

/// The operator lets A go on: its answers say that only it has the writes.
async fn write_alone(scene: &mut Scene, options: &Options) -> Result<(), String> {
    scene.pair.a.operate(&["resume", ORIGIN, "--alone"]).await?;
    let running = scene.write();
    scene.until(&running, "answers of A alone", |p| p.local.load(Ordering::Relaxed) > 20).await?;
    scene.moment(options.load / 4, options.load / 2).await;
    scene.rest(running).await
}

/// The pair works as before: more load, and both are equal again.
async fn go_on(scene: &mut Scene, options: &Options) -> Result<(), String> {
    let (writes, local) = (scene.ledger.counts.writes, scene.ledger.counts.local);
    let running = scene.write();
    scene.moment(options.load / 4, options.load / 2).await;
    scene.rest(running).await?;
    let counts = scene.ledger.counts;
    let (writes, local) = (counts.writes - writes, counts.local - local);
    // A device that stalls for the link's timeout may leave some to A alone, even now.
    let mirrored = writes > local;
    scene.figures.check(mirrored, format!("after the return {writes} writes are taken, {local} answered alone"));
    scene.compare().await
}
