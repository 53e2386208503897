//! Histories of contenders for one lock, in virtual time and under faults. What is wrong in one of the ways that
//! locks are known to be wrong in is noticed.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::{sync::Arc, time::Duration};

use proptest::prelude::*;
use quorate_coordination::{Lock, LockError, Mode, Random, Session};
use support::{
    contender::{Script, Variant, contend},
    history, paused,
    world::{Link, Skewed, Weather, World},
};
use tokio::time::{sleep, timeout};

const TTL: Duration = Duration::from_secs(15);
/// What a clock may be off by.
const DRIFT: f64 = 0.05;
/// By the shared clock, all is done by then: each cycle may meet dead holders and dead waiters, each of which costs
/// a time of patience and what it takes to see them.
const BOUND: Duration = Duration::from_secs(3 * 3600);

#[derive(Clone, Debug)]
struct Plan {
    seed: u64,
    clients: usize,
    faults: usize,
    /// Clocks are off by up to this.
    drift: f64,
    crashes: bool,
    modes: Vec<Mode>,
    variant: Variant,
    checks_versions: bool,
    fenced: bool,
}

impl Plan {
    /// A bad day, and all contenders are as they should be.
    fn of_seed(seed: u64) -> Self {
        Self {
            seed,
            clients: 4,
            faults: 8,
            drift: DRIFT,
            crashes: true,
            modes: vec![Mode::Exclusive],
            variant: Variant::Right,
            checks_versions: true,
            fenced: true,
        }
    }
}

/// Plays it; what it was, and whether all contenders came to their end.
fn play(plan: &Plan) -> (Arc<World>, bool) {
    paused().block_on(async {
        let weather = Weather {
            faults: plan.faults,
            latency: Duration::from_millis(30),
            limit: TTL / 5,
            cut: TTL * 2,
            checks_versions: plan.checks_versions,
            fenced: plan.fenced,
        };
        let world = World::new(weather, &plan.seed.to_string());
        let tasks: Vec<_> =
            (0..plan.clients).map(|n| tokio::spawn(client(Arc::clone(&world), plan.clone(), n))).collect();
        let all = async {
            for task in tasks {
                task.await.unwrap();
            }
        };
        let ended = timeout(BOUND, all).await.is_ok();
        (world, ended)
    })
}

/// A contender, which ends and comes again as somebody else.
async fn client(world: Arc<World>, plan: Plan, number: usize) {
    for life in 0..3 {
        let who = format!("c{number}-{life}");
        let random = Arc::new(Random::from_seed(&format!("{} {who}", plan.seed)));
        let rate = 1.0 + plan.drift * (2.0 * random.fraction() - 1.0);
        // The worst are at the ends.
        let rate = if random.bits().is_multiple_of(2) { rate } else { 1.0 + plan.drift.copysign(rate - 1.0) };
        let session = Session::with(&who, Arc::new(Skewed::new(rate, &random)), Arc::clone(&random));
        let link = Link::new(&world, &format!("{} {who}", plan.seed));
        let lock = Lock::new(link.clone(), session, "n/l", TTL).unwrap();
        let script = Script {
            who,
            ttl: TTL,
            modes: plan.modes.clone(),
            cycles: 3,
            hold: TTL * 2,
            pause: TTL,
            rate,
            variant: plan.variant,
        };
        let crash = async {
            if !plan.crashes {
                std::future::pending::<()>().await;
            }
            sleep(random.up_to(TTL * 20)).await;
            link.kill();
        };
        tokio::select! {
            biased;
            () = crash => {}
            played = contend(&lock, &script, &random, &*world) => assert_eq!(played, Ok::<(), LockError>(())),
        }
    }
}

/// All that has to be so whatever the clocks do.
fn check_but_beliefs(world: &World) -> Result<(), String> {
    let (grants, versions) = (history::grants(&world.events()), world.versions());
    history::versions(&versions)?;
    history::tokens(&grants)?;
    history::shown(&grants, &versions)?;
    history::fenced(&world.accepted())
}

fn check(world: &World) -> Result<(), String> {
    check_but_beliefs(world)?;
    history::beliefs(&history::grants(&world.events()))
}

fn modes() -> impl Strategy<Value = Vec<Mode>> {
    prop_oneof![
        3 => Just(vec![Mode::Exclusive]),
        1 => Just(vec![Mode::Exclusive, Mode::Shared, Mode::Shared]),
        1 => Just(vec![Mode::Permits { take: 1, of: 3 }, Mode::Permits { take: 2, of: 3 }, Mode::Permits { take: 3, of: 3 }]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_lock_under_faults_is_held_as_it_may_be_and_always_comes_free(
        seed in any::<u64>(), clients in 2..7_usize, faults in 0..25_usize, crashes in any::<bool>(), modes in modes()
    ) {
        let (world, ended) = play(&Plan { clients, faults, crashes, modes, ..Plan::of_seed(seed) });
        prop_assert_eq!(check(&world), Ok(()));
        prop_assert!(ended, "somebody waits after {} h: {:#?}", BOUND.as_secs() / 3600, world.versions().last());
        prop_assert!(crashes || !history::grants(&world.events()).is_empty());
    }

    #[test]
    fn whatever_clocks_do_tokens_rise_and_nothing_lower_is_accepted(
        seed in any::<u64>(), drift in 0.1..0.9
    ) {
        let (world, _) = play(&Plan { drift, ..Plan::of_seed(seed) });
        prop_assert_eq!(check_but_beliefs(&world), Ok(()));
    }
}

/// Within so many histories, this is found to be wrong.
fn noticed(plan: impl Fn(u64) -> Plan, check: impl Fn(&World) -> Result<(), String>) {
    let found = (0..400).find_map(|seed| check(&play(&plan(seed)).0).err().map(|wrong| (seed, wrong)));
    let (seed, wrong) = found.expect("nothing was noticed");
    println!("seed {seed}: {}", wrong.lines().next().unwrap_or_default());
}

fn check_beliefs(world: &World) -> Result<(), String> {
    history::beliefs(&history::grants(&world.events()))
}

#[test]
fn a_register_that_does_not_check_versions_is_noticed() {
    noticed(|seed| Plan { checks_versions: false, ..Plan::of_seed(seed) }, check_but_beliefs);
    noticed(|seed| Plan { checks_versions: false, ..Plan::of_seed(seed) }, check_beliefs);
}

#[test]
fn who_takes_the_lock_without_having_seen_its_holder_expire_is_noticed() {
    noticed(|seed| Plan { variant: Variant::Thief, ..Plan::of_seed(seed) }, check_beliefs);
}

#[test]
fn who_believes_for_the_whole_of_its_time_is_noticed() {
    noticed(|seed| Plan { variant: Variant::WholeTtl, ..Plan::of_seed(seed) }, check_beliefs);
}

#[test]
fn who_counts_its_time_from_when_it_heard_of_its_grant_is_noticed() {
    noticed(|seed| Plan { variant: Variant::SinceNews, ..Plan::of_seed(seed) }, check_beliefs);
}

#[test]
fn clocks_that_are_farther_off_than_is_allowed_are_noticed() {
    noticed(|seed| Plan { drift: 0.4, ..Plan::of_seed(seed) }, check_beliefs);
}

#[test]
fn writes_that_are_too_late_are_accepted_where_there_is_no_fence() {
    noticed(|seed| Plan { fenced: false, ..Plan::of_seed(seed) }, |world| history::fenced(&world.accepted()));
}
