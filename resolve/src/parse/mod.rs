//! Documents to values. All formats go through one strict visitor ([`strict`]), so the bounds and
//! refusals are the same everywhere.

mod env;
mod properties;
pub mod strict;

pub use env::is_identifier;

use serde::de::DeserializeSeed;
use serde_json::Value;

use crate::limits;
use strict::Strict;

/// How a document is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// YAML 1.2.
    Yaml,
    /// JSON.
    Json,
    /// TOML 1.0; dates and times become strings.
    Toml,
    /// Java properties: `a.b=1` is the string "1" in an object in an object.
    Properties,
    /// Lines of KEY=value, keys as they are; nothing is expanded.
    Env,
}

impl Syntax {
    /// By the key's extension; YAML, of which JSON is a part, unless it says otherwise.
    #[must_use]
    pub fn of(key: &str) -> Self {
        match key.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase()).as_deref() {
            Some("json") => Self::Json,
            Some("toml") => Self::Toml,
            Some("properties") => Self::Properties,
            Some("env") => Self::Env,
            _ => Self::Yaml,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Yaml => "YAML",
            Self::Json => "JSON",
            Self::Toml => "TOML",
            Self::Properties => "properties",
            Self::Env => "env",
        }
    }
}

/// Why a document is refused. The detail may quote it; the rest does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// How it should have been written.
    pub syntax: &'static str,
    /// Line and column, from 1, where known.
    pub at: Option<(usize, usize)>,
    /// What is wrong; may quote keys and values.
    pub detail: String,
}

impl ParseError {
    /// For people: without the detail when the document is a Secret's.
    #[must_use]
    pub fn message(&self, secret: bool) -> String {
        let at = self.at.map(|(line, column)| format!(" at line {line} column {column}")).unwrap_or_default();
        let detail = if secret { "details are withheld because it is in a Secret" } else { &self.detail };
        format!("is not usable as {}{at}: {detail}", self.syntax)
    }
}

/// Parses a document. An empty one is an empty object.
///
/// # Errors
/// When it is not UTF-8, does not parse, or is beyond a bound of [`crate::limits`].
pub fn parse(bytes: &[u8], syntax: Syntax) -> Result<Value, ParseError> {
    let error = |at, detail: String| ParseError { syntax: syntax.name(), at, detail };
    let text = std::str::from_utf8(bytes)
        .map_err(|e| error(None, format!("it is not UTF-8 text (byte {} is not)", e.valid_up_to())))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let budget = strict::Budget::document();
    let value = match syntax {
        Syntax::Yaml => yaml(text, &budget).map_err(|e| {
            let detail = e.to_string();
            // The message repeats the place.
            let detail = detail.split(" at line ").next().unwrap_or_default().to_owned();
            error(e.location().map(|l| (l.line(), l.column())), detail)
        })?,
        Syntax::Json if text.trim().is_empty() => Value::Null,
        Syntax::Json => json(text, &budget).map_err(|e| {
            let detail = e.to_string();
            let detail = detail.split(" at line ").next().unwrap_or_default().to_owned();
            error(Some((e.line(), e.column())), detail)
        })?,
        Syntax::Toml => toml::Deserializer::parse(text)
            .and_then(|document| Strict::new(&budget).deserialize(document))
            .map_err(|e| error(e.span().map(|span| place(text, span.start)), e.message().to_owned()))?,
        Syntax::Properties => {
            properties::parse(text).map_err(|(line, detail)| error(line.map(|line| (line, 1)), detail))?
        }
        Syntax::Env => env::parse(text).map_err(|(line, detail)| error(Some((line, 1)), detail))?,
    };
    let value = if value.is_null() { Value::Object(serde_json::Map::new()) } else { value };
    // The visitor bounds what it builds; this bounds the hand-written parsers too.
    strict::check(&value, &strict::Budget::document(), limits::MAX_DEPTH).map_err(|detail| error(None, detail))?;
    Ok(value)
}

fn yaml(text: &str, budget: &strict::Budget) -> Result<Value, serde_yaml::Error> {
    let mut documents = serde_yaml::Deserializer::from_str(text);
    let Some(first) = documents.next() else { return Ok(Value::Null) };
    let value = Strict::new(budget).deserialize(first)?;
    match documents.next() {
        Some(_) => Err(serde::de::Error::custom("it has several documents (---); give one")),
        None => Ok(value),
    }
}

fn json(text: &str, budget: &strict::Budget) -> Result<Value, serde_json::Error> {
    let mut document = serde_json::Deserializer::from_str(text);
    let value = Strict::new(budget).deserialize(&mut document)?;
    document.end()?;
    Ok(value)
}

/// Line and column, from 1, of a byte.
fn place(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}
