//! The origin gets another source: by a promote when its source has failed, or handed over as planned; and its old source
//! comes back.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::{ORIGIN, PATIENCE, POLL_PAUSE, Round, signal};
use crate::history::loss::Change;
use crate::process::clients::promotes;

impl Round {
    /// The source fails in sync and its destination is promoted; then the old source comes back.
    pub(super) async fn fail_over(&mut self) -> Result<(), String> {
        self.in_sync().await?;
        // Under `sync` a source that lives on may answer alone, rightly; under `strict` it never does.
        let way = self.scene.random.below(if self.strict { 4 } else { 2 });
        self.step(["kill and promote", "cut, kill and promote", "stop and promote", "cut and promote"][way as usize]);
        match way {
            0 => drop(self.source().kill()),
            1 => {
                self.cut_somehow()?;
                self.moment(Duration::from_millis(50)).await;
                self.source().kill();
            }
            2 => signal(self.source(), Signal::STOP)?,
            _ => {
                self.cut_somehow()?;
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
        self.direct();
        Ok(())
    }

    /// The old source comes back as the destination. One that went another way for good gets a baseline: under `sync` it
    /// had answered alone when it failed, and its verdict said that it may.
    async fn back_again(&mut self, promoted: bool) -> Result<(), String> {
        let before = self.baselines()?;
        let settled = |o: &Value| o["state"] == "in_sync" && o["role"] == "source";
        self.source().wait_until(ORIGIN, "in sync with the old source", PATIENCE, settled).await?;
        if self.baselines()? > before {
            self.step("by a baseline");
            let may_be = promoted && !self.strict;
            self.scene.figures.check(may_be, "a source went another way that was never to answer alone");
            self.accepted.extend(self.changes.last().filter(|_| may_be));
        }
        self.collect_tails().await
    }

    /// Baselines that the destination has put in place so far.
    fn baselines(&mut self) -> Result<usize, String> {
        let log = std::fs::read_to_string(&self.destination().log).map_err(|error| error.to_string())?;
        Ok(log.matches("event=\"baseline_done\"").count())
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
        self.direct();
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
    pub(super) async fn hand_over(&mut self) -> Result<(), String> {
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
        self.direct();
        self.back_again(false).await
    }

    /// The source is cut off and answers alone; the operator promotes its destination, which lacks those writes. The source
    /// is killed before that, or lives on until it hears of it; then it comes back.
    pub(super) async fn fail_over_with_loss(&mut self) -> Result<(), String> {
        self.in_sync().await?;
        let name = self.cut_somehow()?;
        let is_killed = self.scene.random.below(2) == 0;
        self.step(&format!("cut {name}, {}promote with loss", if is_killed { "kill, " } else { "" }));
        let (local, began) = (self.clients.local(), Instant::now());
        while self.clients.local() < local + 10 {
            if began.elapsed() > PATIENCE {
                return Err("the source does not answer alone behind a cut".into());
            }
            tokio::time::sleep(POLL_PAUSE).await;
        }
        self.moment(self.load / 2).await;
        if is_killed {
            self.source().kill();
        }
        self.promote(true).await?;
        self.moment(self.load / 2).await;
        self.wire(true, true)?;
        self.destination().start_again()?;
        self.back_again(true).await
    }
}
