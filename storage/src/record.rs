//! The record: one framed log entry. Encoded and checksummed once, at the source; the same bytes lie in both NVRAMs and
//! travel on the wire, and each holder verifies them again.
//!
//! ```text
//!  0        4     5      6          8                 16        24     32               40
//! ┌────────┬─────┬──────┬──────────┬─────────────────┬─────────┬──────┬────────────────┬─────────────┐
//! │ magic  │kind │flags │header len│ header checksum │ parent  │ seq  │ epoch counter  │ epoch node  │
//! ├────────┴─────┴──────┴──────────┼─────────────────┼─────────┼──────┴────────────────┴─────────────┤
//! │ committed (48)                 │ persisted (56)  │ time_ms │ op len (72) │ payload len (76)      │
//! ├────────────────────────────────┼─────────────────┼─────────┴─────────────────────────────────────┤
//! │ payload CRC-32C (80) │ 0 (84)  │ op (88 …)       │ payload …                                      │
//! └────────────────────────────────┴─────────────────┴────────────────────────────────────────────────┘
//! ```
//!
//! All numbers are little-endian. The header checksum is CRC-64/NVME over header[16..88] with kind, flags and header
//! length before it, and over the op; `parent` is the header checksum of the record before. So a record's place in the
//! chain can be checked without its payload.

use bytes::{BufMut, Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, Digest, checksum};
use prost::Message;

use crate::id::{BodyId, Epoch, NodeId, Position, Seq};
use crate::op::{CHUNK_LEN, Data, KIND_ABANDON_BODY, KIND_DATA, KIND_MAX, Mutation, OP_LEN_MAX, Op};

/// Length of the fixed part of a record, in bytes.
pub const HEADER_LEN: usize = 88;
/// Largest payload, in bytes: one chunk of a body.
pub const PAYLOAD_LEN_MAX: usize = CHUNK_LEN;
/// Largest record, in bytes.
pub const RECORD_LEN_MAX: usize = HEADER_LEN + OP_LEN_MAX + PAYLOAD_LEN_MAX;

const MAGIC: [u8; 4] = *b"LSR1";

/// What is wrong with bytes that should be a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Fewer bytes than the header or its lengths ask for.
    #[error("record is cut short: {have} bytes of {need}")]
    Short {
        /// Bytes that are there.
        have: usize,
        /// Bytes that it needs, as far as they are known.
        need: usize,
    },
    /// No record starts here, or one of another format.
    #[error("no record of a known format here")]
    Format,
    /// A length beyond its bound.
    #[error("record length out of bounds: op {op_len}, payload {payload_len}")]
    Bounds {
        /// Claimed op length.
        op_len: usize,
        /// Claimed payload length.
        payload_len: usize,
    },
    /// A kind that this version does not know. Never skipped (F28).
    #[error("record kind {0} is not known to this version")]
    UnknownKind(u8),
    /// The header checksum does not match.
    #[error("header checksum mismatch at seq {0}")]
    HeaderChecksum(Seq),
    /// The payload checksum does not match.
    #[error("payload checksum mismatch at seq {0}")]
    PayloadChecksum(Seq),
    /// The op does not decode, or is another than its kind says.
    #[error("op at seq {0} does not decode")]
    Op(Seq),
}

/// A record's fixed part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Which mutation: its protobuf tag.
    pub kind: u8,
    /// CRC-64/NVME over this header and the op.
    pub checksum: u64,
    /// Header checksum of the record before.
    pub parent: u64,
    /// Place in the origin's history.
    pub seq: Seq,
    /// Fence that it was written under.
    pub epoch: Epoch,
    /// Highest seq known at the source to be committed when it was made.
    pub committed: Seq,
    /// Highest seq known at the source to be persisted there when it was made.
    pub persisted: Seq,
    /// Modification time, milliseconds since 1970; never less than that of the record before.
    pub time_ms: u64,
    /// Op length in bytes.
    pub op_len: u32,
    /// Payload length in bytes.
    pub payload_len: u32,
    /// CRC-32C of the payload; 0 for none.
    pub payload_crc: u32,
}

impl Header {
    /// Length of the whole record in bytes.
    #[must_use]
    pub fn record_len(&self) -> usize {
        HEADER_LEN + self.op_len as usize + self.payload_len as usize
    }

    /// Reads and bounds the fixed part. Checksums are [`Record::decode`]'s business: they need the op.
    ///
    /// # Errors
    /// When the bytes are too few, of another format, of an unknown kind, or claim lengths out of bounds.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let Some(fixed) = bytes.first_chunk::<HEADER_LEN>() else {
            return Err(RecordError::Short { have: bytes.len(), need: HEADER_LEN });
        };
        let u32_at = |at: usize| u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let header_len = usize::from(u16::from_le_bytes([fixed[6], fixed[7]]));
        if fixed[..4] != MAGIC || fixed[5] != 0 || header_len != HEADER_LEN || u32_at(84) != 0 {
            return Err(RecordError::Format);
        }
        let (op_len, payload_len) = (u32_at(72), u32_at(76));
        if op_len as usize > OP_LEN_MAX || payload_len as usize > PAYLOAD_LEN_MAX {
            return Err(RecordError::Bounds { op_len: op_len as usize, payload_len: payload_len as usize });
        }
        let kind = fixed[4];
        if kind == 0 || kind > KIND_MAX {
            return Err(RecordError::UnknownKind(kind));
        }
        Ok(Self {
            kind,
            checksum: u64_at(8),
            parent: u64_at(16),
            seq: Seq(u64_at(24)),
            epoch: Epoch { counter: u64_at(32), node: NodeId(u64_at(40)) },
            committed: Seq(u64_at(48)),
            persisted: Seq(u64_at(56)),
            time_ms: u64_at(64),
            op_len,
            payload_len,
            payload_crc: u32_at(80),
        })
    }

    fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[..4].copy_from_slice(&MAGIC);
        out[4] = self.kind;
        out[6..8].copy_from_slice(&(HEADER_LEN as u16).to_le_bytes());
        let words = [
            self.checksum,
            self.parent,
            self.seq.0,
            self.epoch.counter,
            self.epoch.node.0,
            self.committed.0,
            self.persisted.0,
            self.time_ms,
            u64::from(self.op_len) | u64::from(self.payload_len) << 32,
            u64::from(self.payload_crc),
        ];
        for (at, word) in words.iter().enumerate() {
            out[8 + at * 8..16 + at * 8].copy_from_slice(&word.to_le_bytes());
        }
        out
    }
}

fn header_checksum(fixed: &[u8; HEADER_LEN], op: &[u8]) -> u64 {
    let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
    digest.update(&fixed[..8]);
    digest.update(&fixed[16..]);
    digest.update(op);
    digest.finalize()
}

/// CRC-32C of a payload or chunk; 0 for an empty one.
#[must_use]
pub fn payload_crc(payload: &[u8]) -> u32 {
    if payload.is_empty() {
        return 0;
    }
    // A 32-bit checksum stands in the low half.
    checksum(CrcAlgorithm::Crc32Iscsi, payload) as u32
}

/// Reads and verifies a record's head (header and op) without its payload.
///
/// # Errors
/// When it is not whole, or its checksum does not match.
pub fn verify_head(head: &[u8]) -> Result<Header, RecordError> {
    let header = Header::decode(head)?;
    let Some((fixed, op)) = head.split_first_chunk::<HEADER_LEN>() else {
        return Err(RecordError::Short { have: head.len(), need: HEADER_LEN });
    };
    if op.len() != header.op_len as usize {
        return Err(RecordError::Short { have: head.len(), need: HEADER_LEN + header.op_len as usize });
    }
    if header_checksum(fixed, op) != header.checksum {
        return Err(RecordError::HeaderChecksum(header.seq));
    }
    Ok(header)
}

/// A record before the core gives it its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    kind: u8,
    op: Bytes,
    payload: Bytes,
    payload_crc: u32,
}

impl Draft {
    /// Encodes a mutation and checksums its payload, so that the core does neither.
    ///
    /// # Errors
    /// When the op or the payload is larger than a record may hold.
    pub fn new(mutation: Mutation, payload: Bytes) -> Result<Self, RecordError> {
        let kind = mutation.kind();
        let op = Op { mutation: Some(mutation) }.encode_to_vec();
        if op.len() > OP_LEN_MAX || payload.len() > PAYLOAD_LEN_MAX {
            return Err(RecordError::Bounds { op_len: op.len(), payload_len: payload.len() });
        }
        Ok(Self { kind, op: op.into(), payload_crc: payload_crc(&payload), payload })
    }

    /// Length of the record that it becomes, in bytes.
    #[must_use]
    pub fn record_len(&self) -> usize {
        HEADER_LEN + self.op.len() + self.payload.len()
    }

    /// Which mutation: its protobuf tag.
    #[must_use]
    pub fn kind(&self) -> u8 {
        self.kind
    }

    /// Does it only give a body up?
    #[must_use]
    pub fn is_abandon(&self) -> bool {
        self.kind == KIND_ABANDON_BODY
    }

    /// Makes the record that follows `parent`.
    #[must_use]
    pub fn place(self, place: &Place) -> Record {
        let mut header = Header {
            kind: self.kind,
            checksum: 0,
            parent: place.parent.checksum,
            seq: place.parent.seq.next(),
            epoch: place.epoch,
            committed: place.committed,
            persisted: place.persisted,
            time_ms: place.time_ms,
            op_len: self.op.len() as u32,
            payload_len: self.payload.len() as u32,
            payload_crc: self.payload_crc,
        };
        header.checksum = header_checksum(&header.encode(), &self.op);
        let mut head = BytesMut::with_capacity(HEADER_LEN + self.op.len());
        head.put_slice(&header.encode());
        head.put_slice(&self.op);
        Record { header, head: head.freeze(), payload: self.payload }
    }
}

/// What the core decides about a record.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The record before.
    pub parent: Position,
    /// The epoch to write under.
    pub epoch: Epoch,
    /// Highest committed seq.
    pub committed: Seq,
    /// Highest persisted seq.
    pub persisted: Seq,
    /// Modification time, milliseconds since 1970.
    pub time_ms: u64,
}

/// A record in memory, as the two runs of bytes that it is written and sent as. Cloning shares them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The fixed part, decoded.
    pub header: Header,
    /// Header and op as encoded.
    pub head: Bytes,
    /// The payload.
    pub payload: Bytes,
}

impl Record {
    /// Takes one record off the front of `bytes` and verifies its header and payload checksums. Its place in the chain
    /// is the caller's to check.
    ///
    /// # Errors
    /// When no whole and sound record is there; `bytes` is then unchanged.
    pub fn decode(bytes: &mut Bytes) -> Result<Self, RecordError> {
        let header = Header::decode(bytes)?;
        if bytes.len() < header.record_len() {
            return Err(RecordError::Short { have: bytes.len(), need: header.record_len() });
        }
        let head_len = HEADER_LEN + header.op_len as usize;
        let head = bytes.slice(..head_len);
        let payload = bytes.slice(head_len..header.record_len());
        let record = Self::from_parts(head, payload)?;
        let _taken = bytes.split_to(header.record_len());
        Ok(record)
    }

    /// Puts a record together from its head (header and op) and its payload, and verifies both checksums.
    ///
    /// # Errors
    /// When either does not match.
    pub fn from_parts(head: Bytes, payload: Bytes) -> Result<Self, RecordError> {
        let header = verify_head(&head)?;
        if payload.len() != header.payload_len as usize {
            return Err(RecordError::Short { have: head.len() + payload.len(), need: header.record_len() });
        }
        if payload_crc(&payload) != header.payload_crc {
            return Err(RecordError::PayloadChecksum(header.seq));
        }
        Ok(Self { header, head, payload })
    }

    /// The same record without its payload: what the log family keeps of a [`Data`] record.
    #[must_use]
    pub fn is_data(&self) -> bool {
        self.header.kind == KIND_DATA
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.head.len() + self.payload.len()
    }

    /// Never: a record has a header.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Its place in the history.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { epoch: self.header.epoch, seq: self.header.seq, checksum: self.header.checksum }
    }

    /// What it changes.
    ///
    /// # Errors
    /// When the op does not decode or is another than the header's kind says. Checksums were right, so it was made wrong.
    pub fn mutation(&self) -> Result<Mutation, RecordError> {
        let seq = self.header.seq;
        let op = Op::decode(&self.head[HEADER_LEN..]).map_err(|_| RecordError::Op(seq))?;
        op.mutation.filter(|m| m.kind() == self.header.kind).ok_or(RecordError::Op(seq))
    }

    /// The body that a [`Data`] record belongs to: a first chunk names it by its own position.
    #[must_use]
    pub fn body_of(&self, data: &Data) -> BodyId {
        match data.body {
            Some(body) => body.into(),
            None => BodyId { epoch: self.header.epoch, seq: self.header.seq },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::op::DeleteObject;

    fn record(payload: &[u8]) -> Record {
        let mutation = Mutation::DeleteObject(DeleteObject { bucket: "b".into(), key: "k".into() });
        let place = Place {
            parent: Position { epoch: Epoch { counter: 1, node: NodeId(7) }, seq: Seq(41), checksum: 99 },
            epoch: Epoch { counter: 2, node: NodeId(7) },
            committed: Seq(40),
            persisted: Seq(41),
            time_ms: 1_700_000_000_123,
        };
        Draft::new(mutation, Bytes::copy_from_slice(payload)).expect("small").place(&place)
    }

    fn bytes(record: &Record) -> Vec<u8> {
        [&record.head[..], &record.payload[..]].concat()
    }

    #[test]
    fn golden_bytes() {
        let golden = [0x4c, 0x53, 0x52, 0x31, 0x03, 0x00, 0x58, 0x00];
        let made = bytes(&record(b"hi"));
        assert_eq!(made.len(), HEADER_LEN + 8 + 2);
        assert_eq!(made[..8], golden);
        assert_eq!(&made[HEADER_LEN..], b"\x1a\x06\x0a\x01b\x12\x01khi");
    }

    proptest! {
        #[test]
        fn what_was_encoded_decodes(payload in prop::collection::vec(any::<u8>(), 0..300), rest in prop::collection::vec(any::<u8>(), 0..9)) {
            let made = record(&payload);
            let mut input = Bytes::from([bytes(&made), rest.clone()].concat());
            prop_assert_eq!(Record::decode(&mut input).expect("sound"), made);
            prop_assert_eq!(&input[..], &rest[..]);
        }

        #[test]
        fn any_changed_bit_is_found(at in 0usize..106, bit in 0u8..8) {
            let mut input = bytes(&record(b"payload!!!"));
            input[at] ^= 1 << bit;
            prop_assert!(Record::decode(&mut Bytes::from(input)).is_err());
        }

        #[test]
        fn garbage_is_an_error_not_a_panic(garbage in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Record::decode(&mut Bytes::from(garbage)).is_err());
        }
    }

    #[test]
    fn an_unknown_kind_is_refused_by_name() {
        let mut input = bytes(&record(b""));
        input[4] = KIND_MAX + 1;
        assert_eq!(Record::decode(&mut Bytes::from(input)), Err(RecordError::UnknownKind(KIND_MAX + 1)));
    }
}
