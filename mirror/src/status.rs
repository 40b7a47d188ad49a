//! What an operator is shown: `lockstep status`, `/v1/status`, metrics.

use std::fmt;

use lockstep_storage::id::{Epoch, Origin, Seq};

use crate::client::Role;
use crate::plan::Policy;

/// State of an origin's stream at this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamState {
    /// There is no mirror.
    Alone,
    /// Restarted, or never connected: what the peer has is not known. A source refuses writes.
    Unsettled,
    /// The peer lacks records, durably marked; writes are answered alone (`sync`) or refused (`strict`).
    OutOfSync,
    /// Linked; the peer gets what it lacks.
    CatchingUp,
    /// Nearly there: writes wait for the peer again.
    Closing,
    /// The peer has every committed record.
    InSync,
    /// Stopped on purpose.
    Paused,
    /// The peer's image is made anew, or must be: records that it lacks are gone, or it holds another history.
    Baseline,
    /// The origin's log or its engine is gone here: this node takes no part in it until the operator decides.
    Lost,
    /// Refused by the peer or by this node, in words in the reason.
    Refused,
    /// The peer was promoted: this node must not write.
    Fenced,
    /// This node offers the origin to its peer and must not write.
    HandingOver,
}

impl StreamState {
    /// In one word, the same in status, metrics, log lines and refusals.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alone => "alone",
            Self::Unsettled => "unsettled",
            Self::OutOfSync => "out_of_sync",
            Self::CatchingUp => "catching_up",
            Self::Closing => "closing",
            Self::InSync => "in_sync",
            Self::Paused => "paused",
            Self::Baseline => "baseline",
            Self::Lost => "lost",
            Self::Refused => "refused",
            Self::Fenced => "fenced",
            Self::HandingOver => "handing_over",
        }
    }
}

impl fmt::Display for StreamState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One origin.
#[derive(Debug, Clone)]
pub struct OriginStatus {
    /// Which.
    pub origin: Origin,
    /// What this node is for it.
    pub role: Role,
    /// The epoch that it writes or accepts.
    pub epoch: Epoch,
    /// State of its stream.
    pub state: StreamState,
    /// Why it is in that state.
    pub reason: String,
    /// At a source: writes are answered that only this node has.
    pub alone: bool,
    /// The node at the other end, where there is one.
    pub peer: Option<Origin>,
    /// Policy, at a source with a mirror.
    pub policy: Option<Policy>,
    /// Last record here.
    pub last: Seq,
    /// Persisted here.
    pub persisted: Seq,
    /// Committed, as far as this node knows.
    pub committed: Seq,
    /// Applied to the image here.
    pub applied: Seq,
    /// Durable in the engine here.
    pub flushed: Seq,
    /// Persisted at the peer, as far as this node knows.
    pub peer_persisted: Seq,
    /// Applied at the peer.
    pub peer_applied: Seq,
    /// Last consistency point, at both ends.
    pub consistency_point: Seq,
    /// When it was reached, milliseconds since 1970; 0 for never in this process.
    pub consistency_point_ms: u64,
    /// Bytes of records that the peer has not persisted.
    pub behind_bytes: u64,
    /// Age in milliseconds of the oldest record that the peer has not persisted; 0 for none.
    pub behind_ms: u64,
    /// Age in milliseconds of the oldest record not yet applied at the peer (source) or here (destination).
    pub unapplied_ms: u64,
    /// Time of the last message from the peer, milliseconds since 1970; 0 for never in this process.
    pub last_contact_ms: u64,
    /// Writes answered that only this node had, in this process.
    pub degraded_acks: u64,
    /// Writes answered that the peer had, in this process.
    pub mirrored_acks: u64,
    /// Connections made.
    pub connects: u64,
    /// The link stands, and both ends hold one history or a baseline is on its way.
    pub linked: bool,
    /// Times that it stood and was lost.
    pub link_losses: u64,
    /// It was lost so often that its changes are not told one by one, and writers are kept from waiting for it.
    pub flapping: bool,
    /// Changes of the state.
    pub state_changes: u64,
    /// The peer's clock minus this node's, in milliseconds, as it was measured last.
    pub skew_ms: Option<i64>,
    /// Segments of the partition: free, active, sealed.
    pub segments: (u32, u32, u32),
    /// Bytes of a segment.
    pub segment_len: u64,
    /// Times that writers had to wait for a segment.
    pub segment_waits: u64,
    /// Has the engine's disk too little space for what this node is for the origin?
    pub full: bool,
    /// The record that cannot be applied, and why: the image stays before it.
    pub stuck: Option<(Seq, String)>,
    /// Oldest seq that the container still has, less one.
    pub trimmed: Seq,
    /// The baseline that is given or taken.
    pub baseline: Option<BaselineProgress>,
    /// At a destination: what is here is to be replaced by a baseline, and that has not come yet.
    pub rebuilding: bool,
    /// Damaged chunks that got their bytes from the peer, in this process.
    pub repaired: u64,
    /// Damaged chunks that could not be had from the peer when they were asked for, in this process.
    pub unrepaired: u64,
}

/// How far a baseline is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaselineProgress {
    /// The record whose image it is.
    pub at: Seq,
    /// About how many bytes earlier connections had brought.
    pub have: u64,
    /// Bytes that this one has.
    pub bytes: u64,
    /// About how many it is in all.
    pub total: u64,
    /// Since it began on this connection, in milliseconds.
    pub ms: u64,
}

/// How the log device does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceStatus {
    /// Persists have been late for a while.
    pub slow: bool,
    /// For how long, in milliseconds; 0 where they are not.
    pub slow_ms: u64,
    /// Times that it became slow, in this process.
    pub slow_times: u64,
    /// The longest persist since then, in milliseconds; 0 where it is not slow.
    pub worst_ms: u64,
    /// How long the oldest persist under way waits, in milliseconds; 0 where none is.
    pub waits_ms: u64,
    /// It waits so long that nobody is answered here.
    pub stalled: bool,
}

/// The whole node.
#[derive(Debug, Clone)]
pub struct Status {
    /// Its name.
    pub node: Origin,
    /// Counts its NVRAM regions.
    pub incarnation: u64,
    /// `device` or `memory`.
    pub persist_class: &'static str,
    /// Its own origin first.
    pub origins: Vec<OriginStatus>,
    /// Batches persisted in this process.
    pub batches: u64,
    /// Records in them.
    pub batch_records: u64,
    /// Bytes in them.
    pub batch_bytes: u64,
    /// Microseconds that their persists took, added up.
    pub persist_us: u64,
    /// How the log device does.
    pub device: DeviceStatus,
}
