//! What people are told of a run: a failure with the last things that happened, and a scenario as a test to paste.

use super::model::Violation;
use super::scenario::Scenario;

/// How to read a trace.
pub const LEGEND: &str = "\
# milliseconds, then what happened:   ==      a step of the scenario, or the power
#                                     X <- …  the core of site X hears of an event
#                                     X -> …  the core of site X asks for an effect
# Records are epoch/seq; `origin#n` is connection n of an origin's stream.";

/// Last lines of a trace that a failure shows.
const TAIL: usize = 50;

/// A rule that did not hold, with what led to it.
#[must_use]
pub fn failure(scenario: &Scenario, violation: &Violation, lines: &[String]) -> String {
    let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
    format!("{tail}\n\nrule {}: {}\n\n{scenario}", violation.rule, violation.what)
}

/// The scenario as the body of a named test.
#[must_use]
pub fn as_test(scenario: &Scenario) -> String {
    format!("    replay(\n        \"{}\",\n    );", scenario.to_string().trim_end().replace('\n', "\n         "))
}
