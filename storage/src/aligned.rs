//! A buffer for direct I/O, which takes memory from a block bound on only.

use crate::nvram::BLOCK_LEN;

/// Zeroed bytes that start at a block bound.
pub(crate) struct Aligned {
    buffer: Vec<u8>,
    start: usize,
}

impl Aligned {
    pub(crate) fn new(len: usize) -> Self {
        let buffer = vec![0; len + BLOCK_LEN as usize];
        let start = buffer.as_ptr().align_offset(BLOCK_LEN as usize);
        Self { buffer, start }
    }

    /// The first `len` of them.
    pub(crate) fn bytes(&mut self, len: usize) -> &mut [u8] {
        &mut self.buffer[self.start..self.start + len]
    }
}
