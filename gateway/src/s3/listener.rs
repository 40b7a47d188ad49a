//! The S3 listener: HTTP/1.1 and HTTP/2 without TLS on one port, bounded in connections, header size, time and memory.
//!
//! An own accept loop, because the ready-made ones bound none of that. A connection's failure is its own affair; the loop
//! ends only when it is told to, and then gives requests under way some time to finish.

use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use lockstep_mirror::runtime::connections_max;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::opening::{Version, open};
use super::patience::Patient;
use super::{Gateway, service};

/// Most connections at once, where the process may open so many files; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 16_384;
/// Longest time for a connection's first bytes, for a request's head, for a connection to be idle, and for a client to
/// take nothing of what it is sent.
const HEAD_TIME_MAX: Duration = Duration::from_mins(1);
/// Longest time that requests under way get when the listener ends.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);
/// Bytes that are read from a socket at once: large pieces make a PUT cheap.
const READ_LEN_MAX: usize = 1 << 20;
/// Most headers of a request.
const HEADERS_MAX: usize = 200;
/// Most bytes of a head, the request line and all: whoever sends them has shown no key yet. Presigned URLs have up to
/// 16 KiB, and the service takes less than this of headers.
const HEAD_LEN_MAX: u32 = 64 << 10;
/// Bytes that a client may send ahead in HTTP/2, for a stream and for a connection.
const WINDOW: u32 = 4 << 20;
/// Requests at once on a connection in HTTP/2.
const STREAMS_MAX: u32 = 256;
/// After an error of accept (no file descriptors left, as a rule).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a peer may be silent before the kernel asks whether it is still there.
const KEEPALIVE_AFTER: Duration = Duration::from_mins(1);

/// Serves until `shutdown` comes, then lets requests under way finish for a bounded time.
pub async fn serve(listener: TcpListener, gateway: Arc<Gateway>, shutdown: impl Future<Output = ()>) {
    let places = connections_max(gateway.client.origins().len()).min(CONNECTIONS_MAX);
    let server = Arc::new(Server::new(gateway));
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(places));
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let next = async {
            // The semaphore is never closed.
            let place = Arc::clone(&places).acquire_owned().await.ok();
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            next = next => next,
            () = &mut shutdown => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let (server, watcher) = (Arc::clone(&server), graceful.watcher());
                connections.spawn(async move {
                    let _place = place;
                    if let Err(error) = server.serve(stream, watcher).await {
                        tracing::debug!(%error, "an S3 connection ended badly");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept an S3 connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        // What has ended is forgotten as we go.
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    server.ending.cancel();
    if tokio::time::timeout(DRAIN_TIME_MAX, graceful.shutdown()).await.is_err() {
        tracing::warn!(connections = connections.len(), "S3 requests were cut off: they took too long to finish");
    }
    connections.shutdown().await;
}

/// What every connection is served with.
struct Server {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    service: TowerToHyperService<Router>,
    /// Who has not said yet what he speaks need not be waited for any more.
    ending: CancellationToken,
}

impl Server {
    fn new(gateway: Arc<Gateway>) -> Self {
        let mut http1 = http1::Builder::new();
        http1
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME_MAX)
            .max_headers(HEADERS_MAX)
            .max_header_size(HEAD_LEN_MAX as usize)
            .max_buf_size(READ_LEN_MAX);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEAD_LEN_MAX)
            .keep_alive_interval(HEAD_TIME_MAX);
        let service = TowerToHyperService::new(service::router(gateway));
        Self { http1, http2, service, ending: CancellationToken::new() }
    }

    /// One connection, to its end.
    async fn serve(&self, stream: TcpStream, watcher: Watcher) -> Result<(), Box<dyn Error + Send + Sync>> {
        prepare(&stream);
        let (version, stream) = tokio::select! {
            opened = open(Patient::new(stream, HEAD_TIME_MAX)) => opened?,
            () = self.ending.cancelled() => return Ok(()),
        };
        let (stream, service) = (TokioIo::new(stream), self.service.clone());
        match version {
            Version::One => watcher.watch(self.http1.serve_connection(stream, service)).await?,
            Version::Two => watcher.watch(self.http2.serve_connection(stream, service)).await?,
        }
        Ok(())
    }
}

/// Small answers must not wait for a delayed acknowledgement, and a peer that is gone must not hold a place for ever.
fn prepare(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_AFTER);
    let socket = SockRef::from(stream);
    let set = stream.set_nodelay(true).and_then(|()| socket.set_tcp_keepalive(&keepalive));
    if let Err(error) = set {
        tracing::debug!(%error, "cannot set options of an S3 connection");
    }
}
