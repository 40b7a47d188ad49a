//! A link that comes and goes: how often, what is said of it, and how long writers are kept from waiting for it again.
//!
//! A link that was lost often enough within a window flaps. Then its changes are not told one by one any more, and each
//! further loss doubles how long it must stand before the stream may be in sync again (F16). It is steady when it was not
//! lost for a whole window: a link that is lost at even intervals is either flapping for good or never.

use std::collections::VecDeque;

use crate::plan::Limits;

/// Losses that are kept. More do not hold off longer.
const LOSSES_MAX: usize = 32;

/// The losses of an origin's link at one end.
#[derive(Debug, Default)]
pub(super) struct Flaps {
    /// When, oldest first; none older than the window.
    recent: VecDeque<u64>,
    flapping: bool,
    /// Since it flaps: losses, and changes that were not told.
    losses: u64,
    pub(super) untold: u64,
    /// Losses in this process.
    pub(super) total: u64,
}

impl Flaps {
    /// The link stood and is lost. How often within the window, where it flaps from here on.
    pub(super) fn lost(&mut self, limits: &Limits, now_ms: u64) -> Option<u64> {
        self.forget(limits, now_ms);
        self.recent.push_back(now_ms);
        if self.recent.len() > LOSSES_MAX {
            self.recent.pop_front();
        }
        self.total += 1;
        self.losses += 1;
        let many = self.recent.len() >= limits.flap_losses;
        if self.flapping || !many {
            return None;
        }
        self.flapping = true;
        self.losses = self.recent.len() as u64;
        self.untold = 0;
        Some(self.losses)
    }

    /// Time passes. Its losses while it flapped, where it is steady from here on.
    pub(super) fn tick(&mut self, limits: &Limits, now_ms: u64) -> Option<u64> {
        if !self.flapping {
            return None;
        }
        self.forget(limits, now_ms);
        if !self.recent.is_empty() {
            return None;
        }
        self.flapping = false;
        Some(self.losses)
    }

    pub(super) fn is_flapping(&self) -> bool {
        self.flapping
    }

    /// Losses within the window.
    pub(super) fn recent(&self) -> u64 {
        self.recent.len() as u64
    }

    /// How long the link must stand before writers wait for the mirror again, in milliseconds: nothing until it flaps, then
    /// twice as long with each loss within the window, up to a bound.
    pub(super) fn hold_off_ms(&self, limits: &Limits) -> u64 {
        match (self.flapping, self.recent.len().checked_sub(limits.flap_losses)) {
            (true, Some(more)) => (limits.hold_off_ms << more.min(16)).min(limits.hold_off_max_ms),
            (true, None) => limits.hold_off_ms,
            (false, _) => 0,
        }
    }

    fn forget(&mut self, limits: &Limits, now_ms: u64) {
        let window = limits.flap_window_ms;
        while self.recent.pop_front_if(|at| now_ms.saturating_sub(*at) >= window).is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        flap_losses: 4,
        flap_window_ms: 60_000,
        hold_off_ms: 1_000,
        hold_off_max_ms: 30_000,
        ..Limits::DEFAULT
    };

    /// What is said while a link is lost every `gap_ms`, `count` times, from `from_ms` on.
    fn lose(flaps: &mut Flaps, from_ms: u64, gap_ms: u64, count: u64) -> Vec<String> {
        let mut said = Vec::new();
        for n in 0..count {
            let now_ms = from_ms + n * gap_ms;
            said.extend(flaps.tick(&LIMITS, now_ms).map(|losses| format!("steady after {losses}")));
            said.extend(flaps.lost(&LIMITS, now_ms).map(|losses| format!("flapping after {losses}")));
        }
        said
    }

    #[test]
    fn a_link_that_is_lost_now_and_then_does_not_flap() {
        let mut flaps = Flaps::default();
        assert_eq!(lose(&mut flaps, 0, 20_001, 1_000), Vec::<String>::new());
        assert_eq!(flaps.hold_off_ms(&LIMITS), 0);
        assert_eq!(flaps.total, 1_000);
    }

    #[test]
    fn one_that_flaps_is_told_once_and_once_more_when_it_is_steady() {
        let mut flaps = Flaps::default();
        assert_eq!(lose(&mut flaps, 0, 19_000, 1_000), ["flapping after 4"]);
        let last = 999 * 19_000;
        assert_eq!(flaps.tick(&LIMITS, last + 59_999), None);
        assert_eq!(flaps.tick(&LIMITS, last + 60_000), Some(1_000));
        assert_eq!(flaps.tick(&LIMITS, last + 60_001), None);
        assert_eq!(flaps.hold_off_ms(&LIMITS), 0);
        assert_eq!(lose(&mut flaps, last + 100_000, 1, 4), ["flapping after 4"], "it counts anew");
    }

    #[test]
    fn each_loss_holds_off_longer_up_to_a_bound_and_never_longer_than_it_flaps() {
        let mut flaps = Flaps::default();
        let held: Vec<u64> = (0..10)
            .map(|n| {
                flaps.lost(&LIMITS, n * 100);
                flaps.hold_off_ms(&LIMITS)
            })
            .collect();
        assert_eq!(held, [0, 0, 0, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
        lose(&mut flaps, 1_000, 1, 1_000);
        assert!(flaps.recent.len() <= LOSSES_MAX, "what is kept is bounded");
        assert_eq!(flaps.hold_off_ms(&LIMITS), 30_000);
    }
}
