//! The engine's workers: append, apply, trim, collect, cut and fetch in order, one at a time; flushes beside them.

use lockstep_mirror::event::{Effect, Event};
use lockstep_storage::id::{Origin, Seq};
use lockstep_storage::image::Progress;

use super::{Happening, World};
use crate::sim::mistake::Mistake;
use crate::sim::model::{Checked, Violation, broken};
use crate::sim::scenario::Site;

impl World {
    fn worker_index(&self, site: Site, origin: &Origin) -> Option<usize> {
        self.sites[site.index()].process.as_ref()?.workers.iter().position(|worker| worker.origin == *origin)
    }

    /// The core asks a worker for something.
    pub(super) fn worker_task(&mut self, site: Site, task: Effect) {
        let (Effect::Append { origin, .. }
        | Effect::Apply { origin, .. }
        | Effect::Flush { origin }
        | Effect::Trim { origin, .. }
        | Effect::Collect { origin, .. }
        | Effect::Cut { origin, .. }
        | Effect::Fetch { origin, .. }) = &task
        else {
            return;
        };
        let Some(index) = self.worker_index(site, origin) else { return };
        let Some(process) = &mut self.sites[site.index()].process else { return };
        process.workers[index].queue.push_back(task);
        self.worker_goes(site, index);
    }

    /// The next piece of a worker's work begins, where there is one.
    fn worker_goes(&mut self, site: Site, index: usize) {
        let Some(process) = &mut self.sites[site.index()].process else { return };
        let (boot, worker) = (process.boot, &mut process.workers[index]);
        if worker.busy || (worker.queue.is_empty() && !worker.engine.is_applying()) {
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
        let step = worker.engine.is_applying() && (steps || worker.queue.is_empty());
        let done = if step || worker.queue.is_empty() {
            worker.engine.apply_step()
        } else {
            let Some(effect) = worker.queue.pop_front() else { return Ok(()) };
            if let Effect::Flush { .. } = effect {
                self.flush(site, index);
                self.worker_goes(site, index);
                return Ok(());
            }
            let effect = self.before_work(site, effect)?;
            let Some(process) = &mut self.sites[site.index()].process else { return Ok(()) };
            process.workers[index].engine.carry_out(effect)
        };
        let event = done.map_err(|error| Violation {
            rule: 4,
            what: format!("an engine of {site:?} cannot do what the core asks: {error}"),
        })?;
        match &event {
            Some(Event::Applied { origin, at }) => self.model.applied(site, origin, *at)?,
            Some(Event::Cut { origin, .. }) => self.worker_flushed(site, index, &origin.clone())?,
            _ => {}
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
    fn is_promoted(&self, site: Site, origin: &Origin) -> bool {
        site == Site::B && self.model.promoted.contains_key(origin)
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
        if full {
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
