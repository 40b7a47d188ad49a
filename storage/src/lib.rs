//! What a node remembers: the NVRAM region and its partitions, the records in them, and per origin a storage engine with
//! the container (records and bodies not yet applied everywhere) and the image that S3 clients read.
//!
//! # Layout
//! - [`id`]: the vocabulary: origin, epoch, seq, body id, position.
//! - [`op`]: what a record may change, as protobuf messages, and the metadata that the image stores.
//! - [`record`]: one framed log entry; the same bytes in NVRAM and on the wire.
//! - [`nvram`]: the seam to the device, the file behind it, and the simulated one.
//! - [`superblock`], [`partition`], [`recovery`]: the region's layout, a partition's segments, what a restart finds.
//! - [`image`]: the seam to the storage engine: containers, bodies, image; RocksDB and the in-memory double.
//!
//! Everything here is synchronous: no clock, no randomness, no threads, no sockets.

#[cfg(not(target_pointer_width = "64"))]
compile_error!("offsets in a region and lengths in memory are 64 bits wide");

pub mod id;
pub mod image;
pub mod nvram;
pub mod op;
pub mod partition;
pub mod record;
pub mod recovery;
pub mod superblock;
