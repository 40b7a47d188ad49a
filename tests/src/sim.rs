//! The simulator: two or three nodes of the real core and the real storage, on simulated devices and links, under a virtual clock.
//! One seed decides everything: what clients do, what breaks and when, what a crash leaves. Every rule of the blueprint's
//! section 10 is checked as things happen; a seed that breaks one is a bug report.
//!
//! # Layout
//! - [`topology`]: who mirrors whom; [`scenario`]: what happens from outside, as text; [`draw`]: a scenario from a seed; [`shrink`]: a smaller one.
//! - [`world`]: virtual time, sites, links; [`site`], [`engines`], [`net`], [`client`]: what they are made of.
//! - [`model`] and [`image`]: the truth, and the rules.
//! - [`campaign`]: many seeds on several threads; [`report`]: what people are told of a run.
//! - [`mistake`]: mistakes made on purpose; [`coverage`]: what a set of runs has really met.

pub mod campaign;
pub mod client;
pub mod coverage;
mod describe;
pub mod draw;
mod engines;
pub mod image;
pub mod mistake;
pub mod model;
pub mod net;
pub mod random;
pub mod report;
pub mod scenario;
pub mod shrink;
pub mod site;
pub mod topology;
pub mod trace;
pub mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use self::coverage::Coverage;
use self::mistake::Mistake;
use self::model::Violation;
use self::scenario::Scenario;
use self::world::World;

/// How a run went.
#[derive(Debug)]
pub struct Outcome {
    /// The first rule that did not hold.
    pub violation: Option<Violation>,
    /// Everything that happened, in one number.
    pub hash: u64,
    /// How many things happened.
    pub events: u64,
    /// Writes that clients were answered for.
    pub answers: u64,
    /// Which of the states that a set of runs must meet it met.
    pub seen: Coverage,
    /// What happened, where it was asked for.
    pub lines: Vec<String>,
}

/// Runs a scenario.
#[must_use]
pub fn run(scenario: &Scenario, mistake: Option<Mistake>, keep_trace: bool) -> Outcome {
    let mut world = World::new(scenario, mistake, keep_trace);
    let ran = catch_unwind(AssertUnwindSafe(|| world.run()));
    let violation = match ran {
        Ok(checked) => checked.err(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("something");
            Some(Violation { rule: 7, what: format!("the code panicked: {text}") })
        }
    };
    Outcome {
        violation,
        hash: world.trace.hash(),
        events: world.trace.events(),
        answers: world.answers(),
        seen: world.seen.clone(),
        lines: world.trace.lines().to_vec(),
    }
}

/// Runs a scenario that somebody wrote down.
///
/// # Panics
/// When the text is no scenario, or a rule does not hold: with the rule and the last things that happened.
pub fn replay(text: &str) {
    let scenario: Scenario = text.parse().unwrap_or_else(|error| panic!("no scenario: {error}"));
    let outcome = run(&scenario, None, true);
    if let Some(violation) = outcome.violation {
        panic!("{}", report::failure(&scenario, &violation, &outcome.lines));
    }
}
