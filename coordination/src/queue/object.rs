//! Queues and items as Kubernetes objects. What users of a queue write after sending is in the status of both.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, api::ObjectMeta};
use quorate_crds::{DistributedQueue, QueueItem, names};

use super::{item::Item, state::QueueState};
use crate::Stored;

impl Stored for QueueState {
    type Object = DistributedQueue;

    const IN_STATUS: bool = true;

    /// Its bounds are its users' to say.
    fn of_none() -> Option<Self> {
        None
    }

    fn of_object(object: &DistributedQueue) -> Result<Self, String> {
        Ok(Self {
            uid: object.metadata.uid.clone().unwrap_or_default(),
            spec: object.spec.clone(),
            status: object.status.clone().unwrap_or_default(),
        })
    }

    fn to_object(&self, metadata: ObjectMeta) -> DistributedQueue {
        DistributedQueue { metadata, spec: self.spec.clone(), status: Some(self.status.clone()) }
    }
}

impl Stored for Item {
    type Object = QueueItem;

    const IN_STATUS: bool = true;

    fn of_none() -> Option<Self> {
        Some(Self::default())
    }

    fn of_object(object: &QueueItem) -> Result<Self, String> {
        let owners = object.metadata.owner_references.iter().flatten();
        let owner = owners.into_iter().find(|owner| owner.kind == DistributedQueue::kind(&()));
        Ok(Self {
            queue_uid: owner.map(|owner| owner.uid.clone()).unwrap_or_default(),
            spec: object.spec.clone(),
            status: object.status.clone().unwrap_or_default(),
        })
    }

    fn to_object(&self, mut metadata: ObjectMeta) -> QueueItem {
        if metadata.uid.is_none() {
            // It is gone with the queue.
            let owner = OwnerReference {
                api_version: DistributedQueue::api_version(&()).into_owned(),
                kind: DistributedQueue::kind(&()).into_owned(),
                name: self.spec.queue.clone(),
                uid: self.queue_uid.clone(),
                ..OwnerReference::default()
            };
            metadata.owner_references = Some(vec![owner]);
            metadata.labels.get_or_insert_default().insert(names::LABEL_QUEUE.to_owned(), self.spec.queue.clone());
        }
        QueueItem { metadata, spec: self.spec.clone(), status: Some(self.status.clone()) }
    }
}
