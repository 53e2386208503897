//! The chart: `make chart-check` is this.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod content;
mod install;
mod requirements;
mod toggles;
mod values;
