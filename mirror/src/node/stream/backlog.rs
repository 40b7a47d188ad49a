//! How many bytes of records wait for the destination: what the operator is shown, and what the backlog's limit is held
//! against. Counted from marks that lie the farther apart the more there would be, so that a long backlog costs little memory.

use std::collections::VecDeque;

use lockstep_storage::id::Seq;

/// Most marks; when there are more, every second one goes.
const MARKS_MAX: usize = 4096;

/// Bytes of records from the first that waits to the last that was placed.
#[derive(Debug, Default)]
pub(in crate::node) struct Backlog {
    /// Of everything that was ever counted.
    total: u64,
    /// Of these, what does not wait any more.
    gone: u64,
    /// Seqs, and the total when they were placed.
    marks: VecDeque<(Seq, u64)>,
}

impl Backlog {
    /// The record here has its place, or all through it that a start has found.
    pub(in crate::node) fn placed(&mut self, through: Seq, bytes: u64) {
        self.total += bytes;
        self.marks.push_back((through, self.total));
        if self.marks.len() > MARKS_MAX {
            let mut keep = false;
            self.marks.retain(|mark| {
                keep = !keep;
                keep || mark.0 == through
            });
        }
    }

    /// Records through here do not wait any more.
    pub(in crate::node) fn pass(&mut self, through: Seq) {
        while let Some((_, total)) = self.marks.pop_front_if(|mark| mark.0 <= through) {
            self.gone = total;
        }
    }

    /// Bytes that wait.
    pub(in crate::node) fn bytes(&self) -> u64 {
        self.total - self.gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_passed_does_not_count() {
        let mut backlog = Backlog::default();
        backlog.placed(Seq(3), 300);
        backlog.placed(Seq(5), 20);
        assert_eq!(backlog.bytes(), 320);
        backlog.pass(Seq(4));
        assert_eq!(backlog.bytes(), 20);
        backlog.pass(Seq(9));
        assert_eq!(backlog.bytes(), 0);
    }

    #[test]
    fn a_long_one_is_counted_a_little_less_finely() {
        let mut backlog = Backlog::default();
        for seq in 1..=3 * MARKS_MAX as u64 {
            backlog.placed(Seq(seq), 10);
        }
        assert!(backlog.marks.len() <= MARKS_MAX);
        backlog.pass(Seq(MARKS_MAX as u64));
        let exact = 20 * MARKS_MAX as u64;
        assert!(backlog.bytes() >= exact && backlog.bytes() - exact <= 160, "{} of {exact}", backlog.bytes());
        backlog.pass(Seq(3 * MARKS_MAX as u64));
        assert_eq!(backlog.bytes(), 0, "the last one is exact");
    }
}
