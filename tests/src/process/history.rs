//! Clients meet at a few keys while either site is killed, stopped or cut off and the origin changes hands, there and back.
//! At the end both are equal, and what every client was told is one history: no acknowledged write is missing from it but
//! those that the operator gave up, which are counted.

use std::fmt::Write;
use std::time::{Duration, Instant};

use lockstep_gateway::demo::sites::Site;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::clients::{Clients, Record, promotes};
use super::figures::Figures;
use super::link::CUTS;
use super::proxy::Wire;
use super::scene::{ORIGIN, Options, PATIENCE, Scene};
use crate::history::Operation;
use crate::history::loss::{Change, lost};
use crate::history::search::{Budget, Finding, explain};
use crate::history::set::{check_order, check_set};

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
    /// Does A have the origin?
    a_is_source: bool,
    changes: Vec<Change>,
    /// The changes that the operator ordered though writes may be missing.
    accepted: Vec<Change>,
    steps: Vec<String>,
    /// The other site can only come back by a baseline, or does not come back at all: no more failures.
    alone: bool,
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
        a_is_source: true,
        changes: Vec::new(),
        accepted: Vec::new(),
        steps: Vec::new(),
        alone: false,
    };
    let ended = round.run().await;
    let steps = round.steps.join(", ");
    let Round { mut scene, clients, changes, accepted, .. } = round;
    let record = clients.finish().await;
    scene.figures.remarks.push(steps.clone());
    // What clients were told is judged also where a step failed: it may be the reason.
    let mut failure = ended.err();
    match record {
        Ok(record) => {
            let given_up = judge(&mut scene.figures, &record, &changes, &accepted);
            let text = format!("{steps}\n{changes:#?}\ngiven up:\n{given_up}\nall:\n{}", timeline(&record));
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
        while failures > 0 && !self.alone {
            failures -= 1;
            match self.scene.random.below(12) {
                0 => self.kill(true, false).await?,
                1 => self.kill(false, true).await?,
                2 => self.kill(true, true).await?,
                3 | 4 => self.cut().await?,
                5 => self.hold(true).await?,
                6 => self.hold(false).await?,
                7..10 => self.fail_over().await?,
                _ => self.hand_over().await?,
            }
            self.some_answers().await?;
        }
        if !self.strict && !self.alone && self.scene.random.below(3) == 0 {
            self.fail_over_with_loss().await?;
            self.some_answers().await?;
        }
        if self.alone { Ok(()) } else { self.equal().await }
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

    async fn kill(&mut self, source: bool, destination: bool) -> Result<(), String> {
        self.step(match (source, destination) {
            (true, false) => "kill source",
            (false, true) => "kill destination",
            _ => "kill both",
        });
        if destination {
            self.destination().kill();
            self.moment(self.load / 4).await;
        }
        if source {
            self.source().kill();
        }
        self.moment(self.load).await;
        if source {
            self.source().start_again()?;
            self.moment(self.load / 4).await;
        }
        self.destination().start_again()
    }

    async fn cut(&mut self) -> Result<(), String> {
        let (name, forth, back) = CUTS[self.scene.random.below(3) as usize];
        self.step(&format!("cut {name}"));
        self.wire(forth, back)?;
        self.moment(self.load * 3 / 2).await;
        self.wire(true, true)
    }

    /// What passes from A to B, and from B to A, whoever connects.
    fn wire(&self, forth: bool, back: bool) -> Result<(), String> {
        self.scene.between.set(Wire { forth, back, ..Wire::WHOLE })
    }

    async fn hold(&mut self, source: bool) -> Result<(), String> {
        self.step(if source { "stop source" } else { "stop destination" });
        let site = if source { self.source() } else { self.destination() };
        signal(site, Signal::STOP)?;
        self.moment(self.load).await;
        let site = if source { self.source() } else { self.destination() };
        signal(site, Signal::CONT)
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

    /// The source fails in sync and its destination is promoted; then the old source comes back.
    async fn fail_over(&mut self) -> Result<(), String> {
        self.in_sync().await?;
        // Under `sync` a source that lives on may answer alone, rightly; under `strict` it never does.
        let way = self.scene.random.below(if self.strict { 4 } else { 2 });
        self.step(["kill and promote", "cut, kill and promote", "stop and promote", "cut and promote"][way as usize]);
        match way {
            0 => drop(self.source().kill()),
            1 => {
                self.wire(false, false)?;
                self.moment(Duration::from_millis(50)).await;
                self.source().kill();
            }
            2 => signal(self.source(), Signal::STOP)?,
            _ => {
                self.wire(false, false)?;
                self.moment(self.load / 2).await;
            }
        }
        self.moment(self.load / 4).await;
        if let Err(refusal) = self.promote(false).await {
            // The link may have been late just before the source failed; then the destination knows, and says so.
            if !refusal.contains("--accept-loss") {
                return Err(refusal);
            }
            return self.not_in_sync(way == 2);
        }
        self.moment(self.load / 2).await;
        self.wire(true, true)?;
        if way == 2 {
            signal(self.destination(), Signal::CONT)?;
        }
        self.destination().start_again()?;
        self.back_again(true).await
    }

    /// The source was not in sync when it failed: it comes back as it was.
    fn not_in_sync(&mut self, is_stopped: bool) -> Result<(), String> {
        self.step("promote refused");
        self.wire(true, true)?;
        if is_stopped {
            signal(self.source(), Signal::CONT)?;
        }
        self.source().start_again()?;
        let address = self.source().s3.clone();
        self.clients.direct(Some(address));
        Ok(())
    }

    /// The old source comes back as the destination. One that went another way for good needs a baseline: under `sync` it
    /// had just answered alone when it failed, and its verdict said that it may.
    async fn back_again(&mut self, promoted: bool) -> Result<(), String> {
        let settled = |o: &Value| (o["state"] == "in_sync" || o["state"] == "needs_baseline") && o["role"] == "source";
        self.source().wait_until(ORIGIN, "in sync with the old source", PATIENCE, settled).await?;
        if self.source().origin(ORIGIN).await?["state"] == "needs_baseline" {
            self.step("needs a baseline");
            self.alone = true;
            let may_be = promoted && !self.strict;
            self.scene.figures.check(may_be, "a source went another way that was never to answer alone");
            self.accepted.extend(self.changes.last().filter(|_| may_be));
        }
        Ok(())
    }

    /// The destination takes the origin, and clients are directed there.
    async fn promote(&mut self, accept_loss: bool) -> Result<(), String> {
        self.clients.direct(None);
        let at = self.clients.now();
        let words: &[&str] =
            if accept_loss { &["promote", ORIGIN, "--json", "--accept-loss"] } else { &["promote", ORIGIN, "--json"] };
        let said = self.destination().operate(words).await?;
        let report: Value = serde_json::from_str(&said).map_err(|error| format!("{error}: {said}"))?;
        self.a_is_source = !self.a_is_source;
        let change = self.change(at, &report).await?;
        if accept_loss {
            self.accepted.push(change);
        } else {
            let right = if self.strict { "proved" } else { "in_sync_at_last_contact" };
            self.scene.figures.check(report["verdict"] == right, format!("promoted in sync, the verdict is {said}"));
        }
        let address = self.source().s3.clone();
        self.clients.direct(Some(address));
        Ok(())
    }

    /// Notes that there is another source, which has the log up to what a report says.
    async fn change(&mut self, at: Duration, report: &Value) -> Result<Change, String> {
        let found = self.source().origin(ORIGIN).await?;
        let epoch = found["epoch"].as_str().and_then(promotes);
        let (Some(promotes), Some(last_seq)) = (epoch, report["seq"].as_u64()) else {
            return Err(format!("no epoch in {found}, or no seq in {report}"));
        };
        let change = Change { at, promotes, last_seq };
        self.changes.push(change);
        Ok(change)
    }

    /// The planned way: the source gives the origin to its destination.
    async fn hand_over(&mut self) -> Result<(), String> {
        self.in_sync().await?;
        self.step("hand over");
        let began = Instant::now();
        let (at, said) = loop {
            let at = self.clients.now();
            match self.source().operate(&["failback", ORIGIN, "--json"]).await {
                Ok(said) => break (at, said),
                // Refused where the link has just been lost: then again.
                Err(error) if began.elapsed() > PATIENCE => return Err(format!("failback: {error}")),
                Err(_) => tokio::time::sleep(POLL_PAUSE).await,
            }
        };
        let report: Value = serde_json::from_str(&said).map_err(|error| format!("{error}: {said}"))?;
        self.a_is_source = !self.a_is_source;
        self.source().wait_until(ORIGIN, "as its source", PATIENCE, |o| o["role"] == "source").await?;
        self.change(at, &report).await?;
        let address = self.source().s3.clone();
        self.clients.direct(Some(address));
        self.back_again(false).await
    }

    /// The source is cut off, answers alone and is killed; the operator promotes its destination, which lacks those writes.
    async fn fail_over_with_loss(&mut self) -> Result<(), String> {
        self.in_sync().await?;
        self.step("cut, kill and promote with loss");
        self.wire(false, false)?;
        let (local, began) = (self.clients.local(), Instant::now());
        while self.clients.local() < local + 10 {
            if began.elapsed() > PATIENCE {
                return Err("the source does not answer alone behind a cut".into());
            }
            tokio::time::sleep(POLL_PAUSE).await;
        }
        self.moment(self.load / 2).await;
        self.source().kill();
        self.promote(true).await?;
        self.alone = true;
        Ok(())
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
            let words = ["verify", ORIGIN, "--deep", "--with", &admin, "--with-token-file", &token];
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
        let address = self.source().s3.clone();
        self.clients.direct(Some(address));
        Ok(())
    }
}

fn signal(site: &Site, signal: Signal) -> Result<(), String> {
    let id = site.id().and_then(|id| Pid::from_raw(id.cast_signed())).ok_or("it does not run")?;
    kill_process(id, signal).map_err(|error| format!("{}: {error}", site.name))
}

/// What clients were told, held against itself. The acknowledged writes that the operator gave up, a line each.
fn judge(figures: &mut Figures, record: &Record, changes: &[Change], accepted: &[Change]) -> String {
    figures.different.extend(record.wrong.iter().cloned());
    let mut given_up = Vec::new();
    let additions = record.additions.iter().filter(|o| changes.iter().any(|change| change.loses(o)));
    for (key, operation) in lost(&record.history, changes).into_iter().chain(additions.map(|o| ("set", o))) {
        if operation.local && accepted.iter().any(|change| change.loses(operation)) {
            given_up.push(format!("{key}  {operation}"));
        } else {
            figures
                .different
                .push(format!("{key}: acknowledged, and behind the end of the log of a later source: {operation}"));
        }
    }
    let report = record.history.check_with_losses(changes, Budget::WHOLE);
    figures.different.extend(report.violations.iter().map(ToString::to_string));
    figures.different.extend(report.undecided.iter().map(|what| format!("undecided: {what}")));
    figures.keys = report.explained;
    figures.different.extend(judge_set(record, changes));
    if !given_up.is_empty() {
        // The judgement can fail: this is what it says where nothing may be lost.
        let shown = |operations: &&Vec<Operation>| explain(operations, Budget::WHOLE) == Finding::Contradiction;
        let keys = record.history.keys.values().filter(shown).count();
        figures.remarks.push(format!("{keys} keys show the loss"));
    }
    figures.objects = record.additions.len() as u64;
    figures.remarks.push(format!(
        "{} operations at {} keys, {} additions, {} listings, {} changes of the source, {} reads of a replica, broken {}, \
         given up {}",
        record.history.len(),
        record.history.keys.len(),
        record.additions.len(),
        record.listings.len(),
        changes.len(),
        record.replica_reads,
        record.counts.broken,
        given_up.len(),
    ));
    given_up.join("\n")
}

/// The set, and the order of the log, without what was lost.
fn judge_set(record: &Record, changes: &[Change]) -> Vec<String> {
    let is_kept = |operation: &&Operation| !changes.iter().any(|change| change.loses(operation));
    let kept: Vec<Operation> = record.additions.iter().filter(is_kept).cloned().collect();
    let lost_from = |change: &Change| {
        let all = record.additions.iter().chain(record.history.keys.values().flatten());
        all.filter(|operation| change.loses(operation)).map(|operation| operation.began).min()
    };
    let mut listings = record.listings.clone();
    for change in changes {
        let from = lost_from(change).unwrap_or(Duration::MAX);
        listings.retain(|listing| listing.ended <= from || listing.began >= change.at);
    }
    let mut wrong = check_set(&kept, &listings);
    let all = record.history.keys.values().flatten().chain(&record.additions);
    wrong.extend(check_order(all.filter(|operation| operation.is_acknowledged()).filter(is_kept)));
    wrong
}

/// Everything, for whoever looks for the cause.
fn timeline(record: &Record) -> String {
    let mut text = String::new();
    let sets = record.additions.iter().map(|operation| ("set", operation));
    let keys = record.history.keys.iter().flat_map(|(key, all)| all.iter().map(|o| (key.as_str(), o)));
    let mut all: Vec<(&str, &Operation)> = keys.chain(sets).collect();
    all.sort_by_key(|(key, operation)| (*key, operation.began));
    for (key, operation) in all {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{key}  {operation}");
    }
    text
}
