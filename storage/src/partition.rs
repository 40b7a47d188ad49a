//! One origin's share of the NVRAM: segments used in turn. Pure bookkeeping: it says what to write where, and what may be
//! used again; it does no I/O.
//!
//! ```text
//! segment:  ┌ header, one block ┬ batch, from a block bound on ┬ batch … ┐
//! batch:    ┌ stamp 32 ┬ record … pad to 8 ┬ stamp ┬ record … ┬ zeros to the block bound ┐
//! stamp:    ┌ magic 4 ┬ record length 4 ┬ generation 8 ┬ persisted 8 ┬ CRC-64 of these and the header checksum 8 ┐
//! header:   ┌ magic 8 ┬ generation 8 ┬ first seq 8 ┬ origin's node id 8 ┬ CRC-64 8 ┐
//! ```
//!
//! A batch never shares a block with an earlier one, so a torn write cannot hurt what was durable. The stamp is what this
//! node adds to a record: the generation of the segment's use, which tells it from what an earlier use left there, and
//! how far this node had persisted when it was written, which tells corruption from a torn tail. The record's own bytes
//! stay those of the wire.

use bytes::{BufMut, Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, Digest, checksum};

use crate::id::{NodeId, Seq};
use crate::nvram::BLOCK_LEN;
use crate::record::{RECORD_LEN_MAX, Record};

/// Segments of a partition where nothing else is asked.
pub const SEGMENTS_DEFAULT: u32 = 4;
/// Fewest segments: one is spilled while another takes writes.
pub const SEGMENTS_MIN: u32 = 2;
/// Smallest segment, in bytes, where records may have any legal length.
pub const SEGMENT_LEN_MIN: u64 = segment_len_min(RECORD_LEN_MAX);
/// Length of a stamp, in bytes.
pub const STAMP_LEN: usize = 32;

/// Smallest segment, in bytes, that takes records of up to `record_len_max` bytes: the largest one, its stamp and the
/// header fit. A node that takes less than [`RECORD_LEN_MAX`] can do with less, which is what simulations do.
#[must_use]
pub const fn segment_len_min(record_len_max: usize) -> u64 {
    (record_len_max as u64 + STAMP_LEN as u64 + 2 * BLOCK_LEN).next_multiple_of(BLOCK_LEN)
}

const SEGMENT_MAGIC: [u8; 8] = *b"LSSEGMT1";
const STAMP_MAGIC: u32 = 0x3154_534c;

/// Where a partition lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First byte in the region.
    pub offset: u64,
    /// Length of a segment in bytes, a multiple of the block length.
    pub segment_len: u64,
    /// Number of segments.
    pub segments: u32,
}

impl Extent {
    /// Cuts `len` bytes from `offset` on into `segments` parts for records of up to `record_len_max` bytes.
    ///
    /// # Errors
    /// When a segment would be too small or there would be too few, in one sentence.
    pub fn new(offset: u64, len: u64, segments: u32, record_len_max: usize) -> Result<Self, String> {
        if segments < SEGMENTS_MIN {
            return Err(format!("a partition needs at least {SEGMENTS_MIN} segments, not {segments}"));
        }
        let segment_len = len / u64::from(segments) / BLOCK_LEN * BLOCK_LEN;
        let segment_len_min = segment_len_min(record_len_max);
        if segment_len < segment_len_min {
            let least = segment_len_min * u64::from(segments);
            return Err(format!("a partition of {len} bytes is too small: at least {least} bytes are needed"));
        }
        Ok(Self { offset, segment_len, segments })
    }

    /// First byte behind it.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset + self.segment_len * u64::from(self.segments)
    }

    /// First byte of a segment.
    #[must_use]
    pub fn segment_at(&self, segment: usize) -> u64 {
        self.offset + self.segment_len * segment as u64
    }
}

/// A segment's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The use that it begins; rises over the whole partition.
    pub generation: u64,
    /// Seq of its first record.
    pub first: Seq,
    /// Whose partition.
    pub origin: NodeId,
}

impl SegmentHeader {
    fn encode(&self) -> Bytes {
        let mut out = BytesMut::zeroed(BLOCK_LEN as usize);
        out[..8].copy_from_slice(&SEGMENT_MAGIC);
        out[8..16].copy_from_slice(&self.generation.to_le_bytes());
        out[16..24].copy_from_slice(&self.first.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.origin.0.to_le_bytes());
        let sum = checksum(CrcAlgorithm::Crc64Nvme, &out[..32]);
        out[32..40].copy_from_slice(&sum.to_le_bytes());
        out.freeze()
    }

    /// The header in a segment's first block; none where there is no sound one.
    #[must_use]
    pub fn decode(block: &[u8]) -> Option<Self> {
        let fixed = block.first_chunk::<40>()?;
        let word = |at: usize| u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|i| fixed[at + i]));
        let sound = fixed[..8] == SEGMENT_MAGIC && word(32) == checksum(CrcAlgorithm::Crc64Nvme, &fixed[..32]);
        sound.then(|| Self { generation: word(8), first: Seq(word(16)), origin: NodeId(word(24)) })
    }
}

/// What this node writes before a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Length of the record in bytes.
    pub record_len: u32,
    /// Generation of the segment.
    pub generation: u64,
    /// Highest seq that this node had persisted when the record was written.
    pub persisted: Seq,
    /// CRC-64 over the fields above and the record's header checksum.
    pub checksum: u64,
}

impl Stamp {
    fn new(record: &Record, generation: u64, persisted: Seq) -> Self {
        let mut stamp = Self { record_len: record.len() as u32, generation, persisted, checksum: 0 };
        stamp.checksum = stamp.sum(record.header.checksum);
        stamp
    }

    fn fields(&self) -> [u8; 24] {
        let mut out = [0; 24];
        out[..4].copy_from_slice(&STAMP_MAGIC.to_le_bytes());
        out[4..8].copy_from_slice(&self.record_len.to_le_bytes());
        out[8..16].copy_from_slice(&self.generation.to_le_bytes());
        out[16..24].copy_from_slice(&self.persisted.0.to_le_bytes());
        out
    }

    fn sum(&self, header_checksum: u64) -> u64 {
        let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
        digest.update(&self.fields());
        digest.update(&header_checksum.to_le_bytes());
        digest.finalize()
    }

    /// The stamp here, if the bytes look like one; [`Stamp::fits`] tells whether it belongs to the record behind it.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let fixed = bytes.first_chunk::<STAMP_LEN>()?;
        let word = |at: usize| u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|i| fixed[at + i]));
        let head = word(0);
        let stamp =
            Self { record_len: (head >> 32) as u32, generation: word(8), persisted: Seq(word(16)), checksum: word(24) };
        (head as u32 == STAMP_MAGIC).then_some(stamp)
    }

    /// Does it belong to a record with this header checksum?
    #[must_use]
    pub fn fits(&self, header_checksum: u64) -> bool {
        self.sum(header_checksum) == self.checksum
    }
}

/// Bytes that a record takes in a segment, with its stamp and padding.
#[must_use]
pub fn slot_len(record_len: usize) -> u64 {
    (STAMP_LEN + record_len).next_multiple_of(8) as u64
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    Active,
    Sealed,
}

#[derive(Debug, Clone, Copy)]
struct Segment {
    state: State,
    /// Last record in it.
    last: Seq,
    /// Bytes used from its start, at a block bound.
    used: u64,
}

/// One write that the partition asks for.
#[derive(Debug, Clone)]
pub struct Write {
    /// Where in the region, in bytes.
    pub offset: u64,
    /// What, one behind the other.
    pub pieces: Vec<Bytes>,
}

/// The segments of one partition and who uses them.
#[derive(Debug)]
pub struct Partition {
    origin: NodeId,
    extent: Extent,
    segments: Vec<Segment>,
    active: usize,
    generation: u64,
}

impl Partition {
    /// A partition all of whose segments are free; `generation` is the highest that was ever used in it.
    #[must_use]
    pub fn new(origin: NodeId, extent: Extent, generation: u64) -> Self {
        let free = Segment { state: State::Free, last: Seq::ZERO, used: 0 };
        Self { origin, extent, segments: vec![free; extent.segments as usize], active: 0, generation }
    }

    /// Places as many of `records` as there is room for and says what to write; the rest must wait for a segment.
    /// Returns how many were placed.
    pub fn append(&mut self, records: &[Record], persisted: Seq, writes: &mut Vec<Write>) -> usize {
        let mut placed = 0;
        while placed < records.len() {
            if !self.ready_for(&records[placed]) {
                break;
            }
            placed += self.fill(&records[placed..], persisted, writes);
        }
        placed
    }

    /// Makes sure that the active segment has room for the record; seals it and takes the next one where it has not.
    fn ready_for(&mut self, record: &Record) -> bool {
        let need = slot_len(record.len());
        let active = &mut self.segments[self.active];
        if active.state == State::Active {
            if active.used + need <= self.extent.segment_len {
                return true;
            }
            active.state = State::Sealed;
        }
        let count = self.segments.len();
        let next = (0..count).map(|i| (self.active + i) % count).find(|i| self.segments[*i].state == State::Free);
        let Some(next) = next else { return false };
        self.generation += 1;
        self.active = next;
        self.segments[next] = Segment { state: State::Active, last: Seq::ZERO, used: 0 };
        true
    }

    /// One batch into the active segment: as many records as fit, at least one.
    fn fill(&mut self, records: &[Record], persisted: Seq, writes: &mut Vec<Write>) -> usize {
        let active = &mut self.segments[self.active];
        let mut write = Write { offset: self.extent.segment_at(self.active) + active.used, pieces: Vec::new() };
        if active.used == 0 {
            let first = records[0].header.seq;
            let header = SegmentHeader { generation: self.generation, first, origin: self.origin };
            write.pieces.push(header.encode());
            active.used = BLOCK_LEN;
        }
        let mut used = active.used;
        let mut small = BytesMut::with_capacity(records.len().min(256) * 2 * STAMP_LEN);
        let mut placed = 0;
        for record in records {
            let slot = slot_len(record.len());
            if used + slot > self.extent.segment_len {
                break;
            }
            let stamp = Stamp::new(record, self.generation, persisted);
            small.put_slice(&stamp.fields());
            small.put_u64_le(stamp.checksum);
            write.pieces.push(small.split().freeze());
            write.pieces.push(record.head.clone());
            if !record.payload.is_empty() {
                write.pieces.push(record.payload.clone());
            }
            small.put_bytes(0, slot as usize - STAMP_LEN - record.len());
            used += slot;
            active.last = record.header.seq;
            placed += 1;
        }
        write.pieces.push(small.freeze());
        active.used = used.next_multiple_of(BLOCK_LEN);
        writes.push(write);
        placed
    }

    /// Seals the active segment, so that it is released with the others: for a consistency point or a shutdown.
    pub fn seal(&mut self) {
        let active = &mut self.segments[self.active];
        if active.state == State::Active {
            active.state = State::Sealed;
        }
    }

    /// Frees every sealed segment whose records are all durable in the next place, through `durable`. Returns how many.
    pub fn release(&mut self, durable: Seq) -> usize {
        let mut released = 0;
        for segment in &mut self.segments {
            if segment.state == State::Sealed && segment.last <= durable {
                segment.state = State::Free;
                released += 1;
            }
        }
        released
    }

    /// The last record of the newest sealed segment: a flush through it lets all sealed segments go.
    #[must_use]
    pub fn sealed_through(&self) -> Option<Seq> {
        self.segments.iter().filter(|s| s.state == State::Sealed).map(|s| s.last).max()
    }

    /// How many segments are free, active, sealed.
    #[must_use]
    pub fn counts(&self) -> (u32, u32, u32) {
        let count = |state| self.segments.iter().filter(|s| s.state == state).count() as u32;
        (count(State::Free), count(State::Active), count(State::Sealed))
    }

    /// The newest generation.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Where it lies.
    #[must_use]
    pub fn extent(&self) -> Extent {
        self.extent
    }
}
