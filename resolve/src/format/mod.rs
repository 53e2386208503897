//! Values to bytes.

mod flat;

use quorate_crds::Format;
use serde_json::Value;

/// The format that a path's extension names; a string as it is, otherwise.
pub fn of_path(path: &str) -> Format {
    let name = path.rsplit('/').next().unwrap_or(path);
    match name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase()).as_deref() {
        Some("yaml" | "yml") => Format::Yaml,
        Some("json") => Format::Json,
        Some("toml") => Format::Toml,
        Some("properties") => Format::Properties,
        Some("env") => Format::Env,
        _ => Format::Text,
    }
}

/// Writes a value. The output parses back to the same value in YAML, JSON and TOML, and to its
/// leaves as strings in properties and env.
///
/// # Errors
/// What the format cannot say, and where. Names keys, never values.
pub fn render(value: &Value, format: Format) -> Result<Vec<u8>, String> {
    let text = match format {
        Format::Yaml => serde_yaml::to_string(value).map_err(|_| "the value cannot be written as YAML".to_owned())?,
        Format::Json => serde_json::to_string_pretty(value)
            .map(|text| text + "\n")
            .map_err(|_| "the value cannot be written as JSON".to_owned())?,
        Format::Toml => toml(value)?,
        Format::Properties => flat::properties(value)?,
        Format::Env => flat::env(value)?,
        Format::Text => match value {
            Value::String(text) => text.clone(),
            other => return Err(format!("text needs a string, but the value is {}", kind(other))),
        },
    };
    Ok(text.into_bytes())
}

fn toml(value: &Value) -> Result<String, String> {
    if !value.is_object() {
        return Err(format!("TOML needs an object, but the value is {}", kind(value)));
    }
    if let Some(pointer) = flat::find(value, &|v| v.is_null()) {
        return Err(format!("TOML has no null, but {pointer} is null"));
    }
    if let Some(pointer) = flat::find(value, &|v| v.is_u64() && !v.is_i64()) {
        return Err(format!("TOML's integers have 63 bits, but {pointer} is larger"));
    }
    toml::to_string(value).map_err(|_| "the value cannot be written as TOML".to_owned())
}

/// What a value is, with its article.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
