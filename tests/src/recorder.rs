//! All versions of one object, as the API server tells them.

use std::{
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;
use futures::StreamExt;
use kube::{
    Api, Resource,
    api::{ListParams, WatchEvent, WatchParams},
    core::NamespaceResourceScope,
};
use serde::de::DeserializeOwned;
use tokio::{task::JoinHandle, time::sleep};

/// One version: its number, and the object; none when it was deleted then.
pub type Version<K> = (u64, Option<K>);

/// Records until it is dropped. An API server that was started again does not tell what was before: record from another.
pub struct Recorder<K> {
    versions: Arc<Mutex<Vec<Version<K>>>>,
    task: JoinHandle<()>,
}

impl<K> Drop for Recorder<K> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<K> Recorder<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + Sync
        + 'static,
{
    /// Records the object of this name from now on.
    ///
    /// # Errors
    /// When the API server cannot be asked.
    pub async fn start(api: Api<K>, name: &str) -> Result<Self> {
        let from = api.list(&ListParams::default()).await?.metadata.resource_version.unwrap_or_default();
        let versions: Arc<Mutex<Vec<Version<K>>>> = Arc::default();
        let (name, recorded) = (name.to_owned(), Arc::clone(&versions));
        let task = tokio::spawn(async move {
            let mut from = from;
            let params = WatchParams::default().fields(&format!("metadata.name={name}"));
            loop {
                if let Ok(events) = api.watch(&params, &from).await {
                    let mut events = events.boxed();
                    while let Some(Ok(event)) = events.next().await {
                        let (object, there) = match event {
                            WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, true),
                            WatchEvent::Deleted(object) => (object, false),
                            WatchEvent::Bookmark(_) | WatchEvent::Error(_) => break,
                        };
                        from = object.meta().resource_version.clone().unwrap_or_default();
                        let version = (from.parse().unwrap_or_default(), there.then_some(object));
                        recorded.lock().unwrap_or_else(PoisonError::into_inner).push(version);
                    }
                }
                sleep(Duration::from_millis(50)).await;
            }
        });
        Ok(Self { versions, task })
    }

    /// What was recorded so far.
    #[must_use]
    pub fn versions(&self) -> Vec<Version<K>> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
