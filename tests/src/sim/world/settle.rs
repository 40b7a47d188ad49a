//! The end of a run: everything is mended, and the streams must come together. Rule 9.

use lockstep_mirror::client::Role;
use lockstep_mirror::event::Report;
use lockstep_mirror::plan::Policy;
use lockstep_mirror::status::{OriginStatus, StreamState};
use lockstep_storage::id::{Origin, Seq};

use super::World;
use crate::sim::image::nothing_is_left;
use crate::sim::model::{Checked, LogTruth, broken};
use crate::sim::scenario::{Order, Site, Write};
use crate::sim::topology::Pair;

/// Longest time to come together once everything is mended, in milliseconds.
const SETTLE_MS: u64 = 60_000;
const STEP_MS: u64 = 250;

impl World {
    /// Mends everything and waits.
    pub(super) fn settle(&mut self) -> Checked {
        self.trace.note([self.now, 7, 0, 5], |line| line.push_str("== everything is mended"));
        self.calm = true;
        self.heal();
        for site in self.topology.sites().iter().copied() {
            self.mend(site)?;
        }
        self.restart_the_stopping()?;
        for pair in self.topology.pairs() {
            for site in pair.sites() {
                self.order(*pair, site, Order::Resume)?;
            }
            let lost = |status: OriginStatus| {
                status.state == StreamState::Lost && !status.reason.contains("engine is damaged")
            };
            for site in pair.sites() {
                let follows = self.model.holder(*pair) != site;
                if follows && self.status(site, &pair.origin()).is_some_and(lost) {
                    self.order(*pair, site, Order::RebuildLossy)?;
                }
            }
        }
        let mut pairs = Vec::new();
        for pair in self.topology.pairs() {
            if self.inherit(*pair)? {
                pairs.push(*pair);
            }
        }
        // Whoever lost a connection hears of it first.
        self.run_until(self.now + 1_000)?;
        for pair in &pairs {
            if self.is_given_up(*pair) {
                self.order(*pair, pair.home, Order::PromoteLossy)?;
                self.run_until(self.now + 1_000)?;
            }
            let source = self.model.holder(*pair);
            let unsettled = self.status(source, &pair.origin()).is_some_and(|s| s.state == StreamState::Unsettled);
            if self.is_over(*pair) && unsettled {
                self.order(*pair, source, Order::Alone)?;
                self.run_until(self.now + 1_000)?;
            }
        }
        self.run_until(self.now + 4_000)?;
        let damaged = |status: OriginStatus| status.reason.contains("damaged here, and the mirror does not have them");
        for pair in &pairs {
            let source = self.model.holder(*pair);
            if self.status(source, &pair.origin()).is_some_and(damaged) {
                self.order(*pair, source, Order::Alone)?;
            }
        }
        for pair in &pairs {
            self.come_together(*pair)?;
        }
        for pair in &pairs {
            self.last_write(*pair)?;
            self.points(*pair)?;
            self.mend_all(*pair)?;
        }
        for site in self.topology.sites() {
            let plan = &self.sites[site.index()].plan;
            let origins: Vec<Origin> = plan.origins.iter().map(|origin| origin.origin.clone()).collect();
            for origin in origins {
                self.check_image(*site, &origin)?;
            }
        }
        pairs.iter().try_for_each(|pair| self.compare(*pair))
    }

    /// Nothing is wrong at a site any more, and its process runs.
    fn mend(&mut self, site: Site) -> Checked {
        if self.sites[site.index()].damaged.is_some() {
            // It would meet the damage at some time, and stop: now.
            self.crash(site);
        }
        let state = &mut self.sites[site.index()];
        (state.slow, state.full, state.flush_fails, state.nvram.fail_persists) = (false, false, false, false);
        state.engines.set_full(false);
        state.wall_offset = 0;
        if let Some(process) = &mut state.process {
            process.effects_left = None;
        }
        self.start(site)?;
        if self.sites[site.index()].process.as_ref().is_some_and(|process| process.stalled) {
            self.wake(site)?;
            // It may hear only now of a device or an engine that failed before, and stop.
            self.start(site)?;
        }
        Ok(())
    }

    /// The mirror was lost in the middle of its promote, of which the source has heard, and its operator has given it up since.
    fn is_given_up(&self, pair: Pair) -> bool {
        let at = |site: Site| self.status(site, &pair.origin());
        let waits = |status: &OriginStatus| status.rebuilding && status.role != Role::Source;
        let deposed = |status: &OriginStatus| status.role == Role::Fenced && !status.rebuilding;
        at(pair.mirror).as_ref().is_some_and(waits) && at(pair.home).as_ref().is_some_and(deposed)
    }

    /// Where the source is gone for good the other site takes the origin; so does one whose offer nobody can take any more.
    /// False where nothing was ever mirrored: there is nothing to serve, and nobody was told otherwise.
    fn inherit(&mut self, pair: Pair) -> Checked<bool> {
        let (origin, holder) = (pair.origin(), self.model.holder(pair));
        let offers = |site: &Site| {
            let offering = self.status(*site, &origin).is_some_and(|s| s.state == StreamState::HandingOver);
            offering && self.sites[pair.other(*site).index()].lost
        };
        let orphan = self.sites[holder.index()].lost.then(|| pair.other(holder));
        // Its home is new and refuses to go on.
        let anew = self.model.is_anew(&origin) && !self.sites[holder.index()].is_source(&origin);
        let orphan = orphan.or(anew.then_some(holder));
        let Some(heir) = orphan.or_else(|| pair.sites().into_iter().find(offers)) else { return Ok(true) };
        self.run_until(self.now + 100)?;
        self.order(pair, heir, Order::PromoteLossy)?;
        if self.model.log(heir, &origin).is_some_and(|log| log.last().seq > Seq::ZERO) {
            return Ok(true);
        }
        self.model.keeps_mirrored(heir, &origin, "has nothing to serve")?;
        Ok(false)
    }

    /// Waits until a stream is in sync or can never be.
    fn come_together(&mut self, pair: Pair) -> Checked {
        let end = self.now + SETTLE_MS;
        while !self.is_settled(pair)? {
            if self.now >= end {
                return self.not_settled(pair);
            }
            self.run_until(self.now + STEP_MS)?;
        }
        Ok(())
    }

    /// Is there no stream any more: its source was promoted and knows no way back, or its destination is gone?
    pub(super) fn is_over(&self, pair: Pair) -> bool {
        let source = self.model.holder(pair);
        self.model.has_no_stream(source, &pair.origin()) || self.sites[pair.other(source).index()].lost
    }

    /// Under `strict` a source that was in sync waits for its mirror, also for one that is gone for good.
    pub(super) fn waits_for_ever(&self, pair: Pair) -> bool {
        let (source, origin) = (self.model.holder(pair), pair.origin());
        let alone = self.model.has_no_stream(source, &origin)
            || self.model.stored(source, &origin).is_some_and(|entry| entry.promoted);
        self.is_over(pair) && !alone && self.model.policy() == Policy::Strict
    }

    /// A node that was told to shut down is stopped and started again.
    fn restart_the_stopping(&mut self) -> Checked {
        for site in self.topology.sites().iter().copied() {
            let stopping = self.orders.iter().any(|(_, s, _, order)| *s == site && *order == Order::Shutdown)
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

    pub(in crate::sim) fn status(&self, site: Site, origin: &Origin) -> Option<OriginStatus> {
        let now = self.moment(site);
        let process = self.sites[site.index()].process.as_ref()?;
        process.node.status(now).origins.into_iter().find(|log| log.origin == *origin)
    }

    /// The source's stream is in sync or can never be, and every client has its answer.
    fn is_settled(&mut self, pair: Pair) -> Checked<bool> {
        let (origin, source) = (pair.origin(), self.model.holder(pair));
        let promotes = |order: &Order| matches!(order, Order::Promote | Order::PromoteLossy);
        let promoting = self.orders.iter().any(|(_, _, of, order)| *of == pair && promotes(order));
        if promoting || (self.clients.waiting(pair) > 0 && !self.waits_for_ever(pair)) {
            return Ok(false);
        }
        let peer = pair.other(source);
        if self.is_over(pair) {
            let other = self.status(peer, &origin).map(|status| status.role);
            let known = other.is_none_or(|role| role == Role::Fenced) || self.sites[peer.index()].lost;
            let served = self.sites[source.index()].state(&origin).is_some_and(|state| state.readable)
                || self.waits_for_ever(pair);
            return Ok(known && self.sites[source.index()].is_source(&origin) && served);
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
                Ok(readable && a.peer_persisted == a.last && self.is_marked(peer, &a))
            }
            _ => Ok(false),
        }
    }

    /// The destination knows that it is in sync, too: a promote there must not be refused. `async` promises nothing.
    fn is_marked(&self, destination: Site, a: &OriginStatus) -> bool {
        let b = self.status(destination, &a.origin).map(|status| status.state);
        a.policy == Some(Policy::Async) || b == Some(StreamState::InSync)
    }

    /// Whoever is the source now takes a write; so bodies that a process before left open are given up.
    fn last_write(&mut self, pair: Pair) -> Checked {
        let before = self.model.answers;
        self.client_begins(pair, Write::CreateBucket { bucket: 0 }, None, None)?;
        self.client_begins(pair, Write::Put { key: 0, chunks: 1 }, None, None)?;
        let end = self.now + 10_000;
        while self.clients.waiting(pair) > 0 && self.now < end {
            self.run_until(self.now + STEP_MS)?;
        }
        if self.model.answers == before && !self.waits_for_ever(pair) {
            return broken(9, format!("everything is mended, and a write of {} is not answered", pair.origin()));
        }
        Ok(())
    }

    fn not_settled(&mut self, pair: Pair) -> Checked {
        let origin = pair.origin();
        let say = |status: Option<OriginStatus>| {
            status.map_or("down".to_owned(), |s| {
                let (state, role) = (s.state, s.role);
                format!(
                    "{role:?} {state} ({}), last {}, persisted {}, committed {}, applied {}",
                    s.reason, s.last, s.persisted, s.committed, s.applied
                )
            })
        };
        let each = pair.sites().map(|site| format!("{site:?} is {}", say(self.status(site, &origin))));
        let (waiting, each) = (self.clients.waiting(pair), each.join("; "));
        broken(9, format!("{SETTLE_MS} ms after everything was mended {waiting} clients of {origin} wait; {each}"))
    }

    /// Consistency points until there can be nothing left to collect.
    fn points(&mut self, pair: Pair) -> Checked {
        let source = self.model.holder(pair);
        let alone = self.model.has_no_stream(source, &pair.origin());
        let no_mirror = self.is_over(pair) && !alone;
        for _ in 0..3 {
            self.replies.clear();
            if !no_mirror {
                self.order(pair, source, Order::Sync)?;
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

    /// Rule 9 at the end: both images are at the same record, and nothing is left.
    fn compare(&mut self, pair: Pair) -> Checked {
        let (origin, source) = (pair.origin(), self.model.holder(pair));
        self.model.keeps_mirrored(source, &origin, "ends")?;
        self.is_readable(pair, source)?;
        let settled = self.status(source, &origin).is_some() && !self.waits_for_ever(pair);
        for site in pair.sites() {
            let equal = site == source || !self.is_over(pair);
            if !settled || !equal {
                continue;
            }
            let Some(log) = self.model.log(site, &origin) else { continue };
            if log.applied != log.last().seq {
                let (applied, last) = (log.applied, log.last());
                return broken(
                    9,
                    format!("at the last consistency point of {origin} {site:?} has applied {applied} of {last}"),
                );
            }
            // What a source drops waits for its mirror, and this one is gone for good.
            if !self.sites[pair.other(site).index()].lost || self.model.has_no_stream(site, &origin) {
                self.nothing_is_left_at(site, &origin)?;
            }
        }
        if settled && !self.is_over(pair) {
            let ends = pair.sites().map(|site| self.model.log(site, &origin).map(LogTruth::last));
            if ends[0] != ends[1] {
                return broken(9, format!("in sync, and the logs of {origin} end at {:?} and {:?}", ends[0], ends[1]));
            }
        }
        Ok(())
    }

    /// Rule 1: whatever was answered can be read again, at the end at the latest.
    fn is_readable(&self, pair: Pair, source: Site) -> Checked {
        let origin = &pair.origin();
        let readable = self.sites[source.index()].state(origin).is_some_and(|state| state.readable);
        if readable || self.waits_for_ever(pair) {
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
