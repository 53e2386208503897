//! `make demo`: what Quorate does, act by act, with the milliseconds measured; `ACT=quorum`: over three clusters. Ends with 1 if any of it
//! did not happen.

mod api;
mod clusters;
mod main_job;
mod pods;
mod reading;
mod rollouts;

use std::{future::Future, path::Path, process::ExitCode};

use anyhow::{Result, anyhow, bail};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use quorate_tests::{
    Cluster,
    cluster::{self, Options, root},
    process,
    programs::{self, Program},
};
use serde_json::json;
use tokio::time::Instant;

use crate::{main_job::MainJob, rollouts::Rollouts};

const NAMESPACE: &str = "quorate-demo";

#[tokio::main]
async fn main() -> ExitCode {
    let keep = std::env::var("KEEP").is_ok_and(|value| value == "1");
    let act = std::env::var("ACT").unwrap_or_default();
    let kubeconfig = std::env::var_os("KUBECONFIG").filter(|path| !path.is_empty());
    let result = match kubeconfig {
        _ if !["", "quorum"].contains(&act.as_str()) => {
            Err(anyhow!("there is no ACT={act}: leave it out, or say ACT=quorum"))
        }
        None if act == "quorum" && !keep => until_interrupted(Box::pin(clusters::play())).await,
        _ if act == "quorum" => {
            Err(anyhow!("ACT=quorum makes three control planes of its own: unset KUBECONFIG and KEEP"))
        }
        Some(_) if keep => Err(anyhow!("KEEP=1 is for the embedded control plane: unset KUBECONFIG")),
        Some(path) => on_given_cluster(Path::new(&path)).await,
        None => until_interrupted(Box::pin(on_own_cluster(keep))).await,
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
        let kubectl = format!("{} -n {NAMESPACE}", cluster.kubectl_path().display());
        println!("\nLeft running. To look around:\n");
        println!("  export KUBECONFIG={}", kubeconfig.display());
        println!("  {kubectl} get distributedconfigs,secrets,events");
        println!("  {kubectl} get configreplicas");
        println!("  {} -n {NAMESPACE} status shop", programs::path_of("kubectl-quorate")?.display());
        println!("  ls -la {0}/pod-a/web {0}/shop-0/shop\n", folder.display());
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

/// All acts, in order; what runs then.
async fn show(kubeconfig: &Path, target: &Path) -> Result<Vec<Program>> {
    let client = cluster::client(kubeconfig).await?;
    cluster::install_crds(&client).await?;
    println!("Starting the operator and two sidecars");
    let operator = programs::operator(kubeconfig, &["--namespace", NAMESPACE], &target.join("operator.log")).await?;
    operator.ready().await?;
    let mut programs = vec![operator];

    let (main_job, sidecars) = MainJob::start(&client, kubeconfig, target).await?;
    programs.extend(sidecars);
    main_job.first().await?;
    main_job.changed().await?;
    main_job.broken().await?;
    main_job.rolled_back().await?;
    main_job.explained().await?;

    let (rollouts, sidecars) = Rollouts::start(&client, kubeconfig, target).await?;
    programs.extend(sidecars);
    rollouts.by_steps().await?;
    rollouts.canary_comes_back().await?;
    rollouts.quorum_accepts().await?;
    rollouts.quorum_refuses().await?;
    println!("\nAll of it happened.");
    Ok(programs)
}
