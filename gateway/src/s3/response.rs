//! The answer of a handler: an `http::Response` with one body type for all of them.
//!
//! A streamed body that fails breaks the connection: a client must never take a cut answer for a whole one. The service
//! adds the headers that every answer has.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use http_body::{Frame, SizeHint};

use super::error::S3Error;

/// What a handler answers with.
pub type Response = http::Response<Body>;

/// What every handler returns.
pub type S3Result = Result<Response, S3Error>;

/// A boxed stream of pieces.
pub type PieceStream = Pin<Box<dyn Stream<Item = Result<Bytes, std::io::Error>> + Send>>;

/// The body of an answer.
#[derive(Default)]
pub enum Body {
    /// None.
    #[default]
    Empty,
    /// All of it, in memory.
    Full(Bytes),
    /// So many bytes to come, in pieces; fewer or an error break the connection.
    Stream {
        /// Bytes that are still to come.
        left: u64,
        /// Where they come from.
        pieces: PieceStream,
    },
    /// A body of unknown length: sent chunked.
    Open(PieceStream),
}

impl Body {
    /// A body of `len` bytes in pieces.
    pub fn stream<S>(len: u64, pieces: S) -> Self
    where
        S: Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static,
    {
        if len == 0 { Self::Empty } else { Self::Stream { left: len, pieces: Box::pin(pieces) } }
    }

    /// A body whose length is not known when it begins.
    pub fn open<S>(pieces: S) -> Self
    where
        S: Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static,
    {
        Self::Open(Box::pin(pieces))
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::Empty } else { Self::Full(bytes) }
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("Empty"),
            Self::Full(bytes) => write!(f, "Full({} bytes)", bytes.len()),
            Self::Stream { left, .. } => write!(f, "Stream({left} bytes)"),
            Self::Open(_) => f.write_str("Open"),
        }
    }
}

fn cut_short(left: u64) -> std::io::Error {
    std::io::Error::other(format!("the answer ended {left} bytes too early"))
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Stream { left, pieces } => match pieces.as_mut().poll_next(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(None) => Poll::Ready((*left > 0).then(|| Err(cut_short(*left)))),
                Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error))),
                Poll::Ready(Some(Ok(piece))) => {
                    // More than was promised would be another framing error; it is cut here.
                    let piece = if piece.len() as u64 > *left {
                        piece.slice(..usize::try_from(*left).unwrap_or(0))
                    } else {
                        piece
                    };
                    *left -= piece.len() as u64;
                    if *left == 0 {
                        *self = Self::Empty;
                    }
                    Poll::Ready(Some(Ok(Frame::data(piece))))
                }
            },
            Self::Open(pieces) => pieces.as_mut().poll_next(cx).map(|piece| piece.map(|piece| piece.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Empty)
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream { left, .. } => SizeHint::with_exact(*left),
            Self::Open(_) => SizeHint::default(),
        }
    }
}

/// An answer with this status and no body.
#[must_use]
pub fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = status;
    response
}

/// An answer with an XML document.
#[must_use]
pub fn xml(status: StatusCode, document: String) -> Response {
    let mut response = Response::new(Body::from(document));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    response
}

/// For code that wants a stream of what is in memory.
pub fn pieces(bytes: Vec<Bytes>) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    futures_util::stream::iter(bytes.into_iter().map(Ok))
}
