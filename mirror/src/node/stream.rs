//! The way from a source to its destination: connecting, Hello, sending within the credit, catching up, closing, in sync,
//! and out again.
//!
//! `alone` is the one thing that lets a write be answered without the destination. Under `sync` it is set only when the
//! out-of-sync mark is durable, and cleared when closing begins; under `strict` never; under `async` always.

use std::collections::VecDeque;

use lockstep_storage::id::{Origin, Position, Seq};
use lockstep_storage::record::Record;
use lockstep_storage::superblock::OriginEntry;

use super::Context;
use super::epochs::{History, Relation, relation};
use super::log::{After, Ages, Log, Side};
use crate::event::{Connection, Effect, Now, Ticket};
use crate::message::{Ack, Append, Hello, Message, PROTOCOL_VERSION, Welcome};
use crate::plan::{AckLevel, Limits, Policy, StreamPlan};
use crate::status::StreamState;

/// Time between heartbeats on a quiet link, in milliseconds: lag is a measurement also when nobody writes.
const HEARTBEAT_MS: u64 = 500;
/// First and longest pause before a new connection, in milliseconds.
const RETRY_MS: (u64, u64) = (100, 5_000);

/// What the destination has, as far as it said.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PeerMarks {
    pub(super) received: Seq,
    pub(super) persisted: Seq,
    pub(super) applied: Seq,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Down,
    Connecting(Connection),
    /// Stands; the Hello is sent.
    Greeting(Connection),
    Up(Connection),
}

/// An origin's stream at its source.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) plan: StreamPlan,
    limits: Limits,
    pub(super) state: StreamState,
    pub(super) reason: String,
    pub(super) alone: bool,
    link: Link,
    connections: u64,
    attempts: u32,
    pub(super) connects: u64,
    pub(super) peer: PeerMarks,
    /// Last record sent on this connection, the bytes of records sent on it, and how many may be.
    sent: Seq,
    sent_bytes: u64,
    credit: u64,
    fetching: bool,
    /// Unsent records up to the last one.
    window: VecDeque<Record>,
    window_bytes: usize,
    /// Batches that the destination does not have at the ack level.
    pub(super) unacked: Ages,
    /// In sync when the destination has this.
    closing_at: Seq,
    /// In sync, and the destination may not know it: the connection that would have told it is gone.
    untold: bool,
    /// A degradation is being stored.
    degrading: bool,
    /// Where the destination is ahead: its last record, which this node takes over before anything else.
    pub(super) adopting: Option<Position>,
    last_sent_ms: u64,
    last_heard_ms: u64,
    pub(super) last_contact_wall_ms: u64,
}

impl Stream {
    pub(super) fn open(plan: StreamPlan, entry: &OriginEntry, fenced: bool, limits: Limits, now: Now) -> Self {
        let alone = match plan.policy {
            Policy::Strict => false,
            Policy::Sync => !entry.in_sync,
            Policy::Async => true,
        };
        let (state, reason) = match (fenced, entry.paused, entry.in_sync) {
            (true, ..) => (StreamState::Fenced, "its peer took the origin over"),
            (_, true, _) => (StreamState::Paused, "paused by the operator"),
            (_, _, true) => (StreamState::Unsettled, "restarted; the mirror may have been promoted meanwhile"),
            _ => (StreamState::OutOfSync, "not connected since the start"),
        };
        Self {
            plan,
            limits,
            state,
            reason: reason.into(),
            alone,
            link: Link::Down,
            connections: 0,
            attempts: 0,
            connects: 0,
            peer: PeerMarks::default(),
            sent: Seq::ZERO,
            sent_bytes: 0,
            credit: 0,
            fetching: false,
            window: VecDeque::new(),
            window_bytes: 0,
            unacked: Ages::default(),
            closing_at: Seq::ZERO,
            untold: false,
            degrading: false,
            adopting: None,
            last_sent_ms: now.mono_ms,
            last_heard_ms: now.mono_ms,
            last_contact_wall_ms: 0,
        }
    }

    /// The seq that the destination has at the stream's ack level.
    pub(super) fn peer_level(&self) -> Seq {
        match self.plan.ack {
            AckLevel::Received => self.peer.received,
            AckLevel::Durable => self.peer.persisted,
            AckLevel::Applied => self.peer.applied,
        }
    }

    pub(super) fn is_linked(&self) -> bool {
        matches!(self.link, Link::Up(_))
    }

    /// The connection that stands, greeted or not.
    fn connection(&self) -> Option<Connection> {
        match self.link {
            Link::Down => None,
            Link::Connecting(c) | Link::Greeting(c) | Link::Up(c) => Some(c),
        }
    }

    pub(super) fn up(&self) -> Option<Connection> {
        match self.link {
            Link::Up(connection) => Some(connection),
            _ => None,
        }
    }

    pub(super) fn set(&mut self, state: StreamState, reason: String) {
        self.state = state;
        self.reason = reason;
    }

    /// Why a restarted source takes no writes, and what an operator can do about it.
    fn why_unsettled(&self, origin: &Origin, reason: &str) -> String {
        let way_out = match self.plan.policy {
            Policy::Strict => String::new(),
            Policy::Sync | Policy::Async => format!("; 'lockstep resume {origin} --alone' takes writes without it"),
        };
        format!("restarted, and the mirror may have been promoted meanwhile; no link: {reason}{way_out}")
    }

    /// Keeps records that were just placed for sending.
    pub(super) fn keep(&mut self, records: &[Record]) {
        if !self.is_linked() {
            return;
        }
        self.window.extend(records.iter().cloned());
        self.window_bytes += records.iter().map(Record::len).sum::<usize>();
        if self.window_bytes > self.limits.window_len_max {
            self.forget_window();
        }
    }

    fn forget_window(&mut self) {
        self.window.clear();
        self.window_bytes = 0;
    }

    /// The connection is gone: what was not sent on it is read back for the next one.
    fn hang_up(&mut self) {
        self.link = Link::Down;
        self.fetching = false;
        self.adopting = None;
        self.forget_window();
    }

    fn retry_delay_ms(&mut self) -> u64 {
        self.attempts += 1;
        if self.attempts == 1 {
            return 0;
        }
        (RETRY_MS.0 << (self.attempts - 2).min(10)).min(RETRY_MS.1)
    }

    /// The next records to send within the credit, from memory; none where they must be read back or nothing is left.
    fn next_message(&mut self) -> Vec<Record> {
        while self.window.front().is_some_and(|r| r.header.seq <= self.sent) {
            self.drop_front();
        }
        let mut bytes = 0;
        let mut records = Vec::new();
        while let Some(front) = self.window.front() {
            let follows = front.header.seq == self.sent.next();
            if !follows
                || self.sent_bytes >= self.credit
                || (bytes + front.len() > self.limits.message_len_max && bytes > 0)
            {
                break;
            }
            bytes += front.len();
            self.sent_bytes += front.len() as u64;
            self.sent = front.header.seq;
            records.extend(self.drop_front());
        }
        records
    }

    fn drop_front(&mut self) -> Option<Record> {
        let front = self.window.pop_front()?;
        self.window_bytes -= front.len();
        Some(front)
    }
}

impl Log {
    fn stream(&mut self) -> Option<&mut Stream> {
        match &mut self.side {
            Side::Source(source) => source.stream.as_mut(),
            Side::Destination(_) => None,
        }
    }

    /// Asks for a connection, where there should be one and none is there or coming.
    pub(super) fn connect(&mut self, cx: &mut Context) {
        let raising = self.after.iter().any(|(_, what)| *what == After::Raised);
        let origin = self.origin.clone();
        let Some(stream) = self.stream() else { return };
        let stopped = matches!(stream.state, StreamState::Fenced | StreamState::Paused);
        if stopped || raising || stream.link != Link::Down {
            return;
        }
        let delay_ms = stream.retry_delay_ms();
        stream.connections += 2;
        let connection = Connection(stream.connections);
        stream.link = Link::Connecting(connection);
        cx.emit(Effect::Connect { origin, connection, delay_ms });
    }

    /// Ends the connection from this side.
    pub(super) fn drop_connection(&mut self, reason: &str, cx: &mut Context) {
        let Some(stream) = self.stream() else { return };
        if let Some(connection) = stream.connection() {
            stream.hang_up();
            self.close(connection, cx);
            self.link_gone(reason, cx);
        }
    }

    pub(super) fn stream_connected(&mut self, connection: Connection, cx: &mut Context) {
        let last = Position { seq: self.persisted, ..self.persisted_position() };
        let (trimmed, origin) = (self.trimmed, self.origin.clone());
        let entry = cx.store.entry(&origin);
        let (epochs, in_sync) = (entry.epochs.clone(), entry.in_sync);
        let incarnation = cx.store.superblock().incarnation;
        let Some(stream) = self.stream() else { return };
        if stream.link != Link::Connecting(connection) {
            return self.close(connection, cx);
        }
        stream.link = Link::Greeting(connection);
        stream.connects += 1;
        stream.last_heard_ms = cx.now.mono_ms;
        let hello = Hello {
            version: PROTOCOL_VERSION,
            origin,
            node: cx.node.clone(),
            peer: stream.plan.destination.clone(),
            incarnation,
            connection: connection.0,
            epochs,
            last,
            trimmed,
            policy: stream.plan.policy,
            ack: stream.plan.ack,
            link_timeout_ms: stream.plan.link_timeout.as_millis() as u64,
            in_sync,
        };
        self.send(connection, Message::Hello(hello), cx);
    }

    /// The last persisted record. What is placed and not persisted comes after it.
    fn persisted_position(&self) -> Position {
        match self.pending.front() {
            Some(next) => {
                let epoch = self.last.epoch;
                Position { epoch, seq: next.header.seq.prev(), checksum: next.header.parent }
            }
            None => self.last,
        }
    }

    pub(super) fn stream_lost(&mut self, connection: Connection, reason: &str, cx: &mut Context) {
        let Some(stream) = self.stream() else { return };
        if stream.connection() != Some(connection) {
            return;
        }
        stream.hang_up();
        self.link_gone(reason, cx);
        self.connect(cx);
    }

    /// What a stream's state becomes when its connection is gone.
    fn link_gone(&mut self, reason: &str, cx: &mut Context) {
        let origin = self.origin.clone();
        let Some(stream) = self.stream() else { return };
        let before = stream.state;
        let next = match (before, stream.plan.policy) {
            (StreamState::InSync | StreamState::Closing, Policy::Sync) if !stream.alone => before,
            (StreamState::InSync | StreamState::Closing | StreamState::CatchingUp, _) => StreamState::OutOfSync,
            _ => before,
        };
        let first = stream.attempts <= 1;
        if next == StreamState::Unsettled {
            stream.reason = stream.why_unsettled(&origin, reason);
        } else if stream.state != StreamState::Fenced && stream.state != StreamState::Paused {
            stream.set(next, format!("no link: {reason}"));
        }
        if next != before || first {
            cx.note(&origin, format!("link lost ({reason}); state {next}"));
        }
        self.abandon_point(cx);
    }

    pub(super) fn on_stream_message(&mut self, connection: Connection, message: Message, cx: &mut Context) {
        let now = cx.now;
        let Some(stream) = self.stream() else { return };
        if stream.connection() != Some(connection) {
            return;
        }
        stream.last_heard_ms = now.mono_ms;
        stream.last_contact_wall_ms = now.wall_ms;
        match message {
            Message::Welcome(welcome) if stream.link == Link::Greeting(connection) => self.settle(&welcome, cx),
            Message::Refused { reason, epochs } => self.refused(&reason, &epochs, cx),
            Message::Ack(ack) if stream.is_linked() => self.on_ack(ack, cx),
            Message::SyncDone { through } => self.peer_point(through, cx),
            Message::InSyncStored(_) => {}
            Message::Append(append) if stream.adopting.is_some() => self.adopt(append.records, cx),
            _ => self.protocol_error("a message that a destination does not send now", cx),
        }
    }

    pub(super) fn protocol_error(&mut self, what: &str, cx: &mut Context) {
        cx.note(&self.origin.clone(), format!("protocol error: {what}; the connection is closed"));
        self.drop_connection(what, cx);
        self.connect(cx);
    }

    fn refused(&mut self, reason: &str, epochs: &[lockstep_storage::superblock::EpochEntry], cx: &mut Context) {
        let ours = self.epoch(cx);
        if let Some(theirs) = epochs.last().map(|e| e.epoch)
            && theirs > ours
            && theirs.node != cx.node.node_id()
        {
            return self.depose(theirs, cx);
        }
        self.reject(StreamState::Refused, &format!("the mirror refused: {reason}"), cx);
    }

    /// The streams do not fit: keeps trying slowly, in a state that says why.
    fn reject(&mut self, state: StreamState, reason: &str, cx: &mut Context) {
        let origin = self.origin.clone();
        self.drop_connection(reason, cx);
        let Some(stream) = self.stream() else { return };
        stream.attempts = stream.attempts.max(8);
        // A restarted source that was in sync stays unsettled: it must not write before this is cleared up.
        if stream.state == StreamState::Unsettled {
            reason.clone_into(&mut stream.reason);
        } else {
            stream.set(state, reason.to_owned());
        }
        cx.note(&origin, format!("{reason}; trying again"));
        self.connect(cx);
    }

    /// The destination has said what it has: from here on both ends hold one history, or the reason why not is known.
    fn settle(&mut self, welcome: &Welcome, cx: &mut Context) {
        let entry = cx.store.entry(&self.origin);
        let ours = History { epochs: &entry.epochs, last: self.last };
        let theirs = History { epochs: &welcome.epochs, last: welcome.last };
        let found = relation(ours, cx.node.node_id(), theirs);
        let committed = self.committed;
        match found {
            Relation::Same | Relation::Behind(_) if welcome.last.seq < self.trimmed => {
                let (has, from) = (welcome.last.seq, self.trimmed.next());
                if let Some(stream) = self.stream() {
                    // It has lost what it had acknowledged: nothing more is trimmed, nobody told that it has it.
                    stream.peer = PeerMarks { received: has, persisted: has, applied: Seq::ZERO };
                }
                let reason =
                    format!("the mirror has records up to {has}, the backlog begins at {from}: it needs a baseline");
                self.reject(StreamState::NeedsBaseline, &reason, cx);
            }
            Relation::Same | Relation::Behind(_) => {
                if welcome.last.seq < committed && entry.in_sync {
                    let text = format!("the mirror lost records after {}: it gets them again", welcome.last.seq);
                    cx.note(&self.origin.clone(), text);
                }
                self.link_up(welcome.last.seq, welcome.credit, cx);
            }
            Relation::Ahead if self.source().fresh => {
                self.protocol_error("the mirror claims records that this node never wrote", cx);
            }
            Relation::Ahead => {
                let (after, last) = (self.last.seq, welcome.last);
                let Some(stream) = self.stream() else { return };
                let Some(connection) = stream.connection() else { return };
                stream.adopting = Some(last);
                stream.credit = welcome.credit;
                cx.note(
                    &self.origin.clone(),
                    format!("adopting records {} to {} from the mirror", after.next(), last.seq),
                );
                self.send(connection, Message::Adopt { after }, cx);
            }
            Relation::Deposed(epoch) => self.depose(epoch, cx),
            Relation::Diverged(common) => {
                let reason = format!("the mirror went another way after record {common}: it needs a baseline");
                self.reject(StreamState::NeedsBaseline, &reason, cx);
            }
            Relation::Unrelated => {
                let (node, peer) = (cx.node.clone(), welcome.node.clone());
                let reason = format!("{node} and {peer} hold unrelated histories of {}", self.origin);
                self.reject(StreamState::Refused, &reason, cx);
            }
        }
    }

    /// Records that only the destination has: a client may have been answered for them.
    fn adopt(&mut self, records: Vec<Record>, cx: &mut Context) {
        let entry = cx.store.entry(&self.origin);
        let history = History { epochs: &entry.epochs, last: self.last };
        let mut parent = self.incoming.back().map_or(self.last, Record::position);
        for record in &records {
            let header = &record.header;
            let follows = header.seq == parent.seq.next() && header.parent == parent.checksum;
            if !follows || history.epoch_at(header.seq) != Some(header.epoch) {
                return self.protocol_error("records to adopt do not follow", cx);
            }
            parent = record.position();
        }
        self.incoming.extend(records);
    }

    /// Adopted records are persisted; when all are, the ends are the same.
    pub(super) fn adopted(&mut self, cx: &mut Context) {
        let (persisted, last) = (self.persisted, self.last);
        let Some(stream) = self.stream() else { return };
        match stream.adopting {
            Some(target) if persisted >= target.seq && last == target => {
                stream.adopting = None;
                let credit = stream.credit;
                cx.note(&self.origin.clone(), format!("adopted the mirror's records up to {persisted}"));
                self.link_up(persisted, credit, cx);
            }
            Some(target) if persisted >= target.seq => {
                self.protocol_error("the adopted records are not those announced", cx);
            }
            _ => {}
        }
    }

    /// Both ends hold one history, the destination up to `has`: sends the rest.
    fn link_up(&mut self, has: Seq, credit: u64, cx: &mut Context) {
        if !self.source().fresh {
            // The first Hello since the start: bodies that the process before left open are given up by a new epoch.
            return self.raise(cx);
        }
        let in_sync = cx.store.entry(&self.origin).in_sync;
        let now = cx.now;
        let last = self.last.seq;
        let Some(stream) = self.stream() else { return };
        let Some(connection) = stream.connection() else { return };
        stream.link = Link::Up(connection);
        stream.attempts = 0;
        stream.peer.received = has;
        stream.peer.persisted = has;
        stream.sent = has;
        stream.sent_bytes = 0;
        stream.credit = credit;
        stream.last_sent_ms = now.mono_ms;
        stream.unacked.pop(has);
        let text = format!("linked to {}: it has records up to {has} of {last}", stream.plan.destination);
        let waits = stream.state == StreamState::InSync || stream.state == StreamState::Closing;
        if stream.state == StreamState::InSync && !stream.alone {
            stream.untold = true;
            stream.closing_at = last;
        }
        if !waits || stream.alone {
            // With the in-sync mark durable nothing was ever answered alone: acks are waited for from now on.
            let strict_mark = in_sync && stream.plan.policy != Policy::Async;
            if strict_mark {
                stream.alone = false;
            }
            stream.set(StreamState::CatchingUp, "the mirror gets what it lacks".into());
        }
        cx.note(&self.origin.clone(), text);
        self.commit(cx);
        self.pump(cx);
        self.converge(cx);
    }

    fn on_ack(&mut self, ack: Ack, cx: &mut Context) {
        let last = self.last.seq;
        let Some(stream) = self.stream() else { return };
        if ack.persisted > last || ack.received > last {
            return self.protocol_error("an ack of a record that was never made", cx);
        }
        let peer = &mut stream.peer;
        peer.received = peer.received.max(ack.received);
        peer.persisted = peer.persisted.max(ack.persisted);
        peer.applied = peer.applied.max(ack.applied);
        stream.credit = stream.credit.max(ack.credit);
        let level = stream.peer_level();
        stream.unacked.pop(level);
        self.commit(cx);
        self.pump(cx);
        self.converge(cx);
    }

    /// Catching up, closing, in sync: goes on as far as the destination is.
    pub(super) fn converge(&mut self, cx: &mut Context) {
        let last = self.last.seq;
        let now_ms = cx.now.mono_ms;
        let Some(stream) = self.stream() else { return };
        if !stream.is_linked() || stream.degrading {
            return;
        }
        if stream.plan.policy == Policy::Async {
            let state = if stream.peer.persisted >= last { StreamState::InSync } else { StreamState::CatchingUp };
            stream.set(state, "async".into());
            return;
        }
        if stream.state == StreamState::CatchingUp && stream.sent == last {
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
                let version = cx.store.change(&self.origin, |entry| entry.in_sync = true);
                self.when_stored(version, After::InSync);
            }
        }
    }

    pub(super) fn in_sync(&mut self, cx: &mut Context) {
        let marked = cx.store.entry(&self.origin).in_sync;
        let Some(stream) = self.stream() else { return };
        if stream.state != StreamState::Closing || stream.degrading || !marked {
            return;
        }
        stream.set(StreamState::InSync, "the mirror has every committed record".into());
        stream.untold = false;
        let connection = stream.up();
        cx.note(&self.origin.clone(), "in sync");
        if let Some(connection) = connection {
            self.send(connection, Message::SetInSync(true), cx);
        }
        self.source().points.due(cx.now);
    }

    /// Sends what the credit allows; reads back what is not in memory.
    pub(super) fn pump(&mut self, cx: &mut Context) {
        let (persisted, committed, origin) = (self.persisted, self.committed, self.origin.clone());
        let now_ms = cx.now.mono_ms;
        let Some(stream) = self.stream() else { return };
        let Some(connection) = stream.up() else { return };
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

    /// Records were read back: they are sent.
    pub(super) fn stream_fetched(&mut self, connection: Connection, records: Vec<Record>, cx: &mut Context) {
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

    pub(super) fn stream_tick(&mut self, cx: &mut Context) {
        self.connect(cx);
        let now_ms = cx.now.mono_ms;
        let (persisted, committed) = (self.persisted, self.committed);
        let Some(stream) = self.stream() else { return };
        let timeout_ms = stream.plan.link_timeout.as_millis() as u64;
        let late = stream.unacked.oldest_ms(now_ms) >= timeout_ms;
        if stream.connection().is_some() && now_ms.saturating_sub(stream.last_heard_ms) >= timeout_ms.max(2_000) {
            if !matches!(stream.link, Link::Connecting(_)) {
                self.drop_connection("the mirror is silent", cx);
                self.connect(cx);
            }
        } else if let Some(connection) = stream.up()
            && now_ms.saturating_sub(stream.last_sent_ms) >= HEARTBEAT_MS
        {
            stream.last_sent_ms = now_ms;
            let message = Message::Append(Append { committed, persisted, records: Vec::new() });
            self.send(connection, message, cx);
        }
        if late {
            self.mirror_is_late(timeout_ms, cx);
        }
    }

    /// The oldest batch has waited for `link_timeout`: under `strict` its writers hear "outcome unknown", under `sync` the
    /// stream is marked out of sync, durably, before anything is answered alone.
    fn mirror_is_late(&mut self, timeout_ms: u64, cx: &mut Context) {
        let Some(stream) = self.stream() else { return };
        match stream.plan.policy {
            Policy::Async => {}
            Policy::Strict => {
                let reason = format!("the mirror did not answer for {timeout_ms} ms");
                let stalled = stream.is_linked() && stream.state != StreamState::CatchingUp;
                self.give_up(&reason, timeout_ms, false, cx);
                self.refuse_submissions(&reason, cx);
                if stalled {
                    self.step_back(&reason, cx);
                }
            }
            Policy::Sync if stream.alone || stream.degrading || stream.state == StreamState::Unsettled => {}
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
    pub(super) fn degrade(&mut self, reason: &str, cx: &mut Context) {
        let Some(stream) = self.stream() else { return };
        stream.degrading = true;
        let up = stream.up();
        stream.set(StreamState::OutOfSync, reason.to_owned());
        if let Some(connection) = up {
            self.send(connection, Message::SetInSync(false), cx);
        }
        let version = cx.store.change(&self.origin, |entry| entry.in_sync = false);
        cx.note(&self.origin.clone(), format!("out of sync: {reason}"));
        self.when_stored(version, After::Alone);
    }

    pub(super) fn alone(&mut self, cx: &mut Context) {
        let Some(stream) = self.stream() else { return };
        stream.degrading = false;
        stream.alone = true;
        let (linked, reason) = (stream.is_linked(), stream.reason.clone());
        self.give_up("the mirror is out of reach: the ack level asked for cannot be had", 0, true, cx);
        if linked {
            self.step_back(&reason, cx);
        }
        self.commit(cx);
    }

    pub(super) fn pause(&mut self, ticket: Ticket, cx: &mut Context) {
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
        cx.note(&origin, "paused by the operator");
        let report = self.report(format!("{origin} is paused"), cx);
        cx.emit(Effect::Reply { ticket, result: Ok(report) });
    }

    pub(super) fn resume(&mut self, ticket: Ticket, alone: bool, cx: &mut Context) {
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
