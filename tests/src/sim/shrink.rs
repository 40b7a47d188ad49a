//! Makes a failing scenario smaller: takes steps out as long as the same rule fails.

use super::mistake::Mistake;
use super::run;
use super::scenario::Scenario;

/// Runs that one shrinking may cost.
const TRIES_MAX: usize = 2_000;

/// The smallest scenario that was found to fail the same rule.
#[must_use]
pub fn shrink(scenario: &Scenario, mistake: Option<Mistake>) -> Scenario {
    let mut best = scenario.clone();
    let Some(rule) = run(&best, mistake, false).violation.map(|violation| violation.rule) else { return best };
    let mut tries = 0;
    let mut len = best.steps.len().div_ceil(2);
    while len > 0 && tries < TRIES_MAX {
        let mut from = 0;
        let mut shorter = false;
        while from < best.steps.len() && tries < TRIES_MAX {
            let mut candidate = best.clone();
            candidate.steps.drain(from..(from + len).min(best.steps.len()));
            tries += 1;
            let same = run(&candidate, mistake, false).violation.is_some_and(|violation| violation.rule == rule);
            if same {
                best = candidate;
                shorter = true;
            } else {
                from += len;
            }
        }
        if len > 1 || !shorter {
            len /= 2;
        }
    }
    best
}
