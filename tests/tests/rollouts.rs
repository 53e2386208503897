//! Rollouts on a real API server, with operator and sidecars as processes: what pods say decides.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};

use quorate_tests::{
    Cluster,
    cluster::Options,
    programs::{self, Program},
    scene::Scene,
    wait::wait_for,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::OnceCell,
};

struct Shared {
    cluster: Cluster,
    _operator: Program,
}

async fn shared() -> &'static Shared {
    static SHARED: OnceCell<Shared> = OnceCell::const_new();
    SHARED
        .get_or_init(|| async {
            let cluster = Cluster::with(Options { controller_manager: true, ..Options::default() }).await.unwrap();
            cluster.install_crds().await.unwrap();
            let log = cluster.folder().join("operator.log");
            let operator = programs::operator(&cluster.kubeconfig(0), &[], &log).await.unwrap();
            operator.ready().await.unwrap();
            Shared { cluster, _operator: operator }
        })
        .await
}

fn spec(x: &str, rollout: &str) -> String {
    format!(
        "{{layers: [{{name: a, inline: {{x: {x}}}}}], files: [{{path: f.yaml}}], \
         selector: {{matchLabels: {{app: web}}}}, rollout: {{{rollout}}}}}"
    )
}

/// A program that refuses a set whose file says `bad`, or what `also` says.
fn check(scene: &Scene<'_>, also: &str) -> String {
    let path = scene.path(&format!("check-{also}.sh"));
    fs::write(&path, format!("#!/bin/sh\n! grep -qE '(bad|{also})' \"$QUORATE_STAGED/f.yaml\"\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

/// Pods with sidecars that have the first revision and said so.
async fn pods(scene: &Scene<'_>, count: usize, rollout: &str, also: &str) -> Vec<Program> {
    let command = check(scene, also);
    scene.apply(&scene.config("web", &spec("one", rollout)));
    let mut sidecars = Vec::new();
    for n in 0..count {
        sidecars.push(scene.pod_with_sidecar(&format!("web-{n}"), "web", &["--check-exec", &command]).await);
        scene.file(&format!("web-{n}/web/f.yaml"), "x: one\n").await;
    }
    said(scene, count, |replica| replica["runs"] == 1 && replica["state"] == "Applied").await;
    sidecars
}

async fn said(scene: &Scene<'_>, count: usize, is_so: impl Fn(&Value) -> bool) {
    wait_for("the pods' word", || async {
        let text = scene.kubectl(&["get", "crep", "-o", "json"]).map_err(|error| error.to_string())?;
        let list: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let found = list["items"].as_array().into_iter().flatten().filter(|item| is_so(&item["spec"])).count();
        if found == count { Ok(()) } else { Err(format!("{found} of {count}: {text}")) }
    })
    .await
    .unwrap();
}

async fn all_show(scene: &Scene<'_>, count: usize, text: &str) {
    for n in 0..count {
        scene.file(&format!("web-{n}/web/f.yaml"), text).await;
    }
}

fn events(scene: &Scene<'_>, reason: &str) -> usize {
    let all = scene.kubectl(&["get", "events", "-o", "jsonpath={range .items[*]}{.reason} {end}"]).unwrap();
    all.split(' ').filter(|found| *found == reason).count()
}

fn annotate(scene: &Scene<'_>, annotation: &str) {
    scene.kubectl(&["annotate", "--overwrite", "dcfg", "web", annotation]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quorum_decides_and_nobody_reads_what_a_majority_refuses() {
    let scene = Scene::new(&shared().await.cluster);
    let mut sidecars = pods(&scene, 2, "strategy: Quorum", "never").await;
    // The third pod takes less than the others.
    let picky = check(&scene, "three");
    sidecars.push(scene.pod_with_sidecar("web-2", "web", &["--check-exec", &picky]).await);
    scene.file("web-2/web/f.yaml", "x: one\n").await;

    scene.apply(&scene.config("web", &spec("two", "strategy: Quorum")));
    all_show(&scene, 3, "x: two\n").await;
    scene.reason("web", "Published").await;
    let config = scene.until("web", "all pods to have it", |c| c["status"]["pods"]["summary"] == "3/3").await;
    assert_eq!((&config["status"]["phase"], &config["status"]["revision"]), (&json!("Published"), &json!(2)));

    // One refuses, two accept: a majority; the third keeps what it had, and says why.
    scene.apply(&scene.config("web", &spec("three", "strategy: Quorum")));
    all_show(&scene, 2, "x: three\n").await;
    said(&scene, 1, |r| r["state"] == "Rejected" && r["revision"] == 3 && r["runs"] == 2).await;
    assert_eq!(fs::read_to_string(scene.path("web-2/web/f.yaml")).unwrap(), "x: two\n");
    let table = scene.kubectl(&["get", "crep"]).unwrap();
    assert!(table.contains("Rejected") && table.contains("exit status: 1"), "{table}");

    // All refuse: it is taken back, and nobody ever read it.
    scene.apply(&scene.config("web", &spec("bad", "strategy: Quorum")));
    let message = scene.reason("web", "RolledBack").await;
    assert!(message.contains("revision 3 stays") && message.contains("pods refused it"), "{message}");
    let head = scene.get("secret", "web.quorate");
    assert_eq!(head["metadata"]["annotations"]["quorate.io/revision"], "3");
    wait_for("the candidate to be gone", || async {
        let there = scene.get("secret", "web.quorate-next");
        if there.is_null() { Ok(()) } else { Err("it is there".to_owned()) }
    })
    .await
    .unwrap();
    assert_eq!((events(&scene, "Proposed"), events(&scene, "RolledBack"), events(&scene, "Published")), (3, 1, 3));
    for sidecar in &sidecars {
        assert!(!sidecar.process.output().contains("revision=4 late_ms"), "a refused candidate was shown");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_goes_by_steps_and_comes_back_by_itself() {
    let scene = Scene::new(&shared().await.cluster);
    let rollout = "strategy: Canary, steps: [{pods: 1}, {pods: 75%, bake: 1s}]";
    let _sidecars = pods(&scene, 4, rollout, "never").await;
    scene.apply(&scene.config("web", &spec("two", rollout)));
    all_show(&scene, 4, "x: two\n").await;
    scene.reason("web", "Published").await;
    assert_eq!((events(&scene, "Proposed"), events(&scene, "StepStarted")), (1, 2));

    scene.apply(&scene.config("web", &spec("bad", rollout)));
    let message = scene.reason("web", "RolledBack").await;
    assert!(message.contains("step 1 of 2: 1 of 1 pods refused it, and 0 may"), "{message}");
    said(&scene, 1, |r| r["state"] == "Rejected" && r["revision"] == 3).await;
    said(&scene, 4, |r| r["runs"] == 2).await;
    all_show(&scene, 4, "x: two\n").await;
    // Not again by itself; but when somebody asks.
    annotate(&scene, "quorate.io/retry=3");
    let config = scene.until("web", "revision 4 to be refused", |c| c["status"]["refused"] == 4).await;
    assert_eq!(config["status"]["revision"], 2);
    // The way out is other content.
    scene.apply(&scene.config("web", &spec("three", rollout)));
    all_show(&scene, 4, "x: three\n").await;
    let config = scene.until("web", "the refusal to be forgotten", |c| c["status"]["revision"] == 5).await;
    assert_eq!(config["status"]["refused"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn people_hold_promote_and_give_up() {
    let scene = Scene::new(&shared().await.cluster);
    let rollout = "strategy: Canary, steps: [{pods: 1, bake: 1h}]";
    let _sidecars = pods(&scene, 2, rollout, "never").await;
    annotate(&scene, "quorate.io/paused=true");
    scene.apply(&scene.config("web", &spec("two", rollout)));
    scene.reason("web", "RolloutPaused").await;
    annotate(&scene, "quorate.io/paused-");
    let config = scene.until("web", "it to bake", |c| c["status"]["candidate"]["bakingSince"].is_string()).await;
    let candidate = &config["status"]["candidate"];
    assert_eq!((&candidate["asked"], &candidate["accepted"], &candidate["step"]), (&json!(1), &json!(1), &json!(1)));
    let message = candidate["message"].as_str().unwrap();
    assert!(message.contains("step 1 of 1: 1 of 1 applied, baking 60 min more"), "{message}");

    // Given up: the pod that had it goes back.
    annotate(&scene, "quorate.io/abort=2");
    scene.reason("web", "RolledBack").await;
    all_show(&scene, 2, "x: one\n").await;
    said(&scene, 2, |r| r["runs"] == 1 && r["state"] == "Applied").await;

    scene.apply(&scene.config("web", &spec("three", rollout)));
    scene.until("web", "the next to bake", |c| c["status"]["candidate"]["bakingSince"].is_string()).await;
    // A command for another revision is none for this one.
    annotate(&scene, "quorate.io/promote=2");
    annotate(&scene, "quorate.io/promote=3");
    all_show(&scene, 2, "x: three\n").await;
    assert_eq!(
        scene.until("web", "it to be published", |c| c["status"]["phase"] == "Published").await["status"]["revision"],
        3
    );

    // A newer wish makes the candidate way; going back to what is published ends it.
    scene.apply(&scene.config("web", &spec("four", rollout)));
    scene.until("web", "revision 4 to be tried", |c| c["status"]["candidate"]["revision"] == 4).await;
    scene.apply(&scene.config("web", &spec("five", rollout)));
    scene.until("web", "revision 5 to be tried", |c| c["status"]["candidate"]["revision"] == 5).await;
    scene.apply(&scene.config("web", &spec("three", rollout)));
    scene.reason("web", "Published").await;
    all_show(&scene, 2, "x: three\n").await;
    assert_eq!((scene.get("dcfg", "web")["status"]["revision"].clone(), events(&scene, "Superseded")), (json!(3), 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn immediate_refusals_bring_the_last_good_content_back() {
    let scene = Scene::new(&shared().await.cluster);
    let _sidecars = pods(&scene, 3, "strategy: Immediate", "never").await;
    scene.apply(&scene.config("web", &spec("bad", "strategy: Immediate")));
    let message = scene.reason("web", "RolledBack").await;
    assert!(message.contains("revision 2 was taken back") && message.contains("revision 3 stays"), "{message}");
    let config = scene.get("dcfg", "web");
    assert_eq!(config["status"]["history"][0]["restored"], 1);
    all_show(&scene, 3, "x: one\n").await;
    said(&scene, 3, |r| r["runs"] == 3 && r["state"] == "Applied").await;
    assert_eq!(events(&scene, "Restored"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vote_counts_for_one_proposal_of_one_pod_only() {
    let scene = Scene::new(&shared().await.cluster);
    let rollout = "strategy: Quorum, quorum: 2";
    let _sidecars = pods(&scene, 1, rollout, "never").await;
    // Pods without a sidecar are silent: that is not taken for consent.
    let [uid, third] = ["web-1", "web-2"].map(|pod| scene.pod(pod, "web"));
    scene.apply(&scene.config("web", &spec("two", rollout)));
    let accepted = |config: &Value| config["status"]["candidate"]["accepted"] == 1;
    let config = scene.until("web", "one to accept", accepted).await;
    assert!(config["status"]["candidate"]["message"].as_str().unwrap().contains("waiting for web-1"), "{config}");
    let candidate = scene.get("secret", "web.quorate-next");
    let proposal = candidate["metadata"]["uid"].as_str().unwrap();
    let word = |name: &str, pod_uid: &str, state: &str, proposal: &str| {
        let hash = candidate["metadata"]["annotations"]["quorate.io/hash"].clone();
        json!({
            "apiVersion": "quorate.io/v1alpha1", "kind": "ConfigReplica",
            "metadata": {"name": name, "labels": {"quorate.io/config": "web"}},
            "spec": {"config": "web", "pod": "web-1", "podUid": pod_uid, "state": state, "revision": 2,
                "hash": hash, "proposal": proposal, "since": "2026-01-01T00:00:00.000000Z"}
        })
        .to_string()
    };
    // Each would be the second of two.
    scene.apply(&word("earlier-candidate", &uid, "Staged", "some-earlier-uid"));
    scene.apply(&word("pod-of-before", "another-uid", "Staged", proposal));
    // One watch shows them in this order: who has seen this one has seen both.
    scene.apply(&word("third", &third, "Rejected", proposal));
    let refused = |config: &Value| config["status"]["candidate"]["rejected"] == 1 || config["status"]["revision"] == 2;
    let status = scene.until("web", "one to refuse", refused).await["status"].clone();
    assert_eq!((&status["revision"], &status["candidate"]["accepted"]), (&json!(1), &json!(1)), "{status}");
    // Its own counts.
    scene.kubectl(&["delete", "crep", "earlier-candidate"]).unwrap();
    scene.apply(&word("its-own", &uid, "Staged", proposal));
    scene.file("web-0/web/f.yaml", "x: two\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_fails_gives_the_candidate_up_and_one_that_holds_lets_it_through() {
    let scene = Scene::new(&shared().await.cluster);
    let answer = Arc::new(AtomicU16::new(200));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let status = Arc::clone(&answer);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 2048];
            let _ = stream.read(&mut request).await;
            let status = status.load(Ordering::Relaxed);
            let _ = stream.write_all(format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n").as_bytes()).await;
        }
    });
    let gates =
        format!("gates: [{{name: ready, podsReady: {{}}}}, {{name: smoke, http: {{url: 'http://{address}/x'}}}}]");
    let rollout = format!("strategy: Canary, steps: [{{pods: 1, bake: 1s}}], {gates}");
    let _sidecars = pods(&scene, 2, &rollout, "never").await;
    scene.apply(&scene.config("web", &spec("two", &rollout)));
    all_show(&scene, 2, "x: two\n").await;
    answer.store(503, Ordering::Relaxed);
    scene.apply(&scene.config("web", &spec("three", &rollout)));
    let message = scene.reason("web", "RolledBack").await;
    assert!(message.contains("gate smoke") && message.contains("503"), "{message}");
    all_show(&scene, 2, "x: two\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_or_waited_for_with_its_reason() {
    let scene = Scene::new(&shared().await.cluster);
    let refused = [
        ("strategy: Canary", "steps go with strategy Canary"),
        ("strategy: Quorum, steps: [{pods: 1}]", "steps go with strategy Canary"),
        ("strategy: Canary, steps: [{pods: 1}], quorum: All", "quorum goes with strategy Quorum"),
        ("strategy: Canary, steps: [{pods: most}]", "steps[0].pods"),
        ("strategy: Quorum, quorum: 0", "quorum"),
        ("strategy: Quorum, deadline: soon", "deadline"),
        ("strategy: Canary, steps: [{pods: 1}], gates: [{name: a}]", "exactly one of podsReady, http, prometheus"),
        ("strategy: Canary, steps: [{pods: 1}], gates: [{name: a, http: {url: 'file:///x'}}]", "url"),
        ("}, freshness: {maxAge: 2s", "must be at least 3s"),
        ("}, freshness: {maxAge: 0h00m", "must be at least 3s"),
    ];
    for (rollout, reason) in refused {
        let error = scene.try_apply(&scene.config("web", &spec("one", rollout))).unwrap_err();
        assert!(error.contains(reason), "{rollout}: {error}");
    }
    for max_age in ["3s", "05s", "12s", "1m", "0h1m", "100h0s"] {
        let fresh = spec("one", &format!("}}, freshness: {{maxAge: {max_age}"));
        scene.kubectl_apply(&["-n", &scene.namespace, "--dry-run=server"], &scene.config("web", &fresh)).unwrap();
    }
    let without = "{layers: [{name: a, inline: {x: 1}}], files: [{path: f.yaml}], rollout: {strategy: Quorum}}";
    assert!(scene.try_apply(&scene.config("web", without)).unwrap_err().contains("need spec.selector"));

    // What the schema cannot say, the operator does; what is published stays.
    let rollout = "strategy: Quorum, quorum: 3";
    let _sidecars = pods(&scene, 2, rollout, "never").await;
    scene.apply(&scene.config("web", &spec("two", "strategy: Canary, steps: [{pods: 50%}, {pods: 20%}]")));
    let message = scene.reason("web", "RolloutInvalid").await;
    assert!(message.contains("steps[1].pods") && message.contains("revision 1 stays"), "{message}");

    scene.apply(&scene.config("web", &spec("two", rollout)));
    let impossible = |c: &Value| {
        c["status"]["candidate"]["message"].as_str().is_some_and(|m| m.contains("3 pods must accept, but there are 2"))
    };
    let config = scene.until("web", "the impossible quorum to be told", impossible).await;
    assert_eq!(config["status"]["revision"], 1);
    // A selector that matches nothing: Immediate goes on, a Quorum waits and says so.
    let none = spec("three", rollout).replace("app: web", "app: nothing");
    scene.apply(&scene.config("web", &none));
    let nobody = |c: &Value| c["status"]["candidate"]["message"].as_str().is_some_and(|m| m.contains("matches no pod"));
    scene.until("web", "that nobody can vote to be told", nobody).await;
    scene.apply(&scene.config("web", &spec("four", "strategy: Immediate").replace("app: web", "app: nothing")));
    all_show(&scene, 2, "x: four\n").await;
}
