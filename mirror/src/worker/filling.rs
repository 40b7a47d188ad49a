//! What a baseline asks of a worker: at its giver, freeze and read; at its taker, fill an engine of the next generation and
//! put it in place of the origin's own.

use std::sync::Arc;

use lockstep_storage::id::{Position, Seq};
use lockstep_storage::image::baseline::{Bookmark, Piece};
use lockstep_storage::image::{Engine, Image, ImageError};

use super::aside::Parting;
use super::{Worker, is_damage};
use crate::event::{BaselineStep, BaselineTask};

/// Where the engines of one origin are, by generation.
pub trait Generations: Send {
    /// Opens the engine of a generation, made where it is not there yet.
    ///
    /// # Errors
    /// The engine's.
    fn open(&mut self, generation: u64) -> Result<Arc<dyn Engine>, ImageError>;

    /// Removes the engine of a generation, where there is one. It is not open.
    ///
    /// # Errors
    /// When its files cannot be removed.
    fn remove(&mut self, generation: u64) -> Result<(), ImageError>;

    /// Bytes of disk that may be used; none where that is not known.
    fn free_bytes(&mut self) -> Option<u64>;
}

/// An engine on its way to being an image.
pub(super) struct Filling {
    generation: u64,
    engine: Arc<dyn Engine>,
    image: Image,
    /// Bytes that were taken since the bookmark was placed.
    loose_bytes: u64,
}

impl Worker {
    pub(super) fn baseline(&mut self, task: BaselineTask) -> Result<Option<BaselineStep>, ImageError> {
        match task {
            BaselineTask::Freeze => self.freeze().map(Some),
            BaselineTask::Thaw => self.image.thaw().map(|()| None),
            BaselineTask::Read { connection, from, bytes_max } => {
                let Some(frozen) = self.image.frozen() else { return Ok(None) };
                // A chunk that was repaired since it was frozen is so in the engine only.
                let image = self.image.clone();
                let frozen = frozen.with_mend(Arc::new(move |c| image.view().chunk(c.body, c.index).ok()));
                let read = || -> Result<_, ImageError> {
                    Ok((frozen.progress()?.applied, frozen.read_baseline(&from, bytes_max)?))
                };
                match read() {
                    Ok((at, portion)) => Ok(Some(BaselineStep::Read { connection, at, portion })),
                    Err(error) if is_damage(&error) => {
                        Ok(Some(BaselineStep::Unreadable { connection, reason: error.to_string() }))
                    }
                    Err(error) => Err(error),
                }
            }
            BaselineTask::SetAside { common, after, epoch } => {
                self.set_aside_after(&Parting { common, after, epoch })?;
                Ok(Some(BaselineStep::SetAside))
            }
            BaselineTask::Begin { generation, at, bytes } => self.begin(generation, at, bytes).map(Some),
            BaselineTask::Take { at, pieces, next } => self.take(at, pieces, next),
            BaselineTask::Swap => self.swap(),
            BaselineTask::Drop => {
                if let Some(Filling { generation, .. }) = self.filling.take() {
                    self.generations.remove(generation)?;
                }
                Ok(None)
            }
        }
    }

    fn freeze(&mut self) -> Result<BaselineStep, ImageError> {
        let at = if let Some(frozen) = self.image.frozen() {
            frozen.progress()?.applied
        } else {
            // The taker may have shown its readers all that is committed here: what it gets is not older.
            let mut before = None;
            let mut at = self.image.progress()?.applied;
            while at.seq < self.apply_through && before != Some(at) {
                before = Some(at);
                at = match self.image.apply(self.apply_through, self.limits.apply_step) {
                    // The next step says so.
                    Err(error) if error.is_of_stored_bytes() => break,
                    applied => applied?,
                };
            }
            self.image.freeze()?
        };
        Ok(BaselineStep::Frozen { at, bytes: self.image.size() })
    }

    /// Goes on with what an earlier attempt filled, where it is of the same moment; else begins anew, where there is room.
    fn begin(&mut self, generation: u64, at: Position, bytes: u64) -> Result<BaselineStep, ImageError> {
        let filling = match self.filling.take().filter(|filling| filling.generation == generation) {
            Some(filling) => filling,
            None => self.open_generation(generation)?,
        };
        if let Some(next) = place_in(&filling.image, at)? {
            let have = filling.image.size();
            self.filling = Some(filling);
            return Ok(BaselineStep::Begun { at, next, have });
        }
        drop(filling);
        self.generations.remove(generation)?;
        if let Some(free) = self.generations.free_bytes().filter(|free| *free < bytes) {
            let origin = &self.origin;
            let reason = format!("a baseline of {origin} needs about {bytes} bytes, and {free} are free");
            return Ok(BaselineStep::Refused { reason });
        }
        let filling = self.open_generation(generation)?;
        filling.image.begin_baseline(at)?;
        self.filling = Some(filling);
        Ok(BaselineStep::Begun { at, next: Bookmark::default(), have: 0 })
    }

    fn open_generation(&mut self, generation: u64) -> Result<Filling, ImageError> {
        let engine = self.generations.open(generation)?;
        Ok(Filling { generation, image: Image::new(Arc::clone(&engine)), engine, loose_bytes: 0 })
    }

    fn take(
        &mut self,
        at: Position,
        pieces: Vec<Piece>,
        next: Option<Bookmark>,
    ) -> Result<Option<BaselineStep>, ImageError> {
        let step_len = self.limits.baseline_step_len;
        // Of an attempt that is over, in the middle of which the origin was promoted.
        let Some(filling) = &mut self.filling else { return Ok(None) };
        let bytes = pieces.iter().map(Piece::len).sum::<usize>() as u64;
        let whole = next.is_none();
        if filling.image.baseline()?.is_some_and(|(of, _)| of == at) {
            filling.image.take_pieces(at, pieces)?;
            filling.loose_bytes += bytes;
            match next {
                None => filling.image.end_baseline(at)?,
                Some(next) if filling.loose_bytes >= step_len => {
                    filling.image.place_bookmark(at, &next)?;
                    filling.loose_bytes = 0;
                }
                Some(_) => {}
            }
        }
        Ok(Some(BaselineStep::Taken { at, bytes, whole }))
    }

    fn swap(&mut self) -> Result<Option<BaselineStep>, ImageError> {
        let Some(Filling { engine, .. }) = self.filling.take() else {
            return Err(ImageError::Engine("no engine is filled that could be put in place".into()));
        };
        let before = self.image.swap(engine);
        before.retire();
        (self.apply_through, self.stuck, self.collect_through) = (Seq::ZERO, false, None);
        let (progress, time_ms) = (self.image.progress()?, self.image.view().time_ms()?);
        Ok(Some(BaselineStep::Swapped { progress, time_ms }))
    }
}

/// The first piece that an engine lacks of the image at a record; none where it is not of that moment.
fn place_in(image: &Image, at: Position) -> Result<Option<Bookmark>, ImageError> {
    match image.baseline()? {
        Some((of, next)) => Ok((of == at).then_some(next)),
        // Whole, and the superblock did not come to say so.
        None => Ok((image.progress()?.applied == at).then(Bookmark::end)),
    }
}
