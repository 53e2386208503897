//! Rollouts that ask the pods: a canary that comes back by itself, a quorum that decides.

use std::{cell::RefCell, path::Path, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::jiff::Timestamp;
use kube::{Api, Client, api::ListParams};
use quorate_crds::{ConfigReplica, ConfigReplicaSpec, ReplicaState};
use quorate_tests::{programs::Program, wait::wait_for};
use serde_json::{Value, json};

use crate::{
    NAMESPACE, api,
    pods::{self, VERSIONS},
    reading::Reading,
};

/// The config's name, and its pods' label.
pub const CONFIG: &str = "shop";

/// Bake times go by whole seconds: the 2 s of the example are more than one.
const BAKED: Duration = Duration::from_secs(1);

/// A config that its pods are asked about, and what they read.
pub struct Rollouts {
    client: Client,
    reading: Reading,
}

/// What became of a revision.
struct Outcome {
    published: bool,
    /// When the operator decided.
    decided: Timestamp,
    /// Why it was refused.
    reason: String,
    /// The steps that the status told of.
    steps: Vec<i32>,
}

impl Rollouts {
    /// The config of the example, and its pods, which have the first revision.
    pub async fn start(client: &Client, kubeconfig: &Path, target: &Path) -> Result<(Self, Vec<Program>)> {
        println!("\n6. kubectl apply -f docs/examples/rollout.yaml, for five pods: a canary");
        for object in api::objects("docs/examples/rollout.yaml")? {
            api::apply(client, &object).await?;
        }
        let sidecars = pods::start(client, kubeconfig, target).await?;
        let files = (0..VERSIONS.len()).map(|pod| target.join(pods::name(pod)).join(CONFIG).join("app.yaml"));
        let rollouts = Self { client: client.clone(), reading: Reading::start(files.collect()) };
        let has_it = |word: &ConfigReplicaSpec| word.state == ReplicaState::Applied && word.runs == Some(1);
        rollouts.said(VERSIONS.len(), "Applied 1", has_it).await?;
        Ok((rollouts, sidecars))
    }

    pub async fn by_steps(&self) -> Result<()> {
        println!("   disk: mirrored. One pod tries it, then half of them, then it is for all:");
        let start = self.change(json!({"format": 1, "disk": "mirrored"})).await?;
        let outcome = self.outcome(2, start).await?;
        ensure!(outcome.published, "revision 2 was not published: {}", outcome.reason);
        ensure!(outcome.steps == [1, 2], "the status told of steps {:?}, not of 1 and 2", outcome.steps);
        let readers = self.reading.until(5, "disk: mirrored", start).await?;
        println!("{} published; the five files changed after {}", ms(start, outcome.decided), each(start, &readers));
        let apart = |a: usize, b: usize| readers[b].1.duration_since(readers[a].1).unsigned_abs();
        ensure!(apart(0, 1) >= BAKED, "the first step's pod should have been alone with it for a while");
        ensure!(apart(2, 3) >= BAKED, "the second step's pods should have been alone with it for a while");
        Ok(())
    }

    pub async fn canary_comes_back(&self) -> Result<()> {
        println!("   disk: exclusive. Only one pod can have that: the first tries it, the next refuse it:");
        let before = api::head(&self.client, CONFIG).await?;
        let start = self.change(json!({"format": 1, "disk": "exclusive"})).await?;
        let outcome = self.outcome(3, start).await?;
        ensure!(!outcome.published, "revision 3 was published, but the pods' checks should have refused it");
        println!("{} RolledBack: {}", ms(start, outcome.decided), a_line_each(&outcome.reason));

        let readers = self.reading.readers("disk: exclusive", start);
        let [(canary, had)] = readers[..] else {
            bail!("one pod should have tried revision 3 and read it, but {} did", readers.len())
        };
        let refused = self.said(1, "Rejected 3", |word| rejects(word, 3)).await?;
        let refused = refused.iter().map(|word| word.since.0).min().context("nobody refused it")?;
        ensure!(had < refused, "the canary should have had revision 3 on disk before another pod refused it");
        let back = self.reading.until(1, "disk: mirrored", had).await?[0].1;
        self.said(5, "runs 2", |word| word.runs == Some(2)).await?;
        ensure!(self.reading.now("disk: mirrored").len() == 5, "all five should read revision 2 again");
        println!("{} from the first refusal to the canary's old file, by itself", ms(refused, back));
        println!("   {} had it on disk for {:.1} s; no other pod ever read it", pods::name(canary), seconds(had, back));

        let after = api::head(&self.client, CONFIG).await?;
        // Revisions only rise: it was nowhere else meanwhile.
        ensure!((before.revision, &before.hash) == (after.revision, &after.hash), "the head moved");
        println!("   the head never moved from revision {}", after.revision);
        Ok(())
    }

    pub async fn quorum_accepts(&self) -> Result<()> {
        println!("\n7. spec.rollout.strategy: Quorum. The pods vote before any of them reads it");
        println!("   format: 2, for which {} is too old:", pods::name(4));
        let rollout = json!({"strategy": "Quorum", "quorum": "Majority", "steps": null});
        let start = self.change_with(json!({"format": 2, "disk": "mirrored"}), rollout).await?;
        let outcome = self.outcome(4, start).await?;
        ensure!(outcome.published, "revision 4 was not published, though four of five accept it: {}", outcome.reason);
        let readers = self.reading.until(4, "format: 2", start).await?;
        let refused = self.said(1, "Rejected 4", |word| rejects(word, 4) && word.runs == Some(2)).await?;
        self.said(4, "runs 4", |word| word.runs == Some(4)).await?;
        ensure!(readers[0].1 >= outcome.decided, "{} read it before it was decided", pods::name(readers[0].0));
        ensure!(self.reading.readers("format: 2", start).len() == 4, "a pod reads what it refused");
        println!(
            "{} decided: 4 of 5 accept; their files changed after {}",
            ms(start, outcome.decided),
            each(start, &readers)
        );
        for word in refused {
            println!("   {} keeps what it had: {}", word.pod, word.message.unwrap_or_default());
        }
        Ok(())
    }

    pub async fn quorum_refuses(&self) -> Result<()> {
        println!("   format: 3, for which three are too old:");
        let start = self.change(json!({"format": 3, "disk": "mirrored"})).await?;
        let outcome = self.outcome(5, start).await?;
        ensure!(!outcome.published, "revision 5 was published, but three of five pods should have refused it");
        println!("{} RolledBack: {}", ms(start, outcome.decided), a_line_each(&outcome.reason));
        // The third says again that it refuses revision 4, which is the head's.
        self.said(2, "Rejected 5", |word| rejects(word, 5)).await?;
        self.said(4, "runs 4", |word| word.runs == Some(4)).await?;
        let readers = self.reading.readers("format: 3", start);
        ensure!(readers.is_empty(), "{} pods read what a majority refused", readers.len());
        println!("   nobody ever read it, not even the two that accepted it");
        Ok(())
    }

    /// Asks for other values; when that was.
    async fn change(&self, values: Value) -> Result<Timestamp> {
        self.change_with(values, json!({})).await
    }

    /// Asks for other values under other rules.
    async fn change_with(&self, values: Value, rollout: Value) -> Result<Timestamp> {
        let start = Timestamp::now();
        let spec = json!({"layers": [{"name": "base", "inline": values}], "rollout": rollout});
        api::change(&self.client, CONFIG, spec).await?;
        Ok(start)
    }

    /// Follows the status until a revision is published or refused, and tells each step of it.
    async fn outcome(&self, revision: i64, start: Timestamp) -> Result<Outcome> {
        let configs = api::configs(&self.client);
        let steps = RefCell::new(Vec::new());
        let published = wait_for(&format!("revision {revision} to be published or refused"), || async {
            let config = configs.get(CONFIG).await.map_err(|error| error.to_string())?;
            let status = config.status.clone().unwrap_or_default();
            let candidate = status.candidate.filter(|candidate| candidate.revision == revision);
            if let Some(candidate) = candidate.filter(|candidate| candidate.baking_since.is_some()) {
                let (step, steps_of_all) = (candidate.step.unwrap_or_default(), candidate.steps.unwrap_or_default());
                if !steps.borrow().contains(&step) {
                    let counts = format!("{} of {} have it, and it bakes", candidate.accepted, candidate.asked);
                    println!("{} step {step} of {steps_of_all}: {counts}", ms(start, Timestamp::now()));
                    steps.borrow_mut().push(step);
                }
            }
            match api::ready(&config) {
                Some(ready) if ready.reason == "Published" && status.revision == Some(revision) => Ok(true),
                Some(ready) if ready.reason == "RolledBack" && status.refused == Some(revision) => Ok(false),
                other => Err(other.map_or("no condition yet".into(), |c| format!("{}: {}", c.reason, c.message))),
            }
        })
        .await?;
        let head = api::head(&self.client, CONFIG).await?;
        let steps = steps.into_inner();
        if published {
            return Ok(Outcome { published, decided: head.decided_at, reason: String::new(), steps });
        }
        let refused = head.standing.refused.context("the head does not tell what was refused")?;
        Ok(Outcome { published, decided: refused.at, reason: refused.reason, steps })
    }

    /// Waits until so many pods, or more, say so in their ConfigReplicas; what they say.
    async fn said(
        &self,
        pods: usize,
        what: &str,
        is_so: impl Fn(&ConfigReplicaSpec) -> bool,
    ) -> Result<Vec<ConfigReplicaSpec>> {
        let replicas: Api<ConfigReplica> = Api::namespaced(self.client.clone(), NAMESPACE);
        wait_for(&format!("{pods} of the pods to say {what}; the others say"), || async {
            let all = replicas.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
            let (so, others): (Vec<_>, Vec<_>) = all.items.into_iter().map(|replica| replica.spec).partition(&is_so);
            let told = |word: &ConfigReplicaSpec| {
                format!("{} {:?} {}", word.pod, word.state, word.revision.unwrap_or_default())
            };
            if so.len() >= pods { Ok(so) } else { Err(others.iter().map(told).collect::<Vec<_>>().join(", ")) }
        })
        .await
    }
}

fn rejects(word: &ConfigReplicaSpec, revision: i64) -> bool {
    word.state == ReplicaState::Rejected && word.revision == Some(revision)
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

/// Milliseconds, in a column.
fn ms(from: Timestamp, to: Timestamp) -> String {
    format!("{:>9.1} ms:", seconds(from, to) * 1e3)
}

/// The pods' reasons, each on a line of its own.
fn a_line_each(reason: &str) -> String {
    let pod = format!(" {CONFIG}-");
    let line = format!("\n{:14}{CONFIG}-", "");
    reason.replace(&format!(":{pod}"), &format!(":{line}")).replace(&format!(";{pod}"), &line)
}

/// The milliseconds of each.
fn each(start: Timestamp, readers: &[(usize, Timestamp)]) -> String {
    let each: Vec<String> = readers.iter().map(|(_, at)| format!("{:.1}", seconds(start, *at) * 1e3)).collect();
    format!("{} ms", each.join(", "))
}
