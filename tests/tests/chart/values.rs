//! The values and their schema: nothing is accepted that does nothing.

use std::fs;

use quorate_tests::helm::{Helm, chart};
use serde_json::{Value, json};

fn schema() -> Value {
    serde_json::from_str(&fs::read_to_string(chart().join("values.schema.json")).unwrap()).unwrap()
}

/// values.yaml.
pub fn defaults() -> Value {
    serde_yaml::from_str(&fs::read_to_string(chart().join("values.yaml")).unwrap()).unwrap()
}

/// The schema's objects with named properties, by their place in the values: `["operator", "image"]`.
fn objects(schema: &Value) -> Vec<Vec<String>> {
    fn walk(root: &Value, schema: &Value, place: &[String], found: &mut Vec<Vec<String>>) {
        if let Some(name) = schema["$ref"].as_str() {
            return walk(root, &root["$defs"][name.rsplit('/').next().unwrap()], place, found);
        }
        let Some(properties) = schema["properties"].as_object() else { return };
        found.push(place.to_vec());
        for (name, property) in properties {
            walk(root, property, &[place, std::slice::from_ref(name)].concat(), found);
        }
    }
    let mut found = Vec::new();
    walk(schema, schema, &[], &mut found);
    found
}

#[test]
fn every_object_of_the_schema_says_what_it_takes() {
    fn walk(schema: &Value, place: &str) {
        match schema {
            Value::Object(map) => {
                if map.get("type") == Some(&json!("object")) {
                    let more = map.get("additionalProperties");
                    // Labels have any name. What is Kubernetes' own has no names here at all.
                    let closed =
                        if map.contains_key("properties") { more == Some(&json!(false)) } else { more.is_some() };
                    assert!(closed, "values.schema.json{place} accepts what it does not know");
                }
                map.iter().for_each(|(name, value)| walk(value, &format!("{place}/{name}")));
            }
            Value::Array(list) => list.iter().for_each(|value| walk(value, place)),
            _ => {}
        }
    }
    walk(&schema(), "");
}

#[test]
fn values_yaml_shows_every_value_of_the_schema() {
    let (schema, defaults) = (schema(), defaults());
    for place in objects(&schema) {
        let pointer = [&[String::new()], &place[..]].concat().join("/");
        let shown = defaults.pointer(&pointer).unwrap_or_else(|| panic!("values.yaml does not show {pointer}"));
        let known = place.iter().fold(&schema, |at, name| resolved(&schema, &at["properties"][name]));
        for name in known["properties"].as_object().unwrap().keys().filter(|name| *name != "global") {
            assert!(shown.get(name).is_some(), "values.yaml does not show {pointer}/{name}");
        }
    }
}

fn resolved<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    schema["$ref"].as_str().map_or(schema, |name| &root["$defs"][name.rsplit('/').next().unwrap()])
}

#[test]
fn a_name_that_is_misspelt_is_refused_wherever_it_is() {
    let helm = Helm::new(None).unwrap();
    helm.template(&[]).unwrap();
    for place in objects(&schema()) {
        let path = [&place[..], &["misspelt".to_owned()]].concat().join(".");
        let refused = helm.template(&["--set", &format!("{path}=true")]).unwrap_err().to_string();
        assert!(refused.contains("misspelt") && refused.contains("not allowed"), "{path}: {refused}");
    }
}

#[test]
fn values_that_would_break_something_are_refused() {
    let helm = Helm::new(None).unwrap();
    for (value, says) in [
        ("operator.replicas=0", "replicas"),
        ("operator.leaderElection.leaseSeconds=1", "leaseSeconds"),
        ("operator.namespaces={Shop}", "namespaces"),
        ("operator.image.digest=latest", "digest"),
        ("image.registry=example.com/", "registry"),
        ("serviceAccount.create=false", "serviceAccount"),
        ("metrics.serviceMonitor.interval=often", "interval"),
        ("networkPolicy.egress.apiServerPorts={}", "apiServerPorts"),
    ] {
        let refused = helm.template(&["--set", value]).unwrap_err().to_string();
        assert!(refused.contains(says), "{value}: {refused}");
    }
}
