//! What tests share.
#![allow(clippy::unwrap_used, missing_docs, dead_code)]

pub mod clusters;
pub mod contender;
pub mod history;
pub mod world;

/// Runs in virtual time.
pub fn paused() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}
