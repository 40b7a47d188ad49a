//! What a round found: counts, times, and everything that is not as it must be.

use std::time::Duration;

use lockstep_gateway::demo::audit::Audit;
use lockstep_gateway::demo::ledger::Counts;

/// What a round found.
#[derive(Debug, Default)]
pub struct Figures {
    /// What clients were told.
    pub counts: Counts,
    /// Objects listed and read in the last audit.
    pub objects: u64,
    /// Keys that were as they must be in the last audit, the deleted ones too.
    pub keys: u64,
    /// Keys whose last operation had no answer, in all audits.
    pub unanswered: u64,
    /// Of these, keys that show its effect.
    pub done_unanswered: u64,
    /// Acknowledged writes that an operator gave up.
    pub given_up: u64,
    /// Writes that deposed sources set aside: those that were given up, and those that nobody was answered for.
    pub set_aside: u64,
    /// Changes of the source.
    pub changes: u64,
    /// Names and values of what was timed.
    pub times: Vec<(&'static str, Duration)>,
    /// What else is worth a column.
    pub remarks: Vec<String>,
    /// Everything that differs from what clients were told, or between the sites, in a sentence each.
    pub different: Vec<String>,
}

impl Figures {
    /// Takes an audit of a site in.
    pub fn add(&mut self, site: &str, audit: Audit) {
        self.objects = audit.objects;
        self.keys = audit.equal;
        self.unanswered += audit.unanswered;
        self.done_unanswered += audit.done_unanswered;
        self.different.extend(audit.different.into_iter().map(|what| format!("{site}: {what}")));
    }

    /// Notes something that must hold.
    pub fn check(&mut self, holds: bool, sentence: impl Into<String>) {
        if !holds {
            self.different.push(sentence.into());
        }
    }

    /// Notes how long something took.
    pub fn time(&mut self, what: &'static str, took: Duration) {
        self.times.push((what, took));
    }

    /// One line of a table.
    #[must_use]
    pub fn line(&self) -> String {
        let counts = &self.counts;
        let time = |(what, took): &(_, Duration)| format!("  {what} {:.0} ms", took.as_secs_f64() * 1000.0);
        let times = self.times.iter().map(time).collect::<Vec<_>>().concat();
        format!(
            "written {} ({} copies, {} multipart, {} MiB)  deleted {}  read back {} objects, {} keys  unanswered {} (done {})  \
             refused {} unknown {} local {}{times}  {}  lost or different {}",
            counts.writes,
            counts.copies,
            counts.multiparts,
            counts.bytes >> 20,
            counts.deletes,
            self.objects,
            self.keys,
            self.unanswered,
            self.done_unanswered,
            counts.refused,
            counts.unknown,
            counts.local,
            self.remarks.join(", "),
            self.different.len()
        )
    }
}

/// Median and largest.
#[must_use]
pub fn spread(mut times: Vec<Duration>) -> Option<(Duration, Duration)> {
    times.sort();
    Some((*times.get((times.len().checked_sub(1)?) / 2)?, *times.last()?))
}
