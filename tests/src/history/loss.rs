//! What an operator accepted as lost. A source that answered alone may have acknowledged writes that its peer never had;
//! where the peer is promoted all the same, they are gone, and with them what readers saw of them. Which they are is
//! exact: the promote says where the origin's log ends. All other acknowledged writes must be in every later history.

use std::time::Duration;

use super::search::Budget;
use super::window::until;
use super::{History, Operation, Outcome, Report};

/// The origin got another source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Not later than the order to promote.
    pub at: Duration,
    /// [`super::Place::promotes`] of what the new source writes.
    pub promotes: u64,
    /// The last record of its predecessors that it has.
    pub last_seq: u64,
}

impl Change {
    /// Was this write acknowledged by an earlier source, which had it behind the end of what the new one has?
    #[must_use]
    pub fn loses(&self, operation: &Operation) -> bool {
        let behind = operation.place.is_some_and(|place| place.promotes < self.promotes && place.seq > self.last_seq);
        behind && operation.is_acknowledged()
    }
}

/// Acknowledged writes that changes of the source lost, with their keys.
#[must_use]
pub fn lost<'a>(history: &'a History, changes: &[Change]) -> Vec<(&'a str, &'a Operation)> {
    let all = history.keys.iter().flat_map(|(key, operations)| operations.iter().map(move |o| (key.as_str(), o)));
    all.filter(|(_, operation)| changes.iter().any(|change| change.loses(operation))).collect()
}

impl History {
    /// Judges every key up to each loss, and what remains without what was lost.
    #[must_use]
    pub fn check_with_losses(&self, changes: &[Change], budget: Budget) -> Report {
        let mut rest = self.clone();
        let mut report = Report::default();
        for change in changes {
            if !rest.keys.values().flatten().any(|operation| change.loses(operation)) {
                continue;
            }
            let before = History {
                keys: rest.keys.iter().map(|(key, operations)| (key.clone(), until(operations, change.at))).collect(),
            };
            report.add(before.check(budget));
            rest.keys.values_mut().for_each(|operations| forget(operations, change));
        }
        report.add(rest.check(budget));
        report.explained = report.explained.min(self.keys.len() as u64);
        report
    }
}

/// Takes the lost writes of a key out, and what may have been read of them.
fn forget(operations: &mut Vec<Operation>, change: &Change) {
    let lost = operations.iter().filter(|operation| change.loses(operation));
    let Some(first): Option<Duration> = lost.map(|operation| operation.began).min() else { return };
    operations.retain(|operation| {
        let only_looked = matches!(operation.outcome, Outcome::Read(_) | Outcome::Failed | Outcome::Missing);
        let may_have_seen = only_looked && operation.ended > first && operation.began < change.at;
        !change.loses(operation) && !may_have_seen
    });
}

impl Report {
    fn add(&mut self, other: Self) {
        self.explained += other.explained;
        self.undecided.extend(other.undecided);
        self.violations.extend(other.violations);
    }
}
