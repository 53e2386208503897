//! A register whose members can be changed, by any number at once.
//!
//! Each set of members is an **epoch**. The last value that an epoch chooses says which clusters come
//! next; it is chosen like any other value, so there is one next set only, whoever proposed others at the same time, and nothing is chosen
//! after it. Whoever reads it goes on in the next epoch, whose acceptors begin with its content, accepted under the ballot of the value
//! *before* it. That ballot is in the last value, so it is the same for all who make them; the last value's own is not: whoever settles
//! it once more chooses it under a higher one, and an acceptor that began with that would outbid what is chosen in the next epoch
//! already. So no majority of one epoch need have a member in common with the next, two changes are two epochs,
//! and a change that its maker left half done is brought to its end by the next reader.
//!
//! Source: Lamport, Malkhi and Zhou, "Stoppable Paxos", 2008, and "Vertical Paxos", 2009. CASPaxos's own procedure (section 2.3 of its paper)
//! changes one member at a time and needs to know all proposers, which here are any clients of an API server.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt, future::join_all, stream::BoxStream};
use serde::{Deserialize, Serialize};

use super::{Accepted, AcceptorState, Ballot, Member, Place, QuorumRegister, Stop, Value};
use crate::{Failure, Register, Session, Versioned};

/// Changes that a read follows, one after the other.
const FOLLOWED: usize = 64;

/// What acceptors of a register with changing members accept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Chosen<S> {
    /// The value; none if the members were changed before any was chosen.
    pub value: Option<S>,
    /// In the last value of an epoch: how it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Next>,
}

/// How a register goes on after the last value of an epoch.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Next {
    /// Where.
    pub place: Place,
    /// The ballot of the value before the last: acceptors of the next epoch begin with this one.
    pub after: Ballot,
}

/// The ways to clusters.
pub trait Links<S: Value>: Send + Sync + 'static {
    /// An acceptor in its cluster.
    type Acceptor: Register<State = AcceptorState<Chosen<S>>>;

    /// The acceptor in the cluster of this name. Of one that is not known here every call fails, and says so.
    fn acceptor(&self, cluster: &str) -> Self::Acceptor;

    /// The uid of an acceptor there that may become a member; it is made if there is none. `present` are the members now.
    ///
    /// # Errors
    /// When there is no answer, or the acceptor there is another register's, for people.
    fn joinable(&self, cluster: &str, present: &Place) -> impl Future<Output = Result<String, String>> + Send;
}

/// Why members are not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Somebody else changed them meanwhile.
    #[error("the members were changed to {at} by another, as epoch {}: look whether your change still makes sense", at.epoch)]
    Moved {
        /// Where it is now.
        at: Place,
    },
    /// Clusters that are to be members do not answer, or cannot be. All have to, once: a member that does not exist would count as lost.
    #[error("nothing was changed, since these cannot become members: {why}")]
    Unready {
        /// A word on each.
        why: String,
    },
    /// No majority of those that are members now.
    #[error(transparent)]
    Failed(#[from] Failure),
}

/// See the module.
pub struct MovingRegister<S: Value, L: Links<S>> {
    links: L,
    initial: S,
    name: String,
    session: Session,
    /// Of a call.
    limit: Duration,
    now: Mutex<Arc<Epoch<S, L>>>,
}

struct Epoch<S: Value, L: Links<S>> {
    place: Place,
    register: QuorumRegister<Chosen<S>, L::Acceptor>,
}

impl<S: Value, L: Links<S>> MovingRegister<S, L> {
    /// The register of the members of which one has this state, or had it once, and with the value that it has before the first is chosen. Errors call it by
    /// `name`. A call may take `limit`.
    #[must_use]
    pub fn new(
        links: L,
        state: &AcceptorState<Chosen<S>>,
        initial: S,
        name: &str,
        session: Session,
        limit: Duration,
    ) -> Self {
        let now = Mutex::new(Arc::new(Epoch::new(&links, state, name, &session, limit)));
        Self { links, initial, name: name.to_owned(), session, limit, now }
    }

    /// Where it is, as far as is known here.
    #[must_use]
    pub fn place(&self) -> Place {
        self.now().place.clone()
    }

    /// Changes its members from those that are there now to the acceptors in these clusters. All of them have to answer; of those now, a majority.
    ///
    /// # Errors
    /// See [`ChangeError`]. What was begun is brought to an end by whoever reads it next.
    pub async fn change(&self, clusters: &[String]) -> Result<Place, ChangeError> {
        let from = self.present().await?.0.place.clone();
        let to = Place { epoch: from.epoch + 1, members: self.joinable(clusters, &from).await? };
        if to.members == from.members {
            return Ok(from);
        }
        let mut why = "others write it all the time".to_owned();
        for _ in 0..FOLLOWED {
            // When it has moved, this makes the next ones members.
            let (now, at) = self.present().await?;
            if now.place == to {
                return Ok(to);
            }
            if now.place.epoch > from.epoch {
                return Err(ChangeError::Moved { at: now.place.clone() });
            }
            let next = Next { place: to.clone(), after: at.version.clone() };
            let last = Chosen { value: Some(at.state).filter(|_| at.version.round > 0), next: Some(next) };
            match now.register.swap_here(&at.version, &last).await {
                Ok(_) | Err(Stop::Moved(_) | Stop::Failed(Failure::Conflict)) => {}
                Err(Stop::Failed(Failure::Unknown(unknown))) => why = unknown,
                Err(Stop::Failed(refused)) => return Err(refused.into()),
            }
        }
        Err(Failure::Unknown(why).into())
    }

    async fn joinable(&self, clusters: &[String], present: &Place) -> Result<BTreeMap<String, String>, ChangeError> {
        let asked = clusters.iter().map(|cluster| async move {
            // It may take a call to look, and another one to make it.
            let uid = tokio::time::timeout(self.limit * 2, self.links.joinable(cluster, present)).await;
            (cluster.clone(), uid.unwrap_or_else(|_| Err("no answer".to_owned())))
        });
        let (mut members, mut unready) = (BTreeMap::new(), Vec::new());
        for (cluster, uid) in join_all(asked).await {
            match uid {
                Ok(uid) => match members.iter().find(|(_, other)| **other == uid) {
                    Some((one, _)) => unready.push(format!("{cluster}: it is the same cluster as {one}")),
                    None => drop(members.insert(cluster, uid)),
                },
                Err(why) => unready.push(format!("{cluster}: {why}")),
            }
        }
        if clusters.is_empty() {
            unready.push("no cluster was named".to_owned());
        }
        if unready.is_empty() { Ok(members) } else { Err(ChangeError::Unready { why: unready.join("; ") }) }
    }

    /// The value, where it is now.
    async fn present(&self) -> Result<(Arc<Epoch<S, L>>, Versioned<S, Ballot>), Failure> {
        for _ in 0..FOLLOWED {
            let now = self.now();
            let there = match now.register.read_here().await {
                Ok(Versioned { state: Chosen { value, next: None }, version }) => {
                    let state = value.unwrap_or_else(|| self.initial.clone());
                    return Ok((now, Versioned { state, version }));
                }
                Ok(Versioned { state: Chosen { value, next: Some(Next { place, after }) }, .. }) => {
                    let accepted =
                        value.map(|value| Accepted { ballot: after, value: Chosen { value: Some(value), next: None } });
                    AcceptorState { place, accepted, ..AcceptorState::default() }
                }
                Err(Stop::Moved(there)) => *there,
                Err(Stop::Failed(failure)) => return Err(failure),
            };
            self.follow(&there);
        }
        Err(Failure::Unknown("its members change all the time".to_owned()))
    }

    fn follow(&self, there: &AcceptorState<Chosen<S>>) {
        let mut now = self.locked();
        if now.place.epoch < there.place.epoch {
            let Self { links, name, session, limit, .. } = self;
            *now = Arc::new(Epoch::new(links, there, name, session, *limit));
        }
    }

    fn now(&self) -> Arc<Epoch<S, L>> {
        Arc::clone(&self.locked())
    }

    fn locked(&self) -> MutexGuard<'_, Arc<Epoch<S, L>>> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Value, L: Links<S>> Epoch<S, L> {
    fn new(links: &L, state: &AcceptorState<Chosen<S>>, name: &str, session: &Session, limit: Duration) -> Self {
        let place = state.place.clone();
        let member = |cluster: &str| Member::of(state, cluster, links.acceptor(cluster), limit);
        let members = place.clusters().map(member).collect();
        let none = Chosen { value: None, next: None };
        Self { register: QuorumRegister::new(members, none, name, session.clone()), place }
    }
}

impl<S: Value, L: Links<S>> Register for MovingRegister<S, L> {
    type State = S;
    type Version = Ballot;

    async fn read(&self) -> Result<Versioned<S, Ballot>, Failure> {
        Ok(self.present().await?.1)
    }

    async fn compare_and_swap(&self, base: &Ballot, next: &S) -> Result<Ballot, Failure> {
        match self.now().register.swap_here(base, &Chosen { value: Some(next.clone()), next: None }).await {
            Ok(ballot) => Ok(ballot),
            // Nothing was written; the next read follows.
            Err(Stop::Moved(_)) => Err(Failure::Conflict),
            Err(Stop::Failed(failure)) => Err(failure),
        }
    }

    fn watch(&self, from: &Ballot) -> BoxStream<'static, Option<Versioned<S, Ballot>>> {
        self.now().register.watch(from).map(|_| None).boxed()
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}
