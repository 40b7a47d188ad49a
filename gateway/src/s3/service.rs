//! One request from its head to its answer: limits, target, signature, route, handler, headers that every answer has.
//!
//! Called by the listener for every request of every connection. Everything that can be refused from the head alone is
//! refused before the body is touched. A panic in a handler is that request's 500, nobody else's.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body as HttpBody;
use axum::extract::State;
use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, HeaderValue, SERVER};
use http::request::Parts;
use http::{Method, StatusCode};
use http_body::{Frame, SizeHint};
use lockstep_mirror::client::OriginState;
use lockstep_storage::id::Origin;
use lockstep_storage::op::AccessKey;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower_http::classify::ServerErrorsFailureClass;
use tower_http::trace::TraceLayer;
use tracing::Span;

use super::Gateway;
use super::auth::{Claim, Head, PresignedQuery, Signer, VersionTwo, now_s};
use super::error::{Code, S3Error};
use super::host::Target;
use super::payload::{Framing, Intake, Payload, strip_content_encoding};
use super::query::Query;
use super::request::{Caller, Request};
use super::response::{Body, Response, xml};
use super::table::{Operation, route};
use super::xml::Writer;
use crate::metrics::InFlight;

/// Most requests that are worked on at once; more wait.
const REQUESTS_MAX: usize = 8192;
/// Most bytes of header names and values. S3 itself takes 8 KiB.
const HEADERS_LEN_MAX: usize = 32 << 10;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-amz-request-id");
const HOST_ID: HeaderName = HeaderName::from_static("x-amz-id-2");
const LOGGED_SEQ: HeaderName = HeaderName::from_static("x-lockstep-seq");
const LOGGED_ACK: HeaderName = HeaderName::from_static("x-lockstep-ack");

/// The service of a listener, with its layers.
pub fn router(gateway: Arc<Gateway>) -> Router {
    Router::new()
        .fallback(answer)
        .layer(GlobalConcurrencyLimitLayer::new(REQUESTS_MAX))
        .layer(TraceLayer::new_for_http().on_failure(log_failure))
        .with_state(gateway)
}

/// A refusal with 503 is the answer of a state that was logged when it began: a line for each would bury it.
#[allow(clippy::needless_pass_by_value, reason = "the layer calls it with values")]
fn log_failure(failure: ServerErrorsFailureClass, latency: Duration, _span: &Span) {
    if !matches!(failure, ServerErrorsFailureClass::StatusCode(StatusCode::SERVICE_UNAVAILABLE)) {
        tracing::error!(%failure, ?latency, "a request failed");
    }
}

/// Answers a request. Never fails: what goes wrong is an answer too.
async fn answer(State(gateway): State<Arc<Gateway>>, request: http::Request<HttpBody>) -> http::Response<HttpBody> {
    let begun = Instant::now();
    let in_flight = gateway.metrics.begin();
    let id = gateway.ids.next();
    let (parts, body) = request.into_parts();
    let intake = Intake::new(body, &parts.headers);
    let method = parts.method.clone();
    let resource = parts.uri.path().to_owned();
    let mut sending = Sending::new(&gateway, begun, in_flight);
    let mut origin = None;
    let result = match check(&gateway, &parts, !intake.is_empty()) {
        Err(error) => Err(error),
        Ok(checked) => {
            let operation = checked.operation;
            sending.operation = operation.name;
            origin = Some(checked.origin.clone());
            let request = checked.into_request(id.clone(), parts, intake, resource.clone());
            sending.received = request.payload.counter();
            let handled = AssertUnwindSafe((operation.handler)(&gateway, request)).catch_unwind().await;
            handled.unwrap_or_else(|_| {
                tracing::error!(operation = operation.name, request = %id, "the handler panicked");
                Err(Code::InternalError.into())
            })
        }
    };
    let mut response = result.unwrap_or_else(|error| render(error, &method, &resource, &id, origin.as_ref()));
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, HeaderValue::from_str(&id).unwrap_or(HeaderValue::from_static("")));
    headers.insert(HOST_ID, gateway.host_id.clone());
    headers.insert(SERVER, HeaderValue::from_static("Lockstep"));
    sending.status = response.status();
    response.map(|body| {
        sending.body = body;
        HttpBody::new(sending)
    })
}

/// A request whose head is in order.
struct Checked {
    operation: &'static Operation,
    target: Target,
    origin: Origin,
    caller: Caller,
    query: Query,
    framing: Framing,
    signer: Signer,
}

/// Everything that can be said about a request from its head.
fn check(gateway: &Gateway, parts: &Parts, has_body: bool) -> Result<Checked, S3Error> {
    check_headers(&parts.headers)?;
    let raw_query = parts.uri.query().unwrap_or_default();
    let head = Head {
        method: &parts.method,
        path: parts.uri.path(),
        query: raw_query,
        headers: &parts.headers,
        host: host(parts)?,
    };
    let target = Target::resolve(&gateway.domains, head.host, head.path)?;
    let query = Query::parse(raw_query)?;
    let Signed { access_key, origin, key, framing, signer } = authenticate(gateway, &head, &target, has_body)?;
    let operation = route(&parts.method, target.level(), &query, &parts.headers)?;
    let caller = Caller::User { access_key, user: key.user, root: key.root };
    Ok(Checked { operation, target, origin, caller, query, framing, signer })
}

/// Who signed a head, and how what follows it is signed.
struct Signed {
    access_key: String,
    origin: Origin,
    key: AccessKey,
    framing: Framing,
    signer: Signer,
}

fn authenticate(gateway: &Gateway, head: &Head<'_>, target: &Target, has_body: bool) -> Result<Signed, S3Error> {
    let named = target.origin.as_ref();
    let presigned = PresignedQuery::read(head.query);
    if presigned.is_version_two() && !head.headers.contains_key(AUTHORIZATION) {
        let claim = VersionTwo::read(head.query, now_s())?;
        let (origin, key) = find_key(gateway, named, &claim.access_key)?;
        claim.verify(head, if target.hosted { &target.bucket } else { "" }, &key.secret)?;
        let framing = Framing::read("UNSIGNED-PAYLOAD", head.headers)?;
        return Ok(Signed {
            access_key: claim.access_key.into_owned(),
            origin,
            key,
            framing,
            signer: Signer::default(),
        });
    }
    let claim = Claim::read(head, &presigned, &gateway.region, now_s(), has_body)?;
    let (origin, key) = find_key(gateway, named, claim.access_key)?;
    let signer = claim.verify(head, &key.secret, &gateway.signing_keys)?;
    let framing = Framing::read(claim.payload_hash(), head.headers)?;
    Ok(Signed { access_key: claim.access_key.to_owned(), origin, key, framing, signer })
}

impl Checked {
    fn into_request(self, id: String, parts: Parts, intake: Intake, resource: String) -> Request {
        let mut headers = parts.headers;
        strip_content_encoding(&mut headers);
        Request {
            id,
            method: parts.method,
            bucket: self.target.bucket,
            key: self.target.key,
            query: self.query,
            headers,
            payload: Payload::new(intake, self.framing, self.signer),
            caller: self.caller,
            origin: self.origin,
            resource,
        }
    }
}

fn check_headers(headers: &HeaderMap) -> Result<(), S3Error> {
    let len: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if len > HEADERS_LEN_MAX { Err(Code::RequestHeaderSectionTooLarge.into()) } else { Ok(()) }
}

/// The Host header, or what HTTP/2 has in its place. What is signed and what is routed by must be the same.
fn host(parts: &Parts) -> Result<&str, S3Error> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let bad = || S3Error::new(Code::InvalidRequest, "The Host header is missing, not ASCII, or there more than once.");
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().map_err(|_| bad()),
        (None, _) => parts.uri.authority().map(http::uri::Authority::as_str).ok_or_else(bad),
        (Some(_), Some(_)) => Err(bad()),
    }
}

/// Between a restart and the moment when everything that was answered for is in the image again, an answer could be an old
/// one: a key that is not there, an object as it was before.
/// Refuses to look at an image that lacks what a client may have been answered for.
///
/// # Errors
/// 503, to be tried again.
pub(super) fn check_readable(state: &OriginState) -> Result<(), S3Error> {
    if state.readable {
        return Ok(());
    }
    let reason = format!("This node has restarted: what of {} its mirror has is not known yet.", state.origin);
    Err(S3Error::unavailable(reason, 1))
}

/// The origin that a request is for and the secret of its key: of the origin that Host names, else of the first that has it.
fn find_key(gateway: &Gateway, named: Option<&Origin>, access_key: &str) -> Result<(Origin, AccessKey), S3Error> {
    let unknown = || S3Error::from(Code::InvalidAccessKeyId).with_detail("AWSAccessKeyId", access_key);
    let origins = gateway.client.origins();
    if let Some(origin) = named {
        origins.iter().find(|state| state.origin == *origin).map_or(Ok(()), check_readable)?;
        let key = gateway.client.view(origin)?.access_key(access_key)?;
        return key.map(|key| (origin.clone(), key)).ok_or_else(unknown);
    }
    for state in origins.iter() {
        // An origin that is going away takes no other one's clients with it.
        let Ok(view) = gateway.client.view(&state.origin) else { continue };
        if let Some(key) = view.access_key(access_key)? {
            check_readable(state)?;
            return Ok((state.origin.clone(), key));
        }
    }
    // The key may be among what is not in an image yet.
    origins.iter().try_for_each(check_readable)?;
    Err(unknown())
}

/// An error as S3 answers it: XML, but nothing where HTTP forbids a body.
fn render(error: S3Error, method: &Method, resource: &str, id: &str, origin: Option<&Origin>) -> Response {
    let status = error.code.status();
    let mut response = if *method == Method::HEAD || status == StatusCode::NOT_MODIFIED {
        super::response::empty(status)
    } else {
        let mut writer = Writer::plain("Error");
        writer.text("Code", error.code.name()).text("Message", &error.message);
        for (name, text) in &error.details {
            writer.text(name, text);
        }
        writer.text("Resource", resource).text("RequestId", id);
        xml(status, writer.finish())
    };
    let headers = response.headers_mut();
    headers.extend(error.headers);
    if let (Some((epoch, seq)), Some(origin)) = (error.logged, origin)
        && let Ok(value) = HeaderValue::from_str(&format!("{origin}/{epoch}/{seq}"))
    {
        headers.insert(LOGGED_SEQ, value);
        headers.insert(LOGGED_ACK, HeaderValue::from_static("local"));
    }
    response
}

/// An answer on its way out; counted when the last byte has been handed over, or when nobody wants the rest.
struct Sending {
    body: Body,
    gateway: Arc<Gateway>,
    begun: Instant,
    operation: &'static str,
    status: StatusCode,
    received: Arc<AtomicU64>,
    sent: u64,
    _in_flight: InFlight,
}

impl Sending {
    fn new(gateway: &Arc<Gateway>, begun: Instant, in_flight: InFlight) -> Self {
        Self {
            body: Body::Empty,
            gateway: Arc::clone(gateway),
            begun,
            operation: "none",
            status: StatusCode::INTERNAL_SERVER_ERROR,
            received: Arc::default(),
            sent: 0,
            _in_flight: in_flight,
        }
    }
}

impl http_body::Body for Sending {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.sent += frame.data_ref().map_or(0, Bytes::len) as u64;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let micros = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        let received = self.received.load(Ordering::Relaxed);
        self.gateway.metrics.record(self.operation, self.status.as_u16(), received, self.sent, micros);
    }
}
