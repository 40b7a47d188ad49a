//! A request's HTTP body, and what becomes of the rest of it when nobody wants it.
//!
//! A server that answers and closes while the client is still sending makes the client see a broken connection instead of
//! the answer. So what is left is read and thrown away for a bounded while, after the answer and beside it. A client that
//! asked first (`Expect: 100-continue`) and was never told to go on is not read from.

use std::time::Duration;

use axum::body::Body as HttpBody;
use bytes::Bytes;
use http::HeaderMap;
use http::header::EXPECT;
use http_body::Body as _;
use http_body_util::BodyExt;

/// Most bytes of an unwanted body that are read.
const DISCARD_MAX: u64 = 16 << 20;
/// Longest time for which an unwanted body is read.
const DISCARD_TIME_MAX: Duration = Duration::from_secs(10);

/// The body of a request on its way in.
#[derive(Debug)]
pub struct Intake {
    body: HttpBody,
    /// The client waits for `100 Continue`, which the first read would send.
    waits: bool,
    /// Nothing more will come.
    ended: bool,
}

impl Intake {
    /// The body that came with these headers.
    #[must_use]
    pub fn new(body: HttpBody, headers: &HeaderMap) -> Self {
        let ended = body.is_end_stream();
        Self { body, waits: headers.contains_key(EXPECT), ended }
    }

    /// Will there be bytes, or may there be?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ended
    }

    /// The next bytes; none at the end.
    pub(super) async fn read(&mut self) -> Option<Result<Bytes, axum::Error>> {
        self.waits = false;
        let frame = self.body.frame().await;
        self.ended = !matches!(frame, Some(Ok(_)));
        // HTTP's own trailers are not S3's: those are part of the aws-chunked body. They are dropped.
        frame.map(|frame| frame.map(|frame| frame.into_data().unwrap_or_default()))
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        if self.ended || self.waits || self.body.is_end_stream() {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let body = std::mem::take(&mut self.body);
            drop(runtime.spawn(tokio::time::timeout(DISCARD_TIME_MAX, discard(body))));
        }
    }
}

async fn discard(mut body: HttpBody) {
    let mut left = DISCARD_MAX;
    while let Some(Ok(frame)) = body.frame().await {
        let len = frame.data_ref().map_or(0, Bytes::len) as u64;
        let Some(rest) = left.checked_sub(len) else { return };
        left = rest;
    }
}
