//! Helm, and the chart.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};

use crate::{Cluster, cluster::root};

/// Helm's program, with the rights of a kubeconfig.
pub struct Helm {
    program: PathBuf,
    kubeconfig: Option<PathBuf>,
}

/// The chart's folder.
#[must_use]
pub fn chart() -> PathBuf {
    root().join("charts/quorate")
}

impl Helm {
    /// Builds it if need be. Without a kubeconfig it can render and lint.
    ///
    /// # Errors
    /// When it cannot be built.
    pub fn new(kubeconfig: Option<&Path>) -> Result<Self> {
        let output = Command::new(root().join("tests/helm.sh")).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
        let program = PathBuf::from(String::from_utf8(output.stdout)?.trim());
        Ok(Self { program, kubeconfig: kubeconfig.map(Path::to_owned) })
    }

    /// Runs it and returns its output.
    ///
    /// # Errors
    /// With what it said, when it fails.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let home = root().join("target/tools/helm");
        let mut command = Command::new(&self.program);
        // Nothing of the user's own Helm takes part.
        for (variable, folder) in [("CACHE", "cache"), ("CONFIG", "config"), ("DATA", "data")] {
            command.env(format!("HELM_{variable}_HOME"), home.join(folder));
        }
        command.env("KUBECONFIG", self.kubeconfig.as_deref().unwrap_or(Path::new("/dev/null")));
        let output = command.args(arguments).output()?;
        ensure!(
            output.status.success(),
            "helm {}: {}{}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Renders the chart as release `quorate` in namespace `quorate-system`.
    ///
    /// # Errors
    /// When it does not render.
    pub fn template(&self, arguments: &[&str]) -> Result<String> {
        let chart = chart().display().to_string();
        self.run(&[&["template", "quorate", &chart, "--namespace", "quorate-system"], arguments].concat())
    }
}

/// Applies some templates of the chart (`operator-rbac` and so on), rendered with these arguments of Helm.
///
/// # Errors
/// When they do not render, or the API server refuses them.
pub fn apply(cluster: &Cluster, templates: &[&str], arguments: &[&str]) -> Result<()> {
    let shown: Vec<String> =
        templates.iter().flat_map(|name| ["-s".to_owned(), format!("templates/{name}.yaml")]).collect();
    let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
    let file = cluster.folder().join("templates.yaml");
    fs::write(&file, Helm::new(None)?.template(&[arguments, &shown[..]].concat())?)?;
    cluster.kubectl(&["apply", "-f", &file.display().to_string()]).map(drop)
}

/// Gives the operator, as service account `quorate-system:quorate-operator`, the rights that the chart gives it, and no others.
///
/// # Errors
/// As for [`apply`].
pub fn give_operator_rights(cluster: &Cluster, arguments: &[&str]) -> Result<()> {
    cluster.kubectl(&["create", "namespace", "quorate-system"])?;
    apply(cluster, &["operator-serviceaccount", "operator-rbac"], arguments)
}
