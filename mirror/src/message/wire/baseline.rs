//! The bodies of the messages of a baseline. Pieces may be as large as records, so their message has the bound of an
//! append; all of it is covered by the message's CRC. Private to the wire format.

use bytes::Bytes;
use lockstep_storage::id::{BodyId, ChunkId, Epoch, NodeId, Seq};
use lockstep_storage::image::baseline::{Bookmark, Piece};
use prost::Message as _;

use super::WireError;
use super::small::{EpochEntryBody, PositionBody, entries, parse};
use crate::message::Baseline;

pub(super) const KIND_OFFER: u8 = 12;
pub(super) const KIND_WANTED: u8 = 13;
pub(super) const KIND_BEGIN: u8 = 14;
pub(super) const KIND_READY: u8 = 15;
pub(super) const KIND_PIECES: u8 = 16;
pub(super) const KIND_BASELINE_ACK: u8 = 17;

/// Most pieces in one message: what they take beside their bytes is bounded too.
const PIECES_MAX: usize = 1 << 17;

/// Wanted and Ack.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct CreditBody {
    #[prost(uint64, tag = "1")]
    credit: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct BeginBody {
    #[prost(message, optional, tag = "1")]
    at: Option<PositionBody>,
    #[prost(message, repeated, tag = "2")]
    epochs: Vec<EpochEntryBody>,
    #[prost(uint64, tag = "3")]
    bytes: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ReadyBody {
    #[prost(message, optional, tag = "1")]
    next: Option<BookmarkBody>,
    #[prost(uint64, tag = "2")]
    have: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct BookmarkBody {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(uint32, tag = "2")]
    chunks: u32,
}

/// A chunk where it names a body, else an entry.
#[derive(Clone, PartialEq, prost::Message)]
struct PieceBody {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
    #[prost(message, optional, tag = "3")]
    chunk: Option<ChunkBody>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct ChunkBody {
    #[prost(uint64, tag = "1")]
    counter: u64,
    #[prost(fixed64, tag = "2")]
    node: u64,
    #[prost(uint64, tag = "3")]
    seq: u64,
    #[prost(uint32, tag = "4")]
    index: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PiecesBody {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<PieceBody>,
    #[prost(message, optional, tag = "2")]
    next: Option<BookmarkBody>,
}

impl From<&Bookmark> for BookmarkBody {
    fn from(bookmark: &Bookmark) -> Self {
        Self { key: bookmark.key.clone(), chunks: bookmark.chunks }
    }
}

impl From<BookmarkBody> for Bookmark {
    fn from(body: BookmarkBody) -> Self {
        Self { key: body.key, chunks: body.chunks }
    }
}

impl From<ChunkId> for ChunkBody {
    fn from(chunk: ChunkId) -> Self {
        let BodyId { epoch, seq } = chunk.body;
        Self { counter: epoch.counter, node: epoch.node.0, seq: seq.0, index: chunk.index }
    }
}

impl From<ChunkBody> for ChunkId {
    fn from(body: ChunkBody) -> Self {
        let epoch = Epoch { counter: body.counter, node: NodeId(body.node) };
        Self { body: BodyId { epoch, seq: Seq(body.seq) }, index: body.index }
    }
}

impl From<&Piece> for PieceBody {
    fn from(piece: &Piece) -> Self {
        match piece {
            Piece::Entry { key, value } => Self { key: key.clone(), value: value.clone(), chunk: None },
            Piece::Chunk { body, index, bytes } => {
                let chunk = ChunkId { body: *body, index: *index };
                Self { key: Bytes::new(), value: bytes.clone(), chunk: Some(chunk.into()) }
            }
        }
    }
}

impl PieceBody {
    fn check(self) -> Result<Piece, WireError> {
        let piece = match self.chunk {
            None => Piece::Entry { key: self.key, value: self.value },
            Some(chunk) => {
                let ChunkId { body, index } = chunk.into();
                Piece::Chunk { body, index, bytes: self.value }
            }
        };
        match piece.fault() {
            Some(what) => Err(WireError::Body { kind: KIND_PIECES, what: what.to_owned() }),
            None => Ok(piece),
        }
    }
}

pub(super) fn encode(message: &Baseline) -> (u8, Vec<u8>) {
    match message {
        Baseline::Offer => (KIND_OFFER, Vec::new()),
        Baseline::Wanted { credit } => (KIND_WANTED, CreditBody { credit: *credit }.encode_to_vec()),
        Baseline::Begin { at, epochs, bytes } => {
            let body = BeginBody { at: Some((*at).into()), epochs: entries(epochs), bytes: *bytes };
            (KIND_BEGIN, body.encode_to_vec())
        }
        Baseline::Ready { next, have } => {
            (KIND_READY, ReadyBody { next: Some(next.into()), have: *have }.encode_to_vec())
        }
        Baseline::Pieces { pieces, next } => {
            let pieces = pieces.iter().map(PieceBody::from).collect();
            let body = PiecesBody { pieces, next: next.as_ref().map(BookmarkBody::from) };
            (KIND_PIECES, body.encode_to_vec())
        }
        Baseline::Ack { credit } => (KIND_BASELINE_ACK, CreditBody { credit: *credit }.encode_to_vec()),
    }
}

/// The message of a kind of these and its body.
pub(super) fn decode(kind: u8, body: Bytes) -> Result<Baseline, WireError> {
    match kind {
        KIND_OFFER => Ok(Baseline::Offer),
        KIND_WANTED => Ok(Baseline::Wanted { credit: parse::<CreditBody>(kind, body)?.credit }),
        KIND_BEGIN => {
            let body = parse::<BeginBody>(kind, body)?;
            let epochs = body.epochs.into_iter().map(Into::into).collect();
            Ok(Baseline::Begin { at: body.at.map(Into::into).unwrap_or_default(), epochs, bytes: body.bytes })
        }
        KIND_READY => {
            let body = parse::<ReadyBody>(kind, body)?;
            Ok(Baseline::Ready { next: body.next.map(Into::into).unwrap_or_default(), have: body.have })
        }
        KIND_PIECES => {
            let body = parse::<PiecesBody>(kind, body)?;
            if body.pieces.len() > PIECES_MAX {
                let what = format!("{} pieces in one message", body.pieces.len());
                return Err(WireError::Body { kind, what });
            }
            let pieces = body.pieces.into_iter().map(PieceBody::check).collect::<Result<_, _>>()?;
            Ok(Baseline::Pieces { pieces, next: body.next.map(Into::into) })
        }
        KIND_BASELINE_ACK => Ok(Baseline::Ack { credit: parse::<CreditBody>(kind, body)?.credit }),
        other => Err(WireError::UnknownKind(other)),
    }
}
