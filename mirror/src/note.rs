//! What is written to the log of events: one line for each change that an operator may want to know of, under a name that
//! does not change. The core makes them, the runtime writes them, in one place.
//!
//! The names stand in `docs/operations.md` with what each means and what to do.

use lockstep_storage::id::{Epoch, Origin, Position, Seq};

use crate::client::Role;

/// Names the events, once for the type, for the log and for the list of all.
macro_rules! events {
    ($($(#[$says:meta])* $name:ident = $text:literal $level:ident,)*) => {
        /// What happened.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Noted {
            $($(#[$says])* $name),*
        }

        impl Noted {
            /// Each of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Its name in the log.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }

            /// How much it matters.
            #[must_use]
            pub const fn level(self) -> Level {
                match self { $(Self::$name => Level::$level),* }
            }
        }
    };
}

/// How much an event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// It is told.
    Info,
    /// Something is to be looked after.
    Warn,
}

events! {
    /// A start has found an origin in this role and state.
    OriginOpened = "origin_opened" Info,
    /// What this node is for an origin has changed.
    RoleChanged = "role_changed" Info,
    /// The state of a stream has changed.
    StreamState = "stream_state" Info,
    /// A stream's link stands, and both ends hold one history.
    LinkUp = "link_up" Info,
    /// It is gone.
    LinkLost = "link_lost" Info,
    /// It was lost so often that nothing more is said of each time.
    LinkFlapping = "link_flapping" Warn,
    /// It has not been lost for long.
    LinkSteady = "link_steady" Info,
    /// From here on writes are answered that only this node has.
    DegradedBegun = "degraded_begun" Warn,
    /// Writes wait for the mirror again.
    DegradedEnded = "degraded_ended" Info,
    /// The two ends do not fit each other.
    StreamRefused = "stream_refused" Warn,
    /// The peer said what it must not; its connection is closed.
    ProtocolError = "protocol_error" Warn,
    /// This node writes under a new epoch.
    EpochBegun = "epoch_begun" Info,
    /// The mirror came back with less than it had acknowledged.
    MirrorLostRecords = "mirror_lost_records" Warn,
    /// A restarted source takes over what its mirror has and it has not.
    AdoptBegun = "adopt_begun" Info,
    /// It has it.
    AdoptDone = "adopt_done" Info,
    /// A start has found damaged records in the NVRAM.
    RecordsDamaged = "records_damaged" Warn,
    /// They came back from the mirror.
    RecordsRepaired = "records_repaired" Info,
    /// A damaged chunk of a body has its bytes again, from the other end.
    ChunkRepaired = "chunk_repaired" Info,
    /// The other end could not give it: reading it is an error.
    ChunkUnrepaired = "chunk_unrepaired" Warn,
    /// A record that the mirror lacks is damaged here: the mirror gets a baseline instead.
    RecordUnreadable = "record_unreadable" Warn,
    /// A destination whose engine is damaged is filled by its source.
    EngineRefilled = "engine_refilled" Warn,
    /// The mirror lacks what is trimmed here, or went another way: it is offered a baseline.
    BaselineOffered = "baseline_offered" Info,
    /// A baseline is under way.
    BaselineBegun = "baseline_begun" Info,
    /// One is under way again, from where it was.
    BaselineResumed = "baseline_resumed" Info,
    /// The destination has its new image.
    BaselineDone = "baseline_done" Info,
    /// The destination has no room for it.
    BaselineRefused = "baseline_refused" Warn,
    /// Damaged chunks were left out of it.
    BaselineIncomplete = "baseline_incomplete" Warn,
    /// The backlog has passed its limit and is given up.
    BacklogDropped = "backlog_dropped" Warn,
    /// Records that the peer never committed are in a file, durably.
    TailSetAside = "tail_set_aside" Warn,
    /// An operator promotes this node.
    PromoteBegun = "promote_begun" Info,
    /// The source gives its origin to its destination.
    HandoverBegun = "handover_begun" Info,
    /// It was given up before anything had changed.
    HandoverEnded = "handover_ended" Warn,
    /// An operator takes back what was offered.
    HandoverReclaimed = "handover_reclaimed" Warn,
    /// An operator has ordered a rebuild.
    RebuildOrdered = "rebuild_ordered" Info,
    /// There is too little space: a source refuses writes.
    DiskFull = "disk_full" Warn,
    /// There is enough again.
    DiskSpace = "disk_space" Info,
    /// Persists of the NVRAM take too long.
    DeviceSlow = "device_slow" Warn,
    /// They do not any more.
    DeviceSteady = "device_steady" Info,
    /// The clocks of the two nodes are far apart.
    ClocksApart = "clocks_apart" Warn,
    /// They are not any more.
    ClocksClose = "clocks_close" Info,
}

/// One line. What an event does not have is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What happened.
    pub what: Noted,
    /// The other node of the pair.
    pub peer: Option<Origin>,
    /// What this node is for the origin.
    pub role: Option<Role>,
    /// What was before, in one word.
    pub from: Option<&'static str>,
    /// What is now.
    pub to: Option<&'static str>,
    /// One sentence.
    pub reason: Option<String>,
    /// When a connection is tried next, in milliseconds.
    pub retry_ms: Option<u64>,
    /// An epoch.
    pub epoch: Option<Epoch>,
    /// The first record that is spoken of.
    pub first: Option<Seq>,
    /// The last one, or the only one.
    pub seq: Option<Seq>,
    /// How many.
    pub count: Option<u64>,
    /// How many bytes.
    pub bytes: Option<u64>,
    /// How long, in milliseconds.
    pub ms: Option<u64>,
    /// The peer's clock minus this node's, in milliseconds.
    pub skew_ms: Option<i64>,
}

impl Note {
    /// That it happened, and nothing more.
    #[must_use]
    pub fn new(what: Noted) -> Self {
        Self {
            what,
            peer: None,
            role: None,
            from: None,
            to: None,
            reason: None,
            retry_ms: None,
            epoch: None,
            first: None,
            seq: None,
            count: None,
            bytes: None,
            ms: None,
            skew_ms: None,
        }
    }

    pub(crate) fn between(self, from: &'static str, to: &'static str) -> Self {
        Self { from: Some(from), to: Some(to), ..self }
    }

    pub(crate) fn reason(self, reason: impl Into<String>) -> Self {
        Self { reason: Some(reason.into()), ..self }
    }

    pub(crate) fn retry_ms(self, retry_ms: Option<u64>) -> Self {
        Self { retry_ms, ..self }
    }

    pub(crate) fn epoch(self, epoch: Epoch) -> Self {
        Self { epoch: Some(epoch), ..self }
    }

    pub(crate) fn at(self, at: Position) -> Self {
        Self { epoch: Some(at.epoch), seq: Some(at.seq), ..self }
    }

    pub(crate) fn seq(self, seq: Seq) -> Self {
        Self { seq: Some(seq), ..self }
    }

    pub(crate) fn records(self, first: Seq, last: Seq) -> Self {
        Self { first: Some(first), seq: Some(last), ..self }
    }

    pub(crate) fn count(self, count: u64) -> Self {
        Self { count: Some(count), ..self }
    }

    pub(crate) fn bytes(self, bytes: u64) -> Self {
        Self { bytes: Some(bytes), ..self }
    }

    pub(crate) fn ms(self, ms: u64) -> Self {
        Self { ms: Some(ms), ..self }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_event_has_a_name_of_its_own_and_stands_in_the_documents() {
        let documents = include_str!("../../docs/operations.md");
        let names: BTreeSet<&str> = Noted::ALL.iter().map(|what| what.as_str()).collect();
        assert_eq!(names.len(), Noted::ALL.len());
        for name in names {
            assert!(documents.contains(&format!("`{name}`")), "docs/operations.md does not say what `{name}` means");
        }
    }
}
