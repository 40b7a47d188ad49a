//! Operations in few words, a register that is run by a script, and a judge that tries every order.

use std::time::Duration;

use lockstep_tests::history::search::{Budget, Finding, explain};
use lockstep_tests::history::{Action, Condition, Operation, Outcome, Place, State, Value};

/// An operation from one millisecond to another.
pub(super) fn op(client: u64, began: u64, ended: u64, action: Action, outcome: Outcome) -> Operation {
    let (began, ended) = (Duration::from_millis(began), Duration::from_millis(ended));
    Operation { client, action, outcome, began, ended, place: None, local: false, note: String::new() }
}

pub(super) fn put(client: u64, began: u64, ended: u64, value: Value) -> Operation {
    op(client, began, ended, Action::Put { value, when: Condition::Always }, Outcome::Done)
}

pub(super) fn create(client: u64, began: u64, ended: u64, value: Value) -> Operation {
    op(client, began, ended, Action::Put { value, when: Condition::Absent }, Outcome::Done)
}

pub(super) fn swap(client: u64, began: u64, ended: u64, from: Value, to: Value) -> Operation {
    op(client, began, ended, Action::Put { value: to, when: Condition::Is(from) }, Outcome::Done)
}

pub(super) fn delete(client: u64, began: u64, ended: u64) -> Operation {
    op(client, began, ended, Action::Delete, Outcome::Done)
}

pub(super) fn get(client: u64, began: u64, ended: u64, found: State) -> Operation {
    op(client, began, ended, Action::Get, Outcome::Read(found))
}

/// The same with another answer.
pub(super) fn told(outcome: Outcome, operation: Operation) -> Operation {
    Operation { outcome, ..operation }
}

/// The same, acknowledged from this place in the log.
pub(super) fn at(promotes: u64, seq: u64, operation: Operation) -> Operation {
    Operation { place: Some(Place { promotes, seq }), ..operation }
}

pub(super) fn verdict(operations: &[Operation]) -> Finding {
    explain(operations, Budget::WHOLE)
}

/// What the register does with an action, and what it answers.
fn apply(action: Action, state: &mut State) -> Outcome {
    match action {
        Action::Get => return Outcome::Read(*state),
        Action::Delete => *state = None,
        Action::Put { value, when } => match (when, *state) {
            (Condition::Absent, Some(_)) => return Outcome::Failed,
            (Condition::Is(_), None) => return Outcome::Missing,
            (Condition::Is(needed), Some(found)) if needed != found => return Outcome::Failed,
            _ => *state = Some(value),
        },
    }
    Outcome::Done
}

struct Pending {
    began: u64,
    action: Action,
    answer: Option<Outcome>,
}

/// Runs a register: each word of the script lets one of the clients begin, take effect, be answered, be refused or be left
/// without an answer; what is left may take effect later. Every history that comes of it is linearizable.
pub(super) fn run(script: &[u32], clients: u64) -> Vec<Operation> {
    let (mut state, mut values) = (None, 0);
    let mut pending: Vec<Option<Pending>> = (0..clients).map(|_| None).collect();
    let (mut left, mut done) = (Vec::new(), Vec::new());
    let mut now = 0;
    for word in script {
        now += 1;
        let (client, choice) = (u64::from(word % clients as u32), word / clients as u32);
        if choice % 11 == 0 && !left.is_empty() {
            let action = left.swap_remove(choice as usize / 11 % left.len());
            apply(action, &mut state);
        }
        let slot = &mut pending[client as usize];
        let Some(at) = slot else {
            let action = draw(choice, &mut values);
            *slot = Some(Pending { began: now, action, answer: None });
            continue;
        };
        let Pending { began, action, answer } = *at;
        match (answer, choice % 23) {
            (Some(outcome), 2..) => done.push(op(client, began, now, action, outcome)),
            (Some(_), _) => done.push(op(client, began, now, action, Outcome::Unknown)),
            (None, 0) => done.push(op(client, began, now, action, Outcome::Refused)),
            (None, 1) => {
                done.push(op(client, began, now, action, Outcome::Unknown));
                left.push(action);
            }
            (None, _) => {
                at.answer = Some(apply(action, &mut state));
                continue;
            }
        }
        *slot = None;
    }
    for (client, pending) in pending.into_iter().enumerate() {
        let Some(Pending { began, action, answer }) = pending else { continue };
        done.push(op(client as u64, began, now + 1, action, answer.unwrap_or(Outcome::Unknown)));
    }
    done
}

fn draw(choice: u32, values: &mut Value) -> Action {
    let kind = choice % 10;
    if kind < 4 {
        return Action::Get;
    }
    if kind == 4 {
        return Action::Delete;
    }
    *values += 1;
    let value = *values;
    // One of the last three values, which may be there or not.
    let earlier = value.saturating_sub(1 + u64::from(choice / 10 % 3)).max(1);
    let when = match kind {
        5 | 6 => Condition::Always,
        7 => Condition::Absent,
        _ if earlier < value => Condition::Is(earlier),
        _ => Condition::Always,
    };
    Action::Put { value, when }
}

/// Tries every order of the operations, with and without each one that has no answer. Only for a few.
pub(super) fn every_order(operations: &[Operation]) -> bool {
    let counts =
        |o: &&Operation| o.outcome != Outcome::Refused && !(o.outcome == Outcome::Unknown && o.action == Action::Get);
    let left: Vec<Operation> = operations.iter().filter(counts).cloned().collect();
    orders(&left, None)
}

fn orders(left: &[Operation], state: State) -> bool {
    if left.iter().all(|o| o.outcome == Outcome::Unknown) {
        return true;
    }
    (0..left.len()).any(|index| {
        let first = &left[index];
        let late = left.iter().any(|o| o.outcome != Outcome::Unknown && o.ended < first.began);
        let mut rest = left.to_vec();
        rest.remove(index);
        let mut then = state;
        let answer = apply(first.action, &mut then);
        let fits = if first.outcome == Outcome::Unknown { answer == Outcome::Done } else { answer == first.outcome };
        !late && fits && orders(&rest, then)
    })
}
