//! What callers did and saw, and whether a counter can have given it.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use quorate_coordination::{
    Answer, CounterError,
    counter::{Change, Operation, Outcome, Refusal},
};

/// See the module.
#[derive(Debug, Default)]
pub struct History {
    time: AtomicU64,
    seen: Mutex<Vec<Seen>>,
    unsettled: Mutex<Option<String>>,
}

#[derive(Clone, Debug)]
struct Seen {
    invoked: u64,
    answered: u64,
    operation: Operation,
    outcome: Outcome,
}

/// Why no counter can have given it.
#[derive(Debug, PartialEq, Eq)]
pub enum Violation {
    /// An operation gave no certain answer.
    Unsettled(String),
    /// The value is not what was acknowledged.
    Sum { acknowledged: i64, value: i64 },
    /// Two increments gave the same.
    Twice(i64),
    /// An increment gave less than one that had ended before it began.
    Order(i64, i64),
    /// The value was out of bounds.
    Bounds(i64),
    /// There is no order in which the operations give what they gave.
    NotLinearizable,
}

impl History {
    /// Waits for an operation, and notes what it gave.
    pub async fn record(&self, operation: Operation, call: impl Future<Output = Result<Answer, CounterError>>) {
        let invoked = self.time.fetch_add(1, Ordering::SeqCst);
        let outcome = match call.await {
            Ok(Answer { before, after, .. }) => Ok(Change { before, after }),
            Err(CounterError::Refused { why, .. }) => Err(why),
            Err(error) => {
                *self.unsettled.lock().unwrap() = Some(error.to_string());
                return;
            }
        };
        let answered = self.time.fetch_add(1, Ordering::SeqCst);
        self.seen.lock().unwrap().push(Seen { invoked, answered, operation, outcome });
    }

    fn settled(&self) -> Result<Vec<Seen>, Violation> {
        let unsettled = self.unsettled.lock().unwrap().clone();
        unsettled.map_or_else(|| Ok(self.seen.lock().unwrap().clone()), |why| Err(Violation::Unsettled(why)))
    }

    /// Whether one order of all operations, which keeps those apart that did not overlap, gives each what it saw.
    pub fn check(&self, initial: i64, bounds: (Option<i64>, Option<i64>), value: i64) -> Result<(), Violation> {
        let seen = self.settled()?;
        let changes = || seen.iter().filter_map(|seen| seen.outcome.as_ref().ok());
        let acknowledged = initial + changes().map(|change| change.after - change.before).sum::<i64>();
        if acknowledged != value {
            return Err(Violation::Sum { acknowledged, value });
        }
        let within = |value: i64| bounds.0.is_none_or(|min| value >= min) && bounds.1.is_none_or(|max| value <= max);
        if let Some(change) = changes().find(|change| !within(change.after)) {
            return Err(Violation::Bounds(change.after));
        }
        let all = (1_u64 << seen.len()) - 1;
        if ordered(&seen, bounds, all, initial, value, &mut HashSet::new()) {
            Ok(())
        } else {
            Err(Violation::NotLinearizable)
        }
    }

    /// The same for increments by one, of which there may be any number.
    pub fn check_increments(&self, initial: i64, value: i64) -> Result<(), Violation> {
        let mut seen = self.settled()?;
        let acknowledged = initial + i64::try_from(seen.len()).unwrap();
        if acknowledged != value {
            return Err(Violation::Sum { acknowledged, value });
        }
        let after = |seen: &Seen| seen.outcome.as_ref().unwrap().after;
        let mut given = BTreeSet::new();
        if let Some(twice) = seen.iter().map(after).find(|after| !given.insert(*after)) {
            return Err(Violation::Twice(twice));
        }
        seen.sort_by_key(after);
        let mut latest_begin = 0;
        for pair in seen.windows(2) {
            latest_begin = latest_begin.max(pair[0].invoked);
            if pair[1].answered < latest_begin {
                return Err(Violation::Order(after(&pair[0]), after(&pair[1])));
            }
        }
        Ok(())
    }
}

/// Wing and Gong's search, with what was tried remembered: `left` are the operations not in the order yet.
fn ordered(
    seen: &[Seen],
    bounds: (Option<i64>, Option<i64>),
    left: u64,
    value: i64,
    last: i64,
    tried: &mut HashSet<(u64, i64)>,
) -> bool {
    if left == 0 {
        return value == last;
    }
    if !tried.insert((left, value)) {
        return false;
    }
    let of_left = |index: &usize| left & (1 << index) != 0;
    let first_answer = (0..seen.len()).filter(of_left).map(|index| seen[index].answered).min().unwrap_or(u64::MAX);
    (0..seen.len()).filter(of_left).any(|index| {
        let Seen { invoked, operation, outcome, .. } = &seen[index];
        let (next, expected) = model(value, bounds, *operation);
        *invoked < first_answer
            && expected == *outcome
            && ordered(seen, bounds, left & !(1 << index), next, last, tried)
    })
}

/// A counter, as simple as can be.
fn model(value: i64, (min, max): (Option<i64>, Option<i64>), operation: Operation) -> (i64, Outcome) {
    let wanted = match operation {
        Operation::Get => value,
        Operation::Add(delta) => value + delta,
        Operation::CompareAndSet { expected, .. } if expected != value => {
            return (value, Err(Refusal::Mismatch { value, expected }));
        }
        Operation::CompareAndSet { new, .. } => new,
    };
    if let Some(min) = min.filter(|min| wanted < *min) {
        return (value, Err(Refusal::BelowMin { value, wanted, min }));
    }
    if let Some(max) = max.filter(|max| wanted > *max) {
        return (value, Err(Refusal::AboveMax { value, wanted, max }));
    }
    (wanted, Ok(Change { before: value, after: wanted }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(seen: &[(u64, u64, Operation, Outcome)]) -> History {
        let seen = seen.iter().cloned().map(|(invoked, answered, operation, outcome)| Seen {
            invoked,
            answered,
            operation,
            outcome,
        });
        History { seen: Mutex::new(seen.collect()), ..History::default() }
    }

    #[test]
    fn the_checker_tells_good_histories_from_bad_ones() {
        let change = |before, after| Ok(Change { before, after });
        let add = Operation::Add(1);
        let free = (None, None);
        // Two that overlap may have come in either order, and a read that came after both sees both.
        let good = [(0, 3, add, change(1, 2)), (1, 2, add, change(0, 1)), (4, 5, Operation::Get, change(2, 2))];
        assert_eq!(history(&good).check(0, free, 2), Ok(()));
        assert_eq!(history(&good[..2]).check_increments(0, 2), Ok(()));
        assert_eq!(history(&good).check(0, free, 3), Err(Violation::Sum { acknowledged: 2, value: 3 }));
        let stale = [(0, 1, add, change(0, 1)), (2, 3, Operation::Get, change(0, 0))];
        assert_eq!(history(&stale).check(0, free, 1), Err(Violation::NotLinearizable));
        let backwards = [(0, 1, add, change(1, 2)), (2, 3, add, change(0, 1))];
        assert_eq!(history(&backwards).check(0, free, 2), Err(Violation::NotLinearizable));
        assert_eq!(history(&backwards).check_increments(0, 2), Err(Violation::Order(1, 2)));
        let twice = [(0, 3, add, change(0, 1)), (1, 2, add, change(0, 1))];
        assert_eq!(history(&twice).check(0, free, 2), Err(Violation::NotLinearizable));
        assert_eq!(history(&twice).check_increments(0, 2), Err(Violation::Twice(1)));
        assert_eq!(history(&good).check(0, (None, Some(1)), 2), Err(Violation::Bounds(2)));
    }
}
