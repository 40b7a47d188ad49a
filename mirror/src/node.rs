//! The core: one node's logs, streams and roles as a deterministic state machine.
//!
//! [`Node::handle`] takes what happened and when, and says what to do: no sockets, threads, clock or randomness, so a seed
//! can drive it. It never waits: what is slow comes back as an event. One OS thread drives it in production.
//!
//! # Layout
//! - [`log`]: what every origin has at either end: partition, marks, batches, apply and flush.
//! - [`source`]: admission, commit, answers.
//! - [`stream`]: the way to the destination; below it `settle`, from Hello to one history, `flow`, sending and acks,
//!   and `alone`, out of sync, pause and resume.
//! - [`destination`]: Hello, receipt, acks, apply on request.
//! - [`baseline`]: the destination's image made anew from the source's.
//! - [`point`]: consistency points; [`promote`]: failover; [`failback`]: planned return; [`fence`]: the end of a source; [`visit`]: a source that its
//!   peer speaks to as a destination; [`rebuild`]: an origin whose log or engine is gone or damaged; [`repair`]: damaged
//!   chunks; [`store`]: the superblock; [`epochs`]: common points.
//! - [`watch`]: what is told of an origin, once; [`flaps`]: a link that comes and goes; [`device`]: a slow log device;
//!   [`skew`]: the peer's clock.

mod baseline;
mod destination;
mod device;
pub mod epochs;
mod failback;
mod fence;
mod flaps;
mod log;
mod point;
mod promote;
mod rebuild;
mod repair;
mod report;
mod skew;
mod source;
mod store;
mod stream;
mod stuck;
mod visit;
mod watch;

use std::collections::VecDeque;

use lockstep_storage::id::{NodeId, Origin, Seq};
use lockstep_storage::recovery::Damage;
use lockstep_storage::superblock::{StoredRole, Superblock};

pub use self::promote::{IN_SYNC_AT_LAST_CONTACT, MAY_LACK_WRITES, PROVED};

use self::destination::Destination;
use self::device::Device;
use self::log::{Log, Side};
use self::source::Source;
use self::store::Store;
use crate::client::Refusal;
use crate::event::{Command, Effect, Event, Now, Report, Ticket};
use crate::note::{Note, Noted};
use crate::plan::{NodePlan, OriginPlan};
use crate::start::Found;

/// A persist that was asked for, and what becomes durable with it.
#[derive(Debug)]
struct PendingPersist {
    id: u64,
    /// When it was asked for, in milliseconds.
    asked_ms: u64,
    /// Per log: records through here.
    logs: Vec<(usize, Seq)>,
    /// Version of the superblock.
    superblock: Option<u64>,
}

/// The persists that were asked for, oldest first.
#[derive(Debug, Default)]
struct Persists {
    next: u64,
    pending: VecDeque<PendingPersist>,
}

impl Persists {
    fn ask(&mut self, logs: Vec<(usize, Seq)>, superblock: Option<u64>, now: Now, effects: &mut Vec<Effect>) {
        self.next += 1;
        self.pending.push_back(PendingPersist { id: self.next, asked_ms: now.mono_ms, logs, superblock });
        effects.push(Effect::Persist { id: self.next });
    }

    /// When the oldest that has not come back was asked for.
    fn oldest_ms(&self) -> Option<u64> {
        self.pending.front().map(|persist| persist.asked_ms)
    }
}

/// What a log needs of its surroundings while it handles an event.
struct Context<'a> {
    now: Now,
    node: &'a Origin,
    store: &'a mut Store,
    effects: &'a mut Vec<Effect>,
}

impl Context<'_> {
    fn emit(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    fn refuse(&mut self, ticket: Ticket, refusal: Refusal) {
        self.effects.push(Effect::Done { ticket, result: Err(refusal) });
    }

    fn reply(&mut self, ticket: Ticket, report: Report) {
        self.effects.push(Effect::Reply { ticket, result: Ok(report) });
    }

    fn reply_error(&mut self, ticket: Ticket, sentence: impl Into<String>) {
        self.effects.push(Effect::Reply { ticket, result: Err(sentence.into()) });
    }
}

/// One node.
#[derive(Debug)]
pub struct Node {
    name: Origin,
    store: Store,
    logs: Vec<Log>,
    persists: Persists,
    device: Device,
    /// A persist that takes longer is slow, in milliseconds.
    slow_persist_ms: u64,
    shutdown: Option<Ticket>,
    /// The node stops when this version of the superblock is durable, and why.
    stopping: Option<(u64, String)>,
    stopped: bool,
}

impl Node {
    /// A node as recovery left it: `superblock` durable as copy number `counter`, and for each of its origins what was
    /// recovered. The effects are its first ones.
    #[must_use]
    pub fn open(
        plan: &NodePlan,
        superblock: Superblock,
        counter: u64,
        found: &[Found],
        now: Now,
        effects: &mut Vec<Effect>,
    ) -> Self {
        let name = plan.node.clone();
        let mut logs = Vec::new();
        for (entry, Found { recovered, lost, damaged, log_runs }) in superblock.origins.iter().zip(found) {
            let planned = plan.origins.iter().find(|p| p.origin == entry.origin).cloned();
            let own = planned.unwrap_or_else(|| OriginPlan {
                origin: entry.origin.clone(),
                nvram_len: entry.partition.segment_len * u64::from(entry.partition.segments),
                stream: None,
            });
            let side = match entry.role {
                _ if lost.is_some() => Side::Destination(Box::new(Destination::lost(lost.clone()))),
                role @ (StoredRole::Destination | StoredRole::Fenced) => {
                    Side::Destination(Box::new(Destination::open(role == StoredRole::Fenced, damaged.clone())))
                }
                StoredRole::Source | StoredRole::HandingOver => {
                    let found = (recovered, log_runs.as_slice());
                    Side::Source(Box::new(Source::open(&own, entry, found, plan.bootstrap.len(), plan.limits, now)))
                }
            };
            logs.push(Log::open(&own, &name, entry, recovered, side, plan.limits));
        }
        let store = Store::new(superblock, counter);
        let mut node = Self {
            name,
            store,
            logs,
            persists: Persists::default(),
            device: Device::default(),
            slow_persist_ms: plan.limits.slow_persist_ms,
            shutdown: None,
            stopping: None,
            stopped: false,
        };
        node.each_log(now, effects, |log, cx| log.start(&plan.bootstrap, cx));
        node.each_log(now, effects, Log::watch);
        for (log, Found { recovered, .. }) in node.logs.iter_mut().zip(found) {
            let mut cx = Context { now, node: &node.name, store: &mut node.store, effects };
            if let Some(Damage { from, through }) = recovered.damaged {
                let text = "records in the NVRAM are damaged: the peer is asked for them";
                log.note(Note::new(Noted::RecordsDamaged).reason(text).records(from, through), &mut cx);
            }
        }
        node.write_superblock(now, effects);
        node
    }

    /// Takes an event into account.
    pub fn handle(&mut self, event: Event, now: Now, effects: &mut Vec<Effect>) {
        if self.stopped {
            return;
        }
        match event {
            Event::Persisted { id } => self.persisted(id, now, effects),
            Event::PersistFailed { reason } => self.stop(format!("the NVRAM failed: {reason}"), effects),
            Event::EngineFailed { origin, reason, damaged } => self.engine_failed(&origin, &reason, damaged, effects),
            Event::Command { ticket, command } => self.command(ticket, command, now, effects),
            Event::Batch => self.batch(now, effects),
            Event::Idle => self.idle(now, effects),
            Event::Submit { ticket, origin, draft, require, history } => {
                let submit = |log: &mut Log, cx: &mut Context| log.submit(ticket, draft, require, history, cx);
                let known = self.with_log(&origin, now, effects, submit);
                if !known {
                    let refusal = Refusal::Gone(format!("this node has no origin {origin}"));
                    effects.push(Effect::Done { ticket, result: Err(refusal) });
                }
            }
            Event::Applied { origin, at } => self.on(&origin, now, effects, |log, cx| log.on_applied(at, cx)),
            Event::Stuck { origin, at, reason } => {
                self.on(&origin, now, effects, |log, cx| log.on_stuck(at, reason, cx));
            }
            Event::Flushed { origin, progress } => {
                self.on(&origin, now, effects, |log, cx| log.on_flushed(progress, cx));
            }
            Event::Full { origin, full } => self.on(&origin, now, effects, |log, cx| log.on_full(full, cx)),
            Event::Fetched { origin, connection, records } => {
                self.on(&origin, now, effects, |log, cx| log.on_fetched(connection, records, cx));
            }
            Event::FetchFailed { origin, connection, seq, reason } => {
                self.on(&origin, now, effects, |log, cx| log.on_fetch_failed(connection, seq, &reason, cx));
            }
            Event::Repair { origin, step } => self.on(&origin, now, effects, |log, cx| log.on_repair_step(step, cx)),
            Event::Cut { origin, at } => self.on(&origin, now, effects, |log, cx| log.on_cut(at, cx)),
            Event::Baseline { origin, step } => self.on(&origin, now, effects, |log, cx| log.on_baseline(step, cx)),
            Event::Connected { origin, connection } => {
                self.on(&origin, now, effects, |log, cx| log.on_connected(connection, cx));
            }
            Event::Disconnected { origin, connection, reason } => {
                self.on(&origin, now, effects, |log, cx| log.on_disconnected(connection, &reason, cx));
            }
            Event::Received { origin, connection, message } => {
                self.on(&origin, now, effects, |log, cx| log.on_message(connection, message, cx));
            }
        }
        self.each_log(now, effects, Log::watch);
        self.write_superblock(now, effects);
    }

    /// Writes the superblock where it has changed, with how far the logs are durable now.
    fn write_superblock(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let persisted = self.logs.iter().map(|log| (&log.origin, log.persisted));
        self.store.write(persisted, &mut self.persists, now, effects);
    }

    /// This node's name.
    #[must_use]
    pub fn name(&self) -> &Origin {
        &self.name
    }

    /// An engine does not do its work any more. One that is damaged must not be taken for a sound one by the next start.
    fn engine_failed(&mut self, origin: &Origin, reason: &str, damaged: bool, effects: &mut Vec<Effect>) {
        let reason = format!("the storage engine of {origin} failed: {reason}");
        if !damaged || !self.logs.iter().any(|log| log.origin == *origin) {
            return self.stop(reason, effects);
        }
        let version = self.store.change(origin, |entry| entry.damaged = true);
        self.stopping.get_or_insert((version, reason));
    }

    fn stop(&mut self, reason: String, effects: &mut Vec<Effect>) {
        self.stopped = true;
        effects.push(Effect::Stop { reason });
    }

    fn on(&mut self, origin: &Origin, now: Now, effects: &mut Vec<Effect>, act: impl FnOnce(&mut Log, &mut Context)) {
        let _known = self.with_log(origin, now, effects, act);
    }

    fn with_log(
        &mut self,
        origin: &Origin,
        now: Now,
        effects: &mut Vec<Effect>,
        act: impl FnOnce(&mut Log, &mut Context),
    ) -> bool {
        let Some(log) = self.logs.iter_mut().find(|log| log.origin == *origin) else { return false };
        act(log, &mut Context { now, node: &self.name, store: &mut self.store, effects });
        true
    }

    fn each_log(&mut self, now: Now, effects: &mut Vec<Effect>, mut act: impl FnMut(&mut Log, &mut Context)) {
        for log in &mut self.logs {
            act(log, &mut Context { now, node: &self.name, store: &mut self.store, effects });
        }
    }

    /// What is durable now moves marks, which move acks, commits and answers.
    fn persisted(&mut self, id: u64, now: Now, effects: &mut Vec<Effect>) {
        while self.persists.pending.front().is_some_and(|p| p.id <= id) {
            let Some(done) = self.persists.pending.pop_front() else { return };
            self.device.persisted(done.asked_ms, now.mono_ms, self.slow_persist_ms);
            let mut cx = Context { now, node: &self.name, store: &mut self.store, effects };
            for (index, through) in done.logs {
                self.logs[index].on_persisted(through, &mut cx);
            }
            if let Some(version) = done.superblock {
                self.store.durable(version);
                self.each_log(now, effects, Log::on_stored);
                if let Some((_, reason)) = self.stopping.take_if(|(version, _)| self.store.is_durable(*version)) {
                    return self.stop(reason, effects);
                }
            }
        }
    }

    /// The inbox is drained: a batch, then time is judged.
    fn idle(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.batch(now, effects);
        self.each_log(now, effects, Log::tick);
        if let Some(note) = self.device.tick(self.persists.oldest_ms(), now.mono_ms, self.slow_persist_ms) {
            effects.push(Effect::Note { origin: self.name.clone(), note: Box::new(note) });
        }
        if let Some(ticket) = self.shutdown
            && self.logs.iter().all(Log::is_quiet)
        {
            self.shutdown = None;
            effects.push(Effect::Reply { ticket, result: Ok(self.own_report("stopped at a consistency point")) });
        }
    }

    /// One batch of everything that waits, of all origins, under one persist.
    fn batch(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let mut marks = Vec::new();
        for (index, log) in self.logs.iter_mut().enumerate() {
            let mut cx = Context { now, node: &self.name, store: &mut self.store, effects };
            if let Some(through) = log.place_batch(&mut cx) {
                marks.push((index, through));
            }
        }
        if !marks.is_empty() {
            self.persists.ask(marks, None, now, effects);
        }
    }

    fn command(&mut self, ticket: Ticket, command: Command, now: Now, effects: &mut Vec<Effect>) {
        let unknown = |origin: &Origin| format!("this node has no origin {origin}");
        match command {
            Command::Sync { origin } => {
                let origin = origin.unwrap_or_else(|| self.name.clone());
                if !self.with_log(&origin, now, effects, |log, cx| log.sync(ticket, cx)) {
                    effects.push(Effect::Reply { ticket, result: Err(unknown(&origin)) });
                }
            }
            Command::Shutdown => {
                self.shutdown = Some(ticket);
                self.each_log(now, effects, Log::shut_down);
            }
            Command::Promote { origin, dry_run, accept_loss } => {
                let act = |log: &mut Log, cx: &mut Context| log.promote(ticket, dry_run, accept_loss, cx);
                if !self.with_log(&origin, now, effects, act) {
                    effects.push(Effect::Reply { ticket, result: Err(unknown(&origin)) });
                }
            }
            Command::Failback { origin, dry_run } => {
                if !self.with_log(&origin, now, effects, |log, cx| log.failback(ticket, dry_run, cx)) {
                    effects.push(Effect::Reply { ticket, result: Err(unknown(&origin)) });
                }
            }
            Command::Rebuild { origin, accept_loss } => {
                if !self.with_log(&origin, now, effects, |log, cx| log.rebuild(ticket, accept_loss, cx)) {
                    effects.push(Effect::Reply { ticket, result: Err(unknown(&origin)) });
                }
            }
            Command::Repair { origin, chunk } => {
                if !self.with_log(&origin, now, effects, |log, cx| log.repair(ticket, chunk, cx)) {
                    effects.push(Effect::Reply { ticket, result: Err(unknown(&origin)) });
                }
            }
            Command::Pause { origin } => {
                if !self.with_log(&origin, now, effects, |log, cx| log.pause(ticket, cx)) {
                    effects.push(Effect::Reply { ticket, result: Err(unknown(&origin)) });
                }
            }
            Command::Resume { origin, alone } => {
                if !self.with_log(&origin, now, effects, |log, cx| log.resume(ticket, alone, cx)) {
                    effects.push(Effect::Reply { ticket, result: Err(unknown(&origin)) });
                }
            }
        }
    }

    /// The identity that this node's epochs carry.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.name.node_id()
    }
}
