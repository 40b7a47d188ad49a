//! Additions to a set and the order of the log, with planted violations.

use std::time::Duration;

use lockstep_tests::history::Outcome;
use lockstep_tests::history::set::{Listing, check_order, check_set};

use super::bed::{at, put, told};

fn listing(began: u64, ended: u64, elements: &[u64]) -> Listing {
    let (began, ended) = (Duration::from_millis(began), Duration::from_millis(ended));
    Listing { began, ended, elements: elements.iter().copied().collect() }
}

#[test]
fn additions_stay() {
    let added = [put(1, 0, 2, 1), told(Outcome::Unknown, put(2, 0, 2, 2)), told(Outcome::Refused, put(3, 0, 2, 3))];
    let wrong = |listings: &[Listing]| check_set(&added, listings).join("\n");
    assert_eq!(wrong(&[listing(1, 2, &[]), listing(3, 4, &[1]), listing(5, 6, &[1, 2])]), "");
    assert!(wrong(&[listing(3, 4, &[2])]).contains("lacks v1"));
    assert!(wrong(&[listing(3, 4, &[1, 3])]).contains("refused"));
    assert!(wrong(&[listing(3, 4, &[1, 9])]).contains("nobody added"));
    assert!(wrong(&[listing(3, 4, &[1, 2]), listing(5, 6, &[1])]).contains("was seen"));
    assert!(wrong(&[listing(5, 6, &[1]), listing(3, 4, &[1, 2])]).contains("was seen before"));
    assert!(wrong(&[listing(1, 3, &[1]), listing(1, 3, &[2])]).contains("different orders"));
    assert!(check_set(&[put(1, 5, 6, 1)], &[listing(3, 4, &[1])]).join("").contains("added later"));
}

#[test]
fn the_log_has_writes_in_an_order_that_their_times_allow() {
    let right = [at(0, 1, put(1, 0, 5, 1)), at(0, 2, put(2, 1, 3, 2)), at(1, 1, put(1, 6, 7, 3))];
    assert!(check_order(right.iter()).is_empty());
    let turned = [at(0, 2, put(1, 0, 1, 1)), at(0, 1, put(2, 2, 3, 2))];
    assert!(check_order(turned.iter()).join("").contains("other way round"));
    let twice = [at(0, 1, put(1, 0, 5, 1)), at(0, 1, put(2, 1, 3, 2))];
    assert!(check_order(twice.iter()).join("").contains("one place"));
}
