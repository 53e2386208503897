//! ConfigReplica: what one pod says of one config.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use kube::{CustomResource, KubeSchema, api::ObjectMeta};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{head::hex, names};

/// What one pod says of one config: which revision it runs, and what it makes of a new one.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "quorate.io",
    version = "v1alpha1",
    kind = "ConfigReplica",
    plural = "configreplicas",
    shortname = "crep",
    category = "quorate",
    namespaced,
    derive = "PartialEq",
    doc = "ConfigReplica is what one pod says of one DistributedConfig: which revision it runs, and what it makes of a new one. The pod's sidecar writes it; it is gone with the pod.",
    printcolumn = r#"{"name":"Config","type":"string","jsonPath":".spec.config"}"#,
    printcolumn = r#"{"name":"Pod","type":"string","jsonPath":".spec.pod"}"#,
    printcolumn = r#"{"name":"Node","type":"string","priority":1,"jsonPath":".spec.node"}"#,
    printcolumn = r#"{"name":"Runs","type":"integer","description":"The revision whose files the pod has.","jsonPath":".spec.runs"}"#,
    printcolumn = r#"{"name":"State","type":"string","description":"What the pod says of the revision beside it.","jsonPath":".spec.state"}"#,
    printcolumn = r#"{"name":"Revision","type":"integer","description":"The revision the state speaks of.","jsonPath":".spec.revision"}"#,
    printcolumn = r#"{"name":"Message","type":"string","description":"Why, if it is not applied.","jsonPath":".spec.message"}"#,
    printcolumn = r#"{"name":"Since","type":"date","description":"When the state began.","jsonPath":".spec.since"}"#,
    validation = Rule::new("self.spec.config == oldSelf.spec.config && self.spec.pod == oldSelf.spec.pod && self.spec.podUid == oldSelf.spec.podUid").message("spec.config, spec.pod and spec.podUid never change: another pod has another ConfigReplica")
)]
#[serde(rename_all = "camelCase")]
pub struct ConfigReplicaSpec {
    /// The config's name.
    #[schemars(length(min = 1, max = 63))]
    pub config: String,

    /// The pod's name.
    #[schemars(length(min = 1, max = 253))]
    pub pod: String,

    /// The pod's uid: a pod made again under the same name is another.
    #[schemars(length(min = 1, max = 64))]
    pub pod_uid: String,

    /// The node it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub node: Option<String>,

    /// The revision whose files the pod has; absent while it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runs: Option<i64>,

    /// What the pod says of the revision below.
    pub state: ReplicaState,

    /// The revision the state speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,

    /// That revision's content (sha256:…).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 80))]
    pub hash: Option<String>,

    /// The uid of the Secret it was read from: a candidate's, or the head's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub proposal: Option<String>,

    /// Why, if it is not applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,

    /// The pod's Lamport clock: above every stamp it had seen when it wrote this.
    #[serde(default)]
    pub lamport: i64,

    /// When the state began, by the pod's clock.
    pub since: MicroTime,
}

/// What a pod says of a revision.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplicaState {
    /// It was fetched, verified and checked, and can be shown at once: a vote for it.
    Staged,
    /// The pod's files are this revision's.
    Applied,
    /// The pod's check refused it: a vote against it. The pod keeps what it had.
    Rejected,
    /// The pod has not confirmed for too long that this is the latest, or cannot write it.
    Stale,
    /// The config's head is gone. The pod keeps its files.
    Orphaned,
}

impl ConfigReplica {
    /// The name of a pod's ConfigReplica: readable, and another for each pod that ever had this name.
    #[must_use]
    pub fn name_for(config: &str, pod: &str, pod_uid: &str) -> String {
        let id = &hex(&Sha256::digest(pod_uid))[..8];
        // A name has 253 characters, and the pod's ends with what tells it from its siblings.
        let room = 253 - config.len().min(63) - id.len() - 2;
        let start = pod.len().saturating_sub(room);
        let tail = pod.get(start..).unwrap_or_default().trim_start_matches(['-', '.']);
        format!("{config}.{tail}.{id}")
    }

    /// A pod's ConfigReplica, owned by the pod.
    #[must_use]
    pub fn of_pod(namespace: &str, spec: ConfigReplicaSpec) -> Self {
        let owner = OwnerReference {
            api_version: "v1".into(),
            kind: "Pod".into(),
            name: spec.pod.clone(),
            uid: spec.pod_uid.clone(),
            ..OwnerReference::default()
        };
        let metadata = ObjectMeta {
            name: Some(Self::name_for(&spec.config, &spec.pod, &spec.pod_uid)),
            namespace: Some(namespace.to_owned()),
            labels: Some([(names::LABEL_CONFIG.to_owned(), spec.config.clone())].into()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        };
        Self { metadata, spec }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_valid_and_tell_pods_apart() {
        let name = ConfigReplica::name_for("web", "web-7d9f-x2x4z", "u1");
        assert!(name.starts_with("web.web-7d9f-x2x4z."), "{name}");
        assert_ne!(name, ConfigReplica::name_for("web", "web-7d9f-x2x4z", "u2"));
        let long = ConfigReplica::name_for(&"c".repeat(63), &"p-".repeat(126), "u1");
        assert!(long.len() <= 253 && !long.contains(".-"), "{long}");
    }
}
