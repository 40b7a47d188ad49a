//! Bodies and engines that a disk spoils, and their repair by the peer. The model hears which chunks were ever damaged: these may
//! be missing for a reader, and are never other bytes; and where both ends are linked, what one has the other has at the end.

use bytes::Bytes;
use lockstep_mirror::event::{Command, Event, RepairStep, RepairTask, Ticket};
use lockstep_mirror::message::{Mending, Message};
use lockstep_storage::id::{ChunkId, Origin};
use lockstep_storage::image::{Change, Engine, Family, ImageError, Mended, View, keys};
use lockstep_storage::record::payload_crc;
use lockstep_storage::superblock::StoredRole;

use super::World;
use crate::sim::coverage::Seen;
use crate::sim::image::bodies;
use crate::sim::mistake::Mistake;
use crate::sim::model::{Checked, broken};
use crate::sim::scenario::{Order, Site};
use crate::sim::topology::Pair;

/// Rounds of questions until everything is repaired, at the end.
const ROUNDS_MAX: usize = 20;
/// Time for each, in milliseconds.
const ROUND_MS: u64 = 400;

/// A reader who waits for a chunk.
#[derive(Debug)]
pub(super) struct Mender {
    pub(super) site: Site,
    origin: Origin,
    chunk: ChunkId,
}

impl World {
    fn view(&mut self, site: Site, origin: &Origin) -> Option<View> {
        self.worker(site, origin).map(|worker| worker.engine.image().view())
    }

    /// Every chunk that the image of a site names.
    fn named(&mut self, site: Site, origin: &Origin) -> Vec<(View, ChunkId)> {
        let Some(view) = self.view(site, origin) else { return Vec::new() };
        let named = bodies(&view).unwrap_or_default();
        let chunks = named.into_iter().flat_map(|(body, extent)| {
            let count = extent.len.div_ceil(u64::from(extent.chunk_len.max(1))) as u32;
            (0..count).map(move |index| ChunkId { body, index })
        });
        chunks.map(|chunk| (view.clone(), chunk)).collect()
    }

    /// A chunk of a site's image is damaged, which its peer has, in a record that is durable in both engines.
    pub(super) fn rot_chunk(&mut self, pair: Pair, site: Site) {
        let (origin, peer) = (pair.origin(), pair.other(site));
        let Some(theirs) = self.view(peer, &origin) else { return };
        let flushed = pair.sites().map(|end| self.model.log(end, &origin).map(|log| log.flushed.applied.seq));
        let [Some(here), Some(there)] = flushed else { return };
        let sound = |(view, chunk): &(View, ChunkId)| {
            let ChunkId { body, index } = *chunk;
            body.seq <= here.min(there) && view.chunk(body, index).is_ok() && theirs.chunk(body, index).is_ok()
        };
        let named: Vec<_> = self.named(site, &origin).into_iter().filter(sound).map(|(_, chunk)| chunk).collect();
        let known = |chunk: &ChunkId| self.model.rotten.contains(&(origin.clone(), *chunk));
        let fresh: Vec<_> = named.into_iter().filter(|chunk| !known(chunk)).collect();
        if fresh.is_empty() {
            return;
        }
        let chunk = fresh[self.noise.below(fresh.len() as u64) as usize];
        let generation = self.model.stored(site, &origin).map_or(0, |entry| entry.engine_generation);
        let engine = self.sites[site.index()].engines.engine(&origin, generation);
        let key = keys::chunk(chunk.body, chunk.index);
        let spoilt = match self.noise.below(3) {
            0 => None,
            1 => Some(Bytes::from_static(b"short")),
            _ => self.model.chunk(&origin, chunk.body, chunk.index).map(flipped),
        };
        engine.spoil(Family::Body, &key, spoilt.as_ref());
        self.seen.note(Seen::ChunkRotten);
        self.model.rotten.insert((origin, chunk));
    }

    /// A reader has met a damaged chunk: he waits for its repair, where his node runs.
    pub(in crate::sim) fn ask_to_mend(&mut self, site: Site, origin: &Origin, chunk: ChunkId) -> Checked {
        if self.boot(site).is_none() {
            return Ok(());
        }
        let ticket = Ticket(self.clients.ticket());
        self.menders.insert(ticket, Mender { site, origin: origin.clone(), chunk });
        self.feed(site, Event::Command { ticket, command: Command::Repair { origin: origin.clone(), chunk } })
    }

    /// The reader is told: of a chunk that is repaired he gets the right bytes.
    pub(super) fn was_mended(&mut self, mender: &Mender, repaired: bool) -> Checked {
        let Mender { site, origin, chunk } = mender;
        let Some(view) = self.view(*site, origin).filter(|_| repaired) else { return Ok(()) };
        let bytes = view.chunk(chunk.body, chunk.index);
        if bytes.as_ref().ok() == self.model.chunk(origin, chunk.body, chunk.index) {
            return Ok(());
        }
        broken(6, format!("{site:?} says that {chunk} of {origin} is repaired, and a reader gets {bytes:?}"))
    }

    /// Bytes may be spoilt before the sender puts a checksum on them.
    pub(super) fn tampered_chunk(&mut self, message: &mut Message) {
        if let Message::Mending(Mending::Have { bytes: Some(bytes), .. }) = message
            && !self.calm
            && self.noise.chance(20)
        {
            *bytes = flipped(bytes);
            self.seen.note(Seen::WrongBytesSent);
        }
    }

    /// Mistakes of a repair are made to what is asked for.
    pub(super) fn before_repair(&mut self, site: Site, index: usize, task: &mut RepairTask) {
        let RepairTask::Put { chunk, bytes, .. } = task else { return };
        match self.mistake {
            Some(Mistake::RepairUnchecked) => {
                let origin = self.worker_origin(site, index);
                let generation = self.model.stored(site, &origin).map_or(0, |entry| entry.engine_generation);
                let engine = self.sites[site.index()].engines.engine(&origin, generation);
                let crc = Bytes::copy_from_slice(&payload_crc(bytes).to_be_bytes());
                let key = keys::chunk_crc(chunk.body, chunk.index);
                let _works = engine.commit(vec![Change::Put(Family::Body, key, crc)]);
            }
            Some(Mistake::RepairAnsweredEarly) => *bytes = flipped(bytes),
            _ => {}
        }
    }

    /// Mistakes of a repair are made to what is said of it.
    pub(super) fn after_repair(&self, event: &mut Option<Event>) {
        if let Some(Event::Repair { step: RepairStep::Put { mended, .. }, .. }) = event
            && self.mistake == Some(Mistake::RepairAnsweredEarly)
        {
            *mended = Mended::Done;
        }
    }

    /// Rule 9: at two ends that are linked and in sync, no chunk is damaged that the other has.
    pub(super) fn mend_all(&mut self, pair: Pair) -> Checked {
        if self.is_over(pair) || self.waits_for_ever(pair) {
            return Ok(());
        }
        let origin = pair.origin();
        for _ in 0..ROUNDS_MAX {
            let mut waiting = 0;
            for site in pair.sites() {
                for chunk in self.mendable(pair, site) {
                    waiting += 1;
                    self.ask_to_mend(site, &origin, chunk)?;
                }
            }
            if waiting == 0 {
                return Ok(());
            }
            self.run_until(self.now + ROUND_MS)?;
        }
        let left = pair.sites().map(|site| self.mendable(pair, site));
        if left.iter().all(Vec::is_empty) {
            return Ok(());
        }
        broken(9, format!("linked and in sync, and chunks of {origin} are damaged that the peer has: {left:?}"))
    }

    /// Chunks that are damaged at a site and not at its peer.
    fn mendable(&mut self, pair: Pair, site: Site) -> Vec<ChunkId> {
        let origin = pair.origin();
        let Some(theirs) = self.view(pair.other(site), &origin) else { return Vec::new() };
        let damaged = |(view, chunk): &(View, ChunkId)| {
            let ChunkId { body, index } = *chunk;
            matches!(view.chunk(body, index), Err(ImageError::Chunk { .. })) && theirs.chunk(body, index).is_ok()
        };
        self.named(site, &origin).into_iter().filter(damaged).map(|(_, chunk)| chunk).collect()
    }

    /// The engine of a destination is damaged: the process that runs finds it, or the next one does.
    pub(super) fn damage_engine(&mut self, pair: Pair, site: Site) -> Checked {
        let origin = pair.origin();
        let stored = self.model.stored(site, &origin);
        let follows = stored.is_some_and(|entry| entry.role == StoredRole::Destination && !entry.rebuild);
        // One that is becoming the source is its operator's business.
        let takes = |order: &Order| matches!(order, Order::Promote | Order::PromoteLossy | Order::Failback);
        let promoting = self.orders.iter().any(|(_, _, of, order)| *of == pair && takes(order));
        if self.boot(site).is_none() || self.model.holder(pair) == site || !follows || promoting {
            return Ok(());
        }
        self.sites[site.index()].damaged = Some(origin.clone());
        if self.noise.chance(50) {
            self.crash(site);
            return Ok(());
        }
        if let Some(worker) = self.worker(site, &origin) {
            worker.broken = true;
        }
        self.feed(site, Event::EngineFailed { origin, reason: "a file of the simulation".into(), damaged: true })
    }

    /// The process is gone that had found an engine damaged, or had not yet.
    pub(super) fn damage_shows(&mut self, site: Site) {
        let Some(origin) = self.sites[site.index()].damaged.take() else { return };
        let Some(entry) = self.model.stored(site, &origin).cloned() else { return };
        // It has become the source just before: its files are well.
        if entry.role != StoredRole::Destination {
            return;
        }
        self.seen.note(Seen::EngineDamaged);
        let engines = &self.sites[site.index()].engines;
        if entry.damaged {
            // It could be opened: whoever did would find less than there was.
            let engine = engines.engine(&origin, entry.engine_generation);
            let everything = [keys::MARK + 1]..[keys::GARBAGE];
            let (from, until) = (everything.start.to_vec(), everything.end.to_vec());
            let _works =
                engine.commit(vec![Change::DeleteRange(Family::Image, from, until)]).and_then(|()| engine.flush());
        } else {
            engines.damage(&origin, entry.engine_generation);
        }
        self.model.engine_lost(site, &origin, entry.engine_generation);
    }
}

/// The same bytes but for one bit.
fn flipped(bytes: &Bytes) -> Bytes {
    let mut spoilt = bytes.to_vec();
    if let Some(byte) = spoilt.get_mut(bytes.len() / 2) {
        *byte ^= 4;
    }
    spoilt.into()
}
