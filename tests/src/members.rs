//! Several control planes, each with an operator, that are the members of one ClusterSet.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};
use futures::future::try_join_all;
use serde_json::{Value, json};

use crate::{
    Cluster,
    cluster::Options,
    helm,
    programs::{self, Program},
};

/// What the members are called.
pub const NAMES: [&str; 3] = ["eu", "us", "asia"];
/// The name of their set.
pub const SET: &str = "world";

/// One of them.
pub struct Member {
    /// Its name.
    pub name: &'static str,
    /// Its control plane.
    pub cluster: Cluster,
    /// Its operator.
    pub operator: Program,
    /// The others' way to it: a kubeconfig with all that it needs in it.
    pub way: String,
}

impl Member {
    /// All with an administrator's rights.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn start(name: &'static str) -> Result<Self> {
        let cluster = Cluster::with(Options::default()).await?;
        cluster.install_crds().await?;
        let admin = cluster.kubeconfig(0);
        Self::with(name, cluster, &admin, &admin).await
    }

    /// The operator with the rights that the chart gives it; the others with those that docs/quorum.md tells to give them; under the
    /// chart's policies.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn with_the_charts_rights(name: &'static str) -> Result<Self> {
        let cluster = Cluster::with(Options::default()).await?;
        cluster.install_crds().await?;
        helm::give_operator_rights(&cluster, &[])?;
        helm::apply(&cluster, &["policy-heads", "policy-references", "users-coordination"], &[])?;
        cluster.kubectl(&["create", "serviceaccount", "members"])?;
        for namespace in ["default", "kube-system"] {
            let words = ["create", "rolebinding", "members", "--clusterrole=quorate-members"];
            let more = ["--serviceaccount=default:members", "--namespace", namespace];
            cluster.kubectl(&[&words[..], &more].concat())?;
        }
        let operator = cluster.kubeconfig_of("quorate-system:quorate-operator")?;
        let others = cluster.kubeconfig_of("default:members")?;
        Self::with(name, cluster, &operator, &others).await
    }

    async fn with(name: &'static str, cluster: Cluster, operator: &Path, others: &Path) -> Result<Self> {
        let operator = programs::operator(operator, &[], &cluster.folder().join("operator.log")).await?;
        operator.ready().await?;
        let way = flattened(&cluster, others)?;
        Ok(Self { name, cluster, operator, way })
    }

    /// kubectl apply.
    ///
    /// # Errors
    /// With what it said.
    pub fn apply(&self, object: &Value) -> Result<()> {
        let file = self.cluster.folder().join("object.json");
        fs::write(&file, object.to_string())?;
        self.cluster.kubectl(&["apply", "-f", &file.display().to_string()]).map(drop)
    }

    /// An object of namespace default; null if there is none.
    #[must_use]
    pub fn get(&self, kind: &str, name: &str) -> Value {
        let text = self.cluster.kubectl(&["get", kind, name, "-o", "json"]).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }
}

/// Makes the set in each of them.
///
/// # Errors
/// When it is refused.
pub fn introduce(members: &[Member]) -> Result<()> {
    for own in members {
        for other in members.iter().filter(|other| other.name != own.name) {
            own.apply(&secret(&format!("cluster-{}", other.name), "kubeconfig", &other.way))?;
        }
        name_members(own, &members.iter().map(|member| member.name).collect::<Vec<_>>())?;
    }
    Ok(())
}

/// Says in one of them who the members of the set are.
///
/// # Errors
/// When it is refused.
pub fn name_members(own: &Member, names: &[&str]) -> Result<()> {
    let each = names.iter().map(|name| {
        if *name == own.name {
            json!({"name": name, "self": true})
        } else {
            json!({"name": name, "kubeconfigSecretRef": {"name": format!("cluster-{name}")}})
        }
    });
    own.apply(&cluster_set(SET, &each.collect()))
}

/// Members that know each other, with an administrator's rights.
///
/// # Errors
/// When something does not start.
pub async fn world() -> Result<Vec<Member>> {
    let members = try_join_all(NAMES.map(Member::start)).await?;
    introduce(&members)?;
    Ok(members)
}

/// A kubeconfig with its certificates in it.
///
/// # Errors
/// When kubectl cannot read it.
pub fn flattened(cluster: &Cluster, kubeconfig: &Path) -> Result<String> {
    let view = ["config", "view", "--flatten", "--minify", "--raw", "--kubeconfig"];
    let mut command = Command::new(cluster.kubectl_path());
    let output = command.args(view).arg(kubeconfig).stderr(Stdio::inherit()).output()?;
    String::from_utf8(output.stdout).context("no text")
}

/// A ClusterSet with these members.
#[must_use]
pub fn cluster_set(name: &str, members: &Value) -> Value {
    json!({
        "apiVersion": "quorate.io/v1alpha1", "kind": "ClusterSet", "metadata": {"name": name}, "spec": {"members": members}
    })
}

/// A Secret of one key.
#[must_use]
pub fn secret(name: &str, key: &str, text: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {key: text}})
}
