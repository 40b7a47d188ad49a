//! What a restart finds: reads an origin's partition, puts what the engine lacks back into its container, and says how far
//! the origin is.
//!
//! *End of the log*: a record counts only with its segment's generation, the next seq and its parent's checksum. A bad one
//! at n is corruption if and only if a later sound one says that this node had persisted n; else everything from n on is
//! a torn tail that was never acknowledged, and is left out (F9, F10, F11).

use bytes::Bytes;

use crate::id::{NodeId, Position, Seq};
use crate::image::{Image, ImageError, Progress};
use crate::nvram::{BLOCK_LEN, Nvram, NvramError};
use crate::partition::{Extent, STAMP_LEN, SegmentHeader, Stamp, slot_len};
use crate::record::{HEADER_LEN, Record};

/// Why an origin cannot be recovered without its peer.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The device failed.
    #[error(transparent)]
    Nvram(#[from] NvramError),
    /// The engine failed.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The partition continues another history than the engine's.
    #[error("the NVRAM and the storage engine hold different histories at record {seq}")]
    Diverged {
        /// Where they differ.
        seq: Seq,
    },
}

/// Records that were durable and do not verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    /// The first.
    pub from: Seq,
    /// The last that is known to have been durable. Of what is between, nothing is used.
    pub through: Seq,
}

/// How far an origin is after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovered {
    /// The engine's marks; everything up to `appended` is durable in it.
    pub progress: Progress,
    /// Highest seq that a record says was committed. What is above is uncertain.
    pub committed: Seq,
    /// Modification time of the last record, milliseconds since 1970.
    pub time_ms: u64,
    /// No generation above it was ever used in the partition.
    pub generation: u64,
    /// What was durable after that and is damaged: only the peer may have it (F10).
    pub damaged: Option<Damage>,
    /// The record at which the image is frozen, where it is.
    pub frozen: Option<Seq>,
}

/// Brings the container to the end of the log and flushes it. After that every segment of the partition is free: the
/// caller stores the returned generation as the floor before it writes there again, so that what a torn tail left
/// behind is never taken for a record.
///
/// # Errors
/// A divergence is for the operator to settle; a second try finds the same.
pub fn recover(
    nvram: &mut dyn Nvram,
    origin: NodeId,
    extent: Extent,
    generation_floor: u64,
    image: &Image,
) -> Result<Recovered, RecoveryError> {
    // A cut is durable with its floor, or not at all; the caller's may not have been stored any more.
    let generation_floor = generation_floor.max(image.generation_floor()?);
    let generation = highest_generation(nvram, origin, extent, generation_floor)?;
    let segments = headers(nvram, origin, extent)?;
    let mut end = End { last: image.progress()?.appended, missing: None, vouched: Seq::ZERO };
    for (header, at) in segments.into_iter().filter(|(header, _)| header.generation > generation_floor) {
        let bytes = nvram.read(at, extent.segment_len as usize)?;
        let mut scan = Scan { bytes, at: BLOCK_LEN as usize, generation: header.generation };
        let (mut known, mut found) = (Vec::new(), Vec::new());
        while let Some((record, persisted)) = scan.next() {
            end.follow(record, persisted, &mut known, &mut found)?;
        }
        image.restore(&known)?;
        image.append(&found)?;
    }
    image.flush()?;
    let progress = image.progress()?;
    let time_ms = image.view().time_ms()?;
    let frozen = image.frozen().map(|view| view.progress()).transpose()?.map(|progress| progress.applied.seq);
    let committed = progress.applied.seq;
    let damaged = end.damage();
    let mut recovered = Recovered { progress, committed, time_ms, generation, damaged, frozen };
    if progress.appended.seq > progress.trimmed
        && let Some(header) = image.view().header(progress.appended.seq)?
    {
        recovered.committed = recovered.committed.max(header.committed);
        recovered.time_ms = recovered.time_ms.max(header.time_ms);
    }
    Ok(recovered)
}

/// A generation that was never passed in the partition: what is written next takes a higher one.
///
/// # Errors
/// When the device fails.
pub fn highest_generation(
    nvram: &mut dyn Nvram,
    origin: NodeId,
    extent: Extent,
    generation_floor: u64,
) -> Result<u64, NvramError> {
    let segments = headers(nvram, origin, extent)?;
    // A batch may have survived where its segment's header did not: each segment but the ones with a durable header may
    // hold one such generation more. A new use must not take the number of any of them.
    let highest = segments.last().map_or(0, |(header, _)| header.generation).max(generation_floor);
    Ok(highest + u64::from(extent.segments))
}

/// The sound segment headers of this origin, in the order of their use, with where their segments lie.
fn headers(nvram: &mut dyn Nvram, origin: NodeId, extent: Extent) -> Result<Vec<(SegmentHeader, u64)>, NvramError> {
    let mut found = Vec::new();
    for segment in 0..extent.segments as usize {
        let at = extent.segment_at(segment);
        let block = nvram.read(at, BLOCK_LEN as usize)?;
        found.extend(SegmentHeader::decode(&block).filter(|h| h.origin == origin).map(|h| (h, at)));
    }
    found.sort_by_key(|(header, _)| header.generation);
    Ok(found)
}

/// The end of the log as far as it is known.
struct End {
    last: Position,
    /// The first seq that no sound record was found for, while there are later ones.
    missing: Option<Seq>,
    /// What these later ones say had been persisted.
    vouched: Seq,
}

impl End {
    /// Takes a sound record into account: one that the engine has must be the same, the next one is new, a later one
    /// means that something between is missing.
    fn follow(
        &mut self,
        record: Record,
        persisted: Seq,
        known: &mut Vec<Record>,
        found: &mut Vec<Record>,
    ) -> Result<(), RecoveryError> {
        let seq = record.header.seq;
        if self.missing.is_none() {
            if seq == self.last.seq && record.header.checksum != self.last.checksum {
                return Err(RecoveryError::Diverged { seq });
            }
            if seq <= self.last.seq {
                known.push(record);
                return Ok(());
            }
            if seq == self.last.seq.next() {
                if record.header.parent != self.last.checksum {
                    return Err(RecoveryError::Diverged { seq });
                }
                self.last = record.position();
                found.push(record);
                return Ok(());
            }
            self.missing = Some(self.last.seq.next());
        }
        self.vouched = self.vouched.max(persisted);
        Ok(())
    }

    /// What is missing is damaged where a later record says that it had been persisted; else it is a torn tail.
    fn damage(&self) -> Option<Damage> {
        let from = self.missing?;
        (self.vouched >= from).then_some(Damage { from, through: self.vouched })
    }
}

/// Walks one segment's records. What is not sound is stepped over to the next block bound, where a batch may begin.
struct Scan {
    bytes: Bytes,
    at: usize,
    generation: u64,
}

impl Scan {
    /// The next sound record of this use of the segment, and its stamp's `persisted`.
    fn next(&mut self) -> Option<(Record, Seq)> {
        while self.at + STAMP_LEN + HEADER_LEN <= self.bytes.len() {
            let stamp = Stamp::decode(&self.bytes[self.at..]).filter(|stamp| stamp.generation == self.generation);
            if let Some(stamp) = stamp {
                let mut rest = self.bytes.slice(self.at + STAMP_LEN..);
                let len = stamp.record_len as usize;
                if let Ok(record) = Record::decode(&mut rest)
                    && record.len() == len
                    && stamp.fits(record.header.checksum)
                {
                    self.at += slot_len(len) as usize;
                    return Some((record, stamp.persisted));
                }
            }
            self.at = (self.at + 1).next_multiple_of(BLOCK_LEN as usize);
        }
        None
    }
}
