//! The clients and the gateway's part in their writes: chunks first, then locks, then what the op needs to know, then its
//! record; locks are held until the core has answered.

mod objects;
mod outcome;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use lockstep_mirror::client::{Receipt, Refusal};
use lockstep_mirror::event::{Event, Ticket};
use lockstep_mirror::plan::AckLevel;
use lockstep_storage::id::{BodyId, Epoch, Seq};
use lockstep_storage::image::View;
use lockstep_storage::op::{self, Mutation};
use lockstep_storage::record::Draft;

use self::objects::{extents, object, put};
use super::coverage::Seen;
use super::mistake::Mistake;
use super::model::{Checked, broken};
use super::scenario::{Site, Write};
use super::site::CHUNK_LEN;
use super::topology::{Pair, SITES};
use super::world::World;

/// What a lock is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Lock {
    Bucket(u8),
    Key(u8),
    Upload(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The body's chunks are on their way.
    Chunks,
    /// Waits for its locks.
    Locks,
    /// The op's record is on its way.
    Final,
    /// Answered as unknown: the client is gone, the locks stay until the outcome is certain.
    Doubtful,
    /// The body is given up.
    Abandon,
}

/// A client's write.
#[derive(Debug)]
struct Flight {
    pair: Pair,
    write: Write,
    site: Site,
    boot: u32,
    require: Option<AckLevel>,
    stage: Stage,
    body: Option<BodyId>,
    /// Answers that chunks wait for.
    outstanding: u32,
    refused: bool,
    locks: Vec<(Lock, bool)>,
    /// The object that its record is made of, and the record up to which the image was that it was read from.
    read: Option<(u8, Seq)>,
}

impl Flight {
    fn holds_locks(&self) -> bool {
        matches!(self.stage, Stage::Final | Stage::Doubtful)
    }
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    flight: u64,
    require: Option<AckLevel>,
    chunk: bool,
}

/// All clients.
#[derive(Debug, Default)]
pub struct Clients {
    tickets: u64,
    next: u64,
    flights: BTreeMap<u64, Flight>,
    waiting: BTreeMap<Ticket, Waiting>,
    /// Flights that hold locks for a write whose outcome is unknown.
    doubtful: BTreeMap<Ticket, u64>,
    /// Flights that wait for a lock, in the order in which they came.
    queue: VecDeque<u64>,
    /// The upload ids that clients use now, by the origin's home.
    uploads: [[String; 2]; SITES],
    uploads_made: u64,
}

/// Buckets by number.
fn bucket_name(bucket: u8) -> String {
    format!("bucket-{bucket}")
}

fn bucket_of(key: u8) -> u8 {
    u8::from(key >= 4)
}

fn key_name(key: u8) -> String {
    format!("k{key}")
}

impl Clients {
    /// A new ticket.
    pub fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    /// How many clients of an origin wait for an answer.
    #[must_use]
    pub fn waiting(&self, pair: Pair) -> usize {
        self.flights.values().filter(|flight| flight.pair == pair && flight.stage != Stage::Doubtful).count()
    }

    /// The process at a site is gone: its clients hear nothing more.
    pub fn process_gone(&mut self, site: Site) {
        let flights = &self.flights;
        self.waiting.retain(|_, waiting| flights.get(&waiting.flight).is_none_or(|flight| flight.site != site));
        self.queue.retain(|id| flights.get(id).is_some_and(|flight| flight.site != site));
        self.flights.retain(|_, flight| flight.site != site);
    }

    fn is_free(&self, at: (Site, Pair), lock: Lock, exclusive: bool) -> bool {
        let held = self.flights.values().filter(|flight| (flight.site, flight.pair) == at && flight.holds_locks());
        !held.flat_map(|flight| &flight.locks).any(|(other, theirs)| *other == lock && (exclusive || *theirs))
    }
}

/// The locks that a write needs, in the order of the rule: bucket, then keys, then the upload.
fn locks(write: Write) -> Vec<(Lock, bool)> {
    let mut locks = match write {
        Write::CreateBucket { bucket } | Write::DeleteBucket { bucket } => vec![(Lock::Bucket(bucket), true)],
        Write::Put { key, .. } | Write::Delete { key } => {
            vec![(Lock::Bucket(bucket_of(key)), false), (Lock::Key(key), false)]
        }
        Write::PutIf { key, .. } => vec![(Lock::Bucket(bucket_of(key)), false), (Lock::Key(key), true)],
        Write::Copy { from, to } => vec![
            (Lock::Bucket(bucket_of(from)), false),
            (Lock::Bucket(bucket_of(to)), false),
            (Lock::Key(from), true),
            (Lock::Key(to), from == to),
        ],
        Write::CreateUpload { .. } => vec![(Lock::Bucket(0), false)],
        Write::Part { upload, .. } => vec![(Lock::Bucket(0), false), (Lock::Upload(upload), false)],
        Write::Complete { upload } | Write::Abort { upload } => {
            vec![(Lock::Bucket(0), false), (Lock::Key(upload), true), (Lock::Upload(upload), true)]
        }
        Write::Abandon { .. } => Vec::new(),
    };
    locks.sort_unstable();
    locks
}

fn chunks(write: Write) -> u8 {
    match write {
        Write::Put { chunks, .. }
        | Write::PutIf { chunks, .. }
        | Write::Part { chunks, .. }
        | Write::Abandon { chunks } => chunks,
        _ => 0,
    }
}

impl World {
    /// A client begins a write, at the site that it is directed to.
    pub(crate) fn client_begins(
        &mut self,
        pair: Pair,
        write: Write,
        at: Option<Site>,
        require: Option<AckLevel>,
    ) -> Checked {
        let origin = pair.origin();
        let holder = self.model.holder(pair);
        let directed = if self.sites[holder.index()].is_source(&origin) { holder } else { pair.home };
        let site = at.unwrap_or(directed);
        let Some(boot) = self.boot(site) else { return Ok(()) };
        let readable = self.sites[site.index()].state(&origin).is_some_and(|state| state.readable);
        if !readable && self.mistake != Some(Mistake::ReadBeforeRecovered) {
            // Whoever writes reads first: its key, its bucket.
            self.seen.note(Seen::WriteBeforeRecovered);
            return Ok(());
        }
        self.clients.next += 1;
        let id = self.clients.next;
        let stage = Stage::Chunks;
        let flight = Flight {
            pair,
            write,
            site,
            boot,
            require,
            stage,
            body: None,
            outstanding: 0,
            refused: false,
            locks: Vec::new(),
            read: None,
        };
        self.clients.flights.insert(id, flight);
        match chunks(write) {
            0 => self.client_locks(id),
            _ => self.submit_chunk(id, 0),
        }
    }

    fn submit(&mut self, id: u64, mutation: Mutation, payload: Bytes, require: Option<AckLevel>) -> Checked {
        let chunk = matches!(mutation, Mutation::Data(_));
        let Some(flight) = self.clients.flights.get(&id) else { return Ok(()) };
        let (site, boot, origin) = (flight.site, flight.boot, flight.pair.origin());
        let Ok(draft) = Draft::new(mutation, payload) else {
            return broken(7, "a draft of the simulation is too large");
        };
        let ticket = Ticket(self.clients.ticket());
        self.clients.waiting.insert(ticket, Waiting { flight: id, require, chunk });
        let state = self.sites[site.index()].state(&origin);
        let history = state.map(|state| state.history).filter(|_| !chunk);
        let event = Event::Submit { ticket, origin, draft, require, history };
        self.feed_later(site, boot, event);
        Ok(())
    }

    fn submit_chunk(&mut self, id: u64, index: u32) -> Checked {
        let fill = self.noise.word() as u8;
        let Some(flight) = self.clients.flights.get_mut(&id) else { return Ok(()) };
        flight.outstanding += 1;
        let body = flight.body.map(op::BodyId::from);
        let payload = vec![fill; CHUNK_LEN as usize];
        self.submit(id, Mutation::Data(op::Data { body, index }), payload.into(), None)
    }

    /// A submission has its place: the first chunk's is the body's name.
    pub(super) fn client_placed(&mut self, ticket: Ticket, epoch: Epoch, seq: Seq) -> Checked {
        let Some(waiting) = self.clients.waiting.get(&ticket).copied() else { return Ok(()) };
        let Some(flight) = self.clients.flights.get_mut(&waiting.flight) else { return Ok(()) };
        if let Some((key, read)) = flight.read.take() {
            let (bucket, name) = (bucket_name(bucket_of(key)), key_name(key));
            return self.model.unchanged(flight.site, &flight.pair.origin(), (&bucket, &name), read, seq);
        }
        if !waiting.chunk || flight.body.is_some() {
            return Ok(());
        }
        flight.body = Some(BodyId { epoch, seq });
        for index in 1..u32::from(chunks(flight.write)) {
            self.submit_chunk(waiting.flight, index)?;
        }
        Ok(())
    }

    /// A submission is answered.
    pub(super) fn client_done(&mut self, site: Site, ticket: Ticket, result: &Result<Receipt, Refusal>) -> Checked {
        let Some(waiting) = self.clients.waiting.remove(&ticket) else {
            return broken(6, format!("{site:?} answers a write that nobody waits for, or answers it twice"));
        };
        let id = waiting.flight;
        self.cover_answer(site, id, result);
        let Some(pair) = self.clients.flights.get(&id).map(|flight| flight.pair) else { return Ok(()) };
        if let Ok(receipt) = result {
            self.claimed(site, pair, receipt)?;
            self.model.answered(site, &pair.origin(), receipt, waiting.require, waiting.chunk)?;
        }
        let Some(flight) = self.clients.flights.get_mut(&id) else { return Ok(()) };
        match flight.stage {
            Stage::Chunks => {
                flight.outstanding -= 1;
                flight.refused |= result.is_err();
                let (outstanding, refused) = (flight.outstanding, flight.refused);
                let away = matches!(flight.write, Write::Abandon { .. });
                match (outstanding, refused || away) {
                    (0, true) => self.client_abandons(id),
                    (0, false) => self.client_locks(id),
                    _ => Ok(()),
                }
            }
            Stage::Final => {
                let doubtful = matches!(result, Err(Refusal::Unknown { .. }));
                if doubtful && self.mistake != Some(Mistake::LockReleasedInDoubt) {
                    flight.stage = Stage::Doubtful;
                    self.clients.doubtful.insert(ticket, id);
                    return Ok(());
                }
                let refused = !doubtful && result.is_err();
                flight.locks.clear();
                if refused {
                    self.client_abandons(id)?;
                } else {
                    self.client_over(id);
                }
                self.locks_free()
            }
            Stage::Abandon if result.is_err() => {
                self.schedule_retry(id);
                Ok(())
            }
            _ => {
                self.client_over(id);
                Ok(())
            }
        }
    }

    /// The outcome of a write that was answered as unknown is certain.
    pub(super) fn client_settled(&mut self, ticket: Ticket) -> Checked {
        if let Some(id) = self.clients.doubtful.remove(&ticket) {
            self.client_over(id);
        }
        self.locks_free()
    }

    fn client_over(&mut self, id: u64) {
        self.clients.flights.remove(&id);
    }

    /// The body of a write that will not be: given up by an op, tried until it is taken.
    fn client_abandons(&mut self, id: u64) -> Checked {
        let Some(flight) = self.clients.flights.get_mut(&id) else { return Ok(()) };
        let Some(body) = flight.body else {
            self.client_over(id);
            return Ok(());
        };
        // Whatever it had read, nothing is made of it.
        (flight.stage, flight.read) = (Stage::Abandon, None);
        self.submit(id, Mutation::AbandonBody(op::AbandonBody { body: body.into() }), Bytes::new(), None)
    }

    /// A refused abandonment is tried again; where this node may not write any more it is the next writer's business.
    pub(super) fn client_retry(&mut self, id: u64) -> Checked {
        let Some(flight) = self.clients.flights.get(&id) else { return Ok(()) };
        if !self.sites[flight.site.index()].is_source(&flight.pair.origin()) {
            self.client_over(id);
            return Ok(());
        }
        self.client_abandons(id)
    }

    /// Takes the locks, or waits for them behind those who came before.
    fn client_locks(&mut self, id: u64) -> Checked {
        if let Some(flight) = self.clients.flights.get_mut(&id) {
            flight.stage = Stage::Locks;
        }
        self.clients.queue.push_back(id);
        self.locks_free()
    }

    /// Lets through whoever can go; fair: nobody overtakes one who waits for the same lock.
    fn locks_free(&mut self) -> Checked {
        let mut blocked: Vec<((Site, Pair), Lock)> = Vec::new();
        let mut index = 0;
        while let Some(id) = self.clients.queue.get(index).copied() {
            let Some(flight) = self.clients.flights.get(&id) else {
                self.clients.queue.remove(index);
                continue;
            };
            let (at, mut wanted) = ((flight.site, flight.pair), locks(flight.write));
            match (self.mistake, flight.write) {
                (Some(Mistake::CopyOfFreedBody), Write::Copy { .. })
                | (Some(Mistake::BlindPutWithoutLock), Write::Put { .. } | Write::Delete { .. }) => wanted.clear(),
                _ => {}
            }
            let free = wanted.iter().all(|(lock, exclusive)| {
                !blocked.contains(&(at, *lock)) && self.clients.is_free(at, *lock, *exclusive)
            });
            if !free {
                blocked.extend(wanted.iter().map(|(lock, _)| (at, *lock)));
                index += 1;
                continue;
            }
            self.clients.queue.remove(index);
            if let Some(flight) = self.clients.flights.get_mut(&id) {
                flight.locks = wanted;
                flight.stage = Stage::Final;
            }
            self.client_decides(id)?;
        }
        Ok(())
    }

    /// Under its locks: what the op becomes, as the image is now.
    fn client_decides(&mut self, id: u64) -> Checked {
        let Some(flight) = self.clients.flights.get(&id) else { return Ok(()) };
        let (write, site, body, require) = (flight.write, flight.site, flight.body, flight.require);
        let (home, origin) = (flight.pair.home, flight.pair.origin());
        let image = self.worker(site, &origin);
        let Some(view) = image.map(|worker| worker.engine.image().view()) else { return self.client_gives_up(id) };
        let readable = self.sites[site.index()].state(&origin).is_some_and(|state| state.readable);
        if !readable && self.mistake != Some(Mistake::ReadBeforeRecovered) {
            return self.client_gives_up(id);
        }
        let fill = self.noise.word();
        if let Write::PutIf { key, .. } | Write::Copy { from: key, .. } = write
            && let Ok(progress) = view.progress()
            && let Some(flight) = self.clients.flights.get_mut(&id)
        {
            flight.read = Some((key, progress.applied.seq));
        }
        match self.decide(&view, home, write, body, fill) {
            Some((mutation, payload)) => self.submit(id, mutation, payload, require),
            None => self.client_gives_up(id),
        }
    }

    fn client_gives_up(&mut self, id: u64) -> Checked {
        if let Some(flight) = self.clients.flights.get_mut(&id) {
            flight.locks.clear();
        }
        self.client_abandons(id)
    }

    fn decide(
        &mut self,
        view: &View,
        home: Site,
        write: Write,
        body: Option<BodyId>,
        fill: u64,
    ) -> Option<(Mutation, Bytes)> {
        let none = Bytes::new();
        let bucket_exists = |bucket: u8| view.bucket(&bucket_name(bucket)).ok().flatten().is_some();
        Some(match write {
            Write::CreateBucket { bucket } if !bucket_exists(bucket) => {
                let bucket = bucket_name(bucket);
                (Mutation::CreateBucket(op::CreateBucket { bucket, meta: op::Bucket::default() }), none)
            }
            Write::DeleteBucket { bucket } if view.bucket_is_empty(&bucket_name(bucket)).ok()? => {
                (Mutation::DeleteBucket(op::DeleteBucket { bucket: bucket_name(bucket) }), none)
            }
            Write::Put { key, chunks } | Write::PutIf { key, chunks } if bucket_exists(bucket_of(key)) => {
                let inline = if chunks == 0 { fill % 900 } else { 0 };
                let (extents, len) = extents(body, chunks, 0);
                let object = object(inline + len, extents, fill);
                (put(key, object), vec![fill as u8; inline as usize].into())
            }
            Write::Delete { key } if bucket_exists(bucket_of(key)) => {
                let (bucket, key) = (bucket_name(bucket_of(key)), key_name(key));
                (Mutation::DeleteObject(op::DeleteObject { bucket, key }), none)
            }
            Write::Copy { from, to } if bucket_exists(bucket_of(to)) => {
                let mut source = view.object(&bucket_name(bucket_of(from)), &key_name(from)).ok()??;
                let payload = std::mem::take(&mut source.inline);
                (put(to, source), payload)
            }
            Write::CreateUpload { upload } if bucket_exists(0) => {
                self.clients.uploads_made += 1;
                let id = format!("{:032x}", self.clients.uploads_made);
                self.clients.uploads[home.index()][usize::from(upload)].clone_from(&id);
                let upload_op = op::Upload { object: object(0, Vec::new(), fill), ..op::Upload::default() };
                let (bucket, key) = (bucket_name(0), key_name(upload));
                let op = op::CreateMultipartUpload { bucket, key, upload_id: id, upload: upload_op };
                (Mutation::CreateMultipartUpload(op), none)
            }
            Write::Part { upload, number, chunks } => {
                let id = self.upload(view, home, upload)?;
                let (extents, len) = extents(body, chunks, u32::from(number));
                let part = op::Part { len, etag: format!("{fill:x}"), extents, ..op::Part::default() };
                let (bucket, key) = (bucket_name(0), key_name(upload));
                let part_number = u32::from(number);
                (Mutation::UploadPart(op::UploadPart { bucket, key, upload_id: id, part_number, part }), none)
            }
            Write::Complete { upload } => {
                let id = self.upload(view, home, upload)?;
                let parts = view.parts(&id, 0, 100).ok()?;
                let extents: Vec<op::Extent> = parts.iter().flat_map(|(_, part)| part.extents.clone()).collect();
                let object = object(extents.iter().map(|e| e.len).sum(), extents, fill);
                let (bucket, key) = (bucket_name(0), key_name(upload));
                let op = op::CompleteMultipartUpload { bucket, key, upload_id: id, object };
                (Mutation::CompleteMultipartUpload(op), none)
            }
            Write::Abort { upload } => {
                let upload_id = self.upload(view, home, upload)?;
                let (bucket, key) = (bucket_name(0), key_name(upload));
                (Mutation::AbortMultipartUpload(op::AbortMultipartUpload { bucket, key, upload_id }), none)
            }
            _ => return None,
        })
    }

    /// The upload that clients use now, where it is there.
    fn upload(&self, view: &View, home: Site, upload: u8) -> Option<String> {
        let id = self.clients.uploads[home.index()][usize::from(upload)].clone();
        view.upload(&bucket_name(0), &key_name(upload), &id).ok()??;
        Some(id)
    }
}
