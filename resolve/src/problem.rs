//! What is wrong with a config, for people.

use std::fmt;

/// How many problems are told; the rest is counted.
const TOLD: usize = 20;

/// One thing that is wrong. It names the layer or file, the pointer and the reason, and never a value from a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What kind of thing.
    pub kind: ProblemKind,
    /// The layer.
    pub layer: Option<String>,
    /// The file's path.
    pub file: Option<String>,
    /// Where in the merged value or document: a JSON pointer.
    pub pointer: Option<String>,
    /// The reason.
    pub reason: String,
}

/// The kinds of problems.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProblemKind {
    /// A required object or key does not exist. It is waited for.
    SourceMissing,
    /// A source cannot be read as what it should be.
    SourceInvalid,
    /// The other namespace's config does not share itself.
    ReferenceDenied,
    /// Configs refer to each other in a circle, or too deep.
    ReferenceCycle,
    /// The JSON Schema or a rule is wrong itself.
    ValidationInvalid,
    /// The merged value violates the schema or a rule.
    ValidationFailed,
    /// A template does not render.
    TemplateFailed,
    /// A path cannot be.
    PathInvalid,
    /// A value cannot be written in the file's format.
    FormatFailed,
    /// The result does not fit.
    TooLarge,
}

impl ProblemKind {
    /// The word for conditions and metrics.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::SourceMissing => "SourceMissing",
            Self::SourceInvalid => "SourceInvalid",
            Self::ReferenceDenied => "ReferenceDenied",
            Self::ReferenceCycle => "ReferenceCycle",
            Self::ValidationInvalid => "ValidationInvalid",
            Self::ValidationFailed => "ValidationFailed",
            Self::TemplateFailed => "TemplateFailed",
            Self::PathInvalid => "PathInvalid",
            Self::FormatFailed => "FormatFailed",
            Self::TooLarge => "TooLarge",
        }
    }
}

impl Problem {
    pub(crate) fn new(kind: ProblemKind, reason: impl Into<String>) -> Self {
        Self { kind, layer: None, file: None, pointer: None, reason: reason.into() }
    }

    pub(crate) fn layer(mut self, name: &str) -> Self {
        self.layer = Some(name.to_owned());
        self
    }

    pub(crate) fn file(mut self, path: &str) -> Self {
        self.file = Some(path.to_owned());
        self
    }

    pub(crate) fn at(mut self, pointer: &str) -> Self {
        self.pointer = Some(if pointer.is_empty() { "/".into() } else { pointer.to_owned() });
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layer = self.layer.iter().map(|name| format!("layer {name}"));
        let file = self.file.iter().map(|path| format!("file {path:?}"));
        let place: Vec<String> = layer.chain(file).chain(self.pointer.iter().map(|p| format!("at {p}"))).collect();
        if place.is_empty() { f.write_str(&self.reason) } else { write!(f, "{}: {}", place.join(", "), self.reason) }
    }
}

/// All that is wrong; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told: Vec<String> = self.0.iter().take(TOLD).map(ToString::to_string).collect();
        f.write_str(&told.join("; "))?;
        match self.0.len().saturating_sub(TOLD) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

impl std::error::Error for Problems {}
