//! A source that must not write any more: its peer took the origin, or its operator gave up what is here. Everybody who waits
//! hears it at once; the fence is stored; when it is durable this node is a destination.

use lockstep_storage::id::{Epoch, Seq};
use lockstep_storage::superblock::StoredRole;

use super::Context;
use super::destination::Destination;
use super::log::{After, Log, Side};
use crate::status::StreamState;

impl Log {
    /// The peer was promoted: never write again under this epoch. Stored first, then said.
    pub(super) fn depose(&mut self, by: Epoch, cx: &mut Context) {
        let source = self.source();
        if source.fence && source.offer.is_none() {
            return;
        }
        // Nothing was ever answered of what is here: there is nothing to compare, a baseline takes its place.
        let unmet = source.is_unmet();
        let reason = format!("the peer took {} over under epoch {by}", self.origin);
        let version = cx.store.change(&self.origin, |entry| {
            entry.role = StoredRole::Fenced;
            entry.in_sync = false;
            entry.promoted = false;
            entry.lacks = Seq::ZERO;
            entry.fenced_by = by;
            entry.rebuild |= unmet;
        });
        self.offer_taken(by, cx);
        self.fence_for(&reason, version, cx);
    }

    /// Nothing is written here any more: whoever waits hears it now, and when this version of the superblock is durable this
    /// node is a destination.
    pub(super) fn fence_for(&mut self, reason: &str, version: u64, cx: &mut Context) {
        let source = self.source();
        source.fence = true;
        source.fresh = false;
        self.refuse_submissions(reason, cx);
        self.give_up(reason, 0, false, cx);
        self.settle_doubtful(Seq(u64::MAX), cx);
        self.refuse_points(reason, cx);
        if let Some(stream) = &mut self.source().stream {
            stream.set(StreamState::Fenced, reason.to_owned());
        }
        self.drop_connection(reason, cx);
        self.watch.role_reason = Some(reason.to_owned());
        self.publish(cx);
        self.when_stored(version, After::Fenced);
    }

    /// The fence stands: this node is its peer's destination from here on.
    pub(super) fn fenced(&mut self, cx: &mut Context) {
        self.incoming.clear();
        self.end_visit(cx);
        self.thaw(cx);
        self.side = Side::Destination(Box::new(Destination::new(true)));
        self.publish(cx);
    }
}
