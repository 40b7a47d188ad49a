//! What crosses crates: the simulator of two mirrored nodes, rounds of failures between two real processes, and what their
//! tests share. Everything that can be is decided by seeds: a failing one is a bug report that can be run again.

pub mod process;
pub mod sim;
