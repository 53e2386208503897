//! The ClusterSets: the ways to their members, and how these are.

pub mod health;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{StreamExt, future::join_all, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, PostParams},
};
use quorate_coordination::clusters::{CALL, Named, clients};
use quorate_crds::{Acceptor, ClusterSet, ClusterSetSpec};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    Key, Operator,
    api::{ApiError, call},
};
use health::{Probe, Seen};

/// How often members are looked at.
const PROBE: Duration = Duration::from_secs(5);
/// How many sets are looked at at a time.
const SETS: usize = 4;

/// See the module.
#[derive(Default)]
pub struct Clusters {
    open: Mutex<HashMap<Key, Arc<Open>>>,
}

/// A set whose members can be called.
pub struct Open {
    /// What its users have written.
    pub spec: ClusterSetSpec,
    /// The ways to its members.
    pub members: Vec<Named>,
    /// The versions of the Secrets with the kubeconfigs.
    secrets: BTreeMap<String, Option<String>>,
    /// Why it must not be used, if so.
    pub refused: Option<String>,
}

impl Open {
    /// The member that is this cluster.
    #[must_use]
    pub fn own(&self) -> Option<&str> {
        self.spec.members.iter().find(|member| member.is_self).map(|member| member.name.as_str())
    }
}

impl Clusters {
    /// The set of this name. One that is not known yet is looked at first.
    ///
    /// # Errors
    /// Those of the API server; none if there is no such set.
    pub async fn get(&self, operator: &Operator, key: &Key) -> Result<Option<Arc<Open>>, ApiError> {
        if let Some(open) = self.lock().get(key).cloned() {
            return Ok(Some(open));
        }
        let sets: Api<ClusterSet> = Api::namespaced(operator.client.clone(), &key.namespace);
        let Some(set) = call(|| format!("get ClusterSet {key}"), sets.get_opt(&key.name)).await? else {
            return Ok(None);
        };
        look(operator, &set).await?;
        Ok(self.lock().get(key).cloned())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Arc<Open>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at all sets, for ever.
pub async fn follow(operator: &Operator) {
    loop {
        for scope in scopes(operator) {
            let sets: Api<ClusterSet> = match &scope {
                None => Api::all(operator.client.clone()),
                Some(namespace) => Api::namespaced(operator.client.clone(), namespace),
            };
            match call(|| "list ClusterSets".to_owned(), sets.list(&ListParams::default())).await {
                Ok(sets) => look_at_all(operator, scope.as_deref(), &sets.items).await,
                Err(error) => tracing::debug!(%error, "the ClusterSets are not known"),
            }
        }
        sleep(PROBE).await;
    }
}

fn scopes(operator: &Operator) -> Vec<Option<String>> {
    if operator.namespaces.is_empty() { vec![None] } else { operator.namespaces.iter().cloned().map(Some).collect() }
}

async fn look_at_all(operator: &Operator, scope: Option<&str>, sets: &[ClusterSet]) {
    let there: Vec<Key> = sets.iter().map(Key::of).collect();
    operator.clusters.lock().retain(|key, _| scope.is_some_and(|scope| key.namespace != scope) || there.contains(key));
    stream::iter(sets)
        .for_each_concurrent(SETS, |set| async move {
            if let Err(error) = look(operator, set).await {
                operator.metrics.error(error.category());
                tracing::warn!(set = %Key::of(set), %error, "how the members of this ClusterSet are could not be told");
            }
        })
        .await;
}

/// Looks at the members of one, and tells how they are.
async fn look(operator: &Operator, set: &ClusterSet) -> Result<(), ApiError> {
    let key = Key::of(set);
    let known = operator.clusters.lock().get(&key).cloned();
    let secrets = versions(&operator.client, set).await;
    let known = known.filter(|open| open.spec == set.spec && open.secrets == secrets);
    let members = match &known {
        Some(open) => open.members.clone(),
        None => clients(&operator.client, &key.namespace, set).await,
    };
    let probes = join_all(members.iter().map(|(name, client)| probe(name, client, &key.namespace))).await;
    let refused = health::refused(&probes);
    // Who uses it goes on with the same one, as long as nothing changed.
    if known.is_none_or(|open| open.refused != refused) {
        let open = Open { spec: set.spec.clone(), members, secrets, refused };
        operator.clusters.lock().insert(key.clone(), Arc::new(open));
    }
    let Some(status) = health::status(set, &probes, Timestamp::now()) else { return Ok(()) };
    let told = ClusterSet { status: Some(status), ..set.clone() };
    let sets: Api<ClusterSet> = Api::namespaced(operator.client.clone(), &key.namespace);
    let params = PostParams::default();
    let written = sets.replace_status(&key.name, &params, &told);
    match call(|| format!("update the status of ClusterSet {key}"), written).await {
        // It was changed meanwhile, or is gone: the next look tells.
        Err(error) if !matches!(error.code(), Some(404 | 409)) => Err(error),
        _ => Ok(()),
    }
}

/// The versions of the Secrets with the kubeconfigs; none of one that cannot be had.
async fn versions(client: &Client, set: &ClusterSet) -> BTreeMap<String, Option<String>> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &set.namespace().unwrap_or_default());
    let named = set.spec.members.iter().filter_map(|member| member.kubeconfig_secret_ref.as_ref());
    let looks = named.map(|reference| async {
        let there = timeout(CALL, secrets.get_metadata(&reference.name)).await;
        let version = there.ok().and_then(Result::ok).and_then(|secret| secret.resource_version());
        (reference.name.clone(), version)
    });
    join_all(looks).await.into_iter().collect()
}

/// Asks one member who it is, and whether it lets itself be used.
async fn probe(name: &str, client: &Client, namespace: &str) -> Probe {
    let asked = timeout(CALL, async {
        let began = Instant::now();
        let version = client.apiserver_version().await?.git_version;
        let round_trip = began.elapsed();
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let uid = namespaces.get_metadata("kube-system").await?.uid().unwrap_or_default();
        let acceptors: Api<Acceptor> = Api::namespaced(client.clone(), namespace);
        acceptors.list_metadata(&ListParams::default().limit(1)).await?;
        Ok::<_, kube::Error>(Seen { version, uid, round_trip })
    });
    let seen = match asked.await {
        Ok(Ok(seen)) => Ok(seen),
        Ok(Err(error)) => Err(health::explained(&error, namespace)),
        Err(_) => Err(format!("no answer within {} s", CALL.as_secs())),
    };
    Probe { name: name.to_owned(), seen }
}
