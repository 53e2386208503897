//! Apply-to-file latency beside its floors and a plain mirror; and the sidecar's memory after it.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api, Client, ResourceExt,
    api::{PostParams, WatchEvent, WatchParams},
    runtime::{WatchStreamExt, watcher},
};
use quorate_crds::DistributedConfig;
use quorate_tests::{files::changes, process::Process, programs, wait::wait_for};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use crate::{
    Ground,
    objects::{config, map, next, payload, secret},
    results::{percentile, rounded},
    timed::{file_seen, timed},
    volume,
};

const SAMPLES: usize = 500;
const WARM_UP: usize = 20;
/// Between samples, so that what a publication leaves to be done (log, event, status) does not fall into the next.
const PAUSE: Duration = Duration::from_millis(25);

/// One way from a write to what is seen of it.
struct Row {
    name: &'static str,
    milliseconds: Vec<f64>,
}

pub async fn measure(ground: &Ground) -> Result<Vec<Value>> {
    let Ground { cluster, client, operator } = ground;
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
    let volume = volume(cluster)?;
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
                    let new = next(&configs, "bench", sample).await?;
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
        mean(&operator.address, "quorate_operator_propagation_seconds").await?,
        mean(&sidecar.address, "quorate_sidecar_propagation_seconds").await?,
    ];
    println!("\nof which, on average: {:.1} ms in the operator (event to head written),", means[0]);
    println!("{:.1} ms from the decision to the file (the head's write and event, and the sidecar)", means[1]);
    let resident = sidecar.process.resident_mib().context("no memory figure")?;
    let sidecar = json!({"bench": "memory", "name": "sidecar", "unit": "MiB", "value": rounded(resident)});
    Ok(rows.into_iter().map(result).chain([sidecar]).collect())
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

async fn secret_seen(seen: &mut mpsc::Receiver<(Instant, Secret)>, sample: usize) -> Result<Instant> {
    loop {
        let (at, secret) = seen.recv().await.context("the watch ended")?;
        if secret.data.as_ref().and_then(|data| data.get("value")).is_some_and(|v| v.0 == payload(sample).as_bytes()) {
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
pub async fn relay(client: &Client) -> Result<()> {
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
pub async fn mirror(client: Client, file: &Path) -> Result<()> {
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

fn result(row: Row) -> Value {
    let (n, at) = (row.milliseconds.len(), percentile(row.milliseconds));
    json!({"bench": "propagation", "name": row.name, "unit": "ms", "n": n, "p50": at(50), "p99": at(99)})
}
