//! MiniJinja templates: no input or output, nothing undefined, bounded work and size. What a
//! template reads decides whether its file is secret.

use std::{
    collections::BTreeMap,
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value,
    machinery::{Token, tokenize},
    syntax::SyntaxConfig,
    value::{Enumerator, Object},
};
use quorate_crds::head::MAX_BYTES;

use crate::{
    limits::{MAX_TEMPLATE_CHAIN, TEMPLATE_DEPTH, TEMPLATE_FUEL},
    problem::{Problem, ProblemKind},
    tree::Tree,
};

/// Renders the templates of one config; the context is built once.
#[derive(Default)]
pub struct Templates {
    context: Option<(Value, Arc<AtomicBool>)>,
}

impl Templates {
    /// The text, and whether a Secret's value was read for it.
    pub fn render(&mut self, template: &str, tree: &Tree) -> Result<(Vec<u8>, bool), Problem> {
        let (context, touched) = self.context.get_or_insert_with(|| {
            let touched = Arc::new(AtomicBool::new(false));
            (watched(tree, &touched), touched)
        });
        touched.store(false, Ordering::Relaxed);
        refuse_chains(template).map_err(|reason| Problem::new(ProblemKind::TemplateFailed, reason))?;
        let mut output = Bounded(Vec::new());
        let result = environment()
            .template_from_named_str("template", template)
            .and_then(|template| template.render_captured_to(context.clone(), &mut output).map(drop));
        let secret = touched.load(Ordering::Relaxed);
        match result {
            Ok(()) => Ok((output.0, secret)),
            Err(error) => Err(Problem::new(ProblemKind::TemplateFailed, message(&error, secret))),
        }
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    // It prints the whole context, unseen by Watched.
    environment.remove_global("debug");
    // So that an error names what is undefined. It also holds values then: its Debug output must not be shown.
    environment.set_debug(true);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_syntax(syntax());
    environment.set_fuel(Some(TEMPLATE_FUEL));
    environment.set_recursion_limit(TEMPLATE_DEPTH);
    environment
}

/// Refuses what would recurse deeply in the compiler, which bounds brackets and blocks but not
/// chains such as `1+1+1…`: it would overflow the stack, and nothing survives that.
fn refuse_chains(template: &str) -> Result<(), String> {
    let (mut in_tag, mut branches) = (0, 0);
    // What the lexer refuses, the compiler will report.
    for (token, _) in tokenize(template, false, syntax()).map_while(Result::ok) {
        match token {
            Token::VariableStart | Token::BlockStart => in_tag = 0,
            Token::Ident("elif") => branches += 1,
            _ => in_tag += 1,
        }
        if in_tag > MAX_TEMPLATE_CHAIN || branches > MAX_TEMPLATE_CHAIN {
            return Err(format!("a tag has more than {MAX_TEMPLATE_CHAIN} parts, or an if so many branches"));
        }
    }
    Ok(())
}

fn syntax() -> SyntaxConfig {
    SyntaxConfig::builder().keep_trailing_newline(true).build().unwrap_or_default()
}

/// Reason and line; the detail may quote a value, so not when one from a Secret was read.
fn message(error: &Error, secret: bool) -> String {
    let line = error.line().map(|line| format!(" in line {line}")).unwrap_or_default();
    match error.kind() {
        ErrorKind::OutOfFuel => format!("the template does too much work{line}"),
        ErrorKind::WriteFailure => format!("the template writes more than {MAX_BYTES} bytes"),
        // Named as the template writes it, so this quotes no value.
        ErrorKind::UndefinedError => format!("{}{line}", error.detail().unwrap_or("a value is undefined")),
        kind => match error.detail().filter(|_| !secret) {
            Some(detail) => format!("{kind}{line}: {detail}"),
            None => format!("{kind}{line}"),
        },
    }
}

/// Output that ends at the largest size a bundle can have.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An object that notes when a Secret's value is read. Whatever is printed, compared or iterated
/// comes through [`Object::get_value`], so nothing is missed.
struct Watched {
    members: BTreeMap<Arc<str>, (Value, bool)>,
    touched: Arc<AtomicBool>,
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.members.keys()).finish()
    }
}

impl Object for Watched {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let (value, secret) = self.members.get(key.as_str()?)?;
        if *secret {
            self.touched.store(true, Ordering::Relaxed);
        }
        Some(value.clone())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.members.keys().map(|key| Value::from(key.clone())).collect())
    }
}

fn watched(tree: &Tree, touched: &Arc<AtomicBool>) -> Value {
    match tree {
        Tree::Object { members, .. } => {
            let live = members.iter().filter(|(_, member)| !matches!(member, Tree::Deleted { .. }));
            let members = live.map(|(key, member)| {
                let secret = matches!(member, Tree::Leaf { secret: true, .. });
                (Arc::from(key.as_str()), (watched(member, touched), secret))
            });
            Value::from_object(Watched { members: members.collect(), touched: touched.clone() })
        }
        Tree::Leaf { value, .. } => plain(value),
        Tree::Deleted { .. } => Value::UNDEFINED,
    }
}

fn plain(value: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match value {
        Json::Null => Value::from(()),
        Json::Bool(bool) => Value::from(*bool),
        Json::Number(number) => number
            .as_i64()
            .map(Value::from)
            .or_else(|| number.as_u64().map(Value::from))
            .or_else(|| number.as_f64().map(Value::from))
            .unwrap_or_default(),
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => items.iter().map(plain).collect(),
        Json::Object(map) => map.iter().map(|(key, member)| (key.as_str(), plain(member))).collect(),
    }
}
