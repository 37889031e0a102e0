//! One stream of randomness per run, forked by name, so that a change in one actor does not disturb the others.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use sha2::{Digest as _, Sha256};

/// A seeded source of decisions.
pub struct Random(StdRng);

impl Random {
    /// The stream of an actor in the run with this seed.
    pub fn fork(seed: u64, actor: &str) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(seed.to_le_bytes());
        hasher.update(actor.as_bytes());
        Self(StdRng::from_seed(hasher.finalize().into()))
    }

    /// A number with `low <= number < high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0.random_range(low..high)
    }

    /// True once in `n` times on average.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.between(0, n) == 0
    }

    /// One of several.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        #[allow(clippy::cast_possible_truncation)] // Below the length of a slice.
        let index = self.between(0, choices.len() as u64) as usize;
        &choices[index]
    }
}
