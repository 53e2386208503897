//! Quorate's sidecar: `follow -> publish -> notify -> report`, and serve.

pub mod api;
pub mod backoff;
pub mod candidate;
pub mod disk;
pub mod events;
pub mod follow;
pub mod freshness;
pub mod health;
pub mod hooks;
pub mod metrics;
pub mod mirror;
pub mod notify;
pub mod options;
pub mod publish;
pub mod readings;
pub mod report;
mod serve;
pub mod target;
pub mod word;

use std::{collections::BTreeSet, future, sync::Arc, time::Duration};

use anyhow::Context;
use kube::Client;
use quorate_coordination::{Boottime, Clock, Hlc, Lamport};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

use api::{
    Api,
    backend::Objects,
    listen::{Address, Listener},
};
use disk::{Disk, RealDisk};
use follow::Follower;
use mirror::Mirror;
use notify::Notifier;
use options::Options;
use publish::Publisher;
use report::Reporter;

/// What all parts of a running sidecar share.
pub struct Shared {
    /// The command line.
    pub options: Options,
    /// What is measured.
    pub metrics: metrics::Metrics,
    /// Whether it is well.
    pub health: health::Health,
    /// The pod's Lamport clock.
    pub lamport: Arc<Lamport>,
    /// Its hybrid logical clock.
    pub hlc: Arc<Hlc>,
    /// What the application may want to hear of.
    pub events: events::Events,
    /// Readings that somebody waits for.
    pub readings: readings::Readings,
}

impl Shared {
    /// Of a sidecar that starts now; its knowledge ages by this clock.
    #[must_use]
    pub fn new(options: Options, clock: Arc<dyn Clock>) -> Self {
        let health = health::Health::new(&options.config, clock);
        let readings = readings::Readings::new(&options.config);
        let (metrics, events) = (metrics::Metrics::default(), events::Events::default());
        Self { options, metrics, health, lamport: Arc::default(), hlc: Arc::default(), events, readings }
    }

    /// What Prometheus reads.
    #[must_use]
    pub fn metrics(&self) -> String {
        for (config, age, stale) in self.health.ages() {
            self.metrics.aged(&config, age, stale);
        }
        self.metrics.text()
    }

    /// Whether it says what it runs. With `--once` it would be out of date at once, and a program that is
    /// no pod has nobody to speak for.
    #[must_use]
    pub fn reports(&self) -> bool {
        !self.options.once && !self.options.pod_name.is_empty() && !self.options.pod_uid.is_empty()
    }

    /// What tells one sidecar's random choices for a config from all others'.
    #[must_use]
    pub fn seed(&self, config: &str) -> String {
        format!("{}/{config}", self.options.pod_uid)
    }
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
    let shared = Arc::new(Shared::new(options, Arc::new(Boottime)));
    let address = listener.local_addr()?;
    let (pod, uid) = (&shared.options.pod_name, &shared.options.pod_uid);
    tracing::info!(%address, pod, uid, configs = ?shared.options.config, "listening");
    if !shared.reports() && !shared.options.once {
        tracing::info!("POD_NAME and POD_UID are not set: what is run here is not reported, and it has no vote");
    }
    // Of an init container, which ends soon, nobody asks anything.
    let api = match shared.options.api.as_ref().filter(|_| !shared.options.once) {
        Some(address) => Some(local_api(&shared, client.clone(), address).await?),
        None => None,
    };
    let mut tasks = JoinSet::new();
    // A config that is named twice has one directory all the same.
    for config in shared.options.config.iter().collect::<BTreeSet<_>>() {
        start(&shared, client.clone(), config, RealDisk, &mut tasks);
    }
    let all_ended = async {
        while let Some(ended) = tasks.join_next().await {
            // Not the error itself: it has the text of the panic.
            anyhow::ensure!(ended.is_ok(), "a part of the sidecar failed, which is a defect: it ends");
        }
        Ok(())
    };
    let asked = async {
        match &api {
            Some((listener, api)) => api::listen::serve(listener, &api.router()).await,
            None => future::pending().await,
        }
    };
    let ended = tokio::select! {
        () = asked => Ok(()),
        served = async { axum::serve(listener, serve::routes(Arc::clone(&shared))).await } => Ok(served?),
        ended = all_ended => ended,
        () = shutdown => {
            tracing::info!("ending");
            Ok(())
        }
    };
    if let Some((_, api)) = &api {
        api.close().await;
    }
    ended
}

/// The local API, and where it listens.
async fn local_api(
    shared: &Arc<Shared>,
    client: Client,
    address: &Address,
) -> anyhow::Result<(Listener, Arc<Api<Objects>>)> {
    let listener = api::listen::bind(address).await?;
    let session = api::session(shared).context("there is no randomness")?;
    let objects = Objects { client, namespace: shared.options.namespace.clone() };
    Ok((listener, Api::new(Arc::clone(shared), objects, session)))
}

/// Starts all that one config needs, as tasks that end with it.
pub fn start<D: Disk + Send + Sync + 'static>(
    shared: &Arc<Shared>,
    client: Client,
    config: &str,
    disk: D,
    tasks: &mut JoinSet<()>,
) {
    let publisher = Arc::new(Publisher::new(disk, shared.options.directory.join(config)));
    let (shown, news) = watch::channel(None);
    let mirror = Mirror::new(Arc::clone(shared), config.to_owned(), Arc::clone(&publisher), shown);
    tasks.spawn(Notifier { shared: Arc::clone(shared), config: config.to_owned(), publisher, news }.run());
    let ((words, said), (birth, born)) = (watch::channel(None), watch::channel(None));
    if shared.reports() {
        tasks.spawn(Reporter::new(Arc::clone(shared), client.clone(), config, said, birth).run());
    }
    tasks.spawn(Follower::new(Arc::clone(shared), client, config, mirror, words, born).run());
}
