//! The counter: the pure machine, then handles over a register in memory, in virtual time, with faults.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

#[path = "counter/broken.rs"]
mod broken;
#[path = "counter/history.rs"]
mod history;
#[path = "counter/machine.rs"]
mod machine;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::future::join_all;
use proptest::prelude::*;
use quorate_coordination::{
    Counter, CounterError, CounterState, Fault, Random, Register, Session, SimRegister, Virtual,
    counter::{Key, Operation, Refusal},
};
use quorate_crds::{DistributedCounterSpec, MAX_COUNTER_WRITERS};
use tokio::time::{Instant, sleep};

use history::{History, Violation};

type Sim = SimRegister<CounterState>;
/// Long beside all faults, so that every operation is settled.
const LIMIT: Duration = Duration::from_secs(600);

fn state(initial: i64, min: Option<i64>, max: Option<i64>) -> CounterState {
    CounterState::new(DistributedCounterSpec { initial, min, max, cluster_set: None })
}

fn free() -> Sim {
    Sim::new(state(0, None, None))
}

fn session(name: &str) -> Session {
    Session::with(name, Arc::new(Virtual::default()), Arc::new(Random::from_seed(name)))
}

fn handle<R: Register<State = CounterState>>(register: R, name: &str) -> Counter {
    Counter::new(register, session(name), LIMIT)
}

fn value(register: &Sim) -> i64 {
    register.now().state.status.value
}

#[tokio::test(start_paused = true)]
async fn calls_at_the_same_time_are_one_write_and_each_gets_its_own_value() {
    let register = free();
    let counter = handle(register.clone(), "a");
    let answers = join_all((0..100).map(|_| counter.add(1))).await;
    let after: BTreeSet<i64> = answers.into_iter().map(|answer| answer.unwrap().after).collect();
    assert_eq!(after, (1..=100).collect());
    assert!(register.now().version <= 3, "registered, and two writes at most: {}", register.now().version);
}

#[tokio::test(start_paused = true)]
async fn answers_carry_the_version_and_stamps_that_rise() {
    let counter = handle(free(), "a");
    let [first, second, read] = [counter.add(5).await, counter.add(5).await, counter.get().await].map(Result::unwrap);
    assert_eq!((first.before, first.after, second.after, read.after), (0, 5, 10, 10));
    assert!(first.token < second.token && first.lamport < second.lamport && first.hlc < second.hlc);
    assert_eq!((read.token, read.lamport), (second.token, second.lamport));
}

#[tokio::test(start_paused = true)]
async fn a_reader_writes_nothing() {
    let register = free();
    assert_eq!(handle(register.clone(), "a").get().await.unwrap().after, 0);
    assert_eq!(register.now().version, 0);
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_to_answers_an_operation_is_done_once_and_told_exactly() {
    for fault in [Fault::LostReply, Fault::LostRequest, Fault::Delayed, Fault::FalseConflict] {
        let register = free();
        let counter = handle(register.clone(), "a");
        counter.add(1).await.unwrap();
        register.befall([fault]);
        register.lose_reads([true, true]);
        let (ten, set, hundred) = tokio::join!(counter.add(10), counter.compare_and_set(0, 7), counter.add(100));
        assert_eq!((ten.unwrap().after, hundred.unwrap().after, value(&register)), (11, 111, 111), "{fault:?}");
        let mismatch = Refusal::Mismatch { value: 11, expected: 0 };
        assert!(matches!(set, Err(CounterError::Refused { why, .. }) if why == mismatch), "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn others_write_between_a_lost_reply_and_its_settlement() {
    let register = free();
    let counter = handle(register.clone(), "a");
    counter.add(1).await.unwrap();
    register.befall([Fault::LostReply]);
    register.lose_reads([true; 5]);
    let (mine, ()) = tokio::join!(counter.add(1), async {
        sleep(Duration::from_millis(30)).await;
        let now = register.now();
        let mut next = now.state;
        next.status.value += 5;
        register.compare_and_swap(&now.version, &next).await.unwrap();
    });
    assert_eq!((mine.unwrap().after, value(&register)), (2, 7));
}

#[tokio::test(start_paused = true)]
async fn a_counter_that_is_made_again_while_it_is_written_is_no_answer() {
    let register = free();
    let counter = handle(register.clone(), "a");
    counter.add(1).await.unwrap();
    // The write lands, its reply is lost, and then the object is made again.
    register.befall([Fault::LostReply]);
    register.lose_reads([true; 5]);
    let (told, ()) = tokio::join!(counter.add(1), async {
        sleep(Duration::from_millis(30)).await;
        let now = register.now().version;
        register.compare_and_swap(&now, &state(0, None, None)).await.unwrap();
    });
    let told = told.unwrap_err();
    assert!(matches!(told, CounterError::Forgotten { .. }) && told.is_unknown(), "{told}");
    assert!(told.to_string().contains("cannot be told"), "{told}");
    // It registers anew.
    assert_eq!((counter.add(1).await.unwrap().after, value(&register)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_was_forgotten_while_idle_goes_on_under_another_id() {
    let register = free();
    let (counter, other) = (handle(register.clone(), "a"), handle(register.clone(), "b"));
    counter.add(1).await.unwrap();
    let first: Vec<String> = register.now().state.status.writers.into_keys().collect();
    sleep(Duration::from_secs(25 * 3600)).await;
    other.add(1).await.unwrap();
    assert!(!register.now().state.status.writers.contains_key(&first[0]));
    assert_eq!(counter.add(1).await.unwrap().after, 3);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_does_not_wait_takes_its_operation_back_if_it_was_not_sent() {
    let register = free();
    let counter = handle(register.clone(), "a");
    {
        let call = counter.add(1);
        // It is in the queue, and nobody has looked.
        futures::pin_mut!(call);
        assert!(futures::poll!(call.as_mut()).is_pending());
    }
    counter.add(10).await.unwrap();
    assert_eq!(value(&register), 10);
}

#[tokio::test(start_paused = true)]
async fn a_handle_that_goes_leaves_no_trace() {
    let register = free();
    let counter = handle(register.clone(), "a");
    counter.add(1).await.unwrap();
    assert_eq!(register.now().state.status.writers.len(), 1);
    drop(counter);
    while !register.now().state.status.writers.is_empty() {
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(value(&register), 1);
}

#[tokio::test(start_paused = true)]
async fn in_an_outage_it_is_said_whether_anything_may_have_happened() {
    let register = free();
    let counter = Counter::new(register.clone(), session("a"), Duration::from_secs(2));
    counter.add(1).await.unwrap();
    register.lose_reads([true; 10_000]);
    let told = counter.get().await.unwrap_err();
    assert!(!told.is_unknown() && told.to_string().contains("nothing was changed"), "{told}");
    register.befall([Fault::LostReply]);
    let told = counter.add(1).await.unwrap_err();
    assert!(told.is_unknown() && told.to_string().contains("may have been done"), "{told}");
    register.lose_reads([false; 0]);
    let after = loop {
        if let Ok(read) = counter.get().await {
            break read.after;
        }
    };
    assert_eq!((after, counter.add(1).await.unwrap().after), (2, 3), "it goes on where it was");
}

#[tokio::test(start_paused = true)]
async fn the_same_key_gives_the_same_from_any_process() {
    let register = free();
    let (first, second) = (handle(register.clone(), "a"), handle(register.clone(), "b"));
    let key = || Some(Key::new("order-7").unwrap());
    let done = first.perform(Operation::Add(5), key()).await.unwrap();
    first.add(1).await.unwrap();
    let again = second.perform(Operation::Add(5), key()).await.unwrap();
    assert_eq!((again.before, again.after, value(&register)), (done.before, done.after, 6));
    let other = second.perform(Operation::Add(6), key()).await.unwrap_err();
    assert!(other.to_string().contains("was used for \"add 5\""), "{other}");
    // At once, both from one process and from two.
    let key = || Some(Key::new("order-8").unwrap());
    let all = [&first, &first, &second].map(|counter| counter.perform(Operation::Add(10), key()));
    let all: BTreeSet<i64> = join_all(all).await.into_iter().map(|answer| answer.unwrap().after).collect();
    assert_eq!((all, value(&register)), (BTreeSet::from([16]), 16));
}

#[tokio::test(start_paused = true)]
async fn ids_are_unique_and_rise_by_handle() {
    let register = free();
    let mut seen = BTreeSet::new();
    for name in ["a", "b", "c"] {
        let ids = handle(register.clone(), name).ids(10);
        let mut before = i64::MIN;
        for _ in 0..25 {
            let id = ids.next().await.unwrap();
            assert!(id > before && seen.insert(id), "{id}");
            before = id;
        }
    }
    // Three blocks each: what is left of the last ones is lost.
    assert_eq!((seen.len(), seen.first(), value(&register)), (75, Some(&1), 90));
    let bounded = Sim::new(state(0, None, Some(15)));
    let ids = handle(bounded, "a").ids(10);
    assert_eq!(ids.next().await.unwrap(), 1);
    for _ in 0..9 {
        ids.next().await.unwrap();
    }
    let none = ids.next().await.unwrap_err();
    assert!(none.to_string().contains("above spec.max 15"), "{none}");
}

#[tokio::test(start_paused = true)]
async fn a_lone_writer_never_waits() {
    let register = free().far(Arc::new(Random::from_seed("lag")), Duration::from_millis(4));
    let counter = handle(register.clone(), "a");
    counter.add(1).await.unwrap();
    let began = Instant::now();
    for _ in 0..100 {
        counter.add(1).await.unwrap();
    }
    // A request and an answer, each 2 ms on average, and timers count in milliseconds.
    let each = began.elapsed() / 100;
    assert!(each < Duration::from_millis(6), "{each:?}");
    assert_eq!(register.now().version, 102, "each was one write, and nothing else was");
}

/// Increments of each of so many writers, each with one caller, in this time.
async fn contended(writers: usize, time: Duration) -> Vec<u32> {
    let register = free();
    let begin = Instant::now() + Duration::from_secs(3);
    let until = begin + time;
    let all = (0..writers).map(|number| {
        let name = format!("w{number}");
        let register = register.clone().far(Arc::new(Random::from_seed(&name)), Duration::from_millis(4));
        let counter = handle(register, &name);
        async move {
            let mut done = 0;
            while Instant::now() < until {
                counter.add(1).await.unwrap();
                // At first they have to find each other.
                done += u32::from(Instant::now() > begin);
            }
            done
        }
    });
    join_all(all).await
}

#[tokio::test(start_paused = true)]
async fn writers_take_turns_and_none_is_left_behind() {
    let alone: u32 = contended(1, Duration::from_secs(20)).await.iter().sum();
    for writers in [2, 8, 32] {
        let done = contended(writers, Duration::from_secs(20)).await;
        let (slowest, quickest, all) =
            (done.iter().min().unwrap(), done.iter().max().unwrap(), done.iter().sum::<u32>());
        println!("{writers}: {all} of {alone}, {slowest} to {quickest}");
        assert!(slowest * 10 >= quickest * 9, "{writers}: {slowest} to {quickest}");
        // Nobody reads before a write: who is next is told, here at once.
        assert!(all > alone, "{writers}: {all} of {alone}");
    }
}

#[tokio::test(start_paused = true)]
async fn writers_that_stop_are_waited_for_once() {
    let register = free();
    let near = |number: usize| {
        let register = register.clone().far(Arc::new(Random::from_seed(&number.to_string())), Duration::from_millis(4));
        handle(register, &format!("w{number}"))
    };
    let handles: Vec<Counter> = (0..8).map(near).collect();
    let adds = |counter: Counter, adds: usize| async move {
        for _ in 0..adds {
            counter.add(1).await.unwrap();
        }
    };
    join_all(handles.iter().cloned().map(|counter| adds(counter, 100))).await;
    // Six of them idle, and are still registered.
    let began = Instant::now();
    join_all(handles[..2].iter().cloned().map(|counter| adds(counter, 100))).await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!((register.now().state.status.writers.len(), value(&register)), (8, 1_000));
}

#[tokio::test(start_paused = true)]
async fn on_a_slow_api_server_many_writers_that_died_hold_nobody_up() {
    let register = free();
    let far = register.clone().far(Arc::new(Random::from_seed("lag")), Duration::from_secs(2));
    let counter = handle(far, "alive");
    counter.add(1).await.unwrap();
    counter.add(1).await.unwrap();
    // As many as there may be wrote at the same time as it did, and then were no more.
    let mut now = register.now();
    let entry = now.state.status.writers.values().next().unwrap().clone();
    let dead = (1..MAX_COUNTER_WRITERS).map(|number| (format!("dead-{number}"), entry.clone()));
    now.state.status.writers.extend(dead);
    register.compare_and_swap(&now.version, &now.state).await.unwrap();
    for _ in 0..10 {
        let began = Instant::now();
        counter.add(1).await.unwrap();
        let took = began.elapsed();
        assert!(took < Duration::from_secs(20), "{took:?}");
    }
}

/// What a client does next.
#[derive(Clone, Copy, Debug)]
enum Act {
    Do(Operation),
    Idle(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (-3..=5_i64).prop_map(|delta| Act::Do(Operation::Add(delta))),
        2 => ((-2..=4_i64), (-4..=9_i64)).prop_map(|(expected, new)| Act::Do(Operation::CompareAndSet { expected, new })),
        1 => Just(Act::Do(Operation::Get)),
        1 => (1..200_u64).prop_map(Act::Idle),
    ]
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        4 => Just(Fault::None),
        2 => Just(Fault::LostReply),
        1 => Just(Fault::LostRequest),
        1 => Just(Fault::Delayed),
        1 => Just(Fault::FalseConflict),
    ]
}

/// Clients of some handles over registers, each acting one after the other, and what they saw.
async fn run<R: Register<State = CounterState>>(registers: Vec<R>, clients: Vec<Vec<Act>>) -> History {
    let history = History::default();
    let handles: Vec<Counter> =
        registers.into_iter().enumerate().map(|(number, register)| handle(register, &format!("w{number}"))).collect();
    join_all(clients.into_iter().enumerate().map(|(number, acts)| {
        let (history, counter) = (&history, handles[number % handles.len()].clone());
        async move {
            for act in acts {
                match act {
                    Act::Do(operation) => history.record(operation, counter.perform(operation, None)).await,
                    Act::Idle(millis) => sleep(Duration::from_millis(millis)).await,
                }
            }
        }
    }))
    .await;
    history
}

fn paused() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(300), ..ProptestConfig::default() })]

    #[test]
    fn histories_are_linearizable_and_exact_whatever_happens_to_answers(
        clients in prop::collection::vec(prop::collection::vec(act(), 1..5), 1..5),
        handles in 1..4_usize,
        faults in prop::collection::vec(fault(), 0..40),
        lost in prop::collection::vec(prop::bool::weighted(0.3), 0..40),
        lag in 0..20_u64,
    ) {
        paused().block_on(async {
            let (initial, min, max) = (1, Some(-4), Some(9));
            let register = Sim::new(state(initial, min, max));
            register.befall(faults);
            register.lose_reads(lost);
            let far = |number: usize| {
                let random = Arc::new(Random::from_seed(&number.to_string()));
                register.clone().far(random, Duration::from_millis(lag))
            };
            let history = run((0..handles).map(far).collect(), clients).await;
            assert_eq!(history.check(initial, (min, max), value(&register)), Ok(()));
        });
    }

    #[test]
    fn many_increments_are_each_counted_once(
        writers in 2..12_usize,
        callers in 1..6_usize,
        faults in prop::collection::vec(fault(), 0..150),
        lag in 0..10_u64,
    ) {
        paused().block_on(async {
            let register = free();
            register.befall(faults);
            let far = |number: usize| {
                register.clone().far(Arc::new(Random::from_seed(&number.to_string())), Duration::from_millis(lag))
            };
            let clients = vec![vec![Act::Do(Operation::Add(1)); 4]; writers * callers];
            let history = run((0..writers).map(far).collect(), clients).await;
            prop_assert_eq!(history.check_increments(0, value(&register)), Ok(()));
            Ok(())
        })?;
    }
}

/// The history of two callers, some of whose answers are lost, over a register that is broken in some way.
async fn over_a_broken<R: Register<State = CounterState>>(
    lost: usize,
    broken: impl Fn(Sim) -> R,
) -> Result<(), Violation> {
    let register = free();
    register.befall([Fault::None; 4].into_iter().chain(std::iter::repeat_n(Fault::LostReply, lost)));
    let near = |number: usize| {
        broken(register.clone().far(Arc::new(Random::from_seed(&number.to_string())), Duration::from_millis(3)))
    };
    // They register one after the other, and write at the same time when each has long forgotten what it knew.
    let (add, idle) = (Act::Do(Operation::Add(1)), Act::Idle);
    let clients =
        vec![vec![add, idle(100_000), add, add, add, add], vec![idle(50), add, idle(99_950), add, add, add, add]];
    let history = run((0..2).map(near).collect(), clients).await;
    history.check_increments(0, value(&register))
}

#[tokio::test(start_paused = true)]
async fn the_checks_find_what_is_broken() {
    assert_eq!(over_a_broken(2, |register| register).await, Ok(()));
    // Without the writers' sequences a write whose answer was lost is done again.
    let told = over_a_broken(2, broken::amnesia).await.unwrap_err();
    assert!(matches!(told, Violation::Sum { .. }), "{told:?}");
    // Where an entry that is missing is made anew, too.
    let told = over_a_broken(2, broken::registering).await.unwrap_err();
    assert!(matches!(told, Violation::Sum { .. }), "{told:?}");
    // Without the compare in compare-and-swap, writes are lost.
    let told = over_a_broken(0, broken::unconditional).await.unwrap_err();
    assert!(matches!(told, Violation::Sum { .. } | Violation::Twice(_)), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_missing_entry_is_never_made_anew_silently() {
    // The same loss of entries as in `broken::registering`, with the machine as it is.
    let register = free();
    let counter = handle(broken::forgetting(register.clone()), "a");
    register.befall([Fault::None, Fault::LostReply]);
    let told = counter.add(1).await.unwrap_err();
    assert!(matches!(told, CounterError::Forgotten { .. }), "{told}");
    assert_eq!(value(&register), 1);
}
