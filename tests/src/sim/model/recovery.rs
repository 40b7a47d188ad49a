//! What goes: released segments, trimmed records, collected bodies, tails that are cut, and what a crash takes. Rules 1, 4
//! and 5.

use std::collections::{HashMap, HashSet};

use lockstep_storage::id::{BodyId, Origin, Position, Seq};
use lockstep_storage::image::Progress;
use lockstep_storage::op::{Extent, Mutation};
use lockstep_storage::record::Record;
use lockstep_storage::superblock::Superblock;

use super::log::LogTruth;
use super::{Checked, Model, broken};
use crate::sim::scenario::Site;

/// What goes from a site, and is to be set aside before.
#[derive(Debug, Default)]
pub struct Gone {
    /// Records.
    pub records: Vec<Position>,
    /// Chunks that came before them, each with the record that brought it where that stays.
    pub chunks: Vec<((Origin, BodyId, u32), Option<u64>)>,
}

/// The bodies that an op puts in an object or a part.
fn extents_of(record: &Record) -> Vec<Extent> {
    match record.mutation() {
        Ok(Mutation::PutObject(op)) => op.object.extents,
        Ok(Mutation::UploadPart(op)) => op.part.extents,
        Ok(Mutation::CompleteMultipartUpload(op)) => op.object.extents,
        _ => Vec::new(),
    }
}

impl Model {
    /// Rule 5 for the container: what goes from it is in the image for good, and the peer has it.
    pub fn trims(&mut self, site: Site, origin: &Origin, through: Seq, alone: bool) -> Checked {
        let Some(log) = self.log(site, origin) else { return Ok(()) };
        if through > log.flushed.applied.seq {
            let flushed = log.flushed.applied.seq;
            return broken(
                5,
                format!("{site:?} trims the log of {origin} through {through}, its image is flushed through {flushed}"),
            );
        }
        self.peer_has(site, origin, through, alone, "trims the log")?;
        if let Some(log) = self.log_mut(site, origin) {
            log.trimmed = log.trimmed.max(through);
        }
        Ok(())
    }

    /// More waits for the peer than its backlog may hold: what waits now may go, and the peer gets a baseline. A source that
    /// has restarted knows what is not trimmed, and not what of that the peer has.
    pub fn bounds_backlog(&mut self, site: Site, origin: &Origin) {
        let Some(claimed) = self.peer_log(site, origin).map(LogTruth::claimed) else { return };
        let Some(log) = self.log(site, origin) else { return };
        let line = log.line.get(claimed.min(log.trimmed).0 as usize..).unwrap_or_default();
        let bytes: u64 = self.records(line).map(|record| record.len() as u64).sum();
        let last = log.last().seq;
        if bytes > self.backlog_limit
            && let Some(log) = self.log_mut(site, origin)
        {
            log.given_up = last;
        }
    }

    /// Rule 5 for bodies: the op that dropped one is durable at the peer.
    pub fn collects(&self, site: Site, origin: &Origin, through: Seq, alone: bool) -> Checked {
        self.peer_has(site, origin, through, alone, "collects bodies")
    }

    fn peer_has(&self, site: Site, origin: &Origin, through: Seq, alone: bool, doing: &str) -> Checked {
        let Some(other) = self.peer_log(site, origin) else { return Ok(()) };
        if alone || self.peer_is_lost(site, origin) || through <= other.claimed() {
            return Ok(());
        }
        if self.log(site, origin).is_some_and(|log| through <= log.given_up) {
            return Ok(());
        }
        let durable = other.durable();
        broken(5, format!("{site:?} {doing} of {origin} through {through}, its peer has {durable} durable"))
    }

    /// What came after `last` goes: these are to be set aside before.
    pub fn cut(&mut self, site: Site, origin: &Origin, last: Position) -> Checked<Gone> {
        if self.mirrored(origin).is_some_and(|mirrored| mirrored.holder.0 == site) {
            return broken(2, format!("{site:?} cuts {origin} to {last}, whose writes it takes"));
        }
        let mirrored = self.mirrored(origin).map(|mirrored| mirrored.at_both).unwrap_or_default();
        let Some(log) = self.log_mut(site, origin) else { return Ok(Gone::default()) };
        // A deposed source may have shown what it alone had: that is its tail.
        if std::mem::take(&mut log.was_source) | std::mem::take(&mut log.may_go_back) {
            log.shown = log.shown.min(last.seq);
        }
        if !log.holds(last) || log.shown > last.seq {
            return broken(
                6,
                format!(
                    "{site:?} cuts {origin} to {last}, which is not in its log or comes before what readers were shown"
                ),
            );
        }
        if log.holds(mirrored) && mirrored.seq > last.seq {
            return broken(2, format!("{site:?} cuts {origin} to {last}, record {mirrored} was answered as mirrored"));
        }
        let gone = log.line.split_off(last.seq.0 as usize);
        let len = log.line.len();
        log.written = len;
        log.persisted = log.persisted.min(len);
        log.segments.iter_mut().for_each(|held| *held = Seq::ZERO);
        let kept = log.line.clone();
        Ok(self.gone(origin, &kept, gone))
    }

    /// A baseline has taken the place of an image, and of its log with it. What the container still had of another history
    /// is to be set aside before: it is returned.
    pub fn replaced(&mut self, site: Site, origin: &Origin, generation: u64, progress: Progress) -> Checked<Gone> {
        let at = progress.appended;
        let line = self.line_to(at);
        if line.len() as u64 != at.seq.0 || progress.applied != at {
            return broken(4, format!("a baseline of {origin} at {site:?} ends at {at}, which is no moment of it"));
        }
        let mirrored = self.mirrored(origin).map(|mirrored| mirrored.at_both).unwrap_or_default();
        let holds =
            |known: Position| known.seq.0.checked_sub(1).is_none_or(|index| line.get(index as usize) == Some(&known));
        let follows = mirrored.seq > at.seq && self.peer_log(site, origin).is_some_and(|peer| peer.holds(mirrored));
        if follows {
            // Until it comes only the source has it: the mirror was told to begin anew.
            self.now_at_both(origin, at);
        } else if !holds(mirrored) {
            return broken(2, format!("a baseline of {origin} at {site:?} lacks {mirrored}, answered as mirrored"));
        }
        // A replica that was ordered to begin anew may show an earlier moment for a while, of the same history.
        let seen = self.log(site, origin).map_or(Position::default(), |log| log.at(log.shown));
        let comes_again = self.peer_log(site, origin).is_some_and(|peer| peer.holds(seen));
        let Some(log) = self.log_mut(site, origin) else { return Ok(Gone::default()) };
        let common = log.line.iter().zip(&line).take_while(|(a, b)| a == b).count();
        // Readers of a destination saw what both sites had. A deposed source may have shown what it alone had.
        let may_go_back = std::mem::take(&mut log.may_go_back);
        if !log.was_source && !may_go_back && !comes_again && log.shown.0 as usize > common {
            let shown = log.shown;
            return broken(
                6,
                format!("a baseline of {origin} at {site:?} takes back {shown}, which readers have seen"),
            );
        }
        let trimmed = log.trimmed;
        let (kept, lost) = log.line.split_at(common);
        let kept = kept.to_vec();
        let gone = lost.iter().filter(|known| known.seq > trimmed).copied().collect();
        log.written = line.len();
        log.persisted = line.len();
        log.line = line;
        log.flushed = progress;
        log.applied = at.seq;
        log.shown = at.seq;
        log.trimmed = at.seq;
        log.generation = generation;
        log.anew = false;
        log.segments.iter_mut().for_each(|held| *held = Seq::ZERO);
        Ok(self.gone(origin, &kept, gone))
    }

    /// What is to be set aside of these records, which go: also the chunks from before them that their objects and parts need,
    /// where the history that stays refers to none of the body.
    fn gone(&self, origin: &Origin, kept: &[Position], records: Vec<Position>) -> Gone {
        let brought = |record: &Record| match record.mutation() {
            Ok(Mutation::Data(data)) => Some(((record.body_of(&data), data.index), record.header.checksum)),
            _ => None,
        };
        let here: HashMap<(BodyId, u32), u64> = self.records(&records).filter_map(brought).collect();
        let before: HashMap<(BodyId, u32), u64> = self.records(kept).filter_map(brought).collect();
        let stays: HashSet<BodyId> =
            self.records(kept).flat_map(extents_of).map(|extent| BodyId::from(extent.body)).collect();
        let common = kept.last().copied().unwrap_or_default().seq;
        let mut chunks = Vec::new();
        for record in self.records(&records) {
            let completes = matches!(record.mutation(), Ok(Mutation::CompleteMultipartUpload(_)));
            for extent in extents_of(record) {
                let body = BodyId::from(extent.body);
                // A part that is not among the records is trimmed, or stays with its upload.
                if stays.contains(&body) || (completes && body.seq <= common) {
                    continue;
                }
                let all = 0..extent.len.div_ceil(u64::from(extent.chunk_len.max(1))) as u32;
                let lacking = all.filter(|index| !here.contains_key(&(body, *index)));
                let named = |index| ((origin.clone(), body, index), before.get(&(body, index)).copied());
                chunks.extend(lacking.map(named));
            }
        }
        Gone { records, chunks }
    }

    /// The history that ends with a record; shorter where a record of it was never made.
    fn line_to(&self, at: Position) -> Vec<Position> {
        let mut line = Vec::new();
        let mut next = self.records.get(&at.checksum);
        while let Some(record) = next {
            line.push(record.position());
            next = self.records.get(&record.header.parent);
        }
        line.reverse();
        line
    }

    /// The power at a site fails, or its process dies.
    pub fn crashed(&mut self, site: Site) {
        self.stores[site.index()].written = None;
        self.logs.iter_mut().filter(|log| log.site == site).for_each(|log| log.held = Seq::ZERO);
        // What was only in its memory is gone.
        self.mirrored.iter_mut().for_each(|mirrored| mirrored.received[site.index()] = Position::default());
    }

    /// Records from here on were durable and are damaged: only the peer has them, as it may have heard.
    pub fn damaged(&mut self, site: Site, origin: &Origin, from: Seq) {
        let left = from.prev();
        let Some(log) = self.log_mut(site, origin) else { return };
        log.damage(left);
        let at = log.at(left);
        if self.mirrored(origin).is_some_and(|mirrored| mirrored.at_both.seq > left) {
            self.now_at_both(origin, at);
        }
    }

    /// Nothing is left at a site of an origin's image and container.
    pub fn engine_lost(&mut self, site: Site, origin: &Origin, generation: u64) {
        if let Some(log) = self.log_mut(site, origin) {
            log.renew();
            log.generation = generation;
        }
        self.now_at_both(origin, Position::default());
    }

    fn now_at_both(&mut self, origin: &Origin, at: Position) {
        if let Some(mirrored) = self.mirrored_mut(origin) {
            mirrored.at_both = at;
        }
    }

    /// The site is gone for good.
    pub fn site_lost(&mut self, site: Site) {
        self.lost.insert(site);
    }

    /// A process has recovered this log: rules 1 and 4. `superblock` is what it found or made. True where something was
    /// written and is gone, as a torn tail is; and what is to have been set aside.
    pub fn recovered(
        &mut self,
        site: Site,
        superblock: &Superblock,
        found: &[(Origin, Progress)],
    ) -> Checked<(bool, Gone)> {
        let (mut torn, mut gone) = (false, Gone::default());
        self.stores[site.index()].durable = Some(superblock.clone());
        for (origin, progress) in found {
            let Some(entry) = superblock.origin(origin) else { continue };
            if self.log(site, origin).is_some_and(|log| log.generation < entry.engine_generation) {
                // The power went between the superblock's write and the swap.
                let replaced = self.replaced(site, origin, entry.engine_generation, *progress)?;
                gone.records.extend(replaced.records);
                gone.chunks.extend(replaced.chunks);
            }
            let old = match self.logs.iter().position(|l| l.site == site && l.origin == *origin) {
                Some(index) => self.logs.swap_remove(index),
                None => {
                    LogTruth { generation: entry.engine_generation, ..LogTruth::new(site, origin, entry.partition) }
                }
            };
            torn |= old.line.len() as u64 > progress.appended.seq.0;
            let log = compare(old, *progress)?;
            self.logs.push(log);
        }
        Ok((torn, gone))
    }
}

/// What a log is after a restart, where the restart found what it had to.
fn compare(mut log: LogTruth, found: Progress) -> Checked<LogTruth> {
    let (site, origin) = (log.site, log.origin.clone());
    let durable = log.at(log.durable());
    if found.appended.seq < durable.seq {
        return broken(1, format!("{site:?} restarts {origin} at {}, record {durable} was durable", found.appended));
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
    log.trimmed = found.trimmed;
    log.segments.iter_mut().for_each(|held| *held = Seq::ZERO);
    Ok(log)
}
