//! The engine's side of the core's effects, one origin at a time and in order: append, apply, trim, collect, read back, cut;
//! and, in [`filling`], what a baseline asks for at either end.
//! Synchronous, so that the simulator carries effects out by the same code as the runtime's threads.

mod filling;

use lockstep_storage::id::{Epoch, Origin, Seq};
use lockstep_storage::image::{Image, ImageError};
use lockstep_storage::record::Record;

use crate::event::{Effect, Event};
use crate::plan::Limits;

use self::filling::Filling;
pub use self::filling::Generations;

/// Bytes of records that are set aside in one step.
pub(crate) const CUT_STEP_LEN: usize = 4 << 20;

/// Takes the records that a cut sets aside, in their order; called before they are removed, and they must be durable when it
/// returns. A cut that is tried again gives the same ones again, from its first.
pub type SetAside = Box<dyn FnMut(&Origin, Epoch, &[Record]) -> Result<(), ImageError> + Send>;

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
    /// The image stays before a record that cannot be applied.
    stuck: bool,
    collect_through: Option<Seq>,
    /// Bodies were collected since somebody asked.
    collected: bool,
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
        Self {
            origin,
            image,
            limits,
            set_aside,
            generations,
            filling: None,
            apply_through: Seq::ZERO,
            stuck: false,
            collect_through: None,
            collected: false,
        }
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

    /// Has a collection come to its end that removed bodies? A flush gives their space back. Said once.
    pub fn has_collected(&mut self) -> bool {
        self.collect_through.is_none() && std::mem::take(&mut self.collected)
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
            Effect::Apply { .. } if self.stuck => {}
            Effect::Apply { through, .. } => self.apply_through = self.apply_through.max(through),
            Effect::Trim { through, .. } => self.image.trim(through)?,
            Effect::Collect { through, .. } => self.collect_through = self.collect_through.max(Some(through)),
            Effect::Fetch { connection, from, bytes_max, .. } => {
                let records = self.image.read_log(from, bytes_max)?;
                return Ok(Some(Event::Fetched { origin, connection, records }));
            }
            Effect::Cut { last, epoch, generation, .. } => {
                self.image.flush()?;
                self.set_aside_after(last.seq, epoch)?;
                self.image.cut(last, generation)?;
                self.image.flush()?;
                // Whatever could not be applied came after it.
                self.stuck = false;
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

    fn set_aside_after(&mut self, last: Seq, epoch: Epoch) -> Result<(), ImageError> {
        let mut from = last.next();
        let end = self.image.progress()?.appended.seq;
        while from <= end {
            let records = match self.image.read_log(from, CUT_STEP_LEN) {
                Err(error) if error.is_of_stored_bytes() => self.read_one(from)?,
                read => read?,
            };
            (self.set_aside)(&self.origin, epoch, &records)?;
            from = records.last().map_or(from, |r| r.header.seq).next();
        }
        Ok(())
    }

    /// One record for a tail; none where it is damaged: the others are set aside without it.
    fn read_one(&self, seq: Seq) -> Result<Vec<Record>, ImageError> {
        match self.image.read_log(seq, 1) {
            Err(error) if error.is_of_stored_bytes() => {
                tracing::warn!(origin = %self.origin, "record {seq} is damaged and cannot be set aside: {error}");
                Ok(Vec::new())
            }
            read => read,
        }
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
        let at = match self.image.apply(self.apply_through, self.limits.apply_step) {
            Err(error) if error.is_of_stored_bytes() => return self.stick(&error).map(Some),
            applied => applied?,
        };
        if at.seq >= self.apply_through {
            self.apply_through = Seq::ZERO;
        }
        Ok(Some(Event::Applied { origin: self.origin.clone(), at }))
    }

    /// The next record cannot be applied. Nothing else is held up by it, and it is not tried again: that would find the same.
    fn stick(&mut self, error: &ImageError) -> Result<Event, ImageError> {
        let at = self.image.progress()?.applied.seq.next();
        (self.apply_through, self.stuck) = (Seq::ZERO, true);
        Ok(Event::Stuck { origin: self.origin.clone(), at, reason: error.to_string() })
    }

    /// Goes on until a step finds nothing to remove: whatever is dropped between two consistency points goes at the second.
    fn collect_step(&mut self) -> Result<(), ImageError> {
        if let Some(through) = self.collect_through {
            let waiting = self.image.collect(through, 0)?;
            if self.image.collect(through, self.limits.collect_step)? == waiting {
                self.collect_through = None;
            } else {
                self.collected = true;
            }
        }
        Ok(())
    }
}
