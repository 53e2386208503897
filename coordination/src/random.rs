//! Randomness: ids that nobody else has, and the jitter of waits. From a seed, so that a run can be repeated.

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use sha2::{Digest, Sha256};

/// SHA-256 of a seed and a count: as good as the seed.
#[derive(Debug)]
pub struct Random {
    seed: [u8; 32],
    count: AtomicU64,
}

impl Random {
    /// Seeded by the operating system: no other process ever has the same ids.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn from_system() -> std::io::Result<Self> {
        let mut seed = [0; 32];
        let mut filled = 0;
        while filled < seed.len() {
            let got = rustix::rand::getrandom(&mut seed[filled..], rustix::rand::GetRandomFlags::empty())?;
            filled += got;
        }
        Ok(Self { seed, count: AtomicU64::new(0) })
    }

    /// The same sequence for the same seed.
    #[must_use]
    pub fn from_seed(seed: &str) -> Self {
        Self { seed: Sha256::digest(seed).into(), count: AtomicU64::new(0) }
    }

    fn block(&self) -> [u8; 32] {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        Sha256::new().chain_update(self.seed).chain_update(count.to_be_bytes()).finalize().into()
    }

    /// 64 random bits.
    pub fn bits(&self) -> u64 {
        self.block().iter().take(8).fold(0, |bits, byte| bits << 8 | u64::from(*byte))
    }

    /// From 0 up to, but without, 1.
    #[expect(clippy::cast_precision_loss, reason = "53 bits are exact")]
    pub fn fraction(&self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Something up to `longest`.
    pub fn up_to(&self, longest: Duration) -> Duration {
        longest.mul_f64(self.fraction())
    }

    /// An id of 80 bits, in 20 hexadecimal digits.
    pub fn id(&self) -> String {
        self.block().iter().take(10).fold(String::with_capacity(20), |mut id, byte| {
            // Writing to a String cannot fail.
            let _ = write!(id, "{byte:02x}");
            id
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_the_system_does_not() {
        let ids = |random: Random| [random.id(), random.id()];
        assert_eq!(ids(Random::from_seed("a")), ids(Random::from_seed("a")));
        assert_ne!(ids(Random::from_seed("a")), ids(Random::from_seed("b")));
        let [first, second] = ids(Random::from_system().unwrap());
        assert_ne!(first, second);
        assert_ne!(first, ids(Random::from_system().unwrap())[0]);
        assert_eq!(first.len(), 20);
    }
}
