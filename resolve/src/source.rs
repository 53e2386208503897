//! What configs refer to, as a snapshot.

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

/// A reference, resolved to a namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceRef {
    /// The kind.
    pub kind: SourceKind,
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl fmt::Display for SourceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// All keys of a ConfigMap (data and binaryData) or Secret, with their bytes.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Keys(pub BTreeMap<String, Vec<u8>>);

impl fmt::Debug for Keys {
    // Never the values: they may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

impl From<&ConfigMap> for Keys {
    fn from(map: &ConfigMap) -> Self {
        let text = map.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
        let bytes = map.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
        Self(text.chain(bytes).collect())
    }
}

impl From<&Secret> for Keys {
    fn from(secret: &Secret) -> Self {
        Self(secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect())
    }
}

/// What is known of referenced objects. `None` is known to be missing.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Configs.
    pub configs: BTreeMap<SourceRef, Option<Arc<DistributedConfig>>>,
    /// ConfigMaps and Secrets.
    pub keys: BTreeMap<SourceRef, Option<Arc<Keys>>>,
}

impl Sources {
    pub(crate) fn knows(&self, source: &SourceRef) -> bool {
        self.configs.contains_key(source) || self.keys.contains_key(source)
    }
}
