//! The commands, a file each.

pub mod completions;
pub mod diff;
pub mod explain;
pub mod history;
pub mod inject;
pub mod lint;
pub mod order;
pub mod render;
pub mod rollback;
pub mod status;
pub mod watch;
