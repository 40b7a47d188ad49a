//! The source's end: admission, places, commit, answers.
//!
//! Commit rule: a record is committed when it is persisted here and the destination has it at the stream's ack level;
//! persisted here is enough only where there is no mirror, under `async`, under `sync` after the out-of-sync mark is
//! durable, or at a promoted node that has not been in sync since. Nothing else moves `committed`.

mod late;

use std::collections::VecDeque;

use bytes::Bytes;
use lockstep_storage::id::{Epoch, Seq};
use lockstep_storage::op::{BeginEpoch, Mutation};
use lockstep_storage::partition::Write;
use lockstep_storage::record::{Draft, Place, Record};
use lockstep_storage::recovery::Recovered;
use lockstep_storage::superblock::{EPOCHS_MAX, EpochEntry, OriginEntry, StoredRole};

use super::Context;
use super::failback::Offer;
use super::log::{After, Log, Side};
use super::point::Points;
use super::stream::Stream;
use crate::client::{Answered, Receipt, Refusal};
use crate::event::{Effect, Now, Ticket};
use crate::note::{Note, Noted};
use crate::plan::{AckLevel, Limits, OriginPlan, Policy};
use crate::status::StreamState;

/// A write that waits for its place. The core's own have no ticket.
#[derive(Debug)]
struct Submission {
    ticket: Option<Ticket>,
    draft: Draft,
    require: Option<AckLevel>,
    since_ms: u64,
}

/// A write that has its place and waits to be done.
#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    epoch: Epoch,
    seq: Seq,
    time_ms: u64,
    /// A body's chunk: done when committed, for nobody reads it yet.
    chunk: bool,
    require: Option<AckLevel>,
    since_ms: u64,
}

/// The source's side of a log.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) stream: Option<Stream>,
    submissions: VecDeque<Submission>,
    waiting: VecDeque<Waiting>,
    /// Answered as unknown, in order: their records may yet become visible.
    doubtful: VecDeque<(Seq, Ticket)>,
    /// The epoch may be written under: it was raised, or a Hello was completed, since the start.
    pub(super) fresh: bool,
    raising: bool,
    /// Committed locally under any policy: the first start's records.
    bootstrap_through: Seq,
    /// It must not write: its peer took the origin, or is asked to.
    pub(super) fence: bool,
    pub(super) offer: Option<Offer>,
    pub(super) stopping: bool,
    pub(super) points: Points,
    pub(super) degraded_acks: u64,
    pub(super) mirrored_acks: u64,
}

/// Deletions and their like, which a full device still takes: they make room.
fn frees_space(draft: &Draft) -> bool {
    matches!(draft.kind(), 3 | 5 | 9 | 11 | 13 | 14)
}

impl Source {
    pub(super) fn open(
        plan: &OriginPlan,
        entry: &OriginEntry,
        (recovered, log_runs): (&Recovered, &[(Seq, u64)]),
        bootstrap: usize,
        limits: Limits,
        now: Now,
    ) -> Self {
        let mut source = Self::new(now);
        if entry.role == StoredRole::HandingOver {
            source.fence = true;
            source.offer = Some(Offer::found());
        }
        // Nobody has written anything but what a first start writes.
        let untouched = recovered.progress.appended.seq.0 <= bootstrap as u64 + 1;
        let found = (untouched, log_runs);
        source.stream = plan.stream.clone().map(|plan| Stream::open(plan, entry, found, limits, now));
        source.points.last = entry.consistency_point.min(recovered.progress.applied.seq);
        source
    }

    /// A source without a stream: what a promoted destination becomes.
    pub(super) fn new(now: Now) -> Self {
        Self {
            stream: None,
            submissions: VecDeque::new(),
            waiting: VecDeque::new(),
            doubtful: VecDeque::new(),
            fresh: false,
            raising: false,
            bootstrap_through: Seq::ZERO,
            fence: false,
            offer: None,
            stopping: false,
            points: Points::new(now),
            degraded_acks: 0,
            mirrored_acks: 0,
        }
    }

    pub(super) fn is_fenced(&self) -> bool {
        self.fence
    }

    /// Has it never met its destination, which may know what it has lost?
    pub(super) fn is_unmet(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.unmet)
    }

    pub(super) fn is_adopting(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.adopting.is_some())
    }

    /// May writes be answered that only this node has?
    fn is_alone(&self) -> bool {
        self.stream.as_ref().is_none_or(|stream| stream.alone)
    }

    /// Nothing waits for a place or an answer.
    pub(super) fn is_idle(&self) -> bool {
        self.submissions.is_empty() && self.waiting.is_empty()
    }
}

impl Log {
    /// The source's side. Callers have matched on it.
    pub(super) fn source(&mut self) -> &mut Source {
        match &mut self.side {
            Side::Source(source) => source,
            Side::Destination(_) => unreachable!("asked a destination for its source side"),
        }
    }

    pub(super) fn start_source(&mut self, bootstrap: &[Draft], cx: &mut Context) {
        self.found_frozen(cx);
        if self.source().fence {
            // What the stored offer was made with is committed, all of it.
            self.committed = self.last.seq;
            self.apply(self.last.seq, cx);
            return self.connect(cx);
        }
        // What is uncertain stays so until a Hello settles it, unless nobody else was needed for an answer before either.
        if self.source().is_alone() {
            self.commit(cx);
        } else {
            self.apply(self.committed, cx);
        }
        if cx.store.entry(&self.origin).epochs.is_empty() && self.origin == *cx.node {
            let since_ms = cx.now.mono_ms;
            let own = |draft: &Draft| Submission { ticket: None, draft: draft.clone(), require: None, since_ms };
            let drafts: VecDeque<_> = bootstrap.iter().map(own).collect();
            let through = Seq(drafts.len() as u64 + 1);
            let source = self.source();
            source.submissions = drafts;
            source.bootstrap_through = through;
            self.raise(cx);
        }
        self.connect(cx);
    }

    /// Begins a new epoch of this node: stored before it is used.
    pub(super) fn raise(&mut self, cx: &mut Context) {
        if std::mem::replace(&mut self.source().raising, true) {
            return;
        }
        // What was to be adopted and did not come is no part of this history.
        self.recovered = self.recovered.min(self.last.seq);
        // Also above one that this node has used and does not know of any more.
        let known = self.epoch(cx).max(cx.store.entry(&self.origin).fenced_by);
        let epoch = known.next(cx.node.node_id());
        let entry = EpochEntry::after(self.last, epoch);
        let waits = |stream: &Stream| stream.plan.policy != Policy::Async;
        let waits = self.source().stream.as_ref().is_some_and(waits);
        let version = cx.store.change(&self.origin, |stored| {
            push_epoch(&mut stored.epochs, entry);
            // A mark of an earlier policy, or of a mirror that was taken out of the configuration: under `async`, and alone, it
            // stops being true with the epoch's first answer.
            stored.in_sync &= waits;
        });
        self.drop_connection("a new epoch begins", cx);
        self.when_stored(version, After::Raised);
    }

    pub(super) fn raised(&mut self, cx: &mut Context) {
        if self.source().fence {
            return;
        }
        let begin = Mutation::BeginEpoch(BeginEpoch { node: cx.node.as_str().into() });
        let epoch = self.epoch(cx);
        if let Ok(draft) = Draft::new(begin, Bytes::new()) {
            let since_ms = cx.now.mono_ms;
            self.source().submissions.push_front(Submission { ticket: None, draft, require: None, since_ms });
        }
        let source = self.source();
        source.raising = false;
        source.fresh = true;
        let after = self.last.seq;
        self.note(Note::new(Noted::EpochBegun).epoch(epoch).seq(after), cx);
    }

    /// Admits a client's write, or refuses it without effect.
    pub(super) fn submit(
        &mut self,
        ticket: Ticket,
        draft: Draft,
        require: Option<AckLevel>,
        history: Option<u64>,
        cx: &mut Context,
    ) {
        if history.is_some_and(|history| history != self.history) {
            let reason = format!("records of {} came from its mirror meanwhile", self.origin);
            return cx.refuse(ticket, Refusal::Unavailable { reason, retry_after_s: 1 });
        }
        if let Err(refusal) = self.admit(&draft, require) {
            return cx.refuse(ticket, refusal);
        }
        let source = self.source();
        let (fresh, alone) = (source.fresh, source.is_alone());
        let since_ms = cx.now.mono_ms;
        source.submissions.push_back(Submission { ticket: Some(ticket), draft, require, since_ms });
        if !fresh && alone {
            self.raise(cx);
        }
    }

    fn admit(&self, draft: &Draft, require: Option<AckLevel>) -> Result<(), Refusal> {
        let (origin, full) = (self.origin.clone(), self.full);
        if draft.record_len() > self.limits.record_len_max {
            return Err(Refusal::NotWritable {
                reason: format!("a record of {} bytes is too long", draft.record_len()),
            });
        }
        let unavailable = |reason: String| Err(Refusal::Unavailable { reason, retry_after_s: 1 });
        let Side::Source(source) = &self.side else {
            let reason = format!("{origin} is mirrored here: this node is a replica until it is promoted");
            return Err(Refusal::NotWritable { reason });
        };
        if source.fence {
            let reason = format!("{origin} was given up to its peer: this node must not write");
            return Err(Refusal::NotWritable { reason });
        }
        if source.stopping {
            return unavailable("the node is stopping".into());
        }
        if let Some(reason) = self.why_stuck() {
            return unavailable(reason);
        }
        if source.offer.is_some() {
            return unavailable(format!("{origin} is being handed over to its peer"));
        }
        if full && !frees_space(draft) {
            return Err(Refusal::NoSpace { reason: format!("the device of {origin} is full") });
        }
        let Some(stream) = &source.stream else {
            return match require {
                Some(_) => unavailable(format!("{origin} has no mirror: the ack level asked for cannot be had")),
                None => Ok(()),
            };
        };
        let settled = stream.state == StreamState::InSync && stream.is_linked();
        let gives_up = draft.is_abandon() && source.fresh;
        if stream.state == StreamState::Unsettled || (!source.fresh && !stream.alone) {
            return unavailable(format!("what the mirror of {origin} has is not known yet: {}", stream.reason));
        }
        if stream.plan.policy == Policy::Strict && !stream.alone && !settled && !gives_up {
            return unavailable(format!("policy strict: the mirror of {origin} is not in sync: {}", stream.reason));
        }
        match require {
            Some(_) if stream.alone || !settled => {
                unavailable(format!("the mirror of {origin} is not in sync: the ack level asked for cannot be had"))
            }
            _ => Ok(()),
        }
    }

    /// Gives waiting submissions their places: one batch, handed to the device and the link.
    pub(super) fn place_submissions(&mut self, writes: &mut Vec<Write>, cx: &mut Context) -> Option<Seq> {
        let Side::Source(source) = &self.side else { return None };
        if source.raising || !source.fresh || source.submissions.is_empty() {
            return None;
        }
        let records = self.draw_batch(cx);
        let placed = self.place(&records, writes);
        let now_ms = cx.now.mono_ms;
        for record in &records[..placed] {
            let Some(submission) = self.source().submissions.pop_front() else { break };
            let Some(ticket) = submission.ticket else { continue };
            let (epoch, seq) = (record.header.epoch, record.header.seq);
            cx.emit(Effect::Placed { ticket, epoch, seq });
            let (time_ms, chunk) = (record.header.time_ms, record.is_data());
            let require = submission.require;
            if require == Some(AckLevel::Applied)
                && let Some(stream) = &mut self.source().stream
            {
                stream.apply_wanted = seq;
            }
            self.source().waiting.push_back(Waiting { ticket, epoch, seq, time_ms, chunk, require, since_ms: now_ms });
        }
        if placed == 0 {
            return None;
        }
        let (last, ages_max) = (self.last.seq, self.limits.ages_max);
        if let Some(stream) = &mut self.source().stream {
            for record in &records[..placed] {
                stream.backlog.placed(record.header.seq, record.len() as u64);
            }
            stream.unacked.push(last, now_ms, ages_max);
            stream.keep(&records[..placed]);
            if stream.plan.ack == AckLevel::Applied {
                stream.apply_wanted = last;
            }
        }
        self.pump(cx);
        Some(last)
    }

    /// The records that the next submissions become, if there is room for them.
    fn draw_batch(&self, cx: &Context) -> Vec<Record> {
        let Side::Source(source) = &self.side else { return Vec::new() };
        let mut place = Place {
            parent: self.last,
            epoch: self.epoch(cx),
            committed: self.committed,
            persisted: self.persisted,
            time_ms: self.time_ms.max(cx.now.wall_ms),
        };
        let mut bytes = 0;
        let mut records = Vec::with_capacity(source.submissions.len().min(self.limits.batch_records_max));
        for submission in source.submissions.iter().take(self.limits.batch_records_max) {
            bytes += submission.draft.record_len();
            if bytes > self.limits.batch_len_max && !records.is_empty() {
                break;
            }
            let record = submission.draft.clone().place(&place);
            place.parent = record.position();
            records.push(record);
        }
        records
    }

    pub(super) fn source_persisted(&mut self, cx: &mut Context) {
        if self.source().is_adopting() {
            return self.adopted(cx);
        }
        self.commit(cx);
        self.pump(cx);
        self.ask_to_apply(cx);
    }

    /// Moves `committed` as far as the commit rule allows, then apply and answers.
    pub(super) fn commit(&mut self, cx: &mut Context) {
        let persisted = self.persisted;
        let source = self.source();
        if source.fence {
            return;
        }
        let level = match &source.stream {
            Some(stream) if !stream.alone => persisted.min(stream.peer_level()),
            _ => persisted,
        };
        let level = level.max(persisted.min(source.bootstrap_through));
        self.committed = self.committed.max(level);
        self.apply(self.committed, cx);
        self.answer(cx);
    }

    /// Answers every write that is done.
    pub(super) fn answer(&mut self, cx: &mut Context) {
        let (committed, applied) = (self.committed, self.applied.seq);
        let Side::Source(source) = &mut self.side else { return };
        let mut behind = VecDeque::new();
        while let Some(front) = source.waiting.front() {
            if front.seq > committed || (!front.chunk && front.seq > applied) {
                break;
            }
            let Some(waiting) = source.waiting.pop_front() else { break };
            match source.answered(&waiting) {
                Some(ack) => {
                    let Waiting { ticket, epoch, seq, time_ms, .. } = waiting;
                    match ack {
                        Answered::Local => source.degraded_acks += 1,
                        Answered::Mirrored(_) => source.mirrored_acks += 1,
                    }
                    cx.emit(Effect::Done { ticket, result: Ok(Receipt { epoch, seq, ack, time_ms }) });
                }
                None => behind.push_back(waiting),
            }
        }
        // Those that asked for more than the stream's level stay in front, in order.
        while let Some(waiting) = behind.pop_back() {
            source.waiting.push_front(waiting);
        }
        self.settle_doubtful(applied, cx);
    }

    pub(super) fn source_tick(&mut self, cx: &mut Context) {
        self.stream_tick(cx);
        if let Side::Source(source) = &self.side
            && let Some(stream) = &source.stream
        {
            let timeout_ms = stream.plan.link_timeout.as_millis() as u64;
            self.give_up("the mirror did not come to the ack level asked for in time", timeout_ms, true, cx);
        }
        self.own_end_is_late(cx);
        self.point_tick(cx);
        self.failback_progress(cx);
    }
}

impl Source {
    /// Who has a committed write, or none where it asked for more than that.
    fn answered(&self, waiting: &Waiting) -> Option<Answered> {
        let got = match &self.stream {
            Some(stream) if stream.peer.applied >= waiting.seq => Answered::Mirrored(AckLevel::Applied),
            Some(stream) if stream.peer.persisted >= waiting.seq => Answered::Mirrored(AckLevel::Durable),
            Some(stream) if stream.peer.received >= waiting.seq => Answered::Mirrored(AckLevel::Received),
            // It was committed at level `received`, and the mirror has restarted since: it gets the record again.
            Some(stream) if !stream.alone && waiting.seq > self.bootstrap_through => return None,
            _ => Answered::Local,
        };
        match (waiting.require, got) {
            (None, got) => Some(got),
            (Some(asked), Answered::Mirrored(level)) if level >= asked => Some(got),
            _ => None,
        }
    }
}

/// Adds an epoch; forgets the oldest beyond the bound. Epochs of records that never came here, or that are damaged and given
/// up, are no part of this history.
pub(super) fn push_epoch(epochs: &mut Vec<EpochEntry>, entry: EpochEntry) {
    epochs.retain(|known| known.first <= entry.first);
    epochs.push(entry);
    if epochs.len() > EPOCHS_MAX {
        epochs.drain(..epochs.len() - EPOCHS_MAX);
    }
}
