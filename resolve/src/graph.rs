//! Which objects a config depends on, directly and through configRef.

use std::collections::{BTreeSet, VecDeque};

use kube::ResourceExt;
use quorate_crds::{ConfigRef, DistributedConfig, Layer};

use crate::{
    limits::{MAX_CONFIGS, MAX_HOPS},
    sources::{SourceKind, SourceRef, Sources},
};

/// Every object the root depends on, as far as the snapshot reaches. The target of a configRef is
/// always among them, since only it can say whether it consents; what lies behind it is only when
/// it does. Bounded by the number of hops and of configs.
#[must_use]
pub fn references(root: &DistributedConfig, sources: &Sources) -> BTreeSet<SourceRef> {
    let own = reference_to(root);
    let mut found = BTreeSet::new();
    let mut configs = 0;
    let mut queue = VecDeque::from([(root, 0)]);
    // Breadth first: every config is reached by its shortest chain.
    while let Some((config, hops)) = queue.pop_front() {
        found.extend(key_references(config));
        for target in config.spec.layers.iter().filter_map(|layer| target_of(config, layer)) {
            if target == own || hops >= MAX_HOPS || configs > MAX_CONFIGS || !found.insert(target.clone()) {
                continue;
            }
            configs += 1;
            if let Some(next) = sources.config(&target).filter(|next| consents(next, config)) {
                queue.push_back((next, hops + 1));
            }
        }
    }
    found
}

/// Those of [`references`] that the snapshot does not know: fetch them and ask again until none is
/// left.
#[must_use]
pub fn required(root: &DistributedConfig, sources: &Sources) -> BTreeSet<SourceRef> {
    let mut references = references(root, sources);
    references.retain(|reference| !sources.knows(reference));
    references
}

/// The ConfigMaps and Secrets that a config itself names.
fn key_references(config: &DistributedConfig) -> impl Iterator<Item = SourceRef> {
    let namespace = config.namespace().unwrap_or_default();
    let spec = &config.spec;
    let layers = spec.layers.iter().flat_map(|layer| {
        [
            layer.config_map_ref.as_ref().map(|r| (SourceKind::ConfigMap, &r.name)),
            layer.secret_ref.as_ref().map(|r| (SourceKind::Secret, &r.name)),
        ]
    });
    let files = spec.files.iter().flat_map(|file| {
        [
            file.config_map_key_ref.as_ref().map(|r| (SourceKind::ConfigMap, &r.name)),
            file.secret_key_ref.as_ref().map(|r| (SourceKind::Secret, &r.name)),
        ]
    });
    layers.chain(files).flatten().map(move |(kind, name)| SourceRef::new(kind, &namespace, name))
}

fn target_of(config: &DistributedConfig, layer: &Layer) -> Option<SourceRef> {
    layer.config_ref.as_ref().map(|target| config_reference(config, target))
}

/// What a configRef names, seen from its config.
pub fn config_reference(config: &DistributedConfig, target: &ConfigRef) -> SourceRef {
    let own = config.namespace().unwrap_or_default();
    SourceRef::new(SourceKind::DistributedConfig, target.namespace.as_deref().unwrap_or(&own), &target.name)
}

/// The config itself as a reference.
pub fn reference_to(config: &DistributedConfig) -> SourceRef {
    SourceRef::new(SourceKind::DistributedConfig, &config.namespace().unwrap_or_default(), &config.name_any())
}

/// Whether a config shares its values with another one's namespace.
pub fn consents(target: &DistributedConfig, consumer: &DistributedConfig) -> bool {
    let consumer = consumer.namespace().unwrap_or_default();
    target.namespace().unwrap_or_default() == consumer
        || target.spec.shared_with.iter().any(|namespace| *namespace == "*" || *namespace == consumer)
}
