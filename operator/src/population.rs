//! Step 1, for rollouts: who the pods are, and what they say.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{api::core::v1::PodCondition, apimachinery::pkg::apis::meta::v1::LabelSelector};
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, ListParams, Object},
    core::Selector,
};
use quorate_crds::{Ask, ConfigReplica, DistributedConfig, Instruction, Orders, names};
use serde::Deserialize;

use crate::{
    Key,
    api::{ApiError, call},
    decide::{CandidateSlot, Observed},
    nudge::{Mounting, Volumes},
    rollout::{Facts, Pod, Replica},
    state::{HeadMemory, Stage, State},
    watch::replica,
};

/// What is read of a pod's status.
#[derive(Clone, Debug, Default, Deserialize)]
struct PodStatus {
    phase: Option<String>,
    #[serde(default)]
    conditions: Vec<PodCondition>,
}

type PodView = Object<Volumes, PodStatus>;

/// All that a rollout is judged by, as far as it is known now.
#[must_use]
pub fn known(state: &State, config: &DistributedConfig, memory: &HeadMemory) -> Facts {
    let key = Key::of(config);
    let mut replicas = state.replicas(&key);
    let pods = if config.spec.selector.is_some() {
        state.pods(&key)
    } else {
        // Those that report are all that is known.
        let pod = |r: &Replica| Pod { uid: r.pod_uid.clone(), name: r.pod.clone(), ready: true, ending: false };
        replicas.values().map(pod).collect()
    };
    let alive: BTreeSet<&String> = pods.iter().map(|pod| &pod.uid).collect();
    replicas.retain(|uid, _| alive.contains(uid));
    let mounting = state.mounting(&key).into_iter();
    let told = mounting.filter_map(|pod| Some((pod.uid.clone(), pod.told_of(&key.name)?))).collect();
    let electorate = match &memory.candidate {
        CandidateSlot::Ours { electorate, .. } => electorate.clone(),
        _ => BTreeSet::new(),
    };
    let stage = instruction(memory).map(|instruction| stage(state, config, instruction)).unwrap_or_default();
    Facts {
        pods,
        replicas,
        told,
        electorate,
        gates: stage.gates,
        baking_since: stage.baking_since,
        orders: Orders::of(config.annotations()),
        changed_by: state.changed_by(&key),
        term: state.term(),
        now: Timestamp::now(),
        fresh: false,
    }
}

/// The rollout under way.
#[must_use]
pub fn instruction(memory: &HeadMemory) -> Option<&Instruction> {
    match &memory.observed {
        Observed::Ours(stored) => stored.head.standing.rollout.as_ref(),
        _ => None,
    }
}

/// What is remembered of the present step; after a restart, what the status tells of it.
#[must_use]
pub fn stage(state: &State, config: &DistributedConfig, instruction: &Instruction) -> Stage {
    let step = match instruction.ask {
        Ask::Vote => 0,
        Ask::Try { step, .. } => step,
    };
    let of = (instruction.proposal.uid.clone(), step, instruction.since);
    if let Some(stage) = state.stage(&Key::of(config)).filter(|stage| stage.of == of) {
        return stage;
    }
    let told = config.status.as_ref().and_then(|status| status.candidate.as_ref()).filter(|told| {
        told.uid == of.0 && told.step == i32::try_from(step + 1).ok() && told.since.0.as_second() == of.2.as_second()
    });
    let baking_since = told.and_then(|told| told.baking_since.as_ref()).map(|time| time.0);
    Stage { of, baking_since, ..Stage::default() }
}

/// Lists the config's pods and what they say, by quorum.
///
/// # Errors
/// Those of the API server.
pub async fn look(client: &Client, state: &State, config: &DistributedConfig) -> Result<(), ApiError> {
    let key = Key::of(config);
    let replicas: Api<ConfigReplica> = Api::namespaced(client.clone(), &key.namespace);
    let params = ListParams::default().labels(&format!("{}={}", names::LABEL_CONFIG, key.name));
    let listing = call(|| format!("list the ConfigReplicas of {key}"), replicas.list(&params));
    let (listed, ()) = futures::try_join!(listing, look_at_pods(client, state, config))?;
    let replicas = listed.items.iter().map(replica).filter(|(of, _)| *of == key).map(|(_, replica)| replica);
    state.replicas_listed(&key, replicas.collect());
    Ok(())
}

/// Lists the pods of the config's selector, if it has one, unless they were listed a short while ago.
///
/// # Errors
/// Those of the API server.
pub async fn look_again(
    client: &Client,
    state: &State,
    config: &DistributedConfig,
    age: Duration,
) -> Result<(), ApiError> {
    let is_young = state.pods_age(&Key::of(config)).is_some_and(|listed| listed < age);
    if is_young { Ok(()) } else { look_at_pods(client, state, config).await }
}

async fn look_at_pods(client: &Client, state: &State, config: &DistributedConfig) -> Result<(), ApiError> {
    let Some(selector) = &config.spec.selector else { return Ok(()) };
    let key = Key::of(config);
    let resource = ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&());
    let pods: Api<PodView> = Api::namespaced_with(client.clone(), &key.namespace, &resource);
    let params = ListParams::default().labels(&labels(selector));
    let listed = call(|| format!("list the pods of {key}"), pods.list(&params)).await?;
    let (head, living) = (names::head_name(&key.name), listed.items.iter().filter(|pod| alive(pod).is_some()));
    let mounting = living.filter(|pod| pod.spec.mount(&head)).map(Mounting::of).collect();
    state.pods_listed(&key, listed.items.iter().filter_map(alive).collect(), mounting);
    Ok(())
}

/// A pod that has not ended.
fn alive(pod: &PodView) -> Option<Pod> {
    let status = pod.status.clone().unwrap_or_default();
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let ready = status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
    let ending = pod.metadata.deletion_timestamp.is_some();
    (!ended).then(|| Pod { uid: pod.uid().unwrap_or_default(), name: pod.name_any(), ready, ending })
}

/// As the API server takes it. An expression that it could not understand selects nothing.
fn labels(selector: &LabelSelector) -> String {
    let selector = Selector::try_from(selector.clone());
    selector.map_or_else(|_| "quorate.io/none,!quorate.io/none".into(), |selector| selector.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_that_ended_do_not_count_and_those_that_are_being_deleted_are_told_from_others() {
        let pod = |metadata: serde_json::Value, status: serde_json::Value| {
            let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {}, "status": status});
            alive(&serde_json::from_value(object).unwrap())
        };
        let ready = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
        let seen = pod(json!({"name": "a", "uid": "u"}), ready.clone()).unwrap();
        assert!(seen.ready && seen.uid == "u");
        assert!(!pod(json!({"name": "a", "uid": "u"}), json!({"phase": "Pending"})).unwrap().ready);
        assert_eq!(pod(json!({"name": "a", "uid": "u"}), json!({"phase": "Failed"})), None);
        let deleted = json!({"name": "a", "uid": "u", "deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert!(!seen.ending && pod(deleted, ready).unwrap().ending);
    }

    #[test]
    fn selectors_are_written_as_the_api_server_takes_them() {
        let selector = |value| labels(&serde_json::from_value(value).unwrap());
        assert_eq!(selector(json!({"matchLabels": {"app": "web"}})), "app=web");
        let expression = json!({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["a", "b"]}]});
        assert_eq!(selector(expression), "tier notin (a,b)");
        let nonsense = json!({"matchExpressions": [{"key": "tier", "operator": "Like"}]});
        assert_eq!(selector(nonsense), "quorate.io/none,!quorate.io/none");
    }
}
