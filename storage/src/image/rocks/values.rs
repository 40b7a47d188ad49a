//! How a value of the body family is stored: short ones where RocksDB has them, chunks in a body file. Every change of
//! bodies goes through [`commit`], so that what a batch drops is queued to be freed in that same batch.

use std::collections::BTreeMap;

use bytes::Bytes;
use rocksdb::WriteBatch;

use super::body_files::Place;
use super::space::{Usage, dropped_key, file_key};
use super::{Store, error};
use crate::image::{Change, Family, ImageError};

/// Values from this length on lie in a body file: a block of it, at least.
const FILED_LEN_MIN: usize = 4 << 10;

const INLINE: u8 = 0;
const FILED: u8 = 1;

/// The value that stands for what is stored.
pub(super) fn resolve(store: &Store, stored: &[u8]) -> Result<Bytes, ImageError> {
    match stored.split_first() {
        Some((&INLINE, value)) => Ok(Bytes::copy_from_slice(value)),
        _ => match place(stored)? {
            Some(place) => store.files.read(place),
            None => Err(unknown()),
        },
    }
}

fn place(stored: &[u8]) -> Result<Option<Place>, ImageError> {
    match stored.split_first() {
        Some((&INLINE, _)) => Ok(None),
        Some((&FILED, place)) => Place::decode(place).map(Some).ok_or_else(unknown),
        _ => Err(unknown()),
    }
}

fn unknown() -> ImageError {
    ImageError::Unreadable("a value in the family of bodies is of no known form".into())
}

/// The batch of changes that concern no bodies.
pub(super) fn batch(store: &Store, changes: Vec<Change>) -> Result<WriteBatch, ImageError> {
    let mut batch = WriteBatch::with_capacity_bytes(changes.iter().map(Change::len).sum::<usize>() + 32);
    for change in changes {
        add(store, &mut batch, change)?;
    }
    Ok(batch)
}

fn add(store: &Store, batch: &mut WriteBatch, change: Change) -> Result<(), ImageError> {
    match change {
        Change::Put(family, key, value) => batch.put_cf(store.family(family)?, key, value),
        Change::Delete(family, key) => batch.delete_cf(store.family(family)?, key),
        Change::DeleteRange(family, from, until) => {
            if from < until {
                batch.delete_range_cf(store.family(family)?, from, until);
            }
        }
    }
    Ok(())
}

/// Commits changes of which some concern bodies: chunks go to their files first.
pub(super) fn commit(store: &Store, changes: Vec<Change>) -> Result<(), ImageError> {
    let _committing = store.committing();
    let before = store.files.end();
    let committed = commit_alone(store, changes);
    // A full device refuses the batch before anything of it is seen. Its chunks are written again at the next try: where
    // those of each try stayed, the tries would take the space that is left.
    if matches!(committed, Err(ImageError::NoSpace)) {
        store.files.rewind(before);
    }
    committed
}

/// As [`commit`], while nobody else commits.
fn commit_alone(store: &Store, changes: Vec<Change>) -> Result<(), ImageError> {
    let filed = |change: &Change| match change {
        Change::Put(Family::Body, _, value) if value.len() >= FILED_LEN_MIN => Some(value.clone()),
        _ => None,
    };
    let chunks: Vec<Bytes> = changes.iter().filter_map(filed).collect();
    let mut places = store.files.append(&chunks)?.into_iter();
    drop(chunks);
    let mut bodies = Bodies { store, set: BTreeMap::new(), dropped: Vec::new() };
    let mut batch = WriteBatch::default();
    let mut usages = BTreeMap::new();
    for change in changes {
        match change {
            Change::Put(Family::Body, key, value) => {
                let place = if value.len() < FILED_LEN_MIN { None } else { places.next() };
                let stored = match place {
                    Some(place) => [&[FILED], &place.encode()[..]].concat(),
                    None => [&[INLINE], &value[..]].concat(),
                };
                if let Some(place) = place {
                    let usage = usage(&mut usages, store, place.file);
                    usage.used = usage.used.max(place.offset + place.space());
                }
                bodies.replace(&key, place)?;
                batch.put_cf(store.family(Family::Body)?, &key, stored);
            }
            Change::Delete(Family::Body, key) => {
                bodies.replace(&key, None)?;
                batch.delete_cf(store.family(Family::Body)?, &key);
            }
            Change::DeleteRange(Family::Body, from, until) => {
                bodies.drop_range(&from, &until)?;
                add(store, &mut batch, Change::DeleteRange(Family::Body, from, until))?;
            }
            other => add(store, &mut batch, other)?,
        }
    }
    let dropped = bodies.dropped;
    let family = store.named(&store.space_name)?;
    for place in &dropped {
        batch.put_cf(family, dropped_key(*place), b"");
        usage(&mut usages, store, place.file).dropped += place.space();
    }
    for (number, usage) in &usages {
        batch.put_cf(family, file_key(*number), usage.encode());
    }
    store.write(batch)?;
    // A snapshot that was taken meanwhile counts as one from before the drop, whether it sees it or not.
    let mut space = store.space();
    space.files.extend(usages);
    space.dropped(dropped);
    Ok(())
}

/// The figures of a file as this batch leaves them.
fn usage<'a>(changed: &'a mut BTreeMap<u64, Usage>, store: &Store, file: u64) -> &'a mut Usage {
    changed.entry(file).or_insert_with(|| store.space().files.get(&file).copied().unwrap_or_default())
}

/// The places that a batch sets and drops.
struct Bodies<'a> {
    store: &'a Store,
    /// What this batch set so far.
    set: BTreeMap<Vec<u8>, Option<Place>>,
    dropped: Vec<Place>,
}

impl Bodies<'_> {
    /// A key gets another value, or none.
    fn replace(&mut self, key: &[u8], place: Option<Place>) -> Result<(), ImageError> {
        let before = match self.set.insert(key.to_vec(), place) {
            Some(before) => before,
            None => self.stored(key)?,
        };
        self.dropped.extend(before);
        Ok(())
    }

    fn stored(&self, key: &[u8]) -> Result<Option<Place>, ImageError> {
        let stored = self.store.db.get_pinned_cf(self.store.family(Family::Body)?, key).map_err(|e| error(&e))?;
        // What is of no known form gives nothing back: its file does, when it is empty.
        Ok(stored.and_then(|stored| place(&stored).ok().flatten()))
    }

    fn drop_range(&mut self, from: &[u8], until: &[u8]) -> Result<(), ImageError> {
        let mut iterator = self.store.db.raw_iterator_cf(self.store.family(Family::Body)?);
        iterator.seek(from);
        while let Some((key, stored)) = iterator.item().filter(|(key, _)| *key < until) {
            if !self.set.contains_key(key) {
                let before = place(stored).ok().flatten();
                self.set.insert(key.to_vec(), None);
                self.dropped.extend(before);
            }
            iterator.next();
        }
        iterator.status().map_err(|e| error(&e))?;
        let here = |key: &Vec<u8>| from <= key.as_slice() && key.as_slice() < until;
        for (_, place) in self.set.iter_mut().filter(|(key, _)| here(key)) {
            self.dropped.extend(place.take());
        }
        Ok(())
    }
}
