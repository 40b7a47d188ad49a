//! The work of an origin's worker that takes several steps: baselines, and damaged chunks. What the core asks for, and what it
//! is told when that is done.

use bytes::Bytes;
use lockstep_storage::id::{ChunkId, Epoch, Position, Seq};
use lockstep_storage::image::baseline::{Bookmark, Piece, Portion};
use lockstep_storage::image::{Mended, Progress};

use super::Connection;

/// What a worker does for a baseline.
#[derive(Debug, Clone)]
pub enum BaselineTask {
    /// Giver: freeze the image, unless an earlier process or attempt has; then say [`BaselineStep::Frozen`].
    Freeze,
    /// Giver: nobody needs what is frozen any more.
    Thaw,
    /// Giver: read pieces of what is frozen, then say [`BaselineStep::Read`].
    Read {
        /// For which connection.
        connection: Connection,
        /// From where on.
        from: Bookmark,
        /// About how many bytes, one piece at least.
        bytes_max: usize,
    },
    /// Taker: set every record after this one aside in a file, durably, with what its objects need from before it; then say
    /// [`BaselineStep::SetAside`].
    SetAside {
        /// The last record that the source has too; 0 where that cannot be told.
        common: Seq,
        /// The last record that is not set aside. Later than the common one, where more was trimmed.
        after: Seq,
        /// Epoch for the file's name.
        epoch: Epoch,
    },
    /// Taker: have an engine of this generation that takes the image at this record, or goes on with it, then say
    /// [`BaselineStep::Begun`] or [`BaselineStep::Refused`].
    Begin {
        /// The generation after the origin's own.
        generation: u64,
        /// Which moment.
        at: Position,
        /// About how many bytes will come.
        bytes: u64,
    },
    /// Taker: put pieces in that engine, then say [`BaselineStep::Taken`].
    Take {
        /// Which moment.
        at: Position,
        /// The pieces.
        pieces: Vec<Piece>,
        /// Those after them begin here; none after the last.
        next: Option<Bookmark>,
    },
    /// Taker: use that engine from here on, then say [`BaselineStep::Swapped`]. That it is the origin's is stored.
    Swap,
    /// Taker: it will not be whole; its files go.
    Drop,
}

/// What a worker has done for a baseline.
#[derive(Debug, Clone)]
pub enum BaselineStep {
    /// Giver: the image is frozen.
    Frozen {
        /// At which record.
        at: Position,
        /// About how many bytes that are.
        bytes: u64,
    },
    /// Giver: pieces were read.
    Read {
        /// For which connection they were wanted.
        connection: Connection,
        /// Of the image at this record.
        at: Position,
        /// What was read.
        portion: Portion,
    },
    /// Giver: an entry of what is frozen is damaged: there is no baseline to be had of it.
    Unreadable {
        /// For which connection it was wanted.
        connection: Connection,
        /// What is wrong.
        reason: String,
    },
    /// Taker: what is to be given up is set aside.
    SetAside,
    /// Taker: an engine is there to take the image at this record.
    Begun {
        /// The record.
        at: Position,
        /// The first piece that it lacks.
        next: Bookmark,
        /// About how many bytes it has already.
        have: u64,
    },
    /// Taker: there is no room for it.
    Refused {
        /// One sentence.
        reason: String,
    },
    /// Taker: pieces are in the engine.
    Taken {
        /// Of the image at this record.
        at: Position,
        /// Their bytes.
        bytes: u64,
        /// They were the last ones, and all are durable.
        whole: bool,
    },
    /// Taker: the filled engine is the origin's, the one before is gone.
    Swapped {
        /// How far it is.
        progress: Progress,
        /// Modification time of its last record, milliseconds since 1970.
        time_ms: u64,
    },
}

/// What a worker does for a damaged chunk.
#[derive(Debug, Clone)]
pub enum RepairTask {
    /// Look the peer's chunk up, then say [`RepairStep::Read`].
    Read {
        /// For which connection.
        connection: Connection,
        /// Which.
        chunk: ChunkId,
    },
    /// Check the peer's bytes and put them in place, then say [`RepairStep::Put`].
    Put {
        /// Of which chunk.
        chunk: ChunkId,
        /// They.
        bytes: Bytes,
        /// Where no checksum is known here, this one counts: that of a peer whose history is known to be this one.
        vouched: Option<u32>,
    },
}

/// What a worker has done for a damaged chunk.
#[derive(Debug, Clone)]
pub enum RepairStep {
    /// The peer's chunk was looked up.
    Read {
        /// For which connection.
        connection: Connection,
        /// Which.
        chunk: ChunkId,
        /// Its bytes, where they are here and verify.
        bytes: Option<Bytes>,
        /// Their CRC-32C.
        crc: u32,
    },
    /// The peer's bytes were checked and, where they are right, put in place.
    Put {
        /// Of which chunk.
        chunk: ChunkId,
        /// What became of them.
        mended: Mended,
    },
}
