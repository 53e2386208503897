//! Tells people and the operator what this pod makes of one config: its ConfigReplica.
//!
//! A task of its own: trouble here never keeps files from being published. It is written when there
//! is something else to say, and of several words that wait only the last is.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::{Api, Client, ResourceExt, api::PostParams};
use quorate_crds::{ConfigReplica, ReplicaState};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    Shared,
    backoff::{Backoff, Spread},
    word::{Who, Word},
};

/// The time limit of a call.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// The first and the longest wait after a call that failed.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// The wait after a refusal that only people can end.
const REFUSED: Duration = Duration::from_secs(30);
/// So often it is looked at whether the word went stale, at least.
const TURN: Duration = Duration::from_secs(60);
/// A 409 is settled by reading; more of them in a row are somebody else's doing.
const ATTEMPTS: usize = 3;

/// What is known of the stored ConfigReplica.
enum Stored {
    Unread,
    Absent,
    Present(Box<ConfigReplica>),
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    /// It may go away by itself.
    #[error("{0}")]
    Passing(String),
    /// Somebody must do something.
    #[error("{0}")]
    Lasting(String),
}

/// See the module.
pub struct Reporter {
    shared: Arc<Shared>,
    config: String,
    name: String,
    replicas: Api<ConfigReplica>,
    words: watch::Receiver<Option<Word>>,
    born: watch::Sender<Option<Timestamp>>,
    stored: Stored,
    last: Option<Word>,
}

impl Reporter {
    /// Of what comes from `words`. When the ConfigReplica was created is sent to `born`.
    #[must_use]
    pub fn new(
        shared: Arc<Shared>,
        client: Client,
        config: &str,
        words: watch::Receiver<Option<Word>>,
        born: watch::Sender<Option<Timestamp>>,
    ) -> Self {
        let options = &shared.options;
        Self {
            name: ConfigReplica::name_for(config, &options.pod_name, &options.pod_uid),
            replicas: Api::namespaced(client, &options.namespace),
            config: config.to_owned(),
            words,
            born,
            stored: Stored::Unread,
            last: None,
            shared,
        }
    }

    /// Until nothing more will be said.
    pub async fn run(mut self) {
        let seed = self.shared.seed(&self.config);
        let mut waits = Backoff::new(BACKOFF.0, BACKOFF.1, &seed);
        let mut spread = Spread::new(&seed);
        let mut told = None;
        loop {
            let wait = match self.round().await {
                Ok(()) => {
                    waits.reset();
                    told = None;
                    let next = self.shared.health.fresh(&self.config).unwrap_or(TURN).min(TURN);
                    tokio::select! {
                        changed = self.words.changed() => if changed.is_err() { return },
                        // A moment later, so that it is stale then.
                        () = sleep(next + Duration::from_millis(1)) => {}
                    }
                    continue;
                }
                Err(Trouble::Passing(why)) => {
                    tracing::debug!(config = self.config, "not reported yet: {why}");
                    waits.wait()
                }
                Err(Trouble::Lasting(why)) => {
                    self.tell(&mut told, &why);
                    spread.around(REFUSED)
                }
            };
            self.shared.metrics.error("report");
            // What changes in the meantime is said after it.
            sleep(wait).await;
        }
    }

    fn tell(&self, told: &mut Option<String>, why: &str) {
        if told.as_deref() != Some(why) {
            let (config, seconds) = (&self.config, REFUSED.as_secs());
            tracing::warn!(config, "what this pod runs is not reported, which is tried every {seconds} s: {why}");
            *told = Some(why.to_owned());
        }
    }

    /// Says what there is to say, if it is not written yet.
    async fn round(&mut self) -> Result<(), Trouble> {
        for _ in 0..ATTEMPTS {
            if matches!(self.stored, Stored::Unread) {
                self.read().await?;
            }
            let Some(word) = self.word() else { return Ok(()) };
            if let Stored::Present(replica) = &self.stored
                && !word.is_news(&replica.spec)
            {
                return Ok(());
            }
            if self.write(&word).await? {
                return Ok(());
            }
        }
        Err(Trouble::Passing(format!("ConfigReplica {} is changed by somebody else again and again", self.name)))
    }

    fn word(&mut self) -> Option<Word> {
        let said = self.words.borrow_and_update().clone();
        if let Some(word) = said {
            self.last = Some(word.after(self.last.as_ref()));
        } else if self.shared.health.fresh(&self.config).is_ok() {
            // Not read yet: what was written by this pod before holds.
            return None;
        }
        let word = self.last.clone()?;
        Some(match self.shared.health.fresh(&self.config) {
            Err(complaint) if word.state != ReplicaState::Stale => word.stale(&complaint),
            _ => word,
        })
    }

    async fn read(&mut self) -> Result<(), Trouble> {
        match called("reading", &self.name, self.replicas.get_opt(&self.name)).await {
            Ok(Some(replica)) if replica.spec.pod_uid != self.shared.options.pod_uid => {
                let (name, uid) = (&self.name, &replica.spec.pod_uid);
                Err(Trouble::Lasting(format!("ConfigReplica {name} is that of another pod (uid {uid}): remove it")))
            }
            Ok(Some(replica)) => {
                self.last.get_or_insert_with(|| Word::written(&replica.spec));
                self.learn(replica);
                Ok(())
            }
            Ok(None) => {
                self.stored = Stored::Absent;
                Ok(())
            }
            Err(failure) => Err(failure.trouble),
        }
    }

    /// Whether it is written; if not, something else is stored than was known.
    async fn write(&mut self, word: &Word) -> Result<bool, Trouble> {
        let options = &self.shared.options;
        let who =
            Who { config: &self.config, pod: &options.pod_name, pod_uid: &options.pod_uid, node: &options.node_name };
        let since = match &self.stored {
            Stored::Present(old) if word.continues(&old.spec) => old.spec.since.clone(),
            _ => MicroTime(Timestamp::now()),
        };
        let spec = word.spec(who, self.shared.lamport.tick(), since);
        let (verb, params) = ("writing", PostParams::default());
        let written = match &self.stored {
            Stored::Present(old) => {
                // With the resourceVersion and uid that were seen: nobody else's change is lost.
                let mut replica = ConfigReplica { metadata: old.metadata.clone(), spec };
                replica.metadata.managed_fields = None;
                called(verb, &self.name, self.replicas.replace(&self.name, &params, &replica)).await
            }
            Stored::Absent | Stored::Unread => {
                let replica = ConfigReplica::of_pod(&options.namespace, spec);
                called(verb, &self.name, self.replicas.create(&params, &replica)).await
            }
        };
        match written {
            Ok(replica) => {
                self.learn(replica);
                Ok(true)
            }
            Err(Failure { code: Some(409), .. }) => {
                self.stored = Stored::Unread;
                Ok(false)
            }
            Err(Failure { code: Some(404), .. }) if matches!(self.stored, Stored::Present(_)) => {
                self.stored = Stored::Absent;
                Ok(false)
            }
            Err(failure) => Err(failure.trouble),
        }
    }

    fn learn(&mut self, mut replica: ConfigReplica) {
        self.shared.lamport.see(replica.spec.lamport);
        let born = replica.creation_timestamp().map(|time| time.0);
        self.born.send_if_modified(|known| {
            let news = *known != born;
            *known = born;
            news
        });
        replica.metadata.managed_fields = None;
        self.stored = Stored::Present(Box::new(replica));
    }
}

/// A call that failed.
struct Failure {
    code: Option<u16>,
    trouble: Trouble,
}

async fn called<T>(verb: &str, name: &str, call: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    let what = format!("{verb} ConfigReplica {name}");
    match timeout(CALL_LIMIT, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) => {
            let why = match status.code {
                403 => format!(
                    "{what}: {}; the service account needs get, create and update (RBAC, spec.access), and the sidecar the \
                     token that kubelet mounts into its pod",
                    status.message
                ),
                404 => format!("{what}: not found: is Quorate's CustomResourceDefinition ConfigReplica installed?"),
                code => format!("{what}: {} ({code})", status.message),
            };
            // What the server refuses whatever the time, people must settle.
            let lasts = matches!(status.code, 400..=499) && !matches!(status.code, 408 | 409 | 429);
            let trouble = if lasts { Trouble::Lasting(why) } else { Trouble::Passing(why) };
            Err(Failure { code: Some(status.code), trouble })
        }
        Ok(Err(error)) => Err(Failure { code: None, trouble: Trouble::Passing(format!("{what}: {error}")) }),
        // Whether it was written is not known: the same is written again, and a 409 settles it.
        Err(_) => Err(Failure { code: None, trouble: Trouble::Passing(format!("{what}: no answer")) }),
    }
}
