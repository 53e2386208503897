//! A counter where its object says that it is: on its own cluster, or over a set of clusters.

use std::time::Duration;

use kube::{Api, Client};
use quorate_crds::{DistributedCounter, DistributedCounterSpec, names};

use super::{Counter, CounterError, CounterState};
use crate::{
    Session,
    clusters::{CALL, SetError, members},
    kube_register::called,
    lock::object_name,
    quorum::{self, OpenError},
};

/// Why a counter cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CounterOpenError {
    /// Its name, or its cluster's API server.
    #[error(transparent)]
    Counter(#[from] CounterError),
    /// Its object cannot be read.
    #[error("DistributedCounter {counter}: {why}")]
    Unread {
        /// Namespace and name.
        counter: String,
        /// Why.
        why: String,
    },
    /// Its set of clusters.
    #[error(transparent)]
    Set(#[from] SetError),
    /// Its register.
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl Counter {
    /// The counter of this DistributedCounter: in its status, or with `spec.clusterSet` in a register over those clusters, which begins with
    /// the spec that it has when it is opened for the first time. See [`Counter::on_object`].
    ///
    /// # Errors
    /// See [`CounterOpenError`].
    pub async fn open(
        client: Client,
        namespace: &str,
        name: &str,
        session: Session,
        limit: Duration,
    ) -> Result<Self, CounterOpenError> {
        object_name(name).map_err(CounterError::from)?;
        let unread = |why: String| CounterOpenError::Unread { counter: format!("{namespace}/{name}"), why };
        let objects: Api<DistributedCounter> = Api::namespaced(client.clone(), namespace);
        let object =
            called(limit, "get", objects.get_opt(name)).await.map_err(|failure| unread(failure.to_string()))?;
        let object = object.ok_or_else(|| unread("it does not exist: create it first".to_owned()))?;
        let Some(set) = object.spec.cluster_set.clone() else {
            return Ok(Self::on_object(client, namespace, name, session, limit)?);
        };
        let members = members(&client, namespace, &set).await?;
        let initial = CounterState::new(DistributedCounterSpec { cluster_set: None, ..object.spec });
        let register = names::counter_register(name);
        let register = quorum::open(&members, namespace, &set, &register, initial, &session, CALL).await?;
        Ok(Self::new(register, session, limit))
    }
}
