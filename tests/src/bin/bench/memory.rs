//! What the operator takes with many configs. (What a sidecar takes is measured after its work, in `propagation`.)

use anyhow::{Context, Result};
use futures::TryStreamExt;
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use quorate_crds::DistributedConfig;
use quorate_tests::wait::wait_for;
use serde_json::{Value, json};

use crate::{Ground, objects::config, results::rounded};

const CONFIGS: usize = 1_000;

pub async fn measure(ground: &Ground) -> Result<Vec<Value>> {
    eprintln!("  memory: {CONFIGS} configs");
    let configs: Api<DistributedConfig> = Api::default_namespaced(ground.client.clone());
    futures::stream::iter((0..CONFIGS).map(anyhow::Ok))
        .try_for_each_concurrent(8, |number| {
            let configs = configs.clone();
            async move {
                configs.create(&PostParams::default(), &config(&format!("many-{number}"), number)?).await?;
                Ok(())
            }
        })
        .await?;
    wait_for("all of them to be published", || async {
        let all = configs.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let done = all.items.iter().filter(|c| c.status.as_ref().is_some_and(|s| s.revision.is_some())).count();
        if done == CONFIGS { Ok(()) } else { Err(format!("{done} of {CONFIGS}")) }
    })
    .await?;
    let mib = ground.operator.process.resident_mib().context("no memory figure")?;
    Ok(vec![json!({"bench": "memory", "name": "operator-1000", "unit": "MiB", "value": rounded(mib)})])
}
