//! What clients asked for and were told, and what each object's bytes say about who wrote them.

use std::collections::{BTreeSet, HashMap};

use lockstep_gateway::demo::ledger::{Content, Counts};

use crate::history::set::Listing;
use crate::history::{Action, History, Operation, Value};

/// What the names of the set's elements begin with; the value follows.
pub const SET_PREFIX: &str = "set/";
/// The bytes of every element.
pub const ELEMENT: &[u8] = b"element";

/// All that was asked and answered.
#[derive(Debug, Default)]
pub struct Record {
    /// Of the keys.
    pub history: History,
    /// To the set.
    pub additions: Vec<Operation>,
    /// Of the set.
    pub listings: Vec<Listing>,
    /// What clients were told, in numbers.
    pub counts: Counts,
    /// Reads that said that they came from a replica: they may be old, so they prove nothing.
    pub replica_reads: u64,
    /// Answers that a client must never get, each in a sentence.
    pub wrong: Vec<String>,
    pub(super) values: Value,
    /// By the first bytes that they are stored as: key, value, content.
    pub(super) written: HashMap<Vec<u8>, (String, Value, Content)>,
    /// Of values whose ETag is known.
    pub(super) etags: HashMap<Value, String>,
}

impl Record {
    /// Every write that was asked for, with the name of its object.
    pub fn writes(&self) -> impl Iterator<Item = (String, &Operation)> {
        let keys = self.history.keys.iter().flat_map(|(key, all)| all.iter().map(|o| (key.clone(), o)));
        let set = self.additions.iter().filter_map(|operation| match operation.action {
            Action::Put { value, .. } => Some((format!("{SET_PREFIX}{value}"), operation)),
            Action::Get | Action::Delete => None,
        });
        keys.filter(|(_, operation)| operation.action != Action::Get).chain(set)
    }

    /// The value that an object holds, by its name and its bytes; none where nobody wrote these there.
    #[must_use]
    pub fn value(&self, name: &str, bytes: &[u8]) -> Option<Value> {
        if let Some(element) = name.strip_prefix(SET_PREFIX) {
            return element.parse().ok().filter(|_| bytes == ELEMENT);
        }
        let (key, value, content) = self.written.get(bytes.get(..8)?)?;
        (key == name && content.len == bytes.len() && bytes == content.bytes()).then_some(*value)
    }
}

/// The elements of the set that a listing names.
#[must_use]
pub fn listed(answer: &[u8]) -> BTreeSet<Value> {
    let text = String::from_utf8_lossy(answer);
    let names = text.split("<Key>set/").skip(1);
    names.filter_map(|rest| rest.split('<').next()?.parse().ok()).collect()
}
