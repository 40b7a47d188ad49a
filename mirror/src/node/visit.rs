//! A source that its peer speaks to as if it were the destination. Either the peer took the origin over, and its Hello
//! tells the epoch under which it did: then this node is deposed, stores that, and is the destination when the peer comes
//! again. Or the peer is the one that was deposed and has not heard of it: then it is told so.

use super::Context;
use super::epochs::{History, Relation, relation};
use super::log::{After, Log};
use crate::event::Connection;
use crate::message::Message;
use crate::note::{Note, Noted};

impl Log {
    /// A connection that the peer opened; it takes the place of an older one.
    pub(super) fn visit(&mut self, connection: Connection, cx: &mut Context) {
        if let Some(older) = self.visitor.replace(connection) {
            self.close(older, cx);
        }
    }

    pub(super) fn visit_over(&mut self, connection: Connection) {
        if self.visitor == Some(connection) {
            self.visitor = None;
        }
    }

    pub(super) fn on_visit(&mut self, connection: Connection, message: &Message, cx: &mut Context) {
        if self.visitor != Some(connection) {
            return;
        }
        let Message::Hello(hello) = message else {
            let text = "a message that nobody sends before a Hello; the connection is closed";
            self.note(Note::new(Noted::ProtocolError).reason(text), cx);
            return self.end_visit(cx);
        };
        // An epoch that a crash may still take must not depose anybody: the peer comes again.
        let is_new = |(_, what): &(u64, After)| matches!(what, After::Raised | After::Reclaimed);
        if self.after.iter().any(is_new) {
            return self.end_visit(cx);
        }
        if let Some(reason) = self.objection(hello, cx) {
            return self.turn_away(&reason, cx);
        }
        let entry = cx.store.entry(&self.origin);
        let (ours, theirs) = (entry.epoch(), hello.epochs.last().map(|e| e.epoch).unwrap_or_default());
        let here = History { epochs: &entry.epochs, last: self.last };
        let there = History { epochs: &hello.epochs, last: hello.last };
        match relation(there, hello.node.node_id(), here) {
            Relation::Behind(_) | Relation::Diverged(_) if theirs > ours => {
                self.end_visit(cx);
                self.depose(theirs, cx);
            }
            Relation::Unrelated => {
                // The end that was never promoted is the one that may be filled from the other.
                self.rival = theirs > ours;
                let reason = format!("{} and {} hold unrelated histories of {}", hello.node, cx.node, self.origin);
                self.turn_away(&reason, cx);
            }
            _ => {
                let reason = format!("{} is the source of {} under epoch {ours}", cx.node, self.origin);
                self.turn_away(&reason, cx);
            }
        }
    }

    /// Says no, and under which epoch this node is the source.
    fn turn_away(&mut self, reason: &str, cx: &mut Context) {
        let epochs = cx.store.entry(&self.origin).epochs.clone();
        if let Some(connection) = self.visitor {
            self.send(connection, Message::Refused { reason: reason.into(), epochs }, cx);
        }
        self.end_visit(cx);
        self.connect_now(cx);
    }

    /// Closes the peer's connection, where there is one.
    pub(super) fn end_visit(&mut self, cx: &mut Context) {
        if let Some(connection) = self.visitor.take() {
            self.close(connection, cx);
        }
    }
}
