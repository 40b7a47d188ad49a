//! The superblock as the core changes it: every change raises a version; one write is under way at a time, so that a torn
//! one leaves the copy before; who needs a change durable waits for its version.

use lockstep_storage::id::{Origin, Seq};
use lockstep_storage::superblock::{OriginEntry, Superblock};

use super::Persists;
use crate::event::{Effect, Now};

#[derive(Debug)]
pub(super) struct Store {
    superblock: Superblock,
    /// Number of the copy that was written last.
    counter: u64,
    /// Version as changed in memory, as durable, and as being written.
    version: u64,
    durable: u64,
    writing: Option<u64>,
}

impl Store {
    pub(super) fn new(superblock: Superblock, counter: u64) -> Self {
        Self { superblock, counter, version: 0, durable: 0, writing: None }
    }

    pub(super) fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// The entry of an origin, as changed in memory.
    pub(super) fn entry(&self, origin: &Origin) -> &OriginEntry {
        let found = self.superblock.origins.iter().find(|o| o.origin == *origin);
        found.unwrap_or_else(|| unreachable!("every log has an entry: {origin}"))
    }

    /// Changes an origin's entry; what it returns is the version to wait for.
    pub(super) fn change(&mut self, origin: &Origin, change: impl FnOnce(&mut OriginEntry)) -> u64 {
        if let Some(entry) = self.superblock.origins.iter_mut().find(|o| o.origin == *origin) {
            change(entry);
        }
        self.version += 1;
        self.version
    }

    pub(super) fn is_durable(&self, version: u64) -> bool {
        version <= self.durable
    }

    pub(super) fn durable(&mut self, version: u64) {
        self.durable = self.durable.max(version);
        self.writing = None;
    }

    /// Writes the superblock where it has changed and no write is under way; `persisted` says how far each log is durable.
    pub(super) fn write<'a>(
        &mut self,
        persisted: impl Iterator<Item = (&'a Origin, Seq)>,
        persists: &mut Persists,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        if self.writing.is_some() || self.version == self.durable {
            return;
        }
        for (origin, through) in persisted {
            if let Some(entry) = self.superblock.origins.iter_mut().find(|o| o.origin == *origin) {
                entry.persisted = through;
            }
        }
        self.counter += 1;
        match self.superblock.encode(self.counter) {
            Ok((offset, bytes)) => {
                effects.push(Effect::Write { offset, pieces: vec![bytes] });
                persists.ask(Vec::new(), Some(self.version), now, effects);
                self.writing = Some(self.version);
            }
            Err(error) => effects.push(Effect::Stop { reason: error.to_string() }),
        }
    }
}
