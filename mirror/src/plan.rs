//! What a node is told before it starts: its origins, their streams, policies and sizes.

use std::time::Duration;

use lockstep_storage::id::Origin;
use lockstep_storage::record::Draft;

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
    /// Most bytes that may wait for the destination.
    pub backlog_limit: u64,
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
    /// Largest record that it takes, in bytes; a larger draft is refused. Segments are never smaller than it asks for, and
    /// the other end's must be as large. [`lockstep_storage::record::RECORD_LEN_MAX`] but in simulations.
    pub record_len_max: usize,
}
