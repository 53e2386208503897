//! An operator in this process that ends right before or right after one of its writes, as if killed:
//! all it knows is in memory, and nothing of it goes on.

use std::{
    collections::BTreeMap,
    future::Future,
    path::Path,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use anyhow::Result;
use http::{Method, Request};
use kube::{
    Client, Config,
    client::ClientBuilder,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::sync::Notify;
use tower::{Layer, Service};

/// A write: the so many-th of its kind, from 0. Kinds are counted for themselves, so that it stays the
/// same write whatever statuses come before it: those are written by the clock.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Write {
    /// Such as `PUT secrets/web.quorate`.
    pub kind: String,
    /// How many of the kind came before it.
    pub number: usize,
}

impl Write {
    /// Whether it writes a status.
    #[must_use]
    pub fn is_status(&self) -> bool {
        self.kind.ends_with("/status")
    }
}

/// When to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Before this write is sent.
    Before(Write),
    /// After it was answered, before the answer is seen.
    After(Write),
    /// Not at all.
    Never,
}

/// Counts writes, and ends the operator at its moment.
#[derive(Debug)]
pub struct Plan {
    moment: Moment,
    writes: Mutex<BTreeMap<String, usize>>,
    over: AtomicBool,
    ended: Notify,
}

impl Plan {
    /// One that ends it then.
    #[must_use]
    pub fn new(moment: Moment) -> Arc<Self> {
        Arc::new(Self { moment, writes: Mutex::default(), over: AtomicBool::new(false), ended: Notify::new() })
    }

    /// The writes so far.
    #[must_use]
    pub fn writes(&self) -> Vec<Write> {
        let writes = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        let of_kind = |(kind, count): (&String, &usize)| {
            (0..*count).map(|number| Write { kind: kind.clone(), number }).collect::<Vec<_>>()
        };
        writes.iter().flat_map(of_kind).collect()
    }

    /// Whether the moment has come.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Waits until the moment has come.
    pub async fn ended(&self) {
        self.ended.notified().await;
    }

    fn count(&self, kind: String) -> Write {
        let mut writes = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        let count = writes.entry(kind.clone()).or_default();
        *count += 1;
        Write { kind, number: *count - 1 }
    }

    fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
        self.ended.notify_one();
    }
}

/// A client whose writes follow the plan.
///
/// # Errors
/// When the kubeconfig cannot be used.
pub async fn client(kubeconfig: &Path, plan: &Arc<Plan>) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.default_retry = false;
    Ok(ClientBuilder::try_from(config)?.with_layer(&Crashes(Arc::clone(plan))).build())
}

struct Crashes(Arc<Plan>);

impl<S> Layer<S> for Crashes {
    type Service = Crashing<S>;

    fn layer(&self, inner: S) -> Crashing<S> {
        Crashing { inner, plan: Arc::clone(&self.0) }
    }
}

/// See [`client`].
#[derive(Clone)]
pub struct Crashing<S> {
    inner: S,
    plan: Arc<Plan>,
}

impl<S, B> Service<Request<B>> for Crashing<S>
where
    S: Service<Request<B>>,
    S::Future: Send + 'static,
    S::Response: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let plan = Arc::clone(&self.plan);
        if plan.is_over() {
            return Box::pin(std::future::pending());
        }
        if request.method() == Method::GET {
            return Box::pin(self.inner.call(request));
        }
        let write = plan.count(kind(&request));
        if matches!(&plan.moment, Moment::Before(last) if *last == write) {
            plan.end();
            return Box::pin(std::future::pending());
        }
        let answer = self.inner.call(request);
        if matches!(&plan.moment, Moment::After(last) if *last == write) {
            // From now on nothing else is sent, whatever else is under way.
            plan.over.store(true, Ordering::SeqCst);
            return Box::pin(async move {
                let _ = answer.await;
                plan.end();
                std::future::pending().await
            });
        }
        Box::pin(answer)
    }
}

/// The method, and the path below the namespace.
fn kind<B>(request: &Request<B>) -> String {
    let path = request.uri().path();
    let below = path.split_once("/namespaces/").and_then(|(_, rest)| rest.split_once('/'));
    format!("{} {}", request.method(), below.map_or(path, |(_, rest)| rest))
}
