//! A config and a snapshot, written as YAML.
#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::BTreeMap, sync::Arc};

use quorate_crds::DistributedConfig;
use quorate_resolve::{Bundle, Keys, Problem, ProblemKind, Problems, SourceKind, SourceRef, Sources, resolve};
use serde_json::{Value, json};

/// Config `name` in `namespace` with this spec in YAML; `files` defaults to all of it as JSON.
pub fn config_in(namespace: &str, name: &str, spec: &str) -> DistributedConfig {
    let mut spec: Value = serde_yaml::from_str(spec).unwrap();
    let fields = spec.as_object_mut().unwrap();
    fields.entry("files").or_insert(json!([{"path": "all.json"}]));
    fields.entry("layers").or_insert(json!([{"name": "base", "inline": {}}]));
    let metadata = json!({"name": name, "namespace": namespace});
    serde_json::from_value(json!({
        "apiVersion": "quorate.io/v1alpha1", "kind": "DistributedConfig", "metadata": metadata, "spec": spec
    }))
    .unwrap()
}

pub fn config(spec: &str) -> DistributedConfig {
    config_in("shop", "web", spec)
}

pub fn reference(kind: SourceKind, namespace: &str, name: &str) -> SourceRef {
    SourceRef { kind, namespace: namespace.into(), name: name.into() }
}

/// A snapshot; everything not put in is known to be missing.
#[derive(Default, Clone)]
pub struct World(pub Sources);

impl World {
    pub fn keys(mut self, kind: SourceKind, name: &str, keys: &[(&str, &[u8])]) -> Self {
        let keys: BTreeMap<_, _> = keys.iter().map(|(k, v)| ((*k).to_owned(), v.to_vec())).collect();
        self.0.keys.insert(reference(kind, "shop", name), Some(Arc::new(Keys(keys))));
        self
    }

    pub fn map(self, name: &str, keys: &[(&str, &[u8])]) -> Self {
        self.keys(SourceKind::ConfigMap, name, keys)
    }

    pub fn secret(self, name: &str, keys: &[(&str, &[u8])]) -> Self {
        self.keys(SourceKind::Secret, name, keys)
    }

    pub fn config(mut self, namespace: &str, name: &str, spec: &str) -> Self {
        let config = Arc::new(config_in(namespace, name, spec));
        self.0.configs.insert(reference(SourceKind::DistributedConfig, namespace, name), Some(config));
        self
    }

    pub fn resolve(&self, spec: &str) -> Result<Bundle, Problems> {
        resolve(&config(spec), &self.0)
    }

    /// The text of file `path`.
    pub fn file(&self, spec: &str, path: &str) -> String {
        let bundle = self.resolve(spec).unwrap_or_else(|problems| panic!("{problems}"));
        String::from_utf8(bundle.files[path].bytes.clone()).unwrap()
    }

    /// The merged value, by way of a JSON file.
    pub fn value(&self, spec: &str) -> Value {
        serde_json::from_str(&self.file(spec, "all.json")).unwrap()
    }

    pub fn problems(&self, spec: &str) -> Vec<Problem> {
        self.resolve(spec).expect_err("it should be refused").0
    }

    /// The only problem.
    pub fn problem(&self, spec: &str) -> Problem {
        let mut problems = self.problems(spec);
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems.remove(0)
    }

    /// Asserts the only problem's kind and that its text has all of `parts`.
    pub fn refuses(&self, spec: &str, kind: ProblemKind, parts: &[&str]) {
        let problem = self.problem(spec);
        let text = problem.to_string();
        assert_eq!(problem.kind, kind, "{text}");
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in: {text}");
        }
    }
}
