//! The body of a request, decoded from all five payload modes of S3 and verified while it streams.
//!
//! A piece may be handed out before everything is verified, so nothing made of the pieces may become visible before
//! [`Payload::next`] has returned `None`: that is the promise that length, digest and every signature were right. Nothing
//! is read before the first call, so a client that waits for `100 Continue` is refused without sending its body.

mod chunked;
mod hasher;
mod intake;
mod mode;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body as HttpBody;
use bytes::Bytes;
use http::HeaderMap;
use subtle::ConstantTimeEq;

use super::auth::{Signer, hex};
use super::error::{Code, S3Error};
pub use chunked::Decoder;
use hasher::Hasher;
pub use intake::Intake;
pub use mode::{Framing, Mode, strip_content_encoding};

/// How long a client may send nothing in the middle of a body.
const IDLE_MAX: Duration = Duration::from_mins(1);

/// A request's body.
pub struct Payload {
    intake: Intake,
    declared_len: Option<u64>,
    /// Decoded bytes handed out so far; shared with whoever counts.
    received: Arc<AtomicU64>,
    /// Bytes from the socket that are not decoded yet.
    input: Bytes,
    decoding: Decoding,
    trailers: HeaderMap,
    /// Was the end reached, and was everything right? None until one is known.
    done: Option<Result<(), (Code, String)>>,
}

enum Decoding {
    /// As it is; the length is HTTP's affair.
    Plain,
    /// As it is, with a SHA-256 that the head's signature covers.
    Digest(Hasher, [u8; 32]),
    /// aws-chunked.
    Chunked(Box<Decoder>),
}

impl Default for Payload {
    fn default() -> Self {
        Self::of(Bytes::new())
    }
}

impl Payload {
    /// A body that is in memory and trusted: for tests, and for requests that a handler makes itself.
    #[must_use]
    pub fn of(bytes: Bytes) -> Self {
        let declared_len = Some(bytes.len() as u64);
        Self::with(Intake::new(HttpBody::from(bytes), &HeaderMap::new()), declared_len, Decoding::Plain)
    }

    /// The body of a request whose head says this of it. `signer` is what verified the head.
    #[must_use]
    pub fn new(intake: Intake, framing: Framing, signer: Signer) -> Self {
        let at_end = intake.is_empty().then_some(0);
        let (declared_len, decoding) = match framing.mode {
            Mode::Unsigned => (framing.content_len.or(at_end), Decoding::Plain),
            Mode::Digest(digest) => (framing.content_len.or(at_end), Decoding::Digest(Hasher::default(), digest)),
            Mode::Chunked { signed, trailing } => {
                let decoder = Decoder::new(signed.then_some(signer), trailing.then_some(framing.trailer_names));
                (framing.decoded_len, Decoding::Chunked(Box::new(decoder)))
            }
        };
        Self::with(intake, declared_len, decoding)
    }

    fn with(intake: Intake, declared_len: Option<u64>, decoding: Decoding) -> Self {
        let (input, trailers) = (Bytes::new(), HeaderMap::new());
        Self { intake, declared_len, received: Arc::default(), input, decoding, trailers, done: None }
    }

    /// The decoded length in bytes, where the client said it.
    #[must_use]
    pub fn declared_len(&self) -> Option<u64> {
        self.declared_len
    }

    /// Decoded bytes handed out so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// The counter behind [`Payload::received`], for those who count after the handler has taken the payload.
    #[must_use]
    pub fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.received)
    }

    /// The next piece, never empty; `None` when everything has been read and verified.
    ///
    /// # Errors
    /// When the body is cut, too long, or a digest or signature does not match. Every later call fails the same way.
    pub async fn next(&mut self) -> Result<Option<Bytes>, S3Error> {
        match &self.done {
            Some(Ok(())) => return Ok(None),
            Some(Err((code, message))) => return Err(S3Error::new(*code, message.clone())),
            None => {}
        }
        let piece = self.advance().await;
        match &piece {
            Ok(Some(_)) => {}
            Ok(None) => self.done = Some(Ok(())),
            Err(error) => self.done = Some(Err((error.code, error.message.clone()))),
        }
        piece
    }

    async fn advance(&mut self) -> Result<Option<Bytes>, S3Error> {
        loop {
            if let Some(piece) = self.decode().await? {
                let len = piece.len() as u64;
                let received = self.received.fetch_add(len, Ordering::Relaxed) + len;
                if self.declared_len.is_some_and(|len| received > len) {
                    return Err(wrong_length(self.declared_len, "more"));
                }
                return Ok(Some(piece));
            }
            match tokio::time::timeout(IDLE_MAX, self.intake.read()).await {
                Err(_) => return Err(Code::RequestTimeout.into()),
                Ok(Some(Err(_))) => return Err(Code::IncompleteBody.into()),
                Ok(Some(Ok(bytes))) => self.input = bytes,
                Ok(None) => return self.finish().await.map(|()| None),
            }
        }
    }

    /// A piece out of what has come in; none where more must come.
    async fn decode(&mut self) -> Result<Option<Bytes>, S3Error> {
        if self.input.is_empty() {
            return Ok(None);
        }
        match &mut self.decoding {
            Decoding::Plain => Ok(Some(std::mem::take(&mut self.input))),
            Decoding::Digest(hasher, _) => {
                let piece = std::mem::take(&mut self.input);
                hasher.update(&piece).await?;
                Ok(Some(piece))
            }
            Decoding::Chunked(decoder) => decoder.decode(&mut self.input),
        }
    }

    /// At the end of the HTTP body: is everything there, and right?
    async fn finish(&mut self) -> Result<(), S3Error> {
        match &mut self.decoding {
            Decoding::Plain => {}
            Decoding::Digest(hasher, wanted) => {
                let found = hasher.finish().await?;
                if !bool::from(found.ct_eq(wanted)) {
                    return Err(S3Error::from(Code::XAmzContentSHA256Mismatch)
                        .with_detail("ClientComputedContentSHA256", hex(wanted))
                        .with_detail("S3ComputedContentSHA256", hex(&found)));
                }
            }
            Decoding::Chunked(decoder) => self.trailers = decoder.finish()?,
        }
        if self.declared_len.is_some_and(|len| self.received() != len) {
            return Err(wrong_length(self.declared_len, "fewer"));
        }
        Ok(())
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
        if self.declared_len.is_some_and(|len| len > max as u64) {
            return Err(Code::MalformedXML.into());
        }
        let Some(first) = self.next().await? else { return Ok(Bytes::new()) };
        let Some(second) = self.next().await? else {
            return if first.len() > max { Err(Code::MalformedXML.into()) } else { Ok(first) };
        };
        let mut whole = first.to_vec();
        let mut next = Some(second);
        while let Some(piece) = next {
            if whole.len() + piece.len() > max {
                return Err(Code::MalformedXML.into());
            }
            whole.extend_from_slice(&piece);
            next = self.next().await?;
        }
        Ok(whole.into())
    }
}

fn wrong_length(declared: Option<u64>, comparison: &str) -> S3Error {
    let declared = declared.unwrap_or(0);
    S3Error::new(
        Code::IncompleteBody,
        format!("The body has {comparison} bytes than the {declared} that were declared."),
    )
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payload")
            .field("declared_len", &self.declared_len)
            .field("received", &self.received())
            .field("done", &self.done)
            .finish_non_exhaustive()
    }
}
