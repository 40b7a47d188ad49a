//! The core of a node, driven event by event where the order of two events decides: what is answered, what is told to the
//! other end, and what a restart finds.

#[path = "core/bench.rs"]
mod bench;
#[path = "core/clocks.rs"]
mod clocks;
#[path = "core/destination.rs"]
mod destination;
#[path = "core/device.rs"]
mod device;
#[path = "core/disks.rs"]
mod disks;
#[path = "core/events.rs"]
mod events;
#[path = "core/repair.rs"]
mod repair;
#[path = "core/room.rs"]
mod room;
#[path = "core/source.rs"]
mod source;
