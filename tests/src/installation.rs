//! Quorate as its users have it: installed by Helm, on a cluster with a node, in images built from this checkout.

use std::fs;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, Options},
    helm::{self, Helm},
    images,
    node::BUSYBOX,
    wait::wait_for,
};

/// The namespace of the release.
pub const SYSTEM: &str = "quorate-system";

/// A cluster with a node and the release.
///
/// # Errors
/// When something does not become ready.
pub async fn cluster() -> Result<Cluster> {
    on(Options { node: true, ..Options::default() }).await
}

/// A cluster made so, which has a node, and the release.
///
/// # Errors
/// When something does not become ready.
pub async fn on(options: Options) -> Result<Cluster> {
    let images = images::ours()?;
    let cluster = Cluster::with(options).await?;
    let node = cluster.node.as_ref().context("no node")?;
    images.iter().try_for_each(|image| node.import(&image.path))?;
    helm(&cluster, &["install", "--create-namespace", "--wait"])?;
    Helm::new(Some(&cluster.kubeconfig(0)))?.run(&["test", "quorate", "-n", SYSTEM])?;
    // The API server takes up new policies a moment later.
    let labels = json!({"quorate.io/inject": "true"});
    let probe = pod(&json!({"name": "probe", "labels": labels, "annotations": {"quorate.io/config": "web"}}));
    let file = cluster.folder().join("probe.json").display().to_string();
    fs::write(&file, probe.to_string())?;
    wait_for("the injection to be in force", || async {
        let made = cluster.kubectl(&["create", "--dry-run=server", "-o", "yaml", "-f", &file]);
        let made = made.map_err(|error| error.to_string())?;
        if made.contains("quorate-sidecar") { Ok(()) } else { Err(made) }
    })
    .await?;
    Ok(cluster)
}

/// helm, for the release. What its network policies limit is not tested here: this node does not enforce any.
///
/// # Errors
/// With what it said, when it fails.
pub fn helm(cluster: &Cluster, words: &[&str]) -> Result<()> {
    let chart = helm::chart().display().to_string();
    let release = ["quorate", &chart, "--namespace", SYSTEM, "--timeout", "90s", "--set", "nudge.enabled=true"];
    let all = [&words[..1], &release, &words[1..]].concat();
    Helm::new(Some(&cluster.kubeconfig(0)))?.run(&all).map(drop)
}

/// An application that only waits, as a user of its own who may do nothing.
#[must_use]
pub fn pod(metadata: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": metadata,
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "securityContext": {"runAsUser": 1000, "runAsNonRoot": true},
            "containers": [{
                "name": "app", "image": BUSYBOX, "command": ["sleep", "86400"],
                "securityContext": {"readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
                                    "capabilities": {"drop": ["ALL"]}},
            }],
        },
    })
}
