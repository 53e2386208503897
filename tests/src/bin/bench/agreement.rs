//! A config from apply to file when three clusters decide on it, beside one that its cluster decides on alone, in the same run.

use std::{fs, path::PathBuf};

use anyhow::Result;
use futures::future::try_join;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use quorate_crds::DistributedConfig;
use quorate_tests::{
    files::moment,
    members::{self, Member},
    programs::{self, Program},
    wait::wait_for,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::results::percentile;

/// Changes of each.
const CHANGES: usize = 40;

pub async fn measure() -> Result<Vec<Value>> {
    eprintln!("Starting three control planes, each with an operator and a sidecar");
    let members = members::world().await?;
    let (eu, asia) = (&members[0], &members[2]);
    let mut pods = Vec::new();
    for (member, config) in [(eu, "alone"), (eu, "web"), (asia, "web")] {
        pods.push(pod(member, config).await?);
    }
    // Each says its word once; from then on it is eu that changes something.
    for member in &members {
        let api = configs(member).await?;
        change(&api, "web", 0).await?;
        wait_for("it to say so", || async {
            let agreed = member.get("dcfg", "web")["status"]["agreement"].clone();
            if agreed.is_null() { Err("it has not".to_owned()) } else { Ok(()) }
        })
        .await?;
    }
    let api = configs(eu).await?;
    let (mut alone, mut near, mut far) = (Vec::new(), Vec::new(), Vec::new());
    for number in 1..=CHANGES {
        let began = Instant::now();
        change(&api, "alone", number).await?;
        alone.push((says(&pods[0].0, number).await? - began).as_secs_f64() * 1e3);
        let began = Instant::now();
        change(&api, "web", number).await?;
        let (here, there) = try_join(says(&pods[1].0, number), says(&pods[2].0, number)).await?;
        near.push((here - began).as_secs_f64() * 1e3);
        far.push((there - began).as_secs_f64() * 1e3);
    }
    let rows = [("single", alone), ("members-3-here", near), ("members-3-there", far)];
    let rows: Vec<Value> = rows.map(|(name, timed)| row(name, timed)).into();
    println!("\n| apply to file | p50, ms | p99, ms |\n|---|---|---|");
    for row in &rows {
        println!("| {} | {:.1} | {:.1} |", row["name"].as_str().unwrap_or_default(), row["p50"], row["p99"]);
    }
    Ok(rows)
}

fn row(name: &str, timed: Vec<f64>) -> Value {
    let at = percentile(timed);
    json!({"bench": "quorum-config", "name": name, "unit": "ms", "value": at(50), "p50": at(50), "p99": at(99), "n": CHANGES})
}

/// A sidecar; the file that it writes.
async fn pod(member: &Member, config: &str) -> Result<(PathBuf, Program)> {
    let folder = member.cluster.folder().join(format!("pod-{config}"));
    fs::create_dir_all(&folder)?;
    let directory = folder.display().to_string();
    let words = ["--config", config, "--namespace", "default", "--directory", &directory];
    let sidecar = programs::sidecar(&member.cluster.kubeconfig(0), &words, &folder.join("sidecar.log")).await?;
    Ok((folder.join(config).join("app.yaml"), sidecar))
}

async fn configs(member: &Member) -> Result<Api<DistributedConfig>> {
    Ok(Api::default_namespaced(member.cluster.client().await?))
}

async fn change(api: &Api<DistributedConfig>, name: &str, version: usize) -> Result<()> {
    let agreement = (name == "web").then(|| json!({"clusterSet": members::SET}));
    let layers = json!([{"name": "values", "inline": {"version": version}}]);
    let config = json!({
        "apiVersion": "quorate.io/v1alpha1", "kind": "DistributedConfig", "metadata": {"name": name},
        "spec": {"agreement": agreement, "layers": layers, "files": [{"path": "app.yaml"}]},
    });
    api.patch(name, &PatchParams::apply("bench").force(), &Patch::Apply(&config)).await?;
    Ok(())
}

async fn says(file: &PathBuf, version: usize) -> Result<Instant> {
    let text = format!("version: {version}\n");
    moment("the file", || fs::read_to_string(file).is_ok_and(|found| found == text)).await
}
