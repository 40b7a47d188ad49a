//! What clients were told. For each key: its state after the last operation that was answered, and every state that a
//! later operation without an answer may have left. After a failure one of them is there, whole, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::workload::Random;

/// An object's bytes, by the seed that they are made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// Seed.
    pub seed: u64,
    /// Length in bytes.
    pub len: usize,
}

impl Content {
    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        let mut random = Random::new(self.seed);
        let mut out = Vec::with_capacity(self.len + 8);
        while out.len() < self.len {
            out.extend_from_slice(&random.draw().to_le_bytes());
        }
        out.truncate(self.len);
        out.into()
    }
}

/// What a key holds: an object, or nothing.
pub type State = Option<Content>;

/// What is known of a key.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// After the last operation that was answered.
    pub acknowledged: State,
    /// After each operation since then that was sent and not answered, oldest first.
    pub unanswered: Vec<State>,
}

impl Known {
    /// An operation was answered: what came before it is decided.
    pub fn answer(&mut self, state: State) {
        *self = Self { acknowledged: state, unanswered: Vec::new() };
    }

    /// What the key holds, where that is certain.
    #[must_use]
    pub fn certain(&self) -> State {
        if self.unanswered.is_empty() { self.acknowledged } else { None }
    }

    /// The states that may be there, the acknowledged one first.
    pub fn possible(&self) -> impl Iterator<Item = &State> {
        std::iter::once(&self.acknowledged).chain(&self.unanswered)
    }
}

/// A multipart upload that was begun and not seen to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upload {
    /// It must be there.
    Open,
    /// An operation that ends it was sent and not answered.
    MayHaveEnded,
}

/// How often what happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Objects acknowledged: put, copied, completed.
    pub writes: u64,
    /// Of these, copies.
    pub copies: u64,
    /// Of these, completed multipart uploads.
    pub multiparts: u64,
    /// Bytes of the objects acknowledged.
    pub bytes: u64,
    /// Deletes acknowledged.
    pub deletes: u64,
    /// Uploads aborted.
    pub aborts: u64,
    /// Answers that only the source had (`x-lockstep-ack: local`).
    pub local: u64,
    /// Refusals without effect.
    pub refused: u64,
    /// Answers that left the outcome open.
    pub unknown: u64,
    /// Connections that broke within a request.
    pub broken: u64,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.writes += other.writes;
        self.copies += other.copies;
        self.multiparts += other.multiparts;
        self.bytes += other.bytes;
        self.deletes += other.deletes;
        self.aborts += other.aborts;
        self.local += other.local;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.broken += other.broken;
    }
}

/// Everything that clients were told.
#[derive(Debug, Default)]
pub struct Ledger {
    /// By key.
    pub keys: BTreeMap<String, Known>,
    /// Uploads by key and upload id.
    pub uploads: BTreeMap<(String, String), Upload>,
    /// Keys for which the begin of an upload was not answered: one of an unknown id may be there.
    pub begun: BTreeSet<String>,
    /// Counts.
    pub counts: Counts,
    /// Answers that a client must never get, each in a sentence.
    pub wrong: Vec<String>,
}

impl Ledger {
    /// Takes another one in, which is about other keys.
    pub fn join(&mut self, other: Self) {
        self.keys.extend(other.keys);
        self.uploads.extend(other.uploads);
        self.begun.extend(other.begun);
        self.counts.add(&other.counts);
        self.wrong.extend(other.wrong);
    }

    /// Takes out what is about keys with this prefix. Counts and wrong answers stay.
    #[must_use]
    pub fn split(&mut self, prefix: &str) -> Self {
        Self {
            keys: self.keys.extract_if(.., |key, _| key.starts_with(prefix)).collect(),
            uploads: self.uploads.extract_if(.., |(key, _), _| key.starts_with(prefix)).collect(),
            begun: self.begun.extract_if(.., |key| key.starts_with(prefix)).collect(),
            ..Self::default()
        }
    }

    /// Objects that are certainly there.
    #[must_use]
    pub fn objects(&self) -> u64 {
        self.keys.values().filter(|known| known.certain().is_some()).count() as u64
    }
}
