//! An acceptor's state in an Acceptor, whose rules refuse what an acceptor must never do.

use std::fmt::Debug;

use kube::{ResourceExt, api::ObjectMeta};
use quorate_crds::{AcceptedValue, Acceptor, AcceptorBallot, AcceptorSpec, AcceptorUid};
use serde::{Serialize, de::DeserializeOwned};

use super::acceptor::{Accepted, AcceptorState, Ballot, Place};
use crate::Stored;

impl<S: Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static> Stored for AcceptorState<S> {
    type Object = Acceptor;

    /// One that is missing is no empty one: it may have accepted something.
    fn of_none() -> Option<Self> {
        None
    }

    fn of_object(object: &Acceptor) -> Result<Self, String> {
        let AcceptorSpec { epoch, promised, accepted, .. } = object.spec.clone();
        let place = place_of(object)?;
        if epoch > 0 && !place.members.values().any(|uid| Some(uid) == object.uid().as_ref()) {
            return Err(REMADE.to_owned());
        }
        let text = accepted.as_ref().map(|accepted| accepted.value.clone());
        let accepted = match accepted {
            None => None,
            Some(AcceptedValue { ballot, value }) => Some(Accepted {
                ballot: of_ballot(ballot)?,
                value: serde_json::from_str(&value)
                    .map_err(|error| format!("its value is none of this register: {error}"))?,
            }),
        };
        Ok(Self { place, promised: of_ballot(promised)?, accepted, text, uid: object.uid() })
    }

    fn to_object(&self, metadata: ObjectMeta) -> Acceptor {
        let accepted = self.accepted.as_ref().map(|accepted| AcceptedValue {
            ballot: to_ballot(&accepted.ballot),
            // Nothing in states can fail to be JSON.
            value: self.text.clone().unwrap_or_else(|| serde_json::to_string(&accepted.value).unwrap_or_default()),
        });
        let Place { epoch, members } = &self.place;
        let epoch = i64::try_from(*epoch).unwrap_or(i64::MAX);
        let members = members.iter().map(|(cluster, uid)| (cluster.clone(), AcceptorUid(uid.clone()))).collect();
        Acceptor { metadata, spec: AcceptorSpec { epoch, members, promised: to_ballot(&self.promised), accepted } }
    }
}

/// What people are told of an acceptor that is none of those it names.
pub const REMADE: &str =
    "it was made again after it was lost, knows nothing, and has no say: the others go on without it";

/// The members that an acceptor says it belongs to.
///
/// # Errors
/// When nobody here wrote that.
pub fn place_of(object: &Acceptor) -> Result<Place, String> {
    let epoch = u64::try_from(object.spec.epoch).map_err(|_| "an epoch is never negative".to_owned())?;
    let members = object.spec.members.iter().map(|(cluster, uid)| (cluster.clone(), uid.0.clone())).collect();
    Ok(Place { epoch, members })
}

fn of_ballot(ballot: AcceptorBallot) -> Result<Ballot, String> {
    let round = u64::try_from(ballot.round).map_err(|_| "a round is never negative".to_owned())?;
    Ok(Ballot { round, proposer: ballot.proposer })
}

fn to_ballot(ballot: &Ballot) -> AcceptorBallot {
    AcceptorBallot { round: i64::try_from(ballot.round).unwrap_or(i64::MAX), proposer: ballot.proposer.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// The API server compares what was accepted by its text.
    #[test]
    fn what_was_accepted_stays_as_it_is_written_whoever_promises() {
        let acceptor = |promised: u64, accepted: u64, value: &str| {
            serde_json::from_value::<Acceptor>(json!({
                "apiVersion": "quorate.io/v1alpha1", "kind": "Acceptor", "metadata": {"name": "r", "uid": "u"},
                "spec": {
                    "epoch": 1, "members": {"eu": "u"}, "promised": {"round": promised, "proposer": "p"},
                    "accepted": {"ballot": {"round": accepted, "proposer": "p"}, "value": value},
                },
            }))
            .unwrap()
        };
        let ballot = |round| Ballot { round, proposer: "p".to_owned() };
        let read = AcceptorState::<Value>::of_object(&acceptor(1, 1, r#"{"z": 1, "a": 2}"#)).unwrap();
        let promised = read.prepare(&ballot(2)).unwrap().unwrap();
        let written = |state: &AcceptorState<Value>| state.to_object(ObjectMeta::default()).spec;
        assert_eq!(written(&promised), acceptor(2, 1, r#"{"z": 1, "a": 2}"#).spec);
        let accepted = promised.accept(&ballot(2), &json!(7), &ballot(3)).unwrap().unwrap();
        assert_eq!(written(&accepted), acceptor(3, 2, "7").spec);
    }
}
