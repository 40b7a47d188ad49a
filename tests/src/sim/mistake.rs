//! Mistakes that are made on purpose, each by the world around the core: a device that answers too early, a link that
//! delivers under the wrong number, a client without its lock. The simulator must find every one of them.

use std::str::FromStr;

/// Names the mistakes, once for the type and for the list of all.
macro_rules! mistakes {
    ($($(#[$says:meta])* $name:ident),* $(,)?) => {
        /// One mistake.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Mistake {
            $($(#[$says])* $name),*
        }

        impl Mistake {
            /// Each of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];
        }
    };
}

mistakes! {
    /// Records count as persisted before they are.
    AckBeforePersist,
    /// A segment is released before its records are flushed.
    ReleaseBeforeFlush,
    /// The superblock counts as durable before it is.
    EpochUsedBeforeStored,
    /// A restart forgets the epochs that were stored last: it goes on under the old one.
    EpochKeptAfterRestart,
    /// A restart takes everything in NVRAM for committed.
    AllOfNvramApplied,
    /// A restart reads what an earlier use of a segment left.
    OldGenerationAccepted,
    /// Out of sync is never stored.
    InSyncFromMemory,
    /// Bodies are collected before the peer knows that they may be.
    CollectedAhead,
    /// A copy does not lock its source.
    CopyOfFreedBody,
    /// A blind PUT does not take its lock.
    BlindPutWithoutLock,
    /// The destination is told that the source has persisted what it has not.
    AppliedBeforeSourcePersisted,
    /// What an old connection brings counts for the new one.
    OldConnectionAccepted,
    /// Time is judged before what has arrived is read.
    TimeBeforeInbox,
    /// Locks are let go when an outcome is unknown.
    LockReleasedInDoubt,
    /// A source that has restarted takes readers before what it had answered is in its image again.
    ReadBeforeRecovered,
    /// A node that takes an origin over keeps the mark that its mirror is in sync.
    InSyncKeptByPromote,
    /// A node that took an origin over answers alone for ever, under `strict` too.
    AloneAfterReturn,
    /// A restart forgets that the origin was given up.
    FenceForgotten,
    /// A baseline is put in place before its last piece has come.
    BaselineInPlaceTooEarly,
    /// What a baseline fills says that it is durable before it is.
    BaselineUnflushed,
    /// Records after a frozen image are trimmed.
    TrimmedBehindFrozen,
    /// The image is frozen anew while a baseline of it is under way.
    FrozenAnew,
    /// A restart goes on with the engine that a baseline replaced.
    GenerationForgotten,
    /// A deposed source's own records are not set aside before a baseline.
    TailForgotten,
    /// A restart forgets how far the log was durable.
    EndForgotten,
    /// A source that has lost everything takes writes before it has met its mirror.
    NewSourceTakesWrites,
    /// What a deposed source's own objects need from before its peer's history is not set aside with them.
    ChunksForgotten,
    /// Bytes that a peer sent for a damaged chunk are put in place without a look at them.
    RepairUnchecked,
    /// A reader is told that a chunk has its bytes again, and it has not.
    RepairAnsweredEarly,
    /// A restart forgets that the engine was found damaged.
    DamageForgotten,
    /// A destination flushes only when the peer has acknowledged everything of the node's own origin.
    FlushWaitsForAck,
    /// What a source is granted on one connection counts on every one that its node opened.
    CreditShared,
}

impl FromStr for Mistake {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|mistake| format!("{mistake:?}") == name);
        found.copied().ok_or_else(|| format!("'{name}' is no mistake"))
    }
}
