//! Helm, and the chart.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};

use crate::cluster::root;

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
