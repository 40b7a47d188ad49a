//! A log device that is slow and does not fail: everything else waits for it, so its operator hears of it (F47).
//!
//! It is slow when no persist has come back in time for a while; it is steady again when none was late for a while. It has
//! stalled when one has not come back for long: then nobody is answered here.

use crate::note::{Note, Noted};
use crate::status::DeviceStatus;

/// So many times the bound all persists must be late before the device is called slow,
const SLOW_FOR: u64 = 3;
/// and so many none may be before it is called steady again. A persist that is under way for so long is a stall.
const STEADY_FOR: u64 = 10;

/// What persists took.
#[derive(Debug, Default)]
pub(super) struct Device {
    /// When the first of the late ones was asked for that no timely one came after, in milliseconds.
    late_since: Option<u64>,
    /// When one was late last.
    late_ms: u64,
    /// Since when it is called slow.
    slow_since: Option<u64>,
    /// The longest that one took since then.
    worst_ms: u64,
    /// Times that it was called slow.
    times: u64,
}

impl Device {
    /// A persist that was asked for then has come back, or has not yet.
    fn took(&mut self, asked_ms: u64, now_ms: u64, slow_ms: u64) {
        let took_ms = now_ms.saturating_sub(asked_ms);
        if took_ms >= slow_ms {
            if self.slow_since.is_none() && asked_ms.saturating_sub(self.late_ms) >= STEADY_FOR * slow_ms {
                // Nothing is known of the time between.
                (self.late_since, self.worst_ms) = (None, 0);
            }
            self.late_since.get_or_insert(asked_ms);
            self.late_ms = now_ms;
            self.worst_ms = self.worst_ms.max(took_ms);
        }
    }

    /// A persist has come back.
    pub(super) fn persisted(&mut self, asked_ms: u64, now_ms: u64, slow_ms: u64) {
        if now_ms.saturating_sub(asked_ms) < slow_ms {
            self.late_since = None;
            if self.slow_since.is_none() {
                self.worst_ms = 0;
            }
        }
        self.took(asked_ms, now_ms, slow_ms);
    }

    /// Time passes, while the oldest persist under way was asked for then. What is to be told.
    pub(super) fn tick(&mut self, oldest_ms: Option<u64>, now_ms: u64, slow_ms: u64) -> Option<Note> {
        if let Some(asked_ms) = oldest_ms {
            self.took(asked_ms, now_ms, slow_ms);
        }
        let late_for_ms = self.late_since.map_or(0, |since| self.late_ms.saturating_sub(since));
        match self.slow_since {
            None if late_for_ms >= SLOW_FOR * slow_ms => {
                self.slow_since = self.late_since;
                self.times += 1;
                let text = "persists of the NVRAM take long: writers wait for them";
                Some(Note::new(Noted::DeviceSlow).reason(text).ms(self.worst_ms))
            }
            Some(since) if now_ms.saturating_sub(self.late_ms) >= STEADY_FOR * slow_ms => {
                let worst_ms = std::mem::take(&mut self.worst_ms);
                (self.slow_since, self.late_since) = (None, None);
                let text = format!("the longest persist took {worst_ms} ms");
                Some(Note::new(Noted::DeviceSteady).reason(text).ms(now_ms.saturating_sub(since)))
            }
            _ => None,
        }
    }

    /// What an operator is shown.
    pub(super) fn show(&self, oldest_ms: Option<u64>, now_ms: u64, slow_ms: u64) -> DeviceStatus {
        let waits_ms = oldest_ms.map_or(0, |asked| now_ms.saturating_sub(asked));
        DeviceStatus {
            slow: self.slow_since.is_some(),
            slow_ms: self.slow_since.map_or(0, |since| now_ms.saturating_sub(since)),
            slow_times: self.times,
            worst_ms: if self.slow_since.is_some() { self.worst_ms } else { 0 },
            waits_ms,
            stalled: waits_ms >= STEADY_FOR * slow_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW_MS: u64 = 1_000;

    fn tick(device: &mut Device, oldest_ms: Option<u64>, now_ms: u64) -> Option<Noted> {
        device.tick(oldest_ms, now_ms, SLOW_MS).map(|note| note.what)
    }

    #[test]
    fn one_late_persist_is_no_slow_device() {
        let mut device = Device::default();
        assert_eq!(tick(&mut device, Some(0), 2_900), None);
        device.persisted(0, 2_950, SLOW_MS);
        device.persisted(2_950, 2_960, SLOW_MS);
        assert_eq!(tick(&mut device, None, 10_000), None);
        // Nor are two with nothing between them.
        for asked_ms in [20_000, 50_000] {
            device.persisted(asked_ms, asked_ms + 1_500, SLOW_MS);
            assert_eq!(tick(&mut device, None, asked_ms + 29_000), None);
        }
        assert_eq!(device.show(None, 80_000, SLOW_MS), DeviceStatus::default());
    }

    #[test]
    fn persists_that_are_late_for_a_while_are_told_once_and_once_when_they_are_not() {
        let mut device = Device::default();
        let mut said = Vec::new();
        for n in 0..10 {
            device.persisted(n * 1_200, n * 1_200 + 1_200, SLOW_MS);
            said.extend(tick(&mut device, None, n * 1_200 + 1_200));
        }
        assert_eq!(said, [Noted::DeviceSlow]);
        let shown = device.show(None, 12_000, SLOW_MS);
        assert_eq!((shown.slow, shown.slow_ms, shown.worst_ms, shown.stalled), (true, 12_000, 1_200, false));
        // One timely persist among late ones does not end it.
        device.persisted(12_000, 12_010, SLOW_MS);
        device.persisted(12_010, 13_500, SLOW_MS);
        assert_eq!(tick(&mut device, None, 23_499), None);
        assert_eq!(tick(&mut device, None, 23_500), Some(Noted::DeviceSteady));
        assert_eq!(tick(&mut device, None, 60_000), None);
        assert_eq!(device.show(None, 60_000, SLOW_MS).slow_times, 1);
    }

    #[test]
    fn a_persist_that_does_not_come_back_is_a_stall() {
        let mut device = Device::default();
        let said: Vec<_> = (0..200).filter_map(|n| tick(&mut device, Some(500), 500 + n * 50)).collect();
        assert_eq!(said, [Noted::DeviceSlow]);
        assert!(!device.show(Some(500), 10_499, SLOW_MS).stalled);
        assert!(device.show(Some(500), 10_500, SLOW_MS).stalled);
        assert_eq!(device.show(Some(500), 10_500, SLOW_MS).waits_ms, 10_000);
    }
}
