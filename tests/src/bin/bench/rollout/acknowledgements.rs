//! What the pods of a namespace say, by a watch on their ConfigReplicas.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context, Result};
use futures::StreamExt;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, watcher},
};
use quorate_crds::{ConfigReplica, ReplicaState};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use super::PODS;

/// Within this, all have answered, or it has failed. The first time all are started in it.
const LIMIT: Duration = Duration::from_secs(80);

pub struct Acknowledgements {
    words: mpsc::Receiver<(Instant, ConfigReplica)>,
    /// The revision that a pod runs, and says so of.
    applied: HashMap<String, Option<i64>>,
}

impl Acknowledgements {
    /// From now on.
    pub fn watch(client: &Client, namespace: &str) -> Self {
        let replicas: Api<ConfigReplica> = Api::namespaced(client.clone(), namespace);
        let (sender, words) = mpsc::channel(4 * PODS);
        tokio::spawn(async move {
            let seen = watcher(replicas, watcher::Config::default()).default_backoff().applied_objects();
            let mut seen = std::pin::pin!(seen);
            while let Some(replica) = seen.next().await {
                // An error is tried again; a pod that goes unheard for long makes the wait fail.
                if let Ok(replica) = replica
                    && sender.send((Instant::now(), replica)).await.is_err()
                {
                    return;
                }
            }
        });
        Self { words, applied: HashMap::new() }
    }

    /// When the last pod said that it runs the revision.
    pub async fn all_run(&mut self, revision: i64) -> Result<Instant> {
        let mut last = Instant::now();
        let heard = timeout(LIMIT, async {
            while self.count(revision) < PODS {
                let (at, replica) = self.words.recv().await.context("the watch ended")?;
                let spec = replica.spec;
                let applied =
                    spec.revision.filter(|_| spec.state == ReplicaState::Applied && spec.runs == spec.revision);
                self.applied.insert(spec.pod, applied);
                last = at;
            }
            Ok(last)
        })
        .await;
        heard.unwrap_or_else(|_| {
            let (count, seconds) = (self.count(revision), LIMIT.as_secs());
            Err(anyhow::anyhow!("{count} of {PODS} pods said within {seconds} s that they run revision {revision}"))
        })
    }

    fn count(&self, revision: i64) -> usize {
        self.applied.values().filter(|applied| **applied == Some(revision)).count()
    }
}
