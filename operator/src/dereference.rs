//! Step 1: fetches what the config refers to, and its head.

use std::{collections::BTreeSet, sync::Arc};

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client, ResourceExt};
use quorate_crds::{
    DistributedConfig,
    head::{Bundle, Head},
    names,
};
use quorate_resolve::{Keys, SourceKind, SourceRef, Sources, references, required};
use sha2::{Digest, Sha256};

use crate::{
    Key,
    api::{ApiError, call, found},
    candidate,
    decide::{Observed, Stored, Version},
    log::{self, LogError},
    state::{Change, HeadMemory, State},
};

/// How many sources of one config are fetched at a time.
const FETCHES: usize = 8;

/// Why the inputs of a run could not be had.
#[derive(Debug, thiserror::Error)]
pub enum DereferenceError {
    /// What the config refers to.
    #[error("{error}")]
    Source {
        /// Which object.
        source_ref: SourceRef,
        /// What the API server said.
        error: ApiError,
    },
    /// The head or the log.
    #[error(transparent)]
    Head(#[from] ApiError),
    /// The log entry that was missing.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Gathers what the config refers to, from memory where it is known. References are followed until
/// there are no new ones.
///
/// # Errors
/// Those of the API server. A missing object is no error here.
pub async fn sources(client: &Client, state: &State, config: &DistributedConfig) -> Result<Sources, DereferenceError> {
    let key = Key::of(config);
    let mut sources = Sources::default();
    loop {
        state.set_references(&key, references(config, &sources));
        let wanted: BTreeSet<SourceRef> = required(config, &sources);
        if wanted.is_empty() {
            return Ok(sources);
        }
        let unknown = state.fill(&wanted, &mut sources);
        let fetched: Vec<(SourceRef, Option<Arc<Keys>>)> = stream::iter(unknown)
            .map(|(source, epoch)| async move {
                match fetch(client, &source).await {
                    Ok(Fetched { version, keys, changed }) => {
                        let keys = keys.map(Arc::new);
                        state.keep_content(&source, epoch, version, keys.clone(), changed);
                        Ok((source, keys))
                    }
                    Err(error) => Err(DereferenceError::Source { source_ref: source, error }),
                }
            })
            .buffer_unordered(FETCHES)
            .try_collect()
            .await?;
        sources.keys.extend(fetched);
    }
}

struct Fetched {
    version: Option<String>,
    keys: Option<Keys>,
    changed: Option<Change>,
}

async fn fetch(client: &Client, source: &SourceRef) -> Result<Fetched, ApiError> {
    let name = || format!("get {source}");
    Ok(match source.kind {
        SourceKind::ConfigMap => {
            let api: Api<ConfigMap> = Api::namespaced(client.clone(), &source.namespace);
            let map = found(call(name, api.get(&source.name)).await)?;
            Fetched {
                version: map.as_ref().and_then(ResourceExt::resource_version),
                keys: map.as_ref().map(Keys::from),
                changed: map.as_ref().and_then(|map| Change::of(map, "ConfigMap")),
            }
        }
        SourceKind::Secret => {
            let api: Api<Secret> = Api::namespaced(client.clone(), &source.namespace);
            let secret = found(call(name, api.get(&source.name)).await)?;
            Fetched {
                version: secret.as_ref().and_then(ResourceExt::resource_version),
                keys: secret.as_ref().map(Keys::from),
                changed: secret.as_ref().and_then(|secret| Change::of(secret, "Secret")),
            }
        }
        // The state has them all.
        SourceKind::DistributedConfig => Fetched { version: None, keys: None, changed: None },
    })
}

/// How far ahead of head, log and status a pod's word of a revision is believed.
const BELIEVED: i64 = 1_000_000;

/// The config's head and log, from memory where they are known. A present head without a log entry
/// (the operator ended in between) gets it now, before the head can move on.
///
/// # Errors
/// [`DereferenceError`].
pub async fn head(client: &Client, state: &State, config: &DistributedConfig) -> Result<HeadMemory, DereferenceError> {
    let key = Key::of(config);
    let config_uid = config.uid().unwrap_or_default();
    let (epoch, memory) = state.head(&key);
    if let Some(memory) = memory.filter(|m| m.config_uid == config_uid) {
        return Ok(memory);
    }
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &key.namespace);
    let name = names::head_name(&key.name);
    let (secret, candidate, listed) = futures::join!(
        call(|| format!("get Secret {}/{name}", key.namespace), secrets.get(&name)),
        candidate::observe(client, config),
        log::list(client, config)
    );
    let candidate = candidate?;
    let (mut log, mut highest) = listed?;
    let (observed, bundle) = observe(found(secret)?.as_ref(), config);
    if let (Observed::Ours(stored), Some(bundle)) = (&observed, bundle) {
        let revision = stored.head.revision;
        highest = highest.max(revision).max(stored.head.standing.highest);
        if log.get(&revision).is_none_or(|entry| entry.hash != stored.head.hash) {
            let whole = Head { bundle, ..stored.head.clone() };
            log.insert(revision, log::append(client, config, &whole).await?);
        }
    }
    if let Some(status) = &config.status {
        let candidate = status.candidate.as_ref().map(|candidate| candidate.revision);
        let told = [status.revision, status.refused, status.superseded, candidate].into_iter().flatten();
        highest = status.history.iter().map(|entry| entry.revision).chain(told).fold(highest, i64::max);
    }
    if !matches!(observed, Observed::Ours(_)) {
        // Pods remember revisions that a lost head had. What lies far ahead of all else is no memory.
        let reported = state.replicas(&key).into_values().flat_map(|replica| [replica.revision, replica.runs]);
        let limit = highest.saturating_add(BELIEVED);
        highest = reported.flatten().filter(|revision| *revision <= limit).fold(highest, i64::max);
    }
    let memory = HeadMemory { config_uid, observed, candidate, log, highest };
    state.keep_head(&key, epoch, memory.clone());
    Ok(memory)
}

/// What a head's object is to this config, and the files of a good one.
pub(crate) fn observe(secret: Option<&Secret>, config: &DistributedConfig) -> (Observed, Option<Bundle>) {
    let Some(secret) = secret else { return (Observed::Absent, None) };
    let type_ = secret.type_.as_deref().unwrap_or_default();
    // A Secret's type cannot be changed: even one that the config owns could not become a head.
    if type_ != names::HEAD_TYPE {
        return (Observed::Foreign { what: format!("a Secret of type {type_}") }, None);
    }
    if !log::is_owned(secret, config) {
        let of_a_config = secret.owner_references().iter().any(|owner| owner.kind == "DistributedConfig");
        let observed = if of_a_config {
            Observed::Predecessor
        } else {
            Observed::Foreign { what: format!("a Secret of type {type_} that this config does not own") }
        };
        return (observed, None);
    }
    let version = Version {
        uid: secret.uid().unwrap_or_default(),
        resource_version: secret.resource_version().unwrap_or_default(),
    };
    match Head::from_secret(secret) {
        Ok(mut head) => {
            let bundle = std::mem::take(&mut head.bundle);
            let provenance = digest(&bundle);
            (Observed::Ours(Stored { version, head, provenance }), Some(bundle))
        }
        Err(error) => (Observed::Damaged { version, reason: error.to_string() }, None),
    }
}

/// What tells one provenance from another.
#[must_use]
pub fn digest(bundle: &Bundle) -> [u8; 32] {
    Sha256::digest(&bundle.provenance).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_a_secret_of_the_type_and_of_this_config_is_its_head() {
        let config: DistributedConfig = serde_json::from_value(json!({
            "apiVersion": "quorate.io/v1alpha1", "kind": "DistributedConfig",
            "metadata": {"name": "web", "namespace": "shop", "uid": "u"}, "spec": {"layers": [], "files": []}
        }))
        .unwrap();
        let seen = |type_: &str, owner: &str, uid: &str| {
            let secret: Secret = serde_json::from_value(json!({
                "metadata": {"name": "web.quorate", "namespace": "shop", "ownerReferences": [
                    {"apiVersion": "quorate.io/v1alpha1", "kind": owner, "name": "web", "uid": uid}
                ]},
                "type": type_
            }))
            .unwrap();
            observe(Some(&secret), &config).0
        };
        assert!(matches!(seen("Opaque", "DistributedConfig", "u"), Observed::Foreign { .. }));
        assert!(matches!(seen(names::HEAD_TYPE, "Deployment", "d"), Observed::Foreign { .. }));
        assert!(matches!(seen(names::HEAD_TYPE, "DistributedConfig", "before"), Observed::Predecessor));
        // It is the config's, but holds nothing.
        assert!(matches!(seen(names::HEAD_TYPE, "DistributedConfig", "u"), Observed::Damaged { .. }));
    }
}
