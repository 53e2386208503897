//! When one of several senders takes numbers again: in turns, so that they do not get in each other's way, and none gets on faster
//! than the others. A lone sender never waits.
//!
//! After its own numbers, a sender lets the others take about as many as they took between its last two: fewer if they were many, and one
//! at least. So who was slow catches up, and who was ahead, and would never notice that others fail, lets them. How many they have taken is
//! told by the numbers themselves.

use std::time::Duration;

/// Others that are let take theirs.
const MOST: i64 = 64;
/// Where numbers are taken this far apart, nobody needs to wait for anybody.
const SPARSE: Duration = Duration::from_millis(100);
/// So long after others took some, they may be about to.
const RECENT: Duration = Duration::from_secs(1);
/// When nobody has taken any between so many looks, they are not waited for any longer.
const STALLED: u32 = 2;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// When the last numbers were taken, and which was the last of them.
    taken: Duration,
    last: i64,
    /// The time from one taking to the next, whoever took.
    slot: Duration,
    /// Numbers that others are to take first.
    others: i64,
    /// When it was last seen that others took some.
    seen: Option<Duration>,
}

/// Looks for one's turn.
#[derive(Debug, Default)]
pub(super) struct Look {
    since: i64,
    stalled: u32,
}

impl Turn {
    /// Numbers were taken, from `first` to `last`.
    pub fn took(&mut self, now: Duration, first: i64, last: i64) {
        let others = (first - self.last - 1).clamp(0, MOST);
        self.slot = now.saturating_sub(self.taken) / (u32::try_from(others).unwrap_or_default() + 1);
        if others > 0 {
            self.seen = Some(now);
        }
        let are_there = self.slot < SPARSE && self.seen.is_some_and(|seen| now.saturating_sub(seen) < RECENT);
        self.others = if are_there { others * 3 / 4 + 1 } else { 0 };
        (self.taken, self.last) = (now, last);
    }

    /// Whether others take numbers too, so that what was known after the last taking is no longer so.
    pub const fn among_others(&self) -> bool {
        self.others > 0
    }

    /// How long it is until it is worth a look whether it is one's turn.
    pub fn wait(&self, now: Duration) -> Duration {
        (self.taken + self.time_of(self.others)).saturating_sub(now)
    }

    /// At a look, `sequence` was the last number that was taken: how long it is until the next look; none when it is one's turn.
    pub fn early(&self, look: &mut Look, sequence: i64) -> Option<Duration> {
        let since = sequence - self.last;
        let before = std::mem::replace(&mut look.since, since);
        look.stalled = if since > before { 0 } else { look.stalled + 1 };
        let left = self.others - since;
        // Who is due and does not come does not want any.
        (left > 0 && look.stalled < STALLED).then(|| self.time_of(left))
    }

    /// Less than it took the last time: so it gets shorter until it cannot.
    fn time_of(&self, takings: i64) -> Duration {
        self.slot * u32::try_from(takings).unwrap_or_default() / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_lone_sender_never_waits() {
        let mut turn = Turn::default();
        turn.took(millis(10), 1, 1);
        turn.took(millis(20), 2, 9);
        turn.took(millis(30), 10, 10);
        assert_eq!((turn.among_others(), turn.wait(millis(30))), (false, Duration::ZERO));
    }

    #[test]
    fn one_of_many_lets_the_others_take_about_as_many_as_they_took_before() {
        let mut turn = Turn::default();
        turn.took(millis(100), 10, 10);
        // Seven others, in 40 ms.
        turn.took(millis(140), 18, 18);
        // So six of them are first.
        assert_eq!((turn.among_others(), turn.wait(millis(145))), (true, millis(10)));
        assert_eq!(turn.wait(millis(300)), Duration::ZERO, "it was away for longer than that");
        let mut look = Look::default();
        assert_eq!(turn.early(&mut look, 22), Some(millis(5)), "two are late");
        assert_eq!(turn.early(&mut look, 23), Some(Duration::from_micros(2_500)));
        assert_eq!(turn.early(&mut look, 24), None);
        // Some have gone.
        let mut look = Look::default();
        assert!(turn.early(&mut look, 20).is_some() && turn.early(&mut look, 20).is_some());
        assert_eq!(turn.early(&mut look, 20), None);
    }

    #[test]
    fn who_is_ahead_lets_one_come_first_until_there_is_nobody() {
        let mut turn = Turn::default();
        turn.took(millis(100), 10, 10);
        turn.took(millis(110), 12, 12);
        turn.took(millis(120), 13, 13);
        assert!(turn.among_others(), "somebody was there just now, and may be trying");
        turn.took(millis(1_109), 500, 500);
        turn.took(millis(1_119), 501, 501);
        assert!(turn.among_others());
        turn.took(millis(2_100), 502, 502);
        turn.took(millis(2_110), 503, 503);
        assert!(!turn.among_others());
    }

    #[test]
    fn where_numbers_are_taken_far_apart_nobody_waits() {
        let mut turn = Turn::default();
        turn.took(millis(1_000), 10, 10);
        turn.took(millis(2_000), 18, 18);
        assert!(!turn.among_others());
    }
}
