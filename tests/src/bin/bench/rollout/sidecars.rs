//! A process of many sidecars.
//!
//! Each is what runs in a pod: its own client (so its own connections to the API server, by TLS), its
//! own directory, its own listener. What they share is the process: its threads, and the memory of
//! its code.

use std::{fs, future, path::Path};

use anyhow::{Context, Result, bail};
use clap::Parser;
use quorate_sidecar::options::Options;
use tokio::{net::TcpListener, task::JoinSet};

use super::NAMESPACE;

/// Runs the sidecars of these pods (`NAME=UID`) for ever.
pub async fn run(directory: &Path, pods: &[&str]) -> Result<()> {
    let mut sidecars = JoinSet::new();
    for pod in pods {
        let (name, uid) = pod.split_once('=').context("write NAME=UID")?;
        let files = directory.join(name);
        fs::create_dir(&files)?;
        let files = files.display().to_string();
        let words = ["quorate-sidecar", "--config", "web", "--namespace", NAMESPACE, "--directory", &files];
        let pod = ["--pod-name", name, "--pod-uid", uid, "--node-name", "node-a"];
        let options = Options::try_parse_from([&words[..], &pod].concat())?;
        sidecars.spawn(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            quorate_sidecar::run(quorate_sidecar::client().await?, options, listener, future::pending()).await
        });
    }
    match sidecars.join_next().await {
        Some(ended) => bail!("a sidecar ended: {:?}", ended?),
        None => bail!("no pods"),
    }
}
