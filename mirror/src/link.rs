//! The link: messages between two nodes over HTTP/2, one TCP connection per stream.
//!
//! The source opens: it fetches a nonce, signs it with both names and the origin, and posts a request whose body is its
//! messages; the response body is the other end's. Response headers come before the request body is read, so neither end
//! waits for the other's first byte. Every connection ends with exactly one [`Event::Disconnected`], and so does every
//! attempt to make one, also when this node closed it.
//!
//! What waits is bounded. Outwards: the core sends no more record bytes than its peer granted; a queue beyond
//! [`LinkOptions::outbox_limit`] ends the connection. Inwards: each message comes with a [`Held`], and while more than
//! [`LinkOptions::inbox_limit`] bytes of a connection are held, its bytes are left to HTTP/2's flow control. That limit is
//! to be above the credit that the core grants, so that flow control never stands between records and acks.
//!
//! The runtime calls this from its threads. Nothing here is part of the deterministic core.

mod listen;
mod open;
mod pump;
mod sign;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use lockstep_storage::id::Origin;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use self::pump::Held;

use self::open::Target;
use self::pump::Outbox;
use crate::event::{Connection, Event};
use crate::message::Message;
use crate::plan::NodePlan;

/// HTTP/2 flow control windows of a stream and of its connection, in bytes.
const WINDOW_LEN: u32 = 32 << 20;
/// Largest HTTP/2 frame, in bytes: a chunk of a body in one, so that it arrives in one piece.
const FRAME_LEN_MAX: u32 = 1 << 20;
/// Bytes that HTTP/2 takes from a queue ahead of sending them.
const SEND_BUFFER_LEN: usize = 4 << 20;
/// Largest head of a request or response, in bytes.
const HEAD_LEN_MAX: u32 = 16 << 10;

const HEADER_NODE: &str = "x-lockstep-node";
const HEADER_PEER: &str = "x-lockstep-peer";
const HEADER_ORIGIN: &str = "x-lockstep-origin";
const HEADER_NONCE: &str = "x-lockstep-nonce";

/// The secret that both nodes of a pair were given; never shown.
#[derive(Clone)]
pub struct Secret(Arc<str>);

/// Why a secret was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the mirror secret is empty")]
pub struct EmptySecret;

impl Secret {
    /// Takes the text of a secret; white space around it, as editors leave it in files, does not count.
    ///
    /// # Errors
    /// When nothing is left.
    pub fn new(text: &str) -> Result<Self, EmptySecret> {
        match text.trim() {
            "" => Err(EmptySecret),
            text => Ok(Self(text.into())),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What the link is told beside the plan.
#[derive(Debug, Clone)]
pub struct LinkOptions {
    /// Signs the opening of every stream.
    pub secret: Secret,
    /// Longest time to open a stream, from the first packet to the peer's answer; also the time that a connection gets at
    /// the listener before it must have opened one.
    pub connect_timeout: Duration,
    /// Time between two HTTP/2 pings.
    pub ping_interval: Duration,
    /// A ping not answered for this long ends the connection.
    pub ping_timeout: Duration,
    /// How long the last messages of a closed connection may take to leave.
    pub linger: Duration,
    /// Bytes of received messages of one connection that may be held before its reading stops. More than the
    /// credit that the core grants: it only bounds a peer that does not keep to that.
    pub inbox_limit: usize,
    /// Bytes of messages that may wait to be sent by one connection; beyond, it ends.
    pub outbox_limit: usize,
}

impl LinkOptions {
    /// The usual times and limits.
    #[must_use]
    pub fn new(secret: Secret) -> Self {
        Self {
            secret,
            connect_timeout: Duration::from_secs(5),
            ping_interval: Duration::from_secs(5),
            ping_timeout: Duration::from_secs(10),
            linger: Duration::from_secs(2),
            inbox_limit: 128 << 20,
            outbox_limit: 256 << 20,
        }
    }
}

type Deliver = Box<dyn Fn(Event, Held) + Send + Sync>;
type NextConnection = Box<dyn Fn() -> Connection + Send + Sync>;

/// The link of one node. Cloning shares it. No call blocks or waits; events come from the async runtime's threads, never
/// from within a call.
#[derive(Clone)]
pub struct LinkHandle {
    shared: Arc<Shared>,
}

impl LinkHandle {
    /// A link for the streams of `plan`, on an async runtime that the caller keeps running.
    ///
    /// `next_connection` numbers the connections that peers open; the numbers must rise and be shared with those given to
    /// [`LinkHandle::connect`]. `deliver` takes [`Event::Connected`], [`Event::Received`] and [`Event::Disconnected`]; it
    /// must not block, and whoever handles the event drops the [`Held`] when he is done with it.
    pub fn new(
        plan: &NodePlan,
        options: LinkOptions,
        runtime: Handle,
        next_connection: impl Fn() -> Connection + Send + Sync + 'static,
        deliver: impl Fn(Event, Held) + Send + Sync + 'static,
    ) -> Self {
        let shared = Shared {
            node: plan.node.clone(),
            peerings: peerings(plan),
            options,
            runtime,
            next_connection: Box::new(next_connection),
            deliver: Box::new(deliver),
            lanes: Mutex::default(),
            accepting: Mutex::default(),
            refused: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Opens the origin's stream to its destination after `delay_ms` and up to a quarter more, so that many nodes do not
    /// come back at once. [`Event::Connected`] or [`Event::Disconnected`] follows.
    pub fn connect(&self, origin: &Origin, connection: Connection, delay_ms: u64) {
        let Some((end, outbox)) = self.shared.register(origin, connection, false) else {
            tracing::error!(%origin, connection = connection.0, "connection number used twice");
            return;
        };
        let opening = open::Opening { origin: origin.clone(), connection, delay_ms, end, outbox };
        self.shared.runtime.spawn(open::run(self.shared.clone(), opening));
    }

    /// Sends behind what was sent before. A message to a connection that is gone is dropped: its [`Event::Disconnected`]
    /// says so.
    pub fn send(&self, origin: &Origin, connection: Connection, message: Message) {
        let lanes = self.shared.lanes();
        let Some(lane) = lanes.get(&(origin.clone(), connection)) else { return };
        let len = pump::queued_len(&message);
        if lane.queued.fetch_add(len, Ordering::AcqRel).saturating_add(len) > self.shared.options.outbox_limit {
            lane.end.end(format!("more than {} bytes wait to be sent", self.shared.options.outbox_limit));
            return;
        }
        // It fails where the connection has just ended: the reader finds out and says it.
        let _ended = lane.sender.send(message);
    }

    /// Ends a connection, or the attempt to make one. What was sent before still leaves, if it can within
    /// [`LinkOptions::linger`]; a message that came before may still be delivered; then [`Event::Disconnected`] is.
    pub fn close(&self, origin: &Origin, connection: Connection) {
        // Taking the lane drops its sender: the queue ends behind what is in it.
        if let Some(lane) = self.shared.lanes().remove(&(origin.clone(), connection)) {
            lane.end.end("closed by this node".to_owned());
        }
    }

    /// Closes every connection.
    pub fn close_all(&self) {
        for (_, lane) in self.shared.lanes().drain() {
            lane.end.end("this node is stopping".to_owned());
        }
    }

    /// Takes the connections of peers until `stop` is cancelled; then closes them and returns when they are gone, at the
    /// latest after [`LinkOptions::linger`].
    pub async fn serve(&self, listener: TcpListener, stop: CancellationToken) {
        listen::serve(&self.shared, listener, stop).await;
    }
}

/// Who the other node of an origin's stream is, and where this node would open it.
#[derive(Debug)]
struct Peering {
    peer: Origin,
    target: Option<Result<Target, String>>,
}

/// The peer of a node's own origin is its destination; that of another one's is the node of that name, also on the way
/// back.
fn peerings(plan: &NodePlan) -> HashMap<Origin, Peering> {
    let peering = |origin: &crate::plan::OriginPlan| {
        let target = origin.stream.as_ref().map(|stream| Target::parse(&stream.url));
        let peer = match &origin.stream {
            Some(stream) => stream.destination.clone(),
            None if origin.origin == plan.node => return None,
            None => origin.origin.clone(),
        };
        Some((origin.origin.clone(), Peering { peer, target }))
    };
    plan.origins.iter().filter_map(peering).collect()
}

/// What all connections of a link share.
struct Shared {
    node: Origin,
    peerings: HashMap<Origin, Peering>,
    options: LinkOptions,
    runtime: Handle,
    next_connection: NextConnection,
    deliver: Deliver,
    lanes: Mutex<HashMap<(Origin, Connection), Lane>>,
    /// Held from taking a number to saying that its connection stands, so that events come in the order of numbers.
    accepting: Mutex<()>,
    /// The refusal that was logged last, and when.
    refused: Mutex<Option<(String, Instant)>>,
}

/// One connection, as those who send by it and close it see it.
struct Lane {
    incoming: bool,
    sender: mpsc::UnboundedSender<Message>,
    queued: Arc<AtomicUsize>,
    end: Arc<End>,
}

impl Shared {
    fn lanes(&self) -> MutexGuard<'_, HashMap<(Origin, Connection), Lane>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// None where the number is in use.
    fn register(&self, origin: &Origin, connection: Connection, incoming: bool) -> Option<(Arc<End>, Outbox)> {
        let mut lanes = self.lanes();
        let key = (origin.clone(), connection);
        if lanes.contains_key(&key) {
            return None;
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        let (queued, end) = (Arc::new(AtomicUsize::new(0)), Arc::new(End::default()));
        lanes.insert(key, Lane { incoming, sender, queued: queued.clone(), end: end.clone() });
        Some((end, Outbox::new(receiver, queued)))
    }

    /// The connection is over: nothing more can be sent by it, and the core hears why.
    fn disconnected(&self, origin: &Origin, connection: Connection, reason: String) {
        self.lanes().remove(&(origin.clone(), connection));
        tracing::debug!(%origin, connection = connection.0, reason, "disconnected");
        (self.deliver)(Event::Disconnected { origin: origin.clone(), connection, reason }, Held::none());
    }
}

/// The end of a connection, once it is decided, and why.
#[derive(Debug, Default)]
struct End {
    token: CancellationToken,
    reason: OnceLock<String>,
}

impl End {
    /// The first reason counts.
    fn end(&self, reason: String) {
        let _first = self.reason.set(reason);
        self.token.cancel();
    }

    async fn ended(&self) -> String {
        self.token.cancelled().await;
        self.reason.get().cloned().unwrap_or_default()
    }
}

/// An error with all that caused it, in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// Sets what every connection of the link needs on its socket.
fn tune(stream: &tokio::net::TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive =
        socket2::TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10));
    socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// Spawns what HTTP/2 needs for one connection and drops all of it, the socket too, when the connection is given up.
#[derive(Clone)]
struct Spawner(CancellationToken);

impl<F> hyper::rt::Executor<F> for Spawner
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        let given_up = self.0.clone();
        tokio::spawn(async move {
            let _output = given_up.run_until_cancelled_owned(task).await;
        });
    }
}
