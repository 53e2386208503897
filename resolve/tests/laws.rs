//! What holds for every value: merging is RFC 7396, provenance explains, output parses back.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use std::{collections::BTreeMap, sync::Arc};

use common::{World, config, reference};
use proptest::{prelude::*, sample::select};
use quorate_crds::Format;
use quorate_resolve::{Keys, Provenance, SourceKind, Sources, Syntax, Tree, parse, render, resolve};
use serde_json::{Map, Value, json};

/// RFC 7396, section 2, word for word.
fn merge_patch(target: Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else { return patch.clone() };
    let mut target = if let Value::Object(target) = target { target } else { Map::new() };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            let old = target.remove(name).unwrap_or(Value::Null);
            target.insert(name.clone(), merge_patch(old, value));
        }
    }
    Value::Object(target)
}

/// The same by a tree. A target's own nulls are values, so they are put in as they are.
fn merged(target: &Value, patch: &Value) -> Value {
    fn document(value: &Value) -> Tree {
        match value {
            Value::Object(map) => Tree::Object {
                members: map.iter().map(|(key, member)| (key.clone(), document(member))).collect(),
                layers: vec![0],
            },
            value => Tree::Leaf { value: value.clone(), secret: false, layers: vec![0] },
        }
    }
    let mut tree = document(target);
    tree.merge(Tree::patch(patch.clone(), 1, false));
    tree.value().unwrap_or(Value::Null)
}

#[test]
fn rfc_7396_appendix_a() {
    for (original, patch, result) in [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
        (json!({"a": "b"}), json!({"a": null}), json!({})),
        (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
        (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
        (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
        (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
        (json!({"a": "b"}), json!(["c"]), json!(["c"])),
        (json!({"a": "foo"}), json!(null), json!(null)),
        (json!({"a": "foo"}), json!("bar"), json!("bar")),
        (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
        (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
        (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
    ] {
        assert_eq!(merged(&original, &patch), result, "{original} + {patch}");
        assert_eq!(merge_patch(original, &patch), result);
    }
}

#[test]
fn merging_is_not_associative_everywhere() {
    // Composing two patches loses what the second deletes (1), and that the first cut an object
    // off before the second made a new one (2, 3). The law below leaves out exactly these.
    for (a, b, c) in [
        (json!({"x": 1}), json!({}), json!({"x": null})),
        (json!({"x": {"z": 3}}), json!({"x": 1}), json!({"x": {"y": 2}})),
        (json!({"x": {"z": 3}}), json!({"x": null}), json!({"x": {"y": 2}})),
    ] {
        assert_ne!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)), "{a} {b} {c}");
    }
}

const TEXTS: [&str; 26] = [
    "",
    " ",
    "no",
    "true",
    "null",
    "~",
    "1",
    "1e3",
    "0x1F",
    "0o7",
    "1_000",
    ".5",
    "-",
    "- a",
    "a: b",
    "#c",
    "x #y",
    "'",
    "\"",
    "a\nb",
    "\ttab ",
    "\\",
    "${x}`y`",
    "é😀",
    "2026-01-02",
    "a\r\n\u{7f}\u{85}\u{2028}",
];

fn text() -> impl Strategy<Value = String> {
    prop_oneof![select(&TEXTS[..]).prop_map(str::to_owned), "\\PC{0,12}"]
}

/// No document may have YAML 1.1's merge key, in whatever syntax (`tests/bad_input.rs`).
fn key() -> impl Strategy<Value = String> {
    text().prop_filter("merge key", |key| key != "<<")
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1e18..1e18).prop_map(Value::from),
        proptest::num::f64::NORMAL.prop_filter("within 64 bits", |f| f.abs() < 9e18).prop_map(Value::from),
        text().prop_map(Value::from),
    ]
}

fn value_of(leaf: BoxedStrategy<Value>, key: BoxedStrategy<String>) -> impl Strategy<Value = Value> {
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn object_of(leaf: BoxedStrategy<Value>, key: BoxedStrategy<String>) -> impl Strategy<Value = Value> {
    prop::collection::btree_map(key.clone(), value_of(leaf, key), 0..5)
        .prop_map(|map| Value::Object(map.into_iter().collect()))
}

/// Few keys, so that documents overlap; nulls with some luck.
fn patch(nulls: u32) -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![3 => (0..5).prop_map(Value::from), nulls => Just(Value::Null)];
    object_of(leaf.boxed(), select(&["a", "b", "c"][..]).prop_map(str::to_owned).boxed())
}

/// Makes `over` an object only where `under` is one too, or is nothing.
fn reshaped(over: &mut Value, under: &Value) {
    if let (Value::Object(over), Value::Object(under)) = (over, under) {
        for (key, member) in over {
            match under.get(key) {
                Some(below) if member.is_object() && !below.is_object() => *member = json!(7),
                Some(below) => reshaped(member, below),
                None => {}
            }
        }
    }
}

fn exact() -> impl Strategy<Value = Value> {
    object_of(prop_oneof![4 => scalar(), 1 => Just(Value::Null)].boxed(), key().boxed())
}

/// Leaves by joined key, as properties and env write them.
fn flattened(value: &Value, key: &str, env: bool, leaves: &mut BTreeMap<String, String>) {
    let joined = |name: &str| match (env, key.is_empty()) {
        (true, true) => name.to_uppercase(),
        (true, false) => format!("{key}_{}", name.to_uppercase()),
        (false, true) => name.to_owned(),
        (false, false) => format!("{key}.{name}"),
    };
    match value {
        Value::Object(map) => map.iter().for_each(|(name, member)| flattened(member, &joined(name), env, leaves)),
        Value::Array(items) => items.iter().enumerate().for_each(|(index, item)| {
            let key = if env { format!("{key}_{index}") } else { format!("{key}[{index}]") };
            flattened(item, &key, env, leaves);
        }),
        Value::String(text) => drop(leaves.insert(key.to_owned(), text.clone())),
        other => drop(leaves.insert(key.to_owned(), other.to_string())),
    }
}

fn back(value: &Value, format: Format, syntax: Syntax) -> Value {
    let bytes = render(value, format).unwrap();
    parse(&bytes, syntax).unwrap_or_else(|error| panic!("{error:?} in {}", String::from_utf8_lossy(&bytes)))
}

/// JSON text with every object's members in reverse order.
fn reversed(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let members: Vec<_> =
                map.iter().rev().map(|(key, member)| format!("{}:{}", json!(key), reversed(member))).collect();
            format!("{{{}}}", members.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(reversed).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}

/// The pointers of a value's leaves: scalars, arrays, empty objects.
fn leaves(value: &Value, at: &str, found: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            map.iter().for_each(|(k, member)| leaves(member, &format!("{at}/{k}"), found));
        }
        other => drop(found.insert(at.to_owned(), other.clone())),
    }
}

fn layered(documents: &[String]) -> (quorate_crds::DistributedConfig, Sources) {
    let mut sources = Sources::default();
    let mut layers = Vec::new();
    for (index, text) in documents.iter().enumerate() {
        let keys = Keys(BTreeMap::from([("v.json".to_owned(), text.clone().into_bytes())]));
        sources.keys.insert(reference(SourceKind::ConfigMap, "shop", &format!("m{index}")), Some(Arc::new(keys)));
        layers
            .push(json!({"name": format!("l{index}"), "configMapRef": {"name": format!("m{index}"), "key": "v.json"}}));
    }
    (config(&json!({"layers": layers, "files": [{"path": "all.json"}, {"path": "all.yaml"}]}).to_string()), sources)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_tree_merges_as_the_rfc_does(target in patch(1), patch in patch(2)) {
        prop_assert_eq!(merged(&target, &patch), merge_patch(target, &patch));
    }

    /// Associative where the last patch deletes nothing and makes an object only where the one
    /// before has one or nothing.
    #[test]
    fn merging_is_associative_where_the_rfc_is(a in patch(1), b in patch(1), mut c in patch(0)) {
        reshaped(&mut c, &b);
        prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
    }

    #[test]
    fn resolving_does_not_depend_on_order(documents in prop::collection::vec(patch(1), 1..4)) {
        let texts: Vec<_> = documents.iter().map(Value::to_string).collect();
        let (root, sources) = layered(&texts);
        let bundle = resolve(&root, &sources).unwrap();
        prop_assert_eq!(&resolve(&root, &sources).unwrap(), &bundle);
        let (mut root, sources) = layered(&documents.iter().map(reversed).collect::<Vec<_>>());
        root.spec.files.reverse();
        let other = resolve(&root, &sources).unwrap();
        prop_assert_eq!(other.hash(), bundle.hash());
        prop_assert_eq!(other, bundle);
    }

    #[test]
    fn provenance_explains_every_leaf(documents in prop::collection::vec(patch(1), 1..5)) {
        let (root, sources) = layered(&documents.iter().map(Value::to_string).collect::<Vec<_>>());
        let bundle = resolve(&root, &sources).unwrap();
        let provenance: Provenance = serde_json::from_slice(&bundle.provenance).unwrap();
        let value: Value = serde_json::from_slice(&bundle.files["all.json"].bytes).unwrap();
        let mut expected = BTreeMap::new();
        leaves(&value, "", &mut expected);
        prop_assert_eq!(provenance.leaves.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (pointer, layers) in &provenance.leaves {
            let Some(winner) = layers.first() else { prop_assert!(pointer.is_empty()); continue };
            let given = documents[usize::from(*winner)].pointer(pointer);
            // An object is empty when what it held was deleted: by then it need not be so itself.
            let leaf = &expected[pointer];
            prop_assert!(given == Some(leaf) || (leaf.is_object() && given.is_some_and(Value::is_object)), "{}", pointer);
            prop_assert!(layers.is_sorted_by(|newer, older| newer > older));
            let mut newer = documents.iter().skip(usize::from(*winner) + 1);
            prop_assert!(newer.all(|document| document.pointer(pointer).is_none() || leaf.is_object()), "{}", pointer);
        }
        for (pointer, layers) in &provenance.deleted {
            prop_assert!(value.pointer(pointer).is_none());
            prop_assert_eq!(documents[usize::from(layers[0])].pointer(pointer), Some(&Value::Null));
        }
    }

    #[test]
    fn yaml_json_and_toml_parse_back(value in exact()) {
        prop_assert_eq!(&back(&value, Format::Yaml, Syntax::Yaml), &value);
        prop_assert_eq!(&back(&value, Format::Json, Syntax::Json), &value);
        if render(&value, Format::Toml).is_ok() {
            prop_assert_eq!(&back(&value, Format::Toml, Syntax::Toml), &value);
        }
    }

    #[test]
    fn toml_parses_back(value in object_of(
        scalar().prop_filter("63 bits", |v| !v.is_u64() || v.is_i64()).boxed(), key().boxed(),
    )) {
        prop_assert_eq!(&back(&value, Format::Toml, Syntax::Toml), &value);
    }

    #[test]
    fn properties_and_env_parse_back_to_their_leaves(value in object_of(
        scalar().prop_filter("no NUL", |v| !v.as_str().is_some_and(|s| s.contains('\0'))).boxed(),
        "[a-z_][a-z0-9_=: #!é]{0,5}".boxed(),
    )) {
        let check = |format, syntax, env| {
            if render(&value, format).is_err() {
                return false;
            }
            let (mut written, mut read) = (BTreeMap::new(), BTreeMap::new());
            flattened(&value, "", env, &mut written);
            flattened(&back(&value, format, syntax), "", env, &mut read);
            assert_eq!(read, written);
            true
        };
        prop_assert!(check(Format::Properties, Syntax::Properties, false));
        check(Format::Env, Syntax::Env, true);
    }

    #[test]
    fn env_parses_back(value in object_of(
        scalar().prop_filter("no NUL", |v| !v.as_str().is_some_and(|s| s.contains('\0'))).boxed(), "[a-z]{3}".boxed(),
    )) {
        let (mut written, mut read) = (BTreeMap::new(), BTreeMap::new());
        flattened(&value, "", true, &mut written);
        flattened(&back(&value, Format::Env, Syntax::Env), "", true, &mut read);
        prop_assert_eq!(read, written);
    }

    #[test]
    fn any_bytes_are_parsed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64), text in "[\\[\\]{}:,&*!|>\"'#\\-\\\\\n a=.~]{0,40}") {
        for syntax in [Syntax::Yaml, Syntax::Json, Syntax::Toml, Syntax::Properties, Syntax::Env] {
            let _ = parse(&bytes, syntax);
            let _ = parse(text.as_bytes(), syntax);
        }
    }
}

#[test]
fn an_empty_world_is_an_empty_object() {
    assert_eq!(World::default().value("{}"), json!({}));
}
