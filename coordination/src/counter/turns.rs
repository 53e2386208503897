//! How long a writer waits for its turn, where several write: so they do not get in each other's way, and none gets on faster
//! than the others. A lone writer never waits, nor does anybody where writes are few.
//!
//! Whose turn it is the state says ([`super::CounterState::before`]): who has waited longest writes next, and is told by its
//! watch. Who is told nothing looks when its turn should have come. When nothing has moved since it looked last, those before
//! it do not come, and it passes them over.

use std::time::Duration;

use crate::Random;

/// Writes are few where there are so many times of a write between them.
const SPARSE: u32 = 4;
/// An API server is late by so much now and then: who is waited for any shorter would be passed over for nothing.
const GRACE: Duration = Duration::from_millis(20);
/// Whoever waits looks this often at least: where writes are slow and many writers have died, the time that all of them
/// would need, were they alive, is none that a caller has.
const LONGEST: Duration = Duration::from_secs(2);

/// What a writer has seen of how fast all write.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns {
    /// When its own last write was done.
    last: Duration,
    /// The time from one write to the next one, whoever wrote.
    slot: Duration,
    /// How long a write of its own takes, averaged.
    write: Duration,
}

impl Turns {
    /// It wrote for the first time, which took so long, and so many others came first.
    pub fn entered(&mut self, now: Duration, took: Duration, conflicts: u32) {
        let slot = took / (conflicts + 1);
        // Where nobody came first, nobody is waited for.
        let write = if conflicts > 0 { slot } else { Duration::ZERO };
        *self = Self { last: now, slot, write };
    }

    /// A write of its own was done, which took so long, and so many others have written since the one before.
    pub fn wrote(&mut self, now: Duration, took: Duration, others: usize) {
        self.slot = now.saturating_sub(self.last) / (count(others) + 1);
        self.write = if self.write.is_zero() { took } else { (self.write * 7 + took) / 8 };
        self.last = now;
    }

    /// Whether writes are so many that it is worth to wait for one's turn.
    pub fn busy(&self) -> bool {
        self.slot < self.write * SPARSE
    }

    /// How long to wait until a look, when so many others are to write first: for as long as they need, but not for ever.
    pub fn patience(&self, before: usize, random: &Random) -> Duration {
        let before = count(before);
        (GRACE + self.slot.saturating_mul(before + before / 4) + random.up_to(self.slot)).min(LONGEST)
    }
}

fn count(writers: usize) -> u32 {
    u32::try_from(writers).unwrap_or(u32::MAX).min(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_little_longer_is_waited_than_the_others_need() {
        let (random, mut turns) = (Random::from_seed("turns"), Turns::default());
        turns.wrote(millis(100), millis(4), 7);
        // Eight writes in 40 ms.
        turns.wrote(millis(140), millis(4), 7);
        assert!(turns.busy());
        for (before, least) in [(1, 25), (7, 60), (31, 210)] {
            let wait = turns.patience(before, &random);
            assert!(wait >= millis(least) && wait <= millis(least + 5), "{before}: {wait:?}");
        }
    }

    #[test]
    fn nobody_waits_for_long_without_a_look() {
        let (random, mut turns) = (Random::from_seed("turns"), Turns::default());
        turns.wrote(millis(1_000), millis(1_000), 0);
        turns.wrote(millis(3_000), millis(1_000), 0);
        assert!(turns.busy());
        assert_eq!(turns.patience(511, &random), LONGEST);
    }

    #[test]
    fn where_writes_are_few_nobody_waits() {
        let mut turns = Turns::default();
        turns.wrote(millis(1_000), millis(4), 7);
        turns.wrote(millis(2_000), millis(4), 7);
        assert!(!turns.busy());
    }
}
