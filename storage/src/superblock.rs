//! The superblock: what a node must remember apart from its records: its name, the layout of its NVRAM, and per origin the
//! role, the epochs, the in-sync mark and the engine generation.
//!
//! Two checksummed copies at the head of the region are written in turn, so a torn write leaves the older one. The core
//! never starts a write before the one before it is durable.
//!
//! ```text
//! 0          8         12       16        24          32
//! ┌──────────┬─────────┬────────┬─────────┬───────────┬──────────────────┐
//! │ LOCKSTEP │ version │ length │ counter │ CRC-64    │ protobuf …       │  × 2, 64 KiB each
//! └──────────┴─────────┴────────┴─────────┴───────────┴──────────────────┘
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, Digest};
use prost::Message;

use crate::id::{Epoch, NodeId, Origin, Position, Seq};
use crate::nvram::{Nvram, NvramError};
use crate::partition::Extent;

/// Length of one copy, in bytes.
pub const COPY_LEN: usize = 64 << 10;
/// First byte of the region that partitions may use.
pub const PARTITIONS_AT: u64 = 2 * COPY_LEN as u64;
/// So many epochs of an origin are remembered; older ones are forgotten first.
pub const EPOCHS_MAX: usize = 64;
/// Most origins in one region: their entries must fit a copy.
pub const ORIGINS_MAX: usize = 16;

const MAGIC: [u8; 8] = *b"LOCKSTEP";
const FORMAT_VERSION: u32 = 1;
const HEAD_LEN: usize = 32;

/// Start of an epoch in an origin's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochEntry {
    /// The epoch.
    pub epoch: Epoch,
    /// Seq of its first record.
    pub first: Seq,
    /// Header checksum of the record before it; 0 where it begins the history.
    pub parent: u64,
}

impl EpochEntry {
    /// The entry of `epoch`, begun after `last`.
    #[must_use]
    pub fn after(last: Position, epoch: Epoch) -> Self {
        Self { epoch, first: last.seq.next(), parent: last.checksum }
    }
}

/// What the node is for an origin, durably.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StoredRole {
    /// It writes the origin's records.
    #[default]
    Source,
    /// It holds the mirror.
    Destination,
    /// Its peer took the origin: it must not write.
    Fenced,
    /// It wrote the origin's records and offers the origin to its destination, which has all of them: it must not write.
    HandingOver,
}

/// What is remembered of an origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginEntry {
    /// Which.
    pub origin: Origin,
    /// Its partition.
    pub partition: Extent,
    /// What this node is for it.
    pub role: StoredRole,
    /// Its epochs, oldest first, at most [`EPOCHS_MAX`].
    pub epochs: Vec<EpochEntry>,
    /// At a source: every committed record is at the peer. At a destination: the source said so.
    pub in_sync: bool,
    /// At a destination: the source's policy is `strict`, so it never answered alone.
    pub peer_strict: bool,
    /// At a destination: the source's `link_timeout` in milliseconds.
    pub peer_link_timeout_ms: u64,
    /// Last consistency point.
    pub consistency_point: Seq,
    /// Which directory its engine is in; a rebuilt image takes the next one.
    pub engine_generation: u64,
    /// The stream was paused on purpose.
    pub paused: bool,
    /// At a source: it took the origin over and has not been in sync since: it answers alone, whatever the policy.
    pub promoted: bool,
    /// The peer's incarnation when they were linked last; 0 for never. Another one under the same epoch is an empty log.
    pub peer_incarnation: u64,
    /// The epoch under which the peer took the origin, or one of this node's own that it has gone back behind: whatever this
    /// node writes next goes above.
    pub fenced_by: Epoch,
    /// At a source: records up to here were durable and cannot be read any more: nobody writes before the peer has given them
    /// back. 0 where there are none.
    pub lacks: Seq,
    /// Records up to here were durable when this was written: a log that ends before has lost its end (F11).
    pub persisted: Seq,
    /// At a new NVRAM: it was found beside an engine with records, whose log is gone.
    pub lost: bool,
    /// What is here is to be replaced by a baseline from whoever is the source.
    pub rebuild: bool,
    /// The files of its engine were found damaged while it ran: they are not opened again (F10).
    pub damaged: bool,
    /// Segments of this generation and below are what a torn tail may have left: never read.
    pub generation_floor: u64,
}

impl OriginEntry {
    /// The epoch that is written or accepted now; none before the first.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epochs.last().map(|e| e.epoch).unwrap_or_default()
    }
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// The node whose region it is.
    pub node: Origin,
    /// Drawn when the region was made: tells it from an older copy or another region (F12).
    pub incarnation: u64,
    /// Its origins, its own first.
    pub origins: Vec<OriginEntry>,
}

impl Superblock {
    /// The bytes of copy number `counter`, and where they go.
    ///
    /// # Errors
    /// When they do not fit a copy.
    pub fn encode(&self, counter: u64) -> Result<(u64, Bytes), NvramError> {
        let body = wire::Superblock::from(self).encode_to_vec();
        if body.len() > COPY_LEN - HEAD_LEN {
            return Err(NvramError::Layout(format!("superblock of {} bytes does not fit its copy", body.len())));
        }
        let mut out = BytesMut::with_capacity(HEAD_LEN + body.len());
        out.put_slice(&MAGIC);
        out.put_u32_le(FORMAT_VERSION);
        out.put_u32_le(body.len() as u32);
        out.put_u64_le(counter);
        out.put_u64_le(copy_checksum(counter, &body));
        out.put_slice(&body);
        Ok(((counter % 2) * COPY_LEN as u64, out.freeze()))
    }

    /// What one copy holds, with its counter; none where it is not sound.
    ///
    /// # Errors
    /// Where it is sound but of another format.
    pub fn decode(copy: &[u8]) -> Result<Option<(Self, u64)>, NvramError> {
        Ok(decode_copy(copy)?.map(|(counter, superblock)| (superblock, counter)))
    }

    /// The newest sound copy and its counter; none in a region that was never used, or whose first write was torn.
    ///
    /// # Errors
    /// When there is something and no copy is sound, or the format is another.
    pub fn load(nvram: &mut dyn Nvram) -> Result<Option<(Self, u64)>, NvramError> {
        if nvram.len() < PARTITIONS_AT {
            return Ok(None);
        }
        let copies = [nvram.read(0, COPY_LEN)?, nvram.read(COPY_LEN as u64, COPY_LEN)?];
        let mut newest: Option<(Self, u64)> = None;
        for copy in &copies {
            if let Some((counter, superblock)) = decode_copy(copy)?
                && newest.as_ref().is_none_or(|(_, best)| counter > *best)
            {
                newest = Some((superblock, counter));
            }
        }
        // The first write of all may be torn: then the other copy was never written, and nothing was ever promised.
        let untouched = copies.iter().any(|copy| copy.iter().all(|b| *b == 0));
        if newest.is_none() && !untouched {
            return Err(NvramError::Layout("neither copy of the NVRAM superblock is sound".into()));
        }
        Ok(newest)
    }

    /// The entry of an origin.
    #[must_use]
    pub fn origin(&self, origin: &Origin) -> Option<&OriginEntry> {
        self.origins.iter().find(|o| o.origin == *origin)
    }
}

fn copy_checksum(counter: u64, body: &[u8]) -> u64 {
    let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
    digest.update(&counter.to_le_bytes());
    digest.update(body);
    digest.finalize()
}

/// None where the copy is not sound; an error where it is sound but of another format.
fn decode_copy(copy: &[u8]) -> Result<Option<(u64, Superblock)>, NvramError> {
    let Some(head) = copy.first_chunk::<HEAD_LEN>() else { return Ok(None) };
    if head[..8] != MAGIC {
        return Ok(None);
    }
    let u32_at = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
    let (version, len, counter) = (u32_at(8), u32_at(12) as usize, u64_at(16));
    let Some(body) = copy.get(HEAD_LEN..HEAD_LEN + len) else { return Ok(None) };
    if copy_checksum(counter, body) != u64_at(24) {
        return Ok(None);
    }
    if version != FORMAT_VERSION {
        let text = format!("NVRAM format {version} is not {FORMAT_VERSION}, which this version reads");
        return Err(NvramError::Layout(text));
    }
    let wire = wire::Superblock::decode(body).map_err(|e| NvramError::Layout(format!("superblock: {e}")))?;
    Ok(Some((counter, wire.try_into()?)))
}

/// The superblock as protobuf.
mod wire {
    use super::{Epoch, EpochEntry, NodeId, NvramError, Origin, OriginEntry, Seq, StoredRole};
    use crate::partition::Extent;

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Superblock {
        #[prost(string, tag = "1")]
        node: String,
        #[prost(fixed64, tag = "2")]
        incarnation: u64,
        #[prost(message, repeated, tag = "3")]
        origins: Vec<Entry>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Entry {
        #[prost(string, tag = "1")]
        origin: String,
        #[prost(uint64, tag = "2")]
        offset: u64,
        #[prost(uint64, tag = "3")]
        segment_len: u64,
        #[prost(uint32, tag = "4")]
        segments: u32,
        #[prost(uint32, tag = "5")]
        role: u32,
        #[prost(message, repeated, tag = "6")]
        epochs: Vec<EpochStart>,
        #[prost(bool, tag = "7")]
        in_sync: bool,
        #[prost(bool, tag = "8")]
        peer_strict: bool,
        #[prost(uint64, tag = "9")]
        peer_link_timeout_ms: u64,
        #[prost(uint64, tag = "10")]
        consistency_point: u64,
        #[prost(uint64, tag = "11")]
        engine_generation: u64,
        #[prost(bool, tag = "12")]
        paused: bool,
        #[prost(uint64, tag = "13")]
        generation_floor: u64,
        #[prost(bool, tag = "14")]
        promoted: bool,
        #[prost(fixed64, tag = "15")]
        fenced_by_counter: u64,
        #[prost(fixed64, tag = "16")]
        fenced_by_node: u64,
        #[prost(fixed64, tag = "17")]
        peer_incarnation: u64,
        #[prost(uint64, tag = "18")]
        lacks: u64,
        #[prost(bool, tag = "19")]
        lost: bool,
        #[prost(bool, tag = "20")]
        rebuild: bool,
        #[prost(uint64, tag = "21")]
        persisted: u64,
        #[prost(bool, tag = "22")]
        damaged: bool,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct EpochStart {
        #[prost(fixed64, tag = "1")]
        counter: u64,
        #[prost(fixed64, tag = "2")]
        node: u64,
        #[prost(fixed64, tag = "3")]
        first: u64,
        #[prost(fixed64, tag = "4")]
        parent: u64,
    }

    impl From<&super::Superblock> for Superblock {
        fn from(s: &super::Superblock) -> Self {
            let origins = s.origins.iter().map(Entry::from).collect();
            Self { node: s.node.as_str().into(), incarnation: s.incarnation, origins }
        }
    }

    impl From<&OriginEntry> for Entry {
        fn from(o: &OriginEntry) -> Self {
            let epoch = |e: &EpochEntry| EpochStart {
                counter: e.epoch.counter,
                node: e.epoch.node.0,
                first: e.first.0,
                parent: e.parent,
            };
            Self {
                origin: o.origin.as_str().into(),
                offset: o.partition.offset,
                segment_len: o.partition.segment_len,
                segments: o.partition.segments,
                role: match o.role {
                    StoredRole::Source => 1,
                    StoredRole::Destination => 2,
                    StoredRole::Fenced => 3,
                    StoredRole::HandingOver => 4,
                },
                epochs: o.epochs.iter().map(epoch).collect(),
                in_sync: o.in_sync,
                peer_strict: o.peer_strict,
                peer_link_timeout_ms: o.peer_link_timeout_ms,
                consistency_point: o.consistency_point.0,
                engine_generation: o.engine_generation,
                paused: o.paused,
                generation_floor: o.generation_floor,
                promoted: o.promoted,
                peer_incarnation: o.peer_incarnation,
                lacks: o.lacks.0,
                persisted: o.persisted.0,
                lost: o.lost,
                rebuild: o.rebuild,
                damaged: o.damaged,
                fenced_by_counter: o.fenced_by.counter,
                fenced_by_node: o.fenced_by.node.0,
            }
        }
    }

    impl TryFrom<Superblock> for super::Superblock {
        type Error = NvramError;

        fn try_from(s: Superblock) -> Result<Self, NvramError> {
            let origins = s.origins.into_iter().map(OriginEntry::try_from).collect::<Result<_, _>>()?;
            Ok(Self { node: name(&s.node)?, incarnation: s.incarnation, origins })
        }
    }

    impl TryFrom<Entry> for OriginEntry {
        type Error = NvramError;

        fn try_from(o: Entry) -> Result<Self, NvramError> {
            let epoch = |e: EpochStart| EpochEntry {
                epoch: Epoch { counter: e.counter, node: NodeId(e.node) },
                first: Seq(e.first),
                parent: e.parent,
            };
            Ok(Self {
                origin: name(&o.origin)?,
                partition: Extent { offset: o.offset, segment_len: o.segment_len, segments: o.segments },
                role: match o.role {
                    1 => StoredRole::Source,
                    2 => StoredRole::Destination,
                    3 => StoredRole::Fenced,
                    4 => StoredRole::HandingOver,
                    other => return Err(NvramError::Layout(format!("superblock: role {other} is not known"))),
                },
                epochs: o.epochs.into_iter().map(epoch).collect(),
                in_sync: o.in_sync,
                peer_strict: o.peer_strict,
                peer_link_timeout_ms: o.peer_link_timeout_ms,
                consistency_point: Seq(o.consistency_point),
                engine_generation: o.engine_generation,
                paused: o.paused,
                generation_floor: o.generation_floor,
                promoted: o.promoted,
                peer_incarnation: o.peer_incarnation,
                lacks: Seq(o.lacks),
                persisted: Seq(o.persisted),
                lost: o.lost,
                rebuild: o.rebuild,
                damaged: o.damaged,
                fenced_by: Epoch { counter: o.fenced_by_counter, node: NodeId(o.fenced_by_node) },
            })
        }
    }

    fn name(name: &str) -> Result<Origin, NvramError> {
        Origin::new(name).map_err(|e| NvramError::Layout(format!("superblock: {e}")))
    }
}
