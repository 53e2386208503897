//! The plugin as users run it, on a real API server, with what the operator would have stored.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{path::Path, process::Stdio, sync::Arc};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use quorate_crds::{
    ConfigReplica, ConfigReplicaSpec, DistributedConfig, Orders, Refused, ReplicaState, Standing,
    head::{Bundle, Head},
    names,
};
use quorate_resolve::{Keys, SourceKind, SourceRef, Sources, resolve};
use quorate_tests::Cluster;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

struct Scene {
    cluster: Cluster,
    client: Client,
    config: DistributedConfig,
}

/// What the program printed, and its exit code.
#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

const SPEC: &str = r#"{
    "layers": [
        {"name": "base", "inline": {"server": {"host": "0.0.0.0", "port": 8080}}},
        {"name": "region", "configMapRef": {"name": "web-eu", "key": "values.yaml"}},
        {"name": "creds", "at": "/db", "secretRef": {"name": "web-db"}}
    ],
    "files": [{"path": "app.yaml", "from": "/server"}, {"path": "db.env", "from": "/db"}],
    "selector": {"matchLabels": {"app": "web"}},
    "rollout": {"strategy": "Canary", "steps": [{"pods": 1, "bake": "1m"}, {"pods": "50%", "bake": "1m"}]}
}"#;

impl Scene {
    /// Config default/web with its sources, three revisions and a head that says that revision 4 was refused.
    async fn start() -> Self {
        let cluster = Cluster::start().await.unwrap();
        cluster.install_crds().await.unwrap();
        let client = cluster.client().await.unwrap();
        let config: DistributedConfig = serde_json::from_value(json!({
            "apiVersion": "quorate.io/v1alpha1", "kind": "DistributedConfig", "metadata": {"name": "web"},
            "spec": serde_json::from_str::<Value>(SPEC).unwrap()
        }))
        .unwrap();
        let configs: Api<DistributedConfig> = Api::default_namespaced(client.clone());
        let config = configs.create(&PostParams::default(), &config).await.unwrap();
        let scene = Self { cluster, client, config };
        let map = json!({"metadata": {"name": "web-eu"}, "data": {"values.yaml": "server: {port: 8443}"}});
        scene.create::<ConfigMap>(serde_json::from_value(map).unwrap()).await;
        let secret = json!({"metadata": {"name": "web-db"}, "stringData": {"password": "hunter2"}});
        scene.create::<Secret>(serde_json::from_value(secret).unwrap()).await;
        scene.publish().await;
        scene
    }

    async fn create<K>(&self, object: K)
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::Serialize
            + serde::de::DeserializeOwned,
    {
        Api::<K>::default_namespaced(self.client.clone()).create(&PostParams::default(), &object).await.unwrap();
    }

    /// What the layers give with another port or password.
    fn bundle(&self, port: u16, password: &str) -> Bundle {
        let mut sources = Sources::default();
        let mut put = |kind, name: &str, key: &str, value: String| {
            let reference = SourceRef { kind, namespace: "default".into(), name: name.into() };
            let keys = Keys([(key.to_owned(), value.into_bytes())].into());
            sources.keys.insert(reference, Some(Arc::new(keys)));
        };
        put(SourceKind::ConfigMap, "web-eu", "values.yaml", format!("server: {{port: {port}}}"));
        put(SourceKind::Secret, "web-db", "password", password.to_owned());
        resolve(&self.config, &sources).unwrap()
    }

    /// Stores the log, the head and the status as the operator does.
    async fn publish(&self) {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let first = Head::next(None, 1, self.bundle(8080, "hunter1"), now);
        let second = Head::next(Some(&first), 2, self.bundle(9000, "hunter2"), now);
        let mut third = Head::next(Some(&second), 3, self.bundle(8443, "hunter2"), now);
        third.good = Some(2);
        third.changed_by = Some("ConfigMap default/web-eu by bob".into());
        let reason = "2 of 10 pods refused".to_owned();
        third.standing.refused = Some(Refused { revision: 4, hash: "sha256:4444".into(), reason, at: now });
        for head in [&first, &second, &third] {
            self.create(head.to_log_secret(&self.config)).await;
        }
        self.create(third.to_head_secret(&self.config)).await;
        let history: Vec<Value> = [&third, &second, &first]
            .iter()
            .map(|head| {
                json!({"revision": head.revision, "hash": head.hash, "time": head.decided_at.to_string(), "changedBy": head.changed_by})
            })
            .collect();
        self.status(json!({"revision": 3, "hash": third.hash, "history": history})).await;
        self.phase("Published", true).await;
        let spec: ConfigReplicaSpec = serde_json::from_value(json!({
            "config": "web", "pod": "web-a", "podUid": "u", "node": "n1", "runs": 3, "state": ReplicaState::Rejected, "revision": 4,
            "message": "nginx -t says no", "since": "2026-01-01T00:00:00.000000Z"
        }))
        .unwrap();
        self.create(ConfigReplica::of_pod("default", spec)).await;
    }

    async fn status(&self, status: Value) {
        let configs: Api<DistributedConfig> = Api::default_namespaced(self.client.clone());
        let patch = Patch::Merge(json!({"status": status}));
        configs.patch_status("web", &PatchParams::default(), &patch).await.unwrap();
    }

    /// A verdict of the present generation, without a candidate.
    async fn phase(&self, phase: &str, ready: bool) {
        let generation = self.read().await.metadata.generation;
        let condition = |type_: &str, holds: bool| {
            json!({"type": type_, "status": if holds { "True" } else { "False" }, "reason": phase, "message": format!("it is {phase}"),
                "lastTransitionTime": "2026-01-01T00:00:00Z"})
        };
        let conditions = [condition("Ready", ready), condition("Reconciling", false), condition("Stalled", !ready)];
        self.status(
            json!({"observedGeneration": generation, "phase": phase, "conditions": conditions, "candidate": null}),
        )
        .await;
    }

    async fn candidate(&self, strategy: &str, accepted: i32) {
        let candidate = json!({"revision": 5, "hash": "sha256:5555", "uid": "c5", "strategy": strategy, "step": 1, "steps": 2,
            "since": "2026-01-01T00:00:00Z", "asked": 10, "accepted": accepted, "rejected": 0, "message": format!("{accepted} of 10")});
        self.status(json!({"phase": "Progressing", "candidate": candidate, "refused": null})).await;
    }

    async fn spec(&self, spec: Value) {
        let configs: Api<DistributedConfig> = Api::default_namespaced(self.client.clone());
        configs.patch("web", &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await.unwrap();
    }

    /// What the head says was refused.
    async fn refusal(&self, refused: Option<Refused>) {
        let standing = serde_json::to_string(&Standing { refused, ..Standing::default() }).unwrap();
        let patch = Patch::Merge(json!({"metadata": {"annotations": {names::ROLLOUT: standing}}}));
        let secrets: Api<Secret> = Api::default_namespaced(self.client.clone());
        secrets.patch(&names::head_name("web"), &PatchParams::default(), &patch).await.unwrap();
    }

    async fn read(&self) -> DistributedConfig {
        Api::default_namespaced(self.client.clone()).get("web").await.unwrap()
    }

    async fn orders(&self) -> Orders {
        Orders::of(self.read().await.annotations())
    }

    async fn say_as(&self, kubeconfig: &Path, arguments: &str) -> Said {
        let output = command(kubeconfig, arguments).output().await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Said { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }

    async fn say(&self, arguments: &str) -> Said {
        self.say_as(&self.cluster.kubeconfig(0), arguments).await
    }

    /// What follows a config, and its lines as they come.
    fn follow(&self, arguments: &str) -> (Child, Lines<BufReader<ChildStdout>>) {
        let mut command = command(&self.cluster.kubeconfig(0), arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        (child, lines)
    }
}

/// The program as a person would call it.
fn command(kubeconfig: &Path, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-quorate"));
    command.args(arguments.split(' ')).env("KUBECONFIG", kubeconfig).kill_on_drop(true);
    command
}

/// The lines up to one that holds this.
async fn read_until(lines: &mut Lines<BufReader<ChildStdout>>, part: &str) {
    let found = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains(part) {
                return;
            }
        }
        panic!("no line with {part:?}");
    };
    tokio::time::timeout(quorate_tests::wait::DEADLINE, found).await.expect(part);
}

async fn code(mut child: Child) -> i32 {
    tokio::time::timeout(quorate_tests::wait::DEADLINE, child.wait()).await.unwrap().unwrap().code().unwrap()
}

fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

#[tokio::test]
async fn what_is_stored_is_told() {
    let scene = Scene::start().await;

    let said = scene.say("status").await;
    has(&said.out, &["NAME   READY", "web    True    3", "Published"]);
    let said = scene.say("status web --exit-code").await;
    assert_eq!(said.code, 0, "{said:?}");
    has(&said.out, &["Refused: revision 4", "2 of 10 pods refused", "web-a", "Rejected", "nginx -t says no"]);
    let json: Value = serde_json::from_str(&scene.say("status web -o json").await.out).unwrap();
    assert_eq!((&json["outcome"], &json["replicas"][0]["pod"]), (&json!("Ready"), &json!("web-a")));
    let said = scene.say("status nope").await;
    assert_eq!((said.code, said.err.trim()), (2, "error: DistributedConfig default/nope does not exist"));

    let said = scene.say("explain web").await;
    has(
        &said.out,
        &["/server/port   8443         region   base", "/db/password   «redacted»   creds", "ConfigMap default/web-eu"],
    );
    assert!(!said.out.contains("hunter2"));
    assert_eq!(scene.say("explain web server.nope").await.code, 2);

    let said = scene.say("history web").await;
    has(&said.out, &["ConfigMap default/web-eu by bob   current", "good", "Refused: revision 4"]);

    let said = scene.say("diff web --exit-code").await;
    assert_eq!(said.code, 5, "{said:?}");
    has(&said.out, &["-port: 9000\n+port: 8443\n", "db.env: unchanged"]);
    let said = scene.say("diff web --from 1").await;
    assert_eq!(said.code, 0);
    has(&said.out, &["-port: 8080", "db.env: changed (it holds values from a Secret, which are not shown)"]);
    assert!(!said.out.contains("hunter"));
    assert_eq!(scene.say("diff web --from 3 --exit-code").await.code, 0);
    let said = scene.say("diff web --to candidate").await;
    assert_eq!(said.code, 2);
    has(&said.err, &["has no candidate"]);
    let candidate = Head::next(None, 5, scene.bundle(7000, "hunter2"), jiff::Timestamp::UNIX_EPOCH);
    scene.create(candidate.to_candidate_secret(&scene.config, "")).await;
    has(&scene.say("diff web --to candidate").await.out, &["-port: 8443\n+port: 7000\n"]);

    // The shell asks for names through kubectl_complete-quorate.
    assert_eq!(scene.say("__complete status w").await.out, "web\n:4\n");
    assert_eq!(scene.say("stauts").await.code, 1);
}

#[tokio::test]
async fn what_the_user_may_not_read_is_left_out_and_said() {
    let scene = Scene::start().await;
    for arguments in [
        "create serviceaccount reader",
        "create role reader --verb=get,list --resource=distributedconfigs.quorate.io",
        "create rolebinding reader --role=reader --serviceaccount=default:reader",
        "create serviceaccount head-reader",
        "create role head-reader --verb=get --resource=secrets --resource-name=web.quorate",
        "create rolebinding head-reader --role=head-reader --serviceaccount=default:head-reader",
        "create rolebinding head-reader-too --role=reader --serviceaccount=default:head-reader",
    ] {
        scene.cluster.kubectl(&arguments.split(' ').collect::<Vec<_>>()).unwrap();
    }
    let reader = scene.cluster.kubeconfig_of("default:reader").unwrap();
    let said = scene.say_as(&reader, "status web").await;
    assert_eq!(said.code, 0, "{said:?}");
    has(&said.err, &["what the pods say is not shown", "what was refused is not shown", "forbidden"]);
    let said = scene.say_as(&reader, "explain web").await;
    assert_eq!(said.code, 1);
    has(&said.err, &["get Secret default/web.quorate", "forbidden"]);
    let said = scene.say_as(&reader, "pause web").await;
    assert_eq!(said.code, 1);
    has(&said.err, &["patch DistributedConfig default/web", "forbidden"]);

    let head_reader = scene.cluster.kubeconfig_of("default:head-reader").unwrap();
    let said = scene.say_as(&head_reader, "explain web /server/port").await;
    assert_eq!(said.code, 0, "{said:?}");
    has(&said.out, &["/server/port           region   base"]);
    has(&said.err, &["values are not shown", "forbidden"]);
}

#[tokio::test]
async fn what_is_said_is_written_for_the_revision_that_was_seen() {
    let scene = Scene::start().await;
    let said = scene.say("promote web").await;
    assert_eq!(said.code, 2);
    has(&said.err, &["has no candidate: no rollout is under way"]);

    scene.candidate("Quorum", 4).await;
    let said = scene.say("promote web").await;
    assert_eq!((said.code, scene.orders().await), (1, Orders::default()));
    has(&said.err, &["4 of 10 accepted", "--force"]);
    assert_eq!(scene.say("promote web --force").await.code, 0);
    assert_eq!(scene.orders().await.force_promote, Some(5));

    scene.candidate("Canary", 4).await;
    for arguments in ["promote web", "abort web", "retry web", "pause web"] {
        let said = scene.say(arguments).await;
        assert_eq!(said.code, 0, "{arguments}: {said:?}");
    }
    let expected = Orders { paused: true, promote: Some(5), force_promote: Some(5), abort: Some(5), retry: Some(4) };
    assert_eq!(scene.orders().await, expected);
    has(&scene.say("pause web").await.out, &["the config says so already"]);
    has(&scene.say("promote web").await.out, &["this waits for `resume`, since it is held"]);
    let said = scene.say("resume web -o json").await;
    assert_eq!(serde_json::from_str::<Value>(&said.out).unwrap()["changed"], true);
    assert!(!scene.orders().await.paused);

    assert_eq!(scene.say("rollback web --to 9").await.code, 2);
    let said = scene.say("rollback web").await;
    has(&said.out, &["pinned to revision 2", "unpin web"]);
    assert_eq!(scene.read().await.spec.pin.unwrap().revision, 2);
    let managers: Vec<_> = scene.read().await.managed_fields().iter().filter_map(|f| f.manager.clone()).collect();
    assert!(managers.contains(&"kubectl-quorate".to_owned()), "{managers:?}");
    // Not judged yet.
    assert_eq!(scene.say("status web --exit-code").await.code, 4);
    assert_eq!(scene.say("rollback web --to 1").await.code, 0);
    assert_eq!(scene.say("unpin web").await.code, 0);
    assert_eq!(scene.read().await.spec.pin, None);
    let said = scene.say("unpin web -o json").await;
    assert_eq!(serde_json::from_str::<Value>(&said.out).unwrap()["changed"], false, "{said:?}");

    scene.spec(json!({"suspend": true})).await;
    has(&scene.say("abort web").await.out, &["this waits for the end of the suspension"]);
}

#[tokio::test]
async fn a_pause_that_would_hold_nothing_is_refused() {
    let scene = Scene::start().await;
    scene.spec(json!({"rollout": null, "selector": null})).await;
    let said = scene.say("pause web").await;
    assert_eq!((said.code, scene.orders().await.paused), (1, false), "{said:?}");
    has(&said.err, &["default/web cannot be paused: with strategy Immediate", "spec.suspend: true"]);
    // Somebody did it without the plugin.
    scene.cluster.kubectl(&["annotate", "distributedconfig", "web", "quorate.io/paused=true"]).unwrap();
    has(&scene.say("status web").await.out, &["Paused:   in vain: with strategy Immediate"]);
    let json: Value = serde_json::from_str(&scene.say("status web -o json").await.out).unwrap();
    assert_eq!(json["paused"], false);
}

#[tokio::test]
async fn a_rollout_is_followed_to_its_end() {
    let scene = Scene::start().await;
    assert_eq!(scene.say("watch nope").await.code, 2);
    assert_eq!(scene.say("watch web").await.code, 0);

    scene.candidate("Canary", 1).await;
    let said = scene.say("watch web --timeout 1s").await;
    assert_eq!(said.code, 4, "{said:?}");
    has(&said.err, &["still in progress after 1s"]);

    let (child, mut lines) = scene.follow("watch web");
    read_until(&mut lines, "Canary step 1 of 2: 1 of 10 accepted").await;
    scene.candidate("Canary", 7).await;
    read_until(&mut lines, "7 of 10 accepted").await;
    scene.phase("Published", true).await;
    read_until(&mut lines, "it is Published").await;
    assert_eq!(code(child).await, 0);

    // Refused.
    scene.candidate("Canary", 1).await;
    let (child, mut lines) = scene.follow("promote web --wait -o json");
    read_until(&mut lines, r#""outcome":"InProgress""#).await;
    scene.phase("RolledBack", false).await;
    read_until(&mut lines, r#""outcome":"Failed""#).await;
    assert_eq!(code(child).await, 3);
    assert_eq!(scene.say("status web --exit-code").await.code, 3);

    // Given up, as asked.
    scene.candidate("Canary", 1).await;
    let (child, mut lines) = scene.follow("abort web --wait");
    read_until(&mut lines, "1 of 10 accepted").await;
    scene.phase("RolledBack", false).await;
    assert_eq!(code(child).await, 0);

    // A refusal that the status still tells of is not the end of what was asked to be tried again, even
    // when the head is further already.
    scene.status(json!({"refused": 4})).await;
    let (child, mut lines) = scene.follow("retry web --wait");
    read_until(&mut lines, "it is RolledBack").await;
    scene.refusal(None).await;
    let pods = json!({"desired": 10, "applied": 10, "rejected": 0, "stale": 0, "summary": "10/10"});
    scene.status(json!({"pods": pods})).await;
    read_until(&mut lines, "10/10 applied").await;
    scene.candidate("Canary", 2).await;
    read_until(&mut lines, "2 of 10 accepted").await;
    scene.phase("Published", true).await;
    assert_eq!(code(child).await, 0);

    // Published before the word came, and another one since.
    scene.candidate("Canary", 1).await;
    let (child, mut lines) = scene.follow("abort web --wait");
    read_until(&mut lines, "1 of 10 accepted").await;
    let entry = |revision: i64| json!({"revision": revision, "hash": "sha256:5555", "time": "2026-01-01T00:00:00Z"});
    scene.status(json!({"candidate": null, "revision": 6, "history": [entry(6), entry(5)]})).await;
    assert_eq!(code(child).await, 3);

    // Gone.
    scene.candidate("Canary", 1).await;
    let (child, mut lines) = scene.follow("watch web");
    read_until(&mut lines, "1 of 10").await;
    scene.cluster.kubectl(&["delete", "distributedconfig", "web"]).unwrap();
    assert_eq!(code(child).await, 2);
}
