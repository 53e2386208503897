//! The operator ends right before and right after each write of a whole history of rollouts, and another
//! takes over: every run ends in the same state, with the same log and each event once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, sync::Arc};

use clap::Parser;
use futures::{StreamExt, stream};
use quorate_tests::{
    Cluster,
    crash::{self, Moment, Plan},
    scene::Scene,
    wait::wait_for,
};
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};

/// Histories at a time: most of a run is waiting.
const AT_A_TIME: usize = 3;

/// What a history ends in.
#[derive(Debug, PartialEq, Eq)]
struct End {
    revision: String,
    content: String,
    refused: Value,
    log: Vec<String>,
    /// How often each event was written.
    events: BTreeMap<String, usize>,
    candidate: bool,
}

async fn start(scene: &Scene<'_>, plan: &Arc<Plan>) -> JoinHandle<anyhow::Result<()>> {
    let client = crash::client(&scene.cluster.kubeconfig(0), plan).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    tokio::spawn(quorate_operator::run(client, vec![scene.namespace.clone()], listener, std::future::pending()))
}

fn config(scene: &Scene<'_>, x: &str, strategy: &str) -> String {
    let steps = if strategy == "Canary" { ", steps: [{pods: 1}, {pods: 2}]" } else { "" };
    scene.config(
        "web",
        &format!(
            "{{layers: [{{name: a, inline: {{x: {x}}}}}], files: [{{path: f.yaml}}], \
             selector: {{matchLabels: {{app: web}}}}, rollout: {{strategy: {strategy}{steps}}}}}"
        ),
    )
}

/// One history: a first revision, one that is accepted, one that is refused. The operator ends at the
/// moment, and another one takes over.
async fn history(cluster: &Cluster, strategy: &str, moment: Moment) -> (End, usize) {
    let scene = Scene::new(cluster);
    let plan = Plan::new(moment);
    let first = start(&scene, &plan).await;
    let next = {
        let plan = Arc::clone(&plan);
        let kubeconfig = cluster.kubeconfig(0);
        let namespace = scene.namespace.clone();
        tokio::spawn(async move {
            plan.ended().await;
            first.abort();
            let client = crash::client(&kubeconfig, &Plan::new(Moment::Never)).await.unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            quorate_operator::run(client, vec![namespace], listener, std::future::pending()).await
        })
    };
    scene.apply(&config(&scene, "one", strategy));
    let check = scene.path("check.sh");
    fs::write(&check, "#!/bin/sh\n! grep -q bad \"$QUORATE_STAGED/f.yaml\"\n").unwrap();
    fs::set_permissions(&check, fs::Permissions::from_mode(0o755)).unwrap();
    let mut sidecars = Vec::new();
    for name in ["a", "b"] {
        let uid = scene.pod(name, "web");
        let directory = scene.path(name).display().to_string();
        let check = check.display().to_string();
        let words = [
            "sidecar",
            "--config",
            "web",
            "--namespace",
            &scene.namespace,
            "--directory",
            &directory,
            "--pod-name",
            name,
            "--pod-uid",
            &uid,
            "--check-exec",
            &check,
        ];
        let options = quorate_sidecar::options::Options::parse_from(words);
        let client = quorate_tests::cluster::client(&cluster.kubeconfig(0)).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        sidecars.push(tokio::spawn(quorate_sidecar::run(client, options, listener, std::future::pending())));
        scene.file(&format!("{name}/web/f.yaml"), "x: one\n").await;
    }
    let all_run = async |revision: i64| {
        wait_for(&format!("both to run revision {revision}"), || async {
            let list = scene.kubectl(&["get", "crep", "-o", "json"]).map_err(|error| error.to_string())?;
            let list: Value = serde_json::from_str(&list).map_err(|error| error.to_string())?;
            let run = list["items"].as_array().into_iter().flatten().filter(|r| r["spec"]["runs"] == revision).count();
            if run == 2 { Ok(()) } else { Err(list.to_string()) }
        })
        .await
        .unwrap();
    };
    all_run(1).await;
    scene.apply(&config(&scene, "two", strategy));
    scene.until("web", "revision 2", |c| c["status"]["revision"] == 2 && c["status"]["phase"] == "Published").await;
    all_run(2).await;
    scene.apply(&config(&scene, "bad", strategy));
    scene.reason("web", "RolledBack").await;
    all_run(if strategy == "Immediate" { 4 } else { 2 }).await;
    wait_for("the candidate to be gone", || async {
        if scene.get("secret", "web.quorate-next").is_null() { Ok(()) } else { Err("it is there".to_owned()) }
    })
    .await
    .unwrap();
    next.abort();
    sidecars.iter().for_each(JoinHandle::abort);

    let head = scene.get("secret", "web.quorate");
    let annotation = |name: &str| head["metadata"]["annotations"][name].as_str().unwrap_or_default().to_owned();
    let standing: Value = serde_json::from_str(&annotation("quorate.io/rollout")).unwrap();
    let log = scene.kubectl(&["get", "secret", "-l", "quorate.io/kind=revision", "-o", "name"]).unwrap();
    let text = scene.kubectl(&["get", "events", "-o", "json"]).unwrap();
    let all: Value = serde_json::from_str(&text).unwrap();
    let mut events = BTreeMap::new();
    for event in all["items"].as_array().unwrap() {
        // Which pod refused is chance; which revision it was is not.
        let note: Vec<&str> = event["message"].as_str().unwrap().split([' ', ':']).take(2).collect();
        let step = event["message"].as_str().unwrap().split("step ").nth(1).map(|rest| &rest[..1]).unwrap_or_default();
        *events.entry(format!("{} {} {step}", event["reason"].as_str().unwrap(), note.join(" "))).or_default() += 1;
    }
    let end = End {
        revision: annotation("quorate.io/revision"),
        content: fs::read_to_string(scene.path("a/web/f.yaml")).unwrap(),
        refused: standing["refused"]["revision"].clone(),
        log: log.lines().map(str::to_owned).collect(),
        events,
        candidate: !scene.get("secret", "web.quorate-next").is_null(),
    };
    (end, plan.writes())
}

async fn every_moment(strategy: &str) {
    let cluster = Cluster::start().await.unwrap();
    cluster.install_crds().await.unwrap();
    let (expected, writes) = history(&cluster, strategy, Moment::Never).await;
    assert!(expected.events.values().all(|count| *count == 1), "{expected:?}");
    assert!(writes > 10, "{writes} writes");
    let moments = (0..writes).flat_map(|number| [Moment::Before(number), Moment::After(number)]);
    let cluster = &cluster;
    let runs = stream::iter(moments).map(|moment| async move { (moment, history(cluster, strategy, moment).await.0) });
    let mut runs = runs.buffer_unordered(AT_A_TIME);
    while let Some((moment, end)) = runs.next().await {
        assert_eq!(end, expected, "{strategy}, {moment:?} of {writes} writes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_survives_its_operator_at_every_write() {
    every_moment("Canary").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quorum_survives_its_operator_at_every_write() {
    every_moment("Quorum").await;
}
