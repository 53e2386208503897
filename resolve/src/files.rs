//! The files of a config, from the merged value, a template, or one key's bytes.

use kube::ResourceExt;
use quorate_crds::{DistributedConfig, File, KeyRef, head::BundleFile};

use crate::{
    format,
    layers::{missing, missing_key},
    pointer,
    problem::{Problem, ProblemKind},
    sources::{SourceKind, SourceRef, Sources},
    template::Templates,
    tree::Tree,
};

/// One file; `None` when it is copied from something optional that is missing, or when it is made
/// from the merged value and there is none (which is a problem of its own already).
pub fn render(
    config: &DistributedConfig,
    sources: &Sources,
    file: &File,
    tree: Option<&Tree>,
    templates: &mut Templates,
) -> Result<Option<BundleFile>, Problem> {
    let named = |problem: Problem| problem.file(&file.path);
    let content = match (&file.template, &file.config_map_key_ref, &file.secret_key_ref) {
        (None, None, None) => tree.map(|tree| from_value(file, tree)).transpose(),
        (Some(template), None, None) => tree.map(|tree| templates.render(template, tree)).transpose(),
        (None, Some(key), None) => copied(config, sources, SourceKind::ConfigMap, key),
        (None, None, Some(key)) => copied(config, sources, SourceKind::Secret, key),
        _ => Err(Problem::new(
            ProblemKind::FormatFailed,
            "a file has at most one of template, configMapKeyRef, secretKeyRef",
        )),
    };
    let Some((bytes, secret)) = content.map_err(named)? else { return Ok(None) };
    let default = if secret { 0o440 } else { 0o444 };
    let mode = match file.mode {
        None => default,
        Some(mode) => u32::try_from(mode).ok().filter(|mode| *mode <= 0o777).ok_or_else(|| {
            named(Problem::new(ProblemKind::FormatFailed, format!("mode {mode} is not within 0 to 511 (0777)")))
        })?,
    };
    Ok(Some(BundleFile { mode, secret, bytes }))
}

fn from_value(file: &File, tree: &Tree) -> Result<(Vec<u8>, bool), Problem> {
    let from = file.from.as_deref().unwrap_or_default();
    let problem = |reason: String| Problem::new(ProblemKind::FormatFailed, reason).pointer(from);
    let tokens = pointer::tokens(from).ok_or_else(|| problem("`from` is not a JSON pointer".to_owned()))?;
    let (value, secret) =
        tree.at(&tokens).ok_or_else(|| problem("the merged value has nothing at `from`".to_owned()))?;
    let format = file.format.unwrap_or_else(|| format::of_path(&file.path));
    Ok((format::render(&value, format).map_err(problem)?, secret))
}

fn copied(
    config: &DistributedConfig,
    sources: &Sources,
    kind: SourceKind,
    key: &KeyRef,
) -> Result<Option<(Vec<u8>, bool)>, Problem> {
    let reference = SourceRef::new(kind, &config.namespace().unwrap_or_default(), &key.name);
    let keys = sources.keys(&reference);
    match keys.and_then(|keys| keys.0.get(&key.key)) {
        Some(bytes) => Ok(Some((bytes.clone(), kind == SourceKind::Secret))),
        None if key.optional => Ok(None),
        None if keys.is_some() => Err(missing_key(&reference, &key.key)),
        None => Err(missing(&reference)),
    }
}
