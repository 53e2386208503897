//! A member's state in its Lease: the holder in the Lease's own fields, the token where the fencing policy sees to it
//! that it never falls.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::api::ObjectMeta;
use quorate_crds::names;
use serde::{Deserialize, Serialize};

use super::state::{Holder, MemberState};
use crate::{Stored, lock::whole_seconds};

/// What the annotation holds beside the token.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct More {
    #[serde(skip_serializing_if = "String::is_empty")]
    claim: String,
    renewals: u64,
    ttl_millis: u64,
    longest_millis: u64,
}

impl Stored for MemberState {
    type Object = Lease;

    fn of_none() -> Option<Self> {
        Some(Self::default())
    }

    fn of_object(lease: &Lease) -> Result<Self, String> {
        let annotation = |name: &str| lease.metadata.annotations.as_ref().and_then(|all| all.get(name));
        let no_state = |name: &str, what: &str| {
            format!("its annotation {name} is no state of a RedLock: {what}: if nothing else uses the Lease, delete it")
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let shown = spec.holder_identity.filter(|identity| !identity.is_empty());
        let written = spec.renew_time.map(|MicroTime(time)| time);
        let (Some(text), Some(token)) = (annotation(names::REDLOCK), annotation(names::FENCING_TOKEN)) else {
            return Err(format!(
                "it is no RedLock's: it has no annotation {}: give the lock another name",
                names::REDLOCK
            ));
        };
        let more: More = serde_json::from_str(text).map_err(|error| no_state(names::REDLOCK, &error.to_string()))?;
        let token = token.parse().map_err(|_| no_state(names::FENCING_TOKEN, "it is no number"))?;
        // Only a holder that the annotation explains is one of ours: client-go keeps annotations, and replaces the rest.
        let ours = format!("_{}", more.claim);
        let holder = shown.map(|shown| match shown.strip_suffix(&ours) {
            Some(identity) if !more.claim.is_empty() => {
                let ttl = Duration::from_millis(more.ttl_millis);
                Holder { claim: more.claim, identity: identity.to_owned(), ttl, renewals: more.renewals }
            }
            _ => {
                let seconds = spec.lease_duration_seconds.unwrap_or_default().max(0).unsigned_abs();
                Holder { claim: String::new(), identity: shown, ttl: Duration::from_secs(seconds.into()), renewals: 0 }
            }
        });
        Ok(Self { joined: true, token, longest: Duration::from_millis(more.longest_millis), holder, written })
    }

    fn to_object(&self, mut metadata: ObjectMeta) -> Lease {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let holder = self.holder.as_ref();
        let more = More {
            claim: holder.map(|holder| holder.claim.clone()).unwrap_or_default(),
            renewals: holder.map(|holder| holder.renewals).unwrap_or_default(),
            ttl_millis: holder.map(|holder| millis(holder.ttl)).unwrap_or_default(),
            longest_millis: millis(self.longest),
        };
        let annotations = metadata.annotations.get_or_insert_default();
        // Nothing in it can fail to be JSON.
        annotations.insert(names::REDLOCK.to_owned(), serde_json::to_string(&more).unwrap_or_default());
        annotations.insert(names::FENCING_TOKEN.to_owned(), self.token.to_string());
        let seconds = holder.map_or(1, |holder| whole_seconds(holder.ttl));
        let spec = LeaseSpec {
            // client-go takes the empty string for free.
            holder_identity: Some(holder.map(identity).unwrap_or_default()),
            lease_duration_seconds: Some(seconds),
            renew_time: self.written.map(MicroTime),
            ..LeaseSpec::default()
        };
        Lease { metadata, spec: Some(spec) }
    }
}

fn identity(holder: &Holder) -> String {
    if holder.claim.is_empty() { holder.identity.clone() } else { format!("{}_{}", holder.identity, holder.claim) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::micros;
    use jiff::Timestamp;

    fn held() -> MemberState {
        let now = micros(Timestamp::now());
        let ttl = Duration::from_millis(1_500);
        let holder = Holder { claim: "c1".into(), identity: "web_0".into(), ttl, renewals: 3 };
        MemberState { holder: Some(holder), token: 8, ..MemberState::default().join(7, Duration::from_secs(20), now) }
    }

    #[test]
    fn a_state_comes_back_as_it_was_written() {
        let held = held();
        let lease = held.to_object(ObjectMeta::default());
        assert_eq!(MemberState::of_object(&lease).as_ref(), Ok(&held));
        let free = held.release("c1", micros(Timestamp::now())).unwrap();
        assert_eq!(MemberState::of_object(&free.to_object(lease.metadata)), Ok(free));
    }

    #[test]
    fn who_took_it_without_the_annotation_is_another_holder() {
        let mut lease = held().to_object(ObjectMeta::default());
        if let Some(spec) = &mut lease.spec {
            (spec.holder_identity, spec.lease_duration_seconds) = (Some("manager".into()), Some(10));
        }
        let holder = MemberState::of_object(&lease).unwrap().holder.unwrap();
        assert_eq!(
            (holder.claim.as_str(), holder.identity.as_str(), holder.ttl),
            ("", "manager", Duration::from_secs(10))
        );
    }

    #[test]
    fn a_lease_of_something_else_is_not_taken() {
        let told = MemberState::of_object(&Lease::default()).unwrap_err();
        assert!(told.contains("another name"), "{told}");
    }
}
