//! Two ends compare what they know of an origin's history: the common point follows from the two epoch tables and the two
//! last records (section 7 of the blueprint).

use lockstep_storage::id::{Epoch, NodeId, Position, Seq};
use lockstep_storage::superblock::{EPOCHS_MAX, EpochEntry};

/// What one end knows of a history.
#[derive(Debug, Clone, Copy)]
pub struct History<'a> {
    /// Its epochs, oldest first.
    pub epochs: &'a [EpochEntry],
    /// Its last record.
    pub last: Position,
}

/// How the destination's history stands to the source's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// The same records.
    Same,
    /// The destination lacks what comes after its last record; this is that record.
    Behind(Seq),
    /// The destination has more, in the source's own last epoch: the source adopts it.
    Ahead,
    /// Both have records after this one that the other has not.
    Diverged(Seq),
    /// The destination knows a higher epoch of another node: the source was deposed.
    Deposed(Epoch),
    /// They never had a record in common, or one of them has gone back in time.
    Unrelated,
}

impl History<'_> {
    /// The epoch that is written or accepted now.
    fn epoch(&self) -> Epoch {
        self.epochs.last().map(|e| e.epoch).unwrap_or_default()
    }

    /// The last seq of the epoch at `index`, of those that are here: an end may know of epochs whose records never came.
    fn end_of(&self, index: usize) -> Seq {
        self.epochs.get(index + 1).map_or(self.last.seq, |next| next.first.prev().min(self.last.seq))
    }

    /// The epoch that record `seq` must be of.
    #[must_use]
    pub fn epoch_at(&self, seq: Seq) -> Option<Epoch> {
        self.epochs.iter().rev().find(|e| e.first <= seq).map(|e| e.epoch)
    }
}

/// Highest counter of an epoch that is believed: above it no more could be made.
const COUNTER_MAX: u64 = u64::MAX >> 1;

/// What is wrong with a table of epochs that came from a peer; none where it could be one. It is stored as it is, so it must
/// not be longer than a superblock holds.
#[must_use]
pub fn fault_of(epochs: &[EpochEntry]) -> Option<String> {
    if epochs.len() > EPOCHS_MAX {
        return Some(format!("{} of them, at most {EPOCHS_MAX} are kept", epochs.len()));
    }
    let rises = |pair: &[EpochEntry]| pair[0].epoch < pair[1].epoch && pair[0].first <= pair[1].first;
    if !epochs.windows(2).all(rises) || epochs.first().is_some_and(|entry| entry.first == Seq::ZERO) {
        return Some("they do not rise".to_owned());
    }
    let last = epochs.last()?.epoch;
    (last.counter > COUNTER_MAX).then(|| format!("{last} is higher than any"))
}

/// Compares the source's history with the destination's. `source_node` is the node that writes the source's.
#[must_use]
pub fn relation(source: History<'_>, source_node: NodeId, destination: History<'_>) -> Relation {
    if destination.epochs.is_empty() && destination.last.seq == Seq::ZERO {
        return if source.last.seq == Seq::ZERO { Relation::Same } else { Relation::Behind(Seq::ZERO) };
    }
    if destination.epoch() > source.epoch() {
        let other = destination.epoch().node != source_node;
        return if other { Relation::Deposed(destination.epoch()) } else { Relation::Unrelated };
    }
    let common = source.epochs.iter().enumerate().rev().find_map(|(ours, entry)| {
        let theirs = destination.epochs.iter().position(|e| e == entry)?;
        Some((ours, theirs))
    });
    let Some((ours, theirs)) = common else { return Relation::Unrelated };
    let (source_end, destination_end) = (source.end_of(ours), destination.end_of(theirs));
    if theirs + 1 < destination.epochs.len() {
        return Relation::Diverged(source_end.min(destination_end));
    }
    if let Some(next) = source.epochs.get(ours + 1) {
        // It had more of this epoch than its log holds now: the end of the log is lost, and the destination has some of it.
        if destination_end > source.last.seq && destination_end < next.first {
            return Relation::Ahead;
        }
        return if destination_end <= source_end {
            Relation::Behind(destination_end)
        } else {
            Relation::Diverged(source_end)
        };
    }
    match destination_end.cmp(&source_end) {
        std::cmp::Ordering::Less => Relation::Behind(destination_end),
        std::cmp::Ordering::Greater => Relation::Ahead,
        std::cmp::Ordering::Equal if source.last.checksum == destination.last.checksum => Relation::Same,
        std::cmp::Ordering::Equal => Relation::Unrelated,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    fn entry(counter: u64, node: NodeId, first: u64) -> EpochEntry {
        EpochEntry { epoch: Epoch { counter, node }, first: Seq(first), parent: first.wrapping_mul(77) }
    }

    fn at(seq: u64) -> Position {
        Position { epoch: Epoch { counter: 1, node: A }, seq: Seq(seq), checksum: seq }
    }

    fn of(source: &[EpochEntry], last: u64, destination: &[EpochEntry], their_last: u64) -> Relation {
        let source = History { epochs: source, last: at(last) };
        relation(source, A, History { epochs: destination, last: at(their_last) })
    }

    #[test]
    fn every_outcome_of_a_hello() {
        let one = [entry(1, A, 1)];
        let two = [entry(1, A, 1), entry(2, A, 11)];
        assert_eq!(of(&one, 10, &[], 0), Relation::Behind(Seq(0)));
        assert_eq!(of(&one, 10, &one, 10), Relation::Same);
        assert_eq!(of(&one, 10, &one, 4), Relation::Behind(Seq(4)));
        assert_eq!(of(&one, 10, &one, 12), Relation::Ahead);
        assert_eq!(of(&two, 15, &one, 9), Relation::Behind(Seq(9)));
        assert_eq!(of(&two, 15, &one, 10), Relation::Behind(Seq(10)));
        assert_eq!(of(&two, 15, &one, 13), Relation::Diverged(Seq(10)));
        assert_eq!(of(&two, 7, &one, 9), Relation::Ahead, "the end of the source's log is lost");
        assert_eq!(of(&two, 7, &one, 10), Relation::Ahead);
        assert_eq!(of(&two, 7, &one, 7), Relation::Behind(Seq(7)));
        let ahead_of_its_records = [entry(1, A, 1), entry(2, A, 15)];
        assert_eq!(of(&two, 15, &ahead_of_its_records, 4), Relation::Diverged(Seq(4)), "it has no more than that");
        let promoted = [entry(1, A, 1), entry(2, B, 9)];
        let epoch = Epoch { counter: 2, node: B };
        assert_eq!(of(&one, 10, &promoted, 9), Relation::Deposed(epoch));
        assert_eq!(of(&[entry(5, A, 1)], 10, &one, 10), Relation::Unrelated);
        assert_eq!(of(&one, 10, &two, 15), Relation::Unrelated, "the source went back in time");
        let mut other = at(10);
        other.checksum = 99;
        let source = History { epochs: &one, last: at(10) };
        assert_eq!(relation(source, A, History { epochs: &one, last: other }), Relation::Unrelated);
    }

    #[test]
    fn a_table_that_no_history_makes_is_told_from_one_that_may_be() {
        assert_eq!(fault_of(&[]), None);
        assert_eq!(fault_of(&[entry(1, A, 1), entry(2, B, 1), entry(3, A, 9)]), None, "an epoch may have no record");
        let many: Vec<EpochEntry> = (1..=EPOCHS_MAX as u64).map(|counter| entry(counter, A, counter)).collect();
        assert_eq!(fault_of(&many), None);
        let one_more: Vec<EpochEntry> = many.iter().copied().chain([entry(99, A, 99)]).collect();
        for bad in [
            &one_more[..],
            &[entry(1, A, 0)],
            &[entry(2, A, 1), entry(1, A, 5)],
            &[entry(1, A, 1), entry(1, A, 5)],
            &[entry(1, A, 5), entry(2, A, 1)],
            &[entry(u64::MAX, A, 1)],
        ] {
            assert!(fault_of(bad).is_some(), "{bad:?}");
        }
    }

    #[test]
    fn a_record_belongs_to_the_epoch_that_its_seq_falls_in() {
        let two = [entry(1, A, 1), entry(2, A, 11)];
        let history = History { epochs: &two, last: at(15) };
        assert_eq!(history.epoch_at(Seq(10)), Some(two[0].epoch));
        assert_eq!(history.epoch_at(Seq(11)), Some(two[1].epoch));
        assert_eq!(history.epoch_at(Seq(0)), None);
    }
}
