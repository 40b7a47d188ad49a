//! What follows a Hello: how the two histories stand to each other, what the source takes over from its destination,
//! and why a destination is not linked. Called by the stream with what its destination says, and by the source when
//! records that it took over are persisted.
//!
//! Always true: no record is sent before both ends are known to hold one history.

use lockstep_storage::id::{Epoch, Position, Seq};
use lockstep_storage::record::Record;
use lockstep_storage::superblock::EpochEntry;

use super::{Link, PeerMarks};
use crate::event::Connection;
use crate::message::{Message, Welcome};
use crate::node::Context;
use crate::node::epochs::{History, Relation, relation};
use crate::node::log::{Log, Side};
use crate::note::{Note, Noted};
use crate::plan::Policy;
use crate::status::StreamState;

impl Log {
    pub(super) fn refused(&mut self, reason: &str, epochs: &[EpochEntry], cx: &mut Context) {
        let ours = self.epoch(cx);
        match epochs.last().map(|e| e.epoch) {
            Some(theirs) if theirs > ours && theirs.node != cx.node.node_id() => self.depose(theirs, cx),
            Some(theirs) if theirs > ours => self.set_back(theirs, cx),
            _ => self.reject(&format!("the mirror refused: {reason}"), cx),
        }
    }

    /// The mirror has records under a later epoch of this very node: an old copy of its disks is back (F12). What clients were
    /// answered for since is not here, so nothing is answered alone on top of it before an operator says so; and then not
    /// under an epoch that was used.
    fn set_back(&mut self, theirs: Epoch, cx: &mut Context) {
        let ours = self.epoch(cx);
        if cx.store.entry(&self.origin).fenced_by < theirs {
            cx.store.change(&self.origin, |entry| entry.fenced_by = theirs);
        }
        let Some(stream) = self.stream() else { return };
        if stream.state != StreamState::HandingOver {
            stream.alone = false;
            stream.set(StreamState::Unsettled, String::new());
        }
        let reason =
            format!("this node has gone back in time: it is under epoch {ours}, the mirror has its epoch {theirs}");
        self.refuse_submissions(&reason, cx);
        self.give_up(&reason, 0, false, cx);
        self.reject(&reason, cx);
    }

    /// The streams do not fit: keeps trying slowly, in a state that says why.
    pub(in crate::node) fn reject(&mut self, reason: &str, cx: &mut Context) {
        self.drop_connection(reason, cx);
        let Some(stream) = self.stream() else { return };
        stream.attempts = stream.attempts.max(8);
        // A restarted source that was in sync stays unsettled: it must not write before this is cleared up.
        if stream.state == StreamState::Unsettled {
            reason.clone_into(&mut stream.reason);
        } else {
            stream.set(StreamState::Refused, reason.to_owned());
        }
        self.connect(cx);
        let retry_ms = self.stream().and_then(|stream| stream.retry_ms());
        self.note(Note::new(Noted::StreamRefused).reason(reason).retry_ms(retry_ms), cx);
    }

    /// The destination has said what it has: from here on both ends hold one history, or the reason why not is known.
    pub(super) fn settle(&mut self, welcome: &Welcome, cx: &mut Context) {
        let entry = cx.store.entry(&self.origin);
        let ours = History { epochs: &entry.epochs, last: self.last };
        let theirs = History { epochs: &welcome.epochs, last: welcome.last };
        let found = relation(ours, cx.node.node_id(), theirs);
        let committed = self.committed;
        match found {
            Relation::Same | Relation::Behind(_) if entry.lacks > self.last.seq => self.lacks_for_good(cx),
            Relation::Same | Relation::Behind(_) if welcome.last.seq < self.readable_from() => {
                let (has, from) = (welcome.last.seq, self.readable_from().next());
                if let Some(stream) = self.stream() {
                    // It has lost what it had acknowledged: nobody is told that it has it.
                    stream.peer = PeerMarks { received: has, persisted: has, applied: Seq::ZERO };
                }
                let reason = format!("the mirror has records up to {has}, those here begin at {from}");
                self.offer_baseline(&reason, cx);
            }
            Relation::Same | Relation::Behind(_) => {
                if welcome.last.seq < committed && entry.in_sync {
                    let text = "it gets them again";
                    let (first, last) = (welcome.last.seq.next(), committed);
                    self.note(Note::new(Noted::MirrorLostRecords).reason(text).records(first, last), cx);
                }
                if cx.store.entry(&self.origin).peer_incarnation != welcome.incarnation {
                    cx.store.change(&self.origin, |entry| entry.peer_incarnation = welcome.incarnation);
                }
                self.link_up(welcome.last, welcome.credit, cx);
            }
            Relation::Ahead if self.source().fresh => {
                let (ours, theirs) = (self.last.seq, welcome.last.seq);
                let text = "this node has gone back in time, or the mirror claims records that were never written";
                self.reject(&format!("{text}: under one epoch there are {theirs} there and {ours} here"), cx);
            }
            Relation::Ahead => {
                let (after, last) = (self.last.seq, welcome.last);
                let Some(stream) = self.stream() else { return };
                let Some(connection) = stream.connection() else { return };
                stream.adopting = Some(last);
                stream.credit = welcome.credit;
                let alone = stream.alone;
                self.note(Note::new(Noted::AdoptBegun).records(after.next(), last.seq), cx);
                // A client may have been answered for what is missing here: nobody reads the image until it holds that. One
                // that answers alone goes on without, if the mirror goes away before it has come.
                if !alone {
                    self.recovered = self.recovered.max(last.seq);
                    self.publish(cx);
                }
                self.send(connection, Message::Adopt { after }, cx);
            }
            Relation::Deposed(epoch) => self.depose(epoch, cx),
            Relation::Diverged(common) => {
                self.offer_baseline(&format!("the mirror went another way after record {common}"), cx);
            }
            Relation::Unrelated => {
                let (node, peer) = (cx.node.clone(), welcome.node.clone());
                let reason = format!("{node} and {peer} hold unrelated histories of {}", self.origin);
                self.reject(&reason, cx);
            }
        }
    }

    /// Records that only the destination has: a client may have been answered for them.
    pub(super) fn adopt(&mut self, mut records: Vec<Record>, cx: &mut Context) {
        let entry = cx.store.entry(&self.origin);
        let history = History { epochs: &entry.epochs, last: self.last };
        let mut parent = self.incoming.back().map_or(self.last, Record::position);
        // What was asked for again while it was under way.
        records.retain(|record| record.header.seq > parent.seq);
        for record in &records {
            let header = &record.header;
            let follows = header.seq == parent.seq.next() && header.parent == parent.checksum;
            let fits = header.record_len() <= self.limits.record_len_max;
            if !follows || !fits || history.epoch_at(header.seq) != Some(header.epoch) {
                return self.protocol_error("records to adopt do not follow", cx);
            }
            parent = record.position();
        }
        self.incoming.extend(records);
    }

    /// Adopted records are persisted: the next are asked for; when all are, the ends are the same.
    pub(in crate::node) fn adopted(&mut self, cx: &mut Context) {
        let (persisted, last, nothing_waits) = (self.persisted, self.last, self.incoming.is_empty());
        let Some(stream) = self.stream() else { return };
        match stream.adopting {
            Some(target) if persisted >= target.seq && last == target => {
                stream.adopting = None;
                let credit = stream.credit;
                self.recovered = self.recovered.max(persisted);
                self.publish(cx);
                self.note(Note::new(Noted::AdoptDone).seq(persisted), cx);
                if self.is_repaired(cx) {
                    self.link_up(last, credit, cx);
                }
            }
            Some(target) if persisted >= target.seq => {
                self.protocol_error("the adopted records are not those announced", cx);
            }
            // One message at a time, so that no more is held than one brings.
            Some(_) if persisted == last.seq && nothing_waits => {
                if let Some(connection) = stream.connection() {
                    self.send(connection, Message::Adopt { after: persisted }, cx);
                }
            }
            _ => {}
        }
    }

    /// Is everything here that was ever durable here? What was damaged may have come back just now.
    fn is_repaired(&mut self, cx: &mut Context) -> bool {
        let (lacks, persisted) = (cx.store.entry(&self.origin).lacks, self.persisted);
        if lacks == Seq::ZERO {
            return true;
        }
        if persisted < lacks {
            self.lacks_for_good(cx);
            return false;
        }
        cx.store.change(&self.origin, |entry| entry.lacks = Seq::ZERO);
        self.note(Note::new(Noted::RecordsRepaired).reason("they came from the mirror").seq(lacks), cx);
        true
    }

    /// What is damaged here cannot be had from the mirror either: its operator decides.
    pub(in crate::node) fn lacks_for_good(&mut self, cx: &mut Context) {
        let (from, through) = (self.last.seq.next(), cx.store.entry(&self.origin).lacks);
        let reason = format!("records {from} to {through} are damaged here, and the mirror does not have them");
        self.reject(&reason, cx);
    }

    /// The destination must have everything up to here to go on with records: what is trimmed, and what is damaged.
    fn readable_from(&self) -> Seq {
        let Side::Source(source) = &self.side else { return self.trimmed };
        let unreadable = source.stream.as_ref().and_then(|stream| stream.unreadable);
        self.trimmed.max(unreadable.unwrap_or_default())
    }

    /// A record that the destination lacks is damaged here, or its chunk is: the image may be sound without it, or with what is
    /// in it repaired.
    pub(in crate::node) fn stream_unreadable(
        &mut self,
        connection: Connection,
        seq: Seq,
        reason: &str,
        cx: &mut Context,
    ) {
        let Some(stream) = self.stream() else { return };
        if stream.up() != Some(connection) {
            return;
        }
        stream.unreadable = Some(seq);
        self.note(Note::new(Noted::RecordUnreadable).reason(reason).seq(seq), cx);
        // What may be frozen is older than the record.
        self.thaw(cx);
        self.drop_connection("a record cannot be sent", cx);
        self.connect(cx);
    }

    /// What comes next does not follow what the destination has: they parted under one epoch, which happens only where a node
    /// has gone back in time (F12).
    pub(super) fn parted(&mut self, at: Seq, cx: &mut Context) {
        let origin = self.origin.clone();
        let Some(stream) = self.stream() else { return };
        let peer = stream.plan.destination.clone();
        let reason =
            format!("record {at} of {origin} at {peer} is another one than here: one end has gone back in time");
        self.reject(&reason, cx);
    }

    /// Both ends hold one history, the destination up to `at`: sends the rest.
    fn link_up(&mut self, at: Position, credit: u64, cx: &mut Context) {
        let has = at.seq;
        if !self.source().fresh && !self.source().fence {
            // The first Hello since the start: bodies that the process before left open are given up by a new epoch.
            return self.raise(cx);
        }
        let in_sync = cx.store.entry(&self.origin).in_sync;
        let now = cx.now;
        let last = self.last.seq;
        let Some(stream) = self.stream() else { return };
        let Some(connection) = stream.connection() else { return };
        let gave = stream.giving.take().and_then(|giving| giving.at());
        stream.link = Link::Up(connection);
        stream.linked_ms = now.mono_ms;
        stream.given_up = Seq::ZERO;
        stream.unreadable = None;
        stream.peer.received = has;
        stream.peer.persisted = has;
        stream.sent = has;
        stream.follows = at;
        stream.sent_bytes = 0;
        stream.credit = credit;
        stream.apply_asked = Seq::ZERO;
        stream.last_sent_ms = now.mono_ms;
        stream.backlog.pass(has);
        stream.unacked.pop(has);
        let waits = stream.state == StreamState::InSync || stream.state == StreamState::Closing;
        let met = std::mem::take(&mut stream.unmet);
        stream.alone |= met && stream.plan.policy == Policy::Sync;
        if stream.state == StreamState::InSync && !stream.alone {
            stream.untold = true;
            stream.closing_at = last;
        }
        if stream.state == StreamState::HandingOver {
            stream.reason = format!("{} is asked to take the origin", stream.plan.destination);
        } else if !waits || stream.alone {
            // With the in-sync mark durable nothing was ever answered alone: acks are waited for from now on.
            let strict_mark = in_sync && stream.plan.policy != Policy::Async;
            if strict_mark {
                stream.alone = false;
            }
            stream.set(StreamState::CatchingUp, "the mirror gets what it lacks".into());
        }
        if met {
            self.publish(cx);
        }
        if let Some(at) = gave {
            self.note(Note::new(Noted::BaselineDone).at(at), cx);
        }
        self.skew.ask_now();
        self.thaw(cx);
        self.commit(cx);
        self.pump(cx);
        self.ask_to_apply(cx);
        self.converge(cx);
        self.offer(cx);
    }
}
