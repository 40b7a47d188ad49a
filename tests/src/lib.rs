//! What crosses crates: the simulator of two mirrored nodes, nodes in the test's own process, and what their tests share.
//! What the simulator does is decided by seeds: a failing one is a bug report that can be run again.

pub mod node;
pub mod raw;
pub mod sim;
