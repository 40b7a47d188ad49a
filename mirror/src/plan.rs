//! What a node is told before it starts: its origins, their streams, policies and sizes.

use std::time::Duration;

use lockstep_storage::id::Origin;
use lockstep_storage::record::{Draft, RECORD_LEN_MAX};

/// What happens to an origin's writes while its mirror is out of reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// Writes are refused: nothing is ever answered that only one site has.
    Strict,
    /// After `link_timeout` the stream is durably marked out of sync, then writes are answered alone, and say so.
    #[default]
    Sync,
    /// Writes never wait for the mirror.
    Async,
}

/// What the destination must have done with a record before it counts as mirrored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum AckLevel {
    /// It is in the destination's memory.
    Received,
    /// It is persisted in the origin's partition of the destination's NVRAM.
    #[default]
    Durable,
    /// It is in the image that the destination's readers see.
    Applied,
}

/// How an origin's writes reach their mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamPlan {
    /// The node that holds the mirror.
    pub destination: Origin,
    /// Where its mirror listener is.
    pub url: String,
    /// What happens when it is out of reach.
    pub policy: Policy,
    /// What it must have done before a write is answered.
    pub ack: AckLevel,
    /// How long the oldest unacknowledged batch may wait before the link counts as lost.
    pub link_timeout: Duration,
    /// Time between consistency points.
    pub sync_interval: Duration,
    /// Most bytes that may wait for the destination while it is away; beyond, they are given up, and it needs a baseline.
    pub backlog_limit: u64,
    /// Most bytes of a baseline sent in a second.
    pub baseline_rate: u64,
}

/// One origin at this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginPlan {
    /// The origin; this node's own name, or the node that it mirrors.
    pub origin: Origin,
    /// Its share of the NVRAM region, in bytes.
    pub nvram_len: u64,
    /// Where its writes go from here; none at a destination, and where there is no mirror.
    pub stream: Option<StreamPlan>,
}

/// The whole node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePlan {
    /// Its name.
    pub node: Origin,
    /// Its origins: its own first, then those it mirrors.
    pub origins: Vec<OriginPlan>,
    /// The first records of its own origin, written when the node starts for the first time and committed locally under
    /// any policy: the root key and its user.
    pub bootstrap: Vec<Draft>,
    /// How much of anything it holds or does at once.
    pub limits: Limits,
}

/// Bounds of the core and its workers. Only simulations take others than the default: small ones, so that they are met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest record that is taken, in bytes; a larger draft is refused. Segments are never smaller than it asks for, and
    /// the other end's must be as large.
    pub record_len_max: usize,
    /// Most bytes of records in one batch: what the device writes well in one go.
    pub batch_len_max: usize,
    /// Most records in one batch.
    pub batch_records_max: usize,
    /// Most bytes of unsent records that a source keeps in memory; beyond, they are read back from the container.
    pub window_len_max: usize,
    /// Most bytes of records in one message.
    pub message_len_max: usize,
    /// Bytes of records that a source may have under way: received at its destination and not yet persisted there.
    pub budget_len: u64,
    /// Batches on their way whose age is told apart; later ones are counted with the last.
    pub ages_max: usize,
    /// Records applied in one step.
    pub apply_step: usize,
    /// Chunks deleted in one step.
    pub collect_step: usize,
    /// Bytes of a baseline that a crash of its taker may cost: after so many they are made durable.
    pub baseline_step_len: u64,
    /// Losses of a link within [`Limits::flap_window_ms`] from which on it flaps (F16).
    pub flap_losses: usize,
    /// That window, in milliseconds. A link that was not lost for so long is steady again.
    pub flap_window_ms: u64,
    /// How long a link that has begun to flap must stand before writers wait for the mirror again, in milliseconds. Each
    /// further loss within the window doubles it.
    pub hold_off_ms: u64,
    /// The longest that it becomes.
    pub hold_off_max_ms: u64,
    /// A link that stood for so long, in milliseconds, and does not flap, is tried again at once when it is lost. One that
    /// stood for less has its pause before the next attempt go on growing.
    pub steady_ms: u64,
    /// A persist that takes longer, in milliseconds, is slow; when all are for three times as long, it is told (F47).
    pub slow_persist_ms: u64,
    /// Longest time that a client waits for this node's own device and engine, in milliseconds; at least twice the
    /// `link_timeout`, so that a late mirror is judged first (F47).
    pub write_timeout_ms: u64,
}

impl Limits {
    /// What production has.
    pub const DEFAULT: Self = Self {
        record_len_max: RECORD_LEN_MAX,
        batch_len_max: 8 << 20,
        batch_records_max: 4096,
        window_len_max: 32 << 20,
        message_len_max: 4 << 20,
        budget_len: 64 << 20,
        ages_max: 1024,
        apply_step: 256,
        collect_step: 256,
        baseline_step_len: 128 << 20,
        flap_losses: 6,
        flap_window_ms: 300_000,
        hold_off_ms: 1_000,
        hold_off_max_ms: 30_000,
        steady_ms: 10_000,
        slow_persist_ms: 1_000,
        write_timeout_ms: 30_000,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}
