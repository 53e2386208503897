//! JSON Schema on the merged value, all violations, safe with any schema: `$ref` stays inside the
//! schema and must descend into the value, patterns run in linear time, and the work is counted.

use std::{
    cell::Cell,
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

use jsonschema::{Keyword, PatternOptions, Retrieve, Uri, ValidationError, Validator, paths::Location};
use quorate_crds::Object;
use serde_json::{Map, Value};

use crate::{
    layers::Merged,
    limits::{MAX_DEPTH, MAX_PROBLEMS, MAX_REGEX_BYTES, MAX_SCHEMA_CHAIN, MAX_SCHEMA_VISITS, MIN_SCHEMA_STEPS},
    pointer,
    problem::{Problem, ProblemKind},
};

/// Every violation, or why the schema cannot be used. `value` is that of `merged`.
pub fn check(schema: &Object, value: &Value, merged: &Merged) -> Vec<Problem> {
    let schema = Value::Object(schema.clone());
    let invalid = |reason: String| vec![Problem::new(ProblemKind::SchemaInvalid, reason)];
    if let Err(reason) = refuse_unbounded(&schema) {
        return invalid(reason);
    }
    let steps = allowed_steps(value);
    STEPS.set(steps);
    // The unwinding is our own way out of an endless validation (see Step), or a library's bug:
    // neither may take the operator down.
    let found = catch_unwind(AssertUnwindSafe(|| {
        let validator = match validator(&schema) {
            Ok(validator) => validator,
            Err(error) => return Err(format!("validation.schema cannot be used: {error}")),
        };
        let violations = validator.iter_errors(value).take(MAX_PROBLEMS + 1).map(|error| violation(&error, merged));
        Ok(violations.collect())
    }));
    match found {
        Ok(Ok(violations)) => violations,
        Ok(Err(reason)) => invalid(reason),
        Err(cause) if cause.is::<OutOfSteps>() => {
            invalid(format!("validation.schema needs more than {steps} steps for this value"))
        }
        Err(_) => invalid("validation.schema makes the validator fail; simplify it".to_owned()),
    }
}

fn validator(schema: &Value) -> Result<Validator, String> {
    let counted = counted(schema);
    jsonschema::options()
        .with_retriever(NoRetrieval)
        .with_pattern_options(PatternOptions::regex().size_limit(MAX_REGEX_BYTES).dfa_size_limit(MAX_REGEX_BYTES))
        .with_keyword(STEP, |_: &Map<String, Value>, _: &Value, _: Location| Ok(Box::new(Step) as _))
        .build(&counted)
        .map_err(|error| error.to_string())
}

fn violation(error: &ValidationError<'_>, merged: &Merged) -> Problem {
    let at = error.instance_path().to_string();
    let place = merged.tree.nearest(&pointer::tokens(&at).unwrap_or_default());
    // A message quotes the value, which may hold a Secret's.
    let reason = if place.secret() { error.masked().to_string() } else { error.to_string() };
    let problem = Problem::new(ProblemKind::ValidationFailed, reason).pointer(&at);
    // Who won there can mend it; of an object, the last that gave members.
    match merged.winner(place) {
        Some(layer) => problem.layer(layer),
        None => problem,
    }
}

struct NoRetrieval;

impl Retrieve for NoRetrieval {
    fn retrieve(&self, uri: &Uri<String>) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        Err(format!("$ref may point within the schema only, not to {uri}").into())
    }
}

/// The keyword that counts: a step each time a subschema is applied.
const STEP: &str = "x-quorate-step";

thread_local! {
    static STEPS: Cell<u64> = const { Cell::new(0) };
}

struct OutOfSteps;

struct Step;

impl Step {
    /// A step weighs what it looks at, since a violation may copy it. A validator cannot be told
    /// to stop, so running out unwinds to [`check`] (without a message: `resume_unwind` does not
    /// call the panic hook).
    fn take(instance: &Value) {
        let mut left = STEPS.get();
        if weigh(instance, &mut left).is_none() {
            resume_unwind(Box::new(OutOfSteps));
        }
        STEPS.set(left);
    }
}

fn allowed_steps(value: &Value) -> u64 {
    let mut left = u64::MAX;
    let _ = weigh(value, &mut left);
    ((u64::MAX - left) * MAX_SCHEMA_VISITS).max(MIN_SCHEMA_STEPS)
}

fn weigh(value: &Value, left: &mut u64) -> Option<()> {
    let own = 1 + value.as_str().map_or(0, |text| text.len() as u64 / 16);
    *left = left.checked_sub(own)?;
    match value {
        Value::Array(items) => items.iter().try_for_each(|item| weigh(item, left)),
        Value::Object(map) => map.values().try_for_each(|member| weigh(member, left)),
        _ => Some(()),
    }
}

impl<'i> Keyword<'i> for Step {
    fn validate(&self, instance: &'i Value) -> Result<(), ValidationError<'i>> {
        Self::take(instance);
        Ok(())
    }

    fn is_valid(&self, instance: &'i Value) -> bool {
        Self::take(instance);
        true
    }
}

/// Keywords whose value maps names to subschemas.
const MAPS: [&str; 5] = ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"];
/// Keywords whose value is data.
const DATA: [&str; 6] = ["const", "enum", "default", "examples", "required", "dependentRequired"];

/// The schema with the counting keyword in every subschema.
fn counted(schema: &Value) -> Value {
    let Value::Object(map) = schema else { return schema.clone() };
    let mut counted: Map<_, _> = map
        .iter()
        .map(|(keyword, value)| {
            let value = match value {
                value if DATA.contains(&keyword.as_str()) => value.clone(),
                Value::Object(members) if MAPS.contains(&keyword.as_str()) => {
                    members.iter().map(|(name, member)| (name.clone(), self::counted(member))).collect()
                }
                Value::Array(items) => items.iter().map(self::counted).collect(),
                value => self::counted(value),
            };
            (keyword.clone(), value)
        })
        .collect();
    counted.insert(STEP.to_owned(), Value::Bool(true));
    Value::Object(counted)
}

/// Refuses what could recurse without end on one value: a chain of subschemas that all apply to
/// the same value ($ref, allOf …) must be short, and so cannot be a circle. The rest descends into
/// the value, whose depth is bounded. References and names that reach outside are refused too.
fn refuse_unbounded(schema: &Value) -> Result<(), String> {
    let mut anchors = BTreeMap::new();
    let mut all = Vec::new();
    collect(schema, schema, MAX_DEPTH, &mut anchors, &mut all)?;
    let mut heights = BTreeMap::new();
    all.into_iter().try_for_each(|map| height(schema, map, &anchors, &mut heights, 1).map(drop))
}

type Anchors<'s> = BTreeMap<&'s str, &'s Value>;

/// Every object that may be a subschema, and the names that `$anchor` gives.
fn collect<'s>(
    root: &'s Value,
    schema: &'s Value,
    depth: usize,
    anchors: &mut Anchors<'s>,
    all: &mut Vec<&'s Value>,
) -> Result<(), String> {
    let deeper =
        || depth.checked_sub(1).ok_or_else(|| format!("validation.schema is nested deeper than {MAX_DEPTH} levels"));
    match schema {
        Value::Array(items) => {
            let depth = deeper()?;
            items.iter().try_for_each(|item| collect(root, item, depth, anchors, all))
        }
        Value::Object(map) => {
            let depth = deeper()?;
            let text = |keyword: &str| map.get(keyword).and_then(Value::as_str);
            if text("$ref").is_some_and(|target| !target.starts_with('#')) {
                return Err("validation.schema: $ref may point within the schema only (#/$defs/name)".to_owned());
            }
            let inner_id = !std::ptr::eq(root, schema) && ["$id", "id"].iter().any(|id| text(id).is_some());
            if inner_id || ["$dynamicRef", "$recursiveRef"].iter().any(|keyword| text(keyword).is_some()) {
                return Err("validation.schema: $dynamicRef, $recursiveRef and an inner $id are not supported".into());
            }
            anchors.extend(text("$anchor").map(|name| (name, schema)));
            all.push(schema);
            let subschemas = map.iter().filter(|(keyword, _)| !DATA.contains(&keyword.as_str()));
            subschemas.map(|(_, value)| value).try_for_each(|value| collect(root, value, depth, anchors, all))
        }
        _ => Ok(()),
    }
}

/// How many subschemas follow one another on the same value from here.
fn height<'s>(
    root: &'s Value,
    schema: &'s Value,
    anchors: &Anchors<'s>,
    heights: &mut BTreeMap<*const Value, usize>,
    depth: usize,
) -> Result<usize, String> {
    let known = heights.get(&std::ptr::from_ref(schema)).copied();
    if depth + known.unwrap_or_default() > MAX_SCHEMA_CHAIN {
        return Err(format!(
            "validation.schema: more than {MAX_SCHEMA_CHAIN} subschemas ($ref, allOf …) apply to one value one inside \
             the other, or they refer to each other in a circle"
        ));
    }
    if let Some(known) = known {
        return Ok(known);
    }
    let Value::Object(map) = schema else { return Ok(0) };
    let mut highest = 0;
    let mut follow = |next: &'s Value| -> Result<(), String> {
        highest = highest.max(1 + height(root, next, anchors, heights, depth + 1)?);
        Ok(())
    };
    for (keyword, value) in map {
        match (keyword.as_str(), value) {
            ("allOf" | "anyOf" | "oneOf", Value::Array(items)) => items.iter().try_for_each(&mut follow)?,
            ("dependentSchemas" | "dependencies", Value::Object(members)) => {
                members.values().try_for_each(&mut follow)?;
            }
            ("not" | "if" | "then" | "else", value) => follow(value)?,
            ("$ref", Value::String(target)) => {
                // What points nowhere is for the validator to say.
                target_of(root, target, anchors).map_or(Ok(()), &mut follow)?;
            }
            _ => {}
        }
    }
    heights.insert(std::ptr::from_ref(schema), highest);
    Ok(highest)
}

fn target_of<'s>(root: &'s Value, reference: &str, anchors: &Anchors<'s>) -> Option<&'s Value> {
    let fragment = reference.strip_prefix('#')?;
    if fragment.is_empty() || fragment.starts_with('/') {
        root.pointer(&percent_decoded(fragment)?)
    } else {
        anchors.get(fragment).copied()
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        bytes.push(if byte == b'%' {
            let hex = std::str::from_utf8(rest.get(..2)?).ok()?;
            rest = &rest[2..];
            u8::from_str_radix(hex, 16).ok()?
        } else {
            byte
        });
    }
    String::from_utf8(bytes).ok()
}
