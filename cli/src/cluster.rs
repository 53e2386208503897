//! The way to the API server: as kubectl would go, with a time limit on every call and errors that
//! say what was asked of which object.

use std::{fmt::Debug, future::Future, time::Duration};

use k8s_openapi::{NamespaceResourceScope, api::core::v1::Secret};
use kube::{
    Api, Client, Config, Resource,
    config::{KubeConfigOptions, Kubeconfig},
};
use quorate_crds::{ConfigReplica, DistributedConfig};
use serde::de::DeserializeOwned;

use crate::{
    exit::{Exit, Failure, Result},
    options::Target,
};

/// The time limit of one call.
const CALL_LIMIT: Duration = Duration::from_secs(15);
/// A watch that is silent for longer has lost its connection: bookmarks come every minute.
const SILENCE: Duration = Duration::from_secs(90);

/// A namespace of a cluster, and the user's client.
#[derive(Clone)]
pub struct Cluster {
    /// The client.
    pub client: Client,
    /// The namespace asked for.
    pub namespace: String,
}

impl Cluster {
    /// Connects as the options and kubectl's own rules say.
    ///
    /// # Errors
    /// When the kubeconfig cannot be used.
    pub async fn of(target: &Target) -> Result<Self> {
        let options = KubeConfigOptions { context: target.context.clone(), ..KubeConfigOptions::default() };
        let unusable = |error: &dyn std::fmt::Display| {
            Failure::error(format!("no way to an API server: {error}; set KUBECONFIG, --kubeconfig or --context"))
        };
        let config = match (&target.kubeconfig, &target.context) {
            (Some(path), _) => {
                let kubeconfig = Kubeconfig::read_from(path).map_err(|error| unusable(&error))?;
                Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|error| unusable(&error))
            }
            (None, Some(_)) => Config::from_kubeconfig(&options).await.map_err(|error| unusable(&error)),
            (None, None) => Config::infer().await.map_err(|error| unusable(&error)),
        };
        let mut config = config?;
        // A write whose result is unknown is settled here (see `change`), not repeated unseen.
        config.default_retry = false;
        config.read_timeout = Some(SILENCE);
        let namespace = target.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| unusable(&error))?;
        Ok(Self { client, namespace })
    }

    /// The namespace's configs.
    #[must_use]
    pub fn configs(&self) -> Api<DistributedConfig> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The namespace's Secrets.
    #[must_use]
    pub fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// What the namespace's pods say.
    #[must_use]
    pub fn replicas(&self) -> Api<ConfigReplica> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The config of this name.
    ///
    /// # Errors
    /// When there is none, or the API server fails.
    pub async fn config(&self, name: &str) -> Result<DistributedConfig> {
        let what = format!("DistributedConfig {}/{name}", self.namespace);
        let config = call(&format!("get {what}"), self.configs().get_opt(name)).await?;
        config.ok_or_else(|| Failure::not_found(format!("{what} does not exist")))
    }

    /// An object that people make is there: else that is told, and not what it does not allow.
    ///
    /// # Errors
    /// When there is none, or the API server fails.
    pub async fn must_have<K>(&self, name: &str) -> Result<()>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let what = format!("{} {}/{name}", K::kind(&()), self.namespace);
        let api: Api<K> = Api::namespaced(self.client.clone(), &self.namespace);
        match call(&format!("get {what}"), api.get_metadata_opt(name)).await? {
            Some(_) => Ok(()),
            None => Err(Failure::not_found(format!("{what} does not exist: create it with kubectl apply"))),
        }
    }
}

/// A failed call: what the API server said, if it answered.
#[derive(Debug)]
pub struct CallError {
    /// The HTTP status of the API server's answer; `None`: there was none, and a write may have landed.
    pub code: Option<u16>,
    message: String,
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let exit = if error.code == Some(404) { Exit::NotFound } else { Exit::Error };
        Self { exit, message: error.message }
    }
}

impl CallError {
    /// Whether the user may not do this.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        matches!(self.code, Some(401 | 403))
    }

    /// What happened.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// Runs one call under the time limit.
///
/// # Errors
/// [`CallError`], naming the call.
pub async fn call<T>(name: &str, request: impl Future<Output = kube::Result<T>>) -> std::result::Result<T, CallError> {
    let error = match tokio::time::timeout(CALL_LIMIT, request).await {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(error)) => error,
        Err(_) => {
            let message = format!("{name}: no answer within {} s", CALL_LIMIT.as_secs());
            return Err(CallError { code: None, message });
        }
    };
    Err(match error {
        kube::Error::Api(status) => {
            CallError { code: Some(status.code), message: format!("{name}: {} ({})", status.message, status.code) }
        }
        error => CallError { code: None, message: format!("{name}: {}", with_causes(&error)) },
    })
}

/// Without the chain of causes "client error (Connect)" says nothing.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        told += &format!(": {cause}");
        source = cause.source();
    }
    told
}
