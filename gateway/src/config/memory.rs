//! The memory plan: what a node may use, line by line, with its sum. Planned, not hoped for: each line is a bound that
//! some part of the node enforces.

use std::fmt;

use super::units::approximate;

/// Bytes that wait between the core and the NVRAM device at most.
pub const NVRAM_BUFFERS: u64 = 64 << 20;
/// Bytes of one mirrored origin that wait between its connection and the core at most.
pub const LINK_BUDGET: u64 = 64 << 20;
/// Default of `memory.block_cache`.
pub const BLOCK_CACHE_DEFAULT: u64 = 256 << 20;
/// Default of `memory.memtables`.
pub const MEMTABLES_DEFAULT: u64 = 256 << 20;
/// Default of `memory.bodies`.
pub const BODIES_DEFAULT: u64 = 128 << 20;

/// Bytes by use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Records on their way to the NVRAM device.
    pub nvram_buffers: u64,
    /// Records of mirrored origins on their way from the link, all streams together.
    pub links: u64,
    /// Memtables of all storage engines together.
    pub memtables: u64,
    /// Block cache of all storage engines together.
    pub block_cache: u64,
    /// Request bodies on their way to the log.
    pub bodies: u64,
}

impl MemoryPlan {
    /// The lines, in the order in which they are printed.
    #[must_use]
    pub fn lines(&self) -> [(&'static str, u64); 5] {
        [
            ("NVRAM buffers", self.nvram_buffers),
            ("mirror links", self.links),
            ("memtables", self.memtables),
            ("block cache", self.block_cache),
            ("request bodies", self.bodies),
        ]
    }

    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.lines().iter().map(|(_, bytes)| bytes).sum()
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, bytes) in self.lines().iter().filter(|(_, bytes)| *bytes > 0) {
            write!(f, "{name} {} + ", approximate(*bytes))?;
        }
        write!(f, "code and stacks = {} at most planned", approximate(self.total()))
    }
}
