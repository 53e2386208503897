//! What the operator reports on a DistributedConfig.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime, Time};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::{AgreementStatus, Strategy};

/// What was last observed. Conditions follow kstatus.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DistributedConfigStatus {
    /// The metadata.generation this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Ready: what was asked for is published. Reconciling: the operator is at it, or waits for
    /// the API. Stalled: it needs a person; the last good revision stays. AccessGranted, with
    /// spec.access: whether its accounts may read it.
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

    /// Where the rollout stands: Published, Progressing, Paused, RolledBack, Suspended, Pinned or
    /// Failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,

    /// The revision that is on its way, while a rollout runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<CandidateStatus>,

    /// The revision that was refused last, while it is remembered: its content is not proposed again
    /// by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<i64>,

    /// The last candidate that made way for newer content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superseded: Option<i64>,

    /// With spec.agreement: what the clusters decided last, as far as is known here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreement: Option<AgreementStatus>,

    /// What the pods say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<PodCounts>,

    /// The published revisions that are kept, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["revision"]))]
    pub history: Vec<HistoryEntry>,
}

/// A revision on its way.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CandidateStatus {
    /// Its number, if it is published.
    pub revision: i64,
    /// The hash of its content.
    pub hash: String,
    /// The uid of the Secret that holds it; votes name it.
    pub uid: String,
    /// Immediate, Quorum or Canary.
    pub strategy: Strategy,
    /// The step of a Canary, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<i32>,
    /// How many steps there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<i32>,
    /// When the step or the vote began.
    pub since: Time,
    /// Since when the step bakes: all chosen pods had the candidate then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baking_since: Option<MicroTime>,
    /// How many pods are asked.
    pub asked: i32,
    /// How many accepted, or have it.
    pub accepted: i32,
    /// How many refused.
    pub rejected: i32,
    /// What is waited for, in words.
    pub message: String,
}

/// What the pods say of the published revision.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodCounts {
    /// How many pods read this config: those of spec.selector, or without one those that report.
    pub desired: i32,
    /// How many have the published revision.
    pub applied: i32,
    /// How many refused it.
    pub rejected: i32,
    /// How many have not confirmed it for too long.
    pub stale: i32,
    /// How many mount it as a plain volume, have no sidecar that could say so, and were told to look
    /// for it: theirs is no acknowledgement.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub delivered: i32,
    /// Applied of desired: 97/100; and delivered to how many more: 97/100 (3 delivered).
    pub summary: String,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // Serde's signature.
const fn is_zero(number: &i32) -> bool {
    *number == 0
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
    /// Who made the change behind it, as metadata.managedFields of the changed object tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_by: Option<String>,
}
