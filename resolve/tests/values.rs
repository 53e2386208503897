//! What good input becomes.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::format_collect)]

mod common;

use common::World;
use k8s_openapi::api::core::v1::Secret;
use quorate_resolve::Keys;
use serde_json::json;

const KEYED: &str = "layers: [{name: l, configMapRef: {name: m, key: KEY}}]";

fn parsed(key: &str, text: &str) -> serde_json::Value {
    World::default().map("m", &[(key, text.as_bytes())]).value(&KEYED.replace("KEY", key))
}

#[test]
fn documents_by_extension() {
    assert_eq!(
        parsed("v.yaml", "a: no\nb: 0x1F\nc: ~\nd: 1.0\ne: off\n2: two\ntrue: x\n"),
        json!({"a": "no", "b": 31, "d": 1.0, "e": "off", "2": "two", "true": "x"}),
    );
    assert_eq!(parsed("v", "{\"a\": [1, null, {\"b\": null}]}"), json!({"a": [1, null, {"b": null}]}));
    assert_eq!(parsed("v.json", "{\"a\": 18446744073709551615, \"b\": 0.1}"), json!({"a": u64::MAX, "b": 0.1}));
    assert_eq!(
        parsed("v.toml", "d = 2026-01-02T03:04:05Z\n[s]\nx = [1]\n"),
        json!({"d": "2026-01-02T03:04:05Z", "s": {"x": [1]}})
    );
    assert_eq!(
        parsed("v.properties", "# c\n! c\na.b = 1\na.c:two\\\n   more\nd\\ e x\\u0041\\n\n"),
        json!({"a": {"b": "1", "c": "twomore"}, "d e": "xA\n"}),
    );
    assert_eq!(
        parsed("v.env", "# c\nexport A=1 # c\nB='x $y'\nC=\"a\\nb\nc \\$d\" # c\nD=\nE=a#b\n"),
        json!({"A": "1", "B": "x $y", "C": "a\nb\nc $d", "D": "", "E": "a#b"}),
    );
    for empty in ["v.yaml", "v.json", "v.toml", "v.properties", "v.env"] {
        assert_eq!(parsed(empty, ""), json!({}), "{empty}");
    }
}

#[test]
fn keys_become_an_object_of_strings_where_the_layer_is_placed() {
    let world = World::default().map("m", &[("port", b"80"), ("x.yaml", b"a: 1")]);
    assert_eq!(
        world.value("layers: [{name: l, at: /a~1b/c, configMapRef: {name: m}}]"),
        json!({"a/b": {"c": {"port": "80", "x.yaml": "a: 1"}}}),
    );
    let list = World::default().map("m", &[("l.yaml", b"[1, 2]")]);
    assert_eq!(list.value("layers: [{name: l, at: /l, configMapRef: {name: m, key: l.yaml}}]"), json!({"l": [1, 2]}));
}

#[test]
fn secret_marks_follow_the_value_to_the_file() {
    let world = World::default().secret("s", &[("password", b"hunter2")]).config(
        "shop",
        "creds",
        "layers: [{name: l, at: /deep, secretRef: {name: s}}]",
    );
    let spec = "{layers: [{name: base, inline: {server: {port: 80}, db: {host: h}, gone: {password: x}}}, \
                {name: s, at: /db, secretRef: {name: s}}, {name: t, at: /gone, secretRef: {name: s}}, \
                {name: over, inline: {gone: {password: y}}}, {name: c, configRef: {name: creds}}], files: [\
                {path: all.json}, {path: server.json, from: /server}, {path: db.json, from: /db}, \
                {path: host, from: /db/host}, {path: gone.json, from: /gone}, {path: deep.json, from: /deep}, \
                {path: mode.json, mode: 0o600}, {path: t1, template: 'p {{ server.port }} {{ db.host }}'}, \
                {path: t2, template: 'p {{ db.password }}'}, {path: t3, template: '{{ db }}'}, \
                {path: t4, template: '{% for k, v in db|items %}{{ k }}{% endfor %}'}, \
                {path: t5, template: '{% if db.password %}x{% endif %}'}, \
                {path: copy, secretKeyRef: {name: s, key: password}}]}";
    let bundle = world.resolve(spec).unwrap_or_else(|problems| panic!("{problems}"));
    let secret: Vec<_> = bundle.files.iter().filter(|(_, f)| f.secret).map(|(path, _)| path.as_str()).collect();
    assert_eq!(secret, ["all.json", "copy", "db.json", "deep.json", "mode.json", "t2", "t3", "t4", "t5"]);
    for (path, file) in &bundle.files {
        let expected = if path == "mode.json" {
            0o600
        } else if file.secret {
            0o440
        } else {
            0o444
        };
        assert_eq!(file.mode, expected, "{path}");
        assert!(file.secret || !String::from_utf8_lossy(&file.bytes).contains("hunter2"), "{path}");
    }
    assert_eq!(bundle.files["t2"].bytes, b"p hunter2");
}

#[test]
fn provenance_names_winner_and_overridden() {
    let world = World::default().config(
        "shop",
        "defaults",
        "layers: [{name: base, inline: {a: 1, b: 1, x: 1, y: 1}}, {name: more, inline: {a: 2, x: null}}]",
    );
    let spec = "layers: [{name: base, inline: {a: 0, o: {p: 1, q: 1}, x: 0}}, {name: platform, configRef: {name: defaults}}, \
                {name: last, inline: {o: 5, y: null, e: {}, z: null}}, {name: after, inline: {o: {n: 1}}}]";
    let bundle = world.resolve(spec).unwrap();
    assert_eq!(
        String::from_utf8(bundle.provenance).unwrap(),
        "{\"layers\":[\"base\",\"platform/base\",\"platform/more\",\"last\",\"after\"],\"leaves\":{\"/a\":[2,1,0],\
         \"/b\":[1],\"/e\":[3],\"/o/n\":[4,3,0],\"/x\":[0]},\"deleted\":{\"/y\":[3,1]}}",
    );
}

#[test]
fn texts_are_quoted_for_a_shell() {
    let spec =
        "{layers: [{name: l, inline: {db: {url: 'a\"b $c `d` \\e', n: 1, l: [x, true]}}}], files: [{path: a.env}]}";
    let text = World::default().file(spec, "a.env");
    assert_eq!(text, "DB_L_0=\"x\"\nDB_L_1=\"true\"\nDB_N=\"1\"\nDB_URL=\"a\\\"b \\$c \\`d\\` \\\\e\"\n");
    // The shell itself is the judge.
    let script = format!("{text}printf %s \"$DB_URL\"");
    let output = std::process::Command::new("sh").arg("-c").arg(script).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "a\"b $c `d` \\e");
}

#[test]
fn a_template_is_rendered_as_written() {
    let spec = "{layers: [{name: l, inline: {server: {port: 80, hosts: [a, b]}}}], files: [{path: nginx.conf, template: \
                \"listen {{ server.port }};\\n{% for h in server.hosts %}{{ h }}<{% endfor %}\\n\"}]}";
    assert_eq!(World::default().file(spec, "nginx.conf"), "listen 80;\na<b<\n");
}

#[test]
fn keys_are_all_data_and_show_no_value() {
    let map: k8s_openapi::api::core::v1::ConfigMap =
        serde_json::from_value(json!({"metadata": {}, "data": {"a": "x"}, "binaryData": {"b": "/w=="}})).unwrap();
    let keys = Keys::from(&map);
    assert_eq!(keys.0.into_iter().collect::<Vec<_>>(), [("a".to_owned(), b"x".to_vec()), ("b".to_owned(), vec![0xff])]);
    let secret: Secret = serde_json::from_value(json!({"metadata": {}, "data": {"a": "aHVudGVyMg=="}})).unwrap();
    let keys = Keys::from(&secret);
    assert_eq!(keys.0["a"], b"hunter2");
    assert_eq!(format!("{keys:?}"), "{\"a\"}");
}
