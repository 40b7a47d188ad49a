//! What devices do to a site that is down: a durable record is damaged, or an engine is gone. Each is done only where a start
//! can tell it, and the model hears what is left.

use std::sync::Arc;

use lockstep_mirror::plan::Policy;
use lockstep_storage::id::{Position, Seq};
use lockstep_storage::image::Image;
use lockstep_storage::image::memory::MemoryEngine;
use lockstep_storage::nvram::Nvram;
use lockstep_storage::nvram::sim::SimNvram;
use lockstep_storage::recovery::{Recovered, recover};
use lockstep_storage::superblock::OriginEntry;

use super::World;
use crate::sim::coverage::Seen;
use crate::sim::scenario::Site;
use crate::sim::topology::Pair;

impl World {
    /// What a start would find of an origin, were the device and the engine these.
    fn would_find(nvram: &SimNvram, entry: &OriginEntry, image: &Image) -> Option<Recovered> {
        let id = entry.origin.node_id();
        recover(&mut nvram.clone(), id, entry.partition, entry.generation_floor, image).ok()
    }

    fn engine_copy(&self, site: Site, entry: &OriginEntry) -> Image {
        let engine = self.sites[site.index()].engines.engine(&entry.origin, entry.engine_generation);
        Image::new(Arc::new(engine.crash(usize::MAX)))
    }

    /// The power fails, and one bit of a durable record rots that the engine does not have yet; or of each from one on, so
    /// that the log seems to end before it.
    pub(super) fn rot(&mut self, pair: Pair, site: Site, end: bool) {
        let origin = pair.origin();
        let source = self.model.holder(pair) == site;
        let marked = self.model.stored(site, &origin).is_some_and(|entry| entry.in_sync);
        // A source whose mirror may lack the record has lost it for good: its operator's business.
        let only = self.model.is_anew(&origin);
        if self.boot(site).is_none() || only || (source && (!marked || self.model.policy() != Policy::Sync)) {
            return;
        }
        self.crash(site);
        let Some(entry) = self.model.stored(site, &origin).cloned() else { return };
        let image = self.engine_copy(site, &entry);
        let has = image.progress().map_or(Seq::ZERO, |progress| progress.appended.seq);
        let Some(line) = self.rotting(site, &entry, has, end) else { return };
        let mut nvram = self.sites[site.index()].nvram.clone();
        for at in &line {
            let Some(place) = self.place_of(&mut nvram, &entry, *at) else { return };
            nvram.rot(place, 3);
        }
        let Some(found) = Self::would_find(&nvram, &entry, &image) else { return };
        let lost = match found.damaged {
            Some(damage) => (damage.from, damage.through),
            // Without a promise a shorter log is as good.
            None if end && (source || entry.in_sync) => (found.progress.appended.seq.next(), entry.persisted),
            None => return,
        };
        let peer_has = self.model.log(pair.other(site), &origin).is_some_and(|log| log.claimed() >= lost.1);
        if (source && !peer_has) || lost.0 > lost.1 {
            return;
        }
        self.seen.note(if end { Seen::EndLost } else { Seen::RecordDamaged });
        self.sites[site.index()].nvram = nvram;
        self.model.damaged(site, &origin, lost.0);
    }

    /// The records that rot, of those that the engine does not have: one that a later one vouches for; or, for the end of the
    /// log, all from one on that the superblock knows of.
    fn rotting(&mut self, site: Site, entry: &OriginEntry, has: Seq, end: bool) -> Option<Vec<Position>> {
        let log = self.model.log(site, &entry.origin)?;
        let (first, last) = (has.0 as usize, log.durable().0 as usize);
        let (room, known) = (log.line.get(first..last)?.to_vec(), entry.persisted.0 as usize);
        let choices = if end { known.saturating_sub(first) } else { room.len().saturating_sub(2) };
        if choices == 0 || choices > room.len() {
            return None;
        }
        let from = self.noise.below(choices as u64) as usize;
        Some(if end { room[from..].to_vec() } else { vec![room[from]] })
    }

    /// A byte of a record in the partition.
    fn place_of(&self, nvram: &mut SimNvram, entry: &OriginEntry, at: Position) -> Option<u64> {
        let head = self.model.records(&[at]).next()?.head.clone();
        let extent = entry.partition;
        let bytes = nvram.read(extent.offset, (extent.end() - extent.offset) as usize).ok()?;
        let found = bytes.windows(head.len()).position(|window| window == &head[..])?;
        Some(extent.offset + found as u64 + 20)
    }

    /// The power fails, and the engine is gone: what the NVRAM does not have of it is gone too.
    pub(super) fn lose_engine(&mut self, pair: Pair, site: Site) {
        let origin = pair.origin();
        if self.boot(site).is_none() || self.model.holder(pair) == site {
            return;
        }
        self.crash(site);
        let Some(entry) = self.model.stored(site, &origin).cloned() else { return };
        let empty = Image::new(Arc::new(MemoryEngine::new()));
        let found = Self::would_find(&self.sites[site.index()].nvram, &entry, &empty);
        let goes_on = found.is_some_and(|found| found.progress.appended.seq.0 > 0);
        // Where the log still has the beginning the node goes on from that, and where nothing was ever there nothing is gone.
        if goes_on || entry.consistency_point.0 == 0 {
            return;
        }
        self.seen.note(Seen::EngineLost);
        self.sites[site.index()].engines.forget(&origin);
        self.model.engine_lost(site, &origin, entry.engine_generation);
    }
}
