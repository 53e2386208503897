//! Follows one config's head, and publishes what it says.
//!
//! Each round begins with a quorum read, then watches from its version. A watch ends when the API
//! server ends it, when it is silent for longer than bookmarks are, or when it shows a revision
//! older than the one published: that one is believed only after the next quorum read.

use std::{pin::pin, sync::Arc, time::Duration};

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, WatchEvent, WatchParams},
};
use quorate_crds::{head::Head, names};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use crate::{
    Shared,
    disk::RealDisk,
    hooks::{self, Told},
    publish::{Published, Publisher},
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
    #[error("revision {revision} is not published: {why}")]
    Disk { revision: i64, why: String },
}

impl Interruption {
    const fn category(&self) -> &'static str {
        match self {
            Self::Silent { .. } => "timeout",
            Self::Refused { category, .. } => category,
            Self::Disk { .. } => "disk",
        }
    }
}

/// Follows one config.
pub struct Follower {
    shared: Arc<Shared>,
    config: String,
    secrets: Api<Secret>,
    publisher: Arc<Publisher<RealDisk>>,
    published: Option<Published>,
    news: watch::Sender<Option<Published>>,
}

impl Follower {
    /// Looks at what is on disk already; a good set is ready at once.
    pub fn new(shared: Arc<Shared>, client: Client, config: &str, news: watch::Sender<Option<Published>>) -> Self {
        let publisher = Arc::new(Publisher::new(RealDisk, shared.options.directory.join(config)));
        let published = publisher.current();
        let mut follower = Self {
            secrets: Api::namespaced(client, &shared.options.namespace),
            shared,
            config: config.to_owned(),
            publisher,
            published: None,
            news,
        };
        if let Some(published) = published {
            tracing::info!(config, revision = published.revision, "the files on disk are whole");
            if let Err(error) = follower.publisher.tidy(&published, None) {
                tracing::warn!(config, %error, "the directory is not tidy");
            }
            follower.show(published);
        }
        follower
    }

    /// Follows, for ever; with `--once` until the first publication.
    pub async fn run(mut self) {
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
        self.shared.options.once && self.published.is_some()
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
                    let older = revision_of(&secret) < self.published.as_ref().map(|p| p.revision);
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
        let shown = self.published.as_ref().is_some_and(|p| p.revision == head.revision && p.hash == head.hash);
        if shown {
            self.shared.health.problem(&self.config, None);
            return Ok(());
        }
        let revision = head.revision;
        let disk = |why: String| Interruption::Disk { revision, why };
        let decided_at = head.decided_at;
        let publisher = Arc::clone(&self.publisher);
        let staged = blocking(move || publisher.stage(&head)).await.map_err(disk)?;
        let told = Told {
            config: &self.config,
            namespace: &self.shared.options.namespace,
            revision,
            hash: secret.annotations().get(names::HASH).map_or("", String::as_str),
            changed: &[],
            staged: Some(&staged.folder),
        };
        if let Err(why) = self.check(&told).await {
            self.publisher.discard(&staged);
            self.shared.metrics.error("check");
            self.trouble(&format!("revision {revision} is refused by the check: {why}; the files stay as they are"));
            return Ok(());
        }
        let publisher = Arc::clone(&self.publisher);
        let before = publisher.shown();
        let published = blocking(move || publisher.switch(staged)).await.map_err(disk)?;
        let late = Timestamp::now().duration_since(decided_at).as_secs_f64().max(0.0);
        self.shared.metrics.propagation.observe(late);
        self.shared.metrics.publications.inc();
        tracing::info!(config = self.config, revision, late_ms = late * 1e3, "published");
        self.show(published.clone());
        self.shared.health.problem(&self.config, None);
        let publisher = Arc::clone(&self.publisher);
        // Shown all the same; the next round's publication or start tidies.
        if let Err(error) = blocking(move || publisher.tidy(&published, before.as_deref())).await {
            self.shared.metrics.error("disk");
            self.trouble(&format!("revision {revision} is published, but the directory is not tidy: {error}"));
            self.published = None;
            return Err(Interruption::Disk { revision, why: error });
        }
        Ok(())
    }

    fn not_a_head(&self, why: &str) {
        self.shared.metrics.error("head");
        self.trouble(&format!("Secret {} is no good head: {why}; the files stay as they are", self.name()));
    }

    async fn check(&self, told: &Told<'_>) -> Result<(), String> {
        let options = &self.shared.options;
        if let Some(command) = &options.check_exec {
            hooks::exec(command, told, options.hook_seconds).await?;
        }
        if let Some(uri) = &options.check_http {
            hooks::post(uri, told, options.hook_seconds).await?;
        }
        Ok(())
    }

    fn show(&mut self, published: Published) {
        self.shared.health.shown(&self.config, published.revision);
        self.shared.metrics.shown(&self.config, published.revision);
        self.published = Some(published.clone());
        self.news.send_replace(Some(published));
    }
}

fn revision_of(secret: &Secret) -> Option<i64> {
    secret.annotations().get(names::REVISION).and_then(|text| text.parse().ok())
}

/// Disk work, off the thread that serves everything else.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, crate::publish::PublishError> + Send + 'static,
) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// Tells of each change of content after the first set. A change that comes while one is told of is
/// told next; several become one.
pub async fn notify(shared: Arc<Shared>, config: String, mut news: watch::Receiver<Option<Published>>) {
    let mut told_of: Option<Published> = news.borrow_and_update().clone();
    while news.changed().await.is_ok() {
        let Some(new) = news.borrow_and_update().clone() else { continue };
        let Some(old) = told_of.replace(new.clone()) else { continue };
        if old.hash == new.hash {
            continue;
        }
        let changed = hooks::changed(&old, &new);
        let told = Told {
            config: &config,
            namespace: &shared.options.namespace,
            revision: new.revision,
            hash: &new.hash,
            changed: &changed,
            staged: None,
        };
        let (options, limit) = (&shared.options, shared.options.hook_seconds);
        let mut results = Vec::new();
        if let Some(uri) = &options.notify_http {
            results.push(hooks::post(uri, &told, limit).await);
        }
        if let Some(to) = &options.notify_signal {
            results.push(hooks::signal(to));
        }
        if let Some(command) = &options.notify_exec {
            results.push(hooks::exec(command, &told, limit).await);
        }
        for why in results.into_iter().filter_map(Result::err) {
            shared.metrics.error("notify");
            tracing::warn!(config, revision = new.revision, "the application was not told: {why}");
        }
    }
}
