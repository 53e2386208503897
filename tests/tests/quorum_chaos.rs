//! A register over five real control planes, of which random minorities are killed and cut off for a while, by clients with bad lines;
//! then one loses all its data; then there is no majority. Counters and locks are held against what they must be.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, dead_code)]

#[path = "../../coordination/tests/support/contender.rs"]
mod contender;
#[path = "../../coordination/tests/counter/history.rs"]
mod counting;
#[path = "../../coordination/tests/support/history.rs"]
mod history;

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::{join_all, try_join_all};
use kube::Client;
use quorate_coordination::{
    Boottime, Clock, Counter, CounterState, Lock, LockState, Mode, Random, Session, counter::Operation, quorum::open,
};
use quorate_crds::DistributedCounterSpec;
use quorate_tests::{
    Cluster,
    cluster::Options,
    faults::{self, Faults},
    wait::wait_for,
};
use tokio::time::{Instant, sleep, timeout};

use contender::{Place, Script, Variant, choose, contend};
use history::Event;

const NAMES: [&str; 5] = ["eu", "us", "asia", "africa", "oceania"];
/// Of one call at one member.
const CALL: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(120);
const TTL: Duration = Duration::from_secs(8);
const COUNTERS: usize = 3;
const CONTENDERS: usize = 3;
/// Of a hundred requests, so many go wrong.
const FAULTS: u64 = 5;

/// For how long: longer with `QUORATE_SOAK`, in seconds.
fn time() -> Duration {
    let soak = std::env::var("QUORATE_SOAK").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(soak.unwrap_or(45))
}

/// All members, by one client's own lines.
async fn lines(kubeconfigs: &[PathBuf], who: &str, percent: u64) -> Vec<(String, Client)> {
    let line = |(name, kubeconfig): (&&'static str, &PathBuf)| {
        let random = Random::from_seed(&format!("{who} {name}"));
        let (name, kubeconfig) = ((*name).to_owned(), kubeconfig.clone());
        async move {
            let faults = Faults { percent, stall: Duration::from_millis(200), random };
            (name, faults::client(&kubeconfig, faults).await.unwrap())
        }
    };
    join_all(NAMES.iter().zip(kubeconfigs).map(line)).await
}

async fn counter(kubeconfigs: &[PathBuf], who: &str, percent: u64, limit: Duration) -> Counter {
    let (members, session) = (lines(kubeconfigs, who, percent).await, Session::new(who).unwrap());
    let initial = CounterState::new(DistributedCounterSpec::default());
    let register = wait_for("the counter to be opened", || async {
        open(&members, "default", "world", "counter.orders", initial.clone(), &session, CALL)
            .await
            .map_err(|e| e.to_string())
    });
    Counter::new(register.await.unwrap(), session, limit)
}

/// What contenders do and believe.
#[derive(Default)]
struct Notes(Mutex<Vec<Event>>);

impl Place for Notes {
    fn now(&self) -> Duration {
        Boottime.now()
    }

    fn note(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }

    async fn write(&self, _: &str, _: u64) -> Option<bool> {
        None
    }
}

/// Takes the lock again and again.
async fn take(kubeconfigs: Vec<PathBuf>, who: String, notes: Arc<Notes>, ends: Arc<AtomicBool>) {
    let (members, session) = (lines(&kubeconfigs, &who, FAULTS).await, Session::new(&who).unwrap());
    let register = wait_for("the lock to be opened", || async {
        open(&members, "default", "world", "lock.nightly", LockState::default(), &session, CALL)
            .await
            .map_err(|e| e.to_string())
    });
    let lock = Lock::new(register.await.unwrap(), session, "nightly", TTL).unwrap();
    let script = Script {
        who: who.clone(),
        ttl: TTL,
        modes: vec![Mode::Exclusive],
        cycles: 1,
        hold: TTL / 16,
        pause: TTL / 8,
        rate: 1.0,
        variant: Variant::Right,
    };
    let random = Random::from_seed(&who);
    while !ends.load(Ordering::SeqCst) {
        // Who does not come to it before the end leaves.
        let _ = timeout(TTL * 3, contend(&lock, &script, &random, &*notes)).await;
    }
}

/// One or two of them, by lot.
fn minority(random: &Random) -> BTreeSet<usize> {
    (0..=choose(random, 2)).map(|_| choose(random, NAMES.len())).collect()
}

fn lose(clusters: &mut [Cluster], who: &BTreeSet<usize>, kill: bool) {
    for index in who {
        if kill {
            clusters[*index].kill_api_server(0);
        } else {
            clusters[*index].pause_api_server(0, true);
        }
    }
}

async fn bring_back(clusters: &mut [Cluster], who: &BTreeSet<usize>, kill: bool) {
    for index in who {
        if kill {
            clusters[*index].restart_api_server(0).await.unwrap();
        } else {
            clusters[*index].pause_api_server(0, false);
        }
    }
}

/// Waits until there are more increments.
async fn goes_on(done: &AtomicUsize, without: &str) {
    let before = done.load(Ordering::SeqCst);
    wait_for("the others to go on", || async {
        let now = done.load(Ordering::SeqCst);
        if now >= before + 10 { Ok(()) } else { Err(format!("{} increments, {without}", now - before)) }
    })
    .await
    .unwrap();
}

/// Its etcd has lost everything.
async fn wipe(cluster: &mut Cluster) {
    cluster.kill_api_server(0);
    cluster.etcd[0].kill();
    fs::remove_dir_all(cluster.folder().join("etcd0")).unwrap();
    cluster.restart_etcd(0).unwrap();
    cluster.restart_api_server(0).await.unwrap();
    cluster.install_crds().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn any_majority_of_five_goes_on_without_disagreement_whichever_minority_is_lost() {
    let clusters = NAMES.map(|_| async {
        let cluster = Cluster::with(Options::default()).await?;
        cluster.install_crds().await?;
        Ok::<_, anyhow::Error>(cluster)
    });
    let mut clusters = try_join_all(clusters).await.unwrap();
    let ways: Vec<PathBuf> = clusters.iter().map(|cluster| cluster.kubeconfig(0)).collect();
    // Made while all are there.
    let steady = counter(&ways, "steady", 0, Duration::from_secs(20)).await;
    steady.get().await.unwrap();
    let (counted, notes, ends, done) = (
        Arc::new(counting::History::default()),
        Arc::new(Notes::default()),
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let mut tasks = Vec::new();
    for number in 0..COUNTERS {
        let counter = counter(&ways, &format!("counter-{number}"), FAULTS, LIMIT).await;
        let (counted, ends, done) = (Arc::clone(&counted), Arc::clone(&ends), Arc::clone(&done));
        tasks.push(tokio::spawn(async move {
            while !ends.load(Ordering::SeqCst) {
                counted.record(Operation::Add(1), counter.add(1)).await;
                done.fetch_add(1, Ordering::SeqCst);
                sleep(Duration::from_millis(50)).await;
            }
        }));
    }
    let (random, until) = (Random::from_system().unwrap(), Instant::now() + time());
    for number in 0..CONTENDERS {
        let (ways, notes, ends) = (ways.clone(), Arc::clone(&notes), Arc::clone(&ends));
        tasks.push(tokio::spawn(take(ways, format!("contender-{number}"), notes, ends)));
    }
    let mut rounds = 0_usize;
    while Instant::now() < until {
        let (who, kill) = (minority(&random), rounds.is_multiple_of(2));
        lose(&mut clusters, &who, kill);
        goes_on(&done, &format!("without {who:?}")).await;
        bring_back(&mut clusters, &who, kill).await;
        rounds += 1;
    }
    // One has lost its data: it has no say any more, and nothing else is lost.
    wipe(&mut clusters[0]).await;
    goes_on(&done, "without one that lost its data").await;
    ends.store(true, Ordering::SeqCst);
    join_all(tasks).await.into_iter().for_each(Result::unwrap);
    let value = steady.get().await.unwrap().after;
    assert_eq!(counted.check_increments(0, value), Ok(()));
    let grants = history::grants(&notes.0.lock().unwrap());
    println!("{rounds} rounds, {value} increments, {} grants", grants.len());
    assert!(value > 50 && rounds > 2 && grants.len() > 5);
    history::beliefs(&grants).unwrap();
    history::tokens(&grants).unwrap();

    // With two more away, there are two of five with the register, and one that knows nothing.
    let two = BTreeSet::from([1, 2]);
    lose(&mut clusters, &two, true);
    let told = steady.add(1).await.unwrap_err().to_string();
    for why in ["2 of 5 members answer, and 3 are needed", "eu: it does not exist", "us: ", "asia: "] {
        assert!(told.contains(why), "{why:?} is not in {told}");
    }
    bring_back(&mut clusters, &two, true).await;
    let after = wait_for("it to go on", || async { steady.add(1).await.map_err(|error| error.to_string()) });
    let after = after.await.unwrap().after;
    // Whether those that failed were done, nobody could tell.
    assert!(after > value, "{after} after {value}");
}
