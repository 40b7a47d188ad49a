//! How far the clocks of the two nodes are apart. Nothing is ordered by a clock, so it is only shown, and told when it is
//! more than people would look over (F36).
//!
//! The source says its time now and then, the destination answers with its own. What the answer took bounds the error. What
//! the source has found it says with the next question, so that both ends show the same.

use super::Context;
use super::log::Log;
use crate::event::{Connection, Now};
use crate::message::{Clock, Message};
use crate::note::{Note, Noted};

/// Time between two questions on a connection, in milliseconds.
const ASK_INTERVAL_MS: u64 = 5_000;
/// A skew that is told, in milliseconds. It is told to be over when it is a fifth less.
const SKEW_MAX_MS: u64 = 1_000;

/// What is known of the peer's clock.
#[derive(Debug, Default)]
pub(super) struct Skew {
    /// It minus this node's, and the error of that, in milliseconds.
    found: Option<Found>,
    /// When the source asked, by both of its clocks.
    asked: Option<Now>,
    next_ms: u64,
    apart: bool,
}

/// A skew that was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    ms: i64,
    error_ms: u64,
}

impl Skew {
    /// The peer's clock minus this node's, in milliseconds, as it was measured last.
    pub(super) fn ms(&self) -> Option<i64> {
        self.found.map(|found| found.ms)
    }

    /// The next connection asks at once.
    pub(super) fn ask_now(&mut self) {
        (self.asked, self.next_ms) = (None, 0);
    }

    /// Keeps what was found. What is to be told, where the clocks have come apart or together.
    fn keep(&mut self, found: Found) -> Option<Note> {
        self.found = Some(found);
        let far = found.ms.unsigned_abs();
        let apart =
            if self.apart { far > SKEW_MAX_MS / 5 * 4 } else { far > SKEW_MAX_MS.saturating_add(found.error_ms) };
        if apart == self.apart {
            return None;
        }
        self.apart = apart;
        let what = if apart { Noted::ClocksApart } else { Noted::ClocksClose };
        Some(Note { skew_ms: Some(found.ms), ..Note::new(what) })
    }

    /// The peer's answer, which may be one to an earlier question.
    fn answered(&mut self, sent_ms: u64, clock_ms: u64, now: Now) -> Option<Found> {
        let asked = self.asked.take_if(|asked| asked.wall_ms == sent_ms)?;
        let took_ms = now.mono_ms.saturating_sub(asked.mono_ms);
        let middle = sent_ms.saturating_add(took_ms / 2);
        let ms = i64::try_from(i128::from(clock_ms) - i128::from(middle)).unwrap_or(i64::MAX);
        Some(Found { ms, error_ms: took_ms.div_ceil(2) })
    }
}

impl Log {
    /// The source asks, where it is time.
    pub(super) fn ask_clock(&mut self, cx: &mut Context) {
        let now = cx.now;
        let Some(connection) = self.stream().and_then(|stream| stream.up()) else { return };
        if now.mono_ms < self.skew.next_ms {
            return;
        }
        self.skew.next_ms = now.mono_ms + ASK_INTERVAL_MS;
        self.skew.asked = Some(now);
        let (skew_ms, error_ms) = self.skew.found.map_or((None, 0), |found| (Some(found.ms), found.error_ms));
        self.send(connection, Message::Clock(Clock { sent_ms: now.wall_ms, skew_ms, error_ms }), cx);
    }

    /// The destination is asked, and told what the source has found.
    pub(super) fn answer_clock(&mut self, connection: Connection, clock: Clock, cx: &mut Context) {
        let echo = Message::ClockEcho { sent_ms: clock.sent_ms, clock_ms: cx.now.wall_ms };
        self.send(connection, echo, cx);
        if let Some(ms) = clock.skew_ms {
            let found = Found { ms: ms.saturating_neg(), error_ms: clock.error_ms };
            self.keep_skew(found, cx);
        }
    }

    /// The destination has answered.
    pub(super) fn clock_answered(&mut self, sent_ms: u64, clock_ms: u64, cx: &mut Context) {
        if let Some(found) = self.skew.answered(sent_ms, clock_ms, cx.now) {
            self.keep_skew(found, cx);
        }
    }

    fn keep_skew(&mut self, found: Found, cx: &mut Context) {
        if let Some(note) = self.skew.keep(found) {
            self.note(note, cx);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn what(skew: &mut Skew, ms: i64, error_ms: u64) -> Option<Noted> {
        skew.keep(Found { ms, error_ms }).map(|note| note.what)
    }

    #[test]
    fn an_answer_is_halfway_between_question_and_receipt() {
        let mut skew = Skew { asked: Some(Now { mono_ms: 100, wall_ms: 5_000 }), ..Skew::default() };
        assert_eq!(skew.answered(4_999, 9_000, Now { mono_ms: 140, wall_ms: 0 }), None, "of an earlier question");
        let found = skew.answered(5_000, 3_020, Now { mono_ms: 141, wall_ms: 0 });
        assert_eq!(found, Some(Found { ms: -2_000, error_ms: 21 }));
        assert_eq!(skew.answered(5_000, 3_020, Now::default()), None, "it counts once");
    }

    #[test]
    fn clocks_that_are_surely_apart_are_told_once_and_once_when_they_are_not() {
        let mut skew = Skew::default();
        assert_eq!(what(&mut skew, 1_400, 500), None, "it may be less than a second");
        assert_eq!(what(&mut skew, -1_501, 500), Some(Noted::ClocksApart));
        for ms in [1_501, -1_100, 801, -1_000_000] {
            assert_eq!(what(&mut skew, ms, 0), None, "{ms}");
        }
        assert_eq!(what(&mut skew, 800, 0), Some(Noted::ClocksClose));
        assert_eq!(what(&mut skew, i64::MIN, u64::MAX), None);
        assert_eq!(skew.ms(), Some(i64::MIN));
    }
}
