//! What references point to: a snapshot that the caller fills.

use std::{collections::BTreeMap, fmt, sync::Arc};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use quorate_crds::DistributedConfig;

/// Which kind of object a reference names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceKind {
    /// Another config.
    DistributedConfig,
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DistributedConfig => "DistributedConfig",
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        })
    }
}

/// One object that a config refers to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceRef {
    /// Its kind.
    pub kind: SourceKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl SourceRef {
    pub(crate) fn new(kind: SourceKind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

impl fmt::Display for SourceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// All keys of a ConfigMap (data and binaryData) or Secret, bytes as they are.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Keys(pub BTreeMap<String, Vec<u8>>);

impl fmt::Debug for Keys {
    // Never the values: they may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl From<&ConfigMap> for Keys {
    fn from(map: &ConfigMap) -> Self {
        let text = map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
        let binary = map.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()));
        Self(text.chain(binary).collect())
    }
}

impl From<&Secret> for Keys {
    fn from(secret: &Secret) -> Self {
        Self(secret.data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())).collect())
    }
}

/// A snapshot of what references point to. No entry: not known yet. `None`: known to be missing.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Configs.
    pub configs: BTreeMap<SourceRef, Option<Arc<DistributedConfig>>>,
    /// ConfigMaps and Secrets.
    pub keys: BTreeMap<SourceRef, Option<Arc<Keys>>>,
}

impl Sources {
    pub(crate) fn knows(&self, reference: &SourceRef) -> bool {
        self.configs.contains_key(reference) || self.keys.contains_key(reference)
    }

    pub(crate) fn config(&self, reference: &SourceRef) -> Option<&Arc<DistributedConfig>> {
        self.configs.get(reference)?.as_ref()
    }

    pub(crate) fn keys(&self, reference: &SourceRef) -> Option<&Keys> {
        self.keys.get(reference)?.as_deref()
    }
}
