//! Each violation that a store can commit, planted, beside the nearest history that is right.

use lockstep_tests::history::loss::{Change, lost};
use lockstep_tests::history::search::{Budget, Finding};
use lockstep_tests::history::{History, Operation, Outcome};

use super::bed::{at, create, delete, get, put, run, swap, told, verdict};

fn of(operations: &[Operation]) -> History {
    History { keys: [("key".to_owned(), operations.to_vec())].into() }
}

fn wrong(operations: &[Operation]) -> String {
    assert_eq!(verdict(operations), Finding::Contradiction, "{operations:#?}");
    let report = of(operations).check(Budget::WHOLE);
    assert_eq!((report.explained, report.undecided.len(), report.violations.len()), (0, 0, 1));
    report.violations[0].to_string()
}

fn right(operations: &[Operation]) {
    assert_eq!(verdict(operations), Finding::Explained, "{operations:#?}");
}

#[test]
fn a_lost_update() {
    wrong(&[put(1, 0, 1, 1), put(2, 2, 3, 2), get(1, 4, 5, Some(1))]);
    wrong(&[put(1, 0, 1, 1), get(1, 2, 3, None)]);
    right(&[put(1, 0, 2, 1), put(2, 1, 3, 2), get(1, 4, 5, Some(1))]);
}

#[test]
fn a_stale_read() {
    // What one reader has seen no later one may miss, though the write is still under way.
    wrong(&[put(1, 0, 1, 1), put(2, 2, 9, 2), get(3, 3, 4, Some(2)), get(4, 5, 6, Some(1))]);
    right(&[put(1, 0, 1, 1), put(2, 2, 9, 2), get(3, 3, 5, Some(2)), get(4, 4, 6, Some(1))]);
    // Neither may it where the write never had an answer.
    wrong(&[put(1, 0, 1, 1), told(Outcome::Unknown, put(2, 2, 3, 2)), get(3, 4, 5, Some(2)), get(4, 6, 7, Some(1))]);
    right(&[put(1, 0, 1, 1), told(Outcome::Unknown, put(2, 2, 3, 2)), get(3, 4, 5, Some(1)), get(4, 6, 7, Some(2))]);
}

#[test]
fn a_value_that_nobody_wrote() {
    let shown = wrong(&[put(1, 0, 1, 1), get(2, 2, 3, Some(7))]);
    assert!(shown.contains("v7 is read, and nobody wrote it"), "{shown}");
}

#[test]
fn a_read_before_its_write() {
    let shown = wrong(&[get(1, 0, 1, Some(1)), put(2, 2, 3, 1)]);
    assert!(shown.contains("v1 is read before its write began") && shown.contains("put v1"), "{shown}");
    wrong(&[get(1, 0, 1, Some(1)), told(Outcome::Unknown, put(2, 2, 3, 1))]);
    right(&[get(1, 0, 2, Some(1)), put(2, 1, 3, 1)]);
}

#[test]
fn a_deleted_value_that_comes_back() {
    wrong(&[put(1, 0, 1, 1), delete(2, 2, 3), get(1, 4, 5, Some(1))]);
    wrong(&[put(1, 0, 1, 1), delete(2, 2, 3), get(1, 4, 5, None), get(1, 6, 7, Some(1))]);
    right(&[put(1, 0, 1, 1), told(Outcome::Unknown, delete(2, 2, 3)), get(1, 4, 5, Some(1)), get(1, 6, 7, None)]);
    wrong(&[put(1, 0, 1, 1), told(Outcome::Unknown, delete(2, 2, 3)), get(1, 4, 5, None), get(1, 6, 7, Some(1))]);
}

#[test]
fn a_refused_write_that_took_effect() {
    let shown = wrong(&[put(1, 0, 1, 1), told(Outcome::Refused, put(2, 2, 3, 2)), get(1, 4, 5, Some(2))]);
    assert!(shown.contains("v2 is read, and its write was refused") && shown.contains("put v2 -> refused"), "{shown}");
    wrong(&[put(1, 0, 1, 1), told(Outcome::Refused, delete(2, 2, 3)), get(1, 4, 5, None)]);
    right(&[put(1, 0, 1, 1), told(Outcome::Refused, put(2, 2, 3, 2)), get(1, 4, 5, Some(1))]);
}

#[test]
fn a_write_whose_condition_failed_and_that_took_effect() {
    let shown = wrong(&[put(1, 0, 1, 1), told(Outcome::Failed, create(2, 2, 3, 2)), get(1, 4, 5, Some(2))]);
    assert!(shown.contains("its condition did not hold"), "{shown}");
}

#[test]
fn two_creators_that_both_win() {
    wrong(&[create(1, 0, 9, 1), create(2, 0, 9, 2)]);
    right(&[create(1, 0, 9, 1), told(Outcome::Failed, create(2, 0, 9, 2))]);
    right(&[create(1, 0, 9, 1), delete(3, 0, 9), create(2, 0, 9, 2)]);
    right(&[create(1, 0, 9, 1), told(Outcome::Unknown, delete(3, 0, 1)), create(2, 2, 9, 2)]);
}

#[test]
fn two_swaps_from_one_value() {
    wrong(&[put(1, 0, 1, 1), swap(2, 2, 9, 1, 2), swap(3, 2, 9, 1, 3)]);
    right(&[put(1, 0, 1, 1), swap(2, 2, 9, 1, 2), told(Outcome::Failed, swap(3, 2, 9, 1, 3))]);
}

#[test]
fn conditions_that_fail_without_a_cause() {
    wrong(&[told(Outcome::Failed, create(1, 0, 1, 1))]);
    wrong(&[put(1, 0, 1, 1), told(Outcome::Failed, swap(2, 2, 3, 1, 2))]);
    wrong(&[put(1, 0, 1, 1), told(Outcome::Missing, swap(2, 2, 3, 1, 2))]);
    right(&[told(Outcome::Missing, swap(2, 2, 3, 1, 2))]);
    // A write without an answer is a cause, also one that nobody ever reads.
    right(&[told(Outcome::Unknown, put(1, 0, 1, 1)), told(Outcome::Failed, create(2, 2, 3, 2))]);
    let chain = [told(Outcome::Unknown, put(1, 0, 1, 1)), told(Outcome::Unknown, swap(2, 0, 1, 1, 2))];
    right(&[chain[0].clone(), chain[1].clone(), get(3, 2, 3, Some(2))]);
    wrong(&[chain[1].clone(), get(3, 2, 3, Some(2))]);
    wrong(&[chain[0].clone(), chain[1].clone(), get(3, 2, 3, Some(2)), get(3, 4, 5, Some(1))]);
}

#[test]
fn a_write_without_an_answer_takes_effect_once() {
    let unknown = told(Outcome::Unknown, put(1, 0, 1, 1));
    wrong(&[unknown.clone(), get(2, 2, 3, Some(1)), delete(3, 4, 5), get(2, 6, 7, Some(1))]);
    right(&[unknown, get(2, 2, 3, None), delete(3, 4, 5), get(2, 6, 7, Some(1))]);
}

/// A script of a few hundred operations by eight clients.
fn long() -> Vec<Operation> {
    let mut word = 1_u32;
    let mut draw = || {
        word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        word >> 8
    };
    run(&(0..3000).map(|_| draw()).collect::<Vec<_>>(), 8)
}

#[test]
fn the_window_of_a_long_history_is_small() {
    let mut operations = long();
    assert!(operations.len() > 800);
    right(&operations);
    operations.push(put(9, 10_000, 10_001, 9001));
    operations.push(put(9, 10_002, 10_003, 9002));
    operations.push(get(9, 10_004, 10_005, Some(9001)));
    operations.push(get(9, 10_006, 10_007, Some(9002)));
    let window = of(&operations).check(Budget::WHOLE).violations.remove(0);
    let clients: Vec<u64> = window.operations.iter().map(|operation| operation.client).collect();
    assert_eq!(clients, [9, 9, 9], "{window}");
    assert!(window.others > 300, "{window}");
}

#[test]
fn a_search_that_gives_up_says_so() {
    let budget = Budget { situations: 3, bytes: 1 << 20 };
    let report = of(&long()).check(budget);
    assert_eq!((report.explained, report.undecided.len(), report.violations.len()), (0, 1, 0));
}

#[test]
fn what_an_operator_gave_up_may_be_lost_and_nothing_else() {
    let change = Change { at: std::time::Duration::from_millis(10), promotes: 1, last_seq: 4 };
    let local = |seq, operation| Operation { local: true, ..at(0, seq, operation) };
    let before = [at(0, 4, put(1, 0, 1, 1)), local(5, put(2, 2, 3, 2)), get(3, 4, 5, Some(2))];
    let mut history = of(&before);
    history.push("key", get(3, 12, 13, Some(1)));
    assert_eq!(history.check(Budget::WHOLE).violations.len(), 1);
    assert_eq!(lost(&history, &[change]).len(), 1);
    assert!(history.check_with_losses(&[change], Budget::WHOLE).violations.is_empty());

    // The lost value does not come back.
    let mut back = history.clone();
    back.push("key", get(3, 14, 15, Some(2)));
    assert_eq!(back.check_with_losses(&[change], Budget::WHOLE).violations.len(), 1);
    // What happened before the loss is judged as it was then.
    let mut stale = history.clone();
    stale.push("key", get(4, 6, 7, Some(1)));
    assert_eq!(stale.check_with_losses(&[change], Budget::WHOLE).violations.len(), 1);
    // What the new source has is not lost.
    history.push("key", get(3, 16, 17, None));
    assert_eq!(history.check_with_losses(&[change], Budget::WHOLE).violations.len(), 1);
}
