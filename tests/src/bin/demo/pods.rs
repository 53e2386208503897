//! Five pods, as the API server knows them, and their sidecars as processes here.
//!
//! No node runs these pods, neither on the embedded control plane nor on a cluster of KUBECONFIG:
//! they ask for a scheduler that does not exist. What is asked of them is asked of the sidecars.

use std::{env, fs, path::Path};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use quorate_tests::{
    cluster::root,
    programs::{self, Program},
};
use serde_json::json;

use crate::{NAMESPACE, rollouts::CONFIG};

/// The version of the application in each pod: the format that it can read.
pub const VERSIONS: [u8; 5] = [3, 3, 2, 2, 1];

/// A pod's name.
pub fn name(pod: usize) -> String {
    format!("{CONFIG}-{pod}")
}

/// Pods that are ready, with a sidecar each, whose files are in a folder of the pod's name.
pub async fn start(client: &Client, kubeconfig: &Path, target: &Path) -> Result<Vec<Program>> {
    admit(client).await?;
    let check = check()?;
    let mut sidecars = Vec::new();
    for (pod, version) in VERSIONS.iter().enumerate() {
        let (pod, check) = (name(pod), format!("{check} {version}"));
        let uid = ready(client, &pod).await?;
        let folder = target.join(&pod);
        fs::create_dir_all(&folder)?;
        let directory = folder.display().to_string();
        let files = ["--config", CONFIG, "--namespace", NAMESPACE, "--directory", &directory];
        let whose = ["--pod-name", &pod, "--pod-uid", &uid, "--check-exec", &check];
        sidecars.push(programs::sidecar(kubeconfig, &[files, whose].concat(), &folder.join("sidecar.log")).await?);
    }
    Ok(sidecars)
}

/// Admission wants the service account; the controller manager may not have come to it, or not be there.
async fn admit(client: &Client) -> Result<()> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
    let account = serde_json::from_value(json!({"metadata": {"name": "default"}}))?;
    match accounts.create(&PostParams::default(), &account).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        result => Ok(result.map(drop)?),
    }
}

/// Makes a pod and says that it is ready, as a kubelet would; its uid.
async fn ready(client: &Client, name: &str) -> Result<String> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let pod = serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"app": CONFIG}},
        "spec": {"schedulerName": "quorate-demo", "containers": [{"name": "app", "image": "none"}]},
    }))?;
    let pod = pods.create(&PostParams::default(), &pod).await?;
    let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    pods.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await?;
    pod.metadata.uid.context("a pod without a uid")
}

/// The program that checks for the application, as seen from here: a command is split at blanks, and
/// the checkout's own path may have some.
fn check() -> Result<String> {
    let path = root().join("tests/src/bin/demo/check.sh").canonicalize()?;
    Ok(path.strip_prefix(env::current_dir()?).unwrap_or(&path).display().to_string())
}
