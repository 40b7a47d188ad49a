//! Failover: the destination takes the origin. Fence first: the new epoch is durable before anything is replayed or
//! served; then everything that is held is applied, and writes are taken under the new epoch.

use lockstep_storage::superblock::{EpochEntry, StoredRole};

use super::Context;
use super::destination::Promotion;
use super::log::{After, Log, Side};
use super::source::{Source, push_epoch};
use crate::event::{Effect, Report, Ticket};

/// Nothing can be missing: the source never answers alone, and it was in sync.
pub const PROVED: &str = "proved";
/// Nothing was missing at the last contact; under `sync` the source may have answered alone since.
pub const IN_SYNC_AT_LAST_CONTACT: &str = "in_sync_at_last_contact";
/// The source has, or may have, answered writes that are not here.
pub const MAY_LACK_WRITES: &str = "may_lack_writes";

impl Log {
    /// Promotes, or says what it would do.
    pub(super) fn promote(&mut self, ticket: Ticket, dry_run: bool, accept_loss: bool, cx: &mut Context) {
        let origin = self.origin.clone();
        let Side::Destination(destination) = &self.side else {
            return cx.reply_error(ticket, format!("this node is the source of {origin} already"));
        };
        if destination.promotion.is_some() {
            return cx.reply_error(ticket, format!("{origin} is being promoted"));
        }
        if cx.store.entry(&origin).epochs.is_empty() {
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
        cx.note(&origin, format!("promote: {text}"));
        self.shut(cx);
        self.destination().promotion = Some(Promotion { ticket, verdict, text, storing: false, fenced: false });
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
        let drained = drained && !destination.is_cutting();
        let Some(promotion) = &mut destination.promotion else { return };
        if !promotion.storing && drained {
            promotion.storing = true;
            let epoch = cx.store.entry(&self.origin).epoch().next_promoted(cx.node.node_id());
            let begin = EpochEntry::after(last, epoch);
            let version = cx.store.change(&self.origin, |entry| {
                push_epoch(&mut entry.epochs, begin);
                entry.role = StoredRole::Source;
                entry.in_sync = false;
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
        let now = cx.now;
        self.side = Side::Source(Box::new(Source::new(now)));
        self.raised(cx);
        self.publish(cx);
        let epoch = self.epoch(cx);
        let text = format!("{} is promoted under epoch {epoch}: {}", self.origin, promotion.text);
        cx.note(&self.origin, text.clone());
        let report = Report { text, at: Some(self.last), verdict: Some(promotion.verdict) };
        cx.emit(Effect::Reply { ticket: promotion.ticket, result: Ok(report) });
    }
}
