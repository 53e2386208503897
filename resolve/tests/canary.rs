//! No message shows a value from a Secret, whichever way it comes about.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::format_collect)]

mod common;

use common::World;

const CANARY: &str = "hunter2canary";

/// Asserts that the spec is refused without the canary, and that it really is in the Secret.
fn withheld(world: &World, spec: &str) {
    let problems = world.resolve(spec).expect_err(spec);
    let told = format!("{problems} {problems:?} {:?}", world.0);
    assert!(!told.contains(CANARY), "{spec}: {told}");
}

#[test]
fn documents() {
    for (key, text) in [
        ("v.yaml", "a: [CANARY"),
        ("v.yaml", "CANARY: 1\nCANARY: 2"),
        ("v.yaml", "a: !CANARY x"),
        ("v.yaml", "a: *CANARY"),
        ("v.yaml", "? [CANARY]\n: 1"),
        ("v.yaml", "a: 1\n---\nb: CANARY"),
        ("v.yaml", "\"CANARY\\q\""),
        ("v.yaml", "CANARY"),
        ("v.json", "{\"a\": CANARY}"),
        ("v.json", "{\"CANARY\": 1, \"CANARY\": 2}"),
        ("v.json", "\"CANARY\""),
        ("v.toml", "a = CANARY"),
        ("v.toml", "CANARY = 1\nCANARY = 2"),
        ("v.properties", "CANARY=1\nCANARY.b=2"),
        ("v.properties", "a=CANARY\\u1"),
        ("v.env", "CANARY"),
        ("v.env", "A='CANARY"),
        ("v.env", "CANARY-x=1"),
    ] {
        let text = text.replace("CANARY", CANARY);
        let spec = format!("layers: [{{name: l, secretRef: {{name: s, key: {key}}}}}]");
        withheld(&World::default().secret("s", &[(key, text.as_bytes())]), &spec);
        // The control: of a ConfigMap, such messages do quote.
        let spec = spec.replace("secretRef", "configMapRef");
        World::default().map("s", &[(key, text.as_bytes())]).problem(&spec);
    }
    let mut bytes = CANARY.as_bytes().to_vec();
    bytes.push(0xff);
    withheld(&World::default().secret("s", &[("k", &bytes)]), "layers: [{name: l, secretRef: {name: s}}]");
    let quoting = World::default().map("s", &[("v.yaml", format!("{CANARY}: 1\n{CANARY}: 2").as_bytes())]);
    assert!(quoting.problem("layers: [{name: l, configMapRef: {name: s, key: v.yaml}}]").reason.contains(CANARY));
}

fn world() -> World {
    let list = format!("list: [{CANARY}, {CANARY}, null]\nnul: \"{CANARY}\\0\"\n");
    World::default().secret("s", &[("password", CANARY.as_bytes())]).secret("doc", &[("v.yaml", list.as_bytes())])
}

fn spec(rest: &str) -> String {
    format!(
        "{{layers: [{{name: b, inline: {{o: {{x: 1}}}}}}, {{name: s, at: /db, secretRef: {{name: s}}}}, {{name: d, at: \
         /doc, secretRef: {{name: doc, key: v.yaml}}}}], {rest}}}"
    )
}

#[test]
fn violations() {
    for at_root in [
        "minProperties: 9",
        "maxProperties: 1",
        "type: string",
        "const: 1",
        "enum: [1]",
        "not: {}",
        "oneOf: [{type: string}, {type: array}]",
        "anyOf: [{properties: {db: {properties: {password: {type: integer}}}}}]",
        "oneOf: [true, true]",
        "additionalProperties: {type: string}",
        "required: [zz]",
        "properties: {db: false}",
        "properties: {db: {additionalProperties: false}}",
        "unevaluatedProperties: false",
        "propertyNames: {maxLength: 1}",
        "dependentRequired: {db: [zz]}",
        "if: true, then: false",
    ] {
        withheld(&world(), &spec(&format!("validation: {{schema: {{{at_root}}}}}")));
    }
    for on_value in [
        "type: integer",
        "const: x",
        "enum: [x]",
        "maxLength: 1",
        "minLength: 99",
        "pattern: '^x'",
        "not: {}",
        "minimum: 1, type: number",
        "oneOf: [{const: a}, {const: b}]",
        "$ref: '#/$defs/n'",
    ] {
        let schema =
            format!("$defs: {{n: {{type: number}}}}, properties: {{db: {{properties: {{password: {{{on_value}}}}}}}}}");
        withheld(&world(), &spec(&format!("validation: {{schema: {{{schema}}}}}")));
    }
    for on_list in
        ["uniqueItems: true", "contains: {const: x}", "maxItems: 1", "items: {type: integer}", "items: false"]
    {
        let schema = format!("properties: {{doc: {{properties: {{list: {{{on_list}}}}}}}}}");
        withheld(&world(), &spec(&format!("validation: {{schema: {{{schema}}}}}")));
    }
    // The control: a value from elsewhere is quoted.
    let problem = world().problem(&spec("validation: {schema: {properties: {o: {properties: {x: {type: string}}}}}}"));
    assert!(problem.reason.starts_with("1 is not"), "{problem}");
}

#[test]
fn rules() {
    for rule in [
        "self.db.password == 'x'",
        "self.db.password",
        "self.db.password + 1 == 2",
        "int(self.db.password) > 1",
        "double(self.db.password) > 1.0",
        "self[self.db.password] == 1",
        "self.o[self.db.password] == 1",
        "[1][self.db.password] == 1",
        "self.db.password[0] == 1",
        "self.db.password.x == 1",
        "'x'.matches(self.db.password + '(')",
        "{'a': 1}[self.db.password] == 1",
        "self.db.password < 1",
        "self.doc.list + 1 == 2",
        "self.doc.list.map(x, int(x)) == [1]",
        "self.db.password in 5",
        "bool(self.db.password)",
        "self.db.password.size(1) == 1",
        "max(self.db, 1) == 1",
        "{self.doc.list: 1} == {}",
        "-self.db.password == 1",
        "!self.db.password",
    ] {
        withheld(
            &world(),
            &spec(&format!("validation: {{rules: [{{rule: {}}}]}}", serde_json::to_string(rule).unwrap())),
        );
    }
}

#[test]
fn templates_and_formats() {
    for template in [
        "{{ db.password / 2 }}",
        "{{ db.password - 2 }}",
        "{{ -db.password }}",
        "{{ db.password|int }}",
        "{{ db.password|float }}",
        "{{ db[db.password] }}",
        "{{ db[db.password].x }}",
        "{{ db.password.x.y }}",
        "{{ db.password() }}",
        "{{ db.password.split(1, 2, 3, 4) }}",
        "{{ db.password|batch('x') }}",
        "{% for a, b in [db.password] %}{% endfor %}",
        "{% set a, b = db.password %}",
        "{{ range(db.password) }}",
        "{{ db.password ~ none_such }}",
        "{{ db.password ~ db[db.password] }}",
        "{{ db|nofilter }}",
        "{{ doc.list|sum }}",
        "{{ doc.list|map(db.password)|list }}",
        "{{ doc.list|map(filter=db.password) }}",
        "{{ dict(db.password) }}",
        "{{ db.password|format(1, 2) ~ ('%d'|format(db.password)) }}",
    ] {
        withheld(
            &world(),
            &spec(&format!("files: [{{path: f, template: {}}}]", serde_json::to_string(template).unwrap())),
        );
    }
    for file in [
        "path: f.txt, from: /db",
        "path: f.toml, from: /db/password",
        "path: f.toml, from: /doc",
        "path: f.env, from: /doc",
        "path: f.properties, from: /doc",
        "path: f.json, from: /db/password/x",
        "path: f.env, from: /doc/list",
    ] {
        withheld(&world(), &spec(&format!("files: [{{{file}}}]")));
    }
}
