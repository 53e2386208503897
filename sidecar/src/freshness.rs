//! How old a pod's knowledge of a head is: it counts from the sending of the last quorum read that
//! succeeded, since the silence of a watch proves nothing.

use std::time::Duration;

use quorate_crds::{Freshness, OnStale};

/// What is known, and since when. Times are of [`quorate_coordination::Clock`].
#[derive(Clone, Debug)]
pub struct Knowledge {
    confirmed: Duration,
    freshness: Freshness,
}

impl Knowledge {
    /// Of a sidecar that starts: it counts from now until the first reading.
    #[must_use]
    pub fn new(now: Duration, freshness: Freshness) -> Self {
        Self { confirmed: now, freshness: possible(freshness) }
    }

    /// A quorum read that was sent at `sent` succeeded.
    pub const fn confirm(&mut self, sent: Duration) {
        self.confirmed = sent;
    }

    /// The head says how fresh pods must be.
    pub fn demand(&mut self, freshness: Freshness) {
        self.freshness = possible(freshness);
    }

    /// Its age.
    #[must_use]
    pub const fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(self.confirmed)
    }

    /// How long until it is too old; `None` when it is.
    #[must_use]
    pub fn left(&self, now: Duration) -> Option<Duration> {
        let left = Duration::from(self.freshness.max_age).checked_sub(self.age(now))?;
        (!left.is_zero()).then_some(left)
    }

    /// How often it is confirmed.
    #[must_use]
    pub fn interval(&self) -> Duration {
        (Duration::from(self.freshness.max_age) / 3).max(Duration::from_secs(1))
    }

    /// Why the pod must not count as ready, if it must not.
    #[must_use]
    pub fn unready(&self, now: Duration) -> Option<String> {
        (self.freshness.on_stale == OnStale::Unready && self.left(now).is_none()).then(|| {
            let (age, limit) = (self.age(now).as_secs(), self.freshness.max_age);
            format!("it was confirmed {age} s ago that its files are the latest, and spec.freshness.maxAge is {limit}")
        })
    }

    /// What a ConfigReplica says of it. It does not change while it goes on.
    #[must_use]
    pub fn complaint(&self) -> String {
        format!(
            "no quorum read of the head succeeded within {} (spec.freshness.maxAge); the files stay as they are",
            self.freshness.max_age
        )
    }
}

/// The API server refuses less, unless its CRD is an older one: then every pod would be stale at all times.
fn possible(mut freshness: Freshness) -> Freshness {
    freshness.max_age = freshness.max_age.max(Freshness::SHORTEST);
    freshness
}

#[cfg(test)]
mod tests {
    use quorate_crds::Span;

    use super::*;

    #[test]
    fn knowledge_ages_from_the_sending_of_the_last_reading() {
        let seconds = Duration::from_secs;
        let mut known = Knowledge::new(seconds(100), Freshness::default());
        assert_eq!(known.left(seconds(399)), Some(seconds(1)));
        assert_eq!((known.left(seconds(400)), known.unready(seconds(400))), (None, None));
        known.demand(Freshness { max_age: Span::of_seconds(30), on_stale: OnStale::Unready });
        assert!(known.unready(seconds(130)).unwrap().contains("30 s ago"));
        known.confirm(seconds(125));
        assert_eq!((known.age(seconds(130)), known.interval()), (seconds(5), seconds(10)));
        assert_eq!((known.left(seconds(130)), known.unready(seconds(130))), (Some(seconds(25)), None));
        // A sleep of the machine counts.
        assert!(known.unready(seconds(4000)).is_some());
    }

    #[test]
    fn what_nobody_could_keep_is_not_demanded() {
        let seconds = Duration::from_secs;
        let never = Freshness { max_age: Span::of_seconds(0), on_stale: OnStale::Unready };
        let mut known = Knowledge::new(seconds(100), never.clone());
        known.demand(never);
        assert_eq!((known.left(seconds(101)), known.unready(seconds(101))), (Some(seconds(2)), None));
    }
}
