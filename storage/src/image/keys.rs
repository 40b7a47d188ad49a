//! Where things lie in the three families, and how the small fixed values there are encoded. The layout is part of the
//! format on disk: a prefix byte is never used for something else again.
//!
//! - Log: seq. Value: a record; of a `Data` record only the head.
//! - Body: epoch counter, epoch node, seq, chunk index. Value: the chunk. Beside it, under the same key with one more
//!   byte, its CRC-32C: on its own, so that a chunk goes to the engine and comes back without a copy to join or part them.
//! - Image: one prefix byte a kind, below. Bucket names hold no NUL ([`is_bucket_name`]), so a NUL ends them and objects
//!   of a bucket stand together in the order of their keys' UTF-8 bytes.
//!
//! All numbers are big-endian, so that byte order is number order. [`super::apply`] writes, [`super::view`] reads.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use super::ImageError;
use crate::id::{BodyId, Epoch, NodeId, Position, Seq};
use crate::op::Object;

/// Marks: how far this engine is.
pub const MARK: u8 = 0x01;
/// Buckets by name.
pub const BUCKET: u8 = 0x10;
/// Current versions of objects: bucket, NUL, key.
pub const OBJECT: u8 = 0x11;
/// Kept free for noncurrent versions.
pub const NONCURRENT: u8 = 0x12;
/// Uploads: bucket, NUL, escaped key, NUL, upload id.
pub const UPLOAD: u8 = 0x13;
/// Parts: upload id, part number.
pub const PART: u8 = 0x14;
/// Access keys by id.
pub const ACCESS_KEY: u8 = 0x15;
/// Users by name.
pub const USER: u8 = 0x16;
/// Bodies that an object or part refers to, or that wait to be collected.
pub const BODY: u8 = 0x17;
/// Bodies with chunks that nothing has referred to yet.
pub const OPEN_BODY: u8 = 0x18;
/// Bodies to collect, by the seq of the op that dropped them.
pub const GARBAGE: u8 = 0x19;

/// Position of the last appended record.
pub const APPENDED: &[u8] = &[MARK, b'p'];
/// Position of the last applied record.
pub const APPLIED: &[u8] = &[MARK, b'a'];
/// Seq of the last trimmed record.
pub const TRIMMED: &[u8] = &[MARK, b't'];
/// Bodies and bytes in the garbage queue.
pub const WAITING: &[u8] = &[MARK, b'w'];
/// Nothing in the garbage queue is below this seq: a scan need not pass what was deleted before.
pub const GARBAGE_FLOOR: &[u8] = &[MARK, b'f'];
/// Segments of the NVRAM of this generation and below hold what was cut: they are never read again.
pub const GENERATION_FLOOR: &[u8] = &[MARK, b'g'];
/// The baseline that is being taken in.
pub const BASELINE: &[u8] = &[MARK, b'b'];
/// Modification time of the last applied record, in milliseconds since 1970.
pub const TIME: &[u8] = &[MARK, b'm'];

/// Length of an upload id: 32 hex digits.
pub const UPLOAD_ID_LEN: usize = 32;
const BODY_ID_LEN: usize = 24;

/// Whether a bucket of this name can be: not empty, no NUL. The gateway asks for more.
#[must_use]
pub fn is_bucket_name(name: &str) -> bool {
    !name.is_empty() && !name.contains('\0')
}

/// Whether this is an upload id: 32 digits in lower-case hex.
#[must_use]
pub fn is_upload_id(id: &str) -> bool {
    id.len() == UPLOAD_ID_LEN && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// The first key after all that start with `prefix`; empty where there is none.
#[must_use]
pub fn successor(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    end
}

fn prefixed(prefix: u8, runs: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + runs.iter().map(|run| run.len()).sum::<usize>());
    key.push(prefix);
    for run in runs {
        key.extend_from_slice(run);
    }
    key
}

/// Log key of a record.
#[must_use]
pub fn log(seq: Seq) -> Vec<u8> {
    seq.0.to_be_bytes().to_vec()
}

/// The seq of a log key.
#[must_use]
pub fn log_seq(key: &[u8]) -> Option<Seq> {
    Some(Seq(u64::from_be_bytes(key.try_into().ok()?)))
}

fn body_bytes(body: BodyId) -> [u8; BODY_ID_LEN] {
    let mut bytes = [0; BODY_ID_LEN];
    bytes[..8].copy_from_slice(&body.epoch.counter.to_be_bytes());
    bytes[8..16].copy_from_slice(&body.epoch.node.0.to_be_bytes());
    bytes[16..].copy_from_slice(&body.seq.0.to_be_bytes());
    bytes
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn body_at(bytes: &[u8], at: usize) -> Option<BodyId> {
    let epoch = Epoch { counter: u64_at(bytes, at)?, node: NodeId(u64_at(bytes, at + 8)?) };
    Some(BodyId { epoch, seq: Seq(u64_at(bytes, at + 16)?) })
}

/// Body key of a chunk.
#[must_use]
pub fn chunk(body: BodyId, index: u32) -> Vec<u8> {
    [&body_bytes(body)[..], &index.to_be_bytes()].concat()
}

/// Body key of a chunk's CRC-32C: the next one after the chunk itself.
#[must_use]
pub fn chunk_crc(body: BodyId, index: u32) -> Vec<u8> {
    [&body_bytes(body)[..], &index.to_be_bytes(), b"\0"].concat()
}

/// The first Body key after all chunks of a body.
#[must_use]
pub fn chunks_end(body: BodyId) -> Vec<u8> {
    successor(&body_bytes(body))
}

/// Key of a bucket.
#[must_use]
pub fn bucket(name: &str) -> Vec<u8> {
    prefixed(BUCKET, &[name.as_bytes()])
}

/// Key of an object; with an empty key, what all keys of the bucket's objects start with.
#[must_use]
pub fn object(bucket: &str, key: &str) -> Vec<u8> {
    prefixed(OBJECT, &[bucket.as_bytes(), b"\0", key.as_bytes()])
}

/// What the keys of a bucket's uploads start with whose object keys start with `key`. A NUL in the key is escaped
/// (as NUL, 0xff), so that a key that another one starts with comes first, as everywhere.
#[must_use]
pub fn uploads(bucket: &str, key: &str) -> Vec<u8> {
    let mut out = prefixed(UPLOAD, &[bucket.as_bytes(), b"\0"]);
    for byte in key.bytes() {
        out.push(byte);
        if byte == 0 {
            out.push(0xff);
        }
    }
    out
}

/// What the keys of the uploads to exactly this object start with.
#[must_use]
pub fn uploads_of(bucket: &str, key: &str) -> Vec<u8> {
    let mut out = uploads(bucket, key);
    out.push(0);
    out
}

/// Key of an upload.
#[must_use]
pub fn upload(bucket: &str, key: &str, upload_id: &str) -> Vec<u8> {
    let mut out = uploads_of(bucket, key);
    out.extend_from_slice(upload_id.as_bytes());
    out
}

/// Object key and upload id of an upload's key, of which `bucket_len` bytes stand for prefix and bucket.
#[must_use]
pub fn split_upload(key: &[u8], bucket_len: usize) -> Option<(String, String)> {
    let id_at = key.len().checked_sub(UPLOAD_ID_LEN)?;
    let escaped = key.get(bucket_len..id_at.checked_sub(1)?)?;
    let mut object = Vec::with_capacity(escaped.len());
    let mut bytes = escaped.iter();
    while let Some(&byte) = bytes.next() {
        object.push(byte);
        if byte == 0 && bytes.next() != Some(&0xff) {
            return None;
        }
    }
    let id = String::from_utf8(key.get(id_at..)?.to_vec()).ok()?;
    Some((String::from_utf8(object).ok()?, id))
}

/// What the keys of an upload's parts start with.
#[must_use]
pub fn parts(upload_id: &str) -> Vec<u8> {
    prefixed(PART, &[upload_id.as_bytes()])
}

/// Key of a part.
#[must_use]
pub fn part(upload_id: &str, part_number: u32) -> Vec<u8> {
    prefixed(PART, &[upload_id.as_bytes(), &part_number.to_be_bytes()])
}

/// The part number of a part's key.
#[must_use]
pub fn part_number(key: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(*key.last_chunk::<4>()?))
}

/// Key of an access key.
#[must_use]
pub fn access_key(id: &str) -> Vec<u8> {
    prefixed(ACCESS_KEY, &[id.as_bytes()])
}

/// Key of a user.
#[must_use]
pub fn user(name: &str) -> Vec<u8> {
    prefixed(USER, &[name.as_bytes()])
}

/// Key of a body's [`BodyEntry`].
#[must_use]
pub fn body(body: BodyId) -> Vec<u8> {
    prefixed(BODY, &[&body_bytes(body)])
}

/// Key of a body's [`OpenBody`].
#[must_use]
pub fn open_body(body: BodyId) -> Vec<u8> {
    prefixed(OPEN_BODY, &[&body_bytes(body)])
}

/// The body of a [`BodyEntry`]'s key.
#[must_use]
pub fn body_id(key: &[u8]) -> Option<BodyId> {
    body_at(key, 1)
}

/// The body of an open body's key.
#[must_use]
pub fn open_body_id(key: &[u8]) -> Option<BodyId> {
    body_at(key, 1)
}

/// Key of a body in the garbage queue. Its value is empty.
#[must_use]
pub fn garbage(dropped: Seq, body: BodyId) -> Vec<u8> {
    prefixed(GARBAGE, &[&dropped.0.to_be_bytes(), &body_bytes(body)])
}

/// Where the garbage queue's entries from `dropped` on begin.
#[must_use]
pub fn garbage_from(dropped: Seq) -> Vec<u8> {
    prefixed(GARBAGE, &[&dropped.0.to_be_bytes()])
}

/// Seq and body of a garbage key.
#[must_use]
pub fn garbage_entry(key: &[u8]) -> Option<(Seq, BodyId)> {
    Some((Seq(u64_at(key, 1)?), body_at(key, 9)?))
}

fn words<const N: usize>(words: [u64; N]) -> Bytes {
    let mut out = BytesMut::with_capacity(8 * N);
    for word in words {
        out.put_u64(word);
    }
    out.freeze()
}

fn read_words<const N: usize>(bytes: &[u8], what: &str) -> Result<[u64; N], ImageError> {
    let mut out = [0; N];
    if bytes.len() != 8 * N {
        return Err(ImageError::Corrupt(format!("{what}: {} bytes", bytes.len())));
    }
    for (word, run) in out.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64_at(run, 0).unwrap_or_default();
    }
    Ok(out)
}

/// A position as a mark's value.
#[must_use]
pub fn encode_position(p: Position) -> Bytes {
    words([p.epoch.counter, p.epoch.node.0, p.seq.0, p.checksum])
}

/// Reads a position back.
///
/// # Errors
/// When it is no position.
pub fn decode_position(bytes: &[u8]) -> Result<Position, ImageError> {
    let [counter, node, seq, checksum] = read_words(bytes, "position")?;
    Ok(Position { epoch: Epoch { counter, node: NodeId(node) }, seq: Seq(seq), checksum })
}

/// A seq as a mark's value.
#[must_use]
pub fn encode_seq(seq: Seq) -> Bytes {
    words([seq.0])
}

/// Reads a seq back.
///
/// # Errors
/// When it is no seq.
pub fn decode_seq(bytes: &[u8]) -> Result<Seq, ImageError> {
    let [seq] = read_words(bytes, "seq")?;
    Ok(Seq(seq))
}

/// A body whose chunks came and that nothing has referred to yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenBody {
    /// One more than its highest chunk index.
    pub chunks: u64,
    /// Bytes in its chunks.
    pub len: u64,
}

impl OpenBody {
    /// As a value.
    #[must_use]
    pub fn encode(self) -> Bytes {
        words([self.chunks, self.len])
    }

    /// From a value.
    ///
    /// # Errors
    /// When it is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, ImageError> {
        let [chunks, len] = read_words(bytes, "open body")?;
        Ok(Self { chunks, len })
    }
}

/// A body that objects or parts refer to, or, with a count of 0, one that waits in the garbage queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BodyEntry {
    /// Extents that name it.
    pub count: u64,
    /// One more than its highest chunk index.
    pub chunks: u64,
    /// Bytes in its chunks.
    pub len: u64,
    /// Seq of the op that dropped the last reference; 0 while there is one.
    pub dropped: Seq,
}

impl BodyEntry {
    /// As a value.
    #[must_use]
    pub fn encode(self) -> Bytes {
        words([self.count, self.chunks, self.len, self.dropped.0])
    }

    /// From a value.
    ///
    /// # Errors
    /// When it is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, ImageError> {
        let [count, chunks, len, dropped] = read_words(bytes, "body entry")?;
        Ok(Self { count, chunks, len, dropped: Seq(dropped) })
    }
}

/// What waits in the garbage queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Waiting {
    /// Bodies.
    pub bodies: u64,
    /// Bytes in their chunks.
    pub bytes: u64,
}

impl Waiting {
    /// As a value.
    #[must_use]
    pub fn encode(self) -> Bytes {
        words([self.bodies, self.bytes])
    }

    /// From a value.
    ///
    /// # Errors
    /// When it is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, ImageError> {
        let [bodies, bytes] = read_words(bytes, "garbage figures")?;
        Ok(Self { bodies, bytes })
    }
}

/// An object as a value: length of the metadata (4 bytes), metadata, inline bytes. So a list reads metadata only, and a
/// reader gets the inline bytes without a copy.
#[must_use]
pub fn encode_object(mut object: Object) -> Bytes {
    let inline = std::mem::take(&mut object.inline);
    let meta_len = object.encoded_len();
    let mut out = BytesMut::with_capacity(4 + meta_len + inline.len());
    // An op is at most a few MiB long, so its metadata fits into 32 bits.
    out.put_u32(u32::try_from(meta_len).unwrap_or(u32::MAX));
    out.put_slice(&object.encode_to_vec());
    out.put_slice(&inline);
    out.freeze()
}

/// The metadata of an object's value, without inline bytes.
///
/// # Errors
/// When it does not decode.
pub fn decode_object_meta(value: &[u8]) -> Result<Object, ImageError> {
    let corrupt = || ImageError::Corrupt("object metadata".into());
    let (len, rest) = value.split_first_chunk::<4>().ok_or_else(corrupt)?;
    let meta = rest.get(..u32::from_be_bytes(*len) as usize).ok_or_else(corrupt)?;
    Object::decode(meta).map_err(|_| corrupt())
}

/// An object from its value, inline bytes and all.
///
/// # Errors
/// When it does not decode.
pub fn decode_object(value: &Bytes) -> Result<Object, ImageError> {
    let mut object = decode_object_meta(value)?;
    let meta_len = value.first_chunk::<4>().map_or(0, |len| u32::from_be_bytes(*len) as usize);
    object.inline = value.slice(4 + meta_len..);
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_successor_comes_after_all_that_start_with_a_prefix() {
        assert_eq!(successor(b"a"), b"b");
        assert_eq!(successor(b"a\xff\xff"), b"b");
        assert_eq!(successor(b"\xff"), b"");
    }

    #[test]
    fn uploads_stand_in_the_order_of_their_keys() {
        let id = "0123456789abcdef0123456789abcdef";
        let keys = ["", "\0", "\0\0", "\0a", "a", "a\0", "a\0b", "a\x01", "ab", "b"];
        let stored: Vec<_> = keys.iter().map(|key| upload("bk", key, id)).collect();
        assert!(stored.is_sorted());
        for (key, stored) in keys.iter().zip(&stored) {
            assert_eq!(split_upload(stored, uploads("bk", "").len()), Some(((*key).to_owned(), id.to_owned())));
        }
    }

    #[test]
    fn damaged_values_are_errors() {
        assert!(decode_object_meta(b"\0\0").is_err());
        assert!(decode_object_meta(b"\0\0\0\x09ab").is_err());
        assert!(decode_position(b"short").is_err());
        assert!(BodyEntry::decode(&[0; 31]).is_err());
        assert_eq!(split_upload(b"short", 1), None);
    }
}
