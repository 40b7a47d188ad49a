//! Mistakes that are made on purpose, each by the world around the core: a device that answers too early, a link that
//! delivers under the wrong number, a client without its lock. The simulator must find every one of them.

/// One mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
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
}
