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
    /// The last record that was trimmed from its container.
    pub(super) trimmed: Seq,
    /// Records up to here were more than the backlog may hold: they may go without the peer.
    pub(super) given_up: Seq,
    /// The generation of its engine.
    pub(super) generation: u64,
    /// The last record that its image showed before the site began anew: its peer may have heard so.
    pub(super) showed: Seq,
    /// It took writes, and has not been the other one's destination since.
    pub(super) was_source: bool,
    /// Records here are damaged, and nobody has said yet that the source goes on without them.
    pub(super) gap: bool,
    /// The source went on without records that readers may have seen here: its operator said so.
    pub(super) may_go_back: bool,
    /// Its site, the origin's home, began anew, and nobody has filled it since: it may take no writes.
    pub(super) anew: bool,
    /// What was durable here before the site began anew: its peer may have heard so.
    pub(super) before: Vec<Position>,
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
            showed: Seq::ZERO,
            trimmed: Seq::ZERO,
            given_up: Seq::ZERO,
            generation: 0,
            was_source: false,
            gap: false,
            may_go_back: false,
            anew: false,
            before: Vec::new(),
        }
    }

    /// The site begins anew, with nothing.
    pub(super) fn renew(&mut self) {
        let durable = self.durable().0 as usize;
        let longer = durable > self.before.len();
        let before = if longer { self.line[..durable].to_vec() } else { std::mem::take(&mut self.before) };
        let (received, showed) = (self.received, self.showed.max(self.shown));
        // The first generation of a new node.
        *self = Self { received, before, showed, generation: 1, ..Self::new(self.site, &self.origin, self.extent) };
    }

    /// Everything after `left` is damaged.
    pub(super) fn damage(&mut self, left: Seq) {
        let durable = self.durable().0 as usize;
        if durable > self.before.len() {
            self.before = self.line[..durable].to_vec();
        }
        self.gap = true;
        let len = left.0 as usize;
        self.line.truncate(len);
        self.written = len;
        self.persisted = len;
        self.applied = self.applied.min(left);
        self.showed = self.showed.max(self.shown);
        self.shown = self.shown.min(left);
        self.answered = if self.answered.seq > left { self.at(left) } else { self.answered };
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
