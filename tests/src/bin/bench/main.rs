//! `make bench`, or `bench PART`: each part on a control plane of its own.
//!
//! The rows of a part take turns, so that noise meets all of them. What sees and writes is a process
//! of its own in every row, as the operator and the sidecar are.

mod agreement;
mod counter;
mod handover;
mod memory;
mod objects;
mod pods;
mod propagation;
mod queue;
mod quorum;
mod results;
mod rollout;
mod timed;

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use kube::Client;
use quorate_tests::{
    Cluster,
    cluster::{Options, client},
    programs::{self, Program},
};
use tokio::time::timeout;

/// In this order.
const PARTS: [&str; 9] =
    ["propagation", "memory", "rollout", "pods", "counter", "queue", "handover", "quorum", "agreement"];
/// Every wait has its own limit; this one ends what none of them foresees.
const LIMIT: Duration = Duration::from_secs(20 * 60);

#[tokio::main]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => measure(&PARTS).await,
        [part] if PARTS.contains(&part) => measure(&[part]).await,
        // What the parts start.
        ["relay", kubeconfig] => propagation::relay(&client(Path::new(kubeconfig)).await?).await,
        ["mirror", kubeconfig, file] => propagation::mirror(client(Path::new(kubeconfig)).await?, file.as_ref()).await,
        ["sidecars", directory, ref pods @ ..] => rollout::sidecars::run(Path::new(directory), pods).await,
        ["watches", ref pods @ ..] => rollout::floor::run(pods).await,
        _ => bail!("usage: bench [{}]", PARTS.join(" | ")),
    }
}

async fn measure(parts: &[&str]) -> Result<()> {
    for &part in parts {
        let rows = async {
            match part {
                "propagation" => propagation::measure(&Ground::start(&[]).await?).await,
                "counter" => counter::measure().await,
                "queue" => queue::measure().await,
                "quorum" => quorum::measure().await,
                "agreement" => Box::pin(agreement::measure()).await,
                "handover" => handover::measure().await,
                "memory" => memory::measure(&Ground::start(&[]).await?).await,
                "pods" => Box::pin(pods::measure()).await,
                _ => rollout::measure(&mut Ground::start(&["--namespace", rollout::NAMESPACE]).await?).await,
            }
        };
        let rows = timeout(LIMIT, rows).await.with_context(|| format!("{part} has not ended"))?;
        let rows = rows.with_context(|| format!("bench {part}"))?;
        if rows.is_empty() {
            continue;
        }
        results::print(&rows);
        results::store(&rows)?;
    }
    println!("\n{}", results::path().display());
    Ok(())
}

/// What a part is measured on.
struct Ground {
    operator: Program,
    client: Client,
    cluster: Cluster,
}

impl Ground {
    async fn start(operator_arguments: &[&str]) -> Result<Self> {
        eprintln!("Starting etcd (with fsync) and kube-apiserver");
        let cluster = Cluster::with(Options { fsync: true, ..Options::default() }).await?;
        cluster.install_crds().await?;
        let kubeconfig = cluster.kubeconfig(0);
        let log = cluster.folder().join("operator.log");
        let operator = programs::operator(&kubeconfig, operator_arguments, &log).await?;
        operator.ready().await?;
        Ok(Self { operator, client: client(&kubeconfig).await?, cluster })
    }
}

/// As in a pod: the files are Secrets' content, so their volume is in memory (emptyDir, medium: Memory).
fn volume(cluster: &Cluster) -> Result<tempfile::TempDir> {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir_in(cluster.folder())).map_err(Into::into)
}
