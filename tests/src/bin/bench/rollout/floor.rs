//! The floor: a process of many bare watches, which write once for each change they see.
//!
//! They see a Secret of the same payload, and write a ConfigReplica that says as much as a sidecar's,
//! with the same rights. Each has its own client, as the sidecars have. There is no operator between
//! the first write and them, and no file is written.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::MicroTime, jiff::Timestamp};
use kube::{
    Api, ResourceExt,
    api::{ListParams, PostParams, WatchEvent, WatchParams},
};
use quorate_crds::{ConfigReplica, ConfigReplicaSpec, ReplicaState, names};
use tokio::{task::JoinSet, time::sleep};

/// Of the Secret and the bare watches' own objects. No operator looks at it.
pub const NAMESPACE: &str = "floor";
/// Named as a head is, since that is what a sidecar may read.
pub const SECRET: &str = "web.quorate";

/// The wait after a refusal.
const REFUSED: Duration = Duration::from_millis(100);

/// Runs the bare watches of these pods (`NAME=UID`) for ever.
pub async fn run(pods: &[&str]) -> Result<()> {
    debug_assert_eq!(SECRET, names::head_name("web"));
    let mut watches = JoinSet::new();
    for pod in pods {
        let (name, uid) = pod.split_once('=').context("write NAME=UID")?;
        watches.spawn(follow(name.to_owned(), uid.to_owned()));
    }
    match watches.join_next().await {
        Some(ended) => bail!("a bare watch ended: {:?}", ended?),
        None => bail!("no pods"),
    }
}

async fn follow(name: String, uid: String) -> Result<()> {
    let client = quorate_sidecar::client().await?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    let mut own = Own { replicas: Api::namespaced(client, NAMESPACE), name, uid, stored: None };
    let selector = format!("metadata.name={SECRET}");
    let (list, watch) = (ListParams::default().fields(&selector), WatchParams::default().fields(&selector));
    // The API server ends a watch now and then.
    loop {
        let listed = accepted(|| secrets.list(&list)).await?;
        let version = listed.metadata.resource_version.unwrap_or_default();
        let mut events = accepted(|| secrets.watch(&watch, &version)).await?.boxed();
        // Not before: the first word means that the watch is open.
        for secret in &listed.items {
            own.saw(secret).await?;
        }
        while let Some(Ok(event)) = events.next().await {
            if let WatchEvent::Modified(secret) = event {
                own.saw(&secret).await?;
            }
        }
    }
}

/// The API server queues so many requests of one account, and refuses the others: they are sent again.
/// That is what happens when all start at once.
async fn accepted<T, F: Future<Output = kube::Result<T>>>(mut call: impl FnMut() -> F) -> kube::Result<T> {
    loop {
        match call().await {
            Err(kube::Error::Api(status)) if status.code == 429 => sleep(REFUSED).await,
            answer => return answer,
        }
    }
}

/// The object that one watch writes.
struct Own {
    replicas: Api<ConfigReplica>,
    name: String,
    uid: String,
    stored: Option<ConfigReplica>,
}

impl Own {
    async fn saw(&mut self, secret: &Secret) -> Result<()> {
        let value = secret.data.as_ref().and_then(|data| data.get("value")).context("a Secret without a value")?;
        let sample: i64 = std::str::from_utf8(value.0.get(..8).context("too short")?)?.parse()?;
        if self.stored.as_ref().is_some_and(|stored| stored.spec.runs == Some(sample)) {
            return Ok(());
        }
        let spec = ConfigReplicaSpec {
            config: "web".into(),
            pod: self.name.clone(),
            pod_uid: self.uid.clone(),
            node: Some("node-a".into()),
            runs: Some(sample),
            state: ReplicaState::Applied,
            revision: Some(sample),
            hash: Some(format!("sha256:{sample:064}")),
            proposal: secret.uid(),
            message: None,
            lamport: sample,
            since: MicroTime(Timestamp::now()),
        };
        let put = PostParams::default();
        let mut written = match self.stored.take() {
            None => {
                let new = ConfigReplica::of_pod(NAMESPACE, spec);
                accepted(|| self.replicas.create(&put, &new)).await?
            }
            Some(stored) => {
                let (name, new) = (stored.name_any(), ConfigReplica { spec, ..stored });
                accepted(|| self.replicas.replace(&name, &put, &new)).await?
            }
        };
        written.metadata.managed_fields = None;
        self.stored = Some(written);
        Ok(())
    }
}
