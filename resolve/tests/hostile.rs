//! Schemas, rules and templates: what they find, and what they are stopped at. Each hostile case
//! would run for hours, or out of memory or stack, without its bound.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::format_collect)]

mod common;

use std::fmt::Write;

use common::World;
use quorate_resolve::ProblemKind::{self, *};

fn schema(schema: &str, inline: &str) -> String {
    format!("{{layers: [{{name: l, inline: {inline}}}], validation: {{schema: {schema}}}}}")
}

fn rule(rule: &str, inline: &str) -> String {
    let rule = serde_json::to_string(rule).unwrap();
    format!("{{layers: [{{name: l, inline: {inline}}}], validation: {{rules: [{{rule: {rule}}}]}}}}")
}

fn template(template: &str, inline: &str) -> String {
    let template = serde_json::to_string(template).unwrap();
    format!("{{layers: [{{name: l, inline: {inline}}}], files: [{{path: f, template: {template}}}]}}")
}

#[track_caller]
fn refuse(table: &[(String, ProblemKind, &str)]) {
    for (spec, kind, part) in table {
        World::default().refuses(spec, *kind, &[part]);
    }
}

#[test]
fn all_violations_are_listed_with_their_pointers() {
    let spec = "{layers: [{name: l, inline: {server: {port: x}, a/b: 1}}], validation: {schema: {required: [db], \
                properties: {server: {properties: {port: {type: integer}}}, a/b: {minimum: 2}}}, rules: [{rule: 'has(self.db)', \
                message: no db}, {rule: 'self.server.port == \"x\"'}, {rule: 'self.server.port != \"x\"'}]}}";
    let told: Vec<_> = World::default().problems(spec).iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 5, "{told:?}");
    for expected in [
        "layer l, /server/port: \"x\" is not of type \"integer\"",
        "layer l, /a~1b: 1 is less than the minimum of 2",
        "layer l, /: \"db\" is a required property",
        "/: rule 1: no db",
        "/: rule 3: self.server.port != \"x\" is not true",
    ] {
        assert!(told.iter().any(|text| text.starts_with(expected)), "{expected} is not in {told:?}");
    }
}

#[test]
fn a_violation_names_the_layer_that_won_there() {
    let target = "layers: [{name: first, inline: {a: x}}, {name: last, inline: {b: [1, x]}}]";
    let world = World::default().config("shop", "defaults", target).map("eu", &[("port", b"x")]);
    let spec = "{layers: [{name: base, inline: {server: {port: 1, host: 2}}}, {name: platform, configRef: {name: \
                defaults}}, {name: region, at: /server, configMapRef: {name: eu}}, {name: own, inline: {c: 1}}], \
                validation: {schema: {properties: {server: {required: [name], properties: {port: {type: integer}, \
                host: {type: string}}}, a: {type: integer}, b: {items: {type: integer}}}}}}";
    let mut told: Vec<_> = world.problems(spec).iter().map(ToString::to_string).collect();
    told.sort();
    for (text, place) in told.iter().zip([
        "layer base, /server/host: ",
        "layer platform/first, /a: ",
        "layer platform/last, /b/1: ",
        "layer region, /server/port: ",
        "layer region, /server: ",
    ]) {
        assert!(text.starts_with(place), "{place} is not how it starts: {text}");
    }
    assert_eq!(told.len(), 5, "{told:?}");
    // In a referenced config, both names.
    let target = format!("{{{target}, validation: {{schema: {{properties: {{a: {{type: integer}}}}}}}}}}");
    let spec = "layers: [{name: platform, configRef: {name: defaults}}]";
    World::default().config("shop", "defaults", &target).refuses(
        spec,
        ValidationFailed,
        &["layer platform/first, /a: "],
    );
}

#[test]
fn schemas_that_cannot_be_used() {
    let mut doubling = "$defs: {n0: {type: integer}".to_owned();
    for n in 1..30 {
        write!(doubling, ", n{n}: {{anyOf: [{{$ref: '#/$defs/n{m}'}}, {{$ref: '#/$defs/n{m}'}}]}}", m = n - 1).unwrap();
    }
    let wide = format!("{{{doubling}}}, $ref: '#/$defs/n14'}}");
    let chain: String = (0..5000).map(|n| format!("n{n}: {{$ref: '#/$defs/n{}'}}, ", n + 1)).collect();
    let down = "{$defs: {n: {anyOf: [{properties: {a: {$ref: '#/$defs/n'}}}, {additionalProperties: {$ref: '#/$defs/n'}}, false], \
                type: integer}}, $ref: '#/$defs/n'}";
    let deep = format!("{}1{}", "{a: ".repeat(60), "}".repeat(60));
    refuse(&[
        (schema("{type: 5}", "{}"), SchemaInvalid, "cannot be used"),
        (schema("{$ref: 'https://example.org/s.json'}", "{}"), SchemaInvalid, "within the schema only"),
        (schema("{$ref: 'other.json#/a'}", "{}"), SchemaInvalid, "within the schema only"),
        (schema("{$ref: '#/$defs/none'}", "{}"), SchemaInvalid, "cannot be used"),
        (schema("{$schema: 'https://example.org/dialect', type: object}", "{}"), SchemaInvalid, ""),
        (schema("{$ref: '#'}", "{}"), SchemaInvalid, "circle"),
        (schema(&format!("{}{}", "{not: ".repeat(65), "}".repeat(65)), "{}"), SchemaInvalid, "deeper than 64"),
        (
            schema("{$defs: {a: {allOf: [{$ref: '#/$defs/b'}]}, b: {not: {$ref: '#/$defs/a'}}}}", "{}"),
            SchemaInvalid,
            "circle",
        ),
        (schema("{$defs: {a: {$anchor: x, anyOf: [{$ref: '#x'}]}}}", "{}"), SchemaInvalid, "circle"),
        (schema("{$defs: {'a b': {$ref: '#/$defs/a%20b'}}}", "{}"), SchemaInvalid, "circle"),
        (schema("{properties: {a: {$dynamicRef: '#x'}}}", "{}"), SchemaInvalid, "not supported"),
        (schema(&format!("{{$defs: {{{chain} n5000: true}}}}"), "{}"), SchemaInvalid, "more than 32 subschemas"),
        (schema(&wide, "{a: 1}"), SchemaInvalid, "circle"),
        (schema(down, &deep), SchemaInvalid, "steps"),
        (schema("{properties: {a: {pattern: '(?=x)'}}}", "{a: b}"), SchemaInvalid, "cannot be used"),
        (
            schema("{properties: {a: {pattern: '(((a{100}){100}){100}){100}'}}}", "{a: b}"),
            SchemaInvalid,
            "cannot be used",
        ),
    ]);
}

#[test]
fn wide_unfolding_is_counted() {
    // Within the bound on chains: 2^13 leaves, each on every one of a thousand members.
    let mut defs = "n0: {type: integer}".to_owned();
    for n in 1..14 {
        write!(defs, ", n{n}: {{anyOf: [{{$ref: '#/$defs/n{m}'}}, {{$ref: '#/$defs/n{m}'}}]}}", m = n - 1).unwrap();
    }
    let inline: String = (0..1000).map(|n| format!("k{n}: x, ")).collect();
    let spec = schema(
        &format!("{{$defs: {{{defs}}}, additionalProperties: {{$ref: '#/$defs/n13'}}}}"),
        &format!("{{{inline}}}"),
    );
    World::default().refuses(&spec, SchemaInvalid, &["steps"]);
}

#[test]
fn recursive_schemas_and_hard_patterns_are_fine() {
    let spec = schema(
        "{$defs: {n: {properties: {next: {$ref: '#/$defs/n'}, v: {type: integer}}}}, $ref: '#/$defs/n'}",
        "{next: {next: {v: x}}}",
    );
    World::default().refuses(&spec, ValidationFailed, &["/next/next/v"]);
    let slow = format!("{{a: {}b}}", "a".repeat(50_000));
    World::default().refuses(&schema("{properties: {a: {pattern: '^(a|aa)+$'}}}", &slow), ValidationFailed, &["/a"]);
    let deep = format!("{}1{}", "{next: ".repeat(62), "}".repeat(62));
    let chain: String = (0..14).map(|n| format!("n{n}: {{allOf: [{{$ref: '#/$defs/n{}'}}]}}, ", n + 1)).collect();
    let spec =
        format!("{{$defs: {{{chain} n14: {{properties: {{next: {{$ref: '#/$defs/n0'}}}}}}}}, $ref: '#/$defs/n0'}}");
    World::default().resolve(&schema(&spec, &deep)).unwrap();
}

#[test]
fn rules_that_cannot_be_used() {
    let many: String = (0..300).map(|n| format!("k{n}: {n}, ")).collect();
    let many = format!("{{l: [{}], m: {{{many}}}}}", vec!["1"; 300].join(","));
    let grown = format!("size([0]{}) > 0", ".map(x, [x, x])".repeat(30));
    let nested = "self.l.all(a, self.l.all(b, self.l.all(c, self.l.all(d, a == b))))";
    let text = format!("size([\"xxxxxxxx\"]{}[0]) > 0", ".map(x, x + x)".repeat(30));
    let swallowed = format!("{nested} || true");
    let spread = "self.l.map(x, self).size() > 0 && self.l.map(x, self.l.map(y, self)).size() > 0";
    let patterns = "self.l.exists(x, 'b'.matches('a{1000}'))";
    refuse(&[
        (rule("self.", "{}"), RuleInvalid, "rule 1: it does not compile"),
        (rule("1 + 1", "{}"), RuleInvalid, "not true or false"),
        (rule("self.x > 1", "{}"), RuleInvalid, "No such key"),
        (rule("other > 1", "{}"), RuleInvalid, "Undeclared reference"),
        (rule("self.x > 1", "{x: a}"), RuleInvalid, "overload"),
        (rule("1 / 0 == 1", "{}"), RuleInvalid, "rule 1"),
        (rule("1 % 0 == 1", "{}"), RuleInvalid, "rule 1"),
        (rule("9223372036854775807 + 1 > 0", "{}"), RuleInvalid, "rule 1"),
        (rule("-9223372036854775808 / -1 > 0", "{}"), RuleInvalid, "rule 1"),
        (rule("-9223372036854775808 % -1 == 0", "{}"), RuleInvalid, "rule 1"),
        (rule("-(-9223372036854775808) > 0", "{}"), RuleInvalid, "rule 1"),
        (rule("int(1e300) > 0", "{}"), RuleInvalid, "rule 1"),
        (rule("uint(-1) > 0u", "{}"), RuleInvalid, "rule 1"),
        (rule("[1][5] == 1", "{}"), RuleInvalid, "rule 1"),
        (rule("'x'.matches('(')", "{}"), RuleInvalid, "pattern"),
        (rule("a.b{c: 1} == 1", "{}"), RuleInvalid, "rule 1"),
        (rule(nested, &many), RuleInvalid, "costs too much"),
        (rule(&swallowed, &many), RuleInvalid, "costs too much"),
        (rule(&grown, "{}"), RuleInvalid, "costs too much"),
        (rule(&text, "{}"), RuleInvalid, "costs too much"),
        (rule(spread, &many), RuleInvalid, "costs too much"),
        (rule(patterns, &many), RuleInvalid, "costs too much"),
        (rule(&format!("{}true{}", "(".repeat(1000), ")".repeat(1000)), "{}"), RuleInvalid, "rule 1"),
        (rule(&format!("{}1{} == 1", "[".repeat(1000), "]".repeat(1000)), "{}"), RuleInvalid, "rule 1"),
        (rule(&format!("1{} > 0", "+1".repeat(2000)), "{}"), RuleInvalid, "rule 1"),
        (rule(&format!("self{} > 0", ".a".repeat(2000)), "{}"), RuleInvalid, "rule 1"),
        (rule(&format!("self{} > 0", "[0]".repeat(1300)), "{}"), RuleInvalid, "rule 1"),
        (rule(&format!("{}true", "true?true:".repeat(400)), "{}"), RuleInvalid, "rule 1"),
        (rule(&"x".repeat(5000), "{}"), RuleInvalid, "more than 4096 characters"),
    ]);
}

#[test]
fn rules_that_hold() {
    let many: Vec<_> = (0..200).map(|n| format!("{{name: n{n}, port: {n}}}")).collect();
    let inline = format!("{{items: [{}], s: {{port: 8080, u: 18446744073709551615, f: 1.5}}}}", many.join(", "));
    for text in [
        "self.s.port > 1024 && self.s.port + 1 == 8081",
        "self.s.u > 1 && self.s.f < 2.0",
        "self.items.all(a, self.items.exists_one(b, a.name == b.name))",
        "self.items.filter(i, i.port > 100).map(i, i.name).size() == 99",
        "self.items.map(i, i.port > 197, i.name) == ['n198', 'n199']",
        "self.items.exists(i, i.name.matches('^n1..$')) && matches('abc', 'b')",
        "has(self.s.port) && !has(self.s.none) && 'port' in self.s",
        "self.items[0].name.startsWith('n') && size(self.items) == 200",
        "{'a': 1}.a == 1 && (self.s.port == 1 ? false : true)",
    ] {
        World::default().resolve(&rule(text, &inline)).unwrap_or_else(|problems| panic!("{text}: {problems}"));
    }
    // A sum of 40 and a conjunction of 200 terms are not deep.
    let long = ["self.a == 1"; 200].join(" && ");
    World::default().resolve(&rule(&long, "{a: 1}")).unwrap_or_else(|problems| panic!("{problems}"));
}

#[test]
fn templates_that_cannot_be_rendered() {
    refuse(&[
        (template("{{ server.port }}", "{}"), TemplateFailed, "file f: `server` is undefined in line 1"),
        (template("\n{{ server.port }}", "{server: {}}"), TemplateFailed, "`server.port` is undefined in line 2"),
        (template("{% for s in l %}{{ s.port }}{% endfor %}", "{l: [{}]}"), TemplateFailed, "`s.port` is undefined"),
        (template("{{ []|first }}", "{}"), TemplateFailed, "a value is undefined in line 1"),
        (template("{{ x", "{}"), TemplateFailed, "syntax error"),
        (template("{% include 'x' %}", "{}"), TemplateFailed, "f: "),
        (template("{% import 'x' as y %}", "{}"), TemplateFailed, "f: "),
        (template("{% extends 'x' %}", "{}"), TemplateFailed, "f: "),
        (template("{{ debug() }}", "{}"), TemplateFailed, "f: "),
        (
            template("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "{}"),
            TemplateFailed,
            "too much work",
        ),
        (
            template("{% for a in range(99999) %}xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx{% endfor %}", "{}"),
            TemplateFailed,
            "f: ",
        ),
        (template("{{ 'x' * 900000000 }}", "{}"), TemplateFailed, "f: "),
        (template("{{ 'x' * 2000000 }}", "{}"), TemplateFailed, "more than 1048576 bytes"),
        (template("{{ range(999999999) }}", "{}"), TemplateFailed, "f: "),
        (
            template(&"{% set a = a ~ a %}".repeat(60).replacen("a ~ a", "'xxxxxxxx'", 1), "{}"),
            TemplateFailed,
            "too much work",
        ),
        (
            template("{{ a|replace('', a)|replace('', a)|replace('', a) }}", &format!("{{a: {}}}", "x".repeat(5000))),
            TemplateFailed,
            "too much work",
        ),
        (
            template("{{ range(99999)|join(a) }}", &format!("{{a: {}}}", "x".repeat(50000))),
            TemplateFailed,
            "too much work",
        ),
        (template("{{ '%999999999d'|format(1) }}", "{}"), TemplateFailed, "f: "),
        (template("{{ 'x'|indent(999999999) ~ '' }}\n{{ 'a\nb'|indent(999999999) }}", "{}"), TemplateFailed, "f: "),
        (template("{{ 'x'|center(999999999) }}", "{}"), TemplateFailed, "f: "),
        (template(&format!("{{{{ {}1{} }}}}", "(".repeat(50_000), ")".repeat(50_000)), "{}"), TemplateFailed, "f: "),
        (template(&"{% if true %}".repeat(10_000), "{}"), TemplateFailed, "f: "),
        (template(&format!("{{{{ {}1{} }}}}", "[".repeat(50_000), "]".repeat(50_000)), "{}"), TemplateFailed, "f: "),
    ]);
    for (chain, times) in
        [("+1", 50_000), ("|e", 100_000), (".a", 100_000), ("**1", 80_000), (" and 1", 40_000), ("[0]", 60_000)]
    {
        let text = format!("{{{{ 1{} }}}}", chain.repeat(times));
        World::default().refuses(&template(&text, "{}"), TemplateFailed, &["a tag has more than 1500 parts"]);
    }
    for (chain, times) in [("-", 200_000), ("not ", 60_000), ("1 if 1 else ", 20_000), ("'}}' ~ ", 30_000)] {
        let text = format!("{{% raw %}}{{{{ ' {{% endraw %}}{{{{ {}1 }}}}", chain.repeat(times));
        World::default().refuses(&template(&text, "{}"), TemplateFailed, &["a tag has more than 1500 parts"]);
    }
    let branches = format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(20_000));
    World::default().refuses(&template(&branches, "{}"), TemplateFailed, &["so many branches"]);
    // Right at the bound it holds on a small stack; much plain text is no chain.
    let text = format!("{{{{ {}1 }}}}", "-".repeat(1498));
    World::default().resolve(&template(&text, "{}")).unwrap_or_else(|problems| panic!("{problems}"));
    World::default().resolve(&template(&"a.b-c + d {{ 1 }}".repeat(5000), "{}")).unwrap();
}
