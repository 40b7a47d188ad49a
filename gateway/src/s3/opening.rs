//! Which version of HTTP a client speaks: told by its first bytes, which whoever serves the connection then reads again.
//!
//! HTTP/2 begins with a preface with which no request of HTTP/1 begins. The listener wants to know before it builds the
//! connection: what finds out by itself passes on no bound for a head apart from the bound of what is read at once. How
//! long the first bytes may take is [`super::patience`]'s affair.

use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// What HTTP/2 begins with.
const PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// HTTP/1, or nothing that is known: HTTP/1 has an answer for that.
    One,
    /// HTTP/2.
    Two,
}

/// A stream that begins with what was read of it before.
#[derive(Debug)]
pub(super) struct Opened<S> {
    stream: S,
    first: [u8; PREFACE.len()],
    given: usize,
    len: usize,
}

/// Reads no more than tells the version.
///
/// # Errors
/// When the stream cannot be read.
pub(super) async fn open<S: AsyncRead + Unpin>(mut stream: S) -> Result<(Version, Opened<S>)> {
    let mut first = [0; PREFACE.len()];
    let mut len = 0;
    while len < PREFACE.len() {
        let read = stream.read(&mut first[len..]).await?;
        len += read;
        if read == 0 || first[..len] != PREFACE[..len] {
            return Ok((Version::One, Opened { stream, first, given: 0, len }));
        }
    }
    Ok((Version::Two, Opened { stream, first, given: 0, len }))
}

impl<S: AsyncRead + Unpin> AsyncRead for Opened<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let again = &self.first[self.given..self.len];
        if again.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let fits = again.len().min(buf.remaining());
        buf.put_slice(&again[..fits]);
        self.given += fits;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Opened<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn the_version_is_told_however_the_bytes_come_and_none_of_them_is_lost() {
        let two = [&PREFACE[..], b"\0\0\0\x04\0\0\0\0\0"].concat();
        let cases: [(&[u8], Version); 8] = [
            (&two, Version::Two),
            (&PREFACE, Version::Two),
            (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", Version::One),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\t", Version::One),
            (b"PRI * HTTP/1.1\r\nHost: x\r\n\r\n", Version::One),
            (b"PRI", Version::One),
            (b"G", Version::One),
            (b"", Version::One),
        ];
        for (sent, version) in cases {
            for step in [1, 7, 64] {
                let (mut client, server) = duplex(step);
                let write = async move {
                    for piece in sent.chunks(step) {
                        client.write_all(piece).await.expect("is read");
                    }
                };
                let read = async {
                    let (found, mut opened) = open(server).await.expect("readable");
                    let mut got = Vec::new();
                    opened.read_to_end(&mut got).await.expect("readable");
                    (found, got)
                };
                let ((), (found, got)) = tokio::join!(write, read);
                assert_eq!((found, got.as_slice()), (version, sent), "{step} bytes at a time");
            }
        }
    }

    #[tokio::test]
    async fn a_head_is_known_to_be_one_before_it_has_as_many_bytes_as_the_preface() {
        let (mut client, server) = duplex(64);
        client.write_all(b"PUT").await.expect("room");
        assert_eq!(open(server).await.expect("readable").0, Version::One);
    }
}
