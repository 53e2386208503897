//! Registers and locks over three real control planes: what the API servers themselves refuse, a minority that is lost and comes
//! back, a member that lost its data, and no majority.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::{collections::BTreeMap, time::Duration};

use futures::future::try_join_all;
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use quorate_coordination::{
    Counter, CounterState, Lock, LockState, Mode, RedLock, Session,
    quorum::{KubeQuorum, OpenError, forget, open},
};
use quorate_crds::{AcceptedValue, Acceptor, AcceptorBallot, AcceptorSpec, AcceptorUid, DistributedCounterSpec};
use quorate_tests::{Cluster, cluster::Options, wait::wait_for};

const CALL: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(20);
const TTL: Duration = Duration::from_secs(10);
const NAMES: [&str; 3] = ["eu", "us", "asia"];
const SET: &str = "world";

async fn clusters() -> Vec<Cluster> {
    try_join_all(NAMES.map(|_| async {
        let cluster = Cluster::with(Options::default()).await?;
        cluster.install_crds().await?;
        Ok::<_, anyhow::Error>(cluster)
    }))
    .await
    .unwrap()
}

async fn clients(clusters: &[Cluster]) -> Vec<(String, Client)> {
    let mut clients = Vec::new();
    for (name, cluster) in NAMES.iter().zip(clusters) {
        clients.push(((*name).to_owned(), cluster.client().await.unwrap()));
    }
    clients
}

async fn register(clients: &[(String, Client)], name: &str) -> Result<KubeQuorum<CounterState>, OpenError> {
    let initial = CounterState::new(DistributedCounterSpec::default());
    open(clients, "default", SET, name, initial, &Session::new("test").unwrap(), CALL).await
}

async fn counter(clients: &[(String, Client)], name: &str) -> Counter {
    Counter::new(register(clients, name).await.unwrap(), Session::new("test").unwrap(), LIMIT)
}

async fn lock(clients: &[(String, Client)], name: &str, who: &str) -> Lock<KubeQuorum<LockState>> {
    let session = Session::new(who).unwrap();
    let register = open(clients, "default", SET, name, LockState::default(), &session, CALL).await.unwrap();
    Lock::new(register, session, name, TTL).unwrap()
}

fn ballot(round: i64, proposer: &str) -> AcceptorBallot {
    AcceptorBallot { round, proposer: proposer.to_owned() }
}

fn accepted(round: i64, proposer: &str, value: &str) -> AcceptedValue {
    AcceptedValue { ballot: ballot(round, proposer), value: value.to_owned() }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_keeps_an_acceptors_promises_whoever_writes() {
    let cluster = Cluster::start().await.unwrap();
    cluster.install_crds().await.unwrap();
    let api: Api<Acceptor> = Api::default_namespaced(cluster.client().await.unwrap());
    let params = PostParams::default();
    let mut object = Acceptor::new("a", AcceptorSpec::default());
    object = api.create(&params, &object).await.unwrap();
    let mut step = async |spec: AcceptorSpec, told: &str| {
        let wanted = Acceptor { spec, ..object.clone() };
        match api.replace("a", &params, &wanted).await {
            Ok(written) if told.is_empty() => object = written,
            Ok(_) => panic!("not refused: {told}"),
            Err(error) => assert!(!told.is_empty() && error.to_string().contains(told), "{told:?}: {error}"),
        }
    };
    let members = [("eu".to_owned(), AcceptorUid("u".to_owned()))].into();
    let told = AcceptorSpec { epoch: 1, members, ..AcceptorSpec::default() };
    step(AcceptorSpec { epoch: 0, ..told.clone() }, "no epoch has nothing").await;
    step(AcceptorSpec { members: [].into(), ..told.clone() }, "an acceptor of an epoch has members").await;
    step(told.clone(), "").await;
    let others: BTreeMap<_, _> = [("us".to_owned(), AcceptorUid("u".to_owned()))].into();
    step(AcceptorSpec { members: others.clone(), ..told.clone() }, "said once an epoch").await;
    step(AcceptorSpec::default(), "spec.epoch never falls").await;
    let promised = AcceptorSpec { promised: ballot(2, "b"), ..told.clone() };
    step(promised.clone(), "").await;
    for lower in [ballot(1, "z"), ballot(2, "a"), ballot(0, "")] {
        step(AcceptorSpec { promised: lower, ..told.clone() }, "never falls").await;
    }
    step(AcceptorSpec { accepted: Some(accepted(1, "z", "1")), ..promised.clone() }, "another proposer came first")
        .await;
    step(AcceptorSpec { accepted: Some(accepted(2, "c", "1")), ..promised.clone() }, "not above spec.promised").await;
    let first = AcceptorSpec { promised: ballot(3, "b"), accepted: Some(accepted(2, "b", "1")), ..told.clone() };
    step(first.clone(), "").await;
    step(AcceptorSpec { accepted: Some(accepted(2, "b", "2")), ..first.clone() }, "another proposer came first").await;
    step(AcceptorSpec { accepted: None, ..first.clone() }, "never removed").await;
    let steady = AcceptorSpec { promised: ballot(3, "b"), accepted: Some(accepted(3, "b", "2")), ..told.clone() };
    step(steady.clone(), "").await;
    step(AcceptorSpec { accepted: Some(accepted(3, "b", "3")), ..steady.clone() }, "one value is accepted").await;
    // Among other members it begins anew, and does not come back.
    let moved =
        AcceptorSpec { epoch: 2, members: others, promised: ballot(1, "a"), accepted: Some(accepted(1, "a", "9")) };
    step(AcceptorSpec { accepted: Some(accepted(2, "a", "9")), ..moved.clone() }, "not above spec.promised").await;
    step(moved.clone(), "").await;
    step(AcceptorSpec { promised: ballot(0, ""), ..moved }, "never falls").await;
    step(steady, "spec.epoch never falls").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_cluster_under_two_names_is_no_two_members() {
    let cluster = Cluster::start().await.unwrap();
    cluster.install_crds().await.unwrap();
    let client = cluster.client().await.unwrap();
    let twins = [("eu".to_owned(), client.clone()), ("us".to_owned(), client)];
    let told = register(&twins, "orders").await.err().unwrap().to_string();
    assert!(told.contains("eu and us are the same cluster"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_majority_decides_outlives_a_minority_and_fails_closed_without_one() {
    let mut clusters = clusters().await;
    let clients = clients(&clusters).await;
    let counter = counter(&clients, "orders").await;
    counter.add(1).await.unwrap();
    let (first, second) = (lock(&clients, "nightly", "first").await, lock(&clients, "nightly", "second").await);
    let held = first.acquire(Mode::Exclusive, Some(LIMIT)).await.unwrap();
    let mut done = 1;
    for unlucky in 0..NAMES.len() {
        clusters[unlucky].kill_api_server(0);
        for _ in 0..5 {
            done += 1;
            assert_eq!(counter.add(1).await.unwrap().after, done);
        }
        assert!(!held.valid_for().is_zero(), "it is renewed by the others");
        clusters[unlucky].restart_api_server(0).await.unwrap();
        wait_for("it to answer again", || async {
            clients[unlucky].1.apiserver_version().await.map_err(|error| error.to_string())
        })
        .await
        .unwrap();
    }
    let token = held.token();
    held.release().await.unwrap();
    let next = second.acquire(Mode::Exclusive, Some(LIMIT)).await.unwrap();
    assert!(next.token() > token);
    // Two of three are gone.
    clusters[0].kill_api_server(0);
    clusters[1].kill_api_server(0);
    let told = counter.add(1).await.unwrap_err().to_string();
    assert!(told.contains("1 of 3 members answer, and 2 are needed") && told.contains("eu:"), "{told}");
    clusters[0].restart_api_server(0).await.unwrap();
    let after = wait_for("it to go on", || async { counter.add(1).await.map_err(|error| error.to_string()) });
    let after = after.await.unwrap().after;
    // Whether the one that failed was done nobody could tell.
    assert!((done + 1..=done + 3).contains(&after), "{after} after {done}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acceptor_that_was_lost_has_no_say_and_is_not_made_again() {
    let clusters = clusters().await;
    let clients = clients(&clusters).await;
    let opened = counter(&clients, "orders").await;
    assert_eq!(opened.add(7).await.unwrap().after, 7);
    // Another cluster lost it, and somebody made it again, empty: with one that is away these two are no majority.
    let api = |number: usize| Api::<Acceptor>::default_namespaced(clients[number].1.clone());
    let lost = api(0).get("orders").await.unwrap();
    api(0).delete("orders", &DeleteParams::default()).await.unwrap();
    let spec = AcceptorSpec { epoch: 1, members: lost.spec.members.clone(), ..AcceptorSpec::default() };
    let fresh = Acceptor::new("orders", spec);
    api(0).create(&PostParams::default(), &fresh).await.unwrap();
    // The others go on, also for who opens it now.
    assert_eq!(opened.add(1).await.unwrap().after, 8);
    assert_eq!(counter(&clients, "orders").await.add(1).await.unwrap().after, 9);
    api(1).delete("orders", &DeleteParams::default()).await.unwrap();
    let told = opened.add(1).await.unwrap_err().to_string();
    assert!(
        told.contains("eu: it was made again after it was lost") && told.contains("us: it does not exist"),
        "{told}"
    );
    let told = register(&clients, "orders").await.err().unwrap().to_string();
    assert!(told.contains("us: it has no acceptor, or has lost it"), "{told}");
    assert!(api(1).get_opt("orders").await.unwrap().is_none(), "nobody makes it again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_in_all_clusters_is_not_taken_for_what_never_was() {
    let clusters = clusters().await;
    let clients = clients(&clusters).await;
    // Of several who make it at the same time, all have the same.
    let opened = try_join_all((0..4).map(|_| register(&clients, "orders"))).await.unwrap();
    let session = Session::new("test").unwrap();
    for (number, register) in (1..).zip(opened) {
        assert_eq!(Counter::new(register, session.clone(), LIMIT).add(1).await.unwrap().after, number);
    }
    let api = |number: usize| Api::<Acceptor>::default_namespaced(clients[number].1.clone());
    let lose = || async {
        for number in 0..NAMES.len() {
            api(number).delete("orders", &DeleteParams::default()).await.unwrap();
        }
    };
    lose().await;
    // Not even with acceptors that somebody made again: they are others.
    for number in 0..NAMES.len() {
        api(number).create(&PostParams::default(), &Acceptor::new("orders", AcceptorSpec::default())).await.unwrap();
    }
    for made_again in [true, false] {
        let told = register(&clients, "orders").await.err().unwrap().to_string();
        assert!(told.contains("was made once, and its acceptors are gone from all clusters"), "{told}");
        if made_again {
            let told = forget(&clients, "default", SET, "orders", &session, CALL).await.unwrap_err().to_string();
            assert!(told.contains("asia has one: delete it there (kubectl delete acceptor orders)"), "{told}");
            lose().await;
        }
    }
    assert!(api(0).get_opt("orders").await.unwrap().is_none(), "none was made");
    // Until somebody says so.
    assert!(forget(&clients, "default", SET, "orders", &session, CALL).await.unwrap());
    assert!(!forget(&clients, "default", SET, "orders", &session, CALL).await.unwrap());
    assert_eq!(counter(&clients, "orders").await.add(1).await.unwrap().after, 1);
    let told = register(&clients, "registry.world").await.err().unwrap().to_string();
    assert!(told.contains("names that begin with registry. or config-registry."), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_replaced_removed_and_added_while_clients_go_on() {
    let mut clusters = clusters().await;
    let clients = clients(&clusters).await;
    let two = &clients[..2];
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    // Clients of two clusters, one of which knows of no other.
    let (old, changer) = (counter(two, "orders").await, register(&clients, "orders").await.unwrap());
    assert_eq!(old.add(1).await.unwrap().after, 1);
    let told = register(&clients[2..], "orders").await;
    assert!(
        told.is_ok(),
        "asia alone knows nothing of it: another register of that name, until it is one of its members"
    );
    let told = changer.change(&names(&["eu", "us", "asia"])).await.unwrap_err().to_string();
    assert!(
        told.contains("asia: its acceptor default/orders is another register's, on asia: delete it there"),
        "{told}"
    );
    let asia = Api::<Acceptor>::default_namespaced(clients[2].1.clone());
    asia.delete("orders", &DeleteParams::default()).await.unwrap();

    // Added.
    let place = changer.change(&names(&["eu", "us", "asia"])).await.unwrap();
    assert_eq!((place.epoch, place.members.len()), (2, 3));
    assert_eq!(old.add(1).await.unwrap().after, 2);
    clusters[0].kill_api_server(0);
    assert_eq!(counter(&clients, "orders").await.add(1).await.unwrap().after, 3);
    clusters[0].restart_api_server(0).await.unwrap();
    wait_for("it to answer again", || async {
        clients[0].1.apiserver_version().await.map_err(|error| error.to_string())
    })
    .await
    .unwrap();

    // Replaced by itself, after it was lost.
    let lost = Api::<Acceptor>::default_namespaced(clients[1].1.clone());
    lost.delete("orders", &DeleteParams::default()).await.unwrap();
    let place = changer.change(&names(&["eu", "us", "asia"])).await.unwrap();
    assert_eq!(place.epoch, 3);
    asia.delete("orders", &DeleteParams::default()).await.unwrap();
    assert_eq!(old.add(1).await.unwrap().after, 4, "eu and us are a majority again");

    // Removed, with what it had.
    let place = changer.change(&names(&["eu"])).await.unwrap();
    assert_eq!((place.epoch, place.members.len()), (4, 1));
    assert_eq!(old.add(1).await.unwrap().after, 5);
    assert_eq!(counter(&clients, "orders").await.add(1).await.unwrap().after, 6);
    let of = |number: usize| Api::<Acceptor>::default_namespaced(clients[number].1.clone());
    assert_eq!(of(0).get("orders").await.unwrap().spec.epoch, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redlock_is_had_of_two_of_three_with_a_higher_token_each_time() {
    let mut clusters = clusters().await;
    let clients = clients(&clusters).await;
    let lock =
        |who: &str| RedLock::on_leases(clients.clone(), "default", "import", Session::new(who).unwrap(), TTL).unwrap();
    let (a, b) = (lock("a"), lock("b"));
    a.create().await.unwrap();
    let held = a.acquire(Some(LIMIT)).await.unwrap();
    assert!(b.try_acquire().await.is_err());
    let first = held.token();
    held.release().await.unwrap();
    clusters[2].kill_api_server(0);
    let held = b.acquire(Some(LIMIT)).await.unwrap();
    assert!(held.token() > first && !held.valid_for().is_zero());
    // All that people see of it: who holds the Lease.
    let shown = clusters[0].kubectl(&["get", "lease", "import", "-o", "jsonpath={.spec.holderIdentity}"]).unwrap();
    assert!(shown.starts_with("b_"), "{shown}");
    clusters[1].kill_api_server(0);
    let told = a.acquire(Some(Duration::from_secs(2))).await.err().unwrap().to_string();
    assert!(told.contains("2 of its 3 members are needed"), "{told}");
}
