//! Many seeds on several threads. Each seed is a run of its own, so what a set of seeds finds does not depend on how many
//! threads share it: the lowest failing seed is the one that is reported.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::coverage::Coverage;
use super::mistake::Mistake;
use super::model::Violation;
use super::{draw, run};

/// Seeds to run.
#[derive(Debug, Clone, Copy)]
pub struct Campaign {
    /// The first.
    pub from: u64,
    /// How many.
    pub count: u64,
    /// Threads that share them.
    pub threads: usize,
    /// The mistake that is planted in each run.
    pub mistake: Option<Mistake>,
    /// Run the seeds behind one that failed too.
    pub all: bool,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Found {
    /// The seeds that broke a rule, lowest first. Those below the first are clean.
    pub failed: Vec<(u64, Violation)>,
    /// Seeds that ran to their end.
    pub clean: u64,
    /// Things that happened in all.
    pub events: u64,
    /// Writes that clients were answered for.
    pub answers: u64,
    /// What all runs together have met.
    pub seen: Coverage,
    /// Seconds that it took.
    pub seconds: f64,
}

impl Found {
    /// Seeds a minute.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.clean as f64 / self.seconds.max(0.001) * 60.0
    }
}

impl Campaign {
    /// Runs until all seeds are done or one breaks a rule.
    #[must_use]
    pub fn run(&self) -> Found {
        let began = Instant::now();
        let next = AtomicU64::new(self.from);
        let end = AtomicU64::new(self.from + self.count);
        let found = Mutex::new(Found::default());
        std::thread::scope(|scope| {
            for _ in 0..self.threads.max(1) {
                scope.spawn(|| self.work(&next, &end, &found));
            }
        });
        let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.failed.sort_by_key(|(seed, _)| *seed);
        found.seconds = began.elapsed().as_secs_f64();
        found
    }

    fn work(&self, next: &AtomicU64, end: &AtomicU64, found: &Mutex<Found>) {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end.load(Ordering::Relaxed) {
                return;
            }
            let outcome = run(&draw::scenario(seed), self.mistake, false);
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            found.events += outcome.events;
            found.answers += outcome.answers;
            found.seen.add(&outcome.seen);
            let Some(violation) = outcome.violation else {
                found.clean += 1;
                continue;
            };
            // Seeds above it need not run any more; one below it that another thread is at may still fail.
            if !self.all {
                end.fetch_min(seed, Ordering::Relaxed);
            }
            found.failed.push((seed, violation));
        }
    }
}

/// A first seed that nobody chose, so that every set of seeds is a new one.
#[must_use]
pub fn fresh_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_millis() as u64) << 16
}
