//! Every kind of bad input is refused with a message that names layer, pointer and reason.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::format_push_string, clippy::format_collect)]

mod common;

use std::collections::BTreeSet;

use common::{World, config, reference};
use quorate_resolve::{ProblemKind::*, SourceKind, Sources, references, required, resolve};

/// A layer from key `key` of ConfigMap `m`.
fn keyed(key: &str) -> String {
    format!("layers: [{{name: region, configMapRef: {{name: m, key: {key}}}}}]")
}

fn document(key: &str, text: &str) -> World {
    World::default().map("m", &[(key, text.as_bytes())])
}

#[test]
fn what_is_missing_is_named_all_of_it() {
    let world = World::default().map("there", &[("a", b"1")]);
    let problems = world.problems(
        "{layers: [{name: a, configMapRef: {name: x}}, {name: b, secretRef: {name: y}}, \
         {name: c, configRef: {name: z}}, {name: d, configMapRef: {name: there, key: k}}], \
         files: [{path: f, secretKeyRef: {name: y, key: k}}, {path: g, configMapKeyRef: {name: there, key: k}}]}",
    );
    let told: Vec<_> = problems.iter().map(ToString::to_string).collect();
    assert!(problems.iter().all(|p| p.kind == SourceMissing), "{told:?}");
    for (text, expected) in told.iter().zip([
        "layer a: ConfigMap shop/x does not exist",
        "layer b: Secret shop/y does not exist",
        "layer c: DistributedConfig shop/z does not exist",
        "layer d: ConfigMap shop/there has no key \"k\"",
        "file f: Secret shop/y does not exist",
        "file g: ConfigMap shop/there has no key \"k\"",
    ]) {
        assert!(text.starts_with(expected), "{text}");
    }
    assert_eq!(told.len(), 6);
}

#[test]
fn what_is_optional_may_be_missing() {
    let world = World::default().map("there", &[("a", b"1")]);
    let bundle = world
        .resolve(
            "{layers: [{name: a, configMapRef: {name: x, optional: true}}, {name: d, at: /d, configMapRef: \
             {name: there, key: k, optional: true}}, {name: c, configRef: {name: z, optional: true}}], files: [{path: \
             all.json}, {path: f, secretKeyRef: {name: y, key: k, optional: true}}]}",
        )
        .unwrap();
    assert_eq!(bundle.files.keys().collect::<Vec<_>>(), ["all.json"]);
    assert_eq!(bundle.files["all.json"].bytes, b"{}\n");
}

#[test]
fn documents_that_cannot_be_used() {
    let deep = |open: &str, close: &str| format!("a: {}{}", open.repeat(70), close.repeat(70));
    let table = [
        ("v.yaml", "a: [1".to_owned(), "YAML at line"),
        ("v.yaml", "a: 1\na: 2".into(), "key \"a\" is there twice"),
        ("v.yaml", "a: {b: {c: 1, c: 2}}".into(), "key \"c\" is there twice"),
        ("v.yaml", "a: [{c: 1, c: 2}]".into(), "key \"c\" is there twice"),
        ("v.yaml", "1: a\n\"1\": b".into(), "key \"1\" is there twice"),
        ("v.yaml", "a: 1\n---\nb: 2".into(), "several documents"),
        ("v.yaml", "a: !thing 1".into(), "tags"),
        ("v.yaml", "a: .nan".into(), "not finite"),
        ("v.yaml", "a: -.inf".into(), "beyond 64 bits"),
        ("v.yaml", "a: 18446744073709551616".into(), "beyond 64 bits"),
        ("v.yaml", "a: 340282366920938463463374607431768211456".into(), "beyond 64 bits"),
        ("v.yaml", "a: -9223372036854775809".into(), "beyond 64 bits"),
        ("v.yaml", "{x: &x {b: 1}, a: {<<: *x}}".into(), "merge key"),
        ("v.yaml", "? [a]\n: 1".into(), "a key that is a string"),
        ("v.yaml", deep("[", "]"), "nested deeper than 64"),
        ("v.yaml", "[1, 2]".into(), "not an object; place it below one with `at`"),
        ("v.json", "{\"a\": 1,}".into(), "JSON at line 1 column"),
        ("v.json", "{\"a\": 1, \"a\": 2}".into(), "key \"a\" is there twice"),
        ("v.json", "{\"a\": {\"b\": 1, \"b\": 2}}".into(), "key \"b\" is there twice"),
        ("v.json", "{} {}".into(), "trailing"),
        ("v.json", "{\"a\": 18446744073709551616}".into(), "beyond 64 bits"),
        ("v.json", "{\"a\": -9223372036854775809}".into(), "beyond 64 bits"),
        ("v.json", format!("{{\"a\": {}{}}}", "[".repeat(70), "]".repeat(70)), "nested deeper than 64"),
        ("v.json", "{\"<<\": {\"a\": 1}}".into(), "merge key"),
        ("v.toml", "\"<<\" = 1".into(), "merge key"),
        ("v.toml", "a = ".into(), "TOML at line 1 column"),
        ("v.toml", "a = 1\na = 2".into(), "duplicate key"),
        ("v.toml", "a = inf".into(), "beyond 64 bits"),
        ("v.toml", "a = 18446744073709551616".into(), "TOML"),
        ("v.toml", deep("[", "]").replace(": ", " = "), "TOML"),
        ("v.properties", format!("{}a=1", "a.".repeat(70)), "more than 64 parts"),
        ("v.properties", "a=1\na=2".into(), "line 2 column 1: key \"a\" is there twice"),
        ("v.properties", "a=1\na.b=2".into(), "key \"a.b\" is below a key that has a value"),
        ("v.properties", "a=\\u12".into(), "four hexadecimal digits"),
        ("v.env", "A=1\nA=2".into(), "line 2 column 1: key \"A\" is there twice"),
        ("v.env", "A".into(), "no \"=\""),
        ("v.env", "A-B=1".into(), "key \"A-B\""),
        ("v.env", "A=\"x".into(), "not closed"),
    ];
    for (key, text, expected) in table {
        let problem = document(key, &text).problem(&keyed(key));
        let told = problem.to_string();
        assert_eq!(problem.kind, SourceInvalid, "{told}");
        assert!(told.starts_with("layer region") && told.contains(expected), "{expected:?} is not in: {told}");
    }
}

#[test]
fn text_that_is_not_utf8() {
    let world = World::default().map("m", &[("v.yaml", b"a: \xff"), ("ok", b"x")]);
    world.refuses(&keyed("v.yaml"), SourceInvalid, &["layer region", "\"v.yaml\" of ConfigMap shop/m", "not UTF-8"]);
    world.refuses(
        "layers: [{name: all, configMapRef: {name: m}}]",
        SourceInvalid,
        &["layer all", "\"v.yaml\"", "not UTF-8"],
    );
    // Bytes as they are go through.
    let bundle = world.resolve("files: [{path: k.bin, configMapKeyRef: {name: m, key: v.yaml}}]").unwrap();
    assert_eq!(bundle.files["k.bin"].bytes, b"a: \xff");
}

#[test]
fn alias_bombs_are_cheap_to_refuse() {
    let mut laughs = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for level in 1..12 {
        let alias = format!("*a{}", level - 1);
        laughs += &format!("a{level}: &a{level} [{}]\n", [alias.as_str(); 9].join(", "));
    }
    let problem = document("v.yaml", &laughs).problem(&keyed("v.yaml"));
    assert_eq!(problem.kind, SourceInvalid);
    assert!(problem.reason.contains("too large") || problem.reason.contains("repetition limit"), "{problem}");
    // One long text, many times.
    let long = format!("a: &a \"{}\"\nb: [{}]", "x".repeat(100_000), vec!["*a"; 1000].join(", "));
    document("v.yaml", &long).refuses(&keyed("v.yaml"), SourceInvalid, &["too large"]);
    // An alias as such is fine.
    assert_eq!(document("v.yaml", "a: &a [1]\nb: *a").value(&keyed("v.yaml")), serde_json::json!({"a": [1], "b": [1]}));
}

#[test]
fn nesting_counts_where_a_layer_is_placed() {
    let at = "/x".repeat(60);
    let spec = |depth: usize| {
        let inline = format!("{}1{}", "{a: ".repeat(depth), "}".repeat(depth));
        format!("layers: [{{name: l, at: {at}, inline: {inline}}}]")
    };
    World::default().refuses(&spec(5), SourceInvalid, &["layer l", "/x/x", "nested deeper"]);
    World::default().resolve(&spec(4)).unwrap();
    World::default().refuses(
        &format!("layers: [{{name: l, at: {}, inline: {{a: 1}}}}]", "/x".repeat(500)),
        SourceInvalid,
        &["layer l", "nested deeper"],
    );
    World::default().refuses(
        "layers: [{name: l, at: x, inline: {}}]",
        SourceInvalid,
        &["layer l", "not a JSON pointer"],
    );
}

#[test]
fn paths_that_must_not_be() {
    let long = "é".repeat(128);
    let longer = vec!["d"; 600].join("/");
    let table = [
        ("/etc/passwd", "absolute"),
        ("../x", "leaves"),
        ("a/../../x", "leaves"),
        ("..data", "reserved"),
        ("..x/y", "reserved"),
        ("a//b", "empty"),
        ("a/./b", "empty"),
        ("a/", "empty"),
        ("", "empty"),
        ("a\\b", "backslash"),
        ("a\u{7}b", "control"),
        (&long, "256 bytes"),
        (&longer, "1199 bytes"),
    ];
    for (path, expected) in table {
        let spec = format!("files: [{{path: {}, format: Json}}]", serde_json::to_string(path).unwrap());
        World::default().refuses(&spec, PathInvalid, &[expected]);
    }
    World::default().refuses(
        "files: [{path: a, format: Json}, {path: a, format: Json}]",
        PathInvalid,
        &["file a", "two files"],
    );
    World::default().refuses(
        "files: [{path: a/b, format: Json}, {path: a, format: Json}]",
        PathInvalid,
        &["file a/b", "\"a\" would be both a file and a directory"],
    );
    for fine in ["a..b", "a/..b", ".hidden", "a/b/c", "ä ö"] {
        World::default().resolve(&format!("files: [{{path: {fine:?}, format: Json}}]")).unwrap();
    }
    let both = World::default().problems("files: [{path: /a, format: Json}, {path: ../b, format: Json}]");
    assert_eq!(both.len(), 2);
}

#[test]
fn the_largest_files_are_named_when_it_is_too_much() {
    let big = "x".repeat(600_000);
    let world = World::default().map("m", &[("a", big.as_bytes()), ("b", big.as_bytes()), ("c", b"1")]);
    let spec = "files: [{path: a.bin, configMapKeyRef: {name: m, key: a}}, {path: b.bin, configMapKeyRef: {name: m, \
                key: b}}, {path: c.bin, configMapKeyRef: {name: m, key: c}}]";
    world.refuses(spec, TooLarge, &["1048576", "120", "a.bin (600000), b.bin (600000), c.bin (1)"]);
}

#[test]
fn provenance_never_keeps_from_publishing() {
    let keys: String = (0..12_000).map(|i| format!("k{i:05}: {i}\n")).collect();
    let bundle = document("v.yaml", &keys).resolve(&keyed("v.yaml")).unwrap();
    assert!(!bundle.provenance.is_empty());
    let keys: String = (0..40_000).map(|i| format!("k{i:05}: {i}\n")).collect();
    let bundle = document("v.yaml", &keys).resolve(&keyed("v.yaml")).unwrap();
    assert!(bundle.provenance.is_empty() && bundle.size() < 1 << 20);
}

const SHARED: &str =
    "{sharedWith: [shop], layers: [{name: base, inline: {a: 1}}, {name: creds, secretRef: {name: s}}]}";

#[test]
fn another_namespace_must_consent_at_every_hop() {
    let spec = "layers: [{name: platform, configRef: {name: defaults, namespace: infra}}]";
    let denied = World::default().config("infra", "defaults", "layers: [{name: base, inline: {a: 1}}]");
    denied.refuses(spec, ReferenceDenied, &["layer platform", "infra/defaults", "namespace shop", "spec.sharedWith"]);
    let shared =
        World::default().config("infra", "defaults", "{sharedWith: ['*'], layers: [{name: b, inline: {a: 1}}]}");
    assert_eq!(shared.value(spec), serde_json::json!({"a": 1}));
    // The second hop is between the target and its own target: shop's name there is of no use.
    let hop = "{sharedWith: [shop], layers: [{name: up, configRef: {name: top, namespace: root}}]}";
    let top = "{sharedWith: [shop], layers: [{name: base, inline: {a: 1}}]}";
    let world = World::default().config("infra", "defaults", hop).config("root", "top", top);
    world.refuses(spec, ReferenceDenied, &["layer platform/up", "root/top", "namespace infra"]);
    // Nothing behind a config that does not consent is asked for.
    let asked = references(&config(spec), &denied.0);
    assert_eq!(asked, BTreeSet::from([reference(SourceKind::DistributedConfig, "infra", "defaults")]));
    let denied = World::default().config("infra", "defaults", "layers: [{name: base, secretRef: {name: s}}]");
    assert_eq!(references(&config(spec), &denied.0).len(), 1);
    let shared = World::default().config("infra", "defaults", SHARED);
    assert!(references(&config(spec), &shared.0).contains(&reference(SourceKind::Secret, "infra", "s")));
}

#[test]
fn circles_and_long_chains_are_refused() {
    let to = |name: &str| format!("layers: [{{name: up, configRef: {{name: {name}}}}}]");
    let circle = World::default().config("shop", "a", &to("b")).config("shop", "b", &to("web"));
    circle.refuses(&to("a"), ReferenceCycle, &["layer up/up/up", "shop/web -> shop/a -> shop/b -> shop/web"]);
    World::default().refuses(&to("web"), ReferenceCycle, &["shop/web -> shop/web"]);
    let chain = |hops: usize| {
        (1..=hops).fold(World::default(), |world, hop| {
            let spec =
                if hop == hops { "layers: [{name: end, inline: {a: 1}}]".into() } else { to(&format!("c{}", hop + 1)) };
            world.config("shop", &format!("c{hop}"), &spec)
        })
    };
    assert_eq!(chain(8).value(&to("c1")), serde_json::json!({"a": 1}));
    assert_eq!(chain(9).problem(&to("c1")).kind, ReferenceTooDeep);
    // Reached by a short way and, merged already, by one that is too long.
    let both = chain(8).config("shop", "d", &to("c1"));
    let spec = "layers: [{name: x, configRef: {name: c1}}, {name: y, configRef: {name: d}}]";
    assert_eq!(both.problem(spec).kind, ReferenceTooDeep);
}

#[test]
fn diamonds_do_not_explode() {
    let twice = |name: &str| {
        format!(
            "layers: [{{name: l, at: /l, configRef: {{name: {name}}}}}, {{name: r, at: /r, configRef: {{name: {name}}}}}]"
        )
    };
    let layers: Vec<_> = (0..30).map(|i| format!("{{name: l{i}, at: /l{i}, configRef: {{name: b}}}}")).collect();
    let layers = format!("layers: [{}]", layers.join(", "));
    let wide = World::default()
        .config("shop", "a", &layers)
        .config("shop", "b", &layers.replace("name: b}", "name: c}"))
        .config("shop", "c", "layers: [{name: base, inline: {a: 1}}]");
    assert!(wide.problems(&layers.replace("name: b}", "name: a}")).iter().all(|p| p.kind == SourceInvalid));
    let world = World::default().config("shop", "a", &twice("b")).config("shop", "b", &twice("c")).config(
        "shop",
        "c",
        "layers: [{name: base, inline: {a: 1}}]",
    );
    assert_eq!(world.value(&twice("a"))["l"]["r"]["l"]["a"], 1);
}

#[test]
fn too_many_configs_are_refused_and_not_all_asked_for() {
    let layers = |from: usize, to: usize| {
        let layers: Vec<_> = (from..to).map(|i| format!("{{name: l{i}, configRef: {{name: c{i}}}}}")).collect();
        format!("layers: [{}]", layers.join(", "))
    };
    let spec = layers(0, 100);
    assert_eq!(required(&config(&spec), &Sources::default()).len(), 65);
    World::default().refuses(&spec, ReferenceTooDeep, &["more than 64 configs"]);
}

#[test]
fn what_is_required_shrinks_to_nothing() {
    let spec =
        "layers: [{name: platform, configRef: {name: defaults, namespace: infra}}, {name: m, configMapRef: {name: m}}]";
    let root = config(spec);
    let mut sources = Sources::default();
    let first = required(&root, &sources);
    assert_eq!(
        first.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["DistributedConfig infra/defaults", "ConfigMap shop/m"]
    );
    sources.configs = World::default().config("infra", "defaults", SHARED).0.configs;
    sources.keys.insert(reference(SourceKind::ConfigMap, "shop", "m"), None);
    let second = required(&root, &sources);
    assert_eq!(second.iter().map(ToString::to_string).collect::<Vec<_>>(), ["Secret infra/s"]);
    sources.keys.insert(reference(SourceKind::Secret, "infra", "s"), None);
    assert!(required(&root, &sources).is_empty());
    let problems = resolve(&root, &sources).unwrap_err();
    assert_eq!(problems.0.len(), 2, "{problems}");
    assert_eq!(problems.0[0].layer.as_deref(), Some("platform/creds"));
}

#[test]
fn a_referenced_config_is_validated() {
    let target =
        "{layers: [{name: base, inline: {a: 1}}], validation: {rules: [{rule: self.a > 1, message: a is small}]}}";
    let world = World::default().config("shop", "defaults", target);
    let spec = "layers: [{name: platform, configRef: {name: defaults}}, {name: fix, inline: {a: 2}}]";
    world.refuses(spec, ValidationFailed, &["layer platform", "a is small"]);
}

#[test]
fn formats_say_what_they_cannot_write() {
    let table = [
        ("a.toml", "{a: [null]}", "/a/0 is null"),
        ("a.toml", "{a: 18446744073709551615}", "/a is larger"),
        ("a.properties", "{a: [null]}", "\"a[0]\" is null"),
        ("a.properties", "{a.b: 1, a: {b: 2}}", "two values would have the key \"a.b\""),
        ("a.env", "{a-b: 1}", "\"A-B\" is not a variable's name"),
        ("a.env", "{ab: 1, AB: 2}", "two values would have the key \"AB\""),
        ("a.env", "{a_b: 1, a: {b: 2}}", "two values would have the key \"A_B\""),
        ("a.env", "{1a: 1}", "\"1A\" is not a variable's name"),
        ("a.conf", "{a: 1}", "text needs a string, but the value is an object"),
    ];
    for (path, inline, expected) in table {
        let spec = format!("{{layers: [{{name: l, inline: {inline}}}], files: [{{path: {path}}}]}}");
        World::default().refuses(&spec, FormatFailed, &[&format!("file {path}"), expected]);
    }
    World::default().refuses("files: [{path: a.json, from: /x/y}]", FormatFailed, &["file a.json, /x/y", "nothing at"]);
    World::default().refuses("files: [{path: a.json, mode: 512}]", FormatFailed, &["file a.json", "mode 512"]);
}

#[test]
fn many_problems_are_counted() {
    let files: Vec<_> = (0..100).map(|i| format!("{{path: ../{i}, format: Json}}")).collect();
    let problems = World::default().problems(&format!("files: [{}]", files.join(", ")));
    assert_eq!(problems.len(), 33);
    assert_eq!((problems[32].kind, problems[32].reason.as_str()), (Omitted, "and 68 more"));
}

#[test]
fn all_layers_together_are_bounded() {
    let text = "x".repeat(1_000_000);
    let layers = |count: usize| {
        let layers: Vec<_> =
            (0..count).map(|i| format!("{{name: l{i}, at: /l{i}, configMapRef: {{name: m}}}}")).collect();
        format!("{{layers: [{}], files: [{{path: a, template: x}}]}}", layers.join(", "))
    };
    let world = World::default().map("m", &[("k", text.as_bytes())]);
    world.resolve(&layers(30)).unwrap();
    assert!(world.problems(&layers(40)).iter().all(|p| p.kind == SourceInvalid && p.reason.contains("too large")));
}
