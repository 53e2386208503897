//! The real control plane, and what tests, demo and benchmarks share.
#![allow(clippy::missing_panics_doc)]

pub mod attempt;
pub mod certificates;
pub mod cluster;
pub mod crash;
pub mod crowd;
pub mod faults;
pub mod files;
pub mod helm;
pub mod images;
pub mod installation;
pub mod machine;
pub mod members;
pub mod names;
pub mod node;
pub mod process;
pub mod programs;
pub mod recorder;
pub mod scene;
pub mod wait;

pub use cluster::Cluster;
