//! Attempts that must fail, on a real API server with the chart's policies and the operator with the rights that
//! the chart gives it. Each has a negative control: with the right identity, or where the policies do not hold, it
//! goes through.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
};

use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};
use quorate_tests::{
    Cluster,
    cluster::{Options, root},
    helm,
    programs::{self, Program},
    scene::{Scene, condition},
    wait::wait_for,
};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

const OPERATOR: &str = "system:serviceaccount:quorate-system:quorate-operator";
const RECOVERY: [&str; 2] = ["--as-group=system:masters", "--as-group=quorate:recovery"];
/// Where the policies do not hold, since they hold where the operator serves.
const ELSEWHERE: &str = "elsewhere";

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
            let kubeconfig = cluster.kubeconfig_of("quorate-system:quorate-operator").unwrap();
            let log = cluster.folder().join("operator.log");
            cluster.kubectl(&["create", "namespace", ELSEWHERE]).unwrap();
            // The rights are for the cluster, the policies for the scenes: so all that fails there and works elsewhere
            // fails by a policy.
            helm::give_operator_rights(&cluster, &["--set", "nudge.enabled=true"]).unwrap();
            let scenes: Vec<String> = (0..30).map(|n| format!("scene-{n}")).collect();
            let scenes = format!("operator.namespaces={{{}}}", scenes.join(","));
            let policies = ["fencing", "heads", "locks", "nudge", "references", "replica-identity", "writers"]
                .map(|p| format!("policy-{p}"));
            let policies: Vec<&str> = policies.iter().map(String::as_str).collect();
            helm::apply(&cluster, &policies, &["--set", "nudge.enabled=true", "--set", &scenes]).unwrap();
            in_force(&Scene::new(&cluster)).await;
            let operator = programs::operator(&kubeconfig, &["--nudge-pods"], &log).await.unwrap();
            operator.ready().await.unwrap();
            Shared { cluster, _operator: operator }
        })
        .await
}

/// The API server takes up new policies a moment later: waits until each refuses something.
async fn in_force(scene: &Scene<'_>) {
    let secret = |type_: &str, token: &str| {
        json!({"apiVersion": "v1", "kind": "Secret", "type": type_,
            "metadata": {"name": "probe", "annotations": {"quorate.io/fencing-token": token}}})
    };
    let config = json!({"apiVersion": "quorate.io/v1alpha1", "kind": "DistributedConfig", "metadata": {"name": "probe"},
        "spec": {"layers": [{"name": "a", "secretRef": {"name": "x"}}], "files": [{"path": "a.yaml"}]}});
    let probes: [(&str, &[&str], Value); 6] = [
        ("quorate-writers", &[], lease("probe", "", &json!({"quorate.io/writer": "u"}))),
        ("quorate-fencing", &[], secret("Opaque", "x")),
        ("quorate-heads", &[], secret("quorate.io/head", "1")),
        ("quorate-references", &["--as=probe"], config),
        ("quorate-replica-identity", &[], replica("web", "p", "u")),
        (
            "quorate-nudge",
            &["--as", OPERATOR],
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe"},
            "spec": {"containers": [{"name": "a", "image": "none"}]}}),
        ),
    ];
    grant(scene, "probe", "{apiGroups: [quorate.io], resources: ['*'], verbs: ['*']}", &["--user=probe"]);
    let operator = "--serviceaccount=quorate-system:quorate-operator";
    grant(scene, "probe-pods", "{apiGroups: [''], resources: [pods], verbs: [create]}", &[operator]);
    for (policy, who, object) in probes {
        wait_for(&format!("{policy} to be in force"), || async {
            match create(scene, &scene.namespace, &[who, &["--dry-run=server"]].concat(), &object) {
                Err(refusal) if refusal.contains(policy) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
        .unwrap();
    }
}

fn role(name: &str, rules: &str) -> String {
    format!("apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {{name: {name}}}\nrules: [{rules}]\n")
}

/// Gives rights in the scene's namespace; those given under this name before are no more.
fn grant(scene: &Scene<'_>, name: &str, rules: &str, subjects: &[&str]) {
    grant_in(scene, &scene.namespace, name, rules, subjects);
}

fn grant_in(scene: &Scene<'_>, namespace: &str, name: &str, rules: &str, subjects: &[&str]) {
    scene.kubectl_apply(&["-n", namespace], &role(name, rules)).unwrap();
    let bind = ["-n", namespace, "create", "rolebinding", name, &format!("--role={name}")];
    // It may be there.
    let _ = scene.cluster.kubectl(&[&bind[..], subjects].concat());
}

/// kubectl create of an object as somebody; what was said when it was refused.
fn create(scene: &Scene<'_>, namespace: &str, options: &[&str], object: &Value) -> Result<(), String> {
    as_somebody(scene, &scene.cluster.kubeconfig(0), &[&["-n", namespace, "create"], options].concat(), object)
}

/// kubectl, with an object in a file; what was said when it was refused.
fn as_somebody(scene: &Scene<'_>, kubeconfig: &Path, arguments: &[&str], object: &Value) -> Result<(), String> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let file = scene.path(&format!("object-{}.json", COUNT.fetch_add(1, Ordering::Relaxed)));
    fs::write(&file, object.to_string()).unwrap();
    let mut command = Command::new(scene.cluster.kubectl_path());
    let output = command.arg("--kubeconfig").arg(kubeconfig).args(arguments).arg("-f").arg(&file);
    let output = output.stdin(Stdio::null()).output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// It must be refused by this policy.
fn refused(policy: &str, attempt: Result<impl Sized, impl ToString>) -> String {
    let said = attempt.err().expect("it went through").to_string();
    assert!(said.contains(&format!("ValidatingAdmissionPolicy 'quorate-{policy}'")), "{said}");
    said
}

/// It must be refused for want of rights.
fn forbidden(attempt: Result<impl Sized, impl ToString>) {
    let said = attempt.err().expect("it went through").to_string();
    assert!(said.contains("forbidden: User"), "{said}");
}

fn lease(name: &str, holder: &str, annotations: &Value) -> Value {
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name, "annotations": annotations},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15}})
}

fn replica(config: &str, pod: &str, uid: &str) -> Value {
    json!({"apiVersion": "quorate.io/v1alpha1", "kind": "ConfigReplica",
        "metadata": {"name": format!("{config}.{pod}.{uid}"),
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}]},
        "spec": {"config": config, "pod": pod, "podUid": uid, "state": "Applied", "since": "2026-01-01T00:00:00.000000Z"}})
}

/// A pod of a service account, which is made if need be. Its uid.
fn pod_of(scene: &Scene<'_>, namespace: &str, account: &str, pod: &str, more: &Value) -> String {
    let kubectl = |words: &[&str]| scene.cluster.kubectl(&[&["-n", namespace], words].concat());
    let _ = kubectl(&["create", "serviceaccount", account]);
    let mut spec = json!({"serviceAccountName": account, "containers": [{"name": "app", "image": "none"}]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let object = json!({"apiVersion": "v1", "kind": "Pod", "spec": spec,
        "metadata": {"name": pod, "labels": {"app": "web"}, "annotations": {"theirs": "1"}}});
    create(scene, namespace, &[], &object).unwrap();
    kubectl(&["get", "pod", pod, "-o", "jsonpath={.metadata.uid}"]).unwrap()
}

/// A kubeconfig with the token that kubelet would mount into this pod; without a pod, with one of the account.
fn token(scene: &Scene<'_>, namespace: &str, account: &str, pod: Option<(&str, &str)>) -> PathBuf {
    let mut words = vec!["-n", namespace, "create", "token", account];
    if let Some((name, uid)) = pod {
        words.extend(["--bound-object-kind=Pod", "--bound-object-name", name, "--bound-object-uid", uid]);
    }
    let token = scene.cluster.kubectl(&words).unwrap();
    let text = fs::read_to_string(scene.cluster.kubeconfig(0)).unwrap();
    let mut kubeconfig: Value = serde_yaml::from_str(&text).unwrap();
    kubeconfig["users"][0]["user"] = json!({"token": token.trim()});
    let path = scene.path(&format!("kubeconfig-{namespace}-{account}-{}", pod.map_or("none", |pod| pod.0)));
    fs::write(&path, kubeconfig.to_string()).unwrap();
    path
}

fn with_token(scene: &Scene<'_>, kubeconfig: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let arguments = [&["-n", &scene.namespace], arguments].concat();
    quorate_tests::cluster::kubectl(&scene.cluster.kubectl_path(), kubeconfig, &arguments)
}

const INLINE: &str =
    "layers: [{name: a, inline: {x: one}}], files: [{path: f.yaml}], selector: {matchLabels: {app: web}}";

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_a_listed_account_follow_the_head_until_it_is_taken_off() {
    let scene = Scene::new(&shared().await.cluster);
    let uid = pod_of(&scene, &scene.namespace, "web", "web-0", &json!({}));
    scene.ready("web-0", true);
    // Read again by quorum every second: that is how soon it learns that it may not any more.
    let spec = |x: &str, accounts: &str| {
        let inline = INLINE.replace("one", x);
        scene.config(
            "web",
            &format!("{{{inline}, freshness: {{maxAge: 3s}}, access: {{serviceAccounts: [{accounts}]}}}}"),
        )
    };
    scene.apply(&spec("one", "web"));
    let granted =
        scene.until("web", "its rights", |config| condition(config, "AccessGranted")["status"] == "True").await;
    assert_eq!(condition(&granted, "AccessGranted")["message"], "the pods of web may read it");

    let kubeconfig = token(&scene, &scene.namespace, "web", Some(("web-0", &uid)));
    let folder = scene.path("web-0").display().to_string();
    let log = scene.path("sidecar-0.log");
    let arguments = ["--config=web", "--namespace", &scene.namespace, "--directory", &folder];
    let identity = ["--pod-name=web-0", "--pod-uid", &uid, "--node-name=node-a"];
    let arguments = [&arguments[..], &identity].concat();
    let sidecar = programs::sidecar(&kubeconfig, &arguments, &log).await.unwrap();
    scene.file("web-0/web/f.yaml", "x: one\n").await;
    scene.apply(&spec("two", "web"));
    scene.file("web-0/web/f.yaml", "x: two\n").await;
    // Its word arrives too, past the policy on identities.
    scene.until("web", "its word", |config| config["status"]["pods"]["summary"] == "1/1").await;

    // Taken off: what it reads next is refused, and its files stay.
    scene.apply(&spec("two", ""));
    let config = scene.until("web", "its rights to go", |config| condition(config, "AccessGranted").is_null()).await;
    assert_eq!(condition(&config, "Ready")["status"], "True");
    assert!(scene.get("role", "web.quorate").is_null() && scene.get("rolebinding", "web.quorate").is_null());
    wait_for("the sidecar to be refused", || async {
        let said = sidecar.process.output();
        if said.contains("403") || said.contains("forbidden") { Ok(()) } else { Err(said) }
    })
    .await
    .unwrap();
    forbidden(with_token(&scene, &kubeconfig, &["get", "secrets", "--field-selector=metadata.name=web.quorate"]));
    // A watch that is open lives on, as always in Kubernetes: so this one is another sidecar.
    drop(sidecar);
    scene.apply(&spec("three", ""));
    scene.until("web", "the third revision", |config| config["status"]["revision"] == 3).await;
    let sidecar = programs::sidecar(&kubeconfig, &arguments, &log).await.unwrap();
    wait_for("the sidecar to be refused again", || async {
        let said = sidecar.process.output();
        if said.contains("403") || said.contains("forbidden") { Ok(()) } else { Err(said) }
    })
    .await
    .unwrap();
    assert_eq!(fs::read_to_string(scene.path("web-0/web/f.yaml")).unwrap(), "x: two\n");

    // Back on the list, it goes on.
    scene.apply(&spec("three", "web"));
    scene.file("web-0/web/f.yaml", "x: three\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_reads_its_own_head_and_no_other_secret() {
    let scene = Scene::new(&shared().await.cluster);
    let uid = pod_of(&scene, &scene.namespace, "web", "web-0", &json!({}));
    scene.apply(&scene.config("web", &format!("{{{INLINE}, access: {{serviceAccounts: [web]}}}}")));
    scene.apply(&scene.config("other", &format!("{{{INLINE}, access: {{serviceAccounts: [somebody]}}}}")));
    for name in ["web", "other"] {
        scene.until(name, "its rights", |config| condition(config, "AccessGranted")["status"] == "True").await;
        scene.reason(name, "Published").await;
    }
    let kubeconfig = token(&scene, &scene.namespace, "web", Some(("web-0", &uid)));
    let read = |words: &[&str]| with_token(&scene, &kubeconfig, &[&["get", "secrets"], words].concat());
    let only = |name: &str| format!("--field-selector=metadata.name={name}");
    assert!(read(&["-o=name", &only("web.quorate")]).unwrap().contains("web.quorate"));
    forbidden(read(&[&only("other.quorate")]));
    forbidden(read(&["other.quorate"]));
    forbidden(read(&["other.quorate-next"]));
    forbidden(read(&["web.quorate-r1"]));
    forbidden(read(&[]));
    // There is no candidate, which it is told: it may look.
    assert!(read(&["web.quorate-next"]).unwrap_err().to_string().contains("NotFound"));

    // The rights are those that the example gives by hand.
    let example = fs::read_to_string(root().join("docs/examples/rbac-sidecar.yaml")).unwrap();
    let example = example.split("\n---\n").find(|text| text.contains("kind: Role\n")).unwrap();
    let example: Value = serde_yaml::from_str(example).unwrap();
    assert_eq!(scene.get("role", "web.quorate")["rules"], example["rules"]);

    // What somebody else took away comes back when the list changes (and every five minutes).
    scene.kubectl(&["delete", "role", "web.quorate"]).unwrap();
    scene
        .kubectl(&[
            "patch",
            "dcfg",
            "web",
            "--type=merge",
            "-p",
            r#"{"spec":{"access":{"serviceAccounts":["web","b"]}}}"#,
        ])
        .unwrap();
    wait_for("the Role", || async {
        if scene.get("role", "web.quorate").is_null() { Err("it is not there".to_owned()) } else { Ok(()) }
    })
    .await
    .unwrap();
    // And all goes with the config.
    scene.kubectl(&["delete", "dcfg", "web"]).unwrap();
    wait_for("the garbage collector", || async {
        let left: Vec<&str> = ["role", "rolebinding", "secret"]
            .into_iter()
            .filter(|kind| !scene.get(kind, "web.quorate").is_null())
            .collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_votes_for_itself_and_for_no_other() {
    let scene = Scene::new(&shared().await.cluster);
    let replicas = "{apiGroups: [quorate.io], resources: [configreplicas], verbs: [get, create, update]}";
    let attempts = |namespace: &str| {
        let a = pod_of(&scene, namespace, "web", "a", &json!({}));
        let b = pod_of(&scene, namespace, "web", "b", &json!({}));
        grant_in(&scene, namespace, "web", replicas, &[&format!("--serviceaccount={namespace}:web")]);
        let pod = token(&scene, namespace, "web", Some(("a", &a)));
        let nobody = token(&scene, namespace, "web", None);
        let post = |who: &Path, object: &Value| as_somebody(&scene, who, &["-n", namespace, "create"], object);
        // Its own vote is welcome.
        post(&pod, &replica("web", "a", &a)).unwrap();
        let mut orphan = replica("web", "a", &a);
        orphan["metadata"] = json!({"name": "orphan"});
        [
            ("for another pod", post(&pod, &replica("web", "b", &b))),
            ("for itself under another uid", post(&pod, &replica("web", "a", &b))),
            ("for another name under its own uid", post(&pod, &replica("web", "c", &a))),
            ("with a token of no pod", post(&nobody, &replica("web2", "a", &a))),
            ("that outlives the pod", post(&pod, &orphan)),
            ("as an administrator", create(&scene, namespace, &[], &replica("web3", "a", &a))),
        ]
    };
    for (what, attempt) in attempts(&scene.namespace) {
        assert!(attempt.is_err(), "{what}");
        refused("replica-identity", attempt);
    }
    for (what, attempt) in attempts(ELSEWHERE) {
        assert_eq!(attempt, Ok(()), "{what}");
    }
    // Nor does it change what another one said.
    let b = scene.get("pod", "b")["metadata"]["uid"].as_str().unwrap().to_owned();
    as_somebody(
        &scene,
        &token(&scene, &scene.namespace, "web", Some(("b", &b))),
        &["-n", &scene.namespace, "create"],
        &replica("web", "b", &b),
    )
    .unwrap();
    let a = scene.get("pod", "a")["metadata"]["uid"].as_str().unwrap().to_owned();
    let mut rejected = replica("web", "b", &b);
    rejected["spec"]["state"] = json!("Rejected");
    let change = |pod: &str, uid: &str| {
        let who = token(&scene, &scene.namespace, "web", Some((pod, uid)));
        as_somebody(&scene, &who, &["-n", &scene.namespace, "replace"], &rejected)
    };
    let said = refused("replica-identity", change("a", &a));
    assert!(said.contains("only that pod may write it") && said.contains("this is pod a"), "{said}");
    change("b", &b).unwrap();
    // A pod of another namespace that was given rights here.
    let c = pod_of(&scene, ELSEWHERE, "guest", "guest", &json!({}));
    grant(&scene, "guest", replicas, &[&format!("--serviceaccount={ELSEWHERE}:guest")]);
    let guest = token(&scene, ELSEWHERE, "guest", Some(("guest", &c)));
    refused(
        "replica-identity",
        as_somebody(&scene, &guest, &["-n", &scene.namespace, "create"], &replica("web", "guest", &c)),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_with_an_older_term_writes_no_head() {
    let scene = Scene::new(&shared().await.cluster);
    let head = json!({"apiVersion": "v1", "kind": "Secret", "type": "quorate.io/head", "stringData": {"f": "new"},
        "metadata": {"name": "lone.quorate", "annotations": {"quorate.io/fencing-token": "9"}}});
    let attempts = |namespace: &str| {
        create(&scene, namespace, &["--as", OPERATOR], &head).unwrap();
        let write = |token: &Value, text: &str| {
            let patch =
                json!({"metadata": {"annotations": {"quorate.io/fencing-token": token}}, "stringData": {"f": text}});
            let words = ["-n", namespace, "--as", OPERATOR, "patch", "secret", "lone.quorate", "--type=merge", "-p"];
            scene.cluster.kubectl(&[&words[..], &[&patch.to_string()]].concat())
        };
        // The same term, and a later one: 10 is above 9, though not as text.
        write(&json!("9"), "newer").unwrap();
        write(&json!("10"), "newest").unwrap();
        [write(&json!("9"), "old"), write(&json!("3"), "old"), write(&Value::Null, "old"), write(&json!("1e9"), "old")]
    };
    for attempt in attempts(&scene.namespace) {
        refused("fencing", attempt);
    }
    assert_eq!(scene.get("secret", "lone.quorate")["data"]["f"], "bmV3ZXN0");
    assert!(attempts(ELSEWHERE).iter().all(Result::is_ok));
    // Our own kinds too.
    let config = scene
        .config("fenced", &format!("{{{INLINE}}}"))
        .replace("{name: fenced,", "{annotations: {quorate.io/fencing-token: '2'}, name: fenced,");
    scene.apply(&config);
    let annotate = |more: &[&str]| {
        scene.kubectl(&[&["annotate", "--overwrite", "dcfg", "fenced", "quorate.io/fencing-token=1"], more].concat())
    };
    let said = refused("fencing", annotate(&[]));
    assert!(said.contains("is 2 and must not fall to 1"), "{said}");
    // Who repairs by hand says so.
    annotate(&[&["--as=admin"], &RECOVERY[..]].concat()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_are_written_and_deleted_by_the_operator_alone() {
    let scene = Scene::new(&shared().await.cluster);
    let attempts = |namespace: &str| {
        let edit = ["-n", namespace, "create", "rolebinding", "ed", "--clusterrole=edit", "--user=ed"];
        scene.cluster.kubectl(&edit).unwrap();
        let ed = |words: &[&str]| scene.cluster.kubectl(&[&["-n", namespace, "--as=ed"], words].concat());
        let new = |name: &str, kind: &str| {
            let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": format!("quorate.io/{kind}"), "metadata": {"name": name}});
            create(&scene, namespace, &["--as=ed"], &secret).map_err(anyhow::Error::msg).map(|()| String::new())
        };
        vec![
            ed(&["patch", "secret", "web.quorate", "--type=merge", "-p", r#"{"data":{"f.yaml":"eDogZXZpbAo="}}"#]),
            ed(&["annotate", "secret", "web.quorate", "quorate.io/revision=9", "--overwrite"]),
            ed(&["label", "secret", "web.quorate", "quorate.io/config-"]),
            ed(&["delete", "secret", "web.quorate-r1"]),
            ed(&["delete", "secret", "web.quorate"]),
            new("web.quorate-next", "candidate"),
            new("web.quorate-r7", "revision"),
            new("none.quorate", "head"),
        ]
    };
    let spec = format!("{{{INLINE}}}");
    scene.apply(&scene.config("web", &spec));
    scene.reason("web", "Published").await;
    for attempt in attempts(&scene.namespace) {
        refused("heads", attempt);
    }
    // All at once, too; what is not ours goes.
    scene.kubectl(&["create", "secret", "generic", "plain"]).unwrap();
    let admin = scene.cluster.client().await.unwrap();
    let secrets: Api<Secret> = Api::namespaced(admin, &scene.namespace);
    refused("heads", secrets.delete_collection(&DeleteParams::default(), &ListParams::default()).await);
    assert!(!scene.get("secret", "web.quorate").is_null());

    let there = scene.config("web", &spec).replace(&scene.namespace, ELSEWHERE);
    scene.kubectl_apply(&[], &there).unwrap();
    scene.cluster.kubectl(&["-n", ELSEWHERE, "wait", "--for=condition=Ready", "dcfg/web", "--timeout=60s"]).unwrap();
    for attempt in attempts(ELSEWHERE) {
        attempt.unwrap();
    }

    // All Secrets can be written again as they are: for another encryption key.
    let head = scene.get("secret", "web.quorate");
    as_somebody(&scene, &scene.cluster.kubeconfig(0), &["replace"], &head).unwrap();
    // The operator's own writes, the garbage collector's and the namespace controller's go through.
    scene.apply(&scene.config("web", &spec.replace("one", "two")));
    scene.until("web", "the second revision", |config| config["status"]["revision"] == 2).await;
    scene.kubectl(&["delete", "secret", "web.quorate-r1", "--as=admin", RECOVERY[0], RECOVERY[1]]).unwrap();
    scene.kubectl(&["delete", "dcfg", "web"]).unwrap();
    wait_for("the head to be collected", || async {
        if scene.get("secret", "web.quorate").is_null() { Ok(()) } else { Err("it is there".to_owned()) }
    })
    .await
    .unwrap();
    scene.apply(&scene.config("web", &spec));
    scene.reason("web", "Published").await;
    // Waits until it is gone.
    scene.cluster.kubectl(&["delete", "namespace", &scene.namespace]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_makes_a_config_read_a_secret_that_they_may_not_get() {
    let scene = Scene::new(&shared().await.cluster);
    let configs = "{apiGroups: [quorate.io], resources: [distributedconfigs], verbs: ['*']}";
    let secrets = |names: &str| {
        format!("{configs}, {{apiGroups: [''], resources: [secrets], resourceNames: [{names}], verbs: [get]}}")
    };
    for namespace in [&scene.namespace, ELSEWHERE] {
        grant_in(&scene, namespace, "dev", &secrets("mine"), &["--user=dev"]);
    }
    // What others made: one that reads a Secret, one that does not.
    let layer = |name: &str, kind: &str, of: &str| json!({"name": name, kind: {"name": of}});
    let config = |name: &str, layers: &[Value]| {
        json!({"apiVersion": "quorate.io/v1alpha1", "kind": "DistributedConfig", "metadata": {"name": name},
            "spec": {"layers": layers, "files": [{"path": "a.yaml"}]}})
    };
    let inline = json!({"name": "a", "inline": {"x": 1}});
    let plain = std::slice::from_ref(&inline);
    for namespace in [&scene.namespace, ELSEWHERE] {
        create(&scene, namespace, &[], &config("theirs", &[layer("s", "secretRef", "theirs")])).unwrap();
        create(&scene, namespace, &[], &config("plain", plain)).unwrap();
    }

    let attempts = |namespace: &str| {
        let new = |config: &Value| create(&scene, namespace, &["--as=dev", "--dry-run=server"], config);
        let change = |name: &str, spec: &Value| {
            let patch = json!({"spec": spec}).to_string();
            let words =
                ["-n", namespace, "--as=dev", "--dry-run=server", "patch", "dcfg", name, "--type=merge", "-p", &patch];
            scene.cluster.kubectl(&words).map(|_| ()).map_err(|error| error.to_string())
        };
        let mut file = config("new", plain);
        file["spec"]["files"][0] = json!({"path": "a", "secretKeyRef": {"name": "theirs", "key": "k"}});
        let mut second = config("new", &[layer("m", "secretRef", "mine")]);
        second["spec"]["layers"].as_array_mut().unwrap().push(layer("s", "secretRef", "theirs"));
        let accounts = json!({"serviceAccounts": ["mine"]});
        vec![
            ("a layer", new(&config("new", &[layer("s", "secretRef", "theirs")]))),
            ("a second layer", new(&second)),
            ("a file", new(&file)),
            ("another config that reads it", new(&config("new", &[layer("c", "configRef", "theirs")]))),
            ("a change of what reads it", change("theirs", &json!({"files": [{"path": "b.yaml"}]}))),
            ("its access", change("theirs", &json!({"access": accounts}))),
            ("its sharedWith", change("theirs", &json!({"sharedWith": ["mine"]}))),
            // Broken layers leave the last good head, with all that it holds.
            ("the access to a head", change("theirs", &json!({"layers": [inline], "access": accounts}))),
            ("the access to what is no secret as far as the spec tells", change("plain", &json!({"access": accounts}))),
            ("old content", change("plain", &json!({"pin": {"revision": 1}}))),
            ("what others share with this namespace, shared on", change("plain", &json!({"sharedWith": ["*"]}))),
        ]
    };
    for (what, attempt) in attempts(&scene.namespace) {
        assert!(attempt.is_err(), "{what}");
        let said = refused("references", attempt);
        assert!(said.contains("which you may not get"), "{what}: {said}");
    }
    for (what, attempt) in attempts(ELSEWHERE) {
        assert_eq!(attempt, Ok(()), "{what}");
    }
    // What reads nothing, or what they may get, is theirs to write; and so is what changes nothing of it.
    let allowed = || {
        let new = |config: &Value| create(&scene, &scene.namespace, &["--as=dev", "--dry-run=server"], config);
        new(&config("new", plain)).unwrap();
        new(&config("new", &[layer("m", "secretRef", "mine")])).unwrap();
        scene.kubectl(&["--as=dev", "label", "--overwrite", "dcfg", "theirs", "tidy=yes"]).unwrap();
        scene.kubectl(&["--as=dev", "annotate", "--overwrite", "dcfg", "theirs", "quorate.io/paused=true"]).unwrap();
    };
    allowed();
    // With the rights, all of it goes through: by their names …
    grant(&scene, "dev", &secrets("mine, theirs, theirs.quorate, plain.quorate"), &[]);
    for (what, attempt) in attempts(&scene.namespace) {
        assert_eq!(attempt, Ok(()), "{what}");
    }
    // … up to as many as can be asked for one by one …
    let many = |count: usize| {
        let layers: Vec<Value> = (0..count).map(|n| layer(&format!("l{n}"), "secretRef", &format!("s{n}"))).collect();
        let mut config = config("many", &layers);
        // Named again, it is not another one.
        let files =
            (0..count).map(|n| json!({"path": n.to_string(), "secretKeyRef": {"name": format!("s{n}"), "key": "k"}}));
        config["spec"]["files"].as_array_mut().unwrap().extend(files);
        create(&scene, &scene.namespace, &["--as=dev", "--dry-run=server"], &config)
    };
    let names: Vec<String> = (0..64).map(|n| format!("s{n}")).collect();
    grant(&scene, "dev", &secrets(&names.join(", ")), &[]);
    many(24).unwrap();
    let said = refused("references", many(25));
    assert!(said.contains("more than 24 Secrets"), "{said}");
    // … or by the right to all.
    grant(&scene, "dev", &format!("{configs}, {{apiGroups: [''], resources: [secrets], verbs: [get]}}"), &[]);
    many(64).unwrap();
    allowed();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_tells_pods_of_a_head_and_changes_nothing_else_of_them() {
    let scene = Scene::new(&shared().await.cluster);
    let volume = json!({"volumes": [{"name": "c", "secret": {"secretName": "web.quorate"}}]});
    pod_of(&scene, &scene.namespace, "web", "plain", &volume);
    scene.ready("plain", true);
    scene.apply(&scene.config("web", &format!("{{{INLINE}}}")));
    scene.until("web", "it to be delivered", |c| c["status"]["pods"]["summary"] == "0/1 (1 delivered)").await;
    let annotations = |pod: &str| scene.get("pod", pod)["metadata"]["annotations"].clone();
    assert_eq!(annotations("plain"), json!({"quorate.io/revision": "web=1", "theirs": "1"}));
    scene.apply(&scene.config("web", &format!("{{{INLINE}}}").replace("one", "two")));
    scene.until("web", "the next one", |c| c["status"]["revision"] == 2 && c["status"]["pods"]["delivered"] == 1).await;
    assert_eq!(annotations("plain")["quorate.io/revision"], "web=2");

    pod_of(&scene, ELSEWHERE, "web", "other", &json!({}));
    let attempts = |namespace: &str, pod: &str| {
        let patch = |patch: &Value| {
            let words =
                ["-n", namespace, "--as", OPERATOR, "patch", "pod", pod, "--type=strategic", "-p", &patch.to_string()];
            scene.cluster.kubectl(&words)
        };
        patch(&json!({"metadata": {"annotations": {"quorate.io/revision": "web=7"}}})).unwrap();
        [
            patch(&json!({"spec": {"containers": [{"name": "app", "image": "evil"}]}})),
            patch(&json!({"metadata": {"labels": {"app": "other"}}})),
            patch(&json!({"metadata": {"annotations": {"quorate.io/revision": "web=8", "theirs": "2"}}})),
            patch(&json!({"metadata": {"annotations": {"theirs": null}}})),
            patch(&json!({"metadata": {"annotations": {"more": "1"}}})),
            patch(&json!({"metadata": {"finalizers": ["quorate.io/x"]}})),
            patch(
                &json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "x"}]}}),
            ),
        ]
    };
    for attempt in attempts(&scene.namespace, "plain") {
        let said = refused("nudge", attempt);
        assert!(said.contains("nothing of a pod but the annotation quorate.io/revision"), "{said}");
    }
    for attempt in attempts(ELSEWHERE, "other") {
        attempt.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_held_is_not_deleted() {
    let scene = Scene::new(&shared().await.cluster);
    let lock = json!({"quorate.io/lock": "{}"});
    let make = |namespace: &str, name: &str, holder: &str, annotations: &Value| {
        create(&scene, namespace, &[], &lease(name, holder, annotations)).unwrap();
    };
    make(&scene.namespace, "held", "web-0_1", &lock);
    make(&scene.namespace, "free", "", &lock);
    make(&scene.namespace, "theirs", "web-0_1", &json!({}));
    let delete = |namespace: &str, name: &str, more: &[&str]| {
        scene.cluster.kubectl(&[&["-n", namespace, "delete", "lease", name], more].concat())
    };
    let said = wait_for("the policy to be in force", || async {
        let attempt = delete(&scene.namespace, "held", &["--dry-run=server"]);
        attempt.err().map(|said| said.to_string()).ok_or_else(|| "it may be deleted".to_owned())
    })
    .await
    .unwrap();
    assert!(said.contains("which web-0_1 holds") && said.contains("lock release"), "{said}");
    refused("locks", delete(&scene.namespace, "held", &[]));
    refused("locks", scene.kubectl(&["delete", "leases", "--all", "--dry-run=server"]));
    // Free ones, what is no lock, and what is repaired by hand.
    delete(&scene.namespace, "free", &[]).unwrap();
    delete(&scene.namespace, "theirs", &[]).unwrap();
    delete(&scene.namespace, "held", &[&["--as=admin"], &RECOVERY[..]].concat()).unwrap();
    // With its namespace it goes, and where no policy holds.
    make(&scene.namespace, "held", "web-0_1", &lock);
    make(ELSEWHERE, "held", "web-0_1", &lock);
    delete(ELSEWHERE, "held", &[]).unwrap();
    scene.cluster.kubectl(&["delete", "namespace", &scene.namespace, "--wait=true", "--timeout=60s"]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_signs_what_it_coordinates_for_itself_only() {
    let scene = Scene::new(&shared().await.cluster);
    let leases = "{apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, create, update]}";
    let attempts = |namespace: &str| {
        let a = pod_of(&scene, namespace, "signs", "signs-a", &json!({}));
        let b = pod_of(&scene, namespace, "signs", "signs-b", &json!({}));
        grant_in(&scene, namespace, "signs", leases, &[&format!("--serviceaccount={namespace}:signs")]);
        let pod = token(&scene, namespace, "signs", Some(("signs-a", &a)));
        let nobody = token(&scene, namespace, "signs", None);
        let signed = |uid: &str, claims: &str, holder: &str| {
            lease("signed", holder, &json!({"quorate.io/writer": uid, "quorate.io/lock": claims}))
        };
        let write = |who: &Path, verb: &str, object: &Value| as_somebody(&scene, who, &["-n", namespace, verb], object);
        write(&pod, "create", &signed(&a, "{}", "")).unwrap();
        // client-go's leader election changes the spec and keeps all else.
        write(&nobody, "replace", &signed(&a, "{}", "manager-0")).unwrap();
        // Unsigned is how those write who are no pods.
        write(&nobody, "replace", &lease("signed", "", &json!({"quorate.io/lock": r#"{"lamport":1}"#}))).unwrap();
        write(&pod, "replace", &signed(&a, r#"{"lamport":2}"#, "")).unwrap();
        [
            ("for another pod", write(&pod, "replace", &signed(&b, r#"{"lamport":3}"#, ""))),
            ("with a token of no pod", write(&nobody, "replace", &signed(&a, r#"{"lamport":4}"#, ""))),
            ("for another pod from the first", {
                let mut object = signed(&b, "{}", "");
                object["metadata"]["name"] = json!("signed-2");
                write(&pod, "create", &object)
            }),
        ]
    };
    for (what, attempt) in attempts(&scene.namespace) {
        assert!(attempt.is_err(), "{what}");
        let said = refused("writers", attempt);
        assert!(said.contains("signs for itself only"), "{said}");
    }
    for (what, attempt) in attempts(ELSEWHERE) {
        assert_eq!(attempt, Ok(()), "{what}");
    }
}
