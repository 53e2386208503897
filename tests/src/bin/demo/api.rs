//! What the acts ask of the API server.

use std::fs;

use anyhow::Result;
use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{
    Api, Client, ResourceExt,
    api::{DynamicObject, Patch, PatchParams},
    core::GroupVersionKind,
    discovery::ApiResource,
};
use quorate_crds::{DistributedConfig, head::Head, names};
use quorate_tests::cluster::root;
use serde::Deserialize;
use serde_json::Value;

use crate::NAMESPACE;

/// The objects of a file of the checkout, in order.
pub fn objects(path: &str) -> Result<Vec<DynamicObject>> {
    let text = fs::read_to_string(root().join(path))?;
    serde_yaml::Deserializer::from_str(&text).map(|document| Ok(DynamicObject::deserialize(document)?)).collect()
}

/// kubectl apply of one object.
pub async fn apply(client: &Client, object: &DynamicObject) -> Result<()> {
    let kind = GroupVersionKind::try_from(object.types.clone().unwrap_or_default())?;
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &ApiResource::from_gvk(&kind));
    api.patch(&object.name_any(), &PatchParams::apply("quorate-demo").force(), &Patch::Apply(object)).await?;
    Ok(())
}

pub fn configs(client: &Client) -> Api<DistributedConfig> {
    Api::namespaced(client.clone(), NAMESPACE)
}

/// Changes a config's spec.
pub async fn change(client: &Client, config: &str, spec: Value) -> Result<()> {
    let patch = serde_json::json!({"spec": spec});
    configs(client).patch(config, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

/// A config's head, verified.
pub async fn head(client: &Client, config: &str) -> Result<Head> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    Ok(Head::from_secret(&secrets.get(&names::head_name(config)).await?)?)
}

/// A config's condition Ready, if it speaks of the present spec.
pub fn ready(config: &DistributedConfig) -> Option<Condition> {
    let conditions = config.status.clone().unwrap_or_default().conditions;
    conditions.into_iter().find(|c| c.type_ == "Ready" && c.observed_generation == config.metadata.generation)
}
