//! What crosses crates: the simulator of two mirrored nodes, rounds of failures between two real processes, nodes in the
//! test's own process, and what their tests share. Everything that can be is decided by seeds: a failing one is a bug
//! report that can be run again.

#![allow(missing_docs, reason = "no library for others: the names of steps and faults say what they are")]
#![allow(clippy::missing_panics_doc, reason = "what tests share panics where the test has failed")]
#![allow(clippy::missing_errors_doc, reason = "the error of a check is always the rule that was broken")]

pub mod history;
pub mod node;
pub mod process;
pub mod raw;
pub mod sim;
