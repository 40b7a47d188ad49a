//! How a payload is framed and signed, out of the headers.

use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderName, HeaderValue};

use crate::s3::auth::sha256_from_hex;
use crate::s3::error::{Code, S3Error};

/// How a payload is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Not at all.
    Unsigned,
    /// By its SHA-256.
    Digest([u8; 32]),
    /// aws-chunked: chunk by chunk where `signed`, with trailing headers where `trailing`.
    Chunked {
        /// Every chunk has a signature.
        signed: bool,
        /// Headers follow the last chunk.
        trailing: bool,
    },
}

/// What the head says of the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Framing {
    /// How it is signed.
    pub mode: Mode,
    /// Content-Length: of the body as it is sent.
    pub content_len: Option<u64>,
    /// x-amz-decoded-content-length: of what is in the chunks.
    pub decoded_len: Option<u64>,
    /// x-amz-trailer: the headers that follow, lower case.
    pub trailer_names: Vec<HeaderName>,
}

impl Framing {
    /// Reads it out of the signed payload hash and the headers.
    ///
    /// # Errors
    /// `InvalidArgument` for a payload hash that is none, or a length that is no number.
    pub fn read(payload_hash: &str, headers: &HeaderMap) -> Result<Self, S3Error> {
        let trailer_names = match headers.get("x-amz-trailer") {
            None => Vec::new(),
            Some(value) => names(value).ok_or_else(|| S3Error::from(Code::MalformedTrailerError))?,
        };
        Ok(Self {
            mode: mode(payload_hash)?,
            content_len: length(headers, CONTENT_LENGTH.as_str())?,
            decoded_len: length(headers, "x-amz-decoded-content-length")?,
            trailer_names,
        })
    }
}

fn mode(payload_hash: &str) -> Result<Mode, S3Error> {
    let chunked = |signed, trailing| Ok(Mode::Chunked { signed, trailing });
    match payload_hash {
        "UNSIGNED-PAYLOAD" => Ok(Mode::Unsigned),
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" => chunked(true, false),
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" => chunked(true, true),
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER" => chunked(false, true),
        other if other.starts_with("STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD") => Err(S3Error::not_implemented(other)),
        other => sha256_from_hex(other).map(Mode::Digest).ok_or_else(|| {
            let words = "UNSIGNED-PAYLOAD, STREAMING-AWS4-HMAC-SHA256-PAYLOAD, STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER, \
                         STREAMING-UNSIGNED-PAYLOAD-TRAILER or a valid sha256 value.";
            S3Error::new(Code::InvalidArgument, format!("x-amz-content-sha256 must be {words}"))
        }),
    }
}

fn length(headers: &HeaderMap, name: &str) -> Result<Option<u64>, S3Error> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    // Digits only: the standard library would take a plus sign too.
    let digits = value.to_str().ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    let number = digits.and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| S3Error::new(Code::InvalidArgument, format!("The header {name} is not a length.")))
}

fn names(value: &HeaderValue) -> Option<Vec<HeaderName>> {
    let listed = value.to_str().ok()?.split(',').map(str::trim).filter(|name| !name.is_empty());
    listed.map(|name| HeaderName::from_bytes(name.as_bytes()).ok()).collect()
}

/// Takes `aws-chunked` out of Content-Encoding: it is framing, and must never be stored.
pub fn strip_content_encoding(headers: &mut HeaderMap) {
    let is_framing = |coding: &str| coding.trim().eq_ignore_ascii_case("aws-chunked");
    let framed = |value: &HeaderValue| value.to_str().is_ok_and(|text| text.split(',').any(is_framing));
    if !headers.get_all(CONTENT_ENCODING).iter().any(framed) {
        return;
    }
    let mut left: Vec<String> = Vec::new();
    for value in headers.get_all(CONTENT_ENCODING) {
        let codings = value.to_str().unwrap_or_default().split(',').map(str::trim);
        left.extend(codings.filter(|coding| !coding.is_empty() && !is_framing(coding)).map(str::to_owned));
    }
    headers.remove(CONTENT_ENCODING);
    if let Some(value) = Some(left.join(",")).filter(|text| !text.is_empty()).and_then(|text| text.parse().ok()) {
        headers.insert(CONTENT_ENCODING, value);
    }
}
