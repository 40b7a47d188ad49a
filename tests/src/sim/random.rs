//! The one source of chance: splitmix64, seeded. The same seed gives the same numbers on every machine.

/// A stream of numbers that looks random and is decided by its seed.
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The stream of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut random = Self { state: seed ^ 0x6c6f_636b_7374_6570 };
        // Neighbouring seeds differ in few bits: mixed once before the first draw.
        random.state = random.word();
        random
    }

    /// 64 bits.
    pub fn word(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 where there is none.
    pub fn below(&mut self, bound: u64) -> u64 {
        // Multiply and shift: no division, and the bias is far below anything a test could see.
        ((u128::from(self.word()) * u128::from(bound)) >> 64) as u64
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True with a chance of `percent` in a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of `choices`, by their weights.
    pub fn weighted<T: Copy>(&mut self, choices: &[(u64, T)]) -> T {
        let total = choices.iter().map(|(weight, _)| weight).sum();
        let mut drawn = self.below(total);
        for (weight, choice) in choices {
            if drawn < *weight {
                return *choice;
            }
            drawn -= weight;
        }
        choices[choices.len() - 1].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_every_number() {
        let draw = |seed| {
            let mut random = Random::new(seed);
            (random.word(), random.below(10), random.between(3, 4))
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7).0, draw(8).0);
        assert_eq!(Random::new(1).below(0), 0);
    }

    #[test]
    fn weights_are_respected() {
        let mut random = Random::new(1);
        let heavy = (0..1000).filter(|_| random.weighted(&[(9, true), (1, false)])).count();
        assert!((850..950).contains(&heavy), "{heavy}");
    }
}
