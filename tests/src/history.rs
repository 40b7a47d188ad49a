//! What concurrent clients did to a few keys and what they were told, and whether one register a key explains it: a
//! register with delete and conditional put, in which every operation takes effect at one moment between its beginning and
//! its answer. One without an answer may take effect at any later moment, or never; a refused one has no effect.
//!
//! A small search of our own: the testers of the crates at hand have no operations without effect or need an answer to
//! every one, and no bound. What is not decided within the bound is reported as undecided, never as right.
//!
//! # Layout
//! - [`search`]: is there an order that explains the answers to one key?
//! - [`window`]: where there is none, the few operations that contradict each other, as a timeline.
//! - [`loss`]: what an operator accepted as lost, and what remains to be explained.
//! - [`set`]: elements that are only added, and listings of them; the order in which the log has acknowledged writes.

pub mod loss;
pub mod search;
pub mod set;
pub mod window;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use self::search::{Budget, Finding};
use self::window::Window;

/// What is written: no two writes of a history write the same.
pub type Value = u64;

/// What a key holds: a value, or nothing.
pub type State = Option<Value>;

/// What a put asks of what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    Always,
    /// `If-None-Match: *`: nothing is there.
    Absent,
    /// `If-Match`: this value is there.
    Is(Value),
}

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Get,
    Delete,
    Put { value: Value, when: Condition },
}

/// What it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A write took effect.
    Done,
    /// A get found this.
    Read(State),
    /// 412: something is there that the condition rules out.
    Failed,
    /// 404 to an If-Match: nothing is there.
    Missing,
    /// Refused without effect.
    Refused,
    /// No answer, or one that leaves it open: it may take effect at any later time.
    Unknown,
}

/// Where the log has a write: what `x-lockstep-seq` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Changes of the source so far: the part of the epoch that a restart does not raise.
    pub promotes: u64,
    /// Seq.
    pub seq: u64,
}

/// One operation. Times are since the history's beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Who.
    pub client: u64,
    /// What was asked.
    pub action: Action,
    /// What was answered.
    pub outcome: Outcome,
    /// Not later than the first byte was sent.
    pub began: Duration,
    /// Not earlier than the last byte of the answer had come; where none came, when the client gave up.
    pub ended: Duration,
    /// Of an acknowledged write.
    pub place: Option<Place>,
    /// Acknowledged by a source that had it alone.
    pub local: bool,
    /// For the timeline: where it was sent and what came back.
    pub note: String,
}

impl Operation {
    /// Was it acknowledged as a write?
    #[must_use]
    pub fn is_acknowledged(&self) -> bool {
        self.outcome == Outcome::Done
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (self.began.as_secs_f64() * 1000.0, self.ended.as_secs_f64() * 1000.0);
        let open = if self.outcome == Outcome::Unknown { ".." } else { "  " };
        write!(f, "{from:>11.3} to {to:>11.3}{open} ms  client {}  ", self.client)?;
        match self.action {
            Action::Get => write!(f, "get")?,
            Action::Delete => write!(f, "delete")?,
            Action::Put { value, when: Condition::Always } => write!(f, "put v{value}")?,
            Action::Put { value, when: Condition::Absent } => write!(f, "put v{value} if absent")?,
            Action::Put { value, when: Condition::Is(other) } => write!(f, "put v{value} if v{other}")?,
        }
        match self.outcome {
            Outcome::Done => write!(f, " -> done")?,
            Outcome::Read(None) => write!(f, " -> nothing")?,
            Outcome::Read(Some(value)) => write!(f, " -> v{value}")?,
            Outcome::Failed => write!(f, " -> 412")?,
            Outcome::Missing => write!(f, " -> 404")?,
            Outcome::Refused => write!(f, " -> refused")?,
            Outcome::Unknown => write!(f, " -> unknown")?,
        }
        if let Some(place) = self.place {
            write!(f, "  at {}/{}{}", place.promotes, place.seq, if self.local { " local" } else { "" })?;
        }
        if self.note.is_empty() { Ok(()) } else { write!(f, "  ({})", self.note) }
    }
}

/// All operations, by key.
#[derive(Debug, Clone, Default)]
pub struct History {
    pub keys: BTreeMap<String, Vec<Operation>>,
}

/// What a check found.
#[derive(Debug, Default)]
pub struct Report {
    /// Keys whose operations one register explains.
    pub explained: u64,
    /// Keys on which the search gave up, with what it had come to.
    pub undecided: Vec<String>,
    /// Keys whose operations no register explains.
    pub violations: Vec<Window>,
}

impl History {
    /// Adds an operation.
    pub fn push(&mut self, key: &str, operation: Operation) {
        self.keys.entry(key.to_owned()).or_default().push(operation);
    }

    /// How many operations there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.values().map(Vec::len).sum()
    }

    /// Are there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Judges every key by itself: linearizability is a property of each object.
    #[must_use]
    pub fn check(&self, budget: Budget) -> Report {
        let mut report = Report::default();
        for (key, operations) in &self.keys {
            match search::explain(operations, budget) {
                Finding::Explained => report.explained += 1,
                Finding::Contradiction => report.violations.push(window::find(key, operations, budget)),
                Finding::Undecided { decided } => {
                    if let Some(window) = window::find_in_parts(key, operations) {
                        report.violations.push(window);
                        continue;
                    }
                    let all = operations.len();
                    report.undecided.push(format!("{key}: gave up with {decided} of {all} operations in order"));
                }
            }
        }
        report
    }
}
