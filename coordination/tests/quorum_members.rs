//! Registers whose members change while they are used, in virtual time: any number at once, by several at the same time, under
//! faults; and what must be noticed when it is done wrong.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

#[path = "counter/history.rs"]
mod history;
mod support;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::Duration,
};

use futures::{future::join_all, stream::BoxStream};
use history::{History, Violation};
use proptest::prelude::*;
use quorate_coordination::{
    Counter, CounterState, Failure, Random, Register, Session, Versioned, Virtual,
    counter::Operation,
    quorum::{AcceptorState, ChangeError, Chosen, Links, MovingRegister, Place},
};
use quorate_crds::DistributedCounterSpec;
use support::{
    clusters::{Cluster, Link},
    paused,
};
use tokio::time::sleep;

const CALL: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(3600);

type State = AcceptorState<Chosen<CounterState>>;

/// What is done wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wrong {
    Nothing,
    /// Acceptors join with nothing.
    Empty,
    /// Acceptors join under a ballot that is higher than the one that was chosen, as that of the last value may be.
    Higher,
}

/// All clusters, with an acceptor each.
#[derive(Clone)]
struct World {
    acceptors: Arc<Mutex<BTreeMap<String, Cluster<State>>>>,
    random: Arc<Random>,
    wrong: Wrong,
}

fn free() -> CounterState {
    CounterState::new(DistributedCounterSpec::default())
}

fn place(epoch: u64, clusters: &[&str]) -> Place {
    Place { epoch, members: clusters.iter().map(|name| ((*name).to_owned(), format!("uid of {name}"))).collect() }
}

impl World {
    fn new(seed: u64, wrong: Wrong) -> Self {
        Self { acceptors: Arc::default(), random: Arc::new(Random::from_seed(&seed.to_string())), wrong }
    }

    fn acceptor(&self, cluster: &str) -> Cluster<State> {
        let made = || Cluster::new(AcceptorState::default(), &self.random);
        self.acceptors.lock().unwrap().entry(cluster.to_owned()).or_insert_with(made).clone()
    }

    fn open(&self, who: &str) -> MovingRegister<CounterState, World> {
        let first = AcceptorState { place: place(1, &["a", "b", "c"]), ..AcceptorState::default() };
        MovingRegister::new(self.clone(), &first, free(), "a register", session(who), CALL)
    }

    fn counter(&self, who: &str) -> Counter {
        Counter::new(self.open(who), session(who), PATIENCE)
    }
}

impl Links<CounterState> for World {
    type Acceptor = Way;

    fn acceptor(&self, cluster: &str) -> Way {
        let cluster = self.acceptor(cluster);
        Way { link: Link { cluster, cut: Arc::<AtomicBool>::default() }, world: self.clone() }
    }

    async fn joinable(&self, cluster: &str, _: &Place) -> Result<String, String> {
        let acceptor = <Self as Links<CounterState>>::acceptor(self, cluster);
        acceptor.read().await.map_err(|failure| failure.to_string())?;
        Ok(format!("uid of {cluster}"))
    }
}

/// The way to an acceptor, on which joining may go wrong.
struct Way {
    link: Link<State>,
    world: World,
}

impl Register for Way {
    type State = State;
    type Version = u64;

    async fn read(&self) -> Result<Versioned<State, u64>, Failure> {
        self.link.read().await
    }

    async fn compare_and_swap(&self, base: &u64, next: &State) -> Result<u64, Failure> {
        let before = self.link.cluster.register.now().state.place.epoch;
        if self.world.wrong == Wrong::Nothing || next.place.epoch <= before.max(1) {
            return self.link.compare_and_swap(base, next).await;
        }
        let mut wrong =
            State { accepted: next.accepted.clone().filter(|_| self.world.wrong != Wrong::Empty), ..next.clone() };
        if let Some(accepted) = &mut wrong.accepted {
            accepted.ballot.round += self.world.random.bits() % 8;
        }
        let _ = self.link.compare_and_swap(base, &wrong.joined()).await;
        // Who joined it knows what it has only after it was read.
        Err(Failure::Unknown("joined".to_owned()))
    }

    fn watch(&self, from: &u64) -> BoxStream<'static, Option<Versioned<State, u64>>> {
        self.link.watch(from)
    }

    fn name(&self) -> String {
        self.link.name()
    }
}

fn session(name: &str) -> Session {
    Session::with(name, Arc::new(Virtual::default()), Arc::new(Random::from_seed(name)))
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_lost_member_is_replaced_and_all_follow() {
    let world = World::new(0, Wrong::Nothing);
    let (before, register) = (world.counter("w"), world.open("changer"));
    before.add(5).await.unwrap();
    world.acceptor("b").set_down(true);
    let now = register.change(&names(&["a", "d", "c"])).await.unwrap();
    assert_eq!(now, place(2, &["a", "d", "c"]));
    // One of the new ones may be lost, too: b counts no more.
    world.acceptor("c").set_down(true);
    assert_eq!(before.add(1).await.unwrap().after, 6);
    // Who only knows the first place follows.
    assert_eq!(world.counter("late").add(1).await.unwrap().after, 7);
}

#[tokio::test(start_paused = true)]
async fn of_two_changes_at_once_one_is_done_and_the_other_is_told() {
    let world = World::new(0, Wrong::Nothing);
    world.counter("w").add(1).await.unwrap();
    let (one, two) = (world.open("one"), world.open("two"));
    let (to_one, to_two) = (names(&["a", "b", "d"]), names(&["x", "y", "z"]));
    let (first, second) = futures::join!(one.change(&to_one), two.change(&to_two));
    let (done, refused) = if first.is_ok() { (first, second) } else { (second, first) };
    let ChangeError::Moved { at } = refused.unwrap_err() else { panic!("not told") };
    assert_eq!(done.unwrap(), at);
    assert_eq!(world.counter("late").add(1).await.unwrap().after, 2);
}

#[tokio::test(start_paused = true)]
async fn members_stay_as_they_are_where_a_new_one_does_not_answer() {
    let world = World::new(0, Wrong::Nothing);
    world.counter("w").add(1).await.unwrap();
    world.acceptor("x").set_down(true);
    let register = world.open("changer");
    let told = register.change(&names(&["a", "b", "x"])).await.unwrap_err().to_string();
    assert!(told.contains("nothing was changed") && told.contains("x: no answer"), "{told}");
    assert_eq!(register.place(), place(1, &["a", "b", "c"]));
    assert_eq!(world.counter("late").add(1).await.unwrap().after, 2);
}

/// Writers that count while members are changed again and again, by two at once, and calls are lost.
async fn counted(seed: u64, wrong: Wrong) -> Result<(), Violation> {
    let world = World::new(seed, wrong);
    let random = Random::from_seed(&format!("{seed} weather"));
    let history = History::default();
    let counters: Vec<_> = (0..3).map(|number| world.counter(&format!("{seed}-{number}"))).collect();
    let work = join_all(counters.iter().map(|counter| {
        let history = &history;
        async move {
            for _ in 0..6 {
                history.record(Operation::Add(1), counter.add(1)).await;
                sleep(Duration::from_millis(100)).await;
            }
        }
    }));
    let changes = join_all((0..2).map(|changer| {
        let (register, random) = (world.open(&format!("{seed}-changer-{changer}")), &random);
        async move {
            for _ in 0..3 {
                sleep(random.up_to(Duration::from_millis(500))).await;
                let all = ["a", "b", "c", "d", "e", "f", "g"];
                let first = usize::try_from(random.bits() % 7).unwrap();
                let count = 1 + usize::try_from(random.bits() % 5).unwrap();
                let some: Vec<&str> = (0..count).map(|n| all[(first + n) % 7]).collect();
                // Another change may come first, and calls are lost.
                let _ = register.change(&names(&some)).await;
            }
        }
    }));
    let weather = async {
        for _ in 0..40 {
            sleep(random.up_to(Duration::from_millis(100))).await;
            let acceptors: Vec<_> = world.acceptors.lock().unwrap().values().cloned().collect();
            if let Some(unlucky) = acceptors.get(usize::try_from(random.bits()).unwrap() % acceptors.len().max(1)) {
                unlucky.befall(&random);
            }
        }
    };
    futures::join!(work, changes, weather);
    let value = world.counter("last").get().await.map_err(|error| Violation::Unsettled(error.to_string()))?.after;
    history.check_increments(0, value)
}

/// Somebody else is going to make it a member, of a later set.
#[test]
fn an_acceptor_that_was_made_again_is_left_alone_by_those_who_know_the_one_before() {
    for (uid, joins) in [("uid of another", false), ("uid of c", true)] {
        let world = World::new(1, Wrong::Nothing);
        let made = State { uid: Some(uid.to_owned()), ..State::default() };
        let cluster = Cluster::new(made, &world.random);
        world.acceptors.lock().unwrap().insert("c".to_owned(), cluster.clone());
        paused().block_on(async {
            assert_eq!(world.counter("one").add(1).await.unwrap().after, 1);
            sleep(CALL).await;
        });
        assert_eq!(cluster.register.now().state.place.epoch == 1, joins, "{uid}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(100), ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_or_done_twice_while_members_change(seed: u64) {
        paused().block_on(async {
            prop_assert_eq!(counted(seed, Wrong::Nothing).await, Ok(()));
            Ok(())
        })?;
    }
}

#[test]
fn members_that_join_with_nothing_or_under_another_ballot_are_noticed() {
    for wrong in [Wrong::Empty, Wrong::Higher] {
        let found = (0..200).any(|seed| paused().block_on(counted(seed, wrong)).is_err());
        assert!(found, "{wrong:?}");
    }
}
