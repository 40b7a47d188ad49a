//! What goes: released segments, trimmed records, collected bodies, tails that are cut, and what a crash takes. Rules 1, 4
//! and 5.

use lockstep_storage::id::{Origin, Position, Seq};
use lockstep_storage::image::Progress;
use lockstep_storage::superblock::Superblock;

use super::log::LogTruth;
use super::{Checked, Model, broken};
use crate::sim::scenario::Site;

impl Model {
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
        if alone || self.lost.contains(&site.peer()) || through <= other.claimed() {
            return Ok(());
        }
        let durable = other.durable();
        broken(5, format!("{site:?} {doing} of {origin} through {through}, its peer has {durable} durable"))
    }

    /// What came after `last` is set aside.
    pub fn cut(&mut self, site: Site, origin: &Origin, last: Position) -> Checked {
        if *origin == Site::A.origin() && site == self.holder.0 {
            return broken(2, format!("{site:?} cuts {origin} to {last}, whose writes it takes"));
        }
        let mirrored = self.mirrored.get(origin).copied().unwrap_or_default();
        let Some(log) = self.log_mut(site, origin) else { return Ok(()) };
        // A deposed source may have shown what it alone had: that is its tail.
        if std::mem::take(&mut log.was_source) {
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
        self.logs.iter_mut().filter(|log| log.site == site).for_each(|log| log.held = Seq::ZERO);
        // What was only in its memory is gone.
        self.received[site.index()] = Position::default();
    }

    /// The site is gone for good.
    pub fn site_lost(&mut self, site: Site) {
        self.lost.insert(site);
    }

    /// A process has recovered this log: rules 1 and 4. `superblock` is what it found or made. True where something was
    /// written and is gone, as a torn tail is.
    pub fn recovered(&mut self, site: Site, superblock: &Superblock, found: &[(Origin, Progress)]) -> Checked<bool> {
        let mut torn = false;
        self.stores[site.index()].durable = Some(superblock.clone());
        for (origin, progress) in found {
            let Some(entry) = superblock.origin(origin) else { continue };
            let old = match self.logs.iter().position(|l| l.site == site && l.origin == *origin) {
                Some(index) => self.logs.swap_remove(index),
                None => LogTruth::new(site, origin, entry.partition),
            };
            torn |= old.line.len() as u64 > progress.appended.seq.0;
            let log = compare(old, *progress)?;
            self.logs.push(log);
        }
        Ok(torn)
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
    log.segments.iter_mut().for_each(|held| *held = Seq::ZERO);
    Ok(log)
}
