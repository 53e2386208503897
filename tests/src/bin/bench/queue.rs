//! Queues: items that are sent, received and acknowledged, beside the bare writes that this needs; and how soon an item comes
//! again whose consumer has gone.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use futures::future::{join_all, try_join_all};
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
};
use quorate_coordination::{
    Queue, Session, Step, Stored,
    queue::{
        Item, KubeStore,
        item::{Claim, Claimed},
    },
};
use quorate_crds::{DistributedQueue, DistributedQueueSpec, QueueItem, QueueItemSpec, QueueItemState};
use quorate_tests::{
    Cluster,
    cluster::{Options, client},
};
use serde_json::{Value, json};
use tokio::{
    sync::{Mutex, Semaphore},
    time::{Instant, timeout},
};

use crate::{
    objects::named,
    results::{percentile, rounded},
};

/// Clients of the floor; producers, and as many consumers, of the queue.
const SIZES: [usize; 3] = [1, 4, 16];
/// Each row is measured so often, in turns.
const ROUNDS: usize = 2;
/// And for so long.
const TIME: Duration = Duration::from_secs(8);
/// Before that, all have found each other.
const WARM_UP: Duration = Duration::from_secs(2);
/// Items of one producer that are sent and not acknowledged.
const AHEAD: usize = 4;
/// More than any operation is meant to need.
const LIMIT: Duration = Duration::from_secs(30);
/// Of items whose consumer goes.
const VISIBILITY: Duration = Duration::from_secs(2);
/// So many are left by it.
const ABANDONED: usize = 40;
const PAYLOAD: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Milliseconds of each item that was done, and what each client has done.
#[derive(Default)]
struct Round {
    latencies: Vec<f64>,
    clients: Vec<usize>,
}

pub async fn measure() -> Result<Vec<Value>> {
    eprintln!("Starting etcd (with fsync) and kube-apiserver");
    let cluster = Cluster::with(Options { fsync: true, ..Options::default() }).await?;
    cluster.install_crds().await?;
    let mut rows = Vec::new();
    for size in SIZES {
        let (mut floor, mut serial, mut ours) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            floor.push(bare(&cluster, size, round).await?);
            if size == 1 {
                serial.push(one_after_the_other(&cluster, round).await?);
            }
            ours.push(flow(&cluster, size, round).await?);
        }
        rows.push(row(&format!("floor-{size}"), &floor));
        if size == 1 {
            rows.push(row("quorate-serial", &serial));
        }
        rows.push(row(&format!("quorate-{size}"), &ours));
    }
    rows.push(redelivery(&cluster).await?);
    print(&rows);
    Ok(rows)
}

/// A queue of its own; its uid.
async fn made(client: &Client, name: &str) -> Result<String> {
    let api: Api<DistributedQueue> = Api::default_namespaced(client.clone());
    let spec = DistributedQueueSpec { max_length: 10_000, ..DistributedQueueSpec::default() };
    let object = DistributedQueue { metadata: named(name), spec, status: None };
    api.create(&PostParams::default(), &object).await?.metadata.uid.context("it has a uid")
}

fn handle(client: Client, name: &str, who: &str) -> Result<Queue<KubeStore>> {
    Ok(Queue::on_object(client, "default", name, Session::new(who)?, LIMIT)?)
}

/// What an item needs at least: it is made, claimed and acknowledged; by clients that know what they write, and do not get
/// in each other's way.
async fn bare(cluster: &Cluster, size: usize, round: usize) -> Result<Round> {
    let kubeconfig = cluster.kubeconfig(0);
    let clients = try_join_all((0..size).map(|_| client(&kubeconfig))).await?;
    let name = format!("floor-{size}-{round}");
    let uid = made(&clients[0], &name).await?;
    let begin = Instant::now() + WARM_UP;
    let per_client = try_join_all(clients.into_iter().enumerate().map(|(number, client)| {
        let (name, uid) = (name.clone(), uid.clone());
        async move {
            let api: Api<QueueItem> = Api::default_namespaced(client);
            let (mut latencies, mut sequence) = (Vec::new(), 0);
            while begin.elapsed() < TIME {
                sequence += 1;
                let start = Instant::now();
                written(&api, &name, &uid, &format!("{number}-{sequence}"), sequence).await?;
                if start >= begin {
                    latencies.push(start.elapsed().as_secs_f64() * 1e3);
                }
            }
            Ok::<_, anyhow::Error>(latencies)
        }
    }))
    .await?;
    let clients = per_client.iter().map(Vec::len).collect();
    Ok(Round { latencies: per_client.concat(), clients })
}

/// POST, PUT, PUT.
async fn written(api: &Api<QueueItem>, queue: &str, uid: &str, id: &str, sequence: i64) -> Result<()> {
    let spec = QueueItemSpec {
        queue: queue.to_owned(),
        sequence,
        payload: Some(PAYLOAD.to_owned()),
        operation: id.to_owned(),
        ..QueueItemSpec::default()
    };
    let (params, name) = (PostParams::default(), format!("{queue}.{id}"));
    let new = Item { queue_uid: uid.to_owned(), spec, ..Item::default() };
    let made = api.create(&params, &new.to_object(named(&name))).await?;
    let claim = Claim { id: "bare".into(), by: "floor".into(), visibility_seconds: 30, max_attempts: 5, expired: None };
    let Step::Write(claimed, Claimed::Yours) = new.claim(&claim) else { anyhow::bail!("it is free") };
    let at = api.replace_status(&name, &params, &claimed.to_object(made.metadata)).await?;
    let receipt = claimed.status.receipt.clone().unwrap_or_default();
    let Step::Write(done, Ok(())) = claimed.acknowledge(&receipt) else { anyhow::bail!("it is held") };
    api.replace_status(&name, &params, &done.to_object(at.metadata)).await?;
    Ok(())
}

/// One client that sends, receives and acknowledges one item after the other.
async fn one_after_the_other(cluster: &Cluster, round: usize) -> Result<Round> {
    let client = client(&cluster.kubeconfig(0)).await?;
    let name = format!("serial-{round}");
    made(&client, &name).await?;
    let queue = handle(client, &name, "both")?;
    let begin = Instant::now() + WARM_UP;
    let mut latencies = Vec::new();
    while begin.elapsed() < TIME {
        let start = Instant::now();
        queue.send(PAYLOAD, None).await?;
        queue.receive(None, LIMIT).await?.context("it was sent")?.acknowledge().await?;
        if start >= begin {
            latencies.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    let clients = vec![latencies.len()];
    Ok(Round { latencies, clients })
}

/// Producers and consumers, each with a client of its own. An item's time is from the begin of its sending to its acknowledgement.
async fn flow(cluster: &Cluster, size: usize, round: usize) -> Result<Round> {
    let kubeconfig = cluster.kubeconfig(0);
    let clients = try_join_all((0..2 * size).map(|_| client(&kubeconfig))).await?;
    let name = format!("flow-{size}-{round}");
    made(&clients[0], &name).await?;
    let begin = Instant::now() + WARM_UP;
    let (room, sent, done) = (Semaphore::new(AHEAD * size), AtomicUsize::new(0), AtomicUsize::new(0));
    let (producers, consumers) = clients.split_at(size);
    let produce = try_join_all(producers.iter().enumerate().map(|(number, client)| {
        let queue = handle(client.clone(), &name, &format!("producer-{number}"));
        let (room, sent) = (&room, &sent);
        async move {
            let queue = queue?;
            while begin.elapsed() < TIME {
                let Ok(Ok(permit)) = timeout(Duration::from_millis(100), room.acquire()).await else { continue };
                // Given back when it is acknowledged.
                permit.forget();
                let start = begin.elapsed().as_secs_f64() - before(begin);
                queue.send(format!("{start} {PAYLOAD}"), None).await?;
                sent.fetch_add(1, Ordering::SeqCst);
            }
            Ok::<_, anyhow::Error>(())
        }
    }));
    let consume = try_join_all(consumers.iter().enumerate().map(|(number, client)| {
        let queue = handle(client.clone(), &name, &format!("consumer-{number}"));
        let (room, done) = (&room, &done);
        async move {
            let (queue, mut latencies) = (queue?, Vec::new());
            while begin.elapsed() < TIME {
                let Some(got) = queue.receive(None, Duration::from_millis(100)).await? else { continue };
                got.acknowledge().await?;
                room.add_permits(1);
                done.fetch_add(1, Ordering::SeqCst);
                ensure!(got.attempts() == 1, "{got:?} was handed out twice");
                let payload = got.payload();
                let start: f64 =
                    payload.as_text().and_then(|text| text.split(' ').next()?.parse().ok()).unwrap_or(-1.0);
                let now = begin.elapsed().as_secs_f64() - before(begin);
                if now >= 0.0 && now <= TIME.as_secs_f64() {
                    latencies.push((now - start) * 1e3);
                }
            }
            Ok(latencies)
        }
    }));
    let ((), per_client) = futures::future::try_join(async { produce.await.map(drop) }, consume).await?;
    let (sent, done) = (sent.load(Ordering::SeqCst), done.load(Ordering::SeqCst));
    let api: Api<QueueItem> = Api::default_namespaced(clients[0].clone());
    let of_queue = ListParams::default().fields(&format!("spec.queue={name},status.state=Acknowledged"));
    let acknowledged = api.list(&of_queue).await?.items.len();
    ensure!(
        acknowledged == done && sent >= done,
        "{sent} were sent, {done} were done, and the store has {acknowledged}"
    );
    let clients = per_client.iter().map(Vec::len).collect();
    Ok(Round { latencies: per_client.concat(), clients })
}

/// Seconds until it begins; `elapsed` of what is to come is zero.
fn before(begin: Instant) -> f64 {
    begin.saturating_duration_since(Instant::now()).as_secs_f64()
}

/// A consumer claims items and goes; another one waits. How long after the visibility time each comes again.
async fn redelivery(cluster: &Cluster) -> Result<Value> {
    let kubeconfig = cluster.kubeconfig(0);
    let (one, two) = (client(&kubeconfig).await?, client(&kubeconfig).await?);
    made(&one, "redelivery").await?;
    let (leaves, waits) = (handle(one.clone(), "redelivery", "leaves")?, handle(two, "redelivery", "waits")?);
    // It watches.
    ensure!(waits.receive(None, Duration::ZERO).await?.is_none(), "there is nothing yet");
    let claimed = Arc::new(Mutex::new(std::collections::HashMap::new()));
    let sends = join_all((0..ABANDONED).map(|_| leaves.send(PAYLOAD, None))).await;
    ensure!(sends.iter().all(Result::is_ok), "all are sent");
    for _ in 0..ABANDONED {
        let got = leaves.receive(Some(VISIBILITY), LIMIT).await?.context("there are more")?;
        claimed.lock().await.insert(got.item().to_owned(), Instant::now());
    }
    drop(leaves);
    let mut late = Vec::new();
    for _ in 0..ABANDONED {
        let got = waits.receive(None, LIMIT).await?.context("it comes again")?;
        let since = claimed.lock().await.get(got.item()).context("it was claimed")?.elapsed();
        ensure!(since >= VISIBILITY && got.attempts() == 2, "{got:?} came again after {since:?}");
        late.push((since.saturating_sub(VISIBILITY)).as_secs_f64() * 1e3);
        got.acknowledge().await?;
    }
    let api: Api<QueueItem> = Api::default_namespaced(one);
    let items = api.list(&ListParams::default().fields("spec.queue=redelivery")).await?.items;
    let done = items.iter().filter_map(|item| item.status.as_ref()).filter(|s| s.state == QueueItemState::Acknowledged);
    ensure!(done.count() == ABANDONED, "all are acknowledged");
    let at = percentile(late);
    let margin = VISIBILITY.as_secs_f64() * 1e3 * f64::from(quorate_coordination::lock::DRIFT_PERCENT) / 100.0;
    Ok(json!({
        "bench": "queue-redelivery", "name": "quorate", "unit": "ms after the visibility time", "value": at(50), "p50": at(50),
        "p99": at(99), "n": ABANDONED, "visibility_ms": rounded(VISIBILITY.as_secs_f64() * 1e3), "margin_ms": rounded(margin)
    }))
}

/// The rounds of one row: the rate over all, and the clients of the worst round.
fn row(name: &str, rounds: &[Round]) -> Value {
    let latencies: Vec<f64> = rounds.iter().flat_map(|round| round.latencies.clone()).collect();
    let count = latencies.len();
    #[expect(clippy::cast_precision_loss, reason = "there are not that many")]
    let rate = count as f64 / (TIME.as_secs_f64() * rounds.len() as f64);
    let at = percentile(if latencies.is_empty() { vec![f64::NAN] } else { latencies });
    let extremes = |round: &Round| {
        let (least, most) = (round.clients.iter().min().copied(), round.clients.iter().max().copied());
        (least.unwrap_or_default(), most.unwrap_or_default())
    };
    let worst = rounds.iter().map(extremes).min_by_key(|(least, most)| least * 1000 / (*most).max(1));
    let (least, most) = worst.unwrap_or_default();
    json!({
        "bench": "queue", "name": name, "unit": "items/s", "value": rounded(rate), "n": count, "p50": at(50), "p99": at(99),
        "client_min": least, "client_max": most
    })
}

fn print(rows: &[Value]) {
    let number = |row: &Value, field: &str| row[field].as_f64().unwrap_or(f64::NAN);
    let name = |row: &Value| row["name"].as_str().unwrap_or_default().to_owned();
    println!(
        "\n| queue | items/s | / floor | p50, ms | p99, ms | by consumer, in {} s |\n|---|---|---|---|---|---|",
        TIME.as_secs()
    );
    for row in rows.iter().filter(|row| row["bench"] == "queue") {
        let size = name(row).rsplit('-').next().unwrap_or_default().replace("serial", "1");
        let floor = rows.iter().find(|other| name(other) == format!("floor-{size}"));
        let (value, floor) = (number(row, "value"), floor.map_or(f64::NAN, |floor| number(floor, "value")));
        let (p50, p99) = (number(row, "p50"), number(row, "p99"));
        let ratio = value / floor;
        println!(
            "| {} | {value:.0} | {ratio:.2} | {p50:.1} | {p99:.1} | {} to {} |",
            name(row),
            row["client_min"],
            row["client_max"]
        );
    }
    for row in rows.iter().filter(|row| row["bench"] == "queue-redelivery") {
        println!(
            "\nAn item whose consumer has gone comes again {:.0} ms (p99 {:.0}) after its {:.0} ms: {:.0} ms of that are the margin for clocks.",
            number(row, "p50"),
            number(row, "p99"),
            number(row, "visibility_ms"),
            number(row, "margin_ms")
        );
    }
}
