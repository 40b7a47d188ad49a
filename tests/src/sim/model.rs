//! What is true, whatever the nodes believe: every record that was ever placed, what of it is on which medium, and what
//! clients were told. The rules of the blueprint's section 10 are checked against it as things happen.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use lockstep_mirror::client::{Answered, Receipt};
use lockstep_mirror::plan::{AckLevel, Policy};
use lockstep_storage::id::{BodyId, Epoch, Origin, Position, Seq};
use lockstep_storage::image::Progress;
use lockstep_storage::op::Mutation;
use lockstep_storage::partition::Extent;
use lockstep_storage::record::{HEADER_LEN, Header, Record};
use lockstep_storage::superblock::{OriginEntry, StoredRole, Superblock};

use super::scenario::Site;

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

/// One origin's log at one site, as it truly is.
#[derive(Debug)]
pub struct LogTruth {
    /// Where.
    pub site: Site,
    /// Whose.
    pub origin: Origin,
    /// Its partition.
    pub extent: Extent,
    /// Every record of the present line of history that was placed here, by seq.
    pub line: Vec<Position>,
    /// Records that the device was given.
    written: usize,
    /// Records that the device has made durable.
    persisted: usize,
    /// What the engine has made durable.
    pub flushed: Progress,
    /// What the image shows.
    pub applied: Seq,
    /// The last record in each segment of the partition.
    segments: Vec<Seq>,
    /// Highest seq that was ever delivered to this process.
    pub received: Seq,
    /// The last record here that a client was answered for.
    answered: Position,
}

impl LogTruth {
    /// The last record that a power failure would leave, device and engine together.
    #[must_use]
    pub fn durable(&self) -> Seq {
        Seq(self.persisted as u64).max(self.flushed.appended.seq)
    }

    /// Is this record part of the line, or before its first?
    #[must_use]
    pub fn holds(&self, at: Position) -> bool {
        at.seq == Seq::ZERO || self.line.get(at.seq.0 as usize - 1) == Some(&at)
    }

    /// The record at a seq.
    #[must_use]
    pub fn at(&self, seq: Seq) -> Position {
        let index = (seq.0 as usize).checked_sub(1);
        index.and_then(|index| self.line.get(index)).copied().unwrap_or_default()
    }

    /// The last record placed.
    #[must_use]
    pub fn last(&self) -> Position {
        self.line.last().copied().unwrap_or_default()
    }
}

/// A superblock on its way to the medium.
#[derive(Debug, Default)]
struct Store {
    durable: Option<Superblock>,
    written: Option<Superblock>,
}

/// The truth.
pub struct Model {
    policy: Policy,
    ack: AckLevel,
    records: HashMap<u64, Record>,
    chunks: HashMap<(BodyId, u32), Bytes>,
    logs: Vec<LogTruth>,
    stores: [Store; 2],
    /// The last record that was answered as durable at both sites, by origin.
    mirrored: HashMap<Origin, Position>,
    writers: HashMap<(Origin, Epoch), Site>,
    /// Origins that site B has taken, and the last record that it took them with.
    pub promoted: HashMap<Origin, Position>,
    /// Records that a proved verdict promised to be all.
    pub lost: HashSet<Site>,
    /// Bytes and answers, for a summary.
    pub answers: u64,
}

impl Model {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new(policy: Policy, ack: AckLevel) -> Self {
        Self {
            policy,
            ack,
            records: HashMap::new(),
            chunks: HashMap::new(),
            logs: Vec::new(),
            stores: Default::default(),
            mirrored: HashMap::new(),
            writers: HashMap::new(),
            promoted: HashMap::new(),
            lost: HashSet::new(),
            answers: 0,
        }
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
    pub fn chunk(&self, body: BodyId, index: u32) -> Option<&Bytes> {
        self.chunks.get(&(body, index))
    }

    /// The durable superblock's entry of an origin.
    #[must_use]
    pub fn stored(&self, site: Site, origin: &Origin) -> Option<&OriginEntry> {
        self.stores[site.index()].durable.as_ref()?.origin(origin)
    }

    /// The core asked for a write: its records have their places.
    pub fn place(&mut self, site: Site, offset: u64, pieces: &[Bytes]) -> Checked {
        let found =
            self.logs.iter().position(|l| l.site == site && (l.extent.offset..l.extent.end()).contains(&offset));
        let Some(log) = found else { return Ok(()) };
        self.reuse(log, offset)?;
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
        Ok(())
    }

    /// Rule 5: what a segment held before is durable in the engine.
    fn reuse(&self, log: usize, offset: u64) -> Checked {
        let log = &self.logs[log];
        let at = offset - log.extent.offset;
        let held = log.segments[(at / log.extent.segment_len) as usize];
        if at.is_multiple_of(log.extent.segment_len) && held > log.flushed.appended.seq {
            let (site, origin, flushed) = (log.site, &log.origin, log.flushed.appended.seq);
            return broken(
                5,
                format!(
                    "{site:?} uses a segment of {origin} again that holds records up to {held}; the engine has {flushed}"
                ),
            );
        }
        Ok(())
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
        for other in self.logs.iter().filter(|l| l.origin == origin && l.site != site) {
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
            self.chunks.insert((record.body_of(&data), data.index), record.payload.clone());
        }
        self.records.insert(at.checksum, record.clone());
        Ok(())
    }

    /// Rule 2: everything that was answered as mirrored is in the history of whoever goes on.
    pub fn keeps_mirrored(&self, site: Site, origin: &Origin, doing: &str) -> Checked {
        let (Some(log), Some(mirrored)) = (self.log(site, origin), self.mirrored.get(origin)) else { return Ok(()) };
        let deposed = self.promoted.contains_key(origin) && site == Site::A;
        if deposed || log.holds(*mirrored) {
            return Ok(());
        }
        broken(2, format!("{site:?} {doing} for {origin} without record {mirrored}, which was answered as mirrored"))
    }

    /// Under `proved` nothing at all is missing.
    pub fn keeps_answered(&self, origin: &Origin) -> Checked {
        let (Some(a), Some(b)) = (self.log(Site::A, origin), self.log(Site::B, origin)) else { return Ok(()) };
        if b.holds(a.answered) {
            return Ok(());
        }
        broken(2, format!("the verdict of {origin} is 'proved', record {} was answered and is not at B", a.answered))
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
        }
    }

    /// The image shows everything up to here. Rules 2, 3 and 4.
    pub fn applied(&mut self, site: Site, origin: &Origin, at: Position) -> Checked {
        let Some(log) = self.log_mut(site, origin) else { return Ok(()) };
        if at.seq < log.applied {
            return broken(4, format!("the image of {origin} at {site:?} goes back from {} to {at}", log.applied));
        }
        log.applied = at.seq;
        let Some(log) = self.log(site, origin) else { return Ok(()) };
        if !log.holds(at) {
            return broken(
                4,
                format!("{site:?} applied record {at} of {origin}, its log has {} there", log.at(at.seq)),
            );
        }
        if at.seq > log.durable() {
            return broken(
                3,
                format!("{site:?} applied record {at} of {origin}, only {} is durable here", log.durable()),
            );
        }
        let Some(other) = self.log(site.peer(), origin) else { return Ok(()) };
        let destination = self.stored(site, origin).is_some_and(|entry| entry.role == StoredRole::Destination);
        if destination && !self.lost.contains(&site.peer()) && at.seq > other.durable() {
            return broken(
                3,
                format!("{site:?} applied record {at} of {origin}, only {} is durable at its source", other.durable()),
            );
        }
        self.in_sync_is_true(site, origin, at)
    }

    /// While the in-sync mark stands, what a source shows is durable at its mirror too.
    fn in_sync_is_true(&mut self, site: Site, origin: &Origin, at: Position) -> Checked {
        let waits = self.policy != Policy::Async && self.ack != AckLevel::Received;
        let marked = self.stored(site, origin).is_some_and(|e| e.in_sync && e.role == StoredRole::Source);
        if !waits || !marked || site == Site::B {
            return Ok(());
        }
        let Some(other) = self.log(site.peer(), origin) else { return Ok(()) };
        if other.holds(at) && at.seq <= other.durable() {
            return Ok(());
        }
        broken(
            2,
            format!("{site:?} shows record {at} of {origin} and is marked in sync, its mirror has not persisted it"),
        )
    }

    /// A client is told that its write is done. Rules 1 and 2.
    pub fn answered(
        &mut self,
        site: Site,
        origin: &Origin,
        receipt: &Receipt,
        require: Option<AckLevel>,
        chunk: bool,
    ) -> Checked {
        self.answers += 1;
        let seq = receipt.seq;
        let Some(log) = self.log(site, origin) else { return broken(1, "an answer of a log that is not there") };
        let at = log.at(seq);
        if at.seq != seq || at.epoch != receipt.epoch {
            return broken(
                1,
                format!("{site:?} answers for record {}/{seq} of {origin}, it holds {at}", receipt.epoch),
            );
        }
        if seq > log.durable() {
            return broken(
                1,
                format!("{site:?} answers for record {at} of {origin}, only {} is durable here", log.durable()),
            );
        }
        if !chunk && seq > log.applied {
            return broken(
                1,
                format!("{site:?} answers for record {at} of {origin}, its image shows only {}", log.applied),
            );
        }
        let entry = self.stored(site, origin);
        if entry.is_none_or(|entry| entry.role != StoredRole::Source) {
            return broken(2, format!("{site:?} answers for record {at} of {origin} and is not its source"));
        }
        let level = match receipt.ack {
            Answered::Local => None,
            Answered::Mirrored(level) => Some(level),
        };
        if require > level {
            return broken(1, format!("record {at} of {origin}: {require:?} was required, {level:?} is answered"));
        }
        match level {
            None => self.may_answer_alone(site, origin, at)?,
            Some(level) => self.is_mirrored(site, origin, at, level)?,
        }
        if let Some(log) = self.log_mut(site, origin)
            && at.seq > log.answered.seq
        {
            log.answered = at;
        }
        Ok(())
    }

    /// Out of sync is stored before the first answer that only this site has; never under `strict`.
    fn may_answer_alone(&self, site: Site, origin: &Origin, at: Position) -> Checked {
        let promoted = site == Site::B;
        let own_stream = origin.as_str() == "a" && !promoted;
        if !own_stream {
            return Ok(());
        }
        let marked = self.stored(site, origin).is_some_and(|entry| entry.in_sync);
        match self.policy {
            Policy::Strict => broken(1, format!("{site:?} answers alone for record {at} of {origin} under strict")),
            Policy::Sync if marked => {
                broken(2, format!("{site:?} answers alone for record {at} of {origin}, its superblock says in sync"))
            }
            _ => Ok(()),
        }
    }

    fn is_mirrored(&mut self, site: Site, origin: &Origin, at: Position, level: AckLevel) -> Checked {
        let Some(other) = self.log(site.peer(), origin) else {
            return broken(1, format!("record {at} of {origin} is answered as mirrored, there is no mirror"));
        };
        if level == AckLevel::Received {
            if at.seq > other.received {
                return broken(1, format!("record {at} of {origin} is answered as received, it never arrived"));
            }
            return Ok(());
        }
        if !other.holds(at) || at.seq > other.durable() {
            return broken(
                1,
                format!("record {at} of {origin} is answered as mirrored, the mirror has not persisted it"),
            );
        }
        let mirrored = self.mirrored.entry(origin.clone()).or_default();
        if at.seq > mirrored.seq {
            *mirrored = at;
        }
        Ok(())
    }

    /// Rule 5 for the container: what goes from it is in the image for good, and the peer has it.
    pub fn trims(&self, site: Site, origin: &Origin, through: Seq, alone: bool) -> Checked {
        let Some(log) = self.log(site, origin) else { return Ok(()) };
        if through > log.flushed.applied.seq {
            let flushed = log.flushed.applied.seq;
            return broken(
                5,
                format!("{site:?} trims the log of {origin} through {through}, its image is flushed through {flushed}"),
            );
        }
        self.peer_has(site, origin, through, alone, "trims the log")
    }

    /// Rule 5 for bodies: the op that dropped one is durable at the peer.
    pub fn collects(&self, site: Site, origin: &Origin, through: Seq, alone: bool) -> Checked {
        self.peer_has(site, origin, through, alone, "collects bodies")
    }

    fn peer_has(&self, site: Site, origin: &Origin, through: Seq, alone: bool, doing: &str) -> Checked {
        let Some(other) = self.log(site.peer(), origin) else { return Ok(()) };
        if alone || self.lost.contains(&site.peer()) || through <= other.durable() {
            return Ok(());
        }
        let durable = other.durable();
        broken(5, format!("{site:?} {doing} of {origin} through {through}, its peer has {durable} durable"))
    }

    /// What came after `last` is set aside.
    pub fn cut(&mut self, site: Site, origin: &Origin, last: Position) -> Checked {
        if self.promoted.contains_key(origin) && site == Site::B {
            return broken(2, format!("{site:?} cuts {origin} to {last} after it was promoted"));
        }
        let mirrored = self.mirrored.get(origin).copied().unwrap_or_default();
        let Some(log) = self.log_mut(site, origin) else { return Ok(()) };
        if !log.holds(last) || log.applied > last.seq {
            return broken(4, format!("{site:?} cuts {origin} to {last}, which its image or log does not allow"));
        }
        if log.holds(mirrored) && mirrored.seq > last.seq {
            return broken(2, format!("{site:?} cuts {origin} to {last}, record {mirrored} was answered as mirrored"));
        }
        log.line.truncate(last.seq.0 as usize);
        let len = log.line.len();
        log.written = len;
        log.persisted = log.persisted.min(len);
        log.segments.iter_mut().for_each(|held| *held = Seq::ZERO);
        Ok(())
    }

    /// The power at a site fails, or its process dies.
    pub fn crashed(&mut self, site: Site) {
        self.stores[site.index()].written = None;
    }

    /// The site is gone for good.
    pub fn site_lost(&mut self, site: Site) {
        self.lost.insert(site);
    }

    /// A process has recovered this log: rules 1 and 4. `superblock` is what it found or made.
    pub fn recovered(&mut self, site: Site, superblock: &Superblock, found: &[(Origin, Progress)]) -> Checked {
        self.stores[site.index()].durable = Some(superblock.clone());
        for (origin, progress) in found {
            let Some(entry) = superblock.origin(origin) else { continue };
            let old = match self.logs.iter().position(|l| l.site == site && l.origin == *origin) {
                Some(index) => self.logs.swap_remove(index),
                None => Self::first(site, origin, entry.partition),
            };
            let log = Self::compare(old, *progress)?;
            self.logs.push(log);
        }
        Ok(())
    }

    fn first(site: Site, origin: &Origin, extent: Extent) -> LogTruth {
        LogTruth {
            site,
            origin: origin.clone(),
            extent,
            line: Vec::new(),
            written: 0,
            persisted: 0,
            flushed: Progress::default(),
            applied: Seq::ZERO,
            segments: vec![Seq::ZERO; extent.segments as usize],
            received: Seq::ZERO,
            answered: Position::default(),
        }
    }

    fn compare(mut log: LogTruth, found: Progress) -> Checked<LogTruth> {
        let (site, origin) = (log.site, log.origin.clone());
        let durable = log.at(log.durable());
        if found.appended.seq < durable.seq {
            return broken(
                1,
                format!("{site:?} restarts {origin} at {}, record {durable} was durable", found.appended),
            );
        }
        if !log.holds(found.appended) {
            return broken(
                4,
                format!("{site:?} restarts {origin} at {}, which is not on its line of history", found.appended),
            );
        }
        if found.appended.seq.0 as usize > log.written {
            return broken(4, format!("{site:?} restarts {origin} at {}, which was never written", found.appended));
        }
        if !log.holds(found.applied) || found.applied.seq > found.appended.seq {
            return broken(
                4,
                format!("the image of {origin} at {site:?} is at {}, which its log does not hold", found.applied),
            );
        }
        let len = found.appended.seq.0 as usize;
        log.line.truncate(len);
        log.written = len;
        log.persisted = len;
        log.flushed = found;
        log.applied = found.applied.seq;
        log.segments.iter_mut().for_each(|held| *held = Seq::ZERO);
        Ok(log)
    }

    /// Highest seq that the line at a source has and that was answered as mirrored.
    #[must_use]
    pub fn mirrored(&self, origin: &Origin) -> Position {
        self.mirrored.get(origin).copied().unwrap_or_default()
    }
}
