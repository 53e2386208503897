//! The ways to a register's acceptors on Kubernetes clusters.

use std::{collections::BTreeMap, fmt::Debug, time::Duration};

use kube::{
    Api, Client, ResourceExt,
    api::{ObjectMeta, PostParams},
};
use quorate_crds::{Acceptor, AcceptorSpec};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    AcceptorState, Chosen, Links, Place, Value,
    object::{REMADE, place_of},
};
use crate::{KubeRegister, clusters::silent, kube_register::called};

/// See the module.
#[derive(Clone)]
pub struct KubeLinks {
    clusters: BTreeMap<String, Client>,
    namespace: String,
    name: String,
    /// Of a call.
    limit: Duration,
}

impl KubeLinks {
    pub(super) fn new(clusters: &[(String, Client)], namespace: &str, name: &str, limit: Duration) -> Self {
        let clusters = clusters.iter().cloned().collect();
        Self { clusters, namespace: namespace.to_owned(), name: name.to_owned(), limit }
    }

    /// The names of the clusters that are known here.
    pub(super) fn known(&self) -> impl Iterator<Item = &str> {
        self.clusters.keys().map(String::as_str)
    }

    /// One whose every call fails, and says so, for a cluster that is not known here.
    fn client(&self, cluster: &str) -> Client {
        let stranger =
            || silent("it is not among the clusters that are known here: name it in the ClusterSet".to_owned());
        self.clusters.get(cluster).cloned().unwrap_or_else(stranger)
    }

    pub(super) fn api(&self, cluster: &str) -> Api<Acceptor> {
        Api::namespaced(self.client(cluster), &self.namespace)
    }

    pub(super) async fn found(&self, cluster: &str) -> Result<Option<Acceptor>, String> {
        let found = called(self.limit, "get", self.api(cluster).get_opt(&self.name)).await;
        found.map_err(|failure| failure.to_string())
    }

    /// Makes one that is of no members yet.
    pub(super) async fn make(&self, cluster: &str) -> Result<Acceptor, String> {
        let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
        let acceptor = Acceptor { metadata, spec: AcceptorSpec::default() };
        let api = self.api(cluster);
        let made = called(self.limit, "create", api.create(&PostParams::default(), &acceptor)).await;
        made.map_err(|failure| failure.to_string())
    }
}

impl<S: Value + Serialize + DeserializeOwned + Debug> Links<S> for KubeLinks {
    type Acceptor = KubeRegister<AcceptorState<Chosen<S>>>;

    fn acceptor(&self, cluster: &str) -> Self::Acceptor {
        // Not signed: a pod's uid proves something in its own cluster only.
        KubeRegister::new(self.client(cluster), &self.namespace, &self.name, self.limit)
    }

    async fn joinable(&self, cluster: &str, present: &Place) -> Result<String, String> {
        let acceptor = match self.found(cluster).await? {
            Some(acceptor) => acceptor,
            None => self.make(cluster).await?,
        };
        let uid = acceptor.uid().ok_or("the API server gave its acceptor no uid")?;
        let place = place_of(&acceptor)?;
        if place.epoch == 0 {
            return Ok(uid);
        }
        if !place.members.values().any(|member| *member == uid) {
            return Err(format!("{REMADE}; delete it there, and it can join anew"));
        }
        // It has been with one of those who are members now, or is one.
        if place.members.iter().any(|member| present.members.get(member.0) == Some(member.1)) {
            return Ok(uid);
        }
        Err(format!(
            "its acceptor {}/{} is another register's, on {place}: delete it there if that is not used any more",
            self.namespace, self.name
        ))
    }
}
