//! What one config's directory shows: stages a set, has it checked, switches to it, and remembers
//! what was checked, so that the same content is not checked twice.

use std::{path::PathBuf, sync::Arc};

use jiff::Timestamp;
use quorate_crds::{Freshness, Proposal, head::Head};
use tokio::{sync::watch, task::spawn_blocking};

use crate::{
    Shared,
    disk::Disk,
    events::{ConfigChanged, Event},
    hooks::{self, HookError, Told},
    publish::{PublishError, Published, Publisher, Staged},
};

/// Where it is remembered how fresh the config must be, for a start at which nobody can say so.
const FRESHNESS: &str = "..freshness";
/// So often a check may give no answer before that is a refusal. Content may be what makes it hang or
/// crash: waiting for ever would keep it published while nobody shows it. But one that was slow once, or
/// was started again in the middle, must not speak against good content.
const SILENCES: u32 = 3;

/// What came of checking content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It can be shown.
    Accepted,
    /// It must not be shown, and why.
    Refused(String),
}

/// What keeps content from being shown or judged for now. That says nothing against the content.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Obstacle {
    /// Its files cannot be written.
    #[error("revision {} cannot be written: {why}", of.revision)]
    Unwritten {
        /// The content.
        of: Proposal,
        /// Which call failed, on what, and why.
        why: String,
    },
    /// The check cannot be asked, or has given no answer yet.
    #[error("revision {} is not checked yet, which is tried again: {why}", of.revision)]
    Unchecked {
        /// The content.
        of: Proposal,
        /// Which check, and why.
        why: String,
    },
}

impl Obstacle {
    /// The content.
    #[must_use]
    pub const fn of(&self) -> &Proposal {
        match self {
            Self::Unwritten { of, .. } | Self::Unchecked { of, .. } => of,
        }
    }
}

/// See the module. Content is told apart by revision and hash; where it was read from is of no
/// account here.
pub struct Mirror<D> {
    shared: Arc<Shared>,
    config: String,
    publisher: Arc<Publisher<D>>,
    shown: Option<Published>,
    staged: Option<Staged>,
    verdicts: Vec<(Proposal, Verdict)>,
    /// How often the check gave no answer.
    silences: Vec<(Proposal, u32)>,
    freshness: Freshness,
    news: watch::Sender<Option<Published>>,
}

impl<D: Disk + Send + Sync + 'static> Mirror<D> {
    /// Of a config; what is shown is sent to `news`.
    pub fn new(
        shared: Arc<Shared>,
        config: String,
        publisher: Arc<Publisher<D>>,
        news: watch::Sender<Option<Published>>,
    ) -> Self {
        let (verdicts, silences, freshness) = (Vec::new(), Vec::new(), Freshness::default());
        Self { shared, config, publisher, shown: None, staged: None, verdicts, silences, freshness, news }
    }

    /// Looks at what is on disk already; a whole set is ready at once.
    pub async fn begin(&mut self) {
        let publisher = Arc::clone(&self.publisher);
        let begun = blocking(move || Ok((publisher.remembered(FRESHNESS), publisher.begin()?))).await;
        if let Ok((Some(freshness), _)) = &begun {
            self.freshness = Freshness::clone(freshness);
            self.shared.health.demand(&self.config, self.freshness.clone());
        }
        match begun.map(|(_, published)| published) {
            Ok(Some(published)) => {
                let (config, revision) = (&self.config, published.revision);
                tracing::info!(config, revision, "the files on disk are whole");
                self.set_shown(published);
            }
            Ok(None) => {}
            // It is written anew, then.
            Err(error) => tracing::warn!(config = self.config, "the files on disk are not whole: {error}"),
        }
    }

    /// What is shown.
    #[must_use]
    pub const fn shown(&self) -> Option<&Published> {
        self.shown.as_ref()
    }

    /// Whether this content is shown.
    #[must_use]
    pub fn shows(&self, content: &Proposal) -> bool {
        self.shown.as_ref().is_some_and(|shown| shown.is(content))
    }

    /// The head says how fresh the config must be.
    pub async fn demand(&mut self, freshness: &Freshness) {
        if self.freshness == *freshness {
            return;
        }
        self.freshness = freshness.clone();
        self.shared.health.demand(&self.config, freshness.clone());
        let (publisher, freshness) = (Arc::clone(&self.publisher), freshness.clone());
        if let Err(error) = blocking(move || publisher.remember(FRESHNESS, &freshness)).await {
            self.shared.metrics.error("disk");
            tracing::warn!(config = self.config, "how fresh the files must be cannot be remembered: {error}");
        }
    }

    /// Forgets all but this content: what is staged of other content is removed.
    pub async fn keep(&mut self, content: &[&Proposal]) {
        self.verdicts.retain(|(of, _)| content.iter().any(|kept| is_same(of, kept)));
        self.silences.retain(|(of, _)| content.iter().any(|kept| is_same(of, kept)));
        if let Some(staged) = self.staged.take_if(|staged| !content.iter().any(|kept| staged.published.is(kept))) {
            self.discard(staged).await;
        }
    }

    /// What is known of content that was prepared; `None` when it must be prepared (again).
    #[must_use]
    pub fn verdict(&self, content: &Proposal) -> Option<Verdict> {
        let (_, verdict) = self.verdicts.iter().find(|(of, _)| is_same(of, content))?;
        let is_at_hand = self.shows(content) || self.staged.as_ref().is_some_and(|staged| staged.published.is(content));
        (is_at_hand || *verdict != Verdict::Accepted).then(|| verdict.clone())
    }

    /// Stages content, of the head or of the candidate of this uid, and checks it, as far as that was
    /// not done before.
    ///
    /// # Errors
    /// An [`Obstacle`]; what is shown stays.
    pub async fn prepare(
        &mut self,
        content: &Proposal,
        head: &Arc<Head>,
        candidate: Option<&str>,
    ) -> Result<Verdict, Obstacle> {
        if let Some(verdict) = self.verdict(content) {
            return Ok(verdict);
        }
        let staged = self.stage(content, head, candidate).await?;
        let was_accepted = self.verdicts.iter().any(|(of, _)| is_same(of, content));
        let verdict = if was_accepted { Ok(Verdict::Accepted) } else { self.check(content, &staged).await };
        match verdict {
            Ok(Verdict::Refused(_)) => self.discard(staged).await,
            // What is not checked yet stays for the next attempt.
            Ok(Verdict::Accepted) | Err(_) => self.staged = Some(staged),
        }
        verdict
    }

    /// What an earlier attempt staged, or else a new set.
    async fn stage(
        &mut self,
        content: &Proposal,
        head: &Arc<Head>,
        candidate: Option<&str>,
    ) -> Result<Staged, Obstacle> {
        match self.staged.take() {
            Some(staged) if staged.published.is(content) => return Ok(staged),
            Some(other) => self.discard(other).await,
            None => {}
        }
        let (publisher, set, uid) = (Arc::clone(&self.publisher), Arc::clone(head), candidate.map(str::to_owned));
        blocking(move || publisher.stage(&set, uid.as_deref())).await.map_err(unwritten(content))
    }

    /// Shows content, unless it is shown already or the check refuses it.
    ///
    /// # Errors
    /// An [`Obstacle`].
    pub async fn show(
        &mut self,
        content: &Proposal,
        head: &Arc<Head>,
        candidate: Option<&str>,
    ) -> Result<Verdict, Obstacle> {
        if self.shown.is_none() {
            // A switch may have been cut short: perhaps only links lack.
            self.begin().await;
        }
        if self.shows(content) {
            return Ok(Verdict::Accepted);
        }
        let verdict = self.prepare(content, head, candidate).await?;
        if verdict == Verdict::Accepted {
            self.switch(content).await?;
            let late = Timestamp::now().duration_since(head.decided_at).as_secs_f64().max(0.0);
            self.shared.metrics.propagation.observe(late);
            tracing::info!(config = self.config, revision = content.revision, late_ms = late * 1e3, "published");
        }
        Ok(verdict)
    }

    /// Has content checked, and remembers what came of it.
    async fn check(&mut self, content: &Proposal, staged: &Staged) -> Result<Verdict, Obstacle> {
        // A check may take long, and so may two heads' checks in a row: the loop is not stuck.
        self.shared.health.turn(&self.config);
        let checked = self.ask(content, staged).await;
        self.shared.health.turn(&self.config);
        let verdict = match checked {
            Ok(()) => Verdict::Accepted,
            Err(HookError::Refused(why)) => self.refused(content, why),
            Err(HookError::Silent(why)) => match self.silences(content) {
                SILENCES.. => self.refused(content, format!("{why}, {SILENCES} times")),
                times => return Err(unchecked(content, format!("{why} ({times} of {SILENCES} times)"))),
            },
            Err(HookError::Unasked(why)) => return Err(unchecked(content, why)),
        };
        self.verdicts.push((content.clone(), verdict.clone()));
        Ok(verdict)
    }

    async fn ask(&self, content: &Proposal, staged: &Staged) -> Result<(), HookError> {
        let options = &self.shared.options;
        let told = Told {
            config: &self.config,
            namespace: &options.namespace,
            revision: content.revision,
            hash: &content.hash,
            changed: &self.shown.as_ref().map(|shown| hooks::changed(shown, &staged.published)).unwrap_or_default(),
            staged: Some(&staged.folder),
        };
        if let Some(command) = &options.check_exec {
            hooks::exec(command, &told, options.hook_seconds).await?;
        }
        if let Some(uri) = &options.check_http {
            hooks::post(uri, &told, options.hook_seconds).await?;
        }
        Ok(())
    }

    fn refused(&self, content: &Proposal, why: String) -> Verdict {
        self.shared.metrics.error("check");
        let revision = content.revision;
        tracing::warn!(config = self.config, revision, "the check refuses it; the files stay: {why}");
        Verdict::Refused(why)
    }

    /// How often the check gave no answer on this content, this time included.
    fn silences(&mut self, content: &Proposal) -> u32 {
        if let Some((_, times)) = self.silences.iter_mut().find(|(of, _)| is_same(of, content)) {
            *times += 1;
            return *times;
        }
        self.silences.push((content.clone(), 1));
        1
    }

    /// Shows what is staged.
    async fn switch(&mut self, content: &Proposal) -> Result<(), Obstacle> {
        let Some(staged) = self.staged.take() else { return Ok(()) };
        let publisher = Arc::clone(&self.publisher);
        let switched = blocking(move || {
            let before = publisher.shown();
            publisher.switch(staged).map(|published| (before, published))
        });
        let (before, published) = match switched.await {
            Ok(switched) => switched,
            Err(error) => {
                // The old set or the new one, or one that lacks links: only the disk can tell.
                self.shown = None;
                self.begin().await;
                return Err(unwritten(content)(error));
            }
        };
        self.shared.metrics.publications.inc();
        self.set_shown(published.clone());
        self.clean(published, before).await;
        Ok(())
    }

    async fn clean(&self, published: Published, before: Option<PathBuf>) {
        let publisher = Arc::clone(&self.publisher);
        // The set is shown all the same; the next one cleans again.
        if let Err(error) = blocking(move || publisher.clean(&published, before.as_deref())).await {
            self.shared.metrics.error("disk");
            tracing::warn!(config = self.config, "old files cannot be cleared away: {error}");
        }
    }

    async fn discard(&self, staged: Staged) {
        let publisher = Arc::clone(&self.publisher);
        // What stays is cleared away by the next set that is shown.
        let _ = spawn_blocking(move || publisher.discard(&staged)).await;
    }

    fn set_shown(&mut self, published: Published) {
        self.shared.health.shown(&self.config, published.revision);
        self.shared.metrics.shown(&self.config, published.revision);
        self.shared.events.tell(Event::Config(ConfigChanged {
            config: self.config.clone(),
            revision: published.revision,
            hash: published.hash.clone(),
        }));
        self.shown = Some(published.clone());
        self.news.send_replace(Some(published));
    }
}

fn is_same(a: &Proposal, b: &Proposal) -> bool {
    a.revision == b.revision && a.hash == b.hash
}

fn unwritten(content: &Proposal) -> impl FnOnce(String) -> Obstacle {
    move |why| Obstacle::Unwritten { of: content.clone(), why }
}

fn unchecked(content: &Proposal, why: String) -> Obstacle {
    Obstacle::Unchecked { of: content.clone(), why }
}

/// Disk work, off the thread that serves everything else.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PublishError> + Send + 'static,
) -> Result<T, String> {
    match spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        // Not the text of a panic: it may hold what was worked on.
        Err(_) => Err("it was cut short".into()),
    }
}
