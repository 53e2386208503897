//! One Kubernetes object as a register; its version is its resourceVersion, with its uid.
//!
//! What is written: POST, or PUT with uid and resourceVersion, never a PATCH. A PUT that names no uid would make a
//! deleted Lease again. kube's own retries must be off, since they repeat a write behind the driver's back.

use std::{
    error::Error as _,
    fmt::Debug,
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, future, stream, stream::BoxStream};
use kube::{
    Api, Client, Resource,
    api::{ObjectMeta, PostParams, WatchEvent, WatchParams},
    core::NamespaceResourceScope,
};
use quorate_crds::names;
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::timeout;

use crate::{Failure, Register, Session, Version, Versioned};

/// The API server ends a watch after this long. Seconds.
const WATCH_SECONDS: u32 = 290;

/// A state as a Kubernetes object.
pub trait Stored: Clone + Send + Sync + 'static {
    /// The object's type.
    type Object: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Serialize
        + DeserializeOwned
        + Clone
        + Debug
        + Send
        + Sync
        + 'static;

    /// Whether it is kept in the object's status, which is a subresource then.
    const IN_STATUS: bool = false;

    /// A selectable field that names whom a version concerns, if there is one.
    const CONCERNS: Option<&'static str> = None;

    /// What a missing object says; none if users must make it first.
    fn of_none() -> Option<Self>;

    /// What an object says.
    ///
    /// # Errors
    /// When it says something that nobody here wrote, for people.
    fn of_object(object: &Self::Object) -> Result<Self, String>;

    /// The object that says so. Of the metadata it was read with, all that is not the state's stays.
    fn to_object(&self, metadata: ObjectMeta) -> Self::Object;
}

/// The version of an object: none, or its metadata as of that version.
#[derive(Clone, Debug, Default)]
pub struct ObjectVersion(Option<Arc<ObjectMeta>>);

impl ObjectVersion {
    pub(crate) fn of(metadata: &ObjectMeta) -> Self {
        // It is long, and the server's business.
        Self(Some(Arc::new(ObjectMeta { managed_fields: None, ..metadata.clone() })))
    }

    /// The object's metadata; none while it does not exist.
    #[must_use]
    pub fn metadata(&self) -> Option<&ObjectMeta> {
        self.0.as_deref()
    }

    fn key(&self) -> Option<(Option<&str>, Option<&str>)> {
        self.0.as_ref().map(|meta| (meta.uid.as_deref(), meta.resource_version.as_deref()))
    }
}

impl PartialEq for ObjectVersion {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Version for ObjectVersion {
    /// Comparable as a number since Kubernetes 1.35.
    fn token(&self) -> u64 {
        self.0.as_ref().and_then(|meta| meta.resource_version.as_ref()?.parse().ok()).unwrap_or_default()
    }
}

/// See the module.
pub struct KubeRegister<S: Stored> {
    api: Api<S::Object>,
    namespace: String,
    name: String,
    labels: Option<String>,
    writer: Option<String>,
    limit: Duration,
    /// The version that was read or written last: nothing older than that is news.
    newest: Arc<AtomicU64>,
    state: PhantomData<fn() -> S>,
}

impl<S: Stored> KubeRegister<S> {
    /// The object of this name. Each call to the API server has this time limit.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str, limit: Duration) -> Self {
        let (api, namespace, name) = (Api::namespaced(client, namespace), namespace.to_owned(), name.to_owned());
        let newest = Arc::default();
        Self { api, namespace, name, labels: None, writer: None, limit, newest, state: PhantomData }
    }

    /// Watches it only while this label selector matches: the server tells only those whom a change concerns.
    #[must_use]
    pub fn watching(self, selector: &str) -> Self {
        Self { labels: Some(selector.to_owned()), ..self }
    }

    /// Signs what it writes with the uid of the session's pod, which a policy can hold against who really writes.
    #[must_use]
    pub fn signed_by(self, session: &Session) -> Self {
        Self { writer: session.process.as_ref().map(|process| process.uid.clone()), ..self }
    }

    /// Events of the object while it has all these fields.
    fn watch_fields(
        &self,
        from: &ObjectVersion,
        fields: &str,
    ) -> BoxStream<'static, Option<Versioned<S, ObjectVersion>>> {
        let mut params = WatchParams::default().fields(fields).timeout(WATCH_SECONDS);
        params.label_selector.clone_from(&self.labels);
        let from = from.metadata().and_then(|meta| meta.resource_version.clone());
        let (api, limit, newest) = (self.api.clone(), self.limit, Arc::clone(&self.newest));
        let events = async move {
            // Without a version to begin from: the first event is the present state.
            let started = timeout(limit, api.watch(&params, from.as_deref().unwrap_or("0"))).await;
            match started {
                Ok(Ok(events)) => events.boxed(),
                _ => stream::empty().boxed(),
            }
        };
        stream::once(events)
            .flatten()
            .take_while(|event| future::ready(!matches!(event, Err(_) | Ok(WatchEvent::Error(_)))))
            .filter_map(move |event| {
                future::ready(match event {
                    Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => Some(Self::versioned(&object).ok()),
                    // It is gone, or the selector matches it no more, since this version.
                    Ok(WatchEvent::Deleted(object)) => {
                        let since = ObjectVersion::of(object.meta()).token();
                        (since > newest.load(Ordering::Relaxed)).then_some(None)
                    }
                    _ => None,
                })
            })
            .boxed()
    }

    fn versioned(object: &S::Object) -> Result<Versioned<S, ObjectVersion>, Failure> {
        let state = S::of_object(object).map_err(Failure::Refused)?;
        Ok(Versioned { state, version: ObjectVersion::of(object.meta()) })
    }
}

impl<S: Stored> Register for KubeRegister<S> {
    type State = S;
    type Version = ObjectVersion;

    async fn read(&self) -> Result<Versioned<S, ObjectVersion>, Failure> {
        // Without a resourceVersion in the request it is a quorum read.
        match called(self.limit, "get", self.api.get_opt(&self.name)).await? {
            Some(object) => {
                let at = Self::versioned(&object)?;
                self.newest.store(at.version.token(), Ordering::Relaxed);
                Ok(at)
            }
            None => match S::of_none() {
                Some(state) => Ok(Versioned { state, version: ObjectVersion(None) }),
                None => Err(Failure::Refused("it does not exist: create it first".to_owned())),
            },
        }
    }

    async fn compare_and_swap(&self, base: &ObjectVersion, next: &S) -> Result<ObjectVersion, Failure> {
        let params = PostParams::default();
        let mut metadata = base.metadata().cloned().unwrap_or_else(|| ObjectMeta {
            name: Some(self.name.clone()),
            namespace: Some(self.namespace.clone()),
            ..ObjectMeta::default()
        });
        if let Some(writer) = &self.writer {
            metadata.annotations.get_or_insert_default().insert(names::WRITER.to_owned(), writer.clone());
        }
        let object = next.to_object(metadata);
        let written = if base.0.is_none() {
            called(self.limit, "create", self.api.create(&params, &object)).await?
        } else if S::IN_STATUS {
            called(self.limit, "update", self.api.replace_status(&self.name, &params, &object)).await?
        } else {
            called(self.limit, "update", self.api.replace(&self.name, &params, &object)).await?
        };
        let version = ObjectVersion::of(written.meta());
        if version == *base {
            // The server takes what changes nothing for no update at all, and nobody who watches sees it.
            return Err(Failure::Refused("an update that changes nothing, which is a defect".to_owned()));
        }
        self.newest.store(version.token(), Ordering::Relaxed);
        Ok(version)
    }

    fn watch(&self, from: &ObjectVersion) -> BoxStream<'static, Option<Versioned<S, ObjectVersion>>> {
        self.watch_fields(from, &format!("metadata.name={}", self.name))
    }

    fn watch_for(
        &self,
        from: &ObjectVersion,
        concerned: &str,
    ) -> BoxStream<'static, Option<Versioned<S, ObjectVersion>>> {
        match S::CONCERNS {
            Some(field) => self.watch_fields(from, &format!("metadata.name={},{field}={concerned}", self.name)),
            None => self.watch(from),
        }
    }

    fn name(&self) -> String {
        format!("{} {}/{}", S::Object::kind(&()), self.namespace, self.name)
    }
}

/// Calls the API server, for so long at most.
pub(crate) async fn called<T>(
    limit: Duration,
    verb: &str,
    call: impl Future<Output = kube::Result<T>>,
) -> Result<T, Failure> {
    match timeout(limit, call).await {
        Ok(answer) => answer.map_err(|error| failure(verb, &error)),
        Err(_) => Err(Failure::Unknown(format!("no answer to {verb} within {} ms", limit.as_millis()))),
    }
}

/// What an answer means for what was asked.
fn failure(verb: &str, error: &kube::Error) -> Failure {
    let kube::Error::Api(status) = error else {
        let mut text = format!("the API server cannot be reached: {error}");
        let mut source = error.source();
        while let Some(cause) = source {
            text += &format!(": {cause}");
            source = cause.source();
        }
        return Failure::Unknown(text);
    };
    let said = || format!("{} ({})", status.message, status.code);
    match status.code {
        // Gone, or another one under this name: either way the base is not the present version.
        409 => Failure::Conflict,
        404 if verb == "update" => Failure::Conflict,
        403 => Failure::Refused(format!("forbidden: the service account needs {verb} on it: {}", said())),
        400 | 401 | 404 | 405 | 406 | 410 | 413 | 415 | 422 => Failure::Refused(said()),
        // 429 and the 5xx too: who sent them need not be who has, or has not, written it.
        _ => Failure::Unknown(said()),
    }
}
