//! A DistributedQueue and its QueueItems.

use std::time::Duration;

use futures::{StreamExt, future, stream, stream::BoxStream};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Preconditions, WatchEvent, WatchParams},
};
use quorate_crds::QueueItem;
use tokio::time::timeout;

use super::{
    item::Item,
    state::QueueState,
    store::{Event, Store, Which},
};
use crate::{Failure, KubeRegister, ObjectVersion, Stored, Version, Versioned, kube_register::called};

/// The API server ends a watch after this long. Seconds.
const WATCH_SECONDS: u32 = 290;
/// Items in one answer: payloads may be large.
const PAGE: u32 = 250;

/// See the module.
pub struct KubeStore {
    client: Client,
    items: Api<QueueItem>,
    queue: KubeRegister<QueueState>,
    namespace: String,
    name: String,
    limit: Duration,
}

impl KubeStore {
    /// The queue of this name. Each call to the API server has this time limit.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str, limit: Duration) -> Self {
        let items = Api::namespaced(client.clone(), namespace);
        let queue = KubeRegister::new(client.clone(), namespace, name, limit);
        Self { client, items, queue, namespace: namespace.to_owned(), name: name.to_owned(), limit }
    }

    /// By fields, which nobody can change as they can a label.
    fn selector(&self, which: Which) -> String {
        let state = match which {
            Which::Live => "status.state!=Acknowledged,status.state!=Dead",
            Which::Dead => "status.state=Dead",
        };
        format!("spec.queue={},{state}", self.name)
    }
}

fn versioned(object: &QueueItem) -> Result<(String, Versioned<Item, ObjectVersion>), Failure> {
    let state = Item::of_object(object).map_err(Failure::Refused)?;
    Ok((object.name_any(), Versioned { state, version: ObjectVersion::of(&object.metadata) }))
}

impl Store for KubeStore {
    type Queue = KubeRegister<QueueState>;
    type Item = KubeRegister<Item>;

    fn queue(&self) -> &Self::Queue {
        &self.queue
    }

    fn item(&self, name: &str) -> Self::Item {
        KubeRegister::new(self.client.clone(), &self.namespace, name, self.limit)
    }

    async fn list(
        &self,
        which: Which,
        each: &mut (dyn FnMut(String, Versioned<Item, ObjectVersion>) + Send),
    ) -> Result<u64, Failure> {
        let mut params = ListParams::default().fields(&self.selector(which)).limit(PAGE);
        loop {
            let page = called(self.limit, "list", self.items.list(&params)).await.map_err(|failure| match failure {
                // It took so long that the API server has forgotten the moment as of which it was: that is over with a new list.
                Failure::Refused(why) if params.continue_token.is_some() => Failure::Unknown(why),
                failure => failure,
            })?;
            for object in &page.items {
                let (name, at) = versioned(object)?;
                each(name, at);
            }
            params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                return Ok(page.metadata.resource_version.and_then(|v| v.parse().ok()).unwrap_or_default());
            }
        }
    }

    fn watch(&self, from: u64) -> BoxStream<'static, Event<ObjectVersion>> {
        let params = WatchParams::default().fields(&self.selector(Which::Live)).timeout(WATCH_SECONDS);
        let (api, limit) = (self.items.clone(), self.limit);
        let events = async move {
            let broken = |why: String| stream::once(future::ready(Event::Broken(why))).boxed();
            match timeout(limit, api.watch(&params, &from.to_string())).await {
                Ok(Ok(events)) => events.map(event).boxed(),
                Ok(Err(error)) => broken(error.to_string()),
                Err(_) => broken(format!("no answer to watch within {} ms", limit.as_millis())),
            }
        };
        stream::once(events).flatten().boxed()
    }

    async fn remove(&self, name: &str, version: &ObjectVersion) -> Result<(), Failure> {
        let Some(metadata) = version.metadata() else { return Ok(()) };
        let preconditions =
            Preconditions { uid: metadata.uid.clone(), resource_version: metadata.resource_version.clone() };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let deleted = async {
            match self.items.delete(name, &params).await {
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                answer => answer.map(drop),
            }
        };
        called(self.limit, "delete", deleted).await
    }
}

fn event(event: kube::Result<WatchEvent<QueueItem>>) -> Event<ObjectVersion> {
    let broken = |failure: Failure| Event::Broken(failure.to_string());
    match event {
        Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
            versioned(&object).map_or_else(broken, |(name, at)| Event::Is(name, Box::new(at)))
        }
        Ok(WatchEvent::Deleted(object)) => Event::Gone(object.name_any(), ObjectVersion::of(&object.metadata).token()),
        Ok(WatchEvent::Bookmark(mark)) => {
            mark.metadata.resource_version.parse().map_or_else(|_| Event::Broken("no version".into()), Event::Until)
        }
        Ok(WatchEvent::Error(status)) => Event::Broken(format!("{} ({})", status.message, status.code)),
        Err(error) => Event::Broken(error.to_string()),
    }
}
