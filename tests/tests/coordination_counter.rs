//! The counter on a real API server: what its rules refuse, histories with faults between clients and server, and processes that are
//! stopped and killed, as the API server is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../../coordination/tests/counter/broken.rs"]
mod broken;
#[path = "../../coordination/tests/counter/history.rs"]
mod history;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::join_all;
use kube::{
    Api, Client,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use quorate_coordination::{
    Counter, CounterError, CounterState, KubeRegister, Random, Register, Session,
    counter::{Key, Operation},
};
use quorate_crds::{
    CounterKey, CounterWriter, DistributedCounter, DistributedCounterSpec, MAX_COUNTER_KEYS, MAX_COUNTER_WRITERS,
};
use quorate_tests::{
    Cluster,
    attempt::refused,
    crowd::{Crowd, Job, faketime},
    faults::{self, Faults},
    wait::wait_for,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use history::{History, Violation};

/// Longer than whatever a busy machine may take.
const LIMIT: Duration = Duration::from_secs(300);

async fn shared() -> &'static Cluster {
    static SHARED: OnceCell<Cluster> = OnceCell::const_new();
    SHARED
        .get_or_init(|| async {
            let cluster = Cluster::start().await.unwrap();
            cluster.install_crds().await.unwrap();
            cluster
        })
        .await
}

async fn api(cluster: &Cluster) -> Api<DistributedCounter> {
    Api::default_namespaced(cluster.client().await.unwrap())
}

fn bounded(initial: i64, min: Option<i64>, max: Option<i64>) -> DistributedCounterSpec {
    DistributedCounterSpec { initial, min, max, cluster_set: None }
}

async fn create(
    api: &Api<DistributedCounter>,
    name: &str,
    spec: DistributedCounterSpec,
) -> kube::Result<DistributedCounter> {
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    api.create(&PostParams::default(), &DistributedCounter { metadata, spec, status: None }).await
}

fn handle(client: Client, name: &str, who: &str) -> Counter {
    Counter::on_object(client, "default", name, Session::new(who).unwrap(), LIMIT).unwrap()
}

/// A merge patch of the status, as an attacker or a wrong program would send it.
async fn status(api: &Api<DistributedCounter>, name: &str, patch: Value) -> kube::Result<DistributedCounter> {
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(json!({"status": patch}))).await
}

async fn spec(api: &Api<DistributedCounter>, name: &str, patch: Value) -> kube::Result<DistributedCounter> {
    api.patch(name, &PatchParams::default(), &Patch::Merge(json!({"spec": patch}))).await
}

#[tokio::test]
async fn the_value_stays_within_bounds_that_can_be_changed_around_it() {
    let api = api(shared().await).await;
    refused(create(&api, "bounds", bounded(0, Some(1), None)).await, "must not be below spec.min");
    refused(create(&api, "bounds", bounded(0, None, Some(-1))).await, "must not be above spec.max");
    create(&api, "bounds", bounded(0, Some(0), Some(10))).await.unwrap();
    let counter = handle(api.clone().into_client(), "bounds", "pod-a");
    assert_eq!(counter.add(7).await.unwrap().after, 7);
    let above = counter.add(4).await.unwrap_err().to_string();
    assert_eq!(
        above,
        "DistributedCounter default/bounds: the value is 7 and would be 11, above spec.max 10: nothing was changed"
    );
    refused(status(&api, "bounds", json!({"value": 11})).await, "must not be above spec.max");
    refused(status(&api, "bounds", json!({"value": -1})).await, "must not be below spec.min");
    refused(spec(&api, "bounds", json!({"max": 6})).await, "bring the value down first, or set spec.max higher");
    refused(spec(&api, "bounds", json!({"min": 8})).await, "bring the value up first, or set spec.min lower");
    refused(spec(&api, "bounds", json!({"initial": 1})).await, "spec.initial never changes");
    // Where the value began does not matter any more.
    spec(&api, "bounds", json!({"min": 5, "max": 8})).await.unwrap();
    assert_eq!(counter.add(1).await.unwrap().after, 8, "it was told of the new bounds by a conflict");
    assert!(counter.add(1).await.is_err());
    spec(&api, "bounds", json!({"min": null, "max": null})).await.unwrap();
    assert_eq!(counter.compare_and_set(8, i64::MAX).await.unwrap().after, i64::MAX);
    let over = counter.add(1).await.unwrap_err().to_string();
    assert!(over.contains("leaves the range of 64 bits"), "{over}");
    let low = counter.compare_and_set(i64::MAX, i64::MIN).await.unwrap();
    assert_eq!((low.before, low.after), (i64::MAX, i64::MIN), "64 bits come through as they are");
}

#[tokio::test]
async fn what_must_not_happen_to_a_status_is_refused() {
    let api = api(shared().await).await;
    create(&api, "rules", bounded(0, None, None)).await.unwrap();
    let counter = handle(api.clone().into_client(), "rules", "pod-a");
    counter.add(1).await.unwrap();
    counter.perform(Operation::Add(1), Some(Key::new("k").unwrap())).await.unwrap();
    let before = api.get("rules").await.unwrap().status.unwrap();
    let (id, writer) = before.writers.first_key_value().unwrap();
    let (key, done) = before.keys.first_key_value().unwrap();
    let registered = |sequence| CounterWriter { sequence, by: "x".to_owned(), ..writer.clone() };

    refused(
        status(&api, "rules", json!({"writers": {id: registered(1)}})).await,
        "the sequence of a writer is 0 when it registers, before its first operation, and never falls",
    );
    let stranger = json!({"writers": {"x": registered(1)}});
    refused(status(&api, "rules", stranger).await, "the sequence of a writer is 0 when it registers");
    refused(status(&api, "rules", json!({"writers": {id: "9"}})).await, "should match");
    refused(
        status(&api, "rules", json!({"lamport": before.lamport - 1})).await,
        "status.lamport and status.hlc never fall",
    );
    refused(
        status(&api, "rules", json!({"hlc": "0000000000000000"})).await,
        "status.lamport and status.hlc never fall",
    );
    refused(status(&api, "rules", json!({"hlc": "later"})).await, "status.hlc");
    refused(
        status(&api, "rules", json!({"keys": {key: CounterKey { before: 5, ..done.clone() }}})).await,
        "under an idempotency key never changes",
    );
    let other = CounterKey { operation: "add 9".to_owned(), ..done.clone() };
    refused(status(&api, "rules", json!({"keys": {key: other}})).await, "never changes");
    refused(status(&api, "rules", json!({"value": null})).await, "status.value");
    refused(status(&api, "rules", json!({"writers": null})).await, "status.writers");
    let many = |count: usize, entry: String| {
        (0..count).map(|number| (format!("n{number}"), entry.clone())).collect::<BTreeMap<_, _>>()
    };
    let writers = many(MAX_COUNTER_WRITERS, registered(0).into());
    refused(status(&api, "rules", json!({"writers": writers})).await, "must have at most 512 items");
    let keys = many(MAX_COUNTER_KEYS, done.clone().into());
    refused(status(&api, "rules", json!({"keys": keys})).await, "must have at most 1024 items");
    // All of it, by a PUT of what was read.
    let mut without = api.get("rules").await.unwrap();
    without.status = None;
    refused(api.replace_status("rules", &PostParams::default(), &without).await, "status is never removed");
    // Negative control: a PUT of the object keeps the status, and who registers is let in.
    api.replace("rules", &PostParams::default(), &without).await.unwrap();
    let new = json!({"writers": {"x": registered(0)}});
    status(&api, "rules", new).await.unwrap();
    let mut expected = before.clone();
    let after = api.get("rules").await.unwrap().status.unwrap();
    expected.writers.insert("x".to_owned(), after.writers["x"].clone());
    assert_eq!(after, expected);
}

#[tokio::test]
async fn as_many_writers_and_keys_as_there_may_be_are_not_too_many_for_the_rules() {
    let api = api(shared().await).await;
    create(&api, "full", bounded(0, None, None)).await.unwrap();
    let counter = handle(api.clone().into_client(), "full", "pod-a");
    let keys = (0..MAX_COUNTER_KEYS).map(|number| Some(Key::new(&number.to_string()).unwrap()));
    let done = join_all(keys.map(|key| counter.perform(Operation::Add(1), key))).await;
    assert!(done.iter().all(Result::is_ok));
    let mut object = api.get("full").await.unwrap();
    let writers = &mut object.status.as_mut().unwrap().writers;
    let entry = CounterWriter { sequence: 0, ..writers.values().next().unwrap().clone() };
    while writers.len() < MAX_COUNTER_WRITERS {
        writers.insert(format!("n{}", writers.len()), entry.clone());
    }
    api.replace_status("full", &PostParams::default(), &object).await.unwrap();
    assert_eq!(counter.add(1).await.unwrap().after, i64::try_from(MAX_COUNTER_KEYS).unwrap() + 1);
    let full = handle(api.clone().into_client(), "full", "pod-b").add(1).await.unwrap_err();
    assert!(matches!(full, CounterError::Full { .. }) && full.to_string().contains("512 writers"), "{full}");
    let keys = counter.perform(Operation::Add(1), Some(Key::new("one more").unwrap())).await.unwrap_err();
    assert!(keys.to_string().contains("1024 idempotency keys"), "{keys}");
}

#[tokio::test]
async fn people_see_the_value_and_a_counter_that_is_not_there_is_told() {
    let cluster = shared().await;
    let api = api(cluster).await;
    let missing = handle(api.clone().into_client(), "missing", "pod-a").add(1).await.unwrap_err();
    assert!(missing.to_string().contains("default/missing: it does not exist: create it first"), "{missing}");
    assert!(
        Counter::on_object(api.clone().into_client(), "default", "No Name", Session::new("a").unwrap(), LIMIT).is_err()
    );
    let yaml = cluster.folder().join("shown.yaml");
    let text = "apiVersion: quorate.io/v1alpha1\nkind: DistributedCounter\nmetadata: {name: shown}\nspec: {max: 50}\n";
    std::fs::write(&yaml, text).unwrap();
    cluster.kubectl(&["apply", "-f", &yaml.display().to_string()]).unwrap();
    handle(api.clone().into_client(), "shown", "pod-a").add(42).await.unwrap();
    let table = cluster.kubectl(&["get", "dctr", "shown"]).unwrap();
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NAME", "VALUE", "MIN", "MAX", "AGE"]);
    assert_eq!(rows[1][..3], ["shown", "42", "50"]);
    // To apply it again does nothing to the value.
    cluster.kubectl(&["apply", "-f", &yaml.display().to_string()]).unwrap();
    assert_eq!(api.get("shown").await.unwrap().status.unwrap().value, 42);
    let last = api.get("shown").await.unwrap().status.unwrap().last_write.unwrap();
    assert_eq!(last.by, "pod-a");
}

/// A client that all faults befall.
async fn faulty(cluster: &Cluster, seed: &str) -> Client {
    let faults = Faults { percent: 30, stall: Duration::from_millis(200), random: Random::from_seed(seed) };
    faults::client(&cluster.kubeconfig(0), faults).await.unwrap()
}

const CLIENTS: usize = 10;
const CALLERS: usize = 3;

/// A handle of each client, over its register as it is or broken in some way.
async fn handles<R: Register<State = CounterState>>(
    cluster: &Cluster,
    name: &str,
    broken: impl Fn(KubeRegister<CounterState>) -> R,
) -> Vec<Counter> {
    let clients = (0..CLIENTS).map(|number| async move { faulty(cluster, &format!("{name} {number}")).await });
    let handle = |(number, client): (usize, Client)| {
        let register = KubeRegister::new(client, "default", name, Duration::from_secs(5));
        Counter::new(broken(register), Session::new(&format!("pod-{number}")).unwrap(), LIMIT)
    };
    join_all(clients).await.into_iter().enumerate().map(handle).collect()
}

/// Each caller of each client increments so often, through faults: what the checker says.
async fn increments<R: Register<State = CounterState>>(
    name: &str,
    each: usize,
    broken: impl Fn(KubeRegister<CounterState>) -> R,
) -> Result<(), Violation> {
    let cluster = shared().await;
    let api = api(cluster).await;
    create(&api, name, bounded(0, None, None)).await.unwrap();
    let (history, handles) = (History::default(), handles(cluster, name, broken).await);
    join_all((0..CLIENTS * CALLERS).map(|caller| {
        let (history, counter) = (&history, &handles[caller % CLIENTS]);
        async move {
            for _ in 0..each {
                history.record(Operation::Add(1), counter.add(1)).await;
            }
        }
    }))
    .await;
    history.check_increments(0, api.get(name).await.unwrap().status.unwrap().value)
}

#[tokio::test]
async fn ten_clients_count_exactly_whatever_befalls_their_requests() {
    assert_eq!(increments("exact", 10, |register| register).await, Ok(()));
}

#[tokio::test]
async fn without_the_writers_sequences_what_was_lost_is_done_twice() {
    let told = increments("amnesia", 4, broken::amnesia).await.unwrap_err();
    assert!(matches!(told, Violation::Sum { acknowledged, value } if value > acknowledged), "{told:?}");
}

#[tokio::test]
async fn without_the_compare_of_compare_and_swap_writes_are_lost_unless_the_rules_refuse_them() {
    let told = increments("unconditional", 4, broken::unconditional).await.unwrap_err();
    let caught = match &told {
        Violation::Sum { acknowledged, value } => value < acknowledged,
        Violation::Twice(_) => true,
        Violation::Unsettled(why) => why.contains("never fall"),
        _ => false,
    };
    assert!(caught, "{told:?}");
}

#[tokio::test]
async fn who_only_tries_again_counts_wrongly_under_the_same_faults() {
    let cluster = shared().await;
    create(&api(cluster).await, "naive", bounded(0, None, None)).await.unwrap();
    join_all((0..CLIENTS).map(|number| async move {
        let api: Api<DistributedCounter> = Api::default_namespaced(faulty(cluster, &format!("naive {number}")).await);
        for _ in 0..15 {
            while tried(&api, "naive").await.is_err() {}
        }
    }))
    .await;
    let value = api(cluster).await.get("naive").await.unwrap().status.unwrap().value;
    assert!(value > i64::try_from(CLIENTS * 15).unwrap(), "{value}: the faults are none that matter");
}

/// Get, add one, put.
async fn tried(api: &Api<DistributedCounter>, name: &str) -> kube::Result<()> {
    let mut object = api.get(name).await?;
    let fresh = CounterState::new(object.spec.clone()).status;
    object.status.get_or_insert(fresh).value += 1;
    api.replace_status(name, &PostParams::default(), &object).await.map(drop)
}

/// Each client does four operations, made of random numbers below this, on a counter from 2 within 0 and 6: so often, each time
/// on another counter.
async fn linearizable(name: &str, rounds: usize, below: u64, operation: impl Fn(u64, i64) -> Operation) {
    let cluster = shared().await;
    let api = api(cluster).await;
    for round in 0..rounds {
        let name = format!("{name}-{round}");
        create(&api, &name, bounded(2, Some(0), Some(6))).await.unwrap();
        let (history, random) = (History::default(), Random::from_seed(&name));
        let handles = handles(cluster, &name, |register| register).await;
        join_all(handles.iter().map(|counter| async {
            for _ in 0..4 {
                let operation = operation(random.bits(), i64::try_from(random.bits() % below).unwrap());
                history.record(operation, counter.perform(operation, None)).await;
            }
        }))
        .await;
        let at = api.get(&name).await.unwrap();
        let value = at.status.map_or(at.spec.initial, |status| status.value);
        assert_eq!(history.check(2, (Some(0), Some(6)), value), Ok(()), "{name}");
    }
}

#[tokio::test]
async fn mixed_operations_are_linearizable_within_bounds() {
    linearizable("mixed", 4, 7, |dice, number| match dice % 4 {
        0 => Operation::Get,
        1 => Operation::CompareAndSet { expected: number, new: 6 - number },
        _ => Operation::Add(number - 3),
    })
    .await;
}

#[tokio::test]
async fn a_register_that_is_only_read_and_compared_and_set_is_linearizable() {
    linearizable("register", 4, 3, |dice, number| match dice % 3 {
        0 => Operation::Get,
        _ => Operation::CompareAndSet { expected: number, new: i64::try_from(dice / 3 % 3).unwrap() },
    })
    .await;
}

#[tokio::test]
async fn the_same_key_counts_once_from_any_process() {
    let cluster = shared().await;
    let api = api(cluster).await;
    create(&api, "keyed", bounded(0, None, None)).await.unwrap();
    let handles = handles(cluster, "keyed", |register| register).await;
    // Every client asks for each of these, at once.
    let calls = (0..CLIENTS * 5).map(|call| {
        let key = Key::new(&format!("order-{}", call % 5)).unwrap();
        handles[call / 5].perform(Operation::Add(1), Some(key))
    });
    let after: BTreeSet<i64> = join_all(calls).await.into_iter().map(|answer| answer.unwrap().after).collect();
    assert_eq!(after, (1..=5).collect());
    assert_eq!(api.get("keyed").await.unwrap().status.unwrap().value, 5);
}

#[tokio::test]
async fn counters_that_are_made_again_under_load_are_told_apart() {
    const APART: i64 = 1_000_000;
    let cluster = shared().await;
    let api = api(cluster).await;
    let name = "remade";
    create(&api, name, bounded(0, None, None)).await.unwrap();
    let handles = handles(cluster, name, |register| register).await;
    let (over, given, unknown) = (AtomicBool::new(false), Mutex::new(Vec::new()), AtomicI64::new(0));
    let load = join_all(handles.iter().map(|counter| async {
        while !over.load(Ordering::SeqCst) {
            match counter.add(1).await {
                Ok(answer) => given.lock().unwrap().push(answer.after),
                Err(error) if error.is_unknown() => {
                    unknown.fetch_add(1, Ordering::SeqCst);
                }
                Err(error) => assert!(error.to_string().contains("does not exist: create it first"), "{error}"),
            }
        }
    }));
    let remaking = async {
        for incarnation in 1..=3 {
            rising(&api, name).await;
            api.delete(name, &DeleteParams::default()).await.unwrap();
            create(&api, name, bounded(incarnation * APART, None, None)).await.unwrap();
        }
        rising(&api, name).await;
        over.store(true, Ordering::SeqCst);
    };
    tokio::join!(load, remaking);
    let (given, unknown) = (given.into_inner().unwrap(), unknown.into_inner());
    let distinct: BTreeSet<i64> = given.iter().copied().collect();
    assert_eq!(distinct.len(), given.len(), "none was given twice");
    let value = api.get(name).await.unwrap().status.unwrap().value - 3 * APART;
    let of_last = i64::try_from(distinct.range(3 * APART..).count()).unwrap();
    assert!((of_last..=of_last + unknown).contains(&value), "{of_last} and {unknown} unknown: {value}");
}

#[tokio::test]
async fn a_counter_made_again_is_another_and_nothing_is_told_that_is_not_known() {
    let cluster = shared().await;
    let api = api(cluster).await;
    create(&api, "again", bounded(0, None, None)).await.unwrap();
    let counter = handle(api.clone().into_client(), "again", "pod-a");
    counter.add(5).await.unwrap();
    api.delete("again", &DeleteParams::default()).await.unwrap();
    let gone = counter.get().await.unwrap_err();
    assert!(gone.to_string().contains("does not exist"), "{gone}");
    create(&api, "again", bounded(100, None, None)).await.unwrap();
    // What it remembers is of the old one: a write with its uid and version does not make it again.
    let told = counter.add(1).await;
    assert!(
        told.as_ref().is_err_and(CounterError::is_unknown) || told.as_ref().is_ok_and(|a| a.after == 101),
        "{told:?}"
    );
    let before = counter.get().await.unwrap().after;
    assert!(before <= 101, "nothing was done twice: {before}");
    assert_eq!(counter.add(1).await.unwrap().after, before + 1);
}

#[tokio::test]
async fn killed_and_stalled_api_servers_lose_nothing() {
    // Its own: it is killed.
    let mut cluster = Cluster::start().await.unwrap();
    cluster.install_crds().await.unwrap();
    let name = "outage";
    create(&api(&cluster).await, name, bounded(0, None, None)).await.unwrap();
    let history = History::default();
    let clients = join_all((0..CLIENTS).map(|_| cluster.client())).await;
    let handles = clients.into_iter().enumerate();
    let handles: Vec<Counter> =
        handles.map(|(number, client)| handle(client.unwrap(), name, &format!("pod-{number}"))).collect();
    let over = AtomicBool::new(false);
    let load = join_all(handles.iter().map(|counter| async {
        while !over.load(Ordering::SeqCst) {
            history.record(Operation::Add(1), counter.add(1)).await;
        }
    }));
    let outages = async {
        let reader = api(&cluster).await;
        rising(&reader, name).await;
        cluster.kill_api_server(0);
        cluster.restart_api_server(0).await.unwrap();
        rising(&reader, name).await;
        cluster.pause_api_server(0, true);
        // Longer than a call may take: those under way end without an answer.
        tokio::time::sleep(Duration::from_secs(7)).await;
        cluster.pause_api_server(0, false);
        rising(&reader, name).await;
        over.store(true, Ordering::SeqCst);
    };
    tokio::join!(load, outages);
    let value = api(&cluster).await.get(name).await.unwrap().status.unwrap().value;
    assert_eq!(history.check_increments(0, value), Ok::<(), Violation>(()));
}

/// Waits until all clients get on.
async fn rising(api: &Api<DistributedCounter>, name: &str) {
    let value = || async {
        let object = api.get(name).await.map_err(|error| error.to_string())?;
        Ok::<_, String>(object.status.map_or(0, |status| status.value))
    };
    let before = wait_for("the counter", value).await.unwrap();
    wait_for("the counter to rise", || async {
        let now = value().await?;
        if now >= before + 30 { Ok(()) } else { Err(format!("{now} after {before}")) }
    })
    .await
    .unwrap();
}

/// An increment of a process of its own, by the clock that all share.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Increment {
    invoked: Duration,
    answered: Duration,
    before: i64,
}

/// Whether a counter can have given these, and has this value now; of so many increments nobody knows whether they were done.
fn each_once(increments: &[Increment], value: i64, unknown: usize) -> Result<(), String> {
    let distinct: BTreeSet<i64> = increments.iter().map(|increment| increment.before).collect();
    if distinct.len() != increments.len() {
        return Err("two increments gave the same".to_owned());
    }
    let (done, unknown) = (i64::try_from(increments.len()).unwrap(), i64::try_from(unknown).unwrap());
    if !(done..=done + unknown).contains(&value) || distinct.last().is_some_and(|last| *last >= value) {
        return Err(format!("{done} increments were acknowledged, {unknown} are unknown, and the value is {value}"));
    }
    let (mut by_begin, mut by_end) = (increments.to_vec(), increments.to_vec());
    by_begin.sort_by_key(|increment| increment.invoked);
    by_end.sort_by_key(|increment| increment.answered);
    let (mut ended, mut highest) = (by_end.iter().peekable(), -1);
    for increment in by_begin {
        while let Some(earlier) = ended.next_if(|earlier| earlier.answered < increment.invoked) {
            highest = highest.max(earlier.before);
        }
        if increment.before < highest {
            return Err(format!("{increment:?} gave less than one that had ended before it began ({highest})"));
        }
    }
    Ok(())
}

#[test]
fn the_check_of_increments_finds_what_no_counter_gives() {
    let at = |invoked: u64, answered: u64, before: i64| {
        let (invoked, answered) = (Duration::from_secs(invoked), Duration::from_secs(answered));
        Increment { invoked, answered, before }
    };
    let good = [at(0, 2, 1), at(1, 3, 0), at(4, 5, 2)];
    assert_eq!(each_once(&good, 3, 0), Ok(()));
    assert_eq!(each_once(&[good[0], good[1], at(4, 5, 3)], 4, 1), Ok(()));
    assert!(each_once(&[good[0], good[1], at(4, 5, 1)], 3, 0).unwrap_err().contains("the same"));
    assert!(each_once(&good, 2, 9).unwrap_err().contains("the value is 2"), "one was lost");
    assert!(each_once(&good, 5, 1).unwrap_err().contains("the value is 5"), "one was done twice");
    assert!(each_once(&[at(0, 1, 1), at(2, 3, 0)], 2, 0).unwrap_err().contains("had ended before it began"));
}

const PROCESSES: usize = 10;

/// For how long: longer with `QUORATE_SOAK`, in seconds.
fn time() -> Duration {
    let soak = std::env::var("QUORATE_SOAK").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(soak.unwrap_or(40))
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_processes_count_exactly_whatever_happens_to_them_their_clocks_and_the_api_server() {
    let mut cluster = Cluster::start().await.unwrap();
    cluster.install_crds().await.unwrap();
    let counters = api(&cluster).await;
    create(&counters, "crowded", bounded(0, None, None)).await.unwrap();
    let arguments = vec!["--object=crowded".to_owned(), "--faults=15".to_owned(), "--pause-millis=300".to_owned()];
    let (job, library) = (Job { what: "count", arguments }, faketime().unwrap());
    let mut crowd = Crowd::start(&cluster, library.as_deref(), &vec![job; PROCESSES]).unwrap();
    let said = |crowd: &Crowd| -> Vec<Increment> {
        crowd.said().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    let (random, until, stall) = (Random::from_system().unwrap(), Instant::now() + time(), Duration::from_secs(3));
    let mut kills = PROCESSES;
    for round in 0.. {
        // Every fourth time one of them is killed.
        kills += usize::from(round % 4 == 0);
        crowd.trouble(round, &mut cluster, round * 3 % PROCESSES, stall, &random).await.unwrap();
        let before = said(&crowd).len();
        wait_for("others to count", || async {
            if said(&crowd).len() >= before + 10 { Ok(()) } else { Err(crowd.complaints()) }
        })
        .await
        .unwrap();
        if Instant::now() > until {
            break;
        }
    }
    let complaints = crowd.said().iter().filter(|line| !line.starts_with('{')).count();
    assert_eq!(crowd.ended(), [""; 0].map(std::path::PathBuf::from), "{}", crowd.complaints());
    crowd.kill_all();
    let (increments, value) = (said(&crowd), counters.get("crowded").await.unwrap().status.unwrap().value);
    println!("{} acknowledged, {value} done, {kills} killed, {complaints} without an answer", increments.len());
    assert!(increments.len() > 50);
    each_once(&increments, value, kills + complaints).unwrap();
}
