//! Who may free what in the body files, and when: a place is given back when the batch that dropped it is durable and no
//! snapshot from before it is left.
//!
//! The family `space` of the database holds, in the same batches as the changes of bodies, how much of each file is used
//! and dropped, and which places wait to be freed: a crash loses none of them and frees none too early.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::body_files::Place;
use crate::image::ImageError;

/// Prefix of a file's figures, by number.
const FILE: u8 = b'f';
/// Prefix of the places that wait.
const DROPPED: u8 = b'd';

pub(super) fn file_key(number: u64) -> [u8; 9] {
    let mut key = [FILE; 9];
    key[1..].copy_from_slice(&number.to_be_bytes());
    key
}

pub(super) fn dropped_key(place: Place) -> [u8; 1 + Place::ENCODED_LEN] {
    let mut key = [DROPPED; 1 + Place::ENCODED_LEN];
    key[1..].copy_from_slice(&place.encode());
    key
}

/// Held by a snapshot: what was dropped after it is kept for it.
#[derive(Debug, Default)]
pub(super) struct Era;

/// Bytes of one file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Bytes from its start that were written.
    pub(super) used: u64,
    /// Bytes of these that nothing refers to any more.
    pub(super) dropped: u64,
}

impl Usage {
    pub(super) fn encode(self) -> [u8; 16] {
        let mut out = [0; 16];
        out[..8].copy_from_slice(&self.used.to_be_bytes());
        out[8..].copy_from_slice(&self.dropped.to_be_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (used, dropped) = bytes.split_first_chunk()?;
        Some(Self { used: u64::from_be_bytes(*used), dropped: u64::from_be_bytes(dropped.try_into().ok()?) })
    }
}

/// Places that one commit dropped.
struct Group {
    /// Number of the commit among those that dropped something.
    commit: u64,
    /// Held by the snapshots from before it.
    era: Arc<Era>,
    places: Vec<Place>,
}

/// What is used and what waits, as the last commit left it.
#[derive(Default)]
pub(super) struct Space {
    pub(super) files: BTreeMap<u64, Usage>,
    era: Arc<Era>,
    commits: u64,
    waiting: VecDeque<Group>,
    /// Waiting places by file.
    waits: BTreeMap<u64, u64>,
}

impl Space {
    /// Takes in an entry of the family, when the database is opened.
    pub(super) fn load(&mut self, key: &[u8], value: &[u8]) -> Result<(), ImageError> {
        let corrupt = || ImageError::Corrupt("an entry of the body files' space".into());
        let (prefix, rest) = key.split_first().ok_or_else(corrupt)?;
        match *prefix {
            FILE => {
                let number = u64::from_be_bytes(rest.try_into().map_err(|_| corrupt())?);
                self.files.insert(number, Usage::decode(value).ok_or_else(corrupt)?);
            }
            DROPPED => {
                let place = Place::decode(rest).ok_or_else(corrupt)?;
                *self.waits.entry(place.file).or_default() += 1;
                self.waiting.push_back(Group { commit: 0, era: Arc::default(), places: vec![place] });
            }
            _ => return Err(corrupt()),
        }
        Ok(())
    }

    /// What a snapshot holds; to be taken before the snapshot itself.
    pub(super) fn era(&self) -> Arc<Era> {
        Arc::clone(&self.era)
    }

    /// A commit dropped these.
    pub(super) fn dropped(&mut self, places: Vec<Place>) {
        if places.is_empty() {
            return;
        }
        for place in &places {
            *self.waits.entry(place.file).or_default() += 1;
        }
        self.commits += 1;
        let era = std::mem::take(&mut self.era);
        self.waiting.push_back(Group { commit: self.commits, era, places });
    }

    /// Number of the last commit that dropped something: durable with the next flush that begins now.
    pub(super) fn commits(&self) -> u64 {
        self.commits
    }

    /// Places that may be freed: dropped by commits up to `durable`, in order, up to the first that a snapshot still sees.
    pub(super) fn take_free(&mut self, durable: u64) -> Vec<Place> {
        let mut free = Vec::new();
        while let Some(group) = self.waiting.front() {
            // A snapshot from before an earlier drop is from before this one too, so the order matters.
            if group.commit > durable || Arc::strong_count(&group.era) > 1 {
                break;
            }
            free.extend(self.waiting.pop_front().into_iter().flat_map(|group| group.places));
        }
        free
    }

    /// These could not be freed: they are the first to be tried again.
    pub(super) fn give_back(&mut self, places: Vec<Place>) {
        self.waiting.push_front(Group { commit: 0, era: Arc::default(), places });
    }

    /// The files of which nothing is left when these are free, but for the one that is being written.
    pub(super) fn emptied_by(&self, places: &[Place], active: Option<u64>) -> Vec<u64> {
        let mut freed: BTreeMap<u64, u64> = BTreeMap::new();
        for place in places {
            *freed.entry(place.file).or_default() += 1;
        }
        let waits = |number: &u64| self.waits.get(number) > freed.get(number);
        let empty = |(number, usage): (&u64, &Usage)| {
            let left = usage.used > usage.dropped || waits(number) || Some(*number) == active;
            (!left).then_some(*number)
        };
        self.files.iter().filter_map(empty).collect()
    }

    /// These are free, and these files are gone.
    pub(super) fn freed(&mut self, places: &[Place], gone: &[u64]) {
        for place in places {
            if let Some(waits) = self.waits.get_mut(&place.file) {
                *waits -= 1;
            }
        }
        self.waits.retain(|_, waits| *waits > 0);
        for number in gone {
            self.files.remove(number);
        }
    }

    /// Bytes that something refers to.
    pub(super) fn live(&self) -> u64 {
        self.files.values().map(|usage| usage.used.saturating_sub(usage.dropped)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(offset: u64) -> Place {
        Place { file: 1, offset, len: 4096 }
    }

    #[test]
    fn a_place_is_free_when_its_drop_is_durable_and_no_reader_is_older() {
        let mut space = Space::default();
        space.dropped(vec![place(0)]);
        let durable = space.commits();
        let reader = space.era();
        space.dropped(vec![place(4096)]);
        assert_eq!(space.take_free(durable), [place(0)], "the second drop may be lost in a crash");
        assert_eq!(space.take_free(space.commits()), [], "a reader still sees it");
        space.dropped(vec![place(8192)]);
        assert_eq!(space.take_free(space.commits()), [], "he sees what was dropped after that too");
        drop(reader);
        assert_eq!(space.take_free(space.commits()), [place(4096), place(8192)]);
    }
}
