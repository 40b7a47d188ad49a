//! The way from a source to its destination: the stream's state, what waits to be sent, its connections and heartbeats.
//!
//! `alone` is the one thing that lets a write be answered without the destination. Under `sync` it is set only when the
//! out-of-sync mark is durable, and cleared when closing begins; under `strict` never; under `async` always. A node that was
//! promoted is alone under every policy until it has been in sync: its durable `promoted` mark says so.
//!
//! # Layout
//! - `connect`: attempts to connect, and connections that end.
//! - `settle`: from Hello to one history at both ends, or why not.
//! - `flow`: sending within the credit, acks, catching up, closing, in sync.
//! - `backlog`: how much waits for the destination.
//! - `alone`: a late mirror, the out-of-sync mark, pause and resume.

mod alone;
mod backlog;
mod connect;
mod flow;
mod settle;

use std::collections::VecDeque;

use lockstep_storage::id::{Origin, Position, Seq};
use lockstep_storage::record::Record;
use lockstep_storage::superblock::{OriginEntry, StoredRole};

use self::backlog::Backlog;
use super::Context;
use super::baseline::give::Giving;
use super::log::{Ages, Log, Side};
use crate::event::{Connection, Now};
use crate::message::{Append, Hello, Message, PROTOCOL_VERSION};
use crate::plan::{AckLevel, Limits, Policy, StreamPlan};
use crate::status::StreamState;

/// Time between heartbeats on a quiet link, in milliseconds: lag is a measurement also when nobody writes.
const HEARTBEAT_MS: u64 = 500;
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
    pub(super) limits: Limits,
    pub(super) state: StreamState,
    pub(super) reason: String,
    pub(super) alone: bool,
    /// A new source that its destination has never met: it may be one that lost everything, whose records only the
    /// destination has (F37). It takes no writes and no readers until they have met.
    pub(super) unmet: bool,
    link: Link,
    attempts: u32,
    pub(super) connects: u64,
    pub(super) peer: PeerMarks,
    /// Last record sent on this connection, the bytes of records sent on it, and how many may be.
    sent: Seq,
    sent_bytes: u64,
    /// What the destination had last when it was linked: the first record that is sent must follow it.
    follows: Position,
    credit: u64,
    fetching: bool,
    /// Somebody waits until the destination has applied through the first; it was asked to through the second.
    pub(super) apply_wanted: Seq,
    apply_asked: Seq,
    /// Unsent records up to the last one.
    window: VecDeque<Record>,
    window_bytes: usize,
    /// Batches that the destination does not have at the ack level.
    pub(super) unacked: Ages,
    /// The last record when the destination had first been sent everything on this connection.
    near: Option<Seq>,
    /// In sync when the destination has this.
    closing_at: Seq,
    /// In sync, and the destination may not know it: the connection that would have told it is gone.
    untold: bool,
    /// A degradation is being stored.
    pub(super) degrading: bool,
    /// What waits for it.
    pub(super) backlog: Backlog,
    /// The backlog passed its limit at this record: up to it records are trimmed whether the destination has them or not.
    pub(super) given_up: Seq,
    /// The first record that cannot be read back: who lacks it gets a baseline.
    pub(super) unreadable: Option<Seq>,
    /// The baseline that the destination gets.
    pub(super) giving: Option<Giving>,
    /// Where the destination is ahead: its last record, which this node takes over before anything else.
    pub(super) adopting: Option<Position>,
    pub(super) last_sent_ms: u64,
    last_heard_ms: u64,
    /// Since when the link stands or stood last.
    linked_ms: u64,
    /// The pause before the last attempt to connect, in milliseconds.
    delay_ms: u64,
    pub(super) last_contact_wall_ms: u64,
}

impl Stream {
    /// What a start finds.
    pub(super) fn open(
        plan: StreamPlan,
        entry: &OriginEntry,
        (untouched, log_runs): (bool, &[(Seq, u64)]),
        limits: Limits,
        now: Now,
    ) -> Self {
        let mut stream = Self::new(plan, limits, now);
        stream.unmet = untouched && entry.peer_incarnation == 0 && stream.plan.policy != Policy::Async;
        // What the destination has of it is not known yet.
        for (last, bytes) in log_runs {
            stream.backlog.placed(*last, *bytes);
        }
        stream.alone = match stream.plan.policy {
            Policy::Strict => entry.promoted,
            Policy::Sync => !entry.in_sync,
            Policy::Async => true,
        };
        let handing_over = entry.role == StoredRole::HandingOver;
        let damaged = entry.lacks > Seq::ZERO;
        // What is damaged here was answered, perhaps by this node alone: nobody goes on before that is settled.
        stream.alone &= !damaged && !stream.unmet;
        let (state, reason) = match (handing_over, entry.paused, entry.in_sync) {
            (true, ..) => (StreamState::HandingOver, "the peer is asked to take the origin"),
            _ if damaged => (StreamState::Unsettled, "records in the NVRAM are damaged; the mirror is asked for them"),
            _ if stream.unmet => (StreamState::Unsettled, "new; the mirror may have records of before"),
            (_, true, _) => (StreamState::Paused, "paused by the operator"),
            (_, _, true) => (StreamState::Unsettled, "restarted; the mirror may have been promoted meanwhile"),
            _ => (StreamState::OutOfSync, "not connected since the start"),
        };
        stream.set(state, reason.into());
        if state == StreamState::Unsettled && !damaged {
            stream.reason = stream.why_unsettled(&entry.origin, "not connected since the start");
        }
        stream
    }

    /// A stream that was never connected.
    pub(super) fn new(plan: StreamPlan, limits: Limits, now: Now) -> Self {
        Self {
            plan,
            limits,
            state: StreamState::OutOfSync,
            reason: String::new(),
            alone: false,
            unmet: false,
            link: Link::Down,
            attempts: 0,
            connects: 0,
            peer: PeerMarks::default(),
            sent: Seq::ZERO,
            sent_bytes: 0,
            follows: Position::default(),
            credit: 0,
            fetching: false,
            apply_wanted: Seq::ZERO,
            apply_asked: Seq::ZERO,
            window: VecDeque::new(),
            window_bytes: 0,
            unacked: Ages::default(),
            near: None,
            closing_at: Seq::ZERO,
            untold: false,
            degrading: false,
            backlog: Backlog::default(),
            given_up: Seq::ZERO,
            unreadable: None,
            giving: None,
            adopting: None,
            last_sent_ms: now.mono_ms,
            last_heard_ms: now.mono_ms,
            linked_ms: 0,
            delay_ms: 0,
            last_contact_wall_ms: 0,
        }
    }

    /// This node has taken the origin, and its peer may lack records. `alone`: until they are in sync it answers alone, whatever
    /// the policy.
    pub(super) fn go_on_out_of_sync(&mut self, why: &str, alone: bool) {
        self.alone = alone;
        self.degrading = false;
        self.attempts = 0;
        self.set(StreamState::OutOfSync, why.into());
    }

    /// The peer handed the origin over: it has every record up to `last`, and is waited for from the first write on.
    pub(super) fn go_on_in_sync(&mut self, last: Seq) {
        self.peer = PeerMarks { received: last, persisted: last, applied: Seq::ZERO };
        self.alone = self.plan.policy == Policy::Async;
        self.set(StreamState::InSync, "handed over; not connected yet".into());
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

    /// The link stands: both ends hold one history, or the destination gets a baseline.
    pub(super) fn stands(&self) -> bool {
        self.is_linked() || self.giving.is_some()
    }

    /// The pause before the attempt to connect that is under way, in milliseconds.
    pub(super) fn retry_ms(&self) -> Option<u64> {
        matches!(self.link, Link::Connecting(_)).then_some(self.delay_ms)
    }

    /// The connection that stands, greeted or not.
    pub(super) fn connection(&self) -> Option<Connection> {
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
        let why = if self.unmet {
            "new here, and the mirror may have records of before"
        } else {
            "restarted, and the mirror may have been promoted meanwhile"
        };
        format!("{why}; no link: {reason}{way_out}")
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

    /// The first record to be sent on this connection is not the child of the destination's last one.
    fn has_parted(&self) -> bool {
        let is_first = |record: &&Record| self.sent == self.follows.seq && record.header.seq == self.sent.next();
        self.window.front().filter(is_first).is_some_and(|record| record.header.parent != self.follows.checksum)
    }

    fn drop_front(&mut self) -> Option<Record> {
        let front = self.window.pop_front()?;
        self.window_bytes -= front.len();
        Some(front)
    }
}

impl Log {
    pub(super) fn stream(&mut self) -> Option<&mut Stream> {
        match &mut self.side {
            Side::Source(source) => source.stream.as_mut(),
            Side::Destination(_) => None,
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
            // Under `async` writes are answered without the mirror, whatever an earlier policy's mark says.
            in_sync: in_sync && stream.plan.policy != Policy::Async,
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
            Message::Baseline(message) if stream.link == Link::Greeting(connection) => {
                self.on_taker_message(message, cx);
            }
            Message::Refused { reason, epochs } => self.refused(&reason, &epochs, cx),
            Message::Ack(ack) if stream.is_linked() => self.on_ack(ack, cx),
            Message::SyncDone { through } => self.peer_point(through, cx),
            Message::ClockEcho { sent_ms, clock_ms } => self.clock_answered(sent_ms, clock_ms, cx),
            Message::InSyncStored(_) => {}
            Message::Append(append) if stream.adopting.is_some() => self.adopt(append.records, cx),
            Message::Mending(message) => self.on_mending(connection, message, cx),
            _ => self.protocol_error("a message that a destination does not send now", cx),
        }
    }

    pub(super) fn stream_tick(&mut self, cx: &mut Context) {
        self.connect(cx);
        let (now_ms, persisted, committed) = (cx.now.mono_ms, self.persisted, self.committed);
        let Some(stream) = self.stream() else { return };
        let timeout_ms = stream.plan.link_timeout.as_millis() as u64;
        let late = stream.unacked.oldest_ms(now_ms) >= timeout_ms;
        if stream.connection().is_some() && now_ms.saturating_sub(stream.last_heard_ms) >= timeout_ms.max(2_000) {
            if !matches!(stream.link, Link::Connecting(_)) {
                self.drop_connection("the mirror is silent", cx);
                self.connect(cx);
            }
        } else {
            let quiet = now_ms.saturating_sub(stream.last_sent_ms) >= HEARTBEAT_MS;
            if let Some(connection) = stream.up().filter(|_| quiet) {
                stream.last_sent_ms = now_ms;
                let message = Message::Append(Append { committed, persisted, records: Vec::new() });
                self.send(connection, message, cx);
            }
            self.give_tick(quiet, cx);
        }
        self.ask_clock(cx);
        self.bound_backlog(cx);
        if late {
            self.mirror_is_late(timeout_ms, cx);
        }
    }
}
