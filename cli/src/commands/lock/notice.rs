//! When a command is told to end, and when it is killed: both before others may take its lock.

use std::time::Duration;

use quorate_crds::Span;

/// Killing takes a moment, and so does noticing that it is time.
const LONGEST_MARGIN: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Between being told and being killed.
    grace: Duration,
    /// Between being killed and the end of validity.
    margin: Duration,
}

impl Notice {
    /// For grants of this time. A quarter of it is the grace, unless said otherwise.
    ///
    /// # Errors
    /// When the grace is so long that the command would be told to end between two renewals.
    pub fn new(ttl: Duration, grace: Option<Span>) -> Result<Self, String> {
        let grace = grace.map_or(ttl / 4, Duration::from);
        if grace > ttl / 3 {
            return Err(format!(
                "--grace {} ms is more than a third of --ttl {} ms: after that, a lock that is merely waiting to be renewed would be given up",
                grace.as_millis(),
                ttl.as_millis()
            ));
        }
        Ok(Self { grace, margin: (ttl / 20).min(LONGEST_MARGIN) })
    }

    /// How long it may go on before it is told to end, when so much validity is left.
    pub fn until_told(self, left: Duration) -> Duration {
        left.saturating_sub(self.grace + self.margin)
    }

    /// How long it may go on before it is killed, once it is told, when so much validity is left by what was known before
    /// the lock was lost.
    pub fn until_killed(self, left: Duration) -> Duration {
        left.saturating_sub(self.margin).min(self.grace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn it_is_told_before_and_killed_before_validity_ends() {
        let notice = Notice::new(ms(20_000), None).unwrap();
        assert_eq!(notice, Notice { grace: ms(5000), margin: ms(1000) });
        assert_eq!((notice.until_told(ms(19_000)), notice.until_told(ms(5999))), (ms(13_000), ms(0)));
        assert_eq!(notice.until_killed(ms(6000)), ms(5000));
        // Told late, as the machine stood still.
        assert_eq!((notice.until_killed(ms(3000)), notice.until_killed(ms(900))), (ms(2000), ms(0)));
        // Taken by force long before: nobody waits for longer than was said.
        assert_eq!(notice.until_killed(ms(18_000)), ms(5000));
    }

    #[test]
    fn a_lock_that_is_renewed_in_time_is_never_given_up() {
        let told = |grace: Option<u64>| Notice::new(ms(3000), grace.map(Span::of_seconds));
        // It is renewed when a third of its time has gone; a grant that was long on its way has nearly half.
        for notice in [told(None).unwrap(), told(Some(1)).unwrap(), told(Some(0)).unwrap()] {
            assert!(notice.until_told(ms(3000) * 95 / 200) > ms(0), "{notice:?}");
        }
        assert!(told(Some(2)).unwrap_err().contains("more than a third"));
    }
}
