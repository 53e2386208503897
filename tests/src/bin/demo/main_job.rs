//! The main job: a config becomes files, a change reaches them, what is broken does not.

use std::{
    fs,
    future::Future,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use quorate_crds::names;
use quorate_tests::{
    files::moment,
    programs::{self, Program},
    wait::wait_for,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{NAMESPACE, api};

/// A config, its sources and the two directories.
pub struct MainJob {
    client: Client,
    pods: [PathBuf; 2],
}

impl MainJob {
    /// Two sidecars.
    pub async fn start(client: &Client, kubeconfig: &Path, target: &Path) -> Result<(Self, Vec<Program>)> {
        let pods = ["pod-a", "pod-b"].map(|pod| target.join(pod));
        let mut sidecars = Vec::new();
        for pod in &pods {
            fs::create_dir_all(pod)?;
            let directory = pod.display().to_string();
            let arguments = ["--config", "web", "--namespace", NAMESPACE, "--directory", &directory];
            sidecars.push(programs::sidecar(kubeconfig, &arguments, &pod.join("sidecar.log")).await?);
        }
        Ok((Self { client: client.clone(), pods }, sidecars))
    }

    pub async fn first(&self) -> Result<()> {
        println!("\n1. kubectl apply -f docs/examples/first.yaml: a first config becomes files");
        for object in api::objects("docs/examples/first.yaml")? {
            let applied = api::apply(&self.client, &object);
            if object.types.as_ref().is_some_and(|types| types.kind == "DistributedConfig") {
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

    pub async fn changed(&self) -> Result<()> {
        println!("\n2. ConfigMap web-eu: port 9443. A changed layer becomes new files in both");
        self.both(self.layer("server: {port: 9443}"), "web/nginx.conf", "listen 0.0.0.0:9443;\n").await
    }

    pub async fn broken(&self) -> Result<()> {
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

    pub async fn rolled_back(&self) -> Result<()> {
        println!("\n4. spec.pin.revision: 1. A roll-back, broken layer or not");
        let pinned = api::change(&self.client, "web", json!({"pin": {"revision": 1}}));
        self.both(pinned, "web/nginx.conf", "listen 0.0.0.0:8443;\n").await?;
        println!("   {}", self.reason("Pinned").await?);
        Ok(())
    }

    pub async fn explained(&self) -> Result<()> {
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
        Ok(())
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
        let configs = api::configs(&self.client);
        wait_for(&format!("Ready to be {reason}"), || async {
            match api::ready(&configs.get("web").await.map_err(|error| error.to_string())?) {
                Some(ready) if ready.reason == reason => Ok(ready.message),
                other => Err(other.map_or("no condition yet".into(), |c| format!("{}: {}", c.reason, c.message))),
            }
        })
        .await
    }
}
