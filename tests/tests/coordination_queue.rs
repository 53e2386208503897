//! The queue on a real API server: what its rules refuse, histories with faults between clients and server, and the janitor.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../../coordination/tests/queue/history.rs"]
mod history;
#[path = "../../coordination/tests/queue/worker.rs"]
mod worker;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{StreamExt, future::join_all};
use http::{Request, header::DATE};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
    client::Body,
};
use quorate_coordination::{
    Boottime, Payload, Queue, QueueError, Random, Session, Stored,
    queue::{Item, KubeStore, Which, janitor},
};
use quorate_crds::{DistributedQueue, DistributedQueueSpec, MAX_QUEUE_PAYLOAD, QueueItem, QueueItemState};
use quorate_tests::{
    Cluster,
    attempt::refused,
    cluster::{self, Options},
    crowd::{Crowd, Job, faketime},
    faults::{self, Faults},
    wait::wait_for,
};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tower::BoxError;

use history::{Change, Event, History};
use worker::{Habits, Shared, Skewed, consume, produce};

const LIMIT: Duration = Duration::from_secs(60);
const NOW: Duration = Duration::ZERO;

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

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

async fn items(cluster: &Cluster) -> Api<QueueItem> {
    Api::default_namespaced(cluster.client().await.unwrap())
}

async fn create(cluster: &Cluster, name: &str, spec: Value) -> kube::Result<DistributedQueue> {
    let api: Api<DistributedQueue> = Api::default_namespaced(cluster.client().await.unwrap());
    let metadata = json!({"name": name});
    let object =
        json!({"apiVersion": "quorate.io/v1alpha1", "kind": "DistributedQueue", "metadata": metadata, "spec": spec});
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await
}

/// A handle of a queue that is made here.
async fn made(cluster: &Cluster, name: &str, spec: Value) -> Queue<KubeStore> {
    create(cluster, name, spec).await.unwrap();
    handle(cluster.client().await.unwrap(), name, "pod-a")
}

fn handle(client: Client, name: &str, who: &str) -> Queue<KubeStore> {
    Queue::on_object(client, "default", name, Session::new(who).unwrap(), LIMIT).unwrap()
}

/// A merge patch of an item's status, as an attacker or a wrong program would send it.
async fn status(api: &Api<QueueItem>, name: &str, patch: Value) -> kube::Result<QueueItem> {
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(json!({"status": patch}))).await
}

#[tokio::test]
async fn an_item_is_sent_received_extended_given_back_and_acknowledged() {
    let cluster = shared().await;
    let made_as = create(cluster, "life", json!({})).await.unwrap();
    assert_eq!(made_as.spec, DistributedQueueSpec::default());
    let api = items(cluster).await;
    let queue = handle(api.clone().into_client(), "life", "pod-a");
    let sent = queue.send("hello", Some("order-7")).await.unwrap();
    assert_eq!((sent.item.as_str(), sent.sequence, sent.duplicate), ("life.order-7", 1, false));
    let mut got = queue.receive(None, seconds(5)).await.unwrap().unwrap();
    assert_eq!((got.payload(), got.attempts(), got.name()), (Payload::from("hello"), 1, Some("order-7")));
    assert!(got.token() > sent.token && got.valid_for() > seconds(20));
    assert_eq!((got.lamport(), got.hlc()), (sent.lamport, sent.hlc));
    let claimed = api.get("life.order-7").await.unwrap().status.unwrap();
    assert!(claimed.lamport > sent.lamport && claimed.hlc > sent.hlc.to_string(), "a claim is after what it claims");
    got.extend(Some(seconds(60))).await.unwrap();
    assert!(got.valid_for() > seconds(50));
    let first = got.receipt().to_owned();
    got.release(Some("later")).await.unwrap();
    let got = handle(api.clone().into_client(), "life", "pod-b").receive(None, seconds(5)).await.unwrap().unwrap();
    assert_eq!((got.attempts(), got.payload()), (2, Payload::from("hello")));
    let stale = queue.acknowledge("life.order-7", &first).await.unwrap_err().to_string();
    assert!(
        stale.contains("QueueItem default/life.order-7: receipt 1-") && stale.contains("pod-b has it now"),
        "{stale}"
    );
    got.acknowledge().await.unwrap();
    got.acknowledge().await.unwrap();
    let again = queue.send("again", Some("order-7")).await.unwrap();
    assert_eq!((again.duplicate, again.state), (true, QueueItemState::Acknowledged));
    let object = api.get("life.order-7").await.unwrap();
    assert_eq!(object.spec.payload.as_deref(), Some("hello"));
    assert_eq!(object.metadata.labels.unwrap()["quorate.io/queue"], "life");
    let owner = &object.metadata.owner_references.unwrap()[0];
    assert_eq!((owner.kind.as_str(), owner.name.as_str()), ("DistributedQueue", "life"));
    // What an application in another language would see of it.
    let bytes = queue.send(vec![0_u8, 159, 255], None).await.unwrap();
    let got = queue.receive(None, seconds(5)).await.unwrap().unwrap();
    assert_eq!((got.item(), got.payload()), (bytes.item.as_str(), Payload::Binary(vec![0, 159, 255])));
    let shown = cluster.kubectl(&["get", "queueitems", &bytes.item, "-o", "jsonpath={.spec.binaryPayload}"]).unwrap();
    assert_eq!(shown, "AJ//");
}

#[tokio::test]
async fn what_must_not_happen_to_an_item_is_refused() {
    let cluster = shared().await;
    let (queue, api) = (made(cluster, "rules", json!({})).await, items(cluster).await);
    let name = queue.send("x", Some("a")).await.unwrap().item;
    let name = name.as_str();
    let claim = |attempts: i64, receipt: &str| json!({"state": "Claimed", "attempts": attempts, "receipt": receipt, "claimedBy": "x", "visibilitySeconds": 9});

    // What was sent never changes.
    for patch in [json!({"payload": "y"}), json!({"sequence": 9}), json!({"name": "b"}), json!({"queue": "other"})] {
        let spec = api.patch(name, &PatchParams::default(), &Patch::Merge(json!({"spec": patch}))).await;
        refused(spec, "spec never changes: send another item");
    }

    // Ready: nothing but a claim, which is the first attempt.
    refused(
        status(&api, name, json!({"state": "Acknowledged"})).await,
        "an item has a receipt when it is Claimed or Acknowledged",
    );
    refused(
        status(&api, name, json!({"state": "Acknowledged", "receipt": "0-x"})).await,
        "by who has its present receipt only",
    );
    refused(status(&api, name, json!({"attempts": 3})).await, "only a claim is an attempt");
    refused(status(&api, name, claim(2, "2-x")).await, "only a claim is an attempt, and it is one");
    refused(status(&api, name, claim(1, "x")).await, "status.receipt");
    refused(status(&api, name, claim(1, "2-x")).await, "a receipt begins with the number of its attempt");
    refused(status(&api, name, claim(0, "0-x")).await, "needs a receipt of a new attempt");
    refused(
        status(&api, name, json!({"state": "Claimed", "attempts": 1, "receipt": "1-x"})).await,
        "says who claims it, and for how long",
    );
    refused(status(&api, name, json!({"receipt": "0-x"})).await, "an item has a receipt when");
    refused(status(&api, name, json!({"forgiven": 1})).await, "status.forgiven");
    refused(status(&api, name, json!({"state": "Gone"})).await, "Unsupported value");
    let forever =
        json!({"state": "Claimed", "attempts": 1, "receipt": "1-x", "claimedBy": "x", "visibilitySeconds": 31_536_000});
    refused(status(&api, name, forever).await, "visibilitySeconds");

    // Claimed: only who has the receipt goes on, and nobody takes an attempt back.
    let got = queue.receive(None, seconds(5)).await.unwrap().unwrap();
    let mine = got.receipt().to_owned();
    refused(
        status(&api, name, json!({"attempts": 0})).await,
        "status.attempts, status.lamport and status.hlc never fall",
    );
    for early in ["0000000000000001", "", "later"] {
        refused(status(&api, name, json!({"hlc": early})).await, "hlc");
    }
    refused(
        status(&api, name, json!({"lamport": 0})).await,
        "status.attempts, status.lamport and status.hlc never fall",
    );
    refused(status(&api, name, json!({"receipt": "1-forged"})).await, "needs a receipt of a new attempt");
    refused(status(&api, name, json!({"visibilitySeconds": 43_200})).await, "then status.extensions rises");
    refused(
        status(&api, name, json!({"state": "Acknowledged", "receipt": "1-forged"})).await,
        "this one is another's by now",
    );
    refused(status(&api, name, claim(2, &mine)).await, "a receipt begins with the number of its attempt");
    // Negative control: who has it extends, and another claims with a receipt of a new attempt.
    status(&api, name, json!({"extensions": 1, "visibilitySeconds": 60})).await.unwrap();
    status(&api, name, claim(2, "2-next")).await.unwrap();
    let stale = got.acknowledge().await.unwrap_err();
    assert!(matches!(stale, QueueError::Stale { .. }), "{stale}");
    refused(
        status(&api, name, json!({"state": "Acknowledged", "attempts": 2, "receipt": mine})).await,
        "a receipt begins with",
    );

    // Acknowledged: for ever.
    queue.acknowledge(name, "2-next").await.unwrap();
    for patch in [
        json!({"state": "Ready", "receipt": null}),
        json!({"state": "Dead", "receipt": null}),
        json!({"state": "Claimed", "attempts": 3, "receipt": "3-x", "visibilitySeconds": 9}),
        json!({"claimedBy": "somebody else"}),
    ] {
        refused(status(&api, name, patch).await, "an item that was acknowledged stays so");
    }

    // Dead: until it is redriven, with nothing else changed.
    let dead = queue.send("x", Some("dead")).await.unwrap().item;
    status(&api, &dead, claim(1, "1-x")).await.unwrap();
    status(&api, &dead, json!({"state": "Dead", "receipt": null})).await.unwrap();
    refused(status(&api, &dead, json!({"state": "Ready"})).await, "a dead item stays so, but for a redrive");
    refused(status(&api, &dead, claim(2, "2-x")).await, "a dead item stays so");
    refused(status(&api, &dead, json!({"state": "Ready", "forgiven": 1, "attempts": 0})).await, "never fall");
    status(&api, &dead, json!({"state": "Ready", "forgiven": 1})).await.unwrap();
    refused(status(&api, &dead, json!({"forgiven": 0})).await, "changed by the redrive of a dead item only");
}

#[tokio::test]
async fn what_must_not_happen_to_a_queue_is_refused() {
    let cluster = shared().await;
    for (spec, why) in [
        (json!({"visibilityTimeout": "0s"}), "spec.visibilityTimeout is from 1s to 12h"),
        (json!({"visibilityTimeout": "8760h"}), "spec.visibilityTimeout is from 1s to 12h"),
        (json!({"maxAttempts": 0}), "spec.maxAttempts"),
        (json!({"maxLength": 10_001}), "spec.maxLength"),
        (json!({"keepAcknowledged": "60s"}), "spec.keepAcknowledged is from 2m"),
        (json!({"keepDead": "60s"}), "spec.keepDead is from 2m"),
    ] {
        refused(create(cluster, "wrong", spec).await, why);
    }
    for name in ["a.b", &"x".repeat(64)] {
        refused(create(cluster, name, json!({})).await, "the name of a queue has 63 characters at most and no '.'");
    }
    let queue = made(cluster, "bounds", json!({})).await;
    for _ in 0..3 {
        queue.send("x", None).await.unwrap();
    }
    let api: Api<DistributedQueue> = Api::default_namespaced(cluster.client().await.unwrap());
    let write = |status: Value| {
        let api = api.clone();
        async move { api.patch_status("bounds", &PatchParams::default(), &Patch::Merge(json!({"status": status}))).await }
    };
    refused(write(json!({"sequence": 2})).await, "status.sequence, status.lamport and status.hlc never fall");
    refused(write(json!({"lamport": 0})).await, "never fall");
    refused(
        write(json!({"counts": {"ready": -1, "claimed": 0, "dead": 0, "acknowledged": 0, "sequence": 0}})).await,
        "ready",
    );
    let mut without = api.get("bounds").await.unwrap();
    without.status = None;
    refused(api.replace_status("bounds", &PostParams::default(), &without).await, "status is never removed");
    // An item is made for the queue whose name it has, with one payload that is not too large.
    let make = |name: &str, spec: Value| {
        let object =
            json!({"apiVersion": "quorate.io/v1alpha1", "kind": "QueueItem", "metadata": {"name": name}, "spec": spec});
        let api: Api<QueueItem> = Api::default_namespaced(api.clone().into_client());
        async move { api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await }
    };
    let spec = json!({"queue": "bounds", "sequence": 1, "operation": "o", "payload": "x"});
    let with = |field: &str, value: Value| {
        let mut spec = spec.clone();
        spec[field] = value;
        spec
    };
    refused(make("other.a", spec.clone()).await, "the name of an item is that of its queue, a '.'");
    refused(make("bounds.a", with("payload", Value::Null)).await, "either spec.payload or spec.binaryPayload");
    refused(make("bounds.a", with("binaryPayload", json!("AA=="))).await, "either spec.payload or spec.binaryPayload");
    refused(make("bounds.a", with("payload", json!("x".repeat(MAX_QUEUE_PAYLOAD + 1)))).await, "spec.payload");
    refused(make("bounds.a", with("sequence", json!(0))).await, "spec.sequence");
    refused(make("bounds.a", with("queue", json!("Bounds"))).await, "spec.queue");
}

#[tokio::test]
async fn people_see_what_there_is_and_bad_input_is_told() {
    let cluster = shared().await;
    let client = cluster.client().await.unwrap();
    let missing = handle(client.clone(), "missing", "pod-a");
    for told in [
        missing.send("x", None).await.unwrap_err(),
        missing.receive(None, seconds(30)).await.unwrap_err(),
        missing.length().await.unwrap_err(),
    ] {
        assert!(told.to_string().contains("default/missing: it does not exist: create it first"), "{told}");
    }
    assert!(Queue::on_object(client, "default", "No Name", Session::new("a").unwrap(), LIMIT).is_err());
    let queue = made(cluster, "shown", json!({"maxAttempts": 1, "maxLength": 3})).await;
    let large = queue.send("x".repeat(MAX_QUEUE_PAYLOAD), Some("large")).await.unwrap();
    let bytes = vec![255_u8; MAX_QUEUE_PAYLOAD];
    queue.send(bytes.clone(), Some("Straße 7")).await.unwrap();
    assert!(queue.send("x".repeat(MAX_QUEUE_PAYLOAD + 1), None).await.unwrap_err().to_string().contains("too large"));
    queue.send("x", None).await.unwrap();
    let full = queue.send("x", None).await.unwrap_err();
    assert!(matches!(full, QueueError::Full { length: 3, max: 3, .. }), "{full}");
    let got = queue.receive(Some(seconds(1)), seconds(5)).await.unwrap().unwrap();
    assert_eq!((got.item(), got.payload().as_bytes().len()), (large.item.as_str(), MAX_QUEUE_PAYLOAD));
    got.release(Some("no such order")).await.unwrap();
    let got = queue.receive(None, seconds(5)).await.unwrap().unwrap();
    assert_eq!((got.name(), got.payload()), (Some("Straße 7"), Payload::Binary(bytes)));
    let length = queue.length().await.unwrap();
    assert_eq!((length.ready, length.claimed, length.dead), (1, 1, 1));
    let live = queue.peek(Which::Live, 10).await.unwrap();
    assert_eq!(live.iter().map(|item| item.sequence).collect::<Vec<_>>(), [2, 3]);
    let table = cluster.kubectl(&["get", "qi", "-l", "quorate.io/queue=shown"]).unwrap();
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NAME", "QUEUE", "SEQUENCE", "STATE", "ATTEMPTS", "CLAIMED-BY", "AGE"]);
    let row = |name: &str| rows.iter().find(|row| row[0] == name).unwrap()[1..5].join(" ");
    assert_eq!(row("shown.large"), "shown 1 Dead 1");
    assert!(rows.iter().any(|row| row[1..5] == ["shown", "3", "Ready", "0"]), "{table}");
    let dead = cluster.kubectl(&["get", "qi", "--field-selector", "status.state=Dead,spec.queue=shown", "-o", "name"]);
    assert_eq!(dead.unwrap().trim(), "queueitem.quorate.io/shown.large");
    assert_eq!(queue.redrive(Some(&large.item)).await.unwrap(), 1);
    let again = queue.receive(Some(seconds(1)), seconds(5)).await.unwrap().unwrap();
    assert_eq!(
        (again.item(), again.attempts(), again.payload().as_bytes().len()),
        (large.item.as_str(), 1, MAX_QUEUE_PAYLOAD)
    );
    again.release(None).await.unwrap();
    assert_eq!(queue.purge_dead(None).await.unwrap(), 1);
    assert_eq!(queue.length().await.unwrap().dead, 0);
}

#[tokio::test]
async fn a_consumer_that_stops_midway_loses_its_item_when_its_time_is_up_and_not_before() {
    let cluster = shared().await;
    let queue = made(cluster, "midway", json!({"visibilityTimeout": "3s"})).await;
    queue.send("x", None).await.unwrap();
    let other = handle(cluster.client().await.unwrap(), "midway", "pod-b");
    // It watches before, so that it sees the claim at once.
    assert!(other.receive(None, NOW).await.is_ok_and(|got| got.is_some_and(|got| got.attempts() == 1)));
    let got = queue.receive(None, seconds(30)).await.unwrap().unwrap();
    assert_eq!(got.attempts(), 2);
    let (claimed, valid) = (Instant::now(), got.valid_for());
    let again = other.receive(None, seconds(30)).await.unwrap().unwrap();
    let after = claimed.elapsed();
    assert!(after > valid && after < seconds(6), "{after:?}, and it believed for {valid:?}");
    assert!(matches!(got.acknowledge().await, Err(QueueError::Stale { .. })));
    again.acknowledge().await.unwrap();
}

#[tokio::test]
async fn a_deleted_queue_takes_its_items_along_and_one_made_again_is_another() {
    let cluster = Cluster::with(Options { controller_manager: true, ..Options::default() }).await.unwrap();
    cluster.install_crds().await.unwrap();
    let (queue, api) = (made(&cluster, "gone", json!({})).await, items(&cluster).await);
    queue.send("x", Some("a")).await.unwrap();
    let got = queue.receive(None, seconds(5)).await.unwrap().unwrap();
    cluster.kubectl(&["delete", "dq", "gone"]).unwrap();
    let told = queue.send("y", None).await.unwrap_err();
    assert!(told.to_string().contains("does not exist: create it first"), "{told}");
    create(&cluster, "gone", json!({})).await.unwrap();
    // Until the old item is collected, its name cannot be used; it is never received from the new queue.
    let sent = wait_for("the name to be free", || async {
        match queue.send("new", Some("a")).await {
            Ok(sent) => Ok(sent),
            Err(error @ QueueError::Leftover { .. }) => Err(error.to_string()),
            Err(error) => panic!("{error}"),
        }
    })
    .await
    .unwrap();
    assert!(!sent.duplicate);
    let told = got.acknowledge().await.unwrap_err();
    assert!(matches!(told, QueueError::Stale { .. }), "{told}");
    let fresh = queue.receive(None, seconds(30)).await.unwrap().unwrap();
    assert_eq!((fresh.payload(), fresh.attempts()), (Payload::from("new"), 1));
    let left = api.list(&ListParams::default()).await.unwrap().items;
    assert_eq!(left.len(), 1, "{left:?}");
}

const CLIENTS: u64 = 10;
const MAX_ATTEMPTS: i64 = 5;

/// All that the API server does with the items of a queue from now on, by watches that nothing befalls.
async fn recorded(api: Api<QueueItem>, queue: &str, into: Arc<Mutex<Vec<Change>>>) {
    let fields = format!("spec.queue={queue}");
    let mut from = api.list(&ListParams::default().fields(&fields)).await.unwrap().metadata.resource_version.unwrap();
    let mut present: std::collections::HashMap<String, Item> = std::collections::HashMap::new();
    tokio::spawn(async move {
        let params = WatchParams::default().fields(&fields).timeout(290);
        // The API server ends it now and then.
        while let Ok(events) = api.watch(&params, &from).await {
            let mut events = events.boxed();
            while let Some(Ok(event)) = events.next().await {
                let (object, deleted) = match event {
                    WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, false),
                    WatchEvent::Deleted(object) => (object, true),
                    _ => continue,
                };
                from = object.metadata.resource_version.clone().unwrap();
                let (name, after) = (object.metadata.name.clone().unwrap(), Item::of_object(&object).unwrap());
                let after = (!deleted).then_some(after);
                let before = match &after {
                    Some(after) => present.insert(name.clone(), after.clone()),
                    None => present.remove(&name),
                };
                into.lock().unwrap().push(Change { name, before, after, at: None });
            }
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_clients_lose_nothing_while_answers_are_lost() {
    let cluster = shared().await;
    let spec = json!({"visibilityTimeout": "3s", "maxAttempts": MAX_ATTEMPTS});
    made(cluster, "faults", spec).await;
    let (history, began, changes) = (Arc::new(History::default()), Instant::now(), Arc::new(Mutex::new(Vec::new())));
    let notes = history.notes();
    recorded(items(cluster).await, "faults", Arc::clone(&changes)).await;
    let now: Shared = Arc::new(move || began.elapsed());
    let (producing, each) = (AtomicUsize::new(usize::try_from(CLIENTS).unwrap()), 8);
    let kubeconfig = cluster.kubeconfig(0);
    let bad = |seed: String| {
        let random = Random::from_seed(&seed);
        let path = kubeconfig.clone();
        async move {
            faults::client(&path, Faults { percent: 20, stall: Duration::from_millis(300), random }).await.unwrap()
        }
    };
    let live = || {
        let present: std::collections::HashMap<String, bool> = changes
            .lock()
            .unwrap()
            .iter()
            .map(|change| (change.name.clone(), change.after.as_ref().is_some_and(Item::is_live)))
            .collect();
        present.len() < usize::try_from(CLIENTS).unwrap() * each || present.values().any(|live| *live)
    };
    let done = || producing.load(Ordering::SeqCst) == 0 && !live();
    let producers = join_all((0..CLIENTS).map(|number| {
        let (notes, producing) = (&notes, &producing);
        let client = bad(format!("producer {number}"));
        async move {
            let queue = handle(client.await, "faults", &format!("p{number}"));
            produce(&queue, &format!("p{number}"), each, NOW, notes).await;
            producing.fetch_sub(1, Ordering::SeqCst);
        }
    }));
    let habits = Habits { visibility: seconds(3), work: seconds(2), abandons: 8, releases: 8, extends: 15 };
    let consumers = join_all((0..CLIENTS).map(|number| {
        let (notes, now) = (&notes, now.clone());
        let client = bad(format!("consumer {number}"));
        // Their clocks run at rates that differ by as much as is allowed for.
        let rate = if number % 2 == 0 { 0.96 } else { 1.04 };
        async move {
            let who = format!("c{number}");
            let random = Arc::new(Random::from_system().unwrap());
            let session = Session::with(&who, Arc::new(Skewed(Boottime, rate)), random);
            let queue = Queue::on_object(client.await, "default", "faults", session, LIMIT).unwrap();
            consume(&queue, habits, &Random::from_seed(&who), rate, &now, notes, done).await;
        }
    }));
    tokio::join!(producers, consumers);
    let changes = changes.lock().unwrap().clone();
    let redelivered = history.deliveries().iter().filter(|delivered| delivered.attempt > 1).count();
    assert!(redelivered > 0, "the faults are none that matter");
    assert_eq!(history.check(&changes, MAX_ATTEMPTS), Ok(()));
    // None is left, and each of them is acknowledged or dead.
    let ends = items(cluster).await.list(&ListParams::default().fields("spec.queue=faults")).await.unwrap().items;
    assert_eq!(ends.len(), usize::try_from(CLIENTS).unwrap() * each);
    assert!(ends.iter().all(|item| {
        let state = item.status.as_ref().map(|status| status.state);
        matches!(state, Some(QueueItemState::Acknowledged | QueueItemState::Dead))
    }));
}

/// Those who send to it, then those who receive from it: each in a process of its own.
const PROCESSES: [(&str, usize, Duration); 2] =
    [("produce", 4, Duration::from_millis(1500)), ("consume", 8, Duration::from_millis(400))];
const VISIBILITY: Duration = Duration::from_secs(4);

/// For how long: longer with `QUORATE_SOAK`, in seconds.
fn time() -> Duration {
    let soak = std::env::var("QUORATE_SOAK").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(soak.unwrap_or(45))
}

fn events(crowd: &Crowd) -> Vec<Event> {
    crowd.said().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_whatever_happens_to_processes_their_clocks_and_the_api_server() {
    // One is killed and stopped; the other one tells what there was.
    let mut cluster = Cluster::with(Options { api_servers: 2, ..Options::default() }).await.unwrap();
    cluster.install_crds().await.unwrap();
    let attempts = 100;
    create(&cluster, "crowded", json!({"maxAttempts": attempts, "maxLength": 10_000})).await.unwrap();
    let steady = cluster::client(&cluster.kubeconfig(1)).await.unwrap();
    let (api, changes) = (Api::<QueueItem>::default_namespaced(steady), Arc::new(Mutex::new(Vec::new())));
    wait_for("the other API server to serve items", || async {
        api.list(&ListParams::default()).await.map_err(|error| error.to_string())
    })
    .await
    .unwrap();
    recorded(api.clone(), "crowded", Arc::clone(&changes)).await;
    let jobs = PROCESSES.iter().flat_map(|(what, count, pause)| {
        let arguments = vec![
            "--object=crowded".to_owned(),
            "--faults=15".to_owned(),
            format!("--ttl-millis={}", VISIBILITY.as_millis()),
            format!("--pause-millis={}", pause.as_millis()),
        ];
        vec![Job { what, arguments }; *count]
    });
    let (jobs, library) = (jobs.collect::<Vec<_>>(), faketime().unwrap());
    let mut crowd = Crowd::start(&cluster, library.as_deref(), &jobs).unwrap();
    let acknowledged =
        |crowd: &Crowd| events(crowd).iter().filter(|event| matches!(event, Event::Acknowledged { .. })).count();
    let (random, until) = (Random::from_system().unwrap(), Instant::now() + time());
    let mut round = 0_usize;
    while Instant::now() < until {
        tokio::time::sleep(VISIBILITY / 4 + random.up_to(VISIBILITY)).await;
        // Now somebody who sends, and now somebody who receives.
        crowd.trouble(round, &mut cluster, round * 5 % jobs.len(), VISIBILITY, &random).await.unwrap();
        round += 1;
        let before = acknowledged(&crowd);
        wait_for("more items to be acknowledged", || async {
            if acknowledged(&crowd) >= before + 3 { Ok(()) } else { Err(crowd.complaints()) }
        })
        .await
        .unwrap();
    }
    assert_eq!(crowd.ended(), [""; 0].map(std::path::PathBuf::from), "{}", crowd.complaints());
    crowd.kill(0..PROCESSES[0].1);
    wait_for("all items to come to an end", || async {
        let fields = ListParams::default().fields("spec.queue=crowded");
        let items = api.list(&fields).await.map_err(|error| error.to_string())?.items;
        let live = items.iter().filter(|item| Item::of_object(item).is_ok_and(|item| item.is_live())).count();
        if live == 0 { Ok(()) } else { Err(format!("{live} of {} are left; {}", items.len(), crowd.complaints())) }
    })
    .await
    .unwrap();
    crowd.kill_all();
    let history = History::of(events(&crowd));
    let again = history.deliveries().iter().filter(|delivered| delivered.attempt > 1).count();
    let changes = changes.lock().unwrap().clone();
    println!("{} acknowledged, {again} handed out again, {} changes", acknowledged(&crowd), changes.len());
    assert!(again > 0 && acknowledged(&crowd) > 30);
    assert_eq!(history.check(&changes, attempts), Ok(()));
}

#[tokio::test]
async fn one_consumer_receives_in_the_order_of_sends_while_others_send() {
    let cluster = shared().await;
    let queue = made(cluster, "order", json!({})).await;
    let consumer = handle(cluster.client().await.unwrap(), "order", "pod-b");
    let (sent, received) = tokio::join!(
        async {
            let mut sent = Vec::new();
            for number in 0..40 {
                sent.push(queue.send(format!("{number}"), None).await.unwrap().sequence);
            }
            sent
        },
        async {
            let mut received = Vec::new();
            while received.len() < 40 {
                let got = consumer.receive(None, seconds(30)).await.unwrap().unwrap();
                received.push(got.sequence());
                got.acknowledge().await.unwrap();
            }
            received
        }
    );
    assert_eq!(sent, received);
}

#[tokio::test]
async fn the_janitor_counts_gives_back_and_deletes() {
    let cluster = Cluster::start().await.unwrap();
    cluster.install_crds().await.unwrap();
    let client = cluster.client().await.unwrap();
    let (queue, api) =
        (made(&cluster, "tidy", json!({"maxAttempts": 1, "keepAcknowledged": "2m"})).await, items(&cluster).await);
    for number in 0..4 {
        queue.send("x", Some(&format!("n{number}"))).await.unwrap();
    }
    queue.receive(None, seconds(5)).await.unwrap().unwrap().acknowledge().await.unwrap();
    queue.receive(Some(seconds(1)), seconds(5)).await.unwrap().unwrap();
    queue.receive(Some(seconds(3600)), seconds(5)).await.unwrap().unwrap();
    // Nobody receives any more: the janitor alone is there.
    drop(queue);
    let session = Session::new("janitor").unwrap();
    let work = tokio::spawn({
        let client = client.clone();
        async move { janitor::run(client, &[], &session).await }
    });
    let queues: Api<DistributedQueue> = Api::default_namespaced(client);
    let counts = wait_for("the claim to expire, and be counted", || async {
        let counts = queues.get("tidy").await.unwrap().status.unwrap().counts.ok_or("no counts")?;
        if counts.dead == 1 { Ok(counts) } else { Err(format!("{counts:?}")) }
    })
    .await
    .unwrap();
    assert_eq!((counts.ready, counts.claimed, counts.acknowledged, counts.sequence), (1, 1, 1, 4));
    let dead = api.get("tidy.n1").await.unwrap().status.unwrap();
    assert!(dead.message.unwrap().contains("the time of pod-a was up without an acknowledgement"));
    let table = cluster.kubectl(&["get", "dq", "tidy"]).unwrap();
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[..5], ["tidy", "1", "1", "1", "4"], "{table}");
    assert!(!work.is_finished());
    work.abort();

    // Two hours later, by the API server's clock.
    let session = Session::new("janitor").unwrap();
    let work = tokio::spawn({
        let client = ahead(cluster.client().await.unwrap(), jiff::SignedDuration::from_hours(2));
        async move { janitor::run(client, &["default".to_owned()], &session).await }
    });
    wait_for("what was acknowledged to be deleted, and not counted any more", || async {
        let counts = queues.get("tidy").await.unwrap().status.unwrap().counts.unwrap();
        if counts.acknowledged == 0 { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .await
    .unwrap();
    let left = api.list(&ListParams::default()).await.unwrap().items;
    let left: Vec<String> = left.into_iter().map(|item| item.metadata.name.unwrap()).collect();
    assert_eq!(
        left,
        ["tidy.n1", "tidy.n2", "tidy.n3"],
        "dead letters are kept for ever, and claims of an hour last an hour"
    );
    work.abort();
}

/// To whom the API server says that it is so much later.
fn ahead(client: Client, by: jiff::SignedDuration) -> Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let client = client.clone();
        let asks_time = request.uri().path() == "/version";
        async move {
            let mut answer = client.send(request).await?;
            if asks_time {
                let date = answer.headers()[DATE].to_str()?;
                let later = jiff::fmt::rfc2822::parse(date)?.timestamp() + by;
                let later = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&later)?;
                answer.headers_mut().insert(DATE, later.parse()?);
            }
            Ok::<_, BoxError>(answer)
        }
    });
    Client::new(service, "default")
}
