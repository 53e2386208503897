//! The whole way from a config and its sources to a bundle.

use quorate_crds::{
    DistributedConfig,
    head::{Bundle, MAX_BYTES},
};

use crate::{
    files, layers, paths,
    problem::{Problem, ProblemKind, Problems},
    provenance::Provenance,
    sources::Sources,
    template::Templates,
};

/// Resolves a config: merges, validates, renders. The same input gives the same bundle.
///
/// # Errors
/// All problems that are independent of each other, not the first alone.
pub fn resolve(root: &DistributedConfig, sources: &Sources) -> Result<Bundle, Problems> {
    let mut problems = paths::check(root.spec.files.iter().map(|file| file.path.as_str()));
    let merged = match layers::merge(root, sources) {
        Ok(merged) => Some(merged),
        Err(found) => {
            problems.extend(found.0);
            None
        }
    };
    problems.extend(merged.iter().flat_map(|merged| layers::validate(root, merged)));
    let mut bundle = Bundle::default();
    let mut templates = Templates::default();
    for file in &root.spec.files {
        match files::render(root, sources, file, merged.as_ref().map(|m| &m.tree), &mut templates) {
            Ok(Some(rendered)) => drop(bundle.files.insert(file.path.clone(), rendered)),
            Ok(None) => {}
            Err(problem) => problems.push(problem),
        }
    }
    problems.extend(too_large(&bundle));
    if !problems.is_empty() {
        return Err(Problems::new(problems));
    }
    let provenance = merged.as_ref().map(|merged| Provenance::of(merged).to_json()).unwrap_or_default();
    // It explains; it must not keep from publishing.
    if bundle.size() + provenance.len() <= MAX_BYTES {
        bundle.provenance = provenance;
    }
    Ok(bundle)
}

/// Files beyond what a Secret can hold, with the largest of them.
fn too_large(bundle: &Bundle) -> Option<Problem> {
    let size = bundle.size();
    if size <= MAX_BYTES {
        return None;
    }
    let mut largest: Vec<_> = bundle.files.iter().map(|(path, file)| (file.bytes.len(), path)).collect();
    largest.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
    let largest: Vec<_> =
        largest.iter().take(3).map(|(bytes, path)| format!("{:.60} ({bytes})", path.as_str())).collect();
    let reason = format!(
        "the files with their manifest have {size} bytes, but at most {MAX_BYTES} fit; the largest: {}",
        largest.join(", ")
    );
    Some(Problem::new(ProblemKind::TooLarge, reason))
}
