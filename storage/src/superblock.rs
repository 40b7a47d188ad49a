//! The superblock: what a node must remember apart from its records, in two checksummed copies written in turn.

use crate::id::{Epoch, Seq};

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
