//! Passes on the locks of processes that have ended, at once, and not only when their time is up.
//!
//! Claims on Leases name their process (`quorate_coordination::Process`). Pods are watched in those namespaces only where some
//! claim does, and nothing of them is kept: an event that proves an end is acted on, all others are dropped.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Node, Pod},
};
use kube::{
    Api, Client, ResourceExt,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use quorate_coordination::{
    Lock, LockState, Session, Stored,
    lock::{Claim, DEFAULT_TTL, LockError},
};
use quorate_crds::names;
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    Key, Operator,
    api::{call, found},
    proof,
};

/// Pods that may be waiting to be looked at.
const PODS: usize = 256;
/// Claims that are passed on at a time.
const PASSING: usize = 16;
/// How often a proof is tried again that could not be acted on.
const RETRY: Duration = Duration::from_secs(1);
/// And how often at most: after that the lock's own time decides.
const TRIES: usize = 10;

/// Follows Leases and pods for ever. All operators do it, by a client that is not the leader's: the lock that passes on may be
/// the one by which they elect it. What two of them do at once is done once.
pub async fn follow(client: &Client, operator: &Arc<Operator>) {
    let Ok(session) = Session::new("quorate-operator") else {
        tracing::warn!("the system gives no randomness: locks of ended processes pass on when their time is up");
        return std::future::pending().await;
    };
    let scopes: Vec<Option<&str>> = if operator.namespaces.is_empty() {
        vec![None]
    } else {
        operator.namespaces.iter().map(|namespace| Some(namespace.as_str())).collect()
    };
    let config = watcher::Config::default().labels(names::LOCK_GRANTED);
    let leases = scopes.into_iter().map(|scope| {
        let client = client.clone();
        let api: Api<Lease> = scope.map_or_else(|| Api::all(client.clone()), |n| Api::namespaced(client.clone(), n));
        watcher(api, config.clone()).default_backoff().boxed()
    });
    let mut leases = futures::stream::select_all(leases);
    let (seen, mut pods) = mpsc::channel(PODS);
    let mut keeper = Keeper {
        client: client.clone(),
        operator,
        session,
        claims: BTreeMap::new(),
        watches: HashMap::new(),
        seen,
        passing: JoinSet::new(),
    };
    loop {
        tokio::select! {
            Some(event) = leases.next() => match event {
                Ok(Event::Apply(lease) | Event::InitApply(lease)) => keeper.lease(&lease).await,
                Ok(Event::Delete(lease)) => keeper.gone(&Key::of(&lease)),
                Ok(Event::Init | Event::InitDone) => {}
                Err(error) => {
                    operator.metrics.error("watch");
                    tracing::debug!(%error, "the watch on Leases was interrupted; trying again");
                }
            },
            Some(pod) = pods.recv() => keeper.pod(&pod).await,
            else => std::future::pending().await,
        }
    }
}

struct Keeper<'a> {
    client: Client,
    operator: &'a Arc<Operator>,
    session: Session,
    /// The claims that name their process, by Lease.
    claims: BTreeMap<Key, Vec<Claim>>,
    /// The watches on pods, by namespace.
    watches: HashMap<String, JoinSet<()>>,
    seen: mpsc::Sender<Pod>,
    passing: JoinSet<()>,
}

impl Keeper<'_> {
    /// A Lease is as it is now. The pods of claims that are new are looked at: they may have ended before.
    async fn lease(&mut self, lease: &Lease) {
        let key = Key::of(lease);
        let Ok(state) = LockState::of_object(lease) else { return };
        let claims = state.holders.into_iter().map(|holder| holder.claim).chain(state.waiters);
        let claims: Vec<Claim> = claims.filter(|claim| claim.process.is_some()).collect();
        if claims.is_empty() {
            return self.gone(&key);
        }
        let before = self.claims.insert(key.clone(), claims.clone()).unwrap_or_default();
        // Watched first, then looked at: no end comes in between.
        self.watch(&key.namespace);
        for claim in claims {
            let Some(process) = &claim.process else { continue };
            if before.iter().any(|known| known.id == claim.id) {
                continue;
            }
            let pods: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
            let name = || format!("get Pod {}/{}", key.namespace, process.pod);
            match found(call(name, pods.get(&process.pod)).await) {
                Ok(Some(pod)) if proof::has_ended(process, &pod) => self.ended(&key, &claim, &pod).await,
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "a claim's pod cannot be looked at"),
            }
        }
    }

    fn gone(&mut self, key: &Key) {
        self.claims.remove(key);
        if !self.claims.keys().any(|other| other.namespace == key.namespace) {
            self.watches.remove(&key.namespace);
        }
    }

    fn watch(&mut self, namespace: &str) {
        let (client, seen) = (self.client.clone(), self.seen.clone());
        let space = namespace.to_owned();
        self.watches.entry(namespace.to_owned()).or_insert_with(|| {
            let mut tasks = JoinSet::new();
            tasks.spawn(watch_pods(client, space, seen));
            tasks
        });
    }

    async fn pod(&mut self, pod: &Pod) {
        let (namespace, uid) = (pod.namespace().unwrap_or_default(), pod.uid().unwrap_or_default());
        let of_pod = |claim: &&Claim| claim.process.as_ref().is_some_and(|process| process.uid == uid);
        let ended: Vec<_> = self
            .claims
            .iter()
            .filter(|(key, _)| key.namespace == namespace)
            .flat_map(|(key, claims)| claims.iter().filter(of_pod).map(move |claim| (key.clone(), claim.clone())))
            .filter(|(_, claim)| claim.process.as_ref().is_some_and(|process| proof::has_ended(process, pod)))
            .collect();
        for (key, claim) in ended {
            self.ended(&key, &claim, pod).await;
        }
    }

    /// Passes the claim on beside all else: what keeps one up keeps up no other.
    async fn ended(&mut self, key: &Key, claim: &Claim, pod: &Pod) {
        if self.passing.len() >= PASSING {
            self.passing.join_next().await;
        }
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
        let (client, operator, session) = (self.client.clone(), Arc::clone(self.operator), self.session.clone());
        self.passing.spawn(pass_on(client, operator, session, key.clone(), claim.clone(), node));
    }
}

/// Takes the claim back, if the node is one that is heard of.
async fn pass_on(client: Client, operator: Arc<Operator>, session: Session, key: Key, claim: Claim, node: String) {
    let (lock, by) = (key.to_string(), &claim.identity);
    for _ in 0..TRIES {
        match taken_back(&client, session.clone(), &key, &claim, &node).await {
            Ok(true) => {
                operator.metrics.locks_passed_on.inc();
                tracing::info!(lock, by, claim = claim.id, "its process has ended: the lock passes on");
                return;
            }
            Ok(false) => return,
            Err(why) => {
                tracing::warn!(lock, by, why, "its process has ended, and it cannot be passed on yet");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Whether the claim was there and is taken back.
async fn taken_back(client: &Client, session: Session, key: &Key, claim: &Claim, node: &str) -> Result<bool, String> {
    let nodes: Api<Node> = Api::all(client.clone());
    let there = found(call(|| format!("get Node {node}"), nodes.get(node)).await).map_err(|error| error.to_string())?;
    if !there.is_some_and(|node| proof::is_ready(&node)) {
        return Err(format!("node {node} is not ready, so that its kubelet may not know"));
    }
    let lock = Lock::on_lease(client.clone(), &key.namespace, &key.name, session, DEFAULT_TTL);
    match lock.map_err(|error| error.to_string())?.force_release(&claim.id).await {
        Ok(()) => Ok(true),
        Err(LockError::NoSuchClaim { .. }) => Ok(false),
        Err(error) => Err(error.to_string()),
    }
}

/// Sends on what kubelets say of pods, as long as anybody listens.
async fn watch_pods(client: Client, namespace: String, seen: mpsc::Sender<Pod>) {
    let pods: Api<Pod> = Api::namespaced(client, &namespace);
    let mut events = std::pin::pin!(watcher(pods, watcher::Config::default()).default_backoff());
    while let Some(event) = events.next().await {
        match event {
            // What was deleted says no more than its last status did.
            Ok(Event::Apply(pod) | Event::InitApply(pod) | Event::Delete(pod)) => {
                if seen.send(pod).await.is_err() {
                    return;
                }
            }
            Ok(Event::Init | Event::InitDone) => {}
            Err(error) => tracing::debug!(namespace, %error, "the watch on pods was interrupted; trying again"),
        }
    }
}
