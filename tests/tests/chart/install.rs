//! The chart on a real API server, and the operator with exactly the rights that it gives.

use std::{fs, process::Command};

use quorate_tests::{
    Cluster,
    cluster::{Options, root},
    helm::{Helm, chart},
    programs::{self, Program},
    scene::{Scene, condition},
    wait::wait_for,
};
use serde_json::Value;

const NAMESPACE: &str = "quorate-system";
const ACCOUNT: &str = "quorate-system:quorate-operator";

/// A control plane, Helm for it, and a namespace in which only restricted pods are let in.
async fn prepared() -> (Cluster, Helm) {
    let cluster = Cluster::with(Options { controller_manager: true, ..Options::default() }).await.unwrap();
    let helm = Helm::new(Some(&cluster.kubeconfig(0))).unwrap();
    cluster.kubectl(&["create", "namespace", NAMESPACE]).unwrap();
    cluster.kubectl(&["label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted"]).unwrap();
    (cluster, helm)
}

fn install(helm: &Helm, command: &[&str], values: &[&str]) -> anyhow::Result<String> {
    let chart = chart().display().to_string();
    helm.run(&[command, &["quorate", &chart, "--namespace", NAMESPACE], values].concat())
}

/// The operator, as its service account.
async fn operator(cluster: &Cluster, arguments: &[&str]) -> Program {
    let kubeconfig = cluster.kubeconfig_of(ACCOUNT).unwrap();
    let operator = programs::operator(&kubeconfig, arguments, &cluster.folder().join("operator.log")).await.unwrap();
    operator.ready().await.unwrap();
    operator
}

const HELLO: &str = "{layers: [{name: base, inline: {greeting: hello}}], files: [{path: hello.yaml}]}";

/// What kubectl says with other rights than the administrator's.
struct As<'a> {
    cluster: &'a Cluster,
    who: Vec<String>,
}

impl<'a> As<'a> {
    fn user(cluster: &'a Cluster, name: &str) -> Self {
        Self { cluster, who: vec![format!("--as={name}")] }
    }

    fn account(cluster: &'a Cluster, account: &str) -> Self {
        Self::user(cluster, &format!("system:serviceaccount:{account}"))
    }

    fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let who: Vec<&str> = self.who.iter().map(String::as_str).collect();
        self.cluster.kubectl(&[&who[..], arguments].concat())
    }

    fn may(&self, action: &str) -> bool {
        let words: Vec<&str> = action.split(' ').collect();
        // It says no by its exit code, too.
        let said = self.kubectl(&[&["auth", "can-i"], &words[..]].concat());
        said.is_ok_and(|said| said.trim() == "yes")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn installed_by_helm_the_operator_has_the_rights_it_needs_and_no_others() {
    let (cluster, helm) = prepared().await;
    let said = install(&helm, &["install"], &[]).unwrap();
    assert!(said.contains("kubectl apply -f -"), "{said}");

    // Its pods are let in: the controller made them, and Pod Security did not refuse.
    wait_for("the operator's pods", || async {
        let pods = cluster.kubectl(&["-n", NAMESPACE, "get", "pods", "-o", "name"]).map_err(|e| e.to_string())?;
        if pods.lines().count() == 2 {
            return Ok(());
        }
        Err(cluster.kubectl(&["-n", NAMESPACE, "get", "events"]).unwrap_or_default())
    })
    .await
    .unwrap();

    let _operator = operator(&cluster, &[]).await;
    let scene = Scene::new(&cluster);
    scene.apply(&fs::read_to_string(root().join("docs/examples/first.yaml")).unwrap());
    scene.reason("web", "Published").await;
    scene.map("web-eu", "values.yaml", "server: {port: 9443}");
    let second = wait_for("the second revision", || async {
        let status = &scene.get("dcfg", "web")["status"];
        if status["revision"] == 2 { Ok(status.clone()) } else { Err(status.to_string()) }
    });
    second.await.unwrap();
    let events = wait_for("the events", || async {
        let events = scene.kubectl(&["get", "events.events.k8s.io"]).map_err(|e| e.to_string())?;
        if events.matches("Published").count() >= 2 { Ok(events) } else { Err(events) }
    });
    events.await.unwrap();

    // It lists the pods of a selector, and gives its pods' account the right to read: a pod needs no more than that.
    let spec = HELLO.replace("}]}", "}], selector: {matchLabels: {app: hello}}, access: {serviceAccounts: [default]}}");
    scene.apply(&scene.config("hello", &spec));
    let pod = cluster.kubeconfig_of(&format!("{}:default", scene.namespace)).unwrap();
    let sidecar = scene.sidecar_as(&pod, "hello", &[]).await;
    sidecar.ready().await.unwrap();
    scene.file("hello/hello.yaml", "greeting: hello\n").await;
    assert_eq!(condition(&scene.get("dcfg", "hello"), "AccessGranted")["status"], "True");

    let operator = As::account(&cluster, ACCOUNT);
    for action in [
        "list nodes",
        "update nodes",
        "list namespaces",
        "create pods -A",
        "patch pods -A",
        "delete pods -A",
        "get pods --subresource=log -A",
        "create pods --subresource=exec -A",
        "create configmaps -A",
        "update configmaps -A",
        "create distributedconfigs -A",
        "update distributedconfigs -A",
        "patch distributedconfigs -A",
        "delete distributedconfigs -A",
        "delete configreplicas -A",
        "create serviceaccounts --subresource=token -A",
        "impersonate serviceaccounts -A",
        "create deployments -A",
        "create clusterroles",
        "update clusterrolebindings",
        "escalate roles -A",
        "bind roles -A",
        "bind clusterroles",
        "update customresourcedefinitions",
        "update validatingadmissionpolicies",
        "delete mutatingadmissionpolicies",
    ] {
        assert!(!operator.may(action), "the operator may {action}");
    }
    assert!(operator.may("create roles -A") && operator.may("list secrets -A"), "this sees what is allowed");
    // What it may give away ends where its own rights end.
    let role = |verb: &str, resource: &str| {
        let (verb, resource) = (format!("--verb={verb}"), format!("--resource={resource}"));
        operator.kubectl(&["-n", &scene.namespace, "create", "role", "gift", &verb, &resource, "--dry-run=server"])
    };
    role("get", "secrets").unwrap();
    let refused = role("get", "persistentvolumes").unwrap_err().to_string();
    assert!(refused.contains("attempting to grant RBAC permissions not currently held"), "{refused}");

    // `helm test`, whose pod is the sidecar with these rights and arguments.
    hooks_work(&cluster, &helm);

    // The switches give and take rights.
    install(&helm, &["upgrade"], &["--set", "nudge.enabled=true", "--set", "rbac.podAccess=false"]).unwrap();
    assert!(operator.may("patch pods -A") && !operator.may("create roles -A"));
}

/// What `helm test` does, with a process in the pod's place.
fn hooks_work(cluster: &Cluster, helm: &Helm) {
    let hooks = helm.run(&["get", "hooks", "quorate", "--namespace", NAMESPACE]).unwrap();
    let hooks: Vec<Value> = hooks.split("\n---").filter_map(|text| serde_yaml::from_str(text).ok()).collect();
    let pod = hooks.iter().find(|hook| hook["kind"] == "Pod").unwrap();
    for hook in hooks.iter().filter(|hook| hook["kind"] != "Pod" && !hook.is_null()) {
        let file = cluster.folder().join("hook.json");
        fs::write(&file, hook.to_string()).unwrap();
        cluster.kubectl(&["apply", "-f", &file.display().to_string()]).unwrap();
    }
    let files = tempfile::tempdir().unwrap();
    let (container, account) = (&pod["spec"]["containers"][0], pod["spec"]["serviceAccountName"].as_str().unwrap());
    let mut arguments: Vec<String> =
        container["args"].as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect();
    let directory = format!("--directory={}", files.path().display());
    arguments.iter_mut().filter(|word| word.starts_with("--directory=")).for_each(|word| word.clone_from(&directory));
    let output = Command::new(programs::path_of("quorate-sidecar").unwrap())
        .args(&arguments)
        .arg("--listen=127.0.0.1:0")
        .env("KUBECONFIG", cluster.kubeconfig_of(&format!("{NAMESPACE}:{account}")).unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read_to_string(files.path().join("quorate-test/works.yaml")).unwrap(), "works: true\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_roles_view_edit_and_admin_know_the_resources() {
    let (cluster, helm) = prepared().await;
    install(&helm, &["install"], &[]).unwrap();
    let scene = Scene::new(&cluster);
    for (role, user) in [("view", "vera"), ("edit", "ed"), ("admin", "ada")] {
        let (role, subject) = (format!("--clusterrole={role}"), format!("--user={user}"));
        scene.kubectl(&["create", "rolebinding", user, &role, &subject]).unwrap();
    }
    let [viewer, editor, admin] = ["vera", "ed", "ada"].map(|user| As::user(&cluster, user));
    let here = |action: &str| format!("{action} -n {}", scene.namespace);
    // The controller puts aggregated roles together.
    wait_for("the aggregation", || async {
        let all = admin.may(&here("create distributedconfigs")) && viewer.may(&here("get configreplicas"));
        if all { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await
    .unwrap();

    let manifest = cluster.folder().join("hello.yaml");
    fs::write(&manifest, scene.config("hello", HELLO)).unwrap();
    let manifest = manifest.display().to_string();
    let refused = viewer.kubectl(&["apply", "-f", &manifest]).unwrap_err().to_string();
    assert!(refused.contains("forbidden"), "{refused}");
    editor.kubectl(&["apply", "-f", &manifest]).unwrap();
    let seen = viewer.kubectl(&["-n", &scene.namespace, "get", "dcfg,crep", "-o", "name"]).unwrap();
    assert!(seen.contains("hello"), "{seen}");
    editor.kubectl(&["-n", &scene.namespace, "annotate", "dcfg", "hello", "quorate.io/abort=1"]).unwrap();

    for (who, action, may) in [
        (&viewer, "list distributedconfigs", true),
        (&viewer, "watch configreplicas", true),
        (&viewer, "update distributedconfigs", false),
        (&viewer, "delete distributedconfigs", false),
        (&viewer, "get secrets", false),
        (&editor, "patch distributedconfigs", true),
        (&editor, "delete configreplicas", true),
        (&editor, "create configreplicas", false),
        (&editor, "update configreplicas", false),
        (&editor, "update distributedconfigs --subresource=status", false),
        (&admin, "delete distributedconfigs", true),
        (&admin, "update distributedconfigs --subresource=status", false),
    ] {
        assert_eq!(who.may(&here(action)), may, "{:?} {action}", who.who);
    }
    let stranger = As::user(&cluster, "stranger");
    assert!(!stranger.may(&here("get distributedconfigs")) && !editor.may("list distributedconfigs -A"));
    editor.kubectl(&["-n", &scene.namespace, "delete", "dcfg", "hello"]).unwrap();
}

/// The versions of all that a release made: generations, where controllers write a status beside it.
fn versions(cluster: &Cluster, helm: &Helm) -> Vec<String> {
    let file = cluster.folder().join("release.yaml");
    fs::write(&file, helm.run(&["get", "manifest", "quorate", "--namespace", NAMESPACE]).unwrap()).unwrap();
    let listed = cluster.kubectl(&["get", "-f", &file.display().to_string(), "-o", "json"]).unwrap();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let version = |object: &Value| {
        let metadata = &object["metadata"];
        let version = metadata.get("generation").unwrap_or(&metadata["resourceVersion"]);
        format!("{} {} {} {version}", object["kind"], metadata["name"], metadata["uid"])
    };
    listed["items"].as_array().unwrap().iter().map(version).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_changes_what_was_asked_for_and_an_uninstall_keeps_what_is_the_users() {
    let (cluster, helm) = prepared().await;
    install(&helm, &["install"], &[]).unwrap();
    let mut running = operator(&cluster, &[]).await;
    let scene = Scene::new(&cluster);
    scene.apply(&scene.config("hello", HELLO));
    scene.reason("hello", "Published").await;

    // The same values: not one object is written.
    let before = versions(&cluster, &helm);
    assert!(before.len() > 10, "{before:?}");
    install(&helm, &["upgrade"], &[]).unwrap();
    assert_eq!(versions(&cluster, &helm), before);

    // Others, while somebody else has a field of the Deployment: it stays theirs.
    cluster.kubectl(&["-n", NAMESPACE, "annotate", "deployment", "quorate-operator", "example.com/note=mine"]).unwrap();
    install(&helm, &["upgrade"], &["--set", "operator.log.format=json", "--set", "networkPolicy.enabled=false"])
        .unwrap();
    let deployment =
        cluster.kubectl(&["-n", NAMESPACE, "get", "deployment", "quorate-operator", "-o", "json"]).unwrap();
    let deployment: Value = serde_json::from_str(&deployment).unwrap();
    assert_eq!(deployment["metadata"]["annotations"]["example.com/note"], "mine");
    assert!(deployment["spec"]["template"]["spec"]["containers"][0]["args"].to_string().contains("json"));
    assert!(!cluster.kubectl(&["-n", NAMESPACE, "get", "networkpolicy", "-o", "name"]).unwrap().contains("quorate"));

    // Back, as after an upgrade that went wrong.
    helm.run(&["rollback", "quorate", "1", "--namespace", NAMESPACE]).unwrap();
    assert!(cluster.kubectl(&["-n", NAMESPACE, "get", "networkpolicy", "-o", "name"]).unwrap().contains("quorate"));

    let head = |cluster: &Cluster| {
        let (namespace, path) = (scene.namespace.as_str(), "jsonpath={.metadata.uid} {.metadata.resourceVersion}");
        cluster.kubectl(&["-n", namespace, "get", "secret", "hello.quorate", "-o", path]).unwrap()
    };
    let published = head(&cluster);
    running.process.kill();
    helm.run(&["uninstall", "quorate", "--namespace", NAMESPACE, "--wait"]).unwrap();
    assert!(cluster.kubectl(&["-n", NAMESPACE, "get", "deployment", "quorate-operator"]).is_err());
    let left = cluster.kubectl(&["get", "clusterroles,clusterrolebindings,validatingadmissionpolicies", "-o", "name"]);
    assert!(!left.unwrap().contains("quorate"));
    assert_eq!(condition(&scene.get("dcfg", "hello"), "Ready")["reason"], "Published");
    assert_eq!(head(&cluster), published);

    // Once more, for that namespace only: the CRDs that stayed are taken over, and so is the config.
    let only = format!("operator.namespaces={{{}}}", scene.namespace);
    install(&helm, &["install"], &["--set", &only]).unwrap();
    let _running = operator(&cluster, &["--namespace", &scene.namespace]).await;
    scene.apply(&scene.config("hello", &HELLO.replace("greeting: hello", "greeting: again")));
    wait_for("the second revision", || async {
        let revision = &scene.get("dcfg", "hello")["status"]["revision"];
        if revision == 2 { Ok(()) } else { Err(revision.to_string()) }
    })
    .await
    .unwrap();
    let operator = As::account(&cluster, ACCOUNT);
    assert!(operator.may(&format!("list secrets -n {}", scene.namespace)));
    assert!(!operator.may("list secrets -n default") && !operator.may("list distributedconfigs -A"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_one_file_manifest_installs_by_kubectl() {
    let cluster = Cluster::with(Options { controller_manager: true, ..Options::default() }).await.unwrap();
    let output = Command::new(root().join("charts/manifest.sh")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.to_lowercase().contains("helm"), "it speaks of Helm");
    let file = cluster.folder().join("quorate.yaml");
    fs::write(&file, text).unwrap();
    cluster.kubectl(&["apply", "-f", &file.display().to_string()]).unwrap();
    // A second time, nothing is news: kubectl diff ends with 0.
    cluster.kubectl(&["diff", "-f", &file.display().to_string()]).unwrap();

    let _operator = operator(&cluster, &[]).await;
    let scene = Scene::new(&cluster);
    scene.apply(&scene.config("hello", HELLO));
    scene.reason("hello", "Published").await;
}
