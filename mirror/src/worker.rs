//! The engine's side of the core's effects, one origin at a time and in order: append, apply, trim, collect, read back, cut;
//! in [`aside`], what goes to a tail before a cut; in [`filling`], what a baseline asks for at either end.
//! Synchronous, so that the simulator carries effects out by the same code as the runtime's threads.

mod aside;
mod filling;

use lockstep_storage::id::{Origin, Seq};
use lockstep_storage::image::{Image, ImageError};

use crate::event::{Effect, Event};
use crate::plan::Limits;

pub(crate) use self::aside::CUT_STEP_LEN;
use self::aside::Parting;
pub use self::aside::{Aside, Chunk, SetAside};
use self::filling::Filling;
pub use self::filling::Generations;

/// One origin's worker.
pub struct Worker {
    origin: Origin,
    image: Image,
    limits: Limits,
    set_aside: SetAside,
    generations: Box<dyn Generations>,
    /// The engine that a baseline fills.
    filling: Option<Filling>,
    apply_through: Seq,
    collect_through: Option<Seq>,
}

impl Worker {
    /// A worker on an image.
    #[must_use]
    pub fn new(
        origin: Origin,
        image: Image,
        limits: Limits,
        set_aside: SetAside,
        generations: Box<dyn Generations>,
    ) -> Self {
        let (apply_through, collect_through) = (Seq::ZERO, None);
        Self { origin, image, limits, set_aside, generations, filling: None, apply_through, collect_through }
    }

    /// The image.
    #[must_use]
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// Is there something left to apply or to collect?
    #[must_use]
    pub fn has_steps(&self) -> bool {
        self.is_applying() || self.collect_through.is_some()
    }

    fn is_applying(&self) -> bool {
        self.apply_through > Seq::ZERO
    }

    /// Carries an effect out. An apply or a collection is only noted: [`Worker::step`] does it, between other effects.
    ///
    /// # Errors
    /// The engine's.
    pub fn carry_out(&mut self, effect: Effect) -> Result<Option<Event>, ImageError> {
        let origin = self.origin.clone();
        match effect {
            Effect::Append { records, .. } => {
                self.image.append(&records)?;
            }
            Effect::Apply { through, .. } => self.apply_through = self.apply_through.max(through),
            Effect::Trim { through, .. } => self.image.trim(through)?,
            Effect::Collect { through, .. } => self.collect_through = self.collect_through.max(Some(through)),
            Effect::Fetch { connection, from, bytes_max, .. } => {
                let records = self.image.read_log(from, bytes_max)?;
                return Ok(Some(Event::Fetched { origin, connection, records }));
            }
            Effect::Cut { last, epoch, generation, .. } => {
                self.image.flush()?;
                self.set_aside_after(&Parting { common: last.seq, after: last.seq, epoch })?;
                self.image.cut(last, generation)?;
                self.image.flush()?;
                return Ok(Some(Event::Cut { origin, at: last }));
            }
            Effect::Baseline { task, .. } => {
                let step = self.baseline(task)?;
                return Ok(step.map(|step| Event::Baseline { origin, step }));
            }
            _ => {}
        }
        Ok(None)
    }

    /// Applies some records or, where none wait, collects some bodies.
    ///
    /// # Errors
    /// The engine's.
    pub fn step(&mut self) -> Result<Option<Event>, ImageError> {
        if !self.is_applying() {
            self.collect_step()?;
            return Ok(None);
        }
        let at = self.image.apply(self.apply_through, self.limits.apply_step)?;
        if at.seq >= self.apply_through {
            self.apply_through = Seq::ZERO;
        }
        Ok(Some(Event::Applied { origin: self.origin.clone(), at }))
    }

    /// Goes on until a step finds nothing to remove: whatever is dropped between two consistency points goes at the second.
    fn collect_step(&mut self) -> Result<(), ImageError> {
        if let Some(through) = self.collect_through {
            let waiting = self.image.collect(through, 0)?;
            if self.image.collect(through, self.limits.collect_step)? == waiting {
                self.collect_through = None;
            }
        }
        Ok(())
    }
}
