//! What the API server would refuse, judged offline by the CRD itself: its schema, its CEL rules,
//! and (where the API server only drops them silently) unknown fields.

use std::{cmp::Ordering, collections::BTreeSet, sync::Arc};

use cel::{Context, Env, Value as Cel, extensions};
use kube::CustomResourceExt;
use quorate_crds::DistributedConfig;
use serde_json::{Map, Value, json};

use super::yaml::Node;

/// A mistake, and the path of keys and indices to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where.
    pub path: Vec<String>,
    /// What.
    pub reason: String,
}

/// The longest text of a mistake, in characters: messages may quote a whole value.
const REASON: usize = 300;

/// Every mistake in a config's manifest.
#[must_use]
pub fn check(manifest: &Node) -> Vec<Mistake> {
    let crd = serde_json::to_value(DistributedConfig::crd()).unwrap_or_default();
    let Some(schema) = crd.pointer("/spec/versions/0/schema/openAPIV3Schema") else { return Vec::new() };
    let mut value = manifest.value();
    complete(schema, &mut value);
    let mut checker = Checker { mistakes: Vec::new() };
    checker.fields(&top_level(schema), &value, &mut Vec::new());
    checker.schema(schema, &value);
    // As in the API server, rules may trust that the schema holds.
    if checker.mistakes.is_empty() {
        checker.rules(schema, &value, &mut Vec::new());
    }
    checker.mistakes
}

/// A mistake's path for people: `spec.layers[0].name`.
#[must_use]
pub fn told(path: &[String]) -> String {
    path.iter().fold(String::new(), |told, token| {
        if token.bytes().all(|b| b.is_ascii_digit()) {
            format!("{told}[{token}]")
        } else if told.is_empty() {
            token.clone()
        } else {
            format!("{told}.{token}")
        }
    })
}

/// The path that a message of the API begins with, such as `spec.rollout.steps[0].pods: …`.
#[must_use]
pub fn path_of(message: &str) -> Vec<String> {
    let end = message.find([' ', ':']).unwrap_or(message.len());
    let path = &message[..end];
    if !path.starts_with("spec.") && !path.starts_with("metadata.") {
        return Vec::new();
    }
    path.split(['.', '[', ']']).filter(|token| !token.is_empty()).map(str::to_owned).collect()
}

/// As the API server completes an object before it judges it: defaults in, nulls that mean nothing
/// out.
fn complete(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(map) => {
            let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
            for (name, property) in properties {
                let nothing = property.get("nullable").is_some() || property.get("default").is_some();
                if nothing && map.get(name).is_some_and(Value::is_null) {
                    map.remove(name);
                }
                if let Some(default) = property.get("default") {
                    map.entry(name).or_insert_with(|| default.clone());
                }
                if let Some(member) = map.get_mut(name) {
                    complete(property, member);
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                for item in items {
                    complete(schema, item);
                }
            }
        }
        _ => {}
    }
}

/// The schema with what every object has beside it.
fn top_level(schema: &Value) -> Value {
    let mut schema = schema.clone();
    for field in ["apiVersion", "kind"] {
        schema["properties"][field] = json!({"type": "string"});
    }
    for field in ["metadata", "status"] {
        schema["properties"][field] = json!({"x-kubernetes-preserve-unknown-fields": true});
    }
    schema
}

struct Checker {
    mistakes: Vec<Mistake>,
}

impl Checker {
    fn add(&mut self, path: &[String], reason: impl AsRef<str>) {
        let reason = reason.as_ref();
        let mut short: String = reason.chars().take(REASON).collect();
        if short.len() < reason.len() {
            short.push('…');
        }
        self.mistakes.push(Mistake { path: path.to_vec(), reason: short });
    }

    /// Unknown fields, and items of a list that have the same key.
    fn fields(&mut self, schema: &Value, value: &Value, path: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
                for (name, member) in map {
                    path.push(name.clone());
                    match properties.get(name) {
                        Some(property) => self.fields(property, member, path),
                        None if schema.get("x-kubernetes-preserve-unknown-fields").is_some() => {}
                        None => self.add(path, unknown(name, properties)),
                    }
                    path.pop();
                }
            }
            Value::Array(items) => {
                self.twins(schema, items, path);
                for (index, item) in items.iter().enumerate() {
                    path.push(index.to_string());
                    self.fields(schema.get("items").unwrap_or(&Value::Null), item, path);
                    path.pop();
                }
            }
            _ => {}
        }
    }

    fn twins(&mut self, schema: &Value, items: &[Value], path: &mut Vec<String>) {
        let keys: Vec<&str> =
            schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let is_set = schema["x-kubernetes-list-type"] == "set";
        let mut seen = BTreeSet::new();
        for (index, item) in items.iter().enumerate() {
            let identity: Vec<String> = if is_set {
                vec![item.to_string()]
            } else {
                keys.iter().filter_map(|key| item.get(key)).map(ToString::to_string).collect()
            };
            if !identity.is_empty() && !seen.insert(identity.clone()) {
                path.push(index.to_string());
                let length = path.len();
                path.extend(keys.first().map(|key| (*key).to_owned()));
                let what = keys.first().map(|key| format!("{key} ")).unwrap_or_default();
                self.add(path, format!("{what}{} is there twice", identity.join(", ")));
                path.truncate(length - 1);
            }
        }
    }

    /// What JSON Schema says.
    fn schema(&mut self, schema: &Value, value: &Value) {
        let validator = match jsonschema::validator_for(schema) {
            Ok(validator) => validator,
            Err(error) => return self.add(&[], format!("the CRD's schema cannot be used: {error}")),
        };
        let mut seen = BTreeSet::new();
        for error in validator.iter_errors(value) {
            let pointer = error.instance_path().to_string();
            let path = crate::pointer::tokens(&pointer).unwrap_or_default();
            // An amount that is neither number nor text says so once.
            if seen.insert((pointer, error.to_string())) {
                self.add(&path, error.to_string());
            }
        }
    }

    /// What the CRD's CEL rules say.
    fn rules(&mut self, schema: &Value, value: &Value, path: &mut Vec<String>) {
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            let text = rule["rule"].as_str().unwrap_or_default();
            // A rule about a change has nothing to compare with.
            if text.contains("oldSelf") {
                continue;
            }
            let message = rule["message"].as_str().unwrap_or(text);
            match holds(text, value) {
                Ok(true) => {}
                Ok(false) => {
                    let told = path_of(message);
                    self.add(if told.is_empty() { path } else { &told }, message);
                }
                Err(error) => self.add(path, format!("{message} (the rule failed: {error})")),
            }
        }
        match value {
            Value::Object(map) => {
                for (name, member) in map {
                    if let Some(property) = schema["properties"].get(name) {
                        path.push(name.clone());
                        self.rules(property, member, path);
                        path.pop();
                    }
                }
            }
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    path.push(index.to_string());
                    self.rules(&schema["items"], item, path);
                    path.pop();
                }
            }
            _ => {}
        }
    }
}

/// Whether one of the CRD's own rules holds. Kubernetes's dialect has CEL's string functions.
fn holds(rule: &str, value: &Value) -> Result<bool, String> {
    let mut env = Env::stdlib();
    extensions::strings(&mut env).map_err(|error| error.to_string())?;
    let program = env.compile(rule).map_err(|error| error.to_string())?;
    let mut context = Context::with_env(Arc::new(env));
    context.add_variable("self", value).map_err(|error| error.to_string())?;
    match program.execute(&context) {
        Ok(Cel::Bool(holds)) => Ok(holds),
        Ok(_) => Err("it is neither true nor false".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn unknown(name: &str, known: &Map<String, Value>) -> String {
    let close = |other: &&String| {
        let (a, b) = (name.to_ascii_lowercase(), other.to_ascii_lowercase());
        similar::TextDiff::from_chars(&a, &b).ratio()
    };
    let nearest = known
        .keys()
        .map(|other| (close(&other), other))
        .filter(|(ratio, _)| *ratio > 0.6)
        .max_by(|a, b| a.0.partial_cmp(&b.0).unwrap_or(Ordering::Equal));
    if let Some((_, other)) = nearest {
        return format!("there is no field {name:?}; did you mean {other:?}?");
    }
    let all: Vec<&str> = known.keys().map(String::as_str).collect();
    format!("there is no field {name:?}; there are {}", all.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::yaml;

    fn mistakes(spec: &str) -> Vec<String> {
        let text = format!(
            "apiVersion: quorate.io/v1alpha1\nkind: DistributedConfig\nmetadata: {{name: web}}\nspec: {spec}\n"
        );
        let (documents, faults) = yaml::parse(&text);
        assert_eq!(faults, []);
        check(&documents[0]).iter().map(|m| format!("{}: {}", told(&m.path), m.reason)).collect()
    }

    const LAYERS: &str = "layers: [{name: base, inline: {a: 1}}]";

    #[test]
    fn what_the_api_server_admits_is_clean() {
        for rest in [
            "files: [{path: a.yaml, mode: 0440}]",
            "files: [{path: a.yaml}], pin: null, rollout: {quorum: null}",
            "files: [{path: a.yaml}], selector: {matchLabels: {app: web}}, rollout: {strategy: Canary, steps: [{pods: 1}, {pods: 50%, bake: 1m}]}",
            "files: [{path: a.yaml}], selector: {}, rollout: {strategy: Quorum, quorum: 75%, deadline: 5m}",
            "files: [{path: a.yaml}], validation: {schema: {anything: [goes]}}, freshness: {maxAge: 1m}",
        ] {
            assert_eq!(mistakes(&format!("{{{LAYERS}, {rest}}}")), [""; 0], "{rest}");
        }
    }

    #[test]
    fn each_mistake_is_named_with_its_path() {
        let cases = [
            ("files: [{path: a}], layerz: []", "spec.layerz: there is no field \"layerz\"; did you mean \"layers\"?"),
            ("files: [{pathh: a}]", "spec.files[0].pathh: there is no field \"pathh\"; did you mean \"path\"?"),
            ("files: [{path: a, zzz: 1}]", "spec.files[0].zzz: there is no field \"zzz\"; there are configMapKeyRef, "),
            ("files: [{mode: 1}]", "spec.files[0]: \"path\" is a required property"),
            ("files: []", "spec.files: [] has less than 1 item"),
            ("files: [{path: 1}]", "spec.files[0].path: 1 is not of type \"string\""),
            ("files: [{path: a, mode: 0777}, {path: a}]", "spec.files[1].path: path \"a\" is there twice"),
            ("files: [{path: a, mode: 777}]", "spec.files[0].mode: 777 is greater than the maximum of 511"),
            ("files: [{path: a, format: yaml}]", "spec.files[0].format: \"yaml\" is not one of "),
            ("files: [{path: ../a}]", "spec.files[0]: path must be relative"),
            ("files: [{path: a, template: x, from: /}]", "spec.files[0]: a file is rendered from a value"),
            ("files: [{path: a}], sharedWith: [a, a]", "spec.sharedWith[1]: \"a\" is there twice"),
            ("files: [{path: a}], sharedWith: [A]", "spec.sharedWith[0]: \"A\" does not match "),
            ("files: [{path: a}], rollout: {strategy: Canary}", "spec.rollout: steps go with strategy Canary"),
            ("files: [{path: a}], rollout: {quorum: All}", "spec.rollout: quorum goes with strategy Quorum"),
            (
                "files: [{path: a}], rollout: {strategy: Quorum}",
                "spec.rollout.strategy: spec.rollout.strategy Quorum and Canary need",
            ),
            ("files: [{path: a}], rollout: {maxRejected: 101%}", "spec.rollout.maxRejected: \"101%\" does not match"),
            ("files: [{path: a}], freshness: {maxAge: 5}", "spec.freshness.maxAge: 5 is not of type \"string\""),
        ];
        for (rest, expected) in cases {
            let found = mistakes(&format!("{{{LAYERS}, {rest}}}"));
            assert!(found.iter().any(|mistake| mistake.starts_with(expected)), "{rest}: {found:?}");
        }
    }

    #[test]
    fn layers_have_one_source_and_names_of_their_own() {
        let found = mistakes("{files: [{path: a}], layers: [{name: a}, {name: b, inline: {}, secretRef: {name: s}}]}");
        assert_eq!(
            found,
            [0, 1].map(|n| {
                format!("spec.layers[{n}]: a layer has exactly one of inline, configMapRef, secretRef, configRef")
            })
        );
        let found = mistakes("{files: [{path: a}], layers: [{name: a, inline: {}}, {name: a, inline: {}}]}");
        assert_eq!(found, ["spec.layers[1].name: name \"a\" is there twice"]);
    }

    #[test]
    fn a_path_in_a_message_is_read() {
        assert_eq!(path_of("spec.rollout.steps[1].pods: step 2"), ["spec", "rollout", "steps", "1", "pods"]);
        assert_eq!(path_of("spec.rollout.strategy Quorum needs"), ["spec", "rollout", "strategy"]);
        assert_eq!(path_of("steps go with"), [""; 0]);
    }
}
