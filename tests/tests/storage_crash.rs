//! Crash tests of `storage`, by counting persists: a first run counts them, then each is frozen in turn with different
//! surviving subsets of the unpersisted sectors and of the engine's unflushed commits; what a restart finds must be
//! everything that was durable, nothing torn, and in between a clean prefix. Then bit rot: in the middle it is reported, at
//! the tail it is cut.

use std::sync::Arc;

use bytes::Bytes;
use lockstep_storage::id::{BodyId, Epoch, Origin, Seq};
use lockstep_storage::image::Image;
use lockstep_storage::image::memory::MemoryEngine;
use lockstep_storage::nvram::sim::SimNvram;
use lockstep_storage::nvram::{BLOCK_LEN, Nvram, NvramError};
use lockstep_storage::op::{self, Mutation};
use lockstep_storage::partition::{Extent, Partition, STAMP_LEN, Stamp, Write, segment_len_min};
use lockstep_storage::record::{Draft, Place, Record};
use lockstep_storage::recovery::{Damage, Recovered, RecoveryError, recover};
use lockstep_storage::superblock::{OriginEntry, PARTITIONS_AT, StoredRole, Superblock};
use lockstep_tests::sim::random::Random;

const CHUNK: usize = 700;
const STEPS: usize = 30;

/// The device, which refuses one persist: there the power goes.
struct Freezing {
    device: SimNvram,
    persists: u64,
    freeze_at: Option<u64>,
}

impl Nvram for Freezing {
    fn len(&self) -> u64 {
        self.device.len()
    }

    fn write(&mut self, offset: u64, pieces: &[Bytes]) -> Result<(), NvramError> {
        self.device.write(offset, pieces)
    }

    fn persist(&mut self) -> Result<(), NvramError> {
        self.persists += 1;
        self.device.fail_persists = self.freeze_at == Some(self.persists);
        self.device.persist()
    }

    fn read(&mut self, offset: u64, len: usize) -> Result<Bytes, NvramError> {
        self.device.read(offset, len)
    }
}

/// What a crash keeps of what was not durable.
#[derive(Clone, Copy, Debug)]
enum Survivors {
    Nothing,
    Everything,
    Some(u64),
}

/// The power is gone.
#[derive(Debug)]
struct Frozen;

/// One site: device, engine, and what the test knows to be true of them.
struct Site {
    nvram: Freezing,
    engine: Arc<MemoryEngine>,
    extent: Extent,
    origin: Origin,
    /// Every record that was placed on the present line of history.
    history: Vec<Record>,
    /// So many of them are durable.
    durable: usize,
    random: Random,
}

fn extent() -> Extent {
    let len = segment_len_min(8 << 10) * 3;
    Extent::new(PARTITIONS_AT, len, 3, 8 << 10).expect("three small segments")
}

fn object(len: u64, extents: Vec<op::Extent>) -> op::Object {
    op::Object { len, etag: format!("{len:x}"), extents, ..op::Object::default() }
}

impl Site {
    fn new(seed: u64) -> Self {
        let extent = extent();
        let nvram = Freezing { device: SimNvram::new(extent.end()), persists: 0, freeze_at: None };
        let origin = Origin::new("a").expect("a name");
        let engine = Arc::new(MemoryEngine::new());
        Self { nvram, engine, extent, origin, history: Vec::new(), durable: 0, random: Random::new(seed) }
    }

    fn image(&self) -> Image {
        Image::new(Arc::clone(&self.engine) as _)
    }

    fn epoch(&self) -> Epoch {
        Epoch::default().next(self.origin.node_id())
    }

    fn crash(&mut self, survivors: Survivors) {
        let mut random = Random::new(match survivors {
            Survivors::Some(seed) => seed,
            _ => 0,
        });
        let commits = self.engine.unflushed() as u64;
        let (survive, mut keep): (u64, Box<dyn FnMut() -> bool>) = match survivors {
            Survivors::Nothing => (0, Box::new(|| false)),
            Survivors::Everything => (commits, Box::new(|| true)),
            Survivors::Some(_) => {
                let percent = random.between(5, 95);
                (random.between(0, commits), Box::new(move || random.chance(percent)))
            }
        };
        self.nvram.device.crash(&mut keep);
        self.nvram.freeze_at = None;
        self.engine = Arc::new(self.engine.crash_losing(survive as usize, &mut || !keep()));
    }

    fn persist(&mut self) -> Result<(), Frozen> {
        self.nvram.persist().map_err(|_| Frozen)
    }

    fn store(&mut self, superblock: &Superblock, counter: &mut u64) -> Result<(), Frozen> {
        *counter += 1;
        let (offset, bytes) = superblock.encode(*counter).expect("it fits");
        self.nvram.write(offset, &[bytes]).expect("in the region");
        self.persist()
    }

    fn recover(&mut self, floor: u64) -> Result<Recovered, RecoveryError> {
        let image = self.image();
        recover(&mut self.nvram, self.origin.node_id(), self.extent, floor, &image)
    }

    /// What a node does at its start, and what must then be true.
    fn start(&mut self) -> Result<(Superblock, u64, Recovered), Frozen> {
        let loaded = Superblock::load(&mut self.nvram).expect("a crash leaves one sound copy or an unused region");
        let (mut superblock, mut counter) = if let Some(found) = loaded {
            found
        } else {
            assert_eq!(self.durable, 0, "records are durable, the superblock is not");
            let fresh = fresh_superblock(&self.origin, self.extent);
            self.store(&fresh, &mut 0)?;
            (fresh, 1)
        };
        let floor = superblock.origins[0].generation_floor;
        let recovered = self.recover(floor).unwrap_or_else(|error| panic!("a crash is not corruption: {error}"));
        self.check(&recovered);
        self.history.truncate(recovered.progress.appended.seq.0 as usize);
        self.durable = self.history.len();
        superblock.origins[0].generation_floor = recovered.generation;
        self.store(&superblock, &mut counter)?;
        Ok((superblock, counter, recovered))
    }

    fn check(&self, recovered: &Recovered) {
        let progress = recovered.progress;
        let last = progress.appended.seq.0 as usize;
        assert!(last >= self.durable, "record {} was durable, only {last} are left", self.durable);
        assert!(last <= self.history.len(), "more records than were ever made");
        let expected = self.history[..last].last().map(Record::position).unwrap_or_default();
        assert_eq!(progress.appended, expected, "the log ends in another record than the one that was made");
        assert!(recovered.committed.0 as usize <= last);
        let view = self.image().view();
        let mut from = progress.trimmed.next();
        while from <= progress.appended.seq {
            for record in view.read_log(from, 4096).expect("readable") {
                let made = &self.history[record.header.seq.0 as usize - 1];
                assert_eq!(record.position(), made.position());
                from = record.header.seq.next();
                if let Mutation::Data(data) = made.mutation().expect("made well") {
                    let chunk = view.chunk(made.body_of(&data), data.index).expect("a chunk of the log is readable");
                    assert_eq!(chunk, made.payload);
                }
            }
        }
        let reference = Image::new(Arc::new(MemoryEngine::new()));
        reference.append(&self.history[..progress.applied.seq.0 as usize]).expect("dense");
        while reference.apply(progress.applied.seq, 100).expect("applies").seq < progress.applied.seq {}
        let (found, expected) = (view.digest().expect("readable"), reference.view().digest().expect("readable"));
        assert_eq!(found, expected, "the image is not the result of its records");
    }

    /// From a start to the power failure, or to the end of the steps.
    fn live(&mut self, freeze_at: Option<u64>) -> Result<(), Frozen> {
        self.nvram.persists = 0;
        self.nvram.freeze_at = freeze_at;
        let (mut superblock, mut counter, recovered) = self.start()?;
        let mut partition = Partition::new(self.origin.node_id(), self.extent, recovered.generation);
        for _ in 0..STEPS {
            match self.random.below(10) {
                0..6 => self.append(&mut partition)?,
                6 => {
                    let through = Seq(self.random.between(0, self.durable as u64));
                    let steps = self.random.between(1, 9) as usize;
                    self.image().apply(through, steps).expect("applies");
                }
                7 => self.spill(&mut partition),
                8 => {
                    let applied = self.image().flush().expect("flushes").applied;
                    self.image().trim(Seq(self.random.between(0, applied.seq.0))).expect("trims");
                }
                _ => {
                    superblock.origins[0].consistency_point = Seq(self.durable as u64);
                    self.store(&superblock, &mut counter)?;
                }
            }
        }
        Ok(())
    }

    fn spill(&mut self, partition: &mut Partition) {
        let flushed = self.image().flush().expect("flushes");
        partition.release(flushed.appended.seq);
    }

    /// One to three batches on their way to the device at once, then a persist; only then they go to the container.
    fn append(&mut self, partition: &mut Partition) -> Result<(), Frozen> {
        for _ in 0..self.random.between(1, 3) {
            let count = self.random.between(1, 5);
            let batch: Vec<Record> = (0..count).map(|_| self.make()).collect();
            let mut writes = Vec::new();
            let placed = partition.append(&batch, Seq(self.durable as u64), &mut writes);
            for Write { offset, pieces } in &writes {
                self.nvram.write(*offset, pieces).expect("in the region");
            }
            self.history.truncate(self.history.len() - (batch.len() - placed));
            if placed < batch.len() {
                break;
            }
        }
        self.persist()?;
        let persisted = &self.history[self.durable..];
        self.image().append(persisted).expect("they follow");
        self.durable = self.history.len();
        let (free, ..) = partition.counts();
        if free == 0 {
            self.spill(partition);
        }
        Ok(())
    }

    /// The next record; it stands in the history at once.
    fn make(&mut self) -> Record {
        let (mutation, payload) = self.draw();
        let parent = self.history.last().map(Record::position).unwrap_or_default();
        let durable = Seq(self.durable as u64);
        let time_ms = 1_000 + parent.seq.0;
        let place = Place { parent, epoch: self.epoch(), committed: durable, persisted: durable, time_ms };
        let record = Draft::new(mutation, payload).expect("small").place(&place);
        self.history.push(record.clone());
        record
    }

    fn draw(&mut self) -> (Mutation, Bytes) {
        let bucket = "b".to_owned();
        let key = format!("k{}", self.random.below(4));
        let fill = self.random.word() as u8;
        if self.history.is_empty() {
            return (Mutation::CreateBucket(op::CreateBucket { bucket, meta: op::Bucket::default() }), Bytes::new());
        }
        // An open body goes on, or its object is made.
        let last = self.history.last().map(|r| (r.mutation().expect("made well"), r.clone()));
        if let Some((Mutation::Data(data), record)) = last {
            let body: BodyId = record.body_of(&data);
            if self.random.chance(40) {
                let next = op::Data { body: Some(body.into()), index: data.index + 1 };
                return (Mutation::Data(next), Bytes::from(vec![fill; CHUNK]));
            }
            let len = u64::from(data.index + 1) * CHUNK as u64;
            let run = op::Extent { body: body.into(), len, chunk_len: CHUNK as u32, part_number: 0 };
            let put = op::PutObject { bucket, key, object: object(len, vec![run]) };
            return (Mutation::PutObject(put), Bytes::new());
        }
        match self.random.below(4) {
            0 => (Mutation::DeleteObject(op::DeleteObject { bucket, key }), Bytes::new()),
            1 => (Mutation::Data(op::Data { body: None, index: 0 }), Bytes::from(vec![fill; CHUNK])),
            _ => {
                let len = self.random.below(3000);
                let put = op::PutObject { bucket, key, object: object(len, Vec::new()) };
                (Mutation::PutObject(put), Bytes::from(vec![fill; len as usize]))
            }
        }
    }
}

fn fresh_superblock(origin: &Origin, partition: Extent) -> Superblock {
    let entry = OriginEntry {
        origin: origin.clone(),
        partition,
        role: StoredRole::Source,
        epochs: Vec::new(),
        in_sync: false,
        peer_strict: false,
        peer_link_timeout_ms: 0,
        consistency_point: Seq::ZERO,
        engine_generation: 0,
        paused: false,
        generation_floor: 0,
        promoted: false,
        peer_incarnation: 0,
        lacks: Seq::ZERO,
        persisted: Seq::ZERO,
        lost: false,
        rebuild: false,
        damaged: false,
        fenced_by: Epoch::default(),
    };
    Superblock { node: origin.clone(), incarnation: 1, origins: vec![entry] }
}

/// The first life is frozen at `k`, the second at a random persist, the third starts, and lives on.
fn three_lives(seed: u64, k: u64, survivors: Survivors) {
    let mut site = Site::new(seed);
    let first = site.live(Some(k));
    assert!(first.is_err(), "persist {k} was counted in the first run");
    site.crash(survivors);
    let second = site.random.between(1, 12);
    let _power_lost = site.live(Some(second));
    let survive = Survivors::Some(site.random.word());
    site.crash(survive);
    site.live(None).expect("nothing is frozen in the last life");
    site.crash(Survivors::Nothing);
    site.start().expect("nothing is frozen");
}

#[test]
fn every_persist_may_be_the_last() {
    let mut lives = 0;
    for seed in 0..12 {
        let mut counting = Site::new(seed);
        counting.live(None).expect("nothing is frozen");
        let total = counting.nvram.persists;
        assert!(total > 10, "the workload of seed {seed} persists only {total} times");
        for k in 1..=total {
            for survivors in [Survivors::Nothing, Survivors::Everything, Survivors::Some(seed), Survivors::Some(k + 99)]
            {
                three_lives(seed, k, survivors);
                lives += 3;
            }
        }
    }
    println!("{lives} lives ended in a power failure");
}

/// A record's bytes in the region, and what its stamp says.
struct Slot {
    seq: Seq,
    from: u64,
    until: u64,
    batch: usize,
    persisted: Seq,
}

/// A site none of whose records are in the engine, and where each of them lies.
fn written(seed: u64) -> (Site, Vec<Slot>) {
    let mut site = Site::new(seed);
    site.start().expect("nothing is frozen");
    let mut partition = Partition::new(site.origin.node_id(), site.extent, 0);
    let mut slots = Vec::new();
    for batch in 0..site.random.between(3, 6) as usize {
        let count = site.random.between(1, 4);
        let records: Vec<Record> = (0..count).map(|_| site.make()).collect();
        let mut writes = Vec::new();
        let persisted = Seq(site.durable as u64);
        let placed = partition.append(&records, persisted, &mut writes);
        assert_eq!(placed, records.len(), "the partition is large enough");
        for Write { offset, pieces } in &writes {
            site.nvram.write(*offset, pieces).expect("in the region");
            let mut at = *offset;
            for piece in pieces {
                // A stamp ends the zeros that pad the record before it.
                let stamp = piece.len().checked_sub(STAMP_LEN).and_then(|from| Stamp::decode(&piece[from..]));
                at += piece.len() as u64;
                if let Some(stamp) = stamp {
                    let until = at + u64::from(stamp.record_len);
                    let seq = Seq(slots.len() as u64 + 1);
                    slots.push(Slot { seq, from: at - STAMP_LEN as u64, until, batch, persisted: stamp.persisted });
                }
            }
        }
        // Sometimes two batches are under way at once.
        if site.random.chance(70) {
            site.persist().expect("nothing is frozen");
            site.durable = site.history.len();
        }
    }
    site.persist().expect("nothing is frozen");
    assert_eq!(slots.len(), site.history.len());
    (site, slots)
}

#[test]
fn rot_in_the_middle_is_reported_and_at_the_tail_it_is_cut() {
    let (mut reported, mut cut) = (0, 0);
    for seed in 0..300 {
        let (mut site, slots) = written(seed);
        let hit = site.random.below(slots.len() as u64) as usize;
        let slot = &slots[hit];
        let at = site.random.between(slot.from, slot.until - 1);
        let bit = site.random.below(8) as u8;
        site.nvram.device.rot(at, bit);
        let known = slots.iter().any(|later| later.batch > slot.batch && later.persisted >= slot.seq);
        let found = site.recover(0);
        match found {
            Ok(Recovered { damaged: Some(Damage { from: seq, .. }), .. }) => {
                assert!(known, "seed {seed}: nothing says that record {} was ever persisted", slot.seq);
                assert_eq!(seq, slot.seq, "seed {seed}");
                reported += 1;
            }
            Ok(recovered) => {
                assert!(!known, "seed {seed}: record {} was durable and its damage passed for a torn tail", slot.seq);
                assert_eq!(recovered.progress.appended.seq, slot.seq.prev(), "seed {seed}");
                cut += 1;
            }
            Err(other) => panic!("seed {seed}: {other}"),
        }
    }
    assert!(reported > 50 && cut > 50, "both happen: {reported} reported, {cut} cut");
}

#[test]
fn a_damaged_segment_header_hides_no_record_that_a_later_one_vouches_for() {
    let mut reported = 0;
    for seed in 0..40 {
        let mut site = Site::new(seed);
        site.start().expect("nothing is frozen");
        let mut partition = Partition::new(site.origin.node_id(), site.extent, 0);
        while partition.counts().0 > 0 {
            let record = site.make();
            let mut writes = Vec::new();
            assert_eq!(partition.append(&[record], Seq(site.durable as u64), &mut writes), 1);
            for Write { offset, pieces } in &writes {
                site.nvram.write(*offset, pieces).expect("in the region");
            }
            site.persist().expect("nothing is frozen");
            site.durable = site.history.len();
        }
        let segment = site.random.below(2) as usize;
        let at = site.extent.segment_at(segment) + site.random.below(40);
        site.nvram.device.rot(at, 3);
        let found = site.recover(0);
        assert!(matches!(found, Ok(Recovered { damaged: Some(_), .. })), "seed {seed}: {found:?}");
        reported += 1;
    }
    assert_eq!(reported, 40);
}

#[test]
fn a_torn_first_superblock_leaves_an_unused_region() {
    let origin = Origin::new(&"a".repeat(63)).expect("a name");
    let mut fresh = fresh_superblock(&origin, extent());
    fresh.origins = vec![fresh.origins[0].clone(); 16];
    let (offset, bytes) = fresh.encode(1).expect("it fits");
    assert!(bytes.len() > 1024, "more than one sector, so that it can be torn");
    for seed in 0..20 {
        let mut random = Random::new(seed);
        let mut device = SimNvram::new(PARTITIONS_AT);
        device.write(offset, std::slice::from_ref(&bytes)).expect("in the region");
        let mut kept = 0;
        device.crash(&mut || {
            kept += u64::from(random.chance(50));
            kept % 2 == 1
        });
        let found = Superblock::load(&mut device).expect("no node is lost by a crash in its first start");
        assert!(found.is_none_or(|(found, _)| found == fresh), "seed {seed}");
    }
}

#[test]
fn one_rotten_copy_of_the_superblock_leaves_the_other() {
    let origin = Origin::new("a").expect("a name");
    let fresh = fresh_superblock(&origin, extent());
    let mut device = SimNvram::new(PARTITIONS_AT + 4 * BLOCK_LEN);
    for counter in 1..=2 {
        let (offset, bytes) = fresh.encode(counter).expect("it fits");
        device.write(offset, &[bytes]).expect("in the region");
        device.persist().expect("works");
    }
    for (offset, left) in [(3u64, 1u64), (65_536 + 40, 2)] {
        let mut damaged = device.clone();
        damaged.rot(offset, 0);
        let found = Superblock::load(&mut damaged).expect("one is sound").expect("one is there");
        assert_eq!(found, (fresh.clone(), left));
        damaged.rot(65_539 - offset.min(65_536), 0);
    }
    device.rot(3, 0);
    device.rot(65_536 + 3, 0);
    assert!(Superblock::load(&mut device).is_err(), "two rotten copies are not an unused region");
}
