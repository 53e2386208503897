//! The lock's state in a Lease: in the Lease's own fields, so that `kubectl get leases` shows it and client-go's
//! leader election respects it; claims in full, and those who wait, in an annotation.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::api::ObjectMeta;
use quorate_crds::names;
use serde::{Deserialize, Serialize};

use super::state::{Claim, Foreign, Holder, LockState};
use crate::{Stamp, Stored};

/// What the annotation holds.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Claims {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    holders: Vec<Holder>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    waiters: Vec<Claim>,
    lamport: i64,
    hlc: Stamp,
}

impl Stored for LockState {
    type Object = Lease;

    fn of_none() -> Option<Self> {
        Some(Self::default())
    }

    fn of_object(lease: &Lease) -> Result<Self, String> {
        let annotations = lease.metadata.annotations.as_ref();
        let claims: Claims = match annotations.and_then(|all| all.get(names::LOCK)) {
            None => Claims::default(),
            Some(text) => serde_json::from_str(text).map_err(|error| {
                let cure = "while nobody uses the lock, remove the annotation or delete the Lease";
                format!("its annotation {} is no state of a lock: {error}: {cure}", names::LOCK)
            })?,
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let shown = spec.holder_identity.filter(|identity| !identity.is_empty());
        let renewed = spec.renew_time.map(|MicroTime(time)| time);
        // Only a holder that the claims explain is one of ours: client-go keeps annotations, and replaces the rest.
        let ours = shown.as_deref() == holder_identity(&claims.holders).as_deref();
        let foreign = shown.filter(|_| !ours).map(|identity| {
            let seconds = spec.lease_duration_seconds.unwrap_or_default().max(0).unsigned_abs();
            Foreign { identity, ttl: Duration::from_secs(seconds.into()), renewed }
        });
        let granted = lease.metadata.labels.as_ref().and_then(|labels| labels.get(names::LOCK_GRANTED).cloned());
        Ok(Self {
            holders: if ours { claims.holders } else { Vec::new() },
            waiters: claims.waiters,
            foreign,
            granted,
            transitions: spec.lease_transitions.unwrap_or_default(),
            lamport: claims.lamport,
            hlc: claims.hlc,
            acquired: spec.acquire_time.map(|MicroTime(time)| time),
            renewed,
        })
    }

    fn to_object(&self, mut metadata: ObjectMeta) -> Lease {
        let Self { holders, waiters, lamport, hlc, .. } = self.clone();
        let claims = Claims { holders, waiters, lamport, hlc };
        // Nothing in it can fail to be JSON.
        let text = serde_json::to_string(&claims).unwrap_or_default();
        metadata.annotations.get_or_insert_default().insert(names::LOCK.to_owned(), text);
        if let Some(granted) = &self.granted {
            metadata.labels.get_or_insert_default().insert(names::LOCK_GRANTED.to_owned(), granted.clone());
        }
        let (identity, seconds) = match &self.foreign {
            Some(foreign) => (Some(foreign.identity.clone()), whole_seconds(foreign.ttl)),
            // The longest of them: who knows only this waits for all.
            None => (
                holder_identity(&self.holders),
                self.holders.iter().map(|holder| whole_seconds(holder.claim.ttl())).max().unwrap_or(1),
            ),
        };
        let spec = LeaseSpec {
            // client-go takes the empty string for free, as it writes it itself.
            holder_identity: Some(identity.unwrap_or_default()),
            lease_duration_seconds: Some(seconds),
            acquire_time: self.acquired.map(MicroTime),
            renew_time: self.foreign.as_ref().map_or(self.renewed, |foreign| foreign.renewed).map(MicroTime),
            lease_transitions: Some(self.transitions),
            ..LeaseSpec::default()
        };
        Lease { metadata, spec: Some(spec) }
    }
}

/// What the Lease says of its holders: one, by name and claim, or one name made up for all of them.
fn holder_identity(holders: &[Holder]) -> Option<String> {
    let first = holders.first()?;
    let more = if holders.len() > 1 { format!("+{}", holders.len() - 1) } else { String::new() };
    Some(format!("{}_{}{more}", first.claim.identity, first.claim.id))
}

/// At least as long.
pub fn whole_seconds(time: Duration) -> i32 {
    i32::try_from(time.as_millis().div_ceil(1000)).unwrap_or(i32::MAX).max(1)
}

/// To the microsecond, as a Lease keeps it.
pub fn micros(time: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Step, lock::state::Mode};

    fn claim(id: &str) -> Claim {
        let ttl_millis = 15_000;
        let (client, identity) = ("c1".to_owned(), format!("pod-{id}"));
        Claim { id: id.to_owned(), client, identity, mode: Mode::Exclusive, ttl_millis, process: None }
    }

    fn held(state: &LockState, id: &str, at: Timestamp) -> LockState {
        let Step::Write(next, _) = state.acquire(&claim(id), true, at) else { panic!("not written") };
        next
    }

    #[test]
    fn a_state_comes_back_as_it_was_written() {
        let now = micros(Timestamp::now());
        let state = held(&held(&LockState::default(), "a", now), "b", now);
        let lease = state.to_object(ObjectMeta { name: Some("l".into()), ..ObjectMeta::default() });
        assert_eq!(LockState::of_object(&lease), Ok(state));
        let spec = lease.spec.unwrap();
        assert_eq!((spec.holder_identity.as_deref(), spec.lease_duration_seconds), (Some("pod-a_a"), Some(15)));
    }

    #[test]
    fn a_holder_that_the_claims_do_not_explain_is_a_foreign_one() {
        let now = micros(Timestamp::now());
        let state = held(&held(&LockState::default(), "a", now), "b", now);
        let mut lease = state.to_object(ObjectMeta::default());
        // What client-go does to it: all of the spec, none of the annotations.
        let taken = LeaseSpec {
            holder_identity: Some("manager-0".into()),
            lease_duration_seconds: Some(10),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        };
        lease.spec = Some(taken.clone());
        let state = LockState::of_object(&lease).unwrap();
        let foreign = Foreign { identity: "manager-0".into(), ttl: Duration::from_secs(10), renewed: Some(now) };
        assert_eq!((state.holders.len(), state.waiters.len(), &state.foreign), (0, 1, &Some(foreign)));
        // Who waits writes, and the holder's own fields stay.
        let again = held(&state, "c", now).to_object(lease.metadata.clone()).spec.unwrap();
        assert_eq!((again.holder_identity, again.renew_time), (taken.holder_identity, taken.renew_time));
        // It was given back: nobody holds it, whatever the claims say.
        lease.spec = Some(LeaseSpec { holder_identity: Some(String::new()), ..LeaseSpec::default() });
        assert!(LockState::of_object(&lease).unwrap().is_free());
    }

    #[test]
    fn an_annotation_that_is_no_state_is_told_with_a_cure() {
        let annotations = [(names::LOCK.to_owned(), "{".to_owned())].into();
        let metadata = ObjectMeta { annotations: Some(annotations), ..ObjectMeta::default() };
        let told = LockState::of_object(&Lease { metadata, spec: None }).unwrap_err();
        assert!(told.contains("quorate.io/lock") && told.contains("delete the Lease"), "{told}");
    }
}
