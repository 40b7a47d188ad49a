//! Is there an order of the operations on one key that explains every answer and in which none comes before one that had
//! ended when it began? The search of Wing and Gong, with the memory of Lowe: what has been tried, as the set of operations
//! in order and the state they leave, is not tried again. Called for whole histories and, by [`super::window`], for parts.
//!
//! Operations without an answer would double the search each. They need not: where an order exists, there is one in which
//! each of them that takes effect comes directly before an operation that it makes possible. For take the order with the
//! fewest of them, each as late as can be. One that is followed by an operation that would be possible without it is either
//! overwritten, and not needed, or it could come later. So they are tried only for an operation that is not possible as it
//! is. By the same token a read that is possible is put in order at once. And no value is written twice: where one is
//! overwritten that an answer still asks for, the search turns back.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::{Action, Condition, Operation, Outcome, State, Value};

/// Bounds of one search.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Situations remembered.
    pub situations: usize,
    /// Bytes that they may take.
    pub bytes: usize,
}

impl Budget {
    /// Enough for thousands of operations of some tens of clients; some seconds at most.
    pub const WHOLE: Self = Self { situations: 100_000, bytes: 256 << 20 };
    /// For the many searches that make a window smaller.
    pub const PART: Self = Self { situations: 20_000, bytes: 64 << 20 };
}

/// What a search came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// There is such an order.
    Explained,
    /// There is none.
    Contradiction,
    /// The budget is used up; at most so many operations were in order.
    Undecided { decided: usize },
}

/// What an operation needs to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Need {
    Any,
    Is(State),
    /// Something.
    Present,
    /// Something else.
    OtherThan(Value),
}

impl Need {
    fn named(self) -> Option<Value> {
        match self {
            Self::Any | Self::Present | Self::Is(None) => None,
            Self::Is(Some(value)) | Self::OtherThan(value) => Some(value),
        }
    }

    fn is_met(self, state: State) -> bool {
        match self {
            Self::Any => true,
            Self::Is(needed) => state == needed,
            Self::Present => state.is_some(),
            Self::OtherThan(value) => state.is_some_and(|found| found != value),
        }
    }
}

/// An operation as the search sees it.
#[derive(Debug, Clone, Copy)]
struct Step {
    began: Duration,
    ended: Duration,
    need: Need,
    /// What it leaves behind, where it changes anything.
    leaves: Option<State>,
}

impl Step {
    /// With an answer or without; none where it has no effect and says nothing.
    fn of(operation: &Operation) -> Option<Self> {
        let is_open = operation.outcome == Outcome::Unknown;
        let (need, leaves) = match (operation.action, operation.outcome) {
            (_, Outcome::Refused) | (Action::Get, Outcome::Unknown) => return None,
            (Action::Get, Outcome::Read(state)) => (Need::Is(state), None),
            (Action::Delete, Outcome::Done | Outcome::Unknown) => (Need::Any, Some(None)),
            (Action::Put { value, when }, Outcome::Done | Outcome::Unknown) => {
                let need = match when {
                    Condition::Always => Need::Any,
                    Condition::Absent => Need::Is(None),
                    Condition::Is(other) => Need::Is(Some(other)),
                };
                (need, Some(Some(value)))
            }
            (Action::Put { when: Condition::Absent, .. }, Outcome::Failed) => (Need::Present, None),
            (Action::Put { when: Condition::Is(other), .. }, Outcome::Failed) => (Need::OtherThan(other), None),
            (Action::Put { when: Condition::Is(_), .. }, Outcome::Missing) => (Need::Is(None), None),
            (action, outcome) => panic!("{outcome:?} is no answer to {action:?}"),
        };
        let ended = if is_open { Duration::MAX } else { operation.ended };
        Some(Self { began: operation.began, ended, need, leaves })
    }

    fn kind(&self) -> Kind {
        (self.need, self.leaves.flatten().is_some())
    }
}

/// A set of indices.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn new(len: usize) -> Self {
        Self(vec![0; len.div_ceil(64)])
    }

    fn has(&self, index: usize) -> bool {
        self.0[index / 64] >> (index % 64) & 1 == 1
    }

    fn take(&mut self, index: usize) {
        self.0[index / 64] &= !(1 << (index % 64));
    }

    fn put(&mut self, index: usize) {
        self.0[index / 64] |= 1 << (index % 64);
    }

    /// Without the full words at its beginning and the empty ones at its end: what a memory keeps.
    fn middle(&self) -> (usize, Box<[u64]>) {
        let full = self.0.iter().take_while(|word| **word == u64::MAX).count();
        let empty = self.0[full..].iter().rev().take_while(|word| **word == 0).count();
        (full, self.0[full..self.0.len() - empty].into())
    }
}

/// Some operations are in order.
#[derive(Debug, Clone)]
struct Situation {
    /// Of those with an answer.
    done: Bits,
    /// All before are done.
    first: usize,
    count: usize,
    /// Of those without.
    used: Bits,
    state: State,
}

/// What tells one situation from another: the operations in order, of those without an answer the ones that matter, how
/// many of each kind are left of the others, and the state, of which a value that nobody will name is like any other.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Memory {
    done: (usize, Box<[u64]>),
    used: Box<[u64]>,
    left: Box<[(Kind, u32)]>,
    state: State,
    is_named: bool,
}

/// What one operation without an answer has in common with others that do as well: its need, and whether it leaves a value.
type Kind = (Need, bool);

/// Who names a value: operations with an answer, and without.
type Namers = (Vec<usize>, Vec<usize>);

struct Search {
    /// With an answer, by their beginnings.
    steps: Vec<Step>,
    /// Without, by their beginnings.
    open: Vec<Step>,
    /// Those that a value must be there for, or must not.
    namers: HashMap<Value, Namers>,
    /// Those with an answer that a value must be there for.
    readers: HashMap<Value, Vec<usize>>,
}

/// Searches an order that explains these operations on one key, which holds nothing before the first.
///
/// # Panics
/// On an outcome that is no answer to its action.
#[must_use]
pub fn explain(operations: &[Operation], budget: Budget) -> Finding {
    let steps = operations.iter().filter_map(Step::of);
    let (mut open, mut steps): (Vec<Step>, Vec<Step>) = steps.partition(|step| step.ended == Duration::MAX);
    steps.sort_by_key(|step| step.began);
    open.sort_by_key(|step| step.began);
    let mut search = Search { steps, open, namers: HashMap::new(), readers: HashMap::new() };
    for (index, step) in search.steps.iter().enumerate() {
        if let Some(value) = step.need.named() {
            search.namers.entry(value).or_default().0.push(index);
        }
        if let Need::Is(Some(value)) = step.need {
            search.readers.entry(value).or_default().push(index);
        }
    }
    for (index, step) in search.open.iter().enumerate() {
        if let Some(value) = step.need.named() {
            search.namers.entry(value).or_default().1.push(index);
        }
    }
    search.run(budget)
}

impl Search {
    fn run(&self, budget: Budget) -> Finding {
        let mut tried: HashSet<Memory> = HashSet::new();
        let (mut bytes, mut decided) = (0, 0);
        let mut waiting = vec![Situation {
            done: Bits::new(self.steps.len()),
            first: 0,
            count: 0,
            used: Bits::new(self.open.len()),
            state: None,
        }];
        while let Some(mut now) = waiting.pop() {
            self.read(&mut now);
            decided = decided.max(now.count);
            if now.count == self.steps.len() {
                return Finding::Explained;
            }
            let memory = self.memory(&now);
            let size = 8 * (memory.done.1.len() + memory.used.len() + 4 * memory.left.len()) + size_of::<Memory>();
            if !tried.insert(memory) {
                continue;
            }
            bytes += size;
            if tried.len() > budget.situations || bytes > budget.bytes {
                return Finding::Undecided { decided };
            }
            self.follow(&now, &mut waiting);
        }
        Finding::Contradiction
    }

    fn memory(&self, now: &Situation) -> Memory {
        let mut used = now.used.clone();
        let mut left: Vec<(Kind, u32)> = Vec::new();
        for (index, step) in self.open.iter().enumerate() {
            if self.is_named(now, step.leaves.flatten()) {
                continue;
            }
            let kind = step.kind();
            let add = u32::from(!used.has(index));
            used.take(index);
            match left.iter_mut().find(|(other, _)| *other == kind) {
                Some((_, count)) => *count += add,
                None => left.push((kind, add)),
            }
        }
        let is_named = self.is_named(now, now.state);
        let state = if is_named { now.state } else { now.state.map(|_| 0) };
        Memory { done: now.done.middle(), used: used.0.into(), left: left.into(), state, is_named }
    }

    /// Will anyone who is not in order yet name this value?
    fn is_named(&self, now: &Situation, state: State) -> bool {
        let Some((answered, open)) = state.and_then(|value| self.namers.get(&value)) else { return false };
        answered.iter().any(|index| !now.done.has(*index)) || open.iter().any(|index| !now.used.has(*index))
    }

    /// Those that may come next: begun before any that is not in order had ended. The earliest end first.
    fn next(&self, now: &Situation) -> (Vec<usize>, Duration) {
        let mut bound = Duration::MAX;
        let mut next = Vec::new();
        for (index, step) in self.steps.iter().enumerate().skip(now.first) {
            if step.began > bound {
                break;
            }
            if !now.done.has(index) {
                bound = bound.min(step.ended);
                next.push(index);
            }
        }
        next.retain(|index| self.steps[*index].began <= bound);
        next.sort_by_key(|index| self.steps[*index].ended);
        (next, bound)
    }

    fn finish(&self, now: &mut Situation, index: usize) {
        now.done.put(index);
        now.count += 1;
        if let Some(state) = self.steps[index].leaves {
            now.state = state;
        }
        while now.first < self.steps.len() && now.done.has(now.first) {
            now.first += 1;
        }
    }

    /// Puts every read in order that is possible now.
    fn read(&self, now: &mut Situation) {
        loop {
            let (next, _) = self.next(now);
            let possible = |index: &usize| {
                let step = self.steps[*index];
                step.leaves.is_none() && step.need.is_met(now.state)
            };
            let reads: Vec<usize> = next.into_iter().filter(possible).collect();
            if reads.is_empty() {
                return;
            }
            for index in reads {
                self.finish(now, index);
            }
        }
    }

    /// What may come of a situation by one more operation with an answer.
    fn follow(&self, now: &Situation, waiting: &mut Vec<Situation>) {
        let (next, bound) = self.next(now);
        for index in next.into_iter().rev() {
            let mut ways = Vec::new();
            if self.steps[index].need.is_met(now.state) {
                ways.push((now.used.clone(), now.state));
            } else {
                self.enable(self.steps[index].need, now, (&now.used, now.state), bound, &mut ways);
            }
            for (used, state) in ways {
                let mut then = Situation { used, state, ..now.clone() };
                self.finish(&mut then, index);
                if then.state == state || !self.is_missed(&then.done, state) {
                    waiting.push(then);
                }
            }
        }
    }

    /// Is there an answer, not in order yet, that asks for what is overwritten here? It never comes back.
    fn is_missed(&self, done: &Bits, overwritten: State) -> bool {
        let readers = overwritten.and_then(|value| self.readers.get(&value));
        readers.is_some_and(|readers| readers.iter().any(|index| !done.has(*index)))
    }

    /// Ways to meet a need that is not met, by operations without an answer, each possible only by the one before it.
    fn enable(
        &self,
        need: Need,
        now: &Situation,
        (used, state): (&Bits, State),
        bound: Duration,
        ways: &mut Vec<(Bits, State)>,
    ) {
        let mut alike: Vec<Kind> = Vec::new();
        for (index, step) in self.open.iter().enumerate().take_while(|(_, step)| step.began <= bound) {
            let Some(leaves) = step.leaves.filter(|leaves| need.is_met(*leaves)) else { continue };
            if used.has(index) {
                continue;
            }
            if !self.is_named(now, leaves) {
                // Nobody names what it writes, so any other of its kind does as well.
                let kind = step.kind();
                if alike.contains(&kind) {
                    continue;
                }
                alike.push(kind);
            }
            let mut used = used.clone();
            used.put(index);
            let mut before = Vec::new();
            if step.need.is_met(state) {
                before.push((used, state));
            } else {
                self.enable(step.need, now, (&used, state), bound, &mut before);
            }
            // What meets the need before it makes it needless.
            before.retain(|(_, state)| !need.is_met(*state) && !self.is_missed(&now.done, *state));
            ways.extend(before.into_iter().map(|(used, _)| (used, leaves)));
        }
    }
}
