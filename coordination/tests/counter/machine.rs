//! The pure machine.

use std::time::Duration;

use jiff::Timestamp;
use quorate_coordination::{
    CounterState, Stamp, Step,
    counter::{Batch, Change, KEY_LIFETIME, Key, Operation, Outcome, Refusal, Signature},
};
use quorate_crds::{DistributedCounterSpec, MAX_COUNTER_KEYS, MAX_COUNTER_WRITERS};

use super::state;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn signed(seconds: u64) -> Signature {
    let at = Timestamp::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds);
    Signature { by: "pod".into(), uid: None, lamport: 1, hlc: Stamp::default(), at }
}

fn written<O>(step: Step<CounterState, O>) -> (CounterState, O) {
    let Step::Write(next, outcome) = step else { panic!("nothing is to be written") };
    (next, outcome)
}

fn answered<O>(step: Step<CounterState, O>) -> O {
    let Step::Answer(outcome) = step else { panic!("something is to be written") };
    outcome
}

fn registered(state: &CounterState, id: &str) -> CounterState {
    let (next, room) = written(state.register(id, &signed(0)));
    assert!(room);
    next
}

fn batch(sequence: i64, plain: &[Operation]) -> Batch {
    Batch { writer: "a".into(), sequence, plain: plain.to_vec(), keyed: Vec::new() }
}

fn keyed(sequence: i64, key: &str, operation: Operation) -> Batch {
    Batch { keyed: vec![(Key::new(key).unwrap(), operation)], ..batch(sequence, &[]) }
}

#[expect(clippy::unnecessary_wraps, reason = "it stands beside refusals")]
fn done(before: i64, after: i64) -> Outcome {
    Ok(Change { before, after })
}

#[test]
fn each_operation_of_a_batch_is_done_or_not_by_itself() {
    let start = registered(&state(i64::MAX - 1, Some(5), None), "a");
    let asked = [
        Operation::Add(1),
        Operation::Add(1),
        Operation::Get,
        Operation::CompareAndSet { expected: 3, new: 4 },
        Operation::CompareAndSet { expected: i64::MAX, new: 4 },
        Operation::CompareAndSet { expected: i64::MAX, new: 6 },
        Operation::Add(-2),
        Operation::Add(-1),
    ];
    let (next, outcomes) = written(start.apply(&batch(1, &asked), &signed(1)));
    let expected = [
        done(i64::MAX - 1, i64::MAX),
        Err(Refusal::Overflow { value: i64::MAX, delta: 1 }),
        done(i64::MAX, i64::MAX),
        Err(Refusal::Mismatch { value: i64::MAX, expected: 3 }),
        Err(Refusal::BelowMin { value: i64::MAX, wanted: 4, min: 5 }),
        done(i64::MAX, 6),
        Err(Refusal::BelowMin { value: 6, wanted: 4, min: 5 }),
        done(6, 5),
    ];
    assert_eq!((outcomes, next.status.value), (Some(expected.into()), 5));
    let low = registered(&state(i64::MIN, None, Some(i64::MIN)), "a");
    let refused = answered(low.apply(&batch(1, &[Operation::Add(-1), Operation::Add(1)]), &signed(1))).unwrap();
    assert_eq!(refused[0], Err(Refusal::Overflow { value: i64::MIN, delta: -1 }));
    assert!(matches!(refused[1], Err(Refusal::AboveMax { .. })));
}

#[test]
fn a_batch_that_was_applied_gives_the_same_again_and_changes_nothing() {
    let asked = batch(1, &[Operation::Add(3), Operation::Add(9), Operation::Get]);
    let start = registered(&registered(&state(0, None, Some(10)), "a"), "b");
    let (after, first) = written(start.apply(&asked, &signed(1)));
    // Others have written since, and the bounds are others.
    let of_b = Batch { writer: "b".into(), ..batch(1, &[Operation::Add(-1)]) };
    let (mut later, _) = written(after.apply(&of_b, &signed(2)));
    later.spec = DistributedCounterSpec { initial: 0, min: None, max: None, cluster_set: None };
    assert_eq!(answered(later.apply(&asked, &signed(3))), first);
}

#[test]
fn without_an_entry_nothing_is_applied() {
    let (start, asked) = (state(0, None, None), batch(1, &[Operation::Add(1)]));
    assert_eq!(answered(start.apply(&asked, &signed(0))), None);
    let (left, ()) = written(registered(&start, "a").leave("a", &signed(1)));
    assert_eq!(answered(left.apply(&asked, &signed(2))), None);
    answered(left.leave("a", &signed(3)));
    assert!(answered(registered(&start, "a").register("a", &signed(1))), "once is enough");
}

#[test]
fn what_changes_nothing_is_not_written() {
    let start = registered(&state(0, None, Some(0)), "a");
    let asked = [Operation::Get, Operation::Add(1), Operation::CompareAndSet { expected: 0, new: 0 }];
    let outcomes = answered(start.apply(&batch(1, &asked), &signed(1))).unwrap();
    assert_eq!((&outcomes[0], &outcomes[2]), (&done(0, 0), &done(0, 0)));
}

#[test]
fn who_wrote_longest_ago_is_next_and_who_does_not_come_is_passed_over() {
    let signed = |lamport| Signature { lamport, ..signed(0) };
    let order = |state: &CounterState| ["a", "b", "c"].map(|id| state.before(id));
    let mut now = state(0, None, None);
    for (lamport, id) in [(1, "a"), (2, "b"), (3, "c")] {
        now = written(now.register(id, &signed(lamport))).0;
    }
    let write = |now: &CounterState, id: &str, lamport| {
        let sequence = now.status.writers[id].sequence + 1;
        let batch = Batch { writer: id.into(), ..batch(sequence, &[Operation::Add(1)]) };
        written(now.apply(&batch, &signed(lamport))).0
    };
    assert_eq!((order(&now), now.status.next.as_str()), ([Some(0), Some(1), Some(2)], "a"));
    let now = write(&now, "a", 4);
    assert_eq!((order(&now), now.status.next.as_str()), ([Some(2), Some(0), Some(1)], "b"));
    // c does not wait for b any longer: b is passed over, and nobody else is.
    let now = write(&now, "c", 5);
    assert_eq!((order(&now), now.status.next.as_str()), ([Some(0), None, Some(1)], "a"));
    // b comes when it likes, and takes nobody's turn.
    let now = write(&now, "b", 6);
    assert_eq!((order(&now), now.status.next.as_str()), ([Some(0), Some(2), Some(1)], "a"));
    let (now, ()) = written(now.leave("a", &signed(7)));
    assert_eq!((order(&now), now.status.next.as_str()), ([None, Some(1), Some(0)], "c"));
}

#[test]
fn a_key_gives_the_same_for_its_lifetime_also_what_was_refused() {
    let start = registered(&state(0, None, Some(7)), "a");
    let (next, first) = written(start.apply(&keyed(1, "k", Operation::Add(5)), &signed(1)));
    let (next, refused) = written(next.apply(&keyed(2, "r", Operation::Add(5)), &signed(1)));
    let above = Err(Refusal::AboveMax { value: 5, wanted: 10, max: 7 });
    assert_eq!((first.unwrap(), refused.unwrap()), (vec![done(0, 5)], vec![above.clone()]));
    let (next, _) = written(next.apply(&batch(3, &[Operation::Add(-4)]), &signed(2)));
    let late = KEY_LIFETIME.as_secs();
    let again =
        |sequence, key, operation| answered(next.apply(&keyed(sequence, key, operation), &signed(late))).unwrap();
    assert_eq!((again(4, "k", Operation::Add(5)), again(5, "r", Operation::Add(5))), (vec![done(0, 5)], vec![above]));
    let reused = Refusal::KeyReused { used: "add 5".into(), asked: "set 1 to 2".into() };
    assert_eq!(again(6, "k", Operation::CompareAndSet { expected: 1, new: 2 }), vec![Err(reused)]);
    // It is forgotten when room is made for another.
    let (next, _) = written(next.apply(&keyed(7, "l", Operation::Add(1)), &signed(3 * late + 2)));
    assert_eq!(next.status.keys.len(), 1);
}

#[test]
fn operations_with_and_without_keys_share_a_write_that_is_recalled_exactly() {
    let start = registered(&state(0, None, Some(30)), "a");
    let (key, other) = (Key::new("k").unwrap(), Key::new("l").unwrap());
    let (ten, hundred) = (Operation::Add(10), Operation::Add(100));
    let asked =
        Batch { keyed: vec![(key.clone(), ten), (key, ten), (other, hundred)], ..batch(1, &[Operation::Add(1); 2]) };
    let (next, outcomes) = written(start.apply(&asked, &signed(1)));
    let above = Err(Refusal::AboveMax { value: 12, wanted: 112, max: 30 });
    let expected = vec![done(0, 1), done(1, 2), done(2, 12), done(2, 12), above];
    assert_eq!((outcomes, next.status.value), (Some(expected.clone()), 12));
    let (later, _) = written(next.apply(&batch(2, &[Operation::Add(1)]), &signed(2)));
    assert_eq!(answered(next.apply(&asked, &signed(3))), Some(expected));
    // An answer that is not there any more is not made up.
    let mut lost = next;
    lost.status.keys.clear();
    assert_eq!(answered(lost.apply(&asked, &signed(3))).unwrap()[2], Err(Refusal::KeyForgotten));
    assert_eq!(later.status.value, 13);
}

#[test]
fn writers_and_keys_are_bounded_and_the_old_make_room() {
    let mut crowded = state(0, None, None);
    for number in 0..MAX_COUNTER_WRITERS {
        crowded = registered(&crowded, &number.to_string());
    }
    assert!(!answered(crowded.register("new", &signed(60))), "all are live");
    let (spared, _) = written(crowded.register("new", &signed(3600)));
    assert_eq!(spared.status.writers.len(), MAX_COUNTER_WRITERS);
    let (fresh, _) = written(crowded.register("new", &signed(DAY.as_secs())));
    assert_eq!(fresh.status.writers.len(), 1);

    let mut crowded = registered(&state(0, None, None), "a");
    let keys = (0..MAX_COUNTER_KEYS).map(|number| (Key::new(&number.to_string()).unwrap(), Operation::Add(1)));
    (crowded, _) = written(crowded.apply(&Batch { keyed: keys.collect(), ..batch(1, &[]) }, &signed(0)));
    let full = answered(crowded.apply(&keyed(2, "new", Operation::Add(1)), &signed(60))).unwrap();
    assert_eq!(full, vec![Err(Refusal::KeysFull)]);
    let known = answered(crowded.apply(&keyed(3, "7", Operation::Add(1)), &signed(60))).unwrap();
    assert_eq!(known, vec![done(7, 8)], "what is kept is given");
    let (room, _) = written(crowded.apply(&keyed(4, "new", Operation::Add(1)), &signed(3600)));
    assert_eq!(room.status.keys.len(), MAX_COUNTER_KEYS);
}

#[test]
fn keys_have_bounds() {
    assert!(Key::new("").is_err() && Key::new(&"k".repeat(256)).is_err());
    assert_ne!(Key::new("a").unwrap(), Key::new("b").unwrap());
    assert_eq!(Key::new("b2c7…").unwrap().hash().len(), 32);
}
