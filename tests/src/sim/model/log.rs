//! One origin's log at one site: what of it is where.

use lockstep_storage::id::{Origin, Position, Seq};
use lockstep_storage::image::Progress;
use lockstep_storage::partition::Extent;

use crate::sim::scenario::Site;

/// One origin's log at one site, as it truly is.
#[derive(Debug)]
pub struct LogTruth {
    /// Where.
    pub site: Site,
    /// Whose.
    pub origin: Origin,
    /// Its partition.
    pub extent: Extent,
    /// Every record of the present line of history that was placed here, by seq.
    pub line: Vec<Position>,
    /// Records that the device was given.
    pub(super) written: usize,
    /// Records that the device has made durable.
    pub(super) persisted: usize,
    /// What the engine has made durable.
    pub flushed: Progress,
    /// What the image shows.
    pub applied: Seq,
    /// The last record in each segment of the partition.
    pub(super) segments: Vec<Seq>,
    /// Highest seq that was ever delivered to this process.
    pub received: Seq,
    /// Of these, what the process that runs now has had, in its memory at least.
    pub(super) held: Seq,
    /// The last record here that a client was answered for.
    pub(super) answered: Position,
    /// The last record that its image ever showed.
    pub shown: Seq,
    /// It took writes, and has not been the other one's destination since.
    pub(super) was_source: bool,
    /// What was durable here before the site began anew: its peer may have heard so.
    before: Vec<Position>,
}

impl LogTruth {
    /// A log that nothing was written to.
    pub(super) fn new(site: Site, origin: &Origin, extent: Extent) -> Self {
        Self {
            site,
            origin: origin.clone(),
            extent,
            line: Vec::new(),
            written: 0,
            persisted: 0,
            flushed: Progress::default(),
            applied: Seq::ZERO,
            segments: vec![Seq::ZERO; extent.segments as usize],
            received: Seq::ZERO,
            held: Seq::ZERO,
            answered: Position::default(),
            shown: Seq::ZERO,
            was_source: false,
            before: Vec::new(),
        }
    }

    /// The site begins anew, with nothing.
    pub(super) fn renew(&mut self) {
        let durable = self.durable().0 as usize;
        let longer = durable > self.before.len();
        let before = if longer { self.line[..durable].to_vec() } else { std::mem::take(&mut self.before) };
        let received = self.received;
        *self = Self { received, before, ..Self::new(self.site, &self.origin, self.extent) };
    }

    /// The last record of which the peer may have heard that it is durable here.
    #[must_use]
    pub fn claimed(&self) -> Seq {
        self.durable().max(Seq(self.before.len() as u64))
    }

    /// May the peer have heard that this record is durable here?
    #[must_use]
    pub fn has_claimed(&self, at: Position) -> bool {
        let here = self.holds(at) && at.seq <= self.durable();
        here || at.seq.0.checked_sub(1).and_then(|index| self.before.get(index as usize)) == Some(&at)
    }

    /// The last record that a power failure would leave, device and engine together.
    #[must_use]
    pub fn durable(&self) -> Seq {
        Seq(self.persisted as u64).max(self.flushed.appended.seq)
    }

    /// Is this record part of the line, or before its first?
    #[must_use]
    pub fn holds(&self, at: Position) -> bool {
        at.seq == Seq::ZERO || self.line.get(at.seq.0 as usize - 1) == Some(&at)
    }

    /// The record at a seq.
    #[must_use]
    pub fn at(&self, seq: Seq) -> Position {
        let index = (seq.0 as usize).checked_sub(1);
        index.and_then(|index| self.line.get(index)).copied().unwrap_or_default()
    }

    /// The last record placed.
    #[must_use]
    pub fn last(&self) -> Position {
        self.line.last().copied().unwrap_or_default()
    }
}
