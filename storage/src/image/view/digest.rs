//! One number for everything that S3 clients can see of an image: to compare two sites at one applied seq. Streaming; the
//! bytes of chunks are not in it (the extents that name them are), nor are marks, counts and the garbage queue, which may
//! differ while both sites are right.

use crc_fast::{CrcAlgorithm, Digest};

use super::View;
use crate::id::Seq;
use crate::image::{Family, ImageError, keys};

/// What is in an image, in one number. Two images of one origin with the same `applied` must be equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageDigest {
    /// The last record in the image.
    pub applied: Seq,
    /// Buckets, objects, uploads, parts, access keys and users together.
    pub entries: u64,
    /// CRC-64/NVME over all of them in order.
    pub checksum: u64,
}

impl View {
    /// Digests the image.
    ///
    /// # Errors
    /// When the engine cannot read.
    pub fn digest(&self) -> Result<ImageDigest, ImageError> {
        let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
        let mut entries = 0;
        for prefix in [keys::BUCKET, keys::OBJECT, keys::UPLOAD, keys::PART, keys::ACCESS_KEY, keys::USER] {
            let from = [prefix];
            self.tables.scan(Family::Image, &from, &keys::successor(&from), &mut |key, value| {
                // The lengths, so that no byte can move from a key to its value.
                digest.update(&(key.len() as u64).to_be_bytes());
                digest.update(key);
                digest.update(&(value.len() as u64).to_be_bytes());
                digest.update(value);
                entries += 1;
                true
            })?;
        }
        Ok(ImageDigest { applied: self.progress()?.applied.seq, entries, checksum: digest.finalize() })
    }
}
