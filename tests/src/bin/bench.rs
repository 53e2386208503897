//! `make bench`: apply-to-file latency beside its floors and a plain mirror, and memory.
//!
//! The rows of a bench take turns within one run, so that noise meets all of them. What sees and
//! writes is a process of its own in every row, as the operator and the sidecar are.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{
    Api, Client, ResourceExt,
    api::{ObjectMeta, PostParams, WatchEvent, WatchParams},
    runtime::{WatchStreamExt, watcher},
};
use quorate_crds::DistributedConfig;
use quorate_tests::{
    Cluster,
    cluster::{Options, client, root},
    files::changes,
    process::Process,
    programs,
    wait::wait_for,
};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

const SAMPLES: usize = 500;
const WARM_UP: usize = 20;
/// Between samples, so that what a publication leaves to be done (log, event, status) does not fall into the next.
const PAUSE: Duration = Duration::from_millis(25);
const PAYLOAD: usize = 4096;
const CONFIGS: usize = 1_000;

#[tokio::main]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => bench().await,
        ["relay", kubeconfig] => relay(&client(Path::new(kubeconfig)).await?).await,
        ["mirror", kubeconfig, file] => mirror(client(Path::new(kubeconfig)).await?, Path::new(file)).await,
        _ => bail!("usage: bench"),
    }
}

async fn bench() -> Result<()> {
    eprintln!("Starting etcd (with fsync) and kube-apiserver");
    let cluster = Cluster::with(Options { fsync: true, ..Options::default() }).await?;
    cluster.install_crds().await?;
    let kubeconfig = cluster.kubeconfig(0);
    let operator = programs::operator(&kubeconfig, &[], &cluster.folder().join("operator.log")).await?;
    operator.ready().await?;
    let client = client(&kubeconfig).await?;
    let (mut rows, sidecar_mib) = propagation(&cluster, &client, &operator.address).await?;
    rows.push(json!({"bench": "memory", "name": "sidecar", "unit": "MiB", "value": rounded(sidecar_mib)}));
    let operator_mib = many_configs(&client, &operator.process).await?;
    rows.push(json!({"bench": "memory", "name": "operator-1000", "unit": "MiB", "value": rounded(operator_mib)}));
    print(&rows);
    store(&rows)
}

/// One way from a write to what is seen of it.
struct Row {
    name: &'static str,
    milliseconds: Vec<f64>,
}

async fn propagation(cluster: &Cluster, client: &Client, operator_address: &str) -> Result<(Vec<Value>, f64)> {
    let folder = cluster.folder();
    let kubeconfig = cluster.kubeconfig(0);
    let secrets: Api<Secret> = Api::default_namespaced(client.clone());
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let configs: Api<DistributedConfig> = Api::default_namespaced(client.clone());
    for name in ["raw", "relay-in", "relay-out"] {
        secrets.create(&PostParams::default(), &secret(name, 0)).await?;
    }
    maps.create(&PostParams::default(), &map(0)).await?;
    configs.create(&PostParams::default(), &config("bench", 0)?).await?;

    let own = std::env::current_exe()?;
    let path = |path: &Path| path.display().to_string();
    // As in a pod: the files are Secrets' content, so their volume is in memory (emptyDir, medium: Memory).
    let volume = match tempfile::tempdir_in("/dev/shm") {
        Ok(volume) => volume,
        Err(_) => tempfile::tempdir_in(folder)?,
    };
    println!("files in {} (quorate and plain-mirror)", volume.path().display());
    let mirrored = volume.path().join("mirrored");
    fs::create_dir(&mirrored)?;
    let file = mirrored.join("value");
    let child = |words: Vec<String>, log: &str| Process::start(&own, &words, &[], &folder.join(log));
    let _relay = child(vec!["relay".into(), path(&kubeconfig)], "relay.log")?;
    let _mirror = child(vec!["mirror".into(), path(&kubeconfig), path(&file)], "mirror.log")?;
    let directory = volume.path().join("files");
    let arguments = ["--config", "bench", "--namespace", "default", "--directory", &path(&directory)];
    let sidecar = programs::sidecar(&kubeconfig, &arguments, &folder.join("sidecar.log")).await?;
    sidecar.ready().await?;
    wait_for("the mirror", || async { if file.exists() { Ok(()) } else { Err("no file".to_owned()) } }).await?;

    let mut raw_seen = seen(&secrets, "raw").await?;
    let mut relay_seen = seen(&secrets, "relay-out").await?;
    let mut mirror_changes = changes(&mirrored)?;
    let mut quorate_changes = changes(&directory.join("bench"))?;
    let quorate_file = directory.join("bench/value.json");

    let mut rows = ["quorate", "raw-watch", "relay", "plain-mirror"].map(|name| Row { name, milliseconds: Vec::new() });
    let put = PostParams::default();
    for sample in 1..=WARM_UP + SAMPLES {
        if sample % 100 == 0 {
            eprintln!("  propagation: {sample} of {}", WARM_UP + SAMPLES);
        }
        for row in &mut rows {
            sleep(PAUSE).await;
            let text = payload(sample);
            let milliseconds = match row.name {
                "raw-watch" => {
                    let new = secret("raw", sample);
                    timed(secrets.replace("raw", &put, &new), secret_seen(&mut raw_seen, sample)).await
                }
                "relay" => {
                    let new = secret("relay-in", sample);
                    timed(secrets.replace("relay-in", &put, &new), secret_seen(&mut relay_seen, sample)).await
                }
                "plain-mirror" => {
                    let new = map(sample);
                    timed(maps.replace("mirror", &put, &new), file_seen(&mut mirror_changes, &file, &text)).await
                }
                _ => {
                    let new = fresh(&configs, sample).await?;
                    let whole = format!("{{\n  \"value\": \"{text}\"\n}}\n");
                    let seen = file_seen(&mut quorate_changes, &quorate_file, &whole);
                    timed(configs.replace("bench", &put, &new), seen).await
                }
            }
            .with_context(|| format!("{}, sample {sample}", row.name))?;
            if sample > WARM_UP {
                row.milliseconds.push(milliseconds);
            }
        }
    }
    let means = [
        mean(operator_address, "quorate_operator_propagation_seconds").await?,
        mean(&sidecar.address, "quorate_sidecar_propagation_seconds").await?,
    ];
    println!("\nof which, on average: {:.1} ms in the operator (event to head written),", means[0]);
    println!("{:.1} ms from the decision to the file (the head's write and event, and the sidecar)", means[1]);
    let resident = sidecar.process.resident_mib().context("no memory figure")?;
    Ok((rows.into_iter().map(result).collect(), resident))
}

/// Milliseconds from the start of the write until it was seen; the answer to the write may come later.
async fn timed<T>(
    write: impl Future<Output = kube::Result<T>>,
    seen: impl Future<Output = Result<Instant>>,
) -> Result<f64> {
    let start = Instant::now();
    let both = async { tokio::try_join!(async { write.await.map_err(anyhow::Error::from) }, seen) };
    let (_, seen) = timeout(Duration::from_secs(30), both).await.context("not seen within 30 s")??;
    Ok(seen.duration_since(start).as_secs_f64() * 1e3)
}

/// The mean of a histogram that a program serves, in milliseconds.
async fn mean(address: &str, metric: &str) -> Result<f64> {
    let (_, text) = programs::http_get(address, "/metrics").await?;
    let value = |suffix: &str| -> Option<f64> {
        let line = text.lines().find(|line| line.starts_with(&format!("{metric}_{suffix}")))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    let mean = value("sum").zip(value("count")).map(|(sum, count)| sum / count * 1e3);
    mean.with_context(|| format!("no {metric} in {address}/metrics"))
}

/// The config as it is now, with the next value: an update of it is a compare-and-swap.
async fn fresh(configs: &Api<DistributedConfig>, sample: usize) -> Result<DistributedConfig> {
    let now = wait_for("the status to be current", || async {
        let now = configs.get("bench").await.map_err(|error| error.to_string())?;
        let status = now.status.clone().unwrap_or_default();
        if status.observed_generation == now.metadata.generation { Ok(now) } else { Err("it is behind".into()) }
    })
    .await?;
    let mut new = config("bench", sample)?;
    new.metadata.resource_version = now.resource_version();
    Ok(new)
}

async fn secret_seen(seen: &mut mpsc::Receiver<(Instant, Secret)>, sample: usize) -> Result<Instant> {
    loop {
        let (at, secret) = seen.recv().await.context("the watch ended")?;
        if secret.data.as_ref().and_then(|data| data.get("value")).is_some_and(|v| v.0 == payload(sample).as_bytes()) {
            return Ok(at);
        }
    }
}

async fn file_seen(changes: &mut mpsc::Receiver<Instant>, file: &Path, text: &str) -> Result<Instant> {
    loop {
        let at = changes.recv().await.context("the folder is not watched any more")?;
        if fs::read_to_string(file).is_ok_and(|found| found == text) {
            return Ok(at);
        }
    }
}

/// A bare watch on one Secret.
async fn seen(secrets: &Api<Secret>, name: &str) -> Result<mpsc::Receiver<(Instant, Secret)>> {
    let version = secrets.get(name).await?.resource_version().unwrap_or_default();
    let params = WatchParams::default().fields(&format!("metadata.name={name}"));
    let mut events = secrets.watch(&params, &version).await?.boxed();
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Some(Ok(event)) = events.next().await {
            if let WatchEvent::Modified(secret) = event
                && sender.send((Instant::now(), secret)).await.is_err()
            {
                return;
            }
        }
    });
    Ok(receiver)
}

/// The bare process in the middle: sees `relay-in`, PUTs `relay-out`.
async fn relay(client: &Client) -> Result<()> {
    let secrets: Api<Secret> = Api::default_namespaced(client.clone());
    let mut seen = seen(&secrets, "relay-in").await?;
    let mut out = secrets.get("relay-out").await?;
    while let Some((_, secret)) = seen.recv().await {
        out.data = secret.data;
        out = secrets.replace("relay-out", &PostParams::default(), &out).await?;
    }
    Ok(())
}

/// The plain mirror: kube-rs's watcher, and a write.
async fn mirror(client: Client, file: &Path) -> Result<()> {
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let config = watcher::Config::default().fields("metadata.name=mirror");
    let mut maps = std::pin::pin!(watcher(maps, config).default_backoff().applied_objects());
    while let Some(map) = maps.try_next().await? {
        if let Some(text) = map.data.as_ref().and_then(|data| data.get("value")) {
            fs::write(file, text)?;
        }
    }
    Ok(())
}

async fn many_configs(client: &Client, operator: &Process) -> Result<f64> {
    eprintln!("  memory: {CONFIGS} configs");
    let configs: Api<DistributedConfig> = Api::default_namespaced(client.clone());
    futures::stream::iter((1..CONFIGS).map(anyhow::Ok))
        .try_for_each_concurrent(8, |number| {
            let configs = configs.clone();
            async move {
                configs.create(&PostParams::default(), &config(&format!("many-{number}"), number)?).await?;
                Ok(())
            }
        })
        .await?;
    wait_for("all of them to be published", || async {
        let all = configs.list(&kube::api::ListParams::default()).await.map_err(|error| error.to_string())?;
        let done = all.items.iter().filter(|c| c.status.as_ref().is_some_and(|s| s.revision.is_some())).count();
        if done == CONFIGS { Ok(()) } else { Err(format!("{done} of {CONFIGS}")) }
    })
    .await?;
    operator.resident_mib().context("no memory figure")
}

fn payload(sample: usize) -> String {
    let mut text = format!("{sample:08}");
    text.extend(std::iter::repeat_n('x', PAYLOAD - text.len()));
    text
}

fn secret(name: &str, sample: usize) -> Secret {
    let data = BTreeMap::from([("value".to_owned(), ByteString(payload(sample).into_bytes()))]);
    Secret { metadata: named(name), data: Some(data), ..Secret::default() }
}

fn map(sample: usize) -> ConfigMap {
    let data = BTreeMap::from([("value".to_owned(), payload(sample))]);
    ConfigMap { metadata: named("mirror"), data: Some(data), ..ConfigMap::default() }
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
}

fn config(name: &str, sample: usize) -> Result<DistributedConfig> {
    Ok(serde_json::from_value(json!({
        "apiVersion": "quorate.io/v1alpha1", "kind": "DistributedConfig", "metadata": {"name": name},
        "spec": {"layers": [{"name": "all", "inline": {"value": payload(sample)}}], "files": [{"path": "value.json"}]}
    }))?)
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

fn result(mut row: Row) -> Value {
    row.milliseconds.sort_by(f64::total_cmp);
    let n = row.milliseconds.len();
    let at = |percent: usize| rounded(row.milliseconds[(n * percent / 100).min(n - 1)]);
    json!({"bench": "propagation", "name": row.name, "unit": "ms", "n": n, "p50": at(50), "p99": at(99)})
}

fn print(rows: &[Value]) {
    let number = |row: &Value, field: &str| row[field].as_f64().unwrap_or_default();
    let p50 = |name: &str| rows.iter().find(|row| row["name"] == name).map_or(f64::NAN, |row| number(row, "p50"));
    let (relay, mirror) = (p50("relay"), p50("plain-mirror"));
    println!("\n| propagation, ms | p50 | p99 | n | p50 / relay | p50 / plain-mirror |\n|---|---|---|---|---|---|");
    for row in rows.iter().filter(|row| row["bench"] == "propagation") {
        let (p50, p99) = (number(row, "p50"), number(row, "p99"));
        let name = row["name"].as_str().unwrap_or_default();
        println!("| {name} | {p50:.2} | {p99:.2} | {} | {:.2} | {:.2} |", row["n"], p50 / relay, p50 / mirror);
    }
    println!("\n| memory, resident MiB | |\n|---|---|");
    for row in rows.iter().filter(|row| row["bench"] == "memory") {
        println!("| {} | {:.1} |", row["name"].as_str().unwrap_or_default(), number(row, "value"));
    }
}

/// One array for all benches: what is measured anew takes the place of what was.
fn store(rows: &[Value]) -> Result<()> {
    let path: PathBuf = root().join("target/bench/results.json");
    fs::create_dir_all(path.parent().context("no folder")?)?;
    let old: Vec<Value> = match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("{}: delete it", path.display()))?,
        Err(_) => Vec::new(),
    };
    let anew = |old: &Value| rows.iter().any(|row| row["bench"] == old["bench"] && row["name"] == old["name"]);
    let all: Vec<&Value> = old.iter().filter(|old| !anew(old)).chain(rows).collect();
    ensure!(!all.is_empty(), "nothing was measured");
    fs::write(&path, serde_json::to_string_pretty(&all)? + "\n")?;
    println!("\n{}", path.display());
    Ok(())
}
