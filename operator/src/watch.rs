//! The watches: configs whole, ConfigMaps and Secrets by metadata only.

use std::{
    collections::HashSet,
    sync::{Arc, Once},
    time::Duration,
};

use backon::ExponentialBuilder;
use futures::{Stream, StreamExt, future::join_all};
use http::Request;
use k8s_openapi::{
    api::core::v1::{ConfigMap, Secret},
    apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    client::Body,
    core::{DeserializeGuard, PartialObjectMeta},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, ExponentialBackoff, watcher},
    },
};
use quorate_crds::{Acceptor, ConfigReplica, names};
use quorate_resolve::{SourceKind, SourceRef};

use crate::{Key, Operator, api::told, guarded::Guarded, rollout::Replica};

/// The API server ends a watch after this long; a load balancer that drops idle connections does
/// not go unnoticed for longer. Seconds.
const WATCH_SECONDS: u32 = 180;
/// The first and the longest wait before a broken watch is tried again: kube's own goes up to half a
/// minute, for which a fresh installation would look broken.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// The names of the watches of these namespaces (none is all), as `/readyz` shows them.
#[must_use]
pub fn names_of(namespaces: &[String]) -> Vec<String> {
    scopes(namespaces)
        .iter()
        .flat_map(|s| {
            ["DistributedConfigs", "ConfigReplicas", "ConfigMaps", "Secrets", "Acceptors"]
                .map(|k| name(k, s.as_deref()))
        })
        .collect()
}

fn scopes(namespaces: &[String]) -> Vec<Option<String>> {
    if namespaces.is_empty() { vec![None] } else { namespaces.iter().cloned().map(Some).collect() }
}

fn name(kind: &str, namespace: Option<&str>) -> String {
    namespace.map_or_else(|| format!("watch on {kind}"), |n| format!("watch on {kind} in {n}"))
}

/// Follows all, for ever. The queue opens when every config is known, but for those of namespaces that
/// the API server refuses to list: they must not hold up the others.
pub async fn follow(operator: Arc<Operator>) {
    let scopes = scopes(&operator.namespaces);
    let remaining = std::sync::atomic::AtomicUsize::new(scopes.len());
    let settled = || {
        if remaining.fetch_sub(1, std::sync::atomic::Ordering::Relaxed) == 1 {
            operator.state.queue.open();
        }
    };
    join_all(scopes.iter().map(|scope| async {
        let scope = scope.as_deref();
        futures::join!(
            configs(&operator, scope, &settled),
            replicas(&operator, scope),
            maps(&operator, scope),
            secrets(&operator, scope),
            acceptors(&operator, scope)
        )
    }))
    .await;
}

fn config() -> watcher::Config {
    watcher::Config::default().timeout(WATCH_SECONDS)
}

fn api<K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>>(
    operator: &Arc<Operator>,
    watch: &str,
    namespace: Option<&str>,
) -> Api<K> {
    let client = telling(operator, watch);
    namespace.map_or_else(|| Api::all(client.clone()), |n| Api::namespaced(client.clone(), n))
}

/// A client that tells `/readyz` when the API server accepts the watch: one that is resumed after a
/// break says so by no event, and may be silent for long.
fn telling(operator: &Arc<Operator>, watch: &str) -> Client {
    let (client, operator, watch) = (operator.client.clone(), Arc::clone(operator), Arc::<str>::from(watch));
    let namespace = client.default_namespace().to_owned();
    let service = tower::service_fn(move |request: Request<Body>| {
        let (client, operator, watch) = (client.clone(), Arc::clone(&operator), Arc::clone(&watch));
        async move {
            let starts = request.uri().query().is_some_and(|query| query.split('&').any(|pair| pair == "watch=true"));
            let response = client.send(request).await?;
            if starts && response.status().is_success() {
                up(&operator, &watch);
            }
            Ok::<_, kube::Error>(response)
        }
    });
    Client::new(service, namespace)
}

/// The listing is complete and the watch is up.
fn up(operator: &Operator, watch: &str) {
    if operator.health.well(watch) {
        tracing::info!(watch, "up to date");
    }
}

/// Hands on the good events; tells `/readyz`, the log and the metrics of the others.
async fn drive<K>(
    operator: &Operator,
    watch: &str,
    events: impl Stream<Item = watcher::Result<Event<K>>>,
    mut handle: impl FnMut(Event<K>),
    mut refused: impl FnMut(),
) {
    let backoff = ExponentialBuilder::default().with_min_delay(BACKOFF.0).with_max_delay(BACKOFF.1).with_jitter();
    let backoff = ExponentialBackoff::from(backoff.without_max_times());
    let mut events = std::pin::pin!(events.backoff(backoff));
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                let listing = matches!(event, Event::Init | Event::InitApply(_));
                handle(event);
                if !listing {
                    up(operator, watch);
                }
            }
            Err(error) => {
                if is_refused(&error) {
                    refused();
                }
                operator.metrics.error("watch");
                let why = explained(&error);
                if operator.health.unwell(watch, &why) {
                    tracing::warn!(watch, why, "interrupted; trying again");
                }
            }
        }
    }
}

/// Whether the API server refuses to list at all.
fn is_refused(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.is_forbidden())
}

fn explained(error: &watcher::Error) -> String {
    let cause = match error {
        watcher::Error::InitialListFailed(e) | watcher::Error::WatchStartFailed(e) | watcher::Error::WatchFailed(e) => {
            e
        }
        other => return other.to_string(),
    };
    match cause {
        kube::Error::Api(status) if status.code == 404 => {
            "its CustomResourceDefinition is not installed: kubectl apply -f crds/".into()
        }
        other => told(other),
    }
}

async fn configs(operator: &Arc<Operator>, namespace: Option<&str>, settled: &impl Fn()) {
    let state = &operator.state;
    let mut seen = HashSet::new();
    let once = Once::new();
    let settle = || once.call_once(settled);
    let apply = |guarded: Guarded| match guarded.0 {
        Ok(mut config) => {
            keep_newest(&mut config.metadata.managed_fields);
            state.config_applied(config);
        }
        Err(invalid) => {
            operator.metrics.error("undecodable");
            let object = format!(
                "{}/{}",
                invalid.metadata.namespace.as_deref().unwrap_or_default(),
                invalid.metadata.name.as_deref().unwrap_or_default()
            );
            tracing::error!(config = object, error = invalid.error, "this config cannot be read; its head stays");
        }
    };
    let watch = name("DistributedConfigs", namespace);
    let events = watcher(api::<Guarded>(operator, &watch, namespace), config());
    let handle = |event| match event {
        Event::Init => seen.clear(),
        Event::InitApply(object) => {
            seen.insert(Key::of(&object));
            apply(object);
        }
        Event::InitDone => {
            state.configs_listed(namespace, &seen);
            seen = HashSet::new();
            settle();
        }
        Event::Apply(object) => apply(object),
        Event::Delete(object) => state.config_deleted(&Key::of(&object)),
    };
    drive(operator, &watch, events, handle, settle).await;
}

/// Of who changed what, the last is all that is told.
fn keep_newest(entries: &mut Option<Vec<ManagedFieldsEntry>>) {
    let own = entries.take().unwrap_or_default().into_iter().filter(|e| e.subresource.as_deref() != Some("status"));
    let newest = own.max_by_key(|entry| entry.time.as_ref().map(|time| time.0));
    *entries = newest.map(|entry| vec![ManagedFieldsEntry { fields_v1: None, ..entry }]);
}

async fn replicas(operator: &Arc<Operator>, namespace: Option<&str>) {
    let state = &operator.state;
    let mut seen = HashSet::new();
    let watch = name("ConfigReplicas", namespace);
    let events = watcher(api::<DeserializeGuard<ConfigReplica>>(operator, &watch, namespace), config());
    let read = |guard: DeserializeGuard<ConfigReplica>| match guard.0 {
        Ok(object) => Some(replica(&object)),
        Err(invalid) => {
            operator.metrics.error("undecodable");
            let object = invalid.metadata.name.unwrap_or_default();
            tracing::error!(
                replica = object,
                error = invalid.error,
                "this ConfigReplica cannot be read: it counts for nothing"
            );
            None
        }
    };
    let handle = |event| match event {
        Event::Init => seen.clear(),
        Event::InitApply(object) => {
            if let Some((key, replica)) = read(object) {
                seen.insert((key.clone(), replica.pod_uid.clone()));
                state.replica_said(&key, replica);
            }
        }
        Event::InitDone => state.replicas_relisted(namespace, &std::mem::take(&mut seen)),
        Event::Apply(object) => {
            if let Some((key, replica)) = read(object) {
                state.replica_said(&key, replica);
            }
        }
        Event::Delete(object) => {
            if let Some((key, replica)) = read(object) {
                state.replica_gone(&key, &replica.pod_uid);
            }
        }
    };
    drive(operator, &watch, events, handle, || {}).await;
}

/// What a ConfigReplica says, and of which config.
#[must_use]
pub fn replica(object: &ConfigReplica) -> (Key, Replica) {
    let spec = object.spec.clone();
    let key = Key { namespace: object.namespace().unwrap_or_default(), name: spec.config };
    let replica = Replica {
        pod_uid: spec.pod_uid,
        pod: spec.pod,
        runs: spec.runs,
        state: spec.state,
        revision: spec.revision,
        hash: spec.hash,
        proposal: spec.proposal,
        message: spec.message,
        lamport: spec.lamport,
        born: object.creation_timestamp().map(|time| time.0).unwrap_or_default(),
    };
    (key, replica)
}

async fn maps(operator: &Arc<Operator>, namespace: Option<&str>) {
    let watch = name("ConfigMaps", namespace);
    let events = watcher(api::<PartialObjectMeta<ConfigMap>>(operator, &watch, namespace), config());
    let mut sources = Listing::new(operator, SourceKind::ConfigMap, namespace);
    drive(operator, &watch, events, |event| sources.take(&event), || {}).await;
}

async fn secrets(operator: &Arc<Operator>, namespace: Option<&str>) {
    let state = &operator.state;
    // The log is written once and never looked at through a watch.
    let config = config().fields(&format!("type!={}", names::REVISION_TYPE));
    let watch = name("Secrets", namespace);
    let events = watcher(api::<PartialObjectMeta<Secret>>(operator, &watch, namespace), config);
    let mut sources = Listing::new(operator, SourceKind::Secret, namespace);
    let mut heads = HashSet::new();
    let handle = |event: Event<PartialObjectMeta<Secret>>| {
        sources.take(&event);
        match event {
            Event::Init => heads.clear(),
            Event::InitApply(head) => {
                let name = head.name_any();
                if name.ends_with(&names::head_name("")) || name.ends_with(&names::candidate_name("")) {
                    heads.insert((head.namespace().unwrap_or_default(), name));
                }
                state.head_changed(&head, false);
            }
            Event::InitDone => state.heads_listed(namespace, &std::mem::take(&mut heads)),
            Event::Apply(head) => state.head_changed(&head, false),
            Event::Delete(head) => state.head_changed(&head, true),
        }
    };
    drive(operator, &watch, events, handle, || {}).await;
}

/// A change of this cluster's part in what several decide is a reason to ask them.
async fn acceptors(operator: &Arc<Operator>, namespace: Option<&str>) {
    let watch = name("Acceptors", namespace);
    let events = watcher(api::<PartialObjectMeta<Acceptor>>(operator, &watch, namespace), config());
    let handle = |event| {
        if let Event::Apply(acceptor) = event {
            operator.state.agreement_changed(&acceptor);
        }
    };
    drive(operator, &watch, events, handle, || {}).await;
}

/// Takes in the events of one kind of source.
struct Listing<'a> {
    operator: &'a Operator,
    kind: SourceKind,
    namespace: Option<&'a str>,
    seen: HashSet<SourceRef>,
}

impl<'a> Listing<'a> {
    fn new(operator: &'a Operator, kind: SourceKind, namespace: Option<&'a str>) -> Self {
        Self { operator, kind, namespace, seen: HashSet::new() }
    }

    fn take<K: Resource>(&mut self, event: &Event<PartialObjectMeta<K>>)
    where
        PartialObjectMeta<K>: ResourceExt,
    {
        let state = &self.operator.state;
        let source = |o: &PartialObjectMeta<K>| SourceRef {
            kind: self.kind,
            namespace: o.metadata.namespace.clone().unwrap_or_default(),
            name: o.metadata.name.clone().unwrap_or_default(),
        };
        match event {
            Event::Init => self.seen.clear(),
            Event::InitApply(object) => {
                let source = source(object);
                state.source_changed(&source, object.metadata.resource_version.as_deref());
                if state.is_referenced(&source) {
                    self.seen.insert(source);
                }
            }
            Event::InitDone => {
                let seen = std::mem::take(&mut self.seen);
                for gone in state.unlisted(self.kind, self.namespace, &seen) {
                    state.source_changed(&gone, None);
                }
            }
            Event::Apply(object) => {
                state.source_changed(&source(object), object.metadata.resource_version.as_deref());
            }
            Event::Delete(object) => state.source_changed(&source(object), None),
        }
    }
}
