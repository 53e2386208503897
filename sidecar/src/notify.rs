//! Tells the application of each change of content after the first set.
//!
//! What it was told of last is remembered on disk, so that a change is told of after the next start
//! when the sidecar ended before it could. A change that comes while one is told of is told next;
//! several become one. A hook that fails is tried again until it succeeds or the content changes.

use std::{collections::BTreeSet, pin::pin, sync::Arc, time::Duration};

use tokio::{sync::watch, task::spawn_blocking, time::sleep};

use crate::{
    Shared,
    backoff::Backoff,
    disk::Disk,
    hooks::{self, HookError, Told},
    options::SignalTo,
    publish::{Published, Publisher},
};

/// Where the set that the application knows of is remembered.
const TOLD: &str = "..told";
/// The first and the longest wait after a hook that failed.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A way of telling.
#[derive(Clone)]
enum Hook {
    Http(http::Uri),
    Signal(SignalTo),
    Exec(String),
}

/// Tells of one config's changes.
pub struct Notifier<D> {
    /// What all parts share.
    pub shared: Arc<Shared>,
    /// The config.
    pub config: String,
    /// Its directory.
    pub publisher: Arc<Publisher<D>>,
    /// What is shown.
    pub news: watch::Receiver<Option<Published>>,
}

impl<D: Disk + Send + Sync + 'static> Notifier<D> {
    /// Until nothing more is shown.
    pub async fn run(mut self) {
        let hooks = self.hooks();
        if hooks.is_empty() {
            return;
        }
        let publisher = Arc::clone(&self.publisher);
        let mut known: Option<Published> = spawn_blocking(move || publisher.remembered(TOLD)).await.ok().flatten();
        // The paths whose change not every hook has been told of.
        let mut owed = BTreeSet::new();
        loop {
            let shown = self.news.borrow_and_update().clone();
            if let Some(shown) = shown {
                owed.extend(known.as_ref().map(|known| hooks::changed(known, &shown)).unwrap_or_default());
                let is_first = known.replace(shown.clone()).is_none();
                if is_first || (!owed.is_empty() && self.tell(&hooks, &shown, &owed).await) {
                    owed.clear();
                    self.remember(shown).await;
                }
            }
            if self.news.changed().await.is_err() {
                return;
            }
        }
    }

    fn hooks(&self) -> Vec<Hook> {
        let options = &self.shared.options;
        [
            options.notify_http.clone().map(Hook::Http),
            options.notify_signal.clone().map(Hook::Signal),
            options.notify_exec.clone().map(Hook::Exec),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Whether every hook succeeded before other content was shown.
    async fn tell(&mut self, hooks: &[Hook], shown: &Published, changed: &BTreeSet<String>) -> bool {
        let mut left = hooks.to_vec();
        let mut waits = Backoff::new(BACKOFF.0, BACKOFF.1, &self.shared.seed(&self.config));
        loop {
            let mut failed = Vec::new();
            for hook in left {
                if let Err(why) = self.call(&hook, shown, changed).await {
                    self.shared.metrics.error("notify");
                    let (config, revision) = (&self.config, shown.revision);
                    tracing::warn!(config, revision, "the application was not told, which is tried again: {why}");
                    failed.push(hook);
                }
            }
            left = failed;
            if left.is_empty() {
                return true;
            }
            if self.changes_within(waits.wait(), &shown.hash).await {
                return false;
            }
        }
    }

    /// Waits; whether other content was shown, or the end came, before the time was up.
    async fn changes_within(&mut self, wait: Duration, hash: &str) -> bool {
        let mut wait = pin!(sleep(wait));
        loop {
            tokio::select! {
                () = &mut wait => return false,
                changed = self.news.changed() => {
                    let same = self.news.borrow().as_ref().is_some_and(|shown| shown.hash == hash);
                    if changed.is_err() || !same {
                        self.news.mark_changed();
                        return true;
                    }
                }
            }
        }
    }

    async fn call(&self, hook: &Hook, shown: &Published, changed: &BTreeSet<String>) -> Result<(), HookError> {
        let (options, limit) = (&self.shared.options, self.shared.options.hook_seconds);
        let told = Told {
            config: &self.config,
            namespace: &options.namespace,
            revision: shown.revision,
            hash: &shown.hash,
            changed,
            staged: None,
        };
        match hook {
            Hook::Http(uri) => hooks::post(uri, &told, limit).await,
            Hook::Signal(to) => hooks::signal(to.clone()).await,
            Hook::Exec(command) => hooks::exec(command, &told, limit).await,
        }
    }

    async fn remember(&self, told: Published) {
        let publisher = Arc::clone(&self.publisher);
        if let Ok(Err(error)) = spawn_blocking(move || publisher.remember(TOLD, &told)).await {
            self.shared.metrics.error("disk");
            tracing::warn!(config = self.config, "what the application was told cannot be remembered: {error}");
        }
    }
}
