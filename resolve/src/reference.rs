//! Which objects a config refers to, through other configs too, and whether it may.

use std::collections::BTreeSet;

use kube::ResourceExt;
use quorate_crds::{ConfigRef, DistributedConfig};

use crate::{Problem, ProblemKind, SourceKind, SourceRef, Sources};

/// How many configs may stand behind each other.
pub const DEPTH: usize = 8;
/// How many configs one config may refer to, directly and through others.
pub const CONFIGS: usize = 64;

/// Every object the config depends on, as far as the snapshot reaches.
#[must_use]
pub fn references(root: &DistributedConfig, sources: &Sources) -> BTreeSet<SourceRef> {
    let mut found = BTreeSet::new();
    let mut configs = BTreeSet::from([config_source(root)]);
    collect(root, sources, 0, &mut configs, &mut found);
    found
}

/// Those of [`references`] that the snapshot does not know: fetch them and ask again, until there are none.
#[must_use]
pub fn required(root: &DistributedConfig, sources: &Sources) -> BTreeSet<SourceRef> {
    references(root, sources).into_iter().filter(|source| !sources.knows(source)).collect()
}

fn collect(
    config: &DistributedConfig,
    sources: &Sources,
    depth: usize,
    configs: &mut BTreeSet<SourceRef>,
    found: &mut BTreeSet<SourceRef>,
) {
    let namespace = config.namespace().unwrap_or_default();
    let source = |kind, name: &String| SourceRef { kind, namespace: namespace.clone(), name: name.clone() };
    for layer in &config.spec.layers {
        found.extend(layer.config_map_ref.iter().map(|r| source(SourceKind::ConfigMap, &r.name)));
        found.extend(layer.secret_ref.iter().map(|r| source(SourceKind::Secret, &r.name)));
        let Some(reference) = &layer.config_ref else { continue };
        let target = target(config, reference);
        found.insert(target.clone());
        if depth >= DEPTH || configs.len() > CONFIGS || !configs.insert(target.clone()) {
            continue;
        }
        if let Some(Some(other)) = sources.configs.get(&target)
            && consents(other, config)
        {
            collect(other, sources, depth + 1, configs, found);
        }
    }
    // Only the root's files are rendered.
    if depth == 0 {
        for file in &config.spec.files {
            found.extend(file.config_map_key_ref.iter().map(|r| source(SourceKind::ConfigMap, &r.name)));
            found.extend(file.secret_key_ref.iter().map(|r| source(SourceKind::Secret, &r.name)));
        }
    }
}

pub(crate) fn target(config: &DistributedConfig, reference: &ConfigRef) -> SourceRef {
    let namespace = reference.namespace.clone().or_else(|| config.namespace()).unwrap_or_default();
    SourceRef { kind: SourceKind::DistributedConfig, namespace, name: reference.name.clone() }
}

pub(crate) fn config_source(config: &DistributedConfig) -> SourceRef {
    let namespace = config.namespace().unwrap_or_default();
    SourceRef { kind: SourceKind::DistributedConfig, namespace, name: config.name_any() }
}

/// Whether `target` shares itself with the consumer's namespace.
pub(crate) fn consents(target: &DistributedConfig, consumer: &DistributedConfig) -> bool {
    let namespace = consumer.namespace();
    target.namespace() == namespace
        || target.spec.shared_with.iter().any(|shared| shared == "*" || Some(shared) == namespace.as_ref())
}

/// Refuses a path of configs (consumer first) that comes back to itself or is too long.
pub(crate) fn check_path(path: &[SourceRef], next: &SourceRef) -> Result<(), Problem> {
    let name = |source: &SourceRef| format!("{}/{}", source.namespace, source.name);
    if let Some(start) = path.iter().position(|source| source == next) {
        let circle: Vec<String> = path[start..].iter().chain([next]).map(name).collect();
        let reason = format!("configs refer to each other in a circle: {}", circle.join(" -> "));
        return Err(Problem::new(ProblemKind::ReferenceCycle, reason));
    }
    if path.len() > DEPTH {
        let reason = format!("{} is more than {DEPTH} references away; bring the configs closer together", name(next));
        return Err(Problem::new(ProblemKind::ReferenceCycle, reason));
    }
    Ok(())
}
