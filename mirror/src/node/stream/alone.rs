//! Going on without the destination: a late ack, the out-of-sync mark, and the operator's pause and resume. Called when
//! a tick finds the oldest batch late, when a mark is stored, and by the operator's commands.
//!
//! Always true: under `sync` nothing is answered alone before the out-of-sync mark is durable.

use lockstep_storage::id::Seq;

use crate::client::Role;
use crate::event::{Effect, Ticket};
use crate::message::Message;
use crate::node::Context;
use crate::node::log::{After, Log};
use crate::plan::Policy;
use crate::status::StreamState;

impl Log {
    /// The oldest batch has waited for `link_timeout`: under `strict` its writers hear "outcome unknown", under `sync` the
    /// stream is marked out of sync, durably, before anything is answered alone.
    pub(super) fn mirror_is_late(&mut self, timeout_ms: u64, cx: &mut Context) {
        let Some(stream) = self.stream() else { return };
        match stream.plan.policy {
            Policy::Async => {}
            Policy::Strict if stream.alone => {}
            Policy::Strict => {
                let reason = format!("the mirror did not answer for {timeout_ms} ms");
                let stalled = stream.is_linked() && stream.state != StreamState::CatchingUp;
                self.give_up(&reason, timeout_ms, false, cx);
                self.refuse_submissions(&reason, cx);
                if stalled {
                    self.step_back(&reason, cx);
                }
            }
            Policy::Sync if stream.alone || stream.degrading => {}
            Policy::Sync if matches!(stream.state, StreamState::Unsettled | StreamState::Fenced) => {}
            Policy::Sync => self.degrade(&format!("the mirror did not answer for {timeout_ms} ms"), cx),
        }
    }

    /// The destination is linked and too slow: a new connection, after a pause, catches up before writers wait for it.
    fn step_back(&mut self, reason: &str, cx: &mut Context) {
        self.drop_connection(reason, cx);
        if let Some(stream) = self.stream() {
            stream.attempts = stream.attempts.max(5);
        }
        self.connect(cx);
    }

    /// Goes on without the mirror: the mark first, at the other end too where it can be reached.
    pub(in crate::node) fn degrade(&mut self, reason: &str, cx: &mut Context) {
        let Some(stream) = self.stream() else { return };
        stream.degrading = true;
        let up = stream.up();
        stream.set(StreamState::OutOfSync, reason.to_owned());
        if let Some(connection) = up {
            self.send(connection, Message::SetInSync(false), cx);
        }
        let version = cx.store.change(&self.origin, |entry| entry.in_sync = false);
        self.when_stored(version, After::Alone);
    }

    pub(in crate::node) fn alone(&mut self, cx: &mut Context) {
        if self.role() == Role::Fenced {
            return;
        }
        let Some(stream) = self.stream() else { return };
        stream.degrading = false;
        if stream.state == StreamState::Unsettled {
            // Found to have gone back in time meanwhile.
            return;
        }
        stream.alone = true;
        let unmet = std::mem::take(&mut stream.unmet);
        let (linked, reason) = (stream.is_linked(), stream.reason.clone());
        self.give_up("the mirror is out of reach: the ack level asked for cannot be had", 0, true, cx);
        if linked {
            self.step_back(&reason, cx);
        }
        if unmet {
            self.publish(cx);
        }
        self.commit(cx);
    }

    pub(in crate::node) fn pause(&mut self, ticket: Ticket, cx: &mut Context) {
        let origin = self.origin.clone();
        let Some(stream) = self.stream() else {
            return cx.reply_error(ticket, format!("this node is not the source of a mirrored {origin}"));
        };
        if stream.state == StreamState::Fenced || stream.state == StreamState::Unsettled {
            return cx.reply_error(ticket, format!("{origin} is {}: {}", stream.state, stream.reason));
        }
        let sync = stream.plan.policy == Policy::Sync;
        let alone = stream.alone;
        if sync && !alone {
            self.degrade("paused by the operator", cx);
        }
        cx.store.change(&origin, |entry| entry.paused = true);
        if let Some(stream) = self.stream() {
            stream.set(StreamState::Paused, "paused by the operator".into());
        }
        self.drop_connection("paused by the operator", cx);
        let report = self.report(format!("{origin} is paused"), cx);
        cx.emit(Effect::Reply { ticket, result: Ok(report) });
    }

    pub(in crate::node) fn resume(&mut self, ticket: Ticket, alone: bool, cx: &mut Context) {
        let origin = self.origin.clone();
        let Some(stream) = self.stream() else {
            return cx.reply_error(ticket, format!("this node is not the source of a mirrored {origin}"));
        };
        let (state, policy) = (stream.state, stream.plan.policy);
        if state == StreamState::Fenced {
            return cx.reply_error(ticket, format!("{origin} was taken over by its peer: this node is fenced"));
        }
        if alone {
            if policy == Policy::Strict {
                return cx.reply_error(ticket, "policy strict never answers alone; change the policy first");
            }
            if state != StreamState::Unsettled {
                return cx.reply_error(ticket, format!("{origin} is not waiting for its mirror: it is {state}"));
            }
            self.drop_connection("resumed alone", cx);
            cx.store.change(&origin, |entry| entry.lacks = Seq::ZERO);
            self.raise(cx);
            self.degrade("resumed alone by the operator", cx);
        } else {
            cx.store.change(&origin, |entry| entry.paused = false);
            if state == StreamState::Paused
                && let Some(stream) = self.stream()
            {
                stream.attempts = 0;
                stream.set(StreamState::OutOfSync, "resumed; not connected yet".into());
            }
        }
        self.connect(cx);
        let report = self.report(format!("{origin} goes on"), cx);
        cx.emit(Effect::Reply { ticket, result: Ok(report) });
    }
}
