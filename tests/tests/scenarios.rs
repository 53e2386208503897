//! What users rely on, on a real API server, with operator and sidecar as processes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use k8s_openapi::ByteString;
use quorate_crds::names::REVISION;
use quorate_tests::{
    Cluster,
    cluster::{self, Options, root},
    helm,
    programs::{self, Program},
    scene::{Scene, condition},
    wait::wait_for,
};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// One control plane and operator for all scenarios that do not break them; each has its own namespace. The
/// operator has the rights that the chart gives, and no others.
struct Shared {
    cluster: Cluster,
    _operator: Program,
}

async fn shared() -> &'static Shared {
    static SHARED: OnceCell<Shared> = OnceCell::const_new();
    SHARED
        .get_or_init(|| async {
            let options = Options { controller_manager: true, ..Options::default() };
            let cluster = Cluster::with(options).await.unwrap();
            cluster.install_crds().await.unwrap();
            let log = cluster.folder().join("operator.log");
            helm::give_operator_rights(&cluster, &[]).unwrap();
            let kubeconfig = cluster.kubeconfig_of("quorate-system:quorate-operator").unwrap();
            let operator = programs::operator(&kubeconfig, &[], &log).await.unwrap();
            operator.ready().await.unwrap();
            Shared { cluster, _operator: operator }
        })
        .await
}

fn example(name: &str) -> String {
    fs::read_to_string(root().join("docs/examples").join(name)).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn the_readme_shows_what_is_tested() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    assert!(readme.contains(&format!("```yaml\n{}```", example("first.yaml"))), "README.md differs from first.yaml");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_main_job() {
    let scene = Scene::new(&shared().await.cluster);
    scene.apply(&example("rbac-sidecar.yaml"));
    let account = scene.cluster.kubeconfig_of(&format!("{}:web", scene.namespace)).unwrap();
    let sidecar = scene.sidecar_as(&account, "web", &[]).await;
    let (code, why) = sidecar.get("/readyz").await.unwrap();
    assert!(code == 503 && why.contains("web"), "{why}");
    scene.apply(&example("first.yaml"));
    scene.file("web/nginx.conf", "listen 0.0.0.0:8443;\n").await;
    sidecar.ready().await.unwrap();
    assert_eq!(fs::read_to_string(scene.path("web/app/config.yaml")).unwrap(), "host: 0.0.0.0\nport: 8443\n");
    let env = fs::read_to_string(scene.path("web/db.env")).unwrap();
    assert!(env.contains("correct-horse") && env.contains("PASSWORD"), "{env}");
    assert_eq!((mode(&scene.path("web/nginx.conf")), mode(&scene.path("web/db.env"))), (0o444, 0o440));
    scene.reason("web", "Published").await;

    // The sidecar needs no more than its head.
    let (kubectl, arguments) = (scene.cluster.kubectl_path(), ["-n", &scene.namespace, "get", "secret", "web-db"]);
    let refused = cluster::kubectl(&kubectl, &account, &arguments).unwrap_err().to_string();
    assert!(refused.contains("forbidden"), "{refused}");

    // A changed layer becomes new files.
    scene.map("web-eu", "values.yaml", "server: {port: 9443}");
    scene.file("web/nginx.conf", "listen 0.0.0.0:9443;\n").await;

    // A broken change is refused with all its reasons; the files stay.
    scene.map("web-eu", "values.yaml", "server: {port: 80}");
    let message = scene.reason("web", "ValidationFailed").await;
    assert!(message.contains("the port must be above 1024") && message.contains("revision 2 stays"), "{message}");
    assert_eq!(condition(&scene.get("dcfg", "web"), "Stalled")["status"], "True");
    assert_eq!(fs::read_to_string(scene.path("web/nginx.conf")).unwrap(), "listen 0.0.0.0:9443;\n");

    // Back to the first revision, broken layers or not.
    scene.kubectl(&["patch", "dcfg", "web", "--type=merge", "-p", r#"{"spec":{"pin":{"revision":1}}}"#]).unwrap();
    scene.file("web/nginx.conf", "listen 0.0.0.0:8443;\n").await;
    let message = scene.reason("web", "Pinned").await;
    assert!(message.contains("revision 3 has the content of revision 1"), "{message}");
    let config = scene.get("dcfg", "web");
    let revisions: Vec<i64> =
        config["status"]["history"].as_array().unwrap().iter().map(|e| e["revision"].as_i64().unwrap()).collect();
    assert_eq!((revisions, &config["status"]["history"][0]["restored"]), (vec![3, 2, 1], &Value::from(1)));

    // A pin to what is gone is refused.
    scene.kubectl(&["patch", "dcfg", "web", "--type=merge", "-p", r#"{"spec":{"pin":{"revision":77}}}"#]).unwrap();
    let message = scene.reason("web", "PinnedRevisionGone").await;
    assert!(message.contains("revision 77") && message.contains("[1, 2, 3]"), "{message}");

    // The password is in files only.
    let told = scene.kubectl(&["get", "dcfg,events", "-o", "yaml"]).unwrap();
    let logs = fs::read_to_string(scene.cluster.folder().join("operator.log")).unwrap() + &sidecar.process.output();
    assert!(!told.contains("correct-horse") && !logs.contains("correct-horse"));

    let (_, metrics) = sidecar.get("/metrics").await.unwrap();
    assert!(metrics.contains("quorate_sidecar_publications_total 3"), "{metrics}");
}

/// What goes wrong with a config that was good: `{layers: [{name: only, configMapRef: …}], files: [f.yaml, g.yaml]}`.
enum Change {
    /// Its ConfigMap has other bytes.
    Source(Vec<u8>),
    /// Its ConfigMap is deleted.
    Gone,
    /// These fields of its spec are others.
    Spec(Value),
}

/// A name, what goes wrong, the reason of the Ready condition, and what its message says.
type Bad = (&'static str, Change, &'static str, &'static [&'static str]);

fn bad_input() -> Vec<Bad> {
    let source = |text: &str| Change::Source(text.as_bytes().to_vec());
    let rules = |rule: &str| Change::Spec(json!({"validation": {"rules": [{"rule": rule}]}}));
    let schema = |schema: Value| Change::Spec(json!({"validation": {"schema": schema}}));
    let files = |files: Value| Change::Spec(json!({"files": files}));
    let template = |text: &str| files(json!([{"path": "f.yaml", "template": text}]));
    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for n in 1..9 {
        bomb += &format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(","));
    }
    let deep = format!("a: {}1{}", "[".repeat(500), "]".repeat(500));
    let big = format!("big: {}", "x".repeat(600_000));
    let doubling = format!("size([0]{}) > 0", ".map(x, [x, x])".repeat(30));
    let endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    // Within the 255 characters that the CRD allows, but not within 255 bytes.
    let long = format!("{}.yaml", "é".repeat(128));
    let both = json!({"schema": {"properties": {"a": {"type": "string"}}}, "rules": [{"rule": "self.a > 5"}]});
    vec![
        ("parse", source("a: ["), "SourceInvalid", &["layer only", "ConfigMap", "YAML at line"]),
        ("duplicate", source("a: 1\na: 2"), "SourceInvalid", &["layer only", "key \"a\" is there twice"]),
        ("bomb", source(&bomb), "SourceInvalid", &["layer only"]),
        ("deep", source(&deep), "SourceInvalid", &["layer only", "nested deeper"]),
        ("bytes", Change::Source(b"a: \xff".to_vec()), "SourceInvalid", &["layer only", "\"v.yaml\"", "not UTF-8"]),
        ("big", source(&big), "TooLarge", &["at most 1048576 fit", "the largest: f.yaml (6000"]),
        ("gone", Change::Gone, "SourceMissing", &["layer only", "/gone does not exist"]),
        (
            "schema",
            Change::Spec(json!({"validation": both})),
            "ValidationFailed",
            &["layer only, /a: 1 is not of type \"string\"", "/: rule 1: self.a > 5 is not true"],
        ),
        ("cel", rules(&doubling), "RuleInvalid", &["rule 1", "costs too much"]),
        (
            "regex",
            schema(json!({"properties": {"a": {"pattern": "(((a{100}){100}){100}){100}"}}})),
            "SchemaInvalid",
            &[],
        ),
        ("circle", schema(json!({"$ref": "#"})), "SchemaInvalid", &["in a circle"]),
        (
            "undefined",
            template("{{ server.port }}"),
            "TemplateFailed",
            &["file f.yaml: `server` is undefined in line 1"],
        ),
        ("endless", template(endless), "TemplateFailed", &["file f.yaml", "too much work"]),
        (
            "cycle",
            Change::Spec(json!({"layers": [{"name": "only", "configRef": {"name": "cycle"}}]})),
            "ReferenceCycle",
            &["layer only", "/cycle -> "],
        ),
        ("long", files(json!([{"path": long}])), "PathInvalid", &["261 bytes"]),
        (
            "collision",
            files(json!([{"path": "f.yaml"}, {"path": "f.yaml/g.yaml"}])),
            "PathInvalid",
            &["file f.yaml/g.yaml", "both a file and a directory"],
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_refused_with_its_reason_and_the_last_good_files_stay() {
    let scene = Scene::new(&shared().await.cluster);
    let cases = bad_input();
    let map = |name: &str, bytes: &[u8]| {
        let bytes = ByteString(bytes.to_vec());
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "binaryData": {"v.yaml": bytes}})
    };
    let config = |name: &str, changed: &Value| {
        let mut spec = json!({
            "layers": [{"name": "only", "configMapRef": {"name": name, "key": "v.yaml"}}],
            "files": [{"path": "f.yaml"}, {"path": "g.yaml"}],
        });
        spec.as_object_mut().unwrap().extend(changed.as_object().unwrap().clone());
        let kind = "DistributedConfig";
        json!({"apiVersion": "quorate.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
    };
    // Server-side, since the big one does not fit into kubectl's annotation.
    let apply = |items: Vec<Value>| {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        scene.kubectl_apply(&["-n", &scene.namespace, "--server-side"], &list.to_string()).unwrap();
    };
    let names: Vec<&str> = cases.iter().map(|case| case.0).collect();
    let _sidecar = scene.sidecar(&names.join(","), &[]).await;
    apply(names.iter().flat_map(|name| [map(name, b"a: 1"), config(name, &json!({}))]).collect());
    for name in &names {
        scene.file(&format!("{name}/g.yaml"), "a: 1\n").await;
        scene.reason(name, "Published").await;
    }
    let changed = cases.iter().filter_map(|(name, change, ..)| match change {
        Change::Source(bytes) => Some(map(name, bytes)),
        Change::Spec(fields) => Some(config(name, fields)),
        Change::Gone => None,
    });
    apply(changed.collect());
    scene.kubectl(&["delete", "configmap", "gone"]).unwrap();
    for (name, _, reason, told) in &cases {
        let message = scene.reason(name, reason).await;
        for part in [&["revision 1 stays"], *told].concat() {
            assert!(message.contains(part), "{name}: {part:?} is not in: {message}");
        }
        for file in ["f.yaml", "g.yaml"] {
            let path = scene.path(&format!("{name}/{file}"));
            assert_eq!(fs::read_to_string(path).unwrap(), "a: 1\n", "{name}/{file}");
        }
        assert_eq!(scene.get("secret", &format!("{name}.quorate"))["metadata"]["annotations"][REVISION], "1", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_refuses_what_it_can() {
    let scene = Scene::new(&shared().await.cluster);
    let refused = [
        ("{layers: [{name: a, inline: {}, configMapRef: {name: b}}], files: [{path: f.yaml}]}", "exactly one of"),
        ("{layers: [{name: a}], files: [{path: f.yaml}]}", "exactly one of"),
        ("{layers: [{name: a, inline: {}}], files: [{path: ../f.yaml}]}", "path must be relative"),
        ("{layers: [{name: a, inline: {}}], files: [{path: /f.yaml}]}", "path must be relative"),
        ("{layers: [{name: a, inline: {}}], files: [{path: f.yaml}], revisionHistoryLimit: 0}", "revisionHistoryLimit"),
        ("{layers: [{name: a, inline: {}}, {name: a, inline: {}}], files: [{path: f.yaml}]}", "Duplicate value"),
        ("{layers: [{name: a, inline: {}}], files: [{path: f.yaml}, {path: f.yaml}]}", "Duplicate value"),
    ];
    for (spec, reason) in refused {
        let error = scene.try_apply(&scene.config("bad", spec)).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
    // A null deletes what earlier layers gave, so it must survive the API server.
    let spec = "{layers: [{name: a, inline: {a: 1, b: 2}}, {name: b, inline: {a: null}}], files: [{path: f.json}]}";
    let file = scene.path("null.yaml");
    fs::write(&file, scene.config("nulls", spec)).unwrap();
    scene.kubectl(&["create", "-f", &file.display().to_string()]).unwrap();
    scene.reason("nulls", "Published").await;
    let mut sidecar = scene.sidecar("nulls", &["--once"]).await;
    let end = wait_for("--once to end", || {
        let ended = sidecar.process.ended();
        async move { ended.ok_or_else(|| "it runs".to_owned()) }
    });
    assert!(end.await.unwrap().success());
    assert_eq!(fs::read_to_string(scene.path("nulls/f.json")).unwrap(), "{\n  \"b\": 2\n}\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_docs_show_is_admitted() {
    let scene = Scene::new(&shared().await.cluster);
    let text = fs::read_to_string(root().join("docs/rollouts.md")).unwrap();
    let blocks = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let mut tried = 0;
    for fields in blocks.filter(|block| !block.starts_with("env:")) {
        let fields = fields.replace('\n', "\n  ");
        let spec = format!("\n  layers: [{{name: a, inline: {{x: 1}}}}]\n  files: [{{path: f.yaml}}]\n  {fields}");
        if let Err(error) = scene.kubectl_apply(&["--dry-run=server"], &scene.config("web", &spec)) {
            panic!("{error}: {spec}");
        }
        tried += 1;
    }
    assert!(tried >= 4, "docs/rollouts.md has {tried} examples of a spec");
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_and_gitops_tools_wait_and_apply_without_quarrel() {
    let scene = Scene::new(&shared().await.cluster);
    let server_side = ["--server-side", "--field-manager=gitops"];
    let manifest = |x: &str| {
        let spec = format!("{{layers: [{{name: a, inline: {{x: {x}}}}}], files: [{{path: f.yaml}}]}}");
        scene.config("web", &spec)
    };
    scene.kubectl_apply(&server_side, &manifest("one")).unwrap();
    scene.kubectl(&["wait", "--for=condition=Ready", "--timeout=60s", "dcfg/web"]).unwrap();
    // A condition of the generation before is no answer to this one.
    scene.kubectl_apply(&server_side, &manifest("two")).unwrap();
    scene.kubectl(&["wait", "--for=condition=Ready", "--timeout=60s", "dcfg/web"]).unwrap();
    assert_eq!(scene.get("dcfg", "web")["status"]["revision"], 2);
    // What the operator and the plugin write is none of the manifest's fields.
    scene.kubectl(&["annotate", "--field-manager=kubectl-quorate", "dcfg", "web", "quorate.io/retry=1"]).unwrap();
    scene.kubectl_apply(&server_side, &manifest("two")).unwrap();
    let file = scene.path("web.yaml");
    fs::write(&file, manifest("two")).unwrap();
    let differences = scene.kubectl(&["diff", "--server-side", "--field-manager=gitops", "-f", file.to_str().unwrap()]);
    assert_eq!(differences.unwrap(), "");
    // The control: a difference is one, and kubectl's exit code says so.
    fs::write(&file, manifest("three")).unwrap();
    scene.kubectl(&["diff", "--server-side", "--field-manager=gitops", "-f", file.to_str().unwrap()]).unwrap_err();
    let nonsense =
        scene.config("web", "{layers: [{name: a, configMapRef: {name: none, key: k.yaml}}], files: [{path: f.yaml}]}");
    scene.kubectl_apply(&server_side, &nonsense).unwrap();
    scene.reason("web", "SourceMissing").await;
    scene.kubectl(&["wait", "--for=condition=Ready", "--timeout=1s", "dcfg/web"]).unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_taken_is_never_overwritten() {
    let scene = Scene::new(&shared().await.cluster);
    scene.kubectl(&["create", "secret", "generic", "web.quorate", "--from-literal=mine=1"]).unwrap();
    scene.apply(&scene.config("web", "{layers: [{name: a, inline: {x: 1}}], files: [{path: f.yaml}]}"));
    let message = scene.reason("web", "HeadNameTaken").await;
    assert!(message.contains("Opaque"), "{message}");
    assert_eq!(scene.get("secret", "web.quorate")["data"]["mine"], "MQ==");
    scene.kubectl(&["delete", "secret", "web.quorate"]).unwrap();
    scene.reason("web", "Published").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_or_changed_head_comes_back_above_every_revision_and_files_stay() {
    let scene = Scene::new(&shared().await.cluster);
    scene.apply(&scene.config("web", "{layers: [{name: a, inline: {x: 1}}], files: [{path: f.yaml}]}"));
    let sidecar = scene.sidecar("web", &[]).await;
    scene.file("web/f.yaml", "x: 1\n").await;
    for (revision, change) in [
        (2, &["delete", "secret", "web.quorate"][..]),
        (3, &["patch", "secret", "web.quorate", "--type=merge", "-p", r#"{"data":{"f.yaml":"eDogMgo="}}"#][..]),
    ] {
        scene.kubectl(change).unwrap();
        wait_for("the next revision", || async {
            let found = scene.get("dcfg", "web")["status"]["revision"].clone();
            if found == revision { Ok(()) } else { Err(found.to_string()) }
        })
        .await
        .unwrap();
        wait_for("the sidecar to have it", || async {
            let text = fs::read_to_string(scene.path("web/..data/..manifest.json")).unwrap();
            let found: Value = serde_json::from_str(&text).unwrap();
            if found["revision"] == revision { Ok(()) } else { Err(text) }
        })
        .await
        .unwrap();
        assert_eq!(fs::read_to_string(scene.path("web/f.yaml")).unwrap(), "x: 1\n");
    }
    drop(sidecar);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_of_another_namespace_needs_consent() {
    let scene = Scene::new(&shared().await.cluster);
    let configs = example("shared-defaults.yaml");
    scene.kubectl_apply(&[], &configs.replace("namespace: infra", &format!("namespace: {}", scene.namespace))).unwrap();
    let get = |name: &str| -> Value {
        let text = scene.cluster.kubectl(&["-n", "shop", "get", "dcfg", name, "-o", "json"]).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    };
    let reason = async |expected: &str| {
        wait_for(expected, || async {
            let ready = condition(&get("cart"), "Ready");
            if ready["reason"] == expected { Ok(()) } else { Err(ready.to_string()) }
        })
        .await
        .unwrap();
    };
    reason("Published").await;
    scene
        .kubectl(&["patch", "dcfg", "platform-defaults", "--type=merge", "-p", r#"{"spec":{"sharedWith":[]}}"#])
        .unwrap();
    reason("ReferenceDenied").await;
    scene
        .kubectl(&["patch", "dcfg", "platform-defaults", "--type=merge", "-p", r#"{"spec":{"sharedWith":["*"]}}"#])
        .unwrap();
    reason("Published").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn history_is_bounded_and_suspend_holds() {
    let scene = Scene::new(&shared().await.cluster);
    let spec = |x: i32, more: &str| {
        format!(
            "{{layers: [{{name: a, inline: {{x: {x}}}}}], files: [{{path: f.yaml}}], revisionHistoryLimit: 2{more}}}"
        )
    };
    for x in 1..=4 {
        scene.apply(&scene.config("web", &spec(x, "")));
        wait_for("the revision", || async {
            let found = scene.get("dcfg", "web")["status"]["revision"].clone();
            if found == x { Ok(()) } else { Err(found.to_string()) }
        })
        .await
        .unwrap();
    }
    let log = scene.kubectl(&["get", "secret", "-l", "quorate.io/kind=revision", "-o", "name"]).unwrap();
    assert_eq!(log, "secret/web.quorate-r3\nsecret/web.quorate-r4\n");
    scene.apply(&scene.config("web", &spec(5, ", suspend: true")));
    scene.reason("web", "Suspended").await;
    assert_eq!(scene.get("dcfg", "web")["status"]["revision"], 4);
    scene.apply(&scene.config("web", &spec(5, "")));
    scene.reason("web", "Published").await;
    assert_eq!(scene.get("dcfg", "web")["status"]["revision"], 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_come_before_and_notifications_after() {
    let scene = Scene::new(&shared().await.cluster);
    let (check, told) = (scene.path("check.sh"), scene.path("told"));
    fs::write(&check, "#!/bin/sh\n! grep -q bad \"$QUORATE_STAGED/f.yaml\"\n").unwrap();
    let notify = scene.path("notify.sh");
    fs::write(&notify, format!("#!/bin/sh\necho $QUORATE_REVISION >> {}\n", told.display())).unwrap();
    for script in [&check, &notify] {
        fs::set_permissions(script, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let (check, notify) = (check.display().to_string(), notify.display().to_string());
    let spec = |x: &str| format!("{{layers: [{{name: a, inline: {{x: {x}}}}}], files: [{{path: f.yaml}}]}}");
    let sidecar = scene.sidecar("web", &["--check-exec", &check, "--notify-exec", &notify]).await;
    scene.apply(&scene.config("web", &spec("one")));
    scene.file("web/f.yaml", "x: one\n").await;
    scene.apply(&scene.config("web", &spec("bad")));
    wait_for("the refusal", || async {
        let log = sidecar.process.output();
        if log.contains("the check refuses it") { Ok(()) } else { Err(log) }
    })
    .await
    .unwrap();
    assert_eq!(fs::read_to_string(scene.path("web/f.yaml")).unwrap(), "x: one\n");
    assert!(!told.exists(), "told of the first publication or of a refused one");
    scene.apply(&scene.config("web", &spec("two")));
    scene.file("web/f.yaml", "x: two\n").await;
    scene.file("told", "3\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_operator_neither_misses_nor_repeats() {
    let cluster = Cluster::start().await.unwrap();
    let log = cluster.folder().join("operator.log");
    let mut operator = programs::operator(&cluster.kubeconfig(0), &[], &log).await.unwrap();
    wait_for("/readyz to name the missing CRD", || async {
        match operator.get("/readyz").await {
            Ok((503, body))
                if body.contains("watch on DistributedConfigs: its CustomResourceDefinition is not installed") =>
            {
                Ok(())
            }
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    cluster.install_crds().await.unwrap();
    operator.ready().await.unwrap();
    let scene = Scene::new(&cluster);
    scene.map("m", "v.yaml", "x: 1");
    scene.apply(
        &scene.config("web", "{layers: [{name: a, configMapRef: {name: m, key: v.yaml}}], files: [{path: f.yaml}]}"),
    );
    scene.reason("web", "Published").await;
    for revision in 2..5 {
        operator.process.kill();
        scene.map("m", "v.yaml", &format!("x: {revision}"));
        // It ended before the log entry was written, say.
        scene.kubectl(&["delete", "secret", &format!("web.quorate-r{}", revision - 1)]).unwrap();
        operator = programs::operator(&cluster.kubeconfig(0), &[], &log).await.unwrap();
        wait_for("the revision", || async {
            let found = scene.get("dcfg", "web")["status"]["revision"].clone();
            if found == revision { Ok(()) } else { Err(found.to_string()) }
        })
        .await
        .unwrap();
    }
    let log = scene.kubectl(&["get", "secret", "-l", "quorate.io/kind=revision", "-o", "name"]).unwrap();
    assert_eq!(log.lines().count(), 4, "{log}");
    let events = scene.kubectl(&["get", "events", "-o", "jsonpath={range .items[*]}{.reason} {end}"]).unwrap();
    assert_eq!(events.matches("Published").count(), 4, "{events}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_outlive_the_api_server() {
    // Operator and kubectl use the first API server, the sidecar the second, which comes and goes.
    let options = Options { etcd_members: 3, api_servers: 2, ..Options::default() };
    let mut cluster = Cluster::with(options).await.unwrap();
    cluster.install_crds().await.unwrap();
    let log = cluster.folder().join("operator.log");
    let operator = programs::operator(&cluster.kubeconfig(0), &[], &log).await.unwrap();
    operator.ready().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    cluster.kill_api_server(1);
    // Away at start: it waits, and says so.
    let target = directory.path().display().to_string();
    let arguments = ["--config", "web", "--namespace", "default", "--directory", &target];
    let log = directory.path().join("sidecar.log");
    let sidecar = programs::sidecar(&cluster.kubeconfig(1), &arguments, &log).await.unwrap();
    wait_for("the sidecar to say so", || async {
        let (_, body) = sidecar.get("/readyz").await.map_err(|e| e.to_string())?;
        if body.contains("cannot be reached") { Ok(()) } else { Err(body) }
    })
    .await
    .unwrap();
    assert_eq!(sidecar.get("/livez").await.unwrap().0, 200);
    cluster.restart_api_server(1).await.unwrap();
    let config = "apiVersion: quorate.io/v1alpha1\nkind: DistributedConfig\nmetadata: {name: web}\nspec: {layers: [{name: a, inline: {x: X}}], files: [{path: f.yaml}]}\n";
    let apply = |cluster: &Cluster, x: &str| {
        let file = directory.path().join("config.yaml");
        fs::write(&file, config.replace('X', x)).unwrap();
        cluster.kubectl(&["apply", "-f", &file.display().to_string()]).unwrap();
    };
    let shows = async |text: &str| {
        wait_for(text, || async {
            let found = fs::read_to_string(directory.path().join("web/f.yaml")).unwrap_or_default();
            if found == text { Ok(()) } else { Err(found) }
        })
        .await
        .unwrap();
    };
    apply(&cluster, "1");
    shows("x: 1\n").await;
    // Away later: it says so, lives, and the files stay.
    let said = || sidecar.process.output().matches("cannot be reached").count();
    let before = said();
    cluster.kill_api_server(1);
    wait_for("the sidecar to say so", || async {
        if said() > before { Ok(()) } else { Err("it does not".to_owned()) }
    })
    .await
    .unwrap();
    apply(&cluster, "2");
    wait_for("revision 2", || async {
        let found = cluster.kubectl(&["get", "dcfg", "web", "-o", "jsonpath={.status.revision}"]);
        if found.as_deref().is_ok_and(|revision| revision == "2") { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await
    .unwrap();
    assert_eq!(fs::read_to_string(directory.path().join("web/f.yaml")).unwrap(), "x: 1\n");
    for path in ["/livez", "/readyz"] {
        assert_eq!(sidecar.get(path).await.unwrap().0, 200, "{path}");
    }
    // Back: what was missed is caught up with.
    cluster.restart_api_server(1).await.unwrap();
    shows("x: 2\n").await;
    // The leader of etcd dies: a majority goes on.
    cluster.kill_etcd_leader().await.unwrap();
    apply(&cluster, "3");
    shows("x: 3\n").await;
    assert_eq!(sidecar.get("/livez").await.unwrap().0, 200);
}

/// Not a test of its own: the process that is killed.
#[tokio::test(flavor = "multi_thread")]
async fn cluster_owner() {
    if std::env::var_os("QUORATE_CLUSTER_OWNER").is_none() {
        return;
    }
    let cluster = Cluster::start().await.unwrap();
    println!("pids {} {}", cluster.etcd[0].pid(), cluster.api_servers[0].pid());
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_gone_with_the_process_that_started_it() {
    use std::io::BufRead;
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "cluster_owner", "--nocapture"])
        .env("QUORATE_CLUSTER_OWNER", "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.map(Result::unwrap).find(|line| line.contains("pids ")).unwrap();
    let pids: Vec<String> = line.split_once("pids ").unwrap().1.split(' ').map(str::to_owned).collect();
    let alive = |pid: &String| fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|s| !s.contains("(zombie)"));
    assert!(pids.len() == 2 && pids.iter().all(alive));
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for("its children to be gone", || async {
        if pids.iter().any(alive) { Err("still there".to_owned()) } else { Ok(()) }
    })
    .await
    .unwrap();
}
