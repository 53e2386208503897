//! What the operator reports on a DistributedConfig.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// What was last observed. Conditions follow kstatus.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DistributedConfigStatus {
    /// The metadata.generation this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Ready: what was asked for is published. Reconciling: the operator is at it, or waits for
    /// the API. Stalled: it needs a person; the last good revision stays.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// The revision that pods read. Revisions only rise: a roll-back is a new revision with old
    /// content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,

    /// SHA-256 over the files of that revision (sha256:…): equal content, equal hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,

    /// The published revisions that are kept, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["revision"]))]
    pub history: Vec<HistoryEntry>,
}

/// One published revision.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    /// Its number.
    pub revision: i64,
    /// The hash of its content.
    pub hash: String,
    /// When it was decided.
    pub time: Time,
    /// The older revision whose content it is, after a roll-back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<i64>,
}
