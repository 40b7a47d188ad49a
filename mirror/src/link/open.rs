//! The opener: makes the TCP connection, fetches a nonce by it, and opens the stream. The source's end.
//!
//! Every failure becomes one sentence for the operator in [`crate::event::Event::Disconnected`]; the core decides when to
//! try again.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use http::header::{AUTHORIZATION, HeaderMap};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use lockstep_storage::id::Origin;
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::pump::{Outbox, Standing};
use super::sign::{Claims, sign};
use super::{
    End, FRAME_LEN_MAX, HEAD_LEN_MAX, HEADER_NODE, HEADER_NONCE, HEADER_ORIGIN, HEADER_PEER, SEND_BUFFER_LEN, Shared,
    Spawner, WINDOW_LEN, tune, with_causes,
};
use crate::event::Connection;

/// A refusal is read up to this length, in bytes: it is one sentence.
const REFUSAL_LEN_MAX: usize = 1 << 10;

/// Where a peer listens.
#[derive(Debug)]
pub(super) struct Target {
    /// Host and port.
    authority: String,
}

impl Target {
    /// Reads a URL; where it cannot be used, says why.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|err| format!("'{url}' is not a URL: {err}"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(format!("'{url}': TLS between sites is not supported yet, use http")),
            _ => return Err(format!("'{url}' does not begin with http://")),
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| format!("'{url}' names no host"))?;
        Ok(Self { authority: format!("{host}:{}", uri.port_u16().unwrap_or(80)) })
    }
}

/// A connection that is to be made.
pub(super) struct Opening {
    pub(super) origin: Origin,
    pub(super) connection: Connection,
    pub(super) delay_ms: u64,
    pub(super) end: Arc<End>,
    pub(super) outbox: Outbox,
}

/// Makes a connection and reads it to its end.
pub(super) async fn run(shared: Arc<Shared>, opening: Opening) {
    let Opening { origin, connection, delay_ms, end, outbox } = opening;
    let opened = tokio::select! {
        biased;
        reason = end.ended() => Err(reason),
        opened = open(&shared, &origin, delay_ms, outbox) => opened,
    };
    match opened {
        Err(reason) => shared.disconnected(&origin, connection, reason),
        Ok((peer, body, _guard)) => {
            let standing = Standing { origin, connection, peer, end, body: Body::new(body) };
            shared.connected(&standing);
            shared.read_to_end(standing).await;
        }
    }
}

/// What an opened stream is: the peer, what it sends, and the guard whose drop closes the socket.
type Opened = (Origin, Incoming, DropGuard);

async fn open(shared: &Shared, origin: &Origin, delay_ms: u64, outbox: Outbox) -> Result<Opened, String> {
    tokio::time::sleep(with_jitter(delay_ms)).await;
    let peering = shared.peerings.get(origin).ok_or_else(|| format!("origin {origin} has no peer"))?;
    let target = match &peering.target {
        None => return Err(format!("origin {origin} has no destination")),
        Some(Err(reason)) => return Err(reason.clone()),
        Some(Ok(target)) => target,
    };
    let (peer, limit) = (&peering.peer, shared.options.connect_timeout);
    let dialed = tokio::time::timeout(limit, dial(shared, origin, peer, target, outbox));
    let no_answer = || format!("no answer from {peer} at {} within {limit:?}", target.authority);
    let (body, guard) = dialed.await.map_err(|_| no_answer())??;
    Ok((peer.clone(), body, guard))
}

/// Up to a quarter more.
fn with_jitter(delay_ms: u64) -> Duration {
    let (random, _) = uuid::Uuid::new_v4().as_u64_pair();
    Duration::from_millis(delay_ms.saturating_add(random % (delay_ms / 4 + 1)))
}

async fn dial(
    shared: &Shared,
    origin: &Origin,
    peer: &Origin,
    target: &Target,
    outbox: Outbox,
) -> Result<(Incoming, DropGuard), String> {
    let at = format!("{peer} at {}", target.authority);
    let stream = TcpStream::connect(&target.authority).await.map_err(|err| match err.kind() {
        ErrorKind::ConnectionRefused => format!("{at} refuses connections: is it running?"),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => format!("{at} is unreachable: {err}"),
        _ => format!("no connection to {at}: {err}"),
    })?;
    tune(&stream).map_err(|err| format!("socket options for {at}: {err}"))?;
    let given_up = CancellationToken::new();
    let guard = given_up.clone().drop_guard();
    let mut requests = handshake(shared, stream, given_up)
        .await
        .map_err(|err| format!("{at} does not speak HTTP/2: {}", with_causes(&err)))?;

    let nonce = answer(&at, requests.send_request(nonce_request(target)?).await).await?;
    let header = |name| nonce.headers().get(name).and_then(|value| value.to_str().ok());
    let given = header(HEADER_NONCE).ok_or_else(|| format!("{at} gave no nonce: is it a mirror listener?"))?;
    let claims = Claims { node: shared.node.as_str(), peer: peer.as_str(), origin: origin.as_str(), nonce: given };
    let request = stream_request(shared, target, claims, outbox)?;
    let stream = answer(&at, requests.send_request(request).await).await?;
    Ok((stream.into_body(), guard))
}

async fn handshake(
    shared: &Shared,
    stream: TcpStream,
    given_up: CancellationToken,
) -> Result<SendRequest<Outbox>, hyper::Error> {
    let spawner = Spawner(given_up);
    let (requests, connection) = Builder::new(spawner.clone())
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW_LEN)
        .initial_connection_window_size(WINDOW_LEN)
        .max_frame_size(FRAME_LEN_MAX)
        .max_header_list_size(HEAD_LEN_MAX)
        .max_send_buf_size(SEND_BUFFER_LEN)
        .keep_alive_interval(shared.options.ping_interval)
        .keep_alive_timeout(shared.options.ping_timeout)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(stream))
        .await?;
    // Its error reaches whoever reads a body of it.
    hyper::rt::Executor::execute(&spawner, connection);
    Ok(requests)
}

fn nonce_request(target: &Target) -> Result<Request<Outbox>, String> {
    let uri = format!("http://{}/v1/nonce", target.authority);
    Request::builder().method(Method::POST).uri(uri).body(Outbox::empty()).map_err(|err| err.to_string())
}

fn stream_request(
    shared: &Shared,
    target: &Target,
    claims: Claims<'_>,
    outbox: Outbox,
) -> Result<Request<Outbox>, String> {
    let signed = sign(&shared.options.secret, claims, SystemTime::now()).ok_or("the stream cannot be signed")?;
    let mut headers = HeaderMap::new();
    let pairs = [
        (HEADER_NODE, claims.node),
        (HEADER_PEER, claims.peer),
        (HEADER_ORIGIN, claims.origin),
        (HEADER_NONCE, claims.nonce),
        (AUTHORIZATION.as_str(), &signed.authorization),
        ("x-amz-date", &signed.date),
    ];
    for (name, value) in pairs {
        let name = http::HeaderName::try_from(name).map_err(|err| err.to_string())?;
        headers.insert(name, HeaderValue::from_str(value).map_err(|err| err.to_string())?);
    }
    let uri = format!("http://{}/v1/stream/{}", target.authority, claims.origin);
    let mut request = Request::builder().method(Method::POST).uri(uri).body(outbox).map_err(|err| err.to_string())?;
    request.headers_mut().extend(headers);
    Ok(request)
}

/// A good answer, or the peer's sentence.
async fn answer(at: &str, answer: Result<Response<Incoming>, hyper::Error>) -> Result<Response<Incoming>, String> {
    let response = answer.map_err(|err| format!("{at} does not answer in HTTP/2: {}", with_causes(&err)))?;
    let status = response.status();
    if status == StatusCode::OK {
        return Ok(response);
    }
    let said = match Limited::new(response.into_body(), REFUSAL_LEN_MAX).collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        Err(_) => String::new(),
    };
    let said: String = said.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    Err(format!("{at} refused the stream ({}): {}", status.as_u16(), said.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_a_host_and_a_port() {
        let authority = |url| Target::parse(url).map(|target| target.authority);
        assert_eq!(authority("http://site-b:9002").as_deref(), Ok("site-b:9002"));
        assert_eq!(authority("http://site-b/").as_deref(), Ok("site-b:80"));
        assert_eq!(authority("http://[::1]:9002/").as_deref(), Ok("[::1]:9002"));
        assert!(authority("https://site-b:9002").is_err_and(|why| why.contains("TLS")));
        assert!(authority("site-b:9002").is_err());
        assert!(authority("").is_err());
    }

    #[test]
    fn jitter_adds_a_quarter_at_most() {
        assert_eq!(with_jitter(0), Duration::ZERO);
        for _ in 0..100 {
            let delay = with_jitter(1000).as_millis();
            assert!((1000..=1250).contains(&delay), "{delay}");
        }
    }
}
