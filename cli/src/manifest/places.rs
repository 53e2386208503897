//! Where in the manifests a problem of resolving can be mended.
//!
//! A problem names a layer, a file, a pointer into the merged value. Here that becomes a line: of
//! the config's manifest, or of the ConfigMap or other config among the manifests that gave it.

use quorate_crds::DistributedConfig;
use quorate_resolve::{Problem, ProblemKind, SourceKind, SourceRef, Syntax, parse};

use super::{
    objects::{Manifests, Object},
    yaml::{self, Place},
};
use crate::pointer;

/// A place: the file, and the path in its config's manifest that led there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The index of the file.
    pub file: usize,
    /// Where in it.
    pub place: Place,
    /// The path in the config's manifest.
    pub path: Vec<String>,
}

/// Configs that refer one to the next: no more are followed.
const HOPS: usize = 8;

/// Where a problem of this config can be mended.
#[must_use]
pub fn locate(problem: &Problem, object: &Object, config: &DistributedConfig, manifests: &Manifests) -> Located {
    Locator { manifests, hops: 0 }.locate(problem, object, config)
}

struct Locator<'m> {
    manifests: &'m Manifests,
    hops: usize,
}

impl Locator<'_> {
    fn locate(&self, problem: &Problem, object: &Object, config: &DistributedConfig) -> Located {
        if let Some(layer) = &problem.layer {
            return self.in_layer(problem, layer, object, config);
        }
        if let Some(path) = &problem.file {
            return in_file(problem, path, object, config);
        }
        let rule = problem.reason.strip_prefix("rule ").and_then(|rest| rest.split(':').next()?.parse::<usize>().ok());
        match (problem.kind, rule) {
            (ProblemKind::ValidationFailed | ProblemKind::RuleInvalid, Some(number)) => {
                at(object, ["spec", "validation", "rules", &number.saturating_sub(1).to_string(), "rule"])
            }
            (ProblemKind::SchemaInvalid | ProblemKind::ValidationFailed, _) => {
                at(object, ["spec", "validation", "schema"])
            }
            (ProblemKind::TooLarge, _) => at(object, ["spec", "files"]),
            _ => at(object, ["spec", "layers"]),
        }
    }

    fn in_layer(&self, problem: &Problem, name: &str, object: &Object, config: &DistributedConfig) -> Located {
        let (own, inner) = name.split_once('/').map_or((name, None), |(own, inner)| (own, Some(inner)));
        // Of two with one name the last: it is the one too many.
        let Some(index) = config.spec.layers.iter().rposition(|layer| layer.name == own) else {
            return at(object, ["spec", "layers"]);
        };
        let (layer, number) = (&config.spec.layers[index], index.to_string());
        let below = |rest: &[&str]| at(object, ["spec", "layers", &number].into_iter().chain(rest.iter().copied()));
        if problem.reason.starts_with("at: ") {
            return below(&["at"]);
        }
        let namespace = &object.reference.namespace;
        if let Some(target) = &layer.config_ref {
            let namespace = target.namespace.as_ref().unwrap_or(namespace).clone();
            let reference = SourceRef { kind: SourceKind::DistributedConfig, namespace, name: target.name.clone() };
            let there = inner.and_then(|inner| self.in_target(problem, inner, &reference));
            return there
                .map_or_else(|| below(&["configRef", "name"]), |there| Located { path: below(&[]).path, ..there });
        }
        let tokens = problem.pointer.as_deref().and_then(|at| pointer::tokens(at).ok()).unwrap_or_default();
        let placed = pointer::tokens(layer.at.as_deref().unwrap_or_default()).unwrap_or_default();
        let within = tokens.strip_prefix(placed.as_slice()).unwrap_or_default();
        let (kind, field, reference) = match (&layer.config_map_ref, &layer.secret_ref) {
            (Some(reference), _) => (SourceKind::ConfigMap, "configMapRef", reference),
            (_, Some(reference)) => (SourceKind::Secret, "secretRef", reference),
            _ => {
                let inline: Vec<&str> = ["inline"].into_iter().chain(within.iter().map(String::as_str)).collect();
                return below(&inline);
            }
        };
        let here = below(&[field, if reference.key.is_some() { "key" } else { "name" }]);
        let source = SourceRef { kind, namespace: namespace.clone(), name: reference.name.clone() };
        let Some(source) = self.manifests.find(&source) else { return below(&[field, "name"]) };
        let there = match &reference.key {
            Some(key) => in_document(source, key, within, problem.pointer.is_some()),
            None => within.first().and_then(|key| source.key(key)).map(|node| node.place),
        };
        there.map_or_else(|| here.clone(), |place| Located { file: source.file, place, path: here.path.clone() })
    }

    /// A problem of a config that is referred to, where it is among the manifests.
    fn in_target(&self, problem: &Problem, inner: &str, target: &SourceRef) -> Option<Located> {
        let object = self.manifests.find(target).filter(|_| self.hops < HOPS)?;
        let config = object.config().ok()?;
        let problem = Problem { layer: Some(inner.to_owned()), ..problem.clone() };
        Some(Locator { manifests: self.manifests, hops: self.hops + 1 }.locate(&problem, object, &config))
    }
}

/// A place in the document that one key holds: of a pointer, or else of what keeps it from parsing.
fn in_document(source: &Object, key: &str, within: &[String], has_pointer: bool) -> Option<Place> {
    let node = source.document(key)?;
    let text = node.text()?;
    let inner = if has_pointer {
        // Only these can be walked with places.
        matches!(Syntax::of(key), Syntax::Yaml | Syntax::Json)
            .then(|| yaml::parse(text).0.first().map(|document| document.walk(within).0))
            .flatten()
    } else {
        let error = parse(text.as_bytes(), Syntax::of(key)).err();
        error.and_then(|error| error.at).map(|(line, column)| Place { line, column })
    };
    Some(inner.map_or(node.place, |inner| node.place_in_text(inner)))
}

fn in_file(problem: &Problem, path: &str, object: &Object, config: &DistributedConfig) -> Located {
    let Some(index) = config.spec.files.iter().rposition(|file| file.path == path) else {
        return at(object, ["spec", "files"]);
    };
    let (file, number) = (&config.spec.files[index], index.to_string());
    let field = match problem.kind {
        ProblemKind::PathInvalid => "path",
        _ if problem.reason.starts_with("mode ") => "mode",
        ProblemKind::TemplateFailed => "template",
        _ if file.config_map_key_ref.is_some() => "configMapKeyRef",
        _ if file.secret_key_ref.is_some() => "secretKeyRef",
        _ if file.from.is_some() => "from",
        _ => "path",
    };
    let path = ["spec", "files", &number, field];
    let located = at(object, path);
    let line = problem.reason.split_once("in line ").and_then(|(_, rest)| {
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<usize>().ok().filter(|line| *line > 0)
    });
    match (field, line) {
        ("template", Some(line)) => {
            let node = object.node.walk(&path).1;
            Located { place: node.place_in_text(Place { line, column: 1 }), ..located }
        }
        _ => located,
    }
}

/// The nearest there is to a path in an object's manifest.
fn at<'p>(object: &Object, path: impl IntoIterator<Item = &'p str>) -> Located {
    let path: Vec<String> = path.into_iter().map(str::to_owned).collect();
    Located { file: object.file, place: object.node.walk(&path).0, path }
}
