//! The listener: gives nonces, checks who opens a stream, and answers with this node's messages. The destination's end.
//!
//! A connection has one nonce at most, good once and on that connection only, so there is no store of nonces to flood or
//! to replay from. A connection that opens no stream in time is dropped. A refusal is one sentence with its HTTP status.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName};
use http::{HeaderValue, StatusCode};
use hyper::server::conn::http2::Builder;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use lockstep_storage::id::Origin;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::pump::{Outbox, Standing};
use super::sign::{Claims, Signature, verify};
use super::{
    FRAME_LEN_MAX, HEAD_LEN_MAX, HEADER_NODE, HEADER_NONCE, HEADER_ORIGIN, HEADER_PEER, Lane, SEND_BUFFER_LEN, Shared,
    Spawner, WINDOW_LEN, tune, with_causes,
};
use crate::event::Connection;

/// TCP connections at the same time. A pair of nodes needs a few.
const CONNECTIONS_MAX: usize = 256;
/// Requests at the same time on one connection: a nonce and a stream.
const REQUESTS_MAX: u32 = 4;
/// Pause after a failed accept: the process is out of descriptors, or something like it.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time between two lines in the log that say the same refusal.
const REFUSAL_INTERVAL: Duration = Duration::from_mins(5);

/// Accepts until told to stop.
pub(super) async fn serve(shared: &Arc<Shared>, listener: TcpListener, stop: CancellationToken) {
    let (tasks, places) = (TaskTracker::new(), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
    let given_up = CancellationToken::new();
    // Also when this future is dropped.
    let _guard = given_up.clone().drop_guard();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(err) => {
                tracing::warn!(error = %err, "a mirror connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            tracing::warn!(limit = CONNECTIONS_MAX, "too many mirror connections: one is dropped");
            continue;
        };
        let serving = serve_connection(shared.clone(), stream, given_up.child_token());
        tasks.spawn(async move {
            serving.await;
            drop(place);
        });
    }
    drop(listener);
    shared.end_incoming(None, "this node is stopping");
    tasks.close();
    let _late = tokio::time::timeout(shared.options.linger, tasks.wait()).await;
}

/// One TCP connection, as its requests see it.
struct Visitor {
    shared: Arc<Shared>,
    nonce: Mutex<Option<String>>,
    /// Cancelled when a stream is accepted.
    accepted: CancellationToken,
    /// Cancelled when the connection is to be closed.
    given_up: CancellationToken,
}

async fn serve_connection(shared: Arc<Shared>, stream: TcpStream, given_up: CancellationToken) {
    let peer = stream.peer_addr().map_or_else(|_| "?".to_owned(), |addr| addr.to_string());
    if let Err(err) = tune(&stream) {
        tracing::debug!(peer, error = %err, "a mirror connection was gone at once");
        return;
    }
    let _guard = given_up.clone().drop_guard();
    let accepted = CancellationToken::new();
    let visitor = Visitor {
        shared: shared.clone(),
        nonce: Mutex::default(),
        accepted: accepted.clone(),
        given_up: given_up.clone(),
    };
    let router = Router::new()
        .route("/v1/nonce", post(nonce))
        .route("/v1/stream/{origin}", post(stream_of))
        .fallback(|| async { Refusal(StatusCode::NOT_FOUND, "this is a mirror listener of Lockstep".to_owned()) })
        .with_state(Arc::new(visitor));
    let service = TowerToHyperService::new(router);
    let serving = Builder::new(Spawner(given_up.clone()))
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW_LEN)
        .initial_connection_window_size(WINDOW_LEN)
        .max_frame_size(FRAME_LEN_MAX)
        .max_header_list_size(HEAD_LEN_MAX)
        .max_send_buf_size(SEND_BUFFER_LEN)
        .max_concurrent_streams(REQUESTS_MAX)
        .keep_alive_interval(shared.options.ping_interval)
        .keep_alive_timeout(shared.options.ping_timeout)
        .serve_connection(TokioIo::new(stream), service);
    let too_late = async {
        if tokio::time::timeout(shared.options.connect_timeout, accepted.cancelled()).await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        served = serving => if let Err(err) = served {
            tracing::debug!(peer, error = with_causes(&err), "a mirror connection ended");
        },
        () = given_up.cancelled() => {}
        () = too_late => tracing::debug!(peer, "a mirror connection opened no stream in time"),
    }
}

/// No, and why.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}

async fn nonce(State(visitor): State<Arc<Visitor>>) -> Response {
    let nonce = uuid::Uuid::new_v4().simple().to_string();
    *visitor.nonce.lock().unwrap_or_else(PoisonError::into_inner) = Some(nonce.clone());
    [(HEADER_NONCE, nonce)].into_response()
}

async fn stream_of(
    State(visitor): State<Arc<Visitor>>,
    Path(origin): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    let shared = &visitor.shared;
    // Whatever comes of it, the nonce is used.
    let nonce = visitor.nonce.lock().unwrap_or_else(PoisonError::into_inner).take();
    let (origin, peer) = match admit(shared, &origin, nonce.as_deref(), request.headers()) {
        Ok(admitted) => admitted,
        Err(refusal) => {
            if shared.is_news(&refusal.1) {
                let status = refusal.0.as_u16();
                tracing::warn!(event = "opening_refused", origin, status, reason = refusal.1);
            }
            return Err(refusal);
        }
    };
    let outbox = visitor.clone().accept(origin, peer, request.into_body())?;
    Ok(Response::new(Body::new(outbox)))
}

/// Checks the opening of a stream; gives the origin and the peer as this node knows them.
fn admit(shared: &Shared, origin: &str, nonce: Option<&str>, headers: &HeaderMap) -> Result<(Origin, Origin), Refusal> {
    let header = |name: HeaderName| match headers.get(&name).map(HeaderValue::to_str) {
        Some(Ok(value)) => Ok(value),
        _ => Err(Refusal(StatusCode::BAD_REQUEST, format!("the header {name} is missing or is no text"))),
    };
    let claims = Claims {
        node: header(HeaderName::from_static(HEADER_NODE))?,
        peer: header(HeaderName::from_static(HEADER_PEER))?,
        origin: header(HeaderName::from_static(HEADER_ORIGIN))?,
        nonce: header(HeaderName::from_static(HEADER_NONCE))?,
    };
    let authorization = header(AUTHORIZATION)?.to_owned();
    let signature = Signature { authorization, date: header(HeaderName::from_static("x-amz-date"))?.to_owned() };
    // What an unsigned visitor is told does not depend on what this node is configured for.
    if nonce != Some(claims.nonce) {
        return Err(Refusal(StatusCode::UNAUTHORIZED, "the nonce is not this connection's, or was used".to_owned()));
    }
    if !verify(&shared.options.secret, claims, &signature) {
        let reason = "the signature is wrong: do both nodes have the same mirror secret?";
        return Err(Refusal(StatusCode::UNAUTHORIZED, reason.to_owned()));
    }
    if claims.peer != shared.node.as_str() {
        let reason = format!("this node is {}, not {}: is the address right?", shared.node, claims.peer);
        return Err(Refusal(StatusCode::FORBIDDEN, reason));
    }
    let peering =
        shared.peerings.iter().find(|(known, _)| known.as_str() == claims.origin).filter(|_| claims.origin == origin);
    let Some((origin, peering)) = peering else {
        let reason = format!("{} has no partition for origin {}", shared.node, claims.origin);
        return Err(Refusal(StatusCode::NOT_FOUND, reason));
    };
    if claims.node != peering.peer.as_str() {
        let reason =
            format!("the peer of {} for origin {origin} is {}, not {}", shared.node, peering.peer, claims.node);
        return Err(Refusal(StatusCode::FORBIDDEN, reason));
    }
    Ok((origin.clone(), peering.peer.clone()))
}

impl Visitor {
    /// Makes a stream of the request: gives it a number, ends older ones of its origin, and starts to read.
    fn accept(self: Arc<Self>, origin: Origin, peer: Origin, body: Body) -> Result<Outbox, Refusal> {
        let shared = self.shared.clone();
        let order = shared.accepting.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = (shared.next_connection)();
        let Some((end, outbox)) = shared.register(&origin, connection, true) else {
            tracing::error!(%origin, connection = connection.0, "connection number used twice");
            return Err(Refusal(StatusCode::CONFLICT, "this node numbered two connections alike".to_owned()));
        };
        self.accepted.cancel();
        let standing = Standing { origin, connection, peer, end, body };
        shared.connected(&standing);
        drop(order);
        shared.end_incoming(Some(&standing), "replaced by a newer connection of the peer");
        let runtime = shared.runtime.clone();
        runtime.spawn(async move {
            shared.read_to_end(standing).await;
            self.given_up.cancel();
        });
        Ok(outbox)
    }
}

impl Shared {
    /// Was another refusal logged last, or this one long ago? A peer that is configured wrongly comes every few seconds.
    fn is_news(&self, reason: &str) -> bool {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let said = refused.as_ref().is_some_and(|(said, at)| said == reason && at.elapsed() < REFUSAL_INTERVAL);
        if !said {
            *refused = Some((reason.to_owned(), Instant::now()));
        }
        !said
    }

    /// Ends the connections that peers opened: all, or those that a newer one replaces.
    fn end_incoming(&self, newer: Option<&Standing>, reason: &str) {
        let ends = |(origin, connection): &(Origin, Connection), lane: &mut Lane| {
            lane.incoming && newer.is_none_or(|n| n.origin == *origin && *connection < n.connection)
        };
        for (_, lane) in self.lanes().extract_if(ends) {
            lane.end.end(reason.to_owned());
        }
    }
}
