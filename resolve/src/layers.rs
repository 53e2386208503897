//! The layers of a config, and of those it refers to, merged in order.

use std::{collections::BTreeMap, rc::Rc};

use kube::ResourceExt;
use quorate_crds::{DistributedConfig, Layer, ObjectRef};
use serde_json::Value;

use crate::{
    graph,
    limits::{MAX_CONFIGS, MAX_DEPTH, MAX_HOPS, MAX_LAYERS, MAX_TOTAL_WEIGHT},
    parse::{self, Syntax, strict::Budget},
    pointer,
    problem::{Problem, ProblemKind, Problems},
    rules, schema,
    sources::{Keys, SourceKind, SourceRef, Sources},
    tree::Tree,
};

/// A config's merged value, not yet validated, with the names of its layers.
#[derive(Clone, Debug, PartialEq)]
pub struct Merged {
    /// The value; always an object.
    pub tree: Tree,
    /// Layers by the index that the tree uses, lowest precedence first.
    pub layers: Vec<String>,
    /// Hops of the longest chain of references below.
    hops: usize,
}

impl Merged {
    /// The name of the layer that won at a part of the tree.
    #[must_use]
    pub fn winner(&self, part: &Tree) -> Option<&str> {
        let newest = part.layers().first()?;
        self.layers.get(usize::from(*newest)).map(String::as_str)
    }
}

/// Merges a config's layers. Referenced configs are validated, the root is not.
///
/// # Errors
/// Every layer that cannot be had, with the reason.
pub fn merge(root: &DistributedConfig, sources: &Sources) -> Result<Merged, Problems> {
    let reached = graph::references(root, sources);
    let configs = reached.iter().filter(|reference| reference.kind == SourceKind::DistributedConfig).count();
    if configs > MAX_CONFIGS {
        let reason = format!("more than {MAX_CONFIGS} configs are reached by configRef");
        return Err(Problems::new(vec![Problem::new(ProblemKind::ReferenceTooDeep, reason)]));
    }
    let mut merger = Merger { sources, done: BTreeMap::new(), chain: Vec::new(), budget: Budget::of(MAX_TOTAL_WEIGHT) };
    merger.config(root).map_err(Problems::new)
}

/// Every problem of a merged value: schema and rules.
pub fn validate(config: &DistributedConfig, merged: &Merged) -> Vec<Problem> {
    let Some(validation) = &config.spec.validation else { return Vec::new() };
    let Some(value) = merged.tree.value() else { return Vec::new() };
    let mut problems = validation.schema.as_ref().map_or_else(Vec::new, |s| schema::check(s, &value, merged));
    problems.extend(rules::check(&validation.rules, &value, merged.tree.secret()));
    problems
}

struct Merger<'s> {
    sources: &'s Sources,
    /// Each config is merged once, however often it is referred to.
    done: BTreeMap<SourceRef, Result<Rc<Merged>, Vec<Problem>>>,
    chain: Vec<SourceRef>,
    budget: Budget,
}

impl Merger<'_> {
    fn config(&mut self, config: &DistributedConfig) -> Result<Merged, Vec<Problem>> {
        self.chain.push(graph::reference_to(config));
        let mut merged = Merged { tree: Tree::empty(), layers: Vec::new(), hops: 0 };
        let mut problems = Vec::new();
        for layer in &config.spec.layers {
            if let Err(found) = self.layer(config, layer, &mut merged) {
                problems.extend(found.into_iter().map(|problem| problem.layer(&layer.name)));
            }
        }
        self.chain.pop();
        if problems.is_empty() { Ok(merged) } else { Err(problems) }
    }

    fn layer(&mut self, config: &DistributedConfig, layer: &Layer, merged: &mut Merged) -> Result<(), Vec<Problem>> {
        let at = layer.at.as_deref().unwrap_or_default();
        let malformed = || invalid(format!("at: {at:?} is not a JSON pointer; write it as /a/b"));
        let tokens = pointer::tokens(at).ok_or_else(|| vec![malformed()])?;
        let offset = merged.layers.len();
        let own = u16::try_from(offset).unwrap_or(u16::MAX);
        let content = self.content(config, layer)?;
        let weigh = |value: &Value| {
            let checked = parse::strict::check(value, &self.budget, MAX_DEPTH.saturating_sub(tokens.len()));
            checked.map_err(|reason| vec![invalid(reason).pointer(at)])
        };
        let (patch, names) = match content {
            Content::Missing => return Ok(()),
            Content::Value(value, secret) => {
                weigh(&value)?;
                if tokens.is_empty() && !value.is_object() {
                    let reason = "the document is not an object; place it below one with `at`, such as /name";
                    return Err(vec![invalid(reason)]);
                }
                (Tree::patch(value, own, secret).placed(&tokens, own), vec![layer.name.clone()])
            }
            Content::Config(target) => {
                target.tree.value().as_ref().map_or(Ok(()), weigh)?;
                merged.hops = merged.hops.max(target.hops + 1);
                let names = target.layers.iter().map(|inner| format!("{}/{inner}", layer.name)).collect();
                (target.tree.imported(own).placed(&tokens, own), names)
            }
        };
        merged.layers.extend(names);
        if merged.layers.len() > MAX_LAYERS {
            return Err(vec![invalid(format!("there are more than {MAX_LAYERS} layers, referenced ones included"))]);
        }
        merged.tree.merge(patch);
        Ok(())
    }

    fn content(&mut self, config: &DistributedConfig, layer: &Layer) -> Result<Content, Vec<Problem>> {
        let one = |result: Result<Content, Problem>| result.map_err(|problem| vec![problem]);
        match (&layer.inline, &layer.config_map_ref, &layer.secret_ref, &layer.config_ref) {
            (Some(inline), None, None, None) => Ok(Content::Value(Value::Object(inline.clone()), false)),
            (None, Some(object), None, None) => one(self.object(config, SourceKind::ConfigMap, object)),
            (None, None, Some(object), None) => one(self.object(config, SourceKind::Secret, object)),
            (None, None, None, Some(target)) => {
                let reference = graph::config_reference(config, target);
                self.refuse_circle(&reference)?;
                let Some(found) = self.sources.config(&reference) else {
                    return one(if target.optional { Ok(Content::Missing) } else { Err(missing(&reference)) });
                };
                let found = found.clone();
                self.target(config, &reference, &found).map(Content::Config)
            }
            _ => Err(vec![invalid("a layer needs exactly one of inline, configMapRef, secretRef, configRef")]),
        }
    }

    /// The value of a ConfigMap or Secret: one key's document, or all keys as strings.
    fn object(&self, config: &DistributedConfig, kind: SourceKind, object: &ObjectRef) -> Result<Content, Problem> {
        let reference = SourceRef::new(kind, &config.namespace().unwrap_or_default(), &object.name);
        let secret = kind == SourceKind::Secret;
        let Some(keys) = self.sources.keys(&reference) else {
            return if object.optional { Ok(Content::Missing) } else { Err(missing(&reference)) };
        };
        let value = match &object.key {
            Some(key) => match keys.0.get(key) {
                Some(bytes) => parse::parse(bytes, Syntax::of(key))
                    .map_err(|e| invalid(format!("key {key:?} of {reference} {}", e.message(secret))))?,
                None if object.optional => return Ok(Content::Missing),
                None => return Err(missing_key(&reference, key)),
            },
            None => all_keys(&reference, keys)?,
        };
        Ok(Content::Value(value, secret))
    }

    fn refuse_circle(&self, reference: &SourceRef) -> Result<(), Vec<Problem>> {
        if let Some(start) = self.chain.iter().position(|link| link == reference) {
            let circle: Vec<_> = self.chain[start..].iter().chain([reference]).map(short).collect();
            let reason = format!("the configs refer to each other in a circle: {}", circle.join(" -> "));
            return Err(vec![Problem::new(ProblemKind::ReferenceCycle, reason)]);
        }
        Ok(())
    }

    /// The merged and validated value of another config.
    fn target(
        &mut self,
        consumer: &DistributedConfig,
        reference: &SourceRef,
        target: &DistributedConfig,
    ) -> Result<Rc<Merged>, Vec<Problem>> {
        if !graph::consents(target, consumer) {
            let namespace = consumer.namespace().unwrap_or_default();
            let reason =
                format!("{reference} does not share with namespace {namespace}: add it to its spec.sharedWith");
            return Err(vec![Problem::new(ProblemKind::ReferenceDenied, reason)]);
        }
        let hops = self.chain.len();
        let too_deep = |hops: usize| {
            let reason = format!("{hops} configs refer one to the next; at most {MAX_HOPS} may");
            vec![Problem::new(ProblemKind::ReferenceTooDeep, reason)]
        };
        if hops > MAX_HOPS {
            return Err(too_deep(hops));
        }
        if !self.done.contains_key(reference) {
            let result = self.config(target).and_then(|merged| {
                let problems = validate(target, &merged);
                if problems.is_empty() { Ok(Rc::new(merged)) } else { Err(problems) }
            });
            self.done.insert(reference.clone(), result);
        }
        match self.done.get(reference) {
            Some(Ok(merged)) if hops + merged.hops > MAX_HOPS => Err(too_deep(hops + merged.hops)),
            Some(result) => result.clone(),
            None => Err(vec![missing(reference)]),
        }
    }
}

enum Content {
    /// Optional, and not there.
    Missing,
    /// A document, and whether it is a Secret's.
    Value(Value, bool),
    /// Another config's value.
    Config(Rc<Merged>),
}

fn all_keys(reference: &SourceRef, keys: &Keys) -> Result<Value, Problem> {
    let text = |key: &String, bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => Ok((key.clone(), Value::from(text))),
        Err(_) => Err(invalid(format!(
            "key {key:?} of {reference} is not UTF-8 text; name the keys wanted, or copy the bytes with a file's {}",
            if reference.kind == SourceKind::Secret { "secretKeyRef" } else { "configMapKeyRef" }
        ))),
    };
    keys.0.iter().map(|(key, bytes)| text(key, bytes)).collect::<Result<_, _>>().map(Value::Object)
}

fn short(reference: &SourceRef) -> String {
    format!("{}/{}", reference.namespace, reference.name)
}

fn invalid(reason: impl AsRef<str>) -> Problem {
    Problem::new(ProblemKind::SourceInvalid, reason)
}

/// An object that is not there.
pub fn missing(reference: &SourceRef) -> Problem {
    let reason = format!("{reference} does not exist; create it, or set `optional: true`");
    Problem::new(ProblemKind::SourceMissing, reason)
}

/// A key that is not there.
pub fn missing_key(reference: &SourceRef, key: &str) -> Problem {
    let reason = format!("{reference} has no key {key:?}; add it, or set `optional: true`");
    Problem::new(ProblemKind::SourceMissing, reason)
}
