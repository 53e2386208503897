//! The objects of manifests: configs, and what they may refer to.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use quorate_crds::DistributedConfig;
use quorate_resolve::{Keys, SourceKind, SourceRef, Sources};

use super::{
    files::Text,
    yaml::{self, Node, Place},
};

/// A problem, where it can be mended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The index of the file.
    pub file: usize,
    /// Where in it.
    pub place: Place,
    /// Of what object: `DistributedConfig shop/web`.
    pub object: Option<String>,
    /// What is wrong.
    pub reason: String,
}

/// An object of a manifest.
#[derive(Clone, Debug)]
pub struct Object {
    /// The index of the file it is in.
    pub file: usize,
    /// What it is.
    pub reference: SourceRef,
    /// Its text.
    pub node: Node,
}

/// The objects of all files that matter here, and what is wrong with the files themselves.
#[derive(Debug, Default)]
pub struct Manifests {
    /// Configs, ConfigMaps and Secrets, in order.
    pub objects: Vec<Object>,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

impl Manifests {
    /// Reads the objects. Those that name no namespace are in `namespace`.
    #[must_use]
    pub fn of(texts: &[Text], namespace: &str) -> Self {
        let mut manifests = Self::default();
        for (file, text) in texts.iter().enumerate() {
            let (documents, faults) = yaml::parse(&text.text);
            let findings = faults.into_iter().map(|f| Finding { file, place: f.place, object: None, reason: f.reason });
            manifests.findings.extend(findings);
            for document in documents {
                manifests.take(file, document, namespace);
            }
        }
        manifests
    }

    fn take(&mut self, file: usize, node: Node, namespace: &str) {
        let mut wrong =
            |place, reason: &str| self.findings.push(Finding { file, place, object: None, reason: reason.into() });
        let text = |key: &str| node.member(key).and_then(Node::text);
        let (version, kind) = (text("apiVersion").unwrap_or_default(), text("kind").unwrap_or_default());
        if version.is_empty() || kind.is_empty() {
            return wrong(node.place, "it is no object of Kubernetes: apiVersion and kind are needed");
        }
        let kind = match (version, kind) {
            // What `kubectl get -o yaml` writes.
            ("v1", kind) if kind.ends_with("List") => {
                let items = node.member("items").map(Node::items).unwrap_or_default().to_vec();
                return items.into_iter().for_each(|item| self.take(file, item, namespace));
            }
            ("v1", "ConfigMap") => SourceKind::ConfigMap,
            ("v1", "Secret") => SourceKind::Secret,
            (version, "DistributedConfig") if version.starts_with("quorate.io/") => SourceKind::DistributedConfig,
            // Deployments and the like lie beside configs: they are not looked at.
            _ => return,
        };
        if kind == SourceKind::DistributedConfig && version != "quorate.io/v1alpha1" {
            return wrong(node.walk(&["apiVersion"]).0, "the apiVersion of a DistributedConfig is quorate.io/v1alpha1");
        }
        let meta = |key: &str| node.member("metadata").and_then(|meta| meta.member(key)).and_then(Node::text);
        let Some(name) = meta("name") else {
            return wrong(node.walk(&["metadata"]).0, "metadata.name is needed");
        };
        let namespace = meta("namespace").unwrap_or(namespace).to_owned();
        let reference = SourceRef { kind, namespace, name: name.to_owned() };
        if let Some(other) = self.objects.iter().find(|other| other.reference == reference) {
            let first = other.node.place.line;
            let reason = format!("{reference} is there twice, first in line {first}");
            self.findings.push(Finding { file, place: node.place, object: None, reason });
        }
        self.objects.push(Object { file, reference, node });
    }

    /// The last object of this kind and name.
    #[must_use]
    pub fn find(&self, reference: &SourceRef) -> Option<&Object> {
        self.objects.iter().rev().find(|object| object.reference == *reference)
    }

    /// The configs, in order.
    pub fn configs(&self) -> impl Iterator<Item = &Object> {
        self.objects.iter().filter(|object| object.reference.kind == SourceKind::DistributedConfig)
    }

    /// What references point to. What does not read is left out and told.
    #[must_use]
    pub fn sources(&self) -> (Sources, Vec<Finding>) {
        let mut sources = Sources::default();
        let mut findings = Vec::new();
        for object in &self.objects {
            let outcome = match object.reference.kind {
                SourceKind::DistributedConfig => object.config().map(|config| {
                    sources.configs.insert(object.reference.clone(), Some(Arc::new(config)));
                }),
                SourceKind::ConfigMap | SourceKind::Secret => object.keys().map(|keys| {
                    sources.keys.insert(object.reference.clone(), Some(Arc::new(keys)));
                }),
            };
            // A config's own mistakes are told by the schema, with their places.
            if let Err(reason) = outcome
                && object.reference.kind != SourceKind::DistributedConfig
            {
                findings.push(object.finding(object.node.walk(&["data"]).0, reason));
            }
        }
        (sources, findings)
    }
}

impl Object {
    /// A problem of this object.
    #[must_use]
    pub fn finding(&self, place: Place, reason: String) -> Finding {
        Finding { file: self.file, place, object: Some(self.reference.to_string()), reason }
    }

    /// The config.
    ///
    /// # Errors
    /// What of it does not fit the API.
    pub fn config(&self) -> Result<DistributedConfig, String> {
        let mut value = self.node.value();
        value["metadata"]["namespace"] = self.reference.namespace.as_str().into();
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    /// The keys of a ConfigMap or Secret, as the API server would keep them.
    fn keys(&self) -> Result<Keys, String> {
        let value = self.node.value();
        if self.reference.kind == SourceKind::ConfigMap {
            let map: ConfigMap = serde_json::from_value(value).map_err(|error| error.to_string())?;
            return Ok(Keys::from(&map));
        }
        // A message of serde may quote what it could not read.
        let malformed = || "its data is not base64, or its stringData is not text".to_owned();
        let mut secret: Secret = serde_json::from_value(value).map_err(|_| malformed())?;
        let plain = secret.string_data.take().unwrap_or_default();
        let bytes = plain.into_iter().map(|(key, text)| (key, k8s_openapi::ByteString(text.into_bytes())));
        secret.data.get_or_insert_default().extend(bytes);
        Ok(Keys::from(&secret))
    }

    /// The text of one key of a ConfigMap, or of a Secret's stringData.
    #[must_use]
    pub fn key(&self, key: &str) -> Option<&Node> {
        ["stringData", "data"].iter().find_map(|part| self.node.member(part)?.member(key))
    }

    /// The text of a key as it is kept: not of a Secret's data, which is base64.
    #[must_use]
    pub fn document(&self, key: &str) -> Option<&Node> {
        let part = if self.reference.kind == SourceKind::Secret { "stringData" } else { "data" };
        self.node.member(part)?.member(key)
    }
}
