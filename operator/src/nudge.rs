//! Pods that mount the head as a plain volume and have no sidecar: kubelet looks at their volumes once in a
//! while (after 37 s on average, 80 s at worst), and at once when something of the pod changes.
//!
//! So once the head has moved, the operator changes an annotation of them, each pod once a revision. That
//! delivers the files; nobody acknowledges them. Off unless `--nudge-pods`.

use std::{collections::BTreeMap, time::Duration};

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use quorate_crds::{DistributedConfig, names};
use serde::Deserialize;

use crate::{
    Key, Operator,
    api::{ApiError, call},
    decide::Observed,
    rollout::Replica,
    state::HeadMemory,
};

/// How many pods of a config are told in one run …
const BATCH: usize = 64;
/// … how many at a time …
const AT_ONCE: usize = 8;
/// … and the wait before the next ones.
const PAUSE: Duration = Duration::from_secs(1);
/// Kubelet writes pods too: so often a write that came second is tried.
const ATTEMPTS: usize = 5;

/// What is read of a pod's spec.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Volumes {
    #[serde(default)]
    volumes: Vec<Volume>,
}

#[derive(Clone, Debug, Deserialize)]
struct Volume {
    secret: Option<SecretVolume>,
    projected: Option<Projected>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SecretVolume {
    secret_name: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Projected {
    #[serde(default)]
    sources: Vec<Source>,
}

#[derive(Clone, Debug, Deserialize)]
struct Source {
    secret: Option<SecretSource>,
}

#[derive(Clone, Debug, Deserialize)]
struct SecretSource {
    name: Option<String>,
}

impl Volumes {
    /// Whether the Secret is among them.
    #[must_use]
    pub fn mount(&self, secret: &str) -> bool {
        self.volumes.iter().any(|volume| {
            let plain = volume.secret.iter().filter_map(|volume| volume.secret_name.as_deref());
            let projected = volume.projected.iter().flat_map(|volume| &volume.sources);
            plain
                .chain(projected.filter_map(|source| source.secret.as_ref()?.name.as_deref()))
                .any(|name| name == secret)
        })
    }
}

/// A pod that mounts a config's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounting {
    /// metadata.uid.
    pub uid: String,
    /// metadata.name.
    pub name: String,
    /// metadata.resourceVersion.
    pub resource_version: String,
    /// What it was told of: a revision of each config whose head it mounts.
    pub told: BTreeMap<String, i64>,
}

impl Mounting {
    /// Of a pod.
    #[must_use]
    pub fn of(pod: &impl ResourceExt) -> Self {
        Self {
            uid: pod.uid().unwrap_or_default(),
            name: pod.name_any(),
            resource_version: pod.resource_version().unwrap_or_default(),
            told: pod.annotations().get(names::REVISION).map(|text| read(text)).unwrap_or_default(),
        }
    }

    /// The revision of this config that it was told of.
    #[must_use]
    pub fn told_of(&self, config: &str) -> Option<i64> {
        self.told.get(config).copied()
    }
}

/// Reads what [`written`] wrote. What is not of that form is dropped.
fn read(annotation: &str) -> BTreeMap<String, i64> {
    let pair = |pair: &str| pair.split_once('=').and_then(|(config, n)| Some((config.to_owned(), n.parse().ok()?)));
    annotation.split(',').filter_map(pair).collect()
}

/// A pod may mount several heads, and has one annotation: `db=3,web=7`.
fn written(told: &BTreeMap<String, i64>) -> String {
    told.iter().map(|(config, revision)| format!("{config}={revision}")).collect::<Vec<_>>().join(",")
}

/// The pods that are to be told of the revision. Those that report have a sidecar, which knows at once.
fn due(mounting: Vec<Mounting>, replicas: &BTreeMap<String, Replica>, config: &str, revision: i64) -> Vec<Mounting> {
    // Another one, not a lower one: the revisions of a config that was made again begin anew.
    let is_due = |pod: &Mounting| !replicas.contains_key(&pod.uid) && pod.told_of(config) != Some(revision);
    mounting.into_iter().filter(is_due).collect()
}

/// Tells the pods that have not heard of the head's revision. Returns when there is more to do; what is refused
/// waits for the next run.
///
/// # Errors
/// The API server's first refusal, when all were tried. All other trouble is tried again.
pub async fn nudge(
    operator: &Operator,
    config: &DistributedConfig,
    memory: &HeadMemory,
) -> Result<Option<Duration>, ApiError> {
    let (true, Observed::Ours(stored)) = (operator.nudges, &memory.observed) else { return Ok(None) };
    let (key, revision) = (Key::of(config), stored.head.revision);
    let (mounting, replicas) = (operator.state.mounting(&key), operator.state.replicas(&key));
    let due = due(mounting, &replicas, &key.name, revision);
    let mut is_done = due.len() <= BATCH;
    let mut refusal = None;
    let mut told = stream::iter(due.into_iter().take(BATCH))
        .map(|pod| tell(operator, &key, pod, revision))
        .buffer_unordered(AT_ONCE);
    while let Some(result) = told.next().await {
        match result {
            Ok(()) => {}
            Err(error) if error.is_refusal() && error.code() != Some(409) => {
                refusal.get_or_insert(error);
            }
            Err(error) => {
                operator.metrics.error(error.category());
                tracing::warn!(config = %key, %error, "a pod is told of the head later");
                is_done = false;
            }
        }
    }
    refusal.map_or(Ok((!is_done).then_some(PAUSE)), Err)
}

/// Tells one pod, unless it is gone or has been told.
async fn tell(operator: &Operator, key: &Key, mut pod: Mounting, revision: i64) -> Result<(), ApiError> {
    let pods: Api<Pod> = Api::namespaced(operator.client.clone(), &key.namespace);
    let mut attempt = 0;
    loop {
        attempt += 1;
        pod.told.insert(key.name.clone(), revision);
        let patch = serde_json::json!({"metadata": {
            "uid": pod.uid, "resourceVersion": pod.resource_version,
            "annotations": {names::REVISION: written(&pod.told)},
        }});
        let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
        let name = || format!("annotate Pod {}/{}", key.namespace, pod.name);
        match call(name, pods.patch_metadata(&pod.name, &params, &patch)).await {
            Ok(there) => {
                operator.metrics.nudges.inc();
                operator.state.nudged(key, Mounting::of(&there));
                return Ok(());
            }
            Err(error) if error.code() == Some(404) => return Ok(()),
            Err(error) if error.code() != Some(409) || attempt == ATTEMPTS => return Err(error),
            Err(_) => {}
        }
        let name = || format!("get Pod {}/{}", key.namespace, pod.name);
        let there = match call(name, pods.get_metadata(&pod.name)).await {
            Ok(there) => Mounting::of(&there),
            Err(error) if error.code() == Some(404) => return Ok(()),
            Err(error) => return Err(error),
        };
        // Another pod of this name read the head when it started.
        if there.uid != pod.uid {
            return Ok(());
        }
        if there.told_of(&key.name) == Some(revision) {
            operator.state.nudged(key, there);
            return Ok(());
        }
        pod = there;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn heads_are_found_among_plain_and_projected_volumes() {
        let volumes = |value| serde_json::from_value::<Volumes>(json!({"volumes": value})).unwrap();
        let plain =
            volumes(json!([{"name": "a", "emptyDir": {}}, {"name": "b", "secret": {"secretName": "web.quorate"}}]));
        assert!(plain.mount("web.quorate") && !plain.mount("db.quorate"));
        let sources = json!([{"configMap": {"name": "web.quorate"}}, {"secret": {"name": "db.quorate"}}]);
        let projected = volumes(json!([{"name": "a", "projected": {"sources": sources}}]));
        assert!(projected.mount("db.quorate") && !projected.mount("web.quorate"));
        assert!(!serde_json::from_value::<Volumes>(json!({})).unwrap().mount("web.quorate"));
    }

    #[test]
    fn a_pod_of_several_heads_is_told_of_each_once() {
        let pod = |uid: &str, annotation: &str| Mounting {
            uid: uid.into(),
            name: uid.into(),
            resource_version: "1".into(),
            told: read(annotation),
        };
        let pods =
            [pod("new", ""), pod("old", "web=6,db=9"), pod("told", "web=7,db=1"), pod("odd", "7"), pod("side", "")];
        let replica = Replica {
            pod_uid: "side".into(),
            pod: "side".into(),
            runs: None,
            state: quorate_crds::ReplicaState::Applied,
            revision: None,
            hash: None,
            proposal: None,
            message: None,
            lamport: 0,
            born: jiff::Timestamp::UNIX_EPOCH,
        };
        let replicas = BTreeMap::from([("side".to_owned(), replica)]);
        let mut told = pods[1].told.clone();
        let names: Vec<_> = due(pods.into(), &replicas, "web", 7).into_iter().map(|pod| pod.name).collect();
        assert_eq!(names, ["new", "old", "odd"]);
        told.insert("web".into(), 7);
        assert_eq!(written(&told), "db=9,web=7");
    }
}
