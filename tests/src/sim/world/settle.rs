//! The end of a run: everything is mended, and the streams must come together. Rule 9.

use lockstep_mirror::client::Role;
use lockstep_mirror::event::Report;
use lockstep_mirror::plan::Policy;
use lockstep_mirror::status::{OriginStatus, StreamState};
use lockstep_storage::id::{Origin, Seq};

use super::World;
use crate::sim::image::nothing_is_left;
use crate::sim::model::{Checked, broken};
use crate::sim::scenario::{Order, Site, Write};
use crate::sim::site::origin_of;

/// Longest time to come together once everything is mended, in milliseconds.
const SETTLE_MS: u64 = 60_000;
const STEP_MS: u64 = 250;

impl World {
    /// Mends everything and waits.
    pub(super) fn settle(&mut self) -> Checked {
        self.trace.note([self.now, 7, 0, 5], |line| line.push_str("== everything is mended"));
        self.calm = true;
        self.heal();
        for site in Site::ALL {
            let state = &mut self.sites[site.index()];
            (state.slow, state.full, state.flush_fails, state.nvram.fail_persists) = (false, false, false, false);
            state.engines.set_full(false);
            if let Some(process) = &mut state.process {
                process.effects_left = None;
            }
            self.start(site)?;
            if self.sites[site.index()].process.as_ref().is_some_and(|process| process.stalled) {
                self.wake(site)?;
                // It may hear only now of a device or an engine that failed before, and stop.
                self.start(site)?;
            }
        }
        self.restart_the_stopping()?;
        for site in Site::ALL {
            self.order(site, Order::Resume)?;
        }
        if self.status(Site::B, &origin_of(Site::A)).is_some_and(|status| status.state == StreamState::Lost) {
            self.order(Site::B, Order::Rebuild)?;
        }
        let offering = self.status(Site::B, &origin_of(Site::A)).is_some_and(|s| s.state == StreamState::HandingOver);
        if self.sites[self.model.holder().index()].lost || (offering && self.sites[Site::A.index()].lost) {
            self.run_until(self.now + 100)?;
            self.order(Site::B, Order::PromoteLossy)?;
            let mirrored = self.model.log(Site::B, &origin_of(Site::A)).is_some_and(|log| log.last().seq > Seq::ZERO);
            if !mirrored {
                // Nothing was ever mirrored: B has nothing to serve, and nobody was told otherwise.
                return self.model.keeps_mirrored(Site::B, &origin_of(Site::A), "has nothing to serve");
            }
        }
        // Whoever lost a connection hears of it first.
        self.run_until(self.now + 1_000)?;
        let source = self.model.holder();
        let unsettled = self.status(source, &origin_of(Site::A)).is_some_and(|s| s.state == StreamState::Unsettled);
        if self.is_over() && unsettled {
            self.order(source, Order::Alone)?;
            self.run_until(self.now + 1_000)?;
        }
        self.run_until(self.now + 4_000)?;
        let damaged = |status: OriginStatus| status.reason.contains("damaged here, and the mirror does not have them");
        if self.status(source, &origin_of(Site::A)).is_some_and(damaged) {
            self.order(source, Order::Alone)?;
        }
        let end = self.now + SETTLE_MS;
        while !self.is_settled()? {
            if self.now >= end {
                return self.not_settled();
            }
            self.run_until(self.now + STEP_MS)?;
        }
        self.last_write()?;
        self.points()?;
        self.compare()
    }

    /// Is there no stream any more: its source was promoted and knows no way back, or its destination is gone?
    fn is_over(&self) -> bool {
        let source = self.model.holder();
        self.model.has_no_stream(source, &origin_of(Site::A)) || self.sites[source.peer().index()].lost
    }

    /// Under `strict` a source that was in sync waits for its mirror, also for one that is gone for good.
    fn waits_for_ever(&self) -> bool {
        let (source, origin) = (self.model.holder(), origin_of(Site::A));
        let alone = self.model.has_no_stream(source, &origin)
            || self.model.stored(source, &origin).is_some_and(|entry| entry.promoted);
        self.is_over() && !alone && self.model.policy() == Policy::Strict
    }

    /// A node that was told to shut down is stopped and started again.
    fn restart_the_stopping(&mut self) -> Checked {
        for site in Site::ALL {
            let stopping = self.orders.iter().any(|(_, s, order)| *s == site && *order == Order::Shutdown)
                || self
                    .replies
                    .iter()
                    .any(|(order, s, reply)| *s == site && *order == Order::Shutdown && reply.is_ok());
            if stopping {
                self.crash(site);
                self.start(site)?;
            }
        }
        Ok(())
    }

    fn status(&self, site: Site, origin: &Origin) -> Option<OriginStatus> {
        let now = self.moment(site);
        let process = self.sites[site.index()].process.as_ref()?;
        process.node.status(now).origins.into_iter().find(|log| log.origin == *origin)
    }

    /// The source's stream is in sync or can never be, and every client has its answer.
    fn is_settled(&mut self) -> Checked<bool> {
        let origin = origin_of(Site::A);
        let source = self.model.holder();
        let promoting = self.orders.iter().any(|(_, _, order)| matches!(order, Order::Promote | Order::PromoteLossy));
        if promoting || (self.clients.waiting() > 0 && !self.waits_for_ever()) {
            return Ok(false);
        }
        if self.is_over() {
            let other = self.status(source.peer(), &origin).map(|status| status.role);
            let known = other.is_none_or(|role| role == Role::Fenced) || self.sites[source.peer().index()].lost;
            let readable = self.sites[source.index()].state(&origin).is_some_and(|state| state.readable);
            return Ok(known && self.sites[source.index()].is_source(&origin) && (readable || self.waits_for_ever()));
        }
        if self.sites[source.index()].lost {
            return Ok(false);
        }
        let Some(a) = self.status(source, &origin) else {
            return broken(8, format!("{source:?} stopped while nothing was wrong"));
        };
        match a.state {
            StreamState::InSync if a.role == Role::Source => {
                let readable = self.sites[source.index()].state(&origin).is_some_and(|state| state.readable);
                Ok(readable && a.peer_persisted == a.last && self.is_marked(&a))
            }
            _ => Ok(false),
        }
    }

    /// The destination knows that it is in sync, too: a promote there must not be refused. `async` promises nothing.
    fn is_marked(&self, a: &OriginStatus) -> bool {
        let b = self.status(self.model.holder().peer(), &a.origin).map(|status| status.state);
        a.policy == Some(Policy::Async) || b == Some(StreamState::InSync)
    }

    /// Whoever is the source now takes a write; so bodies that a process before left open are given up.
    fn last_write(&mut self) -> Checked {
        let before = self.model.answers;
        self.client_begins(Write::CreateBucket { bucket: 0 }, None, None)?;
        self.client_begins(Write::Put { key: 0, chunks: 1 }, None, None)?;
        let end = self.now + 10_000;
        while self.clients.waiting() > 0 && self.now < end {
            self.run_until(self.now + STEP_MS)?;
        }
        let waits = self.waits_for_ever();
        if self.model.answers == before && !waits {
            return broken(9, "everything is mended, and a write is not answered");
        }
        Ok(())
    }

    fn not_settled(&mut self) -> Checked {
        let origin = origin_of(Site::A);
        let say = |status: Option<OriginStatus>| {
            status.map_or("down".to_owned(), |s| {
                let (state, role) = (s.state, s.role);
                format!(
                    "{role:?} {state} ({}), last {}, persisted {}, committed {}, applied {}",
                    s.reason, s.last, s.persisted, s.committed, s.applied
                )
            })
        };
        let (a, b) = (say(self.status(Site::A, &origin)), say(self.status(Site::B, &origin)));
        let waiting = self.clients.waiting();
        broken(9, format!("{SETTLE_MS} ms after everything was mended: {waiting} clients wait; A is {a}; B is {b}"))
    }

    /// Consistency points until there can be nothing left to collect.
    fn points(&mut self) -> Checked {
        let (source, alone) = (self.model.holder(), self.model.has_no_stream(self.model.holder(), &origin_of(Site::A)));
        let no_mirror = self.is_over() && !alone;
        for _ in 0..3 {
            self.replies.clear();
            if !no_mirror {
                self.order(source, Order::Sync)?;
            }
            let wait = if alone { 12_000 } else { 3_000 };
            let end = self.now + wait;
            while self.now < end && self.point_reply().is_none() {
                self.run_until(self.now + 100)?;
            }
            if let Some(Err(sentence)) = self.point_reply().filter(|_| !no_mirror) {
                return broken(9, format!("in sync, and a consistency point is refused: {sentence}"));
            }
            if !no_mirror && self.point_reply().is_none() {
                return broken(9, format!("in sync, and a consistency point takes more than {wait} ms"));
            }
            self.run_until(self.now + 500)?;
        }
        Ok(())
    }

    /// What became of the consistency point that was ordered last.
    fn point_reply(&self) -> Option<&Result<Report, String>> {
        self.replies.iter().find(|(order, ..)| *order == Order::Sync).map(|(.., reply)| reply)
    }

    /// Rule 4 and 9 at the end: both images are what their records say, equal where they should be, and nothing is left.
    fn compare(&mut self) -> Checked {
        let origin = origin_of(Site::A);
        for site in Site::ALL {
            let origins: Vec<Origin> = self.sites[site.index()].plan.origins.iter().map(|o| o.origin.clone()).collect();
            for origin in origins {
                self.check_image(site, &origin)?;
            }
        }
        let source = self.model.holder();
        self.model.keeps_mirrored(source, &origin, "ends")?;
        self.is_readable(source, &origin)?;
        let settled = self.status(source, &origin).is_some() && !self.waits_for_ever();
        for site in Site::ALL {
            let equal = site == source || !self.is_over();
            if !settled || !equal {
                continue;
            }
            let Some(log) = self.model.log(site, &origin) else { continue };
            if log.applied != log.last().seq {
                let (applied, last) = (log.applied, log.last());
                return broken(9, format!("at the last consistency point {site:?} has applied {applied} of {last}"));
            }
            // What a source drops waits for its mirror, and this one is gone for good.
            if !self.sites[site.peer().index()].lost || self.model.has_no_stream(site, &origin) {
                self.nothing_is_left_at(site, &origin)?;
            }
        }
        if settled && !self.is_over() {
            let ends = Site::ALL.map(|site| self.model.log(site, &origin).map(super::super::model::LogTruth::last));
            if ends[0] != ends[1] {
                return broken(9, format!("in sync, and the logs end at {:?} and {:?}", ends[0], ends[1]));
            }
        }
        Ok(())
    }

    /// Rule 1: whatever was answered can be read again, at the end at the latest.
    fn is_readable(&self, source: Site, origin: &Origin) -> Checked {
        let readable = self.sites[source.index()].state(origin).is_some_and(|state| state.readable);
        if readable || self.waits_for_ever() {
            return Ok(());
        }
        broken(1, format!("everything is mended, and {source:?} refuses readers of {origin}"))
    }

    fn nothing_is_left_at(&mut self, site: Site, origin: &Origin) -> Checked {
        let state = &mut self.sites[site.index()];
        let generation = self.model.stored(site, origin).map_or(0, |entry| entry.engine_generation);
        let engine = state.engines.engine(origin, generation);
        let Some(process) = &mut state.process else { return Ok(()) };
        let Some(worker) = process.worker(origin) else { return Ok(()) };
        nothing_is_left(site, origin, worker.engine.image(), &engine)
    }
}
