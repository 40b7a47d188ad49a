//! Request ids: 16 upper-case hex digits, never twice from one process, and hardly ever from two.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

/// Makes request ids.
#[derive(Debug)]
pub struct RequestIds {
    next: AtomicU64,
}

impl Default for RequestIds {
    fn default() -> Self {
        // The standard library's hash keys are random in every process.
        Self { next: AtomicU64::new(RandomState::new().hash_one("request ids")) }
    }
}

impl RequestIds {
    /// The next id.
    #[must_use]
    pub fn next(&self) -> String {
        format!("{:016X}", scatter(self.next.fetch_add(1, Ordering::Relaxed)))
    }
}

/// Spreads consecutive numbers over all 64 bits, one to one (the finalizer of splitmix64): neighbours do not look alike.
fn scatter(number: u64) -> u64 {
    let mixed = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_have_their_form_and_differ() {
        let ids = RequestIds::default();
        let seen: HashSet<String> = (0..10_000).map(|_| ids.next()).collect();
        assert_eq!(seen.len(), 10_000);
        assert!(
            seen.iter()
                .all(|id| id.len() == 16 && id.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b)))
        );
    }
}
