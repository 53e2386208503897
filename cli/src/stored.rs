//! What the operator stores for a config: the head, the candidate, the log.

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use quorate_crds::{DistributedConfig, Standing, head::Head, names};

use crate::{
    cluster::{CallError, Cluster, call},
    exit::{Failure, Result},
};

/// A Secret of the namespace, verified as a head, candidate or log entry of this config; `None` if
/// there is none.
///
/// # Errors
/// When it is somebody else's or damaged, or the API server fails.
pub async fn read(cluster: &Cluster, config: &DistributedConfig, name: &str, type_: &str) -> Result<Option<Head>> {
    let secret = get(cluster, name).await?;
    secret.map(|secret| verified(cluster, config, &secret, type_)).transpose()
}

/// The Secret; `None` if there is none.
///
/// # Errors
/// When the API server fails or refuses.
pub async fn get(cluster: &Cluster, name: &str) -> std::result::Result<Option<Secret>, CallError> {
    let what = format!("get Secret {}/{name}", cluster.namespace);
    call(&what, cluster.secrets().get_opt(name)).await
}

/// A Secret's content, if it is this config's.
///
/// # Errors
/// When it is somebody else's or damaged.
pub fn verified(cluster: &Cluster, config: &DistributedConfig, secret: &Secret, type_: &str) -> Result<Head> {
    let name = format!("Secret {}/{}", cluster.namespace, secret.name_any());
    let own = secret.owner_references().iter().any(|owner| Some(&owner.uid) == config.metadata.uid.as_ref());
    if !own || secret.type_.as_deref() != Some(type_) {
        return Err(Failure::error(format!("{name} is not of this config: it has another owner or type")));
    }
    Head::from_secret(secret).map_err(|error| {
        Failure::error(format!("{name} is damaged: {error}; the operator replaces a head, and a log entry is lost"))
    })
}

/// The head, as far as its annotations tell: what was refused, what a roll-back would go back to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeadNotes {
    /// The rollout under way and what was refused.
    pub standing: Standing,
    /// The newest earlier revision that pods had not refused.
    pub good: Option<i64>,
}

/// Reads them without the files; `None` if there is no head.
///
/// # Errors
/// When the API server fails or refuses.
pub async fn notes(cluster: &Cluster, config: &str) -> std::result::Result<Option<HeadNotes>, CallError> {
    let name = names::head_name(config);
    let what = format!("get Secret {}/{name}", cluster.namespace);
    let secrets = cluster.secrets();
    let meta = call(&what, secrets.get_metadata_opt(&name)).await?;
    Ok(meta.map(|meta| {
        let annotations = meta.annotations();
        HeadNotes {
            // What is malformed tells nothing; `diff` and `explain` verify.
            standing: annotations.get(names::ROLLOUT).and_then(|t| serde_json::from_str(t).ok()).unwrap_or_default(),
            good: annotations.get(names::GOOD).and_then(|text| text.parse().ok()),
        }
    }))
}
