//! What is wrong, told to a person: which layer or file, where in it, why. Never a Secret's value.

use std::fmt;

use crate::limits::{MAX_PROBLEMS, MAX_REASON};

/// The kind of a problem: what a condition's reason and a metric's label say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProblemKind {
    /// An object or key that is not optional is missing. Waiting may help.
    SourceMissing,
    /// A source does not parse, is not text, or is nested or sized beyond a bound.
    SourceInvalid,
    /// The target of a configRef does not share with the consumer's namespace.
    ReferenceDenied,
    /// Configs refer to each other in a circle.
    ReferenceCycle,
    /// Too many hops or too many configs.
    ReferenceTooDeep,
    /// The JSON Schema itself cannot be used.
    SchemaInvalid,
    /// The merged value violates the schema or a rule.
    ValidationFailed,
    /// A CEL rule cannot be compiled or evaluated.
    RuleInvalid,
    /// A template cannot be compiled or rendered.
    TemplateFailed,
    /// A path escapes, collides or is too long.
    PathInvalid,
    /// The value cannot be written in the file's format.
    FormatFailed,
    /// The files are more than a Secret can hold.
    TooLarge,
    /// Not a problem of its own: how many more there are.
    Omitted,
}

impl ProblemKind {
    /// In `CamelCase`, as conditions want it.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::SourceMissing => "SourceMissing",
            Self::SourceInvalid => "SourceInvalid",
            Self::ReferenceDenied => "ReferenceDenied",
            Self::ReferenceCycle => "ReferenceCycle",
            Self::ReferenceTooDeep => "ReferenceTooDeep",
            Self::SchemaInvalid => "SchemaInvalid",
            Self::ValidationFailed => "ValidationFailed",
            Self::RuleInvalid => "RuleInvalid",
            Self::TemplateFailed => "TemplateFailed",
            Self::PathInvalid => "PathInvalid",
            Self::FormatFailed => "FormatFailed",
            Self::TooLarge => "TooLarge",
            Self::Omitted => "Omitted",
        }
    }
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What kind.
    pub kind: ProblemKind,
    /// The layer's name; in a referenced config `layer/its-layer`.
    pub layer: Option<String>,
    /// The file's path.
    pub file: Option<String>,
    /// Where in the merged value (RFC 6901); "/" is the whole.
    pub pointer: Option<String>,
    /// What is wrong and what to do.
    pub reason: String,
}

impl Problem {
    pub(crate) fn new(kind: ProblemKind, reason: impl AsRef<str>) -> Self {
        Self { kind, layer: None, file: None, pointer: None, reason: shortened(reason.as_ref()) }
    }

    pub(crate) fn layer(mut self, name: &str) -> Self {
        self.layer = Some(match self.layer {
            Some(inner) => format!("{name}/{inner}"),
            None => name.to_owned(),
        });
        self
    }

    pub(crate) fn file(mut self, path: &str) -> Self {
        self.file = Some(shortened(path));
        self
    }

    pub(crate) fn pointer(mut self, pointer: &str) -> Self {
        self.pointer = Some(if pointer.is_empty() { "/".to_owned() } else { shortened(pointer) });
        self
    }
}

/// On one line, cut at a bound.
fn shortened(text: &str) -> String {
    let printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let short: String = printable.take(MAX_REASON).collect();
    if short.len() < text.len() && text.chars().nth(MAX_REASON).is_some() { short + "…" } else { short }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layer = self.layer.as_ref().map(|name| format!("layer {name}"));
        let file = self.file.as_ref().map(|path| format!("file {path}"));
        let places: Vec<_> = [layer, file, self.pointer.clone()].into_iter().flatten().collect();
        if places.is_empty() { f.write_str(&self.reason) } else { write!(f, "{}: {}", places.join(", "), self.reason) }
    }
}

/// Everything that is wrong: at least one problem, at most [`MAX_PROBLEMS`] and a count of the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    pub(crate) fn new(mut list: Vec<Problem>) -> Self {
        let more = list.len().saturating_sub(MAX_PROBLEMS);
        if more > 0 {
            list.truncate(MAX_PROBLEMS);
            list.push(Problem::new(ProblemKind::Omitted, format!("and {more} more")));
        }
        Self(list)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&told.join("; "))
    }
}

impl std::error::Error for Problems {}
