//! The counter's state in a DistributedCounter: users write the spec, and the status is the counter.

use kube::api::ObjectMeta;
use quorate_crds::DistributedCounter;

use super::state::CounterState;
use crate::Stored;

impl Stored for CounterState {
    type Object = DistributedCounter;

    const IN_STATUS: bool = true;
    const CONCERNS: Option<&'static str> = Some("status.next");

    /// Its bounds are its users' to say.
    fn of_none() -> Option<Self> {
        None
    }

    fn of_object(object: &DistributedCounter) -> Result<Self, String> {
        if let Some(set) = &object.spec.cluster_set {
            return Err(format!(
                "it is counted over ClusterSet {set}, and its own status is no part of that: open it there (kubectl quorate counter, Counter::open)"
            ));
        }
        let fresh = Self::new(object.spec.clone());
        Ok(match &object.status {
            Some(status) => Self { status: status.clone(), ..fresh },
            None => fresh,
        })
    }

    fn to_object(&self, metadata: ObjectMeta) -> DistributedCounter {
        DistributedCounter { metadata, spec: self.spec.clone(), status: Some(self.status.clone()) }
    }
}
