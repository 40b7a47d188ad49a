//! What follows a Welcome: records come in, are acknowledged, and are applied as far as the source asks and both ends have
//! persisted them. Called by the destination with what its source sends, and by the log when records are persisted, applied
//! or flushed.

use lockstep_storage::id::Seq;
use lockstep_storage::record::Record;

use crate::message::{Ack, Append, Message};
use crate::node::Context;
use crate::node::epochs::History;
use crate::node::log::{Log, Side};

impl Log {
    /// Records arrive: each must follow and be of its epoch, else the connection ends and the source sends again.
    pub(super) fn receive(&mut self, append: Append, cx: &mut Context) {
        let entry = cx.store.entry(&self.origin);
        let history = History { epochs: &entry.epochs, last: self.last };
        let mut parent = self.incoming.back().map_or(self.last, Record::position);
        let mut fault = None;
        for record in &append.records {
            let header = &record.header;
            if header.record_len() > self.limits.record_len_max {
                fault = Some(format!("record {} is too long for a segment here", header.seq));
            } else if header.seq != parent.seq.next() || header.parent != parent.checksum {
                fault = Some(format!("record {} does not follow {}", header.seq, parent.seq));
            } else if history.epoch_at(header.seq) != Some(header.epoch) {
                fault = Some(format!("record {} is of epoch {}", header.seq, header.epoch));
            }
            if fault.is_some() {
                break;
            }
            parent = record.position();
        }
        if let Some(fault) = fault {
            return self.hang_up(&fault, cx);
        }
        let waiting = self.incoming.bytes() + append.records.iter().map(Record::len).sum::<usize>();
        if waiting as u64 > self.limits.budget_len + self.limits.message_len_max as u64 * 4 {
            return self.hang_up("more records than the credit allows", cx);
        }
        let heartbeat = append.records.is_empty();
        self.incoming.extend(append.records);
        let received = self.incoming.back().map_or(self.last.seq, |r| r.header.seq);
        let destination = self.destination();
        destination.source_persisted = destination.source_persisted.max(append.persisted);
        destination.source_committed = destination.source_committed.max(append.committed);
        let known = destination.source_committed.min(received);
        let ack_now = destination.ack_received || heartbeat;
        self.committed = self.committed.max(known.min(self.persisted));
        if ack_now {
            self.ack(cx);
        }
        self.request_progress(cx);
    }

    pub(super) fn ack(&mut self, cx: &mut Context) {
        let received = self.incoming.back().map_or(self.last.seq, |r| r.header.seq);
        let (persisted, applied, budget_len) = (self.persisted, self.applied.seq, self.limits.budget_len);
        let destination = self.destination();
        let credit = destination.persisted_bytes + budget_len;
        let open = destination.is_open();
        if let Some(connection) = destination.connection
            && open
        {
            self.send(connection, Message::Ack(Ack { received, persisted, applied, credit }), cx);
        }
    }

    /// Applies what is waited for at the source, as far as both ends have persisted it.
    pub(super) fn apply_wanted(&mut self, cx: &mut Context) {
        let persisted = self.persisted;
        let destination = self.destination();
        let through = destination.apply_wanted.min(persisted).min(destination.source_persisted);
        self.apply(through, cx);
    }

    /// The image has come further: who waits for that at the source hears it.
    pub(in crate::node) fn tell_applied(&mut self, cx: &mut Context) {
        let applied = self.applied.seq;
        let destination = self.destination();
        let wanted = std::mem::take(&mut destination.apply_wanted);
        if wanted == Seq::ZERO {
            return;
        }
        if applied < wanted {
            destination.apply_wanted = wanted;
        }
        self.ack(cx);
    }

    pub(in crate::node) fn destination_persisted(&mut self, cx: &mut Context) {
        self.ack(cx);
        self.apply_wanted(cx);
        self.request_progress(cx);
        self.promote_progress(cx);
        self.greet(cx);
    }

    /// Apply, flush, answer: as far as the synchronization request and both ends' persists allow.
    pub(in crate::node) fn request_progress(&mut self, cx: &mut Context) {
        // A promote may have made a source of this end just before.
        let Side::Destination(_) = &self.side else { return };
        let (persisted, applied, flushed) = (self.persisted, self.applied.seq, self.flushed.applied.seq);
        let destination = self.destination();
        destination.unapplied.pop(applied);
        let Some((through, source_flushed)) = destination.request else { return };
        let allowed = through.min(persisted).min(destination.source_persisted);
        self.apply(allowed, cx);
        if applied < through {
            return;
        }
        if flushed < through {
            return self.flush(cx);
        }
        let destination = self.destination();
        destination.request = None;
        let connection = destination.connection;
        cx.store.change(&self.origin, |entry| entry.consistency_point = through);
        if let Some(connection) = connection {
            self.send(connection, Message::SyncDone { through }, cx);
        }
        self.trim(flushed.min(source_flushed), cx);
        self.publish(cx);
    }
}
