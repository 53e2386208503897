//! CEL rules on the merged value. The dialect is CEL's standard library as the `cel` crate has it;
//! the value is `self`.
//!
//! That crate bounds nothing, so the work is metered here: in the parsed expression, every range
//! that is looped over, every list element and every operand of a call is wrapped in a call of
//! [`CHARGE`], which takes the size of what it passes on from a budget. Nothing can be visited,
//! copied or grown without passing one of them, and an exhausted budget makes every later one fail.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use cel::{
    Context, ExecutionError, FunctionContext,
    common::{
        ast::{CallExpr, EntryExpr, Expr, IdedExpr, operators},
        types::{CelBytes, CelList, CelMap, CelString},
        value::{CowVal, Val},
    },
    objects::Value as Cel,
    parser::Parser,
};
use quorate_crds::ValidationRule;
use regex::RegexBuilder;
use serde_json::Value;

use crate::{
    limits::{MAX_REGEX_BYTES, MAX_RULE_COST, MAX_RULE_DEPTH, MAX_RULE_LENGTH},
    problem::{Problem, ProblemKind},
};

/// Every rule that is not true, or cannot be used. `secret`: the value holds a Secret's.
pub fn check(rules: &[ValidationRule], value: &Value, secret: bool) -> Vec<Problem> {
    if rules.is_empty() {
        return Vec::new();
    }
    let budget = Arc::new(AtomicU64::new(MAX_RULE_COST));
    let variable = cel_value(value);
    let problem = |index: usize, rule: &ValidationRule| {
        // A bug of the library, or a case it does not handle, must not take the operator down.
        let outcome = catch_unwind(AssertUnwindSafe(|| evaluate(&rule.rule, &variable, &budget)));
        let (kind, reason) = match outcome {
            Ok(Ok(())) => return None,
            Ok(Err(Fault::False)) => {
                let message = rule.message.clone().unwrap_or_else(|| format!("{} is not true", rule.rule));
                (ProblemKind::ValidationFailed, message)
            }
            Ok(Err(Fault::Invalid(reason))) => (ProblemKind::RuleInvalid, reason),
            Ok(Err(Fault::Failed(error))) => (ProblemKind::RuleInvalid, failure(&error, secret)),
            Err(_) => (ProblemKind::RuleInvalid, "the evaluator fails on it; write it differently".to_owned()),
        };
        // A rule judges the whole value.
        Some(Problem::new(kind, format!("rule {}: {reason}", index + 1)).pointer(""))
    };
    rules.iter().enumerate().filter_map(|(index, rule)| problem(index, rule)).collect()
}

enum Fault {
    False,
    Invalid(String),
    Failed(ExecutionError),
}

fn evaluate(rule: &str, variable: &Cel, budget: &Arc<AtomicU64>) -> Result<(), Fault> {
    if rule.chars().count() > MAX_RULE_LENGTH {
        return Err(Fault::Invalid(format!("it has more than {MAX_RULE_LENGTH} characters")));
    }
    let parsed = Parser::new().max_recursion_depth(MAX_RULE_DEPTH).parse(rule).map_err(|errors| {
        let told: Vec<_> = errors.errors.iter().take(3).map(|error| error.msg.clone()).collect();
        Fault::Invalid(format!("it does not compile: {}", told.join("; ")))
    })?;
    let metered = metered(parsed, MAX_RULE_DEPTH, None).map_err(Fault::Invalid)?;
    let mut context = Context::default();
    context.add_variable_from_value("self", variable.clone());
    let added =
        context.add_function(CHARGE, charge(budget)).and_then(|()| context.add_function(MATCHES, matches(budget)));
    added.map_err(|error| Fault::Invalid(error.to_string()))?;
    let result = Cel::resolve(&metered, &context);
    // `||` may have swallowed the error.
    if budget.load(Ordering::Relaxed) == 0 {
        return Err(Fault::Invalid(format!("it costs too much (with the rules before it, over {MAX_RULE_COST})")));
    }
    match result {
        Ok(Cel::Bool(true)) => Ok(()),
        Ok(Cel::Bool(false)) => Err(Fault::False),
        Ok(other) => Err(Fault::Invalid(format!("it gives a {}, not true or false", other.type_of()))),
        Err(error) => Err(Fault::Failed(error)),
    }
}

/// Why an evaluation stopped. Most errors quote operands, which may be a Secret's.
fn failure(error: &ExecutionError, secret: bool) -> String {
    match error {
        ExecutionError::NoSuchOverload(_) | ExecutionError::UndeclaredReference(_) => error.to_string(),
        error if !secret => error.to_string(),
        ExecutionError::NoSuchKey(_) => "no such key".to_owned(),
        _ => "it cannot be evaluated; details are withheld because the value holds a Secret's".to_owned(),
    }
}

/// Not an identifier, so no rule can call these itself.
const CHARGE: &str = "@charge";
const MATCHES: &str = "@matches";
/// What compiling a pattern costs: it takes about a millisecond at its size limit.
const PATTERN_COST: u64 = 20_000;

/// The expression with every costly place charged. `accumulator`: the variable that the loop
/// around builds up, which only its own step sees, and which must keep its shape to be fast.
fn metered(expr: IdedExpr, depth: u16, accumulator: Option<&str>) -> Result<IdedExpr, String> {
    let depth = depth.checked_sub(1).ok_or_else(|| format!("it is nested deeper than {MAX_RULE_DEPTH} levels"))?;
    let inner = |expr: IdedExpr| metered(expr, depth, accumulator);
    let charged = |expr: IdedExpr| metered(expr, depth, accumulator).map(charged);
    let metered_expr = match expr.expr {
        Expr::Ident(_) | Expr::Literal(_) => expr.expr,
        Expr::Select(mut select) => {
            select.operand = Box::new(inner(*select.operand)?);
            Expr::Select(select)
        }
        Expr::Call(mut call) => {
            let appends = call.func_name == operators::ADD
                && matches!(call.args.first().map(|arg| &arg.expr), Some(Expr::Ident(name)) if Some(&**name) == accumulator);
            let free = appends || FREE.contains(&call.func_name.as_str());
            let operand = |expr: IdedExpr| if free { inner(expr) } else { charged(expr) };
            call.args = call.args.into_iter().map(operand).collect::<Result<_, _>>()?;
            call.target = call.target.map(|target| operand(*target).map(Box::new)).transpose()?;
            if call.func_name == "matches" {
                MATCHES.clone_into(&mut call.func_name);
            }
            Expr::Call(call)
        }
        Expr::List(mut list) => {
            list.elements = list.elements.into_iter().map(charged).collect::<Result<_, _>>()?;
            Expr::List(list)
        }
        Expr::Map(mut map) => {
            for entry in &mut map.entries {
                if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                    entry.key = charged(std::mem::take(&mut entry.key))?;
                    entry.value = charged(std::mem::take(&mut entry.value))?;
                }
            }
            Expr::Map(map)
        }
        Expr::Comprehension(mut comprehension) => {
            comprehension.iter_range = charged(comprehension.iter_range)?;
            comprehension.accu_init = inner(comprehension.accu_init)?;
            let accumulator = comprehension.accu_var.clone();
            comprehension.loop_step = metered(comprehension.loop_step, depth, Some(&accumulator))?;
            Expr::Comprehension(comprehension)
        }
        Expr::Struct(_) | Expr::Unspecified => return Err("it creates a message, which has no meaning here".to_owned()),
    };
    Ok(IdedExpr { id: expr.id, expr: metered_expr })
}

/// Calls that look at no more than a boolean or one member of their operands.
const FREE: [&str; 6] = [
    operators::LOGICAL_AND,
    operators::LOGICAL_OR,
    operators::LOGICAL_NOT,
    operators::CONDITIONAL,
    operators::INDEX,
    operators::NOT_STRICTLY_FALSE,
];

fn charged(expr: IdedExpr) -> IdedExpr {
    let call = CallExpr { func_name: CHARGE.to_owned(), target: None, args: vec![expr] };
    IdedExpr { id: 0, expr: Expr::Call(call) }
}

fn charge(budget: &Arc<AtomicU64>) -> cel_function::Function {
    let budget = budget.clone();
    Box::new(move |call| {
        let value = call.args.pop().ok_or(ExecutionError::MissingArgumentOrTarget)?;
        take(&budget, size(value.as_ref(), budget.load(Ordering::Relaxed)))?;
        Ok(value)
    })
}

/// `matches` with a bound on the compiled pattern; searching is linear in the text.
fn matches(budget: &Arc<AtomicU64>) -> cel_function::Function {
    let budget = budget.clone();
    Box::new(move |call: &mut FunctionContext<'_, '_>| {
        take(&budget, PATTERN_COST)?;
        let mut operands = call.this.iter().chain(&call.args).map(|value| value.downcast_ref::<CelString<'_>>());
        let (Some(Some(text)), Some(Some(pattern)), None) = (operands.next(), operands.next(), operands.next()) else {
            return Err(ExecutionError::function_error("matches", "needs a text and a pattern"));
        };
        let pattern = RegexBuilder::new(pattern.inner()).size_limit(MAX_REGEX_BYTES).build();
        let pattern =
            pattern.map_err(|_| ExecutionError::function_error("matches", "the pattern is malformed or too large"))?;
        Ok(CowVal::owned(cel::common::types::CelBool::from(pattern.is_match(text.inner()))))
    })
}

/// The crate's type of a function that takes its operands as they are.
mod cel_function {
    use cel::{ExecutionError, FunctionContext, common::value::CowVal};

    pub type Function = Box<
        dyn for<'context, 'call> Fn(
                &mut FunctionContext<'context, 'call>,
            ) -> Result<CowVal<'context, 'call>, ExecutionError>
            + Send
            + Sync,
    >;
}

fn take(budget: &AtomicU64, cost: u64) -> Result<(), ExecutionError> {
    let left = budget.load(Ordering::Relaxed).saturating_sub(cost);
    budget.store(left, Ordering::Relaxed);
    if left == 0 { Err(ExecutionError::function_error("rule", "costs too much")) } else { Ok(()) }
}

/// The nodes of a value and its text in units of 16 bytes; not counted further than `most`.
fn size(value: &dyn Val, most: u64) -> u64 {
    let text = |bytes: usize| bytes as u64 / 16 + 1;
    let mut total = 1;
    if let Some(string) = value.downcast_ref::<CelString<'_>>() {
        total += text(string.inner().len());
    } else if let Some(bytes) = value.downcast_ref::<CelBytes<'_>>() {
        total += text(bytes.inner().len());
    } else if let Some(list) = value.downcast_ref::<CelList<'_>>() {
        for item in list.inner() {
            if total > most {
                break;
            }
            total += size(item.as_ref(), most - total);
        }
    } else if let Some(map) = value.downcast_ref::<CelMap<'_>>() {
        for member in map.inner().values() {
            if total > most {
                break;
            }
            total += 1 + size(member.as_ref(), most - total);
        }
    }
    total
}

/// The value as CEL sees it: integers are `int` wherever they fit.
fn cel_value(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(bool) => Cel::Bool(*bool),
        Value::Number(number) => number
            .as_i64()
            .map(Cel::Int)
            .or_else(|| number.as_u64().map(Cel::UInt))
            .or_else(|| number.as_f64().map(Cel::Float))
            .unwrap_or(Cel::Null),
        Value::String(text) => Cel::String(Arc::new(text.clone())),
        Value::Array(items) => Cel::List(Arc::new(items.iter().map(cel_value).collect())),
        Value::Object(map) => {
            let members: HashMap<String, Cel> =
                map.iter().map(|(key, member)| (key.clone(), cel_value(member))).collect();
            Cel::from(members)
        }
    }
}
