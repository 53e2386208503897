//! Apply-to-file in pods: by the sidecar, by kubelet when the operator nudges the pod, and by kubelet alone.
//!
//! What an application sees is looked at by inotify in the pod's volume itself, by the node's path: the same files, of which the
//! pod has a bind mount. So nothing has to run in the pod, and one clock times write and sight.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{Api, api::PostParams};
use quorate_crds::{Access, DistributedConfig};
use quorate_tests::{files::changes, installation::pod};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use super::{Ground, injected, uid};
use crate::{
    objects::{config, map, next, payload},
    results::percentile,
    timed::{file_seen, timed_within},
};

/// Updates that a sidecar brings, some before each of kubelet's rounds.
const SAMPLES: usize = 100;
/// Updates that kubelet brings when it is nudged.
const NUDGES: usize = 30;
/// Kubelet takes half a minute and more: few rounds, but with several pods, each of which it looks at in a rhythm of its own.
const ROUNDS: usize = 2;
const PODS: usize = 4;
/// Kubelet looks at each pod every 90 s at the latest.
const LIMIT: Duration = Duration::from_secs(150);
/// So that what a publication leaves to be done does not fall into the next.
const PAUSE: Duration = Duration::from_millis(50);
/// So that kubelet has done with the pod: a change that comes right after another waits for that.
const REST: Duration = Duration::from_secs(2);

/// What is seen of a pod's file.
struct Sight {
    changes: mpsc::Receiver<Instant>,
    file: PathBuf,
}

pub async fn measure(ground: &Ground) -> Result<Vec<Value>> {
    let configs: Api<DistributedConfig> = Api::default_namespaced(ground.client.clone());
    let maps: Api<ConfigMap> = Api::default_namespaced(ground.client.clone());
    let put = PostParams::default();
    let mut with_sidecar = config("bench", 0)?;
    with_sidecar.spec.access = Some(Access { service_accounts: vec!["default".into()] });
    configs.create(&put, &with_sidecar).await?;
    let mut nudged = config("nudged", 0)?;
    nudged.spec.selector = Some(serde_json::from_value(json!({"matchLabels": {"app": "nudged"}}))?);
    configs.create(&put, &nudged).await?;
    maps.create(&put, &map(0)).await?;

    let bench = ground.start(&pod(&injected("bench"))).await?;
    let mut by_sidecar = sight(ground, &bench, "empty-dir", "quorate", "bench", "value.json")?;
    let head = json!({"name": "files", "secret": {"secretName": "nudged.quorate"}});
    let plain = ground.start(&mounting("nudged", &head)).await?;
    let mut by_nudge = sight(ground, &plain, "secret", "files", "", "value.json")?;
    let mut by_kubelet = Vec::new();
    for number in 0..PODS {
        let mirror = json!({"name": "files", "configMap": {"name": "mirror"}});
        let plain = ground.start(&mounting(&format!("kubelet-{number}"), &mirror)).await?;
        by_kubelet.push(sight(ground, &plain, "configmap", "files", "", "value")?);
    }

    let (mut sidecar, mut nudge, mut kubelet) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        eprintln!("  pods: {} updates with a sidecar, {} nudged", SAMPLES / ROUNDS, NUDGES / ROUNDS);
        for _ in 0..SAMPLES / ROUNDS {
            sleep(PAUSE).await;
            sidecar.push(update(&configs, "bench", sidecar.len() + 1, &mut by_sidecar).await?);
        }
        for _ in 0..NUDGES / ROUNDS {
            sleep(REST).await;
            nudge.push(update(&configs, "nudged", nudge.len() + 1, &mut by_nudge).await?);
        }
        eprintln!("  pods: kubelet's ConfigMap volume, round {round} of {ROUNDS}: up to 90 s");
        let text = payload(round);
        let seen = try_join_all(by_kubelet.iter_mut().map(|sight| file_seen(&mut sight.changes, &sight.file, &text)));
        let (start, seen) = timed_within(LIMIT, maps.replace("mirror", &put, &map(round)), seen).await?;
        kubelet.extend(seen.into_iter().map(|seen| milliseconds(start, seen)));
    }
    let rows = [("quorate", sidecar), ("quorate-nudged", nudge), ("kubelet-configmap", kubelet)];
    Ok(rows.into_iter().map(|(name, times)| row(name, times)).collect())
}

/// Milliseconds from an update of a config to the pod's file.
async fn update(configs: &Api<DistributedConfig>, name: &str, sample: usize, sight: &mut Sight) -> Result<f64> {
    let new = next(configs, name, sample).await?;
    let whole = format!("{{\n  \"value\": \"{}\"\n}}\n", payload(sample));
    let seen = file_seen(&mut sight.changes, &sight.file, &whole);
    let timed = timed_within(LIMIT, configs.replace(name, &PostParams::default(), &new), seen).await;
    let (start, seen) = timed.with_context(|| format!("{name}, sample {sample}"))?;
    Ok(milliseconds(start, seen))
}

/// A pod without a sidecar that mounts something. Its label is its name.
fn mounting(name: &str, volume: &Value) -> Value {
    let mut pod = pod(&json!({"name": name, "labels": {"app": name}}));
    pod["spec"]["volumes"] = json!([volume]);
    pod["spec"]["containers"][0]["volumeMounts"] =
        json!([{"name": volume["name"], "mountPath": "/files", "readOnly": true}]);
    pod
}

fn sight(ground: &Ground, pod: &Pod, kind: &str, volume: &str, folder: &str, file: &str) -> Result<Sight> {
    let folder = ground.node()?.volume(uid(pod)?, kind, volume).join(folder);
    Ok(Sight { changes: changes(&folder)?, file: folder.join(file) })
}

fn milliseconds(start: Instant, seen: Instant) -> f64 {
    seen.duration_since(start).as_secs_f64() * 1e3
}

fn row(name: &str, times: Vec<f64>) -> Value {
    let (n, at) = (times.len(), percentile(times));
    json!({"bench": "pod-propagation", "name": name, "unit": "ms", "n": n, "p50": at(50), "p99": at(99), "max": at(100)})
}
