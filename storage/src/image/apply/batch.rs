//! The batch that one call of apply builds: what its records changed so far lies over the snapshot that it started from,
//! so that records of one batch see each other's effects, and everything becomes one atomic commit.
//!
//! A key that a batch set and removed again without its having been there before leaves no trace.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::image::{Change, Family, ImageError, Tables};

struct Slot {
    value: Option<Bytes>,
    /// Whether the snapshot has the key, where that was looked up.
    stored: Option<bool>,
    dirty: bool,
}

/// Changes of the image over a snapshot.
pub(super) struct Batch<'a> {
    tables: &'a dyn Tables,
    slots: BTreeMap<Vec<u8>, Slot>,
}

impl<'a> Batch<'a> {
    pub(super) fn new(tables: &'a dyn Tables) -> Self {
        Self { tables, slots: BTreeMap::new() }
    }

    /// The value of a key as the records so far have left it.
    pub(super) fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, ImageError> {
        if let Some(slot) = self.slots.get(key) {
            return Ok(slot.value.clone());
        }
        let value = self.tables.get(Family::Image, key)?;
        let slot = Slot { value: value.clone(), stored: Some(value.is_some()), dirty: false };
        self.slots.insert(key.to_vec(), slot);
        Ok(value)
    }

    pub(super) fn put(&mut self, key: Vec<u8>, value: Bytes) {
        self.set(key, Some(value));
    }

    pub(super) fn delete(&mut self, key: Vec<u8>) {
        self.set(key, None);
    }

    fn set(&mut self, key: Vec<u8>, value: Option<Bytes>) {
        let slot = self.slots.entry(key).or_insert(Slot { value: None, stored: None, dirty: true });
        slot.value = value;
        slot.dirty = true;
    }

    /// Every key from `from` up to and without `until` with its value, in order.
    pub(super) fn scan(&self, from: &[u8], until: &[u8]) -> Result<Vec<(Vec<u8>, Bytes)>, ImageError> {
        let mut found = BTreeMap::new();
        self.tables.scan(Family::Image, from, until, &mut |key, value| {
            if !self.slots.contains_key(key) {
                found.insert(key.to_vec(), Bytes::copy_from_slice(value));
            }
            true
        })?;
        for (key, value) in self.overlaid(from, until) {
            found.insert(key.clone(), value.clone());
        }
        Ok(found.into_iter().collect())
    }

    /// Whether there is any key from `from` up to and without `until`.
    pub(super) fn any(&self, from: &[u8], until: &[u8]) -> Result<bool, ImageError> {
        if self.overlaid(from, until).next().is_some() {
            return Ok(true);
        }
        let mut found = false;
        self.tables.scan(Family::Image, from, until, &mut |key, _| {
            // Keys with a slot were looked at above: what is left of those is removed ones.
            found = !self.slots.contains_key(key);
            !found
        })?;
        Ok(found)
    }

    fn overlaid(&self, from: &[u8], until: &[u8]) -> impl Iterator<Item = (&Vec<u8>, &Bytes)> {
        let until = until.to_vec();
        let run = self.slots.range(from.to_vec()..).take_while(move |(key, _)| **key < until);
        run.filter_map(|(key, slot)| Some((key, slot.value.as_ref()?)))
    }

    /// What the engine has to change.
    pub(super) fn into_changes(self) -> Vec<Change> {
        let change = |(key, slot): (Vec<u8>, Slot)| match (slot.dirty, slot.value) {
            (false, _) => None,
            (true, Some(value)) => Some(Change::Put(Family::Image, key, value)),
            (true, None) if slot.stored == Some(false) => None,
            (true, None) => Some(Change::Delete(Family::Image, key)),
        };
        self.slots.into_iter().filter_map(change).collect()
    }
}
