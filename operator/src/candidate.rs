//! The candidate: an immutable Secret with content that is proposed, there while a rollout runs.

use futures::TryFutureExt;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
};
use quorate_crds::{
    DistributedConfig,
    head::{Bundle, Head},
    names,
};

use crate::{
    Key,
    api::{ApiError, call, found},
    decide::{CandidateSlot, Version},
    log::is_owned,
    rollout::facts::read_electorate,
};

/// What is there under the candidate's name.
///
/// # Errors
/// Those of the API server.
pub async fn observe(client: &Client, config: &DistributedConfig) -> Result<CandidateSlot, ApiError> {
    Ok(found(read(client, config).await)?.map_or(CandidateSlot::Absent, |secret| slot(&secret, config)))
}

/// The candidate, files included.
///
/// # Errors
/// Those of the API server.
pub async fn read(client: &Client, config: &DistributedConfig) -> Result<Secret, ApiError> {
    let (secrets, name) = place(client, config);
    call(|| format!("get Secret {}/{name}", Key::of(config).namespace), secrets.get(&name)).await
}

fn slot(secret: &Secret, config: &DistributedConfig) -> CandidateSlot {
    let type_ = secret.type_.as_deref().unwrap_or_default();
    if type_ != names::CANDIDATE_TYPE || !is_owned(secret, config) {
        return CandidateSlot::Foreign { what: format!("a Secret of type {type_} that this config does not own") };
    }
    let version = Version {
        uid: secret.uid().unwrap_or_default(),
        resource_version: secret.resource_version().unwrap_or_default(),
    };
    match Head::from_secret(secret) {
        Ok(head) => CandidateSlot::Ours {
            version,
            head: Box::new(Head { bundle: Bundle::default(), ..head }),
            electorate: read_electorate(secret.annotations().get(names::POPULATION).map_or("", String::as_str)),
        },
        Err(_) => CandidateSlot::Damaged(version),
    }
}

/// Stores a candidate.
///
/// # Errors
/// Those of the API server; 409 if there is one.
pub async fn create(
    client: &Client,
    config: &DistributedConfig,
    head: &Head,
    electorate: &str,
) -> Result<CandidateSlot, ApiError> {
    let (secrets, name) = place(client, config);
    let secret = head.to_candidate_secret(config, electorate);
    let params = PostParams::default();
    let creation = secrets.create(&params, &secret);
    let stored = call(|| format!("create Secret {}/{name}", Key::of(config).namespace), creation).await?;
    Ok(slot(&stored, config))
}

/// Deletes this very candidate; another one stays.
///
/// # Errors
/// Those of the API server, but for one that is gone or another.
pub async fn delete(client: &Client, config: &DistributedConfig, version: &Version) -> Result<(), ApiError> {
    let (secrets, name) = place(client, config);
    let preconditions = Preconditions { uid: Some(version.uid.clone()), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    let deletion = secrets.delete(&name, &params).map_ok(|_| ());
    match call(|| format!("delete Secret {}/{name}", Key::of(config).namespace), deletion).await {
        Err(error) if !matches!(error.code(), Some(404 | 409)) => Err(error),
        _ => Ok(()),
    }
}

fn place(client: &Client, config: &DistributedConfig) -> (Api<Secret>, String) {
    let key = Key::of(config);
    (Api::namespaced(client.clone(), &key.namespace), names::candidate_name(&key.name))
}
