//! The engine's workers: append, apply, trim, collect, cut and fetch in order, one at a time; flushes beside them.

use lockstep_mirror::event::{Effect, Event};
use lockstep_storage::id::{Origin, Seq};
use lockstep_storage::image::Progress;

use super::{Happening, World};
use crate::sim::coverage::Seen;
use crate::sim::mistake::Mistake;
use crate::sim::model::{Checked, Violation, broken, within_bound};
use crate::sim::scenario::Site;
use crate::sim::site::origin_of;

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

    fn worker_origin(&self, site: Site, index: usize) -> Origin {
        let process = self.sites[site.index()].process.as_ref();
        process.map_or(origin_of(site), |process| process.workers[index].origin.clone())
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
        if worker.busy || (worker.queue.is_empty() && !worker.engine.has_steps()) {
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
        worker.busy = false;
        let step = worker.engine.has_steps() && (steps || worker.queue.is_empty());
        let waiting = worker.engine.image().collect(Seq::ZERO, 0);
        let next = if step { None } else { worker.queue.pop_front() };
        let done = if let Some(effect) = next {
            if let Effect::Flush { .. } = effect {
                self.flush(site, index);
                self.worker_goes(site, index);
                return Ok(());
            }
            let effect = self.before_work(site, effect)?;
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
            Some(Event::Cut { origin, .. }) => self.worker_flushed(site, index, &origin.clone())?,
            _ => {}
        }
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

    /// Holds an effect against the model before it is carried out.
    fn before_work(&mut self, site: Site, mut effect: Effect) -> Checked<Effect> {
        match &mut effect {
            Effect::Trim { origin, through } => {
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
            Effect::Cut { origin, last, .. } => self.model.cut(site, origin, *last)?,
            _ => {}
        }
        Ok(effect)
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

    /// A flush is done, or finds no space.
    pub(super) fn flush_done(&mut self, site: Site, index: usize) -> Checked {
        let state = &mut self.sites[site.index()];
        let full = state.full;
        let Some(process) = &mut state.process else { return Ok(()) };
        let boot = process.boot;
        let worker = &mut process.workers[index];
        let origin = worker.origin.clone();
        if std::mem::take(&mut state.flush_fails) {
            self.seen.note(Seen::EngineFailed);
            let reason = "the flush failed".to_owned();
            return self.feed(site, Event::EngineFailed { origin, reason });
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
