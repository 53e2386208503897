//! From layers to files, purely: layers are merged in order with provenance ([`merge`]), checked
//! against a JSON Schema and CEL rules, rendered to files, and bundled.
//!
//! Nothing here knows a client, a clock or a disk. The caller asks [`required`] which objects are
//! missing from its snapshot ([`Sources`]), fetches them, asks again, and then calls [`resolve`],
//! which gives a [`Bundle`] or every problem there is, each naming layer, pointer and reason.
//!
//! Whatever a user writes is bounded ([`limits`]), and no problem shows a value from a Secret.

mod bundle;
mod files;
mod format;
mod graph;
mod layers;
pub mod limits;
mod parse;
mod paths;
mod pointer;
mod problem;
mod provenance;
mod rules;
mod schema;
mod sources;
mod template;
mod tree;

pub use bundle::resolve;
pub use format::render;
pub use graph::{references, required};
pub use layers::{Merged, merge};
pub use parse::{ParseError, Syntax, parse};
pub use problem::{Problem, ProblemKind, Problems};
pub use provenance::Provenance;
pub use quorate_crds::head::Bundle;
pub use sources::{Keys, SourceKind, SourceRef, Sources};
pub use tree::Tree;
