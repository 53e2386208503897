//! `RedLock` over clusters in memory, in virtual time: what it promises, and histories under faults, with what must be noticed
//! when it is wrong.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod support;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use proptest::prelude::*;
use quorate_coordination::{
    Mode, Random, RedLock, RedLockError, Session,
    lock::{believed, patience},
    redlock::MemberState,
};

use support::{
    history::{self, Event, Grant},
    paused,
    world::Skewed,
};
use tokio::time::{Instant, sleep, timeout};

type Cluster = support::clusters::Cluster<MemberState>;
type Link = support::clusters::Link<MemberState>;

const TTL: Duration = Duration::from_secs(10);

fn clusters(count: usize) -> Vec<Cluster> {
    let random = Arc::new(Random::from_seed("clusters"));
    (0..count).map(|_| Cluster::new(MemberState::default(), &random)).collect()
}

fn participant(clusters: &[Cluster], name: &str, rate: f64) -> (RedLock<Link>, Arc<AtomicBool>) {
    let (random, cut) = (Arc::new(Random::from_seed(name)), Arc::new(AtomicBool::new(false)));
    let session = Session::with(name, Arc::new(Skewed::new(rate, &random)), random);
    let link = |(number, cluster): (usize, &Cluster)| {
        (format!("cluster-{number}"), Link { cluster: cluster.clone(), cut: Arc::clone(&cut) })
    };
    (RedLock::new(clusters.iter().enumerate().map(link).collect(), session, "n/l", TTL).unwrap(), cut)
}

fn lock(clusters: &[Cluster], name: &str) -> RedLock<Link> {
    participant(clusters, name, 1.0).0
}

#[tokio::test(start_paused = true)]
async fn one_holds_it_at_a_time_and_each_has_a_higher_token() {
    let clusters = clusters(3);
    let (a, b) = (lock(&clusters, "a"), lock(&clusters, "b"));
    a.create().await.unwrap();
    let held = a.try_acquire().await.unwrap();
    assert!(held.valid_for() + Duration::from_millis(100) > believed(TTL));
    let told = b.acquire(Some(Duration::from_secs(1))).await.err().unwrap();
    assert!(matches!(&told, RedLockError::Busy { by, .. } if by == "a"), "{told}");
    let first = held.token();
    held.release().await.unwrap();
    let second = b.acquire(Some(Duration::from_secs(1))).await.unwrap().token();
    assert!(second > first && first > 0, "{first}, {second}");
    let told = b.create().await.err().unwrap().to_string();
    assert!(told.contains("is not new"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn a_new_lock_waits_for_holders_that_all_might_have_forgotten_unless_it_is_said_to_be_new() {
    let clusters = clusters(3);
    let began = Instant::now();
    lock(&clusters, "a").acquire(None).await.unwrap();
    assert!(began.elapsed() >= patience(TTL), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_minority_may_be_lost_and_without_a_majority_it_is_told_why_in_time() {
    let clusters = clusters(5);
    let lock = lock(&clusters, "a");
    lock.create().await.unwrap();
    for cluster in &clusters[..2] {
        cluster.set_down(true);
    }
    let held = lock.acquire(Some(Duration::from_secs(5))).await.unwrap();
    // It is kept, too.
    sleep(TTL * 3).await;
    assert!(!held.valid_for().is_zero());
    clusters[2].set_down(true);
    let why = timeout(TTL, held.lost()).await.unwrap();
    assert!(why.contains("cluster-2: no answer within 500 ms"), "{why}");
    drop(held);
    let began = Instant::now();
    let told = lock.acquire(Some(Duration::from_secs(2))).await.err().unwrap().to_string();
    assert!(began.elapsed() < Duration::from_secs(4) && told.contains("3 of its 5 members are needed"), "{told}");
    for cluster in &clusters {
        cluster.set_down(false);
    }
    let again = lock.acquire(Some(TTL * 2)).await.unwrap();
    assert!(again.token() > 1);
}

#[tokio::test(start_paused = true)]
async fn a_crashed_holder_is_replaced_after_its_time_and_not_before() {
    let clusters = clusters(3);
    let (a, cut) = participant(&clusters, "a", 1.0);
    a.create().await.unwrap();
    let held = a.acquire(None).await.unwrap();
    cut.store(true, Ordering::SeqCst);
    let began = Instant::now();
    let next = lock(&clusters, "b").acquire(None).await.unwrap();
    assert!(held.valid_for().is_zero() && next.token() > held.token());
    let waited = began.elapsed();
    assert!(waited >= patience(TTL) && waited < patience(TTL) + Duration::from_secs(3), "{waited:?}");
}

/// One holds members 0 and 1, as 2 was down. Then 0 loses its data, 1 goes on, and 2 comes back.
async fn wiped(missing_is_free: bool) -> (Duration, bool) {
    let random = Arc::new(Random::from_seed("wiped"));
    // What a missing Lease is taken for.
    let none = MemberState { joined: missing_is_free, ..MemberState::default() };
    let clusters: Vec<_> = (0..3).map(|_| Cluster::new(none.clone(), &random)).collect();
    let (a, cut) = participant(&clusters, "a", 1.0);
    if !missing_is_free {
        a.create().await.unwrap();
    }
    clusters[2].set_down(true);
    let held = a.acquire(None).await.unwrap();
    // The holder hears nothing any more, but believes for a while.
    cut.store(true, Ordering::SeqCst);
    clusters[2].set_down(false);
    clusters[0].restore(&none).await;
    let began = Instant::now();
    let next = lock(&clusters, "b").acquire(None).await.unwrap();
    let two_at_once = !held.valid_for().is_zero();
    assert!(two_at_once || next.token() > held.token());
    (began.elapsed(), two_at_once)
}

#[tokio::test(start_paused = true)]
async fn a_member_that_lost_its_data_grants_nothing_until_nobody_can_hold_it_any_more() {
    let (waited, two_at_once) = wiped(false).await;
    assert!(!two_at_once && waited >= patience(TTL), "{waited:?}");
    // What takes a missing Lease for a free one has two holders.
    assert!(wiped(true).await.1);
}

#[tokio::test(start_paused = true)]
async fn a_member_with_an_older_token_than_it_had_joins_again_with_the_majoritys() {
    let clusters = clusters(3);
    let lock = lock(&clusters, "a");
    lock.create().await.unwrap();
    let first = lock.acquire(None).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    let copy = clusters[0].register.now().state;
    first.release().await.unwrap();
    let second = lock.acquire(None).await.unwrap().token();
    // Its etcd was restored from a copy.
    clusters[0].restore(&copy).await;
    sleep(Duration::from_secs(1)).await;
    clusters[1].set_down(true);
    let began = Instant::now();
    let third = lock.acquire(None);
    let told = timeout(TTL * 4, third).await;
    assert!(told.is_err(), "one that was restored and one are no majority");
    clusters[1].set_down(false);
    let third = lock.acquire(Some(TTL * 4)).await.unwrap();
    assert!(third.token() > second && began.elapsed() >= patience(TTL));
    for _ in 0..400 {
        sleep(Duration::from_millis(100)).await;
        if clusters[0].register.now().state.token >= second {
            return;
        }
    }
    panic!("it does not join: {:?}", clusters[0].register.now());
}

#[test]
fn what_makes_no_sense_is_told() {
    let session = || Session::with("a", Arc::new(quorate_coordination::Boottime), Arc::new(Random::from_seed("a")));
    let none = RedLock::<Link>::new(Vec::new(), session(), "n/l", TTL).err().unwrap().to_string();
    assert!(none.contains("has no members"), "{none}");
    for ttl in [Duration::ZERO, Duration::from_secs(365 * 86_400)] {
        assert!(matches!(
            RedLock::<Link>::new(Vec::new(), session(), "n/l", ttl).err().unwrap(),
            RedLockError::Invalid(_)
        ));
    }
}

/// What a history is made of.
#[derive(Clone, Debug)]
struct Plan {
    seed: u64,
    members: usize,
    /// Clocks' rates are off by up to this.
    drift: f64,
    /// Whether it believes in its grant for the whole of its time, without the margin.
    whole_ttl: bool,
    /// Whether what the lock protects refuses lower tokens.
    fenced: bool,
}

impl Plan {
    fn of(seed: u64, members: usize) -> Self {
        Self { seed, members, drift: 0.05, whole_ttl: false, fenced: true }
    }
}

/// What all see.
#[derive(Default)]
struct Scene {
    events: Mutex<Vec<Event>>,
    /// The resource: its highest token, and all that it accepted.
    highest: AtomicU64,
    accepted: Mutex<Vec<u64>>,
}

fn play(plan: &Plan) -> Scene {
    paused().block_on(async {
        let random = Arc::new(Random::from_seed(&plan.seed.to_string()));
        let clusters: Vec<_> = (0..plan.members).map(|_| Cluster::new(MemberState::default(), &random)).collect();
        let (scene, began) = (Arc::new(Scene::default()), Instant::now());
        lock(&clusters, "first").create().await.unwrap();
        let weather = tokio::spawn(weather(clusters.clone(), Arc::clone(&random)));
        let clients: Vec<_> = (0..4)
            .map(|number| tokio::spawn(client(number, plan.clone(), clusters.clone(), Arc::clone(&scene), began)))
            .collect();
        for client in clients {
            client.await.unwrap();
        }
        weather.abort();
        Arc::into_inner(scene).unwrap()
    })
}

/// Of the members, a minority at a time is down, or loses its data.
async fn weather(clusters: Vec<Cluster>, random: Arc<Random>) {
    let some = clusters.len().div_ceil(2) - 1;
    loop {
        let first = usize::try_from(random.bits() % clusters.len() as u64).unwrap();
        let unlucky: Vec<_> = (0..some).map(|n| &clusters[(first + n) % clusters.len()]).collect();
        for cluster in &unlucky {
            if random.bits().is_multiple_of(3) {
                cluster.restore(&MemberState::default()).await;
            } else {
                cluster.set_down(true);
            }
        }
        for _ in 0..20 {
            clusters[usize::try_from(random.bits() % clusters.len() as u64).unwrap()].befall(&random);
            sleep(random.up_to(TTL / 4)).await;
        }
        for cluster in unlucky {
            cluster.set_down(false);
        }
        // What was wiped joins again before the next ones are: else a majority has lost its data.
        sleep(TTL * 4).await;
    }
}

/// Takes the lock some times, each time uses it for a while, and is cut off now and then. It lives on nevertheless.
async fn client(number: u64, plan: Plan, clusters: Vec<Cluster>, scene: Arc<Scene>, began: Instant) {
    let random = Random::from_seed(&format!("{} {number}", plan.seed));
    for life in 0..6 {
        let who = format!("c{number}-{life}-{}", plan.seed);
        // The worst are at the ends.
        let rate = if random.bits().is_multiple_of(2) { 1.0 + plan.drift } else { 1.0 - plan.drift };
        let (lock, cut) = participant(&clusters, &who, rate);
        sleep(random.up_to(TTL)).await;
        let asked = began.elapsed();
        let Ok(held) = lock.acquire(Some(TTL * 6)).await else { continue };
        let (claim, from) = (held.claim().to_owned(), began.elapsed());
        let note = |event| scene.events.lock().unwrap().push(event);
        note(Event::Granted(Grant {
            who,
            claim: claim.clone(),
            mode: Mode::Exclusive,
            token: held.token(),
            asked,
            from,
            until: from,
        }));
        if random.bits().is_multiple_of(3) {
            cut.store(true, Ordering::SeqCst);
        }
        for _ in 0..random.bits() % 12 {
            let margin = if plan.whole_ttl { TTL.saturating_sub(believed(TTL)) } else { Duration::ZERO };
            let valid = held.valid_for();
            if valid.is_zero() {
                break;
            }
            let until = began.elapsed() + (valid + margin).div_f64(rate);
            note(Event::Believes { claim: claim.clone(), until });
            // It stands still between looking and writing.
            sleep(random.up_to(TTL / 4)).await;
            write(&scene, held.token(), plan.fenced);
        }
        if cut.load(Ordering::SeqCst) {
            // It never says that it ended.
            sleep(random.up_to(TTL * 2)).await;
            write(&scene, held.token(), plan.fenced);
        }
        note(Event::Ended { claim, at: began.elapsed() });
        let _ = held.release().await;
    }
}

fn write(scene: &Scene, token: u64, fenced: bool) {
    let highest = scene.highest.fetch_max(token, Ordering::SeqCst);
    if token >= highest || !fenced {
        scene.accepted.lock().unwrap().push(token);
    }
}

fn check(scene: &Scene) -> Result<(), String> {
    let grants = history::grants(&scene.events.lock().unwrap());
    history::tokens(&grants)?;
    history::fenced(&scene.accepted.lock().unwrap())?;
    history::beliefs(&grants)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn no_two_ever_believe_that_they_hold_it(seed: u64, members in 3..=5_usize) {
        let scene = play(&Plan::of(seed, members));
        prop_assert!(scene.events.lock().unwrap().len() > 20, "hardly anybody was granted it");
        check(&scene).map_err(TestCaseError::fail)?;
    }
}

/// Whether one of some histories is found wrong.
fn noticed(change: impl Fn(&mut Plan), check: impl Fn(&Scene) -> Result<(), String>) -> Option<String> {
    (0..200).find_map(|seed| {
        let mut plan = Plan::of(seed, 3);
        change(&mut plan);
        check(&play(&plan)).err()
    })
}

#[test]
fn a_holder_without_a_margin_is_noticed() {
    let told = noticed(
        |plan| plan.whole_ttl = true,
        |scene| history::beliefs(&history::grants(&scene.events.lock().unwrap())),
    );
    assert!(told.is_some());
}

#[test]
fn beyond_the_bound_two_may_believe_and_the_token_saves_what_is_protected() {
    let wild = |plan: &mut Plan| plan.drift = 0.5;
    let beliefs = |scene: &Scene| history::beliefs(&history::grants(&scene.events.lock().unwrap()));
    assert!(noticed(wild, beliefs).is_some(), "two believe");
    let resource = |scene: &Scene| {
        history::tokens(&history::grants(&scene.events.lock().unwrap()))?;
        history::fenced(&scene.accepted.lock().unwrap())
    };
    assert_eq!(noticed(wild, resource), None);
    let unfenced = |plan: &mut Plan| {
        wild(plan);
        plan.fenced = false;
    };
    assert!(noticed(unfenced, resource).is_some(), "a resource that takes all tokens");
}
