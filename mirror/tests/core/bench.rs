//! A node whose devices and engines do what they are asked when the test says so, and whose peer the test plays.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use lockstep_mirror::client::{Receipt, Refusal};
use lockstep_mirror::event::{Command, Connection, Effect, Event, Now, Report, Ticket};
use lockstep_mirror::message::{Append, Hello, Message, PROTOCOL_VERSION, Welcome};
use lockstep_mirror::node::Node;
use lockstep_mirror::note::Note;
use lockstep_mirror::plan::{Limits, NodePlan, OriginPlan, StreamPlan};
use lockstep_mirror::start::{Engines, StartError, Started, region_len, start};
use lockstep_mirror::status::{OriginStatus, Status};
use lockstep_mirror::worker::{Generations, Worker};
use lockstep_storage::id::{Epoch, Origin, Position, Seq};
use lockstep_storage::image::absent::AbsentEngine;
use lockstep_storage::image::memory::MemoryEngine;
use lockstep_storage::image::{Change, Engine, Family, Image, ImageError, keys};
use lockstep_storage::nvram::Nvram;
use lockstep_storage::nvram::sim::SimNvram;
use lockstep_storage::op::{Bucket, CreateBucket, Mutation};
use lockstep_storage::record::{Draft, Place, Record};
use lockstep_storage::superblock::{EpochEntry, OriginEntry, Superblock};

/// The engines that the test keeps.
struct Kept<'a>(&'a mut BTreeMap<Origin, Arc<MemoryEngine>>);

impl Engines for Kept<'_> {
    fn newest(&mut self, origin: &Origin) -> Result<Option<u64>, ImageError> {
        Ok(self.0.contains_key(origin).then_some(1))
    }

    fn open(&mut self, origin: &Origin, _generation: u64) -> Result<Image, ImageError> {
        let engine = Arc::clone(self.0.entry(origin.clone()).or_default());
        Ok(Image::new(engine))
    }

    fn absent(&mut self, _origin: &Origin, _generation: u64) -> Image {
        Image::new(Arc::new(AbsentEngine::new(|| ())))
    }

    fn remove_before(&mut self, _origin: &Origin, _generation: u64) -> Result<(), ImageError> {
        Ok(())
    }
}

/// A node that fills no other engine: the test plays the worker of a baseline.
struct NoOthers;

impl Generations for NoOthers {
    fn open(&mut self, generation: u64) -> Result<Arc<dyn Engine>, ImageError> {
        panic!("nobody asks for generation {generation}")
    }

    fn remove(&mut self, _generation: u64) -> Result<(), ImageError> {
        Ok(())
    }

    fn free_bytes(&mut self) -> Option<u64> {
        None
    }
}

pub(crate) fn site(name: &str) -> Origin {
    Origin::new(name).expect("a name")
}

pub(crate) fn create_bucket(bucket: &str) -> Draft {
    let mutation = Mutation::CreateBucket(CreateBucket { bucket: bucket.into(), meta: Bucket::default() });
    Draft::new(mutation, Bytes::new()).expect("small")
}

/// The record that creates a bucket and follows another one.
fn follows(parent: Position, epoch: Epoch, bucket: &str, time_ms: u64) -> Record {
    let (committed, persisted) = (parent.seq, parent.seq);
    create_bucket(bucket).place(&Place { parent, epoch, committed, persisted, time_ms })
}

/// A run of records from `parent` on.
pub(crate) fn run(parent: Position, epoch: Epoch, count: usize) -> Vec<Record> {
    run_at(parent, epoch, count, 1)
}

/// The same, modified at this time.
pub(crate) fn run_at(parent: Position, epoch: Epoch, count: usize, time_ms: u64) -> Vec<Record> {
    let mut parent = parent;
    let next = |n: usize| {
        let record = follows(parent, epoch, &format!("bucket-{}-{n}", epoch.counter), time_ms);
        parent = record.position();
        record
    };
    (0..count).map(next).collect()
}

/// What a node leaves behind when its power goes, and a test may damage, lose or keep a copy of.
pub(crate) struct Disks {
    pub(crate) plan: NodePlan,
    pub(crate) nvram: SimNvram,
    pub(crate) engines: BTreeMap<Origin, Arc<MemoryEngine>>,
}

impl Clone for Disks {
    fn clone(&self) -> Self {
        let copy =
            |(origin, engine): (&Origin, &Arc<MemoryEngine>)| (origin.clone(), Arc::new(engine.crash(usize::MAX)));
        let engines = self.engines.iter().map(copy).collect();
        Self { plan: self.plan.clone(), nvram: self.nvram.clone(), engines }
    }
}

impl Disks {
    /// Starts the node, which is then thrown away: the core's first effects are not carried out.
    pub(crate) fn start(&mut self) -> Result<(), StartError> {
        start(&mut self.nvram, &self.plan, 7, &mut Kept(&mut self.engines), Now::default()).map(drop)
    }

    /// Starts the node; what its core asks for first.
    pub(crate) fn open(self) -> Result<(Bench, Vec<Effect>), StartError> {
        Bench::open(self.plan, self.nvram, self.engines)
    }

    /// Flips a bit of a record in the NVRAM; a second time it is sound again.
    pub(crate) fn rot(&mut self, record: &Record) {
        let len = usize::try_from(self.nvram.len()).expect("a small region");
        let region = self.nvram.read(0, len).expect("reads");
        let found = region.windows(record.head.len()).position(|window| window[30..] == record.head[30..]);
        self.nvram.rot(found.expect("the record is in the region") as u64 + 20, 3);
    }

    /// The region is a new one.
    pub(crate) fn lose_nvram(&mut self) {
        self.nvram = SimNvram::new(self.nvram.len());
    }
}

pub(crate) struct Bench {
    plan: NodePlan,
    nvram: SimNvram,
    engines: BTreeMap<Origin, Arc<MemoryEngine>>,
    node: Node,
    workers: BTreeMap<Origin, Worker>,
    /// The origin under test.
    pub(crate) origin: Origin,
    pub(crate) effects: Vec<Effect>,
    /// What came in the log of events, in order.
    pub(crate) notes: Vec<Note>,
    pub(crate) now_ms: u64,
    /// Its wall clock against `now_ms`, in milliseconds.
    pub(crate) wall_offset_ms: i64,
    /// How often a worker has said that a record cannot be applied.
    pub(crate) stuck: usize,
    tickets: u64,
}

impl Bench {
    /// The source of `site-a`, with what it asked for at its start.
    pub(crate) fn source(stream: Option<StreamPlan>) -> (Self, Vec<Effect>) {
        let own = OriginPlan { origin: site("site-a"), nvram_len: 1 << 20, stream };
        Self::new("site-a", vec![own])
    }

    /// The destination of `site-a`.
    pub(crate) fn destination() -> Self {
        let plan = |name| OriginPlan { origin: site(name), nvram_len: 1 << 20, stream: None };
        Self::new("site-b", vec![plan("site-b"), plan("site-a")]).0
    }

    fn new(node: &str, origins: Vec<OriginPlan>) -> (Self, Vec<Effect>) {
        let plan = NodePlan {
            node: site(node),
            origins,
            bootstrap: Vec::new(),
            limits: Limits { record_len_max: 8 << 10, ..Limits::default() },
        };
        let nvram = SimNvram::new(region_len(&plan));
        Self::open(plan, nvram, BTreeMap::new()).unwrap_or_else(|error| panic!("a new node starts: {error}"))
    }

    fn open(
        plan: NodePlan,
        mut nvram: SimNvram,
        mut engines: BTreeMap<Origin, Arc<MemoryEngine>>,
    ) -> Result<(Self, Vec<Effect>), StartError> {
        let Started { node, images, effects } = start(&mut nvram, &plan, 7, &mut Kept(&mut engines), Now::default())?;
        let worker = |(origin, image): (Origin, Image)| {
            (
                origin.clone(),
                Worker::new(origin, image, Limits::default(), Box::new(|_, _, _| Ok(())), Box::new(NoOthers)),
            )
        };
        let workers = images.into_iter().map(worker).collect();
        let mut bench = Self {
            plan,
            nvram,
            engines,
            node,
            workers,
            origin: site("site-a"),
            effects,
            notes: Vec::new(),
            now_ms: 1,
            wall_offset_ms: 0,
            stuck: 0,
            tickets: 0,
        };
        let left = bench.settle();
        Ok((bench, left))
    }

    /// The power goes: what is not persisted and not flushed is lost. What a new process makes of the rest.
    pub(crate) fn crash(self, change: impl FnOnce(&mut NodePlan)) -> Result<(Self, Vec<Effect>), StartError> {
        let mut disks = self.disks();
        change(&mut disks.plan);
        disks.open()
    }

    /// What would be left, were the power to go now.
    pub(crate) fn disks(&self) -> Disks {
        let mut nvram = self.nvram.clone();
        nvram.crash(&mut || false);
        let engines = self.engines.iter().map(|(origin, engine)| (origin.clone(), Arc::new(engine.crash(0)))).collect();
        Disks { plan: self.plan.clone(), nvram, engines }
    }

    pub(crate) fn restart(self) -> (Self, Vec<Effect>) {
        self.crash(|_| ()).unwrap_or_else(|error| panic!("a node starts again: {error}"))
    }

    /// What the durable superblock says of the origin under test.
    pub(crate) fn stored(&mut self) -> OriginEntry {
        let (superblock, _) = Superblock::load(&mut self.nvram).expect("reads").expect("is there");
        superblock.origin(&self.origin).expect("the origin").clone()
    }

    pub(crate) fn engine(&self) -> Arc<MemoryEngine> {
        Arc::clone(&self.engines[&self.origin])
    }

    /// A record of the container.
    pub(crate) fn record(&self, seq: Seq) -> Record {
        self.image().read_log(seq, 1).expect("reads").remove(0)
    }

    /// Damages a record in the container.
    pub(crate) fn damage(&self, seq: Seq) {
        let mut bytes = self.image().view().stored(seq).expect("reads").expect("it is there").bytes.to_vec();
        bytes[30] ^= 4;
        let change = Change::Put(Family::Log, keys::log(seq), bytes.into());
        self.engines[&self.origin].commit(vec![change]).expect("commits");
    }

    pub(crate) fn image(&self) -> &Image {
        self.workers[&self.origin].image()
    }

    pub(crate) fn handle(&mut self, event: Event) {
        let now = self.now();
        self.node.handle(event, now, &mut self.effects);
    }

    fn now(&self) -> Now {
        Now { mono_ms: self.now_ms, wall_ms: self.now_ms.saturating_add_signed(self.wall_offset_ms) }
    }

    /// What an operator is shown.
    pub(crate) fn status(&self) -> Status {
        self.node.status(self.now())
    }

    /// The origin under test, as an operator is shown it.
    pub(crate) fn shown(&self) -> OriginStatus {
        let found = self.status().origins.into_iter().find(|origin| origin.origin == self.origin);
        found.expect("an origin of the node")
    }

    /// Carries out what the core asks of devices and engines, but for flushes and cuts, which are left to the test. Returns
    /// these, and what it says to clients, operators, the link and the gateway.
    pub(crate) fn settle(&mut self) -> Vec<Effect> {
        let mut left = Vec::new();
        for _ in 0..100 {
            self.handle(Event::Idle);
            let asked = std::mem::take(&mut self.effects);
            for effect in asked {
                match effect {
                    Effect::Write { offset, pieces } => self.nvram.write(offset, &pieces).expect("in the region"),
                    Effect::Persist { id } => {
                        self.nvram.persist().expect("the device works");
                        self.handle(Event::Persisted { id });
                    }
                    Effect::Append { ref origin, .. }
                    | Effect::Apply { ref origin, .. }
                    | Effect::Trim { ref origin, .. }
                    | Effect::Collect { ref origin, .. }
                    | Effect::Repair { ref origin, .. }
                    | Effect::Fetch { ref origin, .. } => {
                        let origin = origin.clone();
                        self.work(&origin, effect);
                    }
                    Effect::Note { note, .. } => self.notes.push(*note),
                    Effect::Placed { .. } => {}
                    said => left.push(said),
                }
            }
        }
        left
    }

    fn work(&mut self, origin: &Origin, effect: Effect) {
        let worker = self.workers.get_mut(origin).expect("an origin of the node");
        let mut events: Vec<Event> = worker.carry_out(effect).expect("the engine works").into_iter().collect();
        // An apply that never ends is found by its number of steps.
        for _ in 0..100 {
            let Some(event) = worker.step().expect("applies") else { break };
            events.push(event);
        }
        for event in events {
            self.stuck += usize::from(matches!(event, Event::Stuck { .. }));
            self.handle(event);
        }
    }

    /// Carries out the cuts among these, and says so to the core; how many there were.
    pub(crate) fn cut(&mut self, asked: &[Effect]) -> usize {
        let cuts: Vec<Effect> = asked.iter().filter(|effect| matches!(effect, Effect::Cut { .. })).cloned().collect();
        let count = cuts.len();
        let origin = self.origin.clone();
        for cut in cuts {
            self.work(&origin, cut);
        }
        count
    }

    pub(crate) fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    /// Submits a write.
    pub(crate) fn submit(&mut self, bucket: &str) -> Ticket {
        let (ticket, origin) = (self.ticket(), self.origin.clone());
        self.handle(Event::Submit { ticket, origin, draft: create_bucket(bucket), require: None, history: None });
        ticket
    }

    /// A write, until it is answered; its seq, and what else was asked for meanwhile.
    pub(crate) fn write(&mut self, bucket: &str) -> (Seq, Vec<Effect>) {
        let ticket = self.submit(bucket);
        let mut left = self.settle();
        let at = left.iter().position(|effect| matches!(effect, Effect::Done { ticket: t, .. } if *t == ticket));
        match at.map(|at| left.remove(at)) {
            Some(Effect::Done { result: Ok(receipt), .. }) => (receipt.seq, left),
            other => panic!("the write is not answered: {other:?}"),
        }
    }

    /// An operator's command, until it is answered; the answer, and what else was asked for meanwhile.
    pub(crate) fn command(&mut self, command: Command) -> (Option<Result<Report, String>>, Vec<Effect>) {
        let asked = self.ticket();
        self.handle(Event::Command { ticket: asked, command });
        let left = self.settle();
        (reply(&left, asked), left)
    }

    pub(crate) fn flushed(&mut self) -> Vec<Effect> {
        let progress = self.image().flush().expect("flushes");
        let origin = self.origin.clone();
        self.handle(Event::Flushed { origin, progress });
        self.settle()
    }

    /// The connection that the core asks for stands; its Hello.
    pub(crate) fn connected(&mut self, asked: &[Effect]) -> (Connection, Hello) {
        let connect = asked.iter().rev().find_map(|effect| match effect {
            Effect::Connect { connection, .. } => Some(*connection),
            _ => None,
        });
        let connection = connect.unwrap_or_else(|| panic!("no connection is asked for: {asked:?}"));
        self.handle(Event::Connected { origin: self.origin.clone(), connection });
        let left = self.settle();
        let hello = left.into_iter().find_map(|effect| match effect {
            Effect::Send { message: Message::Hello(hello), .. } => Some(hello),
            _ => None,
        });
        (connection, hello.expect("a Hello"))
    }

    pub(crate) fn lose(&mut self, connection: Connection) {
        let origin = self.origin.clone();
        self.handle(Event::Disconnected { origin, connection, reason: "cut".into() });
    }

    pub(crate) fn receive(&mut self, connection: Connection, message: Message) {
        let origin = self.origin.clone();
        self.handle(Event::Received { origin, connection, message });
    }

    pub(crate) fn receive_records(&mut self, connection: Connection, records: Vec<Record>) {
        let persisted = records.last().map(|record| record.header.seq).unwrap_or_default();
        self.receive(connection, Message::Append(Append { committed: persisted, persisted, records }));
    }

    /// The mirror's welcome: it has everything up to `last`, of these epochs.
    pub(crate) fn welcome(&mut self, connection: Connection, epochs: Vec<EpochEntry>, last: Position) {
        let (version, credit) = (PROTOCOL_VERSION, 1 << 20);
        let node = site("site-b");
        let welcome = Welcome { version, node, incarnation: 9, connection: connection.0, epochs, last, credit };
        self.receive(connection, Message::Welcome(welcome));
    }
}

/// How a write was answered.
pub(crate) fn done(effects: &[Effect], asked: Ticket) -> Option<Result<Receipt, Refusal>> {
    effects.iter().find_map(|effect| match effect {
        Effect::Done { ticket, result } if *ticket == asked => Some(result.clone()),
        _ => None,
    })
}

/// The answer to a command.
pub(crate) fn reply(effects: &[Effect], asked: Ticket) -> Option<Result<Report, String>> {
    effects.iter().find_map(|effect| match effect {
        Effect::Reply { ticket, result } if *ticket == asked => Some(result.clone()),
        _ => None,
    })
}
