//! What crosses crates: the simulator of two mirrored nodes, and what its tests share. Everything is decided by seeds: a
//! failing one is a bug report that can be run again.

pub mod sim;
