//! `make demo ACT=quorum`: three clusters of which any two decide. One is lost while configs change and a counter counts; then it
//! comes back; then two are lost.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use quorate_coordination::{Counter, Session};
use quorate_crds::DistributedConfig;
use quorate_tests::{
    members::{self, Member},
    programs::{self, Program},
    scene::condition,
    wait::wait_for,
};
use serde_json::{Value, json};
use tokio::time::Instant;

/// An operation on the counter may take so long.
const LIMIT: Duration = Duration::from_secs(10);

/// Plays it.
pub async fn play() -> Result<()> {
    println!("Starting three control planes on loopback (eu, us, asia), and an operator and a sidecar in each");
    let start = Instant::now();
    let mut world = World::start().await?;
    println!("  ready after {:.1} s", start.elapsed().as_secs_f64());
    world.known().await?;
    world.decided().await?;
    world.one_lost().await?;
    world.back().await?;
    world.two_lost().await?;
    println!("\nAll of it happened.");
    Ok(())
}

struct World {
    members: Vec<Member>,
    /// A pod's directory in each.
    pods: Vec<PathBuf>,
    _sidecars: Vec<Program>,
    counter: Counter,
    counted: i64,
    /// Of the content.
    version: u32,
}

impl World {
    async fn start() -> Result<Self> {
        let members = members::world().await?;
        for member in &members {
            member.apply(&json!({
                "apiVersion": "quorate.io/v1alpha1", "kind": "DistributedCounter", "metadata": {"name": "orders"},
                "spec": {"clusterSet": members::SET}
            }))?;
        }
        let pods: Vec<PathBuf> = members.iter().map(|member| member.cluster.folder().join("pod")).collect();
        let sidecars = try_join_all(members.iter().zip(&pods).map(|(member, pod)| async move {
            fs::create_dir_all(pod)?;
            let directory = pod.display().to_string();
            let words = ["--config", "web", "--namespace", "default", "--directory", &directory];
            programs::sidecar(&member.cluster.kubeconfig(0), &words, &pod.join("sidecar.log")).await
        }))
        .await?;
        // Of somebody in asia.
        let client = members.last().context("no member")?.cluster.client().await?;
        let counter = Counter::open(client, "default", "orders", Session::new("demo")?, LIMIT).await?;
        Ok(Self { members, pods, _sidecars: sidecars, counter, counted: 0, version: 0 })
    }

    /// Changes the layers in eu; the milliseconds until the files say so, in each of `these`.
    async fn change(&mut self, these: &[usize]) -> Result<Vec<u128>> {
        self.version += 1;
        let (eu, text) = (&self.members[0], format!("version: {}\n", self.version));
        let api: Api<DistributedConfig> = Api::default_namespaced(eu.cluster.client().await?);
        let (params, config) = (PatchParams::apply("quorate-demo").force(), config(self.version));
        let began = Instant::now();
        api.patch("web", &params, &Patch::Apply(&config)).await?;
        let seen = these.iter().map(|index| {
            let (file, member) = (self.pods[*index].join("web/app.yaml"), &self.members[*index]);
            let text = &text;
            async move {
                let what = format!("the files in {}", member.name);
                let written = wait_for(&what, || async {
                    let found = fs::read_to_string(&file).unwrap_or_default();
                    if found == *text { Ok(began.elapsed().as_millis()) } else { Err(found) }
                });
                written.await
            }
        });
        try_join_all(seen).await
    }

    async fn count(&mut self) -> Result<u128> {
        let began = Instant::now();
        let after = self.counter.add(1).await?.after;
        self.counted += 1;
        ensure!(after == self.counted, "the counter says {after} after {} increments", self.counted);
        Ok(began.elapsed().as_millis())
    }

    async fn known(&self) -> Result<()> {
        println!("\n1. kubectl get clusterset world");
        let eu = &self.members[0];
        self.until(0, "QuorumAvailable", "MajorityReady").await?;
        indented(&eu.cluster.kubectl(&["get", "cset", members::SET])?);
        Ok(())
    }

    async fn decided(&mut self) -> Result<()> {
        println!("\n2. kubectl apply in eu: two of three decide, and the files change in all of them");
        // Each says its word once; from then on who changes something does.
        for member in &self.members[1..] {
            member.apply(&config(0))?;
            wait_for("it to say so", || async {
                let agreed = member.get("dcfg", "web")["status"]["agreement"].clone();
                if agreed.is_null() { Err("it has not".to_owned()) } else { Ok(()) }
            })
            .await?;
        }
        self.change(&[0, 1, 2]).await?;
        for _ in 0..3 {
            let took = self.change(&[0, 1, 2]).await?;
            println!(
                "   version {}: after {} ms in eu, {} ms in us, {} ms in asia",
                self.version, took[0], took[1], took[2]
            );
        }
        Ok(())
    }

    async fn one_lost(&mut self) -> Result<()> {
        println!("\n3. kill -9 of us: configs change and a counter counts, as if nothing had happened");
        self.members[1].cluster.kill_api_server(0);
        for _ in 0..3 {
            let (took, counted) = (self.change(&[0, 2]).await?, self.count().await?);
            println!(
                "   version {}: after {} ms in eu, {} ms in asia; counted to {} in {counted} ms",
                self.version, took[0], took[1], self.counted
            );
        }
        let told = self.until(0, "Degraded", "MembersNotReady").await?;
        println!("   {}", told.chars().take(100).collect::<String>());
        Ok(())
    }

    async fn back(&mut self) -> Result<()> {
        println!("\n4. us comes back: it takes over what was decided, and does not bring back what it had");
        let text = format!("version: {}\n", self.version);
        let began = Instant::now();
        self.members[1].cluster.restart_api_server(0).await?;
        let file = self.pods[1].join("web/app.yaml");
        wait_for("the files of us", || async {
            let found = fs::read_to_string(&file).unwrap_or_default();
            if found == text { Ok(()) } else { Err(found) }
        })
        .await?;
        println!(
            "   version {} in us {} ms after its API server was started",
            self.version,
            began.elapsed().as_millis()
        );
        for member in &self.members {
            let agreed = member.get("dcfg", "web")["status"]["agreement"].clone();
            println!("   {}: revision {} of {}", member.name, agreed["revision"], agreed["origin"]);
        }
        Ok(())
    }

    async fn two_lost(&mut self) -> Result<()> {
        println!("\n5. kill -9 of us and asia: nothing is decided, and nothing is lost");
        self.members[1].cluster.kill_api_server(0);
        self.members[2].cluster.kill_api_server(0);
        self.version += 1;
        self.members[0].apply(&config(self.version))?;
        let ready = wait_for("it to be told", || async {
            let ready = condition(&self.members[0].get("dcfg", "web"), "Ready");
            if ready["reason"] == "QuorumLost" { Ok(ready) } else { Err(ready.to_string()) }
        });
        let message = ready.await?["message"].as_str().unwrap_or_default().to_owned();
        println!("   {}", message.chars().take(120).collect::<String>());
        let before = fs::read_to_string(self.pods[0].join("web/app.yaml"))?;
        ensure!(before == format!("version: {}\n", self.version - 1), "the files changed: {before}");
        for index in [1, 2] {
            self.members[index].cluster.restart_api_server(0).await?;
        }
        let (file, text) = (self.pods[2].join("web/app.yaml"), format!("version: {}\n", self.version));
        wait_for("it to go on", || async {
            let found = fs::read_to_string(&file).unwrap_or_default();
            if found == text { Ok(()) } else { Err(found) }
        })
        .await?;
        self.count().await?;
        println!("   they come back: version {} in asia, and the counter says {}", self.version, self.counted);
        Ok(())
    }

    /// Waits until the set's condition has this reason; its message.
    async fn until(&self, member: usize, type_: &str, reason: &str) -> Result<String> {
        wait_for(&format!("{type_} to be {reason}"), || async {
            let found = condition(&self.members[member].get("cset", members::SET), type_);
            let message = found["message"].as_str().unwrap_or_default().to_owned();
            if found["reason"] == reason { Ok(message) } else { Err(found.to_string()) }
        })
        .await
    }
}

fn config(version: u32) -> Value {
    json!({
        "apiVersion": "quorate.io/v1alpha1", "kind": "DistributedConfig", "metadata": {"name": "web"},
        "spec": {
            "agreement": {"clusterSet": members::SET},
            "layers": [{"name": "values", "inline": {"version": version}}],
            "files": [{"path": "app.yaml"}],
        },
    })
}

fn indented(text: &str) {
    text.lines().for_each(|line| println!("   {line}"));
}
