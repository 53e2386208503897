//! The commands, a file each.

pub mod completions;
pub mod counter;
pub mod diff;
pub mod explain;
pub mod history;
pub mod inject;
pub mod lint;
pub mod lock;
pub mod members;
pub mod order;
pub mod queue;
pub mod render;
pub mod rollback;
pub mod status;
pub mod watch;
