//! Attempts to connect to the destination, farther apart as they fail, and what becomes of the stream when a connection
//! ends. Called by the stream, and by whoever ends a connection from this side.

use super::{Link, Stream};
use crate::event::{Connection, Effect, Now};
use crate::node::Context;
use crate::node::log::{After, Log};
use crate::note::{Note, Noted};
use crate::plan::Policy;
use crate::status::StreamState;

/// First and longest pause before a new connection, in milliseconds.
const RETRY_MS: (u64, u64) = (100, 5_000);

impl Stream {
    /// The connection is gone: what was not sent on it is read back for the next one.
    fn hang_up(&mut self, calm: bool, now: Now) {
        // Where it had stood for a moment only, or comes and goes, the next attempts go on to be farther apart.
        if self.is_linked() && calm && now.mono_ms.saturating_sub(self.linked_ms) >= self.limits.steady_ms {
            self.attempts = 0;
        }
        self.link = Link::Down;
        self.fetching = false;
        self.adopting = None;
        self.giving = None;
        self.near = None;
        self.forget_window();
    }

    fn retry_delay_ms(&mut self) -> u64 {
        self.attempts += 1;
        self.delay_ms = match self.attempts {
            1 => 0,
            more => (RETRY_MS.0 << (more - 2).min(10)).min(RETRY_MS.1),
        };
        self.delay_ms
    }
}

impl Log {
    /// Asks for a connection, where there should be one and none is there or coming.
    pub(in crate::node) fn connect(&mut self, cx: &mut Context) {
        let raising = self.after.iter().any(|(_, what)| *what == After::Raised);
        // The numbers rise over all streams that this node ever has for the origin.
        let (origin, opened) = (self.origin.clone(), self.opened + 2);
        let Some(stream) = self.stream() else { return };
        let stopped = matches!(stream.state, StreamState::Fenced | StreamState::Paused);
        if stopped || raising || stream.link != Link::Down {
            return;
        }
        let delay_ms = stream.retry_delay_ms();
        let connection = Connection(opened);
        stream.link = Link::Connecting(connection);
        self.opened = opened;
        cx.emit(Effect::Connect { origin, connection, delay_ms });
    }

    /// The peer is there: an attempt that waits for its time begins anew at once.
    pub(in crate::node) fn connect_now(&mut self, cx: &mut Context) {
        let Some(stream) = self.stream() else { return };
        if matches!(stream.link, Link::Connecting(_)) {
            stream.attempts = 0;
            self.drop_connection("the peer is back", cx);
            self.connect(cx);
        }
    }

    /// Ends the connection from this side.
    pub(in crate::node) fn drop_connection(&mut self, reason: &str, cx: &mut Context) {
        let calm = !self.watch.flaps.is_flapping();
        let Some(stream) = self.stream() else { return };
        if let Some(connection) = stream.connection() {
            stream.hang_up(calm, cx.now);
            // What was to be adopted and has no place yet comes again.
            self.incoming.clear();
            self.close(connection, cx);
            self.link_gone(reason, cx);
        }
    }

    pub(in crate::node) fn stream_lost(&mut self, connection: Connection, reason: &str, cx: &mut Context) {
        let calm = !self.watch.flaps.is_flapping();
        let Some(stream) = self.stream() else { return };
        if stream.connection() != Some(connection) {
            return;
        }
        stream.hang_up(calm, cx.now);
        self.incoming.clear();
        self.link_gone(reason, cx);
        self.connect(cx);
    }

    /// What a stream's state becomes when its connection is gone.
    fn link_gone(&mut self, reason: &str, cx: &mut Context) {
        let origin = self.origin.clone();
        let promoted = cx.store.entry(&origin).promoted;
        let Some(stream) = self.stream() else { return };
        let before = stream.state;
        let alone_again = promoted && !stream.alone;
        let next = match (before, stream.plan.policy) {
            (StreamState::Closing, _) if alone_again => StreamState::OutOfSync,
            (StreamState::InSync | StreamState::Closing, Policy::Sync) if !stream.alone => before,
            (StreamState::InSync | StreamState::Closing | StreamState::CatchingUp, _) => StreamState::OutOfSync,
            _ => before,
        };
        if next == StreamState::Unsettled {
            stream.reason = stream.why_unsettled(&origin, reason);
        } else if stream.state != StreamState::Fenced && stream.state != StreamState::Paused {
            stream.set(next, format!("no link: {reason}"));
        }
        reason.clone_into(&mut self.watch.link_reason);
        if alone_again {
            // Nothing was ever answered with its mirror under this epoch, and no mark says otherwise.
            if let Some(stream) = self.stream() {
                stream.alone = true;
            }
        }
        if self.stream().is_some_and(|stream| stream.alone) {
            // Also what was adopted so far: nobody waits for the rest.
            self.commit(cx);
        }
        self.abandon_point(cx);
    }

    pub(in crate::node) fn protocol_error(&mut self, what: &str, cx: &mut Context) {
        self.drop_connection(what, cx);
        self.connect(cx);
        let retry_ms = self.stream().and_then(|stream| stream.retry_ms());
        self.note(Note::new(Noted::ProtocolError).reason(what).retry_ms(retry_ms), cx);
    }
}
