//! What a sidecar costs a pod that starts: from the moment that the pod is scheduled to its application's first act, which is to
//! write a file. The application of a pod with a sidecar starts when its files are there.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    api::{DeleteParams, PostParams},
    runtime::{conditions::Condition, wait::await_condition, wait::conditions::is_deleted},
};
use quorate_tests::{
    installation::pod,
    wait::{DEADLINE, wait_for},
};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{Ground, injected, uid};
use crate::results::percentile;

const RUNS: usize = 9;

pub async fn measure(ground: &Ground) -> Result<Vec<Value>> {
    let (mut without, mut with) = (Vec::new(), Vec::new());
    eprintln!("  pods: {RUNS} starts without and with a sidecar");
    for run in 0..RUNS {
        // In turns, so that noise meets both.
        without.push(Box::pin(started(ground, &json!({"name": format!("start-{run}")}))).await?);
        with.push(Box::pin(started(ground, &injected(&format!("start-with-{run}")))).await?);
    }
    let row = |name: &str, times: Vec<f64>| {
        let (n, at) = (times.len(), percentile(times));
        json!({"bench": "pod-start", "name": name, "unit": "ms", "n": n, "p50": at(50), "max": at(100)})
    };
    Ok(vec![row("no-sidecar", without), row("sidecar", with)])
}

/// How long a pod's application took to start, in milliseconds.
async fn started(ground: &Ground, metadata: &Value) -> Result<f64> {
    let mut object = pod(metadata);
    object["spec"]["volumes"] = json!([{"name": "out", "emptyDir": {}}]);
    let container = &mut object["spec"]["containers"][0];
    container["command"] = json!(["sh", "-c", "touch /out/started && exec sleep 86400"]);
    container["volumeMounts"] = json!([{"name": "out", "mountPath": "/out"}]);
    let (pods, name) = (ground.pods(), metadata["name"].as_str().unwrap_or_default().to_owned());
    let scheduled = async {
        timeout(DEADLINE, await_condition(pods.clone(), &name, is_scheduled())).await??;
        anyhow::Ok(SystemTime::now())
    };
    let created = async { Ok(pods.create(&PostParams::default(), &serde_json::from_value(object)?).await?) };
    // The watch is there before the pod is.
    let (scheduled, created) = tokio::try_join!(scheduled, created)?;
    let file = ground.node()?.volume(uid(&created)?, "empty-dir", "out").join("started");
    let written = wait_for("the application to start", || async {
        fs::metadata(&file).and_then(|about| about.modified()).map_err(|error| error.to_string())
    })
    .await?;
    // Nothing of it weighs on the next one.
    pods.delete(&name, &DeleteParams::default()).await?;
    timeout(DEADLINE, await_condition(pods, &name, is_deleted(uid(&created)?))).await??;
    // The kernel stamps files by a clock that is up to 4 ms old.
    Ok(written.duration_since(scheduled).unwrap_or(Duration::ZERO).as_secs_f64() * 1e3)
}

fn is_scheduled() -> impl Condition<Pod> {
    |pod: Option<&Pod>| pod.and_then(|pod| pod.spec.as_ref()?.node_name.as_ref()).is_some()
}
