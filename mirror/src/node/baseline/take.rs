//! The destination's end of a baseline: ask, fill, put in place.
//!
//! Always true: until the superblock names the filled engine, nothing of the origin here has changed; from then on nothing
//! of what was there before is used.

use lockstep_storage::id::{Position, Seq};
use lockstep_storage::image::Progress;
use lockstep_storage::image::baseline::{Bookmark, Piece};
use lockstep_storage::partition::Partition;
use lockstep_storage::superblock::{EpochEntry, StoredRole};

use crate::event::{BaselineStep, BaselineTask, Effect};
use crate::message::{Baseline, Hello, Message};
use crate::node::Context;
use crate::node::destination::{Gate, started_empty};
use crate::node::epochs::{History, fault_of};
use crate::node::log::{After, Log, Side};
use crate::note::{Note, Noted};
use crate::status::BaselineProgress;

/// How far a baseline is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// What will be given up is being set aside.
    SettingAside,
    /// The source was asked.
    Asked,
    /// The engine is being made ready.
    Beginning,
    /// Pieces come.
    Filling,
    /// That the filled engine is the origin's is being stored: from here on there is no way back.
    Storing,
    /// It is being put in place.
    Swapping,
}

/// A baseline that is taken.
#[derive(Debug)]
pub(in crate::node) struct Taking {
    stage: Stage,
    at: Position,
    epochs: Vec<EpochEntry>,
    /// About how many bytes it is.
    total: u64,
    /// Bytes that earlier connections brought; those that came, and those that are in the engine, on this one.
    have: u64,
    received_bytes: u64,
    taken_bytes: u64,
    began_ms: u64,
}

impl Taking {
    fn new(stage: Stage) -> Self {
        Self {
            stage,
            at: Position::default(),
            epochs: Vec::new(),
            total: 0,
            have: 0,
            received_bytes: 0,
            taken_bytes: 0,
            began_ms: 0,
        }
    }

    /// It goes on whatever becomes of the connection.
    pub(in crate::node) fn is_settled(&self) -> bool {
        matches!(self.stage, Stage::Storing | Stage::Swapping)
    }

    pub(in crate::node) fn is_swapping(&self) -> bool {
        self.stage == Stage::Swapping
    }

    pub(in crate::node) fn progress(&self, now_ms: u64) -> Option<BaselineProgress> {
        let begun = matches!(self.stage, Stage::Filling | Stage::Storing | Stage::Swapping);
        let ms = now_ms.saturating_sub(self.began_ms);
        begun.then_some(BaselineProgress {
            at: self.at.seq,
            have: self.have,
            bytes: self.taken_bytes,
            total: self.total,
            ms,
        })
    }
}

/// What of this end's history need not be set aside before a baseline.
#[derive(Debug, Clone, Copy)]
pub(in crate::node) struct Kept {
    /// The last record that the source has too; 0 where that cannot be told.
    pub(in crate::node) common: Seq,
    /// The last one that is not set aside: that one, or 0 where everything is given up by order.
    pub(in crate::node) through: Seq,
}

impl Log {
    /// This end's history cannot go on: what is not kept of it is set aside, and the source is asked for a baseline.
    pub(in crate::node) fn take_baseline(&mut self, hello: &Hello, kept: Kept, cx: &mut Context) {
        let history = History { epochs: &hello.epochs, last: hello.last };
        let epoch = history.epoch_at(kept.through).unwrap_or_default();
        let (origin, last) = (self.origin.clone(), self.last.seq);
        // What is trimmed is in the image only, which is given up.
        let (common, after) = (kept.common, kept.through.max(self.trimmed));
        let destination = self.destination();
        destination.gate = Gate::Filling;
        // What is set aside comes after this.
        destination.taking =
            Some(Taking { at: Position { seq: after, epoch, checksum: 0 }, ..Taking::new(Stage::SettingAside) });
        cx.store.change(&origin, |entry| entry.in_sync = false);
        if after >= last {
            return self.ask_for_baseline(cx);
        }
        cx.emit(Effect::Baseline { origin, task: BaselineTask::SetAside { common, after, epoch } });
    }

    /// There is nothing in the image here: what the source has takes its place, where that is known to be what was here, or more.
    pub(in crate::node) fn fill_anew(&mut self, hello: &Hello, damaged: &str, cx: &mut Context) {
        let entry = cx.store.entry(&self.origin);
        let known = entry.epochs.last().is_none_or(|last| hello.epochs.contains(last));
        if !known || hello.last.seq < entry.consistency_point || started_empty(hello, entry) {
            let (source, origin) = (&hello.node, &self.origin);
            let text =
                format!("{damaged}; {source} does not have what was here: 'lockstep rebuild {origin}' gives it up");
            return self.refuse_hello(&text, cx);
        }
        let text = format!("{damaged}: {} fills it", hello.node);
        self.note(Note::new(Noted::EngineRefilled).reason(text), cx);
        self.take_baseline(hello, Kept { common: Seq::ZERO, through: Seq::ZERO }, cx);
    }

    /// Nothing of the origin is here, or the source says that it has nothing that follows.
    pub(in crate::node) fn ask_for_baseline(&mut self, cx: &mut Context) {
        let (origin, credit) = (self.origin.clone(), self.limits.budget_len);
        let destination = self.destination();
        let Some(connection) = destination.connection() else { return };
        destination.gate = Gate::Filling;
        destination.taking = Some(Taking::new(Stage::Asked));
        destination.reason = "the source is asked for a baseline".into();
        cx.store.change(&origin, |entry| entry.in_sync = false);
        self.send(connection, Message::Baseline(Baseline::Wanted { credit }), cx);
    }

    /// Messages about a baseline from the source.
    pub(in crate::node) fn on_giver_message(&mut self, message: Baseline, cx: &mut Context) {
        let quiet = self.pending.is_empty() && self.incoming.is_empty();
        let destination = self.destination();
        let stage = destination.taking.as_ref().map(|taking| taking.stage);
        match (message, stage) {
            (Baseline::Offer, None) if destination.is_open() && quiet => self.ask_for_baseline(cx),
            (Baseline::Begin { at, epochs, bytes }, Some(Stage::Asked)) => self.begin_baseline(at, epochs, bytes, cx),
            (Baseline::Pieces { pieces, next }, Some(Stage::Filling)) => self.take_pieces(pieces, next, cx),
            _ => self.hang_up("a message about a baseline that a source does not send now", cx),
        }
    }

    fn begin_baseline(&mut self, at: Position, epochs: Vec<EpochEntry>, bytes: u64, cx: &mut Context) {
        let origin = self.origin.clone();
        let history = History { epochs: &epochs, last: at };
        // At a source that has committed nothing yet, nothing is what there is.
        let empty = epochs.is_empty() && at == Position::default();
        let fits = fault_of(&epochs).is_none() && at.seq > Seq::ZERO && history.epoch_at(at.seq) == Some(at.epoch);
        if !fits && !empty {
            return self.hang_up("a baseline whose epochs cannot be", cx);
        }
        let generation = cx.store.entry(&origin).engine_generation + 1;
        let Some(taking) = &mut self.destination().taking else { return };
        (taking.stage, taking.at, taking.epochs, taking.total) = (Stage::Beginning, at, epochs, bytes);
        cx.emit(Effect::Baseline { origin, task: BaselineTask::Begin { generation, at, bytes } });
    }

    fn take_pieces(&mut self, pieces: Vec<Piece>, next: Option<Bookmark>, cx: &mut Context) {
        let bound = self.limits.budget_len + self.limits.message_len_max as u64 * 4;
        let origin = self.origin.clone();
        let Some(taking) = &mut self.destination().taking else { return };
        taking.received_bytes += pieces.iter().map(Piece::len).sum::<usize>() as u64;
        if taking.received_bytes - taking.taken_bytes > bound {
            return self.hang_up("more of a baseline than the credit allows", cx);
        }
        let task = BaselineTask::Take { at: taking.at, pieces, next };
        cx.emit(Effect::Baseline { origin, task });
    }

    /// The worker has come further with what was asked of it at this end.
    pub(in crate::node) fn on_taker_step(&mut self, step: BaselineStep, cx: &mut Context) {
        let stage = self.destination().taking.as_ref().map(|taking| taking.stage);
        match (step, stage) {
            (BaselineStep::SetAside, Some(Stage::SettingAside)) => self.set_aside(cx),
            (BaselineStep::Begun { at, next, have }, Some(Stage::Beginning)) => self.begun(at, next, have, cx),
            (BaselineStep::Refused { reason }, Some(Stage::Beginning)) => {
                self.note(Note::new(Noted::BaselineRefused).reason(reason.clone()), cx);
                self.refuse_hello(&reason, cx);
            }
            (BaselineStep::Taken { at, bytes, whole }, Some(Stage::Filling)) => self.taken(at, bytes, whole, cx),
            (BaselineStep::Swapped { progress, time_ms }, Some(Stage::Swapping)) => self.swapped(progress, time_ms, cx),
            // Of an attempt that is over.
            _ => {}
        }
    }

    /// What would be given up is in a file, durably.
    fn set_aside(&mut self, cx: &mut Context) {
        let Some(taking) = &self.destination().taking else { return };
        let (first, last) = (taking.at.seq.next(), self.last.seq);
        let text = "the source goes another way: they are in a tail, see 'lockstep tail list'";
        self.note(Note::new(Noted::TailSetAside).reason(text).records(first, last), cx);
        self.ask_for_baseline(cx);
    }

    fn begun(&mut self, at: Position, next: Bookmark, have: u64, cx: &mut Context) {
        let now_ms = cx.now.mono_ms;
        let destination = self.destination();
        let Some(taking) = destination.taking.as_mut().filter(|taking| taking.at == at) else { return };
        (taking.stage, taking.began_ms, taking.have) = (Stage::Filling, now_ms, have);
        let total = taking.total;
        let Some(connection) = destination.connection() else { return };
        destination.reason = format!("a baseline at {at} is taken");
        let what = if next == Bookmark::default() { Noted::BaselineBegun } else { Noted::BaselineResumed };
        self.note(Note::new(what).at(at).bytes(total.saturating_sub(have)), cx);
        self.send(connection, Message::Baseline(Baseline::Ready { next, have }), cx);
    }

    fn taken(&mut self, at: Position, bytes: u64, whole: bool, cx: &mut Context) {
        let Some(taking) = self.destination().taking.as_mut().filter(|taking| taking.at == at) else { return };
        taking.taken_bytes = taking.received_bytes.min(taking.taken_bytes + bytes);
        if whole {
            self.store_baseline(cx);
        } else {
            self.ack_baseline(cx);
        }
    }

    /// Says how much more may come; also in answer to a heartbeat.
    pub(in crate::node) fn ack_baseline(&mut self, cx: &mut Context) {
        let budget_len = self.limits.budget_len;
        let destination = self.destination();
        let Some(taking) = &destination.taking else { return };
        let credit = taking.taken_bytes + budget_len;
        if let Some(connection) = destination.connection() {
            self.send(connection, Message::Baseline(Baseline::Ack { credit }), cx);
        }
    }

    /// The filled engine is whole and durable: from the next write of the superblock on it is the origin's.
    fn store_baseline(&mut self, cx: &mut Context) {
        let (origin, floor) = (self.origin.clone(), self.partition.generation());
        let destination = self.destination();
        let incarnation = destination.hello_incarnation();
        let Some(taking) = &mut destination.taking else { return };
        taking.stage = Stage::Storing;
        let (at, epochs) = (taking.at, taking.epochs.clone());
        let version = cx.store.change(&origin, |entry| {
            entry.role = StoredRole::Destination;
            entry.epochs = epochs;
            entry.in_sync = false;
            entry.promoted = false;
            entry.peer_incarnation = incarnation;
            entry.consistency_point = at.seq;
            entry.rebuild = false;
            entry.damaged = false;
            entry.engine_generation += 1;
            entry.generation_floor = floor;
        });
        self.when_stored(version, After::Filled);
    }

    /// It is stored: the worker puts the new engine in place, when the last flush of the old one is over.
    pub(in crate::node) fn filled(&mut self, cx: &mut Context) {
        let Side::Destination(destination) = &mut self.side else { return };
        let Some(taking) = &mut destination.taking else { return };
        if self.flushing {
            return;
        }
        taking.stage = Stage::Swapping;
        cx.emit(Effect::Baseline { origin: self.origin.clone(), task: BaselineTask::Swap });
    }

    /// Is it stored, and does it only wait for a flush?
    pub(in crate::node) fn swap_waits(&self) -> bool {
        let Side::Destination(destination) = &self.side else { return false };
        let storing = destination.taking.as_ref().is_some_and(|taking| taking.stage == Stage::Storing);
        storing && !self.after.iter().any(|(_, what)| *what == After::Filled)
    }

    fn swapped(&mut self, progress: Progress, time_ms: u64, cx: &mut Context) {
        self.time_ms = self.time_ms.max(time_ms);
        let at = progress.appended;
        let (extent, generation) = (self.partition.extent(), self.partition.generation());
        self.partition = Partition::new(self.origin.node_id(), extent, generation);
        self.last = at;
        self.persisted = at.seq;
        self.committed = at.seq;
        self.applied = progress.applied;
        self.apply_asked = progress.applied.seq;
        self.flushed = progress;
        self.trimmed = progress.trimmed;
        self.recovered = at.seq;
        self.stuck = None;
        self.history += 1;
        let destination = self.destination();
        destination.taking = None;
        destination.damaged = None;
        destination.gate = Gate::Shut;
        destination.unapplied = crate::node::log::Ages::default();
        self.note(Note::new(Noted::BaselineDone).at(at), cx);
        self.publish(cx);
        self.greet(cx);
        self.promote_progress(cx);
    }
}
