//! The revision log: one immutable Secret a revision, created once.

use futures::TryFutureExt;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, PostParams, Preconditions},
    core::PartialObjectMeta,
};
use quorate_crds::{DistributedConfig, head::Head, names};

use crate::{
    Key,
    api::{ApiError, call, found},
    decide::{Log, LogEntry},
};

/// Why an entry could not be written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The API server failed or refused.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The entry's name is taken by something else.
    #[error("Secret {name} is not the log entry of this revision: delete or rename it")]
    Taken {
        /// Namespace and name.
        name: String,
    },
}

/// The config's entries, by metadata, and the highest revision among them. Those of a deleted config
/// of the same name count for the latter only.
///
/// # Errors
/// Those of the API server.
pub async fn list(client: &Client, config: &DistributedConfig) -> Result<(Log, i64), ApiError> {
    let key = Key::of(config);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &key.namespace);
    let params = ListParams::default().fields(&format!("type={}", names::REVISION_TYPE)).labels(&format!(
        "{}={},{}={}",
        names::LABEL_CONFIG,
        key.name,
        names::LABEL_KIND,
        names::KIND_REVISION
    ));
    let listed = call(|| format!("list the log of {key}"), secrets.list_metadata(&params)).await?;
    let mut log = Log::new();
    let mut highest = 0;
    for (revision, entry, own) in listed.items.iter().filter_map(|meta| entry_of(meta, config)) {
        highest = highest.max(revision);
        if own {
            log.insert(revision, entry);
        }
    }
    Ok((log, highest))
}

fn entry_of(meta: &PartialObjectMeta<Secret>, config: &DistributedConfig) -> Option<(i64, LogEntry, bool)> {
    let annotations = meta.annotations();
    let entry = LogEntry {
        hash: annotations.get(names::HASH)?.clone(),
        time: annotations.get(names::DECIDED_AT)?.parse().ok()?,
        restored: annotations.get(names::RESTORED).and_then(|text| text.parse().ok()),
        changed_by: annotations.get(names::CHANGED_BY).cloned(),
        uid: meta.uid()?,
    };
    let revision = annotations.get(names::REVISION)?.parse().ok()?;
    Some((revision, entry, is_owned(meta, config)))
}

/// Whether the config is the object's owner.
#[must_use]
pub fn is_owned(object: &impl ResourceExt, config: &DistributedConfig) -> bool {
    object.owner_references().iter().any(|owner| Some(&owner.uid) == config.metadata.uid.as_ref())
}

/// Writes a revision's entry. One that is there already is compared by hash.
///
/// # Errors
/// [`LogError`].
pub async fn append(client: &Client, config: &DistributedConfig, head: &Head) -> Result<LogEntry, LogError> {
    let namespace = config.namespace().unwrap_or_default();
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let secret = head.to_log_secret(config);
    let name = format!("{namespace}/{}", secret.name_any());
    let created = call(|| format!("create Secret {name}"), secrets.create(&PostParams::default(), &secret)).await;
    let stored = match created {
        Ok(stored) => stored,
        Err(error) if error.code() == Some(409) => {
            let there = call(|| format!("get Secret {name}"), secrets.get(&secret.name_any())).await?;
            let same = is_owned(&there, config) && Head::from_secret(&there).is_ok_and(|e| e.hash == head.hash);
            if !same {
                return Err(LogError::Taken { name });
            }
            there
        }
        Err(error) => return Err(error.into()),
    };
    Ok(LogEntry {
        hash: head.hash.clone(),
        time: head.decided_at,
        restored: head.restored,
        changed_by: head.changed_by.clone(),
        uid: stored.uid().unwrap_or_default(),
    })
}

/// A revision's content, verified; `None` if the entry is gone or does not verify.
///
/// # Errors
/// Those of the API server.
pub async fn read(client: &Client, config: &DistributedConfig, revision: i64) -> Result<Option<Head>, ApiError> {
    let namespace = config.namespace().unwrap_or_default();
    let name = names::revision_name(&config.name_any(), revision);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let entry = found(call(|| format!("get Secret {namespace}/{name}"), secrets.get(&name)).await)?;
    Ok(entry.filter(|secret| is_owned(secret, config)).and_then(|secret| Head::from_secret(&secret).ok()))
}

/// Deletes an entry, if it is still the one that was listed.
///
/// # Errors
/// Those of the API server, but for one that is gone or another.
pub async fn delete(client: &Client, key: &Key, revision: i64, uid: &str) -> Result<(), ApiError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &key.namespace);
    let name = names::revision_name(&key.name, revision);
    let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    let deletion = secrets.delete(&name, &params).map_ok(|_| ());
    match call(|| format!("delete Secret {}/{name}", key.namespace), deletion).await {
        Err(error) if !matches!(error.code(), Some(404 | 409)) => Err(error),
        _ => Ok(()),
    }
}
