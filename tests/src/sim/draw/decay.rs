//! Disks that spoil what lies on them: chunks of bodies, and whole engines.

use super::Draw;
use crate::sim::scenario::{Order, Step, Write};

impl Draw {
    /// Something is damaged, and is met by readers, by a baseline, or by the next start.
    pub(super) fn decay(&mut self) {
        let site = self.site();
        if self.random.chance(35) {
            self.episode(Step::DamageEngine(site), None);
            self.push(Step::Restart(site));
            return;
        }
        let mut keys = Vec::new();
        for _ in 0..self.random.between(1, 4) {
            self.at += self.random.between(3, 40);
            let (key, chunks) = (self.key(), self.random.between(1, 4) as u8);
            keys.push(key);
            self.write(Write::Put { key, chunks });
        }
        self.at += self.random.between(20, 300);
        self.push(Step::Order(self.home(), Order::Sync));
        self.at += self.random.between(30, 300);
        for _ in 0..self.random.between(1, 4) {
            self.push(Step::RotChunk(site));
        }
        if self.random.chance(20) {
            // It is met by a baseline, of which the mirror has an older one.
            return self.baseline();
        }
        for _ in 0..self.random.between(1, 6) {
            self.at += self.random.between(1, 60);
            let key = keys[self.random.below(keys.len() as u64) as usize];
            self.push(Step::Read { at: site, key });
            if self.random.chance(15) {
                let failing = self.site();
                self.episode(Step::Crash(failing), Some(Step::Restart(failing)));
            }
        }
    }
}
