//! A register on the acceptors of these clusters: found, or made once.
//!
//! An acceptor that is missing is not an empty one: its cluster may have lost it, and with it what it had promised and accepted.
//! So the first acceptors are made in one moment of a register's life only, when all clusters answer and none of them has one that
//! knows its members; and then all are told the uids of all. From then on whoever opens the register believes what a majority says of
//! the uids, and counts no answer of an acceptor with another uid. What has lost a minority goes on; what has lost a majority
//! of its acceptors fails closed. What has lost all of them looks as if it had never been: so the set's registry is told the uids first,
//! and no register is made that is in there already.
//!
//! Of later members one acceptor's word is enough: it was told them only after a majority of those before had chosen them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    time::Duration,
};

use futures::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use kube::{Client, ResourceExt, api::PostParams};
use quorate_crds::{Acceptor, AcceptorUid, names};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    AcceptorState, Chosen, KubeLinks, MovingRegister, Place, Value,
    object::place_of,
    registry::{Registry, Roll, Uids},
};
use crate::{
    Session, Stored,
    kube_register::called,
    lock::{Invalid, object_name},
};

/// Why a register cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// No name of an object.
    #[error("{0}")]
    Invalid(#[from] Invalid),
    /// Clusters with the same name, or none.
    #[error("register {register}: its clusters need names, each its own: {given}")]
    Names {
        /// Namespace and name.
        register: String,
        /// What was given.
        given: String,
    },
    /// Too few answer to tell what the register is.
    #[error("register {register}: {known} of {members} clusters know it, and {needed} are needed: {why}")]
    Unknown {
        /// Namespace and name.
        register: String,
        /// How many know it.
        known: usize,
        /// How many there are.
        members: usize,
        /// How many are needed.
        needed: usize,
        /// A word on each of the others.
        why: String,
    },
    /// Two of the clusters are one.
    #[error(
        "register {register}: {one} and {other} are the same cluster, since they have the same acceptor: it would be lost as one, and count twice: leave one of them out"
    )]
    Same {
        /// Namespace and name.
        register: String,
        /// One name of it.
        one: String,
        /// Another.
        other: String,
    },
    /// Too few of its clusters are known here.
    #[error("register {register} is on the clusters {actual}, of which too few are among {given}: name those")]
    Members {
        /// Namespace and name.
        register: String,
        /// Where it is.
        actual: String,
        /// What was given.
        given: String,
    },
    /// It was, and is no more.
    #[error(
        "register {register} was made once, and its acceptors are gone from all clusters, with what it held: if it is to begin anew, run kubectl quorate members forget {cluster_set} {name}"
    )]
    Lost {
        /// Namespace and name.
        register: String,
        /// Its name.
        name: String,
        /// The ClusterSet.
        cluster_set: String,
    },
    /// A name that has a meaning of its own.
    #[error(
        "register {register}: names that begin with registry. or config-registry. are those of registries: take another one"
    )]
    Reserved {
        /// Namespace and name.
        register: String,
    },
    /// The set's registry cannot be read or written.
    #[error("registry {registry}, in which registers are written down before they are made: {why}")]
    Registry {
        /// Namespace and name.
        registry: String,
        /// Why.
        why: String,
    },
    /// An acceptor has something that no register of this kind has.
    #[error("register {register}, in cluster {cluster}: {why}")]
    Unreadable {
        /// Namespace and name.
        register: String,
        /// Where.
        cluster: String,
        /// What is wrong.
        why: String,
    },
}

/// A register over Kubernetes clusters.
pub type KubeQuorum<S> = MovingRegister<S, KubeLinks>;

/// Opens a register on the clusters with these names, which are those of the ClusterSet, and makes it on them if there never was one. They need
/// not be its members, but a majority of those must be among them. A call to one of them may take `limit`.
///
/// # Errors
/// See [`OpenError`].
pub async fn open<S: Value + Serialize + DeserializeOwned>(
    clusters: &[(String, Client)],
    namespace: &str,
    cluster_set: &str,
    name: &str,
    initial: S,
    session: &Session,
    limit: Duration,
) -> Result<KubeQuorum<S>, OpenError> {
    let links = KubeLinks::new(clusters, namespace, name, limit);
    let registry = Registry { clusters, namespace, cluster_set, session, limit };
    let set = Set { clusters, links: &links, namespace, name, limit, registry: Some(registry) };
    set.is_named()?;
    if names::is_registry(name) {
        return Err(OpenError::Reserved { register: set.register() });
    }
    let member = set.member().await?;
    set.opened(member, initial, session)
}

/// Opens a register that was made, of any kind if `S` is JSON; never makes one. Else as [`open`].
///
/// # Errors
/// See [`OpenError`].
pub async fn open_made<S: Value + Serialize + DeserializeOwned>(
    clusters: &[(String, Client)],
    namespace: &str,
    name: &str,
    initial: S,
    session: &Session,
    limit: Duration,
) -> Result<KubeQuorum<S>, OpenError> {
    let links = KubeLinks::new(clusters, namespace, name, limit);
    let set = Set { clusters, links: &links, namespace, name, limit, registry: None };
    set.is_named()?;
    let found = set.found().await;
    set.are_several(&found)?;
    let member = set.believed(&found)?.ok_or_else(|| set.unknown(&found))?;
    set.opened(member, initial, session)
}

/// The registry of this name, which is made if there is none.
pub(super) fn open_registry<'a>(
    clusters: &'a [(String, Client)],
    namespace: &'a str,
    name: &'a str,
    session: &'a Session,
    limit: Duration,
) -> BoxFuture<'a, Result<KubeQuorum<Roll>, OpenError>> {
    // Boxed, since a register is opened while one is opened; of a registry itself none keeps note.
    async move {
        let links = KubeLinks::new(clusters, namespace, name, limit);
        let set = Set { clusters, links: &links, namespace, name, limit, registry: None };
        set.is_named()?;
        set.opened(set.member().await?, Roll::new(), session)
    }
    .boxed()
}

/// So often it is tried to make it: others may do so too, and answers may be lost.
const TRIES: usize = 4;

struct Set<'a> {
    clusters: &'a [(String, Client)],
    links: &'a KubeLinks,
    namespace: &'a str,
    name: &'a str,
    limit: Duration,
    /// Where its making is written down; none of a registry.
    registry: Option<Registry<'a>>,
}

/// What a cluster has, or why it does not tell.
type Found = Result<Option<Acceptor>, String>;

impl Set<'_> {
    fn register(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    fn given(&self) -> String {
        self.clusters.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// The register of which this is a member.
    fn opened<S: Value + Serialize + DeserializeOwned>(
        &self,
        (cluster, acceptor): (String, Acceptor),
        initial: S,
        session: &Session,
    ) -> Result<KubeQuorum<S>, OpenError> {
        let state = AcceptorState::<Chosen<S>>::of_object(&acceptor);
        let state = state.map_err(|why| OpenError::Unreadable { register: self.register(), cluster, why })?;
        let links = self.links.clone();
        Ok(MovingRegister::new(links, &state, initial, &self.register(), session.clone(), self.limit))
    }

    fn is_named(&self) -> Result<(), OpenError> {
        object_name(self.name)?;
        let distinct: BTreeSet<_> = self.clusters.iter().map(|(name, _)| name).collect();
        if distinct.len() == self.clusters.len() && !distinct.is_empty() && !distinct.iter().any(|name| name.is_empty())
        {
            return Ok(());
        }
        Err(OpenError::Names { register: self.register(), given: self.given() })
    }

    /// One of the acceptors that are its members, and where it is.
    async fn member(&self) -> Result<(String, Acceptor), OpenError> {
        let mut found = self.found().await;
        for _ in 0..TRIES {
            self.are_several(&found)?;
            if let Some(member) = self.believed(&found)? {
                return Ok(member);
            }
            let mut uids = None;
            // Nobody knows its members: it was not made, or not told yet, or is lost.
            if found.iter().all(|(_, found)| found.as_ref().is_ok_and(|found| !is_told(found.as_ref()))) {
                uids = self.recorded().await?;
                match &uids {
                    None => self.make(&mut found).await,
                    Some(uids) if found.iter().any(|(cluster, found)| is_of(uids, cluster, found)) => {}
                    Some(_) => return Err(self.lost()),
                }
            }
            self.are_several(&found)?;
            if uids.is_none()
                && let Some(all) = complete(&found)
            {
                uids = Some(self.record(all).await?);
            }
            if let Some(uids) = uids {
                self.tell(&uids, found).await;
            }
            found = self.found().await;
        }
        self.are_several(&found)?;
        match self.believed(&found)? {
            Some(member) => Ok(member),
            None => Err(self.unknown(&found)),
        }
    }

    /// The acceptors that it was made with, if it was.
    async fn recorded(&self) -> Result<Option<Uids>, OpenError> {
        match &self.registry {
            Some(registry) => registry.of(self.name).await,
            None => Ok(None),
        }
    }

    /// Writes down that it is made with these; with which it is, if somebody was first.
    async fn record(&self, uids: Uids) -> Result<Uids, OpenError> {
        match &self.registry {
            Some(registry) => registry.record(self.name, uids).await,
            None => Ok(uids),
        }
    }

    fn lost(&self) -> OpenError {
        let cluster_set = self.registry.as_ref().map_or("", |registry| registry.cluster_set).to_owned();
        OpenError::Lost { register: self.register(), name: self.name.to_owned(), cluster_set }
    }

    /// Whether no two of them have the same acceptor.
    fn are_several(&self, found: &[(String, Found)]) -> Result<(), OpenError> {
        let mut by_uid: BTreeMap<String, &str> = BTreeMap::new();
        for (cluster, found) in found {
            let Some(uid) = found.as_ref().ok().and_then(|found| found.as_ref()?.uid()) else { continue };
            if let Some(one) = by_uid.insert(uid, cluster) {
                let (one, other) = (one.to_owned(), cluster.clone());
                return Err(OpenError::Same { register: self.register(), one, other });
            }
        }
        Ok(())
    }

    fn unknown(&self, found: &[(String, Found)]) -> OpenError {
        let why = found.iter().filter_map(|(cluster, found)| match found {
            Err(why) => Some(format!("{cluster}: {why}")),
            Ok(None) => Some(format!("{cluster}: it has no acceptor, or has lost it")),
            Ok(Some(acceptor)) if !is_told(Some(acceptor)) => Some(format!("{cluster}: its acceptor knows no set yet")),
            Ok(Some(_)) => None,
        });
        let why: Vec<String> = why.collect();
        let (members, needed) = (self.clusters.len(), self.clusters.len() / 2 + 1);
        OpenError::Unknown {
            register: self.register(),
            known: members - why.len(),
            members,
            needed,
            why: why.join("; "),
        }
    }

    async fn found(&self) -> Vec<(String, Found)> {
        let looks =
            self.clusters.iter().map(|(cluster, _)| async { (cluster.clone(), self.links.found(cluster).await) });
        join_all(looks).await
    }

    /// One of the latest members that are known, if those are believed.
    fn believed(&self, found: &[(String, Found)]) -> Result<Option<(String, Acceptor)>, OpenError> {
        let mut votes: BTreeMap<Place, (usize, (String, Acceptor))> = BTreeMap::new();
        for (cluster, found) in found {
            let Ok(Some(acceptor)) = found else { continue };
            let Ok(place) = place_of(acceptor) else { continue };
            if place.epoch > 0 && place.members.get(cluster) == acceptor.uid().as_ref() {
                let said = votes.entry(place).or_insert_with(|| (0, (cluster.clone(), acceptor.clone())));
                said.0 += 1;
            }
        }
        let believed =
            votes.into_iter().rev().find(|(place, (count, _))| place.epoch > 1 || *count >= place.majority());
        let Some((place, (_, member))) = believed else { return Ok(None) };
        let known = place.clusters().filter(|cluster| self.links.known().any(|known| known == *cluster)).count();
        if known >= place.majority() {
            return Ok(Some(member));
        }
        Err(OpenError::Members { register: self.register(), actual: place.to_string(), given: self.given() })
    }

    /// Makes what is not there. Whoever else does so makes the same.
    async fn make(&self, found: &mut [(String, Found)]) {
        let makes = found.iter_mut().filter(|(_, found)| matches!(found, Ok(None)));
        join_all(makes.map(|(cluster, found)| async { *found = self.links.make(cluster).await.map(Some) })).await;
    }

    /// Tells those of them that are meant the uids of all.
    async fn tell(&self, uids: &Uids, found: Vec<(String, Found)>) {
        let meant = found.into_iter().filter(|(cluster, found)| is_of(uids, cluster, found));
        let acceptors = meant.filter_map(|(cluster, found)| Some((cluster, found.ok()??)));
        let tells =
            acceptors.filter(|(_, acceptor)| !is_told(Some(acceptor))).map(|(cluster, mut acceptor)| async move {
                acceptor.spec.epoch = 1;
                acceptor.spec.members =
                    uids.iter().map(|(name, uid)| (name.clone(), AcceptorUid(uid.clone()))).collect();
                // Of this uid and this version only.
                let api = self.links.api(&cluster);
                let told =
                    called(self.limit, "update", api.replace(self.name, &PostParams::default(), &acceptor)).await;
                if let Err(why) = told {
                    tracing::debug!(register = self.name, cluster, "telling an acceptor its members: {why}");
                }
            });
        join_all(tells).await;
    }
}

/// Whether what was found in this cluster is one of these.
fn is_of(uids: &Uids, cluster: &str, found: &Found) -> bool {
    let uid = found.as_ref().ok().and_then(|found| found.as_ref()?.uid());
    uid.is_some_and(|uid| uids.get(cluster) == Some(&uid))
}

fn is_told(found: Option<&Acceptor>) -> bool {
    found.is_some_and(|acceptor| acceptor.spec.epoch > 0)
}

/// The uids of all, when all are there and nobody was told any.
fn complete(found: &[(String, Found)]) -> Option<Uids> {
    let mut uids = Uids::new();
    for (cluster, found) in found {
        uids.insert(cluster.clone(), found.as_ref().ok()?.as_ref()?.uid()?);
    }
    let others = found.iter().any(|(_, found)| {
        found.as_ref().is_ok_and(|found| {
            let told = found.as_ref().filter(|acceptor| is_told(Some(acceptor))).map(place_of);
            told.is_some_and(|told| told.is_ok_and(|place| place != Place { epoch: 1, members: uids.clone() }))
        })
    });
    (!others).then_some(uids)
}
