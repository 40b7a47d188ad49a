//! A set to which elements are only added, and listings of it: what was acknowledged is in every later listing, and what
//! was seen once stays. And the log as a whole: it has acknowledged writes in an order that their times allow.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Action, Operation, Outcome, Value};

/// The elements that a reader found, in one look.
#[derive(Debug, Clone)]
pub struct Listing {
    pub began: Duration,
    pub ended: Duration,
    pub elements: BTreeSet<Value>,
}

/// Holds listings against additions (puts of the elements). A sentence for everything that cannot be.
#[must_use]
pub fn check_set(additions: &[Operation], listings: &[Listing]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (number, listing) in listings.iter().enumerate() {
        let when = format!("the listing at {:.3} ms", listing.began.as_secs_f64() * 1000.0);
        let mut known = BTreeSet::new();
        for addition in additions {
            let Action::Put { value, .. } = addition.action else { continue };
            known.insert(value);
            let is_there = listing.elements.contains(&value);
            if addition.is_acknowledged() && addition.ended < listing.began && !is_there {
                wrong.push(format!("{when} lacks v{value}: {addition}"));
            }
            if is_there && addition.outcome == Outcome::Refused {
                wrong.push(format!("{when} has v{value}, which was refused: {addition}"));
            }
            if is_there && addition.began > listing.ended {
                wrong.push(format!("{when} has v{value}, which was added later: {addition}"));
            }
        }
        wrong.extend(
            listing.elements.difference(&known).map(|value| format!("{when} has v{value}, and nobody added it")),
        );
        for other in &listings[..number] {
            let (ours, theirs) = (&listing.elements, &other.elements);
            let other_when = other.began.as_secs_f64() * 1000.0;
            if other.ended < listing.began
                && let Some(value) = theirs.difference(ours).next()
            {
                wrong.push(format!("{when} lacks v{value}, which was seen at {other_when:.3} ms"));
            } else if listing.ended < other.began
                && let Some(value) = ours.difference(theirs).next()
            {
                wrong.push(format!("the listing at {other_when:.3} ms lacks v{value}, which was seen before"));
            } else if !ours.is_subset(theirs) && !theirs.is_subset(ours) {
                wrong.push(format!("{when} and the one at {other_when:.3} ms saw additions in different orders"));
            }
        }
    }
    wrong
}

/// Holds the order in which the log has acknowledged writes, none of them lost, against their times. A sentence for each
/// that ended before one began that the log has earlier, and for each place that two have.
#[must_use]
pub fn check_order<'a>(acknowledged: impl Iterator<Item = &'a Operation>) -> Vec<String> {
    let mut placed: Vec<_> = acknowledged.filter_map(|operation| Some((operation.place?, operation))).collect();
    placed.sort_by_key(|(place, operation)| (*place, operation.began));
    let mut wrong = Vec::new();
    let mut latest: Option<&Operation> = None;
    for (index, (place, operation)) in placed.iter().enumerate() {
        if index > 0 && placed[index - 1].0 == *place {
            wrong.push(format!("one place, two writes:\n  {}\n  {operation}", placed[index - 1].1));
        }
        match latest {
            Some(before) if before.began > operation.ended => {
                wrong.push(format!("the log has these the other way round:\n  {before}\n  {operation}"));
            }
            Some(before) if before.began >= operation.began => {}
            _ => latest = Some(operation),
        }
    }
    wrong
}
