//! Where answers go: the standard output, as a person or a script wants them.

use std::io::{self, Write};

use serde::Serialize;

use crate::{
    exit::{Failure, Result},
    format::Style,
    options::Output,
};

/// How answers are written.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// For whom.
    pub output: Output,
    /// What the output may use.
    pub style: Style,
}

impl Answer {
    /// Writes a view: its text for people, itself for scripts.
    ///
    /// # Errors
    /// When nobody reads.
    pub fn give<V: Serialize>(&self, view: &V, text: impl FnOnce(Style) -> String) -> Result<()> {
        print(&match self.output {
            Output::Table => text(self.style),
            Output::Json => json(view)? + "\n",
            Output::Yaml => yaml(view)?,
        })
    }

    /// Writes one of a series of views: a text, a line of JSON, or a document of YAML.
    ///
    /// # Errors
    /// When nobody reads.
    pub fn give_one<V: Serialize>(&self, view: &V, text: impl FnOnce(Style) -> String) -> Result<()> {
        print(&match self.output {
            Output::Table => text(self.style),
            Output::Json => serde_json::to_string(view).map_err(unwritable)? + "\n",
            Output::Yaml => format!("---\n{}", yaml(view)?),
        })
    }

    /// Says what was done: a line for people, an object for scripts.
    ///
    /// # Errors
    /// When nobody reads.
    pub fn done(&self, done: &Done<'_>) -> Result<()> {
        self.give(done, |_| format!("{}\n", done.message))
    }
}

/// What a command did.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Done<'a> {
    /// The namespace of the config or lock.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Whether anything had to be changed.
    pub changed: bool,
    /// The revision it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    /// The same in words, and what to do next.
    pub message: String,
}

/// Writes to the standard output.
///
/// # Errors
/// When nobody reads.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| Failure::error(format!("the standard output cannot be written: {error}")))
}

/// Says something beside the answer.
pub fn note(text: &str) {
    // Nobody may be listening, and the answer is what counts.
    let _ = writeln!(io::stderr(), "{text}");
}

fn json<V: Serialize>(view: &V) -> Result<String> {
    serde_json::to_string_pretty(view).map_err(unwritable)
}

fn yaml<V: Serialize>(view: &V) -> Result<String> {
    serde_yaml::to_string(view).map_err(unwritable)
}

fn unwritable(error: impl std::fmt::Display) -> Failure {
    Failure::error(format!("the answer cannot be written: {error}"))
}
