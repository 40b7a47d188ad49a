//! Clients meet at a few keys while either site is killed, stopped or cut off, a stream is paused, and the origin changes
//! hands, there and back. At the end both are equal, and what every client was told is one history: no acknowledged write is
//! missing from it but those that the operator gave up. Which these are is told twice: by where the log of the new source
//! ends, and by what the old one set aside.
//!
//! # Layout
//! - [`failures`]: what fails and heals; [`changes`]: the origin gets another source.
//! - [`judge`]: what clients were told, held against itself.
//! - [`tails`]: what a deposed source set aside, held against what clients were told.

mod changes;
mod failures;
mod judge;
mod tails;

use std::time::{Duration, Instant};

use lockstep_gateway::demo::sites::Site;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use self::tails::Tail;
use super::clients::Clients;
use super::figures::Figures;
use super::proxy::Wire;
use super::scene::{ORIGIN, Options, PATIENCE, Scene};
use crate::history::loss::Change;

/// Failures in a round.
const FAILURES: u64 = 6;
/// Lines that a site may log in a round.
const LOG_LINES_MAX: usize = 1000;
/// Time between two looks at something that is waited for.
const POLL_PAUSE: Duration = Duration::from_millis(10);

/// A round: its sites, its clients, and who has the origin.
struct Round {
    scene: Scene,
    clients: Clients,
    strict: bool,
    load: Duration,
    /// How long packets are under way now.
    delay: Duration,
    /// Does A have the origin?
    a_is_source: bool,
    changes: Vec<Change>,
    /// The changes that the operator ordered though writes may be missing.
    accepted: Vec<Change>,
    steps: Vec<String>,
    tails: Vec<Tail>,
}

/// Some failures and changes of the source, then quiet, and the judgement.
///
/// # Errors
/// When a step fails.
pub async fn history(options: &Options) -> Result<Figures, String> {
    let scene = Scene::open(options, true).await?;
    let clients = Clients::start(&scene.pair.a.s3, &scene.pair.a.key, options.seed);
    let mut round = Round {
        scene,
        clients,
        strict: options.is_strict(),
        load: options.load,
        delay: Duration::ZERO,
        a_is_source: true,
        changes: Vec::new(),
        accepted: Vec::new(),
        steps: Vec::new(),
        tails: Vec::new(),
    };
    let ended = round.run().await;
    let steps = round.steps.join(", ");
    let Round { mut scene, clients, changes, accepted, tails, .. } = round;
    let record = clients.finish().await;
    scene.figures.remarks.push(steps.clone());
    // What clients were told is judged also where a step failed: it may be the reason.
    let mut failure = ended.err();
    match record {
        Ok(record) => {
            let given_up = judge::what_was_told(&mut scene.figures, &record, &changes, &accepted);
            tails::judge(&mut scene.figures, &record, &changes, &tails);
            let text = format!("{steps}\n{changes:#?}\ngiven up:\n{given_up}\nall:\n{}", judge::timeline(&record));
            std::fs::write(options.root.join("history.txt"), text).map_err(|error| error.to_string())?;
            scene.ledger.counts = record.counts;
        }
        Err(error) => failure = Some(failure.map_or(error.clone(), |first| format!("{first}; {error}"))),
    }
    match failure {
        Some(error) => Err(format!("{error}; after {steps}; {}", scene.figures.different.join("; "))),
        None => scene.close_with(LOG_LINES_MAX),
    }
}

impl Round {
    async fn run(&mut self) -> Result<(), String> {
        self.some_answers().await?;
        let mut failures = FAILURES;
        while failures > 0 {
            failures -= 1;
            match self.scene.random.below(16) {
                0 => self.kill(true, false).await?,
                1 => self.kill(false, true).await?,
                2 => self.kill(true, true).await?,
                3..7 => self.cut().await?,
                7 => self.hold(true).await?,
                8 => self.hold(false).await?,
                9 | 10 => self.pause().await?,
                11..14 => self.fail_over().await?,
                14 => self.hand_over().await?,
                _ => self.slow_down()?,
            }
            self.some_answers().await?;
        }
        if !self.strict && self.scene.random.below(3) == 0 {
            self.fail_over_with_loss().await?;
            self.some_answers().await?;
        }
        self.equal().await
    }

    fn source(&mut self) -> &mut Site {
        let pair = &mut self.scene.pair;
        if self.a_is_source { &mut pair.a } else { &mut pair.b }
    }

    fn destination(&mut self) -> &mut Site {
        let pair = &mut self.scene.pair;
        if self.a_is_source { &mut pair.b } else { &mut pair.a }
    }

    fn step(&mut self, name: &str) {
        let source = if self.a_is_source { "A" } else { "B" };
        self.steps.push(format!("{name} ({source} is the source, {} ms)", self.clients.now().as_millis()));
    }

    async fn moment(&mut self, most: Duration) {
        self.scene.moment(Duration::ZERO, most).await;
    }

    /// What passes from A to B, and from B to A, whoever connects.
    fn wire(&self, forth: bool, back: bool) -> Result<(), String> {
        self.scene.between.set(Wire { forth, back, delay: self.delay })
    }

    /// Clients go to the source.
    fn direct(&mut self) {
        let address = self.source().s3.clone();
        self.clients.direct(Some(address));
    }

    /// Lets clients get on: the source takes writes again.
    async fn some_answers(&mut self) -> Result<(), String> {
        let (answered, began) = (self.clients.answered(), Instant::now());
        while self.clients.answered() < answered + 20 {
            if began.elapsed() > PATIENCE {
                let (a, b) = (self.scene.pair.a.origin(ORIGIN).await, self.scene.pair.b.origin(ORIGIN).await);
                return Err(format!("clients get no answers: site-a says {a:?}, site-b {b:?}"));
            }
            tokio::time::sleep(POLL_PAUSE).await;
        }
        self.moment(self.load / 2).await;
        Ok(())
    }

    /// Waits until a promote loses nothing: both ends say that they are in sync, by a link that stands.
    async fn in_sync(&mut self) -> Result<(), String> {
        let began = Instant::now();
        loop {
            let patience = PATIENCE.saturating_sub(began.elapsed());
            let source = |o: &Value| o["state"] == "in_sync" && o["role"] == "source";
            self.source().wait_until(ORIGIN, "in sync", patience, source).await?;
            let other = |o: &Value| o["state"] == "in_sync" && o["role"] == "destination";
            self.destination().wait_until(ORIGIN, "in sync", patience, other).await?;
            match self.source().operate(&["sync", ORIGIN]).await {
                Ok(_) => return Ok(()),
                Err(error) if began.elapsed() > PATIENCE => return Err(format!("no consistency point: {error}")),
                Err(_) => {}
            }
        }
    }

    /// Both ends have the same.
    async fn equal(&mut self) -> Result<(), String> {
        let quiet = Instant::now();
        self.in_sync().await?;
        self.scene.figures.time("in sync at last", quiet.elapsed());
        // Still under load: an image stands at a consistency point for a moment only.
        self.clients.direct(None);
        let began = Instant::now();
        loop {
            self.in_sync().await?;
            let other = self.destination();
            let (admin, token) = (other.admin.clone(), other.token_file().display().to_string());
            let words = ["verify", ORIGIN, "--deep", "--no-repair", "--with", &admin, "--with-token-file", &token];
            match self.source().operate(&words).await {
                Ok(_) => break,
                // Writes that were under way have just been applied: then again.
                Err(sentence) if began.elapsed() > PATIENCE / 4 => {
                    self.scene.figures.different.push(sentence);
                    break;
                }
                Err(_) => tokio::time::sleep(POLL_PAUSE).await,
            }
        }
        self.direct();
        Ok(())
    }
}

fn signal(site: &Site, signal: Signal) -> Result<(), String> {
    let id = site.id().and_then(|id| Pid::from_raw(id.cast_signed())).ok_or("it does not run")?;
    kill_process(id, signal).map_err(|error| format!("{}: {error}", site.name))
}
