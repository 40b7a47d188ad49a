//! What runs on a connection that stands: the outbox, which is the HTTP body that this node sends, and the reading of the
//! body that it receives. The same at both ends.
//!
//! One task reads, says every event of its connection, and so keeps their order: connected, received, disconnected.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use lockstep_storage::id::Origin;
use lockstep_storage::image::baseline::Piece;
use lockstep_storage::record::Record;
use tokio::sync::{Notify, mpsc};

use super::{End, Shared, with_causes};
use crate::event::{Connection, Event};
use crate::message::wire::{Decoder, Encoder};
use crate::message::{Baseline, Mending, Message};

/// Messages are encoded ahead up to this many bytes, so that small ones that wait together leave together.
const ENCODE_AHEAD_LEN: usize = 1 << 20;
/// What a message without records counts in a queue, in bytes: what it takes there, so that the limit is one of memory.
const SMALL_MESSAGE_LEN: usize = size_of::<Message>();

/// What a message counts while it waits to be sent, in bytes.
pub(super) fn queued_len(message: &Message) -> usize {
    let large = match message {
        Message::Append(append) => append.records.iter().map(Record::len).sum(),
        Message::Baseline(Baseline::Pieces { pieces, .. }) => pieces.iter().map(Piece::len).sum(),
        Message::Mending(Mending::Have { bytes: Some(bytes), .. }) => bytes.len(),
        _ => 0,
    };
    SMALL_MESSAGE_LEN + large
}

/// The HTTP body of the messages that this node sends. It ends when its senders are gone and all has been sent.
pub(super) struct Outbox {
    receiver: Option<mpsc::UnboundedReceiver<Message>>,
    queued: Arc<AtomicUsize>,
    encoder: Encoder,
}

impl Outbox {
    pub(super) fn new(receiver: mpsc::UnboundedReceiver<Message>, queued: Arc<AtomicUsize>) -> Self {
        Self { receiver: Some(receiver), queued, encoder: Encoder::new() }
    }

    /// The body of a request without one.
    pub(super) fn empty() -> Self {
        Self { receiver: None, queued: Arc::default(), encoder: Encoder::new() }
    }

    fn encode(&mut self, message: &Message) {
        self.queued.fetch_sub(queued_len(message), Ordering::AcqRel);
        self.encoder.push(message);
    }
}

impl http_body::Body for Outbox {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        loop {
            if let Some(piece) = this.encoder.take() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            let Some(receiver) = &mut this.receiver else { return Poll::Ready(None) };
            let Some(message) = ready!(receiver.poll_recv(cx)) else {
                this.receiver = None;
                return Poll::Ready(None);
            };
            this.encode(&message);
            while this.encoder.len() < ENCODE_AHEAD_LEN {
                let Some(message) = this.receiver.as_mut().and_then(|receiver| receiver.try_recv().ok()) else { break };
                this.encode(&message);
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.receiver.is_none() && self.encoder.is_empty()
    }
}

/// Bytes of a received message, counted against its connection until this is dropped.
#[derive(Debug)]
#[must_use = "what is dropped at once bounds nothing"]
pub struct Held {
    budget: Option<Arc<Budget>>,
    len: usize,
}

impl Held {
    /// Nothing, for events without a message.
    pub(super) fn none() -> Self {
        Self { budget: None, len: 0 }
    }

    /// How much, in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Nothing?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(budget) = &self.budget {
            budget.held.fetch_sub(self.len, Ordering::AcqRel);
            budget.freed.notify_one();
        }
    }
}

/// Bytes of one connection that have been delivered and not handled.
#[derive(Debug, Default)]
struct Budget {
    held: AtomicUsize,
    freed: Notify,
}

impl Budget {
    fn hold(self: &Arc<Self>, len: usize) -> Held {
        self.held.fetch_add(len, Ordering::AcqRel);
        Held { budget: Some(self.clone()), len }
    }

    async fn wait_below(&self, limit: usize) {
        // Only one task waits, and a notification that comes before it does is kept.
        while self.held.load(Ordering::Acquire) > limit {
            self.freed.notified().await;
        }
    }
}

/// A connection that stands.
pub(super) struct Standing {
    pub(super) origin: Origin,
    pub(super) connection: Connection,
    /// The node at the other end.
    pub(super) peer: Origin,
    pub(super) end: Arc<End>,
    /// What it sends.
    pub(super) body: Body,
}

impl Shared {
    /// Says that a connection stands.
    pub(super) fn connected(&self, standing: &Standing) {
        let (origin, connection) = (standing.origin.clone(), standing.connection);
        tracing::debug!(%origin, connection = connection.0, peer = %standing.peer, "connected");
        (self.deliver)(Event::Connected { origin, connection }, Held::none());
    }

    /// Reads a connection to its end, says why it ended, and lets the last messages leave.
    pub(super) async fn read_to_end(&self, mut standing: Standing) {
        let end = standing.end.clone();
        let reason = tokio::select! {
            biased;
            reason = end.ended() => reason,
            reason = self.read(&mut standing) => reason,
        };
        self.disconnected(&standing.origin, standing.connection, reason);
        // The peer ends its body when it has seen the end of this node's, so all has arrived then.
        let drain = async { while let Some(Ok(_)) = standing.body.frame().await {} };
        let _late = tokio::time::timeout(self.options.linger, drain).await;
    }

    async fn read(&self, standing: &mut Standing) -> String {
        let (mut decoder, budget) = (Decoder::new(), Arc::new(Budget::default()));
        let peer = &standing.peer;
        loop {
            budget.wait_below(self.options.inbox_limit).await;
            let data = match standing.body.frame().await {
                // HTTP also ends a body whose connection is given up, for one because a ping was not answered.
                None if !standing.body.is_end_stream() => return format!("connection with {peer} lost"),
                None if decoder.at_boundary() => return format!("{peer} closed the connection"),
                None => return format!("{peer} closed the connection within a message"),
                Some(Err(err)) => return format!("connection with {peer} lost: {}", with_causes(&err)),
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            };
            decoder.push(data);
            loop {
                match decoder.decode() {
                    Ok(None) => break,
                    Ok(Some(whole)) => {
                        let (origin, connection) = (standing.origin.clone(), standing.connection);
                        let event = Event::Received { origin, connection, message: whole.message };
                        (self.deliver)(event, budget.hold(whole.len));
                    }
                    Err(err) => return format!("{peer} sent bytes that are no message: {err}"),
                }
            }
        }
    }
}
