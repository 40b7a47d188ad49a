//! The vocabulary of the log: who wrote (origin), under which fence (epoch), in which place (seq).
//!
//! Names are checked when they are made, so every later holder may trust them.

use std::fmt;
use std::sync::Arc;

use crc_fast::{CrcAlgorithm, checksum};

/// Longest node name, in bytes: a DNS label.
pub const NODE_NAME_LEN_MAX: usize = 63;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a node name: 1 to 63 of a-z, 0-9 and '-', neither first nor last a '-'")]
pub struct BadName(pub String);

/// The name of a node, and of the origin of its clients' writes. One DNS label; never changes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin(Arc<str>);

impl Origin {
    /// Checks and makes a name.
    ///
    /// # Errors
    /// When the name is not one DNS label in lower case.
    pub fn new(name: &str) -> Result<Self, BadName> {
        let bytes = name.as_bytes();
        let label = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
        let fits = !bytes.is_empty() && bytes.len() <= NODE_NAME_LEN_MAX && bytes.iter().all(label);
        if !fits || bytes[0] == b'-' || bytes[bytes.len() - 1] == b'-' {
            return Err(BadName(name.chars().take(80).collect()));
        }
        Ok(Self(Arc::from(name)))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The fixed-size identity of the node with this name, as epochs carry it.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        NodeId(checksum(CrcAlgorithm::Crc64Nvme, self.0.as_bytes()))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A node's identity in 64 bits: a digest of its name. Peers compare names as well, so a collision is refused, not missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NodeId(pub u64);

/// A fence: which node may write an origin's records, and since when. Ordered by counter, then node, so that two nodes
/// can never make the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch {
    /// Raised at every change of the writer; 0 is no epoch at all.
    pub counter: u64,
    /// The node that writes under it.
    pub node: NodeId,
}

/// Counters count restarts below this bit and promotes from it on.
const PROMOTE_SHIFT: u32 = 32;

impl Epoch {
    /// The first epoch that `node` may make after this one.
    #[must_use]
    pub fn next(self, node: NodeId) -> Self {
        Self { counter: self.counter + 1, node }
    }

    /// The epoch of a promote of `node`: above every epoch that the deposed node can make by itself, however often it
    /// restarts before it hears of it.
    #[must_use]
    pub fn next_promoted(self, node: NodeId) -> Self {
        Self { counter: ((self.counter >> PROMOTE_SHIFT) + 1) << PROMOTE_SHIFT, node }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (promotes, restarts) = (self.counter >> PROMOTE_SHIFT, self.counter & ((1 << PROMOTE_SHIFT) - 1));
        if promotes > 0 {
            write!(f, "{promotes}.")?;
        }
        write!(f, "{restarts}-{:08x}", self.node.0 >> 32)
    }
}

/// The place of a record in its origin's history: dense, from 1. 0 is before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seq(pub u64);

impl Seq {
    /// Before the first record.
    pub const ZERO: Self = Self(0);

    /// The next place.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The place before; of the first one, [`Seq::ZERO`].
    #[must_use]
    pub fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The bytes of an object or part: named by the record that brought the first of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BodyId {
    /// The epoch of its first record.
    pub epoch: Epoch,
    /// The seq of its first record.
    pub seq: Seq,
}

/// One chunk of a body: what damage of a disk is found in, and mended by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId {
    /// Whose.
    pub body: BodyId,
    /// Which, from 0.
    pub index: u32,
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chunk {} of body {}/{}", self.index, self.body.epoch, self.body.seq)
    }
}

/// A point in an origin's history, told apart from any other history by the checksum of the record there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Position {
    /// The epoch of the record.
    pub epoch: Epoch,
    /// Its seq; [`Seq::ZERO`] before the first record.
    pub seq: Seq,
    /// Its header checksum, the parent of the next record; 0 before the first.
    pub checksum: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.epoch, self.seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_dns_label() {
        for good in ["a", "site-a", "0", &"x".repeat(63)] {
            assert!(Origin::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a/b", "é", &"x".repeat(64)] {
            assert!(Origin::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn epochs_are_ordered_by_counter_then_node() {
        let (a, b) = (NodeId(1), NodeId(2));
        let first = Epoch { counter: 1, node: b };
        assert!(first < first.next(a));
        assert!(first.next(a) < first.next(b));
        let promoted = first.next_promoted(a);
        assert!(first.next(b).next(b).next(b) < promoted, "a promote deposes whoever restarted meanwhile");
        assert!(promoted < promoted.next(b));
        assert_eq!(promoted.next(a).to_string(), "1.1-00000000");
    }
}
