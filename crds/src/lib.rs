//! Quorate's API: the types users write ([`DistributedConfig`]), what the operator stores for them
//! ([`head`]), and the names and annotations both sides agree on ([`names`]).
//!
//! The YAML in this crate's folder is generated from these types by the `crdgen` binary; a test
//! fails when the two drift apart.

mod acceptor;
mod agreement;
mod cluster_set;
mod config;
mod counter;
pub mod head;
mod instruction;
pub mod names;
mod quantity;
mod queue;
mod reference;
mod replica;
mod rollout;
mod status;
mod yaml;

pub use acceptor::*;
pub use agreement::*;
pub use cluster_set::*;
pub use config::*;
pub use counter::*;
pub use instruction::*;
pub use quantity::{Amount, Span};
pub use queue::*;
pub use reference::api_reference;
pub use replica::*;
pub use rollout::*;
pub use status::*;
pub use yaml::crd_documents;
