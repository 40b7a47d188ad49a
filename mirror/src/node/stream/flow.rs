//! Records to the destination and its acks back: sending within the credit, catching up, closing, in sync. Called by
//! the stream, and by the source and the log whenever there is more to send or a mark is stored.
//!
//! Always true: writes wait for the destination from closing on, and in sync is said when its mark is durable.

use lockstep_storage::id::Seq;
use lockstep_storage::record::Record;

use super::Stream;
use crate::event::{Connection, Effect};
use crate::message::{Ack, Append, Message};
use crate::node::Context;
use crate::node::log::{After, Log};
use crate::plan::Policy;
use crate::status::StreamState;

/// How the reason of a stream begins that could be in sync and waits for its link to stand.
const HELD_OFF: &str = "the mirror has nearly everything, and writers wait for it when its link has stood";

impl Stream {
    /// Catching up, it has been sent everything, and lags no more than writers can wait for: what had been sent when that
    /// was first so has arrived, and what came since has not waited for half of the time that makes a mirror late. On a slow
    /// line a whole credit is under way: closing before it has arrived would call the mirror late, and drop it, for ever.
    fn is_near_the_end(&mut self, last: Seq, now_ms: u64) -> bool {
        if self.sent != last {
            return false;
        }
        let near = *self.near.get_or_insert(last);
        if self.peer_level() < near {
            return false;
        }
        let timeout_ms = self.plan.link_timeout.as_millis() as u64;
        let is_short = 2 * self.unacked.oldest_ms(now_ms) < timeout_ms;
        if !is_short {
            self.near = Some(last);
        }
        is_short
    }
}

impl Log {
    pub(super) fn on_ack(&mut self, ack: Ack, cx: &mut Context) {
        let last = self.last.seq;
        let Some(stream) = self.stream() else { return };
        if ack.persisted.max(ack.received).max(ack.applied) > last {
            return self.protocol_error("an ack of a record that was never made", cx);
        }
        let peer = &mut stream.peer;
        peer.received = peer.received.max(ack.received);
        peer.persisted = peer.persisted.max(ack.persisted);
        peer.applied = peer.applied.max(ack.applied);
        stream.credit = stream.credit.max(ack.credit);
        let level = stream.peer_level();
        let persisted = stream.peer.persisted;
        stream.backlog.pass(persisted);
        stream.unacked.pop(level);
        self.commit(cx);
        self.pump(cx);
        self.converge(cx);
        self.offer(cx);
    }

    /// Catching up, closing, in sync: goes on as far as the destination is.
    pub(in crate::node) fn converge(&mut self, cx: &mut Context) {
        let last = self.last.seq;
        let now_ms = cx.now.mono_ms;
        let (hold_off_ms, losses) = (self.watch.flaps.hold_off_ms(&self.limits), self.watch.flaps.recent());
        let Some(stream) = self.stream() else { return };
        if !stream.is_linked() || stream.degrading || stream.state == StreamState::HandingOver {
            return;
        }
        if stream.plan.policy == Policy::Async {
            let state = if stream.peer.persisted >= last { StreamState::InSync } else { StreamState::CatchingUp };
            stream.set(state, "async".into());
            return;
        }
        let near = stream.state == StreamState::CatchingUp && stream.is_near_the_end(last, now_ms);
        // Each time that writers wait for a link that is lost again they wait in vain, for `link_timeout`.
        let held = near && stream.alone && now_ms.saturating_sub(stream.linked_ms) < hold_off_ms;
        if held && !stream.reason.starts_with(HELD_OFF) {
            stream.reason = format!("{HELD_OFF} for {hold_off_ms} ms: it was lost {losses} times in a short while");
        }
        if near && !held {
            stream.alone = false;
            stream.closing_at = last;
            stream.unacked.restart(now_ms);
            stream.set(StreamState::Closing, "writes wait for the mirror again".into());
        }
        if stream.state == StreamState::InSync && stream.untold && stream.peer.persisted >= stream.closing_at {
            stream.untold = false;
            if let Some(connection) = stream.up() {
                self.send(connection, Message::SetInSync(true), cx);
            }
            return;
        }
        if stream.state == StreamState::Closing && stream.peer.persisted >= stream.closing_at {
            let waiting = self.after.iter().any(|(_, what)| *what == After::InSync);
            if !waiting {
                let version = cx.store.change(&self.origin, |entry| {
                    entry.in_sync = true;
                    entry.promoted = false;
                });
                self.when_stored(version, After::InSync);
            }
        }
    }

    pub(in crate::node) fn in_sync(&mut self, cx: &mut Context) {
        let marked = cx.store.entry(&self.origin).in_sync;
        let Some(stream) = self.stream() else { return };
        if stream.state != StreamState::Closing || stream.degrading || !marked {
            return;
        }
        stream.set(StreamState::InSync, "the mirror has every committed record".into());
        stream.untold = false;
        let connection = stream.up();
        if let Some(connection) = connection {
            self.send(connection, Message::SetInSync(true), cx);
        }
        self.source().points.due(cx.now);
    }

    /// Sends what the credit allows; reads back what is not in memory.
    pub(in crate::node) fn pump(&mut self, cx: &mut Context) {
        let (persisted, committed, origin) = (self.persisted, self.committed, self.origin.clone());
        let now_ms = cx.now.mono_ms;
        let Some(stream) = self.stream() else { return };
        let Some(connection) = stream.up() else { return };
        if stream.has_parted() {
            let at = stream.follows.seq;
            return self.parted(at, cx);
        }
        loop {
            let records = stream.next_message();
            if records.is_empty() {
                break;
            }
            stream.last_sent_ms = now_ms;
            let message = Message::Append(Append { committed, persisted, records });
            cx.emit(Effect::Send { origin: origin.clone(), connection, message });
        }
        let in_memory = stream.window.front().is_some_and(|r| r.header.seq == stream.sent.next());
        let room = stream.credit.saturating_sub(stream.sent_bytes);
        if !in_memory && !stream.fetching && room > 0 && stream.sent < persisted {
            stream.fetching = true;
            let most = stream.limits.message_len_max;
            let bytes_max = most.min(usize::try_from(room).unwrap_or(most));
            cx.emit(Effect::Fetch { origin, connection, from: stream.sent.next(), bytes_max });
        }
    }

    /// Where somebody waits for ack level `applied`: the destination is asked for it, once the records are persisted here.
    pub(in crate::node) fn ask_to_apply(&mut self, cx: &mut Context) {
        let persisted = self.persisted;
        let Some(stream) = self.stream() else { return };
        let through = stream.apply_wanted.min(persisted);
        if let Some(connection) = stream.up()
            && through > stream.apply_asked
        {
            stream.apply_asked = through;
            self.send(connection, Message::Apply { through }, cx);
        }
    }

    /// Records were read back: they are sent.
    pub(in crate::node) fn stream_fetched(&mut self, connection: Connection, records: Vec<Record>, cx: &mut Context) {
        let Some(stream) = self.stream() else { return };
        if stream.up() != Some(connection) {
            return;
        }
        stream.fetching = false;
        for record in records.into_iter().rev() {
            if record.header.seq > stream.sent {
                stream.window_bytes += record.len();
                stream.window.push_front(record);
            }
        }
        self.pump(cx);
        self.converge(cx);
    }
}
