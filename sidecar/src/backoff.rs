//! How long to wait before trying again: longer each time, and spread, so that many sidecars do not
//! come at once. The spread comes from a seed, so that a run can be repeated.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

/// See the module.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    wait: Duration,
    spread: Spread,
}

impl Backoff {
    /// Waits from `first` to `longest`, doubling.
    #[must_use]
    pub fn new(first: Duration, longest: Duration, seed: &str) -> Self {
        Self { first, longest, wait: first, spread: Spread::new(seed) }
    }

    /// The next wait.
    pub fn wait(&mut self) -> Duration {
        let wait = self.wait;
        self.wait = (wait * 2).min(self.longest);
        self.spread.around(wait)
    }

    /// It went well: begin with the first wait again.
    pub const fn reset(&mut self) {
        self.wait = self.first;
    }
}

/// Spreads lengths of time by 10% up and down.
#[derive(Clone, Debug)]
pub struct Spread {
    seed: u64,
    count: u64,
}

impl Spread {
    /// Another one for each seed.
    #[must_use]
    pub fn new(seed: &str) -> Self {
        Self { seed: hash(seed), count: 0 }
    }

    /// Something from 90% to 110% of it.
    pub fn around(&mut self, length: Duration) -> Duration {
        self.count += 1;
        let per_mille = hash((self.seed, self.count)) % 201;
        length.mul_f64(f64::from(u16::try_from(per_mille).unwrap_or_default()).mul_add(0.001, 0.9))
    }
}

fn hash(value: impl Hash) -> u64 {
    // Always with the same keys, unlike a map's.
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_are_spread() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(8), "pod-1");
        for seconds in [1.0, 2.0, 4.0, 8.0, 8.0] {
            let wait = backoff.wait().as_secs_f64();
            assert!((seconds * 0.9..=seconds * 1.1).contains(&wait), "{wait} for {seconds}");
        }
        backoff.reset();
        assert!(backoff.wait() <= Duration::from_millis(1100));
    }

    #[test]
    fn seeds_differ_and_repeat() {
        let of = |seed| {
            let mut spread = Spread::new(seed);
            [0; 8].map(|_| spread.around(Duration::from_secs(100)))
        };
        assert_eq!(of("a"), of("a"));
        assert_ne!(of("a"), of("b"));
    }
}
