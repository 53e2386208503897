//! The clusters of a ClusterSet: a client for each, and whether they are several.

use std::{collections::BTreeMap, time::Duration};

use futures::future::join_all;
use http::Request;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{
    Api, Client, Config,
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};
use quorate_crds::{ClusterMember, ClusterSet, KubeconfigRef};

use crate::kube_register::called;

/// A call to a cluster may take this long: one that is silent for longer counts as lost.
pub const CALL: Duration = Duration::from_secs(2);

/// A member: its name, and the way to it.
pub type Named = (String, Client);

/// Two members that are one cluster: they would be lost together, and each would count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "members {one} and {other} are the same cluster (the uid of its namespace kube-system is {uid}): a majority of clusters needs each of them once"
)]
pub struct SameCluster {
    /// One name of it.
    pub one: String,
    /// Another.
    pub other: String,
    /// Its uid.
    pub uid: String,
}

/// Why a set cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// It cannot be read.
    #[error("ClusterSet {set}: {why}")]
    Unread {
        /// Namespace and name.
        set: String,
        /// Why.
        why: String,
    },
    /// Two members are one cluster.
    #[error("ClusterSet {set}: {same}")]
    Same {
        /// Namespace and name.
        set: String,
        /// Which.
        same: SameCluster,
    },
}

/// The members of the ClusterSet of this name.
///
/// # Errors
/// See [`SetError`]. Members that do not answer are no error.
pub async fn members(own: &Client, namespace: &str, name: &str) -> Result<Vec<Named>, SetError> {
    let set = || format!("{namespace}/{name}");
    let unread = |why: String| SetError::Unread { set: set(), why };
    let sets: Api<ClusterSet> = Api::namespaced(own.clone(), namespace);
    let found = called(CALL, "get", sets.get_opt(name)).await.map_err(|failure| unread(failure.to_string()))?;
    let found = found.ok_or_else(|| unread("it does not exist: make it (docs/quorum.md)".to_owned()))?;
    let members = clients(own, namespace, &found).await;
    distinct(&identities(&members).await).map_err(|same| SetError::Same { set: set(), same })?;
    Ok(members)
}

/// The way to each member, seen from the cluster of `own`, where the set is. To one whose kubeconfig cannot be had or used every
/// call fails, and says why.
pub async fn clients(own: &Client, namespace: &str, set: &ClusterSet) -> Vec<Named> {
    join_all(set.spec.members.iter().map(|member| async move {
        let client = match client(own, namespace, member).await {
            Ok(client) => client,
            Err(why) => silent(why),
        };
        (member.name.clone(), client)
    }))
    .await
}

async fn client(own: &Client, namespace: &str, member: &ClusterMember) -> Result<Client, String> {
    let Some(KubeconfigRef { name, key }) = &member.kubeconfig_secret_ref else { return Ok(own.clone()) };
    let told = |why: &str| format!("its kubeconfig, key {key} of Secret {namespace}/{name}, {why}");
    let secrets: Api<Secret> = Api::namespaced(own.clone(), namespace);
    let secret = called(CALL, "get", secrets.get_opt(name)).await;
    let secret = secret.map_err(|failure| told(&format!("cannot be read: {failure}")))?;
    let make = format!("kubectl create secret generic {name} --namespace {namespace} --from-file={key}=FILE");
    let secret = secret.ok_or_else(|| told(&format!("does not exist: {make}")))?;
    let text = secret.data.as_ref().and_then(|data| data.get(key));
    let text = text.ok_or_else(|| told(&format!("is not there: {make}")))?;
    // What is wrong with it is not told: the words would be the Secret's.
    let kubeconfig = std::str::from_utf8(&text.0).ok().and_then(|text| Kubeconfig::from_yaml(text).ok());
    let kubeconfig = kubeconfig.ok_or_else(|| told("is no kubeconfig"))?;
    harmless(&kubeconfig).map_err(|what| {
        told(&format!("names {what}: whoever writes it could run programs or read files here; put the content into it (kubectl config view --flatten --minify)"))
    })?;
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
    let mut config = config.map_err(|_| told("has no current context with a cluster and a user"))?;
    config.default_retry = false;
    config.connect_timeout = Some(CALL);
    config.read_timeout = Some(Duration::from_secs(90));
    Client::try_from(config).map_err(|_| told("has a certificate or a key that cannot be used"))
}

/// Whether it runs no program and reads no file of whoever uses it.
fn harmless(kubeconfig: &Kubeconfig) -> Result<(), &'static str> {
    for named in &kubeconfig.auth_infos {
        let Some(user) = &named.auth_info else { continue };
        for (is_there, what) in [
            (user.exec.is_some(), "a program to get credentials from (exec)"),
            (user.auth_provider.is_some(), "an auth-provider"),
            (user.token_file.is_some(), "a file (tokenFile)"),
            (user.client_certificate.is_some(), "a file (client-certificate)"),
            (user.client_key.is_some(), "a file (client-key)"),
        ] {
            if is_there {
                return Err(what);
            }
        }
    }
    let of_a_file = |named: &kube::config::NamedCluster| {
        named.cluster.as_ref().is_some_and(|cluster| cluster.certificate_authority.is_some())
    };
    if kubeconfig.clusters.iter().any(of_a_file) { Err("a file (certificate-authority)") } else { Ok(()) }
}

/// A client whose every call fails.
pub(crate) fn silent(why: String) -> Client {
    let service = tower::service_fn(move |_: Request<Body>| {
        let why = why.clone();
        async move { Err::<http::Response<Body>, _>(std::io::Error::other(why)) }
    });
    Client::new(service, "default")
}

/// Which cluster each of them is: the uid of its namespace kube-system, or why it does not tell.
pub async fn identities(members: &[Named]) -> Vec<(String, Result<String, String>)> {
    join_all(members.iter().map(|(name, client)| async move {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let told = called(CALL, "get", namespaces.get_metadata("kube-system")).await;
        let uid = told.map(|namespace| namespace.metadata.uid.unwrap_or_default());
        (name.clone(), uid.map_err(|failure| failure.to_string()))
    }))
    .await
}

/// Whether no two of those that tell are the same cluster.
///
/// # Errors
/// [`SameCluster`].
pub fn distinct(identities: &[(String, Result<String, String>)]) -> Result<(), SameCluster> {
    let mut by_uid: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, uid) in identities {
        let Ok(uid) = uid else { continue };
        if let Some(other) = by_uid.insert(uid, name) {
            return Err(SameCluster { one: other.to_owned(), other: name.clone(), uid: uid.clone() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn kubeconfig(user: &serde_json::Value, cluster: &serde_json::Value) -> Kubeconfig {
        serde_json::from_value(json!({
            "clusters": [{"name": "c", "cluster": cluster}], "users": [{"name": "u", "user": user}],
        }))
        .unwrap()
    }

    #[test]
    fn a_kubeconfig_that_runs_programs_or_reads_files_is_refused() {
        let server = json!({"server": "https://x", "certificate-authority-data": "YQ=="});
        let exec = json!({"exec": {"command": "sh", "apiVersion": "client.authentication.k8s.io/v1"}});
        for (user, what) in [
            (exec, "exec"),
            (json!({"auth-provider": {"name": "gcp", "config": {}}}), "auth-provider"),
            (json!({"tokenFile": "/var/run/secrets/token"}), "tokenFile"),
            (json!({"client-certificate": "/a"}), "client-certificate"),
            (json!({"client-key": "/a"}), "client-key"),
        ] {
            assert!(harmless(&kubeconfig(&user, &server)).unwrap_err().contains(what));
        }
        let file = json!({"server": "https://x", "certificate-authority": "/etc/passwd"});
        assert!(harmless(&kubeconfig(&json!({"token": "t"}), &file)).unwrap_err().contains("certificate-authority"));
        assert_eq!(harmless(&kubeconfig(&json!({"token": "t", "client-key-data": "YQ=="}), &server)), Ok(()));
    }

    #[test]
    fn one_cluster_under_two_names_is_told_and_silent_ones_are_not_compared() {
        let named =
            |name: &str, uid: Result<&str, &str>| (name.to_owned(), uid.map(str::to_owned).map_err(str::to_owned));
        let members =
            [named("eu", Ok("1")), named("us", Err("away")), named("asia", Ok("2")), named("far", Err("away"))];
        assert_eq!(distinct(&members), Ok(()));
        let twice = [named("eu", Ok("1")), named("us", Ok("2")), named("asia", Ok("1"))];
        let told = distinct(&twice).unwrap_err().to_string();
        assert!(told.starts_with("members eu and asia are the same cluster"), "{told}");
    }
}
