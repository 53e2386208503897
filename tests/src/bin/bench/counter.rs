//! Increments of one counter: ours, and get-put-retry, as people write it, on the same kind of object.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use futures::future::{join_all, try_join_all};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use quorate_coordination::{Counter, CounterState, Session};
use quorate_crds::{DistributedCounter, DistributedCounterSpec};
use quorate_tests::{
    Cluster,
    cluster::{Options, client},
};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use crate::results::{percentile, rounded};

/// Writers, and callers of each.
const SIZES: [(usize, usize); 6] = [(1, 1), (4, 1), (16, 1), (32, 1), (1, 32), (32, 32)];
/// Each row is measured so often, in turns.
const ROUNDS: usize = 2;
/// And for so long.
const TIME: Duration = Duration::from_secs(12);
/// Before that, all of them have found each other: they begin in the same moment.
const WARM_UP: Duration = Duration::from_secs(5);
/// More than any operation is meant to need.
const LIMIT: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, PartialEq)]
enum Rival {
    Quorate,
    Naive,
}

/// What one round gave.
#[derive(Default)]
struct Round {
    /// Milliseconds of each increment.
    latencies: Vec<f64>,
    /// Increments of each writer.
    writers: Vec<u64>,
    failures: u64,
}

pub async fn measure() -> Result<Vec<Value>> {
    eprintln!("Starting etcd (with fsync) and kube-apiserver");
    let cluster = Cluster::with(Options { fsync: true, ..Options::default() }).await?;
    cluster.install_crds().await?;
    let mut rows = Vec::new();
    for (writers, callers) in SIZES {
        let mut of_rival = [Vec::new(), Vec::new()];
        for round in 0..ROUNDS {
            for (rival, rounds) in [Rival::Quorate, Rival::Naive].into_iter().zip(&mut of_rival) {
                rounds.push(run(&cluster, rival, writers, callers, round).await?);
            }
        }
        let bench = format!("counter-{writers}x{callers}");
        let [quorate, naive] = of_rival.map(|rounds| row(&bench, &rounds));
        rows.extend([json_named(quorate, "quorate"), json_named(naive, "naive")]);
    }
    print(&rows);
    Ok(rows)
}

/// One round, on a counter of its own, each writer with a client of its own.
async fn run(cluster: &Cluster, rival: Rival, writers: usize, callers: usize, round: usize) -> Result<Round> {
    let kubeconfig = cluster.kubeconfig(0);
    let clients = try_join_all((0..writers).map(|_| client(&kubeconfig))).await?;
    let name = format!("c{writers}-{callers}-{round}-{}", if rival == Rival::Quorate { "quorate" } else { "naive" });
    let api: Api<DistributedCounter> = Api::default_namespaced(clients[0].clone());
    let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
    let object = DistributedCounter { metadata, spec: DistributedCounterSpec::default(), status: None };
    api.create(&PostParams::default(), &object).await?;

    let begin = Instant::now() + WARM_UP;
    let end = begin + TIME;
    let unmeasured = Arc::new(AtomicU64::new(0));
    let per_writer = join_all(clients.into_iter().enumerate().map(|(number, client)| {
        let (name, unmeasured) = (name.clone(), Arc::clone(&unmeasured));
        async move {
            match rival {
                Rival::Quorate => {
                    let session = Session::new(&format!("writer-{number}"))?;
                    let counter = Counter::on_object(client, "default", &name, session, LIMIT)?;
                    load(callers, begin, end, &unmeasured, || async {
                        counter.add(1).await.map_err(anyhow::Error::from)
                    })
                    .await
                }
                Rival::Naive => load(callers, begin, end, &unmeasured, || naive(&client, &name)).await,
            }
        }
    }))
    .await;

    let mut all = Round::default();
    for of_writer in per_writer {
        let Round { latencies, failures, .. } = of_writer?;
        all.writers.push(latencies.len() as u64);
        all.latencies.extend(latencies);
        all.failures += failures;
    }
    let value = api.get(&name).await?.status.context("nothing was written")?.value;
    let counted = all.latencies.len() as u64 + unmeasured.load(Ordering::SeqCst);
    // Those that were under way at the end may have been done.
    let under_way = (writers * callers) as u64 + all.failures;
    ensure!(
        (counted..=counted + under_way).contains(&value.cast_unsigned()),
        "{counted} were counted, and the value is {value}"
    );
    Ok(all)
}

/// Callers that increment one after the other until the end; what was done between begin and end is measured.
async fn load<T, F: Future<Output = Result<T>>>(
    callers: usize,
    begin: Instant,
    end: Instant,
    unmeasured: &AtomicU64,
    increment: impl Fn() -> F,
) -> Result<Round> {
    let rounds = join_all((0..callers).map(|_| async {
        let mut round = Round::default();
        loop {
            let start = Instant::now();
            match timeout_at(end, increment()).await {
                Err(_) => return round,
                Ok(Err(error)) => {
                    eprintln!("  an increment failed: {error:#}");
                    round.failures += 1;
                }
                Ok(Ok(_)) if Instant::now() >= begin => round.latencies.push(start.elapsed().as_secs_f64() * 1e3),
                Ok(Ok(_)) => {
                    unmeasured.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
    }))
    .await;
    Ok(rounds.into_iter().fold(Round::default(), |mut all, round| {
        all.latencies.extend(round.latencies);
        all.failures += round.failures;
        all
    }))
}

/// Get, add one, put; at a conflict, at once again.
async fn naive(client: &Client, name: &str) -> Result<()> {
    let api: Api<DistributedCounter> = Api::default_namespaced(client.clone());
    loop {
        let mut object = api.get(name).await?;
        let status = object.status.get_or_insert_with(|| CounterState::new(object.spec.clone()).status);
        status.value += 1;
        match api.replace_status(name, &PostParams::default(), &object).await {
            Err(kube::Error::Api(answer)) if answer.code == 409 => {}
            answer => return answer.map(drop).map_err(Into::into),
        }
    }
}

/// The rounds of one row: the rate over all, and the writers of the worst round.
fn row(bench: &str, rounds: &[Round]) -> Value {
    let latencies: Vec<f64> = rounds.iter().flat_map(|round| round.latencies.clone()).collect();
    let count = latencies.len();
    #[expect(clippy::cast_precision_loss, reason = "there are not that many")]
    let rate = count as f64 / (TIME.as_secs_f64() * rounds.len() as f64);
    let at = percentile(if latencies.is_empty() { vec![f64::NAN] } else { latencies });
    let extremes = |round: &Round| {
        let (least, most) = (round.writers.iter().min().copied(), round.writers.iter().max().copied());
        (least.unwrap_or_default(), most.unwrap_or_default())
    };
    let worst = rounds.iter().map(extremes).min_by_key(|(least, most)| least * 1000 / (*most).max(1));
    let (least, most) = worst.unwrap_or_default();
    let failures: u64 = rounds.iter().map(|round| round.failures).sum();
    json!({
        "bench": bench, "unit": "increments/s", "value": rounded(rate), "n": count, "p50": at(50), "p99": at(99),
        "writer_min": least, "writer_max": most, "failures": failures
    })
}

fn json_named(mut row: Value, name: &str) -> Value {
    row["name"] = json!(name);
    row
}

fn print(rows: &[Value]) {
    println!(
        "\n| increments, writers x callers | | per s | / naive | p50, ms | p99, ms | by writer, in {} s | failed |",
        TIME.as_secs()
    );
    println!("|---|---|---|---|---|---|---|---|");
    for row in rows {
        let of_naive = rows.iter().find(|other| other["bench"] == row["bench"] && other["name"] == "naive");
        let number = |row: &Value, field: &str| row[field].as_f64().unwrap_or(f64::NAN);
        let ratio = number(row, "value") / of_naive.map_or(f64::NAN, |naive| number(naive, "value"));
        println!(
            "| {} | {} | {:.0} | {ratio:.2} | {:.1} | {:.1} | {} to {} | {} |",
            row["bench"].as_str().unwrap_or_default(),
            row["name"].as_str().unwrap_or_default(),
            number(row, "value"),
            number(row, "p50"),
            number(row, "p99"),
            row["writer_min"],
            row["writer_max"],
            row["failures"]
        );
    }
}
