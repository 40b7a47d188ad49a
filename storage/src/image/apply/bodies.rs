//! Reference counts of bodies. A body is *open* from its first chunk until something refers to it; then it is counted;
//! when nothing refers to it any more, or it is given up, it waits in the garbage queue under the seq of the op that
//! dropped it, until it is collected. Only apply changes counts, so both sites count the same.
//!
//! Cases that a sound source never makes, and what they do: an extent that names a body in the queue takes it out again;
//! an extent that names a body of which no chunk ever came is counted all the same, and a reader finds it corrupt; a
//! chunk for a body that is counted or waits already lengthens it, so that it is collected with the rest.

use super::batch::Batch;
use crate::id::{BodyId, Seq};
use crate::image::ImageError;
use crate::image::keys::{self, BodyEntry, OpenBody, Waiting};
use crate::op::Extent;

/// A chunk came.
pub(super) fn extend(batch: &mut Batch, body: BodyId, index: u32, len: u64) -> Result<(), ImageError> {
    let chunks = u64::from(index) + 1;
    if let Some(mut entry) = entry(batch, body)? {
        if entry.count == 0 {
            wait(batch, |waiting| waiting.bytes = waiting.bytes.saturating_add(len))?;
        }
        entry.chunks = entry.chunks.max(chunks);
        entry.len = entry.len.saturating_add(len);
        batch.put(keys::body(body), entry.encode());
        return Ok(());
    }
    let open = open(batch, body)?.unwrap_or_default();
    let open = OpenBody { chunks: open.chunks.max(chunks), len: open.len.saturating_add(len) };
    batch.put(keys::open_body(body), open.encode());
    Ok(())
}

/// Something refers to these bodies now.
pub(super) fn refer(batch: &mut Batch, extents: &[Extent]) -> Result<(), ImageError> {
    for extent in extents {
        let body = extent.body.into();
        let entry = match entry(batch, body)? {
            Some(entry) if entry.count > 0 => BodyEntry { count: entry.count.saturating_add(1), ..entry },
            Some(entry) => {
                batch.delete(keys::garbage(entry.dropped, body));
                wait(batch, |waiting| {
                    waiting.bodies = waiting.bodies.saturating_sub(1);
                    waiting.bytes = waiting.bytes.saturating_sub(entry.len);
                })?;
                BodyEntry { count: 1, dropped: Seq::ZERO, ..entry }
            }
            None => first_reference(batch, body, extent)?,
        };
        batch.put(keys::body(body), entry.encode());
    }
    Ok(())
}

fn first_reference(batch: &mut Batch, body: BodyId, extent: &Extent) -> Result<BodyEntry, ImageError> {
    let open = match open(batch, body)? {
        Some(open) => {
            batch.delete(keys::open_body(body));
            open
        }
        None => OpenBody { chunks: extent.len.div_ceil(u64::from(extent.chunk_len.max(1))), len: extent.len },
    };
    Ok(BodyEntry { count: 1, chunks: open.chunks, len: open.len, dropped: Seq::ZERO })
}

/// The op at `seq` ended these references.
pub(super) fn release(batch: &mut Batch, seq: Seq, extents: &[Extent]) -> Result<(), ImageError> {
    for extent in extents {
        let body = extent.body.into();
        match entry(batch, body)? {
            Some(entry) if entry.count > 1 => {
                let entry = BodyEntry { count: entry.count - 1, ..entry };
                batch.put(keys::body(body), entry.encode());
            }
            Some(entry) if entry.count == 1 => queue(batch, seq, body, entry)?,
            _ => {}
        }
    }
    Ok(())
}

/// The op at `seq` could not use these bodies: those that are open are given up; what others refer to stays.
pub(super) fn reject(batch: &mut Batch, seq: Seq, extents: &[Extent]) -> Result<(), ImageError> {
    extents.iter().try_for_each(|extent| give_up(batch, seq, extent.body.into()))
}

/// The op at `seq` gives up a body if it is open.
pub(super) fn give_up(batch: &mut Batch, seq: Seq, body: BodyId) -> Result<(), ImageError> {
    let Some(open) = open(batch, body)? else { return Ok(()) };
    batch.delete(keys::open_body(body));
    queue(batch, seq, body, BodyEntry { chunks: open.chunks, len: open.len, ..BodyEntry::default() })
}

/// The op at `seq` gives up every open body of an epoch before `epoch`.
pub(super) fn give_up_before(batch: &mut Batch, seq: Seq, epoch: crate::id::Epoch) -> Result<(), ImageError> {
    let from = [keys::OPEN_BODY];
    for (key, _) in batch.scan(&from, &keys::successor(&from))? {
        let corrupt = || ImageError::Corrupt("key of an open body".into());
        let body = keys::open_body_id(&key).ok_or_else(corrupt)?;
        if body.epoch < epoch {
            give_up(batch, seq, body)?;
        }
    }
    Ok(())
}

fn queue(batch: &mut Batch, seq: Seq, body: BodyId, entry: BodyEntry) -> Result<(), ImageError> {
    batch.put(keys::body(body), BodyEntry { count: 0, dropped: seq, ..entry }.encode());
    batch.put(keys::garbage(seq, body), bytes::Bytes::new());
    wait(batch, |waiting| {
        waiting.bodies = waiting.bodies.saturating_add(1);
        waiting.bytes = waiting.bytes.saturating_add(entry.len);
    })
}

/// Changes the figures of the garbage queue.
pub(super) fn wait(batch: &mut Batch, change: impl FnOnce(&mut Waiting)) -> Result<(), ImageError> {
    let mut waiting = match batch.get(keys::WAITING)? {
        Some(value) => Waiting::decode(&value)?,
        None => Waiting::default(),
    };
    change(&mut waiting);
    batch.put(keys::WAITING.to_vec(), waiting.encode());
    Ok(())
}

pub(super) fn entry(batch: &mut Batch, body: BodyId) -> Result<Option<BodyEntry>, ImageError> {
    batch.get(&keys::body(body))?.map(|value| BodyEntry::decode(&value)).transpose()
}

fn open(batch: &mut Batch, body: BodyId) -> Result<Option<OpenBody>, ImageError> {
    batch.get(&keys::open_body(body))?.map(|value| OpenBody::decode(&value)).transpose()
}
