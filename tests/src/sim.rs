//! The simulator.

pub mod random;
