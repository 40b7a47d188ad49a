//! What goes to a tail before it goes from the container: every record after the point at which two histories part, and the
//! chunks that came at or before that point and without which an object or part of the tail is not whole. These lie here
//! only until the history that goes on gives the body up, or until a baseline takes the engine's place.
//!
//! Taken are the chunks of bodies that a `PutObject` or `UploadPart` of the tail is the first to name. What the common
//! history refers to stays where it is, however large: a copy's source, the parts of an upload that was completed behind the
//! cut. Both nodes have that for as long as the history that goes on has it. Where it cannot be told, it is taken.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use lockstep_storage::id::{BodyId, Epoch, Origin, Seq};
use lockstep_storage::image::{ImageError, View, body_name};
use lockstep_storage::op::{Extent, Mutation};
use lockstep_storage::record::{Header, Record};

use super::{Worker, is_damage, read_log};

/// Bytes of records, or of chunks, that are set aside in one step.
pub(crate) const CUT_STEP_LEN: usize = 4 << 20;
/// Most bodies that are remembered of a tail. Beyond it more is set aside than is needed, never less.
const BODIES_MAX: usize = 64 << 10;

/// A chunk of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Whose.
    pub body: BodyId,
    /// Its number, from 0.
    pub index: u32,
    /// Its bytes.
    pub bytes: Bytes,
}

/// A step of what is set aside.
#[derive(Debug, Clone, Copy)]
pub enum Aside<'a> {
    /// Records, in their order.
    Records(&'a [Record]),
    /// Chunks of one body from before the first record of the tail, in their order. The last record that was given names it.
    Chunks(&'a [Chunk]),
}

/// Takes what a cut sets aside; called before it is removed, and all of it must be durable when it returns. A cut that is
/// tried again gives the same again, from its first record.
pub type SetAside = Box<dyn FnMut(&Origin, Epoch, Aside<'_>) -> Result<(), ImageError> + Send>;

/// Where this node's history and the one that goes on part.
pub(super) struct Parting {
    /// The last record that both have.
    pub(super) common: Seq,
    /// The last one that is not set aside. A later one, where more was trimmed; an earlier one, where all is given up.
    pub(super) after: Seq,
    /// Epoch for the tail's name.
    pub(super) epoch: Epoch,
}

impl Worker {
    /// Sets everything aside that comes after, and what its objects need from before.
    pub(super) fn set_aside_after(&mut self, parting: &Parting) -> Result<(), ImageError> {
        let view = self.image.view();
        let progress = view.progress()?;
        let mut needs = Needs::new(parting, progress.applied.seq);
        let (mut from, end) = (parting.after.next(), progress.appended.seq);
        while from <= end {
            let records = match read_log(&view, from, CUT_STEP_LEN) {
                Err(error) if is_damage(&error) => {
                    // The peer never had it: the rest of the tail is kept all the same.
                    tracing::warn!(origin = %self.origin, "record {from} cannot be set aside: {error}");
                    from = from.next();
                    continue;
                }
                records => records?,
            };
            let mut given = 0;
            for (index, record) in records.iter().enumerate() {
                let wanted = needs.of(&view, record)?;
                if wanted.is_empty() {
                    continue;
                }
                // The chunks belong to the record that came last.
                self.give(parting, Aside::Records(&records[given..=index]))?;
                given = index + 1;
                for want in wanted {
                    self.set_chunks_aside(&view, parting, want)?;
                }
            }
            if given < records.len() {
                self.give(parting, Aside::Records(&records[given..]))?;
            }
            from = records.last().map_or(end, |r| r.header.seq).next();
        }
        Ok(())
    }

    fn give(&mut self, parting: &Parting, step: Aside<'_>) -> Result<(), ImageError> {
        (self.set_aside)(&self.origin, parting.epoch, step)
    }

    /// What is damaged is left out: the rest of the object is worth as much without it.
    fn set_chunks_aside(&mut self, view: &View, parting: &Parting, want: Want) -> Result<(), ImageError> {
        let (mut chunks, mut bytes_len, mut damaged) = (Vec::new(), 0, 0_u32);
        for index in 0..want.chunks {
            let bytes = match view.chunk_if_there(want.body, index) {
                Ok(Some(bytes)) => bytes,
                // An op may claim as many as it likes: no chunk comes after one that never was.
                Ok(None) => {
                    damaged += 1;
                    break;
                }
                Err(error) if is_damage(&error) => {
                    damaged += 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            bytes_len += bytes.len();
            chunks.push(Chunk { body: want.body, index, bytes });
            if bytes_len >= CUT_STEP_LEN {
                self.give(parting, Aside::Chunks(&chunks))?;
                (chunks, bytes_len) = (Vec::new(), 0);
            }
        }
        if damaged > 0 {
            let (origin, body) = (&self.origin, body_name(want.body));
            tracing::warn!(%origin, body, damaged, "chunks of a body are missing or damaged, and not set aside");
        }
        if chunks.is_empty() { Ok(()) } else { self.give(parting, Aside::Chunks(&chunks)) }
    }
}

/// The first chunks of a body that are not in the tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Want {
    body: BodyId,
    /// So many.
    chunks: u32,
}

/// What the ops of a tail need from before it, as its records are gone through in their order.
struct Needs {
    common: Seq,
    after: Seq,
    applied: Seq,
    /// Bodies from before the tail of which chunks stand in it, with the number of the first.
    begun: BTreeMap<BodyId, u32>,
    /// Bodies that an op of the tail has named.
    named: BTreeSet<BodyId>,
}

impl Needs {
    fn new(parting: &Parting, applied: Seq) -> Self {
        let Parting { common, after, .. } = *parting;
        Self { common, after, applied, begun: BTreeMap::new(), named: BTreeSet::new() }
    }

    fn of(&mut self, view: &View, record: &Record) -> Result<Vec<Want>, ImageError> {
        let mut wanted = Vec::new();
        match record.mutation()? {
            Mutation::Data(data) => {
                let body = record.body_of(&data);
                if body.seq <= self.after && self.begun.len() < BODIES_MAX {
                    self.begun.entry(body).or_insert(data.index);
                }
            }
            Mutation::AbandonBody(abandon) => {
                self.begun.remove(&abandon.body.into());
            }
            Mutation::PutObject(op) => {
                for extent in &op.object.extents {
                    wanted.extend(self.put(view, &record.header, extent)?);
                }
            }
            Mutation::UploadPart(op) => {
                for extent in &op.part.extents {
                    wanted.extend(self.put(view, &record.header, extent)?);
                }
            }
            Mutation::CompleteMultipartUpload(op) => {
                // The parts of before: with the source as an open upload; but not those that it never had.
                let lacking = |extent: &&Extent| BodyId::from(extent.body).seq > self.common;
                let lacking: Vec<Extent> = op.object.extents.iter().filter(lacking).copied().collect();
                wanted.extend(lacking.iter().filter_map(|extent| self.name(extent)));
            }
            _ => {}
        }
        Ok(wanted)
    }

    /// An object or a part that an op puts: its own, or a copy.
    fn put(&mut self, view: &View, op: &Header, extent: &Extent) -> Result<Option<Want>, ImageError> {
        let Some(want) = self.name(extent) else { return Ok(None) };
        Ok(if self.is_kept(view, op, want.body)? { None } else { Some(want) })
    }

    /// A body is named: what is not in the tail, where it is named for the first time.
    fn name(&mut self, extent: &Extent) -> Option<Want> {
        let body = BodyId::from(extent.body);
        if body.seq > self.after || self.named.contains(&body) {
            return None;
        }
        if self.named.len() < BODIES_MAX {
            self.named.insert(body);
        }
        let all = if extent.chunk_len == 0 { 0 } else { extent.len.div_ceil(u64::from(extent.chunk_len)) };
        let all = u32::try_from(all).unwrap_or(u32::MAX);
        let chunks = self.begun.remove(&body).unwrap_or(u32::MAX).min(all);
        (chunks > 0).then_some(Want { body, chunks })
    }

    /// Does the common history refer to a body that an op names? No, where that cannot be told.
    fn is_kept(&self, view: &View, op: &Header, body: BodyId) -> Result<bool, ImageError> {
        if op.seq <= self.common {
            return Ok(true);
        }
        if self.common < self.after {
            // What refers to it may be trimmed, and the source never had it.
            return Ok(false);
        }
        // The first record of an epoch gives up what the one before left open. And where nothing that the source lacks is in
        // the image, what refers to a body there the source has too.
        Ok(body.epoch != op.epoch || (self.applied <= self.common && view.refers_to(body)?))
    }
}
