//! The engine's workers: append, apply, trim, collect, cut and fetch in order, one at a time; flushes beside them.

use std::sync::Arc;

use lockstep_mirror::event::{BaselineStep, BaselineTask, Effect, Event};
use lockstep_storage::id::{Origin, Position, Seq};
use lockstep_storage::image::baseline::Bookmark;
use lockstep_storage::image::{Image, Progress};

use super::{Happening, World};
use crate::sim::coverage::Seen;
use crate::sim::mistake::Mistake;
use crate::sim::model::{Checked, Gone, Violation, broken, within_bound};
use crate::sim::scenario::Site;

impl World {
    fn worker_index(&self, site: Site, origin: &Origin) -> Option<usize> {
        self.sites[site.index()].process.as_ref()?.workers.iter().position(|worker| worker.origin == *origin)
    }

    /// The core asks a worker for something.
    pub(super) fn worker_task(&mut self, site: Site, task: Effect) -> Checked {
        let (Effect::Append { origin, .. }
        | Effect::Apply { origin, .. }
        | Effect::Flush { origin }
        | Effect::Trim { origin, .. }
        | Effect::Collect { origin, .. }
        | Effect::Cut { origin, .. }
        | Effect::Baseline { origin, .. }
        | Effect::Repair { origin, .. }
        | Effect::Fetch { origin, .. }) = &task
        else {
            return Ok(());
        };
        let Some(index) = self.worker_index(site, origin) else { return Ok(()) };
        let Some(process) = &mut self.sites[site.index()].process else { return Ok(()) };
        process.workers[index].queue.push_back(task);
        let waiting = process.workers[index].queue.len();
        self.worker_goes(site, index);
        within_bound("an engine worker", waiting)
    }

    pub(super) fn worker_origin(&self, site: Site, index: usize) -> Origin {
        let process = self.sites[site.index()].process.as_ref();
        process.map_or(site.origin(), |process| process.workers[index].origin.clone())
    }

    fn cover_collection(&mut self, site: Site, index: usize, waited: usize) {
        let Some(process) = &self.sites[site.index()].process else { return };
        let waits = process.workers[index].engine.image().collect(Seq::ZERO, 0);
        if waits.is_ok_and(|waits| waits < waited) {
            self.seen.note(Seen::Collected);
        }
    }

    /// The next piece of a worker's work begins, where there is one.
    fn worker_goes(&mut self, site: Site, index: usize) {
        let Some(process) = &mut self.sites[site.index()].process else { return };
        let (boot, worker) = (process.boot, &mut process.workers[index]);
        if worker.broken || worker.busy || (worker.queue.is_empty() && !worker.engine.has_steps()) {
            return;
        }
        worker.busy = true;
        let delay = if self.noise.chance(3) { self.noise.between(10, 200) } else { self.noise.below(3) };
        self.schedule(delay, Happening::Work(site, boot, index));
    }

    /// A piece of a worker's work is carried out: the next effect, or a step of apply.
    pub(super) fn work(&mut self, site: Site, index: usize) -> Checked {
        let steps = self.noise.chance(50);
        let Some(process) = &mut self.sites[site.index()].process else { return Ok(()) };
        let (boot, worker) = (process.boot, &mut process.workers[index]);
        if worker.broken {
            return Ok(());
        }
        worker.busy = false;
        let step = worker.engine.has_steps() && (steps || worker.queue.is_empty());
        let waiting = worker.engine.image().collect(Seq::ZERO, 0);
        let next = if step { None } else { worker.queue.pop_front() };
        let mut gone = Gone::default();
        let done = if let Some(effect) = next {
            if let Effect::Flush { .. } = effect {
                self.flush(site, index);
                self.worker_goes(site, index);
                return Ok(());
            }
            let (effect, cut) = self.before_work(site, index, effect)?;
            gone = cut;
            let Some(process) = &mut self.sites[site.index()].process else { return Ok(()) };
            process.workers[index].engine.carry_out(effect)
        } else {
            worker.engine.step()
        };
        let event = done.map_err(|error| Violation {
            rule: 4,
            what: format!("an engine of {site:?} cannot do what the core asks: {error}"),
        })?;
        self.cover_collection(site, index, waiting.unwrap_or_default());
        match &event {
            Some(Event::Applied { origin, at }) => {
                let origin = origin.clone();
                self.model.applied(site, &origin, *at)?;
                self.check_image(site, &origin)?;
            }
            Some(Event::Stuck { origin, at, reason }) => {
                return broken(4, format!("record {at} of {origin} cannot be applied at {site:?}: {reason}"));
            }
            Some(Event::Cut { origin, .. }) => self.worker_flushed(site, index, &origin.clone())?,
            Some(Event::Baseline { origin, step: BaselineStep::Swapped { progress, .. } }) => {
                let (origin, progress) = (origin.clone(), *progress);
                let generation = self.model.stored(site, &origin).map_or(0, |entry| entry.engine_generation);
                gone = self.model.replaced(site, &origin, generation, progress)?;
                self.check_image(site, &origin)?;
                self.seen.note(Seen::BaselineTaken);
            }
            _ => {}
        }
        self.was_set_aside(site, &gone)?;
        let mut event = self.after_work(site, event);
        self.after_repair(&mut event);
        if step && event.is_none() {
            // Bodies went: none that is named.
            let origin = self.worker_origin(site, index);
            self.check_image(site, &origin)?;
        }
        if let Some(event) = event {
            self.feed(site, event)?;
        }
        if self.lives(site, boot) {
            self.worker_goes(site, index);
        }
        Ok(())
    }

    /// A deposed source's records are set aside before they go, and what their objects need from before them.
    pub(super) fn was_set_aside(&mut self, site: Site, gone: &Gone) -> Checked {
        if gone.records.is_empty() {
            return Ok(());
        }
        self.seen.note(Seen::TailSetAside);
        let tails = Arc::clone(&self.sites[site.index()].tails);
        let Ok(tails) = tails.lock() else { return Ok(()) };
        let missing = |at: &&Position| !tails.records.contains(&at.checksum) && !self.model.is_rotten(**at);
        if let Some(at) = gone.records.iter().find(missing) {
            return broken(1, format!("{site:?} gives up record {at} and has not set it aside"));
        }
        for (chunk, record) in &gone.chunks {
            let (origin, body, index) = chunk;
            // A site that begins anew by order sets aside what it has in common with its source too.
            if record.is_some_and(|record| tails.records.contains(&record)) {
                continue;
            }
            if tails.chunks.get(chunk).is_none_or(|bytes| self.model.chunk(origin, *body, *index) != Some(bytes)) {
                let at = body.seq;
                return broken(
                    1,
                    format!("{site:?} gives up an object and has not set chunk {index} of its body {at} aside"),
                );
            }
            self.seen.note(Seen::ChunksSetAside);
        }
        Ok(())
    }

    /// Mistakes of the worker are made to what it says.
    fn after_work(&mut self, site: Site, mut event: Option<Event>) -> Option<Event> {
        match &mut event {
            Some(Event::Baseline { step: BaselineStep::Taken { whole, .. }, .. }) => {
                *whole |= self.mistake == Some(Mistake::BaselineInPlaceTooEarly);
            }
            Some(Event::Baseline { origin, step: BaselineStep::Read { at, .. } }) => {
                let claim = self.watched(site, &origin.clone()).and_then(|watch| watch.frozen_claim);
                *at = claim.unwrap_or(*at);
            }
            _ => {}
        }
        event
    }

    /// Holds an effect against the model before it is carried out. Beside it, what it takes away.
    fn before_work(&mut self, site: Site, index: usize, mut effect: Effect) -> Checked<(Effect, Gone)> {
        let mut gone = Gone::default();
        match &mut effect {
            Effect::Trim { origin, through } => {
                if self.mistake == Some(Mistake::TrimmedBehindFrozen) && self.frozen_at(site, index).is_some() {
                    through.0 += 1000;
                }
                self.keeps_what_follows(site, index, *through)?;
                let alone = self.is_promoted(site, origin);
                self.model.trims(site, origin, *through, alone)?;
            }
            Effect::Collect { origin, through } => {
                if self.mistake == Some(Mistake::CollectedAhead) {
                    through.0 += 1000;
                }
                let alone = self.is_promoted(site, origin);
                let applied = self.model.log(site, origin).map_or(Seq::ZERO, |log| log.applied);
                self.model.collects(site, origin, applied.min(*through), alone)?;
            }
            Effect::Cut { origin, last, .. } => gone = self.model.cut(site, origin, *last)?,
            Effect::Baseline { task, .. } => self.before_baseline(site, index, task),
            Effect::Repair { task, .. } => self.before_repair(site, index, task),
            _ => {}
        }
        Ok((effect, gone))
    }

    /// Mistakes of a baseline are made to what is asked for.
    fn before_baseline(&mut self, site: Site, index: usize, task: &mut BaselineTask) {
        match (self.mistake, task) {
            (Some(Mistake::TailForgotten), BaselineTask::SetAside { after, .. }) => *after = Seq(u64::MAX >> 1),
            (Some(Mistake::FrozenAnew), BaselineTask::Freeze) => {
                if let Some(process) = &mut self.sites[site.index()].process {
                    process.workers[index].watch.frozen_claim = None;
                }
            }
            (Some(Mistake::FrozenAnew), BaselineTask::Read { .. }) => {
                if let Some(process) = &mut self.sites[site.index()].process {
                    let image = process.workers[index].engine.image();
                    let at = image.frozen().and_then(|frozen| frozen.progress().ok()).map(|progress| progress.applied);
                    let _works = image.freeze();
                    let claim = &mut process.workers[index].watch.frozen_claim;
                    *claim = claim.or(at);
                }
            }
            (_, BaselineTask::Begin { at, .. }) => {
                let at = *at;
                self.cover_begin(site, index, at);
            }
            _ => {}
        }
    }

    /// A baseline that goes on where an earlier attempt came to.
    fn cover_begin(&mut self, site: Site, index: usize, at: Position) {
        let origin = self.worker_origin(site, index);
        let generation = self.model.stored(site, &origin).map_or(0, |entry| entry.engine_generation);
        let engine = self.sites[site.index()].engines.engine(&origin, generation + 1);
        let placed = Image::new(engine).baseline().ok().flatten();
        if placed.is_some_and(|(of, next)| of == at && next != Bookmark::default()) {
            self.seen.note(Seen::BaselineResumed);
        }
    }

    fn frozen_at(&self, site: Site, index: usize) -> Option<Seq> {
        let process = self.sites[site.index()].process.as_ref()?;
        let frozen = process.workers[index].engine.image().frozen()?;
        frozen.progress().ok().map(|progress| progress.applied.seq)
    }

    /// Rule 5: what follows a frozen image is there for whoever gets it.
    fn keeps_what_follows(&self, site: Site, index: usize, through: Seq) -> Checked {
        match self.frozen_at(site, index) {
            Some(at) if through > at => {
                broken(5, format!("{site:?} trims through {through}, its image is frozen at {at} for a baseline"))
            }
            _ => Ok(()),
        }
    }

    /// The engine is durable through what it holds.
    fn worker_flushed(&mut self, site: Site, index: usize, origin: &Origin) -> Checked {
        let Some(process) = &mut self.sites[site.index()].process else { return Ok(()) };
        let progress = process.workers[index].engine.image().progress();
        let progress = progress.map_err(|error| Violation { rule: 4, what: error.to_string() })?;
        self.model.flushed(site, origin, progress);
        Ok(())
    }

    /// Does this site write the origin without its peer, by promotion?
    pub(super) fn is_promoted(&self, site: Site, origin: &Origin) -> bool {
        self.model.has_no_stream(site, origin)
    }

    /// A flush begins: everything asked for before it is in the engine now.
    fn flush(&mut self, site: Site, index: usize) {
        let state = &mut self.sites[site.index()];
        let slow = state.slow;
        let Some(process) = &mut state.process else { return };
        let boot = process.boot;
        let worker = &mut process.workers[index];
        // A real flush covers what was there when it began, whatever comes meanwhile.
        worker.flushing = worker.engine.image().progress().ok();
        if self.mistake == Some(Mistake::ReleaseBeforeFlush) {
            let progress = worker.flushing.unwrap_or_default();
            let event = Event::Flushed { origin: worker.origin.clone(), progress };
            self.schedule(0, Happening::Feed(site, boot, Box::new(event)));
        }
        if slow {
            self.seen.note(Seen::SlowFlush);
        }
        let delay = if slow { self.noise.between(100, 1_500) } else { self.noise.between(1, 60) };
        self.schedule(delay, Happening::Flush(site, boot, index));
    }

    /// The mistake of a flush that waits for the node's own mirror.
    fn waits_for_ack(&self, site: Site, origin: &Origin) -> bool {
        let own = site.origin();
        self.mistake == Some(Mistake::FlushWaitsForAck)
            && *origin != own
            && self.status(site, &own).is_some_and(|own| own.policy.is_some() && own.peer_persisted < own.last)
    }

    /// A flush is done, or finds no space.
    pub(super) fn flush_done(&mut self, site: Site, index: usize) -> Checked {
        let (boot, origin) = (self.boot(site).unwrap_or_default(), self.worker_origin(site, index));
        if self.waits_for_ack(site, &origin) {
            self.schedule(100, Happening::Flush(site, boot, index));
            return Ok(());
        }
        let state = &mut self.sites[site.index()];
        let full = state.full;
        let Some(process) = &mut state.process else { return Ok(()) };
        let worker = &mut process.workers[index];
        if worker.broken {
            return Ok(());
        }
        if std::mem::take(&mut state.flush_fails) {
            self.seen.note(Seen::EngineFailed);
            let reason = "the flush failed".to_owned();
            return self.feed(site, Event::EngineFailed { origin, reason, damaged: false });
        }
        if full {
            self.seen.note(Seen::DiskFull);
            if !std::mem::replace(&mut worker.told_full, true) {
                self.feed(site, Event::Full { origin, full: true })?;
            }
            self.schedule(100, Happening::Flush(site, boot, index));
            return Ok(());
        }
        let reported: Progress = worker.flushing.take().unwrap_or_default();
        let was_full = std::mem::take(&mut worker.told_full);
        let progress = match worker.engine.image().flush() {
            Ok(progress) => progress,
            Err(error) => return broken(4, format!("the engine of {origin} at {site:?} cannot flush: {error}")),
        };
        self.model.flushed(site, &origin, progress);
        if was_full {
            self.feed(site, Event::Full { origin: origin.clone(), full: false })?;
        }
        if self.mistake == Some(Mistake::ReleaseBeforeFlush) || !self.lives(site, boot) {
            return Ok(());
        }
        self.feed(site, Event::Flushed { origin, progress: reported })
    }
}
