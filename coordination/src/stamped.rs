//! Writes that carry the stamps of their writer's clocks, above those of what they are based on.

use crate::{Session, Stamp, Step};

/// The stamps of a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Stamps {
    /// By the Lamport clock.
    pub lamport: i64,
    /// By the hybrid logical clock.
    pub hlc: Stamp,
}

/// What carries the stamps of its last write.
pub trait Stamped {
    /// The stamps.
    fn stamps(&self) -> Stamps;

    /// Puts the stamps of a write into it.
    fn stamp(&mut self, stamps: Stamps);
}

impl Session {
    /// This step from `state`, as a participant does it: the state was seen, and what is written is above it.
    #[must_use]
    pub fn stamped<S: Stamped, O>(&self, state: &S, step: Step<S, O>) -> Step<S, O> {
        let before = state.stamps();
        self.lamport.see(before.lamport);
        let wall = self.clock.wall();
        match step {
            Step::Write(mut next, outcome) => {
                next.stamp(Stamps { lamport: self.lamport.tick(), hlc: self.hlc.above(before.hlc, wall) });
                Step::Write(next, outcome)
            }
            Step::Answer(answer) => {
                // One that is too far ahead carries nobody away.
                let _ = self.hlc.see(before.hlc, wall);
                Step::Answer(answer)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Stamped for Stamps {
        fn stamps(&self) -> Stamps {
            *self
        }

        fn stamp(&mut self, stamps: Stamps) {
            *self = stamps;
        }
    }

    #[test]
    fn what_is_written_is_above_what_was_seen_also_by_an_answer() {
        let (one, other) = (Session::new("one").unwrap(), Session::new("other").unwrap());
        let write = |session: &Session, from: &Stamps| match session.stamped(from, Step::Write(*from, ())) {
            Step::Write(next, ()) => next,
            Step::Answer(()) => panic!("it writes"),
        };
        let nothing = Stamps::default();
        let first = (0..3).fold(nothing, |last, _| write(&one, &last));
        assert_eq!(other.stamped(&first, Step::Answer(())), Step::Answer(()));
        let elsewhere = write(&other, &nothing);
        assert!(elsewhere.lamport > first.lamport && elsewhere.hlc > first.hlc, "{elsewhere:?} after {first:?}");
        let next = write(&one, &elsewhere);
        assert!(next.lamport > elsewhere.lamport && next.hlc > elsewhere.hlc, "{next:?} after {elsewhere:?}");
    }
}
