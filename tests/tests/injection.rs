//! Injection on a real API server: the chart's policy and the kubectl plugin give the same pod, and refuse the same
//! ones with the same words, for every pod of the table in `injection/`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    fs,
    io::Write,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use quorate_tests::{
    Cluster,
    cluster::{Options, root},
    helm::Helm,
    programs::path_of,
    wait::wait_for,
};
use serde_json::{Value, json};

/// Where the policy holds, since it holds where the operator serves.
const SHOP: &str = "shop";
/// Where it does not.
const ELSEWHERE: &str = "elsewhere";
/// Where the policy holds, and Pod Security enforces `restricted`.
const STRICT: &str = "strict";
/// The label of the parameters: their name changes with their content.
const PARAMETERS: &str = "app.kubernetes.io/component=injection";
const TEMPLATES: [&str; 3] = ["parameters", "mutation", "refusal"];

fn rendered(templates: &[&str], values: &[&str]) -> String {
    let shown: Vec<String> =
        templates.iter().flat_map(|name| ["-s".to_owned(), format!("templates/injection-{name}.yaml")]).collect();
    let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
    Helm::new(None).unwrap().template(&[&shown[..], values].concat()).unwrap()
}

/// A cluster with the chart's injection in two of three namespaces.
async fn cluster_with_injection(values: &[&str]) -> Cluster {
    let cluster = Cluster::with(Options { controller_manager: true, ..Options::default() }).await.unwrap();
    for namespace in ["quorate-system", SHOP, ELSEWHERE, STRICT] {
        cluster.kubectl(&["create", "namespace", namespace]).unwrap();
    }
    cluster.kubectl(&["label", "namespace", STRICT, "pod-security.kubernetes.io/enforce=restricted"]).unwrap();
    let served = format!("operator.namespaces={{{SHOP},{STRICT}}}");
    apply(&cluster, &rendered(&TEMPLATES, &[&["--set", &served], values].concat()));
    for namespace in [SHOP, ELSEWHERE, STRICT] {
        wait_for("the default service account", || async {
            cluster.kubectl(&["-n", namespace, "get", "serviceaccount", "default"]).map_err(|error| error.to_string())
        })
        .await
        .unwrap();
    }
    // The API server takes up new policies a moment later.
    wait_for("the mutation to be in force", || async {
        let pod = create(&cluster, SHOP, &pod("probe", &[("config", "web")]))?;
        if has_sidecar(&pod) { Ok(()) } else { Err("no sidecar".to_owned()) }
    })
    .await
    .unwrap();
    wait_for("the refusal to be in force", || async {
        create(&cluster, SHOP, &pod("probe", &[])).map_or_else(|_| Ok(()), |_| Err("it was admitted".to_owned()))
    })
    .await
    .unwrap();
    cluster
}

fn apply(cluster: &Cluster, manifests: &str) {
    let file = cluster.folder().join("applied.yaml");
    fs::write(&file, manifests).unwrap();
    cluster.kubectl(&["apply", "-f", &file.display().to_string()]).unwrap();
}

fn pod(name: &str, annotations: &[(&str, &str)]) -> String {
    let annotations: serde_json::Map<String, Value> =
        annotations.iter().map(|(name, value)| (format!("quorate.io/{name}"), (*value).into())).collect();
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"quorate.io/inject": "true"}, "annotations": annotations},
        "spec": {"containers": [{"name": "app", "image": "app"}]}})
    .to_string()
}

fn fed(mut command: Command, input: &str) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What the API server makes of a pod, without keeping it; or its refusal. What differs each time is left out.
fn create(cluster: &Cluster, namespace: &str, manifest: &str) -> Result<Value, String> {
    let mut kubectl = Command::new(cluster.kubectl_path());
    kubectl.arg("--kubeconfig").arg(cluster.kubeconfig(0)).args(["-n", namespace]);
    kubectl.args(["create", "--dry-run=server", "-o", "json", "-f", "-"]);
    let output = fed(kubectl, manifest);
    if !output.status.success() {
        return Err(text(&output.stderr).trim().to_owned());
    }
    let mut pod: Value = serde_json::from_slice(&output.stdout).unwrap();
    for field in ["uid", "creationTimestamp", "namespace"] {
        pod["metadata"].as_object_mut().unwrap().remove(field);
    }
    // The token's volume has a random name.
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let random = volumes.filter_map(|volume| volume["name"].as_str()).find(|name| name.starts_with("kube-api-access-"));
    match random.map(str::to_owned) {
        Some(random) => Ok(serde_json::from_str(&pod.to_string().replace(&random, "kube-api-access")).unwrap()),
        None => Ok(pod),
    }
}

/// What the plugin makes of a manifest; or what it says, and its exit code.
fn plugin(manifest: &str, options: &[&str]) -> Result<String, (Option<i32>, String)> {
    let mut plugin = Command::new(path_of("kubectl-quorate").unwrap());
    plugin.args(["inject", "-f", "-"]).args(options).env("KUBECONFIG", "/dev/null");
    let output = fed(plugin, manifest);
    if output.status.success() { Ok(text(&output.stdout)) } else { Err((output.status.code(), text(&output.stderr))) }
}

fn sidecar(pod: &Value) -> Option<&Value> {
    pod["spec"]["initContainers"].as_array()?.iter().find(|container| container["name"] == "quorate-sidecar")
}

fn has_sidecar(pod: &Value) -> bool {
    sidecar(pod).is_some()
}

/// The table: name, pod, and what is to become of it.
fn table() -> Vec<(String, String, Value)> {
    let folder = root().join("tests/injection");
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let row = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let (pod, expected) = text.split_once("\n---\n").unwrap();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        (name, format!("{pod}\n"), serde_yaml::from_str(expected).unwrap())
    };
    paths.into_iter().map(row).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_and_plugin_give_the_same_pod_and_the_same_refusals() {
    let cluster = cluster_with_injection(&[]).await;
    let (mut injected, mut untouched, mut refused) = (0, 0, 0);
    for (name, manifest, expected) in table() {
        let by_policy = create(&cluster, SHOP, &manifest);
        let by_plugin = plugin(&manifest, &[]);
        // The control: without the policy, nothing is injected or refused.
        let by_nobody = create(&cluster, ELSEWHERE, &manifest).unwrap();
        assert_eq!(has_sidecar(&by_nobody), name == "injected", "{name}");
        if let Some(problems) = expected["refused"].as_array() {
            let problems: Vec<&str> = problems.iter().map(|problem| problem.as_str().unwrap()).collect();
            let refusal = by_policy.unwrap_err();
            assert!(refusal.ends_with(&format!("denied request: {}", problems.join("; "))), "{name}: {refusal}");
            let (code, told) = by_plugin.unwrap_err();
            let told: Vec<&str> =
                told.lines().map(|line| line.splitn(2, &format!("Pod {name}: ")).last().unwrap()).collect();
            assert_eq!((code, told), (Some(3), problems), "{name}");
            refused += 1;
            continue;
        }
        let (by_policy, by_plugin) = (by_policy.unwrap(), by_plugin.unwrap());
        assert_eq!(by_policy, create(&cluster, ELSEWHERE, &expected.to_string()).unwrap(), "{name}");
        assert_eq!(by_policy, create(&cluster, ELSEWHERE, &by_plugin).unwrap(), "{name}");
        // What the plugin injected, the policy leaves alone.
        assert_eq!(by_policy, create(&cluster, SHOP, &by_plugin).unwrap(), "{name}");
        if by_policy == by_nobody { untouched += 1 } else { injected += 1 }
    }
    assert!(injected >= 12 && untouched >= 3 && refused >= 12, "{injected} {untouched} {refused}");

    // What the table has no room for: the most that a pod may be.
    let items = |count: usize, item: &dyn Fn(usize) -> Value| (0..count).map(item).collect::<Value>();
    let container = |n: usize| {
        json!({"name": format!("c{n}"), "image": "app", "volumeMounts": items(60, &|v| {
            json!({"name": format!("v{v}"), "mountPath": format!("/var/lib/application/data/{v}")})
        })})
    };
    let configs: Vec<String> = (0..50).map(|n| format!("config-{n}")).collect();
    let mut large: Value = serde_json::from_str(&pod("large", &[("config", &configs.join(","))])).unwrap();
    large["spec"]["containers"] = items(40, &container);
    large["spec"]["initContainers"] = items(40, &|n| container(40 + n));
    large["spec"]["volumes"] = items(60, &|v| json!({"name": format!("v{v}"), "emptyDir": {}}));
    let by_policy = create(&cluster, SHOP, &large.to_string()).unwrap();
    let by_plugin = plugin(&large.to_string(), &[]).unwrap();
    assert!(has_sidecar(&by_policy));
    assert_eq!(by_policy, create(&cluster, ELSEWHERE, &by_plugin).unwrap());

    // Pod Security's strictest level admits an application that keeps to it, with its sidecar; the control is one
    // that does not.
    let (_, restricted, _) = table().into_iter().find(|(name, ..)| name == "security-context").unwrap();
    assert!(has_sidecar(&create(&cluster, STRICT, &restricted).unwrap()));
    let refusal = create(&cluster, STRICT, &pod("loose", &[("config", "web")])).unwrap_err();
    assert!(refusal.contains("PodSecurity") && !refusal.contains("quorate-sidecar"), "{refusal}");

    // The pods of a workload are made by a controller, with or without the plugin's help.
    let deployment = |name: &str| {
        let template: Value = serde_json::from_str(&pod("template", &[("config", "web")])).unwrap();
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": SHOP},
            "spec": {"selector": {"matchLabels": {"app": name}}, "template": {"spec": template["spec"], "metadata": {
                "labels": {"app": name, "quorate.io/inject": "true"},
                "annotations": template["metadata"]["annotations"]}}}})
        .to_string()
    };
    apply(&cluster, &deployment("by-policy"));
    apply(&cluster, &plugin(&deployment("by-plugin"), &[]).unwrap());
    let mut sidecars = Vec::new();
    for name in ["by-policy", "by-plugin"] {
        let pod = wait_for("the deployment's pod", || async {
            let pods = cluster.kubectl(&["-n", SHOP, "get", "pods", "-l", &format!("app={name}"), "-o", "json"]);
            let pods: Value = serde_json::from_str(&pods.map_err(|error| error.to_string())?).unwrap();
            pods["items"].get(0).cloned().ok_or_else(|| "there is none".to_owned())
        })
        .await
        .unwrap();
        sidecars.push(sidecar(&pod).cloned().unwrap());
    }
    assert_eq!(sidecars[0], sidecars[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_labelled_pod_is_refused_when_it_cannot_get_its_sidecar_and_no_other_is() {
    let values = ["--set", "sidecar.image.tag=v9,injection.defaults.order=last,injection.defaults.cpu-limit=250m"];
    let cluster = cluster_with_injection(&values).await;

    // The plugin takes the installation's parameters from the ConfigMap, or from all that Helm renders.
    let parameters = cluster.folder().join("parameters.yaml");
    let read = ["-n", "quorate-system", "get", "configmap", "-l", PARAMETERS, "-o", "yaml"];
    fs::write(&parameters, cluster.kubectl(&read).unwrap()).unwrap();
    let manifest = pod("web", &[("config", "web"), ("memory-limit", "80Mi")]);
    let by_policy = create(&cluster, SHOP, &manifest).unwrap();
    let by_plugin = plugin(&manifest, &["--params", &parameters.display().to_string()]).unwrap();
    assert_eq!(by_policy, create(&cluster, ELSEWHERE, &by_plugin).unwrap());
    let of_sidecar = sidecar(&by_policy).unwrap();
    assert_eq!(
        (&of_sidecar["image"], &of_sidecar["resources"]["limits"]),
        (&json!("quorate/quorate-sidecar:v9"), &json!({"cpu": "250m", "memory": "80Mi"}))
    );
    fs::write(&parameters, rendered(&TEMPLATES, &values)).unwrap();
    assert_eq!(plugin(&manifest, &["--params", &parameters.display().to_string()]).unwrap(), by_plugin);
    // Without them, they are those of the chart's own values.
    fs::write(&parameters, rendered(&["parameters"], &[])).unwrap();
    let by_default = plugin(&manifest, &[]).unwrap();
    assert_eq!(plugin(&manifest, &["--params", &parameters.display().to_string()]).unwrap(), by_default);
    assert_ne!(by_default, by_plugin);

    let refused = |what: &'static str| {
        let (cluster, manifest) = (&cluster, &manifest);
        async move {
            wait_for(what, || async {
                match create(cluster, SHOP, manifest) {
                    Err(refusal) if refusal.contains(what) => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })
            .await
            .unwrap();
            let unlabelled = manifest.replace("quorate.io/inject", "app");
            assert!(!has_sidecar(&create(cluster, SHOP, &unlabelled).unwrap()));
        }
    };
    cluster.kubectl(&["-n", "quorate-system", "delete", "configmap", "-l", PARAMETERS]).unwrap();
    refused("no params found for policy binding").await;
    apply(&cluster, &rendered(&["parameters"], &values));
    cluster.kubectl(&["delete", "mutatingadmissionpolicybinding", "quorate-injection"]).unwrap();
    refused("the pod has the label quorate.io/inject, but no sidecar: is there the MutatingAdmissionPolicy").await;
    // The plugin's own are admitted even then.
    create(&cluster, SHOP, &by_plugin).unwrap();

    // Installed again, also the third time, it goes by its new values: an API server that has forgotten all policies
    // with parameters does not watch these any more when it gets new ones.
    for tag in ["v10", "v11", "v12"] {
        let values = ["--set", &format!("sidecar.image.tag={tag}")];
        for kinds in [
            "mutatingadmissionpolicies,mutatingadmissionpolicybindings",
            "validatingadmissionpolicies,validatingadmissionpolicybindings",
        ] {
            cluster.kubectl(&["delete", kinds, "-l", "app.kubernetes.io/name=quorate"]).unwrap();
        }
        cluster.kubectl(&["-n", "quorate-system", "delete", "configmap", "-l", PARAMETERS]).unwrap();
        wait_for("nobody to inject or refuse", || async {
            if has_sidecar(&create(&cluster, SHOP, &manifest)?) { Err("there is a sidecar".to_owned()) } else { Ok(()) }
        })
        .await
        .unwrap();
        apply(&cluster, &rendered(&TEMPLATES, &values));
        wait_for("the new image", || async {
            let pod = create(&cluster, SHOP, &manifest)?;
            let image = sidecar(&pod).map(|sidecar| sidecar["image"].clone());
            if image == Some(format!("quorate/quorate-sidecar:{tag}").into()) {
                Ok(())
            } else {
                Err(format!("{image:?}"))
            }
        })
        .await
        .unwrap();
    }
}
