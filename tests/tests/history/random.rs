//! Random histories: those of a real register are accepted; with one mutation the search says the same as a judge that tries
//! every order, and a mutation that no order can explain is found in long histories too.

use std::sync::atomic::{AtomicU64, Ordering};

use lockstep_tests::history::search::Finding;
use lockstep_tests::history::{Action, Operation, Outcome};
use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq};
use proptest::test_runner::{TestCaseResult, TestRunner};

use super::bed::{every_order, get, put, run, told, verdict};

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(ProptestConfig {
        cases,
        max_shrink_iters: 500,
        failure_persistence: None,
        ..ProptestConfig::default()
    })
}

#[test]
fn histories_of_a_register_are_explained() {
    let explained = |script: Vec<u32>| -> TestCaseResult {
        prop_assert_eq!(verdict(&run(&script, 8)), Finding::Explained);
        Ok(())
    };
    runner(200).run(&vec(any::<u32>(), 1..1500), explained).expect("explained");
}

/// Changes one answer, or the time of one operation. Not each one makes the history wrong.
fn mutate(operations: &mut [Operation], choice: u32) {
    let index = choice as usize % operations.len();
    let (end, choice) = (operations.iter().map(|o| o.ended).max(), choice / 64);
    let operation = &mut operations[index];
    let other = u64::from(choice % 5);
    operation.outcome = match (operation.action, operation.outcome) {
        (_, answered) if choice % 7 == 0 => {
            let length = operation.ended.saturating_sub(operation.began);
            operation.began = end.unwrap_or_default() * 2;
            operation.ended = operation.began + length;
            answered
        }
        (Action::Get, _) => Outcome::Read((other > 0).then_some(other)),
        (Action::Put { .. }, Outcome::Done) if choice % 3 == 0 => Outcome::Unknown,
        (_, Outcome::Done | Outcome::Unknown) => Outcome::Refused,
        (_, Outcome::Refused | Outcome::Failed | Outcome::Missing | Outcome::Read(_)) => Outcome::Done,
    };
}

#[test]
fn the_search_says_what_every_order_says() {
    let (right, wrong) = (AtomicU64::new(0), AtomicU64::new(0));
    let same = |(script, mutation): (Vec<u32>, u32)| -> TestCaseResult {
        let mut operations = run(&script, 4);
        operations.truncate(9);
        prop_assert_eq!(verdict(&operations) == Finding::Explained, every_order(&operations));
        mutate(&mut operations, mutation);
        let truth = every_order(&operations);
        if truth { &right } else { &wrong }.fetch_add(1, Ordering::Relaxed);
        prop_assert_eq!(verdict(&operations) == Finding::Explained, truth, "{:#?}", operations);
        Ok(())
    };
    runner(5000).run(&(vec(any::<u32>(), 4..28), any::<u32>()), same).expect("the same");
    let (right, wrong) = (right.into_inner(), wrong.into_inner());
    assert!(right > 1000 && wrong > 1000, "{right} are still right, {wrong} are wrong");
}

#[test]
fn what_no_order_explains_is_found_in_long_histories() {
    let found = |(script, mutation): (Vec<u32>, u32)| -> TestCaseResult {
        let mut operations = run(&script, 8);
        let end = script.len() as u64 + 2;
        match mutation % 3 {
            0 => operations.push(get(9, end, end + 1, Some(u64::MAX))),
            1 => {
                operations.push(put(9, end, end + 1, u64::MAX));
                operations.push(told(Outcome::Failed, super::bed::swap(9, end + 2, end + 3, u64::MAX, u64::MAX - 1)));
                // A write that is still open may come between: only where there is none is this wrong for certain.
                operations.retain(|o| o.outcome != Outcome::Unknown);
            }
            _ => {
                operations.push(put(9, end, end + 1, u64::MAX));
                operations.push(get(9, end + 2, end + 3, Some(u64::MAX)));
                operations.push(put(8, end + 4, end + 5, u64::MAX - 1));
                operations.push(get(9, end + 6, end + 7, Some(u64::MAX)));
            }
        }
        prop_assert!(verdict(&operations) == Finding::Contradiction);
        Ok(())
    };
    runner(60).run(&(vec(any::<u32>(), 100..600), any::<u32>()), found).expect("found");
}
