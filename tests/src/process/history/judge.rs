//! What clients were told in a round, held against itself: keys, the set, and the order of the log.

use std::fmt::Write;
use std::time::Duration;

use crate::history::Operation;
use crate::history::loss::{Change, lost};
use crate::history::search::{Budget, Finding, explain};
use crate::history::set::{check_order, check_set};
use crate::process::clients::record::Record;
use crate::process::figures::Figures;

/// What clients were told, held against itself. The acknowledged writes that the operator gave up, a line each.
pub(super) fn what_was_told(figures: &mut Figures, record: &Record, changes: &[Change], accepted: &[Change]) -> String {
    figures.different.extend(record.wrong.iter().cloned());
    let mut given_up = Vec::new();
    let additions = record.additions.iter().filter(|o| changes.iter().any(|change| change.loses(o)));
    for (key, operation) in lost(&record.history, changes).into_iter().chain(additions.map(|o| ("set", o))) {
        if operation.local && accepted.iter().any(|change| change.loses(operation)) {
            given_up.push(format!("{key}  {operation}"));
        } else {
            figures
                .different
                .push(format!("{key}: acknowledged, and behind the end of the log of a later source: {operation}"));
        }
    }
    let report = record.history.check_with_losses(changes, Budget::WHOLE);
    figures.different.extend(report.violations.iter().map(ToString::to_string));
    figures.different.extend(report.undecided.iter().map(|what| format!("undecided: {what}")));
    figures.keys = report.explained;
    figures.different.extend(judge_set(record, changes));
    if !given_up.is_empty() {
        // The judgement can fail: this is what it says where nothing may be lost.
        let shown = |operations: &&Vec<Operation>| explain(operations, Budget::WHOLE) == Finding::Contradiction;
        let keys = record.history.keys.values().filter(shown).count();
        figures.remarks.push(format!("{keys} keys show the loss"));
    }
    figures.objects = record.additions.len() as u64;
    (figures.given_up, figures.changes) = (given_up.len() as u64, changes.len() as u64);
    figures.remarks.push(format!(
        "{} operations at {} keys, {} additions, {} listings, {} changes of the source, {} reads of a replica, broken {}, \
         given up {}",
        record.history.len(),
        record.history.keys.len(),
        record.additions.len(),
        record.listings.len(),
        changes.len(),
        record.replica_reads,
        record.counts.broken,
        given_up.len(),
    ));
    given_up.join("\n")
}

/// The set, and the order of the log, without what was lost.
fn judge_set(record: &Record, changes: &[Change]) -> Vec<String> {
    let is_kept = |operation: &&Operation| !changes.iter().any(|change| change.loses(operation));
    let kept: Vec<Operation> = record.additions.iter().filter(is_kept).cloned().collect();
    let lost_from = |change: &Change| {
        let all = record.additions.iter().chain(record.history.keys.values().flatten());
        all.filter(|operation| change.loses(operation)).map(|operation| operation.began).min()
    };
    let mut listings = record.listings.clone();
    for change in changes {
        let from = lost_from(change).unwrap_or(Duration::MAX);
        listings.retain(|listing| listing.ended <= from || listing.began >= change.at);
    }
    let mut wrong = check_set(&kept, &listings);
    let all = record.history.keys.values().flatten().chain(&record.additions);
    wrong.extend(check_order(all.filter(|operation| operation.is_acknowledged()).filter(is_kept)));
    wrong
}

/// Everything, for whoever looks for the cause.
pub(super) fn timeline(record: &Record) -> String {
    let mut text = String::new();
    let sets = record.additions.iter().map(|operation| ("set", operation));
    let keys = record.history.keys.iter().flat_map(|(key, all)| all.iter().map(|o| (key.as_str(), o)));
    let mut all: Vec<(&str, &Operation)> = keys.chain(sets).collect();
    all.sort_by_key(|(key, operation)| (*key, operation.began));
    for (key, operation) in all {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{key}  {operation}");
    }
    text
}
