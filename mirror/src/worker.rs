//! The engine's side of the core's effects, one origin at a time and in order: append, apply, trim, collect, read back, cut;
//! in [`aside`], what goes to a tail before a cut; in [`filling`], what a baseline asks for at either end; in [`mending`],
//! what a damaged chunk does.
//! Synchronous, so that the simulator carries effects out by the same code as the runtime's threads.

mod aside;
mod filling;
mod mending;

use lockstep_storage::id::{Origin, Seq};
use lockstep_storage::image::{Image, ImageError, View};
use lockstep_storage::record::Record;

use crate::event::{Effect, Event};
use crate::plan::Limits;

pub(crate) use self::aside::CUT_STEP_LEN;
use self::aside::Parting;
pub use self::aside::{Aside, Chunk, SetAside};
use self::filling::Filling;
pub use self::filling::Generations;

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

/// Records from one on; where some of them are damaged, the first alone, if it is not.
fn read_log(view: &View, from: Seq, bytes_max: usize) -> Result<Vec<Record>, ImageError> {
    match view.read_log(from, bytes_max) {
        Err(error) if is_damage(&error) => view.read_log(from, 0),
        read => read,
    }
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
                return Ok(Some(match read_log(&self.image.view(), from, bytes_max) {
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
                self.set_aside_after(&Parting { common: last.seq, after: last.seq, epoch })?;
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
            Err(error) if error.is_of_stored_bytes() && !self.is_next_sound()? => return self.stick(&error).map(Some),
            applied => applied?,
        };
        if at.seq >= self.apply_through {
            self.apply_through = Seq::ZERO;
        }
        Ok(Some(Event::Applied { origin: self.origin.clone(), at }))
    }

    /// Can the next record be read and understood? Then what apply has met is damaged in the image, not in the log.
    fn is_next_sound(&self) -> Result<bool, ImageError> {
        let next = self.image.progress()?.applied.seq.next();
        Ok(match self.image.read_log(next, 0) {
            Ok(records) => records.first().is_some_and(|record| record.mutation().is_ok()),
            Err(error) => matches!(error, ImageError::Chunk { .. }),
        })
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
