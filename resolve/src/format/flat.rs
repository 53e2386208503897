//! The two formats without nesting: keys are joined.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt::Write,
};

use serde_json::Value;

use crate::{parse::is_identifier, pointer};

/// Java properties in UTF-8: `server.port=8080`, `hosts[0]=a`. An empty object or list has no line.
pub fn properties(value: &Value) -> Result<String, String> {
    let mut lines = BTreeMap::new();
    let join = |key: &str, part: Part<'_>| match part {
        Part::Key(name) if key.is_empty() => name.to_owned(),
        Part::Key(name) => format!("{key}.{name}"),
        Part::Index(index) => format!("{key}[{index}]"),
    };
    flatten(value, "properties", &join, &mut |key, text| unique(&mut lines, key, text))?;
    let mut text = String::new();
    for (key, value) in lines {
        // A String takes every write.
        let _ = writeln!(text, "{}={}", properties_escaped(&key, true), properties_escaped(&value, false));
    }
    Ok(text)
}

fn properties_escaped(text: &str, key: bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for (index, c) in text.char_indices() {
        match c {
            '\\' => escaped.push_str("\\\\"),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            '\u{c}' => escaped.push_str("\\f"),
            ' ' if key || index == 0 => escaped.push_str("\\ "),
            '=' | ':' if key => escaped.extend(['\\', c]),
            '#' | '!' if key && index == 0 => escaped.extend(['\\', c]),
            c if c.is_control() => drop(write!(escaped, "\\u{:04x}", u32::from(c))),
            c => escaped.push(c),
        }
    }
    escaped
}

/// KEY="value" lines, with keys in upper case: `sh` can source them, and dotenv readers take them.
pub fn env(value: &Value) -> Result<String, String> {
    let mut lines = BTreeMap::new();
    let join = |key: &str, part: Part<'_>| {
        let part = match part {
            Part::Key(name) => name.to_uppercase(),
            Part::Index(index) => index.to_string(),
        };
        if key.is_empty() { part } else { format!("{key}_{part}") }
    };
    flatten(value, "env", &join, &mut |key, text| {
        if !is_identifier(&key) {
            return Err(format!("{key:?} is not a variable's name: only letters, digits and underscores are"));
        }
        if text.contains('\0') {
            return Err(format!("the value of {key} has a NUL character, which a variable cannot hold"));
        }
        unique(&mut lines, key, text)
    })?;
    let mut text = String::new();
    for (key, value) in lines {
        text.push_str(&key);
        text.push_str("=\"");
        for c in value.chars() {
            if matches!(c, '\\' | '"' | '$' | '`') {
                text.push('\\');
            }
            text.push(c);
        }
        text.push_str("\"\n");
    }
    Ok(text)
}

fn unique(lines: &mut BTreeMap<String, String>, key: String, text: String) -> Result<(), String> {
    match lines.entry(key) {
        Entry::Vacant(entry) => {
            entry.insert(text);
            Ok(())
        }
        Entry::Occupied(entry) => Err(format!("two values would have the key {:?}; rename one", entry.key())),
    }
}

enum Part<'k> {
    Key(&'k str),
    Index(usize),
}

/// Hands over every scalar with its joined key.
fn flatten(
    value: &Value,
    format: &str,
    join: &impl Fn(&str, Part<'_>) -> String,
    take: &mut impl FnMut(String, String) -> Result<(), String>,
) -> Result<(), String> {
    if !value.is_object() {
        return Err(format!("{format} needs an object, but the value is {}", super::kind(value)));
    }
    below(value, format, "", join, take)
}

fn below(
    value: &Value,
    format: &str,
    key: &str,
    join: &impl Fn(&str, Part<'_>) -> String,
    take: &mut impl FnMut(String, String) -> Result<(), String>,
) -> Result<(), String> {
    match value {
        Value::Object(map) => {
            map.iter().try_for_each(|(name, member)| below(member, format, &join(key, Part::Key(name)), join, take))
        }
        Value::Array(items) => items
            .iter()
            .enumerate()
            .try_for_each(|(index, item)| below(item, format, &join(key, Part::Index(index)), join, take)),
        Value::Null => Err(format!("{format} has no null, but {key:?} is null")),
        Value::String(text) => take(key.to_owned(), text.clone()),
        Value::Bool(_) | Value::Number(_) => take(key.to_owned(), value.to_string()),
    }
}

/// The pointer of the first value that is so.
pub fn find(value: &Value, so: &impl Fn(&Value) -> bool) -> Option<String> {
    if so(value) {
        return Some(String::new());
    }
    let below = |token: &str, member: &Value| {
        find(member, so).map(|rest| {
            let mut pointer = String::new();
            pointer::push(&mut pointer, token);
            pointer + &rest
        })
    };
    match value {
        Value::Object(map) => map.iter().find_map(|(key, member)| below(key, member)),
        Value::Array(items) => items.iter().enumerate().find_map(|(index, item)| below(&index.to_string(), item)),
        _ => None,
    }
}
