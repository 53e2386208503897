//! Follows one config's head, and does what it says.
//!
//! Each round begins with a quorum read, then watches from its version. The read is repeated in the
//! course of the watch, as often as the head's freshness demands, and soon after something went
//! wrong. A round ends when the API server ends the watch, when the watch is silent for longer than
//! bookmarks are, or when it shows an older revision than a read did: that one is believed only after
//! the next quorum read.

use std::{future, pin::pin, sync::Arc, time::Duration};

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, WatchEvent, WatchParams},
};
use quorate_crds::{Ask, Proposal, ReplicaState, head::Head, names};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use crate::{
    Shared,
    backoff::{Backoff, Spread},
    candidate,
    disk::Disk,
    mirror::{Mirror, Obstacle, Verdict},
    readings::Reading,
    target::{Pod, Target, target},
    word::Word,
};

/// The API server ends a watch after this long. Seconds.
const WATCH_SECONDS: u32 = 180;
/// Bookmarks come every minute: a watch that is silent for this long is dead.
const SILENCE: Duration = Duration::from_secs(90);
/// The time limit of a read, and of the start of a watch.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// The loop turns at least this often.
const TURN: Duration = Duration::from_secs(10);
/// The first and the longest wait after a failed round or reading.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(15));

/// What keeps a pod from doing what the head says.
#[derive(Debug, thiserror::Error)]
enum Interruption {
    #[error("reading Secret {name}: no answer within {} s", CALL_LIMIT.as_secs())]
    Silent { name: String },
    #[error("reading Secret {name}: {why}")]
    Refused { name: String, why: String, category: &'static str },
    #[error("the candidate, Secret {name}, counts for nothing: {why}")]
    Candidate { name: String, why: String },
    #[error("{0}")]
    Content(#[from] Obstacle),
}

impl Interruption {
    const fn category(&self) -> &'static str {
        match self {
            Self::Silent { .. } => "timeout",
            Self::Refused { category, .. } => category,
            Self::Candidate { .. } => "candidate",
            Self::Content(Obstacle::Unwritten { .. }) => "disk",
            Self::Content(Obstacle::Unchecked { .. }) => "unchecked",
        }
    }

    /// What is said of content that cannot be shown or judged for now: that is no vote against it.
    fn word(&self) -> Option<Word> {
        let Self::Content(obstacle) = self else { return None };
        let word = Word::new(ReplicaState::Stale, obstacle.of().clone()).because(&self.to_string());
        Some(Word { in_rollout: true, ..word })
    }
}

/// Follows one config.
pub struct Follower<D> {
    shared: Arc<Shared>,
    config: String,
    secrets: Api<Secret>,
    mirror: Mirror<D>,
    words: watch::Sender<Option<Word>>,
    born: watch::Receiver<Option<Timestamp>>,
    /// The head's highest revision, and the version of the newest head that was read.
    highest: Option<i64>,
    version: Option<u64>,
    /// What the pod is to show.
    wanted: Reading,
    /// Whether the head asks chosen pods for something.
    chooses: bool,
    /// When the head is read again, by the clock of its freshness.
    due: Duration,
    retries: Backoff,
    spread: Spread,
}

impl<D: Disk + Send + Sync + 'static> Follower<D> {
    /// Of the config that `mirror` shows. What the pod says of it is sent to `words`; when the pod's
    /// ConfigReplica was created is learnt from `born`.
    pub fn new(
        shared: Arc<Shared>,
        client: Client,
        config: &str,
        mirror: Mirror<D>,
        words: watch::Sender<Option<Word>>,
        born: watch::Receiver<Option<Timestamp>>,
    ) -> Self {
        let (secrets, seed) = (Api::namespaced(client, &shared.options.namespace), shared.seed(config));
        Self {
            config: config.to_owned(),
            secrets,
            mirror,
            words,
            born,
            highest: None,
            version: None,
            wanted: Err("its head was not read yet".to_owned()),
            chooses: false,
            due: Duration::ZERO,
            retries: Backoff::new(BACKOFF.0, BACKOFF.1, &seed),
            spread: Spread::new(&seed),
            shared,
        }
    }

    /// Follows, for ever; with `--once` until the first publication.
    pub async fn run(mut self) {
        self.mirror.begin().await;
        let mut pauses = Backoff::new(BACKOFF.0, BACKOFF.1, &self.shared.seed(&self.config));
        loop {
            self.turn();
            let began = Instant::now();
            if let Err(interruption) = self.round().await {
                self.failed(&interruption);
            }
            if self.is_done() {
                return;
            }
            // A watch that is ended at once, again and again, must not become a busy loop.
            if began.elapsed() > BACKOFF.1 {
                pauses.reset();
            }
            tokio::select! {
                () = sleep(pauses.wait()) => {}
                () = self.shared.readings.asked(&self.config) => {}
            }
            self.shared.metrics.reconnects.inc();
        }
    }

    /// Whether `--once` was asked for and has come true.
    fn is_done(&self) -> bool {
        self.shared.options.once && self.mirror.shown().is_some()
    }

    fn turn(&self) {
        self.shared.health.turn(&self.config);
    }

    async fn round(&mut self) -> Result<(), Interruption> {
        let version = self.read().await?;
        if self.is_done() {
            return Ok(());
        }
        self.watch(&version).await
    }

    /// A quorum read, and all that it leads to. Who has asked for one before it is told what came of it.
    async fn read(&mut self) -> Result<String, Interruption> {
        let askers = self.shared.readings.begin(&self.config);
        let read = self.ask().await;
        askers.tell(&match &read {
            Ok(_) => self.wanted.clone(),
            Err(interruption) => Err(interruption.to_string()),
        });
        read
    }

    /// The quorum read: a list, since it gives a version to watch from when there is no head, too.
    async fn ask(&mut self) -> Result<String, Interruption> {
        let sent = self.shared.health.now();
        let selector = format!("metadata.name={}", names::head_name(&self.config));
        let params = ListParams::default().fields(&selector);
        let name = names::head_name(&self.config);
        let listed = self.called(&name, "list and watch", self.secrets.list(&params)).await?;
        let version = listed.metadata.resource_version.clone().unwrap_or_default();
        self.due = self.next_reading();
        match listed.items.first() {
            None => {
                self.shared.health.confirmed(&self.config, sent);
                self.absent();
                self.want(Err(format!("Secret {} does not exist", self.full(&name))));
            }
            Some(secret) => match self.verified(secret) {
                Some(head) => {
                    self.shared.health.confirmed(&self.config, sent);
                    self.take(secret, head).await;
                }
                None => self.want(Err(format!("Secret {} is no good head", self.full(&name)))),
            },
        }
        Ok(version)
    }

    async fn watch(&mut self, version: &str) -> Result<(), Interruption> {
        let name = names::head_name(&self.config);
        let selector = format!("metadata.name={name}");
        let params = WatchParams::default().fields(&selector).timeout(WATCH_SECONDS);
        let events = self.called(&name, "list and watch", self.secrets.watch(&params, version)).await?;
        let mut events = pin!(events);
        let mut heard = Instant::now();
        while !self.is_done() {
            self.turn();
            let due_in = self.due.saturating_sub(self.shared.health.now());
            if due_in.is_zero() {
                // The watch goes on, whatever comes of it.
                if let Err(interruption) = self.read().await {
                    self.failed(&interruption);
                }
                continue;
            }
            let event = tokio::select! {
                biased;
                event = events.next() => event,
                () = changed(&mut self.born), if self.chooses => {
                    self.due = Duration::ZERO;
                    continue;
                }
                () = self.shared.readings.asked(&self.config) => {
                    self.due = Duration::ZERO;
                    continue;
                }
                () = sleep(due_in.min(TURN)) => {
                    if heard.elapsed() > SILENCE {
                        self.shared.metrics.error("silent_watch");
                        return Ok(());
                    }
                    continue;
                }
            };
            heard = Instant::now();
            match event {
                Some(Ok(WatchEvent::Added(secret) | WatchEvent::Modified(secret))) => {
                    let Some(head) = self.verified(&secret) else { continue };
                    if self.highest.is_some_and(|highest| head.revision < highest) {
                        // Only the quorum read that begins the next round is believed.
                        return Ok(());
                    }
                    if self.is_newer(&secret) {
                        self.take(&secret, head).await;
                    }
                }
                // Gone for good, or made again already: a quorum read tells.
                Some(Ok(WatchEvent::Deleted(_))) => self.due = Duration::ZERO,
                Some(Ok(WatchEvent::Bookmark(_))) => {}
                // Ended, or 410 and the like: the next round reads again.
                None | Some(Ok(WatchEvent::Error(_))) => return Ok(()),
                Some(Err(error)) => return Err(self.refused(&name, "list and watch", &error)),
            }
        }
        Ok(())
    }

    /// A third of the time after which knowledge is too old, with jitter.
    fn next_reading(&mut self) -> Duration {
        self.shared.health.now() + self.spread.around(self.shared.health.interval(&self.config))
    }

    /// Whether a read has not shown it already: it may have overtaken the watch.
    fn is_newer(&self, secret: &Secret) -> bool {
        self.version.is_none_or(|known| version_of(secret).is_none_or(|version| version > known))
    }

    /// What a head says is done, or it is told why not and tried again soon.
    async fn take(&mut self, secret: &Secret, head: Head) {
        (self.highest, self.version) = (Some(head.revision), version_of(secret));
        self.shared.lamport.see(head.lamport);
        self.mirror.demand(&head.freshness).await;
        self.due = self.due.min(self.next_reading());
        let uid = secret.uid().unwrap_or_default();
        let content = Proposal { uid, revision: head.revision, hash: head.hash.clone() };
        match self.act(&content, &Arc::new(head)).await {
            Ok(()) => {
                self.retries.reset();
                if self.mirror.shown().is_some() {
                    self.shared.health.problem(&self.config, None);
                }
            }
            Err(interruption) => self.failed(&interruption),
        }
    }

    /// Does what a head says, and says what came of it.
    async fn act(&mut self, own: &Proposal, head: &Arc<Head>) -> Result<(), Interruption> {
        let rollout = head.standing.rollout.as_ref();
        self.chooses = rollout.is_some_and(|rollout| matches!(rollout.ask, Ask::Try { .. }));
        let born = *self.born.borrow_and_update();
        let uid = if self.shared.reports() { &self.shared.options.pod_uid } else { "" };
        let pod = Pod { uid, born, shown: self.mirror.shown() };
        let target = target(own, rollout, pod);
        let proposal = rollout.map(|rollout| &rollout.proposal);
        self.mirror.keep(&[Some(own), proposal].into_iter().flatten().collect::<Vec<_>>()).await;

        self.want(Ok(if let Target::Try(proposal) = &target { proposal.clone() } else { own.clone() }));

        let in_rollout = |word| Word { in_rollout: rollout.is_some(), ..word };
        match target {
            Target::Head => {
                let word = self.show(own, head).await?;
                self.say(in_rollout(word));
            }
            Target::Vote(proposal) => {
                let word = self.show(own, head).await?;
                match self.vote(&proposal).await {
                    Ok(vote) => self.say(in_rollout(vote)),
                    Err(interruption) => {
                        // It has no vote yet, and says why, or else what it makes of the head.
                        self.say(in_rollout(interruption.word().unwrap_or(word)));
                        return Err(interruption);
                    }
                }
            }
            Target::Try(proposal) => match self.try_out(&proposal).await {
                Ok(word) if word.state == ReplicaState::Applied => self.say(in_rollout(word)),
                // The files are the head's, as long as the candidate's cannot be.
                Ok(refusal) => {
                    self.want(Ok(own.clone()));
                    self.show(own, head).await?;
                    self.say(in_rollout(refusal));
                }
                Err(interruption) => {
                    let word = self.show(own, head).await?;
                    self.say(in_rollout(interruption.word().unwrap_or(word)));
                    return Err(interruption);
                }
            },
        }
        Ok(())
    }

    /// Shows the head's content.
    async fn show(&mut self, own: &Proposal, head: &Arc<Head>) -> Result<Word, Interruption> {
        Ok(match self.mirror.show(own, head, None).await? {
            Verdict::Accepted => Word::new(ReplicaState::Applied, own.clone()),
            Verdict::Refused(why) => {
                let word = refusal(own, &why);
                let (revision, why) = (own.revision, word.message.clone().unwrap_or_default());
                self.shared.health.problem(&self.config, Some(format!("revision {revision} is not shown: {why}")));
                word
            }
        })
    }

    /// Quorum: whether this pod could show the proposal.
    async fn vote(&mut self, proposal: &Proposal) -> Result<Word, Interruption> {
        let known = self.mirror.verdict(proposal);
        let verdict = if let Some(verdict) = known {
            verdict
        } else {
            let candidate = self.candidate(proposal).await?;
            self.mirror.prepare(proposal, &candidate, Some(&proposal.uid)).await?
        };
        Ok(answer(proposal, verdict, ReplicaState::Staged))
    }

    /// Canary: shows the proposal.
    async fn try_out(&mut self, proposal: &Proposal) -> Result<Word, Interruption> {
        let verdict = match self.mirror.verdict(proposal) {
            Some(verdict @ Verdict::Refused(_)) => verdict,
            _ if self.mirror.shows(proposal) => Verdict::Accepted,
            _ => {
                let candidate = self.candidate(proposal).await?;
                self.mirror.show(proposal, &candidate, Some(&proposal.uid)).await?
            }
        };
        Ok(answer(proposal, verdict, ReplicaState::Applied))
    }

    async fn candidate(&self, proposal: &Proposal) -> Result<Arc<Head>, Interruption> {
        let name = names::candidate_name(&self.config);
        let secret = self.called(&name, "get", self.secrets.get(&name)).await?;
        let head = candidate::verified(&secret, proposal)
            .map_err(|why| Interruption::Candidate { name: self.full(&name), why })?;
        self.shared.lamport.see(head.lamport);
        Ok(Arc::new(head))
    }

    /// This is what the pod is to show, by the newest word of the head.
    fn want(&mut self, wanted: Reading) {
        self.shared.readings.want(&self.config, wanted.clone().ok());
        self.wanted = wanted;
    }

    fn say(&self, word: Word) {
        let runs = self.mirror.shown().map(|shown| shown.revision);
        self.words.send_replace(Some(Word { runs, ..word }));
    }

    async fn called<T>(
        &self,
        name: &str,
        verbs: &str,
        call: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Interruption> {
        self.turn();
        match timeout(CALL_LIMIT, call).await {
            Ok(answer) => answer.map_err(|error| self.refused(name, verbs, &error)),
            Err(_) => Err(Interruption::Silent { name: self.full(name) }),
        }
    }

    fn refused(&self, name: &str, verbs: &str, error: &kube::Error) -> Interruption {
        let (why, category) = match error {
            kube::Error::Api(status) if status.code == 403 => {
                let permission = format!("the service account needs {verbs} on it (RBAC)");
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
        Interruption::Refused { name: self.full(name), why, category }
    }

    fn full(&self, name: &str) -> String {
        format!("{}/{name}", self.shared.options.namespace)
    }

    /// Tells what went wrong, and when it is tried again.
    fn failed(&mut self, interruption: &Interruption) {
        self.shared.metrics.error(interruption.category());
        self.trouble(&format!("{interruption}; the files stay as they are"));
        if let Some(word) = interruption.word() {
            self.say(word);
        }
        self.due = self.shared.health.now() + self.retries.wait();
    }

    /// A quorum read found no head.
    fn absent(&self) {
        let name = self.full(&names::head_name(&self.config));
        self.trouble(&format!("Secret {name} does not exist: waiting for the operator to publish; files stay"));
        if let Some(shown) = self.mirror.shown() {
            let of = Proposal { uid: String::new(), revision: shown.revision, hash: shown.hash.clone() };
            self.say(Word::new(ReplicaState::Orphaned, of).because("the config's head does not exist; the files stay"));
        }
    }

    fn trouble(&self, problem: &str) {
        if self.shared.health.problem(&self.config, Some(problem.to_owned())) {
            tracing::warn!(config = self.config, "{problem}");
        }
    }

    fn verified(&self, secret: &Secret) -> Option<Head> {
        let head = match Head::from_secret(secret) {
            Ok(head) if secret.type_.as_deref() == Some(names::HEAD_TYPE) => return Some(head),
            Ok(_) => format!("it is not of type {}", names::HEAD_TYPE),
            Err(error) => error.to_string(),
        };
        self.shared.metrics.error("head");
        let name = self.full(&names::head_name(&self.config));
        self.trouble(&format!("Secret {name} is no good head: {head}; the files stay as they are"));
        None
    }
}

/// What a pod says of a candidate.
fn answer(proposal: &Proposal, verdict: Verdict, accepted: ReplicaState) -> Word {
    let word = match verdict {
        Verdict::Accepted => Word::new(accepted, proposal.clone()),
        Verdict::Refused(why) => refusal(proposal, &why),
    };
    Word { on_candidate: true, ..word }
}

fn refusal(content: &Proposal, why: &str) -> Word {
    Word::new(ReplicaState::Rejected, content.clone()).because(&format!("the check refuses it: {why}"))
}

/// Versions of one object rise, and can be compared as numbers.
fn version_of(secret: &Secret) -> Option<u64> {
    secret.resource_version()?.parse().ok()
}

/// Until there is something new; for ever when there never will be.
async fn changed<T>(news: &mut watch::Receiver<T>) {
    if news.changed().await.is_err() {
        future::pending::<()>().await;
    }
}
