//! Failover: the destination takes the origin. Fence first: the new epoch is durable before anything is replayed or
//! served; then everything that is held is applied, and writes are taken under the new epoch.

use lockstep_storage::id::{Origin, Position, Seq};
use lockstep_storage::superblock::{EpochEntry, StoredRole};

use super::Context;
use super::baseline::take::Taking;
use super::destination::Promotion;
use super::failback::Offer;
use super::log::{After, Log, Side};
use super::source::{Source, push_epoch};
use super::stream::Stream;
use crate::event::{BaselineTask, Effect, Report, Ticket};
use crate::note::{Note, Noted};

/// Nothing can be missing: the source never answers alone, and it was in sync.
pub const PROVED: &str = "proved";
/// Nothing was missing at the last contact; under `sync` the source may have answered alone since.
pub const IN_SYNC_AT_LAST_CONTACT: &str = "in_sync_at_last_contact";
/// The source has, or may have, answered writes that are not here.
pub const MAY_LACK_WRITES: &str = "may_lack_writes";

/// The epoch of a node that takes an origin whose last record it knows, so many promotions further.
pub(super) fn next_epoch(last: Position, origin: &Origin, promotions: u32, cx: &Context) -> EpochEntry {
    let entry = cx.store.entry(origin);
    let known = entry.epoch().max(entry.fenced_by);
    EpochEntry::after(last, (0..promotions).fold(known, |epoch, _| epoch.next_promoted(cx.node.node_id())))
}

impl Log {
    /// Promotes, or says what it would do.
    pub(super) fn promote(&mut self, ticket: Ticket, dry_run: bool, accept_loss: bool, cx: &mut Context) {
        let origin = self.origin.clone();
        let destination = match &self.side {
            Side::Destination(destination) => destination,
            Side::Source(source) if source.offer.is_some_and(Offer::is_fenced) => {
                return self.reclaim(ticket, dry_run, accept_loss, cx);
            }
            Side::Source(_) => return cx.reply_error(ticket, format!("this node is the source of {origin} already")),
        };
        if destination.promotion.is_some() {
            return cx.reply_error(ticket, format!("{origin} is being promoted"));
        }
        if destination.taking.as_ref().is_some_and(Taking::is_settled) {
            return cx.reply_error(ticket, format!("a baseline of {origin} is being put in place: try again"));
        }
        if let Some(lost) = destination.lost.as_ref().or(destination.damaged.as_ref()) {
            return cx.reply_error(ticket, format!("{origin} cannot be served here: {lost}"));
        }
        if let Some(reason) = self.why_stuck() {
            return cx.reply_error(ticket, format!("{origin} cannot be served here: {reason}"));
        }
        let entry = cx.store.entry(&origin);
        // One that began anew has what its first start wrote, and waits for a baseline.
        let anew = entry.rebuild && entry.peer_incarnation == 0;
        if anew || entry.epochs.is_empty() || self.last.seq == Seq::ZERO {
            return cx.reply_error(ticket, format!("{origin} has never been mirrored here: there is nothing to serve"));
        }
        let (verdict, text) = self.verdict(cx);
        if dry_run {
            let report = Report { text, at: Some(self.last), verdict: Some(verdict) };
            return cx.emit(Effect::Reply { ticket, result: Ok(report) });
        }
        if verdict == MAY_LACK_WRITES && !accept_loss {
            return cx.reply_error(ticket, format!("{text}; --accept-loss promotes all the same"));
        }
        self.note(Note::new(Noted::PromoteBegun).reason(text.clone()).at(self.last), cx);
        self.shut(cx);
        self.destination().promotion =
            Some(Promotion { ticket: Some(ticket), verdict, text, storing: false, fenced: false });
        self.promote_progress(cx);
    }

    /// One of three, with a sentence that says where the origin stands and what a promote has to do.
    fn verdict(&self, cx: &Context) -> (&'static str, String) {
        let entry = cx.store.entry(&self.origin);
        let Side::Destination(destination) = &self.side else { return (MAY_LACK_WRITES, String::new()) };
        let unapplied = self.last.seq.0 - self.applied.seq.0;
        let at = format!("last record {}, {unapplied} not yet applied", self.last);
        let ago_ms = match destination.last_contact {
            Some(contact) => cx.now.mono_ms.saturating_sub(contact.mono_ms),
            None => cx.now.wall_ms.saturating_sub(self.time_ms),
        };
        match (entry.in_sync, entry.peer_strict) {
            (true, true) => (PROVED, format!("nothing is lost: in sync under policy strict; {at}")),
            (true, false) => {
                let text = format!(
                    "in sync at last contact, {}.{} s ago; under sync the source may have answered alone from {} ms after \
                     that on; {at}",
                    ago_ms / 1000,
                    ago_ms % 1000 / 100,
                    entry.peer_link_timeout_ms
                );
                (IN_SYNC_AT_LAST_CONTACT, text)
            }
            (false, _) => {
                let text = format!(
                    "{} is not in sync here: its source may have writes that this node lacks; {at}",
                    self.origin
                );
                (MAY_LACK_WRITES, text)
            }
        }
    }

    /// Goes on with a promote as far as persists and apply are.
    pub(super) fn promote_progress(&mut self, cx: &mut Context) {
        let drained = self.incoming.is_empty() && self.pending.is_empty();
        let (last, applied) = (self.last, self.applied.seq);
        let Side::Destination(destination) = &mut self.side else { return };
        // A cut that is under way moves the last record: the new epoch begins after what is left.
        let drained = drained && !destination.is_rebuilding();
        let Some(promotion) = &mut destination.promotion else { return };
        if !promotion.storing && drained {
            promotion.storing = true;
            let stays_in_sync = promotion.ticket.is_none() && self.way_out.is_some();
            let begin = next_epoch(last, &self.origin, 1, cx);
            let version = cx.store.change(&self.origin, |entry| {
                push_epoch(&mut entry.epochs, begin);
                entry.role = StoredRole::Source;
                // Handed over, the peer has every record, and writes nothing that this node lacks.
                entry.in_sync = stays_in_sync;
                entry.promoted = !stays_in_sync;
                entry.paused = false;
                entry.rebuild = false;
            });
            self.when_stored(version, After::Promoted);
        } else if promotion.fenced && applied >= last.seq {
            self.serve(cx);
        }
    }

    /// The fence stands: everything that is held is applied, whoever had asked for it or not.
    pub(super) fn promoted(&mut self, cx: &mut Context) {
        if let Some(promotion) = &mut self.destination().promotion {
            promotion.fenced = true;
        }
        self.committed = self.last.seq;
        self.apply(self.last.seq, cx);
        self.promote_progress(cx);
    }

    /// The image holds all: this node is the source from here on, alone.
    fn serve(&mut self, cx: &mut Context) {
        let Some(promotion) = self.destination().promotion.take() else { return };
        if let Some(connection) = self.destination().connection() {
            self.close(connection, cx);
        }
        let mut source = Source::new(cx.now);
        source.stream = self.way_out.clone().map(|plan| {
            let mut stream = Stream::new(plan, self.limits, cx.now);
            match promotion.ticket {
                Some(_) => stream.go_on_out_of_sync("promoted; not connected yet", true),
                None => stream.go_on_in_sync(self.last.seq),
            }
            stream
        });
        self.side = Side::Source(Box::new(source));
        // Whoever has looked at the replica has not seen everything that was before this.
        self.history += 1;
        // One that was being taken here is of no use any more.
        cx.emit(Effect::Baseline { origin: self.origin.clone(), task: BaselineTask::Drop });
        self.raised(cx);
        self.publish(cx);
        self.connect(cx);
        let epoch = self.epoch(cx);
        let text = format!("{} is promoted under epoch {epoch}: {}", self.origin, promotion.text);
        self.watch.role_reason = Some(text.clone());
        if let Some(ticket) = promotion.ticket {
            cx.reply(ticket, Report { text, at: Some(self.last), verdict: Some(promotion.verdict) });
        }
    }
}
