//! One acceptor as a pure state machine: what it promised, and what it accepted.
//!
//! Source: Rystsov, "CASPaxos: Replicated State Machines without logs", 2018; the invariants are Paxos's. Promises only
//! rise; nothing is accepted below a promise; under one ballot one value is accepted.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// Orders the attempts of all proposers. Two proposers never make the same ballot.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ballot {
    /// Counts up. The value that is chosen next is chosen in a higher round, so this is its fencing token.
    pub round: u64,
    /// The id of the proposer.
    pub proposer: String,
}

impl Ballot {
    /// The next of this proposer.
    #[must_use]
    pub fn next(&self) -> Self {
        Self { round: self.round.saturating_add(1), proposer: self.proposer.clone() }
    }
}

/// A value, and the ballot under which it was accepted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Accepted<S> {
    /// The ballot.
    pub ballot: Ballot,
    /// The value.
    pub value: S,
}

/// One of the sets of members that a register has in its life.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// Counts the sets, from 1; 0 is none yet.
    pub epoch: u64,
    /// The uids of its acceptors by the names of their clusters: one that was made again after it was lost is another.
    pub members: BTreeMap<String, String>,
}

impl Place {
    /// The names of the clusters.
    pub fn clusters(&self) -> impl Iterator<Item = &str> {
        self.members.keys().map(String::as_str)
    }

    /// How many of its members are a majority.
    #[must_use]
    pub fn majority(&self) -> usize {
        self.members.len() / 2 + 1
    }
}

/// For people: the names of the clusters.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.clusters().collect::<Vec<_>>().join(", "))
    }
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AcceptorState<S> {
    /// The members it belongs to. Acceptors that no one can replace behind one's back, in memory say, need none.
    pub place: Place,
    /// Nothing below this is accepted any more.
    pub promised: Ballot,
    /// What was accepted last.
    pub accepted: Option<Accepted<S>>,
    /// Its value as it is written where it was read, if it was: a promise leaves it as it is, to the letter, whichever
    /// version of a program wrote it.
    #[serde(skip)]
    pub text: Option<String>,
    /// Which acceptor it is, where it can be lost and made again.
    #[serde(skip)]
    pub uid: Option<String>,
}

impl<S> Default for AcceptorState<S> {
    fn default() -> Self {
        Self { place: Place::default(), promised: Ballot::default(), accepted: None, text: None, uid: None }
    }
}

/// Why an acceptor says no: it has promised this, which is higher.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Refusal(pub Ballot);

impl<S: Clone> AcceptorState<S> {
    /// What an acceptor begins with that comes late to these members, of which one has this state: it is as if it had been asked to accept
    /// the same.
    #[must_use]
    pub fn joined(&self) -> Self {
        let promised = self.accepted.as_ref().map(|accepted| accepted.ballot.clone()).unwrap_or_default();
        Self { promised, uid: None, ..self.clone() }
    }

    /// Whether it is the acceptor that is a member there, in this cluster.
    #[must_use]
    pub fn is_member(&self, place: &Place, cluster: &str) -> bool {
        self.uid.is_none() || place.members.get(cluster) == self.uid.as_ref()
    }

    /// Phase 1: promises the ballot. `Ok(None)` if it has promised this very ballot already.
    ///
    /// # Errors
    /// When it promised a higher one.
    pub fn prepare(&self, ballot: &Ballot) -> Result<Option<Self>, Refusal> {
        self.answers(ballot)?;
        if self.promised == *ballot {
            return Ok(None);
        }
        Ok(Some(Self { promised: ballot.clone(), ..self.clone() }))
    }

    /// Phase 2: accepts a value, and promises `next` to the same proposer, whose next value then needs no
    /// phase 1. `Ok(None)` if it has accepted it already.
    ///
    /// # Errors
    /// When it promised a higher one.
    pub fn accept(&self, ballot: &Ballot, value: &S, next: &Ballot) -> Result<Option<Self>, Refusal> {
        if self.accepted.as_ref().is_some_and(|accepted| accepted.ballot == *ballot) {
            return Ok(None);
        }
        self.answers(ballot)?;
        let accepted = Some(Accepted { ballot: ballot.clone(), value: value.clone() });
        Ok(Some(Self { promised: next.clone().max(ballot.clone()), accepted, text: None, ..self.clone() }))
    }

    fn answers(&self, ballot: &Ballot) -> Result<(), Refusal> {
        if *ballot < self.promised { Err(Refusal(self.promised.clone())) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ballot(round: u64, proposer: &str) -> Ballot {
        Ballot { round, proposer: proposer.to_owned() }
    }

    #[test]
    fn promises_rise_and_nothing_is_accepted_below_them() {
        let fresh = AcceptorState::<u8>::default();
        let promised = fresh.prepare(&ballot(2, "a")).unwrap().unwrap();
        assert_eq!(promised.prepare(&ballot(2, "a")), Ok(None));
        let higher = Refusal(ballot(2, "a"));
        assert_eq!(promised.prepare(&ballot(1, "z")), Err(higher.clone()));
        assert_eq!(promised.accept(&ballot(1, "z"), &7, &ballot(2, "z")), Err(higher));
        let accepted = promised.accept(&ballot(2, "a"), &7, &ballot(3, "a")).unwrap().unwrap();
        assert_eq!((accepted.promised.clone(), accepted.accepted.clone().unwrap().value), (ballot(3, "a"), 7));
        // The same once more changes nothing; another one of that round comes too late.
        assert_eq!(accepted.accept(&ballot(2, "a"), &7, &ballot(3, "a")), Ok(None));
        assert!(accepted.accept(&ballot(2, "b"), &8, &ballot(3, "b")).is_err());
    }
}
