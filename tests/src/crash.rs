//! An operator in this process that ends right before or right after one of its writes, as if killed:
//! all it knows is in memory, and nothing of it goes on.

use std::{
    future::Future,
    path::Path,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
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

/// When to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Before the write of this number (from 0) is sent.
    Before(usize),
    /// After it was answered, before the answer is seen.
    After(usize),
    /// Not at all.
    Never,
}

/// Counts writes, and ends the operator at its moment.
#[derive(Debug)]
pub struct Plan {
    moment: Moment,
    writes: AtomicUsize,
    over: AtomicBool,
    ended: Notify,
}

impl Plan {
    /// One that ends it then.
    #[must_use]
    pub fn new(moment: Moment) -> Arc<Self> {
        Arc::new(Self { moment, writes: AtomicUsize::new(0), over: AtomicBool::new(false), ended: Notify::new() })
    }

    /// How many writes there were.
    #[must_use]
    pub fn writes(&self) -> usize {
        self.writes.load(Ordering::SeqCst)
    }

    /// Waits until the moment has come.
    pub async fn ended(&self) {
        self.ended.notified().await;
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
        if plan.over.load(Ordering::SeqCst) {
            return Box::pin(std::future::pending());
        }
        if request.method() == Method::GET {
            return Box::pin(self.inner.call(request));
        }
        let number = plan.writes.fetch_add(1, Ordering::SeqCst);
        if plan.moment == Moment::Before(number) {
            plan.end();
            return Box::pin(std::future::pending());
        }
        let answer = self.inner.call(request);
        if plan.moment == Moment::After(number) {
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
