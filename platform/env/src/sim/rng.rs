//! Random numbers from a seed.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::Rng;

/// A seeded generator (SplitMix64, Steele et al. 2014): the same seed gives the same numbers, on every machine and in every version.
#[derive(Debug)]
pub struct SimRng {
    state: AtomicU64,
}

impl SimRng {
    /// The generator of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: AtomicU64::new(seed) }
    }

    /// A generator whose numbers have nothing to do with the rest of this one's.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self::new(self.next_u64())
    }

    /// A number in `0..end`; 0 where `end` is 0.
    #[must_use]
    pub fn below(&self, end: u64) -> u64 {
        below(self, end)
    }

    /// True once in `of` times.
    #[must_use]
    pub fn one_in(&self, of: u64) -> bool {
        self.below(of) == 0
    }
}

impl Rng for SimRng {
    fn fill(&self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            chunk.copy_from_slice(&self.next_u64().to_le_bytes()[..chunk.len()]);
        }
    }

    fn next_u64(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.state.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// A number in `0..end` from any source; 0 where `end` is 0. Its bias, at most `end` in 2^64, does not matter to a simulation.
pub(crate) fn below(rng: &dyn Rng, end: u64) -> u64 {
    ((u128::from(rng.next_u64()) * u128::from(end)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_a_seed_never_change() {
        // The reference implementation's first numbers for 1234567.
        let rng = SimRng::new(1_234_567);
        let numbers: [u64; 3] = std::array::from_fn(|_| rng.next_u64());
        assert_eq!(numbers, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn numbers_stay_below_their_end_and_reach_it() {
        let rng = SimRng::new(7);
        let mut seen = [false; 5];
        for _ in 0..200 {
            seen[rng.below(5) as usize] = true;
        }
        assert_eq!((seen, rng.below(0), rng.below(1)), ([true; 5], 0, 0));
    }
}
