//! The mirrored write log: what a node does with its clients' writes and with its peers'.
//!
//! # Layout
//! - [`plan`]: what a node is told: streams, policies, ack levels, sizes.
//! - [`node`]: the core. One deterministic state machine: [`event::Event`] in, [`event::Effect`] out; no sockets, threads,
//!   clock or randomness. The simulator drives thousands of seeds of it.
//! - [`note`]: the log of events: what it tells, and under which names.
//! - [`message`]: what two nodes say to each other, and its bytes.
//! - [`runtime`]: the threads that carry the core's effects out: core, log writer, apply and flush workers.
//! - [`link`]: the messages over HTTP/2.
//! - [`client`]: what the gateway calls: submit a write, read an image, give a command.
//! - [`status`]: what an operator is shown.
//! - [`tail`]: what a deposed source had that its peer never got.

pub mod client;
pub mod event;
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "the link is sockets, timeouts and a nonce")]
pub mod link;
pub mod message;
pub mod node;
pub mod note;
pub mod plan;
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "the runtime is the threads and the clock")]
pub mod runtime;
pub mod start;
pub mod status;
pub mod tail;
pub mod worker;
