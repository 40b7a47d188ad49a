//! The engine's side of the core's effects, one origin at a time and in order: append, apply, trim, collect, read back, cut.
//! Synchronous, so that the simulator carries effects out by the same code as the runtime's threads.

use lockstep_storage::id::{Epoch, Origin, Seq};
use lockstep_storage::image::{Image, ImageError};
use lockstep_storage::record::Record;

use crate::event::{Effect, Event};

/// Records applied in one step.
const APPLY_STEP: usize = 256;
/// Chunks deleted in one step.
const COLLECT_STEP: usize = 256;
/// Bytes of records that are set aside in one step.
const CUT_STEP_LEN: usize = 4 << 20;

/// Takes the records that a cut sets aside; called before they are removed, and they must be durable when it returns.
pub type SetAside = Box<dyn FnMut(&Origin, Epoch, &[Record]) -> Result<(), ImageError> + Send>;

/// One origin's worker.
pub struct Worker {
    origin: Origin,
    image: Image,
    set_aside: SetAside,
    apply_through: Seq,
}

impl Worker {
    /// A worker on an image.
    #[must_use]
    pub fn new(origin: Origin, image: Image, set_aside: SetAside) -> Self {
        Self { origin, image, set_aside, apply_through: Seq::ZERO }
    }

    /// The image.
    #[must_use]
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// Is there something left to apply?
    #[must_use]
    pub fn is_applying(&self) -> bool {
        self.apply_through > Seq::ZERO
    }

    /// Carries an effect out. An apply is only noted: [`Worker::apply_step`] does it, between other effects.
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
            Effect::Collect { through, .. } => {
                self.image.collect(through, COLLECT_STEP)?;
            }
            Effect::Fetch { connection, from, bytes_max, .. } => {
                let records = self.image.read_log(from, bytes_max)?;
                return Ok(Some(Event::Fetched { origin, connection, records }));
            }
            Effect::Cut { last, epoch, .. } => {
                let mut from = last.seq.next();
                let end = self.image.progress()?.appended.seq;
                while from <= end {
                    let records = self.image.read_log(from, CUT_STEP_LEN)?;
                    (self.set_aside)(&origin, epoch, &records)?;
                    from = records.last().map_or(end, |r| r.header.seq).next();
                }
                self.image.cut(last)?;
                self.image.flush()?;
                return Ok(Some(Event::Cut { origin, at: last }));
            }
            _ => {}
        }
        Ok(None)
    }

    /// Applies some records, if any are asked for.
    ///
    /// # Errors
    /// The engine's.
    pub fn apply_step(&mut self) -> Result<Option<Event>, ImageError> {
        if !self.is_applying() {
            return Ok(None);
        }
        let at = self.image.apply(self.apply_through, APPLY_STEP)?;
        if at.seq >= self.apply_through {
            self.apply_through = Seq::ZERO;
        }
        Ok(Some(Event::Applied { origin: self.origin.clone(), at }))
    }
}
