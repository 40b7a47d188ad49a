//! The bytes of a [`Message`]: a small fixed header, then either a protobuf body or, for an [`Append`], the source's marks
//! and the records byte for byte as they lie in NVRAM.
//!
//! ```text
//!  0          4          8     9      12
//! ┌──────────┬──────────┬─────┬──────┬──────────────────────────────────────────────────────────────┐
//! │ CRC-32C  │ length   │kind │ 0 0 0│ body: `length` bytes                                         │
//! └──────────┴──────────┴─────┴──────┴──────────────────────────────────────────────────────────────┘
//!  body of an Append:  committed u64 │ persisted u64 │ count u32 │ records …
//! ```
//!
//! Numbers are little-endian. The CRC covers what follows it: the rest of the header and the body, of an Append the marks
//! and the count only, because each record carries its own two checksums. An ack that a damaged packet turned into another
//! one would lose a write, so small messages are checked too; TCP's 16 bits are not enough.
//!
//! Encoding moves no large payload, and decoding copies only what does not lie in one piece. Nothing is allocated by a
//! length that the peer claims before its bytes are there. The link calls this; the core never sees bytes.

mod baseline;
mod mending;
mod small;

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};
use lockstep_storage::id::Seq;
use lockstep_storage::record::{HEADER_LEN, Header, RECORD_LEN_MAX, Record, RecordError, payload_crc};

use super::{Append, Message};

/// Length of the fixed header of a message, in bytes.
pub const MESSAGE_HEADER_LEN: usize = 12;
/// Largest body of a message, in bytes. Any single record fits.
pub const BODY_LEN_MAX: usize = 8 << 20;
/// Largest body of any message but an [`Append`], the pieces of a baseline and the bytes of a chunk, in bytes: a Hello with a full epoch table needs a tenth.
pub const SMALL_LEN_MAX: usize = 64 << 10;

/// An [`Append`] with more bytes of records than this is sent as several, so that the receiver persists the first records
/// while the last are on their way.
const APPEND_LEN_TARGET: usize = 2 << 20;
/// Runs of bytes up to this length are copied into one piece with their neighbours: a piece of its own costs more.
const COPY_LEN_MAX: usize = 32 << 10;
/// A gathered piece is closed at this length.
const GATHER_LEN: usize = 256 << 10;
/// Pieces that come shorter than this are joined while they wait, so that a peer cannot make bookkeeping out of bytes.
const JOIN_LEN: usize = 4 << 10;
/// The marks and the count of an [`Append`].
const MARKS_LEN: usize = 20;

const _: () = assert!(MARKS_LEN + RECORD_LEN_MAX <= BODY_LEN_MAX && MARKS_LEN + APPEND_LEN_TARGET <= BODY_LEN_MAX);

const KIND_APPEND: u8 = 4;

/// Why bytes are not a message. The connection ends: what follows cannot be found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The kind is not known to this version.
    #[error("message kind {0} is not known to this version")]
    UnknownKind(u8),
    /// Bytes of the header that must be zero are not.
    #[error("message header is of another format")]
    Format,
    /// The length is out of bounds for the kind.
    #[error("message of kind {kind} claims {length} bytes")]
    Length {
        /// The kind.
        kind: u8,
        /// What the header claims, in bytes.
        length: usize,
    },
    /// The header, the small body or the marks are damaged.
    #[error("message checksum mismatch")]
    Checksum,
    /// The body is not what the kind says.
    #[error("message of kind {kind}: {what}")]
    Body {
        /// The kind.
        kind: u8,
        /// What is wrong.
        what: String,
    },
    /// An [`Append`] claims more records than its length can hold.
    #[error("append claims {count} records in {length} bytes")]
    Count {
        /// Records claimed.
        count: u32,
        /// Bytes claimed for them.
        length: usize,
    },
    /// A record reaches beyond its message.
    #[error("record of {record} bytes in the last {left} bytes of a message")]
    Overrun {
        /// Length of the record, in bytes.
        record: usize,
        /// Bytes of the message that are left.
        left: usize,
    },
    /// Bytes follow the last record of an [`Append`].
    #[error("{0} bytes follow the last record of an append")]
    Trailing(usize),
    /// A record is damaged or of another version.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// Turns messages into pieces of bytes. Small runs of consecutive messages share a piece; large payloads are passed on by
/// reference.
#[derive(Debug, Default)]
pub struct Encoder {
    gather: BytesMut,
    pieces: VecDeque<Bytes>,
    len: usize,
}

impl Encoder {
    /// An encoder that holds nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Encodes one message behind the earlier ones. An [`Append`] larger than a few MiB becomes several with the same marks.
    pub fn push(&mut self, message: &Message) {
        match message {
            Message::Append(append) => self.push_append(append),
            other => {
                let (kind, body) = small::encode(other);
                self.put(&framed(kind, body.len(), &body));
            }
        }
    }

    /// Bytes encoded and not yet taken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Nothing to take?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The next piece, never empty.
    pub fn take(&mut self) -> Option<Bytes> {
        if self.pieces.is_empty() {
            self.close_gather();
        }
        let piece = self.pieces.pop_front()?;
        self.len -= piece.len();
        Some(piece)
    }

    fn push_append(&mut self, append: &Append) {
        let mut rest = append.records.as_slice();
        loop {
            let mut len = 0;
            let fits = |r: &&Record| {
                len += r.len();
                len <= APPEND_LEN_TARGET
            };
            // A record larger than the target goes alone.
            let count = rest.iter().take_while(fits).count().max(1).min(rest.len());
            let (now, later) = rest.split_at(count);
            self.push_records(append, now);
            if later.is_empty() {
                return;
            }
            rest = later;
        }
    }

    fn push_records(&mut self, append: &Append, records: &[Record]) {
        let mut marks = [0; MARKS_LEN];
        marks[..8].copy_from_slice(&append.committed.0.to_le_bytes());
        marks[8..16].copy_from_slice(&append.persisted.0.to_le_bytes());
        // A record has at least its header, so the count of those in 8 MiB fits easily.
        marks[16..].copy_from_slice(&(records.len() as u32).to_le_bytes());
        let length = MARKS_LEN + records.iter().map(Record::len).sum::<usize>();
        let copied = |r: &Record| r.head.len() + if r.payload.len() > COPY_LEN_MAX { 0 } else { r.payload.len() };
        let copied = MESSAGE_HEADER_LEN + MARKS_LEN + records.iter().map(copied).sum::<usize>();
        self.gather.reserve(copied.min(GATHER_LEN));
        self.put(&framed(KIND_APPEND, length, &marks));
        for record in records {
            self.put(&record.head);
            if record.payload.len() > COPY_LEN_MAX {
                self.close_gather();
                self.len += record.payload.len();
                self.pieces.push_back(record.payload.clone());
            } else {
                self.put(&record.payload);
            }
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        self.len += bytes.len();
        if self.gather.len() + bytes.len() > GATHER_LEN {
            self.close_gather();
        }
        self.gather.put_slice(bytes);
    }

    fn close_gather(&mut self) {
        if !self.gather.is_empty() {
            self.pieces.push_back(self.gather.split().freeze());
        }
    }
}

/// The pieces of one message.
#[must_use]
pub fn encode(message: &Message) -> Vec<Bytes> {
    let mut encoder = Encoder::new();
    encoder.push(message);
    std::iter::from_fn(|| encoder.take()).collect()
}

/// Header and the part of the body that its CRC covers.
fn framed(kind: u8, length: usize, covered: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(MESSAGE_HEADER_LEN + covered.len());
    out.put_u32_le(0);
    // The encoder keeps bodies below 8 MiB.
    out.put_u32_le(length as u32);
    out.put_slice(&[kind, 0, 0, 0]);
    out.put_slice(covered);
    let crc = payload_crc(&out[4..]);
    out[..4].copy_from_slice(&crc.to_le_bytes());
    out
}

/// A message and what it took on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// The message.
    pub message: Message,
    /// Its length with its header, in bytes.
    pub len: usize,
}

/// Turns pieces of bytes, however they are cut, into messages. After an error it is of no further use.
#[derive(Debug, Default)]
pub struct Decoder {
    pieces: VecDeque<Bytes>,
    len: usize,
    append: Option<Partial>,
}

/// An [`Append`] of which some records are here.
#[derive(Debug)]
struct Partial {
    append: Append,
    /// Whole message, in bytes.
    len: usize,
    /// Bytes of the body that have not been taken.
    left: usize,
    /// Records that have not been taken.
    count: u32,
    /// Header and op of the next record, when they came before its payload.
    head: Option<(Header, Bytes)>,
}

impl Decoder {
    /// A decoder at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next piece. Call [`Decoder::decode`] until it has no more before the next one, so that no more than one
    /// message and one piece are ever held.
    pub fn push(&mut self, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        self.len += piece.len();
        if let Some(last) = self.pieces.back_mut().filter(|last| last.len() + piece.len() <= JOIN_LEN) {
            *last = [&last[..], &piece[..]].concat().into();
        } else {
            self.pieces.push_back(piece);
        }
    }

    /// The next message, where it is here as a whole.
    ///
    /// # Errors
    /// When the bytes are no message, or a record in it is damaged.
    pub fn decode(&mut self) -> Result<Option<Decoded>, WireError> {
        if self.append.is_none() {
            let mut header = [0; MESSAGE_HEADER_LEN];
            if !self.peek(&mut header) {
                return Ok(None);
            }
            let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
            let kind = header[8];
            check_header(&header, kind, length)?;
            let covered = if kind == KIND_APPEND { MARKS_LEN } else { length };
            let Some(frame) = self.take(MESSAGE_HEADER_LEN + covered) else { return Ok(None) };
            if payload_crc(&frame[4..]).to_le_bytes() != header[..4] {
                return Err(WireError::Checksum);
            }
            let len = MESSAGE_HEADER_LEN + length;
            let body = frame.slice(MESSAGE_HEADER_LEN..);
            if kind != KIND_APPEND {
                return Ok(Some(Decoded { message: small::decode(kind, body)?, len }));
            }
            self.append = Some(begin_append(&body, len)?);
        }
        self.decode_records()
    }

    /// Bytes that are here and belong to no message yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.len
    }

    /// Is the stream between two messages?
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        self.len == 0 && self.append.is_none()
    }

    fn decode_records(&mut self) -> Result<Option<Decoded>, WireError> {
        let Some(mut partial) = self.append.take() else { return Ok(None) };
        while partial.count > 0 {
            let Some((header, head)) = self.take_head(&mut partial)? else {
                self.append = Some(partial);
                return Ok(None);
            };
            let Some(payload) = self.take(header.payload_len as usize) else {
                partial.head = Some((header, head));
                self.append = Some(partial);
                return Ok(None);
            };
            partial.left -= header.record_len();
            partial.count -= 1;
            let record = Record::from_parts(head, payload)?;
            // Once it is in the log, an op that cannot be read would stop this node, at every start again.
            record.mutation()?;
            partial.append.records.push(record);
        }
        if partial.left > 0 {
            return Err(WireError::Trailing(partial.left));
        }
        Ok(Some(Decoded { message: Message::Append(partial.append), len: partial.len }))
    }

    fn take_head(&mut self, partial: &mut Partial) -> Result<Option<(Header, Bytes)>, WireError> {
        if let Some(head) = partial.head.take() {
            return Ok(Some(head));
        }
        let mut fixed = [0; HEADER_LEN];
        if partial.left < HEADER_LEN {
            return Err(WireError::Overrun { record: HEADER_LEN, left: partial.left });
        }
        if !self.peek(&mut fixed) {
            return Ok(None);
        }
        let header = Header::decode(&fixed)?;
        if header.record_len() > partial.left {
            return Err(WireError::Overrun { record: header.record_len(), left: partial.left });
        }
        Ok(self.take(HEADER_LEN + header.op_len as usize).map(|head| (header, head)))
    }

    /// Copies the first bytes without taking them; false where fewer are here.
    fn peek(&self, out: &mut [u8]) -> bool {
        if self.len < out.len() {
            return false;
        }
        let mut at = 0;
        for piece in &self.pieces {
            let now = piece.len().min(out.len() - at);
            out[at..at + now].copy_from_slice(&piece[..now]);
            at += now;
            if at == out.len() {
                break;
            }
        }
        true
    }

    /// Takes exactly `len` bytes: a slice where they lie in one piece, else a copy; none where fewer are here.
    fn take(&mut self, len: usize) -> Option<Bytes> {
        if self.len < len {
            return None;
        }
        if len == 0 {
            return Some(Bytes::new());
        }
        self.len -= len;
        let first = self.pieces.front_mut()?;
        if first.len() > len {
            return Some(first.split_to(len));
        }
        if first.len() == len {
            return self.pieces.pop_front();
        }
        let mut out = BytesMut::with_capacity(len);
        while out.len() < len {
            let mut piece = self.pieces.pop_front()?;
            let now = piece.len().min(len - out.len());
            out.put_slice(&piece.split_to(now));
            if !piece.is_empty() {
                self.pieces.push_front(piece);
            }
        }
        Some(out.freeze())
    }
}

fn check_header(header: &[u8; MESSAGE_HEADER_LEN], kind: u8, length: usize) -> Result<(), WireError> {
    if header[9..] != [0; 3] {
        return Err(WireError::Format);
    }
    if kind == 0 || kind > small::KIND_MAX {
        return Err(WireError::UnknownKind(kind));
    }
    let bounds = match kind {
        KIND_APPEND => MARKS_LEN..=BODY_LEN_MAX,
        baseline::KIND_PIECES | mending::KIND_HAVE => 0..=BODY_LEN_MAX,
        _ => 0..=SMALL_LEN_MAX,
    };
    if !bounds.contains(&length) {
        return Err(WireError::Length { kind, length });
    }
    Ok(())
}

fn begin_append(marks: &[u8], len: usize) -> Result<Partial, WireError> {
    let left = len - MESSAGE_HEADER_LEN - MARKS_LEN;
    let Some(marks) = marks.first_chunk::<MARKS_LEN>() else { return Err(WireError::Format) };
    let u32_at = |at: usize| u32::from_le_bytes([marks[at], marks[at + 1], marks[at + 2], marks[at + 3]]);
    let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
    let count = u32_at(16);
    if count as usize > left / HEADER_LEN {
        return Err(WireError::Count { count, length: left });
    }
    let append = Append { committed: Seq(u64_at(0)), persisted: Seq(u64_at(8)), records: Vec::new() };
    Ok(Partial { append, len, left, count, head: None })
}
