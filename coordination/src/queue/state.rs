//! The queue's own state: which numbers were given out.
//!
//! An operation that takes numbers need not know itself again: when its answer was lost it takes others, and leaves a gap.

use quorate_crds::{DistributedQueueSpec, DistributedQueueStatus, QueueCounts};

use crate::{Stamped, Stamps, Step};

/// A queue, as it is stored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueueState {
    /// Tells it from another of the same name.
    pub uid: String,
    /// What its users have written.
    pub spec: DistributedQueueSpec,
    /// Which numbers were given out.
    pub status: DistributedQueueStatus,
}

/// Numbers for items that are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// The first.
    pub first: i64,
    /// How many. Fewer than wanted if the queue is full.
    pub count: i64,
    /// How many items there are, as far as is known.
    pub length: i64,
}

impl QueueState {
    /// How many items are ready or claimed at most, as far as the queue itself tells: what was sent since the last count
    /// counts, and nothing that was acknowledged since.
    #[must_use]
    pub fn longest(&self) -> i64 {
        let QueueCounts { ready, claimed, sequence, .. } = self.status.counts.unwrap_or_default();
        ready + claimed + (self.status.sequence - sequence).max(0)
    }

    /// Takes numbers for so many items, or for as many as there is room for. `length` is how many items there are, if that is
    /// known better than the queue itself tells.
    #[must_use]
    pub fn number(&self, wanted: i64, length: Option<i64>) -> Step<Self, Numbers> {
        let length = length.unwrap_or_else(|| self.longest());
        let count = wanted.min(i64::from(self.spec.max_length) - length).max(0);
        let numbers = Numbers { first: self.status.sequence + 1, count, length };
        if count == 0 {
            return Step::Answer(numbers);
        }
        let mut next = self.clone();
        next.status.sequence += count;
        Step::Write(next, numbers)
    }

    /// Notes a count; whether it says anything new.
    #[must_use]
    pub fn counted(&self, counts: QueueCounts) -> Step<Self, bool> {
        if self.status.counts == Some(counts) {
            return Step::Answer(false);
        }
        let mut next = self.clone();
        next.status.counts = Some(counts);
        Step::Write(next, true)
    }
}

impl Stamped for QueueState {
    fn stamps(&self) -> Stamps {
        Stamps { lamport: self.status.lamport, hlc: self.status.hlc.parse().unwrap_or_default() }
    }

    fn stamp(&mut self, Stamps { lamport, hlc }: Stamps) {
        (self.status.lamport, self.status.hlc) = (lamport, hlc.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(max_length: u32, sequence: i64, counts: Option<QueueCounts>) -> QueueState {
        let spec = DistributedQueueSpec { max_length, ..DistributedQueueSpec::default() };
        QueueState {
            uid: "u".into(),
            spec,
            status: DistributedQueueStatus { sequence, counts, ..DistributedQueueStatus::default() },
        }
    }

    #[test]
    fn numbers_follow_each_other_until_the_queue_is_full() {
        let Step::Write(next, numbers) = queue(5, 0, None).number(3, None) else { panic!("there is room") };
        assert_eq!((numbers.first, numbers.count, next.status.sequence), (1, 3, 3));
        let Step::Write(next, numbers) = next.number(3, None) else { panic!("there is room for two") };
        assert_eq!((numbers.first, numbers.count, next.status.sequence), (4, 2, 5));
        assert_eq!(next.number(1, None), Step::Answer(Numbers { first: 6, count: 0, length: 5 }));
        // Who knows better than the queue itself knows that there is room.
        assert!(matches!(next.number(1, Some(4)), Step::Write(_, Numbers { first: 6, count: 1, .. })));
    }

    #[test]
    fn a_count_is_corrected_by_what_was_sent_since() {
        let counts = QueueCounts { ready: 3, claimed: 1, sequence: 90, ..QueueCounts::default() };
        assert_eq!(queue(10, 95, Some(counts)).longest(), 9);
        assert_eq!(queue(10, 80, Some(counts)).longest(), 4, "a count from before the status was lost");
        let full = queue(4, 90, Some(counts)).number(1, None);
        assert!(matches!(full, Step::Answer(Numbers { count: 0, length: 4, .. })));
        // The bound was set lower.
        assert!(matches!(queue(2, 90, Some(counts)).number(1, None), Step::Answer(Numbers { count: 0, .. })));
    }
}
