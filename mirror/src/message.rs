//! What two nodes say to each other about one origin's stream. The opener is the source.
//!
//! The bytes of a message stand in [`wire`]; records in them are byte for byte those in NVRAM.

pub mod wire;

use bytes::Bytes;
use lockstep_storage::id::{ChunkId, Origin, Position, Seq};
use lockstep_storage::image::baseline::{Bookmark, Piece};
use lockstep_storage::record::Record;
use lockstep_storage::superblock::EpochEntry;

use crate::plan::{AckLevel, Policy};

/// Version of this protocol. Another one is refused in the Hello, in a sentence that names both (F28).
pub const PROTOCOL_VERSION: u32 = 4;

/// First message of the opener: everything that the other end needs to find the common point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`] of the sender.
    pub version: u32,
    /// The stream's origin.
    pub origin: Origin,
    /// The sender.
    pub node: Origin,
    /// The receiver, as the sender was told: a cross-connected node refuses (F39).
    pub peer: Origin,
    /// Counts the sender's NVRAM regions: another number is another history (F12).
    pub incarnation: u64,
    /// Counts the sender's connections; messages of an older one are dropped (F27).
    pub connection: u64,
    /// The origin's epochs as the sender knows them, oldest first.
    pub epochs: Vec<EpochEntry>,
    /// The last record that the sender has persisted.
    pub last: Position,
    /// Records up to here are gone from the sender's container.
    pub trimmed: Seq,
    /// Its policy, so that the destination can give a verdict at promote.
    pub policy: Policy,
    /// The ack level that it wants by default.
    pub ack: AckLevel,
    /// Its `link_timeout`, in milliseconds, for the verdict too.
    pub link_timeout_ms: u64,
    /// Its in-sync mark: where it is not set, the destination clears its own before it takes a record.
    pub in_sync: bool,
}

/// The answer to a [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// [`PROTOCOL_VERSION`] of the sender.
    pub version: u32,
    /// The sender.
    pub node: Origin,
    /// Counts the sender's NVRAM regions.
    pub incarnation: u64,
    /// The Hello's connection number.
    pub connection: u64,
    /// The origin's epochs as the sender knows them, the Hello's new ones taken over where they follow from its own.
    pub epochs: Vec<EpochEntry>,
    /// The last record that the sender has persisted.
    pub last: Position,
    /// Bytes of records that may be sent on this connection before the first ack.
    pub credit: u64,
}

/// Records and what the source knows about them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    /// Highest seq committed at the source.
    pub committed: Seq,
    /// Highest seq persisted at the source: the destination applies nothing beyond.
    pub persisted: Seq,
    /// The records, in seq order; none in a heartbeat.
    pub records: Vec<Record>,
}

/// What the destination has, cumulative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// Highest seq in its memory.
    pub received: Seq,
    /// Highest seq persisted in its partition.
    pub persisted: Seq,
    /// Highest seq in its image.
    pub applied: Seq,
    /// Bytes of records that may be sent on this connection in all, those sent before counted.
    pub credit: u64,
}

/// What two ends say about a baseline. It travels on the stream's connection: until the destination has it there are no
/// records that it could take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Baseline {
    /// Source: what you lack is trimmed here; you need a baseline.
    Offer,
    /// Destination: I need one, and here is how many bytes of pieces may be sent before the first ack. May come instead of
    /// a [`Welcome`].
    Wanted {
        /// In bytes.
        credit: u64,
    },
    /// Source: it will be the image at this record.
    Begin {
        /// The record.
        at: Position,
        /// The origin's epochs up to it.
        epochs: Vec<EpochEntry>,
        /// About how many bytes it is, of which the destination may have some already.
        bytes: u64,
    },
    /// Destination: there is room; send from here on.
    Ready {
        /// The first piece that is not here.
        next: Bookmark,
        /// About how many bytes are.
        have: u64,
    },
    /// Source: consecutive pieces.
    Pieces {
        /// The pieces.
        pieces: Vec<Piece>,
        /// Where those after them begin; none after the last.
        next: Option<Bookmark>,
    },
    /// Destination: what it has taken. Answers heartbeats too. A [`Welcome`] follows when all is in place.
    Ack {
        /// Bytes of pieces that may be sent on this connection in all.
        credit: u64,
    },
}

/// A question for the other end's time, and what the one before has found (F36).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// The source's clock, milliseconds since 1970.
    pub sent_ms: u64,
    /// The destination's clock minus the source's, in milliseconds; none before the first answer.
    pub skew_ms: Option<i64>,
    /// Its error, in milliseconds.
    pub error_ms: u64,
}

/// What two ends say about a chunk that is damaged at one of them (F10). Either end may ask, for one chunk at a time; it is
/// answered in the order of the other's work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mending {
    /// A chunk is damaged here: send me its bytes.
    Want(ChunkId),
    /// What is here of it.
    Have {
        /// Which.
        chunk: ChunkId,
        /// Its bytes, as they verify here; none where they do not, or are not here.
        bytes: Option<Bytes>,
        /// Their CRC-32C, as it is known here: what the receiver has no checksum of is held against it.
        crc: u32,
    },
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Source: who I am and what I have.
    Hello(Hello),
    /// Destination: who I am and what I have.
    Welcome(Welcome),
    /// Destination: no, in one sentence; the connection ends.
    Refused {
        /// One sentence for the operator.
        reason: String,
        /// The destination's epochs: a deposed source finds a higher one of another node here.
        epochs: Vec<EpochEntry>,
    },
    /// Source: records, or a heartbeat. Destination, while the source adopts: records that the source lacks.
    Append(Append),
    /// Destination: what it has. Answers heartbeats too.
    Ack(Ack),
    /// Source: send me what you have after this seq; I lost it.
    Adopt {
        /// Last seq that the source has.
        after: Seq,
    },
    /// Source: a consistency point through a committed seq.
    SyncRequest {
        /// Apply and flush through it.
        through: Seq,
        /// What the source has flushed: the destination may trim up to it.
        flushed: Seq,
    },
    /// Destination: image applied and flushed through it.
    SyncDone {
        /// The consistency point.
        through: Seq,
    },
    /// Source: store durably whether the stream is in sync.
    SetInSync(bool),
    /// Destination: stored.
    InSyncStored(bool),
    /// Source: you have every record of the origin, take it. This end has stored that it writes no more.
    HandOver {
        /// The last record that was ever made under this epoch.
        last: Position,
    },
    /// Source: somebody waits to hear that records through here are in your image. They are persisted here.
    Apply {
        /// Apply through it, at once.
        through: Seq,
    },
    /// Either: a destination's image is made anew.
    Baseline(Baseline),
    /// Source: what is your time?
    Clock(Clock),
    /// Destination: that it is.
    ClockEcho {
        /// The [`Clock::sent_ms`] that is answered.
        sent_ms: u64,
        /// The destination's clock, milliseconds since 1970.
        clock_ms: u64,
    },
    /// Either: a damaged chunk gets its bytes back.
    Mending(Mending),
}
