//! The destination's end: Hello, cut, welcome; lending records to a source that lost them. Below it `receive`: receipt, acks,
//! apply on request.
//!
//! A record is accepted only on the current connection, after its source's epochs are durable here, when it follows the
//! last one and is of the epoch that its seq falls in. It is applied only when it is persisted at both ends and asked for
//! by a synchronization request (or at promote), so the image is always an exact prefix of the origin's history.

mod receive;

use lockstep_storage::id::{Position, Seq};
use lockstep_storage::partition::Partition;
use lockstep_storage::record::Record;
use lockstep_storage::superblock::{OriginEntry, StoredRole};

use super::Context;
use super::baseline::take::{Kept, Taking};
use super::epochs::{History, Relation, fault_of, relation};
use super::log::{After, Ages, Log, Side};
use crate::event::{Connection, Effect, Now, Ticket};
use crate::message::{Append, Hello, Message, PROTOCOL_VERSION, Welcome};
use crate::note::{Note, Noted};
use crate::plan::{AckLevel, Policy};

/// What a promote waits for.
#[derive(Debug)]
pub(super) struct Promotion {
    /// The operator who asked; none where the source handed the origin over.
    pub(super) ticket: Option<Ticket>,
    pub(super) verdict: &'static str,
    pub(super) text: String,
    /// The fence is being stored.
    pub(super) storing: bool,
    /// It stands; the records that are held are being applied.
    pub(super) fenced: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    /// No Hello yet, or one that waits for earlier records to be persisted.
    Shut,
    /// The Hello's epochs are being stored, or what diverged is being cut.
    Settling,
    /// A baseline is asked for or taken.
    Filling,
    /// Records are accepted.
    Open,
}

/// The destination's side of a log.
#[derive(Debug)]
pub(super) struct Destination {
    /// Its log or its engine is gone, in words: it takes no part in the origin until the operator decides.
    pub(super) lost: Option<String>,
    /// There is nothing in its image, in words: its source fills it as soon as it connects.
    pub(super) damaged: Option<String>,
    /// It was the source until its peer took the origin, and has not been linked to it since.
    pub(super) fenced: bool,
    connection: Option<Connection>,
    pub(super) gate: Gate,
    /// What diverged is being cut, for this connection or an earlier one: until that is done nothing else begins.
    cutting: bool,
    hello: Option<Hello>,
    /// Ack as soon as a record is received: the source's default level.
    ack_received: bool,
    source_persisted: Seq,
    source_committed: Seq,
    /// Bytes of records persisted since the connection's Welcome: what the credit counts from.
    persisted_bytes: u64,
    /// The synchronization request under way: through where, and what the source had flushed.
    request: Option<(Seq, Seq)>,
    /// Somebody at the source waits to hear that records through here are in this image.
    apply_wanted: Seq,
    /// The baseline that is taken.
    pub(super) taking: Option<Taking>,
    /// The source has asked for records that it lost; it asks for more when it has these.
    lending: bool,
    pub(super) unapplied: Ages,
    pub(super) promotion: Option<Promotion>,
    pub(super) last_contact: Option<Now>,
    pub(super) connects: u64,
    pub(super) reason: String,
}

impl Destination {
    pub(super) fn new(fenced: bool) -> Self {
        Self {
            lost: None,
            damaged: None,
            fenced,
            connection: None,
            gate: Gate::Shut,
            cutting: false,
            hello: None,
            ack_received: false,
            source_persisted: Seq::ZERO,
            source_committed: Seq::ZERO,
            persisted_bytes: 0,
            request: None,
            apply_wanted: Seq::ZERO,
            taking: None,
            lending: false,
            unapplied: Ages::default(),
            promotion: None,
            last_contact: None,
            connects: 0,
            reason: "not connected since the start".into(),
        }
    }

    /// What a start finds.
    pub(super) fn open(fenced: bool, damaged: Option<String>) -> Self {
        let mut found = Self::new(fenced);
        if let Some(reason) = &damaged {
            found.reason = format!("{reason}; its source fills it when it connects");
        }
        found.damaged = damaged;
        found
    }

    /// One whose log or engine is gone.
    pub(super) fn lost(reason: Option<String>) -> Self {
        let shown = reason.clone().unwrap_or_default();
        Self { lost: reason, reason: shown, ..Self::new(false) }
    }

    /// Something is under way here that has to end first.
    pub(super) fn is_busy(&self) -> bool {
        self.promotion.is_some() || self.is_rebuilding()
    }

    pub(super) fn count_persisted(&mut self, records: &[Record], now_ms: u64, ages_max: usize) {
        let bytes = records.iter().map(Record::len).sum::<usize>() as u64;
        self.persisted_bytes += bytes;
        if let Some(last) = records.last() {
            self.unapplied.push(last.header.seq, now_ms, ages_max);
        }
    }

    pub(super) fn source_committed(&self) -> Seq {
        self.source_committed
    }

    pub(super) fn connection(&self) -> Option<Connection> {
        self.connection
    }

    pub(super) fn is_open(&self) -> bool {
        self.gate == Gate::Open
    }

    /// A source is let in: it sends records or a baseline, or will as soon as what comes first is stored.
    pub(super) fn stands(&self) -> bool {
        self.gate != Gate::Shut
    }

    /// Records are taken, or a baseline is: the source hears what is sent.
    pub(super) fn listens(&self) -> bool {
        matches!(self.gate, Gate::Open | Gate::Filling)
    }

    /// A source is linked, or is about to be.
    pub(super) fn has_hello(&self) -> bool {
        self.connection.is_some() && self.hello.is_some()
    }

    /// What is here is being cut or replaced: nothing else begins.
    pub(super) fn is_rebuilding(&self) -> bool {
        self.cutting || self.taking.as_ref().is_some_and(Taking::is_settled)
    }

    /// The incarnation of the source that is linked; 0 where none is.
    pub(super) fn hello_incarnation(&self) -> u64 {
        self.hello.as_ref().map_or(0, |hello| hello.incarnation)
    }

    /// A baseline that is not whole goes on with the next connection.
    fn leave_baseline(&mut self) {
        self.taking.take_if(|taking| !taking.is_settled());
    }
}

impl Log {
    /// The destination's side. Callers have matched on it.
    pub(super) fn destination(&mut self) -> &mut Destination {
        match &mut self.side {
            Side::Destination(destination) => destination,
            Side::Source(_) => unreachable!("asked a source for its destination side"),
        }
    }

    /// A connection from the source; it takes the place of an older one.
    pub(super) fn accept(&mut self, connection: Connection, cx: &mut Context) {
        let destination = self.destination();
        destination.connects += 1;
        destination.gate = Gate::Shut;
        destination.hello = None;
        destination.lending = false;
        destination.request = None;
        destination.apply_wanted = Seq::ZERO;
        destination.leave_baseline();
        if let Some(older) = destination.connection.replace(connection) {
            "replaced by a newer connection of the source".clone_into(&mut self.watch.link_reason);
            self.close(older, cx);
        }
        self.after.retain(|(_, what)| !matches!(what, After::Welcome(_) | After::MarkStored(..)));
    }

    pub(super) fn inbound_lost(&mut self, connection: Connection, reason: &str) {
        let destination = self.destination();
        if destination.connection == Some(connection) {
            destination.connection = None;
            destination.gate = Gate::Shut;
            destination.hello = None;
            destination.leave_baseline();
            destination.reason = format!("no link: {reason}");
            reason.clone_into(&mut self.watch.link_reason);
        }
    }

    /// Ends the connection from this side; the source comes again.
    pub(super) fn hang_up(&mut self, why: &str, cx: &mut Context) {
        if let Some(connection) = self.destination().connection {
            self.close(connection, cx);
            self.inbound_lost(connection, why);
        }
    }

    pub(super) fn on_inbound_message(&mut self, connection: Connection, message: Message, cx: &mut Context) {
        let (now, persisted, trimmed) = (cx.now, self.persisted, self.trimmed);
        let destination = self.destination();
        if destination.connection != Some(connection) {
            return;
        }
        destination.last_contact = Some(now);
        match message {
            Message::Hello(hello) if destination.gate == Gate::Shut && destination.hello.is_none() => {
                destination.hello = Some(hello);
                self.greet(cx);
            }
            Message::Append(append) if destination.is_open() => self.receive(append, cx),
            Message::Append(append) if destination.gate == Gate::Filling && append.records.is_empty() => {
                self.ack_baseline(cx);
            }
            Message::Baseline(message) => self.on_giver_message(message, cx),
            Message::Mending(message) if destination.hello.is_some() => self.on_mending(connection, message, cx),
            Message::Adopt { after } if destination.is_open() && after < trimmed => {
                let reason = format!("records after {after} are wanted, and those up to {trimmed} are trimmed here");
                self.refuse_hello(&format!("{reason}: promote this end and let it give a baseline"), cx);
            }
            Message::Adopt { after } if destination.is_open() && after <= persisted => {
                destination.lending = true;
                let (origin, from, bytes_max) = (self.origin.clone(), after.next(), self.limits.message_len_max);
                cx.emit(Effect::Fetch { origin, connection, from, bytes_max });
            }
            Message::SyncRequest { through, flushed } if destination.is_open() => {
                destination.source_persisted = destination.source_persisted.max(through);
                destination.source_committed = destination.source_committed.max(through);
                destination.request = Some((through, flushed));
                self.request_progress(cx);
            }
            Message::Apply { through } if destination.is_open() => {
                destination.source_persisted = destination.source_persisted.max(through);
                destination.apply_wanted = destination.apply_wanted.max(through);
                self.apply_wanted(cx);
            }
            Message::SetInSync(mark) if destination.is_open() => self.set_in_sync(connection, mark, cx),
            Message::HandOver { last } if destination.is_open() => self.take_offer(last, cx),
            Message::Clock(clock) if destination.is_open() => self.answer_clock(connection, clock, cx),
            _ => self.hang_up("a message that a source does not send now", cx),
        }
    }

    /// Answers the Hello, once everything received before is persisted.
    pub(super) fn greet(&mut self, cx: &mut Context) {
        let Side::Destination(_) = &self.side else { return };
        if !self.pending.is_empty() || !self.incoming.is_empty() {
            return;
        }
        let destination = self.destination();
        if destination.gate != Gate::Shut || destination.is_rebuilding() || destination.promotion.is_some() {
            return;
        }
        let Some(hello) = destination.hello.clone() else { return };
        if let Some(reason) = self.objection(&hello, cx) {
            return self.refuse_hello(&reason, cx);
        }
        if let Some(lost) = self.destination().lost.clone() {
            let way_out = format!("'lockstep rebuild {} --from' the address of its source fills it", self.origin);
            return self.refuse_hello(&format!("{lost}; {way_out}"), cx);
        }
        if self.full {
            let reason = self.no_room(cx);
            return self.refuse_hello(&reason, cx);
        }
        let entry = cx.store.entry(&self.origin);
        let theirs = History { epochs: &hello.epochs, last: hello.last };
        let ours = History { epochs: &entry.epochs, last: self.last };
        let found = relation(theirs, hello.node.node_id(), ours);
        if entry.rebuild {
            let common = match found {
                Relation::Diverged(common) => common,
                Relation::Same | Relation::Behind(_) | Relation::Ahead => hello.last.seq.min(self.last.seq),
                Relation::Deposed(_) | Relation::Unrelated => Seq::ZERO,
            };
            return self.take_baseline(&hello, Kept { common, through: Seq::ZERO }, cx);
        }
        if let Some(damaged) = self.destination().damaged.clone() {
            return self.fill_anew(&hello, &damaged, cx);
        }
        if started_empty(&hello, entry) {
            let reason = format!("{} has an NVRAM that is new: it is not the one whose records are here", hello.node);
            return self.refuse_hello(&reason, cx);
        }
        // Whatever comes of it: a source that went on alone has said so, and a promote must not say otherwise.
        if !hello.in_sync && entry.in_sync && found != Relation::Unrelated {
            cx.store.change(&self.origin, |entry| entry.in_sync = false);
        }
        match found {
            Relation::Same | Relation::Behind(_) | Relation::Ahead => self.take_over(&hello, cx),
            // Its own later epochs have no record here any more.
            Relation::Diverged(common) if self.last.seq == common => self.take_over(&hello, cx),
            // Also what is on its way into the image must not be cut.
            Relation::Diverged(common) if self.applied.seq.max(self.apply_asked) <= common => {
                self.cut(&hello, common, cx);
            }
            Relation::Diverged(common) => self.take_baseline(&hello, Kept { common, through: common }, cx),
            Relation::Deposed(epoch) => self.refuse_hello(&format!("{} is under epoch {epoch}", self.origin), cx),
            Relation::Unrelated => {
                let (node, source) = (cx.node.clone(), hello.node.clone());
                self.refuse_hello(&format!("{source} and {node} hold unrelated histories of {}", self.origin), cx);
            }
        }
    }

    /// Why no records are taken now. What is here already keeps its place on the disk (F22).
    pub(super) fn no_room(&self, cx: &Context) -> String {
        format!("the disk of {} has no room for more of {}; it is taken again when there is", cx.node, self.origin)
    }

    /// Why a Hello is not for this node.
    pub(super) fn objection(&self, hello: &Hello, cx: &Context) -> Option<String> {
        if hello.version != PROTOCOL_VERSION {
            return Some(format!(
                "protocol version {} is not {PROTOCOL_VERSION}, which {} speaks",
                hello.version, cx.node
            ));
        }
        if hello.peer != *cx.node {
            return Some(format!("this is {}, not {}", cx.node, hello.peer));
        }
        if hello.origin != self.origin {
            return Some(format!("this stream is for {}, not for {}", self.origin, hello.origin));
        }
        if self.peer.as_ref() != Some(&hello.node) {
            return Some(format!("{} is not the peer of {} for {}", hello.node, cx.node, self.origin));
        }
        fault_of(&hello.epochs).map(|fault| format!("{} sent epochs that cannot be: {fault}", hello.node))
    }

    pub(super) fn refuse_hello(&mut self, reason: &str, cx: &mut Context) {
        let epochs = cx.store.entry(&self.origin).epochs.clone();
        if let Some(connection) = self.destination().connection {
            self.send(connection, Message::Refused { reason: reason.into(), epochs }, cx);
        }
        self.hang_up(reason, cx);
        let destination = self.destination();
        destination.reason = match &destination.lost {
            Some(lost) => lost.clone(),
            None => format!("refused its source: {reason}"),
        };
    }

    /// Stores the source's epochs, then welcomes it.
    fn take_over(&mut self, hello: &Hello, cx: &mut Context) {
        let destination = self.destination();
        destination.gate = Gate::Settling;
        destination.ack_received = hello.ack == AckLevel::Received;
        let Some(connection) = destination.connection else { return };
        let version = cx.store.change(&self.origin, |entry| {
            entry.epochs.clone_from(&hello.epochs);
            entry.role = StoredRole::Destination;
            entry.peer_incarnation = hello.incarnation;
            entry.in_sync &= hello.in_sync;
            // At level `received` a restart of this node may have lost what was answered: nothing is proved then.
            entry.peer_strict = hello.policy == Policy::Strict && hello.ack != AckLevel::Received;
            entry.peer_link_timeout_ms = hello.link_timeout_ms;
        });
        self.when_stored(version, After::Welcome(connection));
    }

    /// What came after the common point was never committed: it is set aside before anything of the new epoch is taken.
    fn cut(&mut self, hello: &Hello, common: Seq, cx: &mut Context) {
        let ours = &cx.store.entry(&self.origin).epochs;
        // The next epoch of either end names the record that it follows.
        let after = hello.epochs.iter().chain(ours).find(|e| e.first == common.next()).copied();
        let before = hello.epochs.iter().rev().find(|e| e.first <= common);
        let Some(after) = after else {
            return self.refuse_hello("the epochs do not tell the common point", cx);
        };
        let destination = self.destination();
        destination.gate = Gate::Settling;
        destination.cutting = true;
        let epoch = before.map(|e| e.epoch).unwrap_or_default();
        let last = Position { epoch, seq: common, checksum: after.parent };
        let generation = self.partition.generation();
        cx.emit(Effect::Cut { origin: self.origin.clone(), last, epoch, generation });
    }

    /// The container ends at the common point, durably: the partition begins anew, and its old records are never read.
    pub(super) fn on_cut(&mut self, at: Position, cx: &mut Context) {
        let Side::Destination(_) = &self.side else { return };
        let text = "the source never committed them: they are in a tail, see 'lockstep tail list'";
        let (first, last) = (at.seq.next(), self.last.seq);
        self.note(Note::new(Noted::TailSetAside).reason(text).records(first, last), cx);
        let extent = self.partition.extent();
        let generation = self.partition.generation();
        self.partition = Partition::new(self.origin.node_id(), extent, generation);
        self.last = at;
        self.persisted = at.seq;
        self.committed = self.committed.min(at.seq);
        self.flushed.appended = at;
        self.apply_asked = self.applied.seq;
        cx.store.change(&self.origin, |entry| entry.generation_floor = generation);
        self.recovered = self.recovered.min(at.seq);
        self.stuck = None;
        let destination = self.destination();
        destination.gate = Gate::Shut;
        destination.cutting = false;
        self.greet(cx);
        self.promote_progress(cx);
    }

    pub(super) fn welcome(&mut self, connection: Connection, cx: &mut Context) {
        let Side::Destination(_) = &self.side else { return };
        let entry = cx.store.entry(&self.origin);
        let welcome = Welcome {
            version: PROTOCOL_VERSION,
            node: cx.node.clone(),
            incarnation: cx.store.superblock().incarnation,
            connection: connection.0,
            epochs: entry.epochs.clone(),
            last: self.last,
            credit: self.limits.budget_len,
        };
        let destination = self.destination();
        if destination.connection != Some(connection) || destination.promotion.is_some() {
            return;
        }
        destination.gate = Gate::Open;
        destination.persisted_bytes = 0;
        destination.reason = "linked".into();
        let was_fenced = std::mem::take(&mut destination.fenced);
        self.send(connection, Message::Welcome(welcome), cx);
        if was_fenced {
            self.publish(cx);
        }
    }

    fn set_in_sync(&mut self, connection: Connection, mark: bool, cx: &mut Context) {
        let version = cx.store.change(&self.origin, |entry| entry.in_sync = mark);
        self.when_stored(version, After::MarkStored(connection, mark));
    }

    /// What a source wants back cannot be read here either.
    pub(super) fn cannot_lend(&mut self, connection: Connection, reason: &str, cx: &mut Context) {
        let destination = self.destination();
        if destination.connection == Some(connection) && std::mem::take(&mut destination.lending) {
            self.refuse_hello(&format!("the records that are wanted are damaged here too: {reason}"), cx);
        }
    }

    /// Records were read back for a source that lost them.
    pub(super) fn lend(&mut self, connection: Connection, records: Vec<Record>, cx: &mut Context) {
        let (persisted, committed) = (self.persisted, self.committed);
        let destination = self.destination();
        if destination.connection == Some(connection) && std::mem::take(&mut destination.lending) {
            self.send(connection, Message::Append(Append { committed, persisted, records }), cx);
        }
    }

    pub(super) fn destination_tick(&mut self, cx: &mut Context) {
        self.greet(cx);
        self.promote_progress(cx);
    }

    /// Stops listening to the source, for a promote.
    pub(super) fn shut(&mut self, cx: &mut Context) {
        self.hang_up("the origin is being promoted here", cx);
    }
}

/// Has the source a new NVRAM under the epoch of the one whose records are here?
pub(super) fn started_empty(hello: &Hello, entry: &OriginEntry) -> bool {
    ![0, hello.incarnation].contains(&entry.peer_incarnation)
        && hello.epochs.last().map(|e| e.epoch) == Some(entry.epoch())
}
