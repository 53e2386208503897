//! The quorum's register over clusters in memory, in virtual time: what it costs, counters and locks over it under faults,
//! and what must be noticed when something is wrong.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

#[path = "counter/history.rs"]
mod history;
mod support;

use std::{
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::Duration,
};

use futures::{future::join_all, stream::BoxStream};
use history::{History, Violation};
use proptest::prelude::*;
use quorate_coordination::{
    Counter, CounterError, CounterState, Election, Failure, Lock, LockState, Mode, QuorumRegister, Random, Register,
    Session, Version, Versioned, Virtual,
    counter::Operation,
    quorum::{Accepted, AcceptorState, Ballot, Member},
};
use quorate_crds::DistributedCounterSpec;
use support::{
    clusters::{Cluster, Link},
    paused,
};
use tokio::time::{Instant, sleep, timeout};

/// One member answers within this, or not at all.
const CALL: Duration = Duration::from_millis(500);
const LIMIT: Duration = Duration::from_secs(20);
/// Of histories: whatever befalls calls, it ends.
const PATIENCE: Duration = Duration::from_secs(3600);

fn clusters<S: Clone + std::fmt::Debug + PartialEq + Send + Sync + 'static>(
    count: usize,
    seed: u64,
) -> Vec<Cluster<AcceptorState<S>>> {
    let random = Arc::new(Random::from_seed(&format!("clusters {seed}")));
    (0..count).map(|_| Cluster::new(AcceptorState::default(), &random)).collect()
}

fn session(name: &str) -> Session {
    Session::with(name, Arc::new(Virtual::default()), Arc::new(Random::from_seed(name)))
}

/// A client's way to them.
fn quorum<S: quorate_coordination::quorum::Value>(
    clusters: &[Cluster<AcceptorState<S>>],
    initial: S,
    session: &Session,
) -> QuorumRegister<S, Link<AcceptorState<S>>> {
    let cut = Arc::<AtomicBool>::default();
    let member = |(number, cluster): (usize, &Cluster<_>)| {
        let link = Link { cluster: cluster.clone(), cut: Arc::clone(&cut) };
        Member::new(&format!("cluster-{number}"), link, CALL)
    };
    QuorumRegister::new(clusters.iter().enumerate().map(member).collect(), initial, "a register", session.clone())
}

fn free() -> CounterState {
    CounterState::new(DistributedCounterSpec::default())
}

fn counter(clusters: &[Cluster<AcceptorState<CounterState>>], name: &str, limit: Duration) -> Counter {
    let session = session(name);
    Counter::new(quorum(clusters, free(), &session), session, limit)
}

#[tokio::test(start_paused = true)]
async fn a_proposer_that_goes_on_needs_one_round_a_write_and_a_reader_one_round() {
    let (clusters, session) = (clusters::<u64>(3, 0), session("a"));
    let register = quorum(&clusters, 0, &session);
    let mut at = register.read().await.unwrap();
    let writes = 20;
    for next in 1..=writes {
        at = Versioned { state: next, version: register.compare_and_swap(&at.version, &next).await.unwrap() };
    }
    // What was asked last goes on where nobody waits for it.
    sleep(CALL).await;
    let steps: Vec<u64> = clusters.iter().map(|cluster| cluster.register.now().version).collect();
    assert!(steps.iter().all(|steps| *steps <= writes + 1), "a promise, and then a step a write: {steps:?}");
    assert_eq!(register.read().await.unwrap(), at);
    let after: Vec<u64> = clusters.iter().map(|cluster| cluster.register.now().version).collect();
    assert_eq!(after, steps, "a read writes nothing");
}

#[tokio::test(start_paused = true)]
async fn who_goes_on_asks_a_majority_and_the_others_follow_in_a_moment() {
    let (clusters, session) = (clusters::<u64>(5, 0), session("a"));
    let register = quorum(&clusters, 0, &session);
    let mut at = register.read().await.unwrap().version;
    let steps = || clusters.iter().map(|cluster| cluster.register.now().version).collect::<Vec<_>>();
    let writes = 40;
    for next in 1..=writes {
        at = register.compare_and_swap(&at, &next).await.unwrap();
    }
    // Each in some 20 ms: two of them were told now and then.
    let fewer = steps().into_iter().filter(|steps| *steps < writes / 2).count();
    assert_eq!(fewer, 2, "{:?}", steps());
    let has_last = |cluster: &Cluster<AcceptorState<u64>>| {
        cluster.register.now().state.accepted.is_some_and(|accepted| accepted.ballot == at)
    };
    sleep(CALL).await;
    assert!(clusters.iter().all(has_last), "{:?}", steps());
    let quiet = steps();
    sleep(CALL * 4).await;
    assert_eq!(steps(), quiet, "nobody is told for ever");

    // Of those who answered first two are lost: the others are asked long before these are given up.
    let mut by_steps: Vec<(u64, usize)> = quiet.into_iter().zip(0..).collect();
    by_steps.sort_unstable();
    for (_, number) in &by_steps[3..] {
        clusters[*number].set_down(true);
    }
    for next in 41..=50 {
        let began = Instant::now();
        at = register.compare_and_swap(&at, &next).await.unwrap();
        assert!(began.elapsed() < CALL / 2, "{next}: {:?}", began.elapsed());
    }
    assert_eq!(register.read().await.unwrap(), Versioned { state: 50, version: at });
}

#[tokio::test(start_paused = true)]
async fn versions_rise_with_each_value_and_an_old_one_is_refused() {
    let clusters = clusters::<u64>(5, 0);
    let (a, b) = (quorum(&clusters, 0, &session("a")), quorum(&clusters, 0, &session("b")));
    let none = a.read().await.unwrap();
    assert_eq!((none.state, none.version.token()), (0, 0));
    let first = a.compare_and_swap(&none.version, &1).await.unwrap();
    assert_eq!(b.compare_and_swap(&none.version, &2).await, Err(Failure::Conflict));
    let second = b.compare_and_swap(&first, &3).await.unwrap();
    let third = a.compare_and_swap(&second, &4).await.unwrap();
    assert!(0 < first.token() && first.token() < second.token() && second.token() < third.token());
    assert_eq!(b.read().await.unwrap(), Versioned { state: 4, version: third });
}

#[tokio::test(start_paused = true)]
async fn without_a_majority_every_call_fails_in_time_with_the_reason_and_it_recovers_by_itself() {
    let clusters = clusters(3, 0);
    let counter = counter(&clusters, "a", LIMIT);
    counter.add(1).await.unwrap();
    for cluster in &clusters[1..] {
        cluster.set_down(true);
    }
    for operation in [Operation::Add(1), Operation::Get] {
        let began = Instant::now();
        let told = counter.perform(operation, None).await.unwrap_err().to_string();
        assert!(began.elapsed() <= LIMIT + CALL, "{:?}", began.elapsed());
        for part in ["of 3 members answer, and 2 are needed", "cluster-1: no answer within 500 ms"] {
            assert!(told.contains(part), "{told}");
        }
    }
    clusters[1].set_down(false);
    let after = counter.add(1).await.unwrap().after;
    // Whether the one that failed was done it could not tell.
    assert!(after == 2 || after == 3, "{after}");
}

#[tokio::test(start_paused = true)]
async fn an_election_over_it_has_one_leader_and_rising_terms_through_the_loss_of_a_minority() {
    let clusters = clusters(3, 0);
    let ttl = Duration::from_secs(15);
    // Each has a way of its own, which can be cut.
    let candidate = |name: &str| {
        let (session, cut) = (session(name), Arc::<AtomicBool>::default());
        let member = |(number, cluster): (usize, &Cluster<_>)| {
            let link = Link { cluster: cluster.clone(), cut: Arc::clone(&cut) };
            Member::new(&format!("cluster-{number}"), link, CALL)
        };
        let members = clusters.iter().enumerate().map(member).collect();
        let register = QuorumRegister::new(members, LockState::default(), "a register", session.clone());
        (Election::on(Lock::new(register, session, "n/l", ttl).unwrap()), cut)
    };
    let [(first, cut), (second, _), (third, _)] = ["first", "second", "third"].map(candidate);
    let leads = first.campaign().await.unwrap();
    let waits = tokio::spawn(async move { second.campaign().await.unwrap() });
    clusters[0].set_down(true);
    sleep(ttl * 2).await;
    assert!(!waits.is_finished() && !leads.valid_for().is_zero(), "it is renewed by the others");
    assert_eq!(third.leader().await.unwrap().as_deref(), Some("first"));

    // A leader that is cut off has ended before the next one leads.
    cut.store(true, std::sync::atomic::Ordering::SeqCst);
    let lost = async {
        leads.lost().await;
        Instant::now()
    };
    let next = async {
        let next = waits.await.unwrap();
        (next, Instant::now())
    };
    let (lost, (next, began)) = tokio::join!(lost, next);
    assert!(lost < began && leads.valid_for().is_zero());
    assert!(next.term() > leads.term());

    // Who resigns hands over at once.
    let term = next.term();
    let waits = tokio::spawn(async move { third.campaign().await.unwrap() });
    sleep(Duration::from_secs(1)).await;
    next.resign().await.unwrap();
    let last = timeout(Duration::from_secs(1), waits).await.unwrap().unwrap();
    assert!(last.term() > term);
}

#[tokio::test(start_paused = true)]
async fn a_lock_over_it_goes_from_one_to_the_next_through_the_loss_of_a_minority() {
    let clusters = clusters(5, 0);
    let ttl = Duration::from_secs(15);
    let lock = |name: &str| {
        let session = session(name);
        Lock::new(quorum(&clusters, LockState::default(), &session), session, "n/l", ttl).unwrap()
    };
    let mut tokens = Vec::new();
    let mut held = lock("w0").acquire(Mode::Exclusive, None).await.unwrap();
    for number in 1..8 {
        let waiter = lock(&format!("w{number}"));
        let waits = tokio::spawn(async move { waiter.acquire(Mode::Exclusive, None).await.unwrap() });
        sleep(Duration::from_secs(1)).await;
        assert!(!waits.is_finished() && !held.valid_for().is_zero());
        clusters[number % 5].set_down(true);
        clusters[(number + 1) % 5].set_down(true);
        tokens.push(held.token());
        held.release().await.unwrap();
        held = timeout(ttl, waits).await.unwrap().unwrap();
        clusters[number % 5].set_down(false);
        clusters[(number + 1) % 5].set_down(false);
    }
    assert!(tokens.windows(2).all(|pair| pair[0] < pair[1]), "{tokens:?}");
}

/// Writers that count, while a minority at a time is down and calls are lost.
async fn counted(members: usize, seed: u64) -> Result<(), Violation> {
    let clusters = clusters(members, seed);
    let random = Random::from_seed(&seed.to_string());
    let (history, counters) =
        (History::default(), (0..3).map(|n| counter(&clusters, &format!("{seed}-{n}"), PATIENCE)));
    let counters: Vec<_> = counters.collect();
    let weather = async {
        for _ in 0..10 {
            let first = usize::try_from(random.bits() % members as u64).unwrap();
            let unlucky: Vec<_> = (0..(members - 1) / 2).map(|n| &clusters[(first + n) % members]).collect();
            for cluster in &unlucky {
                cluster.set_down(random.bits().is_multiple_of(2));
            }
            for _ in 0..8 {
                clusters[usize::try_from(random.bits() % members as u64).unwrap()].befall(&random);
                sleep(random.up_to(Duration::from_millis(300))).await;
            }
            for cluster in unlucky {
                cluster.set_down(false);
            }
        }
        // Then it is calm, so that all comes to an end.
        std::future::pending::<()>().await;
    };
    let work = join_all(counters.iter().map(|counter| {
        let history = &history;
        async move {
            for _ in 0..5 {
                history.record(Operation::Add(1), counter.add(1)).await;
            }
        }
    }));
    tokio::select! {
        () = weather => unreachable!("it goes on for ever"),
        _ = work => {}
    }
    let value = counter(&clusters, "last", PATIENCE).get().await.unwrap().after;
    history.check_increments(0, value)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(60), ..ProptestConfig::default() })]

    #[test]
    fn counters_are_exact_and_linearizable_while_minorities_are_lost(seed: u64, members in 1..=5_usize) {
        paused().block_on(async {
            prop_assert_eq!(counted(members, seed).await, Ok(()));
            Ok(())
        })?;
    }

    #[test]
    fn each_value_is_chosen_once_and_in_one_order(seed: u64, members in 2..=5_usize) {
        paused().block_on(async {
            prop_assert_eq!(appended(members, seed, |link| link).await, Ok(()));
            Ok(())
        })?;
    }
}

/// Proposers that each append to a list what nobody else does, and note each version that they see. All of them are
/// beginnings of each other, and none is lost or there twice.
async fn appended<R: Register<State = AcceptorState<Vec<u32>>>>(
    members: usize,
    seed: u64,
    acceptor: impl Fn(Link<AcceptorState<Vec<u32>>>) -> R,
) -> Result<(), String> {
    let clusters = clusters::<Vec<u32>>(members, seed);
    let random = Random::from_seed(&seed.to_string());
    let seen = Mutex::new(Vec::<(Ballot, Vec<u32>)>::new());
    let registers: Vec<_> = (0..3)
        .map(|proposer| {
            let session = session(&format!("{seed}-{proposer}"));
            let member = |(number, cluster): (usize, &Cluster<_>)| {
                let link = Link { cluster: cluster.clone(), cut: Arc::default() };
                Member::new(&format!("cluster-{number}"), acceptor(link), CALL)
            };
            QuorumRegister::new(clusters.iter().enumerate().map(member).collect(), Vec::new(), "a list", session)
        })
        .collect();
    let work = join_all(registers.iter().enumerate().map(|(proposer, register)| {
        let seen = &seen;
        async move {
            for item in 0..4 {
                let item = u32::try_from(proposer * 10 + item).unwrap();
                for _ in 0..20 {
                    let Ok(at) = register.read().await else { continue };
                    seen.lock().unwrap().push((at.version.clone(), at.state.clone()));
                    if at.state.contains(&item) {
                        break;
                    }
                    let next: Vec<u32> = at.state.iter().copied().chain([item]).collect();
                    if let Ok(version) = register.compare_and_swap(&at.version, &next).await {
                        seen.lock().unwrap().push((version, next));
                        break;
                    }
                }
            }
        }
    }));
    let weather = async {
        loop {
            clusters[usize::try_from(random.bits() % members as u64).unwrap()].befall(&random);
            sleep(random.up_to(Duration::from_millis(200))).await;
        }
    };
    tokio::select! {
        () = weather => unreachable!("it goes on for ever"),
        _ = work => {}
    }
    let mut seen = seen.into_inner().unwrap();
    seen.sort();
    for pair in seen.windows(2) {
        let ((earlier, before), (later, after)) = (&pair[0], &pair[1]);
        if !after.starts_with(before) || earlier.round == later.round && (earlier != later || before != after) {
            return Err(format!("{earlier:?} {before:?} and then {later:?} {after:?}"));
        }
    }
    Ok(())
}

/// An acceptor that forgets what it promised.
struct Promiseless(Link<AcceptorState<Vec<u32>>>);

impl Register for Promiseless {
    type State = AcceptorState<Vec<u32>>;
    type Version = u64;

    async fn read(&self) -> Result<Versioned<Self::State, u64>, Failure> {
        let at = self.0.read().await?;
        Ok(Versioned { state: AcceptorState { promised: Ballot::default(), ..at.state }, ..at })
    }

    async fn compare_and_swap(&self, base: &u64, next: &Self::State) -> Result<u64, Failure> {
        self.0.compare_and_swap(base, next).await
    }

    fn watch(&self, from: &u64) -> BoxStream<'static, Option<Versioned<Self::State, u64>>> {
        self.0.watch(from)
    }

    fn name(&self) -> String {
        self.0.name()
    }
}

/// One that writes over whatever is there.
struct Unconditional(Link<AcceptorState<Vec<u32>>>);

impl Register for Unconditional {
    type State = AcceptorState<Vec<u32>>;
    type Version = u64;

    async fn read(&self) -> Result<Versioned<Self::State, u64>, Failure> {
        self.0.read().await
    }

    async fn compare_and_swap(&self, _: &u64, next: &Self::State) -> Result<u64, Failure> {
        let now = self.0.cluster.register.now().version;
        self.0.compare_and_swap(&now, next).await
    }

    fn watch(&self, from: &u64) -> BoxStream<'static, Option<Versioned<Self::State, u64>>> {
        self.0.watch(from)
    }

    fn name(&self) -> String {
        self.0.name()
    }
}

/// Whether one of some histories is found wrong.
fn noticed<R: Register<State = AcceptorState<Vec<u32>>>>(
    acceptor: impl Fn(Link<AcceptorState<Vec<u32>>>) -> R + Copy,
) -> bool {
    (0..300).any(|seed| paused().block_on(appended(3, seed, acceptor)).is_err())
}

#[test]
fn acceptors_that_forget_promises_or_do_not_compare_versions_are_noticed() {
    assert!(!noticed(|link| link));
    assert!(noticed(Promiseless), "promises");
    assert!(noticed(Unconditional), "versions");
}

/// Cluster 2 was away while a value was chosen; then cluster 0 loses its data, and 1 is away. What a reader is told.
async fn wiped(empty_is_made_anew: bool) -> Result<u64, Failure> {
    let clusters = clusters::<u64>(3, 0);
    clusters[2].set_down(true);
    let writer = quorum(&clusters, 0, &session("a"));
    let none = writer.read().await.unwrap();
    writer.compare_and_swap(&none.version, &7).await.unwrap();
    sleep(CALL).await;
    clusters[2].set_down(false);
    clusters[1].set_down(true);
    if empty_is_made_anew {
        clusters[0].restore(&AcceptorState::default()).await;
    } else {
        // Its acceptor is gone, and with it its answers.
        clusters[0].set_down(true);
    }
    quorum(&clusters, 0, &session("b")).read().await.map(|at| at.state)
}

#[tokio::test(start_paused = true)]
async fn a_member_that_lost_its_data_must_not_answer_for_what_it_forgot() {
    let told = wiped(false).await;
    assert!(matches!(&told, Err(Failure::Unknown(why)) if why.contains("1 of 3 members answer")), "{told:?}");
    // With acceptors that are made anew, what was chosen is gone.
    assert_eq!(wiped(true).await, Ok(0));
}

#[tokio::test(start_paused = true)]
async fn what_a_minority_accepted_is_brought_to_an_end_or_never_seen() {
    let clusters = clusters::<u64>(3, 0);
    let half = Ballot { round: 5, proposer: "gone".into() };
    let accepted = Some(Accepted { ballot: half.clone(), value: 9 });
    clusters[1].restore(&AcceptorState { promised: half, accepted, ..AcceptorState::default() }).await;
    let (a, b) = (quorum(&clusters, 0, &session("a")), quorum(&clusters, 0, &session("b")));
    let seen = a.read().await.unwrap();
    assert!(seen.state == 9 || seen.state == 0, "{seen:?}");
    // From then on everybody sees the same.
    for _ in 0..10 {
        assert_eq!(b.read().await.unwrap().state, seen.state);
        assert_eq!(a.read().await.unwrap().state, seen.state);
    }
}

#[tokio::test(start_paused = true)]
async fn duelling_proposers_all_get_on() {
    let clusters = clusters(3, 0);
    let counters: Vec<_> = (0..6).map(|number| counter(&clusters, &format!("w{number}"), LIMIT)).collect();
    let done = join_all(counters.iter().map(|counter| async move {
        for _ in 0..5 {
            counter.add(1).await?;
        }
        Ok::<_, CounterError>(())
    }));
    assert!(done.await.iter().all(Result::is_ok));
    assert_eq!(counters[0].get().await.unwrap().after, 30);
}
