//! A set's registry: which registers were made over its clusters, and with which acceptors.
//!
//! Acceptors that are missing in all clusters look like those of a register that never was. So a register is written down here after its
//! first acceptors were made, and before any of them is told that it is one; and none is made that is here already. The registry is a register
//! itself, made with the set's first register. What it says of later members is nothing: they are in the acceptors.

use std::{collections::BTreeMap, time::Duration};

use futures::future::join_all;
use kube::Client;
use quorate_crds::{MAX_ACCEPTOR_VALUE, names};

use super::{KubeLinks, KubeQuorum, OpenError, set::open_registry};
use crate::{Driver, Session, Step};

/// Calls that one look into it, or one change of it, has time for.
const CALLS: u32 = 6;
/// Room for what an acceptor's value has beside it.
const ROOM: usize = MAX_ACCEPTOR_VALUE - 4096;

/// The uids of a register's first acceptors, by the names of their clusters.
pub(super) type Uids = BTreeMap<String, String>;
/// What it holds: the registers by their names.
pub(super) type Roll = BTreeMap<String, Uids>;

/// See the module.
pub(super) struct Registry<'a> {
    pub clusters: &'a [(String, Client)],
    pub namespace: &'a str,
    pub cluster_set: &'a str,
    pub session: &'a Session,
    /// Of a call.
    pub limit: Duration,
}

/// Why a register is not forgotten.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForgetError {
    /// It may be there yet.
    #[error("nothing was changed: a register is forgotten when no cluster has an acceptor of it any more: {why}")]
    There {
        /// A word on each cluster that may have one.
        why: String,
    },
    /// The registry.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// Forgets that a register was made which has no acceptor any more: whoever opens it makes it anew. Whether it was known.
///
/// # Errors
/// See [`ForgetError`].
pub async fn forget(
    clusters: &[(String, Client)],
    namespace: &str,
    cluster_set: &str,
    name: &str,
    session: &Session,
    limit: Duration,
) -> Result<bool, ForgetError> {
    let links = &KubeLinks::new(clusters, namespace, name, limit);
    let looks = clusters.iter().map(|(cluster, _)| async move {
        match links.found(cluster).await {
            Ok(None) => None,
            Ok(Some(_)) => Some(format!("{cluster} has one: delete it there (kubectl delete acceptor {name})")),
            Err(why) => Some(format!("{cluster}: {why}")),
        }
    });
    let there: Vec<String> = join_all(looks).await.into_iter().flatten().collect();
    if !there.is_empty() {
        return Err(ForgetError::There { why: there.join("; ") });
    }
    Ok(Registry { clusters, namespace, cluster_set, session, limit }.forget(name).await?)
}

impl Registry<'_> {
    fn name(&self, register: &str) -> String {
        names::registry(self.cluster_set, register)
    }

    async fn open(&self, register: &str) -> Result<KubeQuorum<Roll>, OpenError> {
        open_registry(self.clusters, self.namespace, &self.name(register), self.session, self.limit).await
    }

    fn driver(&self) -> Driver<'_> {
        self.session.driver(self.limit * CALLS)
    }

    fn failed(&self, register: &str, why: &dyn ToString) -> OpenError {
        OpenError::Registry { registry: format!("{}/{}", self.namespace, self.name(register)), why: why.to_string() }
    }

    /// The acceptors that a register was made with; none if it never was.
    pub async fn of(&self, register: &str) -> Result<Option<Uids>, OpenError> {
        let registry = self.open(register).await?;
        let at = self.driver().read(&registry).await.map_err(|error| self.failed(register, &error))?;
        Ok(at.state.get(register).cloned())
    }

    /// Writes down that a register is made with these acceptors; with which it is, if somebody else was first.
    pub async fn record(&self, register: &str, uids: Uids) -> Result<Uids, OpenError> {
        let done = self.change(register, |roll| {
            if let Some(first) = roll.get(register) {
                return Step::Answer(Some(first.clone()));
            }
            let mut next = roll.clone();
            next.insert(register.to_owned(), uids.clone());
            if bytes(&next) > ROOM { Step::Answer(None) } else { Step::Write(next, Some(uids.clone())) }
        });
        let full = "it is full: forget registers that are not used any more (kubectl quorate members forget)";
        done.await?.ok_or_else(|| self.failed(register, &full))
    }

    async fn forget(&self, register: &str) -> Result<bool, OpenError> {
        let mut was_there = false;
        let done = self.change(register, |roll| {
            let mut next = roll.clone();
            if next.remove(register).is_none() {
                return Step::Answer(());
            }
            was_there = true;
            Step::Write(next, ())
        });
        done.await?;
        Ok(was_there)
    }

    async fn change<O>(&self, register: &str, change: impl FnMut(&Roll) -> Step<Roll, O>) -> Result<O, OpenError> {
        let (registry, mut change) = (self.open(register).await?, change);
        let done = self.driver().run(&registry, None, |at| change(&at.state)).await;
        Ok(done.map_err(|error| self.failed(register, &error))?.outcome)
    }
}

fn bytes(roll: &Roll) -> usize {
    serde_json::to_string(roll).map_or(usize::MAX, |text| text.len())
}
