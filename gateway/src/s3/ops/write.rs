//! How every operation that changes something gets into the log, and what its answer says about that.
//!
//! Locks, then conditions, then the op: the conditions are judged on a view taken under the locks, and the locks are held
//! until the op is applied or has failed, also when the client goes away meanwhile.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use lockstep_mirror::client::{self, Answered, Receipt, Refusal, Role};
use lockstep_mirror::plan::AckLevel;
use lockstep_storage::id::{Epoch, Origin, Seq};
use lockstep_storage::image::View;
use lockstep_storage::op::Mutation;
use lockstep_storage::record::Draft;
use tokio::runtime::Handle;

use crate::s3::locks::{Held, Mode, Name};
use crate::s3::service::check_readable;
use crate::s3::upload::{BodyGuard, Target};
use crate::s3::{Code, Gateway, Request, Response, S3Error};

/// Longest time that a request waits for its locks.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(15);

/// A request header that asks for an ack level.
const REQUIRE_ACK: &str = "x-lockstep-require-ack";
/// Says which record a write is.
pub const SEQ: HeaderName = HeaderName::from_static("x-lockstep-seq");
/// Says who had a write when it was answered.
pub const ACK: HeaderName = HeaderName::from_static("x-lockstep-ack");

/// What an operation decides under its locks.
pub enum Decision<T> {
    /// Log this, and answer with this value.
    Log {
        /// The op.
        mutation: Box<Mutation>,
        /// Its payload: the bytes of a small object.
        payload: Bytes,
        /// The uploaded body that the op refers to.
        body: BodyGuard,
        /// For the answer.
        value: T,
    },
    /// There is nothing to change.
    Nothing(T),
}

impl<T> Decision<T> {
    /// Log an op without payload or uploaded body.
    pub fn log(mutation: Mutation, value: T) -> Self {
        Self::Log { mutation: Box::new(mutation), payload: Bytes::new(), body: BodyGuard::none(), value }
    }
}

/// What became of a write.
pub struct Written<T> {
    /// From the decision.
    pub value: T,
    /// From the log; none where there was nothing to change.
    pub receipt: Option<Receipt>,
    origin: Origin,
}

impl<T> Written<T> {
    /// The answer, with the headers of a logged write.
    #[must_use]
    pub fn answer(&self, mut response: Response) -> Response {
        if let Some(receipt) = &self.receipt {
            mark(response.headers_mut(), &self.origin, receipt);
        }
        response
    }
}

impl Written<Response> {
    /// The answer that was made under the locks, with the headers of a logged write.
    #[must_use]
    pub fn into_answer(mut self) -> Response {
        let response = std::mem::take(&mut self.value);
        self.answer(response)
    }
}

/// Says in the headers of an answer which record a write is and who has it.
pub fn mark(headers: &mut HeaderMap, origin: &Origin, receipt: &Receipt) {
    headers.insert(SEQ, position(origin, receipt.epoch, receipt.seq));
    let level = match receipt.ack {
        Answered::Local => "local",
        Answered::Mirrored(AckLevel::Received) => "received",
        Answered::Mirrored(AckLevel::Durable) => "durable",
        Answered::Mirrored(AckLevel::Applied) => "applied",
    };
    headers.insert(ACK, HeaderValue::from_static(level));
}

/// `<origin>/<epoch>/<seq>`.
#[must_use]
pub fn position(origin: &Origin, epoch: Epoch, seq: Seq) -> HeaderValue {
    text(format!("{origin}/{epoch}/{seq}"))
}

fn text(value: impl Display) -> HeaderValue {
    HeaderValue::from_str(&value.to_string()).unwrap_or(HeaderValue::from_static(""))
}

/// Where a request's writes go. Refuses early, before a body is read, what the log would refuse later.
///
/// # Errors
/// `InvalidArgument` for an unknown ack level; 503 at a node that must not write this origin.
pub fn target(gateway: &Gateway, request: &Request) -> Result<Target, S3Error> {
    let require = match request.headers.get(REQUIRE_ACK).map(HeaderValue::as_bytes) {
        None => None,
        Some(b"received") => Some(AckLevel::Received),
        Some(b"durable") => Some(AckLevel::Durable),
        Some(b"applied") => Some(AckLevel::Applied),
        Some(_) => {
            let message = "x-lockstep-require-ack must be one of received, durable, applied.";
            return Err(S3Error::new(Code::InvalidArgument, message));
        }
    };
    let origin = request.origin.clone();
    let reason = match gateway.client.origins().iter().find(|state| state.origin == origin).map(|state| state.role) {
        Some(Role::Source) => {
            let (client, digests) = (gateway.client.clone(), gateway.digests.clone());
            return Ok(Target { client, origin, require, digests });
        }
        Some(Role::Destination) => {
            format!("This node holds the mirror of {origin}: it serves reads until it is promoted.")
        }
        Some(Role::Fenced) => format!("This node gave {origin} up to its peer: it must not take its writes."),
        None => format!("This node has no origin {origin}."),
    };
    Err(S3Error::unavailable(reason, 5))
}

/// The lock of a request's bucket.
#[must_use]
pub fn bucket_lock(request: &Request, mode: Mode) -> (Name, Mode) {
    (Name::Bucket(request.origin.clone(), request.bucket.clone()), mode)
}

/// The lock of a request's key.
#[must_use]
pub fn key_lock(request: &Request, mode: Mode) -> (Name, Mode) {
    (Name::Key(request.origin.clone(), request.bucket.clone(), request.key.clone()), mode)
}

/// Takes the locks, lets `decide` judge on a view, logs what it decides, and waits until that is applied.
///
/// # Errors
/// What `decide` says, and refusals of the log.
pub async fn write<T, F>(
    gateway: &Arc<Gateway>,
    target: Target,
    locks: Vec<(Name, Mode)>,
    decide: F,
) -> Result<Written<T>, S3Error>
where
    T: Send + 'static,
    F: FnOnce(&View) -> Result<Decision<T>, S3Error> + Send + 'static,
{
    let held = acquire(gateway, locks).await?;
    log(target, held, decide).await
}

/// Takes locks, within bounds: one that is held for a write whose outcome is unknown may take as long as its mirror.
///
/// # Errors
/// 503 after [`LOCK_WAIT_MAX`].
pub async fn acquire(gateway: &Gateway, locks: Vec<(Name, Mode)>) -> Result<Held, S3Error> {
    let waited = tokio::time::timeout(LOCK_WAIT_MAX, gateway.locks.acquire(locks)).await;
    waited.map_err(|_| S3Error::unavailable("An earlier write to the same name is not settled yet.", 1))
}

/// Decides and logs under locks, which are held until the outcome is certain: whoever comes after must see it, and what is
/// answered as unknown may yet become visible.
///
/// # Errors
/// As [`write()`].
pub async fn log<T, F, L>(target: Target, held: L, decide: F) -> Result<Written<T>, S3Error>
where
    L: Send + 'static,
    F: FnOnce(&View) -> Result<Decision<T>, S3Error>,
{
    let origin = target.origin.clone();
    // The state before the view: what comes into the image in between makes the decision void.
    let history = readable_history(&target)?;
    let decision = decide(&target.client.view(&target.origin)?)?;
    let (mutation, payload, body, value) = match decision {
        Decision::Log { mutation, payload, body, value } => (mutation, payload, body, value),
        Decision::Nothing(value) => return Ok(Written { value, receipt: None, origin }),
    };
    let draft = Draft::new(*mutation, payload).map_err(|error| {
        tracing::error!(%error, "an op does not fit in a record");
        Code::InternalError
    })?;
    let written = target.client.write(&target.origin, draft, target.require, history).await?;
    let mut pending = Pending { waiting: Some((written, held)), runtime: Handle::current() };
    // Whoever stops waiting here drops `pending`, which then keeps the locks; and gives the body up by a record that comes
    // after the op and so finds it taken.
    let receipt = pending.done().await?;
    body.keep();
    Ok(Written { value, receipt: Some(receipt), origin })
}

/// The number under which the image may be looked at now, to decide something on it.
fn readable_history(target: &Target) -> Result<u64, S3Error> {
    let origins = target.client.origins();
    let state = origins.iter().find(|state| state.origin == target.origin);
    let state = state.ok_or_else(|| Refusal::Gone(format!("this node has no origin {}", target.origin)))?;
    check_readable(state)?;
    Ok(state.history)
}

/// A write under way and its locks. They are held until its outcome is certain, also when nobody waits for it any more.
struct Pending<L: Send + 'static> {
    waiting: Option<(client::Written, L)>,
    runtime: Handle,
}

impl<L: Send + 'static> Pending<L> {
    async fn done(&mut self) -> Result<Receipt, Refusal> {
        let Some((written, _)) = &mut self.waiting else { return Err(Refusal::Gone("waited for already".into())) };
        let result = written.done().await;
        if !matches!(result, Err(Refusal::Unknown { .. })) {
            self.waiting = None;
        }
        result
    }
}

impl<L: Send + 'static> Drop for Pending<L> {
    fn drop(&mut self) {
        if let Some((written, held)) = self.waiting.take() {
            self.runtime.spawn(async move {
                written.settled().await;
                drop(held);
            });
        }
    }
}
