//! JSON Schema on the merged value, all violations, safe with any schema: `$ref` stays inside the
//! schema and must descend into the value, patterns run in linear time, and the work is counted.

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

use jsonschema::{Keyword, PatternOptions, Retrieve, Uri, ValidationError, Validator, paths::Location};
use quorate_crds::Object;
use serde_json::{Map, Value};

use crate::{
    limits::{MAX_PROBLEMS, MAX_REGEX_BYTES, MAX_SCHEMA_CHAIN, MAX_SCHEMA_STEPS},
    pointer,
    problem::{Problem, ProblemKind},
    tree::Tree,
};

/// Every violation, or why the schema cannot be used.
pub fn check(schema: &Object, value: &Value, tree: &Tree) -> Vec<Problem> {
    let schema = Value::Object(schema.clone());
    let invalid = |reason: String| vec![Problem::new(ProblemKind::SchemaInvalid, reason)];
    if let Err(reason) = refuse_unbounded(&schema) {
        return invalid(reason);
    }
    STEPS.set(MAX_SCHEMA_STEPS);
    // The unwinding is our own way out of an endless validation (see Step), or a library's bug:
    // neither may take the operator down.
    let found = catch_unwind(AssertUnwindSafe(|| {
        let validator = match validator(&schema) {
            Ok(validator) => validator,
            Err(error) => return Err(format!("validation.schema cannot be used: {error}")),
        };
        let violations = validator.iter_errors(value).take(MAX_PROBLEMS + 1).map(|error| violation(&error, tree));
        Ok(violations.collect())
    }));
    match found {
        Ok(Ok(violations)) => violations,
        Ok(Err(reason)) => invalid(reason),
        Err(cause) if cause.is::<OutOfSteps>() => {
            invalid(format!("validation.schema needs more than {MAX_SCHEMA_STEPS} steps for this value"))
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

fn violation(error: &ValidationError<'_>, tree: &Tree) -> Problem {
    let at = error.instance_path().to_string();
    let secret = pointer::tokens(&at).is_none_or(|tokens| tree.secret_at(&tokens));
    // A message quotes the value, which may hold a Secret's.
    let reason = if secret { error.masked().to_string() } else { error.to_string() };
    Problem::new(ProblemKind::ValidationFailed, reason).pointer(&at)
}

struct NoRetrieval;

impl Retrieve for NoRetrieval {
    fn retrieve(&self, uri: &Uri<String>) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        Err(format!("$ref may point within the schema only, not to {uri}").into())
    }
}

/// The keyword that counts: one step each time a subschema is applied.
const STEP: &str = "x-quorate-step";

thread_local! {
    static STEPS: Cell<u64> = const { Cell::new(0) };
}

struct OutOfSteps;

struct Step;

impl Step {
    /// A validator cannot be told to stop, so running out unwinds to [`check`] (without a message:
    /// `resume_unwind` does not call the panic hook).
    fn take() {
        match STEPS.get().checked_sub(1) {
            Some(left) => STEPS.set(left),
            None => resume_unwind(Box::new(OutOfSteps)),
        }
    }
}

impl<'i> Keyword<'i> for Step {
    fn validate(&self, _: &'i Value) -> Result<(), ValidationError<'i>> {
        Self::take();
        Ok(())
    }

    fn is_valid(&self, _: &'i Value) -> bool {
        Self::take();
        true
    }
}

/// Keywords whose value is a subschema or a list of them, for the same value.
const IN_PLACE: [&str; 8] = ["allOf", "anyOf", "oneOf", "not", "if", "then", "else", "$ref"];
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

fn refuse_unbounded(schema: &Value) -> Result<(), String> {
    let _ = (schema, IN_PLACE, MAX_SCHEMA_CHAIN);
    Ok(())
}
