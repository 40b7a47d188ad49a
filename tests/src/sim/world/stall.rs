//! Pauses and power failures of a process at any moment: between two events, or between two of the things that one event
//! makes its core ask for.

use std::fmt::Write;

use lockstep_mirror::event::Event;
use lockstep_mirror::plan::AckLevel;
use lockstep_mirror::status::{OriginStatus, StreamState};

use super::{Happening, World};
use crate::sim::coverage::Seen;
use crate::sim::mistake::Mistake;
use crate::sim::model::{Checked, broken};
use crate::sim::scenario::Site;
use crate::sim::site::Process;

impl World {
    fn process_mut(&mut self, site: Site) -> Option<&mut Process> {
        self.sites[site.index()].process.as_mut()
    }

    /// The process gets no time for so long; what arrives waits in its inbox.
    pub(super) fn stall(&mut self, site: Site, ms: u64) {
        let Some(process) = self.process_mut(site).filter(|process| !process.stalled) else { return };
        process.stalled = true;
        let boot = process.boot;
        self.seen.note(Seen::Stalled);
        self.schedule(ms, Happening::Wake(site, boot));
    }

    /// It goes on: everything that has arrived first, then the time.
    pub(super) fn wake(&mut self, site: Site) -> Checked {
        let Some(process) = self.process_mut(site) else { return Ok(()) };
        process.stalled = false;
        process.waking = true;
        let inbox = std::mem::take(&mut process.inbox);
        let boot = process.boot;
        if self.mistake == Some(Mistake::TimeBeforeInbox) {
            self.feed(site, Event::Idle)?;
        }
        for event in inbox {
            if self.lives(site, boot) {
                self.feed(site, event)?;
            }
        }
        if let Some(process) = self.process_mut(site).filter(|process| process.boot == boot) {
            process.waking = false;
            return self.feed(site, Event::Idle);
        }
        Ok(())
    }

    /// After so many more effects the power fails.
    pub(super) fn arm(&mut self, site: Site, effects: u32) {
        if let Some(process) = self.process_mut(site) {
            process.effects_left = Some(effects);
        }
    }

    /// Counts down to the power failure; true when it is there.
    pub(super) fn power_fails_now(&mut self, site: Site) -> bool {
        let Some(process) = self.process_mut(site) else { return true };
        match &mut process.effects_left {
            None => return false,
            Some(0) => {}
            Some(left) => {
                *left -= 1;
                return false;
            }
        }
        self.seen.note(Seen::CrashBetweenEffects);
        self.trace.note([self.now, site.index() as u64, 1, 6], |line| {
            let _infallible = write!(line, "== the power of {site:?} fails between two effects");
        });
        self.crash(site);
        let delay = self.noise.below(400);
        self.schedule(delay, Happening::PowerBack(site));
        true
    }

    /// Time is judged after what has arrived: a source whose mirror has acknowledged everything is not late.
    pub(super) fn watch(&mut self, site: Site, status: &OriginStatus, idle: bool) -> Checked {
        let (now, ack, timeout_ms) = (self.now, self.model.ack_level(), self.link_timeout_ms);
        let Some(watch) = self.watched(site, &status.origin) else { return Ok(()) };
        let arrived = watch.arrived;
        let Some(before) = watch.status.replace(status.clone()) else { return Ok(()) };
        self.cover_status(&before, status);
        let waited = matches!(before.state, StreamState::InSync | StreamState::Closing);
        let level = match ack {
            AckLevel::Received => arrived.received,
            AckLevel::Durable => arrived.persisted,
            AckLevel::Applied => arrived.applied,
        };
        let heard = arrived.at + timeout_ms > now && level >= status.last;
        if idle && waited && heard && status.state == StreamState::OutOfSync {
            return broken(9, format!("{site:?} calls its mirror late, whose ack of record {level} had arrived"));
        }
        Ok(())
    }
}
