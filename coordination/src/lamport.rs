//! A Lamport clock: it orders what is written after what had been seen. L(a) < L(b) does not say that a
//! caused b; only that b did not cause a. Source: Lamport, "Time, Clocks, and the Ordering of Events", 1978.

use std::sync::atomic::{AtomicI64, Ordering};

/// See the module.
#[derive(Debug, Default)]
pub struct Lamport(AtomicI64);

impl Lamport {
    /// Something with this stamp was seen.
    pub fn see(&self, stamp: i64) {
        self.advance(stamp);
    }

    /// The stamp of something that is written now: above all that was seen and written before.
    pub fn tick(&self) -> i64 {
        self.advance(0)
    }

    /// The highest stamp so far.
    #[must_use]
    pub fn present(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    fn advance(&self, seen: i64) -> i64 {
        // A forged stamp may be the highest there is: it stays there then.
        let next = |now: i64| now.max(seen).saturating_add(1);
        let before = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| Some(next(now)));
        next(before.unwrap_or_else(|now| now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_above_all_that_was_seen_and_written() {
        let clock = Lamport::default();
        assert_eq!(clock.tick(), 1);
        clock.see(7);
        assert_eq!((clock.tick(), clock.tick()), (9, 10));
        clock.see(3);
        assert_eq!((clock.tick(), clock.present()), (12, 12));
        clock.see(i64::MAX);
        assert_eq!(clock.tick(), i64::MAX);
    }
}
