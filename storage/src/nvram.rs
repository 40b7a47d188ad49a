//! The seam to the log device: one preallocated region of bytes that outlives the process.
//!
//! A write is bytes handed over; it survives only when a later [`Nvram::persist`] has returned. Between the two a crash
//! may keep any subset of the written blocks, in any order, and tear each one at its sectors.

pub mod file;
pub mod sim;

use bytes::Bytes;

/// Writes start and end at multiples of this, in bytes: what direct I/O asks for.
pub const BLOCK_LEN: u64 = 4096;

/// What the device could not do.
#[derive(Debug, thiserror::Error)]
pub enum NvramError {
    /// The operating system said no.
    #[error("NVRAM {action} at offset {offset}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where, in bytes.
        offset: u64,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Outside the region, or not at block bounds.
    #[error("NVRAM range {offset}+{len} is outside the region of {region} bytes or not at block bounds")]
    Range {
        /// Start in bytes.
        offset: u64,
        /// Length in bytes.
        len: u64,
        /// Size of the region in bytes.
        region: u64,
    },
    /// The region is not one of ours, or of another layout.
    #[error("{0}")]
    Layout(String),
}

/// The device.
///
/// 1. `read` gives what was written last, durable or not.
/// 2. When `persist` returns without error every earlier write is durable.
/// 3. After a failed `persist` nothing is known about the writes since the last good one: the caller stops (F13).
pub trait Nvram: Send {
    /// Size of the region in bytes, a multiple of [`BLOCK_LEN`].
    fn len(&self) -> u64;

    /// No region is empty.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes `pieces` one behind the other from `offset` on, and zeros up to the next block bound. `offset` is at one.
    ///
    /// # Errors
    /// When the range is not inside the region or the device refuses.
    fn write(&mut self, offset: u64, pieces: &[Bytes]) -> Result<(), NvramError>;

    /// Makes every earlier write durable.
    ///
    /// # Errors
    /// When the device does not say that it is. Never tried again by the caller.
    fn persist(&mut self) -> Result<(), NvramError>;

    /// Reads `len` bytes from `offset` on. Both are multiples of [`BLOCK_LEN`].
    ///
    /// # Errors
    /// When the range is not inside the region or the device refuses.
    fn read(&mut self, offset: u64, len: usize) -> Result<Bytes, NvramError>;
}
