//! The lock's state machine under random operations: what its states must be, whatever is done to it; also when each state goes
//! through its Lease and back.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod support;

use jiff::{SignedDuration, Timestamp};
use kube::api::ObjectMeta;
use proptest::prelude::*;
use quorate_coordination::{
    LockState, Mode, Step, Stored,
    lock::{Claim, Claimed, Foreign, MAX_WAITERS, Sign},
};
use std::time::Duration;
use support::history::{Seen, versions};

#[derive(Clone, Debug)]
enum Operation {
    Acquire(Mode, bool),
    /// The claims are counted as they came: of the so many-th.
    Renew(usize),
    Release(usize),
    PassOn(usize),
    Steal(usize),
    Settle,
    /// What client-go does to the Lease: it takes it, or gives it back.
    ForeignTakes,
    ForeignLeaves,
    /// Somebody deleted the Lease.
    Deleted,
}

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![
        3 => Just(Mode::Exclusive),
        3 => Just(Mode::Shared),
        3 => (1..5_u32, 3..5_u32).prop_map(|(take, of)| Mode::Permits { take: take.min(of), of }),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        8 => (mode(), any::<bool>()).prop_map(|(mode, waits)| Operation::Acquire(mode, waits)),
        2 => (0..30_usize).prop_map(Operation::Renew),
        6 => (0..30_usize).prop_map(Operation::Release),
        3 => (0..30_usize).prop_map(Operation::PassOn),
        2 => (0..4_usize).prop_map(Operation::Steal),
        1 => Just(Operation::Settle),
        1 => Just(Operation::ForeignTakes),
        1 => Just(Operation::ForeignLeaves),
        1 => Just(Operation::Deleted),
    ]
}

fn claim(number: usize, mode: Mode) -> Claim {
    let (client, identity) = (format!("client-{}", number % 5), format!("pod-{number}"));
    Claim { id: format!("id-{number}"), client, identity, mode, ttl_millis: 15_000, process: None }
}

/// What the state is after the operation; the same, if it changes nothing.
fn applied(state: &LockState, operation: &Operation, number: usize, now: Timestamp) -> LockState {
    let step = match operation {
        Operation::Acquire(mode, waits) => {
            let claim = claim(number, *mode);
            let step = state.acquire(&claim, *waits, now);
            match &step {
                // Whoever sees the answer sees it in the state.
                Step::Write(next, Claimed::Granted) => assert!(next.holds(&claim.id)),
                Step::Write(next, Claimed::Waiting(before)) => assert_eq!(next.position(&claim.id), Some(*before)),
                Step::Write(..) => panic!("{step:?}"),
                Step::Answer(answer) => assert!(!matches!(answer, Claimed::Granted | Claimed::Waiting(_))),
            }
            // Once more, as after a lost reply: nothing is written.
            if let Step::Write(next, outcome) = &step {
                assert_eq!(next.acquire(&claim, *waits, now), Step::Answer(outcome.clone()));
            }
            return next(state, step);
        }
        Operation::Renew(which) => {
            let id = format!("id-{which}");
            let renewals = state.holders.iter().find(|holder| holder.claim.id == id).map_or(1, |h| h.renewals + 1);
            state.renew(&id, renewals, now)
        }
        Operation::Release(which) => state.release(&format!("id-{which}"), now),
        Operation::PassOn(which) => {
            let held = state.holders.iter().find(|holder| holder.claim.id == format!("id-{which}"));
            let mode = held.map_or(Mode::Exclusive, |holder| holder.claim.mode);
            let (claim, id) = (claim(number, mode), format!("id-{which}"));
            let step = state.pass_on(&id, &claim, now);
            match &step {
                // One write does what giving it back and claiming it would.
                Step::Write(passed, _) => {
                    let free = next(state, state.release(&id, now));
                    let apart = next(&free, free.acquire(&claim, true, now));
                    let ids = |all: &[Claim]| all.iter().map(|claim| claim.id.clone()).collect::<Vec<_>>();
                    let held = |state: &LockState| state.holders.iter().map(|h| h.claim.id.clone()).collect::<Vec<_>>();
                    assert_eq!((ids(&passed.waiters), held(passed)), (ids(&apart.waiters), held(&apart)));
                    // Once more, as after a lost reply: nothing is written.
                    assert!(matches!(passed.pass_on(&id, &claim, now), Step::Answer(_)));
                }
                Step::Answer(answer) => assert!(matches!(answer, Claimed::Lost | Claimed::Full), "{answer:?}"),
            }
            return next(state, step);
        }
        Operation::Steal(which) => match state.signs().nth(*which) {
            Some((sign, _)) => state.steal(&sign, now),
            None => state.steal(&Sign::Ours("nobody".to_owned(), 0), now),
        },
        Operation::Settle => state.settle(now),
        Operation::ForeignTakes => {
            let foreign = Foreign { identity: format!("go-{number}"), ttl: Duration::from_secs(9), renewed: Some(now) };
            return LockState { holders: Vec::new(), foreign: Some(foreign), renewed: Some(now), ..state.clone() };
        }
        Operation::ForeignLeaves => return LockState { foreign: None, ..state.clone() },
        Operation::Deleted => return LockState::default(),
    };
    next(state, step)
}

fn next<O>(state: &LockState, step: Step<LockState, O>) -> LockState {
    match step {
        Step::Write(next, _) => {
            assert_ne!(next, *state, "what changes nothing is not written");
            next
        }
        Step::Answer(_) => state.clone(),
    }
}

fn through_its_lease(state: &LockState) -> LockState {
    LockState::of_object(&state.to_object(ObjectMeta::default())).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_done_to_it_its_states_are_those_of_a_lock(operations in prop::collection::vec(operation(), 1..60)) {
        let (mut state, mut history) = (LockState::default(), Vec::new());
        for (number, operation) in operations.iter().enumerate() {
            let now = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(i64::try_from(number).unwrap());
            let after = applied(&state, operation, number, now);
            let back = through_its_lease(&after);
            prop_assert_eq!(&back.holders, &after.holders);
            prop_assert_eq!(&back.waiters, &after.waiters);
            prop_assert_eq!(&back.foreign, &after.foreign);
            if after != state {
                history.push(Seen { token: u64::try_from(number).unwrap() + 1, state: after.clone() });
            }
            state = after;
        }
        prop_assert_eq!(versions(&history), Ok(()));
    }

    #[test]
    fn a_renewal_is_seen_by_who_knows_only_the_lease(seconds in prop::collection::vec(-5000..5000_i64, 1..20)) {
        let Step::Write(mut state, _) = LockState::default().acquire(&claim(0, Mode::Exclusive), true, Timestamp::UNIX_EPOCH)
        else { panic!("it is free") };
        // Wall clocks go as they like.
        for (renewals, second) in seconds.into_iter().enumerate() {
            let now = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(second);
            let Step::Write(next, true) = state.renew("id-0", u64::try_from(renewals).unwrap() + 1, now) else { panic!("held") };
            prop_assert!(next.renewed > state.renewed);
            state = next;
        }
    }
}

#[test]
fn a_lock_takes_no_more_claims_than_its_object_can_keep() {
    let now = Timestamp::UNIX_EPOCH;
    let full = |identity: &str| {
        let mut state = LockState::default();
        for number in 0.. {
            let claim = Claim { identity: identity.to_owned(), ..claim(number, Mode::Exclusive) };
            match state.acquire(&claim, true, now) {
                Step::Write(next, _) => state = next,
                Step::Answer(answer) => {
                    assert_eq!(answer, Claimed::Full);
                    break;
                }
            }
        }
        let annotations = state.to_object(ObjectMeta::default()).metadata.annotations.unwrap();
        (state.waiters.len(), annotations.values().map(String::len).sum::<usize>())
    };
    let (claims, bytes) = full("web-0");
    assert!(claims == MAX_WAITERS && bytes < 256 * 1024, "{claims} {bytes}");
    // Two bytes each in JSON.
    let (claims, bytes) = full(&"\"".repeat(400));
    assert!(claims < MAX_WAITERS && bytes > 200 * 1024 && bytes < 256 * 1024, "{claims} {bytes}");
}

#[test]
fn who_is_not_first_is_not_granted_it_first_or_it_is_noticed() {
    let now = Timestamp::UNIX_EPOCH;
    let mut state = LockState::default();
    let mut history = Vec::new();
    for number in 0..3 {
        state = next(&state, state.acquire(&claim(number, Mode::Exclusive), true, now));
        history.push(Seen { token: u64::try_from(number).unwrap() + 1, state: state.clone() });
    }
    assert_eq!(versions(&history), Ok(()));
    // The last who came goes first.
    state.waiters.swap(0, 1);
    let passed = next(&state, state.release("id-0", now));
    history.push(Seen { token: 9, state: passed });
    assert!(versions(&history).is_err());
}
