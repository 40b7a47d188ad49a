//! The planned return: a source gives its origin to its destination, which has everything.
//!
//! The source stops admission, lets what is under way finish, and makes a consistency point. When both ends have it, it
//! stores that it writes no more; only then it makes the offer, and makes it again on every connection until it hears the
//! epoch under which its peer took the origin. So at no moment do two nodes write, whatever fails in between: before the
//! fence stands nothing has changed, after it the offer stays.

use lockstep_storage::id::{Epoch, Position};
use lockstep_storage::superblock::StoredRole;

use super::Context;
use super::destination::Promotion;
use super::log::{After, Log, Side};
use super::promote::{MAY_LACK_WRITES, PROVED, next_epoch};
use super::source::push_epoch;
use crate::event::{Report, Ticket};
use crate::message::Message;
use crate::note::{Note, Noted};
use crate::plan::Policy;
use crate::status::StreamState;

/// How long writes are refused for what the destination must do before the offer, in milliseconds: one whose image cannot go on
/// never has done it.
const DRAIN_MS: u64 = 120_000;
/// How long an operator waits to hear that the origin was taken, in milliseconds.
const OFFER_REPLY_MS: u64 = 10_000;

/// How far an offer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// What was admitted finishes, then a consistency point is made. Ends with the link.
    Draining,
    /// The fence is being stored.
    Storing,
    /// It stands: the destination is asked to take the origin, until it has.
    Offered,
    /// The operator does not wait for that: the epoch of a return to this node is being stored.
    TakenBack,
}

/// An origin on its way to its destination.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offer {
    /// The operator who asked, where his process still runs.
    ticket: Option<Ticket>,
    stage: Stage,
    /// When he asked.
    since_ms: u64,
}

impl Offer {
    /// What a restart finds of an offer that was stored.
    pub(super) fn found() -> Self {
        Self { ticket: None, stage: Stage::Offered, since_ms: 0 }
    }

    /// The fence stands, or is on its way to the device.
    pub(super) fn is_fenced(self) -> bool {
        self.stage != Stage::Draining
    }
}

impl Log {
    /// Gives the origin to its destination, or says what that would take.
    pub(super) fn failback(&mut self, ticket: Ticket, dry_run: bool, cx: &mut Context) {
        let (origin, last, now) = (self.origin.clone(), self.last, cx.now);
        let Side::Source(source) = &mut self.side else {
            let peer = self.peer.as_ref().unwrap_or(&self.origin);
            return cx.reply_error(ticket, format!("{peer} is the source of {origin} now: run it there"));
        };
        let Some(stream) = &source.stream else {
            return cx.reply_error(ticket, format!("{origin} has no mirror that could take it"));
        };
        if source.offer.is_some() {
            return cx.reply_error(ticket, format!("{origin} is being handed over to {}", stream.plan.destination));
        }
        if stream.state != StreamState::InSync || !stream.is_linked() {
            let (state, reason) = (stream.state, &stream.reason);
            return cx.reply_error(ticket, format!("{origin} is {state}, it must be in_sync: {reason}"));
        }
        let to = stream.plan.destination.clone();
        let unapplied = last.seq.0.saturating_sub(stream.peer.applied.0);
        if dry_run {
            let text = format!("{to} would take {origin}: in sync at {last}, {unapplied} records to be applied there");
            let report = Report { text, at: Some(last), verdict: Some(PROVED) };
            return cx.reply(ticket, report);
        }
        source.offer = Some(Offer { ticket: Some(ticket), stage: Stage::Draining, since_ms: now.mono_ms });
        source.points.due(now);
        let text = format!("to {to}: no more writes are taken, {unapplied} records to be applied there");
        self.note(Note::new(Noted::HandoverBegun).reason(text).at(last), cx);
        self.failback_progress(cx);
    }

    /// Goes on with a hand-over as far as the stream is.
    pub(super) fn failback_progress(&mut self, cx: &mut Context) {
        let (last, persisted, committed) = (self.last.seq, self.persisted, self.committed);
        let Side::Source(source) = &mut self.side else { return };
        let Some(offer) = source.offer else { return };
        if offer.stage != Stage::Draining {
            return self.still_offered(cx);
        }
        let Some(stream) = &source.stream else { return };
        let out_of_sync = stream.state != StreamState::InSync || !stream.is_linked();
        let late = cx.now.mono_ms.saturating_sub(offer.since_ms) >= DRAIN_MS;
        if out_of_sync || late {
            let reason = if out_of_sync {
                format!("{} went {} on the way: {}", self.origin, stream.state, stream.reason)
            } else {
                format!("{} did not come to a consistency point in {} s", self.origin, DRAIN_MS / 1000)
            };
            source.offer = None;
            self.note(Note::new(Noted::HandoverEnded).reason(reason.clone()), cx);
            if let Some(ticket) = offer.ticket {
                cx.reply_error(ticket, reason);
            }
            return;
        }
        let settled = source.is_idle() && persisted == last && committed == last && stream.peer.persisted >= last;
        if !settled || source.points.is_under_way() {
            return;
        }
        if source.points.last < last {
            source.points.due(cx.now);
            return;
        }
        source.offer = Some(Offer { stage: Stage::Storing, ..offer });
        source.fence = true;
        source.fresh = false;
        if let Some(stream) = &mut source.stream {
            let text = format!("{} is asked to take the origin", stream.plan.destination);
            stream.set(StreamState::HandingOver, text);
        }
        let version = cx.store.change(&self.origin, |entry| entry.role = StoredRole::HandingOver);
        self.publish(cx);
        self.when_stored(version, After::HandingOver);
    }

    /// The fence stands: from here on only the destination can go on.
    pub(super) fn may_be_offered(&mut self, cx: &mut Context) {
        let Side::Source(source) = &mut self.side else { return };
        if let Some(offer) = source.offer.as_mut().filter(|offer| offer.stage == Stage::Storing) {
            offer.stage = Stage::Offered;
        }
        self.offer(cx);
    }

    /// The operator hears that the destination has not taken it yet; the offer stays.
    fn still_offered(&mut self, cx: &mut Context) {
        let (now_ms, origin) = (cx.now.mono_ms, self.origin.clone());
        let Side::Source(source) = &mut self.side else { return };
        let Some(offer) = source.offer.as_mut().filter(|offer| offer.stage == Stage::Offered) else { return };
        let late = now_ms.saturating_sub(offer.since_ms) >= OFFER_REPLY_MS;
        let reason = source.stream.as_ref().map_or("", |stream| &stream.reason);
        if late && let Some(ticket) = offer.ticket.take() {
            let text = format!("{origin} is offered and not taken yet ({reason}); the offer stays until it is");
            cx.reply_error(ticket, text);
        }
    }

    /// Asks the destination that is linked to take the origin. Called when it is linked, and when it has acknowledged.
    pub(super) fn offer(&mut self, cx: &mut Context) {
        let last = self.last;
        let Side::Source(source) = &self.side else { return };
        let Some(stream) = &source.stream else { return };
        if source.offer.is_some_and(|offer| offer.stage == Stage::Offered)
            && stream.peer.persisted >= last.seq
            && let Some(connection) = stream.up()
        {
            self.send(connection, Message::HandOver { last }, cx);
        }
    }

    /// The source writes no more and offers the origin: this node takes it, as in a promote, with nothing to lose.
    pub(super) fn take_offer(&mut self, last: Position, cx: &mut Context) {
        let drained = self.pending.is_empty() && self.incoming.is_empty();
        if last != self.last || !drained {
            return self.hang_up("the origin was offered with another last record than the one that is here", cx);
        }
        if self.destination().promotion.is_some() {
            return;
        }
        let text = format!("handed over by its source, nothing is lost; last record {last}");
        self.shut(cx);
        self.destination().promotion =
            Some(Promotion { ticket: None, verdict: PROVED, text, storing: false, fenced: false });
        self.promote_progress(cx);
    }

    /// The destination has taken what was offered: the operator hears of it.
    pub(super) fn offer_taken(&mut self, by: Epoch, cx: &mut Context) {
        let Some(Offer { ticket: Some(ticket), stage, .. }) = self.source().offer.take() else { return };
        if stage == Stage::Draining {
            let text = format!("{} was promoted under epoch {by} before it was handed over", self.origin);
            return cx.reply_error(ticket, text);
        }
        let text = format!("{} is handed over: its peer is the source under epoch {by}", self.origin);
        let report = Report { text, at: Some(self.last), verdict: Some(PROVED) };
        cx.reply(ticket, report);
    }

    /// An operator wants back what was offered and not seen taken: the peer may have taken it all the same.
    pub(super) fn reclaim(&mut self, ticket: Ticket, dry_run: bool, accept_loss: bool, cx: &mut Context) {
        let (last, origin) = (self.last, self.origin.clone());
        if self.source().offer.is_some_and(|offer| offer.stage == Stage::TakenBack) {
            return cx.reply_error(ticket, format!("{origin} is being taken back"));
        }
        let text = format!(
            "{origin} was offered to its peer, which may have taken it and answered writes since; last record {last}"
        );
        if dry_run {
            return cx.reply(ticket, Report { text, at: Some(last), verdict: Some(MAY_LACK_WRITES) });
        }
        if !accept_loss {
            return cx.reply_error(ticket, format!("{text}; --accept-loss takes it back all the same"));
        }
        // Above the epoch under which the peer may have taken it.
        let begin = next_epoch(last, &origin, 2, cx);
        let offer = Offer { ticket: Some(ticket), stage: Stage::TakenBack, since_ms: cx.now.mono_ms };
        if let Some(Offer { ticket: Some(earlier), .. }) = self.source().offer.replace(offer) {
            cx.reply_error(earlier, format!("{origin} was taken back before its peer had taken it"));
        }
        // The peer's verdict under `strict` counts on that: nothing is answered alone but after a promote.
        let alone = self.source().stream.as_ref().is_none_or(|stream| stream.plan.policy != Policy::Strict);
        self.drop_connection("the offer is taken back", cx);
        let version = cx.store.change(&origin, |entry| {
            push_epoch(&mut entry.epochs, begin);
            entry.role = StoredRole::Source;
            entry.in_sync = false;
            entry.promoted = alone;
        });
        self.note(Note::new(Noted::HandoverReclaimed).reason(text).at(last), cx);
        self.when_stored(version, After::Reclaimed);
    }

    /// The new epoch stands: this node goes on alone.
    pub(super) fn reclaimed(&mut self, cx: &mut Context) {
        let Side::Source(source) = &mut self.side else { return };
        let Some(offer) = source.offer.take_if(|offer| offer.stage == Stage::TakenBack) else { return };
        source.fence = false;
        let alone = cx.store.entry(&self.origin).promoted;
        if let Some(stream) = &mut source.stream {
            stream.go_on_out_of_sync("taken back by the operator", alone);
        }
        self.raised(cx);
        self.publish(cx);
        self.connect(cx);
        if let Some(ticket) = offer.ticket {
            let text = format!("{} is this node's again under epoch {}", self.origin, self.epoch(cx));
            cx.reply(ticket, Report { text, at: Some(self.last), verdict: Some(MAY_LACK_WRITES) });
        }
    }
}
