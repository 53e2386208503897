//! How long to wait before writing again, when others write too or the API server is in trouble.

use std::time::Duration;

use crate::Random;

/// The longest wait after the second conflict: about the time of a write. It doubles with each one that follows.
const FIRST: Duration = Duration::from_millis(4);
/// So often it doubles. Then it is halved each time: who has lost more often than most has waited for longer, and is
/// to come sooner.
const DOUBLINGS: u32 = 4;
/// The first wait after no answer, or a bad one; it doubles up to [`LONGEST_OUTAGE`].
const FIRST_OUTAGE: Duration = Duration::from_millis(20);
/// Waits in an outage grow up to this.
const LONGEST_OUTAGE: Duration = Duration::from_secs(1);

/// One operation's waits.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    conflicts: u32,
    failures: u32,
    urgent: bool,
}

impl Pace {
    /// Of an operation that all others wait for: it goes on after a conflict, and they make way.
    #[must_use]
    pub fn urgent() -> Self {
        Self { urgent: true, ..Self::default() }
    }

    /// After a conflict: somebody else got on, so the register is well. The first time none: it is most often one
    /// write that came between.
    pub fn conflict(&mut self, random: &Random) -> Duration {
        self.conflicts += 1;
        self.failures = 0;
        match self.conflicts - 1 {
            0 => Duration::ZERO,
            _ if self.urgent => random.up_to(FIRST / 4),
            rising if rising <= DOUBLINGS => random.up_to(FIRST * (1 << (rising - 1))),
            falling => random.up_to(FIRST * (1 << DOUBLINGS) / (1 << (falling - DOUBLINGS).min(16))),
        }
    }

    /// After no answer, or one that told nothing.
    pub fn failure(&mut self, random: &Random) -> Duration {
        self.failures += 1;
        let longest = (FIRST_OUTAGE * (1 << (self.failures - 1).min(16))).min(LONGEST_OUTAGE);
        longest / 2 + random.up_to(longest / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_after_conflicts_rise_and_then_fall() {
        let random = Random::from_seed("pace");
        let longest = |conflicts: usize| {
            let waits = (0..200).map(|_| {
                let mut pace = Pace::default();
                (0..conflicts).map(|_| pace.conflict(&random)).last().unwrap()
            });
            waits.max().unwrap().as_micros()
        };
        assert_eq!(longest(1), 0);
        assert!(longest(2) < longest(3) && longest(3) < longest(5), "{} {}", longest(2), longest(5));
        assert!(longest(5) > longest(8) && longest(8) > longest(12), "{} {}", longest(8), longest(12));
        assert!(longest(100) == 0);
    }

    #[test]
    fn waits_in_an_outage_grow_and_have_a_bound() {
        let random = Random::from_seed("pace");
        let mut pace = Pace::default();
        let first = pace.failure(&random);
        assert!(first >= FIRST_OUTAGE / 2 && first <= FIRST_OUTAGE, "{first:?}");
        let later: Vec<Duration> = (0..100).map(|_| pace.failure(&random)).collect();
        assert!(later.iter().all(|wait| *wait <= LONGEST_OUTAGE) && later[99] >= LONGEST_OUTAGE / 2);
    }
}
