//! Quorate's sidecar: `follow -> publish -> notify -> report`, and serve.

pub mod disk;
pub mod follow;
pub mod health;
pub mod hooks;
pub mod metrics;
pub mod options;
pub mod publish;
mod serve;

use std::{future::Future, sync::Arc, time::Duration};

use kube::Client;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

use options::Options;

/// What all parts of a running sidecar share.
pub struct Shared {
    /// The command line.
    pub options: Options,
    /// What is measured.
    pub metrics: metrics::Metrics,
    /// Whether it is well.
    pub health: health::Health,
}

/// A client that obeys what every call obeys.
///
/// # Errors
/// When there is neither a KUBECONFIG nor a service account, or TLS cannot be set up.
pub async fn client() -> anyhow::Result<Client> {
    let mut config = kube::Config::infer().await?;
    config.default_retry = false;
    // The follow loop notices silence itself; this ends the dead connection below it.
    config.read_timeout = Some(Duration::from_secs(100));
    config.disable_compression = true;
    Ok(Client::try_from(config)?)
}

/// Runs the sidecar until `shutdown`, or with `--once` until every config is published.
///
/// # Errors
/// When the listener or a follower fails.
pub async fn run(
    client: Client,
    options: Options,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let health = health::Health::new(&options.config);
    let shared = Arc::new(Shared { options, metrics: metrics::Metrics::default(), health });
    let address = listener.local_addr()?;
    let (pod, uid) = (&shared.options.pod_name, &shared.options.pod_uid);
    tracing::info!(%address, pod, uid, configs = ?shared.options.config, "listening");
    let mut followers = JoinSet::new();
    let mut notifiers = JoinSet::new();
    for config in &shared.options.config {
        let (sender, receiver) = watch::channel(None);
        let follower = follow::Follower::new(Arc::clone(&shared), client.clone(), config, sender);
        notifiers.spawn(follow::notify(Arc::clone(&shared), config.clone(), receiver));
        followers.spawn(follower.run());
    }
    let all_followed = async {
        while let Some(ended) = followers.join_next().await {
            ended?;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        served = async { axum::serve(listener, serve::routes(Arc::clone(&shared))).await } => Ok(served?),
        ended = all_followed => ended,
        () = shutdown => {
            tracing::info!("ending");
            Ok(())
        }
    }
}
