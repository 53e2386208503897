//! What resolving costs per key; it must not grow with the number of keys.
//!
//! `whole` is [`resolve`]: two layers of which the second overrides half, a schema on every member,
//! one rule, one JSON file. Its output at 100,000 keys would be beyond what a Secret holds, so
//! there the file takes a part: everything before rendering is done on all keys. `parse_yaml`,
//! `merge` and `render_yaml` are its parts alone, on all keys.
#![allow(missing_docs, clippy::unwrap_used, clippy::format_push_string)]

use std::{collections::BTreeMap, sync::Arc};

use divan::{Bencher, counter::ItemsCount};
use quorate_crds::{DistributedConfig, Format};
use quorate_resolve::{Keys, SourceKind, SourceRef, Sources, Syntax, merge, parse, render, resolve};
use serde_json::{Value, json};

const KEYS: [usize; 3] = [10, 1_000, 100_000];

fn main() {
    divan::main();
}

/// Members in groups of a hundred, as configuration has them: `{"g0000": {"k00": 0, …}, …}`.
fn document(keys: usize, step: usize) -> String {
    let mut text = String::new();
    for key in 0..keys {
        if key % 100 == 0 {
            text += &format!("g{:04}:\n", key / 100);
        }
        if key % step == 0 {
            text += &format!("  k{:02}: {key}\n", key % 100);
        }
    }
    text
}

fn world(keys: usize) -> (DistributedConfig, Sources) {
    let mut sources = Sources::default();
    for (name, step) in [("base", 1), ("over", 2)] {
        let reference = SourceRef { kind: SourceKind::ConfigMap, namespace: "shop".into(), name: name.into() };
        let keys = Keys(BTreeMap::from([("v.yaml".to_owned(), document(keys, step).into_bytes())]));
        sources.keys.insert(reference, Some(Arc::new(keys)));
    }
    let from = if keys > 10_000 { "/g0000" } else { "/" };
    let layers = ["base", "over"].map(|name| json!({"name": name, "configMapRef": {"name": name, "key": "v.yaml"}}));
    let config = json!({
        "apiVersion": "quorate.io/v1alpha1", "kind": "DistributedConfig",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {
            "layers": layers,
            "files": [{"path": "a.json", "from": from}],
            "validation": {
                "schema": {"additionalProperties": {"additionalProperties": {"type": "integer", "minimum": 0}}},
                "rules": [{"rule": "self.g0000.k00 == 0"}],
            },
        },
    });
    (serde_json::from_value(config).unwrap(), sources)
}

#[divan::bench(args = KEYS)]
fn whole(bencher: Bencher<'_, '_>, keys: usize) {
    let (config, sources) = world(keys);
    bencher.counter(ItemsCount::new(keys)).bench_local(|| resolve(&config, &sources).unwrap());
}

#[divan::bench(args = KEYS)]
fn parse_yaml(bencher: Bencher<'_, '_>, keys: usize) {
    let text = document(keys, 1);
    bencher.counter(ItemsCount::new(keys)).bench_local(|| parse(text.as_bytes(), Syntax::Yaml).unwrap());
}

/// Both layers parsed and merged with provenance.
#[divan::bench(args = KEYS)]
fn merge_layers(bencher: Bencher<'_, '_>, keys: usize) {
    let (config, sources) = world(keys);
    bencher.counter(ItemsCount::new(keys)).bench_local(|| merge(&config, &sources).unwrap());
}

#[divan::bench(args = KEYS)]
fn render_yaml(bencher: Bencher<'_, '_>, keys: usize) {
    let value: Value = parse(document(keys, 1).as_bytes(), Syntax::Yaml).unwrap();
    bencher.counter(ItemsCount::new(keys)).bench_local(|| render(&value, Format::Yaml).unwrap());
}
