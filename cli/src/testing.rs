//! What the tests of views share: a config as the operator leaves it, and its parts.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use quorate_crds::{CandidateStatus, ConfigReplica, ConfigReplicaSpec, DistributedConfig, ReplicaState, Strategy};
use serde_json::json;

use crate::format::Style;

/// No colours, no bars.
pub const PLAIN: Style = Style { colour: false, live: false };

/// 2026-01-01T00:00:00Z and so many seconds.
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + seconds).unwrap()
}

/// Config shop/web: revision 3 is published, everything is well.
pub fn config() -> DistributedConfig {
    let condition = |type_: &str, status: &str| {
        json!({"type": type_, "status": status, "reason": "Published", "message": "revision 3 is published",
            "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 4})
    };
    let entry = |revision: i64, digit: &str| {
        json!({"revision": revision, "hash": format!("sha256:{}", digit.repeat(64)),
            "time": format!("2026-01-01T00:0{revision}:00Z"), "changedBy": "alice"})
    };
    serde_json::from_value(json!({
        "apiVersion": "quorate.io/v1alpha1", "kind": "DistributedConfig",
        "metadata": {"name": "web", "namespace": "shop", "uid": "u1", "generation": 4, "resourceVersion": "10"},
        "spec": {"layers": [{"name": "base", "inline": {}}], "files": [{"path": "app.yaml"}]},
        "status": {
            "observedGeneration": 4, "revision": 3, "hash": format!("sha256:{}", "c".repeat(64)),
            "phase": "Published",
            "conditions": [condition("Ready", "True"), condition("Reconciling", "False"), condition("Stalled", "False")],
            "pods": {"desired": 10, "applied": 9, "rejected": 1, "stale": 0, "summary": "9/10"},
            "history": [entry(3, "c"), entry(2, "b"), entry(1, "a")]
        }
    }))
    .unwrap()
}

/// The same, changed.
pub fn config_with(change: &dyn Fn(&mut DistributedConfig)) -> DistributedConfig {
    let mut config = config();
    change(&mut config);
    config
}

/// Revision 4 on its way, in step 2 of 4 of a Canary.
pub fn candidate() -> CandidateStatus {
    CandidateStatus {
        revision: 4,
        hash: format!("sha256:{}", "d".repeat(64)),
        uid: "c1".into(),
        strategy: Strategy::Canary,
        step: Some(2),
        steps: Some(4),
        since: Time(at(60)),
        baking_since: None,
        asked: 10,
        accepted: 7,
        rejected: 1,
        message: "7 of 10 applied, baking 40 s more".into(),
    }
}

/// What pod `pod` says of revision 3 or, if it rejects, of 4.
pub fn replica(pod: &str, state: ReplicaState, message: Option<&str>) -> ConfigReplica {
    let revision = if state == ReplicaState::Rejected { 4 } else { 3 };
    let spec = ConfigReplicaSpec {
        config: "web".into(),
        pod: pod.into(),
        pod_uid: format!("{pod}-uid"),
        node: Some("n1".into()),
        runs: Some(3),
        state,
        revision: Some(revision),
        hash: None,
        proposal: None,
        message: message.map(Into::into),
        lamport: 1,
        since: k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(at(30)),
    };
    ConfigReplica::of_pod("shop", spec)
}
