//! What a set of runs has really met, counted: a state that the draw never reaches is a state that no seed tests. Kept by
//! the world as things happen; [`Coverage::missing`] names what a set of runs left out.

use std::collections::BTreeMap;
use std::fmt;

/// Names what a set of runs must meet, once for the type and for the list of all.
macro_rules! seen {
    ($($name:ident),* $(,)?) => {
        /// Something that a set of runs must meet.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs, reason = "the names say what was met")]
        pub enum Seen {
            $($name),*
        }

        impl Seen {
            /// Each of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];
        }
    };
}

seen! {
    // Writes that were answered.
    BucketCreated,
    BucketDeleted,
    InlinePut,
    ChunkedPut,
    // A body that is larger than a segment.
    LongPut,
    ConditionalPut,
    Deleted,
    Copied,
    UploadCreated,
    PartPut,
    UploadCompleted,
    UploadAborted,
    BodyAbandoned,
    // Answers.
    AnsweredLocal,
    AnsweredReceived,
    AnsweredDurable,
    AnsweredApplied,
    AnsweredByPromoted,
    OutcomeUnknown,
    RefusedUnavailable,
    RefusedNotWritable,
    RefusedNoSpace,
    // Reads.
    ReadAtSource,
    ReadAtMirror,
    ReadRefused,
    WriteBeforeRecovered,
    // Crashes, by what they fell into.
    SourceCrashed,
    DestinationCrashed,
    BothDown,
    CrashInStart,
    CrashInPersist,
    CrashInFlush,
    CrashBetweenEffects,
    CrashBeforeApplied,
    CrashWhileUnsettled,
    CrashWhileCatchingUp,
    CrashWhileClosing,
    CrashWhileOutOfSync,
    CrashWhileAdopting,
    CrashWhilePromoting,
    CrashWhileFailingBack,
    CrashUnnoticed,
    TornTail,
    SiteLost,
    SiteRenewed,
    SourceRenewed,
    RecordDamaged,
    EndLost,
    EngineLost,
    EngineDamaged,
    FilledAnew,
    ChunkRotten,
    ChunkRepaired,
    ChunkUnrepaired,
    WrongBytesSent,
    Repaired,
    RebuildOrdered,
    RebuildRefused,
    // Links.
    CutOneWay,
    CutBothWays,
    ConnectionReset,
    StaleMessage,
    ConnectionReplaced,
    MirrorSilent,
    CreditUsedUp,
    ReadBack,
    LinkFlapping,
    LinkSteady,
    HeldOff,
    // Devices.
    SlowPersist,
    DeviceSlow,
    DeviceSteady,
    OwnEndLate,
    SlowFlush,
    DiskFull,
    SegmentWait,
    // Two origins at two sites at once.
    BothWait,
    SegmentReused,
    PersistFailed,
    EngineFailed,
    // Time.
    Stalled,
    ClockWentBack,
    ClocksApart,
    ClocksClose,
    // Streams.
    InSyncStored,
    OutOfSyncStored,
    StrictLate,
    InSyncAsync,
    Adopted,
    CutBack,
    BaselineNeeded,
    BaselineTaken,
    BaselineResumed,
    BaselineRefused,
    CrashWhileGiving,
    CrashWhileTaking,
    BacklogDropped,
    TailSetAside,
    ChunksSetAside,
    PointMirrored,
    PointAtMirror,
    Trimmed,
    Collected,
    // Operators.
    Paused,
    Resumed,
    ResumedAlone,
    DryRun,
    PromoteRefused,
    PromotedProved,
    PromotedInSync,
    PromotedWithLoss,
    Deposed,
    WayBackLinked,
    FailbackRefused,
    Offered,
    HandedOver,
    TakenBack,
    Reclaimed,
    ShutDown,
}

/// How often each was met.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    counts: BTreeMap<Seen, u64>,
}

impl Coverage {
    /// Once more.
    pub fn note(&mut self, seen: Seen) {
        *self.counts.entry(seen).or_default() += 1;
    }

    /// Adds what another run met.
    pub fn add(&mut self, other: &Self) {
        for (seen, count) in &other.counts {
            *self.counts.entry(*seen).or_default() += count;
        }
    }

    /// How often it was met.
    #[must_use]
    pub fn count(&self, seen: Seen) -> u64 {
        self.counts.get(&seen).copied().unwrap_or_default()
    }

    /// What was never met.
    #[must_use]
    pub fn missing(&self) -> Vec<Seen> {
        Seen::ALL.iter().copied().filter(|seen| self.count(*seen) == 0).collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in Seen::ALL.chunks(4) {
            for seen in row {
                let name = format!("{seen:?}");
                write!(f, "{name:>21} {:<7}", self.count(*seen))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
