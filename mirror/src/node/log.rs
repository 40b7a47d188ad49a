//! What every origin has at either end: its partition, its marks, the records on their way to the device, apply and flush.
//!
//! `applied <= committed <= persisted <= last` at a source; at a destination `applied <= persisted` of both ends. A record
//! goes to the container when it is persisted here, never before, so the engine never knows more than the log.

mod queues;

use std::collections::VecDeque;

use lockstep_storage::id::{Epoch, Origin, Position, Seq};
use lockstep_storage::image::Progress;
use lockstep_storage::partition::{Partition, Write};
use lockstep_storage::record::{Draft, Record};
use lockstep_storage::recovery::Recovered;
use lockstep_storage::superblock::OriginEntry;

pub(super) use self::queues::{Ages, Incoming};
use super::Context;
use super::baseline::take::Taking;
use super::destination::Destination;
use super::repair::Repairs;
use super::skew::Skew;
use super::source::Source;
use super::watch::Watch;
use crate::client::{OriginState, Role};
use crate::event::{BaselineStep, Connection, Effect};
use crate::message::Message;
use crate::note::{Note, Noted};
use crate::plan::{Limits, OriginPlan, StreamPlan};

/// What waits for a version of the superblock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum After {
    /// Source: the new epoch may be used.
    Raised,
    /// Source: the out-of-sync mark stands, writes may be answered alone.
    Alone,
    /// Source: the in-sync mark stands.
    InSync,
    /// Source: the fence stands.
    Fenced,
    /// Destination: the source's epochs are taken over, it may send.
    Welcome(Connection),
    /// Destination: the in-sync mark stands.
    MarkStored(Connection, bool),
    /// Destination: the origin is this node's.
    Promoted,
    /// Source: this node writes no more, whatever becomes of the offer.
    HandingOver,
    /// Source: what was offered is this node's again.
    Reclaimed,
    /// Destination: what is here is given up for a baseline.
    Rebuilding,
    /// Destination: the engine that a baseline has filled is the origin's.
    Filled,
}

/// Connections that peers open are numbered oddly, those that this node opens evenly.
fn is_incoming(connection: Connection) -> bool {
    connection.0 % 2 == 1
}

/// Which end of the stream this node is.
#[derive(Debug)]
pub(super) enum Side {
    Source(Box<Source>),
    Destination(Box<Destination>),
}

/// One origin at this node.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) origin: Origin,
    pub(super) partition: Partition,
    /// The last record that has its place in the partition, durable or not.
    pub(super) last: Position,
    /// Its modification time: the next one's is not less.
    pub(super) time_ms: u64,
    pub(super) persisted: Seq,
    pub(super) committed: Seq,
    pub(super) applied: Position,
    pub(super) apply_asked: Seq,
    pub(super) flushed: Progress,
    pub(super) flushing: bool,
    flush_again: bool,
    pub(super) trimmed: Seq,
    /// The image is frozen at this record for a baseline, or is about to be after it: what follows is not trimmed.
    pub(super) hold: Option<Seq>,
    /// The last record that the start found: at a source a client may have been answered for any up to it.
    pub(super) recovered: Seq,
    /// See [`OriginState::history`].
    pub(super) history: u64,
    /// Placed and not yet persisted.
    pub(super) pending: VecDeque<Record>,
    /// Received from the peer and not yet placed.
    pub(super) incoming: Incoming,
    pub(super) full: bool,
    /// The record that cannot be applied, and why: the image stays before it.
    pub(super) stuck: Option<(Seq, String)>,
    waiting_for_segment: bool,
    pub(super) segment_waits: u64,
    pub(super) limits: Limits,
    pub(super) after: Vec<(u64, After)>,
    /// Where the records go while this node is the source.
    pub(super) way_out: Option<StreamPlan>,
    /// The other node of the pair, where there is one.
    pub(super) peer: Option<Origin>,
    /// Number of the last connection that this node opened.
    pub(super) opened: u64,
    /// The peer has said that it is the source too, of a history that has nothing in common with the one here.
    pub(super) rival: bool,
    /// A connection that the peer opened to this node as its destination, while this node is a source.
    pub(super) visitor: Option<Connection>,
    /// What is told of it.
    pub(super) watch: Watch,
    /// How the peer's clock stands to this node's.
    pub(super) skew: Skew,
    /// Damaged chunks.
    pub(super) repairs: Repairs,
    pub(super) side: Side,
}

impl Log {
    pub(super) fn open(
        plan: &OriginPlan,
        node: &Origin,
        entry: &OriginEntry,
        recovered: &Recovered,
        side: Side,
        limits: Limits,
    ) -> Self {
        let elsewhere = (entry.origin != *node).then(|| entry.origin.clone());
        let peer = plan.stream.as_ref().map(|stream| stream.destination.clone()).or(elsewhere);
        let progress = recovered.progress;
        let generation = recovered.generation.max(entry.generation_floor);
        Self {
            origin: entry.origin.clone(),
            partition: Partition::new(entry.origin.node_id(), entry.partition, generation),
            last: progress.appended,
            time_ms: recovered.time_ms,
            persisted: progress.appended.seq,
            committed: recovered.committed,
            applied: progress.applied,
            apply_asked: progress.applied.seq,
            flushed: progress,
            flushing: false,
            flush_again: false,
            trimmed: progress.trimmed,
            hold: recovered.frozen,
            // What is damaged may have been answered too.
            recovered: progress.appended.seq.max(entry.lacks),
            history: 0,
            pending: VecDeque::new(),
            incoming: Incoming::default(),
            full: false,
            stuck: None,
            waiting_for_segment: false,
            segment_waits: 0,
            limits,
            after: Vec::new(),
            way_out: plan.stream.clone(),
            peer,
            opened: 0,
            rival: false,
            visitor: None,
            watch: Watch::default(),
            skew: Skew::default(),
            repairs: Repairs::default(),
            side,
        }
    }

    /// First effects after opening.
    pub(super) fn start(&mut self, bootstrap: &[Draft], cx: &mut Context) {
        self.publish(cx);
        match &self.side {
            Side::Source(_) => self.start_source(bootstrap, cx),
            Side::Destination(_) => self.thaw(cx),
        }
    }

    /// Places what waits in the partition, hands it to the device and, at a source, to the link. Returns the last seq
    /// placed.
    pub(super) fn place_batch(&mut self, cx: &mut Context) -> Option<Seq> {
        let mut writes = Vec::new();
        let placed = match &self.side {
            Side::Source(source) if !source.is_adopting() => self.place_submissions(&mut writes, cx),
            _ => self.place_incoming(&mut writes, cx),
        };
        for Write { offset, pieces } in writes {
            cx.emit(Effect::Write { offset, pieces });
        }
        placed
    }

    /// Puts records that follow `last` in the partition; returns how many found room.
    pub(super) fn place(&mut self, records: &[Record], writes: &mut Vec<Write>) -> usize {
        let placed = self.partition.append(records, self.persisted, writes);
        if placed < records.len() && !self.waiting_for_segment {
            self.segment_waits += 1;
        }
        self.waiting_for_segment = placed < records.len();
        for record in &records[..placed] {
            self.last = record.position();
            self.time_ms = self.time_ms.max(record.header.time_ms);
            self.pending.push_back(record.clone());
        }
        placed
    }

    fn place_incoming(&mut self, writes: &mut Vec<Write>, cx: &mut Context) -> Option<Seq> {
        let (limits, mut bytes) = (self.limits, 0);
        let fits = |record: &&Record| {
            bytes += record.len();
            bytes <= limits.batch_len_max
        };
        let waiting = self.incoming.records.iter();
        let batch: Vec<Record> = waiting.take_while(fits).take(limits.batch_records_max).cloned().collect();
        let placed = self.place(&batch, writes);
        self.incoming.remove(placed);
        if placed > 0 && matches!(self.side, Side::Source(_)) {
            // No lock stands for these: nobody decides anything before they are in the image.
            self.history += 1;
            self.recovered = self.recovered.max(self.last.seq);
            self.publish(cx);
        }
        (placed > 0).then_some(self.last.seq)
    }

    /// Records through here are durable: they go to the container, and marks move.
    pub(super) fn on_persisted(&mut self, through: Seq, cx: &mut Context) {
        let count = self.pending.iter().take_while(|record| record.header.seq <= through).count();
        let records: Vec<Record> = self.pending.drain(..count).collect();
        self.persisted = self.persisted.max(through);
        match &mut self.side {
            Side::Source(_) => {}
            Side::Destination(destination) => {
                destination.count_persisted(&records, cx.now.mono_ms, self.limits.ages_max);
            }
        }
        if !records.is_empty() {
            cx.emit(Effect::Append { origin: self.origin.clone(), records });
        }
        match &self.side {
            Side::Source(_) => self.source_persisted(cx),
            Side::Destination(_) => self.destination_persisted(cx),
        }
        self.spill(cx);
    }

    /// Flushes the engine where a sealed segment waits for it.
    pub(super) fn spill(&mut self, cx: &mut Context) {
        if let Some(sealed) = self.partition.sealed_through()
            && self.persisted >= sealed
            && self.flushed.appended.seq < sealed
            && !self.flushing
        {
            self.flush(cx);
            // With it, how far the log is durable: the end of a segment that is lost whole is missed at the next start.
            cx.store.change(&self.origin, |_| ());
        }
    }

    /// Asks for a flush that covers everything up to now.
    pub(super) fn flush(&mut self, cx: &mut Context) {
        let swapping = match &self.side {
            Side::Destination(destination) => destination.taking.as_ref().is_some_and(Taking::is_swapping),
            Side::Source(_) => false,
        };
        if swapping {
            // The engine that is put in place is flushed, and there is nothing in it that is not.
        } else if self.flushing {
            self.flush_again = true;
        } else {
            self.flushing = true;
            cx.emit(Effect::Flush { origin: self.origin.clone() });
        }
    }

    pub(super) fn on_flushed(&mut self, progress: Progress, cx: &mut Context) {
        self.flushing = false;
        self.flushed = progress;
        self.partition.release(progress.appended.seq);
        if self.swap_waits() {
            self.flush_again = false;
            return self.filled(cx);
        }
        if std::mem::take(&mut self.flush_again) {
            self.flush(cx);
        }
        self.spill(cx);
        match &self.side {
            Side::Source(_) => self.point_progress(cx),
            Side::Destination(_) => self.request_progress(cx),
        }
    }

    pub(super) fn on_applied(&mut self, at: Position, cx: &mut Context) {
        let readable = self.is_readable();
        self.applied = at;
        if readable != self.is_readable() {
            self.publish(cx);
        }
        match &self.side {
            Side::Source(_) => {
                self.answer(cx);
                self.point_progress(cx);
            }
            Side::Destination(_) => {
                self.tell_applied(cx);
                self.promote_progress(cx);
                self.request_progress(cx);
            }
        }
    }

    /// Asks for apply through here, once.
    pub(super) fn apply(&mut self, through: Seq, cx: &mut Context) {
        if through > self.apply_asked {
            self.apply_asked = through;
            cx.emit(Effect::Apply { origin: self.origin.clone(), through });
        }
    }

    /// What needs space is refused while there is none: a client's writes here, a source's records at a destination (F22,
    /// F23).
    pub(super) fn on_full(&mut self, full: bool, cx: &mut Context) {
        if std::mem::replace(&mut self.full, full) == full {
            return;
        }
        self.note(Note::new(if full { Noted::DiskFull } else { Noted::DiskSpace }), cx);
        if full
            && let Side::Destination(destination) = &self.side
            && destination.has_hello()
        {
            let reason = self.no_room(cx);
            self.refuse_hello(&reason, cx);
        }
    }

    /// Removes what neither end needs any more from the log family and the bodies.
    pub(super) fn trim(&mut self, through: Seq, cx: &mut Context) {
        if through > self.trimmed {
            self.trimmed = through;
            cx.emit(Effect::Trim { origin: self.origin.clone(), through });
        }
        cx.emit(Effect::Collect { origin: self.origin.clone(), through: self.trimmed });
    }

    /// Runs `what` when this version of the superblock is durable.
    pub(super) fn when_stored(&mut self, version: u64, what: After) {
        self.after.push((version, what));
    }

    /// A version of the superblock is durable: whoever waited for it goes on, in order.
    pub(super) fn on_stored(&mut self, cx: &mut Context) {
        let ready = self.after.iter().take_while(|(version, _)| cx.store.is_durable(*version)).count();
        let ready: Vec<(u64, After)> = self.after.drain(..ready).collect();
        for (_, what) in ready {
            match what {
                After::Raised => self.raised(cx),
                After::Alone => self.alone(cx),
                After::InSync => self.in_sync(cx),
                After::Fenced => self.fenced(cx),
                After::Welcome(connection) => self.welcome(connection, cx),
                After::MarkStored(connection, mark) => {
                    self.send(connection, Message::InSyncStored(mark), cx);
                }
                After::Promoted => self.promoted(cx),
                After::HandingOver => self.may_be_offered(cx),
                After::Reclaimed => self.reclaimed(cx),
                After::Filled => self.filled(cx),
                After::Rebuilding => self.rebuilding(cx),
            }
        }
    }

    pub(super) fn on_baseline(&mut self, step: BaselineStep, cx: &mut Context) {
        match &self.side {
            Side::Source(_) => self.on_giver_step(step, cx),
            Side::Destination(_) => self.on_taker_step(step, cx),
        }
    }

    pub(super) fn send(&self, connection: Connection, message: Message, cx: &mut Context) {
        cx.emit(Effect::Send { origin: self.origin.clone(), connection, message });
    }

    pub(super) fn close(&self, connection: Connection, cx: &mut Context) {
        cx.emit(Effect::Close { origin: self.origin.clone(), connection });
    }

    pub(super) fn on_connected(&mut self, connection: Connection, cx: &mut Context) {
        match &self.side {
            Side::Source(_) if is_incoming(connection) => self.visit(connection, cx),
            Side::Source(_) => self.stream_connected(connection, cx),
            Side::Destination(_) => self.accept(connection, cx),
        }
    }

    pub(super) fn on_disconnected(&mut self, connection: Connection, reason: &str, cx: &mut Context) {
        match &self.side {
            Side::Source(_) if is_incoming(connection) => self.visit_over(connection),
            Side::Source(_) => self.stream_lost(connection, reason, cx),
            Side::Destination(_) => self.inbound_lost(connection, reason),
        }
    }

    /// Messages of another than the current connection are stale and dropped (F27).
    pub(super) fn on_message(&mut self, connection: Connection, message: Message, cx: &mut Context) {
        match &self.side {
            Side::Source(_) if is_incoming(connection) => self.on_visit(connection, &message, cx),
            Side::Source(_) => self.on_stream_message(connection, message, cx),
            Side::Destination(_) => self.on_inbound_message(connection, message, cx),
        }
    }

    pub(super) fn on_fetched(&mut self, connection: Connection, records: Vec<Record>, cx: &mut Context) {
        match &self.side {
            Side::Source(_) => self.stream_fetched(connection, records, cx),
            Side::Destination(_) => self.lend(connection, records, cx),
        }
    }

    /// Records that were wanted cannot be read back.
    pub(super) fn on_fetch_failed(&mut self, connection: Connection, seq: Seq, reason: &str, cx: &mut Context) {
        match &self.side {
            Side::Source(_) => self.stream_unreadable(connection, seq, reason, cx),
            Side::Destination(_) => self.cannot_lend(connection, reason, cx),
        }
    }

    /// Judges time.
    pub(super) fn tick(&mut self, cx: &mut Context) {
        self.repair_progress(cx);
        match &self.side {
            Side::Source(_) => self.source_tick(cx),
            Side::Destination(_) => self.destination_tick(cx),
        }
    }

    pub(super) fn epoch(&self, cx: &Context) -> Epoch {
        cx.store.entry(&self.origin).epoch()
    }

    pub(super) fn role(&self) -> Role {
        match &self.side {
            Side::Destination(destination) if destination.fenced || destination.lost.is_some() => Role::Fenced,
            Side::Destination(_) => Role::Destination,
            Side::Source(source) if source.is_fenced() => Role::Fenced,
            Side::Source(_) => Role::Source,
        }
    }

    /// Tells the gateway what this node is for the origin.
    pub(super) fn publish(&self, cx: &mut Context) {
        let entry = cx.store.entry(&self.origin);
        let point = entry.consistency_point;
        let epoch = entry.epochs.iter().rev().find(|e| e.first <= point).map(|e| e.epoch).unwrap_or_default();
        let (role, readable) = (self.role(), self.is_readable());
        let (origin, history) = (self.origin.clone(), self.history);
        cx.emit(Effect::Publish(OriginState { origin, role, consistency_point: (epoch, point), readable, history }));
    }

    fn is_readable(&self) -> bool {
        match &self.side {
            Side::Source(source) if !source.is_fenced() => !source.is_unmet() && self.applied.seq >= self.recovered,
            Side::Source(_) => true,
            Side::Destination(destination) => destination.lost.is_none() && destination.damaged.is_none(),
        }
    }
}
