//! Quorate in real pods on a real node, installed by Helm: a change's way into them beside kubelet's own volumes, what a sidecar
//! takes, and what it costs a pod that starts.

mod memory;
mod propagation;
mod startup;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::PostParams};
use quorate_tests::{Cluster, cluster::Options, installation, machine, node::Node, wait::wait_for};
use serde_json::{Value, json};

/// What the parts share.
struct Ground {
    cluster: Cluster,
    client: Client,
}

/// Empty, with a word why, where there can be no node.
pub async fn measure() -> Result<Vec<Value>> {
    if let Err(why) = machine::check() {
        println!("\nskipped: pods: {why}");
        return Ok(Vec::new());
    }
    eprintln!("Starting etcd (with fsync), kube-apiserver and a node, with Quorate by Helm");
    let cluster = installation::on(Options { node: true, fsync: true, ..Options::default() }).await?;
    let ground = Ground { client: cluster.client().await?, cluster };
    let mut rows = propagation::measure(&ground).await?;
    rows.push(memory::measure(&ground).await?);
    rows.extend(startup::measure(&ground).await?);
    Ok(rows)
}

impl Ground {
    fn node(&self) -> Result<&Node> {
        self.cluster.node.as_ref().context("no node")
    }

    fn pods(&self) -> Api<Pod> {
        Api::default_namespaced(self.client.clone())
    }

    /// Starts a pod and waits until it is ready.
    async fn start(&self, pod: &Value) -> Result<Pod> {
        let created = self.pods().create(&PostParams::default(), &serde_json::from_value(pod.clone())?).await?;
        let name = created.metadata.name.unwrap_or_default();
        wait_for(&format!("pod {name} to be ready"), || async {
            let pod = self.pods().get(&name).await.map_err(|error| error.to_string())?;
            let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
            let is_ready = conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
            if is_ready { Ok(pod) } else { Err(format!("{:?}", pod.status)) }
        })
        .await
    }
}

/// What makes the injection give a pod its sidecar, for config bench.
fn injected(name: &str) -> Value {
    json!({"name": name, "labels": {"quorate.io/inject": "true"}, "annotations": {"quorate.io/config": "bench"}})
}

fn uid(pod: &Pod) -> Result<&str> {
    pod.metadata.uid.as_deref().context("a pod without uid")
}
