//! The source's end of a baseline: freeze, send, keep what follows.
//!
//! Always true: while something is frozen, no record after it is trimmed.

use lockstep_storage::id::{ChunkId, Position, Seq};
use lockstep_storage::image::baseline::{Bookmark, Piece, Portion};

use crate::event::{BaselineStep, BaselineTask, Connection, Effect};
use crate::message::{Append, Baseline, Message};
use crate::node::Context;
use crate::node::log::{Log, Side};
use crate::node::stream::PeerMarks;
use crate::note::{Note, Noted};
use crate::plan::Policy;
use crate::status::{BaselineProgress, StreamState};

/// What may be saved up of the rate, in milliseconds of it.
const BURST_MS: u64 = 250;

/// Damaged chunks of one portion that are waited for, to be repaired from the destination's old image.
const MENDED_AT_ONCE: usize = 16;
/// Times that so many are waited for, in one portion.
const ROUNDS_MAX: u32 = 64;

/// A baseline on its way to the destination, on one connection.
#[derive(Debug)]
pub(in crate::node) struct Giving {
    connection: Connection,
    /// The record whose image it is, once that is frozen, and about how many bytes it has.
    at: Option<(Position, u64)>,
    /// Bytes that the destination had, bytes sent, and how many may be.
    have: u64,
    sent_bytes: u64,
    credit: u64,
    /// Where the next pieces begin; none before the destination is ready, and after the last.
    next: Option<Bookmark>,
    reading: bool,
    /// Where the portion at hand begins, and the damaged chunks in it that are being repaired. It is read once more then.
    from: Bookmark,
    mending: Vec<ChunkId>,
    /// Of those of the last round some are repaired, and how many rounds it were for this portion.
    mended: bool,
    rounds: u32,
    /// Bytes that the rate allows now; one portion may overdraw it.
    allowance: i64,
    refilled_ms: u64,
    began_ms: u64,
    damaged: u64,
}

impl Giving {
    pub(in crate::node) fn progress(&self, now_ms: u64) -> Option<BaselineProgress> {
        let (at, total) = self.at?;
        let ms = now_ms.saturating_sub(self.began_ms);
        Some(BaselineProgress { at: at.seq, have: self.have, bytes: self.sent_bytes, total, ms })
    }

    /// The record whose image it is, once that is frozen.
    pub(in crate::node) fn at(&self) -> Option<Position> {
        self.at.map(|(at, _)| at)
    }

    pub(in crate::node) fn connection(&self) -> Connection {
        self.connection
    }

    fn refill(&mut self, rate: u64, now_ms: u64) {
        let passed = now_ms.saturating_sub(self.refilled_ms).min(BURST_MS);
        self.refilled_ms = now_ms;
        let bytes = |ms: u64| i64::try_from(rate / 1000 * ms + rate % 1000 * ms / 1000).unwrap_or(i64::MAX);
        self.allowance = self.allowance.saturating_add(bytes(passed)).min(bytes(BURST_MS));
    }

    fn may_read(&self) -> bool {
        !self.reading && self.sent_bytes < self.credit && self.allowance > 0
    }
}

impl Log {
    /// The destination lacks what is trimmed here: it is told, and asks for a baseline.
    pub(in crate::node) fn offer_baseline(&mut self, reason: &str, cx: &mut Context) {
        let Some(stream) = self.stream() else { return };
        let Some(connection) = stream.connection() else { return };
        self.note(Note::new(Noted::BaselineOffered).reason(reason), cx);
        self.send(connection, Message::Baseline(Baseline::Offer), cx);
    }

    /// The destination asks for one. Nothing is waited for from it any more: under `sync` the out-of-sync mark is stored.
    pub(in crate::node) fn give_baseline(&mut self, credit: u64, cx: &mut Context) {
        if cx.store.entry(&self.origin).lacks > self.last.seq {
            return self.lacks_for_good(cx);
        }
        if !self.source().fresh && !self.source().fence {
            return self.raise(cx);
        }
        let (now_ms, origin) = (cx.now.mono_ms, self.origin.clone());
        let Some(stream) = self.stream() else { return };
        let Some(connection) = stream.connection() else { return };
        if stream.giving.is_some() {
            return self.protocol_error("it asks for a baseline twice", cx);
        }
        let to = stream.plan.destination.clone();
        stream.peer = PeerMarks::default();
        stream.giving = Some(Giving {
            connection,
            at: None,
            have: 0,
            sent_bytes: 0,
            credit,
            next: None,
            reading: false,
            from: Bookmark::default(),
            mending: Vec::new(),
            mended: true,
            rounds: 0,
            allowance: 0,
            refilled_ms: now_ms,
            began_ms: now_ms,
            damaged: 0,
        });
        if stream.plan.policy == Policy::Sync && !stream.alone && !stream.degrading {
            self.degrade(&format!("{to} needs a baseline"), cx);
        }
        let handing_over = self.source().offer.is_some();
        if let Some(stream) = self.stream()
            && !handing_over
        {
            stream.set(StreamState::Baseline, format!("the image is frozen for {to}"));
        }
        // What is frozen already is older, and held for.
        self.hold.get_or_insert(self.trimmed);
        cx.emit(Effect::Baseline { origin, task: BaselineTask::Freeze });
    }

    /// The worker has come further with what was asked of it at this end.
    pub(in crate::node) fn on_giver_step(&mut self, step: BaselineStep, cx: &mut Context) {
        match step {
            BaselineStep::Frozen { at, bytes } => self.frozen(at, bytes, cx),
            BaselineStep::Read { connection, at, portion } => self.pieces_read(connection, at, portion, cx),
            BaselineStep::Unreadable { connection, reason } => self.cannot_give(connection, &reason, cx),
            // Of a baseline that this end took before it became the source.
            _ => {}
        }
    }

    fn frozen(&mut self, at: Position, bytes: u64, cx: &mut Context) {
        if self.hold.is_some() {
            self.hold = Some(at.seq);
        }
        let entry = cx.store.entry(&self.origin);
        let epochs = entry.epochs.iter().filter(|known| known.first <= at.seq).copied().collect();
        let Some(stream) = self.stream() else { return };
        let Some(giving) = &mut stream.giving else { return };
        giving.at = Some((at, bytes));
        let connection = giving.connection;
        self.send(connection, Message::Baseline(Baseline::Begin { at, epochs, bytes }), cx);
    }

    /// Messages about a baseline from the destination.
    pub(in crate::node) fn on_taker_message(&mut self, message: Baseline, cx: &mut Context) {
        let Some(stream) = self.stream() else { return };
        match (message, &mut stream.giving) {
            (Baseline::Wanted { credit }, None) => self.give_baseline(credit, cx),
            (Baseline::Ready { next, have }, Some(giving)) if giving.at.is_some() && giving.next.is_none() => {
                let (what, resumed) = if next == Bookmark::default() {
                    (Noted::BaselineBegun, "")
                } else {
                    (Noted::BaselineResumed, "; the mirror has a part of it already")
                };
                let (at, total) = giving.at.unwrap_or_default();
                giving.next = Some(next);
                giving.have = have;
                stream.reason = format!("the mirror takes a baseline{resumed}");
                self.note(Note::new(what).at(at).bytes(total.saturating_sub(have)), cx);
                self.give_more(cx);
            }
            (Baseline::Ack { credit }, Some(giving)) => {
                giving.credit = giving.credit.max(credit);
                self.give_more(cx);
            }
            _ => self.protocol_error("a message about a baseline that a destination does not send now", cx),
        }
    }

    /// Asks for the next pieces, as far as the credit and the rate allow.
    fn give_more(&mut self, cx: &mut Context) {
        let (origin, now_ms) = (self.origin.clone(), cx.now.mono_ms);
        let Some(stream) = self.stream() else { return };
        let (rate, most) = (stream.plan.baseline_rate, stream.limits.message_len_max);
        let Some(giving) = &mut stream.giving else { return };
        giving.refill(rate, now_ms);
        if !giving.may_read() {
            return;
        }
        let Some(from) = giving.next.take() else { return };
        giving.reading = true;
        giving.from.clone_from(&from);
        let allowed = usize::try_from(giving.allowance).unwrap_or(0);
        let task = BaselineTask::Read { connection: giving.connection, from, bytes_max: most.min(allowed).max(1) };
        cx.emit(Effect::Baseline { origin, task });
    }

    fn pieces_read(&mut self, connection: Connection, at: Position, portion: Portion, cx: &mut Context) {
        let now_ms = cx.now.mono_ms;
        let Some(stream) = self.stream() else { return };
        let Some(giving) = stream.giving.as_mut().filter(|giving| giving.connection == connection) else { return };
        if giving.at.is_none_or(|(of, _)| of != at) {
            return self.protocol_error("what is frozen has changed", cx);
        }
        if !portion.damaged.is_empty() && giving.mended && giving.rounds < ROUNDS_MAX {
            return self.mend_portion(portion.damaged, cx);
        }
        (giving.mended, giving.rounds) = (true, 0);
        let Portion { pieces, next, damaged } = portion;
        let bytes = pieces.iter().map(Piece::len).sum::<usize>() as u64;
        giving.reading = false;
        giving.sent_bytes += bytes;
        giving.allowance = giving.allowance.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        giving.damaged += damaged.len() as u64;
        giving.next.clone_from(&next);
        let damaged = giving.damaged;
        stream.last_sent_ms = now_ms;
        if next.is_none() && damaged > 0 {
            let text = "chunks are damaged here and were left out";
            self.note(Note::new(Noted::BaselineIncomplete).reason(text).count(damaged).at(at), cx);
        }
        self.send(connection, Message::Baseline(Baseline::Pieces { pieces, next }), cx);
        self.give_more(cx);
    }

    /// Chunks of a portion are damaged here: what the destination has of them is put in place before it is read once more.
    fn mend_portion(&mut self, damaged: Vec<ChunkId>, cx: &mut Context) {
        let wanted = damaged.into_iter().take(MENDED_AT_ONCE).filter(|chunk| self.want(*chunk)).collect();
        if let Some(giving) = self.stream().and_then(|stream| stream.giving.as_mut()) {
            giving.mending = wanted;
            giving.mended = false;
            giving.rounds += 1;
        }
        self.read_again(cx);
        self.repair_progress(cx);
    }

    /// A damaged chunk got its bytes back, or will not.
    pub(in crate::node) fn mended_for_baseline(&mut self, chunk: ChunkId, done: bool, cx: &mut Context) {
        let Some(giving) = self.stream().and_then(|stream| stream.giving.as_mut()) else { return };
        let waited = giving.mending.len();
        giving.mending.retain(|wanted| *wanted != chunk);
        if giving.mending.len() < waited {
            giving.mended |= done;
            self.read_again(cx);
        }
    }

    fn read_again(&mut self, cx: &mut Context) {
        let Some(giving) = self.stream().and_then(|stream| stream.giving.as_mut()) else { return };
        if giving.mending.is_empty() {
            giving.next = Some(giving.from.clone());
            giving.reading = false;
            self.give_more(cx);
        }
    }

    /// The image here is damaged: who needs a baseline of it cannot have one, and who writes goes on.
    fn cannot_give(&mut self, connection: Connection, reason: &str, cx: &mut Context) {
        let current = self.stream().and_then(|stream| stream.giving.as_ref()).map(Giving::connection);
        if current == Some(connection) {
            self.reject(&format!("no baseline can be given, the image here is damaged: {reason}"), cx);
        }
    }

    /// Time passes for a baseline: the rate allows more, and a quiet link is shown to live.
    pub(in crate::node) fn give_tick(&mut self, heartbeat: bool, cx: &mut Context) {
        let (now_ms, committed, persisted) = (cx.now.mono_ms, self.committed, self.persisted);
        let Some(stream) = self.stream() else { return };
        let Some(giving) = &stream.giving else { return };
        let connection = giving.connection;
        if heartbeat {
            stream.last_sent_ms = now_ms;
            let message = Message::Append(Append { committed, persisted, records: Vec::new() });
            self.send(connection, message, cx);
        }
        self.give_more(cx);
    }

    /// A start finds what an earlier process froze: of use only while what follows is here.
    pub(in crate::node) fn found_frozen(&mut self, cx: &mut Context) {
        if self.hold.is_some_and(|hold| hold < self.trimmed) {
            self.thaw(cx);
        }
    }

    /// The destination can go on from the records that are here: what was frozen for it goes.
    pub(in crate::node) fn thaw(&mut self, cx: &mut Context) {
        if self.hold.take().is_some() {
            cx.emit(Effect::Baseline { origin: self.origin.clone(), task: BaselineTask::Thaw });
        }
    }

    /// The backlog has passed its limit while the destination was away: it is given up, and the destination gets a baseline
    /// when it comes (F20, F35).
    pub(in crate::node) fn bound_backlog(&mut self, cx: &mut Context) {
        let (last, trimmed) = (self.last.seq, self.trimmed);
        let Some(stream) = self.stream() else { return };
        let (bytes, limit) = (stream.backlog.bytes(), stream.plan.backlog_limit);
        let waits_alone = stream.alone && !stream.is_linked() && stream.giving.is_none();
        if !waits_alone || bytes <= limit || stream.given_up > trimmed {
            return;
        }
        stream.given_up = last;
        let to = stream.plan.destination.clone();
        let text =
            format!("{bytes} bytes wait for {to}, more than the backlog's limit of {limit}: it needs a baseline");
        if stream.state != StreamState::Paused {
            stream.set(StreamState::Baseline, text.clone());
        }
        self.note(Note::new(Noted::BacklogDropped).reason(text).seq(last).bytes(bytes), cx);
        self.thaw(cx);
        self.source().points.due(cx.now);
    }

    /// Up to where neither the destination nor a baseline needs the records any more, where this end has flushed this far.
    pub(in crate::node) fn trimmable(&self, flushed: Seq) -> Seq {
        let Side::Source(source) = &self.side else { return flushed };
        let peer = source.stream.as_ref().map_or(flushed, |stream| stream.peer.persisted.max(stream.given_up));
        flushed.min(peer).min(self.hold.unwrap_or(flushed))
    }
}
