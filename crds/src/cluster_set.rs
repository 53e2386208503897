//! ClusterSet: independent clusters of which any majority decides.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// Clusters that decide together.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "quorate.io",
    version = "v1alpha1",
    kind = "ClusterSet",
    plural = "clustersets",
    shortname = "cset",
    category = "quorate",
    namespaced,
    status = "ClusterSetStatus",
    derive = "PartialEq",
    doc = "ClusterSet names independent clusters of which any majority decides: about the revisions of a DistributedConfig, a counter or a lock. Each of the clusters has one of its own, with the same names.",
    printcolumn = r#"{"name":"Members","type":"string","description":"How many of them answer.","jsonPath":".status.summary"}"#,
    printcolumn = r#"{"name":"Quorum","type":"string","description":"Whether a majority answers.","jsonPath":".status.conditions[?(@.type==\"QuorumAvailable\")].status"}"#,
    printcolumn = r#"{"name":"Degraded","type":"string","description":"Whether one of them does not.","jsonPath":".status.conditions[?(@.type==\"Degraded\")].status"}"#,
    printcolumn = r#"{"name":"Message","type":"string","priority":1,"description":"What is wrong.","jsonPath":".status.conditions[?(@.type==\"Degraded\")].message"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.members.filter(member, has(member.self) && member.self).size() <= 1").message("one member at most is this cluster itself (self: true)")
)]
pub struct ClusterSetSpec {
    /// The clusters: best three or five. An even number tolerates no more losses than the odd one below it.
    #[schemars(length(min = 1, max = 15), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub members: Vec<ClusterMember>,
}

/// One cluster.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.self) && self.self) != has(self.kubeconfigSecretRef)").message("a member is either self: true or has a kubeconfigSecretRef")
)]
pub struct ClusterMember {
    /// Its name, the same in all clusters.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,

    /// Whether it is the cluster of this object.
    #[serde(rename = "self", default, skip_serializing_if = "std::ops::Not::not")]
    pub is_self: bool,

    /// The way to it: a kubeconfig in a Secret of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubeconfig_secret_ref: Option<KubeconfigRef>,
}

/// A kubeconfig in a Secret. Certificates, keys and tokens are in it, not in files; it runs no programs.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KubeconfigRef {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// The key whose value it is.
    #[serde(default = "kubeconfig")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

fn kubeconfig() -> String {
    "kubeconfig".to_owned()
}

/// How its members are.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterSetStatus {
    /// The metadata.generation this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// QuorumAvailable: a majority answers and may be used. Degraded: one of them does not, or may not. Stalled: a person is
    /// needed, as with two members that are the same cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// How many are well, of how many: 2/3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,

    /// Each of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 15), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub members: Vec<ClusterMemberStatus>,
}

/// How one cluster is.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterMemberStatus {
    /// Its name.
    pub name: String,

    /// Whether it answers, and lets itself be used.
    pub ready: bool,

    /// What is wrong, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,

    /// How long its last answer took, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip_millis: Option<i64>,

    /// Its Kubernetes version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,

    /// Which cluster it is: the uid of its namespace kube-system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_uid: Option<String>,

    /// Since when it is ready, or is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
}
