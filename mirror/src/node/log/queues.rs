//! What waits at either end: batches, told apart by their age, and records that came and have no place yet.

use std::collections::VecDeque;

use lockstep_storage::id::Seq;
use lockstep_storage::record::Record;

/// Batches on their way to somewhere, oldest first, and since when they wait.
#[derive(Debug, Default)]
pub(in crate::node) struct Ages {
    batches: VecDeque<(Seq, u64)>,
}

impl Ages {
    /// One more, told apart from the others where there are fewer than `most`.
    pub(in crate::node) fn push(&mut self, through: Seq, now_ms: u64, most: usize) {
        let crowded = self.batches.len() >= most;
        match self.batches.back_mut() {
            Some(last) if crowded => last.0 = through,
            _ => self.batches.push_back((through, now_ms)),
        }
    }

    /// Everything through `done` has arrived.
    pub(in crate::node) fn pop(&mut self, done: Seq) {
        while self.batches.pop_front_if(|batch| batch.0 <= done).is_some() {}
    }

    /// Milliseconds that the oldest has waited.
    pub(in crate::node) fn oldest_ms(&self, now_ms: u64) -> u64 {
        self.batches.front().map_or(0, |(_, since)| now_ms.saturating_sub(*since))
    }

    /// Their waiting begins now.
    pub(in crate::node) fn restart(&mut self, now_ms: u64) {
        self.batches.iter_mut().for_each(|batch| batch.1 = now_ms);
    }
}

/// Records that came from the peer and have no place yet.
#[derive(Debug, Default)]
pub(in crate::node) struct Incoming {
    pub(super) records: VecDeque<Record>,
    bytes: usize,
}

impl Incoming {
    pub(in crate::node) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The last one.
    pub(in crate::node) fn back(&self) -> Option<&Record> {
        self.records.back()
    }

    /// Bytes of all of them.
    pub(in crate::node) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(in crate::node) fn extend(&mut self, records: Vec<Record>) {
        self.bytes += records.iter().map(Record::len).sum::<usize>();
        self.records.extend(records);
    }

    /// The first `count` have their places.
    pub(super) fn remove(&mut self, count: usize) {
        self.bytes -= self.records.drain(..count).map(|record| record.len()).sum::<usize>();
    }

    pub(in crate::node) fn clear(&mut self) {
        *self = Self::default();
    }
}
