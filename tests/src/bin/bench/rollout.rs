//! `rollout-500`: from the start of the apply until 500 pods have said that they run it.
//!
//! The pods are objects of the API, ready, without a kubelet. Their sidecars are the real ones, see
//! `sidecars`. The floor has as many bare watches, which see one PUT and then write once each.
//! Floor and strategies take turns; sidecars and bare watches are there all the time.

mod acknowledgements;
pub mod floor;
pub mod sidecars;
mod usage;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use quorate_crds::{DistributedConfig, DistributedConfigStatus};
use quorate_tests::{cluster::root, process::Process, wait::wait_for};
use serde_json::{Value, json};

use crate::{
    Ground,
    objects::{config, named, secret},
    results::{percentile, rounded},
    timed::timed,
    volume,
};
use acknowledgements::Acknowledgements;
use usage::{Usage, Writes};

/// Of the config, the pods and their sidecars. The operator looks nowhere else.
pub const NAMESPACE: &str = "rollout";
const PODS: usize = 500;
const PROCESSES: usize = 4;
const SAMPLES: usize = 5;
const WARM_UP: usize = 1;

pub async fn measure(ground: &mut Ground) -> Result<Vec<Value>> {
    eprintln!("  rollout: {PODS} pods");
    let mut crowd = Crowd::gather(ground).await?;
    let result = take_turns(ground, &mut crowd).await;
    if result.is_err() {
        crowd.tell_of_the_dead();
    }
    let turns = result?;
    tell(&turns)?;
    Ok(turns.into_iter().map(Turn::row).collect())
}

/// One way from a write to 500 acknowledgements.
struct Turn {
    name: &'static str,
    /// The floor has none.
    rollout: Option<Value>,
    milliseconds: Vec<f64>,
    used: Vec<Usage>,
    operator_mib: f64,
}

impl Turn {
    fn all() -> Vec<Self> {
        let turn =
            |name, rollout| Self { name, rollout, milliseconds: Vec::new(), used: Vec::new(), operator_mib: 0.0 };
        let canary = |steps: &[&str]| {
            let steps: Vec<Value> = steps.iter().map(|pods| json!({"pods": pods})).collect();
            Some(json!({"strategy": "Canary", "steps": steps}))
        };
        vec![
            turn("floor", None),
            turn("immediate", Some(json!({"strategy": "Immediate"}))),
            turn("quorum", Some(json!({"strategy": "Quorum"}))),
            turn("canary-2-steps", canary(&["10%", "50%"])),
            turn("canary-5-steps", canary(&["10%", "20%", "30%", "40%", "50%"])),
        ]
    }

    /// The writes of a sample that is neither the least nor the most.
    fn writes(&self) -> Writes {
        let mut writes: Vec<Writes> = self.used.iter().map(|used| used.writes.clone()).collect();
        writes.sort_by_key(Writes::total);
        writes.swap_remove(writes.len() / 2)
    }

    fn row(self) -> Value {
        let writes = self.writes();
        let operator_cpu = percentile(self.used.iter().map(|used| used.cpu.operator).collect())(50);
        let (n, at) = (self.milliseconds.len(), percentile(self.milliseconds));
        let mut row = json!({
            "bench": "rollout-500", "name": self.name, "unit": "ms", "n": n, "p50": at(50), "max": at(100),
            "writes": writes.total(), "writes_by_pods": writes.by_pods(),
        });
        if self.rollout.is_some() {
            row["operator_cpu_s"] = json!(operator_cpu);
            row["operator_mib"] = json!(rounded(self.operator_mib));
        }
        row
    }
}

async fn take_turns(ground: &Ground, crowd: &mut Crowd) -> Result<Vec<Turn>> {
    let secrets: Api<Secret> = Api::namespaced(ground.client.clone(), floor::NAMESPACE);
    let configs: Api<DistributedConfig> = Api::namespaced(ground.client.clone(), NAMESPACE);
    let put = PostParams::default();
    let mut turns = Turn::all();
    // Nothing is refused, so every rollout uses one number.
    let mut revision = 1;
    let mut before = at_rest(ground, crowd, &configs, revision).await?;
    for sample in 1..=WARM_UP + SAMPLES {
        eprintln!("  rollout: {sample} of {}", WARM_UP + SAMPLES);
        for turn in &mut turns {
            let milliseconds = match &turn.rollout {
                None => {
                    let new = secret(floor::SECRET, sample);
                    let seen = crowd.watches.all_run(i64::try_from(sample)?);
                    timed(secrets.replace(floor::SECRET, &put, &new), seen).await
                }
                Some(rollout) => {
                    revision += 1;
                    let new = changed(&configs, rollout, revision).await?;
                    timed(configs.replace("web", &put, &new), crowd.sidecars.all_run(revision)).await
                }
            }
            .with_context(|| format!("{}, sample {sample}", turn.name))?;
            let now = at_rest(ground, crowd, &configs, revision).await?;
            let used = now.since(&std::mem::replace(&mut before, now.clone()));
            if sample > WARM_UP {
                turn.milliseconds.push(milliseconds);
                turn.used.push(used);
                let mib = ground.operator.process.resident_mib().context("no memory figure")?;
                turn.operator_mib = turn.operator_mib.max(mib);
            }
        }
    }
    Ok(turns)
}

/// The config as it is now, with other content and this way to roll it out: an update of it is a
/// compare-and-swap.
async fn changed(configs: &Api<DistributedConfig>, rollout: &Value, revision: i64) -> Result<DistributedConfig> {
    let mut new = web(rollout, revision)?;
    new.metadata.resource_version = configs.get("web").await?.resource_version();
    Ok(new)
}

fn web(rollout: &Value, revision: i64) -> Result<DistributedConfig> {
    let mut config = config("web", usize::try_from(revision)?)?;
    config.spec.selector = Some(serde_json::from_value(json!({"matchLabels": {"app": "web"}}))?);
    config.spec.rollout = Some(serde_json::from_value(rollout.clone())?);
    // Soon as many log entries are deleted as are written.
    config.spec.revision_history_limit = 2;
    Ok(config)
}

/// Waits until the status tells of the end, and nobody writes any more: what was used until then.
async fn at_rest(ground: &Ground, crowd: &Crowd, configs: &Api<DistributedConfig>, revision: i64) -> Result<Usage> {
    wait_for("the status to tell of all pods", || async {
        let config = configs.get("web").await.map_err(|error| error.to_string())?;
        let status = config.status.unwrap_or_default();
        let is_current = status.observed_generation == config.metadata.generation;
        if is_current && is_over(&status, revision) { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await?;
    usage::at_rest(ground, &crowd.sidecar_processes).await
}

fn is_over(status: &DistributedConfigStatus, revision: i64) -> bool {
    let all = i32::try_from(PODS).ok();
    status.revision == Some(revision)
        && status.candidate.is_none()
        && status.pods.as_ref().map(|pods| pods.applied) == all
}

/// All that take part.
struct Crowd {
    sidecars: Acknowledgements,
    watches: Acknowledgements,
    sidecar_processes: Vec<Process>,
    watch_processes: Vec<Process>,
    _files: tempfile::TempDir,
}

impl Crowd {
    async fn gather(ground: &Ground) -> Result<Self> {
        let client = &ground.client;
        for namespace in [NAMESPACE, floor::NAMESPACE] {
            admit(ground, namespace).await?;
        }
        let pods = pods(client).await?;
        let configs: Api<DistributedConfig> = Api::namespaced(client.clone(), NAMESPACE);
        configs.create(&PostParams::default(), &web(&json!({"strategy": "Immediate"}), 1)?).await?;
        let secrets: Api<Secret> = Api::namespaced(client.clone(), floor::NAMESPACE);
        secrets.create(&PostParams::default(), &secret(floor::SECRET, 0)).await?;

        let files = volume(&ground.cluster)?;
        println!("files in {}", files.path().display());
        let directory = files.path().display().to_string();
        let mut crowd = Self {
            sidecars: Acknowledgements::watch(client, NAMESPACE),
            watches: Acknowledgements::watch(client, floor::NAMESPACE),
            sidecar_processes: processes(ground, NAMESPACE, &["sidecars".into(), directory], &pods)?,
            watch_processes: processes(ground, floor::NAMESPACE, &["watches".into()], &pods)?,
            _files: files,
        };
        if let Err(error) = tokio::try_join!(crowd.sidecars.all_run(1), crowd.watches.all_run(0)) {
            crowd.tell_of_the_dead();
            return Err(error.context("starting"));
        }
        let resident = |processes: &[Process]| processes.iter().filter_map(Process::resident_mib).sum::<f64>();
        let mib = resident(&crowd.sidecar_processes);
        println!("{PODS} sidecars in {PROCESSES} processes, {mib:.0} MiB in all");
        Ok(crowd)
    }

    /// Why it failed may be told by a process that has ended.
    fn tell_of_the_dead(&mut self) {
        for process in self.sidecar_processes.iter_mut().chain(&mut self.watch_processes) {
            if let Some(status) = process.ended() {
                eprintln!("a process of the bench ended with {status}: {}", process.output());
            }
        }
    }
}

/// A namespace, and in it the rights of a sidecar of config web, as users are told to give them.
async fn admit(ground: &Ground, namespace: &str) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(ground.client.clone());
    let new = Namespace { metadata: named(namespace), ..Namespace::default() };
    namespaces.create(&PostParams::default(), &new).await?;
    let rights = root().join("docs/examples/rbac-sidecar.yaml").display().to_string();
    ground.cluster.kubectl(&["-n", namespace, "apply", "-f", &rights])?;
    Ok(())
}

/// Some processes of this program, which share the pods among them, with the rights of a sidecar.
fn processes(ground: &Ground, namespace: &str, words: &[String], pods: &[String]) -> Result<Vec<Process>> {
    let own = std::env::current_exe()?;
    // Not the administrator's: those requests are exempt from the API server's fair queues.
    let kubeconfig = ground.cluster.kubeconfig_of(&format!("{namespace}:web"))?;
    let environment = [("KUBECONFIG", kubeconfig.display().to_string())];
    let shares = pods.chunks(PODS.div_ceil(PROCESSES)).enumerate();
    shares
        .map(|(number, share)| {
            let log = ground.cluster.folder().join(format!("{namespace}-{number}.log"));
            Process::start(&own, &[words, share].concat(), &environment, Path::new(&log))
        })
        .collect()
}

/// Makes the pods; `NAME=UID` of each.
async fn pods(client: &Client) -> Result<Vec<String>> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let make = |number: usize| {
        let pods = pods.clone();
        async move {
            let name = format!("web-{number}");
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": name, "labels": {"app": "web"}},
                "spec": {"serviceAccountName": "web", "containers": [{"name": "app", "image": "none"}]}
            }))?;
            let uid = pods.create(&PostParams::default(), &pod).await?.uid().context("a pod without a uid")?;
            let ready = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
            pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(ready)).await?;
            anyhow::Ok(format!("{name}={uid}"))
        }
    };
    futures::stream::iter((0..PODS).map(make)).buffer_unordered(16).try_collect().await
}

/// What the table of rows does not say: who wrote how often, who used the processors; and that the
/// writes are bounded as promised.
fn tell(turns: &[Turn]) -> Result<()> {
    println!("\n| API writes of a rollout (n = {PODS}) | by the pods | by all others | of which |\n|---|---|---|---|");
    for turn in turns {
        let writes = turn.writes();
        let (by_pods, others) = (writes.by_pods(), writes.total() - writes.by_pods());
        #[allow(clippy::cast_precision_loss)]
        let share = by_pods as f64 / PODS as f64;
        println!("| {} | {by_pods} = {share:.2} n | {others} | {writes} |", turn.name);
    }
    println!(
        "\n| CPU of a rollout until all is at rest, s | API server | etcd | operator | sidecars |\n|---|---|---|---|---|"
    );
    for turn in turns {
        let of = |party: fn(&Usage) -> f64| percentile(turn.used.iter().map(party).collect())(50);
        let cpu = [of(|u| u.cpu.api_server), of(|u| u.cpu.etcd), of(|u| u.cpu.operator), of(|u| u.cpu.sidecars)];
        println!("| {} | {:.2} | {:.2} | {:.2} | {:.2} |", turn.name, cpu[0], cpu[1], cpu[2], cpu[3]);
    }
    let total = |name: &str| turns.iter().find(|turn| turn.name == name).map(|turn| turn.writes().total());
    let (two, five) = (total("canary-2-steps").context("no row")?, total("canary-5-steps").context("no row")?);
    let more = five.saturating_sub(two);
    println!("\nthree steps more of a canary cost {more} writes more, and not {} (three a pod)", 3 * PODS);
    ensure!(more < u64::try_from(PODS / 10)?, "the writes of a canary grow with pods times steps");
    Ok(())
}
