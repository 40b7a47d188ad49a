//! The bodies of the messages about a damaged chunk. The one with its bytes may be as large as a record; all of it is covered by
//! the message's CRC. Private to the wire format.

use bytes::Bytes;
use lockstep_storage::record::RECORD_LEN_MAX;
use prost::Message as _;

use super::WireError;
use super::baseline::ChunkBody;
use super::small::parse;
use crate::message::Mending;

pub(super) const KIND_WANT: u8 = 21;
pub(super) const KIND_HAVE: u8 = 22;

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct WantBody {
    #[prost(message, optional, tag = "1")]
    chunk: Option<ChunkBody>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HaveBody {
    #[prost(message, optional, tag = "1")]
    chunk: Option<ChunkBody>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    bytes: Option<Bytes>,
    #[prost(fixed32, tag = "3")]
    crc: u32,
}

pub(super) fn encode(message: &Mending) -> (u8, Vec<u8>) {
    match message {
        Mending::Want(chunk) => (KIND_WANT, WantBody { chunk: Some((*chunk).into()) }.encode_to_vec()),
        Mending::Have { chunk, bytes, crc } => {
            (KIND_HAVE, HaveBody { chunk: Some((*chunk).into()), bytes: bytes.clone(), crc: *crc }.encode_to_vec())
        }
    }
}

/// The message of one of these kinds and its body.
pub(super) fn decode(kind: u8, body: Bytes) -> Result<Mending, WireError> {
    let none = || WireError::Body { kind, what: "no chunk is named".to_owned() };
    if kind == KIND_WANT {
        return Ok(Mending::Want(parse::<WantBody>(kind, body)?.chunk.ok_or_else(none)?.into()));
    }
    let HaveBody { chunk, bytes, crc } = parse(kind, body)?;
    if let Some(len) = bytes.as_ref().map(Bytes::len).filter(|len| *len > RECORD_LEN_MAX) {
        return Err(WireError::Body { kind, what: format!("a chunk of {len} bytes") });
    }
    Ok(Mending::Have { chunk: chunk.ok_or_else(none)?.into(), bytes, crc })
}
