//! The log device: one queue a process, carried out in order, one persist at a time.

use bytes::Bytes;
use lockstep_mirror::event::Event;
use lockstep_storage::nvram::Nvram;
use lockstep_storage::superblock::PARTITIONS_AT;

use super::{Happening, World};
use crate::sim::coverage::Seen;
use crate::sim::mistake::Mistake;
use crate::sim::model::{Checked, within_bound};
use crate::sim::scenario::Site;
use crate::sim::site::DeviceTask;

impl World {
    /// The core asks for a write.
    pub(super) fn device_write(&mut self, site: Site, offset: u64, pieces: Vec<Bytes>) -> Checked {
        if self.model.place(site, offset, &pieces)? {
            self.seen.note(Seen::SegmentReused);
        }
        let pieces = self.tampered_superblock(site, offset, pieces);
        if let Some(process) = &mut self.sites[site.index()].process {
            process.device.push_back(DeviceTask::Write { offset, pieces });
        }
        let waiting = self.sites[site.index()].process.as_ref().map_or(0, |process| process.device.len());
        within_bound("the log device", waiting)?;
        self.device_go(site)
    }

    /// The core asks for a persist.
    pub(super) fn device_persist(&mut self, site: Site, id: u64) -> Checked {
        let Some(process) = &mut self.sites[site.index()].process else { return Ok(()) };
        let boot = process.boot;
        // What was written since the persist before: records, or the superblock alone?
        let since = process.device.iter().rev().take_while(|task| matches!(task, DeviceTask::Write { .. }));
        let mut records = false;
        for task in since {
            records |= matches!(task, DeviceTask::Write { offset, .. } if *offset >= PARTITIONS_AT);
        }
        let superblock = !(records || process.device_wrote_records);
        process.device_wrote_records = false;
        process.device.push_back(DeviceTask::Persist { id, superblock });
        let early = match self.mistake {
            Some(Mistake::AckBeforePersist) => !superblock,
            Some(Mistake::EpochUsedBeforeStored) => superblock,
            _ => false,
        };
        if early {
            self.schedule(0, Happening::Feed(site, boot, Box::new(Event::Persisted { id })));
        }
        self.device_go(site)
    }

    /// Carries out what it can.
    fn device_go(&mut self, site: Site) -> Checked {
        loop {
            let state = &mut self.sites[site.index()];
            let Some(process) = &mut state.process else { return Ok(()) };
            if process.persisting || process.device_failed {
                return Ok(());
            }
            match process.device.front() {
                None => return Ok(()),
                Some(DeviceTask::Persist { .. }) => {
                    process.persisting = true;
                    let (boot, slow) = (process.boot, state.slow);
                    if slow {
                        self.seen.note(Seen::SlowPersist);
                    }
                    let delay = if slow { self.noise.between(50, 900) } else { self.noise.below(6) };
                    self.schedule(delay, Happening::Device(site, boot));
                }
                Some(DeviceTask::Write { .. }) => {
                    let Some(DeviceTask::Write { offset, pieces }) = process.device.pop_front() else { return Ok(()) };
                    process.device_wrote_records |= offset >= PARTITIONS_AT;
                    let done = state.nvram.write(offset, &pieces);
                    match done {
                        Ok(()) => self.model.written(site, offset, &pieces),
                        Err(error) => self.device_fails(site, error.to_string()),
                    }
                }
            }
        }
    }

    fn in_sync_stored(&self, site: Site) -> bool {
        self.model.stored(site, &site.origin()).is_some_and(|entry| entry.in_sync)
    }

    fn device_fails(&mut self, site: Site, reason: String) {
        let Some(process) = &mut self.sites[site.index()].process else { return };
        process.device_failed = true;
        let boot = process.boot;
        self.seen.note(Seen::PersistFailed);
        self.schedule(0, Happening::Feed(site, boot, Box::new(Event::PersistFailed { reason })));
    }

    /// The persist under way is done.
    pub(super) fn device_done(&mut self, site: Site) -> Checked {
        let state = &mut self.sites[site.index()];
        let done = state.nvram.persist();
        let Some(process) = &mut state.process else { return Ok(()) };
        process.persisting = false;
        let Some(DeviceTask::Persist { id, superblock }) = process.device.pop_front() else { return Ok(()) };
        if let Err(error) = done {
            self.device_fails(site, error.to_string());
            return Ok(());
        }
        let before = self.in_sync_stored(site);
        self.model.persisted(site);
        let after = self.in_sync_stored(site);
        if before != after {
            self.seen.note(if after { Seen::InSyncStored } else { Seen::OutOfSyncStored });
        }
        let answered = match self.mistake {
            Some(Mistake::AckBeforePersist) => !superblock,
            Some(Mistake::EpochUsedBeforeStored) => superblock,
            _ => false,
        };
        if !answered {
            self.feed(site, Event::Persisted { id })?;
        }
        self.device_go(site)
    }
}
