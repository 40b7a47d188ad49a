//! The admin listener: health for load balancers, metrics for Prometheus, status and verbs for operators.
//!
//! Health and metrics are open, everything under `/v1` wants the bearer token. Bodies, headers and connections are
//! bounded; every refusal is JSON with one sentence in `error`.
//!
//! # Layout
//! - [`listener`]: accepts connections, bounds them.
//! - [`health`]: live, ready.
//! - [`metrics`]: Prometheus text of the log and its streams; requests are counted in [`crate::metrics`].
//! - [`status`]: the state of the node as JSON and as text.
//! - [`verbs`]: sync, promote, pause, resume; [`verify`]: digests of images.
//! - [`tail`]: what a deposed source had that its peer never got.
//! - [`record`]: one record of a container, also where it cannot be used; [`op`]: what a record says.
//! - [`keys`]: users and access keys.

pub mod health;
pub mod keys;
pub mod listener;
pub mod metrics;
pub mod op;
pub mod record;
pub mod status;
pub mod tail;
pub mod verbs;
pub mod verify;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{Next, from_fn_with_state, map_response};
use axum::response::Response;
use axum::routing::{get, post};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, StatusCode};
use lockstep_mirror::client::Client;
use lockstep_storage::id::Origin;
use lockstep_storage::image::{ImageError, View};
use serde::Serialize;
use serde::de::DeserializeOwned;
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

use crate::hook::HookHandle;
use crate::metrics::S3Metrics;

/// Largest request body, in bytes.
const BODY_LEN_MAX: usize = 64 << 10;
/// Most exports of tails at once: each holds a thread.
const EXPORTS_MAX: usize = 4;

/// What the admin handlers share.
pub struct Admin {
    /// The way to the log and the images.
    pub client: Client,
    /// Counters of the S3 listener.
    pub s3: Arc<S3Metrics>,
    token: String,
    started: Instant,
    stopping: AtomicBool,
    exports: Arc<Semaphore>,
    hook: OnceLock<HookHandle>,
}

/// A refusal: a status and one sentence.
#[derive(Debug, PartialEq, Eq)]
pub struct AdminError(pub StatusCode, pub String);

/// What a handler returns.
pub type AdminResult = Result<Response, AdminError>;

impl Admin {
    /// The state of a listener that asks for `token`.
    #[must_use]
    pub fn new(client: Client, s3: Arc<S3Metrics>, token: String) -> Arc<Self> {
        Arc::new(Self {
            client,
            s3,
            token,
            started: Instant::now(),
            stopping: AtomicBool::new(false),
            exports: Arc::new(Semaphore::new(EXPORTS_MAX)),
            hook: OnceLock::new(),
        })
    }

    /// The hook whose last run status shows; only the first one counts.
    pub fn show_hook(&self, hook: HookHandle) {
        let _there_is_one = self.hook.set(hook);
    }

    /// From now on the node is not ready: load balancers take it out while it drains.
    pub fn set_stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// All routes.
    pub fn router(self: &Arc<Self>) -> Router {
        let verbs = Router::new()
            .route("/status", get(status::get_status))
            .route("/sync", post(verbs::sync))
            .route("/promote", post(verbs::promote))
            .route("/pause", post(verbs::pause))
            .route("/resume", post(verbs::resume))
            .route("/failback", post(verbs::failback))
            .route("/rebuild", post(verbs::rebuild))
            .route("/verify", post(verify::verify))
            .route("/verify/parts", post(verify::parts::parts))
            .route("/verify/entries", post(verify::parts::entries))
            .route("/tail", post(tail::tail))
            .route("/record", get(record::record))
            .route("/users", get(keys::list_users).post(keys::add_user).delete(keys::remove_user))
            .route("/keys", get(keys::list_keys).post(keys::add_key).delete(keys::remove_key))
            .layer(from_fn_with_state(Arc::clone(self), authorize));
        Router::new()
            .route("/health/live", get(health::live))
            .route("/health/ready", get(health::ready))
            .route("/metrics", get(metrics::get_metrics))
            .nest("/v1", verbs)
            .fallback(nothing_here)
            .layer(DefaultBodyLimit::max(BODY_LEN_MAX))
            .layer(map_response(in_one_sentence))
            .with_state(Arc::clone(self))
    }
}

impl axum::response::IntoResponse for AdminError {
    fn into_response(self) -> Response {
        json(self.0, &serde_json::json!({ "error": self.1 }))
    }
}

async fn nothing_here() -> AdminError {
    AdminError(StatusCode::NOT_FOUND, "there is nothing here: see /health/live, /metrics, /v1/status".into())
}

/// The framework refuses some requests by itself, in plain text or with nothing: they get the form of all others.
async fn in_one_sentence(response: Response) -> Response {
    let status = response.status();
    let is_json = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if is_json || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let sentence = match status {
        StatusCode::METHOD_NOT_ALLOWED => "there is no such method here".to_owned(),
        StatusCode::PAYLOAD_TOO_LARGE => format!("the body is larger than {BODY_LEN_MAX} bytes"),
        other => format!("the request was refused: {other}"),
    };
    let (mut parts, _) = response.into_parts();
    let (refusal, body) = axum::response::IntoResponse::into_response(AdminError(status, sentence)).into_parts();
    // `Allow` stays.
    parts.headers.extend(refusal.headers);
    parts.headers.remove(http::header::CONTENT_LENGTH);
    Response::from_parts(parts, body)
}

async fn authorize(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> AdminResult {
    if is_authorized(request.headers(), &admin.token) {
        return Ok(next.run(request).await);
    }
    let reason = "a bearer token is needed: the one in admin.token in the node's data directory";
    Err(AdminError(StatusCode::UNAUTHORIZED, reason.into()))
}

/// Compares in constant time, so that answers do not tell how much of a guess was right.
fn is_authorized(headers: &HeaderMap, token: &str) -> bool {
    let given = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes).and_then(|value| value.strip_prefix(b"Bearer "));
    given.is_some_and(|given| given.ct_eq(token.as_bytes()).into())
}

/// Reads the image of an origin, off the reactor: the engine may go to its disk.
async fn read<T: Send + 'static>(
    admin: &Admin,
    origin: &Origin,
    look: impl FnOnce(&View) -> Result<T, ImageError> + Send + 'static,
) -> Result<T, AdminError> {
    let view = admin.client.view(origin).map_err(|refusal| AdminError(StatusCode::NOT_FOUND, refusal.to_string()))?;
    let failed = |reason: String| AdminError(StatusCode::INTERNAL_SERVER_ERROR, reason);
    let looked = tokio::task::spawn_blocking(move || look(&view)).await.map_err(|error| failed(error.to_string()))?;
    looked.map_err(|error| failed(error.to_string()))
}

/// A JSON answer.
fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let mut body = serde_json::to_vec_pretty(value).unwrap_or_default();
    body.push(b'\n');
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A request's JSON body; an empty one is an empty object.
fn body_of<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, AdminError> {
    let text: &[u8] = if bytes.is_empty() { b"{}" } else { bytes };
    serde_json::from_slice(text)
        .map_err(|error| AdminError(StatusCode::BAD_REQUEST, format!("the body is not what is needed here: {error}")))
}

/// The value of a key in a query, decoded.
fn query_value(query: Option<&str>, key: &str) -> Option<String> {
    form_urlencoded::parse(query?.as_bytes()).find(|(name, _)| name == key).map(|(_, value)| value.into_owned())
}

/// Milliseconds since 1970.
pub(crate) fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_is_the_token() {
        let with = |value: &str| HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(value).unwrap())]);
        assert!(is_authorized(&with("Bearer abc"), "abc"));
        for wrong in ["Bearer ab", "Bearer abcd", "bearer abc", "abc", "Bearer ", "Basic abc"] {
            assert!(!is_authorized(&with(wrong), "abc"), "{wrong}");
        }
        assert!(!is_authorized(&HeaderMap::new(), "abc"));
    }
}
