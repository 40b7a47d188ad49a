//! One site: its devices, which outlive the process, and the process with its core and workers.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use lockstep_mirror::client::{OriginState, Role};
use lockstep_mirror::event::{Effect, Event};
use lockstep_mirror::node::Node;
use lockstep_mirror::plan::{Limits, NodePlan, OriginPlan, StreamPlan};
use lockstep_mirror::status::OriginStatus;
use lockstep_mirror::worker::{Aside, Chunk};
use lockstep_storage::id::{BodyId, Epoch, Origin, Position, Seq};
use lockstep_storage::image::{Image, Progress};
use lockstep_storage::nvram::sim::SimNvram;
use lockstep_storage::nvram::{Nvram, NvramError};
use lockstep_storage::op::{AccessKey, Mutation, PutAccessKey, PutUser, User};
use lockstep_storage::partition::{SEGMENTS_DEFAULT, segment_len_min};
use lockstep_storage::record::Draft;

use super::engines::{Engines, SimGenerations};
use super::random::Random;
use super::scenario::{Scenario, Site};

/// Largest record of the simulation, in bytes: so that a segment holds a few records and histories are short.
pub const RECORD_LEN_MAX: usize = 8 << 10;
/// Bytes of a baseline in a second: slow enough that things happen meanwhile.
const BASELINE_RATE: u64 = 24_000;
/// Chunk size of the simulation's bodies, in bytes.
pub const CHUNK_LEN: u32 = 1500;

/// What waits for the device.
#[derive(Debug)]
pub enum DeviceTask {
    /// Bytes to write.
    Write {
        /// Where.
        offset: u64,
        /// What, one behind the other.
        pieces: Vec<Bytes>,
    },
    /// A persist to answer. `superblock`: nothing but the superblock was written since the one before.
    Persist {
        /// The number of its answer.
        id: u64,
        /// The superblock's.
        superblock: bool,
    },
}

/// The engine's side of one origin in a process.
pub struct Worker {
    /// Whose.
    pub origin: Origin,
    /// What production has too.
    pub engine: lockstep_mirror::worker::Worker,
    /// What waits, oldest first.
    pub queue: VecDeque<Effect>,
    /// It is at work.
    pub busy: bool,
    /// A flush is under way, which covers this much.
    pub flushing: Option<Progress>,
    /// The core was told that the device is full.
    pub told_full: bool,
    /// Its engine was found damaged: it does nothing more.
    pub broken: bool,
    /// What the world keeps an eye on.
    pub watch: Watch,
}

/// What the world has seen of an origin in a process.
#[derive(Debug, Default)]
pub struct Watch {
    /// What its mirror has acknowledged, as far as it has arrived here.
    pub arrived: Arrived,
    /// Its status after the last event, where this process is its source.
    pub status: Option<OriginStatus>,
    /// The process has asked the mirror for records that it lost.
    pub adopting: bool,
    /// The moment that its baseline is said to be of, where it is not the one that is frozen.
    pub frozen_claim: Option<Position>,
    /// It answers alone and has refused readers since then.
    pub refuses_since: Option<u64>,
}

impl Worker {
    /// A worker on what a start has opened.
    #[must_use]
    pub fn new(origin: Origin, image: Image, generations: SimGenerations, tails: &Tails, forgets_chunks: bool) -> Self {
        let tails = Arc::clone(tails);
        let set_aside = Box::new(move |origin: &Origin, _: Epoch, step: Aside<'_>| {
            let Ok(mut tails) = tails.lock() else { return Ok(()) };
            match step {
                Aside::Records(records) => tails.records.extend(records.iter().map(|record| record.header.checksum)),
                Aside::Chunks(_) if forgets_chunks => {}
                Aside::Chunks(chunks) => {
                    let named = |chunk: &Chunk| ((origin.clone(), chunk.body, chunk.index), chunk.bytes.clone());
                    tails.chunks.extend(chunks.iter().map(named));
                }
            }
            Ok(())
        });
        let generations = Box::new(generations);
        let engine = lockstep_mirror::worker::Worker::new(origin.clone(), image, limits(), set_aside, generations);
        Self {
            origin,
            engine,
            queue: VecDeque::new(),
            busy: false,
            flushing: None,
            told_full: false,
            broken: false,
            watch: Watch::default(),
        }
    }
}

/// What a site has set aside, durably.
#[derive(Debug, Default)]
pub struct SetAside {
    /// Checksums of records.
    pub records: HashSet<u64>,
    /// Chunks from before the first of them.
    pub chunks: HashMap<(Origin, BodyId, u32), Bytes>,
}

/// The same, of all its processes.
pub type Tails = Arc<Mutex<SetAside>>;

/// Acks that have reached a process, taken into account by its core or not yet.
#[derive(Debug, Clone, Copy, Default)]
pub struct Arrived {
    /// When the last one came.
    pub at: u64,
    /// In the mirror's memory.
    pub received: Seq,
    /// Durable at the mirror.
    pub persisted: Seq,
    /// In the mirror's image.
    pub applied: Seq,
}

/// What dies with the process.
pub struct Process {
    /// The core.
    pub node: Node,
    /// Tells this process from the ones before it.
    pub boot: u32,
    /// When it started, in milliseconds of the world's clock.
    pub started: u64,
    /// What waits for the device; the first is under way where `persisting`.
    pub device: VecDeque<DeviceTask>,
    /// A persist is under way.
    pub persisting: bool,
    /// The device has failed.
    pub device_failed: bool,
    /// Records were written since the last persist was asked for.
    pub device_wrote_records: bool,
    /// One an origin.
    pub workers: Vec<Worker>,
    /// The core hears that its inbox is drained when this event comes.
    pub idle_due: bool,
    /// The process is paused: it gets no time.
    pub stalled: bool,
    /// It is not any more: what has arrived meanwhile is being taken into account.
    pub waking: bool,
    /// What has arrived meanwhile.
    pub inbox: VecDeque<Event>,
    /// So many effects more, and the power fails.
    pub effects_left: Option<u32>,
    /// Connections that were accepted.
    pub accepted: u64,
}

impl Process {
    /// The worker of an origin.
    pub fn worker(&mut self, origin: &Origin) -> Option<&mut Worker> {
        self.workers.iter_mut().find(|worker| worker.origin == *origin)
    }
}

/// One site.
pub struct SiteState {
    /// Which.
    pub site: Site,
    /// Its node's plan.
    pub plan: NodePlan,
    /// The log device.
    pub nvram: SimNvram,
    /// The engines.
    pub engines: Engines,
    /// What its workers have set aside.
    pub tails: Tails,
    /// The process, where one runs.
    pub process: Option<Process>,
    /// Processes so far.
    pub boots: u32,
    /// The site is gone.
    pub lost: bool,
    /// What its node said last that it is, by origin.
    pub states: Vec<OriginState>,
    /// Its wall clock against the world's, in milliseconds.
    pub wall_offset: i64,
    /// Persists take long.
    pub slow: bool,
    /// The engine's disk is full.
    pub full: bool,
    /// The engine's next flush fails for good.
    pub flush_fails: bool,
    /// The engine of this origin is found damaged, by the process that runs.
    pub damaged: Option<Origin>,
    /// What it sends does not arrive.
    pub cut: bool,
}

/// The records of a first start, as the gateway has them: a user and a key.
fn bootstrap(name: &str) -> Vec<Draft> {
    let user = PutUser { name: name.into(), user: User::default() };
    let key = AccessKey { secret: "s".into(), user: name.into(), root: true, ..AccessKey::default() };
    let key = PutAccessKey { access_key: name.into(), key };
    let drafts = [Mutation::PutUser(user), Mutation::PutAccessKey(key)];
    drafts.into_iter().filter_map(|mutation| Draft::new(mutation, Bytes::new()).ok()).collect()
}

/// Bounds that are as small as the records, so that histories of some hundred records meet each of them.
fn limits() -> Limits {
    Limits {
        record_len_max: RECORD_LEN_MAX,
        batch_len_max: 24 << 10,
        batch_records_max: 12,
        window_len_max: 16 << 10,
        message_len_max: 6 << 10,
        budget_len: 12 << 10,
        ages_max: 4,
        apply_step: 3,
        collect_step: 3,
        baseline_step_len: 8 << 10,
        flap_losses: 2,
        flap_window_ms: 2_000,
        hold_off_ms: 200,
        hold_off_max_ms: 900,
        steady_ms: 300,
        slow_persist_ms: 150,
        write_timeout_ms: 900,
    }
}

fn plan(site: Site, scenario: &Scenario) -> NodePlan {
    let nvram_len = segment_len_min(RECORD_LEN_MAX) * u64::from(SEGMENTS_DEFAULT);
    let stream = |to: Site| StreamPlan {
        destination: to.origin(),
        url: String::new(),
        policy: scenario.policy,
        ack: scenario.ack,
        link_timeout: std::time::Duration::from_millis(scenario.link_timeout_ms),
        sync_interval: std::time::Duration::from_millis(scenario.sync_interval_ms),
        backlog_limit: scenario.backlog_limit,
        baseline_rate: BASELINE_RATE,
    };
    let away = scenario.topology.pair_of(site).map(|pair| stream(pair.mirror));
    let mut origins = vec![OriginPlan { origin: site.origin(), nvram_len, stream: away }];
    for pair in scenario.topology.pairs().iter().filter(|pair| pair.mirror == site) {
        let back = scenario.way_back.then(|| stream(pair.home));
        origins.push(OriginPlan { origin: pair.origin(), nvram_len, stream: back });
    }
    let node = site.origin();
    NodePlan { bootstrap: bootstrap(node.as_str()), node, origins, limits: limits() }
}

impl SiteState {
    /// A site that was never started.
    #[must_use]
    pub fn new(site: Site, scenario: &Scenario) -> Self {
        let plan = plan(site, scenario);
        Self {
            site,
            nvram: SimNvram::new(lockstep_mirror::start::region_len(&plan)),
            plan,
            engines: Engines::default(),
            tails: Tails::default(),
            process: None,
            boots: 0,
            lost: false,
            states: Vec::new(),
            wall_offset: 0,
            slow: false,
            full: false,
            flush_fails: false,
            damaged: None,
            cut: false,
        }
    }

    /// The node says what it is for an origin.
    pub fn published(&mut self, state: &OriginState) {
        self.states.retain(|known| known.origin != state.origin);
        self.states.push(state.clone());
    }

    /// What it said last.
    #[must_use]
    pub fn state(&self, origin: &Origin) -> Option<&OriginState> {
        self.states.iter().find(|state| state.origin == *origin).filter(|_| self.process.is_some())
    }

    /// Does it take the origin's writes?
    #[must_use]
    pub fn is_source(&self, origin: &Origin) -> bool {
        self.state(origin).is_some_and(|state| state.role == Role::Source)
    }

    /// Another machine stands here, as empty as the first one was.
    pub fn renew(&mut self) {
        self.nvram = SimNvram::new(self.nvram.len());
        self.engines.clear();
    }

    /// The power goes: what was not durable survives as the noise decides.
    pub fn power_off(&mut self, noise: &mut Random) {
        self.process = None;
        self.states.clear();
        let keep = noise.weighted(&[(2, 0), (2, 100), (6, 50), (2, 90), (2, 10)]);
        self.nvram.crash(&mut || noise.chance(keep));
        self.flush_fails = false;
        self.engines.crash(noise, keep);
    }
}

/// A device that dies after some persists: the power goes in the middle of a start.
pub struct Dying<'a> {
    /// The device behind it.
    pub device: &'a mut SimNvram,
    /// Persists that it will carry out.
    pub persists_left: u64,
}

impl Nvram for Dying<'_> {
    fn len(&self) -> u64 {
        self.device.len()
    }

    fn write(&mut self, offset: u64, pieces: &[Bytes]) -> Result<(), NvramError> {
        self.device.write(offset, pieces)
    }

    fn persist(&mut self) -> Result<(), NvramError> {
        if self.persists_left == 0 {
            self.device.fail_persists = true;
        }
        self.persists_left = self.persists_left.saturating_sub(1);
        self.device.persist()
    }

    fn read(&mut self, offset: u64, len: usize) -> Result<Bytes, NvramError> {
        self.device.read(offset, len)
    }
}
