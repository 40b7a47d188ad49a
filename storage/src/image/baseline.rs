//! A baseline: all that an image is at one moment, in pieces, out of the frozen state of one engine into an empty engine
//! elsewhere. The container's records are not in it: whoever has the image at record N goes on with record N + 1.
//!
//! Pieces come in the order of the image's keys, the chunks of a body before the entry that counts it; a [`Bookmark`] is a
//! place in that order. The taker places its bookmark when all before it is durable, so a baseline survives a crash of either
//! end: the taker asks again from its bookmark, the giver still has the moment frozen. Pieces that come twice do no harm.
//!
//! Always true: an engine that is not whole says so by its mark, and nothing above takes it for an image.

use bytes::{BufMut, Bytes, BytesMut};

use super::keys::{self, BodyEntry, OpenBody};
use super::view::View;
use super::{Change, Engine, Family, ImageError, Tables};
use crate::id::{BodyId, ChunkId, Position};
use crate::record::payload_crc;

/// Longest key of an image, in bytes: a bucket, an escaped object key and an upload id fit well.
pub const KEY_LEN_MAX: usize = 8 << 10;
/// What a chunk that could not be read counts in a portion: many of them must not make an endless one.
const DAMAGED_LEN: usize = 64;
/// What a piece takes beside its key and value, in bytes.
const PIECE_LEN: usize = 64;

/// Marks that are not of the image, but of the engine that holds it.
const OWN_MARKS: [&[u8]; 5] = [keys::APPENDED, keys::APPLIED, keys::TRIMMED, keys::GENERATION_FLOOR, keys::BASELINE];

/// One piece of a baseline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// An entry of the image family.
    Entry {
        /// Its key.
        key: Bytes,
        /// Its value.
        value: Bytes,
    },
    /// A chunk of a body.
    Chunk {
        /// Whose.
        body: BodyId,
        /// Which, from 0.
        index: u32,
        /// Its bytes.
        bytes: Bytes,
    },
}

impl Piece {
    /// About how many bytes it takes, on the wire and in memory.
    #[must_use]
    pub fn len(&self) -> usize {
        PIECE_LEN
            + match self {
                Self::Entry { key, value } => key.len() + value.len(),
                Self::Chunk { bytes, .. } => bytes.len(),
            }
    }

    /// Never: a piece has a key at least.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Why no image has such a piece; none where one may. To be asked of whatever a peer sent.
    #[must_use]
    pub fn fault(&self) -> Option<&'static str> {
        let Self::Entry { key, .. } = self else { return None };
        match key.first() {
            _ if key.len() > KEY_LEN_MAX => Some("a key is too long"),
            Some(&keys::MARK) if OWN_MARKS.contains(&&key[..]) => Some("a mark is not of the image"),
            Some(&(keys::MARK | keys::BUCKET..=keys::GARBAGE)) => None,
            _ => Some("a key is of no known kind"),
        }
    }
}

/// A place in a baseline: where the next pieces begin. The default is its start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bookmark {
    /// The image key that comes next, or the next one after it.
    pub key: Bytes,
    /// Chunks of that key's body that came already.
    pub chunks: u32,
}

impl Bookmark {
    /// The place after the last piece.
    #[must_use]
    pub fn end() -> Self {
        Self { key: keys::successor(&[keys::GARBAGE]).into(), chunks: 0 }
    }
}

/// Consecutive pieces.
#[derive(Debug, Clone, Default)]
pub struct Portion {
    /// The pieces.
    pub pieces: Vec<Piece>,
    /// Where those after them begin; none after the last.
    pub next: Option<Bookmark>,
    /// Chunks that could not be read and were left out: they are as damaged at the taker as they are here.
    pub damaged: Vec<ChunkId>,
}

/// A portion that is being filled.
struct Filling {
    portion: Portion,
    taken: usize,
    bytes_max: usize,
}

impl Filling {
    fn is_full(&self) -> bool {
        self.taken > 0 && self.taken >= self.bytes_max
    }

    fn add(&mut self, piece: Piece) {
        self.taken += piece.len();
        self.portion.pieces.push(piece);
    }

    fn leave_out(&mut self, chunk: ChunkId) {
        self.taken += DAMAGED_LEN;
        self.portion.damaged.push(chunk);
    }

    fn stop_at(mut self, key: &[u8], chunks: u32) -> Portion {
        self.portion.next = Some(Bookmark { key: Bytes::copy_from_slice(key), chunks });
        self.portion
    }
}

impl View {
    /// The pieces of a baseline from a place on: about `bytes_max` bytes, and one piece at least.
    ///
    /// # Errors
    /// When an entry is damaged or the engine cannot read. A damaged chunk is left out and named.
    pub fn read_baseline(&self, from: &Bookmark, bytes_max: usize) -> Result<Portion, ImageError> {
        let mut filling = Filling { portion: Portion::default(), taken: 0, bytes_max };
        let mut cursor = self.tables().cursor(Family::Image, &keys::successor(&[keys::GARBAGE]))?;
        cursor.seek(&from.key);
        while let Some((key, value)) = cursor.entry()? {
            if OWN_MARKS.contains(&key) {
                cursor.next();
                continue;
            }
            let mut chunks = if *key == from.key[..] { from.chunks } else { 0 };
            if let Some((body, end)) = body_of(key, value)? {
                while chunks < end {
                    if filling.is_full() {
                        return Ok(filling.stop_at(key, chunks));
                    }
                    match self.chunk(body, chunks) {
                        Ok(bytes) => filling.add(Piece::Chunk { body, index: chunks, bytes }),
                        Err(ImageError::Chunk { chunk, .. }) => filling.leave_out(chunk),
                        Err(error) => return Err(error),
                    }
                    chunks += 1;
                }
            }
            if filling.is_full() {
                return Ok(filling.stop_at(key, chunks));
            }
            filling.add(Piece::Entry { key: Bytes::copy_from_slice(key), value: Bytes::copy_from_slice(value) });
            cursor.next();
        }
        Ok(filling.portion)
    }
}

/// The body whose chunks stand before this entry, and how many they are. What waits to be collected has none to send.
fn body_of(key: &[u8], value: &[u8]) -> Result<Option<(BodyId, u32)>, ImageError> {
    let (body, chunks) = match key.first() {
        Some(&keys::BODY) => {
            let entry = BodyEntry::decode(value)?;
            (keys::body_id(key), if entry.count > 0 { entry.chunks } else { 0 })
        }
        Some(&keys::OPEN_BODY) => (keys::open_body_id(key), OpenBody::decode(value)?.chunks),
        _ => return Ok(None),
    };
    let corrupt = || ImageError::Corrupt("an entry of a body".into());
    Ok(Some((body.ok_or_else(corrupt)?, u32::try_from(chunks).map_err(|_| corrupt())?)))
}

fn note(at: Position, next: &Bookmark) -> Bytes {
    let position = keys::encode_position(at);
    let mut out = BytesMut::with_capacity(position.len() + 4 + next.key.len());
    out.put_slice(&position);
    out.put_u32(next.chunks);
    out.put_slice(&next.key);
    out.freeze()
}

/// As [`super::Image::baseline`].
pub(super) fn under_way(tables: &dyn Tables) -> Result<Option<(Position, Bookmark)>, ImageError> {
    const POSITION_LEN: usize = 32;
    let Some(note) = tables.get(Family::Image, keys::BASELINE)? else { return Ok(None) };
    let corrupt = || ImageError::Corrupt("the mark of a baseline".into());
    let (position, rest) = note.split_at_checked(POSITION_LEN).ok_or_else(corrupt)?;
    let (chunks, _) = rest.split_first_chunk::<4>().ok_or_else(corrupt)?;
    let key = note.slice(POSITION_LEN + 4..);
    Ok(Some((keys::decode_position(position)?, Bookmark { key, chunks: u32::from_be_bytes(*chunks) })))
}

/// As [`super::Image::begin_baseline`].
pub(super) fn begin(engine: &dyn Engine, at: Position) -> Result<(), ImageError> {
    let mut empty = true;
    engine.snapshot().scan(Family::Image, &[], &keys::successor(&[keys::GARBAGE]), &mut |_, _| {
        empty = false;
        false
    })?;
    if !empty {
        return Err(ImageError::Engine("a baseline begins in an empty engine".into()));
    }
    engine.commit(vec![Change::Put(Family::Image, keys::BASELINE.to_vec(), note(at, &Bookmark::default()))])
}

fn is_under_way(engine: &dyn Engine, at: Position) -> Result<(), ImageError> {
    match under_way(engine.snapshot().as_ref())? {
        Some((of, _)) if of == at => Ok(()),
        _ => Err(ImageError::Engine(format!("no baseline at {at} is being taken in here"))),
    }
}

/// As [`super::Image::take_pieces`].
pub(super) fn take(engine: &dyn Engine, at: Position, pieces: Vec<Piece>) -> Result<(), ImageError> {
    is_under_way(engine, at)?;
    let mut changes = Vec::with_capacity(pieces.len());
    for piece in pieces {
        match piece {
            Piece::Entry { key, value } => changes.push(Change::Put(Family::Image, key.to_vec(), value)),
            Piece::Chunk { body, index, bytes } => {
                let crc = Bytes::copy_from_slice(&payload_crc(&bytes).to_be_bytes());
                changes.push(Change::Put(Family::Body, keys::chunk(body, index), bytes));
                changes.push(Change::Put(Family::Body, keys::chunk_crc(body, index), crc));
            }
        }
    }
    engine.commit(changes)
}

/// As [`super::Image::place_bookmark`].
pub(super) fn place(engine: &dyn Engine, at: Position, next: &Bookmark) -> Result<(), ImageError> {
    is_under_way(engine, at)?;
    engine.flush()?;
    engine.commit(vec![Change::Put(Family::Image, keys::BASELINE.to_vec(), note(at, next))])
}

/// As [`super::Image::end_baseline`].
pub(super) fn end(engine: &dyn Engine, at: Position) -> Result<(), ImageError> {
    is_under_way(engine, at)?;
    engine.flush()?;
    engine.commit(vec![
        Change::Delete(Family::Image, keys::BASELINE.to_vec()),
        Change::Put(Family::Image, keys::APPENDED.to_vec(), keys::encode_position(at)),
        Change::Put(Family::Image, keys::APPLIED.to_vec(), keys::encode_position(at)),
        Change::Put(Family::Image, keys::TRIMMED.to_vec(), keys::encode_seq(at.seq)),
    ])?;
    engine.flush()
}
