//! A connection that is not waited for without end: its first bytes must come, and what is sent must go, in bounded time.
//!
//! HTTP's own timers begin when it is known which version of HTTP a client speaks, and none of them looks at writing. So a
//! client that says nothing, or one that asks for a large object and reads nothing, would keep its place, and what the
//! answer holds, for ever. The S3 listener wraps every connection in this.

use std::future::Future;
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Bytes after which the version of HTTP is known for certain: the length of HTTP/2's preface. A shorter head of HTTP/1 is
/// a whole one, and answered.
const OPENING_LEN: usize = 24;

/// A stream with a time limit for its opening and for every stalled write.
pub(super) struct Patient<S> {
    stream: S,
    limit: Duration,
    heard: usize,
    opening: Pin<Box<Sleep>>,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    /// Waits this long for the first bytes, and for the other end to take bytes.
    pub(super) fn new(stream: S, limit: Duration) -> Self {
        Self { stream, limit, heard: 0, opening: Box::pin(sleep(limit)), stalled: None }
    }

    /// Counts the time while a write makes no progress.
    fn judge<T>(&mut self, written: Poll<Result<T>>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let limit = self.limit;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(limit)));
        stalled.as_mut().poll(cx).map(|()| Err(Error::new(ErrorKind::TimedOut, "the client takes no bytes")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.heard = self.heard.saturating_add(buf.filled().len() - before);
        if read.is_pending() && self.heard < OPENING_LEN && self.opening.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(Error::new(ErrorKind::TimedOut, "the client says nothing")));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.judge(written, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.judge(flushed, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.judge(shut, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.judge(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::Instant;

    use super::*;

    const LIMIT: Duration = Duration::from_mins(1);

    #[tokio::test(start_paused = true)]
    async fn silence_and_a_cut_opening_end_and_a_connection_that_has_begun_may_be_silent() {
        for opening in ["", "P", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r"] {
            let (mut client, server) = duplex(1024);
            let (mut server, began) = (Patient::new(server, LIMIT), Instant::now());
            client.write_all(opening.as_bytes()).await.expect("room");
            let error = server.read_exact(&mut [0; 24]).await.expect_err("too late");
            assert_eq!((error.kind(), began.elapsed()), (ErrorKind::TimedOut, LIMIT), "{opening}");
        }
        let (mut client, server) = duplex(1024);
        let mut server = Patient::new(server, LIMIT);
        client.write_all(&[1; 24]).await.expect("room");
        server.read_exact(&mut [0; 24]).await.expect("all of it");
        assert!(tokio::time::timeout(10 * LIMIT, server.read_u8()).await.is_err(), "now HTTP's own timers count");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up_and_a_slow_one_is_not() {
        let (_client, server) = duplex(1024);
        let (mut server, began) = (Patient::new(server, LIMIT), Instant::now());
        let error = server.write_all(&[1; 5000]).await.expect_err("nobody reads");
        assert_eq!((error.kind(), began.elapsed()), (ErrorKind::TimedOut, LIMIT));

        let (mut client, server) = duplex(1024);
        let mut server = Patient::new(server, LIMIT);
        let slow = async {
            for _ in 0..5000 {
                tokio::time::sleep(LIMIT / 2).await;
                client.read_u8().await.expect("a byte");
            }
        };
        let (written, ()) = tokio::join!(server.write_all(&[1; 5000]), slow);
        written.expect("each byte in time");
    }
}
