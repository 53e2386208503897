//! One of several operators leads: it alone writes. The others watch, so that they know all when their turn comes.
//!
//! The term is the fencing token of the leader's Lease, and heads carry it: what a leader still writes that was deposed without
//! knowing it, the API server refuses by a policy. A leader whose time is up writes nothing more even before that.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use http::{Method, Request, Response};
use kube::{Client, client::Body};
use quorate_coordination::{KubeRegister, Leadership, LockState, Process, Session};
use tower::{BoxError, Service};

use crate::health::Health;

/// Between two tries to take part in an election that the API server refuses.
const RETRY: Duration = Duration::from_secs(5);
/// For how long giving up leadership may delay the end.
const RESIGNING: Duration = Duration::from_secs(3);
/// What /readyz calls it.
const NAME: &str = "leader election";

/// How a leader is elected.
#[derive(Clone, Debug)]
pub struct Election {
    /// The Lease's namespace.
    pub namespace: String,
    /// The Lease's name.
    pub lease: String,
    /// For how long it leads without being heard of.
    pub ttl: Duration,
    /// What this operator is called.
    pub identity: String,
    /// Its process, as a kubelet knows it, if one does.
    pub process: Option<Process>,
}

/// Whether this operator leads.
#[derive(Default)]
pub struct Leader {
    candidate: OnceLock<quorate_coordination::Election<KubeRegister<LockState>>>,
    leadership: Mutex<Option<Arc<Leadership<KubeRegister<LockState>>>>>,
}

impl Leader {
    /// Waits until it leads; its term.
    ///
    /// # Errors
    /// When the election's Lease cannot exist.
    pub async fn elected(&self, client: Client, election: &Election, health: &Health) -> anyhow::Result<u64> {
        let Election { namespace, lease, ttl, identity, process } = election;
        let mut session = Session::new(identity)?;
        if let Some(process) = process.clone() {
            session = session.of_process(process);
        }
        let elected = quorate_coordination::Election::on_lease(client, namespace, lease, session, *ttl)?;
        let elected = self.candidate.get_or_init(|| elected);
        tracing::info!(lease = %format!("{namespace}/{lease}"), identity, "waiting to be elected");
        loop {
            let campaign = tokio::select! {
                campaign = elected.campaign() => campaign,
                never = turning(health) => match never {},
            };
            match campaign {
                Ok(leadership) => {
                    health.well(NAME);
                    let term = leadership.term();
                    *self.locked() = Some(Arc::new(leadership));
                    return Ok(term);
                }
                Err(error) => {
                    if health.unwell(NAME, &error.to_string()) {
                        tracing::warn!(%error, "no part in the election of a leader; trying again");
                    }
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Returns why, when it does not lead any more.
    pub async fn lost(&self) -> String {
        let leadership = self.locked().clone();
        match leadership {
            Some(leadership) => leadership.lost().await,
            None => "it was never elected".to_owned(),
        }
    }

    /// Gives it up, so that the next need not wait; who did not lead yet is no candidate any more.
    pub async fn resign(&self) {
        let leadership = self.locked().take().and_then(Arc::into_inner);
        let resigned = async {
            if let Some(leadership) = leadership
                && let Err(error) = leadership.resign().await
            {
                tracing::warn!(%error, "leadership was not given up: it ends by itself");
            }
            if let Some(candidate) = self.candidate.get() {
                candidate.taken_back().await;
            }
        };
        if tokio::time::timeout(RESIGNING, resigned).await.is_err() {
            tracing::warn!("leadership was not given up in time: it ends by itself");
        }
    }

    fn leads(&self) -> bool {
        self.locked().as_ref().is_some_and(|leadership| !leadership.valid_for().is_zero())
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Option<Arc<Leadership<KubeRegister<LockState>>>>> {
        self.leadership.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who waits is alive.
async fn turning(health: &Health) -> Infallible {
    loop {
        health.turn();
        tokio::time::sleep(crate::TURN).await;
    }
}

/// The same client, which writes only as long as this operator leads.
#[must_use]
pub fn guarded(client: &Client, leader: &Arc<Leader>) -> Client {
    let namespace = client.default_namespace().to_owned();
    Client::new(Guard { client: client.clone(), leader: Arc::clone(leader) }, namespace)
}

struct Guard {
    client: Client,
    leader: Arc<Leader>,
}

impl Service<Request<Body>> for Guard {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.method() != Method::GET && !self.leader.leads() {
            let why = "this operator does not lead (any more), so it writes nothing";
            return Box::pin(async move { Err(why.into()) });
        }
        let client = self.client.clone();
        Box::pin(async move { Ok(client.send(request).await?) })
    }
}
