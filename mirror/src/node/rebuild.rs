//! An origin whose log or engine is gone, and its operator's way out: it is filled by a baseline from whoever is its source.
//!
//! A start that finds one without the other takes no part in the origin: it may only be that a disk is not mounted. Nothing of
//! what a later start may need is changed before the operator says so.

use lockstep_storage::id::Seq;
use lockstep_storage::superblock::StoredRole;

use super::Context;
use super::log::{After, Log, Side};
use crate::event::Ticket;
use crate::note::{Note, Noted};

impl Log {
    /// Gives up what is here, for a baseline from the source.
    pub(super) fn rebuild(&mut self, ticket: Ticket, accept_loss: bool, cx: &mut Context) {
        let origin = self.origin.clone();
        let Some(peer) = self.peer.clone() else {
            return cx.reply_error(ticket, format!("{origin} has no peer that it could be filled from"));
        };
        let lost = match &self.side {
            Side::Destination(destination) if destination.is_busy() => {
                return cx.reply_error(ticket, format!("{origin} is being promoted or replaced: try again"));
            }
            Side::Destination(destination) => destination.lost.is_some() || destination.damaged.is_some(),
            Side::Source(_) if self.rival => false,
            Side::Source(_) => {
                let text = format!(
                    "this node is the source of {origin}: only one whose peer is the source can be filled from it"
                );
                return cx.reply_error(ticket, text);
            }
        };
        let held = self.last.seq;
        if !lost && held > Seq::ZERO && !accept_loss {
            let text =
                format!("{origin} has {held} records here; --accept-loss sets them aside for a baseline from {peer}");
            return cx.reply_error(ticket, text);
        }
        let entry = cx.store.entry(&origin);
        let was_alone = match entry.role {
            StoredRole::Destination => false,
            StoredRole::Source | StoredRole::HandingOver => !entry.in_sync,
            StoredRole::Fenced => true,
        };
        if lost && was_alone && !accept_loss {
            let text = format!(
                "{origin} was written here, and {peer} may lack some of it; --accept-loss gives up what the disks still have"
            );
            return cx.reply_error(ticket, text);
        }
        let floor = self.partition.generation();
        let fenced = matches!(self.side, Side::Source(_));
        let version = cx.store.change(&origin, |entry| {
            entry.rebuild = true;
            entry.lost = false;
            entry.lacks = Seq::ZERO;
            entry.in_sync = false;
            entry.promoted = false;
            entry.paused = false;
            entry.role = if fenced { StoredRole::Fenced } else { StoredRole::Destination };
            entry.generation_floor = entry.generation_floor.max(floor);
            if lost {
                entry.epochs.clear();
                entry.consistency_point = Seq::ZERO;
            }
        });
        let text = format!("{origin} is filled by a baseline as soon as {peer}, as its source, connects");
        self.note(Note::new(Noted::RebuildOrdered).reason(text.clone()), cx);
        match &mut self.side {
            Side::Source(_) => self.fence_for("what is here is given up for a baseline", version, cx),
            Side::Destination(destination) => {
                destination.damaged = destination.lost.take().or(destination.damaged.take());
                destination.reason = format!("waits for {peer} to connect as the source");
                self.hang_up("a rebuild was ordered", cx);
                self.when_stored(version, After::Rebuilding);
            }
        }
        let report = self.report(text, cx);
        cx.reply(ticket, report);
    }

    /// It is stored: the next Hello is answered by asking for a baseline.
    pub(super) fn rebuilding(&mut self, cx: &mut Context) {
        self.publish(cx);
    }
}
