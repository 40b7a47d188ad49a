//! The core's thread: drains the inbox, lets the core handle each event, carries its effects out, and answers clients.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use lockstep_storage::id::{Epoch, Origin, Seq};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio_util::sync::CancellationToken;

use super::log_writer::{Figures, Job};
use super::space::Space;
use super::{Clock, notes};
use crate::client::{Client, Input, OriginState, Receipt, Refusal, Role, RoleChange, Submission};
use crate::event::{Effect, Event, IDLE_INTERVAL_MS, Report, Ticket};
use crate::link::LinkHandle;
use crate::node::Node;

/// Inputs handled before a batch is built, whatever waits.
const INPUTS_MAX: usize = 2048;
/// Time between two looks at the status, in milliseconds.
const STATUS_INTERVAL_MS: u64 = 100;

/// Where effects go.
pub(super) struct Outlets {
    pub(super) log: Sender<Job>,
    pub(super) engines: HashMap<Origin, Sender<Effect>>,
    pub(super) spaces: HashMap<Origin, Arc<Space>>,
    pub(super) link: Option<LinkHandle>,
    pub(super) client: Client,
    pub(super) figures: Arc<Figures>,
}

/// A client that waits.
struct Caller {
    placed: Option<oneshot::Sender<Result<(Epoch, Seq), Refusal>>>,
    done: oneshot::Sender<Result<Receipt, Refusal>>,
    settled: oneshot::Sender<()>,
    _budget: OwnedSemaphorePermit,
}

struct Core {
    node: Node,
    outlets: Outlets,
    clock: Clock,
    tickets: u64,
    callers: HashMap<Ticket, Caller>,
    /// Writers whose outcome is unknown: they hold their locks until it is certain.
    doubtful: HashMap<Ticket, oneshot::Sender<()>>,
    commands: HashMap<Ticket, oneshot::Sender<Result<Report, String>>>,
    effects: Vec<Effect>,
    status_ms: u64,
    records: u64,
    persist_class: &'static str,
    stop: (CancellationToken, Arc<Mutex<String>>),
}

pub(super) fn spawn(
    node: Node,
    effects: Vec<Effect>,
    inbox: Receiver<Input>,
    outlets: Outlets,
    clock: Clock,
    persist_class: &'static str,
    stop: (CancellationToken, Arc<Mutex<String>>),
) -> JoinHandle<()> {
    let mut core = Core {
        node,
        outlets,
        clock,
        tickets: 0,
        callers: HashMap::new(),
        doubtful: HashMap::new(),
        commands: HashMap::new(),
        effects,
        status_ms: 0,
        records: 0,
        persist_class,
        stop,
    };
    // The gateway must know every origin's role before its first request.
    core.carry_out();
    let run = move || core.run(&inbox);
    Builder::new().name("core".into()).spawn(run).unwrap_or_else(|e| panic!("no thread: {e}"))
}

impl Core {
    fn run(&mut self, inbox: &Receiver<Input>) {
        loop {
            match inbox.recv_timeout(Duration::from_millis(IDLE_INTERVAL_MS)) {
                Ok(Input::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(input) => self.take(input),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let mut drained = false;
            for _ in 0..INPUTS_MAX {
                match inbox.try_recv() {
                    Ok(Input::Stop) => return,
                    Ok(input) => self.take(input),
                    Err(_) => {
                        drained = true;
                        break;
                    }
                }
            }
            // The ack that a timer waits for may still be in the inbox.
            self.handle(if drained { Event::Idle } else { Event::Batch });
            self.show_status(false);
            if self.stop.0.is_cancelled() {
                return;
            }
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Submit(submission) => {
                let Submission { origin, draft, require, history, placed, done, settled, budget } = submission;
                let ticket = self.ticket();
                self.callers.insert(ticket, Caller { placed, done, settled, _budget: budget });
                self.handle(Event::Submit { ticket, origin, draft, require, history });
            }
            Input::Command(command, reply) => {
                let ticket = self.ticket();
                self.commands.insert(ticket, reply);
                self.handle(Event::Command { ticket, command });
            }
            Input::Event(event) => self.handle(event),
            Input::Link(event, held) => {
                self.handle(event);
                drop(held);
            }
            Input::Stop => {}
        }
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    fn handle(&mut self, event: Event) {
        let now = self.clock.now();
        let mut effects = std::mem::take(&mut self.effects);
        self.node.handle(event, now, &mut effects);
        self.effects = effects;
        self.carry_out();
    }

    fn carry_out(&mut self) {
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            self.carry_out_one(effect);
        }
        self.effects = effects;
    }

    fn carry_out_one(&mut self, effect: Effect) {
        // Each goes to the container once, when it is persisted.
        self.records += if let Effect::Append { records, .. } = &effect { records.len() as u64 } else { 0 };
        match effect {
            Effect::Write { offset, pieces } => drop(self.outlets.log.send(Job::Write { offset, pieces })),
            Effect::Persist { id } => drop(self.outlets.log.send(Job::Persist { id })),
            Effect::Append { ref origin, .. }
            | Effect::Apply { ref origin, .. }
            | Effect::Flush { ref origin }
            | Effect::Trim { ref origin, .. }
            | Effect::Collect { ref origin, .. }
            | Effect::Cut { ref origin, .. }
            | Effect::Baseline { ref origin, .. }
            | Effect::Repair { ref origin, .. }
            | Effect::Fetch { ref origin, .. } => {
                if let Some(engine) = self.outlets.engines.get(origin) {
                    let _stopping = engine.send(effect);
                }
            }
            Effect::Connect { origin, connection, delay_ms } => {
                if let Some(link) = &self.outlets.link {
                    link.connect(&origin, connection, delay_ms);
                }
            }
            Effect::Send { origin, connection, message } => {
                if let Some(link) = &self.outlets.link {
                    link.send(&origin, connection, message);
                }
            }
            Effect::Close { origin, connection } => {
                if let Some(link) = &self.outlets.link {
                    link.close(&origin, connection);
                }
            }
            Effect::Placed { ticket, epoch, seq } => {
                if let Some(placed) = self.callers.get_mut(&ticket).and_then(|caller| caller.placed.take()) {
                    let _client_gone = placed.send(Ok((epoch, seq)));
                }
            }
            Effect::Done { ticket, result } => self.done(ticket, result),
            Effect::Settled { ticket } => drop(self.doubtful.remove(&ticket)),
            Effect::Reply { ticket, result } => {
                // Who asks for the status after the answer sees what the command did.
                self.show_status(true);
                if let Some(reply) = self.commands.remove(&ticket) {
                    let _operator_gone = reply.send(result);
                }
            }
            Effect::Publish(state) => self.publish(state),
            Effect::Note { origin, note } => {
                notes::write(&origin, &note);
                self.show_status(true);
            }
            Effect::Stop { reason } => {
                tracing::error!(event = "node_stops", reason);
                *self.stop.1.lock().unwrap_or_else(PoisonError::into_inner) = reason;
                self.stop.0.cancel();
            }
        }
    }

    fn done(&mut self, ticket: Ticket, result: Result<Receipt, Refusal>) {
        let Some(caller) = self.callers.remove(&ticket) else { return };
        if matches!(result, Err(Refusal::Unknown { .. })) {
            self.doubtful.insert(ticket, caller.settled);
        }
        match (caller.placed, result) {
            // Refused before it had a place: no effect.
            (Some(placed), Err(refusal)) => drop(placed.send(Err(refusal))),
            (_, result) => drop(caller.done.send(result)),
        }
    }

    fn publish(&self, state: OriginState) {
        self.tell_role(&state);
        if let Some(space) = self.outlets.spaces.get(&state.origin) {
            space.set_source(state.role == Role::Source);
        }
        let shared = &self.outlets.client.shared;
        let mut origins = shared.origins.write().unwrap_or_else(PoisonError::into_inner);
        let mut next: Vec<OriginState> = origins.to_vec();
        match next.iter_mut().find(|known| known.origin == state.origin) {
            Some(known) => *known = state,
            None => next.push(state),
        }
        *origins = Arc::new(next);
    }

    /// Tells whoever acts on role changes. Nobody is waited for.
    fn tell_role(&self, state: &OriginState) {
        let roles = &self.outlets.client.shared.roles;
        let known = roles.borrow().iter().any(|known| known.origin == state.origin && known.role == state.role);
        if known {
            return;
        }
        let status = self.node.status(self.clock.now());
        let Some(now) = status.origins.iter().find(|status| status.origin == state.origin) else { return };
        roles.send_modify(|roles| {
            let number = roles.iter().map(|change| change.number).max().unwrap_or_default() + 1;
            let (origin, role) = (state.origin.clone(), state.role);
            let began = roles.iter().find(|change| change.origin == origin).map_or(role, |change| change.began);
            roles.retain(|change| change.origin != origin);
            roles.push(RoleChange { origin, role, began, epoch: now.epoch, seq: now.last, number });
        });
    }

    /// Takes a picture of the node for whoever asks: a fresh one, or one that is not older than the interval.
    fn show_status(&mut self, fresh: bool) {
        let now = self.clock.now();
        if now.mono_ms < self.status_ms && !fresh {
            return;
        }
        self.status_ms = now.mono_ms + STATUS_INTERVAL_MS;
        let mut status = self.node.status(now);
        let figures = &self.outlets.figures;
        status.persist_class = self.persist_class;
        status.batches = figures.batches.load(Ordering::Relaxed);
        status.batch_bytes = figures.bytes.load(Ordering::Relaxed);
        status.persist_us = figures.persist_us.load(Ordering::Relaxed);
        status.batch_records = self.records;
        let shared = &self.outlets.client.shared;
        *shared.status.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(status);
    }
}
