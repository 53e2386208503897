//! What resolving costs per key; it must not grow with the number of keys.
//!
//! `whole` is [`resolve`]: two layers of which the second overrides half, a schema on every member,
//! one rule, one JSON file. Its output at 100,000 keys would be beyond what a Secret holds, so
//! there the file takes a part: everything before rendering is done on all keys. `parse_yaml`,
//! `merge_layers` and `render_yaml` are its parts alone, on all keys.
//!
//! Then `whole` is measured once more for `target/bench/results.json`, where all benches keep their
//! rows, and for what a key costs among many beside what it costs among a thousand.
#![allow(missing_docs, clippy::unwrap_used, clippy::format_push_string)]

use std::{collections::BTreeMap, fs, path::Path, sync::Arc, time::Instant};

use divan::{Bencher, counter::ItemsCount};
use quorate_crds::{DistributedConfig, Format};
use quorate_resolve::{Keys, SourceKind, SourceRef, Sources, Syntax, merge, parse, render, resolve};
use serde_json::{Value, json};

const KEYS: [usize; 3] = [10, 1_000, 100_000];

fn main() {
    divan::main();
    let medians = KEYS.map(|keys| (keys, median_ms(keys)));
    let per_key = |(keys, ms): (usize, f64)| ms / f64::from(u32::try_from(keys).unwrap());
    let ratio = per_key(medians[2]) / per_key(medians[1]);
    for (keys, ms) in medians {
        println!("resolve, {keys:6} keys: {ms:9.3} ms, {:6.2} us a key", per_key((keys, ms)) * 1e3);
    }
    println!("a key among 100000 costs {ratio:.2} times what one among 1000 does (1 is linear)");
    store(medians);
    // Linear but for caches; quadratic would be 100.
    assert!(ratio < 4.0, "the cost does not grow linearly");
}

fn median_ms(keys: usize) -> f64 {
    let (config, sources) = world(keys);
    let runs = (200_000 / keys).clamp(7, 501);
    let mut milliseconds: Vec<f64> = (0..runs)
        .map(|_| {
            let start = Instant::now();
            divan::black_box(resolve(&config, &sources).unwrap());
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    milliseconds.sort_by(f64::total_cmp);
    milliseconds[runs / 2]
}

/// Puts rows in the place of those measured before.
fn store(medians: [(usize, f64); 3]) {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bench/results.json"));
    let mut rows: Vec<Value> =
        fs::read(path).map_or_else(|_| Vec::new(), |text| serde_json::from_slice(&text).unwrap());
    rows.retain(|row| row["bench"] != "resolve");
    rows.extend(medians.map(|(keys, ms)| {
        json!({"bench": "resolve", "name": format!("{keys} keys"), "unit": "ms", "value": (ms * 1e4).round() / 1e4})
    }));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, serde_json::to_string_pretty(&rows).unwrap() + "\n").unwrap();
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
