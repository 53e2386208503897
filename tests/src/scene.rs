//! A test's own place in a cluster: a namespace, a directory, and what is done there.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
};

use serde_json::{Value, json};

use crate::{
    Cluster,
    programs::{self, Program},
    wait::wait_for,
};

/// A namespace, and a directory for sidecars.
pub struct Scene<'a> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// Its own namespace.
    pub namespace: String,
    directory: tempfile::TempDir,
}

impl<'a> Scene<'a> {
    /// A new one.
    pub fn new(cluster: &'a Cluster) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let namespace = format!("scene-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        cluster.kubectl(&["create", "namespace", &namespace]).unwrap();
        Self { cluster, namespace, directory: tempfile::tempdir().unwrap() }
    }

    /// Runs kubectl in the namespace.
    ///
    /// # Errors
    /// With what it said, when it fails.
    pub fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.cluster.kubectl(&[&["-n", &self.namespace], arguments].concat())
    }

    /// kubectl apply of a text into this namespace.
    ///
    /// # Errors
    /// With what it said.
    pub fn try_apply(&self, yaml: &str) -> Result<(), String> {
        self.kubectl_apply(&["-n", &self.namespace], yaml)
    }

    /// kubectl apply of a text.
    ///
    /// # Errors
    /// With what it said.
    pub fn kubectl_apply(&self, options: &[&str], yaml: &str) -> Result<(), String> {
        let mut child = Command::new(self.cluster.kubectl_path())
            .arg("--kubeconfig")
            .arg(self.cluster.kubeconfig(0))
            .args(["apply", "-f", "-"])
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(yaml.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }

    /// The same, which must succeed.
    pub fn apply(&self, yaml: &str) {
        self.try_apply(yaml).unwrap();
    }

    /// A ConfigMap of one key.
    pub fn map(&self, name: &str, key: &str, text: &str) {
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {key: text}
        });
        self.apply(&map.to_string());
    }

    /// The manifest of a config.
    #[must_use]
    pub fn config(&self, name: &str, spec: &str) -> String {
        format!(
            "apiVersion: quorate.io/v1alpha1\nkind: DistributedConfig\nmetadata: {{name: {name}, namespace: {}}}\nspec: {spec}\n",
            self.namespace
        )
    }

    /// An object; null if there is none.
    #[must_use]
    pub fn get(&self, resource: &str, name: &str) -> Value {
        self.kubectl(&["get", resource, name, "-o", "json"])
            .ok()
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default()
    }

    /// Waits until the present generation's Ready condition has this reason; its message.
    pub async fn reason(&self, name: &str, reason: &str) -> String {
        wait_for(&format!("{name} to be {reason}"), || async {
            let config = self.get("dcfg", name);
            let ready = condition(&config, "Ready");
            let current = config["status"]["observedGeneration"] == config["metadata"]["generation"];
            if current && ready["reason"] == reason {
                Ok(ready["message"].as_str().unwrap_or_default().to_owned())
            } else {
                Err(ready.to_string())
            }
        })
        .await
        .unwrap()
    }

    /// A sidecar, by the administrator's rights.
    pub async fn sidecar(&self, configs: &str, more: &[&str]) -> Program {
        self.sidecar_as(&self.cluster.kubeconfig(0), configs, more).await
    }

    /// A sidecar, by other rights.
    pub async fn sidecar_as(&self, kubeconfig: &Path, configs: &str, more: &[&str]) -> Program {
        let directory = self.directory.path().display().to_string();
        let arguments = ["--config", configs, "--namespace", &self.namespace, "--directory", &directory];
        let log = self.directory.path().join("sidecar.log");
        programs::sidecar(kubeconfig, &[&arguments[..], more].concat(), &log).await.unwrap()
    }

    /// A path below the directory.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    /// A pod as the API knows it: ready, with the label app. No kubelet runs it. Its uid.
    #[must_use]
    pub fn pod(&self, name: &str, app: &str) -> String {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": app}},
            "spec": {"containers": [{"name": "app", "image": "none"}]}
        });
        // Admission wants it; the controller manager, if there is one, may not have come to it.
        let _ = self.kubectl(&["create", "serviceaccount", "default"]);
        self.apply(&pod.to_string());
        self.ready(name, true);
        self.get("pod", name)["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    /// Sets the pod's Ready condition.
    pub fn ready(&self, pod: &str, ready: bool) {
        let value = if ready { "True" } else { "False" };
        let patch = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": value}]}});
        self.kubectl(&["patch", "pod", pod, "--subresource=status", "--type=merge", "-p", &patch.to_string()]).unwrap();
    }

    /// A sidecar of a pod of its own, whose files are below `name`.
    pub async fn pod_with_sidecar(&self, name: &str, config: &str, more: &[&str]) -> Program {
        let uid = self.pod(name, config);
        self.sidecar_of(name, &uid, config, more).await
    }

    /// A pod's sidecar.
    pub async fn sidecar_of(&self, pod: &str, uid: &str, config: &str, more: &[&str]) -> Program {
        let directory = self.path(pod);
        fs::create_dir_all(&directory).unwrap();
        let log = directory.join("sidecar.log");
        let directory = directory.display().to_string();
        let mut arguments = vec!["--config", config, "--namespace", &self.namespace, "--directory", &directory];
        arguments.extend(["--pod-name", pod, "--pod-uid", uid, "--node-name", "node-a"]);
        arguments.extend(more);
        programs::sidecar(&self.cluster.kubeconfig(0), &arguments, &log).await.unwrap()
    }

    /// Waits until something of a config is so; the config.
    pub async fn until(&self, name: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, || async {
            let config = self.get("dcfg", name);
            if is_so(&config) { Ok(config) } else { Err(config["status"].to_string()) }
        })
        .await
        .unwrap()
    }

    /// Waits until a file has this text.
    pub async fn file(&self, path: &str, text: &str) {
        wait_for(&format!("{path} to be {text:?}"), || async {
            let found = fs::read_to_string(self.path(path)).unwrap_or_default();
            if found == text { Ok(()) } else { Err(found) }
        })
        .await
        .unwrap();
    }
}

/// A condition of a config.
#[must_use]
pub fn condition(config: &Value, type_: &str) -> Value {
    let conditions = config["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|c| c["type"] == type_).unwrap_or_default()
}
