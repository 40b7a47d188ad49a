//! One number for everything that S3 clients can see of an image: to compare two sites at one applied seq. Streaming;
//! marks, counts and the garbage queue are not in it: they may differ while both sites are right. The bytes of chunks are
//! only in the deep one, which reads and verifies each of them; the plain one has the extents that name them.

use crc_fast::{CrcAlgorithm, Digest};

use super::{View, decode};
use crate::id::{BodyId, ChunkId, Position};
use crate::image::{Family, ImageError, keys};
use crate::op::{Extent, Part};

/// What is in an image, in one number. Two images of one origin with the same `applied` must be equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageDigest {
    /// The last record in the image.
    pub applied: Position,
    /// Buckets, objects, uploads, parts, access keys and users together.
    pub entries: u64,
    /// CRC-64/NVME over all of them in order.
    pub checksum: u64,
}

/// The bytes that objects and parts consist of, in one number. Equal where the image's own digests are, unless bytes are
/// damaged, missing, or another body's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodiesDigest {
    /// Bytes read; those that objects share are read for each of them.
    pub bytes: u64,
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
        Ok(ImageDigest { applied: self.progress()?.applied, entries, checksum: digest.finalize() })
    }

    /// Reads and verifies every chunk that an object or a part has, and digests them. Bytes inline in an object are in
    /// [`View::digest`] already.
    ///
    /// # Errors
    /// [`ImageError::Chunk`] when one is damaged or missing; when the engine cannot read.
    pub fn digest_bodies(&self) -> Result<BodiesDigest, ImageError> {
        let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
        let mut bytes = 0;
        for prefix in [keys::OBJECT, keys::PART] {
            let mut cursor = self.tables.cursor(Family::Image, &keys::successor(&[prefix]))?;
            cursor.seek(&[prefix]);
            while let Some((_, value)) = cursor.entry()? {
                let extents = match prefix {
                    keys::OBJECT => keys::decode_object_meta(value)?.extents,
                    _ => decode::<Part>(value, "part")?.extents,
                };
                for extent in extents {
                    bytes += self.digest_extent(&extent, &mut digest)?;
                }
                cursor.next();
            }
        }
        Ok(BodiesDigest { bytes, checksum: digest.finalize() })
    }

    pub(super) fn digest_extent(&self, extent: &Extent, digest: &mut Digest) -> Result<u64, ImageError> {
        let (mut read, mut index) = (0, 0);
        while read < extent.len {
            let chunk = self.chunk(BodyId::from(extent.body), index)?;
            if chunk.is_empty() || read + chunk.len() as u64 > extent.len {
                let chunk_id = ChunkId { body: BodyId::from(extent.body), index };
                return Err(ImageError::Chunk { chunk: chunk_id, what: format!("it has {} bytes", chunk.len()) });
            }
            digest.update(&chunk);
            read += chunk.len() as u64;
            index += 1;
        }
        Ok(read)
    }
}
