//! Documents to values. The key's extension tells the format.

mod lines;
mod strict;

use serde_json::Value;

pub use lines::{env, properties};
use strict::Strict;

/// How deep values may nest.
pub const DEPTH: usize = 64;
/// How many scalars, lists and mappings a document may have, aliases expanded.
pub const NODES: usize = 1_000_000;

/// Parses a document: .json, .toml, .properties, .env, anything else as YAML 1.2. An empty one is null.
///
/// # Errors
/// What is wrong, and where; it may quote the document.
pub fn document(key: &str, bytes: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(bytes)
        .map_err(|e| format!("it is not UTF-8 (byte {}); to take bytes as they are, use a file's configMapKeyRef or secretKeyRef", e.valid_up_to()))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    match extension(key) {
        "json" => json(text),
        "toml" => toml(text),
        "properties" => properties(text),
        "env" => env(text),
        _ => yaml(text),
    }
}

fn extension(key: &str) -> &str {
    key.rsplit_once('.').map_or("", |(_, extension)| extension)
}

/// Parses JSON.
///
/// # Errors
/// What is wrong, and where.
pub fn json(text: &str) -> Result<Value, String> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Strict::parse(&mut deserializer).map_err(|e| e.to_string())?;
    deserializer.end().map_err(|e| e.to_string())?;
    Ok(value)
}

/// Parses one YAML 1.2 document.
///
/// # Errors
/// What is wrong, and where.
pub fn yaml(text: &str) -> Result<Value, String> {
    Strict::parse(serde_yaml::Deserializer::from_str(text)).map_err(|e| e.to_string())
}

/// Parses TOML 1.0.
///
/// # Errors
/// What is wrong, and where.
pub fn toml(text: &str) -> Result<Value, String> {
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| e.message().to_owned())?;
    from_toml(toml::Value::Table(table), 0)
}

fn from_toml(value: toml::Value, depth: usize) -> Result<Value, String> {
    if depth > DEPTH {
        return Err(format!("it nests deeper than {DEPTH}"));
    }
    Ok(match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Boolean(truth) => truth.into(),
        // JSON has no dates: their text.
        toml::Value::Datetime(date) => date.to_string().into(),
        toml::Value::Float(number) => {
            serde_json::Number::from_f64(number).ok_or_else(|| format!("{number} is not a number JSON knows"))?.into()
        }
        toml::Value::Array(items) => {
            Value::Array(items.into_iter().map(|item| from_toml(item, depth + 1)).collect::<Result<_, _>>()?)
        }
        toml::Value::Table(table) => {
            let entries = table.into_iter().map(|(key, item)| Ok::<_, String>((key, from_toml(item, depth + 1)?)));
            Value::Object(entries.collect::<Result<_, _>>()?)
        }
    })
}
