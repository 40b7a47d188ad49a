//! The world of a run: virtual time, everything that will happen, the sites and the links between them. It carries the
//! cores' effects out with delays and faults of the noise's choosing, and holds each of them against the model.

mod chunks;
mod decay;
mod device;
mod fault;
mod link;
mod record;
mod settle;
mod stall;
mod worker;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use lockstep_mirror::client::{OriginState, Role};
use lockstep_mirror::event::{Connection, Effect, Event, IDLE_INTERVAL_MS, Now, Report, Ticket};
use lockstep_mirror::node::PROVED;
use lockstep_storage::id::Origin;
use lockstep_storage::superblock::StoredRole;

use self::chunks::Mender;
use super::client::Clients;
use super::coverage::{Coverage, Seen};
use super::image::References;
use super::mistake::Mistake;
use super::model::{Checked, Model, broken};
use super::net::Link;
use super::random::Random;
use super::scenario::{Order, Scenario, Site, Timed};
use super::site::{SiteState, Watch, Worker};
use super::topology::{Pair, SITES, Topology};
use super::trace::Trace;

/// What will happen.
#[derive(Debug)]
enum Happening {
    Step(usize),
    /// The core's inbox is drained.
    Idle(Site, u32),
    /// The longest time without an idle is over.
    Tick(Site, u32),
    /// The device has carried its persist out.
    Device(Site, u32),
    /// A worker has carried its first task out.
    Work(Site, u32, usize),
    /// A worker's flush is done.
    Flush(Site, u32, usize),
    /// The opener's connection is made or not.
    Dial(Site, u32, Origin, Connection),
    /// Something arrives at an end of a link.
    Arrive(usize, usize),
    /// An event reaches the core.
    Feed(Site, u32, Box<Event>),
    /// A client tries again.
    Retry(u64),
    /// What is left of an old connection turns up.
    Stale,
    /// A paused process goes on.
    Wake(Site, u32),
    /// A process that the power left starts again.
    PowerBack(Site),
}

#[derive(Debug)]
struct Due {
    at: u64,
    tie: u64,
    what: Happening,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.tie) == (other.at, other.tie)
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.tie).cmp(&(other.at, other.tie))
    }
}

/// The world.
pub struct World {
    /// Milliseconds since the beginning.
    pub(super) now: u64,
    tie: u64,
    heap: BinaryHeap<Reverse<Due>>,
    topology: Topology,
    steps: Vec<Timed>,
    pub(super) noise: Random,
    pub(super) sites: [SiteState; SITES],
    links: Vec<Link>,
    /// Attempts to connect that their core has closed.
    given_up: Vec<(Site, u32, Origin, Connection)>,
    pub(super) model: Model,
    references: References,
    pub(super) clients: Clients,
    /// What happened.
    pub trace: Trace,
    /// What of all that a set of runs must meet this one met.
    pub seen: Coverage,
    /// The mistake that is made on purpose, to see it found.
    pub(super) mistake: Option<Mistake>,
    orders: Vec<(Ticket, Site, Pair, Order)>,
    /// Readers who wait for a chunk to be repaired.
    menders: BTreeMap<Ticket, Mender>,
    /// The answers to orders.
    replies: Vec<(Order, Site, Result<Report, String>)>,
    spare: Vec<Effect>,
    /// When the writers of each pair last had to wait for a segment.
    waited: [Option<u64>; SITES],
    link_timeout_ms: u64,
    calm: bool,
}

/// Wall clock of the world's beginning, in milliseconds since 1970.
const WALL_MS: u64 = 1_700_000_000_000;
/// Happenings in a run: more are a loop without an end.
const HAPPENINGS_MAX: u64 = 400_000;

impl World {
    /// The world before anything has happened.
    #[must_use]
    pub fn new(scenario: &Scenario, mistake: Option<Mistake>, keep_trace: bool) -> Self {
        Self {
            now: 0,
            tie: 0,
            heap: BinaryHeap::new(),
            topology: scenario.topology,
            steps: scenario.steps.clone(),
            noise: Random::new(scenario.noise),
            sites: Site::ALL.map(|site| SiteState::new(site, scenario)),
            links: Vec::new(),
            given_up: Vec::new(),
            model: Model::new(scenario),
            references: References::default(),
            clients: Clients::default(),
            trace: Trace::new(keep_trace),
            seen: Coverage::default(),
            mistake,
            orders: Vec::new(),
            menders: BTreeMap::new(),
            replies: Vec::new(),
            spare: Vec::new(),
            waited: [None; SITES],
            link_timeout_ms: scenario.link_timeout_ms,
            calm: false,
        }
    }

    /// Runs the scenario, then mends everything and sees the streams come together.
    ///
    /// # Errors
    /// The first rule that does not hold.
    pub fn run(&mut self) -> Checked {
        for index in 0..self.steps.len() {
            let at = self.steps[index].at;
            self.schedule_at(at, Happening::Step(index));
        }
        for site in self.topology.sites().iter().rev() {
            self.start(*site)?;
        }
        let end = self.steps.last().map_or(0, |step| step.at) + 200;
        self.run_until(end)?;
        self.settle()
    }

    fn schedule(&mut self, delay: u64, what: Happening) {
        self.schedule_at(self.now + delay, what);
    }

    fn schedule_at(&mut self, at: u64, what: Happening) {
        self.tie += 1;
        self.heap.push(Reverse(Due { at, tie: self.tie, what }));
    }

    /// Everything that happens up to a moment.
    fn run_until(&mut self, end: u64) -> Checked {
        while self.heap.peek().is_some_and(|due| due.0.at <= end) {
            let Some(Reverse(due)) = self.heap.pop() else { break };
            self.now = due.at;
            if self.trace.events() > HAPPENINGS_MAX {
                return broken(7, "the run does not end: something goes round in a loop");
            }
            self.happen(due.what)?;
        }
        self.now = end;
        Ok(())
    }

    fn happen(&mut self, what: Happening) -> Checked {
        match what {
            Happening::Step(index) => self.step(self.steps[index]),
            Happening::Idle(site, boot) if self.lives(site, boot) => {
                if !self.calm && self.noise.chance(5) {
                    // Much has come, and more does.
                    let delay = self.noise.below(3);
                    self.schedule(delay, Happening::Idle(site, boot));
                    return self.feed(site, Event::Batch);
                }
                if let Some(process) = &mut self.sites[site.index()].process {
                    process.idle_due = false;
                }
                self.feed(site, Event::Idle)
            }
            Happening::Tick(site, boot) if self.lives(site, boot) => {
                self.idle_soon(site, boot);
                self.schedule(IDLE_INTERVAL_MS, Happening::Tick(site, boot));
                Ok(())
            }
            Happening::Device(site, boot) if self.lives(site, boot) => self.device_done(site),
            Happening::Work(site, boot, worker) if self.lives(site, boot) => self.work(site, worker),
            Happening::Flush(site, boot, worker) if self.lives(site, boot) => self.flush_done(site, worker),
            Happening::Dial(site, boot, origin, number) if self.lives(site, boot) => self.dial(site, origin, number),
            Happening::Arrive(link, end) => self.arrive(link, end),
            Happening::Feed(site, boot, event) if self.lives(site, boot) => self.feed(site, *event),
            Happening::Stale => self.replay(),
            Happening::Retry(flight) => self.client_retry(flight),
            Happening::Wake(site, boot) if self.lives(site, boot) => self.wake(site),
            Happening::PowerBack(site) => self.start(site),
            _ => Ok(()),
        }
    }

    /// The pair of a site's origin; the first, where it has no mirror.
    pub(super) fn pair(&self, home: Site) -> Pair {
        self.topology.pair_of(home).unwrap_or(self.topology.pairs()[0])
    }

    /// The pair of an origin, where it has a mirror.
    pub(super) fn pair_of(&self, origin: &Origin) -> Option<Pair> {
        self.topology.pairs().iter().copied().find(|pair| pair.origin() == *origin)
    }

    /// An origin's worker in the process of a site.
    pub(super) fn worker(&mut self, site: Site, origin: &Origin) -> Option<&mut Worker> {
        self.sites[site.index()].process.as_mut()?.worker(origin)
    }

    /// What is kept an eye on of an origin in the process of a site.
    pub(super) fn watched(&mut self, site: Site, origin: &Origin) -> Option<&mut Watch> {
        self.worker(site, origin).map(|worker| &mut worker.watch)
    }

    /// Is this the process that runs at the site?
    pub(super) fn lives(&self, site: Site, boot: u32) -> bool {
        self.sites[site.index()].process.as_ref().is_some_and(|process| process.boot == boot)
    }

    /// The number of the process that runs at a site.
    pub(super) fn boot(&self, site: Site) -> Option<u32> {
        self.sites[site.index()].process.as_ref().map(|process| process.boot)
    }

    fn idle_soon(&mut self, site: Site, boot: u32) {
        let Some(process) = &mut self.sites[site.index()].process else { return };
        if !std::mem::replace(&mut process.idle_due, true) {
            self.schedule(0, Happening::Idle(site, boot));
        }
    }

    /// The moment, as a process sees it.
    fn moment(&self, site: Site) -> Now {
        let state = &self.sites[site.index()];
        let started = state.process.as_ref().map_or(self.now, |process| process.started);
        Now { mono_ms: self.now - started + 1, wall_ms: (WALL_MS + self.now).saturating_add_signed(state.wall_offset) }
    }

    /// An event reaches a process: its core takes it into account, unless it is paused.
    pub(super) fn feed(&mut self, site: Site, event: Event) -> Checked {
        let Some(process) = &mut self.sites[site.index()].process else { return Ok(()) };
        if !process.stalled {
            return self.handle(site, event);
        }
        if !matches!(event, Event::Idle) {
            process.inbox.push_back(event);
        }
        Ok(())
    }

    /// The core takes an event into account, and what it asks for is done.
    fn handle(&mut self, site: Site, event: Event) -> Checked {
        let now = self.moment(site);
        let Some(boot) = self.boot(site) else { return Ok(()) };
        self.trace_event(site, &event);
        // One that is damaged is marked so first.
        let failed = matches!(event, Event::PersistFailed { .. } | Event::EngineFailed { damaged: false, .. });
        let idle = matches!(event, Event::Idle);
        let mut effects = std::mem::take(&mut self.spare);
        if let Some(process) = &mut self.sites[site.index()].process {
            process.node.handle(event, now, &mut effects);
        }
        let stops = effects.iter().any(|effect| matches!(effect, Effect::Stop { .. }));
        let silent = effects.iter().all(|effect| matches!(effect, Effect::Stop { .. } | Effect::Note { .. }));
        if failed && !(stops && silent) {
            return broken(8, format!("a persist or the engine failed at {site:?} and the node goes on"));
        }
        let done = self.carry_out(site, boot, &mut effects);
        effects.clear();
        self.spare = effects;
        done?;
        if !idle {
            self.idle_soon(site, boot);
        }
        self.marks_are_ordered(site, idle)
    }

    /// A client's submission reaches the core in its turn.
    pub(super) fn feed_later(&mut self, site: Site, boot: u32, event: Event) {
        self.schedule(0, Happening::Feed(site, boot, Box::new(event)));
    }

    /// A client tries again after a while.
    pub(super) fn schedule_retry(&mut self, flight: u64) {
        self.schedule(200, Happening::Retry(flight));
    }

    /// Writes that clients were answered for.
    #[must_use]
    pub fn answers(&self) -> u64 {
        self.model.answers
    }

    /// Rule 3, as the node itself sees it.
    fn marks_are_ordered(&mut self, site: Site, idle: bool) -> Checked {
        let now = self.moment(site);
        let Some(process) = &self.sites[site.index()].process else { return Ok(()) };
        for log in process.node.status(now).origins {
            let source = log.role == Role::Source;
            let ordered = log.applied <= log.persisted && log.persisted <= log.last && log.committed <= log.last;
            let committed = !source || (log.consistency_point <= log.applied && log.applied <= log.committed);
            if !ordered || !committed {
                return broken(
                    3,
                    format!(
                        "{site:?} says of {}: point {}, applied {}, committed {}, persisted {}, last {}",
                        log.origin, log.consistency_point, log.applied, log.committed, log.persisted, log.last
                    ),
                );
            }
            if source && self.pair_of(&log.origin).is_some() {
                self.watch(site, &log, idle)?;
            }
        }
        Ok(())
    }

    /// Does what the core asks for, in order.
    fn carry_out(&mut self, site: Site, boot: u32, effects: &mut Vec<Effect>) -> Checked {
        for effect in effects.drain(..) {
            if !self.lives(site, boot) || self.power_fails_now(site) {
                return Ok(());
            }
            self.trace_effect(site, &effect);
            self.cover_effect(site, &effect);
            match effect {
                Effect::Write { offset, pieces } => self.device_write(site, offset, pieces)?,
                Effect::Persist { id } => self.device_persist(site, id)?,
                Effect::Append { .. }
                | Effect::Apply { .. }
                | Effect::Flush { .. }
                | Effect::Trim { .. }
                | Effect::Collect { .. }
                | Effect::Cut { .. }
                | Effect::Baseline { .. }
                | Effect::Repair { .. }
                | Effect::Fetch { .. } => self.worker_task(site, effect)?,
                Effect::Connect { origin, connection, delay_ms } => {
                    let jitter = self.noise.below(5);
                    self.schedule(delay_ms + jitter, Happening::Dial(site, boot, origin, connection));
                }
                Effect::Send { origin, connection, message } => self.sends(site, boot, &origin, connection, message)?,
                Effect::Close { origin, connection } => self.close(site, boot, &origin, connection),
                Effect::Placed { ticket, epoch, seq } => self.client_placed(ticket, epoch, seq)?,
                Effect::Done { ticket, result } => self.client_done(site, ticket, &result)?,
                Effect::Settled { ticket } => self.client_settled(ticket)?,
                Effect::Reply { ticket, result } => self.reply(site, ticket, result)?,
                Effect::Publish(state) => self.published(site, &state)?,
                Effect::Note { .. } => {}
                Effect::Stop { .. } => self.crash(site),
            }
        }
        Ok(())
    }

    /// The gateway hears what the node is for an origin.
    fn published(&mut self, site: Site, state: &OriginState) -> Checked {
        let OriginState { origin, role, .. } = state;
        let role = *role;
        if let Some(pair) = self.pair_of(origin) {
            match role {
                Role::Source => self.takes_over(site, pair)?,
                Role::Destination => self.model.follows(site, origin),
                Role::Fenced => {}
            }
        }
        self.sites[site.index()].published(state);
        Ok(())
    }

    /// A site says that it takes the origin's writes.
    fn takes_over(&mut self, site: Site, pair: Pair) -> Checked {
        let origin = &pair.origin();
        let stored = self.model.stored(site, origin);
        let Some(entry) = stored.filter(|entry| entry.role == StoredRole::Source) else {
            return broken(2, format!("{site:?} serves {origin} before its fence is durable"));
        };
        let epoch = entry.epoch();
        if !self.model.takes(site, origin, epoch) {
            return Ok(());
        }
        if site == pair.home {
            self.seen.note(Seen::TakenBack);
        }
        self.model.keeps_mirrored(site, origin, "takes it over")?;
        self.model.keeps_received(site, origin)?;
        self.check_image(site, origin)
    }

    /// An order is answered.
    fn reply(&mut self, site: Site, ticket: Ticket, result: Result<Report, String>) -> Checked {
        if let Some(mender) = self.menders.remove(&ticket) {
            return self.was_mended(&mender, result.is_ok());
        }
        let Some(index) = self.orders.iter().position(|(t, ..)| *t == ticket) else {
            return broken(7, format!("{site:?} answers an order that nobody gave, or answers it twice"));
        };
        let (_, _, pair, order) = self.orders.swap_remove(index);
        if let Ok(report) = &result
            && report.verdict == Some(PROVED)
        {
            match order {
                Order::Promote | Order::PromoteLossy => self.model.keeps_answered(site, &pair.origin())?,
                Order::Failback => self.model.keeps_answered(pair.other(site), &pair.origin())?,
                _ => {}
            }
        }
        if order == Order::Alone && result.is_ok() {
            self.model.goes_on_alone(site, &pair.origin());
        }
        self.cover_reply(order, &result);
        self.replies.push((order, site, result));
        Ok(())
    }

    /// Rule 4, in full, at a moment that matters.
    pub(super) fn check_image(&mut self, site: Site, origin: &Origin) -> Checked {
        let Some(worker) = self.worker(site, origin) else { return Ok(()) };
        let image = worker.engine.image().clone();
        self.references.check(site, origin, &image, &self.model)
    }
}
