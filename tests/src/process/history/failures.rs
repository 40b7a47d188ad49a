//! What fails in a round and heals again, with the origin where it is.

use rustix::process::Signal;

use super::{ORIGIN, Round, signal};
use crate::process::link::CUTS;

impl Round {
    pub(super) async fn kill(&mut self, source: bool, destination: bool) -> Result<(), String> {
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

    /// Cuts the link in one of the ways that there are.
    pub(super) fn cut_somehow(&mut self) -> Result<&'static str, String> {
        let way = self.scene.random.below(CUTS.len() as u64 + 1) as usize;
        let Some((name, forth, back)) = CUTS.get(way).copied() else {
            if self.scene.between.unplug()? {
                return Ok("at the plug");
            }
            self.wire(false, false)?;
            return Ok(CUTS[0].0);
        };
        self.wire(forth, back)?;
        Ok(name)
    }

    /// The link is cut and heals; in half of the cases something else fails meanwhile.
    pub(super) async fn cut(&mut self) -> Result<(), String> {
        let name = self.cut_somehow()?;
        self.step(&format!("cut {name}"));
        self.moment(self.load).await;
        match self.scene.random.below(12) {
            0 => self.kill(true, false).await?,
            1 => self.kill(false, true).await?,
            2 => self.hold(true).await?,
            3 => self.hold(false).await?,
            4 => self.pause().await?,
            5 => {
                let name = self.cut_somehow()?;
                self.step(&format!("cut {name} instead"));
            }
            _ => {}
        }
        self.moment(self.load / 2).await;
        self.wire(true, true)
    }

    pub(super) async fn hold(&mut self, source: bool) -> Result<(), String> {
        self.step(if source { "stop source" } else { "stop destination" });
        let site = if source { self.source() } else { self.destination() };
        signal(site, Signal::STOP)?;
        self.moment(self.load).await;
        let site = if source { self.source() } else { self.destination() };
        signal(site, Signal::CONT)
    }

    /// The operator pauses the stream and resumes it; sometimes the source is killed meanwhile.
    pub(super) async fn pause(&mut self) -> Result<(), String> {
        if let Err(refusal) = self.source().operate(&["pause", ORIGIN]).await {
            // One that has just come back does not know yet how it stands to its peer.
            self.step("pause refused");
            let right = refusal.contains("unsettled");
            self.scene.figures.check(right, format!("pause of a source that takes writes: {refusal}"));
            return Ok(());
        }
        self.step("pause");
        self.moment(self.load).await;
        if self.scene.random.below(3) == 0 {
            self.kill(true, false).await?;
            let taken = |found: &serde_json::Value| found["role"] == "source";
            self.source().wait_until(ORIGIN, "after its restart", super::PATIENCE, taken).await?;
        }
        self.source().operate(&["resume", ORIGIN]).await.map(drop)
    }

    /// Packets are under way for another time from now on, where the link has one.
    pub(super) fn slow_down(&mut self) -> Result<(), String> {
        self.delay = self.scene.random.below(5) as u32 * self.scene.between.delay_max() / 4;
        self.step(&format!("delay {:?}", self.delay));
        self.wire(true, true)
    }
}
