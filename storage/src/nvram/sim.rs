//! The simulated device: a region in memory with what is durable and what is only written, so that a test can decide what
//! a crash leaves: any subset of the unpersisted sectors, flipped bits, refused writes and persists.
//!
//! It draws nothing by chance itself: the caller passes a choice function, so a seed decides everything.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{BLOCK_LEN, Nvram, NvramError};

/// What a torn write keeps or loses as a whole, in bytes.
pub const SECTOR_LEN: usize = 512;

/// The device.
#[derive(Debug, Clone)]
pub struct SimNvram {
    durable: Vec<u8>,
    /// Written and not yet persisted, by sector, the newest only.
    pending: BTreeMap<usize, [u8; SECTOR_LEN]>,
    /// Refuse the next writes.
    pub fail_writes: bool,
    /// Refuse the next persists.
    pub fail_persists: bool,
    /// Persists that were carried out.
    pub persists: u64,
}

impl SimNvram {
    /// A region of zeros.
    #[must_use]
    pub fn new(len: u64) -> Self {
        let len = len.next_multiple_of(BLOCK_LEN) as usize;
        Self { durable: vec![0; len], pending: BTreeMap::new(), fail_writes: false, fail_persists: false, persists: 0 }
    }

    /// The power goes: of each unpersisted sector `keep` says whether it has reached the medium.
    pub fn crash(&mut self, keep: &mut dyn FnMut() -> bool) {
        for (sector, bytes) in std::mem::take(&mut self.pending) {
            if keep() {
                self.durable[sector * SECTOR_LEN..(sector + 1) * SECTOR_LEN].copy_from_slice(&bytes);
            }
        }
        self.fail_writes = false;
        self.fail_persists = false;
    }

    /// Flips one bit of what is durable.
    pub fn rot(&mut self, at: u64, bit: u8) {
        self.durable[at as usize] ^= 1 << (bit % 8);
    }

    fn check(&self, offset: u64, len: usize) -> Result<usize, NvramError> {
        let fits = offset.checked_add(len as u64).is_some_and(|end| end <= self.len());
        if fits && offset.is_multiple_of(BLOCK_LEN) {
            return Ok(offset as usize);
        }
        Err(NvramError::Range { offset, len: len as u64, region: self.len() })
    }
}

fn refused(action: &'static str, offset: u64) -> NvramError {
    NvramError::Io { action, offset, source: std::io::Error::other("simulated device error") }
}

impl Nvram for SimNvram {
    fn len(&self) -> u64 {
        self.durable.len() as u64
    }

    fn write(&mut self, offset: u64, pieces: &[Bytes]) -> Result<(), NvramError> {
        let mut bytes = pieces.concat();
        bytes.resize(bytes.len().next_multiple_of(BLOCK_LEN as usize), 0);
        let at = self.check(offset, bytes.len())?;
        if self.fail_writes {
            return Err(refused("write", offset));
        }
        for (i, sector) in bytes.chunks_exact(SECTOR_LEN).enumerate() {
            if let Some(whole) = sector.first_chunk::<SECTOR_LEN>() {
                self.pending.insert(at / SECTOR_LEN + i, *whole);
            }
        }
        Ok(())
    }

    fn persist(&mut self) -> Result<(), NvramError> {
        if self.fail_persists {
            return Err(refused("persist", 0));
        }
        for (sector, bytes) in std::mem::take(&mut self.pending) {
            self.durable[sector * SECTOR_LEN..(sector + 1) * SECTOR_LEN].copy_from_slice(&bytes);
        }
        self.persists += 1;
        Ok(())
    }

    fn read(&mut self, offset: u64, len: usize) -> Result<Bytes, NvramError> {
        let at = self.check(offset, len)?;
        let mut out = self.durable[at..at + len].to_vec();
        let sectors = at / SECTOR_LEN..(at + len).div_ceil(SECTOR_LEN);
        for (sector, bytes) in self.pending.range(sectors) {
            let start = sector * SECTOR_LEN - at;
            out[start..start + SECTOR_LEN].copy_from_slice(bytes);
        }
        Ok(out.into())
    }
}
