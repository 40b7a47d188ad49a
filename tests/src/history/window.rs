//! Where no order explains the answers to a key: the few operations that contradict each other. The history is cut after
//! the first answer that cannot be explained; then every operation goes, or loses its answer, without which the rest is
//! contradictory all the same. Both only make the rest easier to explain, so what remains is a proof.

use std::fmt;
use std::time::Duration;

use super::search::{Budget, Finding, explain};
use super::{Action, Condition, Operation, Outcome, Value};

/// Searches that make one window smaller.
const SEARCHES_MAX: usize = 3000;

/// Operations with an answer in a part that is judged by itself.
const PART_LEN: usize = 64;

/// A contradiction.
#[derive(Debug, Clone)]
pub struct Window {
    /// Of this key.
    pub key: String,
    /// In one sentence.
    pub reason: String,
    /// Which operations, by their beginnings.
    pub operations: Vec<Operation>,
    /// Others on the key up to then, which do not help.
    pub others: usize,
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, others) = (self.operations.len(), self.others);
        write!(f, "{}: {} ({count} operations, {others} others do not explain it)", self.key, self.reason)?;
        self.operations.iter().try_for_each(|operation| write!(f, "\n  {operation}"))
    }
}

/// What is left of a history up to a moment: those under way then have no answer yet.
#[must_use]
pub fn until(operations: &[Operation], end: Duration) -> Vec<Operation> {
    let mut kept = Vec::new();
    for operation in operations.iter().filter(|operation| operation.began <= end) {
        if operation.ended <= end || operation.outcome == Outcome::Unknown {
            kept.push(operation.clone());
        } else if operation.is_acknowledged() {
            kept.push(Operation { outcome: Outcome::Unknown, ..operation.clone() });
        }
    }
    kept
}

/// The window of a key whose operations no register explains.
#[must_use]
pub fn find(key: &str, operations: &[Operation], budget: Budget) -> Window {
    let contradicts = |part: &[Operation]| explain(part, budget) == Finding::Contradiction;
    let mut ends: Vec<Duration> = operations.iter().map(|operation| operation.ended).collect();
    ends.sort_unstable();
    // Every part up to a later moment contradicts itself too.
    let first = ends.partition_point(|end| !contradicts(&until(operations, *end)));
    show(key, operations, ends.get(first).map_or_else(|| operations.to_vec(), |end| until(operations, *end)))
}

/// The window of a key for which the search gave up, where a few operations in a row contradict each other, whatever came
/// of those before.
#[must_use]
pub fn find_in_parts(key: &str, operations: &[Operation]) -> Option<Window> {
    let mut sorted = operations.to_vec();
    sorted.sort_by_key(|operation| operation.ended);
    let starts = (0..sorted.len()).step_by(PART_LEN / 2);
    let mut parts = starts.map(|from| {
        let (before, rest) = sorted.split_at(from);
        let end = rest[PART_LEN.min(rest.len()) - 1].ended;
        let before = before.iter().filter_map(less);
        before.chain(until(rest, end)).collect::<Vec<_>>()
    });
    let part = parts.find(|part| explain(part, Budget::PART) == Finding::Contradiction)?;
    Some(show(key, operations, part))
}

/// What is needed of a contradiction.
fn show(key: &str, operations: &[Operation], whole: Vec<Operation>) -> Window {
    let others = whole.len();
    let core = shrink(whole);
    let answered = core.iter().filter(|operation| operation.outcome != Outcome::Unknown);
    let mut shown: Vec<Operation> = answered.cloned().collect();
    // And who wrote, or did not write, the values in question.
    let mut seen = 0;
    while seen < shown.len() {
        let value = asked(&shown[seen]);
        let writers = operations.iter().filter(|operation| value.is_some() && written(operation) == value);
        let new: Vec<Operation> = writers.filter(|writer| !shown.iter().any(|o| is_same(o, writer))).cloned().collect();
        shown.extend(new);
        seen += 1;
    }
    shown.sort_by_key(|operation| (operation.began, operation.client));
    let others = others.saturating_sub(shown.len());
    Window { key: key.to_owned(), reason: reason(&shown), operations: shown, others }
}

fn written(operation: &Operation) -> Option<Value> {
    match operation.action {
        Action::Put { value, .. } => Some(value),
        Action::Get | Action::Delete => None,
    }
}

/// The value that it found, or that its condition asks for.
fn asked(operation: &Operation) -> Option<Value> {
    match (operation.outcome, operation.action) {
        (Outcome::Read(found), _) => found,
        (_, Action::Put { when: Condition::Is(value), .. }) => Some(value),
        _ => None,
    }
}

fn is_same(one: &Operation, other: &Operation) -> bool {
    (one.client, one.began, one.action) == (other.client, other.began, other.action)
}

/// Less of an operation: nothing of one that only looked, a write without its answer.
fn less(operation: &Operation) -> Option<Operation> {
    let may_change = operation.is_acknowledged() || operation.outcome == Outcome::Unknown;
    may_change.then(|| Operation { outcome: Outcome::Unknown, ..operation.clone() })
}

/// The last few answers alone, where they contradict each other whatever came before.
fn last_few(operations: &[Operation]) -> Option<Vec<Operation>> {
    let mut sorted = operations.to_vec();
    sorted.sort_by_key(|o| if o.outcome == Outcome::Unknown { Duration::ZERO } else { o.ended });
    let counts = (0..).map(|power| 1_usize << power).take_while(|count| *count < sorted.len());
    let mut parts = counts.map(|count| {
        let (before, last) = sorted.split_at(sorted.len() - count);
        before.iter().filter_map(less).chain(last.iter().cloned()).collect::<Vec<_>>()
    });
    parts.find(|part| explain(part, Budget::PART) == Finding::Contradiction)
}

/// Takes away what is not needed for the contradiction: large pieces first, the oldest first.
fn shrink(mut operations: Vec<Operation>) -> Vec<Operation> {
    operations.retain(|operation| operation.outcome != Outcome::Refused);
    operations = last_few(&operations).unwrap_or(operations);
    operations.sort_by_key(|operation| operation.began);
    let mut searches = 0;
    let mut piece = operations.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        while at < operations.len() && searches < SEARCHES_MAX {
            let to = (at + piece).min(operations.len());
            let fewer: Vec<Operation> = operations[at..to].iter().filter_map(less).collect();
            let changed = fewer.as_slice() != &operations[at..to];
            let rest = [&operations[..at], &fewer, &operations[to..]].concat();
            searches += usize::from(changed);
            if changed && explain(&rest, Budget::PART) == Finding::Contradiction {
                at += fewer.len();
                operations = rest;
            } else {
                at = to;
            }
        }
        if piece == 1 {
            return operations;
        }
        piece = piece.div_ceil(2);
    }
}

/// The contradiction in words, where it has a name.
fn reason(shown: &[Operation]) -> String {
    for read in shown {
        let Outcome::Read(Some(value)) = read.outcome else { continue };
        let writer = shown.iter().find(|operation| written(operation) == Some(value));
        match writer {
            None => return format!("v{value} is read, and nobody wrote it"),
            Some(writer) if writer.outcome == Outcome::Refused => {
                return format!("v{value} is read, and its write was refused");
            }
            Some(writer) if matches!(writer.outcome, Outcome::Failed | Outcome::Missing) => {
                return format!("v{value} is read, and its condition did not hold");
            }
            Some(writer) if writer.began > read.ended => {
                return format!("v{value} is read before its write began");
            }
            Some(_) => {}
        }
    }
    "no order explains these answers".into()
}
