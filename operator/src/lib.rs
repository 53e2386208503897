//! Quorate's operator: it resolves `DistributedConfig` objects into heads.
//!
//! `dereference -> resolve -> decide -> apply -> report`, one module a step; only the first and the
//! fourth touch the API. It is level-triggered: a run depends on what is there, not on what happened.

pub mod access;
pub mod agreement;
pub mod api;
pub mod apply;
pub mod candidate;
pub mod clusters;
pub mod decide;
pub mod dereference;
pub mod gates;
pub mod guarded;
pub mod health;
mod key;
pub mod leader;
pub mod locks;
pub mod log;
pub mod metrics;
pub mod nudge;
pub mod options;
pub mod population;
pub mod proof;
pub mod queue;
pub mod readiness;
pub mod reconcile;
pub mod report;
pub mod rollout;
mod serve;
pub mod state;
pub mod watch;

use std::{collections::HashMap, future::Future, sync::Arc, time::Duration};

use kube::Client;
use quorate_coordination::{Session, queue::janitor};
use tokio::{net::TcpListener, task::JoinSet};

pub use key::Key;

/// How many configs are worked on at a time.
const RUNS: usize = 8;
/// The main loop turns at least this often.
const TURN: Duration = Duration::from_secs(5);
/// The first and the longest wait after a failed run.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// The parts of a running operator.
pub struct Operator {
    /// The way to the API server.
    pub client: Client,
    /// The namespaces served; none is all.
    pub namespaces: Vec<String>,
    /// What is known.
    pub state: state::State,
    /// What is measured.
    pub metrics: metrics::Metrics,
    /// Whether it is well.
    pub health: health::Health,
    /// Asks a Canary's gates.
    pub gates: gates::Asker,
    /// Whether pods that mount a head as a plain volume are told when it moved.
    pub nudges: bool,
    /// The ClusterSets.
    pub clusters: clusters::Clusters,
    /// What they decide on.
    pub agreements: agreement::Agreements,
}

/// What an operator is told to do.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The namespaces to serve; none is all.
    pub namespaces: Vec<String>,
    /// Whether pods that mount a head as a plain volume are told when it moved.
    pub nudges: bool,
    /// How one of several operators is elected to write; none if there is one only.
    pub election: Option<leader::Election>,
}

impl From<Vec<String>> for Settings {
    fn from(namespaces: Vec<String>) -> Self {
        Self { namespaces, ..Self::default() }
    }
}

impl Operator {
    /// Whether a namespace is one that it was told to serve.
    #[must_use]
    pub fn serves(&self, namespace: &str) -> bool {
        self.namespaces.is_empty() || self.namespaces.iter().any(|served| served == namespace)
    }
}

/// A client that obeys what every call obeys: no hidden retries, and no connection that is silent for ever.
///
/// # Errors
/// When there is neither a KUBECONFIG nor a service account, or TLS cannot be set up.
pub async fn client() -> anyhow::Result<Client> {
    let mut config = kube::Config::infer().await?;
    config.default_retry = false;
    // Bookmarks come every minute: a watch that is silent for longer is dead.
    config.read_timeout = Some(Duration::from_secs(90));
    // Compressing each watch event costs more than it saves on a cluster's network.
    config.disable_compression = true;
    Ok(Client::try_from(config)?)
}

/// Runs the operator until `shutdown`.
///
/// # Errors
/// When the listener fails, or it does not lead any more: what it remembers may be old then, so it begins anew.
pub async fn run(
    client: Client,
    settings: impl Into<Settings>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let Settings { namespaces, nudges, election } = settings.into();
    let leader = Arc::new(leader::Leader::default());
    let operator = Arc::new(Operator {
        client: if election.is_some() { leader::guarded(&client, &leader) } else { client.clone() },
        state: state::State::default(),
        gates: gates::Asker::default(),
        metrics: metrics::Metrics::default(),
        health: health::Health::new(watch::names_of(&namespaces)),
        namespaces,
        nudges,
        clusters: clusters::Clusters::default(),
        agreements: agreement::Agreements::default(),
    });
    tracing::info!(address = %listener.local_addr()?, "listening");
    let routes = serve::routes(Arc::clone(&operator));
    tokio::select! {
        served = async { axum::serve(listener, routes).await } => Ok(served?),
        () = watch::follow(Arc::clone(&operator)) => Ok(()),
        // Also who does not lead: the lock may be the leader's.
        () = Box::pin(locks::follow(&client, &operator)) => Ok(()),
        ended = Box::pin(lead(client.clone(), &operator, &leader, election.as_ref())) => ended,
        () = shutdown => {
            tracing::info!("ending");
            leader.resign().await;
            Ok(())
        }
    }
}

/// Works, as long as it leads; without an election it always does.
async fn lead(
    client: Client,
    operator: &Arc<Operator>,
    leader: &leader::Leader,
    election: Option<&leader::Election>,
) -> anyhow::Result<()> {
    let Some(election) = election else {
        operator.metrics.leads.set(1);
        serve_all(operator).await?;
        return Ok(());
    };
    let term = leader.elected(client, election, &operator.health).await?;
    tracing::info!(term, "this operator leads");
    operator.state.lead(term);
    operator.metrics.leads.set(1);
    tokio::select! {
        ended = serve_all(operator) => ended,
        why = leader.lost() => {
            operator.metrics.leads.set(0);
            anyhow::bail!("this operator does not lead any more: {why}: it ends, to begin anew")
        }
    }
}

/// Serves configs, keeps queues in order, and looks after ClusterSets.
async fn serve_all(operator: &Arc<Operator>) -> anyhow::Result<()> {
    let session = Session::new("quorate-operator")?;
    let queues = janitor::run(operator.client.clone(), &operator.namespaces, &session);
    tokio::join!(work(Arc::clone(operator)), queues, Box::pin(clusters::follow(operator)));
    Ok(())
}

/// Runs what is due, for ever.
async fn work(operator: Arc<Operator>) {
    let mut runs = JoinSet::new();
    let mut keys = HashMap::new();
    let mut failures: HashMap<Key, u32> = HashMap::new();
    loop {
        operator.health.turn();
        tokio::select! {
            key = operator.state.queue.next(), if runs.len() < RUNS => {
                let (operator, run_key) = (Arc::clone(&operator), key.clone());
                let handle = runs.spawn(async move {
                    let start = tokio::time::Instant::now();
                    let result = reconcile::run(&operator, &run_key).await;
                    operator.metrics.reconcile.observe(start.elapsed().as_secs_f64());
                    result
                });
                keys.insert(handle.id(), key);
            }
            Some(ended) = runs.join_next_with_id() => {
                let (id, result) = match ended {
                    Ok((id, result)) => (id, result),
                    Err(error) => (error.id(), Err(error.into())),
                };
                if let Some(key) = keys.remove(&id) {
                    end(&operator, key, result, &mut failures);
                }
            }
            () = tokio::time::sleep(TURN) => {}
        }
    }
}

/// Makes a config due again: at the time its run asked for, or after a back-off.
fn end(
    operator: &Operator,
    key: Key,
    result: Result<Option<Duration>, reconcile::RunError>,
    failures: &mut HashMap<Key, u32>,
) {
    let queue = &operator.state.queue;
    queue.done(&key);
    match result {
        Ok(next) => {
            failures.remove(&key);
            if let Some(next) = next {
                queue.add_after(key, next);
            }
        }
        Err(error) => {
            if matches!(error, reconcile::RunError::Bug) {
                // Its write, if it was at one, has no other end.
                operator.state.end_write(&key, None);
            }
            operator.metrics.error(error.category());
            let count = failures.entry(key.clone()).or_default();
            let wait = BACKOFF.1.min(BACKOFF.0 * 2_u32.saturating_pow(*count));
            *count = count.saturating_add(1);
            tracing::warn!(config = %key, %error, again_after_ms = wait.as_millis(), "a run failed");
            queue.add_after(key, wait);
        }
    }
}
