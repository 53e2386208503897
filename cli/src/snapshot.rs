//! What a config's references point to, fetched with the user's own rights.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use quorate_crds::DistributedConfig;
use quorate_resolve::{Keys, SourceKind, SourceRef, Sources, required};

use crate::{
    cluster::{CallError, Cluster, call},
    exit::Failure,
};

/// Everything a config depends on.
///
/// # Errors
/// When something may not be read: which, and why.
pub async fn of(cluster: &Cluster, config: &DistributedConfig) -> Result<Sources, Failure> {
    let mut sources = Sources::default();
    loop {
        let missing = required(config, &sources);
        if missing.is_empty() {
            return Ok(sources);
        }
        for reference in missing {
            fetch(cluster, &reference, &mut sources).await?;
        }
    }
}

async fn fetch(cluster: &Cluster, reference: &SourceRef, sources: &mut Sources) -> Result<(), CallError> {
    let what = format!("get {reference}");
    let (namespace, name) = (&reference.namespace, &reference.name);
    match reference.kind {
        SourceKind::DistributedConfig => {
            let api: Api<DistributedConfig> = Api::namespaced(cluster.client.clone(), namespace);
            let found = call(&what, api.get_opt(name)).await?;
            sources.configs.insert(reference.clone(), found.map(Arc::new));
        }
        SourceKind::ConfigMap => {
            let api: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), namespace);
            let found = call(&what, api.get_opt(name)).await?;
            sources.keys.insert(reference.clone(), found.map(|map| Arc::new(Keys::from(&map))));
        }
        SourceKind::Secret => {
            let api: Api<Secret> = Api::namespaced(cluster.client.clone(), namespace);
            let found = call(&what, api.get_opt(name)).await?;
            sources.keys.insert(reference.clone(), found.map(|secret| Arc::new(Keys::from(&secret))));
        }
    }
    Ok(())
}
