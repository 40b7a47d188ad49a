//! The engine's side of the core's effects, one origin at a time and in order: append, apply, trim, collect, read back, cut;
//! in [`filling`], what a baseline asks for at either end; in [`mending`], what a damaged chunk does.
//! Synchronous, so that the simulator carries effects out by the same code as the runtime's threads.

mod filling;
mod mending;

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

/// Is something damaged that is stored, as opposed to a device or an engine that does not do its work?
pub(crate) fn is_damage(error: &ImageError) -> bool {
    matches!(error, ImageError::Corrupt(_) | ImageError::Chunk { .. })
}

/// What the core is told of an engine that could not do what it was asked.
#[must_use]
pub fn failure(origin: &Origin, error: &ImageError) -> Event {
    let damaged = matches!(error, ImageError::Corrupt(_));
    Event::EngineFailed { origin: origin.clone(), reason: error.to_string(), damaged }
}

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
                return Ok(Some(match self.fetch(from, bytes_max) {
                    Err(error) if is_damage(&error) => {
                        Event::FetchFailed { origin, connection, seq: from, reason: error.to_string() }
                    }
                    records => Event::Fetched { origin, connection, records: records? },
                }));
            }
            Effect::Repair { task, .. } => {
                let step = self.mend(task)?;
                return Ok(Some(Event::Repair { origin, step }));
            }
            Effect::Cut { last, epoch, generation, .. } => {
                self.image.flush()?;
                self.set_aside_after(last.seq, epoch)?;
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

    /// Records from one on; where some of them are damaged, the first alone, if it is not.
    fn fetch(&self, from: Seq, bytes_max: usize) -> Result<Vec<Record>, ImageError> {
        match self.image.read_log(from, bytes_max) {
            Err(error) if is_damage(&error) => self.image.read_log(from, 0),
            read => read,
        }
    }

    fn set_aside_after(&mut self, last: Seq, epoch: Epoch) -> Result<(), ImageError> {
        let mut from = last.next();
        let end = self.image.progress()?.appended.seq;
        while from <= end {
            let records = match self.fetch(from, CUT_STEP_LEN) {
                Err(ImageError::Chunk { chunk, what }) => {
                    // The peer never had it: the rest of the tail is kept all the same.
                    tracing::warn!(origin = %self.origin, "record {from} cannot be set aside: {chunk}: {what}");
                    from = from.next();
                    continue;
                }
                records => records?,
            };
            (self.set_aside)(&self.origin, epoch, &records)?;
            from = records.last().map_or(end, |r| r.header.seq).next();
        }
        Ok(())
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
