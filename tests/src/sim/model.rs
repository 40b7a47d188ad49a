//! What is true, whatever the nodes believe: every record that was ever placed, what of it is on which medium, and what
//! clients were told. The rules of the blueprint's section 10 are checked against it as things happen.

mod answer;
mod log;
mod recovery;

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use lockstep_mirror::plan::{AckLevel, Policy};
use lockstep_storage::id::{BodyId, ChunkId, Epoch, Origin, Position, Seq};
use lockstep_storage::image::Progress;
use lockstep_storage::op::Mutation;
use lockstep_storage::record::{HEADER_LEN, Header, Record};
use lockstep_storage::superblock::{OriginEntry, StoredRole, Superblock};

pub use self::log::LogTruth;
pub use self::recovery::Gone;
use super::scenario::{Scenario, Site};
use super::topology::{Pair, SITES};

/// A rule that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Its number in the blueprint's section 10.
    pub rule: u8,
    /// What happened, in one sentence.
    pub what: String,
}

/// Checks that go on only while everything holds.
pub type Checked<T = ()> = Result<T, Violation>;

/// A rule that does not hold.
pub fn broken<T>(rule: u8, what: impl Into<String>) -> Checked<T> {
    Err(Violation { rule, what: what.into() })
}

/// Most that may wait in one queue of a simulated node: far above what its bounds in bytes let in.
const QUEUE_LEN_MAX: usize = 600;

/// Rule 7: a queue is bounded.
pub fn within_bound(what: &str, waiting: usize) -> Checked {
    if waiting <= QUEUE_LEN_MAX { Ok(()) } else { broken(7, format!("{waiting} things wait for {what}")) }
}

/// A superblock on its way to the medium.
#[derive(Debug, Default)]
struct Store {
    durable: Option<Superblock>,
    written: Option<Superblock>,
}

/// What is true of an origin with a mirror, beyond its two logs.
#[derive(Debug)]
struct Mirrored {
    pair: Pair,
    /// The site has stored that it writes the origin no more, and not that it took it again.
    given_up: [Option<Epoch>; SITES],
    /// The last record that was answered or shown as durable at both sites.
    at_both: Position,
    /// The last record that was answered as received at a site, whose process has not died since.
    received: [Position; SITES],
    /// Who takes the origin's writes, or took it over last, and the highest epoch under which it did.
    holder: (Site, Epoch),
}

impl Mirrored {
    fn new(pair: Pair) -> Self {
        Self {
            pair,
            given_up: [None; SITES],
            at_both: Position::default(),
            received: Default::default(),
            holder: (pair.home, Epoch::default()),
        }
    }

    /// The site's superblock is durable, and this is what it says.
    fn stored(&mut self, site: Site, entry: &OriginEntry) {
        let given_up = &mut self.given_up[site.index()];
        match entry.role {
            StoredRole::Fenced | StoredRole::HandingOver => *given_up = Some(entry.epoch()),
            StoredRole::Destination => *given_up = None,
            // Whoever takes an origin begins with the next multiple of 2^32.
            StoredRole::Source => {
                let promotions = |epoch: Epoch| epoch.counter >> 32;
                let _taken = given_up.take_if(|given_up| promotions(entry.epoch()) > promotions(*given_up));
            }
        }
    }
}

/// The truth.
pub struct Model {
    policy: Policy,
    ack: AckLevel,
    backlog_limit: u64,
    records: HashMap<u64, Record>,
    chunks: HashMap<(Origin, BodyId, u32), Bytes>,
    logs: Vec<LogTruth>,
    stores: [Store; SITES],
    mirrored: Vec<Mirrored>,
    writers: HashMap<(Origin, Epoch), Site>,
    /// Mirrors know the way back.
    way_back: bool,
    /// Sites that are gone for good.
    pub lost: HashSet<Site>,
    /// Chunks that were damaged at a site, at some time: they may be missing, and are never other bytes.
    pub rotten: HashSet<(Origin, ChunkId)>,
    /// Bytes and answers, for a summary.
    pub answers: u64,
}

impl Model {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new(scenario: &Scenario) -> Self {
        Self {
            policy: scenario.policy,
            ack: scenario.ack,
            backlog_limit: scenario.backlog_limit,
            records: HashMap::new(),
            chunks: HashMap::new(),
            logs: Vec::new(),
            stores: Default::default(),
            mirrored: scenario.topology.pairs().iter().copied().map(Mirrored::new).collect(),
            writers: HashMap::new(),
            way_back: scenario.way_back,
            lost: HashSet::new(),
            rotten: HashSet::new(),
            answers: 0,
        }
    }

    fn mirrored(&self, origin: &Origin) -> Option<&Mirrored> {
        self.mirrored.iter().find(|mirrored| mirrored.pair.origin() == *origin)
    }

    fn mirrored_mut(&mut self, origin: &Origin) -> Option<&mut Mirrored> {
        self.mirrored.iter_mut().find(|mirrored| mirrored.pair.origin() == *origin)
    }

    /// The other site that has the origin, where this one is of its pair.
    fn peer(&self, site: Site, origin: &Origin) -> Option<Site> {
        let pair = self.mirrored(origin)?.pair;
        pair.has(site).then(|| pair.other(site))
    }

    /// The origin's log at the other site.
    fn peer_log(&self, site: Site, origin: &Origin) -> Option<&LogTruth> {
        self.log(self.peer(site, origin)?, origin)
    }

    fn peer_is_lost(&self, site: Site, origin: &Origin) -> bool {
        self.peer(site, origin).is_some_and(|peer| self.lost.contains(&peer))
    }

    /// A log of a site, where it has one.
    #[must_use]
    pub fn log(&self, site: Site, origin: &Origin) -> Option<&LogTruth> {
        self.logs.iter().find(|log| log.site == site && log.origin == *origin)
    }

    fn log_mut(&mut self, site: Site, origin: &Origin) -> Option<&mut LogTruth> {
        self.logs.iter_mut().find(|log| log.site == site && log.origin == *origin)
    }

    /// The records of a line.
    pub fn records<'a>(&'a self, line: &'a [Position]) -> impl Iterator<Item = &'a Record> {
        line.iter().filter_map(|at| self.records.get(&at.checksum))
    }

    /// The bytes of a chunk, where one was ever placed.
    #[must_use]
    pub fn chunk(&self, origin: &Origin, body: BodyId, index: u32) -> Option<&Bytes> {
        self.chunks.get(&(origin.clone(), body, index))
    }

    /// Is it the record of a chunk that was damaged?
    #[must_use]
    pub fn is_rotten(&self, at: Position) -> bool {
        let Some(record) = self.records.get(&at.checksum) else { return false };
        let Ok(Mutation::Data(data)) = record.mutation() else { return false };
        let chunk = ChunkId { body: record.body_of(&data), index: data.index };
        self.rotten.iter().any(|(_, rotten)| *rotten == chunk)
    }

    /// The durable superblock's entry of an origin.
    #[must_use]
    pub fn stored(&self, site: Site, origin: &Origin) -> Option<&OriginEntry> {
        self.stores[site.index()].durable.as_ref()?.origin(origin)
    }

    /// Who takes a pair's writes, or took it over last.
    #[must_use]
    pub fn holder(&self, pair: Pair) -> Site {
        self.mirrored(&pair.origin()).map_or(pair.home, |mirrored| mirrored.holder.0)
    }

    /// Has the origin's home begun anew, and nobody filled it since?
    #[must_use]
    pub fn is_anew(&self, origin: &Origin) -> bool {
        self.logs.iter().any(|log| log.origin == *origin && log.anew)
    }

    /// May a site begin anew, with nothing? Where it takes the origin's writes only if a mirror has all of it, and knows so.
    #[must_use]
    pub fn may_begin_anew(&self, site: Site) -> bool {
        self.mirrored.iter().filter(|mirrored| mirrored.pair.has(site)).all(|mirrored| {
            let Mirrored { pair, holder, .. } = mirrored;
            let marked = self.stored(pair.mirror, &pair.origin()).is_some_and(|entry| entry.in_sync);
            let copied = holder.0 == site && marked && !self.lost.contains(&pair.mirror);
            if site == pair.home { copied } else { holder.0 != site }
        })
    }

    /// Does this site write the origin of another one without a mirror to come?
    #[must_use]
    pub fn has_no_stream(&self, site: Site, origin: &Origin) -> bool {
        let Some(mirrored) = self.mirrored(origin) else { return false };
        let took_writes = mirrored.holder.0 == site || self.log(site, origin).is_some_and(|log| log.was_source);
        site == mirrored.pair.mirror && took_writes && !self.way_back
    }

    /// A site says that it takes the origin's writes: true where it took them over from the other one.
    pub fn takes(&mut self, site: Site, origin: &Origin, epoch: Epoch) -> bool {
        if let Some(log) = self.log_mut(site, origin) {
            log.was_source = true;
        }
        let Some(index) = self.mirrored.iter().position(|mirrored| mirrored.pair.origin() == *origin) else {
            return false;
        };
        let (before, above) = self.mirrored[index].holder;
        // One that was taken back above the epoch of an old offer counts only as long as its site is there.
        let taken = site != before && (epoch > above || self.lost.contains(&before));
        if taken || site == before {
            self.mirrored[index].holder = (site, epoch.max(above));
        }
        taken
    }

    /// A site is the other one's destination now: what it answered alone before is set aside, or known to be lost.
    pub fn follows(&mut self, site: Site, origin: &Origin) {
        if let Some(log) = self.log_mut(site, origin) {
            log.answered = Position::default();
            log.was_source = false;
        }
    }

    /// An operator lets a source go on alone: also without what is damaged there, though its mirror may have shown it.
    pub fn goes_on_alone(&mut self, site: Site, origin: &Origin) {
        let gap = self.log_mut(site, origin).is_some_and(|log| std::mem::take(&mut log.gap));
        let peer = self.peer(site, origin).filter(|_| gap);
        if let Some(log) = peer.and_then(|peer| self.log_mut(peer, origin)) {
            log.may_go_back = true;
        }
    }

    /// The stream's policy.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// The stream's ack level.
    #[must_use]
    pub fn ack_level(&self) -> AckLevel {
        self.ack
    }

    /// The core asked for a write: its records have their places. True where a segment is used again.
    pub fn place(&mut self, site: Site, offset: u64, pieces: &[Bytes]) -> Checked<bool> {
        let found =
            self.logs.iter().position(|l| l.site == site && (l.extent.offset..l.extent.end()).contains(&offset));
        let Some(log) = found else { return Ok(false) };
        let reused = self.reuse(log, offset)?;
        let mut pieces = pieces.iter();
        while let Some(piece) = pieces.next() {
            if !piece.starts_with(b"LSR1") {
                continue;
            }
            let Ok(header) = Header::decode(piece) else { continue };
            let payload =
                if header.payload_len == 0 { Bytes::new() } else { pieces.next().cloned().unwrap_or_default() };
            let record = Record { header, head: piece.clone(), payload };
            self.place_record(log, &record)?;
        }
        let extent = self.logs[log].extent;
        let segment = ((offset - extent.offset) / extent.segment_len) as usize;
        self.logs[log].segments[segment] = self.logs[log].last().seq;
        Ok(reused)
    }

    /// Rule 5: what a segment held before is durable in the engine.
    fn reuse(&self, log: usize, offset: u64) -> Checked<bool> {
        let log = &self.logs[log];
        let at = offset - log.extent.offset;
        let held = log.segments[(at / log.extent.segment_len) as usize];
        let begins = at.is_multiple_of(log.extent.segment_len);
        if begins && held > log.flushed.appended.seq {
            let (site, origin, flushed) = (log.site, &log.origin, log.flushed.appended.seq);
            return broken(
                5,
                format!(
                    "{site:?} uses a segment of {origin} again that holds records up to {held}; the engine has {flushed}"
                ),
            );
        }
        Ok(begins && held > Seq::ZERO)
    }

    /// Rules 2 and 3: the record follows, under an epoch that is stored, and nobody else has another one in its place.
    fn place_record(&mut self, index: usize, record: &Record) -> Checked {
        let (at, header) = (record.position(), record.header);
        let (site, origin) = (self.logs[index].site, self.logs[index].origin.clone());
        let last = self.logs[index].last();
        if header.seq != last.seq.next() || header.parent != last.checksum {
            return broken(3, format!("{site:?} places record {at} of {origin} after {last}"));
        }
        if header.epoch < last.epoch {
            return broken(3, format!("{site:?} places record {at} of {origin} under an epoch before {last}'s"));
        }
        // Whatever clock its maker had: a promote, a restart and a baseline know the time of the record before.
        let before_ms = self.records.get(&header.parent).map_or(0, |parent| parent.header.time_ms);
        if header.time_ms < before_ms {
            let back_ms = before_ms - header.time_ms;
            return broken(3, format!("record {at} of {origin} at {site:?} is modified {back_ms} ms before {last}"));
        }
        // What a new node writes by itself, nobody ever gets.
        let anew = self.is_anew(&origin);
        for other in self.logs.iter().filter(|l| l.origin == origin && l.site != site && !anew) {
            let there = other.at(at.seq);
            if there.seq == at.seq && there.epoch == at.epoch && there != at {
                return broken(2, format!("{site:?} and {:?} hold two different records {at} of {origin}", other.site));
            }
        }
        let known = self.records.contains_key(&at.checksum);
        if !known {
            self.new_record(site, &origin, last, record)?;
        } else if self.stored(site, &origin).is_none_or(|e| !e.epochs.iter().any(|e| e.epoch == at.epoch)) {
            return broken(2, format!("{site:?} takes record {at} of {origin}, whose epoch is not stored there"));
        }
        self.logs[index].line.push(at);
        Ok(())
    }

    /// A source hands records to its link: they exist from here on, whether its device ever gets them or not.
    pub fn sent(&mut self, site: Site, origin: &Origin, records: &[Record]) -> Checked {
        for record in records {
            if !self.records.contains_key(&record.header.checksum) {
                let parent = self.records.get(&record.header.parent).map(Record::position);
                self.new_record(site, origin, parent.unwrap_or_default(), record)?;
            }
        }
        Ok(())
    }

    fn new_record(&mut self, site: Site, origin: &Origin, last: Position, record: &Record) -> Checked {
        let at = record.position();
        let stored = self.stored(site, origin);
        if stored.is_none_or(|entry| entry.epoch() != at.epoch) {
            let stored = stored.map(OriginEntry::epoch).unwrap_or_default();
            return broken(2, format!("{site:?} makes record {at} of {origin}, its superblock says epoch {stored}"));
        }
        let writer = *self.writers.entry((origin.clone(), at.epoch)).or_insert(site);
        if writer != site {
            return broken(2, format!("{site:?} makes record {at} of {origin} under an epoch of {writer:?}"));
        }
        if at.epoch != last.epoch {
            self.keeps_mirrored(site, origin, "begins a new epoch")?;
        }
        if let Ok(Mutation::Data(data)) = record.mutation() {
            self.chunks.insert((origin.clone(), record.body_of(&data), data.index), record.payload.clone());
        }
        self.records.insert(at.checksum, record.clone());
        Ok(())
    }

    /// The site begins anew, without anything that it ever had: what both sites had only the other one has.
    pub fn renewed(&mut self, site: Site) {
        for log in self.logs.iter_mut().filter(|log| log.site == site) {
            let answered = log.answered;
            log.renew();
            log.anew = log.origin == site.origin();
            log.answered = if log.anew { answered } else { log.answered };
        }
        self.stores[site.index()] = Store::default();
        for mirrored in self.mirrored.iter_mut().filter(|mirrored| mirrored.pair.has(site)) {
            mirrored.given_up[site.index()] = None;
            if site == mirrored.pair.mirror {
                mirrored.at_both = Position::default();
            } else {
                // Nobody but its mirror can go on.
                mirrored.holder.0 = mirrored.pair.mirror;
            }
        }
    }

    /// The device has taken a write.
    pub fn written(&mut self, site: Site, offset: u64, pieces: &[Bytes]) {
        if let Some(log) =
            self.logs.iter_mut().find(|l| l.site == site && (l.extent.offset..l.extent.end()).contains(&offset))
        {
            log.written += pieces.iter().filter(|p| p.len() >= HEADER_LEN && p.starts_with(b"LSR1")).count();
        } else if let Ok(Some((superblock, _))) = Superblock::decode(&pieces.concat()) {
            self.stores[site.index()].written = Some(superblock);
        }
    }

    /// The device has made everything that it had taken durable.
    pub fn persisted(&mut self, site: Site) {
        for log in self.logs.iter_mut().filter(|log| log.site == site) {
            log.persisted = log.written;
        }
        let store = &mut self.stores[site.index()];
        if let Some(superblock) = store.written.take() {
            for mirrored in self.mirrored.iter_mut().filter(|mirrored| mirrored.pair.has(site)) {
                if let Some(entry) = superblock.origin(&mirrored.pair.origin()) {
                    mirrored.stored(site, entry);
                }
            }
            store.durable = Some(superblock);
        }
    }

    /// The engine has made this durable.
    pub fn flushed(&mut self, site: Site, origin: &Origin, progress: Progress) {
        if let Some(log) = self.log_mut(site, origin) {
            log.flushed = progress;
        }
    }

    /// A message with records up to here reached the process.
    pub fn received(&mut self, site: Site, origin: &Origin, through: Seq) {
        if let Some(log) = self.log_mut(site, origin) {
            log.received = log.received.max(through);
            log.held = log.held.max(through);
        }
    }
}
