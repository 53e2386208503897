//! The operator and the sidecar as users run them: processes.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::{process::Process, wait::wait_for};

/// A running operator or sidecar.
pub struct Program {
    /// The process.
    pub process: Process,
    /// Where it serves, as `host:port`.
    pub address: String,
}

/// The path of a built program: beside the running test or tool.
///
/// # Errors
/// When it is not built.
pub fn path_of(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let beside = own.parent().context("no folder")?;
    let folder = if beside.ends_with("deps") { beside.parent().context("no folder")? } else { beside };
    let path = folder.join(name);
    anyhow::ensure!(path.exists(), "{} is not built: cargo build --workspace", path.display());
    Ok(path)
}

/// Starts the operator and waits until it listens.
///
/// # Errors
/// When it does not.
pub async fn operator(kubeconfig: &Path, arguments: &[&str], log: &Path) -> Result<Program> {
    start("quorate-operator", kubeconfig, arguments, log).await
}

/// Starts a sidecar and waits until it listens.
///
/// # Errors
/// When it does not.
pub async fn sidecar(kubeconfig: &Path, arguments: &[&str], log: &Path) -> Result<Program> {
    start("quorate-sidecar", kubeconfig, arguments, log).await
}

async fn start(name: &str, kubeconfig: &Path, arguments: &[&str], log: &Path) -> Result<Program> {
    // The log may have an earlier run's lines.
    let _ = std::fs::remove_file(log);
    let mut words: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
    words.push("--listen=127.0.0.1:0".into());
    let environment = [("KUBECONFIG", kubeconfig.display().to_string())];
    let mut process = Process::start(&path_of(name)?, &words, &environment, log)?;
    let address = wait_for(&format!("{name} to listen"), || {
        let (output, ended) = (process.output(), process.ended());
        async move {
            let address = output.lines().find_map(|line| {
                let rest = line.split_once("address=")?.1;
                line.contains("listening").then(|| rest.split_whitespace().next().unwrap_or_default().to_owned())
            });
            match (address, ended) {
                (Some(address), _) => Ok(Ok(address)),
                (None, Some(status)) => Ok(Err(format!("it ended with {status}: {output}"))),
                (None, None) => Err("no line tells its address".into()),
            }
        }
    })
    .await?
    .map_err(anyhow::Error::msg)?;
    Ok(Program { process, address })
}

impl Program {
    /// GETs a path; status and body.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn get(&self, path: &str) -> Result<(u16, String)> {
        http_get(&self.address, path).await
    }

    /// Waits until /readyz is 200.
    ///
    /// # Errors
    /// With what it said last.
    pub async fn ready(&self) -> Result<()> {
        wait_for("/readyz", || async {
            match self.get("/readyz").await {
                Ok((200, _)) => Ok(()),
                Ok((_, body)) => Err(body),
                Err(error) => Err(error.to_string()),
            }
        })
        .await
    }
}

/// GETs a path from `host:port`; status and body.
///
/// # Errors
/// When there is no answer.
pub async fn http_get(address: &str, path: &str) -> Result<(u16, String)> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nhost: x\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).context("no HTTP status")?;
    Ok((status, answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned()))
}
