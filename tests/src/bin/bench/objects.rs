//! What is written in the benches.

use std::collections::BTreeMap;

use anyhow::Result;
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{Api, api::ObjectMeta};
use quorate_crds::DistributedConfig;
use quorate_tests::wait::wait_for;
use serde_json::json;

const PAYLOAD: usize = 4096;

/// Begins with the sample's number.
pub fn payload(sample: usize) -> String {
    let mut text = format!("{sample:08}");
    text.extend(std::iter::repeat_n('x', PAYLOAD - text.len()));
    text
}

pub fn secret(name: &str, sample: usize) -> Secret {
    let data = BTreeMap::from([("value".to_owned(), ByteString(payload(sample).into_bytes()))]);
    Secret { metadata: named(name), data: Some(data), ..Secret::default() }
}

pub fn map(sample: usize) -> ConfigMap {
    let data = BTreeMap::from([("value".to_owned(), payload(sample))]);
    ConfigMap { metadata: named("mirror"), data: Some(data), ..ConfigMap::default() }
}

pub fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
}

pub fn config(name: &str, sample: usize) -> Result<DistributedConfig> {
    Ok(serde_json::from_value(json!({
        "apiVersion": "quorate.io/v1alpha1", "kind": "DistributedConfig", "metadata": {"name": name},
        "spec": {"layers": [{"name": "all", "inline": {"value": payload(sample)}}], "files": [{"path": "value.json"}]}
    }))?)
}

/// A config as it is now, with the next value: an update of it is a compare-and-swap.
pub async fn next(configs: &Api<DistributedConfig>, name: &str, sample: usize) -> Result<DistributedConfig> {
    let mut now = wait_for("the status to be current", || async {
        let now = configs.get(name).await.map_err(|error| error.to_string())?;
        let status = now.status.clone().unwrap_or_default();
        if status.observed_generation == now.metadata.generation { Ok(now) } else { Err("it is behind".into()) }
    })
    .await?;
    now.spec.layers = config(name, sample)?.spec.layers;
    Ok(now)
}
