//! Damaged chunks get their bytes back. A body's bytes never change, so whoever has the chunk of this name has the right ones;
//! but nothing is taken on a peer's word: the checksum that is known here decides.

use bytes::Bytes;

use super::stored_record;
use crate::id::{ChunkId, Seq};
use crate::image::keys::{self, BodyEntry, OpenBody};
use crate::image::view::known_crc;
use crate::image::{Change, Engine, Family, ImageError, Tables};
use crate::op::Mutation;
use crate::record::payload_crc;

/// Records that are looked at to find the one of a chunk.
const RECORDS_MAX: usize = 4096;

/// What became of the bytes of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mended {
    /// They are in place.
    Done,
    /// The chunk was sound.
    Sound,
    /// Nobody counts the chunk here, or not any more.
    Unknown,
    /// They are not those of the chunk: nothing was changed.
    Wrong,
    /// The engine is damaged where they would stand.
    Barred,
}

/// As [`crate::image::Image::repair`].
pub(in crate::image) fn repair(
    engine: &dyn Engine,
    chunk: ChunkId,
    bytes: &Bytes,
    vouched: Option<u32>,
) -> Result<Mended, ImageError> {
    let tables = engine.snapshot();
    let tables = tables.as_ref();
    let ChunkId { body, index } = chunk;
    let (key, crc_key) = (keys::chunk(body, index), keys::chunk_crc(body, index));
    let crc = payload_crc(bytes).to_be_bytes();
    let known = known_crc(tables, chunk)?;
    let is_known = known.is_some();
    let expected = match known {
        Some(known) => known,
        None if !is_counted(tables, chunk)? => return Ok(Mended::Unknown),
        None => match of_record(tables, chunk)?.or(vouched) {
            Some(crc) => Bytes::copy_from_slice(&crc.to_be_bytes()),
            None => return Ok(Mended::Unknown),
        },
    };
    if expected[..] != crc {
        return Ok(Mended::Wrong);
    }
    match tables.get(Family::Body, &key) {
        Ok(Some(found)) if is_known && found == bytes => return Ok(Mended::Sound),
        Ok(_) | Err(ImageError::Unreadable(_)) => {}
        Err(error) => return Err(error),
    }
    engine.commit(vec![Change::Put(Family::Body, key, bytes.clone()), Change::Put(Family::Body, crc_key, expected)])?;
    Ok(Mended::Done)
}

/// Does the image have a body with this chunk?
fn is_counted(tables: &dyn Tables, chunk: ChunkId) -> Result<bool, ImageError> {
    let (entry, open) = (keys::body(chunk.body), keys::open_body(chunk.body));
    let chunks = match tables.get(Family::Image, &entry)? {
        Some(value) => BodyEntry::decode(&value)?.chunks,
        None => {
            tables.get(Family::Image, &open)?.map(|value| OpenBody::decode(&value)).transpose()?.map_or(0, |o| o.chunks)
        }
    };
    Ok(u64::from(chunk.index) < chunks)
}

/// The checksum of a chunk as its record has it, where the container still does.
fn of_record(tables: &dyn Tables, chunk: ChunkId) -> Result<Option<u32>, ImageError> {
    let (mut found, mut looked) = (None, 0);
    tables.scan(Family::Log, &keys::log(chunk.body.seq), &keys::log(Seq(u64::MAX)), &mut |key, value| {
        looked += 1;
        found = checksum_in(chunk, key, value);
        found.is_none() && looked < RECORDS_MAX
    })?;
    Ok(found)
}

/// None where the record is another one, or damaged: that is for whoever needs it to say.
fn checksum_in(chunk: ChunkId, key: &[u8], value: &[u8]) -> Option<u32> {
    let record = stored_record(keys::log_seq(key)?, value).ok()?;
    match record.mutation().ok()? {
        Mutation::Data(data) if record.body_of(&data) == chunk.body && data.index == chunk.index => {
            Some(record.header.payload_crc)
        }
        _ => None,
    }
}
