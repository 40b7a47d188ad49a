//! The way of a body from the image to a client: which bytes a request asks for, and where they lie.
//!
//! Every chunk is verified when it is read; one that is damaged is had from the peer, where it can be. The first one is read before the answer begins, so that a damaged
//! object is an error; a damaged later one breaks the connection, because a cut body must never pass for a whole one.
//! The stream keeps its view, and with it every byte that it will read, until it has ended.

use bytes::Bytes;
use futures_util::Stream;
use lockstep_storage::id::{BodyId, ChunkId};
use lockstep_storage::image::{ImageError, View};
use lockstep_storage::op::{Extent, Object};
use tokio::task::JoinHandle;

use super::error::{Code, S3Error};
use super::response::Body;

/// Bytes from `start`, `len` of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// How many.
    pub len: u64,
}

impl Range {
    /// All bytes of an object of this length.
    #[must_use]
    pub fn whole(len: u64) -> Self {
        Self { start: 0, len }
    }

    /// As in `Content-Range`. Only for ranges with at least a byte.
    #[must_use]
    pub fn content_range(self, object_len: u64) -> String {
        format!("bytes {}-{}/{object_len}", self.start, self.start + self.len.saturating_sub(1))
    }
}

/// What a `Range` header asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Nothing that S3 understands: the whole object is the answer.
    Whole,
    /// These bytes.
    Part(Range),
    /// Bytes that the object has not.
    Unsatisfiable,
}

/// Reads a `Range` header. Several ranges, other units and nonsense are ignored, as at AWS and as RFC 9110 allows.
#[must_use]
pub fn parse_range(header: &str, object_len: u64) -> Asked {
    let Some((first, last)) = header.trim().strip_prefix("bytes=").and_then(|spec| spec.split_once('-')) else {
        return Asked::Whole;
    };
    let number = |text: &str| {
        let text = text.trim();
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        // A number beyond all objects is as good as the largest one.
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    match (first.trim(), number(first), last.trim(), number(last)) {
        ("", None, _, Some(suffix)) => {
            let len = suffix.min(object_len);
            if len == 0 { Asked::Unsatisfiable } else { Asked::Part(Range { start: object_len - len, len }) }
        }
        (_, Some(start), "", None) => from_to(start, u64::MAX, object_len),
        (_, Some(start), _, Some(end)) if start <= end => from_to(start, end, object_len),
        _ => Asked::Whole,
    }
}

fn from_to(start: u64, end: u64, object_len: u64) -> Asked {
    if start >= object_len {
        return Asked::Unsatisfiable;
    }
    Asked::Part(Range { start, len: end.min(object_len - 1) - start + 1 })
}

/// Bytes of one chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    body: BodyId,
    index: u32,
    from: usize,
    to: usize,
}

/// The spans of a range, in order, one at a time.
struct Spans {
    extents: std::vec::IntoIter<Extent>,
    /// The extent at hand and the offset in it of the next byte.
    current: Option<(Extent, u64)>,
    left: u64,
}

impl Spans {
    fn new(extents: Vec<Extent>, range: Range) -> Self {
        let mut skip = range.start;
        let mut extents = extents.into_iter();
        let mut current = None;
        for extent in extents.by_ref() {
            if skip < extent.len {
                current = Some((extent, skip));
                break;
            }
            skip -= extent.len;
        }
        Self { extents, current, left: range.len }
    }
}

impl Iterator for Spans {
    type Item = Span;

    /// Lengths come from the image, so a chunk length of 0 is possible in a damaged one: it ends the spans, and the
    /// stream that is then too short breaks the connection.
    fn next(&mut self) -> Option<Span> {
        if self.left == 0 {
            return None;
        }
        while self.current.is_some_and(|(extent, at)| at >= extent.len) {
            self.current = self.extents.next().map(|extent| (extent, 0));
        }
        let (extent, at) = self.current?;
        let chunk_len = u64::from(extent.chunk_len);
        let index = u32::try_from(at.checked_div(chunk_len)?).ok()?;
        let from = at % chunk_len;
        let len = (chunk_len - from).min(extent.len - at).min(self.left);
        self.left -= len;
        self.current = Some((extent, at + len));
        Some(Span { body: extent.body.into(), index, from: from as usize, to: (from + len) as usize })
    }
}

fn read(view: &View, span: Span) -> Result<Bytes, ImageError> {
    let chunk = view.chunk(span.body, span.index)?;
    if chunk.len() < span.to {
        let what = format!("it has {} bytes, {} are needed", chunk.len(), span.to);
        return Err(ImageError::Chunk { chunk: ChunkId { body: span.body, index: span.index }, what });
    }
    Ok(chunk.slice(span.from..span.to))
}

type Reading = JoinHandle<Result<Bytes, ImageError>>;

/// Pieces of a range, read one ahead on blocking threads.
pub struct Pieces {
    view: View,
    spans: Spans,
    ahead: Option<Reading>,
}

impl Pieces {
    /// Starts to read.
    #[must_use]
    pub fn new(view: View, extents: Vec<Extent>, range: Range) -> Self {
        let mut pieces = Self { view, spans: Spans::new(extents, range), ahead: None };
        pieces.read_ahead();
        pieces
    }

    fn read_ahead(&mut self) {
        let view = &self.view;
        self.ahead = self.spans.next().map(|span| {
            let view = view.clone();
            tokio::task::spawn_blocking(move || read(&view, span))
        });
    }

    /// The next piece; none at the end.
    ///
    /// # Errors
    /// When a chunk cannot be read or does not verify.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ImageError> {
        let Some(reading) = self.ahead.as_mut() else { return Ok(None) };
        let piece = reading.await.map_err(|error| ImageError::Engine(error.to_string()))?;
        self.ahead = None;
        let piece = piece?;
        self.read_ahead();
        Ok(Some(piece))
    }

    fn into_stream(self) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send {
        futures_util::stream::try_unfold(self, |mut pieces| async move {
            match pieces.next().await {
                Ok(piece) => Ok(piece.map(|piece| (piece, pieces))),
                Err(error) => {
                    tracing::error!(%error, "an answer is broken off: its object cannot be read");
                    Err(std::io::Error::other("the object cannot be read"))
                }
            }
        })
    }
}

/// The body of an answer: a range of an object.
///
/// # Errors
/// When its first bytes cannot be read or do not verify.
pub async fn body(view: View, object: Object, range: Range) -> Result<Body, S3Error> {
    if range.len == 0 {
        return Ok(Body::Empty);
    }
    if object.extents.is_empty() {
        let (from, to) = (usize::try_from(range.start), usize::try_from(range.start + range.len));
        let inline = object.inline;
        return match (from, to) {
            (Ok(from), Ok(to)) if to <= inline.len() => Ok(inline.slice(from..to).into()),
            _ => Err(Code::InternalError.into()),
        };
    }
    let mut pieces = Pieces::new(view, object.extents, range);
    let Some(first) = pieces.next().await? else { return Err(Code::InternalError.into()) };
    if first.len() as u64 == range.len {
        return Ok(first.into());
    }
    let rest = pieces.into_stream();
    let all = futures_util::StreamExt::chain(futures_util::stream::iter([Ok(first)]), rest);
    Ok(Body::stream(range.len, all))
}

#[cfg(test)]
mod tests {
    use lockstep_storage::op;
    use proptest::prelude::*;

    use super::*;

    fn part(start: u64, len: u64) -> Asked {
        Asked::Part(Range { start, len })
    }

    #[test]
    fn ranges_as_rfc_9110_and_s3_read_them() {
        for (header, len, asked) in [
            ("bytes=0-4", 10, part(0, 5)),
            ("bytes=4-", 10, part(4, 6)),
            ("bytes=-4", 10, part(6, 4)),
            ("bytes=-40", 10, part(0, 10)),
            ("bytes=5-400", 10, part(5, 5)),
            ("bytes=9-9", 10, part(9, 1)),
            ("bytes=10-", 10, Asked::Unsatisfiable),
            ("bytes=40-50", 10, Asked::Unsatisfiable),
            ("bytes=-0", 10, Asked::Unsatisfiable),
            ("bytes=0-", 0, Asked::Unsatisfiable),
            ("bytes=-1", 0, Asked::Unsatisfiable),
            ("bytes=5-2", 10, Asked::Whole),
            ("bytes=0-1,3-4", 10, Asked::Whole),
            ("bytes=a-b", 10, Asked::Whole),
            ("bytes=-", 10, Asked::Whole),
            ("bytes=+1-2", 10, Asked::Whole),
            ("lines=1-2", 10, Asked::Whole),
            ("bytes=1-99999999999999999999999", 10, part(1, 9)),
            ("bytes=99999999999999999999999-", 10, Asked::Unsatisfiable),
        ] {
            assert_eq!(parse_range(header, len), asked, "{header} of {len}");
        }
        assert_eq!(Range { start: 2, len: 3 }.content_range(10), "bytes 2-4/10");
    }

    /// Extents with chunks of 4 bytes; their bytes are numbered through.
    fn extents(lens: &[u64]) -> Vec<Extent> {
        let extent = |(number, len): (usize, &u64)| Extent {
            body: op::BodyId { counter: 1, node: 1, seq: number as u64 },
            len: *len,
            chunk_len: 4,
            part_number: 0,
        };
        lens.iter().enumerate().map(extent).collect()
    }

    proptest! {
        #[test]
        fn spans_are_exactly_the_bytes_of_the_range(lens in prop::collection::vec(1u64..30, 1..6), start in 0u64..150, len in 0u64..150) {
            let total: u64 = lens.iter().sum();
            let start = start % total;
            let range = Range { start, len: len.min(total - start) };
            let all: Vec<(u64, u64)> = lens.iter().enumerate().flat_map(|(n, len)| (0..*len).map(move |at| (n as u64, at))).collect();
            let mut got = Vec::new();
            for span in Spans::new(extents(&lens), range) {
                prop_assert!(span.from < span.to && span.to <= 4);
                let base = u64::from(span.index) * 4;
                got.extend((span.from as u64..span.to as u64).map(|at| (span.body.seq.0, base + at)));
            }
            prop_assert_eq!(&got[..], &all[start as usize..(start + range.len) as usize]);
        }
    }

    #[test]
    fn damaged_lengths_end_the_spans() {
        let mut damaged = extents(&[10]);
        damaged[0].chunk_len = 0;
        assert_eq!(Spans::new(damaged, Range::whole(10)).count(), 0);
        assert_eq!(Spans::new(extents(&[4]), Range::whole(10)).count(), 1);
    }
}
