//! Follows one config's head, and publishes what it says.
//!
//! Each round begins with a quorum read, then watches from its version. A watch ends when the API
//! server ends it, when it is silent for longer than bookmarks are, or when it shows a revision
//! older than the one published: that one is believed only after the next quorum read.

use std::{pin::pin, sync::Arc, time::Duration};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, WatchEvent, WatchParams},
};
use quorate_crds::{Proposal, head::Head, names};
use tokio::time::{Instant, timeout};

use crate::{
    Shared,
    disk::Disk,
    mirror::{Mirror, Unwritten, Verdict},
};

/// The API server ends a watch after this long. Seconds.
const WATCH_SECONDS: u32 = 180;
/// Bookmarks come every minute: a watch that is silent for this long is dead.
const SILENCE: Duration = Duration::from_secs(90);
/// The time limit of a read, and of the start of a watch.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// The loop turns at least this often.
const TURN: Duration = Duration::from_secs(10);
/// The first and the longest wait after a failed round.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(15));

/// What stops a round.
#[derive(Debug, thiserror::Error)]
enum Interruption {
    #[error("reading Secret {name}: no answer within {} s", CALL_LIMIT.as_secs())]
    Silent { name: String },
    #[error("reading Secret {name}: {why}")]
    Refused { name: String, why: String, category: &'static str },
    #[error("{0}")]
    Disk(#[from] Unwritten),
}

impl Interruption {
    const fn category(&self) -> &'static str {
        match self {
            Self::Silent { .. } => "timeout",
            Self::Refused { category, .. } => category,
            Self::Disk(_) => "disk",
        }
    }
}

/// Follows one config.
pub struct Follower<D> {
    shared: Arc<Shared>,
    config: String,
    secrets: Api<Secret>,
    mirror: Mirror<D>,
}

impl<D: Disk + Send + Sync + 'static> Follower<D> {
    /// Of the config that `mirror` shows.
    pub fn new(shared: Arc<Shared>, client: Client, config: &str, mirror: Mirror<D>) -> Self {
        let secrets = Api::namespaced(client, &shared.options.namespace);
        Self { shared, config: config.to_owned(), secrets, mirror }
    }

    /// Follows, for ever; with `--once` until the first publication.
    pub async fn run(mut self) {
        self.mirror.begin().await;
        let mut wait = BACKOFF.0;
        loop {
            self.shared.health.turn(&self.config);
            let began = Instant::now();
            let ended = self.round().await;
            if ended.is_ok() && self.is_done() {
                return;
            }
            if let Err(interruption) = ended {
                self.shared.metrics.error(interruption.category());
                self.trouble(&format!("{interruption}; the files stay as they are"));
            }
            // A watch that is ended at once, again and again, must not become a busy loop.
            if began.elapsed() > BACKOFF.1 {
                wait = BACKOFF.0;
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(BACKOFF.1);
            self.shared.metrics.reconnects.inc();
        }
    }

    /// Whether `--once` was asked for and has come true.
    fn is_done(&self) -> bool {
        self.shared.options.once && self.mirror.shown().is_some()
    }

    async fn round(&mut self) -> Result<(), Interruption> {
        let version = self.read().await?;
        if self.is_done() {
            return Ok(());
        }
        self.watch(&version).await
    }

    /// The quorum read: a list, since it gives a version to watch from when there is no head, too.
    async fn read(&mut self) -> Result<String, Interruption> {
        let selector = format!("metadata.name={}", names::head_name(&self.config));
        let params = ListParams::default().fields(&selector);
        let listed = self.called(self.secrets.list(&params)).await?;
        let version = listed.metadata.resource_version.clone().unwrap_or_default();
        match listed.items.first() {
            Some(secret) => self.take(secret).await?,
            None => self.absent(),
        }
        Ok(version)
    }

    async fn watch(&mut self, version: &str) -> Result<(), Interruption> {
        let selector = format!("metadata.name={}", names::head_name(&self.config));
        let params = WatchParams::default().fields(&selector).timeout(WATCH_SECONDS);
        let events = self.called(self.secrets.watch(&params, version)).await?;
        let mut events = pin!(events);
        let mut heard = Instant::now();
        loop {
            self.shared.health.turn(&self.config);
            let event = match timeout(TURN, events.next()).await {
                Ok(Some(event)) => event,
                Ok(None) => return Ok(()),
                Err(_) if heard.elapsed() > SILENCE => {
                    self.shared.metrics.error("silent_watch");
                    return Ok(());
                }
                Err(_) => continue,
            };
            heard = Instant::now();
            match event {
                Ok(WatchEvent::Added(secret) | WatchEvent::Modified(secret)) => {
                    let older = revision_of(&secret) < self.mirror.shown().map(|shown| shown.revision);
                    if older {
                        // Only the quorum read that begins the next round is believed.
                        return Ok(());
                    }
                    self.take(&secret).await?;
                    if self.is_done() {
                        return Ok(());
                    }
                }
                Ok(WatchEvent::Deleted(_)) => self.absent(),
                Ok(WatchEvent::Bookmark(_)) => {}
                // 410 and the like: the next round reads again.
                Ok(WatchEvent::Error(_)) => return Ok(()),
                Err(error) => return Err(self.refused(&error)),
            }
        }
    }

    async fn called<T>(&self, call: impl Future<Output = kube::Result<T>>) -> Result<T, Interruption> {
        match timeout(CALL_LIMIT, call).await {
            Ok(answer) => answer.map_err(|error| self.refused(&error)),
            Err(_) => Err(Interruption::Silent { name: self.name() }),
        }
    }

    fn refused(&self, error: &kube::Error) -> Interruption {
        let (why, category) = match error {
            kube::Error::Api(status) if status.code == 403 => {
                let permission = "the service account needs list and watch on it (RBAC)";
                (format!("forbidden: {permission}: {}", status.message), "forbidden")
            }
            kube::Error::Api(status) => (format!("{} ({})", status.message, status.code), "api"),
            other => {
                let mut text = format!("the API server cannot be reached: {other}");
                let mut source = std::error::Error::source(other);
                while let Some(cause) = source {
                    text += &format!(": {cause}");
                    source = cause.source();
                }
                (text, "unreachable")
            }
        };
        Interruption::Refused { name: self.name(), why, category }
    }

    fn name(&self) -> String {
        format!("{}/{}", self.shared.options.namespace, names::head_name(&self.config))
    }

    fn absent(&self) {
        self.trouble(&format!(
            "Secret {} does not exist: waiting for the operator to publish; files stay",
            self.name()
        ));
    }

    fn trouble(&self, problem: &str) {
        if self.shared.health.problem(&self.config, Some(problem.to_owned())) {
            tracing::warn!(config = self.config, "{problem}");
        }
    }

    /// Publishes a head, unless it is what is shown already.
    async fn take(&mut self, secret: &Secret) -> Result<(), Interruption> {
        let head = match Head::from_secret(secret) {
            Ok(head) if secret.type_.as_deref() == Some(names::HEAD_TYPE) => head,
            Ok(_) => {
                self.not_a_head("it is not of type quorate.io/head");
                return Ok(());
            }
            Err(error) => {
                self.not_a_head(&error.to_string());
                return Ok(());
            }
        };
        let uid = secret.uid().unwrap_or_default();
        let content = Proposal { uid, revision: head.revision, hash: head.hash.clone() };
        self.mirror.keep(&[&content]).await;
        match self.mirror.show(&content, &Arc::new(head)).await? {
            Verdict::Accepted => drop(self.shared.health.problem(&self.config, None)),
            Verdict::Refused(why) => {
                let revision = content.revision;
                self.trouble(&format!(
                    "revision {revision} is refused by the check: {why}; the files stay as they are"
                ));
            }
        }
        Ok(())
    }

    fn not_a_head(&self, why: &str) {
        self.shared.metrics.error("head");
        self.trouble(&format!("Secret {} is no good head: {why}; the files stay as they are", self.name()));
    }
}

fn revision_of(secret: &Secret) -> Option<i64> {
    secret.annotations().get(names::REVISION).and_then(|text| text.parse().ok())
}
