//! Expiry by local observation: a holder has expired when nothing of it changed for its whole time, by the
//! clock of the one who looks. Nobody's wall clock has a say.
//!
//! A holder counts its own time from before it sent what was granted, less a margin; who looks counts from after it was
//! seen, plus a margin. So clocks may run at rates that differ by [`DRIFT_PERCENT`] each, and no holder that believes in itself is
//! taken for dead. Source: Gray and Cheriton, "Leases", 1989.

use std::{collections::HashMap, time::Duration};

use super::state::{LockState, Sign};

/// What a clock's rate may differ by, in percent: no computer's is off by a tenth of it.
pub const DRIFT_PERCENT: u32 = 5;

/// For how long a holder may believe in a grant.
#[must_use]
pub fn believed(ttl: Duration) -> Duration {
    ttl.saturating_sub(margin(ttl))
}

/// How long an observer waits before it takes a holder for dead.
#[must_use]
pub fn patience(ttl: Duration) -> Duration {
    ttl + margin(ttl)
}

fn margin(ttl: Duration) -> Duration {
    ttl * DRIFT_PERCENT / 100
}

/// What one observer has seen, and since when.
#[derive(Debug, Default)]
pub struct Observer {
    since: HashMap<Sign, Duration>,
}

impl Observer {
    /// This is the present state, and it was known at this time at the latest.
    pub fn see(&mut self, state: &LockState, now: Duration) {
        let since = state.signs().map(|(sign, _)| {
            let first = self.since.get(&sign).copied().unwrap_or(now);
            (sign, first)
        });
        self.since = since.collect();
    }

    /// A holder of this state that has expired.
    #[must_use]
    pub fn expired(&self, state: &LockState, now: Duration) -> Option<Sign> {
        let (sign, _) = state.signs().find(|(sign, ttl)| self.due(sign, *ttl).is_some_and(|due| due <= now))?;
        Some(sign)
    }

    /// When the first holder of this state expires, if nothing of it changes until then.
    #[must_use]
    pub fn next(&self, state: &LockState) -> Option<Duration> {
        state.signs().filter_map(|(sign, ttl)| self.due(&sign, ttl)).min()
    }

    fn due(&self, sign: &Sign, ttl: Duration) -> Option<Duration> {
        Some(*self.since.get(sign)? + patience(ttl))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Step,
        lock::state::{Claim, Mode},
    };
    use jiff::Timestamp;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn written<O>(step: Step<LockState, O>) -> LockState {
        let Step::Write(next, _) = step else { panic!("nothing to write") };
        next
    }

    fn held() -> LockState {
        let claim = Claim {
            id: "a".into(),
            client: "c".into(),
            identity: "p".into(),
            mode: Mode::Exclusive,
            ttl_millis: 10_000,
            process: None,
        };
        written(LockState::default().acquire(&claim, true, Timestamp::UNIX_EPOCH))
    }

    #[test]
    fn only_a_change_of_the_holder_itself_counts_as_life() {
        let (mut observer, state) = (Observer::default(), held());
        observer.see(&state, seconds(100));
        let waiter = Claim { id: "b".into(), ..state.holders[0].claim.clone() };
        let waited = written(state.acquire(&waiter, true, Timestamp::UNIX_EPOCH));
        observer.see(&waited, seconds(105));
        assert_eq!(observer.next(&waited), Some(seconds(110) + Duration::from_millis(500)));
        assert_eq!(observer.expired(&waited, seconds(110)), None);
        assert_eq!(observer.expired(&waited, seconds(111)), Some(Sign::Ours("a".into(), 0)));
        let renewed = written(waited.renew("a", 1, Timestamp::UNIX_EPOCH));
        observer.see(&renewed, seconds(111));
        assert_eq!(observer.expired(&renewed, seconds(121)), None);
    }

    #[test]
    fn who_holds_stops_believing_before_anybody_takes_it_for_dead() {
        let ttl = seconds(10);
        // The holder's clock is as slow, and the observer's as fast, as is allowed.
        let rate = f64::from(DRIFT_PERCENT) / 100.0;
        assert!(believed(ttl).as_secs_f64() / (1.0 - rate) <= patience(ttl).as_secs_f64() / (1.0 + rate) + 1e-9);
    }
}
