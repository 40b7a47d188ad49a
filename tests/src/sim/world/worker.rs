//! The engine's workers: append, apply, trim, collect, cut and fetch in order, one at a time; flushes beside them.

use lockstep_mirror::event::{Effect, Event};
use lockstep_storage::id::{Origin, Seq};
use lockstep_storage::image::{ImageError, Progress};

use super::{Happening, World};
use crate::sim::mistake::Mistake;
use crate::sim::model::{Checked, Violation, broken};
use crate::sim::scenario::Site;

/// Records that one step of apply takes in.
const APPLY_RECORDS: usize = 7;
/// Chunks that one step of collect takes out.
const COLLECT_CHUNKS: usize = 50;

impl World {
    fn worker_index(&self, site: Site, origin: &Origin) -> Option<usize> {
        self.sites[site.index()].process.as_ref()?.workers.iter().position(|worker| worker.origin == *origin)
    }

    /// The core asks a worker for something.
    pub(super) fn worker_task(&mut self, site: Site, task: Effect) {
        let (Effect::Append { origin, .. }
        | Effect::Apply { origin, .. }
        | Effect::Trim { origin, .. }
        | Effect::Collect { origin, .. }
        | Effect::Cut { origin, .. }
        | Effect::Fetch { origin, .. }) = &task
        else {
            return;
        };
        let Some(index) = self.worker_index(site, origin) else { return };
        let Some(process) = &mut self.sites[site.index()].process else { return };
        let idle = process.workers[index].queue.is_empty();
        process.workers[index].queue.push_back(task);
        let boot = process.boot;
        if idle {
            let delay = self.work_delay();
            self.schedule(delay, Happening::Work(site, boot, index));
        }
    }

    fn work_delay(&mut self) -> u64 {
        if self.noise.chance(3) { self.noise.between(10, 200) } else { self.noise.below(3) }
    }

    /// A worker's first task is carried out.
    pub(super) fn work(&mut self, site: Site, index: usize) -> Checked {
        let Some(process) = &mut self.sites[site.index()].process else { return Ok(()) };
        let boot = process.boot;
        let Some(task) = process.workers[index].queue.pop_front() else { return Ok(()) };
        let again = self.work_on(site, index, &task)?;
        let Some(process) = &mut self.sites[site.index()].process else { return Ok(()) };
        if process.boot != boot {
            return Ok(());
        }
        if again {
            process.workers[index].queue.push_front(task);
        }
        if !process.workers[index].queue.is_empty() {
            let delay = self.work_delay();
            self.schedule(delay, Happening::Work(site, boot, index));
        }
        Ok(())
    }

    /// One step of a task; says whether more of it is left.
    fn work_on(&mut self, site: Site, index: usize, task: &Effect) -> Checked<bool> {
        let Some(process) = &mut self.sites[site.index()].process else { return Ok(false) };
        let image = process.workers[index].image.clone();
        let failed = |error: ImageError| Violation {
            rule: 4,
            what: format!("the engine of {site:?} cannot do what the core asks: {error}"),
        };
        match task {
            Effect::Append { records, .. } => {
                image.append(records).map_err(failed)?;
            }
            Effect::Apply { origin, through } => {
                let at = image.apply(*through, APPLY_RECORDS).map_err(failed)?;
                self.model.applied(site, origin, at)?;
                self.feed(site, Event::Applied { origin: origin.clone(), at })?;
                return Ok(at.seq < *through);
            }
            Effect::Trim { origin, through } => {
                let alone = self.is_promoted(site, origin);
                self.model.trims(site, origin, *through, alone)?;
                image.trim(*through).map_err(failed)?;
            }
            Effect::Collect { origin, through } => {
                let ahead = if self.mistake == Some(Mistake::CollectedAhead) { 1000 } else { 0 };
                let applied = image.progress().map_err(failed)?.applied.seq;
                let through = Seq(through.0 + ahead).min(applied);
                let alone = self.is_promoted(site, origin);
                self.model.collects(site, origin, through, alone)?;
                image.collect(through, COLLECT_CHUNKS).map_err(failed)?;
            }
            Effect::Cut { origin, last, .. } => {
                self.model.cut(site, origin, *last)?;
                image.cut(*last).map_err(failed)?;
                let progress = image.flush().map_err(failed)?;
                self.model.flushed(site, origin, progress);
                self.feed(site, Event::Cut { origin: origin.clone(), at: *last })?;
            }
            Effect::Fetch { origin, connection, from, bytes_max } => {
                let records = image.read_log(*from, *bytes_max).map_err(failed)?;
                let event = Event::Fetched { origin: origin.clone(), connection: *connection, records };
                self.feed(site, event)?;
            }
            _ => {}
        }
        Ok(false)
    }

    /// Does this site write the origin without its peer, by promotion?
    fn is_promoted(&self, site: Site, origin: &Origin) -> bool {
        site == Site::B && self.model.promoted.contains_key(origin)
    }

    /// The core asks for a flush.
    pub(super) fn flush(&mut self, site: Site, origin: &Origin) {
        let Some(index) = self.worker_index(site, origin) else { return };
        let state = &mut self.sites[site.index()];
        let slow = state.slow;
        let Some(process) = &mut state.process else { return };
        let boot = process.boot;
        let worker = &mut process.workers[index];
        // A real flush covers what was there when it began, whatever comes meanwhile.
        worker.flushing = worker.image.progress().ok();
        if self.mistake == Some(Mistake::ReleaseBeforeFlush) {
            let progress = worker.flushing.unwrap_or_default();
            let event = Event::Flushed { origin: origin.clone(), progress };
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
        let progress = match worker.image.flush() {
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
