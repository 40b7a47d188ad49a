//! Accepts admin connections: a bounded number of them, each with a bounded time for its request's head, and a bounded length.
//!
//! Started by `serve`; ends when told to, and lets requests in progress finish within a bound.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

/// Most connections at once.
const CONNECTIONS_MAX: usize = 256;
/// Longest time for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes of a request's head: whoever sends them has shown no token yet.
const HEAD_LEN_MAX: usize = 16 << 10;
/// Bytes that are read from a socket at once.
const READ_LEN_MAX: usize = 64 << 10;
/// Longest time for requests in progress when the node stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves `router` until `stop` says true, or its sender is gone.
pub async fn run(listener: TcpListener, router: Router, mut stop: watch::Receiver<bool>) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &connections) => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let Some((stream, permit)) = accepted else { continue };
        // Nobody needs HTTP/2 here, and to find out whether a client speaks it would want a time limit of its own: a few
        // that say nothing would keep every operator out.
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
        builder.max_header_size(HEAD_LEN_MAX).max_buf_size(READ_LEN_MAX);
        let service = TowerToHyperService::new(router.clone());
        let connection = graceful.watch(builder.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "admin connection ended");
            }
            drop(permit);
        });
    }
    if timeout(DRAIN_TIMEOUT, graceful.shutdown()).await.is_err() {
        tracing::warn!("admin requests were cut off at the end");
    }
}

async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> Option<(tokio::net::TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(connections).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => {
            let _ = stream.set_nodelay(true);
            Some((stream, permit))
        }
        Err(error) => {
            tracing::warn!(%error, "cannot accept an admin connection");
            // Out of file descriptors, most likely: do not spin.
            sleep(Duration::from_millis(100)).await;
            None
        }
    }
}
