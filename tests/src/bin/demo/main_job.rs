//! `make demo`: the main job, with the milliseconds measured. Ends with 1 if any of it did not happen.

use std::{
    fs,
    future::Future,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
    core::{GroupVersionKind, TypeMeta},
    discovery::ApiResource,
};
use quorate_crds::{DistributedConfig, names};
use quorate_tests::{
    Cluster,
    cluster::{self, Options, root},
    files::moment,
    process,
    programs::{self, Program},
    wait::wait_for,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

const NAMESPACE: &str = "quorate-demo";

#[tokio::main]
async fn main() -> ExitCode {
    let keep = std::env::var("KEEP").is_ok_and(|value| value == "1");
    let result = match std::env::var_os("KUBECONFIG").filter(|path| !path.is_empty()) {
        Some(_) if keep => Err(anyhow!("KEEP=1 is for the embedded control plane: unset KUBECONFIG")),
        Some(path) => on_given_cluster(Path::new(&path)).await,
        None => until_interrupted(on_own_cluster(keep)).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("\nFAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Leaves nothing behind there but the CRDs.
async fn on_given_cluster(kubeconfig: &Path) -> Result<()> {
    println!("Using the cluster of KUBECONFIG={}", kubeconfig.display());
    let client = cluster::client(kubeconfig).await?;
    // From here on the namespace is this demo's own, to be deleted whatever happens.
    create_namespace(&client).await?;
    let folder = tempfile::tempdir()?;
    let result = until_interrupted(show(kubeconfig, folder.path())).await.map(drop);
    println!("\nDeleting namespace {NAMESPACE}");
    let namespaces: Api<Namespace> = Api::all(client);
    namespaces.delete(NAMESPACE, &DeleteParams::default()).await?;
    result
}

/// On a control plane that ends with the demo, unless all went well and it is to be kept.
async fn on_own_cluster(keep: bool) -> Result<()> {
    if keep {
        process::detach(root().join("target/demo.pids"));
    }
    println!("Starting etcd, kube-apiserver and kube-controller-manager on loopback");
    let start = Instant::now();
    let cluster = Cluster::with(Options { controller_manager: true, ..Options::default() }).await?;
    println!("  ready after {:.1} s", start.elapsed().as_secs_f64());
    let (kubeconfig, folder) = (cluster.kubeconfig(0), cluster.folder());
    create_namespace(&cluster.client().await?).await?;
    let programs = show(&kubeconfig, folder).await?;
    if keep {
        println!("\nLeft running. To look around:\n");
        println!("  export KUBECONFIG={}", kubeconfig.display());
        println!("  {} -n {NAMESPACE} get distributedconfigs,secrets,events", cluster.kubectl_path().display());
        println!("  ls -la {}/pod-a/web\n", folder.display());
        println!("`make demo-stop` ends it.");
        // What is dropped is ended and removed.
        std::mem::forget((cluster, programs));
    }
    Ok(())
}

/// Ctrl-C is a failure: what was started is ended, what was made is removed.
async fn until_interrupted<T>(demo: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        result = demo => result,
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
    }
}

async fn create_namespace(client: &Client) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": NAMESPACE}}))?;
    match namespaces.create(&PostParams::default(), &namespace).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {
            bail!("namespace {NAMESPACE} exists already, of an earlier demo perhaps: delete it, or wait for its end")
        }
        result => Ok(result.map(drop)?),
    }
}

/// A config, its sources and the two directories.
struct Demo {
    client: Client,
    pods: [PathBuf; 2],
}

async fn show(kubeconfig: &Path, target: &Path) -> Result<Vec<Program>> {
    let client = cluster::client(kubeconfig).await?;
    cluster::install_crds(&client).await?;
    println!("Starting the operator and two sidecars");
    let mut programs =
        vec![programs::operator(kubeconfig, &["--namespace", NAMESPACE], &target.join("operator.log")).await?];
    programs[0].ready().await?;
    let pods = ["pod-a", "pod-b"].map(|pod| target.join(pod));
    for pod in &pods {
        fs::create_dir_all(pod)?;
        let directory = pod.display().to_string();
        let arguments = ["--config", "web", "--namespace", NAMESPACE, "--directory", &directory];
        programs.push(programs::sidecar(kubeconfig, &arguments, &pod.join("sidecar.log")).await?);
    }
    let demo = Demo { client, pods };
    demo.first().await?;
    demo.changed().await?;
    demo.broken().await?;
    demo.rolled_back().await?;
    demo.explained().await?;
    Ok(programs)
}

impl Demo {
    async fn first(&self) -> Result<()> {
        println!("\n1. kubectl apply -f docs/examples/first.yaml: a first config becomes files");
        let text = fs::read_to_string(root().join("docs/examples/first.yaml"))?;
        for document in serde_yaml::Deserializer::from_str(&text) {
            let object = DynamicObject::deserialize(document)?;
            let kind = GroupVersionKind::try_from(object.types.clone().unwrap_or(TypeMeta::default()))?;
            let api: Api<DynamicObject> =
                Api::namespaced_with(self.client.clone(), NAMESPACE, &ApiResource::from_gvk(&kind));
            let applied = apply(&api, &object);
            if kind.kind == "DistributedConfig" {
                self.both(applied, "web/nginx.conf", "listen 0.0.0.0:8443;\n").await?;
            } else {
                applied.await?;
            }
        }
        for path in ["app/config.yaml", "nginx.conf"] {
            let text = fs::read_to_string(self.pods[0].join("web").join(path))?;
            println!("   {path:16} {}", text.trim_end().replace('\n', "\n                    "));
        }
        println!("   db.env           (mode 0440: it has a value from a Secret)");
        Ok(())
    }

    async fn changed(&self) -> Result<()> {
        println!("\n2. ConfigMap web-eu: port 9443. A changed layer becomes new files in both");
        self.both(self.layer("server: {port: 9443}"), "web/nginx.conf", "listen 0.0.0.0:9443;\n").await
    }

    async fn broken(&self) -> Result<()> {
        println!("\n3. ConfigMap web-eu: port 80. A broken change is refused; the last good files stay");
        let start = Instant::now();
        self.layer("server: {port: 80}").await?;
        let message = self.reason("ValidationFailed").await?;
        println!("   {:.1} ms: Ready=False, ValidationFailed: {message}", start.elapsed().as_secs_f64() * 1e3);
        ensure!(message.contains("the port must be above 1024"), "the reason is missing");
        for pod in &self.pods {
            let text = fs::read_to_string(pod.join("web/nginx.conf"))?;
            ensure!(text == "listen 0.0.0.0:9443;\n", "the last good files did not stay: {text}");
        }
        println!("   both still read: listen 0.0.0.0:9443;");
        Ok(())
    }

    async fn rolled_back(&self) -> Result<()> {
        println!("\n4. spec.pin.revision: 1. A roll-back, broken layer or not");
        let patch = json!({"spec": {"pin": {"revision": 1}}});
        let configs = self.configs();
        let pinned = async {
            configs.patch("web", &PatchParams::default(), &Patch::Merge(patch)).await?;
            Ok(())
        };
        self.both(pinned, "web/nginx.conf", "listen 0.0.0.0:8443;\n").await?;
        println!("   {}", self.reason("Pinned").await?);
        Ok(())
    }

    async fn explained(&self) -> Result<()> {
        println!("\n5. Who won each key");
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), NAMESPACE);
        let head = secrets.get(&names::head_name("web")).await?;
        let data = head.data.unwrap_or_default();
        let bytes = data.get(names::PROVENANCE_KEY).context("the head has no provenance")?;
        let provenance: Value = serde_json::from_slice(&bytes.0)?;
        let layer = |index: &Value| -> String {
            let index = index.as_u64().and_then(|index| usize::try_from(index).ok()).unwrap_or(usize::MAX);
            provenance["layers"][index].as_str().unwrap_or("?").to_owned()
        };
        let leaves = provenance["leaves"].as_object().context("no leaves")?;
        for (pointer, layers) in leaves {
            let layers: Vec<String> = layers.as_array().into_iter().flatten().map(layer).collect();
            let (winner, others) = layers.split_first().context("a leaf without a layer")?;
            let over = if others.is_empty() { String::new() } else { format!(", over {}", others.join(", ")) };
            println!("   {pointer:16} {winner}{over}");
        }
        let port = leaves.get("/server/port").context("no /server/port")?;
        ensure!(layer(&port[0]) == "region" && layer(&port[1]) == "base", "region should have won over base: {port}");
        println!("\nAll of it happened.");
        Ok(())
    }

    fn configs(&self) -> Api<DistributedConfig> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    async fn layer(&self, text: &str) -> Result<()> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), NAMESPACE);
        let patch = json!({"data": {"values.yaml": text}});
        maps.patch("web-eu", &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// Does it, and measures from its start until both directories show the text.
    async fn both(&self, change: impl Future<Output = Result<()>>, path: &str, text: &str) -> Result<()> {
        let start = Instant::now();
        let shown = async |pod: &PathBuf| {
            moment(&format!("{path} in {}", pod.display()), || {
                fs::read_to_string(pod.join(path)).is_ok_and(|t| t == text)
            })
            .await
        };
        let (a, b) = (shown(&self.pods[0]), shown(&self.pods[1]));
        let ((), a, b) = tokio::try_join!(change, a, b)?;
        let ms = |moment: Instant| moment.duration_since(start).as_secs_f64() * 1e3;
        println!("   {:.1} ms and {:.1} ms from the request to the files", ms(a), ms(b));
        Ok(())
    }

    /// Waits for Ready to have this reason; its message.
    async fn reason(&self, reason: &str) -> Result<String> {
        let configs = self.configs();
        wait_for(&format!("Ready to be {reason}"), || async {
            let config = configs.get("web").await.map_err(|error| error.to_string())?;
            let conditions = config.status.clone().unwrap_or_default().conditions;
            let ready = conditions.into_iter().find(|c| c.type_ == "Ready");
            match ready {
                Some(ready) if ready.reason == reason && ready.observed_generation == config.metadata.generation => {
                    Ok(ready.message)
                }
                other => Err(other.map_or("no condition yet".into(), |c| format!("{}: {}", c.reason, c.message))),
            }
        })
        .await
    }
}

async fn apply(api: &Api<DynamicObject>, object: &DynamicObject) -> Result<()> {
    api.patch(&object.name_any(), &PatchParams::apply("quorate-demo").force(), &Patch::Apply(object)).await?;
    Ok(())
}
